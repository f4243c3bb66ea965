"""Names, recognition and deletion of what an evaluation writes in FiftyOne's own terms.

Beside our evaluation stands one of FiftyOne's kind under the same name: see :mod:`..native_evaluation`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import fiftyone as fo

from ..locking import exclusive
from .kinds import EVALUATION
from .storage import Collection, change_runs, list_drafts, list_runs, reading

METRIC = "@nts/reference-segmentation/nap"
"""nAP as a metric of FiftyOne's evaluations."""

PENDING = "pending"
"""Stands for the stamp of a native evaluation that a draft is about to register."""

ATTRIBUTE_SUFFIXES = {"": fo.StringField, "_id": fo.StringField, "_iou": fo.FloatField}
"""Suffixes and types of the attributes that an evaluation writes on every label."""

COUNT_SUFFIXES = ("_tp", "_fp", "_fn")
"""Suffixes of the fields that an evaluation writes on every sample."""


def error_attribute(predictions_field: str, key: str) -> str:
    """Path of the attribute with the error type of a wrong prediction."""
    return f"{predictions_field}.detections.{key}_error"


def label_attributes(view: Collection, key: str) -> set[str]:
    """Paths of all attributes that the evaluation ``key``, or an attempt at it, writes on labels; they need not exist.

    A field that is gone may have been renamed: then every field of detections that carries the attributes counts.
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


def native_fields(view: Collection, key: str) -> list[str]:
    """Fields that the evaluation ``key``, or an attempt at it, wrote, or in whose labels it wrote."""
    fields = {path.split(".detections.")[0] for path in label_attributes(view, key)}
    if has_native_evaluation(view, key):
        fields |= {f"{key}{suffix}" for suffix in COUNT_SUFFIXES}
    return sorted(fields)


def has_native_evaluation(view: Collection, key: str) -> bool:
    """True if our evaluation ``key``, or an attempt at it, wrote the evaluation of FiftyOne's kind of that name.

    It is known by its time; in a clone of the dataset, where the time is another, by the token in its results.
    """
    writers = _writers(view, key)
    if not writers or key not in view.list_evaluations():
        return False
    stamp = native_stamp(view, key)
    if any(made["model_evaluation"] in (stamp, PENDING) for made in writers):
        return True
    token = _token_in_results(view._root_dataset.name, key, stamp)
    return token is not None and any(made.get("token") == token for made in writers)


def native_stamp(view: Collection, key: str) -> str:
    """Time of an evaluation of FiftyOne's kind, which tells it from a later one under the same key."""
    return view.get_evaluation_info(key).timestamp.isoformat(timespec="milliseconds")


@exclusive
def delete_native_evaluation(view: Collection, key: str) -> None:
    """Delete the native evaluation of our evaluation ``key``, and the error types on its predictions."""
    dataset = view._root_dataset
    ours = has_native_evaluation(view, key)
    attributes = label_attributes(view, key)
    if key in dataset.list_evaluations() and not ours:  # by now it is somebody else's
        attributes = {path for path in attributes if path.endswith("_error")}
    if ours:
        change_runs(view, lambda: dataset.delete_evaluation(key), lambda keys: key not in keys, "evaluations")
    if left := [path for path in sorted(attributes) if dataset.has_field(path)]:
        dataset.delete_sample_fields(left)


@lru_cache(maxsize=64)
def _token_in_results(dataset_name: str, key: str, _stamp: str) -> str | None:
    """The token in the results of a native evaluation; see :func:`..native_evaluation.write_native_evaluation`."""
    with reading:
        results = fo.load_dataset(dataset_name).load_evaluation_results(key, cache=False, load_view=False)
    return ((getattr(results, "custom_metrics", None) or {}).get(METRIC) or {}).get("token")


def _writers(view: Collection, key: str) -> list[dict[str, Any]]:
    """Configurations of the evaluation ``key`` and of an attempt at it, if they have begun to write."""
    found = [of(view, EVALUATION).get(key, {}) for of in (list_runs, list_drafts)]
    return [made for made in found if made.get("model_evaluation")]
