"""Starts of the run that bench/chaos.py strikes, and what each start left: statuses, messages, places that it entered."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.processes import start

SCRIPT = "from bench import chaos_job\nchaos_job.main(*ARGUMENTS)\n"
WAIT_S = 900.0  # for a start to end; one that takes longer hangs


@dataclasses.dataclass(frozen=True)
class Started:
    """What a start left. statuses: of each process. errors: what each wrote to its standard error. began: the iteration that it
    went on from. marks: (place, time) of each process."""

    statuses: list[int]
    errors: list[str]
    began: int
    marks: list[list[tuple[str, float]]]
    struck: float = 0.0  # seconds in the place before the blow, 0 where it came too late

    @property
    def finished(self) -> bool:
        return not any(self.statuses)

    @property
    def updates(self) -> int:
        """Iterations that were updated, from the run's first."""
        return self.began + max(sum(place == "update" for place, _ in marks) for marks in self.marks)

    def said(self, process: int) -> str:
        """The last line that a process wrote to its standard error: its error, or what is neither that nor progress."""
        lines = [re.split(r"\r", line)[-1].strip() for line in self.errors[process].splitlines()]
        lines = [line for line in lines if line and not re.search(r"\d+%\|", line)]
        ours = [line for line in lines if line.startswith("error: ")]
        return (ours or lines or [""])[-1]


@dataclasses.dataclass(frozen=True)
class Job:
    """A run in a folder: FOLDER/workdir, and beside it what its starts say. servers: of captions and of the judge."""

    folder: Path
    processes: int
    iterations: int
    servers: Sequence[str] = ()
    workdir: Path | None = None

    @property
    def place(self) -> Path:
        return self.workdir or self.folder / "workdir"

    def go(self, blow: Blow | None = None) -> Started:
        """Starts the run, or goes on with it, until its end; with a blow until that has come."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = len(list(self.folder.glob("*.marks.0")))
        names = [self.folder / f"{number:03d}" for _ in range(self.processes)]
        paths = [(name.with_suffix(f".{i}.out"), name.with_suffix(f".{i}.err")) for i, name in enumerate(names)]
        files = [(out.open("w"), err.open("w")) for out, err in paths]
        marks = self.folder / f"{number:03d}.marks"
        for i in range(self.processes):
            marks.with_suffix(f".marks.{i}").touch()
        running = start(
            SCRIPT,
            *(str(self.place), str(marks), str(self.iterations), *self.servers),
            processes=self.processes,
            outputs=files,
        )
        struck = blow(running, marks) if blow else 0.0
        statuses = ended(running)
        for pair in files:
            for file in pair:
                file.close()
        said = paths[0][0].read_text()
        found = re.search(r"going on from iteration (\d+)", said)
        return Started(
            statuses,
            [err.read_text() for _, err in paths],
            int(found[1]) if found else 0,
            [marks_of(marks, i) for i in range(self.processes)],
            struck,
        )


Blow = Callable[[list[subprocess.Popen], Path], float]


def ended(running: list[subprocess.Popen]) -> list[int]:
    """The statuses of processes once all have ended. One that does not is killed, and its status is that of a kill."""
    deadline = time.monotonic() + WAIT_S
    for process in running:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return [process.returncode for process in running]


def marks_of(marks: Path, process: int) -> list[tuple[str, float]]:
    lines = marks.with_suffix(f".marks.{process}").read_text().splitlines()
    return [(line.split()[0], float(line.split()[1])) for line in lines if len(line.split()) == 2]


def when(place: str, times: int, delay: float, victim: int, act: Callable[[subprocess.Popen], None]) -> Blow:
    """A blow: act(the victim) `delay` seconds after it has entered a place for so many times; none where it ends before."""

    def blow(running: list[subprocess.Popen], marks: Path) -> float:
        process, deadline = running[victim], time.monotonic() + WAIT_S
        while sum(name == place for name, _ in marks_of(marks, victim)) < times:
            if any(p.poll() is not None for p in running) or time.monotonic() > deadline:
                return 0.0
            time.sleep(0.002)
        time.sleep(delay)
        if process.poll() is not None:
            return 0.0
        act(process)
        return max(delay, 1e-4)

    return blow


def lengths(started: Started) -> dict[str, float]:
    """Seconds that a run stays in each place, the median; the writing of a checkpoint goes on until it is sealed."""
    out: dict[str, list[float]] = {}
    marks = started.marks[0]
    for i, (place, began) in enumerate(marks):
        until = [t for name, t in marks[i + 1 :] if place != "checkpoint" or name == "seal"]
        out.setdefault(place, []).append(until[0] - began if until else 1.0)
    return {place: float(np.median(found)) for place, found in out.items()}
