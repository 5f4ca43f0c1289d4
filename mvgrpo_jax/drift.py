"""Probability drift of a policy: how much likelier a recorded step is under its prompt than under another caption.

python -m mvgrpo_jax.drift --config configs/NAME.py [--config.key=value ...] [--checkpoint WORKDIR [--best]]
    [--offline FILE] --out DIR

Captions of the sampled pictures (online), of a file (offline) and, as a control, those of other prompts (unrelated).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.run import drift
from mvgrpo_jax.storage import place


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.drift"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--checkpoint", type=place, help="workdir of a run; its newest checkpoint (default: the pipeline)")
    parser.add_argument("--best", action="store_true", help="of --checkpoint, the weights that its evaluation liked most")
    parser.add_argument("--offline", default="", help="captions written by the enhance command")
    parser.add_argument("--pairs", type=int, default=500, help="pairs of a sample and a caption at each step")
    parser.add_argument("--views", type=int, default=4, help="captions of each prompt and branch that are compared")
    parser.add_argument("--out", type=Path, required=True)
    options, rest = parser.parse_known_args(argv)
    if options.pairs < 1 or options.views < 1:
        raise UserError("--pairs and --views must be at least 1")
    if options.best and not options.checkpoint:
        raise UserError("--best says which weights of a run are meant: give its workdir as --checkpoint")
    config = arguments.from_arguments(options.config, rest)
    pairs, views, run = options.pairs, options.views, options.checkpoint
    rows = drift.measure(config, options.out, pairs, views, options.offline, run, best=options.best)
    weights = f"{'best weights' if options.best else 'checkpoint'} of {run}" if run else config.pipeline
    quantiles = drift.write(rows, options.out, f"probability drift, {config.algorithm.name}, {weights}")
    print(drift.table(quantiles))
    print(f"data and picture: {options.out / 'drift.csv'}, {options.out / 'drift.png'}")


if __name__ == "__main__":
    main()
