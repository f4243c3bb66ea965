"""Reference prompts in FiftyOne: training on a view, export and import."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Literal

import fiftyone as fo
import numpy as np
from filelock import FileLock, Timeout
from pycocotools import mask as coco_mask

from ..cache import TensorCache
from ..datasets.layouts import has_mask, read_annotated_image
from ..evaluation.run_folder import RunError
from ..images import ImageError
from ..models import load_encoder, load_reference_prompt, load_segmenter
from ..references import Kind
from ..utils.names import as_names
from ..vrp.prompt import TrainedPrompt
from ..vrp.training import (
    FEATURES_BUDGET,
    PAPER,
    FeatureStore,
    TrainingConfig,
    TrainingError,
    TrainingReport,
    default_vrp,
    images_of_classes,
    split_classes,
    train,
)
from ..vrp.training import Progress as TrainingProgress
from . import checks, runs
from .checks import InputError
from .errors import RunEnded
from .importing import REFERENCES, view_to_coco
from .jobs import Job, OnProgress, Progress, run
from .runs import Collection

TrainingPreset = Literal["default", "paper"]

_PROGRESS_EVERY = 50  # images
_CHECK_AFTER = 1.0  # seconds
_MAX_WAIT = 600  # seconds


@dataclass(frozen=True)
class PromptReport:
    """Result of a training.

    Attributes:
        prompt_key: the prompt's name in the dataset.
        classes: of the training, including those of the validation.
        validation_classes: classes that chose the best weights.
        steps: number of steps.
        best_step: step of the weights.
        validation_miou: mIoU of these weights on the validation classes, with one reference each.
        log: losses and mIoU over the steps.
        parameters: number of learned parameters.
        warnings: reasons for caution.
        left_out: labels and images that could not be used, in words.
        seconds: duration, without that of an interrupted part.
    """

    prompt_key: str
    classes: tuple[str, ...]
    validation_classes: tuple[str, ...]
    steps: int
    best_step: int
    validation_miou: float
    log: list[dict[str, float]]
    parameters: int
    warnings: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0


def train_reference_prompt(
    view: Collection, label_field: str, prompt_key: str, *, progress: OnProgress = None, **options: Any
) -> PromptReport:
    """Train a reference prompt on a labelled view and store it in the dataset: :func:`prompt_job`, run to its end."""
    return run(prompt_job(view, label_field, prompt_key, **options), progress)


def prompt_job(
    view: Collection,
    label_field: str,
    prompt_key: str,
    *,
    classes: Sequence[str] | str | None = None,
    test_classes: Sequence[str] | str = (),
    kinds: Sequence[Kind] | Kind | None = None,
    steps: int = 4000,
    batch: int = 8,
    most_shots: int | None = None,
    preset: TrainingPreset = "default",
    encoder: str = "small",
    segmenter: str = "small",
    seed: int = 1,
    folder: str | os.PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> Job[PromptReport]:
    """Train a visual reference prompt on the classes of a view, for use on others.

    It is computed in single precision. An interrupted training resumes, to the same result, when it is started again
    with the same settings.

    Args:
        view: dataset or view with the labelled images. An image whose field is not set is left out; one whose field is
            empty shows no object of any class.
        label_field: a field of type Detections, with masks.
        prompt_key: the prompt's name in the dataset.
        classes: to train on, a fifth of them for validation; default all that the field has.
        test_classes: never trained on; images that show one of them are not used at all.
        kinds: of annotations to simulate; default all, or masks alone for the preset ``"paper"``.
        steps: number of optimiser steps.
        batch: episodes per step.
        most_shots: maximum number of references in an episode; default that of the preset.
        preset: ``"default"``, or ``"paper"`` for the published choices.
        encoder: a name for :func:`nts.models.load_encoder`.
        segmenter: a name for :func:`nts.models.load_segmenter`.
        seed: of the training.
        folder: for checkpoints, log and pictures; by default they are removed at the end.
        overwrite: replace a prompt of this name, and restart an interrupted training.
        device: for both models and the training, ``"auto"`` or as in torch.

    Raises:
        InputError: if the view, the field, the classes, the settings or the name cannot be used.
        WeightsNotFound: if weights are missing.
    """
    checks.check_view(view)
    checks.check_detections_field(view, label_field, "label field")
    checks.check_key(view, prompt_key, runs.PROMPT, overwrite=overwrite)
    classes, test_classes = as_names(classes), as_names(test_classes) or []
    config = _config(preset, as_names(kinds), steps=steps, batch=batch, most_shots=most_shots, seed=seed)
    present = {name for name in view.distinct(f"{label_field}.detections.label") if name}
    wanted = sorted(present - set(test_classes) if classes is None else set(classes))
    checks.check_classes(wanted, present, f"the field {label_field!r} of this view")
    if leaked := sorted(set(wanted) & set(test_classes)):
        raise InputError(f"{', '.join(leaked)}: training and test classes overlap: choose one")

    begin = time.monotonic()
    dataset, left_out = yield from _labelled_images(view, label_field, sorted(present | set(test_classes)))
    ids = {category["name"]: category["id"] for category in dataset["categories"]}
    test_ids = [ids[name] for name in test_classes]
    if hidden := len(dataset["images"]) - len(images_of_classes(dataset, (), test_ids).all_images):
        left_out.append(f"{hidden} images that show a test class")

    place = Path(folder).expanduser() if folder else _default_folder(view, prompt_key)
    description = {
        "label_field": label_field,
        "steps": config.steps,
        "preset": preset,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "status": "running",
        "scratch_folder": None if folder else str(place),
        "dataset_id": str(view._root_dataset._doc.id),  # a clone has this draft, too, but not the folder
    }
    token = runs.begin(view, prompt_key, runs.PROMPT, description)
    try:
        yield Progress(0, config.steps, f"loading the encoder {encoder} and the segmenter {segmenter}")
        models = load_encoder(encoder, device, "float32"), load_segmenter(segmenter, device, "float32")
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / runs.LOCK_FILE)
        yield from _wait_for(lock, config.steps)
        with lock:
            if overwrite:
                shutil.rmtree(place / "run", ignore_errors=True)
            # Of no use after the training, so they do not push targets and references out of the user's cache.
            store = FeatureStore(*models, TensorCache(place / "features", FEATURES_BUDGET))
            split = split_classes(dataset, [ids[name] for name in wanted if name in ids], test_ids, seed=seed)
            vrp = default_vrp(store, published=preset == "paper")
            training = train(dataset, split, store, place / "run", config, vrp)
            report = yield from _follow(training, begin, partial(runs.check_draft, view, prompt_key, token))
            names = {class_id: name for name, class_id in ids.items()}
            validated = tuple(sorted(names[class_id] for class_id in split.validation))
            runs.store_prompt(
                view,
                prompt_key,
                report.prompt,
                report.log,
                token=token,
                validation_classes=list(validated),
                test_classes=sorted(test_classes),
                best_step=report.best_step,
                validation_miou=report.validation,
                warnings=report.warnings,
                left_out=len(left_out),
                status="complete",
            )
    except BaseException as error:
        _note_failure(view, prompt_key, token, place, scratch=not folder, error=error)
        if isinstance(error, TrainingError):
            raise InputError(str(error)) from error
        if isinstance(error, RunError):
            differing = "; ".join(error.differences)
            raise InputError(
                f"a training {prompt_key!r} was interrupted that had other settings ({differing}): repeat those to go "
                "on with it, or switch on overwrite to start over"
            ) from error
        raise
    if not folder:
        shutil.rmtree(place, ignore_errors=True)
    return PromptReport(
        prompt_key=prompt_key,
        classes=report.prompt.classes,
        validation_classes=validated,
        steps=config.steps,
        best_step=report.best_step,
        validation_miou=report.validation,
        log=report.log,
        parameters=report.prompt.parameters,
        warnings=report.warnings,
        left_out=left_out,
        seconds=time.monotonic() - begin,
    )


def _wait_for(lock: FileLock, steps: int) -> Iterator[Progress]:
    """Take the lock of a folder when an earlier training, which is ending, releases it.

    Raises:
        InputError: if it does not release it.
    """
    for waited in range(_MAX_WAIT):
        try:
            lock.acquire(timeout=1)
        except Timeout:
            yield Progress(0, steps, f"waiting for an earlier training of this name to end ({waited} s)")
        else:
            return
    raise InputError(f"another training writes to {Path(lock.lock_file).parent}: wait for it, or choose another folder")


def _note_failure(
    view: Collection, prompt_key: str, token: str, place: Path, *, scratch: bool, error: BaseException
) -> None:
    """Note the reason of an unfinished training; remove its checkpoints if it, or its dataset, was deleted."""
    try:
        if runs.is_draft(view, prompt_key, token):
            failed = isinstance(error, Exception)
            reason = (str(error) or type(error).__name__) if failed else None
            status = "failed" if failed else "interrupted"
            runs.update_draft(view, prompt_key, token, status=status, error=reason)
            return
        deleted = prompt_key not in runs.list_drafts(view, runs.PROMPT)
    except RunEnded:
        deleted = True
    if deleted and scratch:
        shutil.rmtree(place, ignore_errors=True)


def load_prompt(view: Collection, name: str) -> TrainedPrompt:
    """Load a reference prompt by its name in the dataset, or as :func:`nts.models.load_reference_prompt` does.

    Raises:
        WeightsNotFound: if there is none.
        PromptFileError: if it is damaged.
    """
    return (
        runs.load_stored_prompt(view, name)
        if name in runs.list_runs(view, runs.PROMPT)
        else load_reference_prompt(name)
    )


def export_prompt(view: Collection, prompt_key: str, path: str | os.PathLike, *, overwrite: bool = False) -> Path:
    """Write a reference prompt to a ``.safetensors`` file and return its path; an old file survives every failure.

    Args:
        view: dataset with the prompt.
        prompt_key: its name.
        path: the file, or a folder, in which the file then has the prompt's name.
        overwrite: replace a file that exists.

    Raises:
        RunNotFound: if there is no such prompt.
        InputError: if the file exists and ``overwrite`` is off.
        PromptFileError: if the file cannot be written.
    """
    prompt = runs.load_stored_prompt(view, prompt_key)
    path = checks.check_export_path(path, prompt_key, overwrite=overwrite)
    prompt.save(path)
    return path


def import_prompt(
    view: Collection, path: str | os.PathLike, prompt_key: str | None = None, *, overwrite: bool = False
) -> TrainedPrompt:
    """Store a reference prompt from a file in the dataset; returns the prompt.

    Args:
        view: dataset to store it in.
        path: a file written by :func:`export_prompt`.
        prompt_key: its name; default that of the file.
        overwrite: replace a prompt of this name.

    Raises:
        PromptFileError: if the file cannot be read, or is no reference prompt.
        InputError: if the name cannot be used.
    """
    path = Path(path).expanduser()
    prompt_key = prompt_key or path.stem
    checks.check_key(view, prompt_key, runs.PROMPT, overwrite=overwrite)
    prompt = TrainedPrompt.load(path)
    runs.store_prompt(view._root_dataset, prompt_key, prompt, source=str(path))
    return prompt


def _config(preset: TrainingPreset, kinds: Sequence[str] | None, **given: int | None) -> TrainingConfig:
    if preset not in ("default", "paper"):
        raise InputError(f"unknown preset {preset!r}; there are default, paper")
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if kinds is not None:
        changes["kinds"] = tuple(kinds)
    try:
        config = replace(TrainingConfig() if preset == "default" else PAPER, **changes)
        # A short training has a curve of ten points, too.
        return replace(config, check_every=max(1, min(config.check_every, config.steps // 10)))
    except TrainingError as error:
        raise InputError(str(error)) from error


def _labelled_images(view: Collection, label_field: str, names: Sequence[str]) -> Job[tuple[dict, list[str]]]:
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


def _follow(
    training: Iterator[TrainingProgress | TrainingReport], begin: float, check: Callable[[], None]
) -> Job[TrainingReport]:
    """Yield the progress of a training, and return its report; ``check`` may end it."""
    first, miou, checked = None, "", time.monotonic()
    for step in training:
        if time.monotonic() - checked > _CHECK_AFTER:
            check()
            checked = time.monotonic()
        if isinstance(step, TrainingReport):
            return step
        if first is None:
            first, begin = step.step, time.monotonic()
        if step.validation_miou is not None:
            miou = f", mIoU {100 * step.validation_miou:.1f} on validation classes"
        words = f"step {step.step}/{step.steps}, loss {step.loss:.3f}{miou}"
        if done := step.step - first:
            left = (time.monotonic() - begin) / done * (step.steps - step.step)
            words += f", {left:.0f} s left" if left < 100 else f", {left / 60:.0f} min left"
        yield Progress(step.step, step.steps, words)
    raise RuntimeError("the training ended without a report")


def _default_folder(view: Collection, prompt_key: str) -> Path:
    """Folder of a training for the files that it resumes from."""
    dataset = view._root_dataset
    return Path(fo.config.default_dataset_dir) / "reference-prompts" / dataset.slug / prompt_key
