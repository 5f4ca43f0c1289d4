"""An update whose gradient is added up branch by branch, while captions and scores of other branches are awaited.

A branch has its own samples, captions, advantages and transitions, so that its share of the gradient needs nothing of the
others; the parameters change once, when all shares are there. It is the update of programs.update but for rounding.
"""

from __future__ import annotations

import jax
import numpy as np

from mvgrpo_jax.core.objectives import view_weights
from mvgrpo_jax.core.structs import Batch, TrainState
from mvgrpo_jax.run.build import Run
from mvgrpo_jax.run.drawing import Samples
from mvgrpo_jax.run.metrics import Clock
from mvgrpo_jax.run.painting import SELECTION


class Gradients:
    """Of one iteration's samples under the parameters of a state, which stays as it is until `finish`."""

    def __init__(self, run: Run, state: TrainState, iteration: int, samples: Samples, clock: Clock):
        self.run, self.state, self.samples, self.clock = run, state, samples, clock
        self.key = run.programs.key(iteration, SELECTION)
        self.stage = run.programs.algorithm.schedule(iteration).stage
        self.total, self.metrics = run.programs.nothing(state.params), []

    def add(self, branch: int, captions: list[list[str | None]], scores: dict[str, np.ndarray], active: np.ndarray) -> None:
        """The share of a branch. captions: [V][P]; scores: of each judge that trains [V, P, S]; active: bool [V, P]."""
        programs, branches = self.run.programs, len(self.samples.pictures)

        def alone(of_branch: np.ndarray, missing) -> np.ndarray:
            """[V, P, ...] -> [V, P, R, ...], in which the other branches are missing."""
            whole = np.full((*of_branch.shape[:2], branches, *of_branch.shape[2:]), missing, of_branch.dtype)
            whole[:, :, branch] = of_branch
            return whole

        with self.clock("text"):
            encoded = self.run.text.encode_views([[[text] for text in view] for view in captions])
        chosen = self._select({name: alone(s, np.nan) for name, s in scores.items()}, alone(active, False))
        batch = Batch(chosen[0], encoded, chosen[1], chosen[2])
        self.total, metrics = programs.add(self.total, self.state, self.run.reference, batch, np.int32(branch), self.run.frozen)
        self.metrics.append(metrics)

    def log(self, scores: dict[str, np.ndarray], active: np.ndarray) -> dict[str, jax.Array]:
        """What is logged of a batch, of all branches. scores: of each judge that trains [V, P, R, S]; active: bool [V, P,
        R]."""
        return self._select(scores, active)[3]

    def finish(self) -> tuple[TrainState, list[dict[str, jax.Array]]]:
        """The state after the update, as iteration.update gives it; that of before is donated."""
        state, metrics = self.run.programs.finish_update(self.state, self.total, self.metrics)
        return state, [metrics]

    def _select(self, scores: dict[str, np.ndarray], active: np.ndarray):
        views, samples = self.run.config.views, self.samples
        of_view = view_weights(active, views.aggregate, views.prompt_weight)
        return self.run.programs.select(self.key, samples.trajectory, scores, of_view, samples.memory, self.stage)
