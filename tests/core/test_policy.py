"""What the network sees of sigma."""

import dataclasses

import jax
import numpy as np
import pytest

from mvgrpo_jax.core import policy
from tests import tiny


@pytest.mark.parametrize("name, seen", [("exact", 0.87654), ("truncated", 0.876), ("bfloat16", 0.875)])
def test_sigma_is_rounded_as_asked(name, seen):
    net, params = tiny.policy_and_params()
    condition = tiny.conditions(jax.random.key(0), 2)
    x = jax.random.normal(jax.random.key(1), (2, 3, tiny.TOKENS, tiny.CONFIG.in_channels))
    got = dataclasses.replace(net, timestep=name).velocity(params, x, 0.87654, condition)
    np.testing.assert_allclose(got, net.velocity(params, x, seen, condition), atol=1e-6)
    assert set(policy.TIMESTEPS) == {"exact", "truncated", "bfloat16"}


def test_lanes_may_have_sigmas_of_their_own():
    net, params = tiny.policy_and_params()
    condition = tiny.conditions(jax.random.key(0), 2)
    x = jax.random.normal(jax.random.key(1), (2, 3, tiny.TOKENS, tiny.CONFIG.in_channels))
    sigmas = np.array([0.9, 0.5, 0.1], np.float32)
    got = net.velocity(params, x, sigmas, condition)
    for lane, s in enumerate(sigmas):
        np.testing.assert_allclose(got[:, lane], net.velocity(params, x, s, condition)[:, lane], atol=1e-5)
