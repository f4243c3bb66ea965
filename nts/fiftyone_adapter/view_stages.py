"""Stages of views."""

from __future__ import annotations

import re
from collections.abc import Sequence

import fiftyone as fo
from bson import json_util

from .runs import Collection


def without_stages_on(view: Collection, *fields: str) -> fo.DatasetView:
    """A view without the stages that depend on some fields, or that hide fields.

    A view can select samples by labels that a job has just written, and filter labels that it has just changed.
    """
    kept = view._root_dataset.view()
    for stage in view.view()._stages:
        if not isinstance(stage, fo.SelectFields | fo.ExcludeFields) and not _mentions(stage, fields):
            kept = kept.add_stage(stage)
    return kept


def hides_labels(view: Collection, field: str) -> bool:
    """True if a view filters the labels of a field of type Detections."""
    return f"{field}.detections" in (view.view()._get_filtered_fields() or ())


def _mentions(stage: fo.ViewStage, fields: Sequence[str]) -> bool:
    """True if a stage names one of the fields, or one below it: as a path, or as ``$path`` in an expression."""
    names = "|".join(map(re.escape, fields))
    return re.search(rf'"\$?({names})[".]', json_util.dumps(stage._kwargs(), ensure_ascii=False)) is not None
