"""Whole pipelines between layouts, file to file: no parameter tree, one tensor in memory at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from mvgrpo_jax import pipelines
from mvgrpo_jax.convert import lora, single
from mvgrpo_jax.convert.companions import around, as_json, contents
from mvgrpo_jax.convert.files import read_json
from mvgrpo_jax.convert.original import ToOriginal, flux_layout, vae_layout
from mvgrpo_jax.convert.owned import Owned
from mvgrpo_jax.convert.sources import Source, TensorFiles
from mvgrpo_jax.convert.weights import checked
from mvgrpo_jax.convert.writing import SHARD, items_of, write_folder, write_owned
from mvgrpo_jax.errors import UserError

ORIGINAL_NAMES = {"transformer": "flux1.safetensors", "vae": "ae.safetensors"}


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
    names = tuple(sources)
    with around(contents(base, names, configs), dst, names):
        for name, source in sources.items():
            write_folder(source, dst / name, pipelines.WEIGHTS[name], dtype=dtype, limit=limit, identity=identities[name])


def import_folder(src: Path, dst: Path, *, dtype=None, limit: int = SHARD) -> None:
    """Diffusers folder -> diffusers folder with every key checked, weights in `dtype`, shards and checksums."""
    folder = pipelines.EMBEDDED if str(src) == "flux-nano" else src
    sources = components(folder)
    marks = {n: identity(folder / n, dtype, limit) for n in sources}
    write_pipeline(folder, sources, dst, dtype=dtype, limit=limit, identities=marks)


def import_file(
    src: Path, dst: Path, *, base: Path | None = None, config: Path | None = None, dtype=None, limit: int = SHARD
) -> list[str]:
    """A single file (see single) -> the folder of each of its models under `dst`, or with `base` a whole pipeline around them.
    Returns the components' names. config: a config.json; shapes alone do not tell the groups of norms and the split of the
    rotary embedding, so that the base's config is used where there is one, and Flux's own values otherwise."""
    base = pipelines.EMBEDDED if str(base) == "flux-nano" else base

    def given(kind: single.Kind):
        if path := config or (base and base / kind.component / "config.json"):
            content = read_json(path)
            return pipelines.config_of(kind.config, content, path), content
        return None

    parts = single.open_file(src, given)
    if config and len(parts) > 1:
        raise UserError(f"{src}: holds {', '.join(p.component for p in parts)}; --config fits one model, give --base instead")
    sources = {p.component: checked(p.network, p.source)[0] for p in parts}
    written = {p.component: p.written for p in parts}
    marks = dict.fromkeys(sources, identity(src, dtype, limit))
    if base is None:
        with around({f"{n}/config.json": as_json(w) for n, w in written.items()}, dst, tuple(sources)):
            for name, source in sources.items():
                write_folder(source, dst / name, pipelines.WEIGHTS[name], dtype=dtype, limit=limit, identity=marks[name])
        return list(sources)
    described = pipelines.describe(base)
    found = {p.component: p.config for p in parts}
    pipelines.check_channels(found.get("transformer", described.flux_config), found.get("vae", described.vae_config), src)
    others = {n: s for n, s in components(base).items() if n not in sources}
    marks |= {n: identity(base / n, dtype, limit) for n in others}
    write_pipeline(base, sources | others, dst, dtype=dtype, limit=limit, identities=marks, configs=written)
    return list(sources)


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
    owned = Owned(dst)
    owned.claim(ORIGINAL_NAMES.values())
    for name, table in layouts.items():
        source = ToOriginal(sources[name], table)
        write_owned(owned, ORIGINAL_NAMES[name], source, items_of(source, dtype))
    return [dst / name for name in ORIGINAL_NAMES.values()]


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
