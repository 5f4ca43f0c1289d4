"""The captioner behind a vision-language model's server, as `vllm serve Qwen/Qwen3-VL-8B-Instruct`."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from mvgrpo_jax.enhancers.cleaning import clean
from mvgrpo_jax.enhancers.perspectives import FORMAT, Perspective
from mvgrpo_jax.services import Service
from mvgrpo_jax.services.pictures import Encoding


class VlmCaptioner:
    """Sends a picture and an instruction, gets a caption."""

    remote = True

    def __init__(self, service: Service, encoding: Encoding, language: str = "en"):
        self.service, self.encoding, self.language = service, encoding, language

    def messages(self, image: np.ndarray, perspective: Perspective) -> list[dict[str, Any]]:
        # The instruction comes first and is the same for many requests, so that a server's prefix cache can hold it.
        parts = [
            {"type": "text", "text": f"{FORMAT} {perspective.instruction}"},
            {"type": "image_url", "image_url": {"url": self.encoding.data_url(image)}},
        ]
        return [{"role": "user", "content": parts}]

    async def caption(self, image: np.ndarray, perspective: Perspective, seed: int, deadline: float) -> str:
        def accept(answer: str, finish: str) -> str:
            return clean(answer, finish, self.language)

        messages = await asyncio.to_thread(self.messages, image, perspective)
        return await self.service.ask(messages, accept, seed=seed, deadline=deadline)

    def take_log(self) -> dict[str, float]:
        counts, seconds = self.service.take_counts()
        out = {name: float(counts[name]) for name in ("retries", "hedges")}
        out["rejected"] = float(sum(n for reason, n in counts.items() if reason.startswith("rejected:")))
        out["errors"] = float(sum(n for reason, n in counts.items() if reason.startswith("error:")))
        if seconds:
            out["latency_p50_s"], out["latency_p95_s"] = (float(x) for x in np.percentile(seconds, (50, 95)))
        return out

    async def close(self) -> None:
        await self.service.close()
