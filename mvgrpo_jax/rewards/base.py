"""The reward protocol: every picture of a branch under every view's caption, each tower run once per item."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mvgrpo_jax.core.structs import Captions


class Reward(Protocol):
    """A judge. `score` takes images float32 [P, R, G, H, W, 3] in [0, 1] and captions [V][P][R] and returns float32
    [V, P, R, G]; a missing caption scores 0 for the whole group (its view is masked by the caller). captions_cut:
    how many different captions the last call cut because they were longer than the judge reads."""

    captions_cut: int

    def score(self, images: np.ndarray, captions: Captions) -> np.ndarray: ...
