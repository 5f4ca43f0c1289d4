"""Captions to conditions: every distinct text is encoded once, in batches of one compiled shape."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax import pipeline as pipelines
from mvgrpo_jax.programs import Programs
from mvgrpo_jax.rewards.base import Captions
from mvgrpo_jax.types import Condition

CHUNK = 64


class TextEncoder:
    """Both encoders of a pipeline behind `encode` and `encode_views`. Texts over the length are cut with a warning."""

    def __init__(self, programs: Programs, pipeline: pipelines.Pipeline):
        self.programs, self.pipeline = programs, pipeline

    def encode(self, texts: list[str]) -> Condition:
        """Condition with leading [len(texts)], split over the mesh like a batch where it divides."""
        rows = self._encode(texts)
        return jax.tree.map(lambda a: jax.device_put(a, self._sharding(len(texts), 0)), rows)

    def encode_views(self, captions: Captions) -> Condition:
        """Condition with leading [V, P, R]; R is 1 when all branches have the same captions. Missing captions repeat the
        prompt: their view has no weight."""
        if all(text == prompt[0] for view in captions for prompt in view for text in prompt):
            captions = [[prompt[:1] for prompt in view] for view in captions]
        filled = [[[t or captions[0][p][r] for r, t in enumerate(ts)] for p, ts in enumerate(view)] for view in captions]
        texts = sorted({t for view in filled for prompt in view for t in prompt})
        row = {text: i for i, text in enumerate(texts)}
        index = np.asarray([[[row[t] for t in prompt] for prompt in view] for view in filled])
        encoded = self._encode(texts)
        place = self._sharding(index.shape[1], 1)
        return jax.tree.map(lambda a: jax.device_put(jnp.take(a, index, axis=0), place), encoded)

    def _sharding(self, count: int, axis: int):
        mesh = self.programs.mesh
        divides = count % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0
        return self.programs.batch(axis) if divides else self.programs.replicated

    def _encode(self, texts: list[str]) -> Condition:
        ids_clip, ids_t5, cut = pipelines.tokenize(self.pipeline, texts, self.programs.text_length)
        for message in cut:
            warnings.warn(message, stacklevel=2)
        params = {k: self.pipeline.params[k] for k in ("text_encoder", "text_encoder_2")}
        parts = []
        for first in range(0, len(texts), CHUNK):
            rows = np.minimum(np.arange(first, first + CHUNK), len(texts) - 1)
            part = self.programs.encode(params, ids_clip[rows], ids_t5[rows])
            parts.append(jax.tree.map(lambda a, left=len(texts) - first: a[:left], part))
        return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
