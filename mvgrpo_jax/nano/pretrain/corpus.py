"""The pretraining corpus: scenes drawn once, captions written anew at every step. No held-out pair occurs in it."""

from __future__ import annotations

import dataclasses

import numpy as np

from mvgrpo_jax.nano.world import captions, render, scene


@dataclasses.dataclass(frozen=True)
class Corpus:
    """scenes: N complete scenes; images: uint8 [N, H, W, 3]."""

    scenes: list[scene.Scene]
    images: np.ndarray

    @classmethod
    def draw(cls, count: int, seed: int) -> Corpus:
        rng = np.random.default_rng([seed, 1])
        scenes = [scene.sample(rng) for _ in range(count)]
        images = np.stack([np.round(render.draw(s, rng) * 255).astype(np.uint8) for s in scenes])
        return cls(scenes, images)

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """float32 [len(rows), H, W, 3] in [-1, 1]."""
        return self.images[rows].astype(np.float32) / 127.5 - 1.0

    def captions(self, rows: np.ndarray, rng: np.random.Generator) -> list[str]:
        return [captions.training_caption(self.scenes[i], rng) for i in rows]
