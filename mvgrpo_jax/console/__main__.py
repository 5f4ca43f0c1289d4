"""mvgrpo COMMAND ...: runs the module of a subcommand as `python -m` does."""

from __future__ import annotations

import importlib.metadata
import runpy
import sys

from mvgrpo_jax.console.commands import COMMANDS, overview, starts
from mvgrpo_jax.errors import UserError, did_you_mean, reports_errors


def version() -> str:
    """The installed package's version."""
    try:
        return importlib.metadata.version("mvgrpo_jax")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("mvgrpo_jax is not installed, so it has no version; run pip install . in its folder") from None


@reports_errors
def main(argv: list[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return
    name, *rest = words
    if name == "--version":
        print(f"mvgrpo_jax {version()}")
        return
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r};{did_you_mean(name, COMMANDS)} there are: {', '.join(COMMANDS)}")
    module = starts(name)
    sys.argv = [f"mvgrpo {name}", *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
