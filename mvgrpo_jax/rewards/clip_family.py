"""What the judges share that compare picture and caption in a CLIPModel's space: their network, tokens and cosines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.configuration.rules import Choice
from mvgrpo_jax.convert import import_params
from mvgrpo_jax.convert.sources import Source
from mvgrpo_jax.core.precision import DTYPES, dtype_of
from mvgrpo_jax.models import clip
from mvgrpo_jax.models.module import Network, Params
from mvgrpo_jax.parallel import spread
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.clip_text import Captions

DTYPE = Choice.of(DTYPES)  # the rule of the setting `dtype`


def in_dtype(network: Network, dtype: jnp.dtype) -> Network:
    """The network with its floating-point parameters in this dtype."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), network.shapes)
    return dataclasses.replace(network, shapes=shapes)


def judged(scores: jax.Array) -> Judgement:
    """Scores, of which those count that are finite."""
    return Judgement(scores, jnp.isfinite(scores))


class Embedded:
    """Pictures as vectors: a network on the devices that has `embed_image`.

    prepare: pictures [N, H, W, 3] -> the tower's input. opened() -> the tensors of the network.
    dtype: of parameters and arithmetic; the vectors are float32. chunk: items that a device puts through a tower at a time.
    """

    def __init__(self, network: Network, prepare: Callable, opened: Callable[[], Source], dtype: str, chunk: int):
        self.dtype = dtype_of(dtype)
        self.network, self.prepare, self.opened, self.chunk = in_dtype(network, self.dtype), prepare, opened, chunk

    def load(self, sharding: Callable | None = None) -> Params:
        return import_params(self.network, self.opened(), dtype=self.dtype, sharding=sharding)

    def embed_images(self, params, images) -> jax.Array:
        """Vectors [P, n, d] of pictures [P, n, H, W, 3]."""
        net = self.network.bind(params)
        embed = lambda x: net.embed_image(self.prepare(x).astype(self.dtype))
        flat = spread.by_parts(embed, spread.flatten(images), self.chunk)
        return spread.unflatten(flat, images.shape[0])[:, : images.shape[1]]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a judge of the family is made of. prepare: pictures [N, H, W, 3] -> the image tower's input. opened() -> the tensors
    under CLIPModel's names. captions: texts to tokens, None where the judge is only described."""

    config: clip.ClipConfig
    prepare: Callable
    opened: Callable[[], Source]
    captions: Captions | None = None


class ClipJudge(Embedded):
    """A judge on the devices (base.DeviceJudge). Each picture and each text goes through its tower once, however many views
    there are. A kind says what it makes of the cosines (`read`)."""

    @classmethod
    def of(cls, parts: Parts, scale: Any, dtype: str, chunk: int):
        """The judge of these parts, without its kind's way of finding them."""
        judge = cls.__new__(cls)
        judge.settle(parts, scale, dtype, chunk)
        return judge

    def settle(self, parts: Parts, scale: Any, dtype: str, chunk: int) -> None:
        super().__init__(clip.clip(parts.config), parts.prepare, parts.opened, dtype, chunk)
        self.config, self.captions, self.scale = parts.config, parts.captions, scale

    @property
    def length(self) -> int:
        """Tokens of a text that the text tower has places for."""
        return self.captions.length if self.captions else self.config.text.max_position_embeddings

    @property
    def token_shapes(self) -> jax.ShapeDtypeStruct:
        """Of one text."""
        return jax.ShapeDtypeStruct((self.length,), jnp.int32)

    def take_cut(self) -> int:
        return self.captions.take_cut()

    def tokens(self, texts: list[str]) -> np.ndarray:
        """int32 [N, S]: the first tokens that the text tower has places for."""
        return self.captions(texts)

    def embed_texts(self, params, tokens) -> jax.Array:
        """Unit vectors [P, n, d] of tokens [P, n, S]."""
        net = self.network.bind(params)
        flat = spread.by_parts(lambda ids: net.embed_text(ids, self.dtype), spread.flatten(tokens), self.chunk)
        return spread.unflatten(flat, tokens.shape[0])[:, : tokens.shape[1]]

    def score(self, params, images, tokens) -> Judgement:
        """Scores [V, P, n] of pictures [P, n, H, W, 3] under texts of tokens [V, P, S]."""
        pictures, texts = self.embed_images(params, images), self.embed_texts(params, jnp.moveaxis(tokens, 0, 1))
        return judged(self.read(params, jnp.einsum("pnd,pvd->vpn", pictures, texts, precision="highest")))

    def read(self, params, cosines: jax.Array) -> jax.Array:
        """Scores of cosines."""
        return self.scale * cosines
