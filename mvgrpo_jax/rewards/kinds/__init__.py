"""One small file a kind of judge; `kind` in the config resolves to a module here by import.

A module has JUDGE, whose keyword arguments with their defaults are the settings config.judges.NAME. It may have RULES, what
these may be where their default does not say it, and PLACE, the setting that says where the judge is: a folder or file of its
weights, or an address ('folder' where it is not said; a kind without that setting has no place). JUDGE.published(**options),
where it is there, describes the judge by its shapes for planning, without files; None where they are not known.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

from mvgrpo_jax.configuration.rules import Int, Rule, Text, of_default
from mvgrpo_jax.errors import UserError, did_you_mean

REQUIRED = inspect.Parameter.empty  # the default of a setting that has none


def names() -> list[str]:
    return sorted(_modules())


def _modules() -> dict[str, str]:
    """Kind -> its module, which is called kind_ where Python has a module of the kind's name."""
    return {m.name.rstrip("_"): m.name for m in pkgutil.iter_modules(__path__)}


def module(kind: str) -> ModuleType:
    """UserError lists what exists."""
    if kind not in names():
        raise UserError(f"unknown reward {kind!r};{did_you_mean(kind, names())} there are: {', '.join(names())}")
    return importlib.import_module(f"mvgrpo_jax.rewards.kinds.{_modules()[kind]}")


def defaults(kind: str) -> dict[str, object]:
    """The settings of a kind, by name; one without a default must be given."""
    return {name: p.default for name, p in inspect.signature(module(kind).JUDGE).parameters.items()}


def place(kind: str) -> str:
    """The setting that says where a judge of this kind is; '' where it has none."""
    name = getattr(module(kind), "PLACE", "folder")
    return name if name in defaults(kind) else ""


def rules(kind: str) -> dict[str, Rule]:
    """What each setting of a kind may be."""
    out = {}
    for name, default in defaults(kind).items():
        if default is REQUIRED:
            out[name] = Text(empty=False)
        elif type(default) is int:  # chunks and other counts
            out[name] = Int(1, 10**6)
        elif type(default) in (bool, float, str, tuple):
            out[name] = of_default(default)
    return out | getattr(module(kind), "RULES", {})
