"""What the settings of a service may be, the captioner's as well as a judge's (services.Settings)."""

from __future__ import annotations

from mvgrpo_jax.configuration.rules import Flag, Int, Real, Rule, Text, Tuple

SECONDS = Real(0.0, 1e6, above=True)

SERVICE: dict[str, Rule] = {
    "endpoints": Tuple(Text(empty=False, shown=False)),
    "model": Text(empty=False),
    "key_env": Text(shown=False),
    "key_file": Text(),
    "verify": Flag(),
    "ca_file": Text(),
    "concurrency": Int(1, 65536),
    "attempt_s": SECONDS,
    "request_s": SECONDS,
    "batch_s": SECONDS,
    "retries": Int(0, 1000),
    "backoff_s": Real(0.0, 1e6),
    "hedge": Real(0.0, 1e6, zero="never"),
    "breaker": Int(1),
    "cooldown_s": Real(0.0, 1e6),
    "max_tokens": Int(1, 10**6),
    "temperature": Real(0.0, 100.0),
    "response_kb": Int(1, 10**6),
    "extra": Text(),
}
