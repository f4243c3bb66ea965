"""Kernels of the matching, compared with direct implementations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from problems import make_problem

from nts.masks import boxes_of_masks, draw_masks, overlaps_of_masks
from nts.matching import MatchingConfig, match_proposals, nearest_references, pool_tokens
from nts.memory import class_prototype
from nts.merging import Overlaps, diffusion_decay, soft_merging_decay, suppress
from reference_implementation import published_recipe

SIZES = [(48, 64), (300, 200), (17, 500), (20, 12), (1, 1), (1, 400), (400, 1)]


def drawn_plainly(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    if size[1] == 1 < size[0]:  # torch's antialiased resize is wrong for one column, and right for one row
        return drawn_plainly(logits.mT, size[::-1]).mT
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0] > 0


@pytest.mark.parametrize("size", SIZES)
def test_masks_drawn_by_tiles_equal_masks_drawn_at_once(size):
    logits = make_problem(1).mask_logits
    assert (draw_masks(logits, size) != drawn_plainly(logits, size)).flatten(1).sum(1).max() <= 2


@pytest.mark.parametrize("size", SIZES)
def test_overlaps_by_tiles_are_the_pixels_that_masks_share(size):
    logits = make_problem(2).mask_logits
    masks = draw_masks(logits, size).flatten(1).double()
    assert torch.equal(overlaps_of_masks(logits, size), masks @ masks.T)


def test_boxes_of_masks_equal_boxes_found_pixel_by_pixel():
    masks = make_problem(3).mask_logits > 2
    masks[0] = False
    masks[1] = False
    masks[1, 5, 7] = True
    assert boxes_of_masks(masks).tolist() == [published_recipe.box_of(mask) for mask in masks]
    assert boxes_of_masks(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize("nms_iou", [0.0, 0.3, 0.5, 1.0])
def test_suppression_equals_the_greedy_loop(nms_iou):
    problem = make_problem(4, proposals=120)
    boxes = boxes_of_masks(problem.mask_logits > 0)
    labels = torch.arange(120) % 3
    kept: list[int] = []
    for i in problem.predicted_iou.argsort(descending=True).tolist():
        rivals = [boxes[j].tolist() for j in kept if labels[i] == labels[j]]
        if all(published_recipe.box_iou(boxes[i].tolist(), rival) <= nms_iou for rival in rivals):
            kept.append(i)
    assert suppress(boxes, problem.predicted_iou, labels, nms_iou).tolist() == kept


@pytest.mark.parametrize("seed", range(6))
def test_matching_equals_the_published_recipe(seed):
    problem = make_problem(
        100 + seed,
        classes=1 + 2 * seed,
        shots=1 + seed % 3,
        proposals=30 + 20 * seed,
        grid=5 + seed,
        image_size=SIZES[seed % 4],
    )
    prototypes = torch.stack([class_prototype(tokens.mean(1)) for tokens in problem.reference_tokens])
    arguments = problem.tokens, problem.mask_logits, problem.predicted_iou, prototypes, problem.image_size
    expected = published_recipe.match(*arguments, max_instances=25)
    found = match_proposals(*arguments, MatchingConfig(max_instances=25))
    assert found.labels.tolist() == expected.labels.tolist()
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert (found.masks != expected.masks).flatten(1).sum(1).max() <= 2
    assert (found.scores <= found.similarities).all()
    assert torch.equal(found.predicted_iou, problem.predicted_iou[found.proposals])


@pytest.mark.parametrize("classes", [1, 40])
def test_soft_merging_equals_the_loop_over_pairs_be_they_many_or_few(classes):
    generator = torch.Generator().manual_seed(classes)
    masks = torch.rand(90, 1, 30, generator=generator) < 0.3
    masks[7] = False
    pixels = masks.flatten(1).double()
    features = F.normalize(torch.randn(90, 6, generator=generator), dim=1)
    labels = torch.randint(classes, (90,), generator=generator)
    expected = []
    for i in range(90):
        covered = [0.0]
        for j in range(i):
            if labels[i] == labels[j]:
                share = float((masks[i] & masks[j]).sum() / masks[i].sum().clamp(min=1))
                covered.append(share * max(0.0, float(features[i] @ features[j])))
        expected.append((1 - max(covered)) ** 0.5 if masks[i].any() else 0.0)
    overlaps = Overlaps.of_matrix(pixels @ pixels.T, labels)
    assert (len(overlaps.worse) > 90**2 / 40) == (classes == 1)
    assert soft_merging_decay(overlaps, features).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [1, 3])
def test_diffusion_equals_loops_over_pairs(classes):
    generator = torch.Generator().manual_seed(classes)
    n = 25
    masks = torch.rand(n, 1, 30, generator=generator) < 0.3
    masks[7] = False
    labels = torch.randint(classes, (n,), generator=generator)

    def cover(i: int, j: int) -> float:
        """Share of mask i that mask j covers."""
        return float((masks[i] & masks[j]).sum() / masks[i].sum().clamp(min=1))

    start = [max([0.0, *(cover(i, j) for j in range(i) if labels[i] == labels[j])]) for i in range(n)]
    rows = [[cover(i, j) if i != j and labels[i] == labels[j] else 0.0 for j in range(n)] for i in range(n)]
    rows = [[value / max(sum(row), 1e-12) for value in row] for row in rows]
    spread = start
    for _ in range(30):
        spread = [0.3 * sum(a * b for a, b in zip(rows[i], spread, strict=True)) + 0.7 * start[i] for i in range(n)]
    expected = [(1 - value) ** 0.5 if masks[i].any() else 0.0 for i, value in enumerate(spread)]
    pixels = masks.flatten(1).double()
    overlaps = Overlaps.of_matrix(pixels @ pixels.T, labels)
    assert diffusion_decay(overlaps).tolist() == pytest.approx(expected, abs=1e-5)
    assert diffusion_decay(overlaps, exponent=0).sum() == n - 1, "only the empty mask is dropped"


def test_half_precision_inputs_are_matched_in_single_precision():
    problem = make_problem(11)
    prototypes = torch.stack([class_prototype(tokens.mean(1)) for tokens in problem.reference_tokens])
    found = match_proposals(
        problem.tokens.bfloat16(), problem.mask_logits.half(), problem.predicted_iou.half(), prototypes, (48, 64)
    )
    assert found.scores.dtype == torch.float32
    assert found.features.norm(dim=1).allclose(torch.ones(len(found)), atol=1e-5)


def test_pooling_an_empty_mask_gives_zeros():
    assert pool_tokens(torch.ones(4, 4, 3), torch.zeros(1, 8, 8, dtype=torch.bool)).tolist() == [[0, 0, 0]]


def test_score_threshold_and_switched_off_merging():
    problem = make_problem(12, proposals=80)
    prototypes = torch.stack([class_prototype(tokens.mean(1)) for tokens in problem.reference_tokens])
    arguments = problem.tokens, problem.mask_logits, problem.predicted_iou, prototypes, problem.image_size
    everything = match_proposals(*arguments)
    threshold = float(everything.scores.median())
    above = match_proposals(*arguments, MatchingConfig(score_threshold=threshold))
    assert above.proposals.tolist() == everything.proposals[everything.scores > threshold].tolist()
    unmerged = match_proposals(*arguments, MatchingConfig(merge_exponent=0))
    assert torch.equal(unmerged.scores, unmerged.similarities)
    assert (everything.scores < everything.similarities).any()


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_margin_is_what_the_best_class_has_over_the_second_best(classes):
    problem = make_problem(13, classes=classes)
    prototypes = torch.stack([class_prototype(tokens.mean(1)) for tokens in problem.reference_tokens])
    found = match_proposals(problem.tokens, problem.mask_logits, problem.predicted_iou, prototypes, problem.image_size)
    assert len(found) > 0
    for feature, label, margin in zip(found.features, found.labels, found.margins, strict=True):
        best, *others = sorted((max(0.0, float(feature @ prototype)) for prototype in prototypes), reverse=True)
        assert float(margin) == pytest.approx(best - (others[0] if others else 0.0), abs=1e-6)
        assert float(feature @ prototypes[label]) == pytest.approx(best, abs=1e-6)


def test_the_nearest_reference_is_of_the_instance_s_class():
    references = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 2.0]])
    labels = torch.tensor([0, 1, 1])
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert nearest_references(features, labels, references, torch.tensor([0, 1, 1])).tolist() == [0, 1, 2]
    assert nearest_references(features[:0], labels[:0], references, labels).tolist() == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": torch.ones(4, 2)}, r"tokens must be \[h, w, C\]"),
        ({"predicted_iou": torch.ones(3)}, r"mask_logits must be \[n, S, S\] and predicted_iou \[n\]"),
        ({"prototypes": torch.ones(1, 3)}, "with K >= 1 and C = 2"),
        ({"prototypes": torch.ones(0, 2)}, "with K >= 1 and C = 2"),
        ({"prototypes": torch.full((1, 2), torch.nan)}, "a prototype holds NaN"),
        ({"tokens": torch.full((4, 4, 2), torch.inf)}, "tokens of the target hold NaN or infinity"),
        ({"image_size": (0, 5)}, "at least one pixel"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes, message):
    inputs = {
        "tokens": torch.ones(4, 4, 2),
        "mask_logits": torch.ones(1, 8, 8),
        "predicted_iou": torch.ones(1),
        "prototypes": torch.ones(1, 2),
        "image_size": (8, 8),
    }
    with pytest.raises(ValueError, match=message):
        match_proposals(**(inputs | changes))


@pytest.mark.parametrize(
    "constants",
    [
        {"nms_iou": 1.5},
        {"max_instances": 0},
        {"candidates_per_instance": 0},
        {"merge_exponent": -1},
        {"score_threshold": 2},
    ],
)
def test_constants_out_of_range_are_refused(constants):
    with pytest.raises(ValueError, match=next(iter(constants))):
        MatchingConfig(**constants)
