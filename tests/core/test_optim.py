"""The average of weights: its decay by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mvgrpo_jax.core import optim
from mvgrpo_jax.errors import UserError


def decays(steps, **own):
    decay = optim.average(ConfigDict({"decay": 0.9, "every": 1, "warmup": False} | own))
    return [float(decay(jnp.asarray(n))) for n in steps]


def test_decay_by_hand():
    assert optim.average(ConfigDict({"decay": 0.0, "every": 1, "warmup": False})) is None
    np.testing.assert_allclose(decays((1, 5)), [0.9, 0.9])
    # Flow-GRPO: min((1 + n) / (10 + n), 0.9), at every eighth step
    np.testing.assert_allclose(decays((1, 8, 16, 80), every=8, warmup=True), [1.0, 9 / 18, 17 / 26, 0.9], rtol=1e-6)
    with pytest.raises(UserError, match="ema.every must be at least 1"):
        decays((1,), every=0)
