"""The arrays that travel between the stages, and the alphabet of dimension letters.

P prompts, V views (conditions; view 0 is the prompt), B trained steps, G samples of a group, M states of a group
(1 where the group shares its state, else G), R rewarded branches (B where every trained step has its own draws, 1
where one picture ends all of a sample's transitions), L image tokens, C numbers an image token, S text tokens,
D text width, E pooled width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax


class Condition(NamedTuple):
    """Encoded text. txt: [..., S, D] (T5); pooled: [..., E] (CLIP)."""

    txt: jax.Array
    pooled: jax.Array


class Trajectory(NamedTuple):
    """Recorded SDE transitions and the latents they ended in; float32, the precision of their log-probabilities.

    x_t: [P, B, M, L, C] and x_next: [P, B, G, L, C], the transition at each trained step. log_prob: [P, B, G], under the
    rollout's own parameters and prompt. x0: [P, R, G, L, C], final latents.
    """

    x_t: jax.Array
    x_next: jax.Array
    log_prob: jax.Array
    x0: jax.Array


class Batch(NamedTuple):
    """What an update sees.

    views: Condition with leading [V, P, R]. advantage: [V, P, R, G]. weight: [V, P, R], of each view in the loss; 0
    masks it. old_log_prob: [V, P, B, G] under the rollout's parameters, or None when they are the current ones.
    """

    trajectory: Trajectory
    views: Condition
    advantage: jax.Array
    weight: jax.Array
    old_log_prob: jax.Array | None = None


class TrainState(NamedTuple):
    """All that training changes. step: optimiser updates so far, int32. ema: None when no average is kept."""

    step: jax.Array
    params: dict
    opt_state: tuple
    ema: dict | None
