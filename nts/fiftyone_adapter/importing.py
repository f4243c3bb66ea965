"""Data sets of the evaluation protocols in FiftyOne, and FiftyOne's views as the data of a protocol.

The engine reads a protocol's data set itself, since FiftyOne does not preserve the order of annotations that the
published draw of references depends on. Here the same files go through FiftyOne's own importers, for the App and the
operators; both ways give the same classes, objects and boxes.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import fiftyone as fo
from bson import ObjectId
from fiftyone import ViewField as F

from ..datasets.layouts import VOC_REFERENCES, VOC_TARGETS, load, voc_list, voc_root
from ..datasets.protocol_data import ProtocolData, protocol_data
from ..datasets.protocols import Protocol, get_protocol
from ..datasets.sampling import Candidate, candidate_key, stratified_sample
from ..metrics.crowds import is_crowd
from ..references import InvalidReference
from ..utils.names import as_names
from . import checks
from .checks import InputError
from .coco import CocoData
from .jobs import first_few
from .labels import box_fractions
from .runs import Collection

GROUND_TRUTH = "ground_truth"
REFERENCES, TARGETS = "references", "targets"
"""Tags and saved views of an imported data set."""


def import_layout(
    protocol_name: str, data: Path | str, name: str | None = None, *, overwrite: bool = False
) -> fo.Dataset:
    """Import a protocol's data set with FiftyOne's importers.

    Args:
        protocol_name: a name of :data:`nts.datasets.protocols.PROTOCOLS`.
        data: folder of the data set, see :data:`nts.datasets.layouts.LAYOUTS`.
        name: of the dataset.
        overwrite: replace a dataset of that name.

    Returns:
        a persistent dataset with the annotations of all classes in ``ground_truth``, tags and saved views
        ``references`` and ``targets``, and in ``info`` the protocol and the classes that it evaluates. If several
        shot files hold references, the attribute ``shots`` of a label names its own. Crowds, and VOC's difficult
        objects, have ``iscrowd`` set.

    Raises:
        LayoutError: if the files do not match the layout.
    """
    protocol = get_protocol(protocol_name)
    loaded = load(protocol, data)
    dataset = fo.Dataset(name, overwrite=overwrite)
    try:
        _fill(dataset, protocol, Path(data).expanduser().absolute(), loaded)
    except BaseException:  # an interrupted import would keep the name, and look whole
        dataset.delete()
        raise
    return dataset


def view_of(name: str) -> Collection:
    """A dataset, or a view saved in one, by ``"dataset"`` or ``"dataset/view"``; both names may hold slashes.

    Raises:
        InputError: if there is none.
    """
    if fo.dataset_exists(name):
        return fo.load_dataset(name)
    for position in (index for index, letter in enumerate(name) if letter == "/"):
        dataset, view = name[:position], name[position + 1 :]
        if fo.dataset_exists(dataset) and fo.load_dataset(dataset).has_saved_view(view):
            return fo.load_dataset(dataset).load_saved_view(view)
    raise InputError(f"there is no dataset {name!r}, nor a dataset with a saved view as in '<dataset>/<view>'")


def custom_data(
    references: Collection,
    targets: Collection,
    label_field: str,
    *,
    classes: Sequence[str] | str | None = None,
    crowd: str | None = "iscrowd",
) -> ProtocolData:
    """Two views as the data of the protocol ``custom``.

    Args:
        references: to draw references from.
        targets: to evaluate.
        label_field: a field of type Detections in both.
        classes: to evaluate; default all that ``references`` has.
        crowd: attribute that marks crowds; ``None``: no label is a crowd.

    Raises:
        InputError: if views, field or classes cannot be used, or no image can be read.
    """
    present = []
    for view in (references, targets):
        checks.check_view(view)
        checks.check_detections_field(view, label_field, "label field")
        present.append({name for name in view.distinct(f"{label_field}.detections.label") if name})
    where = f"the field {label_field!r} of the references"
    wanted = sorted(present[0] if classes is None else set(as_names(classes) or ()))
    checks.check_classes(wanted, present[0], where)
    if missing := sorted(set(wanted) - present[0]):
        raise InputError(f"{where} has no label of the classes {', '.join(missing)}")
    names = sorted(present[0] | present[1])
    notes: list[str] = []
    datasets = []
    for view, role in ((references, REFERENCES), (targets, TARGETS)):
        data = view_to_coco(view, role, label_field, names, crowd=crowd)
        if not data.images:
            raise InputError(f"none of the images of the {role} can be read: {first_few(data.unplaced)}")
        notes += _notes(data, role, label_field)
        datasets.append(data.ground_truth)
    return protocol_data(*datasets, wanted, notes)


def sample_references_view(
    view: Collection,
    label_field: str,
    shots: int,
    seed: int,
    classes: Iterable[str] | str | None = None,
    *,
    crowd: str | None = "iscrowd",
) -> fo.DatasetView:
    """Sample labels of each class, spread over images and sizes; see :func:`stratified_sample`.

    The same labels are drawn on every machine and after every import: names of files, classes and boxes decide, not the
    ids of a database. A class with fewer labels gives all of them;
    ``count_values("<label_field>.detections.label")`` counts the result. Labels with an unusable box, and crowds, are
    not drawn.

    Args:
        view: to draw from.
        label_field: a field of type Detections.
        shots: labels per class.
        seed: of the draw.
        classes: to draw for; default all.
        crowd: attribute that marks crowds; ``None``: no label is a crowd.

    Raises:
        InputError: if view, field or classes cannot be used.
        ValueError: if ``shots`` is less than 1.
    """
    checks.check_view(view)
    checks.check_detections_field(view, label_field, "label field")
    labels = f"{label_field}.detections"
    fields = ["id", "filepath", f"{labels}.id", f"{labels}.label", f"{labels}.bounding_box"]
    columns = view.values(fields)
    # An expression, since the dataset need not declare the attribute.
    crowds = view.values(F(labels).map(F(crowd))) if crowd else [None] * len(columns[0])

    ids: dict[str, tuple[str, str]] = {}
    seen = set[tuple[str, str]]()
    candidates = []
    for sample_id, filepath, *of_sample, marks in zip(*columns, crowds, strict=True):
        of_sample = [values or [] for values in of_sample]
        marks = marks or [None] * len(of_sample[0])
        for label_id, name, box, in_crowd in zip(*of_sample, marks, strict=True):
            if not name or is_crowd(in_crowd) or not _is_usable(box) or (sample_id, label_id) in seen:
                continue
            seen.add((sample_id, label_id))
            key = candidate_key(Path(filepath).name, name, box, ids)
            ids[key] = sample_id, label_id
            candidates.append(Candidate(key, name, filepath, box[2] * box[3]))
    present = {candidate.class_name for candidate in candidates}
    wanted = present if classes is None else set(as_names(classes) or ())
    checks.check_classes(wanted, present, f"the field {label_field!r} of this view")
    draw = stratified_sample((c for c in candidates if c.class_name in wanted), shots, seed)
    chosen = [ids[c.key] for of_class in draw.chosen.values() for c in of_class]
    return _select_pairs(view, label_field, chosen, columns[0], columns[2])


def _select_pairs(
    view: Collection, label_field: str, chosen: Sequence[tuple[str, str]], sample_ids: Sequence, label_ids: Sequence
) -> fo.DatasetView:
    """Select labels by the ids of sample and label: labels that were copied between samples share an id.

    Args:
        view: to select from.
        label_field: a field of type Detections.
        chosen: ``(sample id, label id)``.
        sample_ids: of the view.
        label_ids: of each of its samples.
    """
    selected = view.select_labels(ids=list({label_id for _, label_id in chosen}), fields=label_field)
    pairs = {(sample, label) for sample, labels in zip(sample_ids, label_ids, strict=True) for label in labels or []}
    samples_with = Counter(label for _, label in pairs)
    shared = sorted({label for _, label in chosen if samples_with[label] > 1})
    if not shared:
        return selected
    wanted = [
        (F("_id") == ObjectId(label)) & (F("$_id") == ObjectId(sample))
        for sample, label in chosen
        if samples_with[label] > 1
    ]
    return selected.filter_labels(label_field, ~F("_id").is_in([ObjectId(i) for i in shared]) | F.any(wanted))


def _is_usable(box: list | None) -> bool:
    try:
        box_fractions(fo.Detection(bounding_box=box))
    except InvalidReference:
        return False
    return True


def _fill(dataset: fo.Dataset, protocol: Protocol, data: Path, loaded: ProtocolData) -> None:
    """Add samples, tags, saved views and ``info`` for :func:`import_layout`."""
    if protocol.layout == "voc" and protocol.task == "instances":
        _add_voc(dataset, voc_root(data), {REFERENCES: VOC_REFERENCES, TARGETS: VOC_TARGETS})
    elif loaded.references is loaded.targets:
        _add_coco(dataset, loaded.targets, [REFERENCES, TARGETS])
    else:
        _add_coco(dataset, loaded.references, [REFERENCES])
        _add_coco(dataset, loaded.targets, [TARGETS])
    for tag in (REFERENCES, TARGETS):
        dataset.save_view(tag, dataset.match_tags(tag))
    names = {category["id"]: category["name"] for category in loaded.targets["categories"]}
    dataset.default_classes = list(names.values())
    dataset.info = {
        "protocol": protocol.name,
        "classes": [names[class_id] for class_id in loaded.class_ids],
        "base_classes": [names[class_id] for class_id in loaded.base_class_ids],
        "notes": list(loaded.notes),
    }
    dataset.persistent = True
    dataset.save()


def _add_coco(dataset: fo.Dataset, coco: dict, tags: list[str]) -> None:
    """Add a COCO data set through FiftyOne's importer, with the paths that the engine found for its images."""
    images = [{**image, "file_name": image["path"]} for image in coco["images"]]
    kind = "segmentations" if any(a.get("segmentation") for a in coco["annotations"]) else "detections"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.json"
        path.write_text(json.dumps({**coco, "images": images}))
        dataset.add_dir(
            dataset_type=fo.types.COCODetectionDataset,
            data_path=folder,
            labels_path=str(path),
            label_types=kind,
            include_id=True,
            label_field={kind: GROUND_TRUTH, "coco_id": "coco_id"},
            tags=tags,
        )


def _add_voc(dataset: fo.Dataset, root: Path, lists: dict[str, Iterable[tuple[str, str]]]) -> None:
    """Add the images of some of PASCAL VOC's lists, tagged.

    FiftyOne's importer takes all images of a year, and VOC's pixels, which count from 1, as if they counted from 0.
    """
    tags: dict[str, str] = {}
    for tag, splits in lists.items():
        for year, split in splits:
            images = root / year / "JPEGImages"
            tags |= {str(images / f"{name}.jpg"): tag for name in voc_list(root / year, "Main", split)}
    for year in sorted({year for splits in lists.values() for year, _ in splits}):
        dataset.add_dir(
            dataset_type=fo.types.VOCDetectionDataset,
            data_path=str(root / year / "JPEGImages"),
            labels_path=str(root / year / "Annotations"),
            label_field=GROUND_TRUTH,
        )
    dataset.delete_samples([i for i, path in zip(*dataset.values(["id", "filepath"]), strict=True) if path not in tags])
    for sample in dataset.iter_samples(autosave=True):
        sample.tags = [tags[sample.filepath]]
        width, height = sample.metadata.width, sample.metadata.height
        for label in sample[GROUND_TRUTH].detections:
            x, y, w, h = label.bounding_box
            label.bounding_box = [x - 1 / width, y - 1 / height, w, h]
            label["iscrowd"] = int(bool(label.get_attribute_value("difficult", 0)))


def view_to_coco(
    view: Collection, role: str, label_field: str, names: Sequence[str], *, crowd: str | None = "iscrowd"
) -> CocoData:
    """Read a view as a COCO data set. References that are boxes have no ``segmentation``; targets have the filled box.

    Args:
        view: of images.
        role: :data:`REFERENCES` or :data:`TARGETS`.
        label_field: a field of type Detections.
        names: of the classes to take; category ids count from 1 in their order.
        crowd: attribute that marks crowds; ``None``: no label is a crowd.
    """
    data, seen = CocoData(names), set[str]()
    for sample in view.select_fields(label_field).iter_samples():
        if sample.id in seen:  # a view can hold a sample several times
            continue
        seen.add(sample.id)
        size = data.add_image(sample, file_name=Path(sample.filepath).name, path=sample.filepath)
        if size is None:
            continue
        for label, shape in data.shapes(sample, label_field, data.category_ids, size):
            annotation = data.add_annotation(label, shape, crowd)
            if role == REFERENCES and not label.has_mask:
                del annotation["segmentation"]
    return data


def _notes(data: CocoData, role: str, label_field: str) -> list[str]:
    notes = []
    if data.without_mask and role == TARGETS:
        notes.append(
            f"{data.without_mask[label_field]} objects of the targets have no mask: their boxes stand in for it, so "
            "the AP of masks means little"
        )
    if data.unplaced:
        notes.append(f"{len(data.unplaced)} labels or images of the {role} were left out: {first_few(data.unplaced)}")
    return notes
