"""BranchGRPO against explicit trees."""

import math

import numpy as np
import pytest

from mvgrpo_jax import algorithms
from tests.algorithms import harness, plain
from tests.algorithms.expected import Record, pictures_match, surrogate_loss
from tests.algorithms.plain import PROMPTS


class Node:
    """An explicit tree: state, depth, log-probability of the edge that leads here, children."""

    def __init__(self, x, depth, log_prob=0.0):
        self.x, self.depth, self.log_prob, self.children = x, depth, log_prob, []

    def paths(self):
        """(leaf, log-probability of the way there)"""
        return [(leaf, child.log_prob + lp) for child in self.children for leaf, lp in child.paths()] or [(self, 0.0)]

    def leaves(self):
        return [leaf for leaf, _ in self.paths()]

    def all(self):
        return [self, *(n for child in self.children for n in child.all())]


def grown(run, net, p, splits, fans, scale, sde, steps, density=False):
    """The tree of a prompt, level by level, its nodes in the order of their leaves. Counts model calls once a node."""
    root = Node(plain.tensor(run.start[p, 0]), 0)
    level, c = [root], run.pooled[0, p, 0]
    for k in range(steps):
        nxt = []
        for node in level:
            v = net(node.x, run.sigmas[k], c)
            mean, std = plain.moments("dance", node.x, v, run.sigmas, k, 0.3)
            for _ in range(fans[splits.index(k)] if k in splits else 1):
                wide, lp = scale if k in splits else 1.0, 0.0
                if k in sde:
                    x = mean + std * wide * run.noise(k, p, len(nxt))
                    lp = float(plain.log_prob("dance", x, mean, std * (wide if density else 1.0)))
                else:
                    x = node.x + v * (run.sigmas[k + 1] - run.sigmas[k])
                node.children.append(Node(x, k + 1, lp))
                nxt.append(node.children[-1])
        level = nxt
    return root


def edges_of(root, p, view_rewards, sde, fusion=0.0):
    """(parent, child, advantages a view) of every stochastic edge; views' rewards by leaf."""
    out = []
    by_depth = {}
    for node in root.all()[1:]:
        by_depth.setdefault(node.depth, []).append(node)
    for node in root.all():
        for child in node.children:
            if node.depth not in sde:
                continue
            peers, advantages = by_depth[child.depth], []
            for rewards in view_rewards:
                values = []
                for peer in peers:
                    weights = [math.exp(fusion * lp) for _, lp in peer.paths()]
                    values.append(np.average([rewards[id(leaf)] for leaf in peer.leaves()], weights=weights))
                advantages.append(plain.normalised(values, 1, 1e-8)[peers.index(child)] if len(peers) > 1 else 0.0)
            out.append((node, child, advantages))
    return out


@pytest.mark.parametrize(
    "own, density",
    [
        ({}, False),
        ({"fan_density": True, "fusion": 0.7}, True),
        ({"fusion": 0.7}, False),
        ({"stochastic": (0, 1, 2, 4)}, False),
    ],
    ids=["authors'", "unbiased", "fused", "mixed"],
)
def test_branchgrpo(own, density):
    config = harness.settings("branchgrpo", steps=6, group=6, splits=(0, 2), fans=(3, 2), clip=5e-2, **own)
    run = harness.run(config, views=2, off_policy=0.02)
    sde = own.get("stochastic", tuple(range(5)))
    net, pictures, records = plain.Net(run.params), [], []
    for p in range(PROMPTS):
        root = grown(run, net, p, (0, 2), (3, 2), 4.0, sde, 6, density)
        leaves = root.leaves()
        pictures.append([[leaf.x for leaf in leaves]])
        judged_by = [{id(leaf): plain.reward(leaf.x, v) for leaf in leaves} for v in range(2)]
        for node, child, advantage in edges_of(root, p, judged_by, sde, own.get("fusion", 0.0)):
            stretch = 4.0 if density and node.depth in (0, 2) else 1.0
            records.append(Record(p, node.x, node.depth, child.x, advantage=advantage, stretch=stretch))
    pictures_match(run, pictures)
    assert run.algorithm.graph.evaluations == net.calls / PROMPTS == 1 + 3 + 3 + 6 * 3
    assert len(records) / PROMPTS == sum(run.algorithm.graph.draws)
    harness.same(run, *surrogate_loss(run, records, "dance", 0.3, 5e-2))


def test_branchgrpos_published_tree():
    graph = algorithms.make(harness.settings("branchgrpo", steps=20, group=16)).graph
    assert graph.lanes() == [1, 2, 4, 8, 16, 16] and graph.evaluations == 1 + 2 * 3 + 4 * 3 + 8 * 3 + 16 * 10
    assert graph.draws == (2, 2, 2, 4, 4, 4, 8, 8, 8, *[16] * 10)


@pytest.mark.nightly
@pytest.mark.parametrize("width", ["best", "extremes"])
def test_branchgrpos_pruning(width):
    config = harness.settings(
        "branchgrpo",
        steps=6,
        group=8,
        splits=(0, 1, 2),
        fans=(2, 2, 2),
        prune_width=width,
        prune_depths=2,
        prune_every=10,
        prune_stop=4,
    )
    run = harness.run(config, iteration=10)  # depths 1 and 2 are left out
    assert (
        run.algorithm.schedule(0).stage == 0
        and run.algorithm.schedule(10).stage == 1
        and run.algorithm.schedule(999).stage == 2
    )
    t, kept = run.chosen.transitions, run.chosen.weight > 0
    at = {round(s, 6): k for k, s in enumerate(run.sigmas)}
    for p in range(PROMPTS):
        depths = [at[round(float(s), 6)] for s, keep in zip(t.steps.s[p].ravel(), kept[p].ravel()) if keep]
        assert sorted(depths) == [0] * 2 + [3] * 4 + [4] * 4
        order = np.argsort([-plain.reward(x, 0) for x in run.trajectory.x0[p, 0]])
        wanted = order[:4] if width == "best" else np.r_[order[:2], order[-2:]]
        leaves = run.trajectory.transitions.x_next[p].reshape(-1, plain.TOKENS, plain.CHANNELS)
        last = leaves[2 + 4 + 8 + 8 : 2 + 4 + 8 + 8 + 8]  # results of step 4, a row a leaf
        got = t.x_next[p].reshape(-1, plain.TOKENS, plain.CHANNELS)[kept[p].ravel()][-4:]
        for row in got:
            assert min(np.abs(row - last[w]).max() for w in wanted) == 0
    assert run.chosen.weight.sum() == pytest.approx(run.chosen.weight.size)  # the loss is the mean over what is kept
