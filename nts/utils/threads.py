"""Parallel work on the CPU: chunks in threads, each with a single intra-op thread.

torch splits every operation over its intra-op threads. For small operations this gains little, and costs much on a busy
machine: the threads synchronise after every operation, and while one waits for a core, the others spin. Chunks that run
in parallel, with one intra-op thread each, synchronise once.

The threads flush denormal numbers to zero. Sharp attention produces many of them, and on some processors they slow down
matrix products a hundredfold. torch can set this for the current thread only, not for its intra-op threads, so a single
chunk also runs in such a thread.
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
    """Map a function over chunks, in as many threads as torch uses for an operation in the caller's thread.

    The threads are shared by all callers in the process, so concurrent calls do not use more cores than there are. Each
    thread takes the next chunk when it is done. A call from within a chunk runs in the same thread.

    Args:
        function: called with one intra-op thread. It must itself enter thread-local modes of torch, such as inference
            mode and autocast.
        chunks: work on the CPU.

    Returns:
        the results, in the order of the chunks.

    Raises:
        Exception: the first exception of the function. Chunks that have not started by then are not run.
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
        # After an error or an interrupt, no thread may go on using the chunks.
        waiting.clear()
        wait(futures)
    return [results[index] for index in range(len(chunks))]


SMALL_MODEL = 10_000_000
"""Number of parameters below which a model does not profit from several intra-op threads."""


def in_one_thread(function: Callable[[], Result], device: torch.device) -> Result:
    """Call a function of many small operations with a single intra-op thread, if ``device`` is the CPU.

    The caller's inference mode is preserved; other thread-local settings of torch are not.
    """
    if device.type != "cpu":
        return function()
    inference = torch.is_inference_mode_enabled()

    def call(_: None) -> Result:
        with torch.inference_mode(inference):
            return function()

    return map_chunks(call, [None])[0]


def side_by_side(first: Callable[[], First], second: Callable[[], Second]) -> tuple[First, Second]:
    """Call two functions on the CPU in parallel, each with a single intra-op thread, see :func:`map_chunks`."""
    calls: list[Callable[[], Any]] = [first, second]
    results = map_chunks(lambda call: call(), calls)
    return results[0], results[1]


def is_small(model: torch.nn.Module) -> bool:
    """True if a model has fewer than :data:`SMALL_MODEL` parameters."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL_MODEL


_local = threading.local()
_lock = threading.Lock()
_the_pool: ThreadPoolExecutor | None = None


def _pool() -> ThreadPoolExecutor:
    """Thread pool of this process, started at first use."""
    global _the_pool
    with _lock:
        if _the_pool is None:
            _the_pool = _start_pool()
        return _the_pool


def _start_pool() -> ThreadPoolExecutor:
    """Start one thread per core, without changing the settings of other threads.

    ``torch.set_num_threads`` sets the number for the current thread, and also the default for threads that have not run
    an operation yet. The default is restored once all threads have started.
    """
    default = _in_new_thread(torch.get_num_threads)
    count = os.cpu_count() or 1
    started = threading.Barrier(count + 1)
    pool = ThreadPoolExecutor(count, "chunks", initializer=_set_up_thread, initargs=(started,))
    try:
        for _ in range(count):
            pool.submit(int)  # starts a thread, as no other is idle before the barrier
        started.wait()
    except BaseException:
        started.abort()
        raise
    finally:
        _in_new_thread(torch.set_num_threads, default)
    return pool


def _set_up_thread(started: threading.Barrier) -> None:
    torch.get_num_threads()  # makes torch read the default now, not at the first operation
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # of the current thread; no effect if the processor does not support it
    _local.is_worker = True
    started.wait()


def _in_new_thread(function: Callable[..., Result], *arguments: object) -> Result:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments).result()


def _forget_pool() -> None:
    """Reset after a fork: the child has none of its parent's threads, one of which may hold the lock."""
    global _lock, _the_pool
    _lock, _the_pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
