"""What libraries say before they have anything to say: settings that must be made before jax, tensorflow and transformers load.

Importing mvgrpo_jax makes them, so every command has them; a variable that is set already is left alone.
"""

from __future__ import annotations

import glob
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping

SETTINGS = {
    "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA's and TensorFlow's start-up notes, such as the processor's features
    "TF_ENABLE_ONEDNN_OPTS": "0",  # TensorFlow says so when they are on; here it writes TensorBoard files and computes nothing
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # "PyTorch was not found": only tokenizers are used
    "GRPC_VERBOSITY": "ERROR",
}
# Device files of accelerators: NVIDIA (desktop, Jetson, WSL), TPU, what a virtual machine was handed, AMD.
DEVICES = ("nvidia*", "nvhost*", "nvmap", "dxg", "accel*", "vfio/[0-9]*", "kfd")
GOOGLE = "0x1ae0"
# Variables that jax, libtpu and TensorFlow set themselves, TPU or not.
LIBRARIES_OWN = {"TPU_SKIP_MDS_QUERY", "TPU_LIBRARY_PATH", "TPU_ML_PLATFORM", "TPU_ML_PLATFORM_VERSION"}
# Plugins that come with the `plan` extra, as compilers.
COMPILERS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")


def plugins() -> set[str]:
    """Names of the modules by which jax would find accelerators, libtpu among them."""
    modules = {entry.value for entry in importlib.metadata.entry_points(group="jax_plugins")}
    spec = importlib.util.find_spec("jax_plugins")
    for folder in spec.submodule_search_locations if spec else ():
        modules |= {f"jax_plugins.{entry.name}" for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] not in "_."}
    return modules | ({"libtpu"} if importlib.util.find_spec("libtpu") else set())


def has_accelerator(root: str = "/") -> bool:
    """Whether a device file or a PCI device (as jax looks for TPUs) speaks for an accelerator. root: of the file system."""
    if any(glob.glob(os.path.join(root, "dev", name)) for name in DEVICES):
        return True
    for path in glob.glob(os.path.join(root, "sys/bus/pci/devices/*/vendor")):
        with open(path, encoding="ascii") as file:
            if file.read().strip() == GOOGLE:
                return True
    return False


def only_compilers(modules: set[str], environment: Mapping[str, str]) -> bool:
    """Whether there are plugins (`modules`), all of them the `plan` extra's, and no variable that speaks of a TPU. Those of
    LIBRARIES_OWN do not: a process inherits them from one that has imported a library."""
    spoken = {name for name in environment if name.startswith(("TPU_", "CLOUD_TPU", "JAX_FORCE_TPU"))}
    return bool(modules) and modules <= {"libtpu", *COMPILERS} and spoken <= LIBRARIES_OWN


def quieten() -> None:
    """Makes the settings in os.environ. On a Linux machine without an accelerator, where compilers for others are installed
    (the `plan` extra), jax is told to use the CPU: it would try each, wait, and print a traceback of what is not there."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    undecided = "JAX_PLATFORMS" not in os.environ and sys.platform == "linux"
    if undecided and only_compilers(plugins(), os.environ) and not has_accelerator():
        os.environ["JAX_PLATFORMS"] = "cpu"
