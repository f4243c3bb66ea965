"""Negatives of images: which proposals and labels become negatives, and which of them are sure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_dataset import blobs

from nts.negative_building import NegativeEncoder
from nts.negatives import off_label_proposals, off_labels
from nts.presets import DEFAULT
from nts.references import Reference
from synthetic.scenes import NOVEL_SPECIES, Scene, draw_scene, species_name


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Six objects of four species."""
    return draw_scene([5, 0], NOVEL_SPECIES[:4])


@pytest.fixture
def encoder(small_encoder, small_segmenter) -> NegativeEncoder:
    return NegativeEncoder(small_encoder, small_segmenter, DEFAULT)


def reference(scene: Scene, mask: np.ndarray, kind: str = "mask", label_id: str = "label") -> Reference:
    return Reference(scene.image, species_name(NOVEL_SPECIES[0]), mask, kind=kind, sample_id="s", label_id=label_id)


def slowly_chosen(masks, predicted_iou, labelled, marked) -> list[int]:
    """One proposal after the other, with sets of pixels."""

    def pixels(mask) -> set[int]:
        return set(np.flatnonzero(mask).tolist())

    labels, marks = [pixels(label) for label in labelled], pixels(marked)
    everything = set().union(*labels)
    usable = []
    for number, mask in enumerate(masks):
        own = pixels(mask)
        if not own or not np.isfinite(predicted_iou[number]) or own & marks or len(own & everything) >= 0.2 * len(own):
            continue
        if any(len(own & label) >= 0.2 * len(own | label) for label in labels):
            continue
        usable.append((number, own))
    usable.sort(key=lambda item: -predicted_iou[item[0]])
    chosen: list[tuple[int, set[int]]] = []
    for number, own in usable:
        if all(len(own & other) <= 0.6 * len(own | other) for _, other in chosen):
            chosen.append((number, own))
    return [number for number, _ in chosen]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("labels", [0, 1, 4])
def test_chosen_proposals_are_those_of_a_slow_version(seed, labels):
    rng = np.random.default_rng(seed)
    masks = np.array(blobs(rng, 30, 24, 20) + [np.zeros((24, 20), bool)])
    predicted_iou = rng.permutation(31).astype(np.float32) / 31
    predicted_iou[4] = np.nan
    labelled = np.array(blobs(rng, labels, 24, 20)).reshape(-1, 24, 20).astype(bool)
    marked = np.zeros((24, 20), bool)
    marked[rng.integers(0, 24, 3), rng.integers(0, 20, 3)] = True
    args = [torch.from_numpy(value) for value in (masks, predicted_iou, labelled, marked)]
    assert off_label_proposals(*args).tolist() == slowly_chosen(masks, predicted_iou, labelled, marked)
    nothing = np.zeros_like(marked)
    assert off_label_proposals(*args[:3]).tolist() == slowly_chosen(masks, predicted_iou, labelled, nothing)
    whole = torch.ones(1, 24, 20, dtype=torch.bool)
    assert off_label_proposals(*args[:2], torch.cat([args[2], whole])).tolist() == []


def test_a_label_lies_off_others_if_it_shares_little_with_them():
    label = torch.zeros(1, 10, 10, dtype=torch.bool)
    label[0, :5] = True
    head, beside, touching = torch.zeros(3, 10, 10, dtype=torch.bool)
    head[0, :2], beside[6:], touching[4:] = True, True, True
    assert off_labels(torch.stack([head, beside, touching]), label).tolist() == [False, True, True]
    assert off_labels(torch.stack([head]), label[:0]).tolist() == [True]


def test_everything_labelled_is_left_out_and_other_classes_are_sure_negatives(scene, encoder):
    first, *rest = scene.masks
    encoder.add_reference_image([reference(scene, first)], rest[:1], rest[1:])
    sources = [(negative.source, negative.sure) for negative in encoder.negatives]
    assert sources.count(("other class", True)) == len(rest) - 1 == 4
    assert set(sources) <= {("other class", True), ("reference image", False)}

    everywhere = np.ones_like(first)
    encoder.negatives.clear()
    encoder.add_reference_image([reference(scene, first)], [everywhere], rest)
    assert encoder.negatives == [], "a label of another class on a label of the class is no negative of it"


def test_complete_labels_make_negatives_sure_unless_an_extent_is_unknown(scene, encoder):
    encoder.add_reference_image([reference(scene, scene.masks[0])], list(scene.masks[1:]), complete=True)
    assert encoder.negatives
    assert all(negative.sure for negative in encoder.negatives)
    encoder.negatives.clear()
    point = np.zeros_like(scene.masks[1])
    point[tuple(np.argwhere(scene.masks[1])[0])] = True
    encoder.add_reference_image([reference(scene, scene.masks[0])], marked=[point], complete=True)
    assert encoder.negatives
    assert not any(negative.sure for negative in encoder.negatives)


@pytest.mark.parametrize("kind", ["point", "scribble"])
def test_no_proposal_that_holds_a_mark_becomes_a_negative(scene, encoder, kind):
    """Marks on every fourth pixel meet all proposals but the smallest."""
    first = scene.masks[0]
    marks = np.zeros_like(first)
    marks[::4, ::4] = True
    encoder.add_reference_image([reference(scene, first)])
    assert encoder.negatives
    encoder.negatives.clear()
    encoder.add_reference_image([reference(scene, first)], marked=[marks])
    assert encoder.negatives == []
    encoder.add_reference_image([reference(scene, marks, kind)])
    assert encoder.negatives == []
    encoder.add_reference_image([reference(scene, first)], others=[scene.masks[1]], marked=[marks])
    assert encoder.negatives == [], "the label of another class holds marks of the class"


def test_how_well_a_point_is_proposed_is_unknown(scene, encoder, small_encoder):
    from nts.building import encode_references

    point = np.zeros_like(scene.masks[1])
    point[tuple(np.argwhere(scene.masks[1])[0])] = True
    references = [reference(scene, point, "point", "clicked"), reference(scene, scene.masks[0], label_id="outlined")]
    encoder.add_reference_image(references)
    clicked, outlined = map(encoder.completed, encode_references(references, small_encoder, DEFAULT))
    assert (clicked.predicted_iou, clicked.proposal_iou) == (None, None)
    assert outlined.predicted_iou is not None
    assert outlined.proposal_iou > 0.3
