"""Running jobs, as every process on the database sees them: their progress, and requests to stop them.

A job is stored in an execution store of its dataset while it runs, so that another tab or process can show its progress
and stop it. A job whose process is gone is not listed any more.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import asdict, dataclass, replace

import fiftyone as fo
from fiftyone.operators.store import ExecutionStore

from .errors import JobStopped
from .jobs import Job, Progress, Report
from .locking import is_running, machine_name
from .runs import Collection

STORE = "nts_jobs"

_UPDATE_AFTER = 0.5  # seconds between two updates of the stored progress
_SILENCE = 900  # seconds without an update after which a job on another machine counts as gone
_JOB, _STOP = "job:", "stop:"


@dataclass(frozen=True)
class RunningJob:
    """A job at work on a dataset.

    Attributes:
        id: unique among all jobs.
        label: name of the operator, such as "Auto-segment view".
        makes: name of the field or run that it makes.
        fraction: progress, in ``[0, 1]``.
        words: progress in words.
        started: time of its begin, in seconds since the epoch.
        machine, process: where it runs.
        stopping: whether it was asked to stop.
    """

    id: str
    label: str
    makes: str
    fraction: float
    words: str
    started: float
    machine: str
    process: int
    stopping: bool = False


def announced(view: Collection, label: str, makes: str, job: Job[Report]) -> Job[Report]:
    """Run a job, and announce its progress to all tabs and processes, which may ask it to stop.

    Args:
        view: dataset or view that it works on.
        label: name of the operator.
        makes: name of the field or run that it makes.
        job: the job. It is closed if this generator is, or is asked to stop.

    Raises:
        JobStopped: if it was asked to stop.
    """
    store = _store(view)
    entry = RunningJob(uuid.uuid4().hex, label, makes, 0.0, "starting", time.time(), machine_name(), os.getpid())
    last = _write(store, entry)
    try:
        while True:
            try:
                step: Progress = next(job)
            except StopIteration as end:
                return end.value
            if time.monotonic() - last >= _UPDATE_AFTER or step.done in (0, step.total):
                entry = replace(entry, fraction=step.fraction, words=step.label)
                last = _write(store, entry)
                if store.has(_STOP + entry.id):
                    job.close()
                    raise JobStopped(f"stopped after {step.label}")
            yield step
    finally:
        job.close()
        for prefix in (_JOB, _STOP):
            store.delete(prefix + entry.id)


def own_dataset(dataset: fo.Dataset) -> fo.Dataset:
    """Open a second object of a dataset, for one job.

    All threads of a process share one object per dataset, and every request of the App reloads it. That replaces its
    document: changes that a job has not saved yet are lost. Nothing reloads the second object.
    """
    return fo.Dataset._make_instance(name=dataset.name, _create=False)


def running_jobs(view: Collection) -> list[RunningJob]:
    """Jobs at work on a dataset, the oldest first."""
    store = _store(view)
    keys = store.list_keys()
    entries = [store.get(key) for key in keys if key.startswith(_JOB)]
    # One may have ended since its key was read.
    jobs = [RunningJob(**entry | {"stopping": _STOP + entry["id"] in keys}) for entry in entries if entry is not None]
    return sorted((job for job in jobs if _is_at_work(job)), key=lambda job: job.started)


def running_on(view: Collection, makes: str) -> RunningJob | None:
    """The job at work on a field or run, if there is one."""
    return next((job for job in running_jobs(view) if job.makes == makes), None)


def request_stop(view: Collection, job_id: str) -> None:
    """Ask a job to stop after its current step. What it has finished stays."""
    _store(view).set(_STOP + job_id, True, ttl=_SILENCE)


def _write(store: ExecutionStore, job: RunningJob) -> float:
    """Store the state of a job; returns the time."""
    store.set(_JOB + job.id, asdict(job), ttl=_SILENCE)
    return time.monotonic()


def _is_at_work(job: RunningJob) -> bool:
    return job.machine != machine_name() or is_running(job.process)


def _store(view: Collection) -> ExecutionStore:
    return ExecutionStore.create(STORE, view._root_dataset._doc.id)
