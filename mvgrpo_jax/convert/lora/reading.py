"""LoRA files in: names of any of the layouts in use, each layer's scale, everything checked.

Layouts: diffusers' names (with `transformer.`, `base_model.model.` or nothing before them), the original's names with dots or
in kohya's form with underscores, and XLabs' names of attention processors. Where alpha stands decides the strength: in `.alpha`
tensors of the file, in PEFT's adapter_config.json beside it, or in the header where diffusers puts the same; a file that says
nothing has scale 1. kohya's ss_network_alpha is a note about training: its own loader takes a missing `.alpha` for the rank.
"""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from mvgrpo_jax.convert.lora.files import PEFT_CONFIG, PEFT_PREFIX, config_beside, from_peft, locate
from mvgrpo_jax.convert.lora.scales import PeftScale, from_config, from_header
from mvgrpo_jax.convert.lora.trees import Factors
from mvgrpo_jax.convert.naming import entries
from mvgrpo_jax.convert.original import Rows, flux_modules
from mvgrpo_jax.convert.sources import TensorFiles, metadata
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.models.flux import FluxConfig
from mvgrpo_jax.models.module import Network

_ROLES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".down.weight": "down",  # XLabs
    ".up.weight": "up",
    ".alpha": "alpha",
}
_PREFIXES = ("transformer.", "diffusion_model.", PEFT_PREFIX, "lora_unet_", "lora_transformer_", "")
# kohya counts encoders from 1 (te1 is CLIP, te3 T5), older files have one; diffusers has text_encoder and text_encoder_2.
_ENCODER = re.compile(r"(lora_te\d*)_|(text_encoder(?:_\d)?)\.")
_PART = re.compile(r"\.(lora_|lora\.|alpha$|dora_scale).*")  # what follows a layer's name
_FOREIGN = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    ".bias": "lora_bias",
    ".lokr_": "LoKr",
    ".hada_": "LoHa",
    ".oft_": "OFT",
}
_SIDES = {
    "qkv_lora1": "img_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora2": "txt_attn.proj",
}

Parts = dict[str, np.ndarray]
Scales = list[PeftScale]


def read(path: str | Path, network: Network, config: FluxConfig) -> Factors:
    """The factors of a LoRA file, or of a folder that holds one. Layers of text encoders are left out with a warning that
    counts them. Raises UserError with every key that does not fit the transformer, and for options that plain LoRA lacks."""
    path = locate(path)
    source = TensorFiles(path)
    scales = _scales(path, source.names())
    shapes = {n.removesuffix(".weight"): e.shape for n, e in entries(network).items() if n.endswith(".weight")}
    shapes = {n: s for n, s in shapes.items() if len(s) == 2}
    rows = _originals(config)
    modules, problems = _modules(path, source, shapes, rows)
    out: Factors = {}
    for (layout, name, stem), parts in modules.items():
        try:
            if layout == "ours":
                pairs = {name: _checked(stem, parts, shapes[name], scales)}
            else:
                pairs = _fused(stem, parts, rows[name], shapes, scales)
        except ValueError as error:
            problems.append(f"{name}: {error}")
            continue
        problems += [f"{n}: adapted twice, under names of two layouts" for n in pairs if n in out]
        out |= pairs
    if problems or not out:
        shown = "\n  ".join(problems[:20] or ["no adapter of the transformer in it"])
        raise UserError(
            f"{path}: not a LoRA of this transformer ({len(problems)} problems); check which model it was made for\n  {shown}"
        )
    return out


def _originals(config: FluxConfig) -> dict[str, list[Rows]]:
    """Which rows of which layers each of the original's layers has, under the original's and XLabs' names."""
    rows: dict[str, list[Rows]] = {}
    for row in flux_modules(config):
        rows.setdefault(row.original, []).append(row)
    for i in range(config.num_layers):
        rows |= {f"double_blocks.{i}.processor.{x}": rows[f"double_blocks.{i}.{n}"] for x, n in _SIDES.items()}
    for i in range(config.num_single_layers):
        attention = [r for r in rows[f"single_blocks.{i}.linear1"] if ".attn.to_" in r.name]
        rows[f"single_blocks.{i}.processor.qkv_lora"] = attention  # the first rows of linear1
        rows[f"single_blocks.{i}.processor.proj_lora"] = rows[f"single_blocks.{i}.linear2"]
    return rows


def _scales(path: Path, names: list[str]) -> Scales:
    """What is said about the strength outside of the tensors. Raises UserError."""
    beside = config_beside(path, names)
    scales = [from_config(beside)] if beside else []
    header = from_header(path)
    scales += [header] if header else []
    with_alpha = any(n.endswith(".alpha") for n in names)
    if not scales and not with_alpha and from_peft(path, names):
        warnings.warn(
            f"{path}: saved by PEFT, but no {PEFT_CONFIG} beside it says alpha; it is taken with scale 1 (alpha = rank); "
            f"copy {PEFT_CONFIG} to it for the strength that it was trained with",
            stacklevel=3,
        )
    notes = metadata(path)
    alpha, dim = notes.get("ss_network_alpha"), notes.get("ss_network_dim")
    if not scales and not with_alpha and alpha and dim and _differ(alpha, dim):
        warnings.warn(
            f"{path}: the header has ss_network_alpha {alpha} of rank {dim}, but the file has no .alpha tensors; it is taken "
            "with scale 1, as kohya's own loader and ComfyUI do",
            stacklevel=3,
        )
    return scales


def _differ(alpha: str, dim: str) -> bool:
    try:
        return float(alpha) != float(dim)
    except ValueError:  # "Dynamic" and "None" are in use
        return False


def _modules(path: Path, source: TensorFiles, shapes, rows) -> tuple[dict[tuple[str, str, str], Parts], list[str]]:
    """The tensors of each adapted layer, by (layout, layer's name, name in the file), and what does not belong."""
    ours = {form: n for n in shapes for form in (n, n.replace(".", "_"))}
    theirs = {form: n for n in rows for form in (n, n.replace(".", "_"))}
    modules: dict[tuple[str, str, str], Parts] = {}
    problems: list[str] = []
    encoders: dict[str, set[str]] = {}
    for key in source.names():
        if found := _ENCODER.match(key):
            encoders.setdefault(found[1] or found[2], set()).add(_PART.sub("", key))
            continue
        stem, role = next(((key.removesuffix(s), r) for s, r in _ROLES.items() if key.endswith(s)), (key, None))
        stem = next(stem.removeprefix(p) for p in _PREFIXES if stem.startswith(p))
        if role is None or (stem not in ours and stem not in theirs):
            method = next((f" ({m}, which is not supported)" for word, m in _FOREIGN.items() if word in key), None)
            problems.append(f"unexpected: {key}" + (method or f".{did_you_mean(stem, [*ours, *theirs])}"))
            continue
        place = ("ours", ours[stem], stem) if stem in ours else ("original", theirs[stem], stem)
        parts = modules.setdefault(place, {})
        if role in parts:
            problems.append(f"{place[1]}: its {role} matrix is given twice")
        parts[role] = source.read(key).astype(np.float32)
    if encoders:
        counts = Counter({name: len(layers) for name, layers in sorted(encoders.items())})
        warnings.warn(
            f"{path}: {counts.total()} layers of text encoders are left out "
            f"({', '.join(f'{n}: {c}' for n, c in counts.items())}); only the transformer's are used",
            stacklevel=3,
        )
    return modules, problems


def _checked(stem: str, parts: Parts, shape: tuple[int, int], scales: Scales) -> tuple[np.ndarray, np.ndarray]:
    """(down, up x scale) with everything about them checked. stem: the layer as the file names it, which PEFT's patterns
    are matched with."""
    for role in ("down", "up"):
        if role not in parts:
            raise ValueError(f"has no {role} matrix")
    down, up = parts["down"], parts["up"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[1] != shape[1] or up.shape[0] != shape[0] or down.shape[0] != up.shape[1]:
        raise ValueError(f"expected down [r, {shape[1]}] and up [{shape[0]}, r], found {list(down.shape)} and {list(up.shape)}")
    return down, up * np.float32(_scale(stem, parts.get("alpha"), down.shape[0], scales))


def _scale(stem: str, alpha: np.ndarray | None, rank: int, scales: Scales) -> float:
    """The one scale that every place agrees on; 1 where none says anything."""
    said = {}
    if alpha is not None:
        if alpha.size != 1 or not np.isfinite(alpha).all() or float(alpha.reshape(())) <= 0:
            raise ValueError(f"alpha must be one positive number, found {alpha.tolist()}")
        said["its .alpha"] = float(alpha.reshape(())) / rank
    said |= {s.where: s.scale(stem, rank) for s in scales}
    for where, scale in said.items():
        if not math.isfinite(scale) or scale <= 0:
            raise ValueError(f"{where}: the scale must be positive and finite, found {scale:g}")
    (first, scale), *others = said.items() or [("", 1.0)]
    for where, other in others:
        if not math.isclose(scale, other, rel_tol=1e-3):  # alphas are kept in bfloat16, too
            raise ValueError(f"{first} gives scale {scale:g}, {where} {other:g}; remove the one that is wrong")
    return scale


def _fused(stem: str, parts: Parts, rows: list[Rows], shapes, scales: Scales) -> Factors:
    """Adapters of the layers that the original fuses into one; a block-diagonal `up` gives each its own rank back."""
    members = list(dict.fromkeys(r.name for r in rows))
    total = sum(r.count for r in rows) or shapes[members[0]][0]
    down, up = _checked(stem, parts, (total, shapes[members[0]][1]), scales)
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
