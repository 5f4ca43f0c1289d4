"""Clients of language-model servers that speak the OpenAI protocol, as `vllm serve` does.

settings: what a config says of a service. endpoints: which server a request goes to. client: one request, with deadlines,
retries and hedges. worker: the thread that all of it runs in. Nothing here knows what is asked.
"""

from mvgrpo_jax.services.client import Failure, Rejected, Service
from mvgrpo_jax.services.settings import Settings
from mvgrpo_jax.services.worker import Worker

__all__ = ["Failure", "Rejected", "Service", "Settings", "Worker"]
