"""The online enhancer of the embedded world: it looks at each generated picture and describes it from a perspective
drawn at random, as a vision-language model with a random instruction would."""

from __future__ import annotations

import numpy as np

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.base import Captions
from mvgrpo_jax.world import captions, vision


class PerspectiveEnhancer:
    """K captions for each prompt and branch; with K = G, caption k describes sample k.

    K < G describes K samples drawn at random, K > G goes round the group again with new perspectives.
    """

    def __init__(self, count: int, seed: int, perspectives: tuple[str, ...] = ()):
        self.count, self.seed = count, seed
        self.perspectives = perspectives or tuple(captions.PERSPECTIVES)
        unknown = set(self.perspectives) - set(captions.PERSPECTIVES)
        if unknown:
            raise UserError(
                f"config.views.perspectives names {', '.join(sorted(unknown))}; there are: {', '.join(captions.PERSPECTIVES)}"
            )

    def known(self) -> None:
        return None

    def enhance(self, iteration: int, prompts: list[str], images: np.ndarray) -> Captions:
        prompt_count, branches, group = images.shape[:3]
        out: Captions = [[[None] * branches for _ in range(prompt_count)] for _ in range(self.count)]
        for p, r in np.ndindex(prompt_count, branches):
            rng = np.random.default_rng([self.seed, 11, iteration, p, r])
            samples = np.arange(self.count) % group if self.count >= group else np.sort(rng.permutation(group)[: self.count])
            for k, sample in enumerate(samples):
                seen = vision.parse(images[p, r, sample])
                perspective = str(rng.choice(self.perspectives))
                out[k][p][r] = captions.describe(seen, perspective) if seen.things else captions.describe(seen, "background")
        return out
