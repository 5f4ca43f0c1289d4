"""Several processes that run one script together, as on a pod."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What each process runs before the script: it joins the others as devices of one program. The script's arguments are ARGUMENTS.
JOIN = """
import sys
import jax
ARGUMENTS = sys.argv[4:]
if int(sys.argv[2]) > 1:
    jax.distributed.initialize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


def start(script, *arguments, processes=2, devices=1, outputs=None, join=JOIN):
    """Several processes of several CPU devices that run a script together. outputs: files of each for what it prints and its
    errors; pipes without them. join: what they run before the script, which has the coordinator's address, the number of
    processes and its own in sys.argv[1:4]."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = [f for f in os.environ["XLA_FLAGS"].split() if not f.startswith("--xla_force_host_platform_device_count")]
    environment = os.environ | {"XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])}
    outputs = outputs or [(subprocess.PIPE, subprocess.PIPE)] * processes
    return [
        subprocess.Popen(
            [sys.executable, "-c", join + script, address, str(processes), str(i), *arguments],
            cwd=ROOT,
            stdout=out,
            stderr=err,
            text=True,
            env=environment,
        )
        for i, (out, err) in enumerate(outputs)
    ]


def together(script, *arguments, processes=2, devices=1, seconds=400, join=JOIN):
    """(return code, standard output, errors) of each of several processes of several CPU devices that run a script together.

    When one of them fails the others are not waited for: they may wait for it."""
    outputs = [[tempfile.TemporaryFile("w+") for _ in range(2)] for _ in range(processes)]
    running = start(script, *arguments, processes=processes, devices=devices, outputs=outputs, join=join)
    deadline = time.monotonic() + seconds
    while any(p.poll() is None for p in running) and not any(p.poll() for p in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in running:
        process.kill()  # of one that has ended, nothing
        process.wait()
    texts = [[_read(file) for file in files] for files in outputs]
    return [(process.returncode, *text) for process, text in zip(running, texts)]


def succeed(results):
    """The standard outputs of `together`, none of whose processes failed."""
    assert not any(code for code, _, _ in results), "\n".join(f"{code}\n{err[-3000:]}" for code, _, err in results)
    return [out for _, out, _ in results]


def _read(file):
    with file:
        file.seek(0)
        return file.read()
