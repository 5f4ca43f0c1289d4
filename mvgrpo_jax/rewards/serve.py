"""Serves judges to trainers on other machines, which ask them as judges of the kind http.

python -m mvgrpo_jax.rewards.serve --judge clip=FOLDER --port 8090

One device judges; with several, start a server on each, and give a trainer all addresses: it spreads its requests and goes on
when one of them dies. Without --host nothing listens beyond this machine. The protocol is described in rewards/wire.py.
"""

from __future__ import annotations

import argparse
import socket
from pathlib import Path

from mvgrpo_jax.console.commands import program
from mvgrpo_jax.errors import UserError, reports_errors
from mvgrpo_jax.rewards import scoring
from mvgrpo_jax.services import keys
from mvgrpo_jax.services.settings import local


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=program("mvgrpo_jax.rewards.serve"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scoring.add_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at; beyond this machine with a token")
    parser.add_argument("--port", type=int, default=8090, help="0: a free one, which is printed")
    parser.add_argument("--token-file", type=Path, help="a file with the token that requests must bear, readable by you alone")
    parser.add_argument("--open", action="store_true", help="listen beyond this machine without a token")
    for name, default, text in (
        ("pictures", 64, "of a request at most"),
        ("captions", 256, "of a picture at most"),
        ("pixels", 4096 * 4096, "of a picture at most"),
        ("body-mb", 256, "MiB of a request at most"),
        ("requests", 256, "under way at most"),
        ("batch", 16, "pictures that are judged at once"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")
    return parser.parse_args(argv)


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address. UserError where that is taken or none of this machine's."""
    if not 0 <= port < 2**16:  # getaddrinfo would take another one
        raise UserError(f"--port must be 0 to 65535, got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        out = socket.socket(family, kind)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        out.bind(address)
        return out
    except OSError as error:
        raise UserError(f"cannot listen at {host} port {port} ({error}); choose another --host or --port") from None


@reports_errors
def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    try:
        import uvicorn

        from mvgrpo_jax.rewards.serving import Limits, Server
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; the server needs pip install 'mvgrpo_jax[serve]'") from None
    if not local(options.host) and not options.token_file and not options.open:
        raise UserError(
            f"--host {options.host} lets other machines ask: give --token-file FILE, or --open where the network is yours alone"
        )
    token = keys.read("", str(options.token_file)).reveal() if options.token_file else ""
    counts = {name: getattr(options, name) for name in ("pictures", "captions", "pixels", "requests", "batch")}
    if min(*counts.values(), options.body_mb) < 1:
        raise UserError("--pictures, --captions, --pixels, --body-mb, --requests and --batch must be at least 1")
    judges = scoring.make_judges(options.judge, options.option)
    with listen(options.host, options.port) as place:
        server = Server(judges, Limits(**counts, body=options.body_mb * 2**20), token)
        print(f"judges {', '.join(judges)} at http://{options.host}:{place.getsockname()[1]}", flush=True)
        config = uvicorn.Config(server.app(), log_level="warning", access_log=False, timeout_graceful_shutdown=10)
        uvicorn.Server(config).run(sockets=[place])


if __name__ == "__main__":
    main()
