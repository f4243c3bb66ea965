"""Last decisions about the labels of a field, so that they can be taken back. They are deleted with the field.

They are stored beside the dataset and not in a panel: forms and scripts decide too, and a panel is closed. The list of
a field is small; what each step has changed is stored apart from it, and read only to take the step back.
"""

from __future__ import annotations

import uuid
from typing import Any

from fiftyone.operators.store import ExecutionStore

from ..locking import exclusive
from .storage import Collection

MOST_STEPS = 20
"""Number of steps that can be taken back."""

MOST_LABELS = 100_000
"""Number of labels in all of these steps: a value of the store holds 16 MB, and one of this size takes 4."""

_STORE = "nts_decisions"


def list_steps(view: Collection, field: str) -> list[dict[str, Any]]:
    """Steps of a field, the oldest first: their ``id``, the number of their ``labels``, and what else is known."""
    return _store(view).get(field) or []


@exclusive
def add_step(view: Collection, field: str, labels: int, content: dict[str, Any], **facts: Any) -> None:
    """Add a step, and drop the oldest that are too many.

    A step of more than :data:`MOST_LABELS` cannot be taken back, and neither can those before it.

    Args:
        view: dataset or view.
        field: of the labels.
        labels: number of labels that it changed.
        content: what it changed, as plain values.
        facts: for the list.
    """
    store, steps = _store(view), list_steps(view, field)
    step = {"id": uuid.uuid4().hex, "labels": labels, **facts}
    if labels <= MOST_LABELS:
        store.set(_content_key(field, step["id"]), content)
    kept = [*steps, step][-MOST_STEPS:]
    while kept and sum(each["labels"] for each in kept) > MOST_LABELS:
        kept.pop(0)
    store.set(field, kept)
    _drop(store, field, [each for each in steps if each not in kept])


def step_content(view: Collection, field: str, step_id: str) -> dict[str, Any]:
    """What a step has changed."""
    return _store(view).get(_content_key(field, step_id))


@exclusive
def remove_step(view: Collection, field: str, step_id: str) -> None:
    """Remove a step, which was taken back."""
    store, steps = _store(view), list_steps(view, field)
    store.set(field, [each for each in steps if each["id"] != step_id])
    _drop(store, field, [each for each in steps if each["id"] == step_id])


@exclusive
def delete_history(view: Collection, field: str) -> None:
    """Delete all steps of a field."""
    store = _store(view)
    _drop(store, field, list_steps(view, field))
    store.delete(field)


def _drop(store: ExecutionStore, field: str, steps: list[dict[str, Any]]) -> None:
    for each in steps:
        store.delete(_content_key(field, each["id"]))


def _content_key(field: str, step_id: str) -> str:
    return f"{field}/{step_id}"


def _store(view: Collection) -> ExecutionStore:
    return ExecutionStore.create(_STORE, view._root_dataset._doc.id)
