"""The reward protocol: every picture of a branch under every view's caption, each tower run once per item."""

from __future__ import annotations

from typing import Protocol

import numpy as np

# captions[v][p][r]: the text of view v for prompt p at branch r; None where a view is missing.
Captions = list[list[list[str | None]]]


class Reward(Protocol):
    """A judge. `score` takes images float32 [P, R, G, H, W, 3] in [0, 1] and captions [V][P][R] and returns float32
    [V, P, R, G]; a missing caption scores 0 for the whole group (its view is masked by the caller). A judge that reads only
    part of a long caption may say in an attribute `captions_cut` how many different ones the last call cut."""

    def score(self, images: np.ndarray, captions: Captions) -> np.ndarray: ...
