"""Photographs of the user: draw references, segment the other images, evaluate, and draw pictures.

The source is a folder of images with a COCO file, a folder that FiftyOne has exported, or a stored FiftyOne dataset.
Results go to a new dataset; a stored dataset is copied and not changed.
"""

from __future__ import annotations

import json
import time
from itertools import chain, count
from pathlib import Path

import fiftyone as fo
import numpy as np

from nts import fiftyone_adapter as nts
from nts.pictures import class_colours, contact_sheet
from nts.recommendation import THRESHOLD

from .showing import Bar, draw_sample, print_table

DATASET = "reference-segmentation-own"
FIELD, MEMORY = "ground_truth", "own"
REFERENCE, TARGET = "drawn as reference", "drawn as target"
TARGETS = 40
PICTURES = 6


def run(
    source: str, *, labels: Path | None, field: str | None, shots: int, targets: int, models: dict[str, str], out: Path
) -> fo.Dataset:
    """Run all steps, and print a report; returns the dataset.

    Args:
        source: folder, or name of a stored dataset.
        labels: the COCO file, if there are several.
        field: with the labels, for a FiftyOne dataset.
        shots: smallest number of references of a class.
        targets: largest number of images to segment.
        models: names of the ``encoder`` and the ``segmenter``.
        out: folder of the picture.
    """
    dataset, field = load_dataset(source, labels, field)
    references, rest = draw_references(dataset, field, shots)
    if not rest:
        raise SystemExit(f"all {len(references)} images are needed as references: lower --shots, or add images")
    dataset.select(references).tag_samples(REFERENCE)
    dataset.select(rest[:targets]).tag_samples(TARGET)
    view = dataset.match_tags(TARGET)
    predictions, evaluation = _free_name(dataset, "found"), _free_name(dataset, "nap")
    began = time.perf_counter()
    with Bar("Reference memory") as bar:
        built = nts.build_reference_memory(dataset.match_tags(REFERENCE), field, MEMORY, progress=bar.update, **models)
    print(f"  {sum(built.shots.values())} references of {len(built.shots)} classes, {len(built.skipped)} skipped")
    for label in built.skipped[:5]:
        print(f"  skipped: {label.reason}")
    with Bar("Segmentation") as bar:
        found = nts.auto_segment_view(view, MEMORY, predictions, progress=bar.update, segmenter=models["segmenter"])
    print(f"  {found.segmented} images segmented in {time.perf_counter() - began:.0f} s, {len(found.failed)} failed")
    for reason in list(found.failed.values())[:5]:
        print(f"  failed: {reason}")
    print(f"  {found.shown.words}")
    with Bar("Evaluation") as bar:
        result = nts.evaluate_nap(view, predictions, field, eval_key=evaluation, progress=bar.update).result
    print_table(
        f"nAP on {result.images} images, {len(result.novel_classes)} classes, {shots} references per class",
        {"default": result},
    )
    print(f"Picture: {draw_picture(dataset, field, predictions, out)}")
    return dataset


def load_dataset(source: str, labels: Path | None, field: str | None) -> tuple[fo.Dataset, str]:
    """Import or copy the source, and find the field of its labels.

    Raises:
        SystemExit: if the source cannot be used, with the reason.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source == DATASET or not fo.dataset_exists(source):
            raise SystemExit(f"--photos: {source!r} is neither a folder nor a stored FiftyOne dataset of yours")
        return _copy(fo.load_dataset(source), field)
    if (folder / "samples.json").is_file():
        exported = fo.Dataset.from_dir(str(folder), fo.types.FiftyOneDataset, progress=False)
        try:
            return _copy(exported, field)
        finally:
            exported.delete()
    labels, content = _find_coco(folder, labels)
    images = _images_folder(labels, content, folder)
    has_masks = any(annotation.get("segmentation") for annotation in content["annotations"])
    if not content["annotations"]:
        raise SystemExit(f"{labels} has no annotations")
    _delete_earlier()
    dataset = fo.Dataset(DATASET, persistent=True)
    dataset.add_dir(
        dataset_type=fo.types.COCODetectionDataset,
        data_path=str(images),
        labels_path=str(labels),
        label_types=["segmentations" if has_masks else "detections"],
        label_field=FIELD,
        progress=False,
    )
    return dataset, FIELD


def _delete_earlier() -> None:
    """Delete the dataset of an earlier run; called once the source is known to be usable."""
    if fo.dataset_exists(DATASET):
        fo.delete_dataset(DATASET)


def _copy(stored: fo.Dataset, field: str | None) -> tuple[fo.Dataset, str]:
    """Copy images and labels of a dataset, without its other fields and runs."""
    field = field or _field_with_masks(stored)
    if field not in stored.get_field_schema():
        raise SystemExit(f"--field: {stored.name!r} has no field {field!r}")
    _delete_earlier()
    return stored.select_fields(field).clone(DATASET, persistent=True), field


def _find_coco(folder: Path, labels: Path | None) -> tuple[Path, dict]:
    """The COCO file that was named, or else the only one in a folder or its ``annotations``, and its content."""
    if labels is not None:
        content = _read_coco(labels)
        if content is None:
            raise SystemExit(f"--labels: {labels} is no COCO file")
        return labels, content
    files = sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")])
    found = [(file, content) for file in files if (content := _read_coco(file)) is not None]
    if not found:
        raise SystemExit(f"{folder} has no COCO file")
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file, _ in found)
        raise SystemExit(f"{folder} has several COCO files ({names}): name one with --labels")
    return found[0]


def _read_coco(file: Path) -> dict | None:
    """Content of a COCO file; ``None`` if it is missing or something else."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    is_coco = isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()
    return content if is_coco else None


def _images_folder(labels: Path, content: dict, folder: Path) -> Path:
    """Folder of the images of a COCO file."""
    names = [image["file_name"] for image in content["images"]]
    if not names:
        raise SystemExit(f"{labels} names no images")
    for candidate in (folder, folder / "images", folder / "data", labels.parent, *sorted(folder.glob("*/"))):
        if (candidate / names[0]).is_file():
            return candidate
    raise SystemExit(f"the images of {labels} were not found in {folder}")


def _field_with_masks(dataset: fo.Dataset) -> str:
    """First field of type Detections with a mask."""
    fields = dataset.get_field_schema(embedded_doc_type=fo.Detections)
    for name in fields:
        labels = dataset.filter_labels(name, fo.ViewField("mask").exists() | fo.ViewField("mask_path").exists())
        if labels.count(f"{name}.detections"):
            return name
    raise SystemExit(f"no field of type Detections has masks (there are {', '.join(fields) or 'none'}): name --field")


def _free_name(dataset: fo.Dataset, name: str) -> str:
    """The name, with a number if a field or an attribute of labels has it."""
    taken = {part for path in dataset.get_field_schema(flat=True) for part in path.split(".")}
    return next(free for free in chain([name], (f"{name}_{k}" for k in count(2))) if free not in taken)


def draw_references(dataset: fo.Dataset, field: str, shots: int) -> tuple[list[str], list[str]]:
    """Ids of few samples that show every class often enough, and of all others with a label, in random order."""
    ids, labels = dataset.values(["id", f"{field}.detections.label"])
    shown = {sample_id: names for sample_id, names in zip(ids, labels, strict=True) if names}
    missing = dict.fromkeys({name for names in shown.values() for name in names}, shots)
    order = [list(shown)[i] for i in np.random.default_rng(0).permutation(len(shown))]
    references = []
    for sample_id in order:
        if any(missing[name] > 0 for name in set(shown[sample_id])):
            references.append(sample_id)
            for name in shown[sample_id]:
                missing[name] -= 1
    return references, [sample_id for sample_id in order if sample_id not in set(references)]


def draw_picture(dataset: fo.Dataset, field: str, predictions: str, folder: Path) -> Path:
    """Draw targets as image, ground truth and predictions at the recommended threshold."""
    colours = class_colours(nts.load_memory(dataset, MEMORY).classes)
    rows = [
        [
            draw_sample(sample, None, colours),
            draw_sample(sample, field, colours),
            draw_sample(sample, predictions, colours, minimum_confidence=THRESHOLD),
        ]
        for sample in dataset.match_tags(TARGET).limit(PICTURES)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own_photos.png"
    headings = ["image", "ground truth", "found, recommended threshold"]
    contact_sheet(rows, headings, colours, "Found from a few references").save(path)
    return path
