"""The order in which prompts are served, and its resumption."""

import grain.python as grain
import numpy as np
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import load_prompts, stream

TEXTS = [f"prompt {i}" for i in range(7)]


def take(iterator, count):
    return [list(next(iterator)) for _ in range(count)]


@pytest.mark.parametrize("texts, batch", [(TEXTS, 1), (TEXTS[:1], 1), (TEXTS, 2), (TEXTS, 7)])
def test_it_goes_on_where_it_was(texts, batch):
    whole = stream(texts, batch, 3)
    first = take(whole, 5)
    state = whole.get_state()
    rest = take(whole, 20)
    again = stream(texts, batch, 3)
    assert take(again, 5) == first
    fresh = stream(texts, batch, 3)
    fresh.set_state(state)
    assert take(fresh, 20) == rest
    assert all(len(b) == batch for b in first + rest)
    assert all(isinstance(b, np.ndarray) and b.shape == (batch,) for b in [next(whole)])


def test_one_at_a_time_is_every_prompt_once_an_epoch():
    found = [b[0] for b in take(stream(TEXTS, 1, 0), 21)]
    epochs = [found[i : i + 7] for i in range(0, 21, 7)]
    assert all(sorted(epoch) == TEXTS for epoch in epochs) and epochs[0] != epochs[1]
    pairs = [text for b in take(stream(TEXTS, 2, 0), 10) for text in b]
    assert found[:20] == pairs  # the same order, in other portions


def test_a_count_below_zero_is_no_count():
    with pytest.raises(UserError, match=r"from flux-nano must be at least 0 \(0: all\), got -3"):
        load_prompts("flux-nano", -3, held_out=False)


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_other_sizes_are_grains_own_batches(batch):
    """What runs before this could be done had, and go on with."""
    dataset = grain.MapDataset.source(TEXTS).seed(5).shuffle().repeat().batch(batch)
    old = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))
    new = stream(TEXTS, batch, 5)
    assert take(old, 9) == take(new, 9)
    assert old.get_state() == new.get_state()


def test_seeds_of_64_bits_differ():
    orders = {tuple(b[0] for b in take(stream(TEXTS, 1, seed), 14)) for seed in (0, 2**32, 2**63, 2**64 - 1)}
    assert len(orders) == 4


@pytest.mark.parametrize(
    "batch, seed, expected",
    [
        (0, 0, "prompts_per_iteration must be at least 1, got 0"),
        (8, 0, "only 7 training prompts"),
        (2, -1, "config.seed: expected a seed from 0 to 18446744073709551615, got -1"),
        (2, 2**64, "config.seed: expected a seed"),
    ],
)
def test_what_cannot_be_served(batch, seed, expected):
    with pytest.raises(UserError, match=expected):
        stream(TEXTS, batch, seed)
