"""Prefetching of inputs and background writing of results.

The models are the slowest part of a run on any device. The next images are read and resized, and the last results are
encoded and written, in separate threads, so that a model never waits for a disk or a database. Both queues are bounded:
a run over a million images holds only a few of them in memory.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TypeVar

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, depth: int = 4, workers: int = 2
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Map a function over items in threads, a few items ahead of the consumer.

    Args:
        function: called in worker threads.
        items: consumed one by one, in the caller's thread.
        depth: maximal number of items that are ahead, computed or not.
        workers: number of threads.

    Yields:
        each item with the future of its result, in order. An exception is raised by the future.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    try:
        waiting.extend((item, pool.submit(function, item)) for item in islice(remaining, depth))
        while waiting:
            yield waiting.popleft()
            waiting.extend((item, pool.submit(function, item)) for item in islice(remaining, 1))
    finally:
        for _, future in waiting:  # not empty if the caller stopped early
            future.cancel()
        pool.shutdown(wait=True)


def prefetch_together(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    together: Callable[[list[Result]], Sequence[Result]] | None = None,
    batch: int = 1,
    *,
    ahead: bool = True,
) -> Generator[tuple[Item, Callable[[], Result]], None, None]:
    """As :func:`prefetch`, with work on several results at once in the caller's thread, for a GPU.

    Args:
        function: called in worker threads.
        items: consumed one by one, in the caller's thread.
        together: replaces the results of a batch. If it fails, they are passed on as they are.
        batch: number of results for ``together``, which is not called for batches of one.
        ahead: prefetch for batches of one as well. If not, their results are computed without threads, each when it is
            asked for.

    Yields:
        each item with a function that returns its result, or raises what ``function`` raised for it.
    """
    if batch == 1 and not ahead:
        yield from ((item, partial(function, item)) for item in items)
        return
    # A GPU takes images faster than two threads decode and resize them.
    depth, workers = (4, 2) if batch == 1 else (3 * batch, min(8, os.cpu_count() or 1))
    with closing(prefetch(function, items, depth=depth, workers=workers)) as fetched:
        while group := list(islice(fetched, batch)):
            futures = [future for _, future in group]
            results = [future.result for future in futures] if batch == 1 else _after(together, futures)
            yield from zip((item for item, _ in group), results, strict=True)


def _after(
    together: Callable[[list[Result]], Sequence[Result]] | None, futures: Sequence[Future[Result]]
) -> list[Callable[[], Result]]:
    usable = [future for future in futures if future.exception() is None]
    ready: dict[Future[Result], Result] = {}
    try:
        if together is not None and usable:
            ready = dict(zip(usable, together([future.result() for future in usable]), strict=True))
    except Exception as error:
        logger.warning("%d items are processed one by one: %s: %s", len(usable), type(error).__name__, error)
    return [partial(ready.__getitem__, future) if future in ready else future.result for future in futures]


class BackgroundWriter:
    """Background thread that runs tasks in order.

    A context manager: all tasks are done when it exits. The first exception stops the work; it is raised by the next
    call of :meth:`do`, or at the exit.

    Args:
        depth: maximal number of waiting tasks; :meth:`do` blocks if there are more.
    """

    def __init__(self, depth: int = 8) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
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
                    # Another exception is already being raised; waiting tasks still run.
                    logger.error("a background task failed", exc_info=error)
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def do(self, task: Callable[[], None]) -> None:
        """Run a task after all earlier ones."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= self._depth):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(task))
