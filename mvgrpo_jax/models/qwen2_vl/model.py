"""The whole model: pictures and tokens to hidden states, or through a small head to scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvgrpo_jax.models.layers import ACTIVATIONS, Indexed, Linear
from mvgrpo_jax.models.module import Network
from mvgrpo_jax.models.qwen2_vl.config import Qwen2VLConfig
from mvgrpo_jax.models.qwen2_vl.language import Decoder, Past
from mvgrpo_jax.models.qwen2_vl.vision import VisionTower

HEAD = (1024, 16)  # hidden widths of HPSv3's head


class Qwen2VL(nnx.Module):
    """ids [N, S] with a picture's tokens as image_token_id, patches [N, L, values] of one picture each with the grid (high,
    wide) -> hidden states [N, S, hidden_size] in the patches' dtype. Parameters carry the names of checkpoints written by
    transformers 4."""

    def __init__(self, config: Qwen2VLConfig, rngs: nnx.Rngs):
        self.visual = VisionTower(config.vision, rngs)
        self.model = Decoder(config, rngs)
        self.image_token_id = config.image_token_id

    def embed(self, ids, patches, grid: tuple[int, int]) -> jax.Array:
        """Tokens' rows of the table, and the vision tower's results in the places of a picture's, in order."""
        seen = self.visual(patches, grid)
        words = self.model.embed_tokens(ids).astype(patches.dtype)
        is_image = ids == self.image_token_id
        place = jnp.clip(jnp.cumsum(is_image, axis=-1) - 1, 0, seen.shape[1] - 1)
        return jnp.where(is_image[..., None], jnp.take_along_axis(seen, place[..., None], axis=1), words)

    def __call__(self, ids, patches, grid: tuple[int, int], positions: np.ndarray) -> jax.Array:
        return self.model(self.embed(ids, patches, grid), positions)[0]


class RewardModel(Qwen2VL):
    """Qwen2-VL with HPSv3's head, which is float32: a mean and an uncertainty, read at one token."""

    def __init__(self, config: Qwen2VLConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        sizes = (config.hidden_size, *HEAD, 2)
        layers = [Linear(a, b, rngs=rngs) for a, b in zip(sizes, sizes[1:])]
        self.rm_head = Indexed(dict(zip((0, 3, 5), layers)))

    def head(self, hidden) -> jax.Array:
        """[..., hidden_size] -> float32 [..., 2]."""
        h = hidden.astype(jnp.float32)
        for index in (0, 3):
            h = ACTIVATIONS["relu"](self.rm_head[index](h))
        return self.rm_head[5](h)

    def begin(self, before: np.ndarray, after: np.ndarray, patches, grid: tuple[int, int], positions: np.ndarray) -> Past:
        """What continuations need of N sequences that begin with the tokens `before` [A], a picture each, and the tokens
        `after` [B]: its keys and values. positions: int [3, A + picture's tokens + B]."""
        seen = self.visual(patches, grid)
        embed = lambda ids: jnp.broadcast_to(
            self.model.embed_tokens(ids).astype(patches.dtype), (len(patches), len(ids), seen.shape[-1])
        )
        return self.model(jnp.concatenate([embed(before), seen, embed(after)], 1), positions)[1]

    def read(self, past: Past, ids, last, positions: np.ndarray) -> jax.Array:
        """float32 [N, V, 2] at the tokens `last` [N, V] of continuations ids [N, V, S] of N beginnings."""
        words = self.model.embed_tokens(ids).astype(past.keys.dtype)
        hidden = self.model.extend(words, positions, past)
        return self.head(jnp.take_along_axis(hidden, last[..., None, None], axis=2)[..., 0, :])


def _stacks(config: Qwen2VLConfig) -> dict[str, int]:
    return {"visual.blocks": config.vision.depth, "model.layers": config.num_hidden_layers}


def qwen2_vl(config: Qwen2VLConfig) -> Network:
    """Without lm_head."""
    return Network.of(lambda rngs: Qwen2VL(config, rngs), _stacks(config))


def reward_model(config: Qwen2VLConfig) -> Network:
    return Network.of(lambda rngs: RewardModel(config, rngs), _stacks(config))
