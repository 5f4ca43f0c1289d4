"""What bench/chaos.py does to a run: signals, damage to its newest checkpoint, a full disk, servers that die."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
DAMAGES = ("cut", "emptied", "deleted", "one bit", "64 bytes", "no state")
CAPTIONER = """
import sys, time
from tests.services.faults import FaultServer, seeded
with FaultServer(then=seeded(), port=int(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(1e6)
"""


def damage(checkpoint: Path, how: str, rng: np.random.Generator) -> str:
    """Damages one file of a checkpoint, drawn by size, or deletes its state; what was done, in words."""
    if how == "no state":
        shutil.rmtree(checkpoint / "state")
        return "state deleted"
    names = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)
    sizes = np.asarray([path.stat().st_size for path in names], float)
    file = names[rng.choice(len(names), p=sizes / sizes.sum() if how == "one bit" else None)]
    data, where = bytearray(file.read_bytes()), f"{file.relative_to(checkpoint)} {how}"
    if how == "deleted":
        file.unlink()
        return where
    at = int(rng.integers(len(data)))
    if how == "cut":
        del data[at:]
    elif how == "emptied":
        data.clear()
    elif how == "one bit":
        data[at] ^= 1 << int(rng.integers(8))
    else:
        data[at : at + 64] = rng.bytes(len(data[at : at + 64]))
    file.write_bytes(data)
    return where


class Disk:
    """A file system of its own, of so many bytes, that can be filled and cleared; where none may be mounted, a bound on the
    size of any file that a process writes."""

    def __init__(self, size: int):
        self.folder = Path(tempfile.mkdtemp(prefix="chaos."))
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self.folder)]
        self.mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
        self.ballast = self.folder / "ballast"

    def fill(self, process: subprocess.Popen, left: int) -> None:
        """Leaves so many bytes free, or lets the process write no file of more."""
        if not self.mounted:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (left, left))
            return
        facts = os.statvfs(self.folder)
        with self.ballast.open("wb") as file:
            if (size := facts.f_bavail * facts.f_frsize - left) > 0:
                os.posix_fallocate(file.fileno(), 0, size)

    def clear(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)
        shutil.rmtree(self.folder)


class Servers:
    """A captioner whose captions depend on the request alone, and the server of a judge; each can be killed and started anew at
    its address."""

    def __init__(self):
        self.ports = {name: _free_port() for name in ("captioner", "judge")}
        self.running: dict[str, subprocess.Popen] = {}
        for name in self.ports:
            self.start(name)

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self.ports['captioner']}/v1", f"http://127.0.0.1:{self.ports['judge']}"]

    def start(self, name: str) -> None:
        """Returns when it answers."""
        port = str(self.ports[name])
        judge = ["-m", "mvgrpo_jax.rewards.serve", "--judge", "scene", "--port", port]
        command = [sys.executable, *(judge if name == "judge" else ["-c", CAPTIONER, port])]
        self.running[name] = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.running[name].stdout.readline()
        if name == "judge":
            while not _answers(f"http://127.0.0.1:{port}/health"):
                time.sleep(0.1)

    def kill(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGKILL)
        self.running[name].wait()
        self.running[name].stdout.close()

    def close(self) -> None:
        for name in self.running:
            self.kill(name)


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    both = Servers()
    try:
        yield both
    finally:
        both.close()


def _answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=1).status == 200
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
