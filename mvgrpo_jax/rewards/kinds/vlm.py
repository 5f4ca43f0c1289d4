"""How probable a vision-language model finds "yes": P(yes) / (P(yes) + P(no)) of one token's log-probabilities, in [0, 1].

Any model behind a server of the OpenAI protocol that gives log-probabilities, as `vllm serve` does. The question is a file.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import openai

from mvgrpo_jax.configuration.rules import Choice, Int, Text
from mvgrpo_jax.rewards import asking, texts
from mvgrpo_jax.services import Malformed, Rejected, Settings
from mvgrpo_jax.services.pictures import FORMATS, Encoding

TOP = 20  # tokens whose log-probabilities are asked for: as many as the protocol allows
_AROUND = " \t\r\n\u0120\u2581\"'`*([{.,:;!?)]}"  # of a token; also the two signs by which vocabularies write a space


@asking.takes_options(Settings, max_tokens=1)
class YesOrNo(asking.Pairs):
    """model: the name under which the server serves it. question: a file with {caption} in it that asks for yes or no; '': the
    one that is shipped. format, quality, size: how pictures travel; size: pixels of the longer side at most, 0: as they are.
    The rest: of the service. An answer that has neither word among its first 20 tokens is no score."""

    def __init__(self, model: str, question: str = "", format: str = "jpeg", quality: int = 95, size: int = 0, **service: Any):
        super().__init__(service | {"model": model})
        self.question, self.encoding = texts.read(question, "vlm"), Encoding(format, quality, size)

    def prepare(self, image: np.ndarray) -> str:
        return self.encoding.data_url(image)

    async def judge(self, prepared: str, text: str, home: bytes, deadline: float) -> float:
        messages = asking.about(prepared, texts.fill(self.question, text))

        async def send(client: openai.AsyncOpenAI, seed: int) -> dict[str, float]:
            answer = await self.service.complete(client, messages, seed, logprobs=True, top_logprobs=TOP)
            return first_token(answer)

        return await self.service.request(send, self.read, deadline=deadline, answers=1, home=home)

    def read(self, words: dict[str, float]) -> float:
        """Of the first token's candidates with their probabilities. Raises services.Rejected."""
        yes, no = (math.fsum(p for token, p in words.items() if plain(token) == word) for word in ("yes", "no"))
        if yes + no == 0:
            raise Rejected("neither yes nor no")
        self.note("yes_or_no", yes + no)  # how often the model does what it was asked
        return yes / (yes + no)


def plain(token: str) -> str:
    """A token without case, spaces and punctuation."""
    return token.strip(_AROUND).casefold()


def first_token(answer: Any) -> dict[str, float]:
    """{token: probability} of the candidates for the first token of a chat completion. Raises Malformed."""
    try:
        candidates = answer.choices[0].logprobs.content[0].top_logprobs
        out: dict[str, float] = {}
        for one in candidates:  # two tokens may read the same
            out[one.token] = out.get(one.token, 0.0) + math.exp(min(float(one.logprob), 0.0))
    except (AttributeError, IndexError, TypeError, ValueError):
        raise Malformed("an answer without log-probabilities; the server must give them (logprobs, top_logprobs)") from None
    if not out or not all(math.isfinite(p) for p in out.values()):
        raise Malformed("an answer whose log-probabilities are none or no numbers")
    return out


JUDGE, PLACE = YesOrNo, "endpoints"
RULES = asking.rules(Settings) | {
    "model": Text(empty=False),
    "question": Text(),
    "format": Choice.of(FORMATS),
    "quality": Int(1, 100),
    "size": Int(0, 16384, zero="as they are"),
}
