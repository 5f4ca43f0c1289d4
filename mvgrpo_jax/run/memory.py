"""Memory of a run: its high-water marks, and what is said when a device has not enough."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel.mesh import islands
from mvgrpo_jax.parallel.program import named_by
from mvgrpo_jax.planning import hardware
from mvgrpo_jax.planning.hardware import GIB
from mvgrpo_jax.planning.remedies import remedies
from mvgrpo_jax.run.build import Outline

# One of them stands in the error; what is given the result of a program that failed has an error of another kind.
EXHAUSTED = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")
SEARCH_S = 600.0  # that `plan` may take to find a setting that fits
# What the runtimes of CPU, GPU and TPU say of the memory that they could not get: bytes, or a number with a unit.
ASKED = re.compile(r"allocat\w* (\d+) bytes|allocat\w* ([\d.]+)\s?([KMGT])i?B?\b|Used ([\d.]+)([KMGT])i?B? of", re.IGNORECASE)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def high_water() -> dict[str, float]:
    """memory/host_gib: the most that was resident in this process; memory/device_gib: the most in use on one of its devices,
    where their runtime says."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    used = [stats["peak_bytes_in_use"] for d in jax.local_devices() if "peak_bytes_in_use" in (stats := d.memory_stats() or {})]
    return {"memory/host_gib": peak / GIB} | ({"memory/device_gib": max(used) / GIB} if used else {})


@contextlib.contextmanager
def explained(outlined: Outline, workdir: Path, doing: Callable[[], str]) -> Iterator[None]:
    """Makes a UserError of a device's out-of-memory error that ends a run, in the compiler or in a program. doing(): the stage
    that the run is in."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not any(words in str(error) for words in EXHAUSTED):
            raise
        raise UserError(message(outlined, workdir, doing(), error)) from error


def message(outlined: Outline, workdir: Path, stage: str, error: Exception) -> str:
    """Which program asked for how much of what, and the setting that `plan` would change."""
    devices, program = list(outlined.mesh.devices.flat), named_by(error)
    wanted, size = asked(str(error)), hardware.memory(devices[0])
    what = f"{wanted / GIB:.2f} GiB ({wanted:,} bytes)" if wanted else "more than there is"
    of = f", which has {size / GIB:.1f} GiB" if size else ""
    who = f"the program {program!r} asked for" if program else "asked for:"
    lines = [f"out of memory ({stage}): {who} {what} on {devices[0].device_kind}{of}"]
    tried = remedies(outlined.config, outlined.mesh.shape)
    settings = "; ".join(text for text, _ in tried) or "none is left: use more devices or a smaller picture"
    lines.append(f"settings that need less, from the cheapest in time to the dearest: {settings}")
    if topology := hardware.topology_of(islands(devices)):
        command = ["-m", "mvgrpo_jax.plan", f"--config={workdir}/config.json", f"--topology={topology}"]
        lines.append(f"which of them is enough: python {' '.join(command)}")
        if jax.process_count() == 1 and tried:  # in a job the others would wait
            lines.append(searched([*command, *([f"--program={program}"] if program else [])]))
    return "\n".join(lines)


def asked(text: str) -> int:
    """The bytes that an error of the runtime names, 0 where it names none."""
    if not (found := ASKED.search(text)):
        return 0
    plain, number, unit, used, unit_of_used = found.groups()
    return int(plain) if plain else round(float(number or used) * UNITS[(unit or unit_of_used).upper()])


def searched(command: list[str]) -> str:
    """What `plan` finds, in a process of its own that sees no device: its compilers take an environment that is set before jax
    begins, and libtpu ends a process at flags of XLA that it does not know."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        try:
            done = subprocess.run(
                [sys.executable, *command, f"--json={file}"], capture_output=True, text=True, timeout=SEARCH_S, env=environment
            )
        except subprocess.TimeoutExpired:
            return f"plan found none of them within {SEARCH_S:.0f} s"
        if not file.exists():
            return f"plan could not tell ({(done.stderr.strip().splitlines() or ['it said nothing'])[-1]})"
        facts = json.loads(file.read_text())
    if facts["fits"]:
        return "plan expects this to fit: look for what else is in that memory, or let plan suppose less of it, --memory=GIB"
    return f"plan's search: {facts['nearest']['setting']}"
