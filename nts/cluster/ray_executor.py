"""Segmenting images on a Ray cluster: Ray Data over the images, and an actor pool that loads the models once.

Ray restarts actors that die and repeats what they had not finished. Images whose workers die every time are reported,
and do not keep the others from being done.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .transfer import dumps, loads
from .worker import Outcome, Setup, Task

ADDRESS = "RAY_ADDRESS"
"""Environment variable with the address of the cluster; without it, Ray starts on this machine."""
_ROOT = Path(__file__).parents[2]
_BLOCK = 4
"""Images that a worker takes at a time: few, since results are handed on when all of them are done."""
_MOST_BLOCKS = 20_000
_lock, _users = threading.Lock(), 0
"""Jobs that use the connection that one of them made."""
_ATTEMPTS = 3
"""At an image whose workers die: a machine may have gone, but the image may be the reason as well."""


class ClusterError(ValueError):
    """The cluster cannot be used; the message says why."""


@dataclass(frozen=True)
class Pool:
    """Workers.

    Attributes:
        actors: most of them at a time; ``None`` for as many as the cluster has room for.
        cpus: of each.
        gpus: of each; a fraction shares a GPU. ``None`` for 1 where the cluster has GPUs, else 0.
    """

    actors: int | None = None
    cpus: float = 1
    gpus: float | None = None


def is_installed() -> bool:
    """Whether Ray can be imported; it is not imported here."""
    from importlib.util import find_spec

    return find_spec("ray") is not None and find_spec("pyarrow") is not None


def segment_on_ray(tasks: Sequence[Task], setup: Setup, pool: Pool | None = None) -> Iterator[Outcome]:
    """Segment images on the cluster, and yield the outcomes as they arrive.

    Args:
        tasks: the images, with distinct keys.
        setup: for the workers.
        pool: of workers.

    Yields:
        one outcome for each task, in any order. A task whose worker dies every time has an outcome with that reason.

    Raises:
        ClusterError: if Ray is not installed, or the cluster lacks what the workers need.
    """
    if not is_installed():
        raise ClusterError("Ray is not installed: pip install 'ray[data]', or leave the executor 'local'")
    if not tasks:
        return
    import ray

    pool = pool or Pool()
    with _connected(), _quiet():
        resources = ray.cluster_resources()
        gpus = _gpus(pool, setup, resources.get("GPU", 0))
        actors = pool.actors or max(1, int(resources.get("CPU", 1) // max(pool.cpus, 1)))
        blocks = min(len(tasks), max(-(-len(tasks) // _BLOCK), 4 * actors), _MOST_BLOCKS)
        rows = [{"key": task.key, "path": task.path, "task": dumps(task)} for task in tasks]
        attempts: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_attempts_class()).remote()
        outcomes = ray.data.from_items(rows, override_num_blocks=blocks).map(
            _worker_class(),
            fn_constructor_args=(dumps(setup), int(pool.cpus), str(_ROOT), attempts),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, blocks)),
            num_cpus=pool.cpus,
            num_gpus=gpus,
        )
        for row in outcomes.iter_rows():
            yield _outcome(row)


def _gpus(pool: Pool, setup: Setup, available: float) -> float:
    """GPUs of a worker."""
    if setup.device == "cpu":
        return 0
    if pool.gpus is None:
        return 1 if available else 0
    if pool.gpus > available:
        raise ClusterError(f"a worker needs {pool.gpus:g} GPUs, and the cluster has {available:g}")
    return pool.gpus


def _outcome(row: dict[str, Any]) -> Outcome:
    if row["outcome"]:
        return loads(row["outcome"])
    return Outcome(
        row["key"], reason=f"{row['path']}: its worker died every time, for lack of memory or by a damaged file"
    )


def _attempts_class() -> type:
    """Class of the actor that counts attempts; like :func:`_worker_class`, it travels by value."""

    class Attempts:
        """Counts how often an image was begun and not ended: Ray gives one that kills its worker to ever new ones."""

        def __init__(self) -> None:
            self._begun: dict[str, int] = {}

        def begin(self, key: str) -> bool:
            """Whether an image may be tried once more."""
            self._begun[key] = self._begun.get(key, 0) + 1
            return self._begun[key] <= _ATTEMPTS

        def end(self, key: str) -> None:
            """An image did not kill its worker."""
            self._begun.pop(key, None)

    return Attempts


def _worker_class() -> type:
    """Class of the actors. It is defined here so that it travels by value, and finds the engine by its path."""

    class SegmentingWorker:
        def __init__(self, setup: bytes, threads: int, root: str, attempts: Any) -> None:
            if root not in sys.path:
                sys.path.append(root)
            from nts.cluster.worker import Worker

            self._worker, self._attempts = Worker(setup, threads), attempts

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            import ray

            key, outcome = row["key"], b""
            if ray.get(self._attempts.begin.remote(key)):
                outcome = self._worker(row["task"])
                self._attempts.end.remote(key)
            return {"key": key, "path": row["path"], "outcome": outcome}

    return SegmentingWorker


@contextmanager
def _connected() -> Iterator[None]:
    """A connection to the cluster, or to one that is started on this machine.

    Jobs in several threads share it, and the last one ends it. A connection that the caller made is left as it is.
    """
    import ray

    global _users
    with _lock:
        if _users or not ray.is_initialized():
            _users += 1
            own = True
        else:
            own = False
        if not ray.is_initialized():
            address = os.environ.get(ADDRESS)
            # The engine is sent to all machines: they need not have the plugin.
            environment = {"py_modules": [str(_ROOT / "nts")]} if address else {}
            try:
                ray.init(address or "local", runtime_env=environment, log_to_driver=False, configure_logging=False)
            except BaseException:
                _users -= 1
                raise
    try:
        yield
    finally:
        if own:
            with _lock:
                _users -= 1
                if not _users:
                    ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of Ray Data: the caller has its own."""
    import ray

    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.enable_progress_bars = before
