"""The subcommands of `mvgrpo`: which module each one runs, and its description, read without importing it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

# Subcommand -> the module that `python -m` would run.
COMMANDS = {
    "train": "mvgrpo_jax.main",
    "sample": "mvgrpo_jax.sample",
    "evaluate": "mvgrpo_jax.evaluate",
    "score": "mvgrpo_jax.score",
    "serve": "mvgrpo_jax.rewards.serve",
    "prompts": "mvgrpo_jax.prompts",
    "enhance": "mvgrpo_jax.enhance",
    "drift": "mvgrpo_jax.drift",
    "plan": "mvgrpo_jax.plan",
    "export": "mvgrpo_jax.export",
    "convert": "mvgrpo_jax.convert",
    "report": "mvgrpo_jax.report",
    "compare": "mvgrpo_jax.compare",
    "configs": "mvgrpo_jax.console.configs",
}
ROOT = Path(__file__).parents[2]
USAGE = re.compile(r"python -m mvgrpo_jax\S* .*?(: |$)")
_started_as: dict[str, str] = {}


def starts(name: str) -> str:
    """Notes that `mvgrpo NAME` was typed, for `program`, and returns NAME's module."""
    _started_as[COMMANDS[name]] = f"mvgrpo {name}"
    return COMMANDS[name]


def program(module: str) -> str:
    """What a usage message calls the command: as it was typed, 'mvgrpo NAME' or 'python -m MODULE'."""
    return _started_as.get(module, f"python -m {module}")


def source(module: str) -> Path:
    """The file that `python -m module` runs."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def first_sentence(docstring: str) -> str:
    """The first sentence of a docstring, in one line, without the command line that some begin with."""
    for paragraph in docstring.strip().split("\n\n"):
        if text := USAGE.sub("", " ".join(paragraph.split()), count=1):
            return text[0].upper() + re.split(r"(?<=\.)\s", text)[0].rstrip(".")[1:]
    return ""


def describe(name: str) -> str:
    """What a subcommand does."""
    return first_sentence(ast.get_docstring(ast.parse(source(COMMANDS[name]).read_text(encoding="utf-8"))) or "")


def overview() -> str:
    """A line a subcommand."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {describe(name)}" for name in COMMANDS]
    return "\n".join(
        ["usage: mvgrpo COMMAND ...", "", *lines, "", "mvgrpo COMMAND --help says more, mvgrpo --version which this is."]
    )
