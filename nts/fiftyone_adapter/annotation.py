"""The App's own annotation, set up for a field of predictions: *Annotate* shows its classes and tools at once."""

from __future__ import annotations

from collections.abc import Sequence

from .locking import exclusive
from .runs import Collection

_MOST_RADIO_BUTTONS = 5
"""More classes than these are a drop-down."""


@exclusive
def set_up_annotation(view: Collection, field: str, classes: Sequence[str]) -> None:
    """Give a field of predictions a label schema of its classes, and switch it on for annotation.

    What the predictions carry beside class and outline is read-only: decisions are made in the Review panel. A schema
    that the field has already may be a person's, and stays as it is.

    Args:
        view: dataset or view.
        field: field of a segmentation.
        classes: names of the memory's classes.
    """
    dataset = view._root_dataset
    if field in dataset.label_schemas:
        return
    schema = dataset.generate_label_schemas(field, scan_samples=False)
    schema["classes"] = list(classes)
    schema["component"] = "radio" if len(classes) <= _MOST_RADIO_BUTTONS else "dropdown"
    for attribute in schema["attributes"]:
        attribute["read_only"] = True
    dataset.update_label_schema(field, schema)
    dataset.activate_label_schemas(field)
