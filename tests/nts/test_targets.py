"""Cached targets give the same instances as the models' output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from novel_references import novel_references

import nts.masks
from nts.building import build_memory
from nts.cache import TensorCache
from nts.cache.targets import read_target, target_key, target_settings, write_target
from nts.encoder import Encoder
from nts.images import digest, digest_content, read_file
from nts.instances import Instances
from nts.masks import TILE, _tiles, crops_together, draw_crops, draw_masks, overlaps_of_masks, shared_in_half
from nts.matching import MatchingConfig, choose_instances, match_proposals, pool_tokens
from nts.memory import MemoryBank
from nts.merging import Overlaps
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT, FAST, PAPER
from nts.proposal_masks import DrawnMasks, RunLengthMasks
from nts.scoring import PrototypeScorer
from nts.segmenter import Proposals, Segmenter
from nts.targets import Target, make_target
from synthetic.scenes import target_scenes

SIZES = [(48, 64), (97, 131), (200, 30), (9, 7), (480, 640)]


def random_blobs(n: int, side: int, seed: int = 0) -> torch.Tensor:
    """Logits ``[n, side, side]``: ragged blobs of all sizes, one of them empty and one full."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.arange(side)
    x, y, r = torch.rand(3, n, 1, 1, generator=generator)
    noise = F.interpolate(torch.randn(n, 1, 8, 8, generator=generator), size=(side, side), mode="bilinear")[:, 0]
    logits = (r * side / 2) ** 2 - (line - x * side) ** 2 - (line[:, None] - y * side) ** 2 + noise * side
    logits[1], logits[2] = -1.0, 1.0
    return logits


def random_problem(n: int = 60, side: int = 32, channels: int = 12, classes: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed + 1)
    return (
        torch.randn(9, 9, channels, generator=generator),
        random_blobs(n, side, seed),
        torch.rand(n, generator=generator),
        torch.randn(classes, channels, generator=generator),
    )


def match_target(target: Target, prototypes: torch.Tensor, config: MatchingConfig | None = None) -> Instances:
    scores = PrototypeScorer(prototypes).scores(target)
    return choose_instances(target.masks, target.features, target.predicted_iou, scores, config or MatchingConfig())


@pytest.mark.parametrize("size", SIZES)
def test_crops_are_the_masks_cut_to_their_boxes(size):
    logits = random_blobs(30, 32)
    crops, boxes = draw_crops(logits, size)
    for crop, (x1, y1, x2, y2), mask in zip(crops, boxes.tolist(), draw_masks(logits, size), strict=True):
        whole = torch.zeros(size, dtype=torch.bool)
        whole[y1:y2, x1:x2] = crop
        assert torch.equal(whole, mask)
        if mask.any():
            assert crop.any(0)[[0, -1]].all()
            assert crop.any(1)[[0, -1]].all()
        else:
            assert crop.numel() == 0


@pytest.mark.parametrize("size", SIZES)
def test_run_lengths_hold_the_masks_and_their_overlaps(size):
    _, logits, _, _ = random_problem()
    masks = RunLengthMasks.of_logits(logits, size)
    which = torch.tensor([5, 1, 2, 40, 17])
    labels = torch.tensor([0, 1, 0, 0, 1])
    found = masks.overlaps(which, labels)
    known = Overlaps.of_matrix(overlaps_of_masks(logits[which], size), labels)
    assert torch.equal(found.areas, known.areas)
    in_order = (found.worse * len(which) + found.better).argsort()
    for name in ("worse", "better", "shared"):
        assert torch.equal(getattr(found, name)[in_order], getattr(known, name)), name
    crops, boxes = masks.crops(which)
    expected, expected_boxes = draw_crops(logits[which], size)
    assert torch.equal(boxes, expected_boxes)
    assert all(torch.equal(a, b) for a, b in zip(crops, expected, strict=True))
    assert all(crop.is_contiguous() for crop in [*crops, *expected])


@pytest.mark.parametrize("cells", [1 << 27, 4000])
@pytest.mark.parametrize("size", SIZES)
def test_masks_drawn_many_at_a_time_as_on_a_gpu_are_those_drawn_one_by_one(size, cells, monkeypatch):
    monkeypatch.setattr(nts.masks, "_CELLS_ON_GPU", cells)
    logits = random_blobs(30, 32)
    crops, boxes = crops_together(logits, size)
    expected, expected_boxes = draw_crops(logits, size)
    assert torch.equal(boxes, expected_boxes)
    assert all(torch.equal(a, b) for a, b in zip(crops, expected, strict=True))
    assert all(crop.is_contiguous() for crop in crops)
    drawn, one_by_one = DrawnMasks.drawn_together(logits, size), DrawnMasks.of_logits(logits, size)
    for name, tensor in one_by_one.tensors.items():
        assert tensor.dtype == drawn.tensors[name].dtype
        assert torch.equal(tensor, drawn.tensors[name]), name
    nothing = DrawnMasks.drawn_together(logits[:0], size)
    for name, tensor in DrawnMasks.of_logits(logits[:0], size).tensors.items():
        assert tensor.dtype == nothing.tensors[name].dtype
        assert torch.equal(tensor, nothing.tensors[name])
    assert len(crops_together(logits[:0], size)[1]) == 0


@pytest.mark.parametrize("size", SIZES)
def test_the_side_of_the_tiles_changes_no_mask(size):
    logits = random_blobs(30, 32)
    drawn = [torch.zeros(30, *size, dtype=torch.bool) for _ in range(2)]
    for masks, side in zip(drawn, (TILE, 300), strict=True):
        for rows, columns, members, tile in _tiles(logits, size, side):
            masks[members, rows, columns] = tile > 0
    assert torch.equal(*drawn)
    assert drawn[0].any()


@pytest.mark.parametrize("pixels", [1, 2048, 5000])
def test_pixels_are_counted_exactly_in_half_precision(pixels):
    generator = torch.Generator().manual_seed(pixels)
    masks = torch.rand(7, pixels, generator=generator) < torch.linspace(0, 1, 7)[:, None]
    masks[-1] = True
    counts = masks.long()
    assert torch.equal(shared_in_half(masks).long(), counts @ counts.T)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "config",
    [
        MatchingConfig(),
        MatchingConfig(nms_iou=1, merge_exponent=0, score_threshold=0.2),
        MatchingConfig(nms_iou=0.2, max_instances=7, candidates_per_instance=2),
    ],
)
def test_a_target_gives_the_instances_of_its_proposals(seed, config):
    tokens, logits, predicted_iou, prototypes = random_problem(seed=seed)
    size = SIZES[seed]
    features = pool_tokens(tokens, logits > 0)
    target = make_target(features, Proposals(logits, predicted_iou, torch.zeros(60, 2)), size)
    found = match_target(target, prototypes, config)
    expected = match_proposals(tokens, logits, predicted_iou, prototypes, size, config)
    assert len(found) == len(expected) > 0
    for name in ("boxes", "labels", "scores", "similarities", "margins", "predicted_iou", "features", "proposals"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert torch.equal(found.masks, expected.masks)


def test_no_proposals_are_a_target_as_well(tmp_path):
    cache = TensorCache(tmp_path, 10**9)
    nothing = Proposals(torch.zeros(0, 32, 32), torch.zeros(0), torch.zeros(0, 2))
    write_target(cache, "target-00", make_target(torch.zeros(0, 12), nothing, (40, 50)))
    found = match_target(read_target(cache, "target-00"), torch.randn(3, 12))
    assert len(found) == 0
    assert found.masks.shape == (0, 40, 50)


def test_a_target_comes_back_from_the_cache_as_it_went(tmp_path):
    tokens, logits, predicted_iou, _ = random_problem()
    target = make_target(
        pool_tokens(tokens, logits > 0), Proposals(logits, predicted_iou, torch.zeros(60, 2)), (70, 90)
    )
    cache = TensorCache(tmp_path, 10**9)
    write_target(cache, "target-00", target)
    again = read_target(cache, "target-00")
    assert again.image_size == (70, 90)
    for name, value in target.tensors.items():
        assert value.dtype == again.tensors[name].dtype
        assert torch.equal(value, again.tensors[name]), name
    assert read_target(cache, "target-11") is None


@pytest.fixture(scope="module")
def memory(small_encoder) -> MemoryBank:
    return build_memory(novel_references(5, shots=2), small_encoder)[0]


def test_another_memory_needs_no_model(memory, small_encoder, small_segmenter, tmp_path, monkeypatch):
    engine = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    image = target_scenes(1)[0].image
    cache = TensorCache(tmp_path, 10**9)
    key = engine.targets.key(digest(image))
    write_target(cache, key, engine.encode(image).compact())

    smaller = MemoryBank(memory.encoder)
    for entry in memory.entries[:6]:
        smaller.add(entry)
    # Crops need the image; see test_cached_segmenter.py for them.
    matching = MatchingConfig(nms_iou=0.9, score_threshold=0.1, merge_exponent=0)
    preset = replace(DEFAULT.without("crops"), matching=matching)
    other = ReferenceSegmenter(smaller, small_encoder, small_segmenter, preset)
    expected = other.segment(image)

    def no_model(*_, **__):
        raise AssertionError("a model ran")

    for model, method in ((Encoder, "encode"), (Segmenter, "embed"), (Segmenter, "propose")):
        monkeypatch.setattr(model, method, no_model)
    assert other.targets.key(digest(image)) == key
    found = other.match(read_target(cache, key))
    assert len(found) > 0
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.masks, expected.masks)
    assert torch.equal(found.references, expected.references)


def test_keys_change_with_all_that_changes_a_target(small_encoder, small_segmenter):
    models = (small_encoder, small_segmenter)
    prototypes, others = torch.randn(2, 3, 8)
    finer = replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=20))
    stricter = replace(DEFAULT, proposals=replace(DEFAULT.proposals, iou_threshold=0.5))
    reduced = Segmenter(small_segmenter._model, "small", "", torch.device("cpu"), torch.bfloat16)
    keys = [
        target_key("image", target_settings(*models, DEFAULT)),
        target_key("another", target_settings(*models, DEFAULT)),
        target_key("image", target_settings(*models, PAPER)),
        target_key("image", target_settings(*models, finer)),
        target_key("image", target_settings(*models, stricter)),
        target_key("image", target_settings(small_encoder, reduced, DEFAULT)),
        target_key("image", target_settings(*models, FAST, prototypes)),
        target_key("image", target_settings(*models, FAST, others)),
    ]
    assert len(set(keys)) == len(keys)


def test_keys_do_not_change_with_what_changes_no_target(small_encoder, small_segmenter):
    models = (small_encoder, small_segmenter)
    key = target_key("image", target_settings(*models, DEFAULT))
    merging = replace(DEFAULT, matching=MatchingConfig(nms_iou=0.1, max_instances=3))
    chunks = replace(DEFAULT, proposals=replace(DEFAULT.proposals, prompts_per_chunk=3, points_per_side=16))
    assert target_key("image", target_settings(*models, merging)) == key
    assert target_key("image", target_settings(*models, chunks)) == key
    assert target_key("image", target_settings(*models, DEFAULT, torch.randn(2, 8))) == key


def test_a_file_is_known_by_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"12345" * 10**6)
    (tmp_path / "b").write_bytes(b"12345" * 10**6)
    (tmp_path / "c").write_bytes(b"12346" * 10**6)
    a, b, c = (digest_content(read_file(tmp_path / name)) for name in "abc")
    assert a == b != c


def test_large_masks_take_little_of_a_target():
    """A hundred masks of 12 megapixels: 1.2 GB if drawn."""
    logits = random_blobs(100, 64)
    target = make_target(torch.zeros(100, 4), Proposals(logits, torch.rand(100), torch.zeros(100, 2)), (3000, 4000))
    assert sum(value.nbytes for value in target.tensors.values()) < 5_000_000
    assert int(target.masks.areas.max()) == 12_000_000
    assert np.isclose(float(target.masks.areas[0]), float((logits[0] > 0).float().mean()) * 12e6, rtol=0.05)
