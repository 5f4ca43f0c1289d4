"""Warnings of settings that cost much."""

import pytest

from configs import common
from mvgrpo_jax.configuration.advice import warn_of_slow_settings

FLUX = 11_901_408_320  # parameters of FLUX.1-dev's transformer


def config(dtype="float32", attention="auto"):
    c = common.get_config()
    c.train.dtype, c.train.attention = dtype, attention
    return c


@pytest.mark.parametrize("platform", ["gpu", "cuda"])
def test_float32_on_a_gpu(platform):
    (warning,) = warn_of_slow_settings(config(), FLUX, platform)
    assert "config.train.dtype is float32" in warning and "flash attention is off" in warning and "11.9 B" in warning


def test_float32_on_a_tpu():
    (warning,) = warn_of_slow_settings(config(), FLUX, "tpu")  # auto takes splash attention there in any dtype
    assert "config.train.dtype is float32" in warning and "flash attention is off" not in warning
    (warning,) = warn_of_slow_settings(config(attention="xla"), FLUX, "tpu")
    assert "config.train.dtype is float32" in warning and "flash attention is off" in warning


@pytest.mark.parametrize(
    "dtype, parameters, platform", [("bfloat16", FLUX, "gpu"), ("float32", 10**9, "gpu"), ("float32", FLUX, "cpu")]
)
def test_nothing_to_say(dtype, parameters, platform):
    assert warn_of_slow_settings(config(dtype), parameters, platform) == []
