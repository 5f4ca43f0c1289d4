"""Trained weights of a checkpoint that a run kept, as a diffusers pipeline or as adapters.

python -m mvgrpo_jax.export --workdir DIR [--step N | --best] --out DIR
"""

from __future__ import annotations

import argparse

from mvgrpo_jax.configuration import flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.core.precision import DTYPES
from mvgrpo_jax.errors import reports_errors
from mvgrpo_jax.run import export
from mvgrpo_jax.storage import place


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("mvgrpo_jax.export"), description=__doc__)
    parser.add_argument("--workdir", type=place, required=True)
    parser.add_argument("--out", type=place, required=True)
    flags.which_weights(parser)
    parser.add_argument("--kind", choices=export.KINDS[1:], default="", help="default: the run's config.export.kind")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="")
    options = parser.parse_args(argv)
    o = options
    print(f"written to {export.from_checkpoint(o.workdir, o.out, o.step, o.kind, o.dtype, best=o.best)}")


if __name__ == "__main__":
    main()
