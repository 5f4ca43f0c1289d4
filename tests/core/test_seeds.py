"""Keys of 64-bit seeds."""

import jax
import numpy as np
import pytest

from mvgrpo_jax.core import seeds


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1, 2**31, 2**32 - 1])
def test_seeds_of_32_bits_keep_their_keys(seed):
    assert data(seeds.key(seed)) == data(jax.random.key(seed)) == (0, seed)


def test_every_bit_of_a_seed_counts():
    numbers = [0, *(2**i for i in range(64)), 2**64 - 1, 2**32 + 1]
    assert len({data(seeds.key(number)) for number in numbers}) == len(numbers)


def test_high_bits_are_folded_in():
    assert data(seeds.key(3 * 2**32 + 5)) == data(jax.random.fold_in(jax.random.key(5), 3))
    assert data(seeds.key(np.uint64(2**64 - 1))) == data(jax.random.fold_in(jax.random.key(2**32 - 1), 2**32 - 1))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_outside_64_bits_are_refused(seed):
    with pytest.raises(ValueError, match=f"from 0 to 18446744073709551615, got {seed}"):
        seeds.key(seed)
