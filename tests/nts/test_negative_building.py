"""Negatives of images, with the shipped models on drawn scenes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_dataset import blobs

from nts.building import build_memory
from nts.cache import TensorCache
from nts.crops import CROP_PATCHES
from nts.images import normalise, stretch
from nts.masks import draw_masks
from nts.memory import Negative, instance_prototype
from nts.negative_building import NegativeEncoder, best_proposals
from nts.negatives import off_label_proposals, off_labels
from nts.presets import DEFAULT
from nts.references import Reference, prepare_reference
from nts.segmenter import Segmenter
from nts.segmenter.scales import propose_at_scales
from synthetic.scenes import NOVEL_SPECIES, Scene, draw_scene, species_name, target_scenes

SCENE = max(target_scenes(6), key=lambda scene: len(scene.masks))


def reference(k: int, **changes) -> Reference:
    return replace(Reference(SCENE.image, "a", SCENE.masks[k], sample_id="s", label_id=f"l{k}", file="f"), **changes)


@pytest.fixture
def negatives(small_encoder, small_segmenter) -> NegativeEncoder:
    return NegativeEncoder(small_encoder, small_segmenter, DEFAULT)


def stacked(found: list[Negative]) -> torch.Tensor:
    return F.normalize(torch.stack([negative.prototype for negative in found]), dim=1)


def crop_feature(encoder, mask: np.ndarray) -> torch.Tensor:
    side = CROP_PATCHES * encoder.patch_size
    pixels, weights = prepare_reference(Reference(SCENE.image, "a", mask), side, (CROP_PATCHES, CROP_PATCHES))
    prototype = instance_prototype(encoder.encode(pixels[None])[0].flatten(0, 1), weights.flatten())
    return F.normalize(prototype, dim=0)


def proposals(segmenter: Segmenter):
    pixels = normalise(stretch(SCENE.image, segmenter.input_size))
    return propose_at_scales(segmenter, pixels, segmenter.embed(pixels), DEFAULT.proposals)


def test_negatives_are_the_proposals_off_all_labels_embedded_as_references(negatives, small_encoder, small_segmenter):
    negatives.add_reference_image([reference(0), reference(1)])
    found = proposals(small_segmenter)
    masks = draw_masks(found.mask_logits, (256, 256))
    chosen = off_label_proposals(masks, found.predicted_iou, torch.from_numpy(SCENE.masks[:2]))
    assert len(negatives.negatives) == len(chosen) > 3
    for negative, row in list(zip(negatives.negatives, chosen.tolist(), strict=True))[:3]:
        assert torch.allclose(negative.prototype, crop_feature(small_encoder, masks[row].numpy()), atol=1e-4)
        assert negative.predicted_iou == pytest.approx(float(found.predicted_iou[row]))
        about = (negative.source, negative.sure, negative.sample_id, negative.label_id, negative.file)
        assert about == ("reference image", False, "s", "", "f")


def test_every_labelled_object_of_the_classes_is_excluded(negatives, small_encoder):
    """Chosen as a reference or not; without its label it would be a negative."""
    other = crop_feature(small_encoder, SCENE.masks[1])
    negatives.add_reference_image([reference(0)])
    alone = len(negatives.negatives)
    nearest = float((stacked(negatives.negatives) @ other).max())
    negatives.add_reference_image([reference(0)], labelled=[SCENE.masks[1]])
    excluded = negatives.negatives[alone:]
    assert nearest > 0.8
    assert float((stacked(excluded) @ other).max()) < nearest
    assert 0 < len(excluded) < alone


def test_in_completely_labelled_images_negatives_are_sure(negatives):
    negatives.add_reference_image([reference(0)], complete=True)
    assert negatives.negatives
    assert all(negative.sure for negative in negatives.negatives)


def test_labelled_objects_of_other_classes_are_sure_negatives_themselves(negatives, small_encoder, small_segmenter):
    negatives.add_reference_image([reference(0)], others=SCENE.masks[1:3])
    sure = [negative for negative in negatives.negatives if negative.source == "other class"]
    assert len(sure) == 2
    found = proposals(small_segmenter)
    drawn, labels = draw_masks(found.mask_logits, (256, 256)), torch.from_numpy(SCENE.masks[1:3])
    proposed = best_proposals(drawn, found.predicted_iou, labels)[:, 0].tolist()
    for negative, mask, predicted in zip(sure, SCENE.masks[1:3], proposed, strict=True):
        assert torch.allclose(negative.prototype, crop_feature(small_encoder, mask), atol=1e-4)
        assert negative.predicted_iou == pytest.approx(predicted), "as SAM2 would propose it in a target"
        assert (negative.sure, negative.sample_id, negative.file) == (True, "s", "f")
    rest = [negative for negative in negatives.negatives if negative.source == "reference image"]
    assert rest
    assert not any(negative.sure for negative in rest)


def test_everything_in_a_background_image_is_a_negative(negatives, small_segmenter):
    negatives.add_background_image(SCENE.image, "b", "file")
    found = proposals(small_segmenter)
    masks = draw_masks(found.mask_logits, (256, 256))
    assert len(negatives.negatives) == len(off_label_proposals(masks, found.predicted_iou, masks[:0]))
    assert {(n.source, n.sure, n.sample_id, n.file) for n in negatives.negatives} == {
        ("background image", True, "b", "file")
    }


def test_rejected_predictions_are_negatives_of_their_label(negatives, small_encoder):
    negatives.add_rejected([reference(2), reference(0)])
    assert [negative.label_id for negative in negatives.negatives] == ["l2", "l0"]
    assert all((n.source, n.sure, n.predicted_iou) == ("rejected", True, 1.0) for n in negatives.negatives)
    expected = torch.stack([crop_feature(small_encoder, SCENE.masks[k]) for k in (2, 0)])
    assert torch.allclose(stacked(negatives.negatives), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["point", "scribble"])
def test_an_object_that_a_point_marks_is_no_negative(negatives, small_encoder, kind):
    """The pixels of a point cover next to nothing of any proposal of its object."""
    ys, xs = SCENE.masks[0].nonzero()
    mark = np.zeros_like(SCENE.masks[0])
    mark[ys[len(ys) // 2], xs[len(xs) // 2]] = True
    on_it = crop_feature(small_encoder, SCENE.masks[0])
    negatives.add_background_image(SCENE.image)
    anything = float((stacked(negatives.negatives) @ on_it).max())
    before = len(negatives.negatives)
    clicked = reference(0, mask=mark, kind=kind)
    assert negatives.add_reference_image([clicked], complete=True) == [clicked], "its best proposal is unknown"
    assert anything > 0.8
    assert float((stacked(negatives.negatives[before:]) @ on_it).max()) < anything


def test_references_learn_how_well_sam2_proposes_them(negatives, small_segmenter):
    references = negatives.add_reference_image([reference(0), reference(1)])
    found = proposals(small_segmenter)
    masks = draw_masks(found.mask_logits, (256, 256))
    for k, told in enumerate(references):
        label = torch.from_numpy(SCENE.masks[k])
        ious = [float((mask & label).sum() / (mask | label).sum()) for mask in masks]
        best = max(range(len(ious)), key=ious.__getitem__)
        assert told.label_id == f"l{k}"
        assert told.proposal_iou == pytest.approx(ious[best], abs=1e-6)
        assert told.predicted_iou == pytest.approx(float(found.predicted_iou[best]), abs=1e-6)


def test_best_proposals_equal_a_loop():
    generator = torch.Generator().manual_seed(0)
    masks, labels = (torch.rand(n, 9, 9, generator=generator) < 0.2 for n in (20, 5))
    quality = torch.rand(20, generator=generator)
    labels[3] = False
    found = best_proposals(masks, quality, labels)
    for label, (predicted, iou) in zip(labels, found.tolist(), strict=True):
        ious = [float((mask & label).sum() / (mask | label).sum()) for mask in masks]
        assert iou == pytest.approx(max(ious))
        if max(ious) > 0:
            assert predicted == pytest.approx(float(quality[ious.index(max(ious))]))
        else:
            assert np.isnan(predicted)
    none = best_proposals(masks[:0], quality[:0], labels)
    assert none[:, 0].isnan().all()
    assert none[:, 1].tolist() == [0] * 5
    assert best_proposals(masks, quality, labels[:0]).shape == (0, 2)


def test_a_reference_that_nothing_overlaps_has_no_predicted_iou(negatives):
    """A single pixel in the corner of a plain image: SAM2 proposes nothing there."""
    mask = np.zeros((256, 256), bool)
    mask[255, 255] = True
    plain = Reference(np.full((256, 256, 3), 127, np.uint8), "a", mask, sample_id="s", label_id="l")
    (told,) = negatives.add_reference_image([plain])
    assert told.proposal_iou < 0.5
    assert (told.predicted_iou is None) == (told.proposal_iou == 0)


def test_the_cache_gives_the_same_without_a_model(small_encoder, small_segmenter, tmp_path, monkeypatch):
    cache = TensorCache(tmp_path, 10**9)
    runs = []
    for _ in range(2):
        encoder = NegativeEncoder(small_encoder, small_segmenter, DEFAULT, cache)
        told = encoder.add_reference_image([reference(0), reference(1)])
        runs.append((encoder.negatives, [(each.predicted_iou, each.proposal_iou) for each in told]))

        def no_model(*_, **__):
            raise AssertionError("SAM2 ran")

        monkeypatch.setattr(Segmenter, "embed", no_model)
    (first, found), (second, found_again) = runs
    assert found == found_again
    assert torch.equal(stacked(first), stacked(second))
    for a, b in zip(first, second, strict=True):
        assert replace(a, prototype=b.prototype).__dict__ == b.__dict__


def test_keys_of_the_cache_change_with_the_proposals(small_encoder, small_segmenter):
    configs = [
        DEFAULT.proposals,
        *(replace(DEFAULT.proposals, **change) for change in ({"connected": False}, {"iou_threshold": 0.5})),
        replace(DEFAULT.proposals, scales=(0.5,)),
    ]
    presets = [replace(DEFAULT, proposals=config) for config in configs]
    keys = {NegativeEncoder(small_encoder, small_segmenter, each)._key(SCENE.image, [], []) for each in presets}
    assert len(keys) == len(configs)


def test_keys_of_the_cache_change_with_the_labels(negatives):
    one, two = SCENE.masks[:1], SCENE.masks[:2]
    keys = [
        negatives._key(SCENE.image, [], []),
        negatives._key(SCENE.image, list(one), []),
        negatives._key(SCENE.image, list(two), []),
        negatives._key(SCENE.image, [], list(one)),
        negatives._key(SCENE.image[::-1], list(one), []),
    ]
    assert len(set(keys)) == len(keys)
    assert negatives._key(SCENE.image.copy(), list(one.copy()), []) == keys[1]


# The whole memory


def test_a_memory_holds_negatives_and_proposals_by_default(small_encoder, small_segmenter):
    references = [reference(0), reference(1, class_name="b")]
    memory, _ = build_memory(
        references, small_encoder, segmenter=small_segmenter, background=[SCENE.image[::-1].copy()]
    )
    assert {negative.source for negative in memory.negatives} == {"reference image", "background image"}
    assert len({negative.image for negative in memory.negatives}) == 2, "the background image has a name"
    assert all(entry.proposal_iou is not None and entry.whole_prototype is not None for entry in memory.entries)


@pytest.mark.parametrize("preset", ["paper", DEFAULT.without("negatives")], ids=["paper", "without"])
def test_other_presets_build_memories_without_negatives(small_encoder, small_segmenter, preset):
    memory, _ = build_memory([reference(0)], small_encoder, preset, segmenter=small_segmenter)
    assert memory.negatives == ()
    assert memory.entries[0].proposal_iou is None
    assert (memory.entries[0].whole_prototype is None) == (preset == "paper")


def test_without_a_segmenter_there_are_no_negatives(small_encoder):
    assert build_memory([reference(0)], small_encoder, segmenter=None)[0].negatives == ()


def test_references_without_ids_have_proposals_of_their_own(small_encoder, small_segmenter):
    references = [Reference(SCENE.image, "a", mask) for mask in SCENE.masks[:3]]
    named = [reference(k) for k in range(3)]
    found, expected = (build_memory(each, small_encoder, segmenter=small_segmenter)[0] for each in (references, named))
    assert [entry.label_id for entry in found.entries] == [""] * 3
    assert [entry.proposal_iou for entry in found.entries] == [entry.proposal_iou for entry in expected.entries]
    assert len({entry.proposal_iou for entry in found.entries}) == 3


def test_skipped_references_are_named_as_they_were_given(small_encoder, small_segmenter):
    broken = Reference(SCENE.image, "a", SCENE.masks[0], box=(900.0, 900.0, 5.0, 5.0))
    contradicting = Reference(SCENE.image, "b", SCENE.masks[1]), Reference(SCENE.image, "c", SCENE.masks[1])
    good = Reference(SCENE.image, "a", SCENE.masks[2])
    memory, skipped = build_memory([broken, *contradicting, good], small_encoder, segmenter=small_segmenter)
    assert [each.label_id for each in skipped] == [""] * 3
    assert len(memory) == 1


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Six objects of four species."""
    return draw_scene([5, 0], NOVEL_SPECIES[:4])


@pytest.fixture
def encoder(small_encoder, small_segmenter) -> NegativeEncoder:
    return NegativeEncoder(small_encoder, small_segmenter, DEFAULT)


def annotated(scene: Scene, mask: np.ndarray, kind: str = "mask", label_id: str = "label") -> Reference:
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
    encoder.add_reference_image([annotated(scene, first)], rest[:1], rest[1:])
    sources = [(negative.source, negative.sure) for negative in encoder.negatives]
    assert sources.count(("other class", True)) == len(rest) - 1 == 4
    assert set(sources) <= {("other class", True), ("reference image", False)}

    everywhere = np.ones_like(first)
    encoder.negatives.clear()
    encoder.add_reference_image([annotated(scene, first)], [everywhere], rest)
    assert encoder.negatives == [], "a label of another class on a label of the class is no negative of it"


def test_complete_labels_make_negatives_sure_unless_an_extent_is_unknown(scene, encoder):
    encoder.add_reference_image([annotated(scene, scene.masks[0])], list(scene.masks[1:]), complete=True)
    assert encoder.negatives
    assert all(negative.sure for negative in encoder.negatives)
    encoder.negatives.clear()
    point = np.zeros_like(scene.masks[1])
    point[tuple(np.argwhere(scene.masks[1])[0])] = True
    encoder.add_reference_image([annotated(scene, scene.masks[0])], marked=[point], complete=True)
    assert encoder.negatives
    assert not any(negative.sure for negative in encoder.negatives)


@pytest.mark.parametrize("kind", ["point", "scribble"])
def test_no_proposal_that_holds_a_mark_becomes_a_negative(scene, encoder, kind):
    """Marks on every fourth pixel meet all proposals but the smallest."""
    first = scene.masks[0]
    marks = np.zeros_like(first)
    marks[::4, ::4] = True
    encoder.add_reference_image([annotated(scene, first)])
    assert encoder.negatives
    encoder.negatives.clear()
    encoder.add_reference_image([annotated(scene, first)], marked=[marks])
    assert encoder.negatives == []
    encoder.add_reference_image([annotated(scene, marks, kind)])
    assert encoder.negatives == []
    encoder.add_reference_image([annotated(scene, first)], others=[scene.masks[1]], marked=[marks])
    assert encoder.negatives == [], "the label of another class holds marks of the class"


def test_how_well_a_point_is_proposed_is_unknown(scene, encoder, small_encoder):
    from nts.building import encode_references

    point = np.zeros_like(scene.masks[1])
    point[tuple(np.argwhere(scene.masks[1])[0])] = True
    references = [annotated(scene, point, "point", "clicked"), annotated(scene, scene.masks[0], label_id="outlined")]
    clicked, outlined = encode_references(encoder.add_reference_image(references), small_encoder, DEFAULT)
    assert (clicked.predicted_iou, clicked.proposal_iou) == (None, None)
    assert outlined.predicted_iou is not None
    assert outlined.proposal_iou > 0.3


def test_another_label_in_an_image_proposes_nothing_again(scene, small_encoder, small_segmenter, tmp_path, monkeypatch):
    def negatives(masks, cache=None) -> NegativeEncoder:
        made = NegativeEncoder(small_encoder, small_segmenter, DEFAULT, cache)
        made.add_reference_image([annotated(scene, mask, label_id=str(k)) for k, mask in enumerate(masks)])
        return made

    cache = TensorCache(tmp_path, 10**9)
    expected, one = negatives(scene.masks[:2]), negatives(scene.masks[:1], cache)
    monkeypatch.setattr(small_segmenter, "embed", None)
    two = negatives(scene.masks[:2], cache)
    assert len(two.negatives) == len(expected.negatives) > 0
    assert len(one.negatives) != len(two.negatives)
    for found, other in zip(two.negatives, expected.negatives, strict=True):
        assert torch.equal(found.prototype, other.prototype)
        assert found.predicted_iou == other.predicted_iou
