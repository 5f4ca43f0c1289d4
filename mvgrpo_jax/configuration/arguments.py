"""Checks of the command line before absl sees it: unknown keys and wrong types get a message that helps."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

from ml_collections import ConfigDict

from mvgrpo_jax.errors import UserError, did_you_mean


def load(path: str) -> ConfigDict:
    """The config of a file's get_config(). UserError when there is none."""
    file = Path(path.split(":")[0])
    if not file.is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py") if p.stem not in ("__init__", "common"))
        raise UserError(f"--config {path}: no such file;{did_you_mean(path, known)} there are: {', '.join(known) or 'none'}")
    for root in (str(file.resolve().parents[1]), str(Path.cwd())):  # configs import each other as configs.NAME
        if root not in sys.path:
            sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config {path}: has no get_config()")
    return module.get_config()


def keys(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Every leaf by its dotted name."""
    out = {}
    for name, value in config.items():
        out |= keys(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return out


def check_value(name: str, text: str, default: object) -> None:
    """UserError unless `text` reads as the default's type."""
    kind = type(default)
    try:
        if kind is bool:
            ok = text.lower() in ("true", "false", "1", "0", "t", "f", "yes", "no")
        elif kind in (int, float):
            kind(text)
            ok = True
        else:
            ok = True
    except ValueError:
        ok = False
    if not ok:
        raise UserError(f"--config.{name}={text}: expected {kind.__name__} (default {default!r})")


def parsed(text: str, default: object) -> object:
    """A checked value in the default's type."""
    if isinstance(default, bool):
        return text.lower() in ("true", "1", "t", "yes")
    if isinstance(default, tuple):
        value = ast.literal_eval(text) if text.strip() else ()
        return value if isinstance(value, tuple) else (value,)
    return type(default)(text)


def from_arguments(path: str, words: list[str]) -> ConfigDict:
    """A config file's config with --config.key=value overrides, for commands other than training. Raises UserError."""
    config = load(path)
    known = keys(config)
    for word in words:
        name, equals, value = word.partition("=")
        key = name.removeprefix("--config.")
        if not name.startswith("--config.") or not equals:
            raise UserError(f"unknown argument {word!r}; settings are given as --config.key=value")
        if key not in known:
            raise UserError(f"unknown config key {key!r}.{did_you_mean(key, known)}")
        check_value(key, value, known[key])
        config.update_from_flattened_dict({key: parsed(value, known[key])})
    return config


def check_arguments(arguments: list[str]) -> None:
    """UserError for a missing --config or --workdir, an unknown config key or a value of the wrong type."""
    if any(a in ("--help", "--helpfull", "-h", "--helpshort") for a in arguments):
        return
    given: dict[str, str | None] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        given[name] = value if equals else next(words, None) if name in ("config", "workdir") else None
        if name.startswith("config.") and not equals:
            given[name] = next(words, None)
    if not given.get("config"):
        raise UserError("no config: give --config=configs/NAME.py")
    if not given.get("workdir"):
        raise UserError("no workdir: give --workdir=DIR, where checkpoints, pictures and metrics go")
    known = keys(load(given["config"]))
    for name, value in given.items():
        if not name.startswith("config."):
            continue
        key = name.removeprefix("config.")
        if key not in known:
            raise UserError(f"unknown config key {key!r}.{did_you_mean(key, known)}")
        if value is not None:
            check_value(key, value, known[key])
