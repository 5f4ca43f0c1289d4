"""Held-out evaluation: fixed prompts, fixed noise, the ODE, every judge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mvgrpo_jax import rewards
from mvgrpo_jax.core.structs import Condition
from mvgrpo_jax.parallel.hosts import to_host
from mvgrpo_jax.run import pictures
from mvgrpo_jax.run.programs import EVALUATION, Programs


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
