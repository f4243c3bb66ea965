"""FiftyOne Brain's runs on the predictions of a field. They are deleted with the predictions."""

from __future__ import annotations

from ..locking import exclusive
from .storage import Collection

EMBEDDINGS, SIMILARITY = "{}_embeddings", "{}_similarity"
"""Brain keys, with braces for the field: of the visualization, and of the similarity index."""


def brain_runs(view: Collection, field: str) -> list[str]:
    """Keys of the brain runs on the labels of a field, ours and others."""
    dataset = view._root_dataset
    return [key for key in dataset.list_brain_runs() if _labels_of(dataset, key) == field]


@exclusive
def delete_brain_runs(view: Collection, field: str) -> None:
    """Delete our brain runs on the labels of a field."""
    ours = {pattern.format(field) for pattern in (EMBEDDINGS, SIMILARITY)}
    for key in brain_runs(view, field):
        if key in ours:
            view._root_dataset.delete_brain_run(key)


def _labels_of(view: Collection, key: str) -> str | None:
    return getattr(view.get_brain_info(key).config, "patches_field", None)
