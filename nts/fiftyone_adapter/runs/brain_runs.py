"""FiftyOne Brain's runs on the predictions of a field, and the field of their map: deleted with the predictions."""

from __future__ import annotations

from datetime import UTC, datetime

import fiftyone as fo

from .. import colours
from ..errors import InputError
from ..locking import exclusive
from .storage import Collection

EMBEDDINGS, SIMILARITY = "{}_embeddings", "{}_similarity"
"""Brain keys, with braces for the field: of the visualization, and of the similarity index."""

_MAP_OF = "nts_map_of"
"""Key in the ``info`` of a map: the field of the predictions that it shows."""


def map_field(field: str) -> str:
    """Name of the map of a field of predictions."""
    return f"{field}_map"


def is_map(field: fo.Field | None) -> bool:
    """Whether a field is a map of predictions."""
    return field is not None and _MAP_OF in (field.info or {})


def has_map(view: Collection, field: str) -> bool:
    """Whether the predictions of a field have a map."""
    return is_map(view._root_dataset.get_field(map_field(field)))


@exclusive
def create_map(view: Collection, field: str) -> str:
    """Declare the empty map of a field of predictions, and return its name.

    Raises:
        InputError: if the name is taken.
    """
    dataset, name = view._root_dataset, map_field(field)
    check_map_field(view, field)
    dataset.add_sample_field(
        name,
        fo.EmbeddedDocumentField,
        embedded_doc_type=fo.Detections,
        description=f"Map of {field!r}: predictions, references and negatives. Decisions are those of the predictions",
        info={_MAP_OF: field},
    )
    for attribute in ("role", "decision"):
        dataset.add_sample_field(f"{name}.detections.{attribute}", fo.StringField)
    return name


def check_map_field(view: Collection, field: str) -> None:
    """Raise InputError if the name of the map of a field is that of another field."""
    if view._root_dataset.has_sample_field(name := map_field(field)) and not has_map(view, field):
        raise InputError(f"the field {name!r} was not made by index_predictions: rename it first")


def brain_runs(view: Collection, field: str) -> list[str]:
    """Keys of the brain runs on the labels of a field or its map, ours and others."""
    dataset, fields = view._root_dataset, {field}
    if has_map(view, field) or not dataset.has_sample_field(map_field(field)):
        fields.add(map_field(field))
    return [key for key in dataset.list_brain_runs() if _labels_of(dataset, key) in fields]


@exclusive
def delete_brain_runs(view: Collection, field: str) -> None:
    """Delete our brain runs on the labels of a field, and its map."""
    dataset = view._root_dataset
    for key in brain_runs(view, field):
        if key in _keys(field):
            dataset.delete_brain_run(key)
    if has_map(view, field):
        dataset.delete_sample_field(map_field(field))
        colours.forget_colours(view, [map_field(field)])


@exclusive
def renew_brain_runs(view: Collection, field: str) -> None:
    """Date our brain runs on a map to now, since its labels have changed.

    FiftyOne's Embeddings panel keeps the colours of its points for as long as the time of the run stays the same.
    """
    dataset = view._root_dataset
    key = EMBEDDINGS.format(field)
    if key in brain_runs(view, field):
        stored = dataset._doc.brain_methods[key]
        stored.timestamp = datetime.now(UTC).replace(tzinfo=None)  # as FiftyOne writes it
        stored.save()


def _keys(field: str) -> set[str]:
    return {pattern.format(field) for pattern in (EMBEDDINGS, SIMILARITY)}


def _labels_of(view: Collection, key: str) -> str | None:
    return getattr(view.get_brain_info(key).config, "patches_field", None)
