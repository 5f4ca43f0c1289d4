"""Held-out evaluation: fixed prompts, fixed noise, the ODE, every judge. Also a command for finished pipelines.

python -m mvgrpo_jax.evaluate --pipeline DIR [--prompts FILE] --out DIR
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mvgrpo_jax import data, pictures, rewards
from mvgrpo_jax import pipeline as pipelines
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.programs import EVALUATION, Programs
from mvgrpo_jax.sharding import to_host
from mvgrpo_jax.types import Condition


class Evaluation:
    """Pictures of the held-out prompts and their scores. Noise of picture i depends on the seed and i alone.

    encode(texts) -> Condition. The last prompt is repeated until the batch divides over the mesh; repeats are not scored.
    """

    def __init__(
        self,
        programs: Programs,
        prompts: list[str],
        encode: Callable[[list[str]], Condition],
        judges: dict[str, rewards.Reward],
    ):
        self.programs, self.prompts, self.judges = programs, prompts, judges
        parts = programs.mesh.shape["data"] * programs.mesh.shape["fsdp"]
        padded = prompts + prompts[-1:] * (-len(prompts) % parts)
        self.condition = encode(padded)
        keys = jax.vmap(lambda i: jax.random.fold_in(programs.key(0, EVALUATION), i))(np.arange(len(padded)))
        noise = jax.vmap(lambda k: jax.random.normal(k, programs.latent_shape))(keys)
        self.noise = jax.device_put(noise, programs.batch())

    def run(self, params, vae_params) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(pictures float32 [N, H, W, 3] in [0, 1], {judge: scores [N]})."""
        latents = self.programs.evaluate(params, self.condition, self.noise)
        images = to_host(self.programs.decode(vae_params, latents))[: len(self.prompts)]
        captions = [[[p] for p in self.prompts]]
        scores = {n: j.score(images[:, None, None], captions)[0, :, 0, 0] for n, j in self.judges.items()}
        return images, scores


def sheet(images: np.ndarray, prompts: list[str], scores: dict[str, np.ndarray], path: Path, title: str, columns: int = 8):
    """A contact sheet of pictures with prompt and scores."""
    labels = [f"{p} [{', '.join(f'{n} {s[i]:.2f}' for n, s in scores.items())}]" for i, p in enumerate(prompts)]
    cells = list(zip(images, labels))
    pictures.sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], path, title=title)


def diversity(images: np.ndarray) -> np.ndarray:
    """Root mean square distance between two pictures of a prompt, averaged over pairs: [P] of images [P, G, H, W, C]."""
    flat = images.reshape(*images.shape[:2], -1).astype(np.float64)
    pairs = [(i, j) for i in range(flat.shape[1]) for j in range(i)]
    return np.mean([np.sqrt(((flat[:, i] - flat[:, j]) ** 2).mean(-1)) for i, j in pairs], axis=0)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    from mvgrpo_jax.policy import Policy
    from mvgrpo_jax.sample import initial_latents, sampler

    parser = argparse.ArgumentParser(prog="python -m mvgrpo_jax.evaluate", description=__doc__)
    parser.add_argument("--pipeline", default="flux-nano")
    parser.add_argument("--prompts", default="flux-nano", help="a prompt a line, or flux-nano (held-out embedded ones)")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--first", type=int, default=0, help="prompts that are skipped")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--per-prompt", type=int, default=0, help="paint so many pictures of each prompt; diversity is reported"
    )
    parser.add_argument("--judge", action="append", default=[], help="default: scene and clip")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    prompts = data.prompts(options.prompts, options.first + options.count, held_out=True)[options.first :]
    if not prompts:
        raise UserError(f"--first {options.first}: {options.prompts} has no prompts after it")
    judges = {name: rewards.make(name) for name in options.judge or ["scene", "clip"]}
    pipeline = pipelines.load(options.pipeline, dtype=np.float32)
    policy = Policy(pipeline.transformer, pipeline.grid(*[pipeline.default_size] * 2), options.guidance)
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
