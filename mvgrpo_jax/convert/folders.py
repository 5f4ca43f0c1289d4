"""Whole pipelines between layouts, file to file: no parameter tree, one tensor in memory at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import lora
from mvgrpo_jax.convert.files import copy_folder, read_json, write_json
from mvgrpo_jax.convert.original import ToOriginal, flux_layout, open_original, vae_layout
from mvgrpo_jax.convert.sources import Source, TensorFiles
from mvgrpo_jax.convert.weights import checked
from mvgrpo_jax.convert.writing import SHARD, items_of, write_file, write_folder
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models import flux, vae

ORIGINAL_NAMES = {"transformer": "flux1.safetensors", "vae": "ae.safetensors"}


def component_config(config: flux.FluxConfig | vae.VaeConfig) -> dict[str, Any]:
    """The config.json that diffusers expects beside such weights."""
    values = dataclasses.asdict(config)
    if isinstance(config, flux.FluxConfig):
        return {"_class_name": "FluxTransformer2DModel", "patch_size": 1, **values}
    levels = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "act_fn": "silu",
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        **values,
    }


def identity(path: Path, *more: Any) -> str:
    """Changes when a source changes: names, sizes and times of its weight files."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    facts = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    return hashlib.sha256(repr((facts, more)).encode()).hexdigest()


def components(folder: Path) -> dict[str, Source]:
    """The checked sources of a pipeline folder's components. Raises UserError."""
    pipeline = pipelines.describe(folder)
    return {n: checked(getattr(pipeline, n), TensorFiles(pipeline.folder / n))[0] for n in pipelines.WEIGHTS}


def write_pipeline(
    base: Path,
    sources: dict[str, Source],
    dst: Path,
    *,
    dtype=None,
    limit: int = SHARD,
    identities: dict[str, str],
    configs=None,
) -> None:
    """A diffusers pipeline folder from sources; tokenizers, scheduler and configs come from `base` unless `configs` has
    them. model_index.json comes last: an interrupted folder is no pipeline."""
    dst.mkdir(parents=True, exist_ok=True)
    (dst / "model_index.json").unlink(missing_ok=True)
    for name in ("scheduler", "tokenizer", "tokenizer_2"):
        copy_folder(base / name, dst / name)
    for name, source in sources.items():
        write_json(dst / name / "config.json", (configs or {}).get(name) or read_json(base / name / "config.json"))
        write_folder(source, dst / name, pipelines.WEIGHTS[name], dtype=dtype, limit=limit, identity=identities[name])
    write_json(dst / "model_index.json", read_json(base / "model_index.json"))


def import_folder(src: Path, dst: Path, *, dtype=None, limit: int = SHARD) -> None:
    """Diffusers folder -> diffusers folder with every key checked, weights in `dtype`, shards and checksums."""
    folder = pipelines.EMBEDDED if str(src) == "flux-nano" else src
    sources = components(folder)
    marks = {n: identity(folder / n, dtype, limit) for n in sources}
    write_pipeline(folder, sources, dst, dtype=dtype, limit=limit, identities=marks)


def import_file(src: Path, dst: Path, *, base: Path | None = None, config: Path | None = None, dtype=None, limit: int = SHARD):
    """An original single file -> the component's folder under `dst`, or with `base` a whole pipeline around it. Returns the
    component's name. config: a config.json; shapes alone do not tell the groups of norms and the split of the rotary
    embedding, so that the base's config is used where there is one, and Flux's own values otherwise."""

    def given(kind: str):
        path = config or (base and base / kind / "config.json")
        return path and pipelines.config_of(flux.FluxConfig if kind == "transformer" else vae.VaeConfig, read_json(path), path)

    kind, source, implied = open_original(src, given)
    net = flux.flux(implied) if kind == "transformer" else vae.vae(implied)
    source, _ = checked(net, source)
    marks = {kind: identity(src, dtype, limit)}
    written = component_config(implied)
    if base is None:
        write_json(dst / kind / "config.json", written)
        write_folder(source, dst / kind, pipelines.WEIGHTS[kind], dtype=dtype, limit=limit, identity=marks[kind])
        return kind
    others = {n: s for n, s in components(base).items() if n != kind}
    marks |= {n: identity(base / n, dtype, limit) for n in others}
    write_pipeline(base, {kind: source} | others, dst, dtype=dtype, limit=limit, identities=marks, configs={kind: written})
    return kind


def export(src: Path, dst: Path, layout: str, *, lora_file: Path | None = None, dtype=None, limit: int = SHARD) -> list[Path]:
    """A diffusers folder -> a diffusers folder, or the original single files; with a LoRA, merged into the transformer.

    lora_file: of any layout that lora.read takes. The sum is rounded once, to `dtype` (None: each weight's own); a warning
    tells how much of the change that dtype cannot hold. Returns what was written.
    """
    folder = pipelines.EMBEDDED if str(src) == "flux-nano" else src
    pipeline, sources = pipelines.describe(folder), components(folder)
    merged = None
    if lora_file:
        factors = lora.read(lora_file, pipeline.transformer, pipeline.flux_config)
        sources["transformer"] = merged = lora.Merged(sources["transformer"], factors, dtype)
    written = _write_layout(folder, dst, layout, pipeline, sources, lora_file, dtype, limit)
    if merged:
        merged.report()
    return written


def _write_layout(
    folder: Path, dst: Path, layout: str, pipeline, sources, lora_file: Path | None, dtype, limit: int
) -> list[Path]:
    if layout == "diffusers":
        stamp = [identity(path) for path in lora.files_of(lora_file)] if lora_file else ""
        marks = {n: identity(folder / n, dtype, limit, stamp) for n in sources}
        write_pipeline(folder, sources, dst, dtype=dtype, limit=limit, identities=marks)
        return [dst]
    layouts = {"transformer": flux_layout(pipeline.flux_config), "vae": vae_layout(pipeline.vae_config)}
    written = []
    for name, table in layouts.items():
        source = ToOriginal(sources[name], table)
        items = items_of(source, dtype)
        write_file(dst / ORIGINAL_NAMES[name], items, (source.read(n).astype(d, copy=False) for n, d, _ in items))
        written.append(dst / ORIGINAL_NAMES[name])
    return written


def convert_lora(src: Path, dst: Path, layout: str, pipeline_folder: Path, *, dtype) -> None:
    """A LoRA file or folder of any layout that lora.read takes, to `layout`."""
    pipeline = pipelines.describe(pipeline_folder)
    factors = lora.read(src, pipeline.transformer, pipeline.flux_config)
    if layout == "diffusers":
        lora.write_diffusers(dst, factors, dtype=dtype)
    elif layout == "kohya":
        lora.write_kohya(dst, factors, pipeline.flux_config, dtype=dtype)
    else:
        raise UserError(f"unknown LoRA layout {layout!r}; there are: diffusers, kohya")
