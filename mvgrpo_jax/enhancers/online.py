"""The online enhancer: every generated sample is described from a perspective drawn at random (MV-GRPO, section 0).

What is here is the same for every captioner: which sample is described from which perspective, deadlines, cleaning, and what
happens to captions that are missing. Captioners differ in who looks at the picture: embedded.py, vlm.py.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

import numpy as np

from mvgrpo_jax.enhancers.base import Pictures
from mvgrpo_jax.enhancers.perspectives import Perspective
from mvgrpo_jax.errors import Outage, UserError
from mvgrpo_jax.parallel.hosts import exchange
from mvgrpo_jax.services import Failure, Rejected, Worker

MISSING = ("mask", "offline", "stop")
# What is logged of every iteration, beside the captioner's own.
COUNTED = ("asked", "missing", "cut", "replaced", "wait_s")


class Captioner(Protocol):
    """caption(image uint8 [H, W, 3], perspective, seed, deadline of time.monotonic()) -> a clean caption.

    Raises services.Failure. remote: whether another machine does the work, so that waiting can be hidden.
    take_log() -> metrics since the last call.
    """

    remote: bool

    async def caption(self, image: np.ndarray, perspective: Perspective, seed: int, deadline: float) -> str: ...

    def take_log(self) -> dict[str, float]: ...

    async def close(self) -> None: ...


class OnlineEnhancer:
    """K captions for each prompt and branch; with K = G, caption k describes sample k.

    K < G describes K samples drawn at random, K > G goes round the group again with new perspectives. batch_s: the captions
    of a branch are waited for so long after its pictures came. missing: what happens to a caption that did not come:
    'mask' (its view is left out of this update), 'offline' (a caption of that prompt from `spare` that the group does not
    have yet), 'stop'. patience: so many iterations in a row without any caption end the run; 0: never.
    fit(text) -> the text cut to what the encoders read.
    """

    def __init__(
        self,
        captioner: Captioner,
        count: int,
        seed: int,
        perspectives: tuple[Perspective, ...],
        *,
        batch_s: float = 180.0,
        missing: str = "mask",
        spare: Callable[[str], list[str]] | None = None,
        patience: int = 3,
        fit: Callable[[str], str] = lambda text: text,
    ):
        if missing not in MISSING:
            raise UserError(f"config.views.missing must be one of {', '.join(MISSING)}, got {missing!r}")
        if missing == "offline" and spare is None:
            raise UserError("config.views.missing='offline' needs config.views.file, the captions to fall back on")
        self.captioner, self.count, self.seed, self.perspectives = captioner, count, seed, perspectives
        self.batch_s, self.missing, self.spare, self.patience, self.fit = batch_s, missing, spare, patience, fit
        self.barren = 0
        self.counts = dict.fromkeys(COUNTED, 0.0)  # of all processes
        self.worker = Worker("enhancer")

    @property
    def eager(self) -> bool:
        return self.captioner.remote

    def known(self) -> None:
        return None

    def begin(self, iteration: int, prompts: list[str], branches: int, group: int) -> OnlineSession:
        return OnlineSession(self, iteration, prompts, branches, group)

    def draw(self, iteration: int, p: int, branch: int, group: int) -> list[tuple[int, Perspective, int]]:
        """(sample, perspective, seed of the request) of each of the K captions: from the seed and the place alone."""
        order = np.random.default_rng([self.seed, 11, iteration, p, branch])
        samples = np.arange(self.count) % group if self.count >= group else np.sort(order.permutation(group)[: self.count])
        out = []
        for k, sample in enumerate(samples):
            rng = np.random.default_rng([self.seed, 12, iteration, p, branch, k])
            perspective = self.perspectives[rng.integers(len(self.perspectives))]
            out.append((int(sample), perspective, int(rng.integers(2**31))))
        return out

    def log(self) -> dict[str, float]:
        counts, self.counts = self.counts, dict.fromkeys(COUNTED, 0.0)
        return {f"enhancer/{name}": float(value) for name, value in counts.items()}

    def tally(self, counts: dict[str, float]) -> None:
        """Adds what a process counted; of seconds the longest stay."""
        for name, value in counts.items():
            before = self.counts.get(name, 0.0)
            self.counts[name] = max(before, value) if name.endswith("_s") else before + value

    def close(self) -> None:
        with contextlib.suppress(TimeoutError):
            self.worker.submit(self.captioner.close()).result(timeout=5)
        self.worker.close()


class OnlineSession:
    """Requests of one rollout. Each process asks for captions of the pictures that it owns, and all get all."""

    def __init__(self, enhancer: OnlineEnhancer, iteration: int, prompts: list[str], branches: int, group: int):
        self.enhancer, self.iteration, self.prompts = enhancer, iteration, prompts
        self.branches, self.group = branches, group
        self.futures: dict[int, dict[tuple[int, int], Future]] = {}  # of this process, by branch
        self.arrived, self.reasons, self.detail = 0, collections.Counter(), ""  # of all processes

    def add(self, branch: int, images: Pictures) -> None:
        deadline = time.monotonic() + self.enhancer.batch_s
        futures = self.futures[branch] = {}
        for p in sorted({p for p, _ in images}):
            for k, (sample, perspective, seed) in enumerate(self.enhancer.draw(self.iteration, p, branch, self.group)):
                if (image := images.get((p, sample))) is not None:
                    work = self._one(image, perspective, seed, deadline)
                    futures[k, p] = self.enhancer.worker.submit(work)

    async def _one(self, image: np.ndarray, perspective: Perspective, seed: int, deadline: float) -> str:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return await self.enhancer.captioner.caption(image, perspective, seed, deadline)

    def captions(self, branch: int) -> list[list[str | None]]:
        enhancer, began = self.enhancer, time.perf_counter()
        futures = self.futures.pop(branch, {})
        arrived: list[tuple[int, int, str]] = []
        reasons: collections.Counter[str] = collections.Counter()
        detail, cut = "", 0
        for (k, p), future in futures.items():
            try:
                text = future.result(timeout=enhancer.batch_s + 5)
                fitted = enhancer.fit(text)
                cut += fitted != text
                arrived.append((k, p, fitted))
            except (Failure, Rejected) as error:
                reasons[getattr(error, "reason", "rejected")] += 1
                detail = str(error)
            except TimeoutError:
                reasons["deadline"] += 1
        counts = {"asked": len(futures), "missing": sum(reasons.values()), "cut": cut, "wait_s": time.perf_counter() - began}
        captions: list[list[str | None]] = [[None] * len(self.prompts) for _ in range(enhancer.count)]
        longest = 0.0
        for process in exchange(json.dumps([arrived, reasons, detail, counts])):
            arrived, reasons, detail, counts = json.loads(process)
            for k, p, text in arrived:
                captions[k][p] = text
            self.arrived += len(arrived)
            self.reasons.update(reasons)
            self.detail = self.detail or detail
            longest = max(longest, counts.pop("wait_s"))  # processes wait beside each other, branches after each other
            enhancer.tally(counts)
        enhancer.counts["wait_s"] += longest
        if enhancer.missing == "offline":
            self._replace(branch, captions)
        return captions

    def finish(self) -> None:
        """Raises Outage where the config says that the run is not to go on without those that are missing."""
        enhancer, reasons = self.enhancer, self.reasons
        for process in exchange(json.dumps(enhancer.captioner.take_log())):
            enhancer.tally(json.loads(process))
        enhancer.barren = enhancer.barren + 1 if self.prompts and not self.arrived else 0
        if not reasons:
            return
        total = enhancer.count * len(self.prompts) * self.branches
        why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        message = f"iteration {self.iteration}: {sum(reasons.values())} of {total} captions did not come ({why})"
        message += f"; such as: {self.detail}" if self.detail else ""
        if enhancer.missing == "stop":
            raise Outage(f"{message}. config.views.missing='stop' ends the run here")
        if sum(reasons.values()) == total and enhancer.patience and enhancer.barren >= enhancer.patience:
            raise Outage(
                f"{message}, and none came in {enhancer.barren} iterations. Look at the service, then run again to go on"
            )
        warnings.warn(
            f"{message}; {'replaced by offline ones' if enhancer.missing == 'offline' else 'their views are masked'}",
            stacklevel=2,
        )

    def _replace(self, branch: int, captions: list[list[str | None]]) -> None:
        """Fills gaps with captions of the same prompt that the group does not have; what is not there stays masked."""
        enhancer = self.enhancer
        for p, prompt in enumerate(self.prompts):
            there = {view[p] for view in captions} | {prompt}
            rng = np.random.default_rng([enhancer.seed, 14, self.iteration, p, branch])
            unused = [t for t in enhancer.spare(prompt) if t not in there]
            unused = [unused[i] for i in rng.permutation(len(unused))]
            for view in captions:
                if view[p] is None and unused:
                    view[p] = enhancer.fit(unused.pop())
                    enhancer.counts["replaced"] += 1
