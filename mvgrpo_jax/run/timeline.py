"""Who works when in an iteration, and how long the devices have nothing to do.

Every call of a program is an item of the devices' line, from when it was made or the one before it was done, to when its result
was there; a thread waits for results. Stages of the host, captions and judges are noted by those who wait for them. Times are
time.perf_counter()'s. Of several processes each has its own devices' line.
"""

from __future__ import annotations

import collections
import contextlib
import json
import queue
import threading
import time
from pathlib import Path
from typing import NamedTuple

from mvgrpo_jax.parallel import program
from mvgrpo_jax.run import lines

DEVICE = "devices"
KEPT = 20_000  # spans, many iterations' worth
FILE = "timeline.jsonl"


class Span(NamedTuple):
    line: str
    name: str
    start: float
    end: float


class Timeline:
    """Spans of the newest iterations. It listens while it is entered."""

    def __init__(self):
        self.spans: collections.deque[Span] = collections.deque(maxlen=KEPT)
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Timeline:
        thread = threading.Thread(target=self._wait, name="timeline", daemon=True)
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self._calls.put, None)
        self._stack.enter_context(program.observed(lambda *call: self._calls.put(call)))
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def note(self, line: str, name: str, start: float) -> None:
        """Something that began at `start` and ends now."""
        self.spans.append(Span(line, name, start, time.perf_counter()))

    def _wait(self) -> None:
        free = 0.0
        while call := self._calls.get():
            name, made, array = call
            # What failed, or was donated meanwhile, is not measured; whoever reads the result meets the error.
            with contextlib.suppress(RuntimeError):
                array.block_until_ready()
            del array, call
            done = time.perf_counter()
            self.spans.append(Span(DEVICE, name, max(made, free), done))
            free = done

    def between(self, start: float, end: float) -> list[Span]:
        """The spans that reach into a stretch of time, cut to it, in the order of their starts."""
        found = (s._replace(start=max(s.start, start), end=min(s.end, end)) for s in list(self.spans))
        return sorted((s for s in found if s.start < s.end), key=lambda s: s.start)

    def idle(self, start: float, end: float) -> float:
        """The share of a stretch of time in which the devices had nothing to do."""
        busy, reached = 0.0, start
        for span in self.between(start, end):
            if span.line == DEVICE:
                busy += max(0.0, span.end - max(span.start, reached))
                reached = max(reached, span.end)
        return max(0.0, 1.0 - busy / (end - start))


class Keeper:
    """Adds iterations to the workdir's timeline.jsonl, a line each: {"iteration", "seconds", "spans": [[line, name, start,
    end], ...]}, seconds from the iteration's beginning."""

    def __init__(self, workdir: Path, resumed_at: int):
        self.path = workdir / FILE
        self.kept = [json.dumps(row) for row in read(workdir) if row["iteration"] < resumed_at]
        self.file = None

    def write(self, number: int, spans: list[Span], start: float, end: float) -> None:
        if self.file is None:
            self.file = lines.writer(self.path, self.kept)
        rounded = [[s.line, s.name, round(s.start - start, 4), round(s.end - start, 4)] for s in spans]
        self.file.add(json.dumps({"iteration": number, "seconds": round(end - start, 4), "spans": rounded}))

    def close(self) -> None:
        if self.file:
            self.file.close()


def read(workdir: Path) -> list[dict]:
    """The lines of a run's timeline.jsonl; none where there is none, and without one that a kill cut off."""
    path, rows = workdir / FILE, []
    for line in lines.read(path) if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def draw(row: dict) -> bytes:
    """A PNG of an iteration's lines."""
    import matplotlib.patches

    from mvgrpo_jax.run import page

    found = list(dict.fromkeys([DEVICE, *(span[0] for span in row["spans"])]))
    kind = lambda name: name.split(",")[0].rstrip("0123456789 ")  # of branches and of tails all alike
    seconds: dict[str, float] = {}
    for _, name, start, end in row["spans"]:
        seconds[kind(name)] = seconds.get(kind(name), 0.0) + end - start
    colors = {name: matplotlib.colormaps["tab20"](i % 20) for i, name in enumerate(sorted(seconds))}
    figure, axes = page.axes(10.8, 1.6 + 0.55 * len(found), fitted=True)
    for line, name, start, end in row["spans"]:
        place = (found.index(line) - 0.4, 0.8)
        axes.broken_barh([(start, end - start)], place, color=colors[kind(name)], edgecolor="white", linewidth=0.4)
        if end - start > 0.06 * row["seconds"]:
            axes.text(
                (start + end) / 2, found.index(line), name, ha="center", va="center", fontsize=7, color="white", clip_on=True
            )
    shown = sorted(seconds, key=seconds.get, reverse=True)[:14]
    boxes = [matplotlib.patches.Patch(color=colors[name], label=name) for name in shown]
    axes.legend(handles=boxes, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set(xlim=(0, row["seconds"]), xlabel="seconds", yticks=range(len(found)), yticklabels=found)
    axes.invert_yaxis()
    return page.drawn(figure)
