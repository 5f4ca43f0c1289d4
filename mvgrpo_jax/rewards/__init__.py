"""Judges of pictures: the protocol, and the names a config may use."""

from __future__ import annotations

from mvgrpo_jax.core.structs import Captions
from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.nano.judge import SceneReward
from mvgrpo_jax.rewards.base import Reward
from mvgrpo_jax.rewards.clip import ClipReward

KINDS = {"clip": ClipReward, "scene": SceneReward}

__all__ = ["Captions", "ClipReward", "Reward", "SceneReward", "make"]


def make(name: str, options: dict | None = None) -> Reward:
    """The judge of this name; options are its keyword arguments (config.judges.NAME). UserError lists what exists."""
    if name not in KINDS:
        raise UserError(f"unknown reward {name!r};{did_you_mean(name, KINDS)} there are: {', '.join(sorted(KINDS))}")
    return KINDS[name](**(options or {}))
