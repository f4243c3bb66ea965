"""Training reference prompts on a view."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import fiftyone as fo
from filelock import FileLock, Timeout

from ..cache import TensorCache
from ..models import load_encoder, load_segmenter
from ..references import Kind
from ..utils.names import as_names
from ..utils.run_folder import RunError
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
from .jobs import Job, OnProgress, Progress, run
from .prompt_data import training_data
from .runs import Collection

TrainingPreset = Literal["default", "paper"]

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
    """Train a reference prompt on a labelled view and store it: :func:`prompt_job`, run to completion."""
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
    dataset, left_out = yield from training_data(view, label_field, sorted(present | set(test_classes)))
    ids = {category["name"]: category["id"] for category in dataset["categories"]}
    test_ids = [ids[name] for name in test_classes]
    if hidden := len(dataset["images"]) - len(images_of_classes(dataset, (), test_ids).all_images):
        left_out.append(f"{hidden} images that show a test class")

    place = Path(folder).expanduser() if folder else _default_folder(view, prompt_key)
    description = {
        "label_field": label_field,
        "steps": config.steps,
        "preset": preset,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
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
            trained = yield from _follow(training, begin, partial(runs.check_draft, view, prompt_key, token))
            names = {class_id: name for name, class_id in ids.items()}
            report = PromptReport(
                prompt_key=prompt_key,
                classes=trained.prompt.classes,
                validation_classes=tuple(sorted(names[class_id] for class_id in split.validation)),
                steps=config.steps,
                best_step=trained.best_step,
                validation_miou=trained.validation,
                log=trained.log,
                parameters=trained.prompt.parameters,
                warnings=trained.warnings,
                left_out=left_out,
                seconds=time.monotonic() - begin,
            )
            _store(view, token, trained, report, test_classes)
    except BaseException as error:
        _note_failure(view, prompt_key, token, place, scratch=not folder, error=error)
        if isinstance(error, TrainingError):
            raise InputError(str(error)) from error
        if isinstance(error, RunError):
            differing = "; ".join(error.differences)
            raise InputError(
                f"a training {prompt_key!r} was interrupted that had other settings ({differing}): repeat those to "
                "resume it, or switch on overwrite to start over"
            ) from error
        raise
    if not folder:
        shutil.rmtree(place, ignore_errors=True)
    return report


def _store(
    view: Collection, token: str, trained: TrainingReport, report: PromptReport, test_classes: Sequence[str]
) -> None:
    """Store the trained prompt in place of the draft of this token."""
    runs.store_prompt(
        view,
        report.prompt_key,
        trained.prompt,
        trained.log,
        token=token,
        validation_classes=list(report.validation_classes),
        test_classes=sorted(test_classes),
        best_step=report.best_step,
        validation_miou=report.validation_miou,
        warnings=report.warnings,
        left_out=len(report.left_out),
        status="complete",
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
