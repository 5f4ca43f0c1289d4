"""Clients of servers that hold models: of those that speak the OpenAI protocol, as `vllm serve` does, and of others.

settings: what a config says of a service. endpoints: which server a request goes to. client: one request, with deadlines,
retries and hedges. shared: answers that several ask for. pictures: how they travel. worker: the thread that all of it runs
in. Nothing here knows what is asked.
"""

from mvgrpo_jax.services.client import Failure, Malformed, Rejected, Service
from mvgrpo_jax.services.settings import Access, Settings
from mvgrpo_jax.services.shared import Shared
from mvgrpo_jax.services.worker import Worker

__all__ = ["Access", "Failure", "Malformed", "Rejected", "Service", "Settings", "Shared", "Worker"]
