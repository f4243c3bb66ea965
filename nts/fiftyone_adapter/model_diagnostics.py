"""Errors of the two models behind a segmentation: both are run again, beside the ground truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from ..evaluation.diagnostics import ModelDiagnostics, ModelSummary, nearest_classes, proposal_hits
from ..images import ImageError, read_image
from ..models import load_encoder, load_segmenter
from ..pipeline import encode_target
from ..presets import get_preset
from . import runs
from .checks import InputError
from .coco import CocoData
from .jobs import Job, Progress
from .runs import Collection


def check_models(view: Collection, predictions_field: str) -> None:
    """Raise InputError unless the models that made the predictions, and their memory, can be run again."""
    made = runs.list_runs(view, runs.SEGMENTATION).get(predictions_field)
    if made is None:
        raise InputError(f"{predictions_field!r} was not made by auto-segment view: its models cannot be diagnosed")
    bank = runs.load_memory(view, made["memory_key"])
    if runs.fingerprint(bank) != made["memory_fingerprint"]:
        raise InputError(
            f"the memory {made['memory_key']!r} has changed since it made {predictions_field!r}: segment again, or do "
            "not diagnose the models"
        )


def model_diagnostics_job(view: Collection, predictions_field: str, data: CocoData) -> Job[tuple[ModelSummary, int]]:
    """Measure how well the proposals cover the objects, and how often the encoder finds the class of a true mask.

    Args:
        view: the evaluated samples.
        predictions_field: a segmentation that passes :func:`check_models`.
        data: its ground truth.

    Returns:
        The figures, and the number of images left out: unreadable, or of another size than their ground truth.
    """
    made: dict[str, Any] = runs.config(view, predictions_field, runs.SEGMENTATION)
    bank, preset = runs.load_memory(view, made["memory_key"]), get_preset(made["preset"])
    yield Progress(0, data.images, f"loading the encoder {made['encoder']} and the segmenter {made['segmenter']}")
    precision = preset.precision_for("auto")
    encoder = load_encoder(made["encoder"], precision=precision)
    segmenter = load_segmenter(made["segmenter"], precision=precision)
    prototypes = bank.prototypes().to(encoder.device)
    label_of = {data.category_ids[name]: k for k, name in enumerate(bank.classes) if name in data.category_ids}
    paths = dict(zip(*view.values(["id", "filepath"]), strict=True))
    objects: dict[str, list[dict[str, Any]]] = {image["id"]: [] for image in data.ground_truth["images"]}
    for annotation in data.ground_truth["annotations"]:
        if not annotation["iscrowd"]:
            objects[annotation["image_id"]].append(annotation)

    gathered, left_out = ModelDiagnostics(bank.classes), 0
    for number, image in enumerate(data.ground_truth["images"]):
        yield Progress(number, data.images, f"{number}/{data.images} images shown to the models")
        here = objects[image["id"]]
        if not here:
            continue
        try:
            pixels = read_image(paths[image["id"]], exif=preset.exif)
        except ImageError:
            left_out += 1
            continue
        if pixels.shape[:2] != (image["height"], image["width"]):
            left_out += 1
            continue
        masks = np.stack([coco_mask.decode(annotation["segmentation"]) for annotation in here]).astype(bool)
        with torch.inference_mode():
            target = encode_target(pixels, encoder, segmenter, preset, prototypes=prototypes)
            true_masks = torch.from_numpy(masks)
            hits = proposal_hits(true_masks, target.proposals.mask_logits, target.image_size)
            nearest = nearest_classes(target.tokens, true_masks, prototypes)
        gathered.add_proposals([annotation["area"] for annotation in here], hits)
        gathered.add_labels([label_of.get(annotation["category_id"], -1) for annotation in here], nearest)
    return gathered.summary(), left_out
