"""Images with simulated annotations of their references."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_episodes import drawn_pair

from nts.datasets.annotated_images import ANNOTATIONS, AnnotatedImages, Annotation, parse_annotations
from nts.datasets.episodes import EpisodeImages


@pytest.fixture(scope="module")
def images() -> tuple[EpisodeImages, EpisodeImages]:
    return drawn_pair()


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_every_row_and_episode_sees_the_same_annotation_of_an_image(images, small_segmenter, annotation):
    references, _ = images
    first, again = (AnnotatedImages(references, annotation, segmenter=small_segmenter) for _ in range(2))
    again.reference("reference 7", 3)  # earlier requests have no effect
    shown = [of.reference("reference 1", 1) for of in (first, again, first)]
    assert all(np.array_equal(shown[0].mask, other.mask) for other in shown)
    assert len({other.label_id for other in shown}) == 1
    assert shown[0].promoted is annotation.promoted
    assert shown[0].kind == annotation.kind
    if annotation.kind in ("point", "scribble"):
        other = AnnotatedImages(references, annotation, seed=1, segmenter=small_segmenter)
        if not annotation.promoted:
            assert not np.array_equal(other.reference("reference 1", 1).mask, shown[0].mask)


def test_annotations_are_stable_and_have_their_own_ids(images):
    masks = AnnotatedImages(images[0], Annotation()).reference("reference 1", 1)
    assert masks.label_id == images[0].reference("reference 1", 1).label_id
    assert np.array_equal(masks.mask, images[0].mask("reference 1", 1))
    points = AnnotatedImages(images[0], Annotation("point")).reference("reference 1", 1)
    assert points.label_id == "reference 1/1/point"
    assert points.mask.sum() == 20
    assert not (points.mask & ~masks.mask).any()
    assert np.flatnonzero(points.mask)[:3].tolist() == [12578, 13096, 13352]


def test_a_promoted_box_is_nearer_to_the_mask_than_the_box(images, small_segmenter):
    def overlap(annotation: Annotation) -> float:
        shown = AnnotatedImages(images[0], annotation, segmenter=small_segmenter)
        found = []
        for image in images[0].dataset["annotations"]:
            mask = images[0].mask(image["image_id"], image["category_id"])
            marked = shown.reference(image["image_id"], image["category_id"]).mask
            found.append((mask & marked).sum() / (mask | marked).sum())
        return float(np.mean(found))

    assert overlap(Annotation("box", True)) > overlap(Annotation("box")) + 0.1


def test_a_reference_of_which_sam2_draws_nothing_is_shown_as_it_was_annotated(images, small_segmenter, monkeypatch):
    monkeypatch.setattr("nts.datasets.annotated_images.promote", lambda references, *_: iter(references))
    shown = AnnotatedImages(images[0], Annotation("box", True), segmenter=small_segmenter)
    raw = AnnotatedImages(images[0], Annotation("box")).reference("reference 1", 1)
    for _ in range(2):
        assert np.array_equal(shown.reference("reference 1", 1).mask, raw.mask)
    assert shown.not_promoted == {"reference 1/1/box promoted"}


def test_annotations_are_told_in_words():
    assert parse_annotations(["box promoted", "mask", "mask"]) == (Annotation("box", True), Annotation())
    assert [Annotation.parse(str(annotation)) for annotation in ANNOTATIONS] == list(ANNOTATIONS)
    for words, message in (
        ("line", "no kind of annotation 'line'"),
        ("box drawn", "is not an annotation"),
        ("mask promoted", "cannot be promoted"),
    ):
        with pytest.raises(ValueError, match=message):
            Annotation.parse(words)
    with pytest.raises(ValueError, match="promoted by a segmenter, and there is none"):
        AnnotatedImages(None, Annotation("box", True))
