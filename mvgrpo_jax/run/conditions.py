"""Captions to conditions: every distinct text is encoded once, in batches of one compiled shape."""

from __future__ import annotations

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax import pipelines
from mvgrpo_jax.core.structs import Captions, Condition
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import to_host
from mvgrpo_jax.pipelines.store import Store, encoder_identity
from mvgrpo_jax.run.programs import Programs

ENCODERS = ("text_encoder", "text_encoder_2")


class TextEncoder:
    """Both encoders of a pipeline behind `encode` and `encode_views`. Texts over the length are cut with a warning.

    store: where encodings are kept and looked up, or None.
    """

    def __init__(self, programs: Programs, pipeline: pipelines.Pipeline, store: Store | None = None):
        self.programs, self.pipeline, self.store = programs, pipeline, store

    @classmethod
    def of(cls, config, programs: Programs, pipeline: pipelines.Pipeline) -> TextEncoder:
        """With the store that config.text asks for."""
        c = config.text
        if not c.memory_mb and not c.folder:
            return cls(programs, pipeline)
        identity = encoder_identity(pipeline.folder, programs.text_length, str(jnp.dtype(programs.policy.dtype)))
        folder = Path(c.folder) if c.folder else None
        return cls(programs, pipeline, Store(identity, int(c.memory_mb * 2**20), folder, int(c.disk_gb * 2**30)))

    def encode_all(self, texts: list[str]) -> None:
        """Encodes every text that a run can ask for, then frees the encoders' device memory. UserError when the store cannot
        keep them all."""
        if self.store is None:
            raise UserError("config.text.drop_encoders needs a store: set config.text.memory_mb or config.text.folder")
        texts = sorted(set(texts))
        chunk = self.programs.text_chunk
        for first in range(0, len(texts), chunk):
            self._encode(texts[first : first + chunk])
        if lost := [t for t in texts if self.store.get(t) is None]:
            size = sum(a.nbytes for a in jax.tree.leaves(jax.tree.map(np.asarray, self._encode(lost[:1]))))
            raise UserError(
                f"config.text.drop_encoders: {len(texts)} texts of {size:,} bytes do not fit the store ({len(lost)} are "
                f"lost); raise config.text.memory_mb to {len(texts) * size / 2**20:.0f}, or give config.text.folder and disk_gb"
            )
        for part in ENCODERS:
            del self.pipeline.params[part]

    def fit(self, text: str) -> str:
        """The text cut to what the encoders read."""
        return pipelines.shorten(self.pipeline, text, self.programs.text_length)

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
        """Leading [len(texts)]; with a store only what it lacks is encoded."""
        if self.store is None:
            return self._run(texts)
        known = {text: self.store.get(text) for text in texts}
        if missing := [text for text, encoded in known.items() if encoded is None]:
            fresh = jax.tree.map(to_host, self._run(missing))
            for i, text in enumerate(missing):
                known[text] = (fresh.txt[i], fresh.pooled[i])
                self.store.put(text, known[text])
        return Condition(*(jnp.asarray(np.stack(parts)) for parts in zip(*(known[t] for t in texts))))

    def _run(self, texts: list[str]) -> Condition:
        if any(part not in self.pipeline.params for part in ENCODERS):
            raise UserError(
                f"the text {texts[0]!r} was not known when the text encoders were dropped; set config.text.drop_encoders=False"
            )
        ids_clip, ids_t5, cut = pipelines.tokenize(self.pipeline, texts, self.programs.text_length)
        for message in cut:
            warnings.warn(message, stacklevel=2)
        params = {k: self.pipeline.params[k] for k in ENCODERS}
        parts, chunk = [], self.programs.text_chunk
        for first in range(0, len(texts), chunk):
            rows = np.minimum(np.arange(first, first + chunk), len(texts) - 1)
            part = self.programs.encode(params, ids_clip[rows], ids_t5[rows])
            parts.append(jax.tree.map(lambda a, left=len(texts) - first: a[:left], part))
        return jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
