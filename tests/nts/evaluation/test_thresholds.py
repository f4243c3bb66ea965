"""Choice of thresholds on validation episodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn_episodes import GROUPS, SPECIES

from nts.datasets.annotated_images import AnnotatedImages, Annotation
from nts.datasets.episodes import EpisodeImages, draw_episodes
from nts.evaluation.baselines import ThresholdedPrior
from nts.evaluation.thresholds import choose_threshold, choose_thresholds
from nts.references import Reference
from synthetic.scenes import species_name


def cut_at(images: EpisodeImages, best: float):
    """A predictor that is right at one threshold, and degrades with the distance from it."""

    def make(threshold: float):
        def predictor(references: list[Reference], target: np.ndarray) -> np.ndarray:
            found = np.zeros(target.shape[:2], bool)
            found[: int(len(found) * (1 - abs(threshold - best)))] = True
            return found

        return predictor

    return make


def test_the_best_threshold_is_chosen_and_the_lower_of_equals(images):
    references, targets = images
    episodes = draw_episodes(references.dataset, targets.dataset, GROUPS["base"], shots=1, seed=0, count=6)
    whole = EpisodeImages(
        {
            **targets.dataset,
            "annotations": [
                {**a, "segmentation": {"size": [256, 256], "counts": [0, 256 * 256]}}
                for a in targets.dataset["annotations"]
            ],
        },
        pixels={i["id"]: targets.image(i["id"]) for i in targets.dataset["images"]},
    )
    best, found = choose_threshold(cut_at(targets, 0.6), [0.9, 0.6, 0.3], episodes, references, whole)
    assert best == 0.6
    assert found[0.6] == 1.0
    assert found[0.9] == found[0.3] == pytest.approx(0.7, abs=0.01)
    assert choose_threshold(cut_at(targets, 0.6), [0.9, 0.3], episodes, references, whole)[0] == 0.3
    with pytest.raises(ValueError, match="needs some to choose from"):
        choose_threshold(cut_at(targets, 0.6), [], episodes, references, whole)


def test_thresholds_are_chosen_by_the_episodes_given_alone(images, encodings):
    references, targets = images
    asked = set()

    def make(threshold: float):
        def predictor(shown, target):
            asked.update(reference.class_name for reference in shown)
            return ThresholdedPrior(encodings, threshold)(shown, target)

        return predictor

    episodes = draw_episodes(references.dataset, targets.dataset, GROUPS["base"], shots=1, seed=0, count=4)
    annotations = (Annotation(), Annotation("point"))
    chosen = choose_thresholds(make, (0.5, 0.75), episodes, references, targets, annotations)
    assert set(chosen) == set(annotations)
    assert asked <= {species_name(SPECIES[class_id - 1]) for class_id in GROUPS["base"]}


def test_a_threshold_goes_by_the_annotation(encodings, images):
    target = images[1].image("target 1")
    mask = images[0].reference("reference 1", 1)
    box = AnnotatedImages(images[0], Annotation("box")).reference("reference 1", 1)
    predictor = ThresholdedPrior(encodings, {Annotation(): 0.9, Annotation("box", True): 0.6})
    assert np.array_equal(predictor([mask], target), ThresholdedPrior(encodings, 0.9)([mask], target))
    assert np.array_equal(predictor([box], target), ThresholdedPrior(encodings, 0.6)([box], target))
    with pytest.raises(ValueError, match="no threshold for references annotated by a point"):
        predictor([replace(mask, kind="point")], target)
