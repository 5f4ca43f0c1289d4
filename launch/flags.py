"""Flags of XLA, libtpu, NCCL and CUDA for a chip, as lines that a shell evaluates:

    FLAGS=$(python -m launch.flags --chip v5p) && eval "$FLAGS"
    python -m launch.flags --chip h200 --set xla_gpu_all_gather_combine_threshold_bytes=2147483648 --set NCCL_NVLS_ENABLE=
    python -m launch.flags --chip v6e --table                                   # with the reason of each

What stands in the environment already is kept and wins over the table, --set wins over both; an empty value leaves a flag out.
A name that begins with xla_ or megascale_ is a flag of its chip's list (LIBTPU_INIT_ARGS or XLA_FLAGS), any other a variable.
Lists are printed on one line: versions of libtpu end at a backslash. A run prints what it finds at its start.

Every flag was given to the compilers of jax 0.10.2 and libtpu 0.0.52, for its chip (tests/launch/test_flags.py): XLA ends the
process at a name that it does not know, and libtpu 0.0.52 refuses some that are in wide use. Left out are the switches of
asynchronous collectives and of collective fusion: they left the compiled program as it was, or, fused all-gathers on v5p and
v6e, are refused. None was timed on its chip.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from mvgrpo_jax.errors import UserError, did_you_mean, reports_errors

TPUS, GPUS = ("v5e", "v5p", "v6e"), ("h100", "h200")
CHIPS = (*TPUS, *GPUS)
LIST_OF = dict.fromkeys(TPUS, "LIBTPU_INIT_ARGS") | dict.fromkeys(GPUS, "XLA_FLAGS")
IN_A_LIST = ("xla_", "megascale_")


class Flag(NamedTuple):
    """slices: it is for runs over several TPU slices alone."""

    name: str
    value: str
    chips: tuple[str, ...]
    reason: str
    slices: bool = False


TABLE = (
    Flag(
        "xla_tpu_scoped_vmem_limit_kib",
        "98304",
        TPUS,
        "more of the fast memory for a fusion: a stack of layers 3072 wide, cut by fsdp, moves 15 % (v5e), 14 % (v5p) and 24 % "
        "(v6e) fewer bytes by the compiler's count; MaxText's value for dense models",
    ),
    Flag(
        "xla_tpu_enable_data_parallel_all_reduce_opt",
        "true",
        TPUS,
        "gradients cross the data centre's network while the backward pass goes on",
        slices=True,
    ),
    Flag(
        "xla_tpu_data_parallel_opt_different_sized_ops",
        "true",
        TPUS,
        "the same for gradients of unequal sizes, as adapters and blocks of two kinds have",
        slices=True,
    ),
    Flag(
        "JAX_OPTIMIZATION_LEVEL",
        "O1",
        GPUS,
        "XLA's latency-hiding scheduler, pipelined collectives, model of NVLink and network: weights are gathered during the "
        "layer before",
    ),
    Flag(
        "xla_gpu_all_gather_combine_threshold_bytes",
        "1073741824",
        GPUS,
        "at least one layer's weights in one gather: a double block of FLUX.1-dev is 340 M, 0.63 GiB in bfloat16",
    ),
    Flag(
        "xla_gpu_reduce_scatter_combine_threshold_bytes",
        "1073741824",
        GPUS,
        "the same for its gradients",
    ),
    Flag(
        "xla_gpu_all_reduce_combine_threshold_bytes",
        "134217728",
        GPUS,
        "gradients between nodes, and of adapters, in pieces of 128 MiB: large enough for the network, small enough to begin "
        "before the backward pass ends",
    ),
    Flag(
        "CUDA_DEVICE_MAX_CONNECTIONS",
        "1",
        GPUS,
        "Hopper starts collectives in the order in which they were issued, beside the matrix products (not for Blackwell)",
    ),
    Flag(
        "NCCL_NVLS_ENABLE",
        "1",
        GPUS,
        "the NVLink switches of an eight-GPU box add up reductions; takes some memory beside XLA's",
    ),
    Flag(
        "XLA_PYTHON_CLIENT_MEM_FRACTION",
        "0.9",
        GPUS,
        "of a GPU's memory for XLA; the rest is for NCCL, cuDNN and the context, which `plan` counts with 6 GiB",
    ),
)


def chosen(chip: str, slices: int = 1) -> list[Flag]:
    """The rows of a chip. UserError where it is none of CHIPS."""
    if chip not in CHIPS:
        raise UserError(f"--chip {chip}: expected one of {', '.join(CHIPS)}.{did_you_mean(chip, CHIPS)}")
    return [flag for flag in TABLE if chip in flag.chips and (slices > 1 or not flag.slices)]


def read(words: list[str]) -> dict[str, str]:
    """NAME=VALUE words as a dictionary. UserError where one is no such."""
    out = {}
    for word in words:
        name, equals, value = word.lstrip("-").partition("=")
        if not equals or not name.replace("_", "").isalnum() or any(c in value for c in "\n\\"):
            raise UserError(f"--set {word}: expected NAME=VALUE in one line without a backslash, as NCCL_NVLS_ENABLE=0")
        out[name] = value
    return out


def variables(chip: str, slices: int, given: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Variable -> value for a run on a chip. given: of --set; environment: what is set already."""
    flags, own = {}, {}
    for flag in chosen(chip, slices):
        (flags if flag.name.startswith(IN_A_LIST) else own)[flag.name] = flag.value
    for word in environment.get(LIST_OF[chip], "").split():
        name, _, value = word.removeprefix("--").partition("=")
        flags[name] = value or "true"
    own |= {name: environment[name] for name in own if environment.get(name)}
    for name, value in given.items():
        (flags if name.startswith(IN_A_LIST) else own)[name] = value
    line = " ".join(f"--{name}={value}" for name, value in flags.items() if value)
    return {LIST_OF[chip]: line} | own


def exports(values: Mapping[str, str]) -> str:
    """`export` or, of an empty value, `unset` lines."""
    return "\n".join(f"export {k}={shlex.quote(v)}" if v else f"unset {k}" for k, v in values.items())


def markdown(chips: tuple[str, ...] = CHIPS) -> str:
    """The table with the reasons, as docs/pods.md shows it."""
    lines = ["| flag | value | chips | why |", "|---|---|---|---|"]
    for flag in TABLE:
        if any(chip in chips for chip in flag.chips):
            where = ", ".join(flag.chips) + (", several slices" if flag.slices else "")
            lines.append(f"| `{flag.name}` | {flag.value} | {where} | {flag.reason} |")
    return "\n".join(lines)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m launch.flags", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chip", default="", help=", ".join(CHIPS))
    parser.add_argument("--slices", type=int, default=1, help="TPU slices of the run (default: 1)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="instead of the table's value")
    parser.add_argument("--table", action="store_true", help="the table with its reasons, of --chip or of all")
    options = parser.parse_args(argv)
    if options.table:
        chosen(options.chip or CHIPS[0])
        print(markdown((options.chip,) if options.chip else CHIPS))
        return
    print(exports(variables(options.chip, options.slices, read(options.set), os.environ)))


if __name__ == "__main__":
    main()
