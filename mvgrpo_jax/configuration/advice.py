"""What a config may say, but is rarely meant: settings that cost much on the hardware at hand."""

from __future__ import annotations

from mvgrpo_jax.core.precision import dtype_of
from mvgrpo_jax.models import attention

LARGE = 10**9  # parameters


def warn_of_slow_settings(config, parameters: int, platform: str) -> list[str]:
    """Warnings, each naming its key. parameters: of the transformer. platform: JAX's name of the devices' ('cpu', 'gpu',
    'cuda', 'rocm', 'tpu'). Raises UserError where config.train.attention cannot run there."""
    dtype = dtype_of(config.train.dtype)
    if platform == "cpu" or parameters <= LARGE or config.train.dtype != "float32":
        return []
    off = attention.choose(config.train.attention, platform, dtype) == "xla"
    scores = "flash attention is off, and the scores of all pairs of tokens are stored" if off else "matrix products are slower"
    return [
        f"config.train.dtype is float32: on this {platform} {scores}. For a network of {parameters / 1e9:.1f} B parameters "
        "config.train.dtype=bfloat16 is usual; what is trained and its optimiser stay in float32 (config.train.param_dtype)"
    ]
