"""The processes of a job watch each other: when one dies, hangs or fails, all end, with a message that names it.

jax has a watch too, but it ends a process by abort (status 134, "another task died"), after 100 s. Here each process says a
few times in config.watch.silence_s that it lives, through the key-value store of jax.distributed; all read what all say.
Python cannot end a thread that waits for a device, so the whole process ends; every file of a run is written so that it can.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from types import TracebackType

from jax._src.distributed import global_state  # where jax and orbax look for the client as well

from mvgrpo_jax.errors import AGAIN, Stopped, UserError, described, status
from mvgrpo_jax.parallel.attendance import Attendance, Said

PREFIX = "mvgrpo_jax/watch/"


class Watch:
    """Open while a process works; nothing where it works alone. silence, standstill: see Attendance.

    Left by an error, it waits until it is known whether another process is to blame, tells the others, prints and ends the
    process: jax's own farewell would wait for processes that wait for this one.
    """

    def __init__(self, silence: float, standstill: float):
        self.client = global_state.client if global_state.num_processes > 1 else None
        self.me, self.pause = global_state.process_id, silence / 10
        self.now = 0.0  # seconds in which this process could listen: a machine that slept blames nobody
        self.attendance = Attendance(self.me, silence, standstill, self.now)
        self.said = Said(0, socket.gethostname(), "the start", 0)
        self.cut_off = False
        self.lock, self.talking = threading.Lock(), threading.Lock()
        self.closed = threading.Event()

    def at(self, stage: str) -> None:
        """Says what this process does from now on."""
        with self.lock:
            self.said = self.said._replace(stage=stage, steps=self.said.steps + 1)

    def __enter__(self) -> Watch:
        if self.client:
            self._hold_aborts()
            self.threads = [threading.Thread(target=work, daemon=True, name="watch") for work in (self._talk, self._judge)]
            for thread in self.threads:
                thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.client:
            return
        if error is None or isinstance(error, Stopped):
            self._say(left=True)
            self.closed.set()
            for thread in self.threads:
                thread.join(self.pause)
            self.let_abort()
            return
        print(described(error), file=sys.stderr, flush=True)
        sure = isinstance(error, UserError) and error.__cause__ is None
        self._say(failed=str(error).strip() or kind.__name__, status=status(error), sure=sure)
        if not sure:
            time.sleep(1.3 * self.attendance.silence)  # a verdict on another process ends this one meanwhile
        self._end(status(error))

    def _say(self, **words) -> None:
        with self.lock:
            self.said = self.said._replace(**words)
        self._exchange()

    def _exchange(self) -> None:
        """Says what this process does and takes down what all do. This hangs while process 0 does not answer."""
        with self.talking:
            with self.lock:
                self.said = self.said._replace(beats=self.said.beats + 1)
                said = self.said
            try:
                self.client.key_value_set(f"{PREFIX}{self.me}", json.dumps(said), allow_overwrite=True)
                rows = self.client.key_value_dir_get(PREFIX)
            except Exception:  # jax's errors of the connection have no class of their own
                self.cut_off = True
                return
        with self.lock:
            self.attendance.hear({int(key.rpartition("/")[2]): Said(*json.loads(row)) for key, row in rows}, self.now)

    def _talk(self) -> None:
        self._exchange()
        while not self.closed.wait(self.pause):
            self._exchange()

    def _judge(self) -> None:
        before = time.monotonic()
        while not self.closed.wait(self.pause / 4):
            with self.lock:
                self.now += min(time.monotonic() - before, self.pause)
                verdict = self.attendance.verdict(self.now, self.cut_off)
            before = time.monotonic()
            if verdict and not self.closed.is_set():
                again = "; the same command goes on from the last checkpoint" if verdict.status == AGAIN else ""
                print(f"\n{verdict.message}{again}", file=sys.stderr, flush=True)
                self._end(verdict.status)

    def _end(self, code: int) -> None:
        self.closed.set()
        sys.stdout.flush()
        if self.me == 0:
            time.sleep(3 * self.pause)  # the others hear why meanwhile: jax ends them when process 0 goes
        os._exit(code)

    def _hold_aborts(self) -> None:
        """jax aborts a process within a moment of process 0's death. The abort waits here until the watch has said so and
        ended the process; where process 0 answers, the abort goes on with the stacks of all threads."""
        host, _, port = global_state.coordinator_address.rpartition(":")

        def hold(number: int) -> None:
            for _ in range(8):
                try:
                    socket.create_connection((host.strip("[]"), int(port)), timeout=self.pause).close()
                except OSError:
                    self.cut_off = True
                time.sleep(self.pause / 2)
            faulthandler.dump_traceback(all_threads=True)

        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        self.held = ctypes.CFUNCTYPE(None, ctypes.c_int)(hold)  # must live as long as it may be called
        before = libc.signal(signal.SIGABRT, ctypes.cast(self.held, ctypes.c_void_p))
        self.let_abort = lambda: libc.signal(signal.SIGABRT, before)
