"""Pictures and scores of a finished pipeline on fixed prompts and noise.

python -m mvgrpo_jax.evaluate --pipeline DIR [--prompts FILE] --out DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mvgrpo_jax import rewards
from mvgrpo_jax.configuration import flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.prompts import load_prompts
from mvgrpo_jax.run import evaluation, sampling


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=program("mvgrpo_jax.evaluate"), description=__doc__)
    parser.add_argument("--pipeline", default="flux-nano")
    parser.add_argument("--prompts", default="flux-nano", help="prompt file, or flux-nano (held-out embedded ones)")
    parser.add_argument("--count", type=flags.positive, default=64)
    parser.add_argument("--first", type=flags.natural, default=0, help="prompts that are skipped")
    parser.add_argument("--steps", type=flags.positive, default=16)
    parser.add_argument("--guidance", type=flags.finite, default=3.5)
    parser.add_argument("--seed", type=flags.seed, default=0, help="0 to 2^64 - 1")
    parser.add_argument(
        "--per-prompt", type=flags.natural, default=0, help="paint so many pictures of each prompt; diversity is reported"
    )
    parser.add_argument("--batch", type=flags.positive, default=sampling.BATCH, help="pictures at a time")
    parser.add_argument("--judge", action="append", default=[], help="default: scene and clip")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    prompts = load_prompts(options.prompts, options.first + options.count, held_out=True)[options.first :]
    if not prompts:
        raise UserError(f"--first {options.first}: {options.prompts} has no prompts after it")
    judges = {name: rewards.make(name) for name in options.judge or ["scene", "clip"]}
    pipeline = sampling.load(options.pipeline, np.float32)
    painter = sampling.Painter(pipeline, steps=options.steps, guidance=options.guidance)
    title = f"{options.pipeline}, {options.steps} steps"
    summary = evaluation.evaluate(
        painter, prompts, judges, options.out, title, seed=options.seed, per_prompt=options.per_prompt, batch=options.batch
    )
    for name, values in summary.items():
        print(f"{name}: {values['mean']:.4f} +- {values['stderr']:.4f} over {len(prompts)} prompts")


if __name__ == "__main__":
    main()
