"""What goes on beside the models: images are read ahead of them, and results are written behind them.

The models are the slow part of a run, on whatever device. Reading and resizing the next images, and encoding and
writing the last results, take threads of their own, so that a model never waits for a disk or a database. Both are
bounded: a run over a million images holds a handful of them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, depth: int = 4, workers: int = 2
) -> Iterator[tuple[Item, Future[Result]]]:
    """Call a function for every item, a few items ahead of whoever asks.

    Args:
        function: called in threads.
        items: asked for one by one, in the caller's thread.
        depth: results, done or not, that are ahead at most.
        workers: threads.

    Yields:
        every item with the future of its result, in their order. An error waits in its future.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        waiting.extend((item, pool.submit(function, item)) for item in islice(remaining, depth))
        while waiting:
            yield waiting.popleft()
            waiting.extend((item, pool.submit(function, item)) for item in islice(remaining, 1))
    finally:
        for _, future in waiting:  # some are left where the caller stopped early
            future.cancel()
        pool.shutdown(wait=True)


class BackgroundWriter:
    """A thread that does what it is given, in that order, behind whoever gives it.

    Used as a context: at its end all is done. The first error stops the work, and is raised where the next is given, or
    at the end.

    Args:
        depth: tasks that wait at most; who gives more waits, too.
    """

    def __init__(self, depth: int = 8) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._waiting: deque[Future[None]] = deque()
        self._depth = depth

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            while self._waiting:
                oldest = self._waiting.popleft()
                if kind is None:
                    oldest.result()
                elif (error := oldest.exception()) is not None:
                    # Something else went wrong before, and is the error to raise; what was given is still done.
                    logger.error("what was to be done behind could not be done", exc_info=error)
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def do(self, task: Callable[[], None]) -> None:
        """Do something, after all that was given before."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._depth):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(task))
