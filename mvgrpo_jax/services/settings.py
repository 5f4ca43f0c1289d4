"""What a config says of a service: where it is, how patient and how eager the client is."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import warnings
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from mvgrpo_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Access:
    """Of any service. Times in seconds. A request is made of attempts; a batch is every request that is waited for together."""

    endpoints: tuple[str, ...] = ("http://localhost:8000/v1",)
    key_env: str = ""  # name of the environment variable that holds the API key
    key_file: str = ""  # or a file with owner-only rights
    verify: bool = True  # TLS certificates
    ca_file: str = ""  # an authority of one's own
    concurrency: int = 64  # requests in flight at each endpoint
    attempt_s: float = 60.0
    request_s: float = 120.0
    batch_s: float = 180.0
    retries: int = 4  # further attempts after the first
    backoff_s: float = 0.5  # first pause; doubles, with jitter
    hedge: float = 2.0  # a second attempt after so many times the 95th percentile of latency; 0: never
    breaker: int = 5  # failures in a row that take an endpoint out
    cooldown_s: float = 10.0  # for so long; then one request tries it
    response_kb: int = 512  # answers over this are refused

    def __post_init__(self):
        for name in ("concurrency", "response_kb", "breaker"):
            self.at_least_one(name)
        if not 0 < self.attempt_s <= self.request_s <= self.batch_s:
            raise UserError(
                "of a service, 0 < attempt_s <= request_s <= batch_s must hold, got "
                f"{self.attempt_s}, {self.request_s}, {self.batch_s}"
            )
        if self.retries < 0 or self.backoff_s < 0 or self.hedge < 0:
            raise UserError("retries, backoff_s and hedge of a service must not be negative")
        if not self.endpoints:
            raise UserError("endpoints: a service needs at least one endpoint, such as http://localhost:8000/v1")
        for url in self.endpoints:
            check_url(url)
        if self.ca_file and not Path(self.ca_file).is_file():
            raise UserError(f"ca_file {self.ca_file}: no such file")

    def at_least_one(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise UserError(f"{name} of a service must be at least 1, got {getattr(self, name)}")

    @classmethod
    def of(cls, values: dict[str, Any], processes: int = 1) -> Self:
        """From a config's section, which may hold other keys too. processes: share its concurrency."""
        known = {f.name for f in dataclasses.fields(cls)}
        chosen = {k: v for k, v in values.items() if k in known}
        if isinstance(chosen.get("endpoints"), str):
            chosen["endpoints"] = tuple(chosen["endpoints"].split(","))
        return cls(**chosen).shared(processes)

    def shared(self, processes: int) -> Self:
        """One process's part of the places at each endpoint, at least 1."""
        return self if processes == 1 else dataclasses.replace(self, concurrency=max(self.concurrency // processes, 1))


@dataclasses.dataclass(frozen=True)
class Settings(Access):
    """Of a service that speaks the OpenAI protocol."""

    model: str = ""
    max_tokens: int = 200
    temperature: float = 0.8
    extra: str = ""  # JSON object of further fields of the request, such as chat_template_kwargs

    def __post_init__(self):
        super().__post_init__()
        self.at_least_one("max_tokens")
        if not self.model:
            raise UserError("a service needs a model: the name under which the server serves it")
        self.fields()

    def fields(self) -> dict[str, Any]:
        """The further fields of the request."""
        try:
            value = json.loads(self.extra or "{}", parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise UserError(f"extra of a service is not valid JSON ({error}): {self.extra!r}") from None
        if not isinstance(value, dict):
            raise UserError(f"extra of a service must be a JSON object, got {self.extra!r}")
        return value


def _no_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def check_url(url: str) -> None:
    """UserError for what is no http(s) URL or carries credentials; a warning for plain HTTP that leaves this machine."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:  # brackets without an IPv6 address, a port that is no number
        raise UserError(f"an endpoint is no URL ({error}): expected http://HOST:PORT/v1 or https://...") from None
    if port == 0 or parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"endpoint {url!r}: expected http://HOST:PORT/v1 or https://...")
    if parts.username or parts.password or parts.query:
        raise UserError(f"endpoint at {parts.hostname}: a URL must not carry credentials; use key_env or key_file")
    if parts.scheme == "http" and not local(parts.hostname):
        warnings.warn(
            f"endpoint {url} is plain HTTP to another machine: pictures, captions and the key travel unencrypted; "
            "use https, or a tunnel, unless the network is yours alone",
            stacklevel=3,
        )


def local(host: str) -> bool:
    """Whether a host name means this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
