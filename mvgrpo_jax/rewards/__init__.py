"""Judges of pictures: the protocol, and those that a config or a command names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import kinds
from mvgrpo_jax.rewards.base import DeviceJudge, HostJudge, Judge, Judgement
from mvgrpo_jax.rewards.panel import Panel

EMBEDDED = ("clip-nano",)  # folders that come with the package

__all__ = ["DeviceJudge", "HostJudge", "Judge", "Judgement", "Panel", "described", "kind_of", "make"]


def kind_of(name: str, options: Mapping | None = None) -> str:
    """The kind of the judge of this name, which is its name where its options do not say it."""
    return (options or {}).get("kind", name)


def make(name: str, options: Mapping | None = None) -> Judge:
    """The judge of this name; options are its kind and that kind's settings (config.judges.NAME). UserError lists what
    exists, and says which settings are missing."""
    kind, options = kind_of(name, options), {k: v for k, v in (options or {}).items() if k != "kind"}
    judge = kinds.module(kind).JUDGE
    missing = [k for k, default in kinds.defaults(kind).items() if default is kinds.REQUIRED and k not in options]
    if missing:
        raise UserError(
            f"the judge {name!r} of kind {kind!r} needs {', '.join(missing)}: set config.judges.{name}.{missing[0]}"
        )
    return judge(**options)


def described(name: str, options: Mapping | None = None) -> Judge | None:
    """As `make`, for planning: a judge whose folder is not there is described by its published shapes, None where they are not
    known."""
    kind = kind_of(name, options)
    judge, where = kinds.module(kind).JUDGE, (options or {}).get(kinds.place(kind), EMBEDDED[0])
    if hasattr(judge, "published") and where not in EMBEDDED and not Path(where).exists():
        return judge.published(**{k: v for k, v in options.items() if k != "kind"})
    return make(name, options)
