"""Timing of peers side by side on a CPU: interleaved rounds, a large product for scale, how disturbed it was, a record.

Whoever compares runs every arm once in every round, so that what disturbs the machine meets all of them, and reports medians
over rounds; a ratio is the median of the rounds' own ratios. On a machine that others use, `--core N` keeps both sides to one
processor and counts its time instead of the clock's: threads that wait for each other then cost nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "bench"
TUNABLES = "GLIBC_TUNABLES"
HUGE_PAGES = "glibc.malloc.hugetlb=1"
QUIET = 0.05  # share of the machine that others may use before a run counts as disturbed

Seconds = dict[str, list[float]]


clock = time.perf_counter


def begin() -> None:
    """To be called before anything large is imported. Starts this script anew, once, with the setting of glibc that the
    Makefile gives to runs, which helps both sides; obeys --core."""
    global clock
    os.environ["JAX_PLATFORMS"] = (
        "cpu"  # where the compilers of the extra `plan` are, jax would look for their devices, for minutes
    )
    core = sys.argv[sys.argv.index("--core") + 1] if "--core" in sys.argv[:-1] else ""
    if TUNABLES not in os.environ and platform.system() == "Linux":
        threads = {"OMP_NUM_THREADS": "1"} if core else {}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {TUNABLES: HUGE_PAGES} | threads)
    if core.isdigit():
        os.sched_setaffinity(0, {int(core)})
        clock = time.process_time


def add_arguments(parser: argparse.ArgumentParser, rounds: int, seconds: float, name: str) -> None:
    """What every comparison has: --rounds, --seconds, --core, --out."""
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=seconds, help="of a row, after which no further round begins")
    parser.add_argument("--core", type=int, help="keep to this processor and count its time, on a machine that others use")
    parser.add_argument("--out", type=Path, default=FOLDER / f"{name}.json")


def interleaved(arms: dict[str, Callable[[], object]], rounds: int, warm: int = 1, most: float = float("inf")) -> Seconds:
    """Seconds of each arm in each round, after `warm` rounds that do not count. An arm returns when its work is done.

    Arms run in the order given, so that one may use what another made. most: seconds after which no round begins; at least
    one round is measured.
    """
    for _ in range(warm):
        for call in arms.values():
            call()
    found: Seconds = {name: [] for name in arms}
    end = time.monotonic() + most
    for number in range(rounds):
        if number and time.monotonic() > end:
            break
        for name, call in arms.items():
            began = clock()
            call()
            found[name].append(clock() - began)
    return found


def total(seconds: Seconds, *names: str) -> list[float]:
    """The sum of some arms in each round."""
    return [sum(row) for row in zip(*(seconds[name] for name in names), strict=True)]


def ratio(peer: list[float], ours: list[float]) -> float:
    """The median over rounds of peer / ours."""
    return statistics.median(p / o for p, o in zip(peer, ours, strict=True))


def products(size: int = 1536) -> tuple[dict[str, Callable[[], object]], int]:
    """A float32 product of size^3 in jax and in torch as arms of a round, and its operations: the ceiling of all others."""
    import jax
    import torch

    a = jax.random.normal(jax.random.key(0), (size, size))
    b, run = torch.randn(size, size), jax.jit(lambda a: a @ a)
    return {"product, jax": lambda: run(a).block_until_ready(), "product, torch": lambda: b @ b}, 2 * size**3


class Disturbance:
    """The share of the machine's processors that other programs used inside the block (`share`, 0 to 1)."""

    def __enter__(self) -> Disturbance:
        self._began, self._own, self._busy = time.perf_counter(), _own(), _busy()
        return self

    def __exit__(self, *error) -> None:
        spent = time.perf_counter() - self._began
        others = (_busy() - self._busy) - (_own() - self._own)
        self.share = max(others, 0.0) / (spent * os.cpu_count())


def _busy() -> float:
    """Seconds that all processors worked since the start, stolen ones among them; 0 where the kernel does not say."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _, _, irq, soft, steal = map(int, path.read_text().split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Seconds that this process and its finished children worked."""
    return sum(os.times()[:4])


def machine() -> dict:
    """What the figures were measured on and with."""
    import importlib.metadata as metadata

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = named[0] if named else model
    versions = {}
    for package in ("jax", "torch", "diffusers", "transformers"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {"processor": model, "processors": os.cpu_count(), TUNABLES: os.environ.get(TUNABLES, "")} | versions


def record(path: Path, key: str, facts: dict, share: float) -> None:
    """Adds a measurement to a JSON file under its key, with the command, the date and the machine. share: of the processors
    that others used meanwhile."""
    rows = json.loads(path.read_text()) if path.exists() else {}
    command = " ".join(["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]])
    of = "processor time on one core" if clock is time.process_time else "time"
    about = {"command": command, "date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine(), "seconds_are": of}
    rows[key] = about | {"others_used": round(share, 3), "disturbed": share > QUIET} | facts
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, indent=1) + "\n")


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """Markdown; numbers with three digits."""
    cell = lambda x: f"{x:.3g}" if isinstance(x, float) else str(x)
    lines = [head, ("---",) * len(head), *(tuple(map(cell, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
