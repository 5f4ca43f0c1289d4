"""Trained weights out of a run: a diffusers pipeline folder, or adapters alone, each with a model card."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np

from mvgrpo_jax import algorithms, pipelines
from mvgrpo_jax.convert import lora as lora_files
from mvgrpo_jax.convert.companions import check_free
from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.convert.weights import ParamsSource
from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.models.module import Params
from mvgrpo_jax.parallel.hosts import from_chief, to_host
from mvgrpo_jax.parallel.mesh import make_mesh
from mvgrpo_jax.run import trained
from mvgrpo_jax.run.programs import Programs

KINDS = ("", "pipeline", "lora")


def check(config) -> None:
    """UserError for export settings that cannot work, before anything is trained."""
    kind = config.export.kind
    if kind not in KINDS:
        raise UserError(f"config.export.kind must be one of {', '.join(repr(k) for k in KINDS)}, got {kind!r}")
    if kind == "lora" and not config.lora.rank:
        raise UserError("config.export.kind is 'lora', but config.lora.rank is 0: no adapters are trained")
    if config.lora.start and not config.lora.rank:
        raise UserError("config.lora.start is given, but config.lora.rank is 0: set a rank, or merge the LoRA beforehand")


def check_destination(config, workdir: Path) -> None:
    """UserError where the run could not write its pipeline at its end, found at its start."""
    if (config.export.kind or ("lora" if config.lora.rank else "pipeline")) == "pipeline":
        check_free(workdir / "pipeline", tuple(pipelines.WEIGHTS))


def starting_adapters(config, programs: Programs) -> Params:
    """Fresh adapters, or the LoRA file that config.lora.start names inside fresh ones, which the first process reads. Raises
    UserError."""
    fresh = programs.adapters()
    if not config.lora.start:
        return fresh
    network, start, here = programs.pipeline.transformer, config.lora.start, jax.tree.map(to_host, fresh)

    def started() -> Params:
        loaded, _ = lora_files.tree_of(network, lora_files.read(start, network, programs.pipeline.flux_config))
        return lora_files.start_from(here, programs.lora, loaded, start)

    return jax.tree.map(jax.device_put, from_chief(started, here), programs.state_shardings.params)


def write(config, programs: Programs, weights: Params, frozen: Params | None, step: int, folder: Path) -> Path:
    """Writes what config.export asks for under `folder` and returns its path: FOLDER/pipeline or FOLDER/lora.

    Every process of a pod calls this, because gathering sharded weights takes all of them; the first one writes.
    """
    dtype = dtype_of(config.export.dtype) if config.export.dtype else None
    kind = config.export.kind or ("lora" if programs.lora else "pipeline")
    place = folder / kind
    factors = None
    if programs.lora:
        factors = lora_files.factors_of(programs.pipeline.transformer, jax.tree.map(to_host, weights), programs.lora)
    if kind == "lora":
        if jax.process_index() == 0:
            notes = {"mvgrpo_jax.step": str(step), "mvgrpo_jax.alpha": str(programs.lora.alpha)}
            options = {"dtype": dtype or np.float32, "notes": notes}
            lora_files.write_diffusers(place / lora_files.DIFFUSERS_NAME, factors, **options)
            lora_files.write_kohya(place / lora_files.KOHYA_NAME, factors, programs.pipeline.flux_config, **options)
    else:
        source = ParamsSource(programs.pipeline.transformer, weights if frozen is None else frozen)
        merged = lora_files.Merged(source, factors, dtype) if factors else None
        pipelines.save(programs.pipeline, place, {"transformer": merged or source}, dtype=dtype)
        if merged and jax.process_index() == 0:
            merged.report()
    if jax.process_index() == 0:
        with atomic(place / "README.md") as part:
            part.write_text(card(config, programs.pipeline.folder, kind, step))
    return place


def licence(folder: Path) -> list[str]:
    """The licence lines of the base model's card, as its front matter has them."""
    path = folder / "README.md"
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines()
    inside = lines[1 : lines.index("---", 1)] if lines[:1] == ["---"] and "---" in lines[1:] else []
    return [line for line in inside if line.startswith("license")]


def card(config, base: Path, kind: str, step: int) -> str:
    """A model card: what was trained, from what, on what, how far; every config value."""
    lines = licence(base)
    rewards = ", ".join(f"{name} (weight {weight})" for name, weight in config.rewards.items() if weight)
    use = (
        f"`FluxPipeline.from_pretrained(BASE).load_lora_weights('{lora_files.DIFFUSERS_NAME}')` in diffusers; "
        f"`{lora_files.KOHYA_NAME}` holds the same adapters in the layout that ComfyUI and kohya's scripts read."
        if kind == "lora"
        else "`FluxPipeline.from_pretrained(FOLDER)` in diffusers."
    )
    front = ["---", f"base_model: {config.pipeline}", *lines, "library_name: diffusers", "pipeline_tag: text-to-image", "---"]
    views = (
        f"{algorithms.captions(config)} captions beside the prompt ({config.views.enhancer})"
        if algorithms.captions(config)
        else "the prompt alone"
    )
    body = [
        f"# {Path(config.pipeline).name}, trained with {config.algorithm.name}",
        "",
        f"Weights after iteration {step} of a run of mvgrpo_jax.",
        "",
        f"- Base model: {config.pipeline}"
        + ("" if lines else " (its folder has no card; its licence applies to these weights)"),
        *([f"- Licence of the base model, which applies to these weights: {'; '.join(lines)}"] if lines else []),
        f"- Prompts: {config.prompts.train}; views: {views}",
        f"- Rewards: {rewards}",
        f"- Use: {use}",
        "",
        "## Config",
        "",
        "```json",
        json.dumps(json.loads(config.to_json_best_effort()), indent=2, sort_keys=True),
        "```",
        "",
    ]
    return "\n".join(front + [""] + body)


def from_checkpoint(
    workdir: Path, out: Path, step: int | None = None, kind: str = "", dtype: str = "", *, best: bool = False
) -> Path:
    """Exports the newest checkpoint of a run, that of an iteration or its best weights, on however many devices there are here.
    Raises UserError."""
    found = trained.read(workdir, make_mesh(fsdp=jax.device_count()), step=step, best=best)
    config = found.config
    config.export.kind, config.export.dtype = kind or config.export.kind, dtype or config.export.dtype
    check(config)
    with jax.set_mesh(found.programs.mesh):
        return write(config, found.programs, found.weights, found.base, found.step, out)
