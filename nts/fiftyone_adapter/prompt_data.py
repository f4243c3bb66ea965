"""A labelled view as the data set of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

from ..datasets.coco_records import has_mask, read_annotated_image
from ..images import ImageError
from .importing import REFERENCES, view_to_coco
from .jobs import Job, Progress
from .runs import Collection

_PROGRESS_EVERY = 50  # images


def training_data(view: Collection, label_field: str, names: Sequence[str]) -> Job[tuple[dict, list[str]]]:
    """A view as a COCO data set for training, and the labels and images left out, in words."""
    left_out: list[str] = []
    labelled = view.exists(label_field)
    if unset := view.count() - labelled.count():
        left_out.append(f"{unset} images whose field {label_field!r} is not set: their objects are not known")
    data = view_to_coco(labelled, REFERENCES, label_field, names)
    left_out += data.unplaced
    dataset = data.ground_truth
    with_mask = [annotation for annotation in dataset["annotations"] if has_mask(annotation)]
    if without := [annotation for annotation in dataset["annotations"] if not has_mask(annotation)]:
        left_out.append(f"{len(without)} labels without a mask; the pixels in their boxes are ignored")
        _ignore_boxes(dataset, without)
    # An unreadable image would end the training hours later.
    unreadable, total = set(), len(dataset["images"])
    for number, image in enumerate(dataset["images"]):
        if number % _PROGRESS_EVERY == 0:
            yield Progress(number, total, f"{number}/{total} images checked")
        try:
            read_annotated_image(image)
        except ImageError as error:
            left_out.append(str(error))
            unreadable.add(image["id"])
    dataset["images"] = [image for image in dataset["images"] if image["id"] not in unreadable]
    dataset["annotations"] = [a for a in with_mask if a["image_id"] not in unreadable]
    return dataset, left_out


def _ignore_boxes(dataset: dict, annotations: Sequence[dict]) -> None:
    """Ignore the pixels in the boxes of objects without masks: their exact place is not known."""
    images = {image["id"]: image for image in dataset["images"]}
    ignored: dict[str, np.ndarray] = {}
    for annotation in annotations:
        image = images[annotation["image_id"]]
        mask = ignored.setdefault(image["id"], np.zeros((image["height"], image["width"]), np.uint8, order="F"))
        x, y, width, height = annotation["bbox"]
        mask[max(0, math.floor(y)) : math.ceil(y + height), max(0, math.floor(x)) : math.ceil(x + width)] = 1
    for image_id, mask in ignored.items():
        rle = coco_mask.encode(mask)
        images[image_id]["ignore"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
