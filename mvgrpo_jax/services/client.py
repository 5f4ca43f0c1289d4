"""One request to a service: attempts within deadlines, pauses between them, hedges for stragglers, and a reason at the end."""

from __future__ import annotations

import asyncio
import collections
import email.utils
import json
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import openai

from mvgrpo_jax.services.endpoints import Endpoint, NoEndpoint, Pool, TooLarge
from mvgrpo_jax.services.keys import Secret
from mvgrpo_jax.services.settings import Access, Settings

LONGEST_PAUSE = 30.0  # between attempts, without a Retry-After
HOPELESS = (413, 414, 415, 431)  # the request is too large, or of a kind that the server does not read


class Failure(Exception):
    """A request got no usable answer. `reason` is one of a few words, for counting; the message has details. `rejected`: why
    the last answer was of no use, where the reason is 'rejected'."""

    def __init__(self, reason: str, message: str = "", rejected: str = ""):
        super().__init__(message or reason)
        self.reason, self.rejected = reason, rejected


class Rejected(Exception):
    """Raised by `accept`: the answer is of no use, ask again."""


class Malformed(Exception):
    """Raised by `send`: what came is no answer of this protocol."""


# (client, seed) -> the answer, with which httpx2's and openai's errors are let through
Send = Callable[[openai.AsyncOpenAI, int], Awaitable[Any]]


class _Again(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, message: str, pause: float = 0.0):
        super().__init__(message)
        self.reason, self.pause = reason, pause


class _Refused(Exception):
    """The endpoint will not do, ever; another one may."""


class Service:
    """A model, or anything else that answers, behind one or more endpoints. To be used from one asyncio loop.

    counts: requests, attempts, retries, hedges, and answers and failures by reason, since the last `take_counts`.
    """

    def __init__(self, settings: Access, secret: Secret | None = None):
        self.settings, self.secret = settings, secret
        self.pool: Pool | None = None  # made in the loop that uses it
        self.counts: collections.Counter[str] = collections.Counter()
        self.seconds: list[float] = []

    async def ask(
        self,
        messages: list[dict[str, Any]],
        accept: Callable[[str, str], Any],
        *,
        seed: int = 0,
        deadline: float | None = None,
        answers: int | None = None,
        home: bytes = b"",
    ) -> Any:
        """What `accept(text, finish_reason)` makes of a chat completion. The rest as `request`; the settings are Settings."""

        send = lambda client, seed: self.answer(client, messages, seed)
        return await self.request(
            send, lambda answer: accept(*answer), seed=seed, deadline=deadline, answers=answers, home=home
        )

    async def answer(self, client: openai.AsyncOpenAI, messages: list[dict[str, Any]], seed: int) -> tuple[str, str]:
        """The text of a chat completion by the settings, and why it ended; for `send`."""
        return content(await self.complete(client, messages, seed))

    async def complete(self, client: openai.AsyncOpenAI, messages: list[dict[str, Any]], seed: int, **fields: Any) -> Any:
        """A chat completion by the settings, with further fields of the request; for `send`."""
        s: Settings = self.settings
        return await client.chat.completions.create(
            model=s.model,
            messages=messages,
            max_tokens=s.max_tokens,
            temperature=s.temperature,
            seed=seed,
            extra_body=s.fields() or None,
            **fields,
        )

    async def request(
        self,
        send: Send,
        accept: Callable[[Any], Any],
        *,
        seed: int = 0,
        deadline: float | None = None,
        answers: int | None = None,
        home: bytes = b"",
    ) -> Any:
        """What `accept` makes of what `send` got.

        Faults and rejected answers have a budget each. After a fault the same is asked again, with the same seed, after a
        pause, up to the settings' `retries` times. An answer that `accept` rejects is asked for again at once with the next
        seed; `answers` (None: retries + 1) rejected ones end the request with the reason 'rejected'. The settings' request_s
        counts from when one of the places in flight is free; deadline, of time.monotonic(), holds for the wait too. home:
        requests with the same bytes go to the same endpoint while it is well, hedges apart. Raises Failure.
        """
        if self.pool is None:
            self.pool = Pool(self.settings, self.secret)
            self.places = asyncio.Semaphore(self.settings.concurrency * len(self.settings.endpoints))
        self.counts["requests"] += 1
        queued = began = time.monotonic()
        limit = self.settings.request_s
        answers = self.settings.retries + 1 if answers is None else answers
        last: list[_Again] = []  # the attempts that failed; the newest is kept for the case that time runs out
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - queued)), self.places:
                began = time.monotonic()  # what waits for a place waits for the batch's deadline alone
                async with asyncio.timeout(limit):
                    answer = await self._attempts(send, accept, seed, answers, last, home)
        except TimeoutError:
            detail = f"; before that: {last[-1]}" if last else ""
            raise self._failed("deadline", f"no answer within {time.monotonic() - queued:.1f} s{detail}") from None
        except (_Again, Rejected) as error:
            reason, rejected = getattr(error, "reason", "rejected"), str(error) if isinstance(error, Rejected) else ""
            raise self._failed(reason, f"{error} (the last of {len(last)} attempts)", rejected) from None
        except NoEndpoint as error:
            raise self._failed("refused", str(error)) from None
        except Failure as error:
            raise self._failed(error.reason, str(error)) from None
        self.seconds.append(time.monotonic() - began)
        self.counts["answers"] += 1
        return answer

    def _failed(self, reason: str, message: str, rejected: str = "") -> Failure:
        self.counts[f"failed:{reason}"] += 1
        return Failure(reason, message, rejected)

    async def _attempts(self, send: Send, accept, seed: int, answers: int, last: list[_Again], home: bytes) -> Any:
        faults = rejected = 0
        failed: list[Endpoint] = []  # what has a home goes elsewhere after a fault there
        while True:
            if last:
                self.counts["retries"] += 1
            try:
                return accept(await self._hedged(send, (seed + rejected) % 2**31, home, failed))
            except Rejected as error:
                self.counts[f"rejected:{error}"] += 1
                last.append(_Again("rejected", f"the answer was rejected ({error})"))
                rejected += 1
                if rejected >= answers:
                    raise
            except _Again as error:
                self.counts[f"error:{error.reason}"] += 1
                last.append(error)
                faults += 1
                if faults > self.settings.retries:
                    raise
                await asyncio.sleep(self._pause(faults, error))
            except _Refused:
                pass  # the pool knows, and another endpoint is asked, or NoEndpoint ends it

    def _pause(self, faults: int, error: _Again) -> float:
        if len(self.pool.usable()) > 1 and not error.pause:
            faults = 1  # another endpoint is there to be asked
        full = min(self.settings.backoff_s * 2 ** (faults - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        if error.reason == "busy" and self.pool.live():
            return full  # the endpoint is left alone as long as it asked to be, and another one is not
        return max(full, error.pause)

    async def _hedged(self, send: Send, seed: int, home: bytes, failed: list[Endpoint]) -> Any:
        """One attempt, doubled when it takes far longer than most and a place is free: the first answer wins."""
        used: list[Endpoint] = []
        first = asyncio.create_task(self._attempt(send, seed, used, failed if home else (), home))
        tasks = {first}
        try:
            usual = self.pool.percentile(0.95) if self.settings.hedge else None
            delay = None if usual is None else max(0.05, self.settings.hedge * usual)
            while delay is not None and not (await asyncio.wait(tasks, timeout=delay))[0]:
                if used and self.pool.idle(used[0]):  # while others wait for a place, a second attempt would only add to it
                    self.counts["hedges"] += 1
                    tasks.add(asyncio.create_task(self._attempt(send, seed, [], (used[0],))))
                    break
                delay = 0.1
            pending, error = set(tasks), None
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None:
                        if task is not first:
                            self.counts["hedges_won"] += 1
                        return task.result()
                    error = task.exception()
            failed += used
            raise error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _attempt(
        self, send: Send, seed: int, used: list[Endpoint], avoid: Collection[Endpoint] = (), home: bytes = b""
    ) -> Any:
        s = self.settings
        async with self.pool.slot(avoid, home) as endpoint:
            used.append(endpoint)
            self.counts["attempts"] += 1
            began = time.monotonic()
            try:
                async with asyncio.timeout(s.attempt_s):
                    answer = await send(endpoint.client, seed)
            except (TimeoutError, openai.APITimeoutError):
                self.pool.struck(endpoint)
                raise _Again("timeout", f"{endpoint.url}: no answer within {s.attempt_s:g} s") from None
            except openai.RateLimitError as error:
                seconds = _retry_after(error)
                self.pool.pause(endpoint, seconds)
                raise _Again("busy", f"{endpoint.url}: too many requests", seconds) from None
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
                endpoint.refused = f"{endpoint.url} refused with status {error.status_code}: {_brief(error)}"
                raise _Refused(endpoint.refused) from None
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                raise Failure("bad request", f"{endpoint.url}: {_brief(error)}") from None
            except openai.APIConnectionError as error:
                if certificate := _cause(error, ssl.SSLCertVerificationError):
                    endpoint.refused = f"{endpoint.url}: its certificate is not trusted ({certificate.verify_message})"
                    raise _Refused(endpoint.refused) from None
                self.pool.struck(endpoint)
                reason = "too large" if _cause(error, TooLarge) else "connection"
                raise _Again(reason, f"{endpoint.url}: {_brief(_cause(error, Exception) or error)}") from None
            except openai.APIStatusError as error:
                if error.status_code in HOPELESS:
                    raise Failure("bad request", f"{endpoint.url}: {_brief(error)}") from None
                self.pool.struck(endpoint)
                raise _Again("server error", f"{endpoint.url}: status {error.status_code}", _retry_after(error)) from None
            except Malformed as error:
                self.pool.struck(endpoint)
                raise _Again("malformed", f"{endpoint.url}: {error}") from None
            except (openai.OpenAIError, json.JSONDecodeError, ValueError, TypeError, AttributeError) as error:
                self.pool.struck(endpoint)
                raise _Again("malformed", f"{endpoint.url}: not an answer of this protocol ({_brief(error)})") from None
            self.pool.succeeded(endpoint, time.monotonic() - began)
            return answer

    def take_counts(self) -> tuple[collections.Counter[str], list[float]]:
        """The counts and the seconds of answered requests since the last call."""
        counts, self.counts = self.counts, collections.Counter()
        seconds, self.seconds = self.seconds, []
        return counts, seconds

    def health(self) -> str:
        """One line about every endpoint."""
        if self.pool is None:
            return "not asked yet"
        return "; ".join(
            e.refused or f"{e.url} served {e.served}, failed {e.failed}" + (" (left alone)" if e.failures else "")
            for e in self.pool.endpoints
        )

    async def close(self) -> None:
        if self.pool is not None:
            await self.pool.close()


def content(answer: Any) -> tuple[str, str]:
    """Text and finish reason of a chat completion, which a faulty server may have sent in any shape.

    Of an answer that holds thoughts alone, which servers put beside an empty content, the text is '<think>' and the thoughts:
    what a server that does not tell thoughts from answers sends.
    """
    choices = getattr(answer, "choices", None)
    if not choices:
        raise Malformed("an answer without choices")
    message = getattr(choices[0], "message", None)
    text = getattr(message, "content", None)
    if isinstance(text, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in text):
        text = "".join(part["text"] for part in text)  # some servers send the parts that requests are made of
    if text is not None and not isinstance(text, str):
        raise Malformed("an answer whose content is no text")
    if not (text or "").strip():
        thoughts = (getattr(message, name, None) for name in ("reasoning_content", "reasoning"))
        text = next((f"<think>{t}" for t in thoughts if isinstance(t, str) and t.strip()), "")
    return text, str(getattr(choices[0], "finish_reason", "") or "")


def _retry_after(error: openai.APIStatusError) -> float:
    """Seconds that the server asks for, 0 when it does not say."""
    value = error.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _cause(error: BaseException, kind: type) -> Any:
    """The first exception of a type in a chain of causes, beneath `error`."""
    below = error.__cause__ or error.__context__
    while below is not None:
        if isinstance(below, kind):
            return below
        below = below.__cause__ or below.__context__
    return None


def _brief(error: BaseException) -> str:
    """A message for a line of a log: one line, no endless bodies, nothing that moves a cursor."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c for c in text if c.isprintable())[:200]
