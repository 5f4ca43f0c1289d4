"""The captioner of the embedded world: it looks at a generated picture as a vision-language model would, without a server."""

from __future__ import annotations

import numpy as np

from mvgrpo_jax.enhancers.perspectives import Perspective
from mvgrpo_jax.nano.world import captions, vision
from mvgrpo_jax.rewards.preprocess import as_float

PERSPECTIVES = tuple(Perspective(name) for name in captions.PERSPECTIVES)


class EmbeddedCaptioner:
    """Parses the picture and says what it sees from the perspective; of an empty picture, its background."""

    remote = False

    async def caption(self, image: np.ndarray, perspective: Perspective, seed: int, deadline: float) -> str:
        seen = vision.parse(as_float(image))
        return captions.describe(seen, perspective.name if seen.things else "background")

    def take_log(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        pass
