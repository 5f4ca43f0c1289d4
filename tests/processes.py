"""Several processes that run one script together, as on a pod."""

import socket
import subprocess
import sys


def together(script, *arguments):
    """Standard output of two processes that run a script together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-c", script, address]
    start = lambda i: subprocess.Popen(
        [*command, str(i), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    running = [start(i) for i in (0, 1)]
    results = [process.communicate(timeout=400) for process in running]
    assert all(p.returncode == 0 for p in running), [err[-3000:] for _, err in results]
    return results
