"""What judges elsewhere share: settings of their service, requests in the background, and an account of what did not come."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import hashlib
import inspect
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from mvgrpo_jax.configuration.of_services import SERVICE
from mvgrpo_jax.configuration.rules import Rule
from mvgrpo_jax.errors import UserError
from mvgrpo_jax.rewards.base import Judgement
from mvgrpo_jax.rewards.preprocess import as_uint8
from mvgrpo_jax.services import Access, Failure, Service, Worker, keys

Answer = float | Failure | None  # a score, why there is none, or nothing where there was no text


def options(settings: type[Access], **defaults: Any) -> dict[str, Any]:
    """The options that say where a judge is and how patient its client: the service's settings with their defaults, or with
    these. What is asked of a judge has no temperature."""
    fields = {f.name: f.default for f in dataclasses.fields(settings) if f.name != "temperature"}
    return fields | defaults


def rules(settings: type[Access]) -> dict[str, Rule]:
    """What they may be; the same as for the captioner."""
    return {name: SERVICE[name] for name in options(settings)}


def takes_options(settings: type[Access], **defaults: Any) -> Callable[[type], type]:
    """Of a judge elsewhere whose last argument is **service: lists the settings in its signature, from which a config knows
    them, and sets `settings_of`, which makes the settings of what was given. defaults: where they are not the captioner's."""
    listed = options(settings, **defaults)

    def settings_of(given: dict[str, Any]) -> Access:
        if unknown := sorted(given.keys() - listed.keys()):
            raise TypeError(f"unexpected keyword argument {unknown[0]!r}")
        return settings.of(listed | given | {"temperature": 0.0})

    def decorate(cls: type) -> type:
        own = [p for p in inspect.signature(cls).parameters.values() if p.kind is not p.VAR_KEYWORD]
        others = {name: value for name, value in listed.items() if name not in {p.name for p in own}}
        further = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in others.items()]
        cls.__signature__ = inspect.Signature(own + further)
        cls.settings_of = staticmethod(settings_of)
        return cls

    return decorate


def about(url: str, text: str) -> list[dict[str, Any]]:
    """The messages of a chat about a picture: it comes first, so that a server's prefix cache holds it for all its texts."""
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]}]


class Remote:
    """A judge elsewhere (base.RemoteJudge). A subclass says how pictures and texts are asked about: `ask`.

    service: its options, those of `takes_options`. The processes of a run share its concurrency.
    """

    settings_of: Callable[[dict[str, Any]], Access]

    def __init__(self, service: dict[str, Any]):
        self.settings = self.settings_of(service)
        self.secret = keys.read(self.settings.key_env, self.settings.key_file)
        self.asked = 0
        self.missing: collections.Counter[str] = collections.Counter()  # by reason
        self.noted: dict[str, list[float]] = collections.defaultdict(list)

    @functools.cached_property
    def service(self) -> Service:
        return Service(self.settings.shared(jax.process_count()), self.secret)

    @functools.cached_property
    def worker(self) -> Worker:
        return Worker("judge")

    async def ask(self, images: np.ndarray, captions: list[list[str | None]], deadline: float) -> list[list[Answer]]:
        """[N][V] of pictures uint8 [N, H, W, 3] under texts [N][V]. deadline: of time.monotonic()."""
        raise NotImplementedError

    def note(self, name: str, value: float) -> None:
        """Counts towards the mean that the log shows under this name."""
        self.noted[name].append(value)

    def begin(self, images: np.ndarray, captions: list[list[str | None]]) -> Scores:
        """UserError for what are no pictures [N, H, W, 3] with a list of texts each, all of one length."""
        views = len(captions[0]) if captions else 0
        if images.ndim != 4 or images.shape[-1] != 3 or [len(texts) for texts in captions] != [views] * len(images):
            raise UserError(
                f"a judge was given pictures {list(images.shape)} and texts for {len(captions)}; expected pictures "
                "[N, H, W, 3], and for each as many texts as for the others"
            )
        deadline = time.monotonic() + self.settings.batch_s
        return Scores(self, self.worker.submit(self.ask(as_uint8(images), captions, deadline)))

    def score(self, images: np.ndarray, captions: list[list[str | None]]) -> Judgement:
        return self.begin(images, captions).result()

    def take_cut(self) -> int:
        return 0  # how much of a text a server reads is not known here

    def take_log(self) -> dict[str, float]:
        """asked, missing, and of these how many for which reason; retries, hedges, seconds of an answer; means of what was
        noted."""
        counts, seconds = self.service.take_counts()
        out = {"asked": float(self.asked), "missing": float(self.missing.total())}
        out |= {f"missing/{reason.replace(' ', '_')}": float(n) for reason, n in sorted(self.missing.items())}
        out |= {name: float(counts[name]) for name in ("retries", "hedges")}
        if seconds:
            out["latency_p50_s"], out["latency_p95_s"] = (float(x) for x in np.percentile(seconds, (50, 95)))
        out |= {name: float(np.mean(values)) for name, values in sorted(self.noted.items())}
        self.asked, self.missing, self.noted = 0, collections.Counter(), collections.defaultdict(list)
        return out

    def close(self) -> None:
        """Ends what is under way, and the thread."""
        if "worker" in self.__dict__:
            self.worker.submit(self.service.close()).result(timeout=5)
            self.worker.close()


class Scores:
    """Of a batch that is on its way (base.Pending)."""

    def __init__(self, judge: Remote, future: Future):
        self.judge, self.future = judge, future
        self.judgement: Judgement | None = None

    def result(self) -> Judgement:
        if self.judgement is None:
            self.judgement = self._account(self.future.result())
        return self.judgement

    def _account(self, answers: list[list[Answer]]) -> Judgement:
        """Counts what is missing, warns of it, and leaves it invalid."""
        judge, failures = self.judge, [a for row in answers for a in row if isinstance(a, Failure)]
        asked = sum(answer is not None for row in answers for answer in row)
        reasons = collections.Counter(failure.rejected or failure.reason for failure in failures)
        judge.asked, judge.missing = judge.asked + asked, judge.missing + reasons
        if failures:
            why = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
            warnings.warn(
                f"{len(failures)} of {asked} scores did not come ({why}); such as: {failures[0]}. They are not valid",
                stacklevel=3,
            )
        valid = np.asarray([[isinstance(a, float) for a in row] for row in answers])
        scores = np.asarray([[a if isinstance(a, float) else 0.0 for a in row] for row in answers], np.float32)
        return Judgement(scores, valid)


class Pairs(Remote):
    """Asks about a picture and a text at a time; a text that a picture has twice is asked about once. A subclass says how a
    picture is prepared once for all its texts, and how the pair is asked about."""

    def prepare(self, image: np.ndarray) -> Any:
        """Of a picture uint8 [H, W, 3]; it runs in a thread of its own."""
        raise NotImplementedError

    async def judge(self, prepared: Any, text: str, home: bytes, deadline: float) -> float:
        """A finite score. Raises Failure. home: for `Service.request`, the same for all texts of a picture."""
        raise NotImplementedError

    async def ask(self, images, captions, deadline):
        return list(await asyncio.gather(*(self._row(*row, deadline) for row in zip(images, captions))))

    async def _row(self, image: np.ndarray, texts: list[str | None], deadline: float) -> list[Answer]:
        there = list(dict.fromkeys(text for text in texts if text is not None))
        if not there:
            return [None] * len(texts)
        home = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        prepared = await asyncio.to_thread(self.prepare, image)
        answers = await asyncio.gather(*(self._caught(prepared, text, home, deadline) for text in there))
        return [dict(zip(there, answers)).get(text) for text in texts]

    async def _caught(self, *arguments) -> Answer:
        try:
            return await self.judge(*arguments)
        except Failure as failure:
            return failure
