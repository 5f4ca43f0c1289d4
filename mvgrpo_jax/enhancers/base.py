"""The enhancer protocol (MV-GRPO, arXiv 2603.12648: the condition enhancer E(c, X))."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mvgrpo_jax.core.structs import Captions

# {(prompt, sample): uint8 [H, W, 3]} of a branch
Pictures = dict[tuple[int, int], np.ndarray]


class Session(Protocol):
    """The captions of one rollout: pictures come in and captions are fetched branch by branch."""

    def add(self, branch: int, images: Pictures) -> None:
        """Those of a branch's pictures that belong to this process. Returns at once; work goes on behind."""

    def captions(self, branch: int) -> list[list[str | None]]:
        """Those of a branch [K][P], None where one is missing, of the pictures of all processes, which call this together.
        Waits for them."""

    def finish(self) -> None:
        """To be called, by all processes together, when every branch's captions were fetched: counts what is missing."""


class Enhancer(Protocol):
    """Writes K further captions for each prompt and branch.

    begin(iteration, prompts [P], branches R, group S) -> Session of R branches of S pictures. What is asked depends on these
    and the run's seed alone, so that a resumed run repeats it. known() -> every caption it can write, or None when that is not
    known beforehand. eager: whether it gains from having the pictures of a branch before those of the others. log() -> metrics
    since the last call.
    """

    count: int
    eager: bool

    def begin(self, iteration: int, prompts: list[str], branches: int, group: int) -> Session: ...

    def known(self) -> list[str] | None: ...

    def log(self) -> dict[str, float]: ...

    def close(self) -> None: ...


def collect(session: Session, branches: int) -> Captions:
    """captions [K][P][R] of all branches."""
    of_branch = [session.captions(branch) for branch in range(branches)]
    session.finish()
    return [[list(texts) for texts in zip(*view)] for view in zip(*of_branch)]


def enhance(enhancer: Enhancer, iteration: int, prompts: list[str], images: np.ndarray) -> Captions:
    """All branches at once, in a run of one process: images uint8 [P, R, S, H, W, 3] -> captions [K][P][R]."""
    session = enhancer.begin(iteration, prompts, images.shape[1], images.shape[2])
    for branch in range(images.shape[1]):
        session.add(branch, {(p, s): images[p, branch, s] for p, s in np.ndindex(images.shape[0], images.shape[2])})
    return collect(session, images.shape[1])
