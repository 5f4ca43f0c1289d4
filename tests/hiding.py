"""Processes of a new user: without some packages, and without the settings that the tests' own process makes."""

import os
import subprocess
import sys
from pathlib import Path

from mvgrpo_jax.console.quiet import SETTINGS

ROOT = Path(__file__).parents[1]
MADE_HERE = ("JAX_PLATFORMS", "XLA_FLAGS", *SETTINGS)
SITE = """
from importlib.machinery import PathFinder
original = PathFinder.find_spec
def find_spec(cls, name, path=None, target=None):
    return None if name.split(".")[0] in {hidden!r} else original(name, path, target)
PathFinder.find_spec = classmethod(find_spec)
"""


def run(arguments: list[str], folder: Path, *hidden: str) -> subprocess.CompletedProcess:
    """`python ARGUMENTS` from the project's root, without the packages `hidden`. folder: takes a file of this function's."""
    (folder / "sitecustomize.py").write_text(SITE.format(hidden=hidden))
    kept = {name: value for name, value in os.environ.items() if name not in MADE_HERE}
    environment = kept | {"PYTHONPATH": str(folder)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
