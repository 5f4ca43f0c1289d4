"""Traces of some iterations for XProf: `config.profile = 'START:COUNT'`.

The host's lines show each iteration as a step, and in it the stages (metrics.stage); the devices' lines show programs by name
(parallel/program.py), and above operations the scope in which they stand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.run.trackers.folder import Folder


def span(text: str) -> range:
    """The iterations that 'START:COUNT' names, none for ''."""
    start, _, count = text.partition(":")
    return range(int(start), int(start) + int(count)) if text else range(0)


class Profile:
    """Traces the iterations of a span, as far as this process runs them; of several processes the first one does. A run that
    ends meanwhile leaves what was traced."""

    def __init__(self, text: str, workdir: Path):
        self.span = span(text) if hosts.is_chief() else range(0)
        self.place, self.folder = workdir / "profile", None  # a folder while a trace is taken

    @contextlib.contextmanager
    def iteration(self, number: int) -> Iterator[None]:
        """Around an iteration."""
        if number in self.span and not self.folder:
            self.folder, options = Folder(self.place), jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # each call of Python would be an event
            jax.profiler.start_trace(self.folder.local, profiler_options=options)
        with jax.profiler.StepTraceAnnotation("iteration", step_num=number):
            yield

    def after(self, number: int, state: Any) -> None:
        """After an iteration; what is traced last holds the update that is under way, which makes `state`."""
        if self.folder and number + 1 not in self.span:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Ends and writes a trace that is being taken."""
        if self.folder:
            jax.profiler.stop_trace()
            self.folder.close()
            self.folder = None
