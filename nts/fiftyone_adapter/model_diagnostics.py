"""Share of the two models in the errors of a segmentation: both run again, next to the ground truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from ..encoder import Encoder
from ..evaluation.model_diagnostics import ModelDiagnostics, ModelSummary, drawn_hits, nearest_classes, proposal_hits
from ..images import ImageError, read_image
from ..models import load_encoder, load_segmenter
from ..pipeline import ReferenceSegmenter, prepare_image
from ..presets import PRESETS, Preset, preset_fingerprint
from ..segmenter import Segmenter
from ..targets import EncodedTarget
from ..tiling import OVERLAP, Tiling
from ..utils.devices import resolve_device
from . import runs
from .checks import InputError
from .coco import CocoData
from .jobs import Job, Progress
from .runs import Collection


def check_models(view: Collection, predictions_field: str) -> None:
    """Raise InputError unless the models can run again as they did for the predictions: memory, preset and device."""
    made = runs.list_runs(view, runs.SEGMENTATION).get(predictions_field)
    if made is None:
        raise InputError(f"{predictions_field!r} was not made by auto-segment view: its models cannot be diagnosed")
    bank = runs.load_memory(view, made["memory_key"])
    if runs.fingerprint(bank) != made["memory_fingerprint"]:
        raise InputError(
            f"the memory {made['memory_key']!r} has changed since it made {predictions_field!r}: segment again, or do "
            "not diagnose the models"
        )
    _preset(made)
    try:
        resolve_device(made.get("device", "auto"))
    except ValueError as error:
        raise InputError(f"the models of {predictions_field!r} cannot run here as they did: {error}") from error


def model_diagnostics_job(view: Collection, predictions_field: str, data: CocoData) -> Job[tuple[ModelSummary, int]]:
    """Measure the recall of the proposals, and how often the encoder finds the class of a true mask.

    The models run with the settings of the segmentation: device, precision, preset, tiles, and guidance by the
    prototypes. The encoder is asked about true masks in the whole image, also where the proposals come from tiles.

    Args:
        view: the evaluated samples.
        predictions_field: a segmentation that passes :func:`check_models`.
        data: its ground truth.

    Returns:
        The figures, and the number of images that were left out: unreadable, or not of the size of their ground truth.

    Raises:
        InputError: if the models have changed since the segmentation.
    """
    made: dict[str, Any] = runs.config(view, predictions_field, runs.SEGMENTATION)
    bank, preset = runs.load_memory(view, made["memory_key"]), _preset(made)
    yield Progress(0, data.images, f"loading the encoder {made['encoder']} and the segmenter {made['segmenter']}")
    encoder, segmenter = _models(made, preset)
    prototypes = bank.prototypes().to(encoder.device)
    tiling = Tiling(Tiling.parse(made.get("tiles", "off")).grid, made.get("tile_overlap", OVERLAP))
    engine = ReferenceSegmenter(bank, encoder, segmenter, replace(preset, tiling=tiling))
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
            true_masks = torch.from_numpy(masks)
            target = engine.encode(pixels)
            if isinstance(target, EncodedTarget):
                hits = proposal_hits(true_masks, target.proposals.mask_logits, target.image_size)
                tokens = target.tokens
            else:
                hits = drawn_hits(true_masks, target.masks)
                tokens = encoder.encode(prepare_image(pixels, encoder, segmenter, preset).encoder_input[None])[0]
            nearest = nearest_classes(tokens, true_masks, prototypes)
        gathered.add_proposals([annotation["area"] for annotation in here], hits)
        gathered.add_labels([label_of.get(annotation["category_id"], -1) for annotation in here], nearest)
    return gathered.summary(), left_out


def _preset(made: dict[str, Any]) -> Preset:
    """Preset of a segmentation; raises InputError if it is not, or no longer, one of the named presets."""
    preset = PRESETS.get(made["preset"])
    if preset is None or preset_fingerprint(preset) != made["preset_fingerprint"]:
        raise InputError(
            f"{made['output_field']!r} was segmented with a preset {made['preset']!r} of other settings than today's: "
            "segment again, or do not diagnose the models"
        )
    return preset


def _models(made: dict[str, Any], preset: Preset) -> tuple[Encoder, Segmenter]:
    """Load the models of a segmentation. Runs of earlier versions did not store device, precision and compilation."""
    device, precision = made.get("device", "auto"), made.get("precision", preset.precision_for("auto"))
    encoder = load_encoder(made["encoder"], device, precision)
    segmenter = load_segmenter(made["segmenter"], device, precision, compiled=made.get("compiled", False))
    found = {"encoder": encoder.info.fingerprint, "segmenter": segmenter.fingerprint}
    for name, fingerprint in found.items():
        if fingerprint != made[f"{name}_fingerprint"]:
            raise InputError(
                f"the {name} {made[name]!r} has other weights than when it made {made['output_field']!r}: segment "
                "again, or do not diagnose the models"
            )
    return encoder, segmenter
