"""Data set of a protocol: references and targets as COCO dictionaries, checked against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..utils.files import same_files
from ..utils.names import as_names
from .coco_records import has_mask
from .repair import LayoutError, check_structure, complete, unify_ids


@dataclass(frozen=True)
class ProtocolData:
    """Data set of a protocol.

    Attributes:
        references: COCO dataset to draw references from, annotations in the order of the file. Every image has an
            absolute ``path`` and a ``file_name``. Annotations of shot files have their number of ``shots``.
        targets: COCO dataset to evaluate, with the annotations of all classes; those of classes that are not evaluated
            are distractors. An image may have ``ignore``, the RLE of pixels that are neither class nor background.
        class_ids: category ids of the evaluated classes, ascending.
        base_class_ids: category ids of the other classes, ascending.
        box_references: whether some references have no mask (no or an empty ``segmentation``), so that it must be
            predicted from the box.
        notes: caveats about this copy of the data set, for the report.
        edition: year of COCO; empty for other data sets.
    """

    references: dict
    targets: dict
    class_ids: tuple[int, ...]
    base_class_ids: tuple[int, ...]
    box_references: bool
    notes: tuple[str, ...] = ()
    edition: str = ""


def protocol_data(
    references: dict,
    targets: dict,
    novel_classes: str | Sequence[str] | None,
    notes: Sequence[str] = (),
    *,
    strict: bool = False,
    crowds_as_objects: bool = False,
) -> ProtocolData:
    """Combine two COCO datasets: check their classes against each other, and repair their annotations.

    Args:
        references: to draw references from. Both datasets are changed in place.
        targets: to evaluate.
        novel_classes: names of the classes to evaluate; where ``None``, all classes of ``targets`` with a reference, an
            annotation that is no crowd.
        notes: see :class:`ProtocolData`.
        strict: for published data sets, see :func:`nts.datasets.repair.complete`. Otherwise categories without any
            annotation, such as the root category of many exporters, are left out, and notes list the classes that
            cannot be evaluated.
        crowds_as_objects: treat crowds as ordinary objects.

    Raises:
        LayoutError: if a class to evaluate is missing, the datasets disagree about ids or names of classes, or one is
            no COCO dataset.
    """
    wanted = as_names(novel_classes)
    roles = {"targets": targets} if references is targets else {"references": references, "targets": targets}
    told = list(notes)
    for role, dataset in roles.items():
        check_structure(dataset, f"the COCO data set of the {role}")
        told += unify_ids(dataset, role)
    unused = [] if strict else _drop_unused_categories(list(roles.values()), set(wanted or ()))
    names = _names(targets, "the targets")
    reference_names = _names(references, "the references")
    for class_id in names.keys() & reference_names.keys():
        if names[class_id] != reference_names[class_id]:
            raise LayoutError(
                f"category {class_id} is {names[class_id]!r} in the targets, but {reference_names[class_id]!r} in the "
                "references: the two files do not belong together"
            )
    ids = {name: class_id for class_id, name in names.items()}
    if missing := [name for name in wanted or () if name not in ids]:
        raise LayoutError(f"the data set has no class {', '.join(map(repr, missing))}; it has {', '.join(ids)}")
    reference_ids = {name: class_id for class_id, name in reference_names.items()}
    for name in ids if wanted is None else wanted:
        if reference_ids.get(name, ids[name]) != ids[name]:
            raise LayoutError(
                f"the class {name!r} is category {ids[name]} in the targets, but {reference_ids[name]} in the "
                "references: give it one id in both files"
            )
    if missing := [name for name in wanted or () if name not in reference_ids]:
        raise LayoutError(f"the references have no class {', '.join(map(repr, missing))}")
    for role, dataset in roles.items():
        told += complete(dataset, role, strict=strict, crowds_as_objects=crowds_as_objects)
    if wanted is None:
        with_reference = {a["category_id"] for a in references["annotations"] if not a["iscrowd"]}
        wanted = [name for name, class_id in ids.items() if class_id in with_reference]
        if not wanted:
            raise LayoutError(" ".join([_no_reference(references), *told]))
        told += _notes_of_others(names, reference_names, {ids[name] for name in wanted}, unused, targets)
    novel = {ids[name] for name in wanted}
    if not strict:
        told += _notes_of_objects(names, novel, targets)
    return ProtocolData(
        references=references,
        targets=targets,
        class_ids=tuple(sorted(novel)),
        base_class_ids=tuple(sorted(set(names) - novel)),
        box_references=any(a["category_id"] in novel and not has_mask(a) for a in references["annotations"]),
        notes=tuple(told),
    )


_CROWDS = (
    "Set iscrowd to 0 where it marks single objects (CVAT writes 1 for every mask), or run COCO files with "
    "--crowds-as-objects."
)


def _drop_unused_categories(datasets: Sequence[dict], wanted: set[str]) -> list[str]:
    """Drop categories that no dataset has annotations of and that are not wanted, and return their names.

    A class may have annotations in one of the datasets only. The root category may share its name with a class.
    """
    used = [{a["category_id"] for a in d["annotations"] if _is_labelled(a)} for d in datasets]
    needed = set(wanted)
    for dataset, here in zip(datasets, used, strict=True):
        needed |= {category["name"] for category in dataset["categories"] if category["id"] in here}
    anywhere = set().union(*used)
    dropped: dict[str, None] = {}
    for dataset, here in zip(datasets, used, strict=True):
        kept = []
        for category in dataset["categories"]:
            of_name = [c for c in dataset["categories"] if c["name"] == category["name"]]
            twin = any(c is not category and c["id"] in anywhere for c in of_name)
            if category["id"] in here or (category["name"] in needed and not twin):
                kept.append(category)
            else:
                dropped[category["name"]] = None
        dataset["categories"] = kept
    return list(dropped)


def _is_labelled(annotation: Any) -> bool:
    return isinstance(annotation, dict) and isinstance(annotation.get("category_id"), int)


def _no_reference(references: dict) -> str:
    crowds = sum(a["iscrowd"] for a in references["annotations"])
    if crowds and crowds == len(references["annotations"]):
        return f"all {crowds} annotations of the references are crowds, which cannot be references. {_CROWDS}"
    return (
        "no class of the targets has a usable reference: there are no annotations of it in the references, or they "
        "were left out."
    )


def _notes_of_others(
    names: Mapping[int, str],
    reference_names: Mapping[int, str],
    evaluated: set[int],
    unused: Sequence[str],
    targets: dict,
) -> list[str]:
    """Notes on classes that are not evaluated for lack of references or targets."""
    counts = Counter(annotation["category_id"] for annotation in targets["annotations"])
    distractors = [f"{name} ({counts[k]})" for k, name in names.items() if k not in evaluated and counts[k]]
    without = [name for k, name in names.items() if k not in evaluated and not counts[k]]
    without += [name for name in unused if name not in names.values()]
    beyond = [name for k, name in reference_names.items() if k not in names]
    notes = []
    if without:
        notes.append(f"Categories without a reference, not evaluated: {', '.join(without)}.")
    if distractors:
        notes.append(
            f"Categories without a reference, not evaluated, whose objects are distractors: {', '.join(distractors)}."
        )
    if beyond:
        notes.append(f"Categories of the references that the targets do not have, not evaluated: {', '.join(beyond)}.")
    return notes


def _notes_of_objects(names: Mapping[int, str], novel: set[int], targets: dict) -> list[str]:
    """Notes on evaluated classes without AP, and on objects without masks."""
    of_novel = [a for a in targets["annotations"] if a["category_id"] in novel]
    everything = Counter(a["category_id"] for a in of_novel)
    crowds = Counter(a["category_id"] for a in of_novel if a["iscrowd"])
    notes = []
    if only := [f"{names[k]} ({crowds[k]})" for k in sorted(novel) if everything[k] and crowds[k] == everything[k]]:
        notes.append(
            f"{sum(crowds.values())} of the {len(of_novel)} objects of the targets are crowds (iscrowd), which count "
            f"for nothing. Classes of which every object is one, and which have no AP: {', '.join(only)}. {_CROWDS}"
        )
    if absent := [names[k] for k in sorted(novel) if not everything[k]]:
        notes.append(f"Classes without an object in the targets, which have no AP: {', '.join(absent)}.")
    if boxes := sum(not has_mask(a) for a in of_novel):
        notes.append(
            f"{boxes} objects of the targets have no mask: their boxes stand in for it, so the AP of masks means "
            "little."
        )
    return notes


def _names(dataset: dict, where: str) -> dict[int, str]:
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    if len(set(names.values())) < len(dataset["categories"]):
        raise LayoutError(f"{where} have two categories of one name or id: {list(_repeated(dataset['categories']))}")
    return dict(sorted(names.items()))


def _repeated(categories: Iterable[dict]) -> Iterator[str]:
    seen: set[int | str] = set()
    for category in categories:
        if category["id"] in seen or category["name"] in seen:
            yield category["name"]
        seen |= {category["id"], category["name"]}


def same_images(records: Iterable[Mapping[str, Any]], others: Iterable[Mapping[str, Any]]) -> set[int | str]:
    """Ids of the images whose files have the same content as those of other images, whatever their names.

    Unreadable files have no content in common with any.
    """
    records = list(records)
    same = same_files([record["path"] for record in records], {record["path"] for record in others})
    return {records[index]["id"] for index in same}
