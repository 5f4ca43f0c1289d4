"""Probability drift of a policy: how much likelier a recorded step is under its prompt than under another caption.

python -m mvgrpo_jax.drift --config configs/NAME.py [--config.key=value ...] [--checkpoint WORKDIR] [--offline FILE] --out DIR

Captions of the sampled pictures (online), of a file (offline) and, as a control, those of other prompts (unrelated).
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from mvgrpo_jax.configuration import arguments
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.run import drift


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.drift"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--checkpoint", type=Path, help="workdir of a run; its newest checkpoint (default: the pipeline)")
    parser.add_argument("--offline", default="", help="captions written by the enhance command")
    parser.add_argument("--pairs", type=int, default=500, help="pairs of a sample and a caption at each step")
    parser.add_argument("--views", type=int, default=4, help="captions of each prompt and branch that are compared")
    parser.add_argument("--out", type=Path, required=True)
    options, rest = parser.parse_known_args(argv)
    if options.pairs < 1 or options.views < 1:
        raise UserError("--pairs and --views must be at least 1")
    config = arguments.from_arguments(options.config, rest)
    rows = drift.measure(config, options.out, options.pairs, options.views, options.offline, options.checkpoint)
    with atomic(options.out / "drift.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, drift.FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    quantiles = drift.summary(rows)
    (options.out / "drift.json").write_text(json.dumps(quantiles, indent=1) + "\n")
    weights = f"checkpoint of {options.checkpoint}" if options.checkpoint else config.pipeline
    drift.histogram(rows, options.out / "drift.png", f"probability drift, {config.algorithm.name}, {weights}")
    print(f"{'captions':<11}{'step':>5}{'pairs':>7}{'mean':>10}{'median':>10}{'90 %':>10}{'99 %':>10}")
    for kind, by_step in quantiles.items():
        for step, v in by_step.items():
            print(f"{kind:<11}{step:>5}{v['pairs']:>7}{v['mean']:>10.2e}{v['p50']:>10.2e}{v['p90']:>10.2e}{v['p99']:>10.2e}")
    print(f"data and picture: {options.out / 'drift.csv'}, {options.out / 'drift.png'}")


if __name__ == "__main__":
    main()
