"""Behaviours fixed by the paper, or deliberately different from it, one test each.

"As published" marks agreement with the paper; "unlike the publication" marks a correction.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from problems import make_problem

from nts.datasets.sampling import references_of_shot_file, sample_references
from nts.images import resize_bicubic
from nts.masks import boxes_of_masks, draw_masks, overlaps_of_masks
from nts.matching import MatchingConfig, match_proposals, patch_weights, pool_tokens, similarity
from nts.memory import EncoderInfo, MemoryBank, MemoryEntry, class_prototype, instance_prototype
from nts.merging import Overlaps, soft_merging_decay, suppress
from nts.metrics.coco import coco_results
from nts.references import InvalidReference, Reference, _corner_weights, crop_window, prepare_reference
from nts.segmenter import ProposalConfig, point_grid
from reference_implementation import published_recipe

ENCODER = EncoderInfo("test", "0" * 64, 518, 16)


def reference(mask: np.ndarray, box=None) -> Reference:
    return Reference(np.zeros((*mask.shape, 3), np.uint8), "a", mask, box)


def paper_weights(mask: np.ndarray, box=None) -> torch.Tensor:
    """Weights of the `paper` preset on DINOv2's 37 x 37 grid."""
    return prepare_reference(reference(mask, box), 518, (37, 37), antialias=False, patch_weights="corner")[1]


def rectangle(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    return mask


def blocks(side: int, *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """Mask logits: +1 inside `x1, y1, x2, y2`, -1 outside."""
    logits = torch.full((len(boxes), side, side), -1.0)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        logits[i, y1:y2, x1:x2] = 1
    return logits


def match(problem, prototypes=None, **constants):
    if prototypes is None:
        prototypes = torch.stack([class_prototype(tokens.mean(1)) for tokens in problem.reference_tokens])
    return match_proposals(
        problem.tokens,
        problem.mask_logits,
        problem.predicted_iou,
        prototypes,
        problem.image_size,
        MatchingConfig(**constants),
    )


class TestReferences:
    def test_crop_of_an_interior_box_is_the_published_square(self):
        assert crop_window((200, 150, 100, 60), (480, 640)) == (190, 120, 310, 240)

    def test_crop_of_a_fractional_box_truncates_and_is_cut_at_the_border(self):
        assert crop_window((10.7, 20.2, 100.5, 50.9), (480, 640)) == (0, 0, 121, 106)

    def test_crop_in_a_corner_is_cut_on_two_sides(self):
        assert crop_window((600, 440, 39, 39), (480, 640)) == (596, 436, 640, 480)

    def test_degenerate_box_is_widened_to_a_pixel_unlike_the_publication(self):
        left, top, right, bottom = crop_window((5.2, 5.2, 0.5, 0.5), (480, 640))
        assert left <= 5 < right
        assert top <= 5 < bottom
        pixels, weights = prepare_reference(
            reference(rectangle(480, 640, slice(5, 6), slice(5, 6)), (5.2, 5.2, 0.5, 0.5)), 28, (2, 2)
        )
        assert pixels.isfinite().all()
        assert weights.sum() > 0

    def test_box_outside_the_image_is_refused_with_its_numbers(self):
        with pytest.raises(InvalidReference, match=r"\(700, 10, 20, 20\) lies outside its image of 640 x 480"):
            crop_window((700, 10, 20, 20), (480, 640))

    @pytest.mark.parametrize(("column", "cells"), [(7, 0), (14, 37)])
    def test_patch_grid_samples_the_upper_left_pixel_of_a_patch_as_published(self, column, cells):
        line = rectangle(518, 518, slice(None), slice(column, column + 1))
        # As large as the encoder's input, so the crop is not resized before the grid samples it.
        assert _corner_weights(line.astype(np.float32), 518, (37, 37)).sum() == cells
        ramp = np.broadcast_to(np.arange(518, dtype=np.float32), (518, 518)).copy()
        assert _corner_weights(ramp, 518, (37, 37))[0].tolist() == [14.0 * k for k in range(37)]

    def test_weights_at_the_edge_of_a_mask_are_fractional_as_published(self):
        weights = paper_weights(rectangle(120, 120, slice(10, 110), slice(35, 85)), (10, 10, 100, 100))
        assert (weights > 0).sum() == 512
        assert ((weights > 0) & (weights < 1)).sum() == 32

    def test_reference_whose_mask_vanishes_on_the_grid_falls_back_to_its_area(self):
        # A line of one pixel between two sampled columns, missed by the published sampling.
        line = rectangle(518, 518, slice(43, 474), slice(246, 247))
        weights = paper_weights(line, (43, 43, 431, 431))
        assert weights.isfinite().all()
        assert weights.sum() > 0
        assert instance_prototype(torch.ones(37 * 37, 4), weights.flatten()).tolist() == pytest.approx([1] * 4)

    def test_mask_outside_its_box_is_refused(self):
        with pytest.raises(InvalidReference, match="outside its box"):
            paper_weights(rectangle(400, 400, slice(0, 5), slice(0, 5)), (300, 300, 50, 50))


class TestMemory:
    def test_class_without_reference_is_absent_and_changes_nothing(self):
        bank = MemoryBank(ENCODER)
        for name, seed in (("a", 0), ("b", 1)):
            bank.add(MemoryEntry(name, torch.randn(16, generator=torch.Generator().manual_seed(seed))))
        before = bank.prototypes()
        bank.add(MemoryEntry("c", torch.ones(16), label_id="only"))
        bank.remove(label_ids=["only"])
        assert bank.classes == ("a", "b")
        assert torch.equal(bank.prototypes(), before)

    def test_prototype_averages_instances_before_it_normalises_as_published(self):
        prototype = class_prototype(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        assert prototype.tolist() == pytest.approx([0.9487, 0.3162], abs=1e-4)
        query = F.normalize(torch.tensor([[1.0, 0.5]]), dim=1)
        prototypes = torch.stack([prototype, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
        assert similarity(query, prototypes)[0].tolist() == pytest.approx([0.9899, 0.8944, 0.4472], abs=1e-4)

    def test_negative_cosine_scores_nothing_and_the_mask_is_dropped_as_published(self):
        prototypes = torch.tensor([[0.9487, 0.3162], [1.0, 0.0], [0.0, 1.0]])
        assert similarity(torch.tensor([[-1.0, 0.0]]), prototypes).tolist() == [[0, 0, 0]]
        tokens = torch.tensor([-1.0, 0.0]).expand(4, 4, 2)
        found = match_proposals(tokens, blocks(8, (2, 2, 6, 6)), torch.tensor([0.9]), prototypes, (8, 8))
        assert len(found) == 0

    def test_two_identical_references_equal_one(self):
        instance = torch.randn(16, generator=torch.Generator().manual_seed(2))
        one, two = class_prototype(instance[None]), class_prototype(torch.stack([instance, instance]))
        assert torch.allclose(one, two, atol=1e-7)
        assert one.isfinite().all()

    def test_order_of_references_and_of_categories_changes_nothing(self):
        generator = torch.Generator().manual_seed(3)
        entries = [MemoryEntry(name, torch.randn(16, generator=generator)) for name in "aabbbc"]
        banks = []
        for order in (entries, entries[::-1]):
            bank = MemoryBank(ENCODER)
            for entry in order:
                bank.add(entry)
            banks.append(bank)
        assert banks[0].classes == banks[1].classes
        assert torch.allclose(banks[0].prototypes(), banks[1].prototypes(), atol=1e-6)

    def test_unequal_shots_are_fine_and_one_shot_equals_its_own_run(self):
        generator = torch.Generator().manual_seed(4)
        entries = [MemoryEntry(name, torch.randn(16, generator=generator)) for name in "abbb"]
        bank, alone = MemoryBank(ENCODER), MemoryBank(ENCODER)
        for entry in entries:
            bank.add(entry)
        alone.add(entries[0])
        assert bank.shots == {"a": 1, "b": 3}
        assert torch.equal(bank.prototypes()[0], alone.prototypes()[0])


class TestProposals:
    def test_point_grid_is_the_published_one_with_x_the_slow_axis(self):
        points = point_grid(32, 1024)
        assert len(points) == 1024
        assert points[[0, 1, 32, -1]].tolist() == [[0.5, 0.5], [0.5, 33.5], [33.5, 0.5], [1023.5, 1023.5]]

    def test_best_of_three_ignores_the_single_mask_token_and_the_threshold_is_strict(
        self, small_segmenter, monkeypatch
    ):
        answers = torch.tensor([[0.95, 0.3, 0.6, 0.5], [0.9, 0.2, 0.4, 0.4]])
        heads = small_segmenter._model.sam_mask_decoder._modules
        monkeypatch.setitem(heads, "iou_prediction_head", lambda token: answers)
        drawn = []

        def draw(shared, prompted, chosen):
            drawn.extend(chosen.tolist())
            return torch.zeros(*chosen.shape, 64, 64)

        monkeypatch.setattr(small_segmenter, "_draw", draw)
        embedding = small_segmenter.embed(torch.zeros(3, 256, 256))
        proposals = small_segmenter.propose(embedding, ProposalConfig(), torch.tensor([3, 7]))
        assert drawn == [[2]]
        assert proposals.predicted_iou.tolist() == pytest.approx([0.6])
        assert torch.equal(proposals.points, point_grid(16, 256)[[3]])
        answers[1, 2] = 0.4001
        assert len(small_segmenter.propose(embedding, ProposalConfig(), torch.tensor([3, 7]))) == 2

    def test_prompts_beyond_the_last_full_chunk_are_evaluated_unlike_the_publication(self, small_segmenter):
        embedding = small_segmenter.embed(torch.zeros(3, 256, 256))
        config = ProposalConfig(points_per_side=5, iou_threshold=0.0, prompts_per_chunk=8)
        proposals = small_segmenter.propose(embedding, config)
        assert torch.equal(proposals.points, point_grid(5, 256))
        whole = small_segmenter.propose(embedding, replace(config, prompts_per_chunk=25))
        assert torch.allclose(proposals.predicted_iou, whole.predicted_iou, atol=1e-5)


class TestMatching:
    def test_pooling_on_the_patch_grid_equals_the_mean_of_enlarged_features(self):
        generator = torch.Generator().manual_seed(5)
        tokens = torch.randn(7, 7, 5, generator=generator, dtype=torch.float64)
        masks = torch.rand(6, 32, 32, generator=generator) > 0.7
        weights = patch_weights(masks.double(), (7, 7)).flatten(1)
        assert torch.allclose(weights.sum(1), masks.flatten(1).sum(1).double(), atol=1e-10)
        enlarged = F.interpolate(tokens.permute(2, 0, 1)[None], size=(32, 32), mode="bilinear")[0]
        means = torch.stack([enlarged[:, mask].mean(1) for mask in masks])
        pooled = weights @ tokens.flatten(0, 1) / weights.sum(1, keepdim=True)
        assert (pooled - means).abs().max() < 1e-12
        single = torch.stack([published_recipe.mask_feature(tokens.float(), mask) for mask in masks])
        assert torch.allclose(pool_tokens(tokens.float(), masks), single, atol=1e-6)

    def test_nms_is_class_aware_strict_and_ordered_by_predicted_iou(self):
        def kept(boxes, predicted_iou, labels):
            return suppress(torch.tensor(boxes), torch.tensor(predicted_iou), torch.tensor(labels), 0.5).tolist()

        half = [[0, 0, 2, 1], [0, 0, 1, 1]]
        assert kept(half, [0.9, 0.8], [0, 0]) == [0, 1], "an IoU of exactly 0.5 suppresses nothing"
        same = [[0, 0, 4, 4]] * 2
        assert kept(same, [0.5, 0.9], [0, 0]) == [1], "the higher predicted IoU wins"
        assert kept(same, [0.7, 0.7], [0, 0]) == [0], "equal values keep their order"
        assert kept(same, [0.5, 0.9], [0, 1]) == [1, 0], "different labels do not meet"
        line = [[3, 0, 3, 9]] * 2
        assert kept(line, [0.5, 0.9], [0, 0]) == [1, 0], "boxes without area suppress nothing"
        many = [[10 * i, 0, 10 * i + 5, 5] for i in range(50)]
        assert kept(many, [0.7] * 50, [0] * 50) == list(range(50)), "ties keep the order of the points"

    def test_the_mask_of_higher_predicted_iou_wins_over_the_more_similar_one(self):
        tokens = torch.zeros(4, 4, 2)
        tokens[..., 0], tokens[..., 1] = 1.0, 0.5
        tokens[1, 1] = torch.tensor([1.0, 0.0])
        logits = blocks(8, (2, 2, 6, 6), (2, 2, 6, 5))
        found = match_proposals(tokens, logits, torch.tensor([0.9, 0.5]), torch.tensor([[1.0, 0.0]]), (8, 8))
        assert found.proposals.tolist() == [0]
        alone = match_proposals(tokens, logits[1:], torch.tensor([0.5]), torch.tensor([[1.0, 0.0]]), (8, 8))
        assert alone.scores[0] > found.scores[0]

    @pytest.mark.parametrize(
        ("order", "decay"), [([0, 1, 2, 3], [1, 0.7746, 0.7071, 1]), ([2, 1, 0, 3], [1, 0.9309, 0.7746, 1])]
    )
    def test_soft_merging_gives_the_published_example_in_both_orders(self, order, decay):
        strips = torch.zeros(4, 10)
        for i, (start, end) in enumerate([(0, 6), (3, 9), (4, 6), (4, 6)]):
            strips[i, start:end] = 1
        similarity = torch.eye(4, dtype=torch.float64)
        for i, j, value in [(0, 1, 0.8), (0, 2, 0.5), (1, 2, 0.4)]:
            similarity[i, j] = similarity[j, i] = value
        features = torch.linalg.cholesky(similarity).float()
        strips, features = strips[order], features[order]
        labels = torch.tensor([0, 0, 0, 1])
        found = soft_merging_decay(Overlaps.of_matrix((strips @ strips.T).double(), labels), features)
        assert found.tolist() == pytest.approx(decay, abs=1e-4)

    def test_contained_duplicate_scores_zero_and_empty_mask_is_dropped_instead_of_nan(self):
        matrix = torch.tensor([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 0.0]]).double()
        overlaps = Overlaps.of_matrix(matrix, torch.zeros(3, dtype=torch.int64))
        features = torch.tensor([[1.0000001, 0.0], [1.0, 0.0], [1.0, 0.0]])
        assert soft_merging_decay(overlaps, features).tolist() == [1, 0, 0]

    def test_masks_are_enlarged_bilinearly_and_boxes_are_half_open_unlike_the_publication(self):
        logits = blocks(256, (64, 64, 192, 128))
        masks = draw_masks(logits, (480, 640))
        assert boxes_of_masks(masks).tolist() == [[160, 120, 479, 239]]
        assert masks.sum() == 38400 == overlaps_of_masks(logits, (480, 640))[0, 0]
        found = match_proposals(torch.ones(4, 4, 2), logits, torch.tensor([0.9]), torch.ones(1, 2), (480, 640))
        assert found.boxes.tolist() == [[160, 120, 480, 240]]
        assert coco_results(found, 1, [1])[0]["bbox"] == [160, 120, 320, 120]
        assert coco_results(found, 1, [1], "inclusive")[0]["bbox"] == [160, 120, 319, 119]

    def test_mask_that_vanishes_in_a_tiny_image_is_dropped_instead_of_ranked_first(self):
        logits = torch.full((2, 256, 256), -5.0)
        logits[0, 100:104, 100:104] = 1
        logits[1, 64:192, 64:192] = 1
        found = match_proposals(torch.ones(4, 4, 2), logits, torch.tensor([0.9, 0.8]), torch.ones(1, 2), (10, 12))
        assert found.proposals.tolist() == [1]
        assert found.scores.isfinite().all()

    @pytest.mark.parametrize("sign", [1, -1])
    def test_nothing_found_gives_empty_instances_instead_of_an_error(self, sign):
        tokens, prototypes = torch.ones(4, 4, 2), sign * torch.ones(1, 2)
        logits = blocks(8, (2, 2, 6, 6))[: 1 if sign < 0 else 0]
        found = match_proposals(tokens, logits, torch.full((len(logits),), 0.9), prototypes, (30, 20))
        assert len(found) == 0
        assert found.masks.shape == (0, 30, 20)
        assert found.boxes.shape == (0, 4)
        assert json.loads(json.dumps(coco_results(found, "image", [1]))) == []

    def test_at_most_max_instances_are_returned_and_eight_times_as_many_merged(self):
        problem = make_problem(6, proposals=150, classes=2)
        everything = match(problem, nms_iou=1.0)
        assert len(everything) == 100
        assert everything.scores.diff().le(0).all()
        best = match(problem, nms_iou=1.0, max_instances=10)
        assert len(best) == 10
        assert set(best.proposals.tolist()) <= set(problem.predicted_iou.argsort(descending=True)[:80].tolist())

    def test_category_ids_come_back_and_image_ids_are_passed_through(self):
        found = match(make_problem(7))
        for image_id in (123, "000123", "img_7"):
            results = coco_results(found, image_id, [3, 17, 90])
            assert {result["image_id"] for result in results} == {image_id}
            assert [r["category_id"] for r in results] == [[3, 17, 90][label] for label in found.labels.tolist()]

    def test_resizing_to_the_same_size_is_the_identity(self):
        pixels = torch.rand(3, 518, 518, generator=torch.Generator().manual_seed(8))
        assert torch.equal(resize_bicubic(pixels, 518), pixels)
        image = Image.fromarray((pixels.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
        resized = image.resize((100, 60), Image.Resampling.BICUBIC)
        assert image.resize((100, 60)).tobytes() == resized.tobytes(), "Pillow's default filter is bicubic"


class TestSampling:
    @staticmethod
    def dataset() -> dict:
        images = [{"id": i, "width": 200, "height": 200} for i in range(12)]
        annotations = [
            {"id": 100 * i + k, "image_id": i, "category_id": 1 + k % 2, "bbox": [20 + k, 20, 60, 60], "iscrowd": 0}
            for i in range(12)
            for k in range(4)
        ]
        annotations += [
            {"id": 9001, "image_id": 0, "category_id": 1, "bbox": [50, 50, 60, 60], "iscrowd": 1},
            {"id": 9002, "image_id": 1, "category_id": 1, "bbox": [50, 50, 31, 60], "iscrowd": 0},
            {"id": 9003, "image_id": 2, "category_id": 1, "bbox": [9, 50, 60, 60], "iscrowd": 0},
            {"id": 9004, "image_id": 3, "category_id": 1, "bbox": [131, 50, 60, 60], "iscrowd": 0},
        ]
        return {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": f"c{i}"} for i in (1, 2)],
        }

    @pytest.mark.parametrize("seed", [33, 42])
    def test_sampling_repeats_and_takes_no_crowd_no_small_box_no_border_no_image_twice(self, seed):
        drawn = sample_references(self.dataset(), 10, seed)
        assert drawn == sample_references(self.dataset(), 10, seed)
        for of_class in drawn.values():
            assert len(of_class) == 10
            assert len({annotation["image_id"] for annotation in of_class}) == 10
            assert not {annotation["id"] for annotation in of_class} & {9001, 9002, 9003, 9004}
        assert drawn != sample_references(self.dataset(), 10, seed + 1)

    def test_too_few_references_name_the_class(self):
        with pytest.raises(ValueError, match="'c1' has only 12 annotations that qualify as references, 13 are needed"):
            sample_references(self.dataset(), 13, 33)

    def test_every_annotation_of_a_shot_file_is_used_once_unlike_the_publication(self):
        annotations = [{"id": i, "image_id": 5, "category_id": 1} for i in (1, 2)]
        assert references_of_shot_file({"annotations": annotations}) == {1: annotations}


def test_scores_never_hold_nan():
    problem = make_problem(9)
    logits = problem.mask_logits.clone()
    logits[0], logits[1] = math.nan, -1.0
    predicted_iou = problem.predicted_iou.clone()
    predicted_iou[2] = math.nan
    found = match(replace(problem, mask_logits=logits, predicted_iou=predicted_iou))
    assert len(found) > 0
    assert found.scores.isfinite().all()
    assert not {0, 1, 2} & set(found.proposals.tolist())
