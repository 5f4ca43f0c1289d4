"""Eight CPU devices for the sharding tests, and a compilation cache that survives between runs."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tiny programs run once: compiling them fast matters more than running them fast.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

import jax
import pytest

_CACHE = os.environ.get("MVGRPO_TEST_CACHE", str(Path(__file__).parents[1] / ".cache" / "jax"))
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session")
def random_pipeline(tmp_path_factory):
    """make(variant) -> folder of a small random FluxPipeline, written by diffusers itself; see tests/peers.py."""
    from tests import peers

    made = {}

    def make(variant: str) -> Path:
        if variant not in made:
            made[variant] = peers.write_pipeline(tmp_path_factory.mktemp(variant), variant)
        return made[variant]

    return make
