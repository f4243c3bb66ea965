"""What the plugin keeps in a dataset, and who made which field. Only this module stores, lists and deletes it.

All of it are custom runs of FiftyOne, with FiftyOne's own classes and plain values, so that a dataset opens where the
plugin is not installed:

* a *memory* (method ``nts_memory``), registered on the view of its references; its results hold the bank's bytes;
* a *segmentation* (``nts_segmentation``), under the name of its output field, registered on the view it segmented;
* an *evaluation* (``nts_nap``), registered on the view it evaluated; its results hold the numbers. Beside it stands an
  evaluation of FiftyOne's own kind under the same name, which FiftyOne's Model Evaluation panel shows;
* a *set of heat maps* (``nts_heatmaps``), under ``<memory>_similarity``; it says which field belongs to which class.

A run that takes its time is a draft until it is complete: it is listed with its status, and replaces nothing before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

import fiftyone as fo

from .. import __version__
from ..memory import MemoryBank, MemoryFileError
from . import colours

MEMORY, SEGMENTATION, EVALUATION, HEATMAPS = "nts_memory", "nts_segmentation", "nts_nap", "nts_heatmaps"
KINDS = {MEMORY: "memory", SEGMENTATION: "segmentation", EVALUATION: "evaluation", HEATMAPS: "set of heat maps"}
SCHEMAS = {MEMORY: 1, SEGMENTATION: 1, EVALUATION: 2, HEATMAPS: 1}

_DRAFT = "_draft_of_"  # no name of a user's begins with an underscore

Collection = fo.core.collections.SampleCollection


class RunNotFound(ValueError):
    """A memory, segmentation or evaluation that this dataset does not have."""


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
    stored = view.load_run_results(key, cache=False, load_view=False)
    return {} if stored is None else {name: value for name, value in stored.serialize().items() if name != "cls"}


def store(
    view: Collection, key: str, method: str, config: dict[str, Any], results: dict[str, Any] | None = None
) -> None:
    """Store a run on a view. An older one under the same key is replaced when the new one is complete, not before."""
    begin(view, key, method, config)
    complete(view, key, results)


def begin(view: Collection, key: str, method: str, config: dict[str, Any]) -> None:
    """Register the draft of a run on a view; an earlier draft under the same key is dropped, an earlier run stays."""
    discard_draft(view, key)
    dataset = view._root_dataset
    run = dataset.init_run(method=method, schema=SCHEMAS[method], plugin_version=__version__, **config)
    view.register_run(_DRAFT + key, run)


def complete(view: Collection, key: str, results: dict[str, Any] | None = None, **changes: Any) -> None:
    """Make the draft under ``key`` the run, with its results, and with changes to its configuration."""
    dataset, draft = view._root_dataset, _DRAFT + key
    if changes:
        update(dataset, draft, **changes)
    if results is not None:
        run_results = dataset.init_run_results(draft, **results)
        dataset.save_run_results(draft, run_results, cache=False)
    if key in dataset.list_runs():
        dataset.delete_run(key)
    dataset.rename_run(draft, key)


def update_draft(view: Collection, key: str, **changes: Any) -> None:
    """Change values in the configuration of the draft under ``key``, such as its status."""
    update(view, _DRAFT + key, **changes)


def discard_draft(view: Collection, key: str) -> bool:
    """Drop the draft under ``key``; returns whether there was one."""
    there = _DRAFT + key in view.list_runs()
    if there:
        view._root_dataset.delete_run(_DRAFT + key)
    return there


def update(view: Collection, key: str, **changes: Any) -> None:
    """Change values in the configuration stored under ``key``."""
    run = view.get_run_info(key).config
    for name, value in changes.items():
        setattr(run, name, value)
    view._root_dataset.update_run_config(key, run)


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


def delete_memory(view: Collection, key: str) -> list[str]:
    """Delete a memory and everything made with it; returns what was deleted, in words."""
    config(view, key, MEMORY)
    deleted = []
    for output, made in configs(view, SEGMENTATION).items():
        if made["memory_key"] == key:
            deleted += delete_segmentation(view, output)
    for heatmaps, made in configs(view, HEATMAPS).items():
        if made["memory_key"] == key:
            deleted += delete_heatmaps(view, heatmaps)
    deleted += _delete_evaluations(view, memory_key=key)
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
    evaluations = configs(view, EVALUATION)
    words += [_evaluation_words(k) for k, made in evaluations.items() if made["memory_key"] == key]
    return list(dict.fromkeys(words))


# ---- segmentations ---------------------------------------------------------------------------------------------------


def error_field(output_field: str) -> str:
    """Where the reason stands for a sample that could not be segmented."""
    return f"{output_field}_error"


def reference_samples(view: Collection, predictions_field: str, memory_key: str) -> set[str]:
    """Ids of the samples whose labels the predictions were made from.

    A segmentation keeps them from the moment it was made, whatever became of its memory since; for predictions made
    otherwise (by ``apply_model``) they are those of the memory named.
    """
    made = configs(view, SEGMENTATION).get(predictions_field)
    if made is not None and made["memory_key"] == memory_key:
        return set(results(view, predictions_field, SEGMENTATION)["reference_sample_ids"])
    return {entry.sample_id for entry in load_memory(view, memory_key).entries}


def delete_segmentation(view: Collection, key: str) -> list[str]:
    """Delete a segmentation: its evaluations, its fields, itself; returns what was deleted, in words."""
    words = made_with_segmentation(view, key)
    _delete_evaluations(view, predictions_field=key)  # first: they have attributes in its fields
    delete_fields(view, key)
    view._root_dataset.delete_run(key)
    return words


def made_with_segmentation(view: Collection, key: str) -> list[str]:
    """What :func:`delete_segmentation` would delete, in words."""
    made = config(view, key, SEGMENTATION)
    fields = [f"field {name!r}" for name in (made["output_field"], made["error_field"]) if view.has_field(name)]
    evaluations = configs(view, EVALUATION)
    words = [_evaluation_words(k) for k, e in evaluations.items() if e["predictions_field"] == key]
    saved_view = [f"saved view {review_view(key)!r}"] if has_review_view(view, key) else []
    return [*fields, *saved_view, *words, f"segmentation {key!r}"]


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


def save_review_view(labels: Collection, field: str) -> str:
    """Save a view under that name, in the place of an earlier one of ours; returns the name."""
    delete_review_view(labels, field)
    labels._root_dataset.save_view(review_view(field), labels, description=_REVIEW_MARK)
    return review_view(field)


def delete_review_view(view: Collection, field: str) -> None:
    """Delete the saved view of that name, if it is not one of the user's own."""
    if has_review_view(view, field):
        view._root_dataset.delete_saved_view(review_view(field))


# ---- heat maps -------------------------------------------------------------------------------------------------------


def list_heatmaps(view: Collection) -> dict[str, dict[str, Any]]:
    """Names of the dataset's sets of heat maps, and what they show: memory, classes, and their fields."""
    return configs(view, HEATMAPS)


def heatmaps_key(memory_key: str) -> str:
    """The name of the heat maps of a memory; there is one set of them."""
    return f"{memory_key}_similarity"


def delete_heatmaps(view: Collection, key: str) -> list[str]:
    """Delete a set of heat maps: its fields and itself; returns what was deleted, in words."""
    words = made_with_heatmaps(view, key)
    _delete_fields(view, *config(view, key, HEATMAPS)["fields"])
    view._root_dataset.delete_run(key)
    return words


def made_with_heatmaps(view: Collection, key: str) -> list[str]:
    """What :func:`delete_heatmaps` would delete, in words."""
    fields = [f"field {name!r}" for name in config(view, key, HEATMAPS)["fields"] if view.has_field(name)]
    return [*fields, f"heat maps {key!r}"]


# ---- evaluations -----------------------------------------------------------------------------------------------------


def delete_evaluation(view: Collection, key: str) -> list[str]:
    """Delete an evaluation, with what it feeds FiftyOne's Model Evaluation panel, and what is left of an attempt at it.

    Returns what was deleted, in words; raises RunNotFound if there is neither a result nor an attempt of this name.
    """
    there = key in configs(view, EVALUATION)
    attempted = key in drafts(view, EVALUATION) and discard_draft(view, key)
    if not there and attempted:
        return [f"unfinished evaluation {key!r}"]
    words = made_with_evaluation(view, key)
    delete_model_evaluation(view, key)
    view._root_dataset.delete_run(key)
    return words


def delete_model_evaluation(view: Collection, key: str) -> None:
    """Delete what our evaluation ``key`` feeds the Model Evaluation panel, and what it says of wrong predictions."""
    dataset = view._root_dataset
    if feeds_model_evaluation(view, key):
        dataset.delete_evaluation(key)
    if (made := configs(view, EVALUATION).get(key)) and dataset.has_field(
        error_attribute(made["predictions_field"], key)
    ):
        dataset.delete_sample_field(error_attribute(made["predictions_field"], key))


def error_attribute(predictions_field: str, key: str) -> str:
    """Path of the attribute that says what a wrong prediction got wrong."""
    return f"{predictions_field}.detections.{key}_error"


def made_with_evaluation(view: Collection, key: str) -> list[str]:
    """What :func:`delete_evaluation` would delete, in words."""
    config(view, key, EVALUATION)
    feed = [f"fields and attributes {key}…"] if feeds_model_evaluation(view, key) else []
    return [*feed, _evaluation_words(key)]


def feeds_model_evaluation(view: Collection, key: str) -> bool:
    """Whether the evaluation of FiftyOne's kind under ``key`` is the one that our evaluation of that name made."""
    made = configs(view, EVALUATION).get(key, {}).get("model_evaluation")
    return made is not None and key in view.list_evaluations() and made == model_evaluation_stamp(view, key)


def model_evaluation_stamp(view: Collection, key: str) -> str:
    """What tells an evaluation of FiftyOne's kind from another one that came later under the same key."""
    return view.get_evaluation_info(key).timestamp.isoformat(timespec="milliseconds")


def _delete_evaluations(view: Collection, **of: str) -> list[str]:
    words = []
    for found in (configs, drafts):
        for key, made in found(view, EVALUATION).items():
            if all(made.get(name) == value for name, value in of.items()):
                words.append(_evaluation_words(key))
                delete_evaluation(view, key)
    return list(dict.fromkeys(words))


def _evaluation_words(key: str) -> str:
    return f"evaluation {key!r}"
