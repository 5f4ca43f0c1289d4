"""Servers of judges over real sockets: in a thread of this process, or as the command that people start."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator

import uvicorn

from mvgrpo_jax.rewards.serving import Limits, Server
from mvgrpo_jax.services import Worker


@contextlib.contextmanager
def serving(judges, token: str = "", **limits) -> Iterator[tuple[str, Server]]:
    """(URL, server) of these judges, in a thread."""
    server, worker = Server(judges, Limits(**limits), token), Worker("server")
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        web = uvicorn.Server(uvicorn.Config(server.app(), log_level="error"))
        running = worker.submit(web.serve(sockets=[place]))
        try:
            yield f"http://127.0.0.1:{place.getsockname()[1]}", server
        finally:
            web.should_exit = web.force_exit = True
            running.result(10)
            worker.close()


@contextlib.contextmanager
def started(count: int, *flags: str) -> Iterator[list[tuple[str, subprocess.Popen]]]:
    """(URL, process) of the command with these flags, so many times, once all listen."""
    command = [sys.executable, "-m", "mvgrpo_jax.rewards.serve", "--port", "0", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(count)]
    try:
        yield [(re.search(r"http://\S+", process.stdout.readline())[0], process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
            process.stdout.close()
