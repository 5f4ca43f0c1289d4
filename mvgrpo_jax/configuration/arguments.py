"""The command line's part of a config: overrides are read in the type of what they replace, with a message that helps."""

from __future__ import annotations

import ast
import decimal
import importlib.util
import math
import sys
import warnings
from pathlib import Path

from ml_collections import ConfigDict

from mvgrpo_jax.errors import UserError, did_you_mean

FREE = ("rewards", "judges")  # sections whose keys are names of judges
LONGEST, LONGEST_NUMBER = 10_000, 400  # characters of a tuple and digits of an integer that are read


def load(path: str) -> ConfigDict:
    """The config of a file's get_config(), or that of a run, as its workdir keeps it in config.json. UserError when there is
    none."""
    file = Path(path.split(":")[0])
    if not file.is_file():
        known = sorted(str(p) for p in Path("configs").glob("*.py") if p.stem not in ("__init__", "common"))
        raise UserError(f"--config {path}: no such file;{did_you_mean(path, known)} there are: {', '.join(known) or 'none'}")
    if file.suffix == ".json":
        from mvgrpo_jax.convert.files import read_json  # imports jax, as below

        return ConfigDict(_tuples(read_json(file)))
    for root in (str(file.resolve().parents[1]), str(Path.cwd())):  # configs import each other as configs.NAME
        if root not in sys.path:
            sys.path.insert(0, root)
    spec = importlib.util.spec_from_file_location(f"_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"--config {path}: has no get_config()")
    return module.get_config()


def _tuples(value: object) -> object:
    """JSON's lists as the tuples that they were."""
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def keys(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Every leaf by its dotted name."""
    out = {}
    for name, value in config.items():
        out |= keys(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return out


def check_value(name: str, text: str, default: object) -> None:
    """UserError unless `text` reads as the default's type; floats are finite."""
    parsed(text, default, name)


def parsed(text: str, default: object, name: str = "") -> object:
    """The value of a text in the type of a default; () for a tuple's empty text. UserError when it does not read as one."""
    read = {bool: _flag, int: _integer, float: _number, tuple: _tuple, list: _tuple, type(None): _literal}.get(
        type(default), str
    )
    try:
        return read(text)
    except (ValueError, SyntaxError, TypeError, ArithmeticError, MemoryError, RecursionError):
        kind = {float: "a finite number (float)", tuple: "a tuple such as ('a', 'b') or (0, 2)"}
        expected = kind.get(type(default), type(default).__name__ if default is not None else "a value")
        raise UserError(f"--config.{name}={_short(text)}: expected {expected} (default {default!r})") from None


def _flag(text: str) -> bool:
    words = {"true": True, "t": True, "1": True, "yes": True, "false": False, "f": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


def _integer(text: str) -> int:
    """'1000', '1_000' or '1e3'."""
    if len(text) > LONGEST_NUMBER:
        raise ValueError(text)
    try:
        return int(text)
    except ValueError:
        value = decimal.Decimal(text)
        if not value.is_finite() or value.adjusted() > LONGEST_NUMBER or value != value.to_integral_value():
            raise
        return int(value)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _literal(text: str) -> object:
    if len(text) > LONGEST:
        raise ValueError(text)
    with warnings.catch_warnings(action="ignore"):  # of invalid escapes, which patterns have
        return ast.literal_eval(text)


def _tuple(text: str) -> tuple:
    value = _literal(text) if text.strip() else ()
    if isinstance(value, (dict, set)):
        raise TypeError(text)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _free(text: str) -> object:
    """The value of a key without a default: a Python literal, or else the text itself."""
    try:
        return _literal(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}..."


def from_arguments(path: str, words: list[str]) -> ConfigDict:
    """A config file's config with --config.key=value overrides, checked as far as values tell. Raises UserError."""
    config = load(path)
    for word in words:
        name, equals, text = word.partition("=")
        if not name.startswith("--config.") or not equals:
            raise UserError(f"unknown argument {_short(word)!r}; settings are given as --config.key=value")
        override(config, name.removeprefix("--config."), text)
    from mvgrpo_jax.configuration.checks import check  # imports jax, whose environment a command may still set

    check(config)
    return config


def override(config: ConfigDict, key: str, text: str) -> None:
    """Sets a key from text. The names of judges under config.rewards and config.judges need not be there yet. Raises
    UserError for an unknown key, and for a text that does not read as its type."""
    known = keys(config)
    section, _, rest = key.partition(".")
    if section == "rewards" and rest:
        value = parsed(text, 0.0, key)
    elif key in known:
        value = parsed(text, known[key], key)
    elif section in FREE and rest and all(rest.split(".")):
        value = _free(text)
    else:
        raise UserError(f"unknown config key {_short(key)!r}.{did_you_mean(key, known)}")
    *sections, last = key.split(".")
    for name in sections:
        if not isinstance(config.get(name, ConfigDict()), ConfigDict):
            raise UserError(f"unknown config key {_short(key)!r}: {name} is a value, not a section")
        if name not in config:
            config[name] = ConfigDict()
        config = config[name]
    if section in FREE and last in config:
        del config[last]  # and with it the type that it was given with
    config[last] = value


def split(arguments: list[str]) -> tuple[str | None, list[str], list[str]]:
    """A command line in three: the config file, overrides as --config.key=value, and the rest. Both --name=value and --name
    value are read. UserError for an override without a value."""
    path, words, rest = None, [], []
    given = iter(arguments)
    for word in given:
        name, equals, value = word.partition("=")
        name = name.lstrip("-")
        if not word.startswith("-") or not (name == "config" or name.startswith("config.")):
            rest.append(word)
            continue
        if not equals:
            value = next(given, "--")
            if value.startswith("--"):
                raise UserError(f"{_short(word)}: expected {_short(word)}=VALUE")
        if name == "config":
            path = value
        else:
            words.append(f"--{name}={value}")
    return path, words, rest


def shown(config: ConfigDict) -> str:
    """Every key with its value, a line each, sorted: 'key = value', values as Python writes them."""
    return "\n".join(f"{key} = {value!r}" for key, value in sorted(keys(config).items()))
