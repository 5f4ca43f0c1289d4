"""Signals that ask a run to stop. The loop asks between stages whether one came, saves, and ends.

Alone, a process takes SIGTERM and Ctrl-C itself. In a job of several, jax takes SIGTERM: its preemption service tells the
other processes and names the next boundary that none has passed (multihost_utils.reached_preemption_sync_point), so that all
stop at the same one whichever was told; no device waits for that. Ctrl-C is handed on to it. A second Ctrl-C ends a process at
once, also while it waits for a device.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

AT_ONCE = 128 + signal.SIGINT  # the exit status that shells give to what Ctrl-C ended
_boundaries = itertools.count(1)  # of this process; jax wants them to grow


@contextlib.contextmanager
def catching() -> Iterator[Callable[[], bool]]:
    """Catches signals while it is open. Gives reached() -> whether the run stops here: called by every process at each
    boundary, in the same order."""
    several = jax.process_count() > 1
    asked = threading.Event()

    def heard(number: int) -> None:
        if number == signal.SIGINT and asked.is_set():
            os._exit(AT_ONCE)
        asked.set()
        if number == signal.SIGINT:
            print("stopping at the end of this stage; Ctrl-C again ends at once", file=sys.stderr, flush=True)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    def reached() -> bool:
        return multihost_utils.reached_preemption_sync_point(next(_boundaries)) if several else asked.is_set()

    with _told((signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM), heard):
        yield reached


@contextlib.contextmanager
def _told(numbers: tuple[int, ...], heard: Callable[[int], None]) -> Iterator[None]:
    """Calls heard(number) of each signal in a thread of its own: Python's handlers wait until the main thread leaves what it
    waits for in C++. Nothing is caught outside the main thread, where Python cannot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)

    def listen() -> None:
        while number := os.read(ours, 1):
            if number[0] in numbers:
                heard(number[0])

    listener = threading.Thread(target=listen, daemon=True, name="signals")
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(theirs)  # the listener reads the end of file
        listener.join()
        os.close(ours)
