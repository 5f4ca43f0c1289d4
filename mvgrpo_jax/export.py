"""Trained weights of a checkpoint that a run kept, as a diffusers pipeline or as adapters.

python -m mvgrpo_jax.export --workdir DIR [--step N] --out DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvgrpo_jax.console.commands import program
from mvgrpo_jax.core.precision import DTYPES
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.run import export


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("mvgrpo_jax.export"), description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--step", type=int, help="iteration of the checkpoint; default: the newest")
    parser.add_argument("--kind", choices=export.KINDS[1:], default="", help="default: the run's config.export.kind")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="")
    options = parser.parse_args(argv)
    print(f"written to {export.from_checkpoint(options.workdir, options.out, options.step, options.kind, options.dtype)}")


if __name__ == "__main__":
    main()
