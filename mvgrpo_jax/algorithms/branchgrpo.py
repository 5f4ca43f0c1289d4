"""BranchGRPO (arXiv 2509.06040): a tree of samples, credit by depth, pruned before the update.

One root noise; at each split every node draws several children, elsewhere one. A node's reward is the mean of its leaves', or
with `fusion` b > 0 their mean weighted by softmax(b log p of the path from the node to the leaf); its advantage compares it
with the nodes of its depth; every edge trains with its child's advantage, all edges counting alike.
At splits the noise is `fan_scale` wider, which the authors' likelihood does not know (fan_density False, their default and this
one's; True is unbiased). Pruning, of the update alone: `prune_depths` depths are left out, from a first one that moves by 1
every `prune_every` iterations up to `prune_stop`; after the last split `prune_width` keeps the 'best' half of the leaves or the
'extremes', a quarter each. Mixed ODE/SDE: steps not in `stochastic` have no noise and do not train. Authors' on Flux: 20 steps,
splits 0, 3, 6, 9 into 2, eta 0.3, clip 1e-3, learning rate 1e-5, 720 px, 8 GPUs, 12 accumulated rollouts of 2. Ours: the last
step has no noise, as in DanceGRPO, on whose code theirs is built; log p is averaged over a latent's numbers, as in the ratio.
"""

import math

import jax.numpy as jnp
import numpy as np

from mvgrpo_jax.algorithms.base import Algorithm, Moment, options, within
from mvgrpo_jax.core import advantages, objectives, sde, selection
from mvgrpo_jax.core.advantages import combine
from mvgrpo_jax.core.graph import factors, scaled, tree

DEFAULTS = options(
    kernel="dance",
    eta=0.3,
    clip=1e-3,
    splits=(),  # steps; empty: 0, 3, 6, 9 of 20, at the same shares of another number of steps
    fans=(),  # children at each split; empty: the prime factors of group_size
    fan_scale=4.0,
    fan_density=False,
    fusion=0.0,  # b of the softmax over a node's leaves; 0: their mean
    stochastic=(),  # steps with noise; empty: all but the last
    prune_depths=0,
    prune_every=30,
    prune_stop=9,
    prune_width="none",  # none | best | extremes
)


def make(config, o):
    within(o, fan_scale=(1e-3, 1e3), fusion=(0, 1e6), prune_depths=(0, 1e6), prune_every=(1, 1e6))
    steps, group = config.sampling.steps, config.group_size
    trained = tuple(o.stochastic) or tuple(range(steps - 1))
    splits = tuple(o.splits) or scaled((0, 3, 6, 9), 20, steps)
    fans = tuple(o.fans) or factors(group, len(splits))
    if math.prod(fans) != group:
        raise ValueError(f"a tree of {fans} children has {math.prod(fans)} leaves, but group_size is {group}")
    if o.prune_width not in ("none", "best", "extremes") or (o.prune_width != "none" and group < 4):
        raise ValueError(f"prune_width must be none, best or extremes (of at least 4 leaves), got {o.prune_width!r}")
    if o.prune_depths >= len(trained):
        raise ValueError(f"prune_depths {o.prune_depths} leaves none of {len(trained)} depths")
    graph = tree(steps, splits[: len(fans)], fans, trained=trained, fan_scale=o.fan_scale, fan_density=o.fan_density)
    kernel = sde.kernel(o.kernel)
    first_edge = np.concatenate([[0], np.cumsum(graph.draws)])

    def schedule(iteration):
        last = max(min(o.prune_stop, len(trained)) - o.prune_depths, 0)
        return Moment(stage=min(iteration // o.prune_every, last) if o.prune_depths else None)

    def select(key, trajectory, advantage, stage, sigmas):
        del key, sigmas
        prompts = advantage.shape[1]
        flat = advantage.reshape(*advantage.shape[:2], -1)
        rank = jnp.argsort(-flat[0, :, first_edge[-2] : first_edge[-1]], axis=-1)  # leaves, the best first
        quarter = group // 4
        leaves = {"none": jnp.arange(group) + 0 * rank, "best": rank[:, : group // 2]}.get(
            o.prune_width, jnp.concatenate([rank[:, :quarter], rank[:, group - quarter :]], axis=1)
        )
        pruned = range(stage, stage + o.prune_depths) if stage is not None else ()
        kept = []
        for depth, nodes in enumerate(graph.draws):
            if depth not in pruned:
                all_nodes = jnp.broadcast_to(jnp.arange(nodes), (prompts, nodes))
                kept.append(first_edge[depth] + (leaves if nodes == group else all_nodes))
        edges = jnp.concatenate(kept, axis=1)
        count = edges.shape[1]
        filled = jnp.concatenate([edges, jnp.repeat(edges[:, -1:], -count % group, axis=1)], axis=1)
        shape = (prompts, -1, group)
        transitions, advantage = selection.take(trajectory.transitions, advantage, filled.reshape(shape))
        real = jnp.arange(filled.shape[1]) < count
        weight = jnp.broadcast_to(real * (filled.shape[1] / count), filled.shape).reshape(shape)
        return selection.Selection(transitions, advantage, weight)

    def advantage(rewards, active, trajectory, memory):
        log_prob = trajectory.transitions.log_prob
        normal = {"ddof": 1, "eps": 1e-8 + o.std_floor, "bound": o.bound}
        of_tree = lambda reward: advantages.tree_advantage(reward, log_prob, graph, fusion=o.fusion, **normal)
        return combine(rewards, dict(config.rewards), o.combine, active, of_tree)

    return Algorithm(
        graph=graph,
        kernel=kernel,
        eta=o.eta,
        advantage=advantage,
        objective=objectives.policy_gradient(kernel, clip=o.clip, kl=o.kl, divergence=o.divergence),
        select=select,
        schedule=schedule,
    )
