"""Training reference prompts on a view."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import fiftyone as fo
from filelock import FileLock, Timeout

from ..cache import TensorCache
from ..models import load_encoder, load_segmenter
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
from .config import PromptConfig
from .errors import RunEnded
from .jobs import Job, OnProgress, Progress, run
from .options import takes
from .prompt_data import training_data
from .runs import Collection

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


@takes(PromptConfig)
def train_reference_prompt(
    view: Collection,
    label_field: str,
    prompt_key: str,
    *,
    config: PromptConfig | None = None,
    progress: OnProgress = None,
    **options: Any,
) -> PromptReport:
    """Train a reference prompt on a labelled view and store it: :func:`prompt_job`, run to completion."""
    return run(prompt_job(view, label_field, prompt_key, config=config, **options), progress)


@takes(PromptConfig)
def prompt_job(
    view: Collection, label_field: str, prompt_key: str, *, config: PromptConfig | None = None, **options: Any
) -> Job[PromptReport]:
    """Train a visual reference prompt on the classes of a view, for use on others.

    It is computed in single precision. An interrupted training resumes, to the same result, when it is started again
    with the same settings.

    Args:
        view: dataset or view with the labelled images. An image whose field is not set is left out; one whose field is
            empty shows no object of any class.
        label_field: a field of type Detections, with masks.
        prompt_key: the prompt's name in the dataset.
        config: the options, in place of keyword arguments.

    Raises:
        InputError: if the view, the field, the classes, the settings or the name cannot be used.
        WeightsNotFound: if weights are missing.
    """
    config = PromptConfig.of(config, options)
    checks.check_view(view)
    checks.check_detections_field(view, label_field, "label field")
    checks.check_key(view, prompt_key, runs.PROMPT, overwrite=config.overwrite)
    task = yield from _prepare(view, label_field, prompt_key, config)
    token = runs.begin(view, prompt_key, runs.PROMPT, task.description())
    with _explained(prompt_key):
        try:
            report = yield from _train(task, token)
        except BaseException as error:
            _note_failure(task, token, error)
            raise
    if not config.folder:
        shutil.rmtree(task.folder, ignore_errors=True)
    return report


@dataclass(frozen=True)
class _Task:
    """A checked training.

    Attributes:
        view: the labelled images.
        label_field: their labels.
        key: name of the prompt.
        config: the options.
        training: settings of the training.
        dataset: the images and masks, as a COCO data set.
        class_ids: category ids of the data set by class.
        classes: to train on.
        test_classes: never trained on.
        test_ids: their category ids.
        folder: for the files of the training.
        left_out: labels and images that cannot be used, in words.
        begun: ``time.monotonic()`` at its beginning.
    """

    view: Collection
    label_field: str
    key: str
    config: PromptConfig
    training: TrainingConfig
    dataset: dict
    class_ids: dict[str, int]
    classes: list[str]
    test_classes: list[str]
    test_ids: list[int]
    folder: Path
    left_out: list[str]
    begun: float

    def description(self) -> dict[str, Any]:
        """Configuration of the draft of its run."""
        return {
            "label_field": self.label_field,
            "steps": self.training.steps,
            "preset": self.config.preset,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "status": "running",
            "scratch_folder": None if self.config.folder else str(self.folder),
            "dataset_id": str(self.view._root_dataset._doc.id),  # a clone also has this draft, but not the folder
        }


def _prepare(view: Collection, label_field: str, prompt_key: str, config: PromptConfig) -> Job[_Task]:
    """Check classes and settings, and read the labels.

    Raises:
        InputError: if they cannot be used.
    """
    classes, test_classes = config.classes, list(config.test_classes)
    training = _training_config(config)
    present = {name for name in view.distinct(f"{label_field}.detections.label") if name}
    wanted = sorted(present - set(test_classes) if classes is None else set(classes))
    checks.check_classes(wanted, present, f"the field {label_field!r} of this view")
    if leaked := sorted(set(wanted) & set(test_classes)):
        raise InputError(f"{', '.join(leaked)}: training and test classes overlap: choose one")
    begun = time.monotonic()
    dataset, left_out = yield from training_data(view, label_field, sorted(present | set(test_classes)))
    class_ids = {category["name"]: category["id"] for category in dataset["categories"]}
    test_ids = [class_ids[name] for name in test_classes]
    if hidden := len(dataset["images"]) - len(images_of_classes(dataset, (), test_ids).all_images):
        left_out.append(f"{hidden} images that show a test class")
    return _Task(
        view=view,
        label_field=label_field,
        key=prompt_key,
        config=config,
        training=training,
        dataset=dataset,
        class_ids=class_ids,
        classes=wanted,
        test_classes=test_classes,
        test_ids=test_ids,
        folder=Path(config.folder).expanduser() if config.folder else _default_folder(view, prompt_key),
        left_out=left_out,
        begun=begun,
    )


def _train(task: _Task, token: str) -> Job[PromptReport]:
    """Train, and store the prompt in place of the draft of this token."""
    config, steps = task.config, task.training.steps
    yield Progress(0, steps, f"loading the encoder {config.encoder} and the segmenter {config.segmenter}")
    encoder = load_encoder(config.encoder, config.device, "float32")
    segmenter = load_segmenter(config.segmenter, config.device, "float32")
    task.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(task.folder / runs.LOCK_FILE)
    yield from _wait_for(lock, steps)
    with lock:
        if config.overwrite:
            shutil.rmtree(task.folder / "run", ignore_errors=True)
        # Of no use after the training, so they do not push targets and references out of the user's cache.
        store = FeatureStore(encoder, segmenter, TensorCache(task.folder / "features", FEATURES_BUDGET))
        class_ids = [task.class_ids[name] for name in task.classes if name in task.class_ids]
        split = split_classes(task.dataset, class_ids, task.test_ids, seed=config.seed)
        vrp = default_vrp(store, published=config.preset == "paper")
        training = train(task.dataset, split, store, task.folder / "run", task.training, vrp)
        trained = yield from _follow(training, task.begun, partial(runs.check_draft, task.view, task.key, token))
        names = {class_id: name for name, class_id in task.class_ids.items()}
        report = PromptReport(
            prompt_key=task.key,
            classes=trained.prompt.classes,
            validation_classes=tuple(sorted(names[class_id] for class_id in split.validation)),
            steps=steps,
            best_step=trained.best_step,
            validation_miou=trained.validation,
            log=trained.log,
            parameters=trained.prompt.parameters,
            warnings=trained.warnings,
            left_out=task.left_out,
            seconds=time.monotonic() - task.begun,
        )
        _store(task.view, token, trained, report, task.test_classes)
    return report


@contextmanager
def _explained(prompt_key: str) -> Iterator[None]:
    """Raise errors of the training as InputError, with the remedy."""
    try:
        yield
    except TrainingError as error:
        raise InputError(str(error)) from error
    except RunError as error:
        differing = "; ".join(error.differences)
        raise InputError(
            f"a training {prompt_key!r} was interrupted that had other settings ({differing}): repeat those to "
            "resume it, or switch on overwrite to start over"
        ) from error


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


def _note_failure(task: _Task, token: str, error: BaseException) -> None:
    """Note the reason of an unfinished training; remove its checkpoints if it, or its dataset, was deleted."""
    try:
        if runs.is_draft(task.view, task.key, token):
            failed = isinstance(error, Exception)
            reason = (str(error) or type(error).__name__) if failed else None
            status = "failed" if failed else "interrupted"
            runs.update_draft(task.view, task.key, token, status=status, error=reason)
            return
        deleted = task.key not in runs.list_drafts(task.view, runs.PROMPT)
    except RunEnded:
        deleted = True
    if deleted and not task.config.folder:
        shutil.rmtree(task.folder, ignore_errors=True)


def _training_config(config: PromptConfig) -> TrainingConfig:
    """Settings of the training: those of the preset, with the given options."""
    given = {"steps": config.steps, "batch": config.batch, "most_shots": config.most_shots, "seed": config.seed}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if config.kinds is not None:
        changes["kinds"] = config.kinds
    try:
        training = replace(TrainingConfig() if config.preset == "default" else PAPER, **changes)
        # Ten points of the curve even for a short training.
        return replace(training, check_every=max(1, min(training.check_every, training.steps // 10)))
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
