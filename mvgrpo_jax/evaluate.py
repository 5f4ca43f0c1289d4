"""Pictures and scores of a finished pipeline on fixed prompts and noise.

python -m mvgrpo_jax.evaluate --pipeline DIR [--prompts FILE] --out DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax
import numpy as np

from mvgrpo_jax import pipelines, rewards
from mvgrpo_jax.configuration import flags
from mvgrpo_jax.console.commands import program
from mvgrpo_jax.core.policy import Policy
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.run.evaluation import diversity, sheet
from mvgrpo_jax.run.prompts import load_prompts
from mvgrpo_jax.run.sampling import initial_latents, sampler


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
    parser.add_argument("--judge", action="append", default=[], help="default: scene and clip")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    prompts = load_prompts(options.prompts, options.first + options.count, held_out=True)[options.first :]
    if not prompts:
        raise UserError(f"--first {options.first}: {options.prompts} has no prompts after it")
    judges = {name: rewards.make(name) for name in options.judge or ["scene", "clip"]}
    pipeline = pipelines.load(options.pipeline, dtype=np.float32)
    grid, scale = pipeline.grid(*[pipeline.default_size] * 2), pipeline.scheduler.time_scale
    policy = Policy(pipeline.transformer, grid, options.guidance, time_scale=scale)
    run = sampler(pipeline, policy, pipeline.sigmas(options.steps, policy.tokens))
    ids_clip, ids_t5, _ = pipelines.tokenize(pipeline, prompts, pipelines.text_length(pipeline))
    shape = (policy.tokens, pipeline.flux_config.in_channels)
    paint = lambda first: np.asarray(
        run(pipeline.params, ids_clip, ids_t5, initial_latents(options.seed, first, len(prompts), shape), jax.random.key(0))
    )
    images = paint(0)
    captions = [[[p] for p in prompts]]
    scores = {n: j.score(images[:, None, None], captions)[0, :, 0, 0] for n, j in judges.items()}
    sheet(images, prompts, scores, options.out / "sheet.png", f"{options.pipeline}, {options.steps} steps")
    summary = {n: {"mean": float(s.mean()), "stderr": float(s.std() / len(s) ** 0.5)} for n, s in scores.items()}
    if options.per_prompt > 1:
        groups = np.stack([images, *(paint(i * len(prompts)) for i in range(1, options.per_prompt))], axis=1)
        apart = diversity(groups)
        summary["diversity"] = {"mean": float(apart.mean()), "stderr": float(apart.std() / len(apart) ** 0.5)}
    (options.out / "scores.json").write_text(json.dumps(summary, indent=2) + "\n")
    for name, values in summary.items():
        print(f"{name}: {values['mean']:.4f} +- {values['stderr']:.4f} over {len(prompts)} prompts")


if __name__ == "__main__":
    main()
