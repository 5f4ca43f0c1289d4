"""Memory and speed of weight conversion at FLUX.1-dev's full size: `python bench/convert_memory.py --work DIR`.

Makes sparse files with the names, shapes and sizes of the true checkpoint (all zeros, a few KiB on disk), then, each in a
process of its own whose largest resident size the kernel reports (bench/load.py measures the way onto devices):

  import    original single file -> diffusers folder, through the command that users run (writes 23.8 GB to DIR, removed after)
  peer      safetensors.numpy.load_file of one shard, the usual way, for comparison
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

GIB = 2**30
LIMIT = 4 * GIB


def sparse(path: Path, items) -> int:
    """A safetensors file of zeros; returns its size."""
    from mvgrpo_jax.convert.writing import _header

    header = _header(items, {"format": "pt"})
    size = len(header) + sum(d.itemsize * _count(s) for _, d, s in items)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(size)
    return size


def _count(shape) -> int:
    out = 1
    for n in shape:
        out *= n
    return out


def make_files(work: Path, blocks: tuple[int, int] = (19, 38), original: bool = True) -> int:
    """Bytes of a transformer of FLUX.1-dev's width, with so many blocks of two streams and of one: a folder of diffusers and,
    unless `original` is False, a file in the original layout."""
    from mvgrpo_jax.convert.configs import component_config
    from mvgrpo_jax.convert.naming import entries
    from mvgrpo_jax.convert.original import ToOriginal, flux_layout
    from mvgrpo_jax.convert.sources import DTYPES, Described
    from mvgrpo_jax.convert.writing import plan_shards
    from mvgrpo_jax.models import flux

    config = flux.FluxConfig(num_layers=blocks[0], num_single_layers=blocks[1])
    ours = Described({n: e.shape for n, e in entries(flux.flux(config)).items()}, DTYPES["BF16"])
    if original:
        file = ToOriginal(ours, flux_layout(config))
        sparse(work / "flux1-dev.safetensors", [(n, file.dtype(n), file.shape(n)) for n in file.names()])
    shards = plan_shards([(n, ours.dtype(n), s) for n, s in ours.shapes.items()], 9_900_000_000)
    table, folder, size = {}, work / "transformer", 0
    for i, part in enumerate(shards):
        name = f"diffusion_pytorch_model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        size += sparse(folder / name, part)
        table |= {n: name for n, _, _ in part}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    (folder / "config.json").write_text(json.dumps(component_config(config)))
    return size


def peer(work: Path) -> None:
    import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
    from safetensors.numpy import load_file

    shard = sorted((work / "transformer").glob("*.safetensors"))[0]
    arrays = load_file(shard)
    print(json.dumps({"bytes": sum(a.nbytes for a in arrays.values())}))


def measured(command: list[str]) -> tuple[float, float, str]:
    """(seconds, largest resident GiB, stdout) of a command."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / GIB, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for 24 GB of output, emptied afterwards")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("peer",), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        return peer(options.work)
    size = make_files(options.work)
    me, out = [sys.executable, __file__, "--work", str(options.work)], options.work / "out"
    convert = [sys.executable, "-m", "mvgrpo_jax.convert", "import", "--src", str(options.work / "flux1-dev.safetensors")]
    rows = {"import": measured([*convert, "--dst", str(out)])}
    shutil.rmtree(out)
    rows["peer"] = measured([*me, "--only", "peer"])
    peer_bytes = json.loads(rows["peer"][2].splitlines()[-1])["bytes"]
    print(f"FLUX.1-dev's transformer: {size / 1e9:.1f} GB, bfloat16, sparse files")
    print(f"{'':<8}{'GB read':>9}{'seconds':>9}{'GB/s':>7}{'resident GiB':>14}{'of the file':>13}")
    for name, (seconds, resident, _) in rows.items():
        gb = (peer_bytes if name == "peer" else size) / 1e9
        print(f"{name:<8}{gb:>9.1f}{seconds:>9.1f}{gb / seconds:>7.2f}{resident:>14.2f}{resident * GIB / gb / 1e9:>12.0%}")
    print(f"host memory within {LIMIT / GIB:.0f} GiB: {'yes' if rows['import'][1] * GIB < LIMIT else 'NO'}")
    if options.json:
        facts = {n: {"seconds": round(s, 1), "resident_gib": round(r, 2)} for n, (s, r, _) in rows.items()}
        options.json.write_text(json.dumps({"bytes": size} | facts, indent=2) + "\n")
    shutil.rmtree(options.work / "transformer")
    (options.work / "flux1-dev.safetensors").unlink()


if __name__ == "__main__":
    main()
