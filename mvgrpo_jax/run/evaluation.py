"""Held-out evaluation: fixed prompts, fixed noise, the ODE, every judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mvgrpo_jax.convert.files import atomic, write_json
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.owned import Owned
from mvgrpo_jax.rewards import Panel
from mvgrpo_jax.rewards.means import mean
from mvgrpo_jax.run import pictures
from mvgrpo_jax.run.conditions import TextEncoder
from mvgrpo_jax.run.programs import Programs


class Evaluation:
    """Pictures of the held-out prompts and their scores, a bounded number at a time. Noise of picture i depends on the seed and
    i alone. The last prompt is repeated until the last batch is full; repeats are not scored."""

    def __init__(self, programs: Programs, prompts: list[str], text: TextEncoder, panel: Panel):
        self.programs, self.prompts, self.panel = programs, prompts, panel
        self.starts = range(0, len(prompts), programs.items)
        self.conditions = [text.encode_items(prompts[first : first + programs.items]) for first in self.starts]

    def run(
        self, params, vae_params, between: Callable[[], None] = lambda: None
    ) -> tuple[dict[int, np.ndarray], dict[str, np.ndarray]]:
        """({number: picture uint8 [H, W, 3]} of those that this process owns, {judge: scores [N], not-a-number where there is
        none}). between() is called where a
        run may stop. UserError: a picture is not finite."""
        programs, size = self.programs, self.programs.items
        owned, scores = {}, {name: [] for name in self.panel.judges}
        for first, condition in zip(self.starts, self.conditions):
            prompts = self.prompts[first : first + size]
            latents = programs.evaluate(params, condition, programs.evaluation_noise(np.arange(first, first + size)))
            images, finite = programs.decode_items(vae_params, latents)
            if not (fine := np.asarray(finite)[:, 0]).all():
                raise UserError(
                    f"evaluation: the picture of prompt {prompts[min(fine.argmin(), len(prompts) - 1)]!r} is not finite"
                )
            between()
            pictures = Owned(images, 1)
            owned |= {first + i: picture for (i, _), picture in pictures.mine.items() if i < len(prompts)}
            texts = [[*prompts, *[None] * (size - len(prompts))]]
            for name, values in scores.items():
                values.append(self.panel.score(name, pictures, texts)[0, : len(prompts), 0])
            between()
        self.panel.rest()
        self.panel.take_log()  # an iteration counts its own
        return owned, {name: np.concatenate(values) for name, values in scores.items()}


def keep(folder: Path, number: int, owned: dict[int, np.ndarray], prompts: list[str], scores: dict[str, np.ndarray]) -> None:
    """Writes an iteration's evaluation: NUMBER.json with prompts and scores by judge, null where there is none; of the pictures
    that belong to this process a sheet, and an array [N, H, W, 3] for before and after. Arrays of other prompts, which a run
    evaluated before its config changed, cannot stand beside it and are deleted."""
    there = {name: np.where(np.isfinite(values), values.astype(object), None).tolist() for name, values in scores.items()}
    write_json(folder / f"{number:06d}.json", {"iteration": number, "prompts": prompts, "scores": there})
    rows = sorted(owned)
    images, texts = np.stack([owned[i] for i in rows]), [prompts[i] for i in rows]
    title = f"iteration {number}: " + ", ".join(f"{n} {mean(s):.3f}" for n, s in scores.items())
    sheet(images, texts, {name: values[rows] for name, values in scores.items()}, folder / f"{number:06d}.png", title)
    listed = folder / "prompts.json"
    if listed.exists() and json.loads(listed.read_text()) != texts:
        for array in folder.glob("*.npy"):
            array.unlink()
    pictures.save_array(images, folder / f"{number:06d}.npy")
    with atomic(listed) as part:
        part.write_text(json.dumps(texts))


def sheet(images: np.ndarray, prompts: list[str], scores: dict[str, np.ndarray], path: Path, title: str, columns: int = 8):
    """A contact sheet of pictures with prompt and scores."""
    cells = list(zip(images, labels(prompts, scores)))
    pictures.sheet([cells[i : i + columns] for i in range(0, len(cells), columns)], path, title=title)


def labels(prompts: list[str], scores: dict[str, np.ndarray]) -> list[str]:
    """What stands beneath each of N pictures: its prompt and its scores [N]."""
    return [f"{p} [{', '.join(f'{n} {s[i]:.2f}' for n, s in scores.items())}]" for i, p in enumerate(prompts)]
