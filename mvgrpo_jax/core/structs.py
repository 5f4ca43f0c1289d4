"""The arrays that travel between the stages, and the alphabet of dimension letters.

P prompts, V views (conditions; view 0 is the prompt), B trained steps (or blocks of a tree's edges), G draws of a step, M
states from which they were drawn (1 where the group shares its state, else up to G), R rewarded branches (B where every
trained step has its own draws, 1 where one picture ends all of a sample's transitions), S pictures of a branch (G, times the
granularities that finish each draw), Q paths on which a transition's density is judged, L image tokens, C numbers an
image token. In conditions: S text tokens, D text width, E pooled width.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

# captions[v][p][r]: the text of view v for prompt p at branch r; None where a view is missing.
Captions = list[list[list[str | None]]]


class Condition(NamedTuple):
    """Encoded text. txt: [..., S, D] (T5); pooled: [..., E] (CLIP)."""

    txt: jax.Array
    pooled: jax.Array


class Steps(NamedTuple):
    """Where transitions start and end: sigma s -> s_next, noise coefficient g, and `stretch`, by which their density's
    deviation exceeds the kernel's (1 but where a tree's splits are drawn wider). float32 [P, B, M]."""

    s: jax.Array
    s_next: jax.Array
    g: jax.Array
    stretch: jax.Array


class Transitions(NamedTuple):
    """Recorded steps; float32, the precision of their log-probabilities.

    x_t: [P, B, M, L, C], states. x_next: [P, B, G, L, C]; draw i left state i // (G / M). log_prob: [P, B, G], under the
    rollout's own parameters and prompt. steps: [P, B, M].
    """

    x_t: jax.Array
    x_next: jax.Array
    log_prob: jax.Array
    steps: Steps


class Trajectory(NamedTuple):
    """A rollout: its transitions, None where nothing is recorded, and final latents x0 [P, R, S, L, C]."""

    transitions: Transitions | None
    x0: jax.Array


class Density(NamedTuple):
    """Transition densities: log_prob [Q, P, G], mean [Q, P, M, L, C], std [Q, P, M], and the velocity v [P, M, L, C] at the
    state itself."""

    log_prob: jax.Array
    mean: jax.Array
    std: jax.Array
    v: jax.Array


class Old(NamedTuple):
    """What is kept of the rollout's densities: log_prob [V, P, B, Q, G]; mean [V, P, B, Q, M, L, C], or None where the
    ratio does not need it."""

    log_prob: jax.Array
    mean: jax.Array | None


class Batch(NamedTuple):
    """What an update sees.

    views: Condition with leading [V, P, R]; a transition's is that of its branch, or the only one. advantage, weight: [V, P,
    B, G]; the weight of a view and of a transition in the loss, 0 masks. old: under the rollout's parameters, or None when
    they are the current ones.
    """

    transitions: Transitions
    views: Condition
    advantage: jax.Array
    weight: jax.Array
    old: Old | None = None


class TrainState(NamedTuple):
    """All that training changes. step: optimiser updates so far, int32. ema: None when no average is kept. old: the policy
    that samples, None when it is the current one."""

    step: jax.Array
    params: dict
    opt_state: tuple
    ema: dict | None
    old: dict | None = None
