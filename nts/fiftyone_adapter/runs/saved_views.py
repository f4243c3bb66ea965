"""Saved views of the labels of one field. They are deleted with the field."""

from __future__ import annotations

from dataclasses import dataclass

from fiftyone.core.utils import to_slug

from ..errors import InputError
from ..locking import exclusive
from .storage import Collection


@dataclass(frozen=True)
class FieldView:
    """A kind of saved view; a field has at most one of each.

    Attributes:
        pattern: its name, with braces for that of the field.
        mark: its description, which tells it from a view of the user's of that name.
    """

    pattern: str
    mark: str

    def name(self, field: str) -> str:
        """Name of the saved view of a field."""
        return self.pattern.format(field)


REVIEW_VIEW = FieldView("review_{}", "Predictions worth a look, saved by tag_for_review")
CONFIDENT_VIEW = FieldView("{} · confident", "Instances above a confidence, saved by auto_segment_view")
FIELD_VIEWS = (REVIEW_VIEW, CONFIDENT_VIEW)


def field_views(view: Collection, field: str) -> list[str]:
    """Names of the saved views of a field that are ours."""
    return [kind.name(field) for kind in FIELD_VIEWS if has_field_view(view, field, kind)]


def has_field_view(view: Collection, field: str, kind: FieldView) -> bool:
    """True if the dataset has a saved view of that name, and it is ours."""
    dataset, name = view._root_dataset, kind.name(field)
    return dataset.has_saved_view(name) and dataset.get_saved_view_info(name)["description"] == kind.mark


def check_field_view(view: Collection, field: str, kind: FieldView) -> None:
    """Raise InputError if the name of the view, or its slug in the App's address, is that of one of the user's own."""
    name = kind.name(field)
    for other in view._root_dataset.list_saved_views():
        if other == name and not has_field_view(view, field, kind):
            raise InputError(f"the saved view {name!r} is one of your own, and is never overwritten: rename it first")
        if other != name and to_slug(other) == to_slug(name):
            raise InputError(f"your saved view {other!r} has the same address as {name!r} would have: rename it first")


@exclusive
def save_field_view(labels: Collection, field: str, kind: FieldView) -> str:
    """Save a view of the labels of a field, in place of an earlier one of ours, and return its name.

    Raises:
        InputError: if the user has a saved view of that name.
    """
    check_field_view(labels, field, kind)
    delete_field_view(labels, field, kind)
    labels._root_dataset.save_view(kind.name(field), labels, description=kind.mark)
    return kind.name(field)


@exclusive
def delete_field_view(view: Collection, field: str, kind: FieldView) -> None:
    """Delete the saved view of that name, unless it is the user's own."""
    if has_field_view(view, field, kind):
        view._root_dataset.delete_saved_view(kind.name(field))
