"""Held-out evaluation: fixed prompts, fixed noise, the ODE, every judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mvgrpo_jax import rewards
from mvgrpo_jax.convert.files import atomic
from mvgrpo_jax.core.structs import Condition
from mvgrpo_jax.parallel.hosts import to_host
from mvgrpo_jax.run import pictures
from mvgrpo_jax.run.programs import EVALUATION, Programs
from mvgrpo_jax.run.sampling import BATCH, Painter, initial_latents


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
        return images, score(images, self.prompts, self.judges)


def score(images: np.ndarray, prompts: list[str], judges: dict[str, rewards.Reward]) -> dict[str, np.ndarray]:
    """{judge: float32 [N]} of pictures [N, H, W, 3] in [0, 1], each under its own prompt."""
    captions = [[[p] for p in prompts]]
    return {name: judge.score(images[:, None, None], captions)[0, :, 0, 0] for name, judge in judges.items()}


def evaluate(
    painter: Painter,
    prompts: list[str],
    judges: dict[str, rewards.Reward],
    folder: Path,
    title: str,
    *,
    seed: int = 0,
    per_prompt: int = 0,
    batch: int = BATCH,
) -> dict[str, dict[str, float]]:
    """{judge: mean and standard error of its scores over the prompts}; written to scores.json, the pictures to sheet.png.

    Picture i of P prompts depends on the prompt, the seed and i alone. With per_prompt G > 1 each prompt is painted G times
    (pictures i, i + P, ...; the first ones are scored), and 'diversity' is summarised as well. UserError: a judge that does
    not read pictures of this size.
    """
    texts, _ = painter.tokenize(prompts)

    def paint(first: int) -> np.ndarray:
        latents = initial_latents(seed, first, len(prompts), painter.shape)
        return painter.paint(texts, latents, batch=batch)

    images = paint(0)
    scores = score(images, prompts, judges)
    sheet(images, prompts, scores, folder / "sheet.png", title)
    summary = {name: mean_and_error(values) for name, values in scores.items()}
    if per_prompt > 1:
        further = (paint(i * len(prompts)) for i in range(1, per_prompt))
        summary["diversity"] = mean_and_error(diversity(np.stack([images, *further], axis=1)))
    (folder / "scores.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def keep(folder: Path, number: int, images: np.ndarray, prompts: list[str], scores: dict[str, np.ndarray]) -> None:
    """Writes the pictures [N, H, W, 3] of an iteration's evaluation: a sheet, and an array for before and after. Arrays of
    other prompts, which a run evaluated before its config changed, cannot stand beside it and are deleted."""
    title = f"iteration {number}: " + ", ".join(f"{n} {s.mean():.3f}" for n, s in scores.items())
    sheet(images, prompts, scores, folder / f"{number:06d}.png", title)
    listed = folder / "prompts.json"
    if listed.exists() and json.loads(listed.read_text()) != prompts:
        for array in folder.glob("*.npy"):
            array.unlink()
    pictures.save_array(pictures.to_uint8(images), folder / f"{number:06d}.npy")
    with atomic(listed) as part:
        part.write_text(json.dumps(prompts))


def mean_and_error(values: np.ndarray) -> dict[str, float]:
    """'mean' of N values and its 'stderr', their deviation over sqrt(N)."""
    return {"mean": float(values.mean()), "stderr": float(values.std() / len(values) ** 0.5)}


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
