"""Judges of pictures: the protocol, and those that a config or a command names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mvgrpo_jax.configuration.rules import Choice, Flag, Real, Rule
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards import kinds
from mvgrpo_jax.rewards.base import DeviceJudge, HostJudge, Judge, Judgement
from mvgrpo_jax.rewards.panel import Panel

__all__ = [
    "DeviceJudge",
    "HostJudge",
    "Judge",
    "Judgement",
    "Panel",
    "Policy",
    "described",
    "kind_of",
    "make",
    "policy_of",
    "tell",
]

EMBEDDED = ("clip-nano", "nano-hps")  # folders that come with the package


class Policy(NamedTuple):
    """Settings that every judge has. on_failure: what happens when it gives no valid score of a picture, mask (that score does
    not train) | stop. max_invalid: the share of its scores in an iteration that may be invalid; beyond, the run stops. offload:
    the weights of a judge on the devices are kept in the host's memory while it is not asked."""

    on_failure: str = "mask"
    max_invalid: float = 0.5
    offload: bool = False


POLICY: dict[str, Rule] = {"on_failure": Choice.of(("mask", "stop")), "max_invalid": Real(0.0, 1.0), "offload": Flag()}


def kind_of(name: str, options: Mapping | None = None) -> str:
    """The kind of the judge of this name, which is its name where its options do not say it."""
    return (options or {}).get("kind", name)


def policy_of(options: Mapping | None) -> Policy:
    """The policy in a judge's options."""
    return Policy(**{k: v for k, v in (options or {}).items() if k in POLICY})


def make(name: str, options: Mapping | None = None) -> Judge:
    """The judge of this name; options are its kind and that kind's settings (config.judges.NAME). UserError lists what
    exists, and says which settings are missing."""
    kind, options = kind_of(name, options), _own(options)
    judge = kinds.module(kind).JUDGE
    missing = [k for k, default in kinds.defaults(kind).items() if default is kinds.REQUIRED and k not in options]
    if missing:
        raise UserError(
            f"the judge {name!r} of kind {kind!r} needs {', '.join(missing)}: set config.judges.{name}.{missing[0]}"
        )
    return judge(**options)


def tell(judges: Mapping[str, Judge], records: Mapping[str, dict]) -> None:
    """Gives the judges that take it what is known of prompts, by their texts."""
    for judge in judges.values():
        if hasattr(judge, "records"):
            judge.records = dict(records)


def described(name: str, options: Mapping | None = None) -> Judge | None:
    """As `make`, for planning: a judge whose folder is not there is described by its published shapes, None where they are not
    known."""
    kind = kind_of(name, options)
    judge, where = kinds.module(kind).JUDGE, (options or {}).get(kinds.place(kind), EMBEDDED[0])
    if hasattr(judge, "published") and where not in EMBEDDED and not Path(where).exists():
        return judge.published(**_own(options))
    return make(name, options)


def _own(options: Mapping | None) -> dict:
    """The settings that a judge's own class takes."""
    return {k: v for k, v in (options or {}).items() if k != "kind" and k not in POLICY}
