"""The order in which prompts are served, and its resumption."""

import grain.python as grain
import numpy as np
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.prompts import load_prompts, stream, streaming

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


MIXTURE = tuple((size, weight) for size, weight in ((10, 3.0), (4, 1.0), (6, 0.5)))
MIXED = [f"source {i}, {j}" for i, (size, _) in enumerate(MIXTURE) for j in range(size)]


def sources_of(batches):
    return [int(text.split(",")[0].removeprefix("source ")) for batch in batches for text in batch]


@pytest.mark.parametrize("batch", [1, 9])
def test_a_mixture_has_its_parts_in_every_stretch(batch):
    drawn = sources_of(take(stream(MIXED, batch, 3, MIXTURE), 270 // batch))
    assert [drawn.count(i) for i in range(3)] == [180, 60, 30]
    for length in (9, 18, 45):
        for first in range(0, len(drawn) - length, 7):
            part = drawn[first : first + length]
            for i, (_, weight) in enumerate(MIXTURE):
                assert abs(part.count(i) - length * weight / 4.5) < 2, (first, length)


def test_each_source_of_a_mixture_is_gone_through():
    texts = [text for batch in take(stream(MIXED, 9, 0, MIXTURE), 14) for text in batch]
    for i, (size, _) in enumerate(MIXTURE):
        own = [text for text in texts if text.startswith(f"source {i},")]
        epochs = [own[first : first + size] for first in range(0, len(own) - size + 1, size)]
        assert all(len(set(epoch)) == size for epoch in epochs) and epochs[0] != epochs[1]


@pytest.mark.parametrize("batch, seed", [(1, 3), (4, 3), (4, 2**64 - 1)])
def test_a_mixture_goes_on_where_it_was(batch, seed):
    whole = stream(MIXED, batch, seed, MIXTURE)
    first = take(whole, 7)
    state = whole.get_state()
    rest = take(whole, 30)
    fresh = stream(MIXED, batch, seed, MIXTURE)
    fresh.set_state(state)
    assert take(fresh, 30) == rest
    assert take(stream(MIXED, batch, seed, MIXTURE), 7) == first != take(stream(MIXED, batch, seed - 1, MIXTURE), 7)


def test_sources_of_equal_size_are_not_shuffled_alike():
    texts = [text for batch in take(stream(MIXED[:8], 1, 0, ((4, 1.0), (4, 1.0))), 8) for text in batch]
    orders = [[MIXED[first : first + 4].index(t) for t in texts if t in MIXED[first : first + 4]] for first in (0, 4)]
    assert orders[0] != orders[1]


def test_a_source_gives_no_batch_more_than_it_has():
    with pytest.raises(UserError, match="source 2 of the mixture has 4 prompts, and by its weight gives 5 of the 6"):
        stream(MIXED[:14], 6, 0, ((10, 1.0), (4, 4.0)))


def test_a_digest_tells_lists_apart():
    lists = [TEXTS, TEXTS[::-1], TEXTS[:-1], ["prompt 0prompt 1", *TEXTS[2:]], []]
    assert len({streaming.digest(texts) for texts in lists}) == 5 and streaming.digest(TEXTS) == streaming.digest(list(TEXTS))
