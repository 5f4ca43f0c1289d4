"""LoRA files out: diffusers' layout and kohya's, which ComfyUI reads.

The diffusers layout is written with the scale in `up` and alpha = rank, because a program that ignores the stored alpha then
still applies the right strength; kohya's has an alpha of its own for every layer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mvgrpo_jax.convert.lora.files import HEADER
from mvgrpo_jax.convert.lora.scales import matches
from mvgrpo_jax.convert.lora.trees import Factors
from mvgrpo_jax.convert.original import Rows, flux_modules
from mvgrpo_jax.convert.sources import NAMES
from mvgrpo_jax.convert.writing import write_file
from mvgrpo_jax.models.flux import FluxConfig
from mvgrpo_jax.storage import place


def _write(path: Path, tensors: dict[str, np.ndarray], dtype, metadata: dict[str, str]) -> None:
    items = [(n, np.dtype(np.float32 if n.endswith(".alpha") else dtype), a.shape) for n, a in tensors.items()]
    assert all(d in NAMES for _, d, _ in items)
    write_file(path, items, (a.astype(d) for (_, d, _), a in zip(items, tensors.values())), metadata)


def write_diffusers(path: str | Path, factors: Factors, *, dtype=np.float32, notes: dict[str, str] | None = None) -> None:
    """Diffusers' layout, which FluxPipeline.load_lora_weights and ComfyUI read. notes: free text for the file's header."""
    ranks = {name: down.shape[0] for name, (down, _) in factors.items()}
    common = max(set(ranks.values()), key=list(ranks.values()).count)
    # PEFT matches ends of names, too: `proj_out` alone would also give its rank to the blocks' proj_out.
    others = {
        ("^" if any(other != name and matches(name, other) for other in ranks) else "") + name: rank
        for name, rank in ranks.items()
        if rank != common
    }
    # Without this diffusers would scale layers of another rank by the common one's alpha.
    peft = {"r": common, "lora_alpha": common, "rank_pattern": others, "alpha_pattern": others, "target_modules": list(ranks)}
    tensors = {}
    for name, (down, up) in factors.items():
        tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    metadata = {HEADER: json.dumps({f"transformer.{k}": v for k, v in peft.items()})}
    _write(place(path), tensors, dtype, metadata | (notes or {}))


def write_kohya(
    path: str | Path, factors: Factors, config: FluxConfig, *, dtype=np.float32, notes: dict[str, str] | None = None
) -> None:
    """The kohya layout: the original's fused layers, block-diagonal `up`, an alpha for each (equal to the rank)."""
    groups: dict[str, list[Rows]] = {}
    for row in flux_modules(config):
        groups.setdefault(row.original, []).append(row)
    tensors = {}
    for original, rows in groups.items():
        members = list(dict.fromkeys(r.name for r in rows))
        present = [m for m in members if m in factors]
        if not present:
            continue
        rank = max(factors[m][0].shape[0] for m in present)
        total = sum(r.count for r in rows) or factors[present[0]][1].shape[0]
        down = np.zeros((rank * len(members), factors[present[0]][0].shape[1]), np.float32)
        up = np.zeros((total, rank * len(members)), np.float32)
        for i, member in enumerate(members):
            if member not in factors:
                continue
            a, b = factors[member]
            down[i * rank : i * rank + len(a)] = a
            for row in rows:
                if row.name == member:
                    count = row.count or len(b)
                    up[row.at : row.at + count, i * rank : i * rank + len(a)] = b[row.start : row.start + count]
        name = "lora_unet_" + original.replace(".", "_")
        tensors |= {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": np.asarray(float(len(down)), np.float32),
        }
    _write(place(path), tensors, dtype, notes or {})
