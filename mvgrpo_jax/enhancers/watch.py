"""Whether the service that rewrites prompts works, judged over all prompts together: a prompt alone cannot tell."""

from __future__ import annotations

import asyncio
import collections
import time

import numpy as np

from mvgrpo_jax.enhancers.rewriters import Rewriter
from mvgrpo_jax.services import Failure, Service

NO_GOOD = ("rejected", "bad request")  # reasons of a service that is there: the same request will fare no better
CONTROLS = 30  # questions that worked before, before a service counts as of no use


class Watch:
    """Asks a rewriter and remembers when somebody last got an answer of use.

    An answer is of use when it does what was asked for; near repeats are of use. give_up_s: seconds without an answer of use
    to anybody after which `over` holds; 0: never. proofs: prompt -> operation of questions that were answered once, for
    `works` to ask again. answered: answers of use so far.
    """

    def __init__(
        self,
        rewriter: Rewriter,
        service: Service | None = None,
        give_up_s: float = 0.0,
        proofs: dict[str, str] | None = None,
    ):
        self.rewriter, self.service, self.give_up_s, self.proofs = rewriter, service, give_up_s, dict(proofs or {})
        self.answered = self.controls = 0
        self.last = time.monotonic()
        self.before: collections.Counter[str] = collections.Counter()  # the service's counts at the last answer of use
        self.asking = asyncio.Lock()

    async def ask(self, prompt: str, operation: str, memory: list[str], rng: np.random.Generator) -> str | None:
        """The rewriter's answer. Raises Failure."""
        text = await self.rewriter.rewrite(prompt, operation, memory, rng)
        if text is not None:
            self.answered += 1
            self.last = time.monotonic()
            self.proofs.pop(prompt, None)
            self.proofs[prompt] = operation
            if len(self.proofs) > 2:  # of two prompts at least one is another than that which asks whether it works
                del self.proofs[next(iter(self.proofs))]
            if self.service is not None:
                self.before = self.service.counts.copy()
        return text

    async def works(self, prompt: str, seen: int) -> bool:
        """Whether anybody got an answer of use after `answered` was `seen`; when not, whether a question that was answered
        once, of another prompt if there is one, is answered again. Raises Failure when the service refuses for good."""
        async with self.asking:  # while a service is down it is asked one question, not one by each prompt
            if self.answered > seen:
                return True
            known = [p for p in reversed(self.proofs) if p != prompt] or list(self.proofs)
            for _ in range(CONTROLS if known else 0):
                self.controls += 1
                rng = np.random.default_rng([19, self.controls])
                try:
                    if await self.ask(known[0], self.proofs[known[0]], [known[0]], rng) is not None:
                        return True
                except Failure as failure:
                    if failure.reason == "refused":
                        raise
                    if failure.reason not in NO_GOOD:
                        return False
                if self.answered > seen:
                    return True
            return False

    def left(self) -> float | None:
        """Seconds until the service counts as silent; None: it never does."""
        return max(0.0, self.last + self.give_up_s - time.monotonic()) if self.give_up_s else None

    def over(self) -> bool:
        return self.left() == 0.0

    def reasons(self) -> collections.Counter[str]:
        """What came since the last answer of use, with how often: 'error: timeout', 'rejected: cut off', 'bad request'."""
        counts = self.service.counts - self.before if self.service is not None else collections.Counter()
        kinds = ("error:", "rejected:", "failed:bad request")
        named = {name: n for name, n in counts.items() if name.startswith(kinds)}
        return collections.Counter({name.removeprefix("failed:").replace(":", ": "): n for name, n in named.items()})


def reason(failure: Failure) -> str:
    """The word of Watch.reasons for a failure."""
    if failure.reason == "rejected":
        return f"rejected: {failure.rejected}"
    return failure.reason if failure.reason == "bad request" else f"error: {failure.reason}"
