"""Accelerators that programs are compiled for without having one: chips, their figures, and topologies of them.

Figures are the vendors' published ones per chip, peaks of which a run reaches a share: dense bfloat16 operations, memory size
and bandwidth, and bandwidths in one direction of both networks. Sources of the networks:
  TPU, inside a slice (ICI): cloud.google.com/tpu/docs/{v5p,v5e,v6e}, half of the bidirectional 1200, 400 and 800 GB/s a chip;
  TPU, between slices (DCN): the same pages: v5p 50 Gb/s a chip; v5e 6.4 Tb/s and v6e 25.6 Tb/s a pod of 256 chips;
  H100 and H200, inside a node: NVLink 4, half of the bidirectional 900 GB/s (NVIDIA's data sheets);
  H100 and H200, between nodes: one 400 Gb/s adapter a GPU, as in NVIDIA's DGX H100 and H200. Clouds have less or as much.
"""

from __future__ import annotations

import dataclasses
import os
import re

from mvgrpo_jax.errors import UserError

GIB = 2**30
MFU = 0.4  # share of the peak that matrix products are assumed to reach


@dataclasses.dataclass(frozen=True)
class Chip:
    """memory: bytes a program may use; flops: bfloat16 per second; bandwidth, link, network: bytes per second of its memory,
    inside a node or slice, and between them."""

    name: str
    platform: str
    memory: int
    flops: float
    bandwidth: float
    link: float
    network: float
    # What a compiler without a device does not count: on GPUs the context, NCCL's buffers and cuDNN's workspaces.
    reserve: int = 0


CHIPS = {
    "v5p": Chip("TPU v5p", "tpu", int(95.73 * GIB), 459e12, 2.765e12, 600e9, 6.25e9),
    "v5e": Chip("TPU v5e", "tpu", int(15.75 * GIB), 197e12, 0.819e12, 200e9, 3.125e9),
    "v6e": Chip("TPU v6e", "tpu", int(31.25 * GIB), 918e12, 1.640e12, 400e9, 12.5e9),
    "h200": Chip("NVIDIA H200 141GB HBM3e", "cuda", 151_397_597_184, 989e12, 4.8e12, 450e9, 50e9, 6 * GIB),
    "h100": Chip("NVIDIA H100 80GB HBM3", "cuda", 84_942_979_072, 989e12, 3.352e12, 450e9, 50e9, 6 * GIB),
}

# What JAX calls them where it is not the chip's own name.
KINDS = {
    "TPU v5": "v5p",
    "TPU v5 lite": "v5e",
    "TPU v6 lite": "v6e",
    "NVIDIA H200": "h200",
    "NVIDIA H100 80GB HBM3": "h100",
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


def chip_of(device) -> Chip | None:
    """The chip of one of JAX's devices, also of a described one; None where it is not known here."""
    names = {chip.name: chip for chip in CHIPS.values()} | {kind: CHIPS[name] for kind, name in KINDS.items()}
    return names.get(device.device_kind)


def memory(device) -> int:
    """Bytes that a program may use on a device; 0 where that is not known."""
    chip = chip_of(device)
    return chip.memory - chip.reserve if chip else (device.memory_stats() or {}).get("bytes_limit", 0)


def parse(topology: str) -> tuple[Chip, tuple[int, ...], int]:
    """'v5p:4x4x4', 'v5p:4x4x4@2' (two slices) or 'h200:1x8' (nodes x GPUs) -> the chip, the sizes, the number of slices.
    UserError says what is known."""
    name, _, rest = topology.partition(":")
    found = re.fullmatch(r"(\d+(?:x\d+)*)(?:@(\d+))?", rest)
    sizes = tuple(map(int, found[1].split("x"))) if found else (0,)
    slices = int(found[2] or 1) if found else 0
    if name not in CHIPS or 0 in (*sizes, slices):
        raise UserError(
            f"--topology {topology}: expected CHIP:SIZES with a chip of {', '.join(CHIPS)}, as v5p:4x4x4, v5e:16x16, h200:1x8; "
            "or CHIP:SIZES@SLICES for several TPU slices"
        )
    if CHIPS[name].platform == "cuda" and (len(sizes) != 2 or slices > 1):
        raise UserError(f"--topology {topology}: GPUs are given as NODESxGPUS, for example {name}:2x8")
    return CHIPS[name], sizes, slices


def topology_of(groups: list[list]) -> str:
    """What `parse` calls the devices of islands, '' where their chip is not known here."""
    if not (chip := chip_of(groups[0][0])):
        return ""
    name = next(name for name, known in CHIPS.items() if known == chip)
    if chip.platform == "cuda":
        return f"{name}:{len(groups)}x{len(groups[0])}"
    places = list(zip(*(device.coords for device in groups[0])))
    sizes = [max(axis) - min(axis) + 1 for axis in places][: 3 if name == "v5p" else 2]  # v5e and v6e are planes
    return f"{name}:{'x'.join(map(str, sizes))}" + (f"@{len(groups)}" if len(groups) > 1 else "")


def with_memory(chip: Chip, gib: float) -> Chip:
    """The chip where a program may use so many GiB, without a reserve. UserError unless they are above 0."""
    if gib <= 0:
        raise UserError(f"--memory must be above 0 GiB, got {gib}")
    return dataclasses.replace(chip, memory=int(gib * GIB), reserve=0)


def devices(topology: str) -> list:
    """The devices of a topology, for compilation only. UserError when the compiler's package is not installed."""
    from jax.experimental import topologies

    chip, sizes, slices = parse(topology)
    try:
        if chip.platform == "tpu":
            several = {"num_slices": slices} if slices > 1 else {}
            name = topology.partition("@")[0]
            return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **several).devices)
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


def islands(chip: Chip, devices: list) -> list[list]:
    """The devices of each node or slice (parallel.mesh); described GPUs tell their node by the number of its process."""
    from mvgrpo_jax.parallel import mesh  # and jax with it, whose environment is prepared by then

    if chip.platform == "tpu":
        return mesh.islands(devices)
    nodes = sorted({device.process_index for device in devices})
    return [[device for device in devices if device.process_index == node] for node in nodes]


def _without_libcudnn() -> None:
    """JAX asks the installed cuDNN for its version before it lowers flash attention; a planning machine has none."""
    from jax._src.cudnn import fused_attention_stablehlo

    try:
        fused_attention_stablehlo.check_cudnn_version()
    except Exception:
        fused_attention_stablehlo.check_cudnn_version = lambda: 91200
