"""Saved views of predictions that are tagged for review."""

from __future__ import annotations

from ..locking import exclusive
from .storage import Collection

_MARK = "Predictions worth a look, saved by tag_for_review"


def review_view(field: str) -> str:
    """Name of the saved view with the labels of a field that are tagged for review."""
    return f"review_{field}"


def has_review_view(view: Collection, field: str) -> bool:
    """True if the dataset has a saved view of that name, and tag_for_review saved it."""
    dataset, name = view._root_dataset, review_view(field)
    return dataset.has_saved_view(name) and dataset.get_saved_view_info(name)["description"] == _MARK


@exclusive
def save_review_view(labels: Collection, field: str) -> str:
    """Save a view under that name, in place of an earlier one of ours, and return the name."""
    delete_review_view(labels, field)
    labels._root_dataset.save_view(review_view(field), labels, description=_MARK)
    return review_view(field)


@exclusive
def delete_review_view(view: Collection, field: str) -> None:
    """Delete the saved view of that name, unless it is the user's own."""
    if has_review_view(view, field):
        view._root_dataset.delete_saved_view(review_view(field))
