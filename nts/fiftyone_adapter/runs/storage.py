"""Custom runs of FiftyOne: listed, read, stored, and written as drafts until they are complete.

A draft is stored under a separate key, so that it replaces nothing before :func:`complete`. The job that began it has
its token, and uses it to check that the draft or the run is still its own.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import fiftyone as fo
import fiftyone.core.odm as foo

from ... import __version__
from ..errors import InputError, RunEnded, RunNotFound
from ..locking import exclusive, refresh
from .kinds import RunKind

Collection = fo.core.collections.SampleCollection

logger = logging.getLogger(__name__)

_DRAFT = "_draft_of_"  # no name of a user's begins with an underscore

_ATTEMPTS = 5

reading = threading.Lock()
"""FiftyOne reads results through one file object per run, which the threads of a process (two tabs) would share."""


def change_runs(
    view: Collection,
    change: Callable[[], object],
    holds: Callable[[set[str]], bool],
    among: Literal["runs", "evaluations"] = "runs",
) -> None:
    """Change which runs a dataset has, until the database says so. Call it under the lock.

    FiftyOne changes the dataset's document in memory, and then saves it. A request of the App that reloads the dataset
    in between replaces the document: the change is lost without a word.

    Args:
        view: dataset or view.
        change: makes the change; it may be called again.
        holds: whether the names of the stored runs are those that the change makes.
        among: custom runs, or FiftyOne's own evaluations.

    Raises:
        RuntimeError: if the change is lost every time.
    """
    dataset = view._root_dataset
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            change()
        except ReferenceError:
            if attempt == _ATTEMPTS:
                raise
        if holds(_stored_keys(dataset, among)):
            refresh(dataset)
            return
        logger.info("the dataset was reloaded while its runs were changed: they are changed once more")
        refresh(dataset)
    raise RuntimeError(f"the runs of the dataset {dataset.name!r} could not be stored: it is reloaded all the time")


def _stored_keys(dataset: fo.Dataset, among: str) -> set[str]:
    """Names of the runs in the database."""
    stored = foo.get_db_conn().datasets.find_one({"_id": dataset._doc.id}, {among: 1})
    return set((stored or {}).get(among, {}))


def all_images(view: Collection) -> Collection:
    """Every image of a view's dataset, of all slices if it is a grouped one."""
    dataset = view._root_dataset
    return dataset.select_group_slices(media_type="image") if dataset.media_type == "group" else dataset


def in_batches(sample_ids: Sequence[str], size: int = 256) -> Iterator[Sequence[str]]:
    """Ids of images in parts that are read and written at once."""
    for start in range(0, len(sample_ids), size):
        yield sample_ids[start : start + size]


# ---- reading ---------------------------------------------------------------------------------------------------------


def list_runs(view: Collection, kind: RunKind) -> dict[str, dict[str, Any]]:
    """Complete runs of a kind: ``{key: configuration}``."""
    keys = [key for key in view.list_runs(method=kind.method) if not key.startswith(_DRAFT)]
    return {key: view.get_run_info(key).config.serialize() for key in keys}


def list_drafts(view: Collection, kind: RunKind) -> dict[str, dict[str, Any]]:
    """Runs that were begun and are not complete: ``{key: configuration}``, with their ``status``."""
    keys = [key for key in view.list_runs(method=kind.method) if key.startswith(_DRAFT)]
    return {key.removeprefix(_DRAFT): view.get_run_info(key).config.serialize() for key in keys}


def created(view: Collection, key: str, *, draft: bool = False) -> str:
    """Time at which a run was stored, or its draft begun: UTC, ISO 8601 to the millisecond."""
    return view.get_run_info(_DRAFT + key if draft else key).timestamp.isoformat(timespec="milliseconds")


def config(view: Collection, key: str, kind: RunKind) -> dict[str, Any]:
    """Configuration of the run ``key``.

    Raises:
        RunNotFound: if there is none of this kind.
    """
    stored = list_runs(view, kind)
    if key not in stored:
        there_are = f"it has: {', '.join(stored)}" if stored else "it has none yet"
        raise RunNotFound(f"the dataset {view._root_dataset.name!r} has no {kind.noun} {key!r}; {there_are}")
    return stored[key]


def results(view: Collection, key: str, kind: RunKind) -> dict[str, Any]:
    """Results of the run ``key``; raises as :func:`config`."""
    config(view, key, kind)
    try:
        with reading:
            stored = view.load_run_results(key, cache=False, load_view=False)
    except AttributeError:
        # FiftyOne's answer if the file of the results is gone: another process has replaced the run.
        refresh(view)
        config(view, key, kind)
        with reading:
            stored = view.load_run_results(key, cache=False, load_view=False)
    return {} if stored is None else {name: value for name, value in stored.serialize().items() if name != "cls"}


# ---- writing ---------------------------------------------------------------------------------------------------------


@exclusive
def store(
    view: Collection, key: str, kind: RunKind, config: dict[str, Any], results: dict[str, Any] | None = None
) -> str:
    """Store a run on a view and return its token. It replaces an older run under the same key once it is complete."""
    token = begin(view, key, kind, config)
    complete(view, key, token, results)
    return token


@exclusive
def begin(view: Collection, key: str, kind: RunKind, config: dict[str, Any]) -> str:
    """Register the draft of a run on a view. It replaces an earlier draft under the same key, but no run.

    Returns:
        The token of this draft, stored in its configuration: whoever has it may change and complete the draft.
    """
    discard_draft(view, key)
    dataset, token = view._root_dataset, uuid.uuid4().hex
    run = dataset.init_run(method=kind.method, schema=kind.schema, plugin_version=__version__, token=token, **config)
    change_runs(view, lambda: view.register_run(_DRAFT + key, run), lambda keys: _DRAFT + key in keys)
    return token


@exclusive
def complete(view: Collection, key: str, token: str, results: dict[str, Any] | None = None, **changes: Any) -> None:
    """Make the draft under ``key`` the run, with its results, and with changes to its configuration.

    Raises:
        RunEnded: if the draft of this token is not there any more.
    """
    check_draft(view, key, token)
    dataset, draft = view._root_dataset, _DRAFT + key
    if changes:
        update(dataset, draft, **changes)
    if results is not None:
        run_results = dataset.init_run_results(draft, **results)
        dataset.save_run_results(draft, run_results, cache=False)
    remove(view, key)
    change_runs(view, lambda: dataset.rename_run(draft, key), lambda keys: key in keys and draft not in keys)


@exclusive
def update(view: Collection, key: str, **changes: Any) -> None:
    """Change values in the configuration of the run ``key``."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            run = view.get_run_info(key).config
            for name, value in changes.items():
                setattr(run, name, value)
            view._root_dataset.update_run_config(key, run)
            return
        except ReferenceError:  # another thread has reloaded the dataset, and the document of the run is gone
            if attempt == _ATTEMPTS:
                raise


@exclusive
def update_draft(view: Collection, key: str, token: str, **changes: Any) -> None:
    """Change values in the configuration of the draft under ``key``, such as its status; raises as :func:`complete`."""
    check_draft(view, key, token)
    update(view, _DRAFT + key, **changes)


@exclusive
def discard_draft(view: Collection, key: str) -> None:
    """Delete the draft under ``key``, if there is one."""
    remove(view, _DRAFT + key)


@exclusive
def remove(view: Collection, key: str) -> None:
    """Remove the stored run of a name, and nothing that was made with it, if there is one."""
    dataset = view._root_dataset

    def delete() -> None:
        try:
            dataset.delete_run(key)
        except ValueError:  # a first attempt has deleted the run itself, and the reference to it is left
            foo.get_db_conn().datasets.update_one({"_id": dataset._doc.id}, {"$unset": {f"runs.{key}": ""}})

    if key in dataset.list_runs():
        change_runs(view, delete, lambda keys: key not in keys)


# ---- checks ----------------------------------------------------------------------------------------------------------


def is_draft(view: Collection, key: str, token: str) -> bool:
    """True while the draft of this token is there; another one under its key may have replaced it."""
    refresh(view)  # another process may have begun or deleted it
    dataset = view._root_dataset
    return _DRAFT + key in dataset.list_runs() and dataset.get_run_info(_DRAFT + key).config.token == token


def check_draft(view: Collection, key: str, token: str) -> None:
    """Raise RunEnded unless the draft of this token is still there."""
    if not is_draft(view, key, token):
        raise RunEnded(f"{key!r} was started again meanwhile, or deleted: this run of it ends here")


@exclusive
def check_owner(view: Collection, key: str, token: str, fields: Iterable[str]) -> None:
    """Check that a run that writes fields still has its token, and that the fields exist.

    Under the lock, nothing changes before it is released.

    Raises:
        RunEnded: if the run was stored again, or it, one of its fields or its dataset was deleted.
    """
    dataset = view._root_dataset
    if key not in dataset.list_runs():
        raise RunEnded(f"{key!r} was deleted meanwhile: this run of it ends here")
    if getattr(dataset.get_run_info(key).config, "token", None) != token:
        raise RunEnded(
            f"{key!r} was started again meanwhile, in another tab or process: this older run of it ends here, and the "
            "newer one goes on"
        )
    if gone := [name for name in fields if not dataset.has_sample_field(name)]:
        raise RunEnded(f"the field {gone[0]!r} was deleted meanwhile: this run of {key!r} ends here")


def check_editable(view: Collection, names: Iterable[str]) -> None:
    """Check that fields can be written and deleted. Fields that do not exist pass.

    Raises:
        InputError: if one of them, or a field below it, is read-only.
    """
    schema = view._root_dataset.get_field_schema(flat=True)
    read_only = [path for path, field in schema.items() if field.read_only]
    for name in names:
        for path in read_only:
            if path == name or path.startswith(f"{name}."):
                raise InputError(
                    f"the field {path!r} is read-only: make it editable first (field = dataset.get_field({path!r}); "
                    "field.read_only = False; field.save()), or choose another field"
                )


@contextmanager
def explained(view: Collection, *fields: str) -> Iterator[None]:
    """Raise RunEnded in place of FiftyOne's own errors when the dataset or a field was deleted meanwhile."""
    try:
        yield
    except RunEnded:
        raise
    except Exception as error:
        refresh(view)
        if gone := [name for name in fields if not view._root_dataset.has_field(name)]:
            raise RunEnded(f"the field {gone[0]!r} was deleted meanwhile") from error
        raise
