"""Which mesh a run gets on which hardware, and which device stands where on it."""

import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.mesh import Topology, check_devices, choose, islands, topology

GIB = 2**30
BASE = int(31.4 * GIB)  # FLUX.1-dev with its text encoders, bfloat16


@pytest.mark.parametrize(
    "where, base, memory, sizes, words",
    [
        (Topology("cpu", 1, 8), 0, 0, (1, 1, 1), "one CPU device"),
        (Topology("cpu", 2, 4), 0, 0, (2, 4, 1), "only gradients cross processes"),
        (Topology("gpu", 1, 1), BASE, 135 * GIB, (1, 1, 1), "there is one device"),
        (Topology("gpu", 1, 8), 0, 135 * GIB, (1, 8, 1), "shared by 8 devices of a node"),
        (Topology("gpu", 2, 8), 0, 135 * GIB, (2, 8, 1), "only gradients cross nodes"),
        (Topology("gpu", 2, 8), BASE, 135 * GIB, (16, 1, 1), "31.4 GiB on each device of 135.0 GiB: nothing but adapters'"),
        (Topology("gpu", 2, 8), BASE, 73 * GIB, (16, 1, 1), "whole"),  # H100
        (Topology("gpu", 2, 8), BASE, 60 * GIB, (2, 8, 1), "only gradients"),  # over half of the memory
        (Topology("gpu", 2, 8), BASE, 0, (2, 8, 1), "only gradients"),  # memory unknown
        (Topology("tpu", 1, 64), 0, 95 * GIB, (1, 64, 1), "shared by 64 devices of a slice"),
        (Topology("tpu", 4, 64), 0, 95 * GIB, (4, 64, 1), "only gradients cross slices"),
        (Topology("tpu", 1, 256), 0, 15 * GIB, (4, 64, 1), "shared by 64 devices of a slice, more do not divide them"),
        (Topology("tpu", 1, 64), BASE, 31 * GIB, (1, 64, 1), "shared by 64"),
    ],
)
def test_the_mesh_of_a_topology(where, base, memory, sizes, words):
    choice = choose(where, 64, base, memory)
    assert tuple(choice.sizes.values()) == sizes and list(choice.sizes) == ["data", "fsdp", "tensor"]
    assert words in choice.reason


def test_islands_are_nodes_slices_and_processes():
    device = lambda platform, process, index: SimpleNamespace(platform=platform, process_index=process, slice_index=index)
    a_process_a_gpu = [device("gpu", i, i // 2) for i in (3, 0, 1, 2)]
    assert [[d.process_index for d in group] for group in islands(a_process_a_gpu)] == [[0, 1], [3, 2]]
    assert topology(islands(a_process_a_gpu)) == Topology("gpu", 2, 2)
    one_slice_of_two_hosts = [SimpleNamespace(platform="tpu", process_index=i) for i in (0, 1)]
    assert topology(islands(one_slice_of_two_hosts)) == Topology("tpu", 1, 2)
    assert topology(islands(jax.devices())) == Topology("cpu", 1, 8)
    with pytest.raises(UserError, match=r"nodes or slices of \[1, 2\] devices"):
        topology(islands([device("gpu", 0, 0), device("gpu", 1, 1), device("gpu", 2, 1)]))


def test_fewer_devices_than_expected():
    check_devices(0)
    check_devices(8)
    with pytest.raises(
        UserError, match="config.mesh.devices is 16, but 1 processes x 8 devices are there; start a process for"
    ):
        check_devices(16)


SCRIPT = """
import json
from mvgrpo_jax.planning import hardware
hardware.prepare_environment()
from configs import mvgrpo_flux, mvgrpo_flux_lora
from mvgrpo_jax import pipelines
from mvgrpo_jax.run import placement
pipeline, out = pipelines.published("FLUX.1-dev"), {}
for topology in ("h200:2x8", "v5e:4x4@2"):
    groups = hardware.islands(hardware.parse(topology)[0], hardware.devices(topology))
    number = {device: n for n, group in enumerate(groups) for device in group}
    for name, module in (("full", mvgrpo_flux), ("lora", mvgrpo_flux_lora)):
        config = module.get_config()
        config.prompts_per_iteration = 32
        mesh, _ = placement.place(config, pipeline, groups)
        rows = [sorted({number[d] for d in row.flat}) for row in mesh.devices]
        out[f"{topology} {name}"] = [list(mesh.shape.values()), rows if len(rows) < 5 else len(rows)]
print(json.dumps(out))
"""


def test_flux_on_described_hardware():
    """Replicas stand on whole nodes and slices; a base that a chip can hold is not cut."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "h200:2x8 full": [[2, 8, 1], [[0], [1]]],
        "h200:2x8 lora": [[16, 1, 1], 16],
        "v5e:4x4@2 full": [[2, 16, 1], [[0], [1]]],
        "v5e:4x4@2 lora": [[2, 16, 1], [[0], [1]]],
    }
