"""Tasks on a Ray cluster: Ray Data over the tasks, and an actor pool whose workers load the models once.

Ray restarts actors that die and repeats what they had not finished. Tasks whose workers die every time are reported,
and do not keep the others from being done. If the calling process dies, Ray ends its workers.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .transfer import dumps, loads
from .worker import Outcome, Setup, Task

ADDRESS = "RAY_ADDRESS"
"""Environment variable with the address of the cluster; without it, Ray starts on this machine."""
_ROOT = Path(__file__).parents[2]
_BLOCK = 4
"""Images that a worker takes at a time: few, since outcomes are handed on when all of them are done."""
_BLOCK_ON_GPU = 16
"""The same for workers with a GPU: two batches of images, so that one is read while the models see the other."""
_MOST_BLOCKS = 20_000
_lock, _users = threading.Lock(), 0
"""Jobs that use the connection that one of them made."""
_ATTEMPTS = 3
"""At a task whose workers die: a machine may have gone, but the task may be the reason as well."""
DIED = "its worker died every time, for lack of memory or by a damaged file"
"""Reason of a task without an outcome."""


class ClusterError(ValueError):
    """The cluster cannot be used; the message says why."""


@dataclass(frozen=True)
class Pool:
    """Workers.

    Attributes:
        actors: most of them at a time; ``None`` for as many as the cluster has room for.
        cpus: of each.
        gpus: of each; a fraction shares a GPU. ``None`` for 1 where the cluster has GPUs, else 0.

    Raises:
        ClusterError: if a number is out of range.
    """

    actors: int | None = None
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise ClusterError(f"the number of workers must be at least 1, got {self.actors}")
        if self.gpus is not None and self.gpus < 0:
            raise ClusterError(f"the GPUs of a worker must be at least 0, got {self.gpus:g}")


class WorkerSetup(Protocol):
    """Everything that workers need for their tasks. It travels once, by :mod:`.transfer`."""

    @property
    def device(self) -> str:
        """Device of the models, as in torch, or ``"auto"``."""

    def worker(self, threads: int) -> Callable[[Sequence[Any]], Iterable[Any]]:
        """In the process of a worker: load the models, and return the function from tasks to their outcomes, in order.

        Args:
            threads: of torch.
        """


def is_installed() -> bool:
    """Whether Ray can be imported; it is not imported here."""
    from importlib.util import find_spec

    return find_spec("ray") is not None and find_spec("pyarrow") is not None


def check_installed() -> None:
    """Raise ClusterError if Ray is not installed."""
    if not is_installed():
        raise ClusterError("Ray is not installed: pip install 'ray[data]', or run locally")


def segment_on_ray(tasks: Sequence[Task], setup: Setup, pool: Pool | None = None) -> Iterator[Outcome]:
    """Segment images on the cluster, and yield the outcomes as they arrive.

    Args:
        tasks: the images, with distinct keys.
        setup: for the workers.
        pool: of workers.

    Yields:
        one outcome for each task, in any order. A task whose worker dies every time has an outcome with that reason.

    Raises:
        ClusterError: see :func:`run_on_ray`.
    """
    by_key = {task.key: task for task in tasks}
    with closing(run_on_ray(by_key, setup, pool, block=_BLOCK, block_on_gpu=_BLOCK_ON_GPU)) as outcomes:
        for key, outcome in outcomes:
            yield Outcome(key, reason=f"{by_key[key].path}: {DIED}") if outcome is None else outcome


def run_on_ray(
    tasks: Mapping[str, Any],
    setup: WorkerSetup,
    pool: Pool | None = None,
    *,
    block: int = 1,
    block_on_gpu: int = 1,
) -> Generator[tuple[str, Any], None, None]:
    """Run tasks on the cluster, and yield the outcomes as they arrive.

    Args:
        tasks: by their keys. They are pickled one by one: what they share belongs into the setup.
        setup: for the workers.
        pool: of workers.
        block: tasks that a worker takes at a time; their outcomes arrive when all of them are done. After the death of
            a worker, those that it left are tried again one by one, so that only the one that kills workers fails.
        block_on_gpu: the same for workers with a GPU.

    Yields:
        the key and the outcome of each task, in any order; ``None`` where its worker died every time.

    Raises:
        ClusterError: if Ray is not installed, the cluster lacks what the workers need, or one cannot load its models.
    """
    check_installed()
    if not tasks:
        return
    import ray

    pool = pool or Pool()
    with _connected(), _quiet():
        resources = ray.cluster_resources()
        gpus = _gpus(pool, setup.device, resources.get("GPU", 0))
        actors = pool.actors or _room(resources, pool.cpus, gpus)
        rows = [{"tasks": dumps(some)} for some in _blocks(tasks, block_on_gpu if gpus else block, 4 * actors)]
        blocks = min(len(rows), _MOST_BLOCKS)
        attempts: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_attempts_class()).remote()
        outcomes = ray.data.from_items(rows, override_num_blocks=blocks).flat_map(
            _worker_class(),
            fn_constructor_args=(ray.put(dumps(setup)), int(pool.cpus), str(_ROOT), attempts),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(actors, blocks)),
            num_cpus=pool.cpus,
            num_gpus=gpus,
        )
        # Nothing is fetched ahead: Ray would hold an outcome back until the next one has come.
        batches: Any = outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for batch in batches:
            for row in batch.to_pylist():
                if row["broken"]:
                    raise ClusterError(f"a worker could not start: {row['broken']}")
                yield row["key"], loads(row["outcome"]) if row["outcome"] else None


def _blocks(tasks: Mapping[str, Any], most: int, least_blocks: int) -> Iterator[dict[str, bytes]]:
    """Tasks in bytes, by their keys, in blocks of about the same size: of at most ``most``, and not too few."""
    # Each task is pickled separately, since unpickling may kill a worker, too.
    items = [(key, dumps(task)) for key, task in tasks.items()]
    count = min(len(items), max(-(-len(items) // most), least_blocks))
    for k in range(count):
        yield dict(items[k * len(items) // count : (k + 1) * len(items) // count])


def _gpus(pool: Pool, device: str, available: float) -> float:
    """GPUs of a worker."""
    if device == "cpu":
        return 0
    if pool.gpus is None:
        if device.startswith("cuda") and not available:
            raise ClusterError("a worker needs a GPU, and the cluster has none")
        return 1 if available else 0
    if pool.gpus > available:
        raise ClusterError(f"a worker needs {pool.gpus:g} GPUs, and the cluster has {available:g}")
    return pool.gpus


def _room(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Workers that the cluster has room for, at least 1."""
    rooms = [resources.get("CPU", 1) / max(cpus, 1)]
    if gpus:
        rooms.append(resources["GPU"] / gpus)
    return max(1, int(min(rooms) + 1e-6))  # 0.3 / 0.1 is below 3


def _attempts_class() -> type:
    """Class of the actor that counts attempts; like :func:`_worker_class`, it travels by value."""

    class Attempts:
        """Counts how often a task was begun and not ended: Ray gives one that kills its worker to ever new ones."""

        def __init__(self) -> None:
            self._begun: dict[str, int] = {}

        def fresh(self, keys: Sequence[str]) -> list[str]:
            """The tasks that no worker has died at."""
            return [key for key in keys if key not in self._begun]

        def begin(self, keys: Sequence[str]) -> bool:
            """Whether tasks may be tried once more."""
            for key in keys:
                self._begun[key] = self._begun.get(key, 0) + 1
            return all(self._begun[key] <= _ATTEMPTS for key in keys)

        def end(self, key: str) -> None:
            """A task did not kill its worker."""
            self._begun.pop(key, None)

    return Attempts


def _worker_class() -> type:
    """Class of the actors. It is defined here so that it travels by value, and finds the engine by its path."""

    class RayWorker:
        def __init__(self, setup: Any, threads: int, root: str, attempts: Any) -> None:
            if root not in sys.path:
                sys.path.append(root)
            import ray

            from nts.cluster.machine import machine
            from nts.cluster.transfer import dumps, loads

            self._dumps, self._loads, self._attempts, self._broken = dumps, loads, attempts, ""
            try:
                self._work = loads(ray.get(setup)).worker(max(1, threads))
            except Exception as error:  # Ray would hide it in reports of an actor that died
                self._broken = f"{type(error).__name__}: {error} (on {machine()})"

        def __call__(self, row: dict[str, Any]) -> list[dict[str, Any]]:
            tasks = self._loads(row["tasks"])
            outcomes = {} if self._broken else self._outcomes(tasks)
            return [{"key": key, "outcome": outcomes.get(key, b""), "broken": self._broken} for key in tasks]

        def _outcomes(self, tasks: dict[str, bytes]) -> dict[str, bytes]:
            import ray

            fresh, outcomes = ray.get(self._attempts.fresh.remote(list(tasks))), {}
            # Any of those that a worker died at together may be the reason, so they are tried one by one.
            for keys in filter(None, (fresh, *([key] for key in tasks if key not in fresh))):
                if ray.get(self._attempts.begin.remote(keys)):
                    found = self._work([self._loads(tasks[key]) for key in keys])
                    for key, outcome in zip(keys, found, strict=True):
                        outcomes[key] = self._dumps(outcome)
                        self._attempts.end.remote(key)
            return outcomes

    return RayWorker


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
