"""One process at a time in a folder: by the system's lock on a disk, elsewhere by a claim that its owner renews."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

from mvgrpo_jax.errors import UserError
from mvgrpo_jax.storage.places import is_remote

BEAT = 15.0  # seconds between two renewals of a claim
WATCH = 60.0  # a claim that stays the same for so long is nobody's
LONG_AGO = 3600.0  # a claim of that age is nobody's without watching: clocks differ by less


def hold(folder: Path) -> Lock | Claim:
    """Keeps other processes out of a folder until what is returned is closed, which it is as a context, too. UserError when
    one is at work in it."""
    path = folder / "lock"
    if not is_remote(path):
        with contextlib.suppress(NotImplementedError):
            return Lock(path)
    return Claim(path)


def me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _taken(owner: str, folder: Path) -> UserError:
    return UserError(
        f"{owner or 'another process'} is at work in {folder}; two would overwrite each other's files. Wait for it or stop "
        "it, or choose another folder"
    )


class Lock(contextlib.AbstractContextManager):
    """An open file with the system's lock, which ends with the process however it ends. NotImplementedError on a file system
    without locks."""

    def __init__(self, path: Path):
        self.file = path.open("a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.file.seek(0)
            owner = self.file.read().strip()
            self.file.close()
            raise _taken(owner, path.parent) from None
        except OSError as error:
            self.file.close()
            raise NotImplementedError(str(error)) from None
        self.file.truncate(0)
        self.file.write(f"{me()}\n")
        self.file.flush()

    def check(self) -> None:
        """A lock cannot be lost."""

    def close(self) -> None:
        self.file.close()

    def __exit__(self, *_) -> None:
        self.close()


class Claim(contextlib.AbstractContextManager):
    """A file that names its owner and is written anew every BEAT seconds. One that does not change for WATCH seconds is taken
    over: its owner was killed. No clock of another machine is trusted to less than an hour."""

    def __init__(self, path: Path):
        self.path, self.token, self.lost = path, uuid.uuid4().hex, ""
        self._wait_until_free()
        self._write(0)
        time.sleep(BEAT / 10)  # of two that come at the same time the one that wrote last stays
        if (owner := self._read()).get("token") != self.token:
            raise _taken(owner.get("owner", ""), path.parent)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """UserError once another process has taken the folder over, which it does when no renewal reached it."""
        if self.lost:
            raise UserError(
                f"{self.lost} has taken {self.path.parent} over, because this process could not renew its claim for over "
                f"{WATCH:.0f} s; this one ends, what it saved until then is there"
            )

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        if self._read().get("token") == self.token:
            self.path.unlink(missing_ok=True)

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self) -> dict:
        try:
            found = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:  # on a disk without locks: half written
            return {"owner": "another process"}
        return found if isinstance(found, dict) else {}

    def _write(self, beat: int) -> None:
        self.path.write_text(json.dumps({"owner": me(), "token": self.token, "beat": beat, "time": time.time()}) + "\n")

    def _wait_until_free(self) -> None:
        first = self._read()
        if not first or time.time() - first.get("time", 0.0) > LONG_AGO:
            return
        print(f"{self.path}: looking for up to {WATCH:.0f} s whether {first['owner']} is still at work", file=sys.stderr)
        deadline = time.monotonic() + WATCH
        while time.monotonic() < deadline:
            time.sleep(min(1.0, WATCH / 10))
            if not (now := self._read()):
                return
            if now != first:
                raise _taken(now.get("owner", ""), self.path.parent)

    def _renew(self) -> None:
        beat = 0
        while not self._ended.wait(BEAT):
            beat += 1
            try:
                found = self._read()
                if found and found.get("token") != self.token:
                    self.lost = found.get("owner", "another process")
                    return
                self._write(beat)
            except Exception as error:  # whatever a client raises: the next renewal may pass
                print(f"warning: the claim {self.path} could not be renewed ({error})", file=sys.stderr)
