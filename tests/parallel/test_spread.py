"""Work spread over eight devices comes back as it was, in its order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvgrpo_jax.parallel import spread
from mvgrpo_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize("lanes", [1, 3, 4])
def test_lanes_are_flattened_filled_up_and_given_back(lanes):
    x = jnp.arange(2.0 * lanes * 3).reshape(2, lanes, 3)
    mesh = make_mesh(1, 8, 1, prompts=2)

    def run(x):
        flat = spread.flatten(x)
        doubled = spread.by_parts(lambda a: 2 * a, flat, 1)
        return flat, spread.unflatten(doubled, 2)

    with jax.set_mesh(mesh):
        flat, back = jax.jit(run)(x)
    assert flat.shape == (8, 3) and {s.data.shape for s in flat.addressable_shards} == {(1, 3)}
    np.testing.assert_array_equal(back[:, :lanes], 2 * x)
    np.testing.assert_array_equal(back[:, lanes:], np.repeat(2 * x[:, -1:], 4 - lanes, axis=1))


def test_parts_of_a_device_come_one_after_another_in_their_order():
    x = jnp.arange(48.0)
    with jax.set_mesh(make_mesh(1, 8, 1)):
        done = jax.jit(lambda x: spread.by_parts(lambda a: a + len(a), x, 2))(x)
    np.testing.assert_array_equal(done, x + 16)  # two of each of eight devices at a time
