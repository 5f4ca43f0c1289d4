"""What there is to configure: the config files of a folder, and every key of one with its value and the comment beside it.

Comments are read from the source, where they stand next to the keys: common.py of the config's folder, and DEFAULTS of each
algorithm (mvgrpo_jax/algorithms), for what those share base.py.
"""

from __future__ import annotations

import ast
import dataclasses
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from mvgrpo_jax import algorithms
from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.errors import UserError, did_you_mean

SKIPPED = ("__init__", "common")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A key, its value in the config, what it means (empty where no comment stands) and whether common.py has another value."""

    key: str
    value: object
    comment: str
    differs: bool


def files(folder: Path) -> dict[str, str]:
    """Name -> first line of the docstring of every config file of a folder. UserError when there is none."""
    paths = [p for p in sorted(Path(folder).glob("*.py")) if p.stem not in SKIPPED]
    if not paths:
        raise UserError(f"{folder}: no config files there; run this where the folder configs is, or give --dir FOLDER")
    docs = {p.stem: ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))) or "" for p in paths}
    return {name: doc.partition("\n")[0] for name, doc in docs.items()}


def find(name: str, folder: Path) -> Path:
    """The file of a config's name, or of its path. UserError says which names there are."""
    if (path := Path(name)).suffix == ".py" and path.is_file():
        return path
    known = files(folder)
    stem = name.removesuffix(".py")
    if stem not in known:
        raise UserError(f"{folder}: no config {name!r};{did_you_mean(stem, known)} there are: {', '.join(known)}")
    return Path(folder) / f"{stem}.py"


def entries(path: Path) -> tuple[list[Entry], dict[str, str]]:
    """Every key of a config file's config, and what is said of whole sections, by the section's dotted name. Keys without a
    section come first, then sections by name, at the end those of the algorithms that the config does not run."""
    values = arguments.keys(arguments.load(str(path)))
    common = Path(path).with_name("common.py")
    base = arguments.keys(arguments.load(str(common))) if common.is_file() else values
    comments, sections = comments_of(common) if common.is_file() else ({}, {})
    comments |= algorithm_comments()

    def differs(key: str) -> bool:
        return key not in base or base[key] != values[key]

    def rank(key: str) -> tuple:
        return _is_of_another_algorithm(key, values), "." in key, key.rpartition(".")[0], key

    return [Entry(key, values[key], comments.get(key, ""), differs(key)) for key in sorted(values, key=rank)], sections


def _is_of_another_algorithm(key: str, values: dict[str, object]) -> bool:
    """Whether a key is a setting of an algorithm that the config of these values does not run."""
    section, _, rest = key.partition(".")
    return section == "algorithm" and rest.partition(".")[0] not in ("", "name", values.get("algorithm.name"))


class Comments:
    """Comments of a source text by line: those beside code, and those that have lines of their own above it."""

    def __init__(self, text: str):
        self.beside, self.alone = {}, {}
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                stands_alone = not token.line[: token.start[1]].strip()
                (self.alone if stands_alone else self.beside)[token.start[0]] = token.string.lstrip("# ")

    def above(self, line: int) -> str:
        """The block of comment lines that ends just above a line."""
        block = []
        while (line := line - 1) in self.alone:
            block.insert(0, self.alone[line])
        return " ".join(block)


@dataclasses.dataclass(frozen=True)
class Key:
    """A dotted name in a source text, the line it stands in, its value, and whether it shares the line with its neighbours."""

    name: str
    line: int
    value: ast.AST
    crowded: bool = False


def keys_of(node: ast.AST, name: str) -> Iterator[Key]:
    """Every key of the first dict within an expression and of the dicts in it; a section comes before its keys."""
    table = next((part for part in ast.walk(node) if isinstance(part, ast.Dict)), None)
    for key, value in zip(table.keys, table.values) if table else ():
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            yield Key(f"{name}.{key.value}", key.lineno, value, table.lineno == table.end_lineno)
            if isinstance(value, ast.Dict):
                yield from keys_of(value, f"{name}.{key.value}")


def comments_of(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """({key: comment}, {section or key: comment above it}) of a file whose get_config() assigns c.KEY = value, or a ConfigDict.
    What stands beside a section in one line is said of the section."""
    text = Path(path).read_text(encoding="utf-8")
    comments, beside, above = Comments(text), {}, {}
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)):
            continue
        name = node.targets[0].attr
        assigned = [Key(name, node.lineno, node.value), *keys_of(node.value, name)]
        for key in assigned:
            if key.crowded:
                continue
            last = key.value.end_lineno
            section = any(other.name.startswith(f"{key.name}.") for other in assigned)
            said = comments.beside.get(last, "") if not section or last == key.line else ""
            said_above = comments.above(key.line)
            if section or (said and said_above):
                above[key.name] = said_above or said
            if not section:
                beside[key.name] = said or said_above
    return beside, {name: text for name, text in above.items() if text}


def algorithm_comments() -> dict[str, str]:
    """{algorithm.NAME.key: comment} of every algorithm's settings."""
    folder = Path(algorithms.__file__).parent
    shared = _call_comments(folder / "base.py")
    out = {}
    for name in algorithms.names():
        particular = _call_comments(folder / f"{name}.py")
        for key in algorithms.module(name).DEFAULTS:
            out[f"algorithm.{name}.{key}"] = particular.get(key) or shared.get(key, "")
    return out


def _call_comments(path: Path) -> dict[str, str]:
    """Comments of the keywords of DEFAULTS = options(...), or in base.py of the dict that `options` starts from."""
    text = path.read_text(encoding="utf-8")
    comments, out = Comments(text), {}
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
            continue
        if node.targets[0].id == "DEFAULTS" and isinstance(node.value, ast.Call):
            settings = [Key(word.arg, word.lineno, word.value) for word in node.value.keywords]
        elif node.targets[0].id == "shared":
            settings = list(keys_of(node.value, "shared"))
        else:
            continue
        for key in settings:
            out[key.name.removeprefix("shared.")] = comments.beside.get(key.value.end_lineno, "") or comments.above(key.line)
    return out
