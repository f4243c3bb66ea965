"""Training loop of a visual reference prompt (VRP-SAM, Sec. 3.4).

Only the prompt is trained: DINOv2 and SAM2 are frozen, and their features are cached. The loss of the masks is the
paper's, BCE plus Dice. Beyond the paper, BCE on SAM2's object score is added, with some episodes whose target does not
show the class, so that the prompt can report an absent class.

The folder of a run::

    config.json            everything that determines the result; a folder of another run is refused
    checkpoint.pt          from which an interrupted training resumes, with the same result
    log.jsonl              losses, and mIoU on the validation classes
    best.safetensors       best prompt so far
    pictures/              validation episodes: reference, truth and prediction
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ... import __version__
from ...datasets.episodes import EpisodeImages
from ...utils import training_loop
from ...utils.run_folder import claim, fingerprint
from ..model import VisualReferencePrompt, VRPConfig
from ..prompt import TrainedPrompt
from .batches import Batch, Batches
from .classes import ClassImages, ClassSplit, images_of_classes
from .config import FEW_CLASSES, TrainingConfig, TrainingError, default_vrp
from .episodes import draw_training_episode
from .features import FeatureStore
from .loss import mask_loss
from .validation import Validation


@dataclass(frozen=True)
class Progress:
    """Progress of a training after a step.

    Attributes:
        step: number of steps done.
        steps: number of steps in total.
        loss: of this step; at a validation, the mean since the last one.
        validation_miou: mIoU in ``[0, 1]`` if this step was validated.
    """

    step: int
    steps: int
    loss: float
    validation_miou: float | None = None


@dataclass(frozen=True)
class TrainingReport:
    """Result of a training.

    Attributes:
        prompt: the prompt with the best weights.
        best_step: step of these weights.
        validation: their mIoU on the validation classes, in ``[0, 1]``.
        log: entries of ``log.jsonl``.
        warnings: reasons for caution.
    """

    prompt: TrainedPrompt
    best_step: int
    validation: float
    log: list[dict[str, float]]
    warnings: list[str] = field(default_factory=list)


def train(
    dataset: dict,
    split: ClassSplit,
    store: FeatureStore,
    folder: Path,
    config: TrainingConfig | None = None,
    vrp: VRPConfig | None = None,
    *,
    exif: bool = True,
) -> Iterator[Progress | TrainingReport]:
    """Train a prompt, or resume an interrupted training.

    A generator of :class:`Progress`, then one :class:`TrainingReport`. Closing it early loses the steps since the last
    checkpoint.

    Args:
        dataset: a COCO dataset with masks; every image has a ``path``.
        split: training, validation and test classes.
        store: both models and their features.
        folder: folder of the run.
        config: settings of the training.
        vrp: configuration of the prompt; ``None`` for :func:`default_vrp`.
        exif: see :func:`nts.images.read_image`.

    Raises:
        TrainingError: if there are too few classes or images to train or validate on, or if ``vrp`` lacks a kind of
            annotation that ``config`` simulates.
        RunError: if the folder holds another run.
    """
    config, vrp = config or TrainingConfig(), vrp or default_vrp(store)
    if unknown := [kind for kind in config.kinds if kind not in vrp.kinds]:
        raise TrainingError(f"the prompt's configuration does not know annotations of the kinds {', '.join(unknown)}")
    images = EpisodeImages(dataset, exif=exif, keep=1)
    learned = images_of_classes(dataset, split.train, split.test)
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    if len(learned.with_class) < 2:
        raise TrainingError("fewer than two classes are in two images or more: there is nothing to tell apart")
    warnings = _warnings(split, learned, names)
    batches = Batches(images, store, vrp, config.loss_side)
    validation = Validation(dataset, split, batches, config)
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, _identity(dataset, split, store, config, vrp))

    torch.manual_seed(config.seed)
    state = training_loop.start(VisualReferencePrompt(vrp).to(store.segmenter.device), config.weight_decay)
    best = {"miou": -1.0, "step": 0}
    checkpoint, log = folder / "checkpoint.pt", folder / "log.jsonl"
    if checkpoint.is_file():
        best = training_loop.resume(state, checkpoint)
    training_loop.cut_log(log, state.step)
    classes = tuple(sorted(names[c] for c in (*split.train, *split.validation)))

    since: list[dict[str, float]] = []
    while state.step < config.steps:
        rate = training_loop.learning_rate(state.step, config.steps, config.peak_rate, config.warmup)
        step_loss = partial(_step_loss, batches, config, _draw_batch(batches, learned, config, state.step))
        since.append(training_loop.advance(state, step_loss, seed=config.seed, rate=rate))
        if state.step % config.check_every and state.step != config.steps:
            yield Progress(state.step, config.steps, since[-1]["loss"])
            continue
        accuracy = validation.accuracy(state.average)
        entry = {"step": state.step, "rate": rate, **training_loop.mean_of(since), "validation_miou": accuracy.miou}
        training_loop.log(log, entry, show=False)
        if accuracy.miou > best["miou"]:
            best = {"miou": accuracy.miou, "step": state.step}
            about = {"training": asdict(config), "step": state.step, "validation_miou": round(accuracy.miou, 4)}
            prompt = TrainedPrompt(state.average, store.encoder.info, store.segmenter.info, classes, about)
            prompt.save(folder / "best.safetensors")
        (folder / "pictures").mkdir(exist_ok=True)
        validation.draw(state.average).save(folder / "pictures" / f"{state.step:06d}.png")
        training_loop.save(state, checkpoint, **best)
        yield Progress(state.step, config.steps, entry["loss"], accuracy.miou)
        since = []
    prompt = TrainedPrompt.load(folder / "best.safetensors")
    yield TrainingReport(prompt, int(best["step"]), best["miou"], training_loop.read_log(log), warnings)


def run_training(
    training: Iterator[Progress | TrainingReport], progress: Callable[[Progress], None] = lambda step: None
) -> TrainingReport:
    """Run the generator of :func:`train` to its end, calling ``progress`` at every step."""
    for step in training:
        if isinstance(step, TrainingReport):
            return step
        progress(step)
    raise RuntimeError("the training ended without a report")


def _draw_batch(batches: Batches, images: ClassImages, config: TrainingConfig, step: int) -> Batch:
    """The episodes of a step, numbered ``step * batch`` onwards, as a batch."""
    numbers = range(step * config.batch, (step + 1) * config.batch)
    return batches.build(
        [
            draw_training_episode(
                images,
                number,
                seed=config.seed,
                kinds=config.kinds,
                most_shots=config.most_shots,
                absent_share=config.absent_share,
                flip=config.flip,
            )
            for number in numbers
        ]
    )


def _step_loss(
    batches: Batches, config: TrainingConfig, batch: Batch, model: VisualReferencePrompt, rng: np.random.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch (Sec. 3.4, plus the object score), and its parts for the log."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))  # dropout must depend on the step alone, to be resumable
        decoded = batches.decode(model, batch)
    logits = decoded.mask_logits
    if logits.shape[-1] != batch.truth.shape[-1]:
        size = batch.truth.shape[-2:]
        logits = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
    masks = mask_loss(logits, batch.truth, batch.counted, config.loss)
    presence = F.binary_cross_entropy_with_logits(decoded.object_score, batch.present)
    loss = masks + config.presence_weight * presence
    return loss, {"mask_loss": float(masks.detach()), "presence_loss": float(presence.detach())}


def _warnings(split: ClassSplit, learned: ClassImages, names: Mapping[int, str]) -> list[str]:
    warnings = []
    if len(learned.with_class) < FEW_CLASSES:
        warnings.append(
            f"only {len(learned.with_class)} classes to learn from: below {FEW_CLASSES} a prompt tends to learn the "
            "classes rather than how to follow a reference; compare it with the prototypes before relying on it"
        )
    if left_out := [names[c] for c in split.train if c not in learned.with_class]:
        warnings.append(f"classes left out, as they are in fewer than two usable images: {', '.join(left_out)}")
    return warnings


def _identity(
    dataset: dict, split: ClassSplit, store: FeatureStore, config: TrainingConfig, vrp: VRPConfig
) -> dict[str, Any]:
    """Everything that determines the result."""
    images = [{key: value for key, value in image.items() if key != "path"} for image in dataset["images"]]
    return {
        "training": asdict(config),
        "vrp": vrp.to_dict(),
        "split": asdict(split),
        "data": fingerprint(images, dataset["annotations"]),
        "encoder": asdict(store.encoder.info),
        "segmenter": asdict(store.segmenter.info),
        "device": store.segmenter.device.type,
        "torch": torch.__version__,
        "version": __version__,
    }
