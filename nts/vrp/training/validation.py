"""Validation: mIoU and pictures of one-shot episodes of the validation classes.

These classes are neither trained on nor tested. (The published code chooses the best weights on the test classes.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import torch
from PIL import Image

from ...datasets.episodes import Episode, draw_episodes
from ...masks import draw_masks
from ...metrics.miou import SemanticAccuracy, count_pixels, summarise_episodes
from ...pictures import contact_sheet, draw_instances
from ...references import Kind
from ..model import VisualReferencePrompt
from .batches import Batches
from .classes import ClassSplit, images_of_classes
from .config import TrainingConfig, TrainingError
from .episodes import TrainingEpisode, annotate

_DRAWN = 4


class Validation:
    """Validation episodes of a training.

    Args:
        dataset: a COCO dataset.
        split: its classes.
        batches: of the training.
        config: its settings.

    Raises:
        TrainingError: if no validation class is in two images.
    """

    def __init__(self, dataset: dict, split: ClassSplit, batches: Batches, config: TrainingConfig) -> None:
        self._names: Mapping[int, str] = {category["id"]: category["name"] for category in dataset["categories"]}
        self._episodes = _draw(dataset, split, config)
        self._batches, self._batch_size = batches, config.batch
        self._kind: Kind = "mask" if "mask" in config.kinds else config.kinds[0]

    @torch.no_grad()
    def accuracy(self, model: VisualReferencePrompt) -> SemanticAccuracy:
        """mIoU at the size of the targets (VRP-SAM, Sec. 4.1)."""
        counts, images = [], self._batches.images
        for episode, mask in zip(self._episodes, self._predict(model, self._episodes), strict=True):
            truth = images.mask(episode.target, episode.class_id)
            counts.append(list(asdict(count_pixels(mask, truth, images.ignored(episode.target))).values()))
        ids = [episode.class_id for episode in self._episodes]
        return summarise_episodes(ids, np.array(counts), {c: self._names[c] for c in sorted(set(ids))})

    @torch.no_grad()
    def draw(self, model: VisualReferencePrompt) -> Image.Image:
        """Contact sheet of the first episodes: reference, truth, and predicted mask."""
        images, episodes = self._batches.images, self._episodes[:_DRAWN]
        rows, colours = [], {"marked": (255, 140, 0), "truth": (40, 160, 60), "found": (40, 110, 230)}
        for episode, found in zip(episodes, self._predict(model, episodes), strict=True):
            target = images.image(episode.target)
            reference, marked = images.image(episode.references[0]), annotate(images, self._as_training(episode), 0)
            truth = images.mask(episode.target, episode.class_id)
            cells = ((reference, marked, "marked"), (target, truth, "truth"), (target, found, "found"))
            rows.append([draw_instances(image, mask[None], [name], colours, size=220) for image, mask, name in cells])
        title = f"Validation: {', '.join(sorted({self._names[e.class_id] for e in episodes}))}"
        return contact_sheet(rows, ["reference", "truth", "found"], colours, title)

    def _predict(self, model: VisualReferencePrompt, episodes: Sequence[Episode]) -> Iterator[np.ndarray]:
        model.eval()
        for start in range(0, len(episodes), self._batch_size):
            chunk = episodes[start : start + self._batch_size]
            batch = self._batches.build([self._as_training(episode) for episode in chunk])
            for logits, episode in zip(self._batches.decode(model, batch).mask_logits, chunk, strict=True):
                yield draw_masks(logits[None], self._batches.images.size(episode.target))[0].cpu().numpy()

    def _as_training(self, episode: Episode) -> TrainingEpisode:
        """The episode as a training episode: not mirrored, with one kind of annotation."""
        shots = len(episode.references)
        return TrainingEpisode(
            episode.class_id,
            episode.target,
            episode.references,
            (self._kind,) * shots,
            (False,) * (1 + shots),
            False,
            (0, 0),
        )


def _draw(dataset: dict, split: ClassSplit, config: TrainingConfig) -> list[Episode]:
    usable = images_of_classes(dataset, split.validation, split.test)
    if not usable.with_class:
        raise TrainingError("no class of the validation is in two images or more: there is no way to choose the best")
    shown = {image for images in usable.with_class.values() for image in images}
    seen = {**dataset, "annotations": [a for a in dataset["annotations"] if a["image_id"] in shown]}
    return draw_episodes(seen, seen, usable.with_class, shots=1, seed=config.seed, count=config.validation_episodes)
