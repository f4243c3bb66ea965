"""One writer at a time for the schema and the runs of a dataset.

FiftyOne holds a dataset's document in memory and writes parts of it back. Two processes that do so at the same time
undo each other's changes, or declare a field twice, after which the dataset cannot be loaded any more (FiftyOne
#3185). All code that declares or deletes fields, or stores or deletes runs, therefore takes :func:`locked`: a lease in
the database that all processes share. Under it this process first reads the changes of the others.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

import fiftyone as fo
import fiftyone.core.odm as foo
import fiftyone.core.sample as fos
from mongoengine.errors import DoesNotExist
from pymongo.errors import DuplicateKeyError, PyMongoError

from .errors import InputError, RunEnded

Collection = fo.core.collections.SampleCollection

_P, _R = ParamSpec("_P"), TypeVar("_R")

logger = logging.getLogger(__name__)

LEASE = 30.0
"""Seconds after which the lease of a process that is gone can be taken over. It is renewed while it is held."""

_PATIENCE = 300.0  # seconds; deleting a field of millions of samples takes a while
_RELOADED = (
    "sample_fields",
    "runs",
    "evaluations",
    "brain_methods",
    "saved_views",
    "label_schemas",
    "active_label_schemas",
)


class _Held(threading.local):
    """Ids of the datasets that the current thread has locked."""

    def __init__(self) -> None:
        self.ids: set[str] = set()


_held = _Held()


@contextlib.contextmanager
def locked(view: Collection, patience: float = _PATIENCE) -> Iterator[fo.Dataset]:
    """Hold the lock of a view's dataset. A thread that holds it may take it again.

    Args:
        view: dataset, or a view of it.
        patience: seconds to wait for another holder.

    Yields:
        the dataset, its schema and runs as they are in the database.

    Raises:
        RunEnded: if the dataset was deleted.
        InputError: if another process does not release the lock.
    """
    dataset, key = _dataset_and_id(view)
    if key in _held.ids:
        yield dataset
        return
    lease = _Lease(key)
    lease.acquire(patience, dataset.name)
    _held.ids.add(key)
    try:
        _reload(dataset)
        yield dataset
    finally:
        _held.ids.remove(key)
        lease.release()


def exclusive(function: Callable[Concatenate[Collection, _P], _R]) -> Callable[Concatenate[Collection, _P], _R]:
    """Decorator that runs a function of a view under the lock of its dataset."""

    @functools.wraps(function)
    def under_lock(view: Collection, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with locked(view):
            return function(view, *args, **kwargs)

    return under_lock


def refresh(view: Collection) -> None:
    """Bring the schema and the runs of a dataset in memory up to date with the database, unsaved samples untouched.

    It takes the lock: read by another thread in the middle of a deletion, the stored schema would bring back a field
    that is about to go.

    Raises:
        RunEnded: if the dataset was deleted.
    """
    dataset, key = _dataset_and_id(view)
    if key in _held.ids:
        _reload(dataset)
    else:
        with locked(view):
            pass  # it has read them


def _reload(dataset: fo.Dataset) -> None:
    """Read the schema and the runs of a dataset from the database. Call it under the lock."""
    try:
        dataset._doc.reload(*_RELOADED)
    except DoesNotExist as error:
        raise RunEnded(f"the dataset {dataset.name!r} was deleted meanwhile") from error
    _declare_stored_fields(dataset)


def _dataset_and_id(view: Collection) -> tuple[fo.Dataset, str]:
    try:
        dataset = view._root_dataset
        return dataset, str(dataset._doc.id)
    except ValueError as error:  # of FiftyOne, for any attribute of a dataset that was deleted in this process
        raise RunEnded(f"{error}: it was deleted meanwhile") from error


def _declare_stored_fields(dataset: fo.Dataset) -> None:
    """Make the class of a dataset's samples agree with the stored schema.

    Reloading the dataset would do so too, but drop what the user has changed and not saved in samples.
    """
    document_class = dataset._sample_doc_cls
    stored = {field.name: field for field in dataset._doc.sample_fields}
    default = set(document_class._get_default_fields())
    gone = [
        name
        for name in document_class._fields
        if name not in stored and name not in default and not name.startswith("_")
    ]
    for name in gone:
        document_class._undeclare_field(name)
    if gone:
        fos.Sample._purge_fields(dataset._sample_collection_name, gone)
    for name, field in stored.items():
        known = document_class._fields.get(name)
        if known is None or _facts(foo.SampleFieldDocument.from_field(known)) != _facts(field):
            document_class._declare_field(dataset, name, field)


def _facts(field: Any) -> tuple:
    """Name and types of a stored field, and those of the fields below it."""
    below = sorted(_facts(each) for each in field.fields or ())
    names = (field.name, field.ftype, field.embedded_doc_type, field.subfield)
    return (*(name or "" for name in names), bool(field.read_only), tuple(below))


class _Lease:
    """A document in the database that only one owner can have at a time.

    Times are those of the database server, so clocks of machines need not agree.
    """

    def __init__(self, key: str) -> None:
        self._key, self._owner = key, uuid.uuid4().hex
        self._released = threading.Event()
        self._renewing: threading.Thread | None = None

    def acquire(self, patience: float, name: str) -> None:
        """Wait for the lease."""
        deadline, pause = time.monotonic() + patience, 0.005
        while not (self._insert() or self._take_over()):
            if time.monotonic() > deadline:
                holder = _collection().find_one({"_id": self._key}) or {}
                raise InputError(
                    f"the dataset {name!r} has been locked by another process ({holder.get('process')} on "
                    f"{holder.get('machine')}) for {patience:.0f} s: wait for it, or end it, and try again"
                )
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
        self._renewing = threading.Thread(target=self._renew, name="dataset-lock", daemon=True)
        self._renewing.start()

    def release(self) -> None:
        """Release the lease."""
        self._released.set()
        if self._renewing is not None:
            self._renewing.join()
        _collection().delete_one({"_id": self._key, "owner": self._owner})

    def _insert(self) -> bool:
        try:
            # An update that inserts where nothing matches: only then is there a time of the server's.
            _collection().update_one({"_id": self._key, "owner": self._owner}, self._values(), upsert=True)
        except DuplicateKeyError:
            return False
        return True

    def _take_over(self) -> bool:
        """Take the lease of a process that is gone: it has run out, or the process was one of this machine."""
        holder = _collection().find_one({"_id": self._key})
        if holder is None:
            return False
        same_holder = {"_id": self._key, "owner": holder["owner"]}
        if holder["machine"] != machine_name() or is_running(holder["process"]):
            same_holder["$expr"] = {"$lt": ["$until", "$$NOW"]}
        return _collection().update_one(same_holder, self._values()).modified_count == 1

    def _renew(self) -> None:
        while not self._released.wait(LEASE / 3):
            try:
                _collection().update_one({"_id": self._key, "owner": self._owner}, self._values())
            except PyMongoError as error:  # the next time may succeed, and the holder of the lock meets the same error
                logger.warning("the lock of a dataset could not be renewed: %s", error)

    def _values(self) -> list[dict[str, Any]]:
        until = {"$add": ["$$NOW", int(1000 * LEASE)]}
        return [{"$set": {"owner": self._owner, "machine": machine_name(), "process": os.getpid(), "until": until}}]


def _collection() -> Any:
    return foo.get_db_conn()["nts.locks"]


def machine_name() -> str:
    """Return the name of the machine, or the container, in which process ids are unique."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()


def is_running(process: int) -> bool:
    """Whether this machine has a process of this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
