"""One colour for a class wherever the App shows it: in the ground truth, in predictions, and in pictures of references.

The App chooses colours by hashing a label's name, or gives a whole field one colour, so that look-alikes may share one,
and a prediction differs from its truth. A colour scheme kept in the dataset decides otherwise. It belongs to the user:
what is in it is never changed here, there is only added to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection as Collection

from ..pictures import Colour, class_colours


def set_class_colours(view: Collection, fields: Iterable[str], classes: Iterable[str]) -> None:
    """Give every class the same colour in all of the fields, in the dataset's colour scheme.

    A class that has a colour in any field of the scheme keeps it, and gets it in these fields, too. Where the scheme
    does not say by what labels are coloured, it is by value from now on.

    Args:
        view: dataset, or a view of it.
        fields: fields of labels; a field that the user colours by another attribute is left alone.
        classes: their classes.
    """
    scheme = _scheme(view)
    entries = {entry["path"]: dict(entry) for entry in scheme.fields or []}
    known = {
        str(value["value"]): value["color"]
        for entry in entries.values()
        if _by_label(entry)
        for value in entry.get("valueColors") or []
    }
    classes = sorted(set(classes))
    new = class_colours([*known, *(name for name in classes if name not in known)])
    for field in fields:
        entry = entries.setdefault(field, {"path": field})
        if not _by_label(entry):
            continue
        values = entry.get("valueColors") or []
        coloured = {str(value["value"]) for value in values}
        missing = [name for name in classes if name not in coloured]
        values = [*values, *({"value": name, "color": known.get(name) or _css(new[name])} for name in missing)]
        entry.update(colorByAttribute="label", valueColors=values)
    scheme.fields = list(entries.values())
    scheme.color_by = scheme.color_by or "value"
    _save(view, scheme)


def label_colours(view: Collection, field: str | None, classes: Iterable[str]) -> dict[str, str]:
    """The colour of every class in a field, as CSS; :func:`~nts.pictures.class_colours` where the scheme has none."""
    scheme = view._root_dataset.app_config.color_scheme
    entries = scheme.fields or [] if scheme is not None else []
    values = [value for entry in entries if entry["path"] == field for value in entry.get("valueColors") or []]
    defaults = {name: _css(colour) for name, colour in class_colours(list(classes)).items()}
    return defaults | {str(value["value"]): value["color"] for value in values}


def forget_colours(view: Collection, fields: Iterable[str]) -> None:
    """Take fields that are gone out of the colour scheme."""
    dataset, fields = view._root_dataset, set(fields)
    scheme = dataset.app_config.color_scheme
    if scheme is None:
        return
    scheme.fields = [entry for entry in scheme.fields or [] if entry["path"] not in fields]
    _save(view, scheme)


def _by_label(entry: dict[str, Any]) -> bool:
    """Whether an entry of the scheme colours by class, as the App does where it says nothing."""
    return (entry.get("colorByAttribute") or "label") == "label"


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _scheme(view: Collection) -> fo.ColorScheme:
    return view._root_dataset.app_config.color_scheme or fo.ColorScheme()


def _save(view: Collection, scheme: fo.ColorScheme) -> None:
    dataset = view._root_dataset
    dataset.app_config.color_scheme = scheme
    dataset.save()
