"""Judges of pictures: the protocol, and the names a config may use."""

from __future__ import annotations

from pathlib import Path

from mvgrpo_jax.errors import UserError, did_you_mean
from mvgrpo_jax.nano.judge import SceneReward
from mvgrpo_jax.rewards.base import DeviceJudge, HostJudge, Judge, Judgement
from mvgrpo_jax.rewards.clip import ClipReward
from mvgrpo_jax.rewards.panel import Panel

EMBEDDED = ("clip-nano",)  # folders that come with the package
KINDS = {"clip": ClipReward, "scene": SceneReward}

__all__ = ["ClipReward", "DeviceJudge", "HostJudge", "Judge", "Judgement", "Panel", "SceneReward", "make"]


def make(name: str, options: dict | None = None) -> Judge:
    """The judge of this name; options are its keyword arguments (config.judges.NAME). UserError lists what exists."""
    if name not in KINDS:
        raise UserError(f"unknown reward {name!r};{did_you_mean(name, KINDS)} there are: {', '.join(sorted(KINDS))}")
    return KINDS[name](**(options or {}))


def described(name: str, options: dict | None = None) -> Judge | None:
    """As `make`, for planning: a judge whose folder is not there is described by its published shapes, None where they are not
    known."""
    options = options or {}
    if name in KINDS and "folder" in options and options["folder"] not in EMBEDDED and not Path(options["folder"]).is_dir():
        return KINDS[name].published(**options)
    return make(name, options)
