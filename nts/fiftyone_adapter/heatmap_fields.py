"""Fields of heat maps: one per class, named by the memory, the class and the quantity shown."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from . import runs
from .errors import InputError
from .runs import Collection

MOST_CLASSES = 20
"""Maximal number of classes with heat maps: each adds a field to the sidebar and the database."""


def heatmap_fields(
    view: Collection, memory_key: str, classes: Sequence[str], shown: str = "similarity"
) -> dict[str, str]:
    """Return the field of every class: its existing one, or ``<memory>_<class>_<shown>``.

    Characters that no field name may have become underscores. A number is appended where the name is taken.
    """
    made = runs.list_runs(view, runs.HEATMAPS).get(runs.heatmaps_key(memory_key, shown))
    fields = dict(zip(made["classes"], made["fields"], strict=True)) if made else {}
    taken = {*view._root_dataset.get_field_schema(), *fields.values()}
    for name in classes:
        if name not in fields:
            plain = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_") or "class"
            base = f"{memory_key}_{plain}_{shown}"
            numbered = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
            fields[name] = next(field for field in numbered if field not in taken)
            taken.add(fields[name])
    return {name: fields[name] for name in classes}


def check_heatmap_fields(
    view: Collection, memory_key: str, classes: Sequence[str], shown: str = "similarity"
) -> dict[str, str]:
    """Return the field of every class, see :func:`heatmap_fields`, after checking that heat maps can be stored.

    Raises:
        InputError: if the name of their run is taken by a run of another kind, or a field is read-only.
    """
    key = runs.heatmaps_key(memory_key, shown)
    if key in view._root_dataset.list_runs() and key not in runs.list_runs(view, runs.HEATMAPS):
        raise InputError(
            f"the heat maps of the memory {memory_key!r} would be stored as {key!r}, and this name is taken by a run "
            "of another kind: delete or rename that one, or build the memory under another name"
        )
    fields = heatmap_fields(view, memory_key, classes, shown)
    runs.check_editable(view, fields.values())
    return fields
