"""`make demo` on fewer images: it prints its table, draws its pictures, and resumes; the same on photographs."""

from __future__ import annotations

import json
import re
import sys

import pytest
from PIL import Image

from synthetic.natural import draw_natural_scene
from synthetic.scenes import write_coco

SPECIES = (30_000, 30_002)


@pytest.fixture
def demo(fo):
    """The modules of the demo; their datasets are deleted."""
    from demo import __main__, own_photos, photographs, scenes

    yield __main__
    for name in (scenes.DATASET, photographs.DATASET, own_photos.DATASET):
        if fo.dataset_exists(name):
            fo.delete_dataset(name)


def run(demo, monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["demo", *arguments])
    demo.main()
    return capsys.readouterr().out


def test_demo_runs_and_runs_again(demo, tmp_path, monkeypatch, capsys):
    arguments = ("--targets", "3", "--out", str(tmp_path))
    first = run(demo, monkeypatch, capsys, *arguments)
    assert "3 images segmented, 0 already done, 0 failed" in first
    assert first.count("3 images segmented") == 4
    for name in ("default", "paper", "prompt (VRP)", "both"):
        assert f"all, {name} " in first
    assert first.count("Expected precision") == 1
    assert "nAP on 3 drawn scenes, 10 novel classes, 5 references per class" in first
    for name in ("references", "predictions"):
        assert str(tmp_path / f"{name}.png") in first
        assert Image.open(tmp_path / f"{name}.png").width > 900
    assert "0 images segmented, 3 already done, 0 failed" in run(demo, monkeypatch, capsys, *arguments)


def test_coins_are_found_from_three(demo, tmp_path, monkeypatch, capsys):
    told = run(demo, monkeypatch, capsys, "--coins", "--out", str(tmp_path))
    assert "3 labelled" in told
    found = re.search(r"(\d+) found at the recommended threshold", told)
    assert found
    assert 14 <= int(found[1]) <= 24, "of 24 coins"
    assert Image.open(tmp_path / "photographs.png").width > 900


def test_galaxies_are_found_from_five_beside_the_coins(demo, fo, tmp_path, monkeypatch, capsys):
    told = run(demo, monkeypatch, capsys, "--coins", "--galaxies", "--out", str(tmp_path))
    found = dict(re.findall(r"(\w+): \d labelled, (\d+) found at the recommended threshold", told))
    assert 14 <= int(found["coin"]) <= 24
    assert 8 <= int(found["galaxy"]) <= 30
    dataset = fo.load_dataset("reference-segmentation-photographs")
    for label, number in found.items():  # as they are drawn, after both runs
        confidences = dataset.values(f"found_{label}.detections.confidence", unwind=True)
        assert sum(confidence >= 0.5 for confidence in confidences if confidence is not None) == int(number)
    assert Image.open(tmp_path / "photographs.png").height > 900


@pytest.fixture
def own_folder(tmp_path):
    """Folder of images with a COCO file."""
    scenes = [draw_natural_scene([61, i], SPECIES, featured=SPECIES[i % 2], side=128) for i in range(8)]
    folder = tmp_path / "own"
    write_coco(folder, scenes, SPECIES)
    (folder / "other.json").write_text(json.dumps({"no": "annotations"}))
    return folder


def test_own_photographs_are_segmented_and_evaluated(demo, own_folder, tmp_path, monkeypatch, capsys, fo):
    arguments = ("--shots", "1", "--targets", "3", "--out", str(tmp_path / "out"))
    told = run(demo, monkeypatch, capsys, "--photos", str(own_folder), *arguments)
    assert "3 images segmented" in told
    assert "nAP on 3 images, 2 classes, 1 references per class" in told
    assert Image.open(tmp_path / "out" / "own_photos.png").width > 900
    from demo import own_photos

    stored = fo.load_dataset(own_photos.DATASET).clone("stored", persistent=True)
    before = stored.get_field_schema(flat=True).keys(), stored.count_sample_tags()
    try:
        stored.export(str(tmp_path / "exported"), fo.types.FiftyOneDataset, progress=False)
        for source in ("stored", str(tmp_path / "exported")):
            told = run(demo, monkeypatch, capsys, "--photos", source, "--field", "ground_truth", *arguments)
            assert "3 images segmented" in told
        assert (stored.get_field_schema(flat=True).keys(), stored.count_sample_tags()) == before
    finally:
        stored.delete()


def test_sources_that_cannot_be_used_are_told(demo, own_folder, tmp_path, monkeypatch, capsys):
    def refusal(*arguments: str) -> str:
        with pytest.raises(SystemExit) as refused:
            run(demo, monkeypatch, capsys, "--photos", *arguments)
        return str(refused.value)

    assert "neither a folder nor a stored FiftyOne dataset" in refusal("nowhere")
    (tmp_path / "empty").mkdir()
    assert "no COCO file" in refusal(str(tmp_path / "empty"))
    assert "lower --shots" in refusal(str(own_folder), "--shots", "1000")
    (own_folder / "broken.json").write_text("{")
    assert "is no COCO file" in refusal(str(own_folder), "--labels", str(own_folder / "broken.json"))
    assert "neither a folder" in refusal("reference-segmentation-own")  # its own results are no source
    (own_folder / "again.json").write_text((own_folder / "labels.json").read_text())
    assert "several COCO files (again.json, labels.json): name one with --labels" in refusal(str(own_folder))
