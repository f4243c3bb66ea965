"""mIoU and FB-IoU of every list of episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.annotated_images import MASKS, AnnotatedImages
from ..datasets.coco_records import has_mask, of_images
from ..datasets.episodes import EPISODES_PER_FOLD, Episode, EpisodeImages, draw_episodes, write_episodes
from ..datasets.protocol_data import ProtocolData
from ..images import ImageError
from ..metrics.miou import summarise_episodes
from ..utils.run_folder import RunError, lines_array, read_lines, read_parts
from .episode_evaluation import evaluate_episodes
from .predictors import PROMPTED_SCORERS, TRAINING_FREE, make_predictor
from .protocol_run import Clock, Draw, Part, ProtocolRun
from .shared_encodings import SharedPipeline


class EpisodeRun(ProtocolRun):
    """Run of a protocol of episodes: mIoU and FB-IoU, per list of episodes."""

    @cached_property
    def shown(self) -> tuple[dict, dict]:
        """References and targets, without annotations that have no mask."""
        return with_masks(self.data.references), with_masks(self.data.targets)

    def _notes(self) -> list[str]:
        without = len(self.data.targets["annotations"]) - len(self.shown[1]["annotations"])
        told = [f"{without} annotations of the targets have no mask, and were left out."] if without else []
        return [*self.data.notes, *told]

    def _notes_of_parts(self, parts: Sequence[Path]) -> list[str]:
        if not (labels := set(read_lines(parts, "not_promoted"))):
            return []
        return [f"SAM2 predicted no mask for {len(labels)} references, which were shown as annotated."]

    @cached_property
    def episodes(self) -> dict[Draw, list[Episode]]:
        data, settings = self.data, self.settings
        return {
            draw: draw_episodes(
                *self.shown,
                data.class_ids,
                shots=draw.shots,
                seed=draw.seed or 0,
                count=settings.episodes,
            )[: settings.limit]
            for draw in settings.draws
        }

    def deviations(self) -> list[str]:
        asked, found = self.settings.episodes, super().deviations()
        if self.settings.predictor != TRAINING_FREE:
            found.insert(0, f"by the predictor {self.settings.predictor!r}")
        if self.settings.annotation != MASKS:
            found.insert(0, f"references annotated by {self.settings.annotation}")
        drawn = asked if self.settings.limit is None else min(asked, self.settings.limit)
        if drawn < asked:
            return [f"limited to the first {drawn} of {asked} episodes", *found]
        return found if asked == EPISODES_PER_FOLD else [f"{asked} episodes instead of {EPISODES_PER_FOLD}", *found]

    @cached_property
    def units(self) -> list[int | str]:
        targets = {episode.target for episodes in self.episodes.values() for episode in episodes}
        return [image["id"] for image in self.data.targets["images"] if image["id"] in targets]

    def drawn(self) -> Any:
        return {draw.key: [asdict(episode) for episode in episodes] for draw, episodes in self.episodes.items()}

    def config(self) -> dict[str, Any]:
        settings = self.settings
        if settings.save_predictions:
            raise RunError("only runs of instances can save predictions, not episodes: leave --save-predictions out")
        return super().config() | {
            "episodes": settings.episodes,
            "threshold": settings.used_threshold,
            "side": settings.side,
            "predictor": settings.predictor,
            "annotation": str(settings.annotation),
            "prompt": None if settings.prompt is None else settings.prompt.fingerprint,
        }

    def prepare(self, progress: Callable[[str], None]) -> None:
        """Write the lists of episodes, and build the predictor."""
        (self.folder / "episodes").mkdir(exist_ok=True)
        for draw, episodes in self.episodes.items():
            path = self.folder / "episodes" / f"{draw.key}.json"
            write_episodes(path, episodes, protocol=self.settings.protocol.name, shots=draw.shots, seed=draw.seed)
        if self.settings.prompt is not None:
            self.settings.prompt.check_novel(self.classes.values())
        self._make_predictor()
        progress(f"{sum(map(len, self.episodes.values()))} episodes on {len(self.units)} images")

    def shared(self) -> tuple[ProtocolData, dict[Draw, list[Episode]]]:
        shown = {image for episodes in self.episodes.values() for episode in episodes for image in episode.references}
        references, targets = of_images(self.data.references, shown), of_images(self.data.targets, self.units)
        return replace(self.data, references=references, targets=targets), self.episodes

    def use(self, prepared: dict[Draw, list[Episode]]) -> None:
        self.episodes = prepared
        self._make_predictor()

    def _make_predictor(self) -> None:
        settings, preset = self.settings, self.settings.preset
        self.pipeline = SharedPipeline(
            self.encoder, self.segmenter, preset, self.cache, for_prompts=settings.predictor in PROMPTED_SCORERS
        )
        self.predictor = make_predictor(
            settings.predictor,
            self.encoder,
            self.segmenter,
            preset,
            settings.used_threshold,
            prompt=settings.prompt,
            pipeline=self.pipeline,
        )
        images = EpisodeImages(self.shown[0], exif=preset.exif)
        self.reference_images = AnnotatedImages(images, settings.annotation, segmenter=self.segmenter, cache=self.cache)
        of_pipeline = settings.predictor == TRAINING_FREE or settings.predictor in PROMPTED_SCORERS
        self.targets_per_batch = self.pipeline.images_per_batch if of_pipeline else 1
        self.target_images = EpisodeImages(self.shown[1], exif=preset.exif, keep=self.targets_per_batch)

    def evaluate(self, units: Sequence[int | str], tick: Callable[[], Any]) -> Part:
        by_target: dict[int | str, list[tuple[int, int, Episode]]] = {unit: [] for unit in units}
        for d, episodes in enumerate(self.episodes.values()):
            for number, episode in enumerate(episodes):
                if episode.target in by_target:
                    by_target[episode.target].append((d, number, episode))
        rows, skipped, clock, cached_before = [], [], Clock(), self.pipeline.from_cache
        targets = list(by_target)
        for k, on_target in enumerate(by_target.values()):
            clock.start()
            if self.targets_per_batch > 1 and k % self.targets_per_batch == 0:
                self._encode_together(targets[k : k + self.targets_per_batch])
            asked = [episode for _, _, episode in on_target]
            outcomes = evaluate_episodes(
                asked, self.reference_images, self.target_images, self.predictor, side=self.settings.side
            )
            for (d, number, _), outcome in zip(on_target, outcomes, strict=True):
                rows.append([d, number, *asdict(outcome.counts).values()])
                if outcome.error:
                    skipped.append(f"episode {number} of {self.settings.draws[d].key}: {outcome.error}")
            self.pipeline.store()
            clock.lap("all", self.encoder.device)
            tick()
        return Part(
            {
                "episodes": np.array(rows, np.int64).reshape(-1, 6),
                "skipped": lines_array(skipped),
                "not_promoted": lines_array(sorted(self.reference_images.not_promoted)),
                "from_cache": np.array([self.pipeline.from_cache - cached_before]),
                "seconds": clock.seconds,
            }
        )

    def _encode_together(self, targets: Sequence[int | str]) -> None:
        """Encode the next targets in the pipeline; those that cannot be read are told of by their episodes."""
        images = []
        for target in targets:
            with suppress(ImageError):
                images.append(self.target_images.image(target))
        self.pipeline.encode_together(images)

    def numbers(self, parts: Sequence[Path]) -> dict[str, Any]:
        counts = np.concatenate(read_parts(parts, "episodes"))
        draws = []
        for d, (draw, episodes) in enumerate(self.episodes.items()):
            class_ids = [episode.class_id for episode in episodes]
            accuracy = summarise_episodes(class_ids, counts_of_draw(counts, d), self.classes)
            draws.append(
                {
                    "shots": draw.shots,
                    "seed": draw.seed,
                    "references": draw.shots * len(episodes),
                    "without_reference": list(accuracy.without_episodes),
                    "figures": {"miou": 100 * accuracy.miou, "fb-iou": 100 * accuracy.fb_iou},
                    "per_class": {name: {"iou": 100 * value} for name, value in accuracy.per_class.items()},
                    "episodes": accuracy.episodes,
                }
            )
        settings = self.settings
        size = "the image's own size" if settings.side is None else f"{settings.side} x {settings.side} pixels"
        return self.common_numbers(parts, draws) | {
            "unit": "episodes",
            "images": len(next(iter(self.episodes.values()))),
            "all_images": settings.episodes,
            "objects": None,
            "diagnostics": None,
            "errors": [],
            "skipped_references": [],
            "per_class_figures": ["iou"],
            "conventions": {
                "predictor": f"`{settings.predictor}`, references annotated by {settings.annotation}",
                **(
                    {"painted": f"instances of a score of at least {settings.used_threshold}"}
                    if settings.predictor == TRAINING_FREE
                    else {"found": f"pixels of a normalised prior of at least {settings.used_threshold}"}
                ),
                "masks compared at": size,
            },
            "notes": [*self._notes(), *self._notes_of_parts(parts)],
        }


def with_masks(dataset: dict) -> dict:
    """A COCO dataset without the annotations that have no mask."""
    return {**dataset, "annotations": [a for a in dataset["annotations"] if has_mask(a)]}


def counts_of_draw(rows: np.ndarray, draw: int) -> np.ndarray:
    """Counts of one draw by number of the episode, int64 ``[E, 4]``, from rows of draw, number and four counts."""
    rows = rows[rows[:, 0] == draw]
    return rows[rows[:, 1].argsort()][:, 2:]
