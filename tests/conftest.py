"""Eight CPU devices for the sharding tests, and a compilation cache that survives between runs."""

import gc
import os
import signal

os.environ["JAX_PLATFORMS"] = "cpu"
# Tiny programs run once: compiling them fast matters more than running them fast.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path

# By the environment, so that the commands that tests run share the cache.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get("MVGRPO_TEST_CACHE", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import jax
import pytest

# Shells let what they start in the background ignore Ctrl-C; tests send it, to themselves and to commands.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


MAPPINGS = 20_000  # of 65530 that Linux allows a process unless told otherwise


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Between files, lets compiled programs go where there are many: each is three mappings of memory, and a process with no
    mapping left crashes somewhere in XLA or in whatever asks for memory next."""
    if nextitem is None or nextitem.path != item.path:
        maps = Path("/proc/self/maps")
        if maps.exists() and maps.read_bytes().count(b"\n") > MAPPINGS:
            jax.clear_caches()
            gc.collect()


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


@pytest.fixture(scope="session")
def hpsv3(tmp_path_factory):
    """make(variant) -> a peer of HPSv3 with its files, made once."""
    from tests.rewards import hpsv3_peer

    made = {}

    def make(variant: str = "grouped") -> hpsv3_peer.Peer:
        if variant not in made:
            made[variant] = hpsv3_peer.Peer(tmp_path_factory.mktemp(variant), variant)
        return made[variant]

    return make
