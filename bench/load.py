"""Loading weights onto eight host devices: `python bench/load.py --work DIR`.

  sparse  files with the names, shapes and sizes of FLUX.1-dev's transformer, all zeros, a few KiB on disk; a leaf is dropped
          when it is complete. What the disk takes is left out, so GB/s is what the program allows. Meshes that hold copies read
          fewer blocks, because the copies of a leaf stand in this machine's memory.
  real    random numbers in files of a few blocks, just written; everything is kept.

Beside ours: safetensors' own readers, which end in the host's memory, and orbax's restore of the same arrays onto the same
devices. Each runs in a process of its own. read/file is the kernel's count of bytes read by system calls; it does not count
what is mapped. Resident is the largest the process was, beyond is without what it was before and what stands for the devices.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.convert_memory import GIB, make_files  # noqa: E402

# What is freed goes back to the system at once, so that resident is what is held.
EIGHT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "MALLOC_MMAP_THRESHOLD_": str(2**20)}
FULL, FEW = (19, 38), (1, 2)  # blocks of two streams and of one


def network(blocks: tuple[int, int]):
    from mvgrpo_jax.models import flux

    return flux.flux(dataclasses.replace(flux.FluxConfig(), num_layers=blocks[0], num_single_layers=blocks[1]))


def fill(folder: Path) -> None:
    """Writes random finite bfloat16 numbers over the zeros of files."""
    from mvgrpo_jax.convert.sources import stored

    rng = np.random.default_rng(0)
    for path in folder.glob("*.safetensors"):
        with path.open("r+b") as file:
            for tensor in stored(path).values():
                file.seek(tensor.offset)
                file.write((rng.integers(0, 2**16, tensor.nbytes // 2, np.uint16) & 0xBFFF).tobytes())


def ours(folder: Path, blocks, mesh: tuple[int, int, int], drop: bool) -> int:
    """Bytes that stand for the devices' memory at the fullest."""
    import jax

    from mvgrpo_jax.convert.weights import import_params
    from mvgrpo_jax.parallel.mesh import make_mesh
    from mvgrpo_jax.parallel.rules import placements

    net, sizes = network(blocks), []

    def keep(path, array):
        sizes.append(sum(part.data.nbytes for part in array.addressable_shards))
        return None if drop else array

    params = import_params(net, folder, sharding=placements(net, make_mesh(*mesh)), keep=keep)
    jax.block_until_ready(params)
    return max(sizes) if drop else sum(sizes)


def safetensors(folder: Path, drop: bool) -> int:
    """Every tensor, copied out of the map: one at a time, or all."""
    import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
    from safetensors import safe_open

    kept, size = {}, 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():
                kept[name] = file.get_tensor(name)
                size += 0 if drop else kept[name].nbytes
                if drop:
                    kept.clear()
    return size


def orbax(folder: Path, blocks, mesh: tuple[int, int, int]) -> int:
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    from mvgrpo_jax.parallel import rules
    from mvgrpo_jax.parallel.mesh import make_mesh

    net = network(blocks)
    places = rules.parameter_shardings(net.shapes, make_mesh(*mesh), tuple(net.stacks))
    like = jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=where), net.shapes, places)
    with ocp.StandardCheckpointer() as store:
        params = jax.block_until_ready(store.restore(folder.absolute() / "orbax", like))
    return sum(part.data.nbytes for x in jax.tree.leaves(params) for part in x.addressable_shards)


def save_orbax(folder: Path, blocks) -> None:
    """Keeps what a folder holds beside it, as orbax does."""
    import orbax.checkpoint as ocp

    from mvgrpo_jax.convert.weights import import_params

    with ocp.StandardCheckpointer() as store:
        store.save(folder.absolute() / "orbax", import_params(network(blocks), folder))


def measure(function, *arguments) -> dict:
    """What a load takes; import and start of jax are left out."""
    import jax
    import orbax.checkpoint  # noqa: F401

    from mvgrpo_jax import pipelines  # noqa: F401

    jax.devices()
    count = lambda: int(Path("/proc/self/io").read_text().split()[1])
    largest = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before, read, began = largest(), count(), time.perf_counter()
    devices = function(*arguments)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "read": count() - read, "resident": largest(), "beyond": largest() - before - devices}


def alone(*call) -> dict:
    """One measurement, or whatever else `call` names, in a process of its own."""
    command = [sys.executable, str(ROOT / "bench" / "load.py"), "--call", json.dumps(call)]
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | EIGHT).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the files, which are deleted afterwards; 3 GB of them real")
    parser.add_argument("--scale", type=float, default=1.0, help="share of FLUX.1-dev's blocks in the sparse files")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--call", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        name, folder, *rest = options.call
        if name == "save_orbax":
            return print(json.dumps(save_orbax(Path(folder), *rest)))
        return print(json.dumps(measure(globals()[name], Path(folder), *rest)))
    full = tuple(max(1, round(options.scale * n)) for n in FULL)
    one, copies, mixed = (1, 8, 1), (8, 1, 1), (2, 4, 1)
    rows = []

    def row(files: str, who: str, size: int, *call) -> None:
        facts = {"files": files, "who": who, "bytes": size} | alone(*call)
        ratio = "mapped" if call[0] == "safetensors" else f"{facts['read'] / size:.3f}"
        rates = f"{size / 1e9:.1f} | {facts['seconds']:.1f} | {size / 1e9 / facts['seconds']:.2f} | {ratio}"
        print(f"| {files} | {who} | {rates} | {facts['resident'] / GIB:.2f} | {facts['beyond'] / GIB:.2f} |", flush=True)
        rows.append(facts)

    print("| files | reader | GB | seconds | GB/s | read/file | resident GiB | beyond GiB |\n|---|---|---|---|---|---|---|---|")
    for blocks, meshes in ((full, (one,)), (FEW, (one, copies, mixed))):
        size, name = make_files(options.work / "sparse", blocks, original=False), f"sparse, {blocks[0]} + {blocks[1]} blocks"
        folder = str(options.work / "sparse" / "transformer")
        for mesh in meshes:
            row(name, f"ours, data {mesh[0]}, fsdp {mesh[1]}", size, "ours", folder, blocks, mesh, True)
        row(name, "safetensors, host only", size, "safetensors", folder, True)
        shutil.rmtree(options.work / "sparse")
    size, folder = make_files(options.work / "real", FEW, original=False), options.work / "real" / "transformer"
    fill(folder)
    alone("save_orbax", str(folder), FEW)
    name = f"real, {FEW[0]} + {FEW[1]} blocks"
    row(name, "ours, data 1, fsdp 8", size, "ours", str(folder), FEW, one, False)
    row(name, "orbax, data 1, fsdp 8", size, "orbax", str(folder), FEW, one)
    row(name, "safetensors, host only", size, "safetensors", str(folder), False)
    shutil.rmtree(options.work / "real")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
