"""Checks of views, fields and names. Every message states the problem and the remedy.

Forms and jobs share these checks, so that a form accepts exactly what its job accepts.
"""

from __future__ import annotations

import itertools
import keyword
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import fiftyone as fo
from fiftyone import ViewField as F

from ..references import Kind
from . import runs
from .errors import InputError
from .labels import names_of_values
from .references import LABEL_LISTS, LABEL_TYPES
from .runs import Collection, RunKind


def check_view(view: Collection | None) -> None:
    """Raise unless ``view`` holds at least one image, and each sample is one image."""
    if view is None:
        raise InputError("no dataset is open")
    if view._is_dynamic_groups:
        raise InputError("the samples of this view are in dynamic groups: flatten them with view.flatten()")
    if view.media_type == "group":
        raise InputError(
            "this is a grouped dataset: select the images of one slice with dataset.select_group_slices('<slice>')"
        )
    if view.media_type not in ("image", None):
        raise InputError(f"only images can be used, but the media type here is {view.media_type!r}")
    if view._is_generated:
        raise InputError("this is a view of patches, frames or clips: use the view of whole images instead")
    if view.limit(1).count() == 0:
        raise InputError("the view has no samples")


def detections_fields(view: Collection) -> list[str]:
    """Names of the fields of type :class:`fiftyone.Detections` but maps; those with our own predictions come last."""
    schema = view.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections, flat=True)
    predictions = {config["output_field"] for config in runs.list_runs(view, runs.SEGMENTATION).values()}
    return sorted(_without_maps(schema), key=lambda name: name in predictions)


def _without_maps(schema: Mapping[str, fo.Field]) -> list[str]:
    """Names of the fields of a schema but the maps of predictions, whose labels are those of other fields."""
    return [name for name, each in schema.items() if not runs.is_map(each)]


@dataclass(frozen=True)
class LabelCounts:
    """Number of labels of a field in a view, number of those with a mask, and their classes."""

    labels: int
    masks: int
    classes: tuple[str, ...]

    @property
    def words(self) -> str:
        if self.masks == self.labels:
            return f"{self.labels} labels, all with masks"
        return f"{self.labels} labels, {self.masks} with masks" if self.masks else f"{self.labels} labels, boxes only"


def label_counts(view: Collection) -> dict[str, LabelCounts]:
    """Count the labels of every field of type Detections, in the order of :func:`detections_fields`."""
    fields = detections_fields(view)
    masks = [_count_where(f"{name}.detections", True, _has_mask()) for name in fields]
    classes = [fo.CountValues(f"{name}.detections.label") for name in fields]
    results = iter(view.aggregate(masks + classes))
    mask_counts = [next(results) for _ in fields]
    return {
        name: LabelCounts(sum(counts.values()), in_field, tuple(sorted(filter(None, counts))))
        for name, in_field, counts in zip(fields, mask_counts, results, strict=True)
    }


def check_detections_field(view: Collection, name: str, role: str) -> None:
    """Raise unless ``name`` is a field of type Detections. ``role`` names it in the message: "label field"."""
    fields = detections_fields(view)
    if not fields:
        raise InputError(f"a {role} is needed, but this dataset has no field of type Detections")
    if name in fields:
        return
    raise InputError(f"the {role} {name!r} {_found(view, name)}; fields of type Detections are: {', '.join(fields)}")


def _label_fields(view: Collection) -> list[str]:
    """Fields of labels, those in other documents too (``labels.truth``), but neither labels in a list nor maps."""
    schema = view.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=list(LABEL_TYPES), flat=True)
    lists = [
        f"{name}.{LABEL_LISTS[of_list]}" for name in schema if (of_list := _document_type(view, name)) in LABEL_LISTS
    ]
    return [
        name
        for name in _without_maps(schema)
        if not any(name == inside or name.startswith(f"{inside}.") for inside in lists)
    ]


def reference_fields(view: Collection) -> list[str]:
    """Names of the fields that references can come from; those that hold our own predictions come last."""
    schema = _label_fields(view)
    predictions = {config["output_field"] for config in runs.list_runs(view, runs.SEGMENTATION).values()}
    return sorted(schema, key=lambda name: name in predictions)


@dataclass(frozen=True)
class ReferenceCounts:
    """Labels of a field in a view that can become references.

    Attributes:
        kinds: number of labels of each kind that occurs.
        classes: their classes; of segmentations, those that the dataset names.
        shots: number of labels of every class; of segmentations, none.
        segmentations: whether the labels are segmentations, each of which may hold several classes.
    """

    kinds: dict[Kind, int]
    classes: tuple[str, ...]
    shots: dict[str, int] = field(default_factory=dict)
    segmentations: bool = False

    @property
    def labels(self) -> int:
        return sum(self.kinds.values())

    @property
    def weak(self) -> int:
        """Number of labels weaker than a mask."""
        return self.labels - self.kinds.get("mask", 0)

    @property
    def weak_words(self) -> str:
        """The weak labels in words: "3 boxes"."""
        return count_kinds({kind: count for kind, count in self.kinds.items() if kind != "mask"})

    @property
    def words(self) -> str:
        """All labels in words: "12 scribbles, 3 masks"."""
        if self.segmentations:
            return f"{self.labels} segmentation{'s' if self.labels != 1 else ''}"
        return count_kinds(self.kinds)


def count_kinds(kinds: Mapping[Kind, int]) -> str:
    """Kinds of references in words, the most frequent first: "12 scribbles, 1 mask"."""
    plurals = {"mask": "masks", "box": "boxes", "point": "points", "scribble": "scribbles"}
    by_count = sorted(kinds.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} {kind if count == 1 else plurals[kind]}" for kind, count in by_count if count)


def reference_counts(view: Collection, fields: Iterable[str] | None = None) -> dict[str, ReferenceCounts]:
    """Count the labels of fields, by default of all :func:`reference_fields`, in their order."""
    fields = reference_fields(view) if fields is None else list(fields)
    types = {name: view.get_field(name).document_type for name in fields}
    asked = [_aggregations(name, types[name]) for name in fields]
    results = iter(view.aggregate([aggregation for of_field in asked for aggregation in of_field]))
    return {name: _reference_counts(view, name, types[name], *islice(results, 3)) for name in fields}


def _has_mask() -> fo.ViewExpression:
    """Expression that is true for detections with a mask; a new one each time, since FiftyOne binds it to its use."""
    return (F("mask") != None) | (F("mask_path") != None)  # noqa: E711 (an expression of the database's)


def _aggregations(name: str, document_type: type) -> list[fo.Aggregation]:
    """Aggregations of a field: number of labels, of those with masks, and of those of each class."""
    in_list = document_type in LABEL_LISTS
    labels = f"{name}.{LABEL_LISTS[document_type]}" if in_list else name
    masks = fo.Count(f"{labels}.id")
    if document_type in (fo.Detections, fo.Detection):
        masks = _count_where(labels, in_list, _has_mask())
    elif document_type in (fo.Polylines, fo.Polyline):
        masks = _count_where(labels, in_list, F("closed") | F("filled"))
    classes = fo.Count(name) if document_type is fo.Segmentation else fo.CountValues(f"{labels}.label")
    return [fo.Count(f"{labels}.id"), masks, classes]


def _count_where(labels: str, in_list: bool, condition: fo.ViewExpression) -> fo.Aggregation:
    if in_list:
        return fo.Sum(F(labels).filter(condition).length())
    return fo.Sum(F(labels).apply(condition).if_else(1, 0))


def _reference_counts(
    view: Collection, name: str, document_type: type, labels: int, masks: int, classes: dict[str | None, int] | int
) -> ReferenceCounts:
    if isinstance(classes, int):
        named = {class_name for class_name in names_of_values(view, name).values() if class_name}
        return ReferenceCounts({"mask": labels} if labels else {}, tuple(sorted(named)), segmentations=True)
    kind: Kind = {fo.Polylines: "scribble", fo.Polyline: "scribble", fo.Keypoints: "point", fo.Keypoint: "point"}.get(
        document_type, "box"
    )
    if kind == "point":
        masks = 0
    kinds: dict[Kind, int] = {"mask": masks, kind: labels - masks}
    return ReferenceCounts(
        {kind: count for kind, count in kinds.items() if count},
        tuple(sorted(name for name in classes if name)),
        {name: count for name, count in classes.items() if name},
    )


def check_reference_field(view: Collection, name: str) -> None:
    """Raise unless ``name`` is a field that references can come from."""
    fields = reference_fields(view)
    types = ", ".join(document_type.__name__ for document_type in LABEL_TYPES)
    if not fields:
        raise InputError(f"a label field is needed, but this dataset has no field of the types {types}")
    if name not in fields:
        raise InputError(f"the label field {name!r} {_found(view, name)}; fields of labels are: {', '.join(fields)}")


def _found(view: Collection, name: str) -> str:
    field = view.get_field(name) if name else None
    if field is None:
        return "does not exist"
    return "is a map of predictions" if runs.is_map(field) else f"is of type {_type_name(field)}"


def check_key(view: Collection, key: str, kind: RunKind, *, overwrite: bool) -> None:
    """Raise unless a run of the kind may be stored under ``key``."""
    _check_name(key, kind.noun)
    if key not in view.list_runs():
        return
    if key not in runs.list_runs(view, kind):
        raise InputError(f"the name {key!r} is taken by a run of another kind: choose another name for the {kind.noun}")
    if not overwrite:
        raise InputError(f"the {kind.noun} {key!r} exists already: choose another name, or switch on overwrite")


def check_export_path(path: str | os.PathLike, key: str, *, overwrite: bool) -> Path:
    """Return the ``.safetensors`` file to export ``key`` to; in a folder, the file has the name of the key.

    Raises:
        InputError: if it exists and may not be replaced.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / key
    if path.suffix != ".safetensors":
        path = path.with_name(path.name + ".safetensors")
    if path.exists() and not overwrite:
        raise InputError(f"the file {path} exists: choose another, or switch on overwrite")
    return path


def check_output_field(view: Collection, name: str, kind: RunKind = runs.SEGMENTATION) -> None:
    """Raise unless ``name`` is free, or the field of an earlier run of the kind, which may be overwritten."""
    _check_name(name, "field")
    dataset = view._root_dataset  # a view may hide fields
    check_not_reserved(dataset, (name, runs.error_field(name)))
    runs.check_editable(dataset, (name, runs.error_field(name)))
    made_by_us = runs.list_runs(dataset, kind)
    for each, field_type in ((name, kind.label_type), (runs.error_field(name), "StringField")):
        existing = dataset.get_field(each)
        if existing is not None and (name not in made_by_us or _type_name(existing) != field_type):
            raise InputError(
                f"the field {each!r} exists, is of type {_type_name(existing)}, and was not made by "
                f"{kind.made_by}: it is never overwritten; choose another output field"
            )
    if name not in made_by_us and name in view.list_runs():
        raise InputError(f"the name {name!r} is taken by a run of another kind: choose another output field")


_RESERVED = ("self", "cls", "pk", "frames", "groups")
"""Names that FiftyOne's documents reserve, now or in future versions, in addition to those of their own members."""


def check_not_reserved(view: Collection, names: Iterable[str]) -> None:
    """Raise if a field of one of these names would hide a member of FiftyOne's samples, which breaks the dataset."""
    dataset = view._root_dataset
    for name in names:
        members = (fo.Sample, dataset._sample_doc_cls)
        if name in _RESERVED or (not dataset.has_sample_field(name) and any(hasattr(each, name) for each in members)):
            raise InputError(f"{name!r} cannot be the name of a field: FiftyOne's samples use it; choose another name")


def check_classes(wanted: Iterable[str], present: Iterable[str], where: str) -> None:
    """Raise if none of the wanted classes is present; ``where`` is the searched place, for the message."""
    present = sorted(present)
    if not present:
        raise InputError(f"{where} has no labels with a class")
    wanted = list(wanted)
    if not wanted:
        raise InputError(f"choose at least one class; {where} has: {', '.join(present)}")
    if not set(wanted) & set(present):
        raise InputError(f"{where} has no label of the classes {', '.join(wanted)}; it has: {', '.join(present)}")


def suggest_output_field(view: Collection, memory_key: str, kind: RunKind = runs.SEGMENTATION) -> str:
    """Return ``nts_<memory>`` or ``nts_<memory>_classes``, with a number appended where that name is taken."""
    made_by_us = runs.list_runs(view, kind)
    taken = {*view._root_dataset.get_field_schema(), *view.list_runs()}

    def suits(name: str) -> bool:
        made_by_this_memory = made_by_us.get(name, {}).get("memory_key") == memory_key
        return made_by_this_memory or not taken & {name, runs.error_field(name)}

    base = f"nts_{memory_key}" if kind is runs.SEGMENTATION else f"nts_{memory_key}_classes"
    return next(name for name in itertools.chain([base], _numbered(base)) if suits(name))


def suggest_key(view: Collection, base: str) -> str:
    """Return ``base``, or with a number appended where that name is taken by a run."""
    taken = view._root_dataset.list_runs()
    return next(name for name in itertools.chain([base], _numbered(base)) if name not in taken)


def _numbered(base: str) -> Iterator[str]:
    return (f"{base}_{number}" for number in itertools.count(2))


_LONGEST_NAME = 100
"""Maximal length of a name in characters. Names become parts of file names, which may have 255."""


def _check_name(name: str, kind: str) -> None:
    """Raise unless something of this kind may have the name."""
    article = "an" if kind[0] in "aeiou" else "a"
    if not _is_name(name):
        raise InputError(
            f"{name!r} cannot be the name of {article} {kind}: use letters, digits and underscores, and begin with a "
            "letter"
        )
    if len(name) > _LONGEST_NAME:
        raise InputError(
            f"{name[:20]!r}... cannot be the name of {article} {kind}: it has {len(name)} characters, and at most "
            f"{_LONGEST_NAME} are allowed"
        )


def _is_name(name: str) -> bool:
    return (
        isinstance(name, str)
        and name.isascii()
        and name.isidentifier()
        and not name.startswith("_")
        and not keyword.iskeyword(name)
    )


def _document_type(view: Collection, name: str) -> type | None:
    return getattr(view.get_field(name), "document_type", None)


def _type_name(field: fo.Field) -> str:
    document_type = getattr(field, "document_type", None)
    return (document_type or type(field)).__name__
