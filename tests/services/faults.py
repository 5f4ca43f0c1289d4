"""A chat-completion server that misbehaves on request, over plain sockets so that it can break the protocol anywhere."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable
from typing import Any

import numpy as np

from mvgrpo_jax.nano.world import captions, scene
from mvgrpo_jax.services import Worker

Reply = Callable[[asyncio.StreamWriter, dict], Any]


def completion(text: str | None, finish: str = "stop") -> bytes:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    return json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}).encode()


def http(body: bytes, status: str = "200 OK", headers: str = "", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(body) if length is None else length}\r\n\r\n".encode() + body


def seeded(words=None):
    """A server's reply that depends on the request's seed alone, as a real one's would at temperature 0."""

    async def reply(writer, request):
        drawn = scene.sample(np.random.default_rng(request["seed"]))
        text = captions.describe(drawn, "subject") if words is None else words[request["seed"] % len(words)]
        writer.write(http(completion(text)))

    return reply


def says(text: str | None, finish: str = "stop") -> Reply:
    async def reply(writer, request):
        writer.write(http(completion(text, finish)))

    return reply


def status(line: str, headers: str = "") -> Reply:
    async def reply(writer, request):
        writer.write(http(b'{"error": {"message": "no"}}', line, headers))

    return reply


def raw(body: bytes, headers: str = "") -> Reply:
    async def reply(writer, request):
        writer.write(http(body, headers=headers))

    return reply


async def reset(writer, request):
    """Half a body, then a reset connection."""
    body = completion("a caption that never ends")
    writer.write(http(body[: len(body) // 2], length=len(body)))
    await writer.drain()
    await asyncio.sleep(0.05)
    writer.transport.abort()


async def hang(writer, request):
    await asyncio.sleep(60)


async def drip(writer, request):
    """A byte every tenth of a second: no pause is long enough for a read timeout."""
    for byte in http(completion("a caption")):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def endless(writer, request):
    """A body without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await writer.drain()


def slow(seconds: float, text: str = "a slow caption") -> Reply:
    async def reply(writer, request):
        await asyncio.sleep(seconds)
        writer.write(http(completion(text)))

    return reply


class FaultServer:
    """`with FaultServer(reply, reply, ..., then=reply) as server:` answers requests one by one with the given replies, and
    further ones with `then`. requests: the headers and body of each. port: 0 for a free one."""

    def __init__(
        self,
        *script: Reply,
        then: Reply = says("a red circle on a white background"),
        context: ssl.SSLContext | None = None,
        port: int = 0,
    ):
        self.script, self.then, self.context, self.port = list(script), then, context, port
        self.requests: list[tuple[dict[str, str], dict]] = []
        self.open = self.most = 0

    def __enter__(self) -> FaultServer:
        self.worker = Worker("fault server")
        self.server = self.worker.submit(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.context, limit=2**24)
        ).result(5)
        port = self.server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self.context else 'http'}://127.0.0.1:{port}/v1"
        return self

    def __exit__(self, *error) -> None:
        self.worker.loop.call_soon_threadsafe(self.server.close)
        self.worker.close()

    async def _serve(self, reader, writer) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
                body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or "{}")
                self.requests.append((headers, body))
                reply = self.script.pop(0) if self.script else self.then
                self.open += 1
                self.most = max(self.most, self.open)
                try:
                    await reply(writer, body)
                    await writer.drain()
                finally:
                    self.open -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
