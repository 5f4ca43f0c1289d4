"""The page of configs, made of the configs themselves when the site is built: a hook of MkDocs (mkdocs.yml)."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mvgrpo_jax.configuration import listing  # noqa: E402  (the path comes first)

PAGE = "configs.md"


def page(folder: Path) -> str:
    """Every config file with its docstring, then every key of common.py with its default and what it means."""
    parts = [
        "# Configs",
        "",
        "Made from `configs/` and the comments there. `mvgrpo configs NAME` prints the same for one config.",
        "",
    ]
    for name in listing.files(folder):
        title, _, rest = (ast.get_docstring(ast.parse((folder / f"{name}.py").read_text())) or "").partition("\n")
        parts += [f"## {name}", "", title, "", *_blocks(rest), ""]
    entries, sections = listing.entries(folder / "common.py")
    parts += ["## Every key", "", "| key | default | meaning |", "|---|---|---|"]
    for entry in entries:
        parts.append(f"| `{entry.key}` | `{_cell(repr(entry.value))}` | {_cell(entry.comment)} |")
    parts += ["", *(f"* `{name}`: {text}" for name, text in sections.items() if text)]
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _blocks(text: str) -> list[str]:
    """A docstring's paragraphs; indented lines stay code, flags become it."""
    lines = text.strip("\n").split("\n")
    return [line if line.startswith("    ") else re.sub(r"--[a-z][\w.=]*\w", r"`\g<0>`", line) for line in lines]


def on_files(files, config):
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page(ROOT / "configs")))
    return files
