"""What the plugin keeps in a dataset, and who made which field. Only this module stores, lists and deletes it.

All of it are custom runs of FiftyOne, with FiftyOne's own classes and plain values, so that a dataset opens where the
plugin is not installed:

* a *memory* (method ``nts_memory``), registered on the view of its references; its results hold the bank's bytes;
* a *segmentation* (``nts_segmentation``), under the name of its output field, registered on the view it segmented;
* an *evaluation* (``nts_nap``), registered on the view it evaluated; its results hold the numbers. Beside it stands an
  evaluation of FiftyOne's own kind under the same name, which FiftyOne's Model Evaluation panel shows;
* a *reference prompt* (``nts_prompt``), trained here or read from a file; its results hold its bytes and its log;
* a *set of heat maps* (``nts_heatmaps``), under ``<memory>_similarity``, or ``_probability`` if made by a reference
  prompt; it says which field belongs to which class;
* a *set of class maps* (``nts_class_maps``), under the name of its output field.

A run that takes its time is a draft until it is complete: it is listed with its status, and replaces nothing before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import shutil
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import fiftyone as fo
from filelock import FileLock, Timeout

from .. import __version__
from ..memory import MemoryBank, MemoryFileError
from ..vrp.prompt import PromptFileError, TrainedPrompt
from . import colours
from .errors import InputError, RunEnded, RunNotFound
from .locking import exclusive, refresh

MEMORY, SEGMENTATION, EVALUATION, HEATMAPS = "nts_memory", "nts_segmentation", "nts_nap", "nts_heatmaps"
PROMPT, CLASS_MAPS = "nts_prompt", "nts_class_maps"
KINDS = {
    MEMORY: "memory",
    SEGMENTATION: "segmentation",
    EVALUATION: "evaluation",
    HEATMAPS: "set of heat maps",
    PROMPT: "reference prompt",
    CLASS_MAPS: "set of class maps",
}
SCHEMAS = {MEMORY: 1, SEGMENTATION: 1, EVALUATION: 2, HEATMAPS: 1, PROMPT: 1, CLASS_MAPS: 1}

METRIC = "@nts/reference-segmentation/nap"
"""nAP as a metric of FiftyOne's evaluations."""

_DRAFT = "_draft_of_"  # no name of a user's begins with an underscore

Collection = fo.core.collections.SampleCollection


LOCK_FILE = ".lock"
"""In the folder of a training; held by the process that trains."""

PENDING = "pending"
"""Stands for the stamp of an evaluation of FiftyOne's kind that a draft is about to register."""

_reading = threading.Lock()
"""FiftyOne reads results through one file object per run, which the threads of a process (two tabs) would share."""


def all_images(view: Collection) -> Collection:
    """Every image of a view's dataset, those of all slices of a grouped one too."""
    dataset = view._root_dataset
    return dataset.select_group_slices(media_type="image") if dataset.media_type == "group" else dataset


def configs(view: Collection, method: str) -> dict[str, dict[str, Any]]:
    """Everything stored of one method: ``{key: its configuration}``, by name."""
    keys = [key for key in view.list_runs(method=method) if not key.startswith(_DRAFT)]
    return {key: view.get_run_info(key).config.serialize() for key in keys}


def drafts(view: Collection, method: str) -> dict[str, dict[str, Any]]:
    """What was begun and is not complete: ``{key: its configuration}``, with its ``status``."""
    keys = [key for key in view.list_runs(method=method) if key.startswith(_DRAFT)]
    return {key.removeprefix(_DRAFT): view.get_run_info(key).config.serialize() for key in keys}


def created(view: Collection, key: str, *, draft: bool = False) -> str:
    """When a run was stored, or its draft begun: UTC, ISO 8601 to the millisecond."""
    return view.get_run_info(_DRAFT + key if draft else key).timestamp.isoformat(timespec="milliseconds")


def config(view: Collection, key: str, method: str) -> dict[str, Any]:
    """The configuration stored under ``key``.

    Raises:
        RunNotFound: if there is none of this method.
    """
    stored = configs(view, method)
    if key not in stored:
        there_are = f"it has: {', '.join(stored)}" if stored else "it has none yet"
        raise RunNotFound(f"the dataset {view._root_dataset.name!r} has no {KINDS[method]} {key!r}; {there_are}")
    return stored[key]


def results(view: Collection, key: str, method: str) -> dict[str, Any]:
    """The results stored under ``key``; raises as :func:`config`."""
    config(view, key, method)
    with _reading:
        stored = view.load_run_results(key, cache=False, load_view=False)
    return {} if stored is None else {name: value for name, value in stored.serialize().items() if name != "cls"}


@exclusive
def store(
    view: Collection, key: str, method: str, config: dict[str, Any], results: dict[str, Any] | None = None
) -> str:
    """Store a run on a view, and return its token.

    An older run under the same key is replaced when the new one is complete, not before.
    """
    token = begin(view, key, method, config)
    complete(view, key, token, results)
    return token


def check_owner(view: Collection, key: str, token: str, fields: Iterable[str]) -> None:
    """Check that a run that writes fields is still the one that does, and that the fields are there.

    Call it under the lock.

    Raises:
        RunEnded: if the run was stored again, or it, one of its fields or its dataset was deleted.
    """
    refresh(view)
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


@exclusive
def begin(view: Collection, key: str, method: str, config: dict[str, Any]) -> str:
    """Register the draft of a run on a view; an earlier draft under the same key is dropped, an earlier run stays.

    Returns:
        A token that is this draft's alone, kept in its configuration: whoever has it may change and complete the draft.
    """
    discard_draft(view, key)
    dataset, token = view._root_dataset, uuid.uuid4().hex
    run = dataset.init_run(method=method, schema=SCHEMAS[method], plugin_version=__version__, token=token, **config)
    view.register_run(_DRAFT + key, run)
    return token


def is_draft(view: Collection, key: str, token: str) -> bool:
    """Whether the draft of this token is still there; another one under its key may have taken its place."""
    refresh(view)  # another process may have begun or deleted it
    dataset = view._root_dataset
    return _DRAFT + key in dataset.list_runs() and dataset.get_run_info(_DRAFT + key).config.token == token


def check_draft(view: Collection, key: str, token: str) -> None:
    """Raise RunEnded unless the draft of this token is still there."""
    if not is_draft(view, key, token):
        raise RunEnded(f"{key!r} was started again meanwhile, or deleted: this run of it ends here")


@exclusive
def complete(view: Collection, key: str, token: str, results: dict[str, Any] | None = None, **changes: Any) -> None:
    """Make the draft under ``key`` the run, with its results, and with changes to its configuration.

    Raises:
        RunEnded: if the draft is another one than that of the token, or is gone.
    """
    check_draft(view, key, token)
    dataset, draft = view._root_dataset, _DRAFT + key
    if changes:
        update(dataset, draft, **changes)
    if results is not None:
        run_results = dataset.init_run_results(draft, **results)
        dataset.save_run_results(draft, run_results, cache=False)
    if key in dataset.list_runs():
        dataset.delete_run(key)
    dataset.rename_run(draft, key)


@exclusive
def update_draft(view: Collection, key: str, token: str, **changes: Any) -> None:
    """Change values in the configuration of the draft under ``key``, such as its status; raises as :func:`complete`."""
    check_draft(view, key, token)
    update(view, _DRAFT + key, **changes)


@exclusive
def discard_draft(view: Collection, key: str) -> bool:
    """Drop the draft under ``key``; returns whether there was one."""
    there = _DRAFT + key in view.list_runs()
    if there:
        view._root_dataset.delete_run(_DRAFT + key)
    return there


@exclusive
def update(view: Collection, key: str, **changes: Any) -> None:
    """Change values in the configuration stored under ``key``."""
    run = view.get_run_info(key).config
    for name, value in changes.items():
        setattr(run, name, value)
    view._root_dataset.update_run_config(key, run)


def check_editable(view: Collection, names: Iterable[str]) -> None:
    """Check that fields can be written and deleted. Fields that do not exist can.

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


def _fields_of(view: Collection, key: str, method: str) -> list[str]:
    """Fields that a run wrote, and those that the evaluations of a segmentation wrote."""
    made = config(view, key, method)
    if method == HEATMAPS:
        return list(made["fields"])
    evaluations = _evaluations_of(view, key) if method == SEGMENTATION else []
    of_evaluations = [field for name in evaluations for field in _fields_of_evaluation(view, name)]
    return [made["output_field"], made["error_field"], *of_evaluations]


def _fields_of_evaluation(view: Collection, key: str) -> list[str]:
    """Fields that an evaluation, or an attempt at it, wrote in the samples or in the labels of."""
    fields = {path.split(".detections.")[0] for path in label_attributes(view, key)}
    if feeds_model_evaluation(view, key):
        fields |= {f"{key}{suffix}" for suffix in COUNT_SUFFIXES}
    return sorted(fields)


def _fields_made_with_memory(view: Collection, key: str) -> list[str]:
    """Fields of all runs made with a memory."""
    config(view, key, MEMORY)
    return [
        name
        for method in (SEGMENTATION, HEATMAPS, CLASS_MAPS)
        for run, made in configs(view, method).items()
        if made["memory_key"] == key
        for name in _fields_of(view, run, method)
    ]


def _discard_attempt(view: Collection, key: str, method: str) -> list[str]:
    """Drop the draft of a run. Returns what was deleted, in words, if there is no complete run beside it.

    Raises:
        RunNotFound: if there is neither.
    """
    attempted = key in drafts(view, method)
    if attempted:
        made, own = drafts(view, method)[key], str(view._root_dataset._doc.id)
        folder = made.get("scratch_folder")
        discard_draft(view, key)
        if folder and made.get("dataset_id", own) == own and Path(folder).is_dir():
            _remove_unless_in_use(Path(folder))
    if key in configs(view, method):
        return []
    if not attempted:
        config(view, key, method)
    return [f"unfinished {KINDS[method]} {key!r}"]


def _remove_unless_in_use(folder: Path) -> None:
    """Remove the files of an unfinished training; one that is still at work notices, and removes them itself."""
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout:
        return


# ---- memories --------------------------------------------------------------------------------------------------------


def list_memories(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of the dataset's memories, and what they are made of: classes, shots, encoder, preset, label field."""
    return configs(view, MEMORY)


def list_segmentations(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of the dataset's segmentations (their output fields), and how they were made: memory, settings, counts."""
    return configs(view, SEGMENTATION)


def list_evaluations(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of the dataset's evaluations, and what they evaluated: fields, classes, counts, AP of boxes and masks."""
    return configs(view, EVALUATION)


@exclusive
def store_memory(view: Collection, key: str, bank: MemoryBank, **config: Any) -> None:
    """Keep a memory in the dataset, registered on the view of its references."""
    shots = bank.shots
    store(
        view,
        key,
        MEMORY,
        {
            **config,
            # Lists and not a dictionary: a class name may hold a dot, which MongoDB allows in no key.
            "classes": list(shots),
            "shots": list(shots.values()),
            "encoder": bank.encoder.name,
            "encoder_fingerprint": bank.encoder.fingerprint,
            "preset": bank.preset,
            "created": bank.created,
            "fingerprint": fingerprint(bank),
            "whole_images": bank.has_whole_images,
        },
        {"bank": base64.b64encode(bank.to_bytes()).decode("ascii")},
    )


def load_memory(view: Collection, key: str) -> MemoryBank:
    """The memory kept under ``key``.

    Raises:
        RunNotFound: if there is none.
        MemoryFileError: if what is stored is damaged.
    """
    name = f"the memory {key!r} of the dataset {view._root_dataset.name!r}"
    try:
        content = base64.b64decode(results(view, key, MEMORY)["bank"])
    except (KeyError, binascii.Error) as error:
        raise MemoryFileError(f"{name} is damaged: its content is missing or cut off") from error
    return MemoryBank.from_bytes(content, source=name)


def fingerprint(bank: MemoryBank) -> str:
    """SHA-256 over what decides a result: the prototypes, their classes and labels."""
    labels = json.dumps([(entry.class_name, entry.label_id) for entry in bank.entries])
    return hashlib.sha256(bank.instance_prototypes().numpy().tobytes() + labels.encode()).hexdigest()


def check_memory(view: Collection, key: str, expected: str) -> None:
    """Check that the memory kept under ``key`` is still the one that was loaded, by its :func:`fingerprint`.

    Raises:
        RunEnded: if it was deleted, or built again.
    """
    stored = configs(view, MEMORY).get(key)
    if stored is None or stored["fingerprint"] != expected:
        raise RunEnded(
            f"the memory {key!r} was {'deleted' if stored is None else 'built again'} meanwhile: start again with what "
            "there is now"
        )


@contextmanager
def explained(view: Collection, *fields: str) -> Iterator[None]:
    """Raise RunEnded in the place of FiftyOne's own errors where the dataset or a field was deleted meanwhile."""
    try:
        yield
    except RunEnded:
        raise
    except Exception as error:
        refresh(view)
        if gone := [name for name in fields if not view._root_dataset.has_field(name)]:
            raise RunEnded(f"the field {gone[0]!r} was deleted meanwhile") from error
        raise


@exclusive
def delete_memory(view: Collection, key: str) -> list[str]:
    """Delete a memory and everything made with it; returns what was deleted, in words.

    Evaluations go with the segmentations that they evaluate. One that only named the memory, to leave out its
    references, stays.
    """
    if attempt := _discard_attempt(view, key, MEMORY):
        return attempt
    check_editable(view, _fields_made_with_memory(view, key))
    deleted = []
    for output, made in configs(view, SEGMENTATION).items():
        if made["memory_key"] == key:
            deleted += delete_segmentation(view, output)
    for heatmaps, made in configs(view, HEATMAPS).items():
        if made["memory_key"] == key:
            deleted += delete_heatmaps(view, heatmaps)
    for output, made in configs(view, CLASS_MAPS).items():
        if made["memory_key"] == key:
            deleted += delete_class_maps(view, output)
    view._root_dataset.delete_run(key)
    return [*deleted, f"memory {key!r}"]


def made_with_memory(view: Collection, key: str) -> list[str]:
    """What :func:`delete_memory` would delete beside the memory itself, in words."""
    words = []
    for output, made in configs(view, SEGMENTATION).items():
        if made["memory_key"] == key:
            words += made_with_segmentation(view, output)
    for heatmaps, made in configs(view, HEATMAPS).items():
        if made["memory_key"] == key:
            words += made_with_heatmaps(view, heatmaps)
    for output, made in configs(view, CLASS_MAPS).items():
        if made["memory_key"] == key:
            words += made_with_class_maps(view, output)
    return words


# ---- reference prompts -----------------------------------------------------------------------------------------------


def list_prompts(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of the dataset's reference prompts, and how they were trained: classes, models, steps, accuracy."""
    return configs(view, PROMPT)


def list_unfinished_prompts(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of trainings that came to no end, and what is known of them."""
    return drafts(view, PROMPT)


@exclusive
def store_prompt(
    view: Collection,
    key: str,
    prompt: TrainedPrompt,
    log: Sequence[dict[str, float]] = (),
    *,
    token: str | None = None,
    **config: Any,
) -> None:
    """Keep a reference prompt in the dataset, registered on the view that it was trained on.

    With the ``token`` of the draft of its training it completes that draft; raises RunEnded if that is gone.
    """
    config = {
        **config,
        "classes": list(prompt.classes),
        "encoder": prompt.encoder.name,
        "encoder_fingerprint": prompt.encoder.fingerprint,
        "segmenter": prompt.segmenter.name,
        "segmenter_fingerprint": prompt.segmenter.fingerprint,
        "fingerprint": prompt.fingerprint,
    }
    results = {"prompt": base64.b64encode(prompt.to_bytes()).decode("ascii"), "log": list(log)}
    if token is None:
        store(view, key, PROMPT, config, results)
    else:
        complete(view, key, token, results, **config)


def load_stored_prompt(view: Collection, key: str) -> TrainedPrompt:
    """The reference prompt kept under ``key``.

    Raises:
        RunNotFound: if there is none.
        PromptFileError: if what is stored is damaged.
    """
    name = f"the reference prompt {key!r} of the dataset {view._root_dataset.name!r}"
    try:
        content = base64.b64decode(results(view, key, PROMPT)["prompt"])
    except (KeyError, binascii.Error) as error:
        raise PromptFileError(f"{name} is damaged: its content is missing or cut off") from error
    return TrainedPrompt.from_bytes(content, source=name)


@exclusive
def delete_prompt(view: Collection, key: str) -> list[str]:
    """Delete a reference prompt, and what is left of an unfinished training of it; returns what was deleted, in words.

    What was found with it stays.
    """
    if attempt := _discard_attempt(view, key, PROMPT):
        return attempt
    view._root_dataset.delete_run(key)
    return [f"reference prompt {key!r}"]


# ---- segmentations ---------------------------------------------------------------------------------------------------


def error_field(output_field: str) -> str:
    """Where the reason stands for a sample that could not be segmented."""
    return f"{output_field}_error"


def reference_sources(view: Collection, predictions_field: str, memory_key: str) -> tuple[set[str], set[str]]:
    """Where the references came from that predictions were made with.

    A segmentation keeps this from the moment it was made, whatever became of its memory since; for predictions made
    otherwise (by ``apply_model``) it is that of the memory named.

    Returns:
        ids of the samples, and the content of their files (:func:`nts.utils.files.content_id`) as far as it is known.
    """
    made = configs(view, SEGMENTATION).get(predictions_field)
    if made is not None and made["memory_key"] == memory_key:
        stored = results(view, predictions_field, SEGMENTATION)
        if "reference_sample_ids" in stored:
            return set(stored["reference_sample_ids"]), set(stored.get("reference_files", ()))
    entries = load_memory(view, memory_key).entries
    return {entry.sample_id for entry in entries}, {entry.file for entry in entries if entry.file}


@exclusive
def delete_segmentation(view: Collection, key: str) -> list[str]:
    """Delete a segmentation: its evaluations, its fields, itself; returns what was deleted, in words."""
    if attempt := _discard_attempt(view, key, SEGMENTATION):
        return attempt
    check_editable(view, _fields_of(view, key, SEGMENTATION))
    words = made_with_segmentation(view, key)
    for name in _evaluations_of(view, key):  # first: they have attributes in its fields
        delete_evaluation(view, name)
    delete_fields(view, key)
    view._root_dataset.delete_run(key)
    return words


def made_with_segmentation(view: Collection, key: str) -> list[str]:
    """What :func:`delete_segmentation` would delete, in words."""
    made = config(view, key, SEGMENTATION)
    fields = [f"field {name!r}" for name in (made["output_field"], made["error_field"]) if view.has_field(name)]
    words = [_evaluation_words(name) for name in _evaluations_of(view, key)]
    saved_view = [f"saved view {review_view(key)!r}"] if has_review_view(view, key) else []
    return [*fields, *saved_view, *words, f"segmentation {key!r}"]


@exclusive
def delete_fields(view: Collection, key: str) -> None:
    """Delete the fields that a segmentation made, with all that is in them, and the saved view of them."""
    made = config(view, key, SEGMENTATION)
    delete_review_view(view, key)
    _delete_fields(view, made["output_field"], made["error_field"])


def _delete_fields(view: Collection, *names: str) -> None:
    dataset = view._root_dataset
    for name in names:
        if dataset.has_sample_field(name):
            dataset.delete_sample_field(name)
    colours.forget_colours(view, names)


# ---- saved views of predictions to review ----------------------------------------------------------------------------

_REVIEW_MARK = "Predictions worth a look, saved by tag_for_review"


def review_view(field: str) -> str:
    """The name of the saved view with the labels of a field that are worth a look."""
    return f"review_{field}"


def has_review_view(view: Collection, field: str) -> bool:
    """Whether there is a saved view of that name, and it is not one of the user's own."""
    dataset, name = view._root_dataset, review_view(field)
    return dataset.has_saved_view(name) and dataset.get_saved_view_info(name)["description"] == _REVIEW_MARK


@exclusive
def save_review_view(labels: Collection, field: str) -> str:
    """Save a view under that name, in the place of an earlier one of ours; returns the name."""
    delete_review_view(labels, field)
    labels._root_dataset.save_view(review_view(field), labels, description=_REVIEW_MARK)
    return review_view(field)


@exclusive
def delete_review_view(view: Collection, field: str) -> None:
    """Delete the saved view of that name, if it is not one of the user's own."""
    if has_review_view(view, field):
        view._root_dataset.delete_saved_view(review_view(field))


# ---- heat maps -------------------------------------------------------------------------------------------------------


def list_heatmaps(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of the dataset's sets of heat maps, and what they show: memory, classes, and their fields."""
    return configs(view, HEATMAPS)


def heatmaps_key(memory_key: str, shown: str = "similarity") -> str:
    """The name of the heat maps of a memory; there is one set of them for each thing that they show."""
    return f"{memory_key}_{shown}"


@exclusive
def delete_heatmaps(view: Collection, key: str) -> list[str]:
    """Delete a set of heat maps: its fields and itself; returns what was deleted, in words."""
    if attempt := _discard_attempt(view, key, HEATMAPS):
        return attempt
    check_editable(view, _fields_of(view, key, HEATMAPS))
    words = made_with_heatmaps(view, key)
    _delete_fields(view, *config(view, key, HEATMAPS)["fields"])
    view._root_dataset.delete_run(key)
    return words


def made_with_heatmaps(view: Collection, key: str) -> list[str]:
    """What :func:`delete_heatmaps` would delete, in words."""
    fields = [f"field {name!r}" for name in config(view, key, HEATMAPS)["fields"] if view.has_field(name)]
    return [*fields, f"heat maps {key!r}"]


# ---- class maps ------------------------------------------------------------------------------------------------------


def list_class_maps(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of the dataset's class maps (their output fields), and how they were made."""
    return configs(view, CLASS_MAPS)


@exclusive
def delete_class_maps(view: Collection, key: str) -> list[str]:
    """Delete class maps: their fields, the names of their values, themselves; returns what was deleted, in words."""
    if attempt := _discard_attempt(view, key, CLASS_MAPS):
        return attempt
    check_editable(view, _fields_of(view, key, CLASS_MAPS))
    words = made_with_class_maps(view, key)
    made, dataset = config(view, key, CLASS_MAPS), view._root_dataset
    _delete_fields(view, made["output_field"], made["error_field"])
    if made["output_field"] in dataset.mask_targets:
        del dataset.mask_targets[made["output_field"]]
        dataset.save()
    dataset.delete_run(key)
    return words


def made_with_class_maps(view: Collection, key: str) -> list[str]:
    """What :func:`delete_class_maps` would delete, in words."""
    made = config(view, key, CLASS_MAPS)
    fields = [f"field {name!r}" for name in (made["output_field"], made["error_field"]) if view.has_field(name)]
    return [*fields, f"class maps {key!r}"]


def delete_output(view: Collection, key: str, method: str) -> list[str]:
    """Delete a segmentation, class maps or heat maps by their method."""
    delete = {SEGMENTATION: delete_segmentation, CLASS_MAPS: delete_class_maps, HEATMAPS: delete_heatmaps}
    return delete[method](view, key)


# ---- evaluations -----------------------------------------------------------------------------------------------------


@exclusive
def delete_evaluation(view: Collection, key: str) -> list[str]:
    """Delete an evaluation, with what it feeds FiftyOne's Model Evaluation panel, and what is left of an attempt at it.

    Returns what was deleted, in words; raises RunNotFound if there is neither a result nor an attempt of this name.
    """
    there, attempted = key in configs(view, EVALUATION), key in drafts(view, EVALUATION)
    check_editable(view, _fields_of_evaluation(view, key))
    words = [f"unfinished evaluation {key!r}"] if attempted and not there else made_with_evaluation(view, key)
    delete_model_evaluation(view, key)
    if attempted:
        discard_draft(view, key)
    if there:
        view._root_dataset.delete_run(key)
    return words


@exclusive
def delete_model_evaluation(view: Collection, key: str) -> None:
    """Delete what our evaluation ``key`` feeds the Model Evaluation panel, and what it says of wrong predictions."""
    dataset = view._root_dataset
    feeds = feeds_model_evaluation(view, key)
    attributes = label_attributes(view, key)
    if key in dataset.list_evaluations() and not feeds:  # by now it is somebody else's
        attributes = {path for path in attributes if path.endswith("_error")}
    if feeds:
        dataset.delete_evaluation(key)
    if left := [path for path in sorted(attributes) if dataset.has_field(path)]:
        dataset.delete_sample_fields(left)


ATTRIBUTE_SUFFIXES = {"": fo.StringField, "_id": fo.StringField, "_iou": fo.FloatField}
"""Ends of the names, and types, of what an evaluation writes on every label."""


COUNT_SUFFIXES = ("_tp", "_fp", "_fn")
"""Ends of the names of what an evaluation writes on every sample."""


def error_attribute(predictions_field: str, key: str) -> str:
    """Path of the attribute that says what a wrong prediction got wrong."""
    return f"{predictions_field}.detections.{key}_error"


def label_attributes(view: Collection, key: str) -> set[str]:
    """Paths of all that the evaluation ``key``, or an attempt at it, writes on labels; they need not exist.

    Where one of its fields is gone, that may have been renamed: then every field of detections that carries the
    attributes counts.
    """
    dataset, paths = view._root_dataset, set[str]()
    schema = dataset.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections, flat=True)
    carriers = [name for name in schema if dataset.has_field(f"{name}.detections.{key}_iou")]
    for made in _writers(view, key):
        for role in ("predictions_field", "ground_truth_field"):
            for name in [made[role]] if dataset.has_field(made[role]) else carriers:
                paths |= {f"{name}.detections.{key}{suffix}" for suffix in ATTRIBUTE_SUFFIXES}
                if role == "predictions_field":
                    paths.add(error_attribute(name, key))
    return paths


def made_with_evaluation(view: Collection, key: str) -> list[str]:
    """What :func:`delete_evaluation` would delete, in words."""
    config(view, key, EVALUATION)
    feed = [f"fields and attributes {key}…"] if feeds_model_evaluation(view, key) else []
    return [*feed, _evaluation_words(key)]


def feeds_model_evaluation(view: Collection, key: str) -> bool:
    """Whether our evaluation ``key``, or an attempt at it, made the evaluation of FiftyOne's kind of that name.

    It is known by its time, and in a clone of the dataset, where that is another, by the token kept in its results.
    """
    writers = _writers(view, key)
    if not writers or key not in view.list_evaluations():
        return False
    stamp = model_evaluation_stamp(view, key)
    if any(made["model_evaluation"] in (stamp, PENDING) for made in writers):
        return True
    token = _token_in_results(view._root_dataset.name, key, stamp)
    return token is not None and any(made.get("token") == token for made in writers)


def model_evaluation_stamp(view: Collection, key: str) -> str:
    """What tells an evaluation of FiftyOne's kind from another one that came later under the same key."""
    return view.get_evaluation_info(key).timestamp.isoformat(timespec="milliseconds")


@lru_cache(maxsize=64)
def _token_in_results(dataset_name: str, key: str, _stamp: str) -> str | None:
    """The token that :func:`.model_evaluation.feed` put into the results of an evaluation of FiftyOne's kind."""
    with _reading:
        results = fo.load_dataset(dataset_name).load_evaluation_results(key, cache=False, load_view=False)
    return ((getattr(results, "custom_metrics", None) or {}).get(METRIC) or {}).get("token")


def _writers(view: Collection, key: str) -> list[dict[str, Any]]:
    """Configurations of the evaluation ``key`` and of an attempt at it, if they have begun to write."""
    found = [of(view, EVALUATION).get(key, {}) for of in (configs, drafts)]
    return [made for made in found if made.get("model_evaluation")]


def _evaluations_of(view: Collection, predictions_field: str) -> list[str]:
    """Names of the evaluations of a field, and of attempts at them."""
    found = {**configs(view, EVALUATION), **drafts(view, EVALUATION)}
    return [key for key, made in found.items() if made["predictions_field"] == predictions_field]


def _evaluation_words(key: str) -> str:
    return f"evaluation {key!r}"
