"""The arrays that travel between the stages, and the alphabet of dimension letters.

P prompts, V views (conditions; view 0 is the prompt), B branch points (trained steps), G samples of a group,
M states of a group (1 where the group shares its state, else G), L image tokens, C numbers an image token,
S text tokens, D text width, E pooled width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax


class Condition(NamedTuple):
    """Encoded text. txt: [..., S, D] (T5); pooled: [..., E] (CLIP)."""

    txt: jax.Array
    pooled: jax.Array


class Trajectory(NamedTuple):
    """Recorded SDE transitions and the pictures' latents they ended in; float32.

    x_t_PxBxMxLxC, x_next_PxBxGxLxC: the transition at each trained step. log_prob_PxBxG: under the rollout's own
    parameters and prompt. x0_PxRxGxLxC: final latents, R = B where every trained step has its own draws and R = 1 where
    one picture ends all of a sample's transitions. steps_B: index of each trained step on the sigma grid.
    """

    x_t: jax.Array
    x_next: jax.Array
    log_prob: jax.Array
    x0: jax.Array
    steps: jax.Array


class Batch(NamedTuple):
    """What an update sees. views: Condition with leading [V, P, R]; advantage_VxPxRxG; weight_VxPxR (0 masks a view)."""

    trajectory: Trajectory
    views: Condition
    advantage: jax.Array
    weight: jax.Array
    old_log_prob: jax.Array | None = None


class TrainState(NamedTuple):
    """All that training changes. step counts optimiser updates; ema is None when no average is kept."""

    step: jax.Array
    params: dict
    opt_state: tuple
    ema: dict | None
