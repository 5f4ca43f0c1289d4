"""Cutting a batch, against indexing by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.core.microbatches import AXES, Counts, cut, join, scan
from mvgrpo_jax.core.structs import Batch, Condition, Old, Steps, Transitions

VIEWS, PROMPTS, BLOCKS, DRAWS, STATES, PATHS = 4, 12, 3, 6, 2, 2
COUNTS = Counts(minibatch=2, block=BLOCKS, state=2, view=2, prompt=3)


def batch_of(branches: int) -> Batch:
    """Every number of every leaf is another one."""
    numbers = itertools.count()

    def leaf(*shape):
        return jnp.asarray([next(numbers) for _ in range(int(np.prod(shape)))], jnp.float32).reshape(shape)

    steps = Steps(*(leaf(PROMPTS, BLOCKS, STATES) for _ in range(4)))
    transitions = Transitions(
        leaf(PROMPTS, BLOCKS, STATES, 2, 1), leaf(PROMPTS, BLOCKS, DRAWS, 2, 1), leaf(PROMPTS, BLOCKS, DRAWS), steps
    )
    views = Condition(leaf(VIEWS, PROMPTS, branches, 2, 3), leaf(VIEWS, PROMPTS, branches, 5))
    shape = (VIEWS, PROMPTS, BLOCKS, DRAWS)
    old = Old(leaf(VIEWS, PROMPTS, BLOCKS, PATHS, DRAWS), leaf(VIEWS, PROMPTS, BLOCKS, PATHS, STATES, 2, 1))
    return Batch(transitions, views, leaf(*shape), leaf(*shape), old)


@pytest.mark.parametrize("branches", [1, BLOCKS])
def test_every_microbatch_holds_its_part(branches):
    batch = batch_of(branches)
    micro = cut(batch, COUNTS)
    t = batch.transitions
    for m, b, s, v, p in itertools.product(*map(range, COUNTS)):
        at = lambda a, place=(m, b, s, v, p): np.asarray(a)[tuple(min(i, n - 1) for i, n in zip(place, a.shape))]
        prompts = np.arange(m * 3 + p, PROMPTS, 6)  # dealt out: every sixth
        views, states, draws = np.arange(v, 4, 2), np.arange(s, s + 1), np.arange(3 * s, 3 * s + 3)
        same = np.testing.assert_array_equal
        same(at(micro.x_t), np.asarray(t.x_t)[prompts, b][:, states])
        same(at(micro.x_next), np.asarray(t.x_next)[prompts, b][:, draws])
        same(at(micro.recorded), np.asarray(t.log_prob)[prompts, b][:, draws])
        same(at(micro.steps.g), np.asarray(t.steps.g)[prompts, b][:, states])
        same(at(micro.views.txt), np.asarray(batch.views.txt)[np.ix_(views, prompts)][:, :, min(b, branches - 1)])
        same(at(micro.weight), np.asarray(batch.weight)[np.ix_(views, prompts)][:, :, b, draws])
        same(at(micro.old[0]), np.asarray(batch.old.log_prob)[np.ix_(views, prompts)][:, :, b][..., draws])
        same(at(micro.old[1]), np.asarray(batch.old.mean)[np.ix_(views, prompts)][:, :, b][:, :, :, states])
        same(at(micro.is_prompt), views == 0)


def test_what_microbatches_share_is_not_repeated():
    """Transitions stand once for all views, encodings once for all states, and for all blocks when branches share them."""
    micro = cut(batch_of(1), COUNTS)
    assert micro.x_t.shape[:5] == (2, BLOCKS, 2, 1, 3) and micro.views.txt.shape[:5] == (2, 1, 1, 2, 3)
    sizes = [(a.size, b.size) for a, b in zip(jax.tree.leaves(cut(batch_of(1), COUNTS)[:8]), jax.tree.leaves(batch_of(1)))]
    assert all(a in [b for _, b in sizes] for a, _ in sizes)


def test_a_scan_visits_in_order_and_shares_what_has_one():
    xs = {"all": jnp.arange(6.0).reshape(2, 1, 3), "outer": jnp.array([10.0, 20.0]).reshape(2, 1, 1), "inner": jnp.arange(3.0)}
    xs["inner"] = xs["inner"].reshape(1, 1, 3)

    def body(total, x):
        return total * 2 + x["all"], x["all"] + x["outer"] + x["inner"]

    total, ys = scan(body, jnp.zeros(()), xs, 3)
    want = 0.0
    for value in range(6):
        want = want * 2 + value
    assert total == want
    np.testing.assert_array_equal(np.ravel(ys), [10, 12, 14, 23, 25, 27])
    assert len(AXES) == len(COUNTS)


@pytest.mark.parametrize("counts", [COUNTS, COUNTS._replace(minibatch=1, state=1), Counts(1, BLOCKS, 1, 1, 1)])
def test_what_was_cut_is_joined_again(counts):
    old = batch_of(1).old
    micro = cut(batch_of(1), counts)
    _, got = scan(lambda carry, m: (carry, Old(*m.old)), None, micro, len(AXES))
    for a, b in zip(got, old):
        np.testing.assert_array_equal(join(a, counts), b)
