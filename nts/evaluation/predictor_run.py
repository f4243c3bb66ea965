"""The table of heads on one's own data set: novel classes against base classes, of COCO files or FiftyOne views.

Thresholds of the baselines are chosen on episodes of the base classes, other ones than the table's. The novel classes
are never looked at before the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..datasets.annotated_images import ANNOTATIONS, Annotation
from ..datasets.episodes import EncodedOnce, EpisodeImages, PaintedInstances, draw_episodes
from ..datasets.layouts import ProtocolData
from ..encoder import Encoder
from ..presets import Preset, get_preset
from ..segmenter import Segmenter
from ..utils.files import write_file
from ..vrp.prompt import TrainedPrompt
from .episode_run import with_masks
from .predictor_table import EpisodeList, HeadTable, Row, draw_lists, evaluate_heads, write_lists
from .predictors import (
    PRIOR_THRESHOLD,
    PRIOR_THRESHOLDS,
    PROMPTED_SCORERS,
    TRAINING_FREE,
    Baselines,
    GeometricPrompts,
    PromptedMap,
    ThresholdedPrior,
    Thresholds,
    choose_thresholds,
    default_threshold,
)
from .protocol_run import same_files

PAINT_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Scores to choose the threshold from, above which instances are painted."""
VRP = "VRP, map"


def head_rows(
    encoder: Encoder,
    segmenter: Segmenter,
    preset: str | Preset = "default",
    prompt: TrainedPrompt | None = None,
    validation: tuple[EpisodeImages, EpisodeImages, EpisodeList] | None = None,
    annotations: Sequence[Annotation] = ANNOTATIONS,
    *,
    side: int | None = None,
    progress: Callable[[str], Any] = lambda _: None,
) -> tuple[dict[str, Row], dict[str, dict[str, float]]]:
    """The thresholded prior, GP-SAM by points, box and both, and the training-free pipeline.

    With a reference prompt, its map, and the pipeline with the prompt as the scorer, alone and with the prototypes.
    Controls: the pipeline and the map, shown a wrong class; the map, shown nothing marked.

    Args:
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: of the pipeline.
        prompt: a trained reference prompt.
        validation: references, targets and episodes of *other* classes than those that are tested, to choose thresholds
            by: of the baselines for every kind of annotation by itself, of the pipeline by masks. The
            heads' own where ``None``.
        annotations: how references will be annotated.
        side: see :func:`~nts.datasets.episodes.evaluate_episodes`.
        progress: is told what happens.

    Returns:
        rows for :func:`~nts.evaluation.predictor_table.evaluate_heads`, and the thresholds of each in plain values.
    """
    baselines = Baselines(encoder, segmenter)
    makers: dict[str, Callable[[Thresholds], ThresholdedPrior | GeometricPrompts]] = {
        "prior": lambda threshold: ThresholdedPrior(baselines, threshold),
        "GP-SAM, points": lambda threshold: GeometricPrompts(baselines, "points", threshold),
        "GP-SAM, box": lambda threshold: GeometricPrompts(baselines, "box", threshold),
        "GP-SAM, both": lambda threshold: GeometricPrompts(baselines, "both", threshold),
    }

    rows: dict[str, Row] = {}
    told: dict[str, dict[str, float]] = {}
    for name, make in makers.items():
        thresholds: Thresholds = PRIOR_THRESHOLD
        told[name] = {"all": PRIOR_THRESHOLD}
        if validation is not None:
            progress(f"choosing the threshold of {name}")
            references, targets, episodes = validation
            thresholds = choose_thresholds(
                make,
                PRIOR_THRESHOLDS,
                episodes.episodes,
                references,
                targets,
                annotations,
                segmenter=segmenter,
                side=side,
            )
            told[name] = {str(annotation): threshold for annotation, threshold in thresholds.items()}
        rows[name] = Row(make(thresholds))
    shared = EncodedOnce(encoder, segmenter, preset)
    scorers = {TRAINING_FREE: (TRAINING_FREE, "prototype")}
    if prompt is not None:
        scorers |= {f"{scorer} as scorer": (name, scorer) for name, scorer in PROMPTED_SCORERS.items()}
    for name, (head, scorer) in scorers.items():
        paint = partial(PaintedInstances, shared, scorer=scorer, prompt=prompt)
        threshold = default_threshold(head)
        if validation is not None:
            progress(f"choosing the threshold of {name}")
            references, targets, episodes = validation
            (threshold,) = choose_thresholds(
                paint, PAINT_THRESHOLDS, episodes.episodes, references, targets, [Annotation()], side=side
            ).values()
        told[name] = {"all": threshold}
        rows[name] = Row(paint(threshold))
    misled = [TRAINING_FREE]
    if prompt is not None:
        rows[VRP] = Row(PromptedMap(baselines, encoder, prompt))
        rows[f"{VRP}, empty reference"] = Row(PromptedMap(baselines, encoder, prompt, empty=True))
        misled.append(VRP)
    rows |= {f"{name}, wrong class": Row(rows[name].head, "wrong class") for name in misled}
    return rows, told


def compare_heads(
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
) -> HeadTable:
    """The table of all heads on a data set: of :func:`nts.datasets.layouts.load`, of
    :func:`~nts.datasets.layouts.protocol_data`, or of FiftyOne views
    (:func:`nts.fiftyone_adapter.importing.custom_data`).

    Args:
        data: its ``class_ids`` are the novel classes, its ``base_class_ids`` the base classes. Annotations without a
            mask are left out.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: how images are read, and of the pipeline.
        prompt: a trained reference prompt, for the heads that need one.
        shots: numbers of references.
        episodes: how many for each number of references and group of classes.
        validation_episodes: how many to choose thresholds by.
        annotations: how references are annotated.
        seed: of all draws.
        side: compare masks at so many pixels squared; at the target's own size where ``None``.
        draws: samples of the bootstrap.
        folder: for the table (``heads.json``, ``heads.md``) and the episodes; nothing is written without.
        progress: is told what happens.
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
            references.dataset,
            targets.dataset,
            data.base_class_ids,
            shots=1,
            seed=seed + 1,
            count=validation_episodes,
        )
        validation = references, targets, EpisodeList("base", 1, tuple(drawn))
    rows, thresholds = head_rows(
        encoder, segmenter, preset, prompt, validation, annotations, side=side, progress=progress
    )
    if folder is not None:
        write_lists(folder / "episodes", lists)
    for note in notes:
        progress(note)
    progress(f"{sum(len(of_list.episodes) for of_list in lists)} episodes")
    table = evaluate_heads(
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
            "thresholds_chosen_on": "base classes" if validation else "nothing: the heads' own",
            "notes": [*data.notes, *notes],
        },
        tick=tick,
    )
    if folder is not None:
        write_file(folder / "heads.json", table.to_json().encode())
        write_file(folder / "heads.md", table.to_markdown().encode())
    return table


def without_references_of_other_ids(data: ProtocolData) -> tuple[dict, list[str]]:
    """The targets without images that are references under another id, and a note of them.

    An episode takes no target as its own reference, but knows it by its id alone.
    """
    targets = data.targets
    if data.references is targets:
        return targets, []
    images = {image["id"]: image for image in data.references["images"]}
    twins = same_files(targets["images"], images.values())
    for image in targets["images"]:
        if image["id"] in twins and image["id"] in images and same_files([image], [images[image["id"]]]):
            twins.remove(image["id"])
    if not twins:
        return targets, []
    kept = {
        **targets,
        "images": [image for image in targets["images"] if image["id"] not in twins],
        "annotations": [a for a in targets["annotations"] if a["image_id"] not in twins],
    }
    return kept, [f"{len(twins)} images of the targets are references under another id, and were left out."]
