"""Types of command-line arguments, for argparse: what does not read as one is refused with what was expected."""

from __future__ import annotations

import argparse
import math

from mvgrpo_jax.core.seeds import SEEDS


def _integer(text: str, low: int, expected: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if value < low:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
    return value


def positive(text: str) -> int:
    """An integer of at least 1."""
    return _integer(text, 1, "an integer of at least 1")


def natural(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, 0, "an integer of at least 0")


def seed(text: str) -> int:
    """An integer from 0 to 2^64 - 1."""
    expected = f"an integer from 0 to {SEEDS - 1}"
    value = _integer(text, 0, expected)
    if value >= SEEDS:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
    return value


def finite(text: str) -> float:
    """A number that is neither infinite nor not-a-number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text}")
    return value


def which_weights(parser: argparse.ArgumentParser) -> None:
    """Adds --step and --best, which say what weights of a run are meant; one of them at most."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=natural, help="iteration of the checkpoint; default: the newest")
    which.add_argument("--best", action="store_true", help="the weights that the run's evaluation liked most")


def processes(parser: argparse.ArgumentParser) -> None:
    """Adds what says how the processes of a job find each other, the same flags as of a training run."""
    group = parser.add_argument_group("a job of several processes")
    group.add_argument("--distributed", action="store_true", help="join those of a TPU, SLURM or Kubernetes job")
    group.add_argument("--coordinator", default="", help="elsewhere: HOST:PORT of process 0")
    group.add_argument("--processes", type=positive, default=0, help="with --coordinator: how many there are")
    group.add_argument("--process_id", type=natural, default=-1, help="with --coordinator: the number of this one, from 0")


def joins(options: argparse.Namespace) -> bool:
    """Whether any flag of `processes` was given."""
    return options.distributed or bool(options.coordinator) or options.processes > 0 or options.process_id >= 0


def level(text: str) -> float:
    """A finite number of at least 0."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, got {text}")
    return value
