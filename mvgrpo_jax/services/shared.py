"""Answers that several ask for: one asks, the others wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from typing import Any

KEPT = 4096  # newest questions whose answers are kept


class Shared:
    """Answers by question, for askers in any threads and event loops. An asker never waits for itself: what it asks again, as
    after a fault or because the first attempt is late, is asked again."""

    def __init__(self, kept: int = KEPT):
        self._kept, self._lock = kept, threading.Lock()
        self._known: OrderedDict[Hashable, tuple[object, Future]] = OrderedDict()

    async def get(self, question: Hashable, asker: object, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a question that another asker has asked, or that of ask(). What goes wrong with another's question is
        not taken over: this one asks itself then."""
        with self._lock:
            owner, future = self._known.get(question) or self._begin(question, asker)
        if owner is not asker:
            try:
                return await asyncio.shield(asyncio.wrap_future(future))
            except Exception:  # whatever went wrong there
                with self._lock:
                    if self._known.get(question, (None, future))[1] is future:
                        future = self._begin(question, asker)[1]
                    else:  # a third one asks again already; one more question is no harm
                        future = Future()
        try:
            answer = await ask()
        except BaseException as error:
            with self._lock:
                if self._known.get(question, (None, None))[1] is future and not future.done():
                    del self._known[question]
                    future.set_exception(error if isinstance(error, Exception) else RuntimeError("cancelled"))
            raise
        with self._lock:
            if not future.done():
                future.set_result(answer)
        return answer

    def _begin(self, question: Hashable, asker: object) -> tuple[object, Future]:
        self._known[question] = asker, Future()
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return self._known[question]
