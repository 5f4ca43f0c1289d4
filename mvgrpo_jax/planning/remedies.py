"""Whether a run fits its hardware, and the nearest setting that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.planning import compilation
from mvgrpo_jax.planning.compilation import Cost
from mvgrpo_jax.planning.hardware import Chip
from mvgrpo_jax.run import budget


def fits(costs: list[Cost], chip: Chip) -> bool:
    return all(not c.error and c.peak <= chip.memory - chip.reserve for c in costs)


def remedies(config, mesh: Mapping[str, int]) -> list[tuple[str, dict[str, Any]]]:
    """Settings that need less memory, from the cheapest in time to the dearest; each includes the ones before it. mesh: the
    sizes of the run's axes."""
    changes: dict[str, Any] = {}
    out = []

    def add(text: str, **values: Any) -> None:
        changes.update({k.replace("__", "."): v for k, v in values.items()})
        out.append((text, dict(changes)))

    if config.train.remat != "full":
        add("train.remat=full", train__remat="full")
    views = budget.views(config)
    if config.train.view_chunk != 1 and views > 1:
        add("train.view_chunk=1", train__view_chunk=1)
    batch = mesh["data"] * mesh["fsdp"]
    if config.train.prompt_chunk == 0 and config.prompts_per_iteration > batch:
        add(f"train.prompt_chunk={batch}", train__prompt_chunk=batch)
    if mesh["data"] > 1:
        add("all devices in mesh.fsdp", mesh__data=1, mesh__fsdp=-1)
    if not config.lora.rank:
        add(
            "lora.rank=64 (adapters on a frozen bfloat16 base)",
            lora__rank=64,
            lora__alpha=128.0,
            train__frozen_dtype="bfloat16",
        )
    return out


def nearest(config, mesh: Mapping[str, int], topology: str, costs: list[Cost], chip: Chip) -> tuple[str, list[Cost]]:
    """The first remedy with which every program fits the chip, in words, and what the programs that did not fit cost then."""
    tight = tuple(c.name for c in costs if c.error or c.peak > chip.memory - chip.reserve)
    for text, changes in remedies(config, mesh):
        tried = config.copy_and_resolve_references()
        with tried.unlocked():
            tried.update_from_flattened_dict(changes)
        try:
            costs_then, _ = compilation.measure(tried, topology, tight)
        except UserError:  # a setting that this model or mesh cannot take, as more shards than a parameter has rows
            continue
        if fits(costs_then, chip):
            return ", ".join(f"config.{k}={v}" for k, v in changes.items()) + f"  (the last step: {text})", costs_then
    return "none of the settings tried; use more devices or a smaller picture", []
