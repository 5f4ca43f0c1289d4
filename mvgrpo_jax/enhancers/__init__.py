"""Condition enhancers: where further views of a prompt come from."""

from __future__ import annotations

from mvgrpo_jax.enhancers.base import Enhancer
from mvgrpo_jax.enhancers.embedded import PerspectiveEnhancer
from mvgrpo_jax.enhancers.offline import FileEnhancer, WorldRewriter, enhance_prompts
from mvgrpo_jax.errors import UserError, did_you_mean

__all__ = ["Enhancer", "FileEnhancer", "PerspectiveEnhancer", "WorldRewriter", "enhance_prompts", "make"]

KINDS = ("none", "embedded", "offline")


def make(config, prompts: list[str]) -> Enhancer | None:
    """The enhancer of config.views; None for a single view. `prompts` are those of training, all of which an offline
    file must hold. UserError lists what exists."""
    views = config.views
    if views.count < 0:
        raise UserError(f"config.views.count must not be negative, got {views.count}")
    if views.enhancer not in KINDS:
        near = did_you_mean(views.enhancer, KINDS)
        raise UserError(f"unknown enhancer {views.enhancer!r};{near} there are: {', '.join(KINDS)}")
    if views.count == 0 or views.enhancer == "none":
        return None
    if views.enhancer == "embedded":
        return PerspectiveEnhancer(views.count, config.seed, tuple(views.perspectives))
    return FileEnhancer.load(views.file, views.count, config.seed, prompts)
