"""CLIP's image tower with one number at its end, as predictors of aesthetics have it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from mvgrpo_jax.models.clip import ClipConfig, VisionTower, unit
from mvgrpo_jax.models.layers import Linear
from mvgrpo_jax.models.module import Network


class Aesthetic(nnx.Module):
    """image: [N, image_size, image_size, 3], normalised -> float32 [N, 1], linear in CLIP's unit vector of it."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        self.vision_model = VisionTower(config.vision, rngs)
        self.visual_projection = Linear(config.vision.hidden_size, config.projection_dim, bias=False, rngs=rngs)
        self.head = Linear(config.projection_dim, 1, rngs=rngs)

    def embed_image(self, image: jax.Array) -> jax.Array:
        return self.head(unit(self.visual_projection(self.vision_model(image)))).astype(jnp.float32)


def aesthetic(config: ClipConfig) -> Network:
    return Network.of(lambda rngs: Aesthetic(config, rngs), {"vision_model.encoder.layers": config.vision.num_hidden_layers})
