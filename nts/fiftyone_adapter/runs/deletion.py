"""Deleting runs of every kind, with everything that they wrote and everything made with them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from .. import colours
from ..locking import exclusive
from .brain_runs import delete_brain_runs, has_map, map_field
from .decided import count_decided, keep_decided
from .history import delete_history
from .kinds import EVALUATION, RUN_KINDS, SEGMENTATION, RunKind
from .native_records import delete_native_evaluation, has_native_evaluation, native_fields
from .saved_views import FIELD_VIEWS, delete_field_view, field_views
from .storage import Collection, check_editable, config, discard_draft, list_drafts, list_runs, remove
from .trained_prompts import LOCK_FILE


def run_contents(view: Collection, key: str, kind: RunKind) -> list[str]:
    """Everything that :func:`delete_run` would delete, in words: the run itself last; raises as it does."""
    if key not in list_runs(view, kind) and key in list_drafts(view, kind):
        return [f"unfinished {kind.noun} {key!r}"]
    made = config(view, key, kind)
    fields = kind.fields(made)
    words = [f"field {name!r}" for name in fields if view.has_field(name)]
    if kind is SEGMENTATION and (decided := count_decided(view, made["output_field"])):
        words[0] += f" with {decided} decided label{'s' if decided > 1 else ''}"
    words += [f"field {map_field(name)!r}" for name in fields if has_map(view, name)]
    words += [f"saved view {name!r}" for field in fields for name in field_views(view, field)]
    if kind is EVALUATION and has_native_evaluation(view, key):
        words.append(f"fields and attributes {key}…")
    for name, dependant in _dependants(view, key, kind):
        # The attributes of an evaluation go with the fields that are listed already.
        words += [dependant.words(name)] if dependant is EVALUATION else run_contents(view, name, dependant)
    return [*words, kind.words(key)]


@exclusive
def delete_predictions(view: Collection, key: str) -> None:
    """Delete what a segmentation found and everything made with it, but not the labels that a person decided about.

    With such labels, the run stays for the one that replaces it, and their field with them. Without, nothing is left.

    Raises:
        RunNotFound, InputError: as :func:`delete_run`.
    """
    made = config(view, key, SEGMENTATION)
    if not count_decided(view, made["output_field"]):
        delete_run(view, key, SEGMENTATION)
        return
    check_editable(view, _fields(view, key, SEGMENTATION))
    _delete_draft(view, key, SEGMENTATION)
    for name, dependant in _dependants(view, key, SEGMENTATION):
        _delete(view, name, dependant)
    _delete_fields(view, [name for name in SEGMENTATION.fields(made) if name != made["output_field"]])
    for each in FIELD_VIEWS:
        delete_field_view(view, made["output_field"], each)
    delete_brain_runs(view, made["output_field"])
    keep_decided(view, made["output_field"])


@exclusive
def delete_run(view: Collection, key: str, kind: RunKind) -> list[str]:
    """Delete a run, its fields, everything made with it, and the remains of an unfinished run of its name.

    With a memory go its segmentations, heat maps and class maps; with a segmentation its evaluations; with an
    evaluation the native one. An evaluation that only named a memory, to leave out its references, stays, and so do
    predictions made with a reference prompt.

    Returns:
        What was deleted, in words.

    Raises:
        RunNotFound: if there is neither a run nor an unfinished run of this name.
        InputError: if one of the fields is read-only; nothing is deleted then.
    """
    words = run_contents(view, key, kind)
    check_editable(view, _fields(view, key, kind))
    _delete(view, key, kind)
    return words


def _dependants(view: Collection, key: str, kind: RunKind) -> list[tuple[str, RunKind]]:
    """Names and kinds of the runs made with a run, unfinished ones included."""
    return [
        (name, dependant)
        for dependant in RUN_KINDS
        if dependant.parent is kind
        for name, made in {**list_runs(view, dependant), **list_drafts(view, dependant)}.items()
        if made[dependant.parent_key] == key
    ]


def _fields(view: Collection, key: str, kind: RunKind) -> list[str]:
    """Fields that the deletion of a run changes; they need not exist."""
    made = list_runs(view, kind).get(key)
    fields = kind.fields(made) if made else []
    fields += [map_field(name) for name in fields if has_map(view, name)]
    if kind is EVALUATION:
        fields += native_fields(view, key)
    of_dependants = [_fields(view, name, dependant) for name, dependant in _dependants(view, key, kind)]
    return [*fields, *(name for names in of_dependants for name in names)]


def _delete(view: Collection, key: str, kind: RunKind) -> None:
    if kind is EVALUATION:
        delete_native_evaluation(view, key)
    _delete_draft(view, key, kind)
    made = list_runs(view, kind).get(key)
    if made is None:
        return
    for name, dependant in _dependants(view, key, kind):  # first: evaluations have attributes in the fields
        _delete(view, name, dependant)
    _delete_fields(view, kind.fields(made))
    remove(view, key)


def _delete_fields(view: Collection, names: Sequence[str]) -> None:
    """Delete fields with their saved views, brain runs, history, mask targets and colours."""
    dataset = view._root_dataset
    for name in names:
        for each in FIELD_VIEWS:
            delete_field_view(view, name, each)
        delete_brain_runs(view, name)
        delete_history(view, name)
        if dataset.has_sample_field(name):
            dataset.delete_sample_field(name)
        if name in dataset.mask_targets:
            del dataset.mask_targets[name]
            dataset.save()
    colours.forget_colours(view, names)


def _delete_draft(view: Collection, key: str, kind: RunKind) -> None:
    """Delete an unfinished run, and the files of a training."""
    made = list_drafts(view, kind).get(key)
    if made is None:
        return
    discard_draft(view, key)
    folder, own = made.get("scratch_folder"), str(view._root_dataset._doc.id)
    if folder and made.get("dataset_id", own) == own and Path(folder).is_dir():
        _remove_unless_in_use(Path(folder))


def _remove_unless_in_use(folder: Path) -> None:
    """Remove the files of an unfinished training; one that is still at work notices, and removes them itself."""
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        return
