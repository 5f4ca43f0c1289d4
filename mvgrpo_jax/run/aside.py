"""Work for people, done beside training by a thread: pictures, TensorBoard, the report."""

from __future__ import annotations

import collections
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

WAITING = 8  # tasks that may wait; one more waits for the first, so that pictures do not pile up in memory


class Aside:
    """Runs tasks one after another in the order in which they came. An error of a task is raised by the next call here."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1, "aside")
        self._tasks: collections.deque[Future] = collections.deque()

    def __call__(self, task: Callable, *args, **kwargs) -> None:
        """Hands over task(*args, **kwargs) and returns."""
        while self._tasks and (self._tasks[0].done() or len(self._tasks) >= WAITING):
            self._tasks.popleft().result()
        self._tasks.append(self._thread.submit(task, *args, **kwargs))

    def wait(self) -> None:
        """Returns when everything is done."""
        while self._tasks:
            self._tasks.popleft().result()

    def close(self) -> None:
        """Ends the thread when everything is done; errors are raised by `wait` alone."""
        self._thread.shutdown()
