"""What the environment says to XLA, libtpu, NCCL and CUDA, printed at the start of a run: two runs that differ in speed differ
here first. launch/flags.py has the values for each chip."""

from __future__ import annotations

from collections.abc import Mapping

# Lists of flags, and single settings; those of NCCL are whatever begins so.
LISTS = ("LIBTPU_INIT_ARGS", "XLA_FLAGS")
SINGLE = (
    "JAX_OPTIMIZATION_LEVEL",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_CLIENT_MEM_FRACTION",
    "CUDA_DEVICE_MAX_CONNECTIONS",
)
PREFIX = "NCCL_"


def found(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables above that are set and not empty, lists first, each in one line."""
    names = [*LISTS, *SINGLE, *sorted(name for name in environment if name.startswith(PREFIX))]
    return {name: " ".join(environment[name].split()) for name in names if environment.get(name, "").split()}


def describe(environment: Mapping[str, str], platform: str) -> str:
    """A line a variable, the flags of a list below its name. platform: JAX's name of it; on CPUs nothing is missing where
    there are none."""
    lines = []
    for name, value in found(environment).items():
        lines += [f"flags: {name}", *(f"  {flag}" for flag in value.split())] if name in LISTS else [f"flags: {name}={value}"]
    none = "" if platform == "cpu" else "flags: none in the environment; launch/flags.py has those of a chip"
    return "\n".join(lines) or none
