"""Who of a job's processes is at work: what each said last, and when it is time to end the job."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from mvgrpo_jax.errors import AGAIN


class Said(NamedTuple):
    """What a process says of itself. beats: grows while it lives. host: its machine. stage: what it does, the steps-th thing
    that it does. left: it ended well. failed: the message of the error that ended it, status its exit status; sure: that
    error cannot come of another process's death."""

    beats: int
    host: str
    stage: str
    steps: int
    left: bool = False
    failed: str = ""
    status: int = 1
    sure: bool = False


class Verdict(NamedTuple):
    """Why a job ends, and with which exit status."""

    message: str
    status: int


@dataclasses.dataclass
class _Known:
    said: Said
    heard: float  # seconds: when what it said last changed
    moved: float  # when its steps last changed
    failed: float | None = None  # when it first said that it failed


class Attendance:
    """Process `me` keeps it of all. silence: seconds without a word after which a process counts as dead; standstill: seconds
    without a step after which the job counts as hung, 0 for never. Times are seconds of one clock."""

    def __init__(self, me: int, silence: float, standstill: float, now: float):
        self.me, self.silence, self.standstill = me, silence, standstill
        self.known: dict[int, _Known] = {}
        self.listened = now  # when the others could last be heard

    def hear(self, everyone: dict[int, Said], now: float) -> None:
        """Takes down what all processes said last, by their numbers."""
        self.listened = now
        for process, said in everyone.items():
            before = self.known.get(process)
            if before is None:
                before = self.known[process] = _Known(said, now, now)
            if said.beats != before.said.beats:
                before.heard = now
            if said.steps != before.said.steps:
                before.moved = now
            if said.failed and before.failed is None:
                before.failed = now
            before.said = said

    def verdict(self, now: float, cut_off: bool = False) -> Verdict | None:
        """Why the job ends, None while it goes on. cut_off: process 0, through which all talk, was found gone.

        A process that says why it failed may be the victim of one that died without a word: it is believed at once when it
        is sure, else when a dead one would have been missed. One that failed itself blames no other failure.
        """
        others = {p: known for p, known in self.known.items() if p != self.me and not known.said.left}
        victim = self.me in self.known and self.known[self.me].said.failed
        for process, known in others.items():
            if known.said.failed and not victim and (known.said.sure or now - known.failed > 1.2 * self.silence):
                return Verdict(f"{self._named(process)} failed: {known.said.failed}", known.said.status)
        if 0 in others and (cut_off or now - self.listened > self.silence):
            return self._dead(0, now - self.listened)
        for process, known in others.items():
            if self.listened - known.heard > self.silence:
                return self._dead(process, self.listened - known.heard)
        return self._hung(now)

    def _dead(self, process: int, seconds: float) -> Verdict:
        return Verdict(
            f"{self._named(process)} died or hangs, or its machine or network does: last heard {seconds:.0f} s ago, at "
            f"{self.known[process].said.stage}",
            AGAIN,
        )

    def _hung(self, now: float) -> Verdict | None:
        working = {p: known for p, known in self.known.items() if not known.said.left}
        if not self.standstill or not working or now - max(k.moved for k in working.values()) <= self.standstill:
            return None
        last = min(known.said.steps for known in working.values())
        behind = [p for p, known in working.items() if known.said.steps == last]
        who = f"{self._named(behind[0])} hangs" if len(behind) == 1 else f"{len(behind)} of {len(working)} processes hang"
        return Verdict(
            f"{who} at {self.known[behind[0]].said.stage}: no process of the job went on for {self.standstill:g} s; "
            "a stage that takes longer needs a higher config.watch.standstill_s",
            AGAIN,
        )

    def _named(self, process: int) -> str:
        return f"process {process} on {self.known[process].said.host}"
