"""Starts one server of compose.yaml without a container, as a task of a SLURM step does on its GPU:

    python -m launch.sidecars.serve captioner --port 8100 [--word=--max-model-len=4096 ...] [--dry_run]

The server's flags are those of compose.yaml; --word adds one, in the place of that of the same name where there is one. It
listens on the port plus SLURM_LOCALID, to other machines, so VLLM_API_KEY must hold a key that requests bear. SIGTERM is left
to its job: the trainer that is asked to stop needs its captions and scores first; the server ends with this process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from mvgrpo_jax.errors import UserError, reports_errors

COMPOSE = Path(__file__).with_name("compose.yaml")
KEY = "VLLM_API_KEY"
VLLM = ("-m", "vllm.entrypoints.openai.api_server")
DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def services() -> dict[str, list[str]]:
    """The command of each server of compose.yaml, by name."""
    return {name: service["command"] for name, service in yaml.safe_load(COMPOSE.read_text())["services"].items()}


def command(name: str, port: int, token: str, words: list[str]) -> list[str]:
    """The command of a server. token: the file that the server of judges reads its key from. UserError where there is no such
    server."""
    known = services()
    if name not in known:
        raise UserError(f"no sidecar {name!r} in {COMPOSE.name}; there are: {', '.join(known)}")
    start, given = known[name], [f"--host=0.0.0.0 --port={port}".split(), words]
    if start[0] == "python":
        start, module = start[3:], start[1:3]
        given.insert(0, [f"--token-file={token}"])
    else:
        module = VLLM
    flags = list(start)
    for word in (word for group in given for word in group):
        flags = [flag for flag in flags if flag.partition("=")[0] != word.partition("=")[0]] + [word]
    return [sys.executable, *module, *flags]


def serve(words: list[str]) -> int:
    """Runs the server until it ends; its status."""
    libc = ctypes.CDLL(None)
    signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM: serving on until the job is over", flush=True))

    def prepare() -> None:
        # SLURM signals every process of a step, and a server would set a handler of its own: what is blocked never arrives.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)

    return subprocess.Popen(words, preexec_fn=prepare).wait()


@reports_errors
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m launch.sidecars.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help=", ".join(services()))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--word", action="append", default=[], help="a flag of the server, as --word=--max-model-len=4096")
    parser.add_argument("--dry_run", action="store_true", help="print the server's command alone")
    options = parser.parse_args(argv)
    port = options.port + int(os.environ.get("SLURM_LOCALID", 0))
    if options.dry_run:
        print(shlex.join(command(options.name, port, "TOKEN", options.word)))
        return
    if not os.environ.get(KEY):
        raise UserError(f"{KEY} is not set: the server listens to other machines, and answers those alone that know a key")
    with tempfile.NamedTemporaryFile("w", prefix="key-") as token:  # readable by its owner alone
        token.write(os.environ[KEY])
        token.flush()
        code = serve(command(options.name, port, token.name, options.word))
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
