"""Captions of prompts by a rewriter, many prompts at a time.

Three operations, drawn at random: addition of details, deletion of details, rewriting in other words. A memory of what was
already produced for a prompt prevents repeats.

When a prompt is finished. It is finished with `count` captions. It is finished with fewer, at least one, when an EFFORT of
90 rejected answers, 30 near repeats or three draws that met faults, or a mixture, brought no further caption although the
service works: after them another prompt got an answer of use, or a question that was answered before is answered again.
Otherwise it is not finished: it has no caption, or the lack may be the service's.

A try that is no good (an answer that was rejected, a near repeat, an operation that cannot be applied, a bad request) leads to
another draw of operation and seed. A fault (no answer, a broken one, an error of the server) leads to the same draw again, as
long as it takes; a draw that met faults alone, and FAULTS times while others were answered, is left. The run ends when the
service refuses for good, and when nobody got an answer of use for a stated time.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import hashlib
import itertools
import random
from collections.abc import AsyncIterator, Iterable

import numpy as np
from rapidfuzz import fuzz

from mvgrpo_jax.enhancers.rewriters import OPERATIONS
from mvgrpo_jax.enhancers.watch import NO_GOOD, Watch, reason
from mvgrpo_jax.services import Failure

# What is spent on one caption before the prompt counts as exhausted, and what a try costs: rejected answers are common with
# small models and tell least.
EFFORT, REJECTED, UNCHANGED, FAULTED = 90, 1, 3, 30
FAULTS = 4  # further faults of a draw, with answers to others in between, after which it is left
LONGEST_PAUSE = 30.0  # seconds between faults of a draw


@dataclasses.dataclass
class Enhanced:
    """What was written for a prompt. similar: of each caption, its similarity to the nearest of the prompt and the captions
    before it. refused: near repeats. finished: whether it may be written down. reasons: why the tries for the newest caption
    were no good, counted. detail: what the service said last."""

    prompt: str
    captions: list[dict[str, str]] = dataclasses.field(default_factory=list)
    similar: list[float] = dataclasses.field(default_factory=list)
    refused: int = 0
    finished: bool = True
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    detail: str = ""


def canonical(text: str) -> str:
    return " ".join(text.lower().split())


def similarity(a: str, b: str) -> float:
    """1 for equal texts, case and spaces aside: 1 - insertions and deletions between them / length of both."""
    return fuzz.ratio(canonical(a), canonical(b)) / 100


async def enhance_prompt(prompt: str, watch: Watch, count: int, seed: int, limit: float) -> Enhanced:
    """Up to `count` captions, each less similar than `limit` to the prompt and to the others. The draws depend on the seed,
    the prompt and the answers alone, whatever else is in the file and whatever faults there are. Raises Failure when the
    service refuses for good."""
    digest = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8])
    rng = np.random.default_rng([seed, 13, digest])
    out = Enhanced(prompt)
    while len(out.captions) < count:
        if not await _add_caption(out, watch, rng, limit):
            # Answers from now on count: those of before may be from before the service stopped to be of use.
            out.finished = bool(out.captions) and await watch.works(prompt, watch.answered)
            break
    return out


async def _add_caption(out: Enhanced, watch: Watch, rng: np.random.Generator, limit: float) -> bool:
    """Writes a further caption into `out`; False when EFFORT was spent without one."""
    memory = [out.prompt, *(c["text"] for c in out.captions)]
    out.reasons.clear()
    spent = 0
    while spent < EFFORT:
        operation = str(rng.choice(OPERATIONS))
        try:
            text = await _through_faults(out.prompt, operation, memory, rng, watch)
        except Failure as failure:
            if failure.reason == "refused":
                raise
            out.reasons[reason(failure)] += 1
            out.detail = "" if failure.reason == "rejected" else str(failure)
            spent += REJECTED if failure.reason in NO_GOOD else FAULTED
            continue
        if text is None:
            out.reasons["operation not applicable"] += 1
            spent += UNCHANGED
            continue
        nearest = max(similarity(text, known) for known in memory)
        if nearest < limit:
            out.captions.append({"text": text, "operation": operation})
            out.similar.append(nearest)
            return True
        out.refused += 1
        out.reasons["repeat"] += 1
        spent += UNCHANGED
    return False


async def _through_faults(prompt: str, operation: str, memory: list[str], rng: np.random.Generator, watch: Watch) -> str | None:
    """The answer to one draw. After a fault the generator is set back, so that the very same is asked again. Raises Failure:
    of NO_GOOD, 'refused', or of the last fault when the draw met faults while others were answered."""
    state, seen, alone = rng.bit_generator.state, None, 0
    for fault in itertools.count():
        try:
            return await watch.ask(prompt, operation, memory, rng)
        except Failure as failure:
            if failure.reason in (*NO_GOOD, "refused"):
                raise
            if seen is not None:
                alone += await watch.works(prompt, seen)
            if alone == FAULTS:
                raise
        seen = watch.answered
        rng.bit_generator.state = state
        await asyncio.sleep(min(0.25 * 2 ** min(fault, 10), LONGEST_PAUSE) * random.uniform(0.5, 1.0))


async def enhance_prompts(
    prompts: Iterable[str], watch: Watch, count: int, seed: int, *, limit: float = 1.0, in_flight: int = 1
) -> AsyncIterator[Enhanced]:
    """What was written for each prompt as it ends, finished or not, `in_flight` prompts at a time. Raises Failure when the
    service refuses for good ('refused'), or gave nobody an answer of use for the watch's time ('silent')."""
    waiting: collections.deque[str] = collections.deque(prompts)
    running: set[asyncio.Task] = set()
    try:
        while waiting or running:
            while waiting and len(running) < in_flight:
                running.add(asyncio.create_task(enhance_prompt(waiting.popleft(), watch, count, seed, limit)))
            done, running = await asyncio.wait(running, timeout=watch.left(), return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda task: task.exception() is not None):  # what came is not lost
                yield task.result()
            if running and watch.over():
                raise Failure("silent", f"no answer of use for {watch.give_up_s:g} s (--give-up-s)")
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
