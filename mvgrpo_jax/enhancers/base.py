"""The enhancer protocol (MV-GRPO, arXiv 2603.12648: the condition enhancer E(c, X))."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mvgrpo_jax.rewards.base import Captions


class Enhancer(Protocol):
    """Writes K further captions for each prompt and branch.

    enhance(iteration, prompts [P], images float32 [P, R, G, H, W, 3] in [0, 1]) -> captions [K][P][R], None where one is
    missing. The result depends on its arguments and the run's seed alone, so that a resumed run repeats it.
    known() -> every caption it can write, or None when that is not known beforehand.
    """

    count: int

    def enhance(self, iteration: int, prompts: list[str], images: np.ndarray) -> Captions: ...

    def known(self) -> list[str] | None: ...
