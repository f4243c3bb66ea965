"""Training a visual reference prompt on labelled classes, to be used on classes that it has never seen.

Only the prompt learns: DINOv2 and SAM2 are frozen, and what they make of an image is kept. The loss is that of the
paper (Sec. 3.4), BCE plus Dice on the one mask of SAM2's decoder; to it comes, beyond the paper, BCE on SAM2's object
score, with some episodes whose class is not in the target, so that the prompt can say that there is none.

The best weights are chosen on *validation classes*, which are neither trained on nor those that will be tested. (The
published code chooses them on the test classes.)

A run has a folder of its own::

    config.json            what decides the result; a folder of another run is refused
    checkpoint.pt          an interrupted training goes on from it, to the same result
    log.jsonl              losses, and the mIoU on the validation classes
    best.safetensors       the best prompt so far
    pictures/              validation episodes: references, truth and what is found
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .. import __version__
from ..datasets.episodes import Episode, EpisodeImages, draw_episodes
from ..masks import draw_masks
from ..metrics.miou import SemanticAccuracy, count_pixels, summarise_episodes
from ..pictures import contact_sheet, draw_instances
from ..references import KINDS, Kind, annotation_weights
from ..segmenter import Decoded, ImageEmbedding
from ..utils import training_loop
from ..utils.run_folder import claim, fingerprint
from .episodes import ClassImages, TrainingEpisode, annotate, draw_training_episode, images_of_classes
from .features import FeatureStore, ImageFeatures, stack
from .model import ABSENT, VisualReferencePrompt, VRPConfig, paper
from .prompt import TrainedPrompt

FEW_CLASSES = 12
"""With fewer classes than this a prompt learns the classes rather than the task, and the user is warned."""

LEAST_CLASSES = 3
"""Two to tell apart, and one to choose the best weights by."""


class TrainingError(ValueError):
    """A training that cannot be begun. The message says why, and what to do."""


@dataclass(frozen=True)
class TrainingConfig:
    """How a prompt is trained. The defaults are ours, :data:`PAPER` has the published choices.

    Attributes:
        steps: optimisation steps.
        batch: episodes in a step, all different.
        peak_rate: of AdamW, after ``warmup`` steps, falling along a cosine.
        warmup: steps.
        weight_decay: of AdamW.
        loss: of the masks: BCE, Dice, or their sum.
        loss_side: masks are compared at so many pixels squared; at the size of SAM2's logits where ``None``.
        presence_weight: of the loss of the object score.
        absent_share: of episodes whose class is not in the target.
        kinds: annotations to simulate, one drawn for every reference.
        most_shots: references in an episode, 1 up to this.
        flip: mirror every other image.
        seed: of everything that is random.
        check_every: steps between checkpoints, each with a validation.
        validation_episodes: in a validation.
    """

    steps: int = 4000
    batch: int = 8
    peak_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    loss: Literal["both", "bce", "dice"] = "both"
    loss_side: int | None = None
    presence_weight: float = 0.1
    absent_share: float = 0.1
    kinds: tuple[Kind, ...] = KINDS
    most_shots: int = 3
    flip: bool = True
    seed: int = 1
    check_every: int = 200
    validation_episodes: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "most_shots", "check_every", "validation_episodes"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.absent_share < 1:
            raise TrainingError(f"absent_share must lie in [0, 1), got {self.absent_share}")
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise TrainingError(f"kinds must be some of {', '.join(KINDS)}, got {self.kinds}")


PAPER = TrainingConfig(
    peak_rate=1e-4,
    warmup=1,
    weight_decay=1e-6,
    loss_side=512,
    presence_weight=0.0,
    absent_share=0.0,
    kinds=("mask",),
    most_shots=1,
    flip=False,
)
"""The published choices: one kind for a whole run, one reference, no augmentation."""


@dataclass(frozen=True)
class ClassSplit:
    """Which classes are for what; ids of a COCO dataset.

    Attributes:
        train: learned from.
        validation: the best weights are chosen by them.
        test: kept away from the training; an image that shows one of them is not used.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
            if shared := sorted(set(getattr(self, a)) & set(getattr(self, b))):
                raise TrainingError(f"classes {shared} are both among those to {a} and those to {b}: that is a leak")


@dataclass(frozen=True)
class Progress:
    """After a step: its number, the loss of the steps since the last one told, and the mIoU where it was validated."""

    step: int
    steps: int
    loss: float
    validation_miou: float | None = None


@dataclass(frozen=True)
class TrainingReport:
    """What came of a training.

    Attributes:
        prompt: the best one.
        best_step: when it was the best.
        validation: its accuracy on the validation classes.
        log: the entries of ``log.jsonl``.
        warnings: what to bear in mind.
    """

    prompt: TrainedPrompt
    best_step: int
    validation: float
    log: list[dict[str, float]]
    warnings: list[str] = field(default_factory=list)


def split_classes(
    dataset: Mapping, classes: Sequence[int] | None = None, test: Sequence[int] = (), *, seed: int = 1
) -> ClassSplit:
    """Keep a fifth of the classes, one at least, for the validation.

    Args:
        dataset: a COCO dataset.
        classes: to train and validate on; all but ``test`` without.
        test: not to be used.
        seed: of the choice.

    Raises:
        TrainingError: if there are too few classes with two images, or a class is for both training and test.
    """
    named = {category["id"] for category in dataset["categories"]}
    wanted = sorted(named - set(test)) if classes is None else sorted(set(classes))
    if leaked := sorted(set(wanted) & set(test)):
        raise TrainingError(f"classes {leaked} are both to be trained on and to be tested: that is a leak")
    usable = sorted(images_of_classes(dataset, wanted, test).with_class)
    if len(usable) < LEAST_CLASSES:
        raise TrainingError(
            f"a reference prompt needs at least {LEAST_CLASSES} classes, each in two images or more that show no test "
            f"class; there are {len(usable)}: two to tell apart, and one to choose the best weights by"
        )
    rng = np.random.default_rng([seed, len(usable)])
    order = [usable[i] for i in rng.permutation(len(usable))]
    count = max(1, round(0.2 * len(usable)))
    return ClassSplit(tuple(sorted(order[count:])), tuple(sorted(order[:count])), tuple(sorted(test)))


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
    """Train a prompt, or go on with a training that was interrupted.

    A generator that yields its :class:`Progress`, and last its :class:`TrainingReport`. Closed before its end it loses
    the steps since the last checkpoint.

    Args:
        dataset: a COCO dataset with masks; every image has a ``path``.
        split: which classes are for what.
        store: with the two models, and what they made of images before.
        folder: of the run.
        config: how to train.
        vrp: what to train; :func:`default_vrp` without.
        exif: see :func:`nts.images.read_image`.

    Raises:
        TrainingError: if there is nothing to train or validate on.
        RunError: if the folder holds another run.
    """
    config, vrp = config or TrainingConfig(), vrp or default_vrp(store)
    images = EpisodeImages(dataset, exif=exif, keep=1)
    learned = images_of_classes(dataset, split.train, split.test)
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    if len(learned.with_class) < 2:
        raise TrainingError("fewer than two classes are in two images or more: there is nothing to tell apart")
    warnings = _warnings(split, learned, names)
    run = _Run(images, store, vrp, config)
    episodes = _validation_episodes(dataset, split, config)
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
        numbers = range(state.step * config.batch, (state.step + 1) * config.batch)
        step_loss = partial(run.loss, batch=run.batch([run.episode(learned, number) for number in numbers]))
        since.append(training_loop.advance(state, step_loss, seed=config.seed, rate=rate))
        if state.step % config.check_every and state.step != config.steps:
            yield Progress(state.step, config.steps, since[-1]["loss"])
            continue
        accuracy = run.validate(state.average, episodes, names)
        entry = {"step": state.step, "rate": rate, **training_loop.mean_of(since), "validation_miou": accuracy.miou}
        training_loop.log(log, entry, show=False)
        if accuracy.miou > best["miou"]:
            best = {"miou": accuracy.miou, "step": state.step}
            about = {"training": asdict(config), "step": state.step, "validation_miou": round(accuracy.miou, 4)}
            prompt = TrainedPrompt(state.average, store.encoder.info, store.segmenter.info, classes, about)
            prompt.save(folder / "best.safetensors")
        (folder / "pictures").mkdir(exist_ok=True)
        run.draw(state.average, episodes[:4], names).save(folder / "pictures" / f"{state.step:06d}.png")
        training_loop.save(state, checkpoint, **best)
        yield Progress(state.step, config.steps, entry["loss"], accuracy.miou)
        since = []
    prompt = TrainedPrompt.load(folder / "best.safetensors")
    yield TrainingReport(prompt, int(best["step"]), best["miou"], training_loop.read_log(log), warnings)


def run_training(
    training: Iterator[Progress | TrainingReport], progress: Callable[[Progress], None] = lambda step: None
) -> TrainingReport:
    """Run what :func:`train` returns to its end; ``progress`` is told every step."""
    for step in training:
        if isinstance(step, TrainingReport):
            return step
        progress(step)
    raise RuntimeError("the training ended without a report")


def default_vrp(store: FeatureStore, *, published: bool = False) -> VRPConfig:
    """The configuration that fits two models; with the published choices if asked."""
    encoder, segmenter = store.encoder, store.segmenter.info
    config = VRPConfig(token_dim=encoder.info.dim, dim=segmenter.prompt_dim, grid=encoder.grid)
    return paper(config) if published else config


@dataclass(frozen=True)
class Batch:
    """``B`` episodes of up to ``K`` references, ready for the models.

    Attributes:
        tokens, weights, kinds: of the references, see :meth:`VisualReferencePrompt.encode_references`.
        targets: ``[B, P, C]`` patch tokens of the targets.
        embedding: of the targets.
        truth: ``[B, s, s]`` in ``[0, 1]``, covered shares at the side of the loss.
        counted: ``[B, s, s]``, 1 for what counts in the loss, 0 for what is to be ignored.
        present: ``[B]``, 1 where the class is in the target.
    """

    tokens: Tensor
    weights: Tensor
    kinds: Tensor
    targets: Tensor
    embedding: ImageEmbedding
    truth: Tensor
    counted: Tensor
    present: Tensor


def mask_loss(logits: Tensor, truth: Tensor, counted: Tensor, which: Literal["both", "bce", "dice"] = "both") -> Tensor:
    """BCE and Dice of masks (paper, Sec. 3.4), pixels to be ignored left out.

    Args:
        logits: ``[B, s, s]``.
        truth: ``[B, s, s]`` in ``[0, 1]``.
        counted: ``[B, s, s]``, 0 or 1.
        which: of the two, or their sum.
    """
    probability = logits.sigmoid() * counted
    bce = F.binary_cross_entropy_with_logits(logits, truth, weight=counted, reduction="sum")
    bce = bce / counted.sum().clamp(min=1)
    truth = truth * counted
    overlap = 2 * (probability * truth).sum((1, 2)) + 1
    dice = (1 - overlap / (probability.sum((1, 2)) + truth.sum((1, 2)) + 1)).mean()
    return {"both": bce + dice, "bce": bce, "dice": dice}[which]


class _Run:
    """What the steps of one training share: images, features, configuration."""

    def __init__(self, images: EpisodeImages, store: FeatureStore, vrp: VRPConfig, config: TrainingConfig) -> None:
        self._images, self._store, self._vrp, self._config = images, store, vrp, config

    def episode(self, images: ClassImages, number: int) -> TrainingEpisode:
        """Episode ``number`` of the training."""
        config = self._config
        return draw_training_episode(
            images,
            number,
            seed=config.seed,
            kinds=config.kinds,
            most_shots=config.most_shots,
            absent_share=config.absent_share,
            flip=config.flip,
        )

    def batch(self, episodes: Sequence[TrainingEpisode]) -> Batch:
        """Put episodes together."""
        most = max(len(episode.references) for episode in episodes)
        empty = torch.zeros(math.prod(self._vrp.grid), self._vrp.token_dim, dtype=torch.float16)
        tokens, weights, kinds = [], [], []
        for episode in episodes:
            for k in range(most):
                if k >= len(episode.references):
                    tokens.append(empty)
                    weights.append(empty[:, 0].float())
                    kinds.append(ABSENT)
                    continue
                tokens.append(self._features(episode.references[k], episode.flips[1 + k]).tokens)
                marked, kind = annotate(self._images, episode, k), episode.kinds[k]
                weights.append(annotation_weights(marked, kind, self._vrp.grid, self._vrp.rasterisation).flatten())
                kinds.append(KINDS.index(kind))
        targets, embedding = stack([self._features(e.target, e.flips[0]) for e in episodes], self._device)
        truth, counted = zip(*(self._truth(e) for e in episodes), strict=True)
        shape = (len(episodes), most)
        return Batch(
            torch.stack(tokens).unflatten(0, shape).to(self._device, torch.float32),
            torch.stack(weights).unflatten(0, shape).to(self._device),
            torch.tensor(kinds, device=self._device).unflatten(0, shape),
            targets,
            embedding,
            torch.stack(truth).to(self._device),
            torch.stack(counted).to(self._device),
            torch.tensor([float(not e.absent) for e in episodes], device=self._device),
        )

    def loss(
        self, model: VisualReferencePrompt, rng: np.random.Generator, batch: Batch
    ) -> tuple[Tensor, dict[str, float]]:
        """Loss of a batch, and numbers for the log."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))  # dropout depends on the step alone, too
            decoded = self._decode(model, batch)
        logits = decoded.mask_logits
        if logits.shape[-1] != batch.truth.shape[-1]:
            size = batch.truth.shape[-2:]
            logits = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
        masks = mask_loss(logits, batch.truth, batch.counted, self._config.loss)
        presence = F.binary_cross_entropy_with_logits(decoded.object_score, batch.present)
        loss = masks + self._config.presence_weight * presence
        return loss, {"mask_loss": float(masks.detach()), "presence_loss": float(presence.detach())}

    @torch.no_grad()
    def validate(
        self, model: VisualReferencePrompt, episodes: Sequence[Episode], names: Mapping[int, str]
    ) -> SemanticAccuracy:
        """mIoU of episodes of one reference, at the size of the targets."""
        counts = []
        for episode, mask in zip(episodes, self._predict(model, episodes), strict=True):
            truth = self._images.mask(episode.target, episode.class_id)
            counts.append(list(asdict(count_pixels(mask, truth, self._images.ignored(episode.target))).values()))
        ids = [episode.class_id for episode in episodes]
        return summarise_episodes(ids, np.array(counts), {c: names[c] for c in sorted(set(ids))})

    @torch.no_grad()
    def draw(self, model: VisualReferencePrompt, episodes: Sequence[Episode], names: Mapping[int, str]) -> Image.Image:
        """A contact sheet of episodes."""
        rows, colours = [], {"marked": (255, 140, 0), "truth": (40, 160, 60), "found": (40, 110, 230)}
        for episode, found in zip(episodes, self._predict(model, episodes), strict=True):
            target = self._images.image(episode.target)
            shown = _shown(episode, self._config)
            reference, flat = self._images.image(episode.references[0]), annotate(self._images, shown, 0)
            truth = self._images.mask(episode.target, episode.class_id)
            cells = ((reference, flat, "marked"), (target, truth, "truth"), (target, found, "found"))
            rows.append([draw_instances(image, mask[None], [name], colours, size=220) for image, mask, name in cells])
        title = f"Validation: {', '.join(sorted({names[e.class_id] for e in episodes}))}"
        return contact_sheet(rows, ["reference", "truth", "found"], colours, title)

    def _predict(self, model: VisualReferencePrompt, episodes: Sequence[Episode]) -> Iterator[np.ndarray]:
        model.eval()
        for start in range(0, len(episodes), self._config.batch):
            some = episodes[start : start + self._config.batch]
            batch = self.batch([_shown(episode, self._config) for episode in some])
            for logits, episode in zip(self._decode(model, batch).mask_logits, some, strict=True):
                yield draw_masks(logits[None], self._images.size(episode.target))[0].cpu().numpy()

    def _decode(self, model: VisualReferencePrompt, batch: Batch) -> Decoded:
        prompts = model.prompt(model.encode_references(batch.tokens, batch.weights, batch.kinds), batch.targets)
        return self._store.segmenter.decode(batch.embedding, prompts.sparse, prompts.dense)

    def _features(self, image_id: int | str, flipped: bool) -> ImageFeatures:
        return self._store.get(image_id, lambda: self._images.image(image_id), flipped=flipped)

    def _truth(self, episode: TrainingEpisode) -> tuple[Tensor, Tensor]:
        """Covered shares and what counts, ``[s, s]``, of the target as it is mirrored."""
        truth = self._images.mask(episode.target, episode.class_id)
        ignored = self._images.ignored(episode.target)
        side = self._config.loss_side or self._store.segmenter.mask_side

        def shrink(mask: np.ndarray) -> Tensor:
            mask = np.ascontiguousarray(mask[:, ::-1]) if episode.flips[0] else mask
            return annotation_weights(mask, "mask", (side, side))

        counted = torch.ones(side, side) if ignored is None else (shrink(ignored) == 0).float()
        return shrink(truth), counted

    @property
    def _device(self) -> torch.device:
        return self._store.segmenter.device


def _shown(episode: Episode, config: TrainingConfig) -> TrainingEpisode:
    """An episode of the validation, as one of the training: unmirrored, with one kind of annotation."""
    kind: Kind = "mask" if "mask" in config.kinds else config.kinds[0]
    shots = len(episode.references)
    return TrainingEpisode(
        episode.class_id, episode.target, episode.references, (kind,) * shots, (False,) * (1 + shots), False, (0, 0)
    )


def _validation_episodes(dataset: dict, split: ClassSplit, config: TrainingConfig) -> list[Episode]:
    usable = images_of_classes(dataset, split.validation, split.test)
    if not usable.with_class:
        raise TrainingError("no class of the validation is in two images or more: there is no way to choose the best")
    kept = {image for images in usable.with_class.values() for image in images}
    seen = {**dataset, "annotations": [a for a in dataset["annotations"] if a["image_id"] in kept]}
    return draw_episodes(seen, seen, usable.with_class, shots=1, seed=config.seed, count=config.validation_episodes)


def _warnings(split: ClassSplit, learned: ClassImages, names: Mapping[int, str]) -> list[str]:
    warnings = []
    if len(learned.with_class) < FEW_CLASSES:
        warnings.append(
            f"only {len(learned.with_class)} classes to learn from: below {FEW_CLASSES} a prompt tends to learn the "
            "classes rather than how to follow a reference; compare it with the prototypes before relying on it"
        )
    if left_out := [names[c] for c in split.train if c not in learned.with_class]:
        warnings.append(f"classes left out, for they are in fewer than two usable images: {', '.join(left_out)}")
    return warnings


def _identity(
    dataset: dict, split: ClassSplit, store: FeatureStore, config: TrainingConfig, vrp: VRPConfig
) -> dict[str, Any]:
    """Everything that decides the result."""
    images = [{key: value for key, value in image.items() if key != "path"} for image in dataset["images"]]
    return {
        "training": asdict(config),
        "vrp": asdict(vrp),
        "split": asdict(split),
        "data": fingerprint(images, dataset["annotations"]),
        "encoder": asdict(store.encoder.info),
        "segmenter": asdict(store.segmenter.info),
        "device": store.segmenter.device.type,
        "torch": torch.__version__,
        "version": __version__,
    }
