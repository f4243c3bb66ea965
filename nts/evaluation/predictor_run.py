"""Table of predictors on a data set: novel classes and base classes, of COCO files or FiftyOne views.

Thresholds are chosen on episodes of the base classes that are not the table's. Novel classes are used for the table
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..datasets.annotated_images import ANNOTATIONS, Annotation
from ..datasets.episode_lists import EpisodeList, draw_lists, write_lists
from ..datasets.episodes import EpisodeImages, draw_episodes
from ..datasets.protocol_data import ProtocolData, same_images
from ..encoder import Encoder
from ..presets import Preset, get_preset
from ..segmenter import Segmenter
from ..utils.files import write_file
from ..vrp.prompt import TrainedPrompt
from .baselines import PRIOR_THRESHOLD, PRIOR_THRESHOLDS, GeometricPrompts, ThresholdedPrior
from .episode_evaluation import Predictor
from .episode_run import with_masks
from .predictor_evaluation import Row, evaluate_predictors
from .predictor_table import PredictorTable
from .predictors import PROMPTED_SCORERS, TRAINING_FREE, PaintedInstances, PromptedMap, default_threshold
from .shared_encodings import SharedEncodings, SharedPipeline
from .thresholds import Thresholds, choose_thresholds

PAINT_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Candidates for the threshold of painted instances."""
VRP = "VRP, map"

Validation = tuple[EpisodeImages, EpisodeImages, EpisodeList]
"""References, targets and episodes of classes that are not tested."""


def predictor_rows(
    encoder: Encoder,
    segmenter: Segmenter,
    preset: str | Preset = "default",
    prompt: TrainedPrompt | None = None,
    validation: Validation | None = None,
    annotations: Sequence[Annotation] = ANNOTATIONS,
    *,
    side: int | None = None,
    progress: Callable[[str], Any] = lambda _: None,
) -> tuple[dict[str, Row], dict[str, dict[str, float]]]:
    """Rows of the table: the thresholded prior, GP-SAM by points, box and both, and the training-free pipeline.

    With a reference prompt also its map, and the pipeline with the prompt as the scorer, alone and combined with the
    prototypes. Controls: the pipeline and the map, shown a wrong class; the map, shown nothing marked.

    Args:
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: of the pipeline.
        prompt: a trained reference prompt.
        validation: to choose thresholds by: of the baselines for every kind of annotation, of the pipeline for masks.
            Default thresholds are used where ``None``.
        annotations: kinds of annotation of the references.
        side: see :func:`~nts.evaluation.episode_evaluation.evaluate_episodes`.
        progress: called with a message before each choice.

    Returns:
        Rows for :func:`~nts.evaluation.predictor_evaluation.evaluate_predictors`, and the thresholds of each by kind of
        annotation.
    """
    encodings = SharedEncodings(encoder, segmenter)
    rows: dict[str, Row] = {}
    used: dict[str, dict[str, float]] = {}

    def choose(
        name: str,
        make: Callable[[float], Predictor],
        candidates: Sequence[float],
        kinds: Sequence[Annotation],
        models: Segmenter | None,
    ) -> dict[Annotation, float] | None:
        if validation is None:
            return None
        progress(f"choosing the threshold of {name}")
        references, targets, episodes = validation
        return choose_thresholds(
            make, candidates, episodes.episodes, references, targets, kinds, segmenter=models, side=side
        )

    baselines: dict[str, Callable[[Thresholds], ThresholdedPrior | GeometricPrompts]] = {
        "prior": lambda threshold: ThresholdedPrior(encodings, threshold),
        "GP-SAM, points": lambda threshold: GeometricPrompts(encodings, "points", threshold),
        "GP-SAM, box": lambda threshold: GeometricPrompts(encodings, "box", threshold),
        "GP-SAM, both": lambda threshold: GeometricPrompts(encodings, "both", threshold),
    }
    for name, make in baselines.items():
        chosen = choose(name, make, PRIOR_THRESHOLDS, annotations, segmenter)
        used[name] = {"all": PRIOR_THRESHOLD} if chosen is None else {str(kind): t for kind, t in chosen.items()}
        rows[name] = Row(make(PRIOR_THRESHOLD if chosen is None else chosen))

    shared = SharedPipeline(encoder, segmenter, preset)
    scorers: dict[str, tuple[str, str]] = {TRAINING_FREE: (TRAINING_FREE, "prototype")}
    if prompt is not None:
        scorers |= {f"{scorer} as scorer": (name, scorer) for name, scorer in PROMPTED_SCORERS.items()}
    for name, (predictor, scorer) in scorers.items():
        paint = partial(PaintedInstances, shared, scorer=scorer, prompt=prompt)
        chosen = choose(name, paint, PAINT_THRESHOLDS, [Annotation()], None)
        threshold = default_threshold(predictor) if chosen is None else chosen[Annotation()]
        used[name] = {"all": threshold}
        rows[name] = Row(paint(threshold))

    misled = [TRAINING_FREE]
    if prompt is not None:
        rows[VRP] = Row(PromptedMap(encodings, prompt))
        rows[f"{VRP}, empty reference"] = Row(PromptedMap(encodings, prompt, empty=True))
        misled.append(VRP)
    rows |= {f"{name}, wrong class": Row(rows[name].predictor, "wrong class") for name in misled}
    return rows, used


def compare_predictors(
    data: ProtocolData,
    encoder: Encoder,
    segmenter: Segmenter,
    preset: str | Preset = "default",
    prompt: TrainedPrompt | None = None,
    *,
    shots: Sequence[int] = (1, 5),
    episodes: int = 200,
    validation_episodes: int = 50,
    annotations: Sequence[Annotation] = ANNOTATIONS,
    seed: int = 0,
    side: int | None = None,
    draws: int = 1000,
    folder: Path | None = None,
    progress: Callable[[str], Any] = lambda _: None,
    tick: Callable[[], Any] = lambda: None,
) -> PredictorTable:
    """Compare all predictors on a data set.

    Args:
        data: of :func:`nts.datasets.layouts.load`, :func:`~nts.datasets.protocol_data.protocol_data`, or FiftyOne views
            (:func:`nts.fiftyone_adapter.importing.custom_data`). Its ``class_ids`` are the novel classes, its
            ``base_class_ids`` the base classes. Annotations without a mask are left out.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: of the pipeline; its EXIF rule is that of all images.
        prompt: a trained reference prompt, for the predictors that need one.
        shots: numbers of references.
        episodes: per number of references and group of classes.
        validation_episodes: to choose thresholds by.
        annotations: kinds of annotation of the references.
        seed: of all draws.
        side: compare masks at ``side`` pixels squared; at the size of the target where ``None``.
        draws: samples of the bootstrap.
        folder: for the table (``predictors.json``, ``predictors.md``) and the episodes; nothing is written without.
        progress: called with messages.
        tick: called after every episode.

    Raises:
        ValueError: if a group of classes has too few images for a number of references.
        PromptMismatch: if the prompt was trained for other models, or on a novel class.
    """
    preset = get_preset(preset)
    if prompt is not None:
        names = {category["id"]: category["name"] for category in data.targets["categories"]}
        prompt.check_novel(names[class_id] for class_id in data.class_ids)
    usable, notes = without_references_of_other_ids(data)
    references = EpisodeImages(with_masks(data.references), exif=preset.exif, keep=64)
    targets = EpisodeImages(with_masks(usable), exif=preset.exif)
    groups = {"novel": data.class_ids} | ({"base": data.base_class_ids} if data.base_class_ids else {})
    lists = draw_lists(references, targets, groups, shots=shots, seed=seed, count=episodes)
    validation = None
    if data.base_class_ids:
        drawn = draw_episodes(
            references.dataset, targets.dataset, data.base_class_ids, shots=1, seed=seed + 1, count=validation_episodes
        )
        validation = references, targets, EpisodeList("base", 1, tuple(drawn))
    rows, thresholds = predictor_rows(
        encoder, segmenter, preset, prompt, validation, annotations, side=side, progress=progress
    )
    if folder is not None:
        write_lists(folder / "episodes", lists)
    for note in notes:
        progress(note)
    progress(f"{sum(len(of_list.episodes) for of_list in lists)} episodes")
    table = evaluate_predictors(
        references,
        targets,
        lists,
        groups,
        rows,
        annotations=annotations,
        segmenter=segmenter,
        seed=seed,
        side=side,
        against=TRAINING_FREE,
        draws=draws,
        about={
            "encoder": asdict(encoder.info),
            "segmenter": {"name": segmenter.name, "fingerprint": segmenter.fingerprint},
            "prompt": None if prompt is None else prompt.fingerprint,
            "preset": preset.name,
            "seed": seed,
            "side": side,
            "thresholds": thresholds,
            "thresholds_chosen_on": "base classes" if validation else "nothing: the predictors' defaults",
            "notes": [*data.notes, *notes],
        },
        tick=tick,
    )
    if folder is not None:
        write_file(folder / "predictors.json", table.to_json().encode())
        write_file(folder / "predictors.md", table.to_markdown().encode())
    return table


def without_references_of_other_ids(data: ProtocolData) -> tuple[dict, list[str]]:
    """Return the targets without images that are references under another id, and a note of their number.

    An episode never takes its target as a reference, but recognises it by its id alone.
    """
    targets = data.targets
    if data.references is targets:
        return targets, []
    images = {image["id"]: image for image in data.references["images"]}
    twins = same_images(targets["images"], images.values())
    for image in targets["images"]:
        if image["id"] in twins and image["id"] in images and same_images([image], [images[image["id"]]]):
            twins.remove(image["id"])
    if not twins:
        return targets, []
    others = {
        **targets,
        "images": [image for image in targets["images"] if image["id"] not in twins],
        "annotations": [a for a in targets["annotations"] if a["image_id"] not in twins],
    }
    return others, [f"{len(twins)} images of the targets are references under another id, and were left out."]
