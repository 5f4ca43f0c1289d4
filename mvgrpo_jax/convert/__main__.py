"""python -m mvgrpo_jax.convert --src DIR --dst DIR [--dtype float32|bfloat16]

Reads a FluxPipeline folder into our parameter trees, with every key checked, and writes it as one that diffusers loads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ml_dtypes
import numpy as np

from mvgrpo_jax import pipeline as pipelines
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.models.module import count

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mvgrpo_jax.convert", description=__doc__)
    parser.add_argument("--src", type=Path, required=True, help="FluxPipeline folder, or flux-nano (embedded)")
    parser.add_argument("--dst", type=Path, required=True)
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="of the written weights; default: the source's")
    options = parser.parse_args(argv)
    if options.dst.exists() and options.src.exists() and options.dst.samefile(options.src):
        raise UserError(f"--dst {options.dst} is --src itself; choose another folder")
    pipeline = pipelines.load(options.src)
    pipelines.save(pipeline, options.dst, dtype=DTYPES.get(options.dtype))
    for name, params in pipeline.params.items():
        print(f"{name}: {count(params):,} parameters")
    print(f"written to {options.dst}")


if __name__ == "__main__":
    main()
