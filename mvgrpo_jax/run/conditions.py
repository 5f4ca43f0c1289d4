"""Texts to conditions, encoded on the devices that read them; with a store, each distinct text of a process once."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from mvgrpo_jax import pipelines
from mvgrpo_jax.core.structs import Captions, Condition
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.hosts import exchange
from mvgrpo_jax.parallel.owned import from_hosts
from mvgrpo_jax.pipelines.store import Encoded, Store, encoder_identity
from mvgrpo_jax.run.programs import Programs

ENCODERS = ("text_encoder", "text_encoder_2")


class TextEncoder:
    """Both encoders of a pipeline behind one method for each arrangement of texts, which all processes call together. Texts
    over the length are cut with a warning.

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
        for first in range(0, len(texts), self.programs.items):
            known = self._known(set(texts[first : first + self.programs.items]))
        if lost := [t for t in texts if self.store.get(t) is None]:
            size = sum(a.nbytes for a in known[texts[-1]])
            raise UserError(
                f"config.text.drop_encoders: {len(texts)} texts of {size:,} bytes do not fit the store ({len(lost)} are "
                f"lost); raise config.text.memory_mb to {len(texts) * size / 2**20:.0f}, or give config.text.folder and disk_gb"
            )
        for part in ENCODERS:
            del self.pipeline.params[part]

    def fit(self, text: str) -> str:
        """The text cut to what the encoders read."""
        return pipelines.shorten(self.pipeline, text, self.programs.text_length)

    def encode_prompts(self, texts: list[str]) -> Condition:
        """Condition [P]."""
        return self._encode(np.asarray(texts, object), self.programs.encode_prompts, self.programs.place("prompts"))

    def encode_items(self, texts: list[str]) -> Condition:
        """Condition [items], of at most so many texts; the last is repeated."""
        items = self.programs.items
        filled = np.asarray([*texts, *texts[-1:] * (items - len(texts))], object)
        return self._encode(filled, self.programs.encode, self.programs.place("batch"))

    def encode_views(self, captions: Captions) -> Condition:
        """Condition [V, P, R] of captions [v][P][branches], where V is the number of views of an update and R the number of
        branches that have captions of their own. Views that are missing repeat the prompt: they have no weight."""
        programs = self.programs
        prompt = captions[0]
        views = [*captions, *[prompt] * (programs.views - len(captions))]
        texts = [[[t or prompt[p][r] for r, t in enumerate(row)] for p, row in enumerate(view)] for view in views]
        return self._encode(
            np.asarray(texts, object)[..., : programs.caption_branches], programs.encode_views, programs.of_views
        )

    def _encode(self, texts: np.ndarray, program: Callable, sharding: NamedSharding) -> Condition:
        """Texts of any shape, each encoded by the devices that will read it; with a store only what it lacks is encoded."""
        if self.store is None:
            return program(self._parameters(texts.flat[0]), *from_hosts(texts.shape, sharding, lambda i: self._ids(texts[i])))
        parts = sharding.addressable_devices_indices_map(texts.shape).values()
        known = self._known({text for part in parts for text in texts[part].flat})

        def make(index):
            chosen = [known[t] for t in texts[index].flat]
            shape = texts[index].shape
            return Condition(*(np.stack(a).reshape(*shape, *a[0].shape) for a in zip(*chosen)))

        return from_hosts(texts.shape, sharding, make)

    def _known(self, texts: set[str]) -> dict[str, Encoded]:
        """Encodings of texts, which may differ from process to process; what the store lacks is encoded and kept.

        The encoders' parameters are spread over all devices, so that all processes must run them equally often, whatever each
        one's store holds: they tell each other what they lack. Each puts its own texts on its own devices and reads them there.
        """
        known = {text: self.store.get(text) for text in sorted(texts)}
        missing = exchange(json.dumps([text for text, encoded in known.items() if encoded is None]))
        lacking = [set(json.loads(m)) for m in missing]
        sharding, count = self.programs.place("batch"), self.programs.items
        rows_of = [set() for _ in lacking]  # the rows of each process
        for device, (rows,) in sharding.devices_indices_map((count,)).items():
            rows_of[device.process_index] |= set(range(*rows.indices(count)))
        # Processes whose devices hold the same rows put the same texts there.
        wanted = [sorted(set().union(*(lacking[j] for j, r in enumerate(rows_of) if r & rows))) for rows in rows_of]
        rounds = max(-(-len(texts) // len(rows)) for texts, rows in zip(wanted, rows_of, strict=True) if rows)
        if not rounds:
            return known
        mine, rows = wanted[jax.process_index()], sorted(rows_of[jax.process_index()])
        some = next(text for texts in wanted for text in texts)
        for first in range(0, rounds * len(rows), len(rows)):
            batch = mine[first : first + len(rows)]
            filled = dict(zip(rows, [*batch, *[some] * len(rows)]))
            ids = from_hosts((count,), sharding, lambda i, of=filled: self._ids([of[r] for r in range(*i[0].indices(count))]))
            for text, encoded in zip(batch, _own_rows(self.programs.encode(self._parameters(some), *ids), rows)):
                known[text] = encoded
                self.store.put(text, encoded)
        return known

    def _parameters(self, text: str) -> dict:
        if any(part not in self.pipeline.params for part in ENCODERS):
            raise UserError(
                f"the text {text!r} was not known when the text encoders were dropped; set config.text.drop_encoders=False"
            )
        return {k: self.pipeline.params[k] for k in ENCODERS}

    def _ids(self, texts) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of texts of any shape [...]: CLIP's and T5's, each [..., S]."""
        texts = np.asarray(texts, object)
        flat = list(texts.flat)
        distinct = sorted(set(flat))
        clip, t5, cut = pipelines.tokenize(self.pipeline, distinct, self.programs.text_length)
        for message in cut:
            warnings.warn(message, stacklevel=2)
        row = {text: i for i, text in enumerate(distinct)}
        rows = np.asarray([row[t] for t in flat]).reshape(texts.shape)
        return clip[rows], t5[rows]


def _own_rows(encoded: Condition, rows: list[int]) -> list[Encoded]:
    """Rows of a Condition that this process's devices hold, on its host."""
    out = []
    for array in encoded:
        held = {}
        for shard in array.addressable_shards:
            first = shard.index[0].start or 0
            if first not in held:
                held |= dict(enumerate(np.asarray(shard.data), first))
        out.append(held)
    return [(out[0][row], out[1][row]) for row in rows]
