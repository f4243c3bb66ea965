"""The benchmark on photographs, on drawn pictures in the same layout; the oracle of sparse prompts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import photographs, prompt_oracle
from synthetic.natural import draw_natural_scene
from synthetic.scenes import write_coco

SPECIES = (30_000, 30_002)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> photographs.PhotographSet:
    folder: Path = tmp_path_factory.mktemp("sets") / "drawn"
    scenes = [draw_natural_scene([61, i], SPECIES, featured=SPECIES[i % 2], side=128) for i in range(10)]
    write_coco(folder, scenes, SPECIES)
    (folder / "labels.json").rename(folder / "annotations.json")
    (folder / "data").rename(folder / "images")
    return photographs.PhotographSet.read(folder)


def test_references_and_targets_are_of_different_images(pictures):
    for seed in range(3):
        drawn = photographs.draw(pictures, 2, seed, images=4)
        per_class = {c: [r for r in drawn.references if r["category_id"] == c] for c in pictures.names}
        assert [len(of_class) for of_class in per_class.values()] == [2, 2]
        for of_class in per_class.values():
            assert len({each["image_id"] for each in of_class}) == 2
        assert len(drawn.targets) == 4
        assert not {each["image_id"] for each in drawn.references} & set(drawn.targets)
    assert photographs.draw(pictures, 2, 0, images=4) == photographs.draw(pictures, 2, 0, images=4)


def test_classes_with_few_objects_can_be_left_out(pictures, tmp_path):
    annotations = pictures.dataset["annotations"]
    rare = annotations[0]["category_id"]
    others = [each for each in annotations if each["category_id"] != rare]
    content = {**pictures.dataset, "annotations": [annotations[0], *others]}
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    assert photographs.PhotographSet.read(tmp_path).dataset["annotations"] == [annotations[0], *others]
    assert photographs.PhotographSet.read(tmp_path, min_objects=2).dataset["annotations"] == others


def test_colour_histograms_count_the_pixels_of_a_region():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2] = 255
    found = photographs.colour_histogram(image, np.arange(16).reshape(4, 4) < 12).square()
    assert found[0] == pytest.approx(1 / 3)
    assert found[-1] == pytest.approx(2 / 3)
    assert found.sum() == pytest.approx(1)


def test_every_figure_is_measured(pictures, small_encoder, small_segmenter):
    drawn = photographs.draw(pictures, 2, 0, images=3)
    report = photographs.measure(pictures, drawn, small_encoder, small_segmenter, ["default", "paper"])
    assert set(report.rows) == {"default", "paper"}
    for value in (report.right, report.right_by_colour, report.proposals):
        assert 0 <= value <= 100
    for row in report.rows.values():
        assert 0 <= row.ap <= row.ap50 <= 100
    shown = photographs.table({"drawn": [report, report]})
    assert shown.splitlines()[-1].startswith("| drawn |")


def test_optimised_prompts_move_the_mask(small_segmenter):
    images, masks = prompt_oracle.problems(2)
    truth = masks["all of a class"]
    assert (masks["one object"] <= truth).all()
    embedding = prompt_oracle.embed(small_segmenter, images)
    first, later = (
        prompt_oracle.optimise(small_segmenter, embedding, truth, tokens=8, steps=steps).mean() for steps in (1, 30)
    )
    assert later > first + 0.4
    assert torch.isfinite(prompt_oracle.clicked(small_segmenter, images, truth)).all()
