"""Traces of some iterations for XProf: `config.profile = 'START:COUNT'`.

The host's lines show each iteration as a step, and in it the stages (metrics.stage); the devices' lines show programs by name
(parallel/program.py), and above operations the scope in which they stand.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.parallel import hosts
from mvgrpo_jax.run.trackers.folder import Folder


def span(text: str) -> range:
    """The iterations that 'START:COUNT' names, none for ''."""
    start, _, count = text.partition(":")
    return range(int(start), int(start) + int(count)) if text else range(0)


def check_profiler(loaded: bool, found: str, asked: list[str]) -> None:
    """UserError where libtpu is loaded and is not the one that jax asks for: jaxlib may not know its profiler, and the first
    trace then ends the process (seen: jaxlib 0.10.2 with libtpu 0.0.52).

    found: version of libtpu, '' where it is no package. asked: what the installed jax requires for its extras."""
    wanted = next((m[1] for m in (re.match(r"libtpu *== *([\d.]+\d)", one) for one in asked) if m), found)
    if loaded and found != wanted and found and not found.startswith(f"{wanted}."):
        raise UserError(
            f"config.profile: libtpu {found} is loaded, but this jax expects {wanted}, and a trace may end the process. Do one "
            f"of these: pip install 'libtpu=={wanted}.*'; JAX_PLATFORMS=cpu or cuda, where no TPU is used; run without "
            "config.profile"
        )


def _check_profiler() -> None:
    from jaxlib import xla_client

    try:
        found = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        found = ""
    check_profiler(xla_client.pjrt_plugin_loaded("tpu"), found, importlib.metadata.requires("jax") or [])


class Profile:
    """Traces the iterations of a span, as far as this process runs them; of several processes the first one does. A run that
    ends meanwhile leaves what was traced. UserError where a trace would end the process."""

    def __init__(self, text: str, workdir: Path):
        self.span = span(text) if hosts.is_chief() else range(0)
        if text:
            _check_profiler()
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
