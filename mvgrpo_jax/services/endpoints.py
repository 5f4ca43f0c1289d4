"""Which server a request goes to: the least loaded healthy one, or its home among them. Each has a circuit breaker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Collection

import httpx2
import openai

from mvgrpo_jax.services.keys import Secret
from mvgrpo_jax.services.settings import Access


class TooLarge(httpx2.TransportError):
    """An answer over the size limit."""


class NoEndpoint(Exception):
    """Every endpoint has refused for good; the message says why."""


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream, limit: int):
        self.stream, self.limit = stream, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        seen = 0
        async for part in self.stream:
            seen += len(part)
            if seen > self.limit:
                raise TooLarge(f"the answer is over {self.limit} bytes")
            yield part

    async def aclose(self) -> None:
        await self.stream.aclose()


class BoundedTransport(httpx2.AsyncHTTPTransport):
    """Stops reading an answer at `limit` bytes, so that no server can fill the trainer's memory. Answers are asked for
    uncompressed: a small compressed one cannot unfold into a large one."""

    def __init__(self, limit: int, **options):
        super().__init__(**options)
        self.limit = limit

    async def handle_async_request(self, request):
        request.headers["accept-encoding"] = "identity"
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise TooLarge("the answer is compressed although that was not asked for")
        response.stream = _Bounded(response.stream, self.limit)
        return response


@dataclasses.dataclass(eq=False)
class Endpoint:
    """A server and what is known of its health. Times are of time.monotonic()."""

    url: str
    client: openai.AsyncOpenAI
    in_flight: int = 0
    failures: int = 0  # in a row
    closed_until: float = 0.0  # by the breaker, or because it asked for a pause
    refused: str = ""  # why it is never asked again: a wrong certificate, a wrong key, an unknown model
    latencies: deque = dataclasses.field(default_factory=lambda: deque(maxlen=64))
    served: int = 0
    failed: int = 0

    def load(self) -> float:
        """Expected wait: requests in flight times the latency seen lately, worse after failures."""
        latency = sum(self.latencies) / len(self.latencies) if self.latencies else 0.1
        return (self.in_flight + 1) * latency * (1 + self.failures)

    def affinity(self, home: bytes) -> bytes:
        """Rendezvous hashing: the highest of all endpoints is home, the second the next when that one is broken."""
        return hashlib.blake2b(home + self.url.encode(), digest_size=8).digest()


class Pool:
    """The endpoints of a service. `slot` waits for a free place and says which server to ask."""

    def __init__(self, settings: Access, secret: Secret | None):
        self.settings = settings
        self.changed = asyncio.Condition()
        self.endpoints = [Endpoint(url, self._client(url, secret)) for url in settings.endpoints]

    def _client(self, url: str, secret: Secret | None) -> openai.AsyncOpenAI:
        s = self.settings
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=s.ca_file) if s.ca_file else True
        limits = httpx2.Limits(max_connections=2 * s.concurrency, max_keepalive_connections=s.concurrency)
        transport = BoundedTransport(s.response_kb * 1024, verify=verify if s.verify else False, limits=limits)
        http = httpx2.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=s.attempt_s)
        key = secret.reveal() if secret else "none"
        return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=s.attempt_s, http_client=http)

    def usable(self) -> list[Endpoint]:
        return [e for e in self.endpoints if not e.refused]

    def live(self) -> list[Endpoint]:
        """Those that are not left alone."""
        now = time.monotonic()
        return [e for e in self.usable() if e.closed_until <= now]

    def _free(self, avoid: Collection[Endpoint], home: bytes) -> Endpoint | None:
        """Of those that are not left alone, with what has a home the one that is it: it waits there for a place, since what it
        shares with others is remembered there. The others go to the least loaded one with a free place."""
        # After the breaker's pause one request at a time tries the endpoint, until one succeeds.
        trying = lambda e: e.failures >= self.settings.breaker
        live = [e for e in self.live() if not (trying(e) and e.in_flight)]
        live = [e for e in live if e not in avoid] or live
        if home:
            first = max(live, key=lambda e: e.affinity(home), default=None)
            return first if first is not None and first.in_flight < self.settings.concurrency else None
        return min((e for e in live if e.in_flight < self.settings.concurrency), key=Endpoint.load, default=None)

    def idle(self, avoid: Endpoint) -> bool:
        """Whether a request could start now without waiting, for a hedge."""
        return self._free((avoid,), b"") is not None

    @contextlib.asynccontextmanager
    async def slot(self, avoid: Collection[Endpoint] = (), home: bytes = b"") -> AsyncIterator[Endpoint]:
        """A place at the least loaded endpoint, or at the one that is home to what has these bytes; if possible at none of
        `avoid`. NoEndpoint when every endpoint has refused."""
        async with self.changed:
            while (endpoint := self._free(avoid, home)) is None:
                if not self.usable():
                    raise NoEndpoint("; ".join(sorted({e.refused for e in self.endpoints})))
                pause = min((e.closed_until for e in self.usable()), default=0.0) - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), max(0.05, min(pause, 1.0)) if pause > 0 else 1.0)
            endpoint.in_flight += 1
        try:
            yield endpoint
        finally:
            endpoint.in_flight -= 1
            await asyncio.shield(self._notify())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    def succeeded(self, endpoint: Endpoint, seconds: float) -> None:
        endpoint.failures, endpoint.served = 0, endpoint.served + 1
        endpoint.latencies.append(seconds)

    def struck(self, endpoint: Endpoint) -> None:
        """A failure of the server: after `breaker` in a row it is left alone for a while."""
        endpoint.failures += 1
        endpoint.failed += 1
        if endpoint.failures >= self.settings.breaker:
            endpoint.closed_until = time.monotonic() + self.settings.cooldown_s

    def pause(self, endpoint: Endpoint, seconds: float) -> None:
        """The server asked to be left alone: no failure."""
        endpoint.closed_until = max(endpoint.closed_until, time.monotonic() + min(seconds, self.settings.request_s))

    def percentile(self, share: float) -> float | None:
        """Of recent latencies over all endpoints; None before there are enough."""
        seen = sorted(x for e in self.endpoints for x in e.latencies)
        return seen[min(len(seen) - 1, int(share * len(seen)))] if len(seen) >= 16 else None

    async def close(self) -> None:
        for endpoint in self.endpoints:
            await endpoint.client.close()
