"""Sigma grids against diffusers' scheduler and hand-computed values."""

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from mvgrpo_jax.core import schedules, sde


def test_static_shift_by_hand():
    np.testing.assert_allclose(schedules.static(2, 3.0), [1.0, 0.75, 0.0])


@pytest.mark.parametrize("shift", [0.01, 0.15, 0.7, 3.0, 3.1, 17.3])
def test_grids_start_at_1_to_the_last_bit(shift):
    """A sigma of 1 - 1e-16 would have a noise level of 1e8."""
    assert schedules.static(4, shift)[0] == 1.0
    assert (sde.kernel("flow").noise(schedules.static(4, shift), 0.7) < 20).all()


@pytest.mark.parametrize("tokens", [16, 256, 1024, 4096])
def test_dynamic_grid_is_diffusers(tokens):
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 7, 7), mu=calculate_shift(tokens, 256, 4096, 0.5, 1.15))
    np.testing.assert_allclose(schedules.dynamic(7, tokens), scheduler.sigmas, rtol=1e-6)


def test_static_grid_is_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 7, 7))
    np.testing.assert_allclose(schedules.static(7, 3.0), scheduler.sigmas, rtol=1e-6, atol=1e-7)
