"""Speed benchmarks at the smallest sizes: complete reports, and equal results of both sides."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from benchmarks import contention, fast, growth, levers, second_run, speed
from benchmarks.measuring import PeakMemory, random_pair, shown, spread_predicted_iou, threshold_between
from nts.images import prepare_target
from nts.instances import Instances
from nts.pipeline import encode_target
from nts.presets import FAST, PAPER
from nts.segmenter import ProposalConfig
from reference_implementation.published_pipeline import Found
from synthetic.scenes import target_scenes


@pytest.fixture(autouse=True)
def _no_large_products(monkeypatch):
    """Skip the measurement of this processor's peak."""
    monkeypatch.setattr(speed, "peak_flops", lambda device, dtype: 1e12)


def test_the_engine_is_compared_with_the_recipe_stage_by_stage(tmp_path):
    numbers = speed.run("small", device="cpu", images=1, repeats=1, points_per_side=8, output=tmp_path)
    assert json.loads((tmp_path / "speed_small.json").read_text()) == numbers
    assert [row["stage"] for row in numbers["stages"]] == list(speed.STAGES)
    assert all(row["recipe"] > 0 and row["engine"] > 0 for row in numbers["stages"])
    assert {row["stage"] for row in numbers["stages"] if row["flops"] > 0} == {
        speed.DINO,
        speed.SAM_ENCODER,
        speed.SAM_DECODER,
        speed.MATCH,
    }
    assert numbers["ratio"] == pytest.approx(
        numbers["seconds"]["recipe"]["median"] / numbers["seconds"]["engine"]["median"]
    )
    assert numbers["prompts"] == 64
    same = numbers["equality"]
    assert same["instances"] > 0
    assert same["images_differing"] == 0
    assert same["same_labels"]
    assert same["min_mask_iou"] > 0.999
    assert same["max_score_difference"] < 1e-4
    text = (tmp_path / "speed_small.md").read_text()
    assert "| SAM2 decoder |" in text
    assert "0 of 1 images differ" in text
    assert (tmp_path / "speed_small.png").stat().st_size > 0


def test_an_engine_may_be_any_preset():
    numbers = speed.run("small", "default", device="cpu", images=1, repeats=1, points_per_side=6, output=None)
    assert numbers["engine"] == "default"
    assert numbers["equality"]["images_differing"] == 0  # in single precision, prepared as in the recipe
    with pytest.raises(ValueError, match="unknown preset 'none'"):
        speed.run("small", "none", device="cpu", images=1, output=None)


def instances(masks: torch.Tensor, labels: list[int], scores: list[float]) -> Instances:
    n = len(masks)
    return Instances.of_masks(
        masks,
        labels=torch.tensor(labels),
        scores=torch.tensor(scores),
        similarities=torch.ones(n),
        margins=torch.ones(n),
        predicted_iou=torch.ones(n),
        features=torch.zeros(n, 2),
        proposals=torch.arange(n),
        references=torch.zeros(n, dtype=torch.int64),
    )


def test_answers_are_compared_instance_by_instance_in_any_order():
    masks = torch.zeros(3, 4, 50, dtype=torch.bool)
    masks[0, :2], masks[1, 2:], masks[2, 1:3, :25] = True, True, True
    expected = Found(masks, torch.tensor([0, 0, 1]), torch.tensor([0.9, 0.8, 0.7]))
    same = speed.compare(expected, instances(masks[[1, 0, 2]], [0, 0, 1], [0.81, 0.9, 0.7]))
    assert same.same_instances
    assert same.same_labels
    assert same.min_mask_iou == 1
    assert same.max_score_difference == pytest.approx(0.01, abs=1e-6)

    changed = masks.clone()
    changed[0, 0, :6] = False  # 94 of 100 pixels are left
    assert not speed.compare(expected, instances(changed, [0, 0, 1], [0.9, 0.8, 0.7])).same_instances
    relabelled = speed.compare(expected, instances(masks, [0, 1, 1], [0.9, 0.8, 0.7]))
    assert not relabelled.same_instances
    assert not relabelled.same_labels
    assert not speed.compare(expected, instances(masks[:2], [0, 0], [0.9, 0.8])).same_instances
    assert not speed.compare(expected, instances(masks[:0], [], [])).same_instances
    nothing = Found(masks[:0], torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert speed.compare(nothing, instances(masks[:0], [], [])).same_instances


def test_every_lever_gives_the_masks_of_the_recipe(tmp_path):
    numbers = levers.run("small", device="cpu", points_per_side=8, chunk=5, output=tmp_path)
    assert json.loads((tmp_path / "levers_small.json").read_text()) == numbers
    assert [row["step"][0] for row in numbers["decoder"]] == ["0", "1", "3", "4", "5"]
    assert numbers["proposals"] > 0
    for kind, tolerance in (
        ("decoder", 1e-3),
        ("pooling", 1e-5),
        ("full_resolution", 2),
        ("full_resolution_of_discs", 2),
    ):
        assert numbers[kind][0]["difference"] == 0
        for row in numbers[kind]:
            assert row["difference"] is not None
            assert row["difference"] <= tolerance
            assert row["seconds"] > 0
    assert "the first layer shared" in (tmp_path / "levers_small.md").read_text()


def test_growth_is_measured_in_every_direction(tmp_path):
    numbers = growth.run(
        device="cpu",
        repeats=1,
        grid_sides=(2, 4),
        classes=(1, 3),
        references=(3, 6),
        image_sizes=((32, 48), (64, 96)),
        images=(1, 2),
        lvis=(4, 2),
        output=tmp_path,
    )
    assert json.loads((tmp_path / "growth.json").read_text()) == numbers
    assert [row["prompts"] for row in numbers["prompts"]] == [4, 16]
    assert [row["classes"] for row in numbers["classes"]] == [1, 3]
    assert [row["references"] for row in numbers["references"]] == [3, 6]
    assert numbers["references"][0]["read_again"] == 3
    assert (numbers["lvis"]["references"], numbers["lvis"]["classes"]) == (8, 4)
    assert [row["megapixels"] for row in numbers["image_size"]] == [32 * 48 / 1e6, 64 * 96 / 1e6]
    assert [row["images"] for row in numbers["images"]] == [1, 2]
    assert "| 96 x 64 |" in (tmp_path / "growth.md").read_text()
    assert (tmp_path / "growth.png").stat().st_size > 0


def test_random_models_have_the_requested_surviving_fraction():
    pair = random_pair("small", "tiny", torch.device("cpu"), torch.float32)
    pair = replace(pair, points_per_side=4)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    threshold = spread_predicted_iou(pair, image, 0.5)
    embedding = pair.segmenter.embed(prepare_target(image, 518, 1024, antialias=False)[1], add_no_mem_embed=False)
    proposals = pair.segmenter.propose(embedding, ProposalConfig(4, threshold, add_no_mem_embed=False))
    assert 7 <= len(proposals) <= 9
    share = (proposals.mask_logits > 0).flatten(1).float().mean(1)
    assert 0.05 < share.min() <= share.max() < 0.99


@pytest.mark.parametrize(("survivors", "expected"), [(1.0, 9), (0.5, 5), (0.0, 1)])
def test_the_threshold_lies_in_the_widest_gap_near_the_quantile(survivors, expected):
    values = torch.tensor([0.05, 0.2, 0.3, 0.4, 0.45, 0.6, 0.7, 0.8, 0.9, 1.05])[torch.randperm(10)]
    assert int((values > threshold_between(values, survivors)).sum()) == expected


def test_additional_memory_is_measured():
    with PeakMemory(torch.device("cpu")) as used:
        block = torch.ones(64 << 20, dtype=torch.uint8)
    assert used.peak > 0.9 * len(block)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1234.5, "1,234"), (0.01234, "0.0123"), (12.34, "12.3"), (2e-7, "2.0e-07"), (None, "")],
)
def test_numbers_are_shown_with_three_digits(value, text):
    assert shown(value) == text


def test_the_effect_of_the_fast_preset_is_measured(tmp_path):
    numbers = fast.run(targets=3, draws=1, device="cpu", output=tmp_path, references_per_class=3)
    assert json.loads((tmp_path / "fast.json").read_text()) == numbers
    for name in ("half precision", "guided prompts", "both: the preset 'fast'"):
        assert len(numbers["moved"][name]) == 1
        assert 0 <= numbers["images_changed"][name][0] <= 1
    assert "images whose instances change" in (tmp_path / "fast.md").read_text()


def test_guided_proposals_of_the_benchmark_equal_those_of_the_engine(small_encoder, small_segmenter):
    preset = replace(PAPER, proposals=replace(PAPER.proposals, guidance=FAST.proposals.guidance))
    image = target_scenes(1)[0].image
    prototypes = torch.randn(4, small_encoder.info.dim, generator=torch.Generator().manual_seed(0))
    whole = encode_target(image, small_encoder, small_segmenter, PAPER)
    expected = encode_target(image, small_encoder, small_segmenter, preset, prototypes=prototypes)
    found = fast.guided(whole, prototypes, small_segmenter.points_per_side, small_segmenter.input_size)
    assert torch.equal(found.proposals.points, expected.proposals.points)
    assert torch.allclose(found.proposals.mask_logits, expected.proposals.mask_logits, atol=1e-3)


def test_a_second_run_is_compared_with_the_first(tmp_path):
    numbers = second_run.run("small", device="cpu", images=2, output=tmp_path)
    assert json.loads((tmp_path / "second_run_small.json").read_text()) == numbers
    assert numbers["ratio"] == pytest.approx(numbers["seconds"]["first"] / numbers["seconds"]["second"])
    assert numbers["bytes_per_image"] > 1000


def test_every_stage_is_measured_beside_busy_processes(tmp_path):
    numbers = contention.run("small", points_per_side=6, busy=(0, 1), repeats=1, output=tmp_path)
    assert json.loads((tmp_path / "contention_small.json").read_text()) == numbers
    assert numbers["prompts"] == 36
    assert numbers["proposals"] > 0
    assert numbers["same_prompts_survive"]
    stages = {row["stage"]: row for row in numbers["stages"]}
    assert {"DINOv2", "SAM2 encoder", contention.SEQUENTIAL, contention.PARALLEL, "draw masks"} < set(stages)
    assert all(seconds > 0 for row in stages.values() for seconds in row["seconds"])
    for row in stages.values():
        assert row["ratio"] == pytest.approx([1, row["seconds"][1] / row["seconds"][0]])
    sequential, parallel = (stages[stage]["seconds"] for stage in (contention.SEQUENTIAL, contention.PARALLEL))
    assert numbers["gain"] == pytest.approx([a / b for a, b in zip(sequential, parallel, strict=True)])
    assert "| 1 busy, ms |" in (tmp_path / "contention_small.md").read_text()


def test_busy_processes_end_with_their_block():
    before = len(psutil.Process().children())
    with contextlib.suppress(KeyError), contention.busy_processes(2):
        assert len(psutil.Process().children()) == before + 2
        raise KeyError
    assert len(psutil.Process().children()) == before
