"""Reports: statistics over seeds, comparison with published results, and Markdown that states the configuration."""

from __future__ import annotations

import json
import os

import pytest

from nts.datasets.protocols import Protocol, get_protocol
from nts.datasets.published import Published
from nts.evaluation.markdown import comparison_markdown, figure_name, markdown, table
from nts.evaluation.report import compare_with_published, summarise_seeds, write_report
from nts.utils.files import write_file


def draw(shots: int, seed: int | None, **figures: float | None) -> dict:
    named = {name.replace("_", " ", 1): value for name, value in figures.items()}
    per_class = {"cat": {"boxes ap": figures.get("boxes_ap")}, "dog": {"boxes ap": None}}
    return {"shots": shots, "seed": seed, "figures": named, "per_class": per_class, "without_reference": []}


def protocol_with(*published: Published) -> Protocol:
    return Protocol(
        name="p",
        title="P",
        source="",
        layout="coco",
        task="instances",
        novel_classes=None,
        shots=(10,),
        seeds=(42, 33),
        draw="published",
        evaluator="coco",
        iou_types=("boxes",),
        headline="boxes ap",
        published=published,
    )


DRAWS = [
    draw(10, 42, boxes_ap=30.0, boxes_ap50=50.0),
    draw(10, 33, boxes_ap=34.0, boxes_ap50=None),
    draw(1, 33, boxes_ap=20.0, boxes_ap50=40.0),
]


def numbers_of(draws: list[dict], comparison: list[dict] = (), **more) -> dict:
    return {
        "title": "A protocol",
        "description": "### A protocol (`p`)\n",
        "limit": None,
        "deviations": [],
        "unit": "images",
        "images": 5,
        "all_images": 9,
        "objects": 7,
        "headline": "boxes ap",
        "classes": ["cat", "dog"],
        "per_class_figures": ["boxes ap"],
        "draws": draws,
        "summary": summarise_seeds(draws),
        "comparison": list(comparison),
        "config": {
            "encoder": {"name": "e", "fingerprint": "1" * 64, "input_size": 518},
            "segmenter": {"name": "s", "fingerprint": "2" * 64, "input_size": 1024},
            "points_per_side": 32,
            "preset": {"name": "paper"},
            "device": "cpu",
            "precision": "float32",
            "code": "3" * 64,
        },
        "conventions": {"boxes": "inclusive"},
        "time": {"seconds": 10.0, "images_per_second": 0.5, "encode_seconds": 8.0, "match_seconds": 1.0},
        "notes": [],
        "skipped": [],
        "skipped_references": [],
        "diagnostics": None,
        "errors": [],
    } | more


def test_standard_deviation_is_of_the_sample_and_seeds_without_a_figure_are_left_out():
    few, many = summarise_seeds(DRAWS)
    assert (few["shots"], many["shots"]) == (1, 10)
    assert many["seeds"] == [42, 33]
    assert many["figures"]["boxes ap"]["mean"] == 32
    assert many["figures"]["boxes ap"]["std"] == pytest.approx(8**0.5)
    assert many["figures"]["boxes ap50"] == {"mean": 50, "std": None, "min": 50, "max": 50, "seeds": 1}
    assert few["figures"]["boxes ap"]["std"] is None


def test_a_figure_of_one_seed_is_compared_with_that_seed_and_all_others_with_the_mean():
    ours = Published("us", 10, "33", None, {"boxes ap": 36.6, "boxes ap75": 1.0}, "table")
    mean = Published("us", 10, "10 seeds", None, {"boxes ap": 35.9, "boxes ap std": 0.5}, "ablation")
    other_split = Published("us", 10, "33", "half of it", {"boxes ap": 1.0}, "elsewhere")
    other_shots = Published("us", 5, "33", None, {"boxes ap": 1.0}, "elsewhere")
    rows = compare_with_published(protocol_with(ours, mean, other_split, other_shots), DRAWS, summarise_seeds(DRAWS))
    of_seed, of_mean = rows
    assert (of_seed["ours"], of_seed["ours_of"]) == (34.0, "seed 33")
    assert of_seed["difference"] == pytest.approx(-2.6)
    assert (of_mean["ours"], of_mean["ours_of"], of_mean["published_std"]) == (32.0, "mean of 2 seeds", 0.5)


def test_a_seed_that_was_not_run_is_compared_with_what_was():
    published = Published("us", 10, "33", None, {"boxes ap": 36.6}, "table")
    draws = DRAWS[:1]
    (row,) = compare_with_published(protocol_with(published), draws, summarise_seeds(draws))
    assert row["ours_of"] == "seed 42"
    fixed = [draw(10, None, boxes_ap=None)]
    (row,) = compare_with_published(protocol_with(published), fixed, summarise_seeds(fixed))
    assert row["ours_of"] == "fixed references"
    assert row["difference"] is None


def test_the_published_table_of_coco_stands_beside_ours():
    draws = [draw(10, seed, boxes_ap=36.0 + seed / 100, masks_ap=33.0) for seed in (42, 33)]
    rows = compare_with_published(get_protocol("coco-fsod"), draws, summarise_seeds(draws))
    found = {(row["figure"], row["published_of"], row["published"], row["ours_of"]) for row in rows}
    assert ("boxes ap", "10 seeds", 35.9, "mean of 2 seeds") in found
    assert ("boxes ap", "33", 36.6, "seed 33") in found
    assert ("masks ap", "10 seeds", 33.4, "mean of 2 seeds") in found


def test_markdown_says_what_was_measured_and_what_was_not():
    comparison = compare_with_published(
        protocol_with(Published("us", 10, "10 seeds", None, {"boxes ap": 35.9, "boxes ap std": 0.5}, "ablation")),
        DRAWS,
        summarise_seeds(DRAWS),
    )
    missing = [DRAWS[0] | {"without_reference": ["dog"]}, *DRAWS[1:]]
    text = markdown(
        numbers_of(missing, comparison, skipped=["the image x does not exist"], skipped_references=["annotation 4: no"])
    )
    assert text.startswith("# A protocol\n")
    assert "| 10 | 42, 33 | **32.0 ± 2.8** | 30.0 to 34.0 | 34.0 |" in text
    assert "| 10 | box AP | 32.0 | mean of 2 seeds | 35.9 ± 0.5 | 10 seeds | -3.9 | us | [1] |" in text
    assert "1. ablation" in text
    assert "| dog | – | – |" in text
    assert "1 images could not be used, and count as images without predictions:\n\n* the image x" in text
    assert "* annotation 4: no" in text
    assert "10 shots, seed 42: no reference of dog" in text
    assert "## Protocol: A protocol (`p`)" in text
    assert "None" not in text
    no_phases = {"seconds": 10.0, "images_per_second": 0.5}
    text = markdown(numbers_of(DRAWS, unit="episodes", objects=None, time=no_phases, skipped=["episode 3: gone"]))
    assert "1 episodes could not be used, and count as episodes without predictions" in text
    assert "| data | 5 episodes of 2 classes evaluated |" in text
    assert "| time | 10 s, 0.50 images/s |" in text


def test_a_try_is_called_a_try_in_the_title():
    few = "limited to the first 5 of 9 images"
    text = markdown(numbers_of(DRAWS, deviations=[few, "2 classes instead of the 20 of the protocol"]))
    title = text.splitlines()[0]
    assert title == f"# A protocol: {few}, 2 classes instead of the 20 of the protocol"
    assert "Not compared with published figures, since the run deviates from the protocol (limited to" in text
    assert "No figure of exactly this protocol" in markdown(numbers_of(DRAWS))


def test_hundreds_of_classes_are_left_to_the_json():
    text = markdown(numbers_of(DRAWS, classes=[f"class {k}" for k in range(1203)]))
    assert "The figures of all 1203 classes are in `report.json`." in text


def test_figures_of_episodes_have_a_table_of_their_own():
    draws = [draw(1, None) | {"figures": {"miou": 40.0, "fb-iou": 60.0}, "per_class": {"cat": {"iou": 40.0}}}]
    text = markdown(numbers_of(draws, headline="miou", per_class_figures=["iou"], classes=["cat"]))
    assert "| 1 | fixed | **40.0** |  |" in text
    assert "| shots | mIoU | FB-IoU |" in text
    assert "| class | 1: IoU |" in text


def test_what_the_models_can_do_alone_and_what_goes_wrong():
    diagnostics = {
        "recall": [{"area": "small", "objects": 4, "recall_50": 75.0, "recall_75": 50.0, "mean": 61.25}],
        "accuracy_on_true_masks": [{"shots": 1, "objects": 4, "accuracy": {"mean": 80.0, "std": 2.5}}],
    }
    counts = dict.fromkeys(("right", "wrong_class", "duplicate", "poor_localisation", "distractor", "background"), 3)
    error = {"shots": 1, "seed": 33, "iou_type": "masks", "ap": 0.4, "ap_if_labels_perfect": 0.5}
    error |= {"ap_if_masks_perfect": None, "errors_above": {"total": counts | {"missed": 7}}}
    other = error | {"seed": 42, "ap": 0.3, "errors_above": {"total": counts | {"missed": 8}}}
    text = markdown(numbers_of(DRAWS, diagnostics=diagnostics, errors=[error, other]))
    assert "| small | 4 | 75.0 | 50.0 | 61.2 |" in text
    assert "| 1 | 4 | 80.0 ± 2.5 |" in text
    assert "| 1 | masks | 35.0 | 50.0 | – | 3.0 | 3.0 | 3.0 | 3.0 | 3.0 | 3.0 | 7.5 |" in text


def test_names_and_cells():
    assert figure_name("boxes ap50") == "box AP50"
    assert figure_name("masks ar_100") == "mask AR@100"
    assert figure_name("fb-iou") == "FB-IoU"
    assert table(["a", "b"], [["x|y", 1]], "lr") == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_a_comparison_of_two_runs():
    row = {"shots": 10, "seed": None, "figure": "masks ap", "a": 30.0, "b": 31.26, "difference": 1.26}
    text = comparison_markdown("x", "y", [row | {"low": -0.5, "high": 2.0, "p_better": 0.9, "samples": 100}])
    assert "| 10 | fixed | mask AP | 30.0 | 31.3 | +1.3 | -0.5 to +2.0 | 90 % | 100 |" in text
    assert "differ" not in text
    assert "| preset.name | paper | default |" in comparison_markdown(
        "x", "y", [], [("preset.name", "paper", "default")]
    )


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_report(tmp_path, numbers_of(DRAWS))
    assert json.loads((tmp_path / "report.json").read_text())["title"] == "A protocol"
    before = (tmp_path / "report.json").read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "report.json", b"half")
    assert (tmp_path / "report.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]


def test_a_report_without_a_number_is_refused_rather_than_written_as_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(tmp_path, numbers_of(DRAWS, objects=float("nan")))
