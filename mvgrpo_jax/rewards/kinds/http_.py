"""A judge behind a server of one's own: `python -m mvgrpo_jax.rewards.serve` on another machine, or any that speaks the few
lines of rewards/wire.py."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import httpx2
import numpy as np
import openai

from mvgrpo_jax.configuration.rules import Int, Text
from mvgrpo_jax.rewards import asking, wire
from mvgrpo_jax.services import Access, Failure, Malformed, Rejected


@asking.takes_options(Access, endpoints=("http://localhost:8090",), concurrency=8)
class Served(asking.Remote):
    """judge: which of the server's judges, '' where it has one. batch: pictures of a request. The rest: of the service. An
    answer that has no score for each caption is none."""

    def __init__(self, judge: str = "", batch: int = 16, **service: Any):
        super().__init__(service)
        self.name, self.batch = judge, batch

    async def ask(self, images, captions, deadline):
        parts = range(0, len(images), self.batch)
        slices = [slice(first, first + self.batch) for first in parts]
        rows = await asyncio.gather(*(self._part(images[part], captions[part], deadline) for part in slices))
        return [row for part in rows for row in part]

    async def _part(self, images: np.ndarray, captions: wire.Captions, deadline: float) -> list[list[asking.Answer]]:
        encoded = await asyncio.to_thread(lambda: [wire.encode(image) for image in images])
        body = wire.request(encoded, captions, self.name)

        async def send(client: openai.AsyncOpenAI, seed: int) -> Any:
            response = await client.post("/score", cast_to=httpx2.Response, body=body)
            try:
                return json.loads(response.content)
            except (ValueError, RecursionError):
                raise Malformed("an answer that is no JSON") from None

        def accept(value: Any) -> list[list[float | None]]:
            try:
                return wire.read_scores(value, len(images), len(captions[0]))
            except ValueError as error:
                raise Rejected(str(error)) from None

        home = hashlib.blake2b(images.tobytes(), digest_size=16).digest()
        try:
            scores = await self.service.request(send, accept, deadline=deadline, answers=1, home=home)
        except Failure as failure:
            return [[None if text is None else failure for text in texts] for texts in captions]
        return [[self._answer(*pair) for pair in zip(*row)] for row in zip(captions, scores)]

    def _answer(self, text: str | None, score: float | None) -> asking.Answer:
        """A server's null is a score that it could not give."""
        if text is None:
            return None
        return Failure("null", "the server gave null") if score is None else score


JUDGE, PLACE = Served, "endpoints"
RULES = asking.rules(Access) | {"judge": Text(), "batch": Int(1, 4096)}
