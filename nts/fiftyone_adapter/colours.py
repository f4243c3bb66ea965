"""One colour per class everywhere in the App: in the ground truth, in predictions, and in pictures of references.

The App chooses colours by hashing a label's name, or gives a whole field one colour, so that look-alikes may share one,
and a prediction differs from its truth. A colour scheme stored in the dataset overrides both. It belongs to the user:
entries are added here, and never changed. The user may change it in the App, another process, at any time: it is read
from the database whenever it is needed, and not from the dataset in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import fiftyone as fo
from fiftyone.core.collections import SampleCollection as Collection
from fiftyone.core.odm import DatasetDocument
from PIL import ImageColor

from ..pictures import Colour, class_colours
from .locking import exclusive


@exclusive
def set_class_colours(view: Collection, fields: Iterable[str], classes: Iterable[str]) -> None:
    """Give every class the same colour in all of the fields, in the dataset's colour scheme.

    A class with a colour in any field of the scheme gets that colour in these fields. A dataset without a scheme gets
    one that colours by value, as the colours would not show otherwise; in an existing scheme the user's choice to
    colour by field or by value stays.

    Args:
        view: dataset, or a view of it.
        fields: fields of labels; a field that the user colours by another attribute is left alone.
        classes: their classes.
    """
    scheme = _scheme(view) or fo.ColorScheme(color_by="value")
    entries = {entry["path"]: dict(entry) for entry in scheme.fields or []}
    known = {
        str(value["value"]): value.get("color")
        for entry in entries.values()
        if _by_label(entry)
        for value in entry.get("valueColors") or []
    }
    classes = sorted(set(classes))
    new = class_colours([*known, *(name for name in classes if name not in known)])
    changed = False
    for field in fields:
        entry = entries.get(field, {"path": field})
        values = entry.get("valueColors") or []
        coloured = {str(value["value"]) for value in values}
        missing = [name for name in classes if name not in coloured]
        if missing and _by_label(entry):
            values = [*values, *({"value": name, "color": known.get(name) or _css(new[name])} for name in missing)]
            entries[field] = {**entry, "colorByAttribute": "label", "valueColors": values}
            changed = True
    if changed:
        scheme.fields = list(entries.values())
        _save(view, scheme)


def label_colours(view: Collection, field: str | None, classes: Iterable[str]) -> dict[str, str]:
    """Colour of every class in a field, as CSS that Pillow reads.

    If the scheme has none, or one that only a browser reads, it is that of :func:`~nts.pictures.class_colours`.
    """
    scheme = _scheme(view)
    entries = scheme.fields or [] if scheme is not None else []
    values = [value for entry in entries if entry["path"] == field for value in entry.get("valueColors") or []]
    defaults = {name: _css(colour) for name, colour in class_colours(list(classes)).items()}
    return defaults | {str(value["value"]): value["color"] for value in values if _is_readable(value.get("color"))}


def stored_scheme(view: Collection) -> dict[str, Any] | None:
    """The colour scheme of the dataset in the database, as parameters of the App's operator ``set_color_scheme``."""
    scheme = _scheme(view)
    return None if scheme is None else {"color_by": scheme.color_by, "fields": scheme.fields or []}


@exclusive
def forget_colours(view: Collection, fields: Iterable[str]) -> None:
    """Remove deleted fields from the colour scheme."""
    gone, scheme = set(fields), _scheme(view)
    if scheme is None or not any(entry["path"] in gone for entry in scheme.fields or []):
        return
    scheme.fields = [entry for entry in scheme.fields if entry["path"] not in gone]
    _save(view, scheme)


def _by_label(entry: dict[str, Any]) -> bool:
    """True if an entry of the scheme colours by class, the App's default."""
    return (entry.get("colorByAttribute") or "label") == "label"


def _css(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _is_readable(colour: str | None) -> bool:
    try:
        ImageColor.getrgb(colour or "")
    except ValueError:
        return False
    return True


def _scheme(view: Collection) -> fo.ColorScheme | None:
    """Colour scheme of the dataset in the database."""
    return DatasetDocument.objects.only("app_config").get(id=view._root_dataset._doc.id).app_config.color_scheme


def _save(view: Collection, scheme: fo.ColorScheme) -> None:
    dataset = view._root_dataset
    dataset.app_config.color_scheme = scheme
    dataset.save()
