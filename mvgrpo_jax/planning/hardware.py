"""Accelerators that programs are compiled for without having one: chips, their figures, and topologies of them.

Figures are the vendors' published ones per chip: dense bfloat16 operations, memory size and bandwidth, and the bandwidth of
the link between chips in one direction. Peak figures; what a run reaches is a share of them.
"""

from __future__ import annotations

import dataclasses
import os
import re

from mvgrpo_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """memory: bytes a program may use; flops: bfloat16 per second; bandwidth, link, network: bytes per second of its memory,
    to its neighbours, and between hosts (0: the links go on)."""

    name: str
    platform: str
    memory: int
    flops: float
    bandwidth: float
    link: float
    network: float = 0.0
    # What a compiler without a device does not count: on GPUs the context, NCCL's buffers and cuDNN's workspaces.
    reserve: int = 0


CHIPS = {
    "v5p": Chip("TPU v5p", "tpu", int(95.73 * GIB), 459e12, 2.765e12, 600e9),
    "v5e": Chip("TPU v5e", "tpu", int(15.75 * GIB), 197e12, 0.819e12, 200e9),
    "v6e": Chip("TPU v6e", "tpu", int(31.25 * GIB), 918e12, 1.640e12, 448e9),
    "h200": Chip("NVIDIA H200 141GB HBM3e", "cuda", 151_397_597_184, 989e12, 4.8e12, 450e9, 50e9, 6 * GIB),
    "h100": Chip("NVIDIA H100 80GB HBM3", "cuda", 84_942_979_072, 989e12, 3.352e12, 450e9, 50e9, 6 * GIB),
}

# A text GpuTargetConfigProto, the Hopper part of XLA's own h200/h100 descriptions with CUDA 13 and cuDNN 9.12.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth} l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: {memory}
  shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability 9.0a"
  device_address_bits: 64 pcie_bandwidth: 34359738368 ecc_enabled: true name: "{name}"
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0" dnn_version: "9.12.0"
  device_interconnect_info {{ active_links: 18 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 patch: 0 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""


def prepare_environment() -> None:
    """To be called before jax is imported: no real backend but the CPU, and libtpu without asking for a machine's metadata."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    flags = os.environ.get("XLA_FLAGS", "")
    if "autotune" not in flags:  # tuning needs the device, and so does Triton to choose tiles
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false".strip()


def parse(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """'v5p:4x4x4' or 'h200:1x8' (nodes x GPUs) -> the chip and the sizes. UserError says what is known."""
    name, _, shape = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", shape) or 0 in (sizes := tuple(map(int, shape.split("x")))):
        raise UserError(
            f"--topology {topology}: expected CHIP:SIZES with a chip of {', '.join(CHIPS)}, as v5p:4x4x4, v5e:16x16, h200:1x8"
        )
    if CHIPS[name].platform == "cuda" and len(sizes) != 2:
        raise UserError(f"--topology {topology}: GPUs are given as NODESxGPUS, for example {name}:2x8")
    return CHIPS[name], sizes


def with_memory(chip: Chip, gib: float) -> Chip:
    """The chip where a program may use so many GiB, without a reserve. UserError unless they are above 0."""
    if gib <= 0:
        raise UserError(f"--memory must be above 0 GiB, got {gib}")
    return dataclasses.replace(chip, memory=int(gib * GIB), reserve=0)


def devices(topology: str) -> list:
    """The devices of a topology, for compilation only. UserError when the compiler's package is not installed."""
    from jax.experimental import topologies

    chip, sizes = parse(topology)
    try:
        if chip.platform == "tpu":
            return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
        config = _HOPPER.format(bandwidth=int(chip.bandwidth), memory=chip.memory, name=chip.name)
        _without_libcudnn()
        described = topologies.get_topology_desc(
            platform="cuda", target_config=config, topology="1x" + "x".join(map(str, sizes))
        )
        return list(described.devices)
    except Exception as error:  # the plugins raise types of their own
        raise UserError(
            f"--topology {topology}: cannot be described ({str(error).strip().splitlines()[0]}); the compilers come with "
            "pip install 'mvgrpo_jax[plan]'"
        ) from error


def _without_libcudnn() -> None:
    """JAX asks the installed cuDNN for its version before it lowers flash attention; a planning machine has none."""
    from jax._src.cudnn import fused_attention_stablehlo

    try:
        fused_attention_stablehlo.check_cudnn_version()
    except Exception:
        fused_attention_stablehlo.check_cudnn_version = lambda: 91200


def hosts(chip: Chip, sizes: tuple[int, ...]) -> int:
    """How many hosts' networks the links of a topology cross; 1 where the links reach everything."""
    return sizes[0] if chip.platform == "cuda" else 1
