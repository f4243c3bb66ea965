"""Work on the CPU in chunks that run side by side, each in a thread of its own.

torch spreads every operation over its intra-op threads. Where operations are small, that gains little, and costs much
on a machine that has other work: the threads meet after every operation, and while one of them waits for a core, the
others spin. Chunks that run side by side, with one intra-op thread each, meet once.

The threads flush denormal numbers to zero. Sharp attention makes many of them, and a product of matrices that meets
them is a hundred times slower on some processors. torch can set that for the current thread only, not for
its intra-op threads, which is why a single chunk runs in such a thread, too.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
First = TypeVar("First")
Second = TypeVar("Second")


def map_chunks(function: Callable[[Chunk], Result], chunks: Sequence[Chunk]) -> list[Result]:
    """Call a function for every chunk, in as many threads as torch uses for one operation in the caller's.

    The threads are shared by all callers in the process, so that concurrent calls do not use more cores than there are.
    Chunks are handed out one at a time, so that it does not matter if some take longer. A call from within a chunk runs
    in its thread.

    Args:
        function: gets one intra-op thread. It must enter by itself what torch keeps per thread: inference mode,
            autocast and the like.
        chunks: of work on the CPU.

    Returns:
        the results, in the order of the chunks.

    Raises:
        Exception: the first one that the function raises. Chunks that have not begun by then are not run.
    """
    if getattr(_local, "is_worker", False):
        return [function(chunk) for chunk in chunks]
    threads = min(torch.get_num_threads(), len(chunks))
    waiting = deque(enumerate(chunks))
    results: dict[int, Result] = {}

    def work() -> None:
        try:
            while waiting:
                try:
                    index, chunk = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                results[index] = function(chunk)
        except BaseException:
            waiting.clear()
            raise

    futures: list[Future[None]] = []
    try:
        pool = _pool()
        futures.extend(pool.submit(work) for _ in range(threads))
        for future in futures:
            future.result()
    finally:
        # An error, or an interrupt by the user, must not leave threads behind that still use the chunks.
        waiting.clear()
        wait(futures)
    return [results[index] for index in range(len(chunks))]


SMALL_MODEL = 10_000_000
"""Parameters below which a model's operations are too small for several intra-op threads to pay."""


def in_one_thread(function: Callable[[], Result], device: torch.device) -> Result:
    """Call a function of many small operations with a single intra-op thread, where it works on the CPU.

    The caller's inference mode holds in it; other settings that torch keeps per thread do not.
    """
    if device.type != "cpu":
        return function()
    inference = torch.is_inference_mode_enabled()

    def call(_: None) -> Result:
        with torch.inference_mode(inference):
            return function()

    return map_chunks(call, [None])[0]


def side_by_side(first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
    """Call two functions that work on the CPU at the same time, each with a single intra-op thread.

    As of :func:`map_chunks`, with more than one thread.
    """
    calls: list[Callable[[], Any]] = [first, second]
    results = map_chunks(lambda call: call(), calls)
    return results[0], results[1]


def is_small(model: torch.nn.Module) -> bool:
    """Whether a model has fewer than :data:`SMALL_MODEL` parameters."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL


_local = threading.local()
_lock = threading.Lock()
_the_pool: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    """The threads of this process, started when they are first needed."""
    global _the_pool
    with _lock:
        if _the_pool is None:
            _the_pool = _start_pool()
        return _the_pool


def _start_pool() -> ThreadPoolExecutor:
    """Start a thread for every core, and leave the settings of all other threads as they are.

    ``torch.set_num_threads`` sets the number for the current thread, but also the default for threads that have yet to
    run their first operation. The default is set back as soon as all threads have started, so that this is done once
    in a process.
    """
    default = _in_new_thread(torch.get_num_threads)
    count = os.cpu_count() or 1
    started = threading.Barrier(count + 1)
    pool = ThreadPoolExecutor(count, "chunks", initializer=_set_up_thread, initargs=(started,))
    try:
        for _ in range(count):
            pool.submit(int)  # starts a thread, for no other is idle before the barrier
        started.wait()
    except BaseException:
        started.abort()
        raise
    finally:
        _in_new_thread(torch.set_num_threads, default)
    return pool


def _set_up_thread(started: threading.Barrier) -> None:
    torch.get_num_threads()  # makes torch take over the default now, not at the first operation
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # of the current thread; without effect where the processor cannot do it
    _local.is_worker = True
    started.wait()


def _in_new_thread(function: Callable[..., Result], *arguments: object) -> Result:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def _forget_pool() -> None:
    """Start anew after a fork: the child has none of its parent's threads, and the lock may be held by one of them."""
    global _lock, _the_pool
    _lock, _the_pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
