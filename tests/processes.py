"""Several processes that run one script together, as on a pod."""

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(script, *arguments):
    """Two processes that run a script, which finds the coordinator's address, its own number and the arguments in sys.argv."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-c", script, address]
    return [
        subprocess.Popen([*command, str(i), *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in (0, 1)
    ]


def together(script, *arguments):
    """(standard output, standard error) of two processes that run a script together to a good end."""
    running = start(script, *arguments)
    results = [process.communicate(timeout=400) for process in running]
    assert all(p.returncode == 0 for p in running), [err[-3000:] for _, err in results]
    return results
