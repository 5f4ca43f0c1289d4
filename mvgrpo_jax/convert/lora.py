"""LoRA files: diffusers' (PEFT) layout and the kohya layout that ComfyUI reads; in from either, out to either.

Between files and parameter trees stand factors: layer name in diffusers' words, with block number -> (down [r, in],
up [out, r]), the scale alpha / rank already multiplied into `up`. The diffusers layout is written like that, with
alpha = rank, because a program that ignores the stored alpha then still applies the right strength; kohya's has an alpha
of its own for every layer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mvgrpo_jax.convert.naming import entries
from mvgrpo_jax.convert.original import Rows, flux_modules
from mvgrpo_jax.convert.sources import NAMES, Source, TensorFiles
from mvgrpo_jax.convert.writing import write_file
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.models.flux import FluxConfig
from mvgrpo_jax.models.lora import LoraConfig
from mvgrpo_jax.models.module import Network, Params

Factors = dict[str, tuple[np.ndarray, np.ndarray]]
DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"
KOHYA_NAME = "kohya.safetensors"
_ROLES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
}
_PREFIXES = ("transformer.", "diffusion_model.", "base_model.model.", "lora_unet_", "lora_transformer_", "")


# --- parameter tree <-> factors ------------------------------------------------------------------------------------------


def _blocks(network: Network, path: tuple[str, ...]) -> tuple[str, list[str]]:
    """The layer's name without numbers, and its names in checkpoints, one a block."""
    name = ".".join(path)
    stack = next((s for s in network.stacks if name.startswith(s + ".")), None)
    if stack is None:
        return name, [name]
    return name, [f"{stack}.{i}{name[len(stack) :]}" for i in range(network.stacks[stack])]


def _walk(tree: Params, path: tuple[str, ...] = ()):
    for key, node in tree.items():
        if "lora_a" in node:
            yield (*path, key), node
        else:
            yield from _walk(node, (*path, key))


def factors_of(network: Network, adapters: Params, config: LoraConfig) -> Factors:
    """The factors of a tree of adapters (leaves that numpy can read)."""
    out: Factors = {}
    for path, node in _walk(adapters):
        _, blocks = _blocks(network, path)
        down, up = (np.asarray(node[k], np.float32) for k in ("lora_a", "lora_b"))
        up = up * np.float32(config.scale(down.shape[-1]))
        layered = down.ndim == 3
        for i, name in enumerate(blocks):
            a, b = (down[i], up[i]) if layered else (down, up)
            out[name] = (a.T, b.T)
    return out


def tree_of(network: Network, factors: Factors) -> tuple[Params, LoraConfig]:
    """A tree of adapters with scale 1, and its config. Blocks without an adapter get zeros, as do missing ranks."""
    groups: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    numbered = {}
    for entry in entries(network).values():
        if entry.path[-1] == "kernel":
            name, blocks = _blocks(network, entry.path[:-1])
            numbered |= {block: (name, i, len(blocks), entry.path[:-1]) for i, block in enumerate(blocks)}
    for block, pair in factors.items():
        name, i, _, _ = numbered[block]
        groups.setdefault(name, {})[i] = pair
    tree: Params = {}
    targets = []
    for name, members in groups.items():
        _, _, count, path = next(v for v in numbered.values() if v[0] == name)
        rank = max(down.shape[0] for down, _ in members.values())
        some_down, some_up = next(iter(members.values()))
        a = np.zeros((count, some_down.shape[1], rank), np.float32)
        b = np.zeros((count, rank, some_up.shape[0]), np.float32)
        for i, (down, up) in members.items():
            a[i, :, : down.shape[0]], b[i, : up.shape[1]] = down.T, up.T
        layered = any(name.startswith(s + ".") for s in network.stacks)
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node |= {"lora_a": a if layered else a[0], "lora_b": b if layered else b[0]}
        targets.append((name.replace(".", r"\."), rank))
    return tree, LoraConfig(tuple(targets))


def start_from(fresh: Params, config: LoraConfig, loaded: Params, where: str, path: tuple[str, ...] = ()) -> Params:
    """A run's fresh adapters with a loaded LoRA inside: same function as the loaded one, room for more rank.

    Raises UserError when the run's targets or ranks do not cover the file's.
    """
    name = ".".join(path)
    missing = sorted(set(loaded) - set(fresh))
    if missing:
        raise UserError(
            f"{where}: adapts {'.'.join((*path, missing[0]))}, which config.lora.targets leaves out; add a pattern for it"
        )
    out: dict[str, Any] = dict(fresh)
    if "lora_a" in loaded:
        a, b = (np.array(fresh[k], np.float32) for k in ("lora_a", "lora_b"))
        rank, own = loaded["lora_a"].shape[-1], a.shape[-1]
        if rank > own:
            raise UserError(f"{where}: rank {rank} at {name}, but config.lora gives it {own}; raise config.lora.rank")
        a[..., :rank] = loaded["lora_a"]
        b[..., :rank, :] = loaded["lora_b"] / config.scale(own)
        return {"lora_a": a, "lora_b": b}
    for key, node in loaded.items():
        out[key] = start_from(fresh[key], config, node, where, (*path, key))
    return out


# --- files in -----------------------------------------------------------------------------------------------------------


def read(path: str | Path, network: Network, config: FluxConfig) -> Factors:
    """A LoRA file (or a folder that holds pytorch_lora_weights.safetensors) in either layout. Raises UserError with every key
    that does not fit the transformer."""
    path = Path(path)
    path = path / DIFFUSERS_NAME if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path}: no such file; expected a LoRA in safetensors format")
    source = TensorFiles(path)
    rows: dict[str, list[Rows]] = {}
    for row in flux_modules(config):
        rows.setdefault(row.original, []).append(row)
    shapes = {n.removesuffix(".weight"): e.shape for n, e in entries(network).items() if n.endswith(".weight")}
    shapes = {n: s for n, s in shapes.items() if len(s) == 2}
    ours = {form: n for n in shapes for form in (n, n.replace(".", "_"))}
    theirs = {form: n for n in rows for form in (n, n.replace(".", "_"))}

    modules: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    problems = []
    for key in source.names():
        stem, role = next(((key.removesuffix(s), r) for s, r in _ROLES.items() if key.endswith(s)), (key, None))
        stem = next(stem.removeprefix(p) for p in _PREFIXES if stem.startswith(p))
        if role is None or (stem not in ours and stem not in theirs):
            problems.append(f"unexpected: {key}.{did_you_mean(stem, [*ours, *theirs])}")
            continue
        place = ("ours", ours[stem]) if stem in ours else ("original", theirs[stem])
        modules.setdefault(place, {})[role] = source.read(key).astype(np.float32)
    out: Factors = {}
    for (layout, name), parts in modules.items():
        try:
            out |= _member(name, parts, shapes) if layout == "ours" else _fused(name, parts, rows[name], shapes)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems or not out:
        shown = "\n  ".join(problems[:20] or ["no adapter in it"])
        raise UserError(
            f"{path}: not a LoRA of this transformer ({len(problems)} problems); check which model it was made for\n  {shown}"
        )
    return out


def _checked(parts: dict[str, np.ndarray], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(down, up x scale) with everything about them checked."""
    for role in ("down", "up"):
        if role not in parts:
            raise ValueError(f"has no {role} matrix")
    down, up = parts["down"], parts["up"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[1] != shape[1] or up.shape[0] != shape[0] or down.shape[0] != up.shape[1]:
        raise ValueError(f"expected down [r, {shape[1]}] and up [{shape[0]}, r], found {list(down.shape)} and {list(up.shape)}")
    alpha = np.asarray(parts.get("alpha", np.float32(down.shape[0])))
    if alpha.size != 1 or not np.isfinite(alpha).all() or float(alpha.reshape(())) <= 0:
        raise ValueError(f"alpha must be one positive number, found {alpha.tolist()}")
    return down, up * np.float32(float(alpha.reshape(())) / down.shape[0])


def _member(name: str, parts: dict[str, np.ndarray], shapes) -> Factors:
    return {name: _checked(parts, shapes[name])}


def _fused(original: str, parts: dict[str, np.ndarray], rows: list[Rows], shapes) -> Factors:
    """Adapters of the layers that the original fuses into one; a block-diagonal `up` gives each its own rank back."""
    members = list(dict.fromkeys(r.name for r in rows))
    total = sum(r.count for r in rows) or shapes[members[0]][0]
    down, up = _checked(parts, (total, shapes[members[0]][1]))
    n, rank = len(members), down.shape[0]
    ups = {}
    for member in members:
        out = np.zeros((shapes[member][0], rank), np.float32)
        for row in rows:
            if row.name == member:
                count = row.count or len(out)
                out[row.start : row.start + count] = up[row.at : row.at + count]
        ups[member] = out
    own = {m: slice(i * (rank // n), (i + 1) * (rank // n)) for i, m in enumerate(members)}
    diagonal = n > 1 and rank % n == 0 and all(not np.delete(ups[m], np.r_[own[m]], 1).any() for m in members)
    if not diagonal:
        return {m: (down, ups[m]) for m in members}
    split = {m: (down[own[m]], ups[m][:, own[m]]) for m in members}
    return {m: (a, b) for m, (a, b) in split.items() if a.any() or b.any()}


# --- files out ----------------------------------------------------------------------------------------------------------


def _write(path: Path, tensors: dict[str, np.ndarray], dtype, metadata: dict[str, str]) -> None:
    items = [(n, np.dtype(np.float32 if n.endswith(".alpha") else dtype), a.shape) for n, a in tensors.items()]
    assert all(d in NAMES for _, d, _ in items)
    write_file(Path(path), items, (a.astype(d) for (_, d, _), a in zip(items, tensors.values())), metadata)


def write_diffusers(path: str | Path, factors: Factors, *, dtype=np.float32, notes: dict[str, str] | None = None) -> None:
    """Diffusers' layout, which FluxPipeline.load_lora_weights and ComfyUI read. notes: free text for the file's header."""
    ranks = {name: down.shape[0] for name, (down, _) in factors.items()}
    common = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {name: rank for name, rank in ranks.items() if rank != common}
    # Without this diffusers would scale layers of another rank by the common one's alpha.
    peft = {"r": common, "lora_alpha": common, "rank_pattern": others, "alpha_pattern": others, "target_modules": list(ranks)}
    tensors = {}
    for name, (down, up) in factors.items():
        tensors |= {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up}
    metadata = {"lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in peft.items()})}
    _write(Path(path), tensors, dtype, metadata | (notes or {}))


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
    _write(Path(path), tensors, dtype, notes or {})


class Merged:
    """A source of weights with a LoRA added into them."""

    def __init__(self, source: Source, factors: Factors):
        self.source, self.factors, self.where = source, factors, source.where

    def names(self) -> list[str]:
        return self.source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def dtype(self, name: str) -> np.dtype:
        return self.source.dtype(name)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        array = self.source.read(name, start, stop)
        pair = self.factors.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
        if pair is None:
            return array
        down, up = pair
        return (array.astype(np.float32) + up[start:stop] @ down).astype(array.dtype)
