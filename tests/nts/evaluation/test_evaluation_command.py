"""`python -m nts.evaluation` on tiny datasets in the published layouts, including interrupted runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from own_data import write_own_data
from paths import ROOT
from PIL import Image
from tiny_layouts import tiny

from nts.datasets.layouts import load
from nts.datasets.protocols import PROTOCOLS, get_protocol
from nts.evaluation import protocol_run
from nts.evaluation.__main__ import main
from nts.evaluation.predictor_table import PredictorTable
from nts.metrics.lvis import evaluate_lvis
from synthetic.scenes import NOVEL_SPECIES, reference_scenes, species_name, target_scenes, write_coco

QUICK = ("--points", "4", "--device", "cpu")


def run(*arguments: object) -> None:
    main([str(argument) for argument in ("run", *arguments, *QUICK)])


def report(folder: Path) -> tuple[dict, str]:
    return json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> tuple[str, ...]:
    """Arguments for a custom dataset of two classes and four targets."""
    return write_own_data(tmp_path_factory.mktemp("own"))


def test_list_and_show_tell_of_every_protocol(capsys):
    main(["list"])
    listed = capsys.readouterr().out
    for name in PROTOCOLS:
        assert f"| {name} |" in listed
        main(["show", name])
        assert f"(`{name}`)" in capsys.readouterr().out


def test_coco_few_shot_and_episodes(tmp_path, capsys):
    run("coco-fsod", "--data", tiny("coco"), "--shots", 1, "--seeds", 2, "--out", tmp_path / "run")
    numbers, text = report(tmp_path / "run")
    assert numbers["summary"][0]["seeds"] == [42, 13]
    assert {row["figure"] for row in numbers["comparison"]} == {"boxes ap", "masks ap"}
    assert "| 1 | mask AP |" in text
    assert "24.5 ± 1.5 | 10 seeds" in text
    assert "inclusive, one pixel short, as published" in text
    assert text in capsys.readouterr().out

    run("coco-20i-0", "--data", tiny("coco"), "--shots", 1, 2, "--seed", 5, "--limit", 2, "--out", tmp_path / "20i")
    numbers, text = report(tmp_path / "20i")
    assert set(numbers["summary"][0]["figures"]) == {"miou", "fb-iou"}
    assert numbers["objects"] is None
    assert "both models" not in text
    assert len(json.loads((tmp_path / "20i" / "episodes" / "2shot-seed5.json").read_text())["episodes"]) == 2
    main(["compare", str(tmp_path / "20i"), str(tmp_path / "20i"), "--draws", "5"])
    assert "| 1 | 5 | mIoU |" in capsys.readouterr().out


def test_pascal_voc_has_boxes_for_references_and_segmentations_for_episodes(tmp_path):
    run("voc-1", "--data", tiny("voc"), "--shots", 1, "--seed", 33, "--limit", 1, "--out", tmp_path / "run")
    numbers, text = report(tmp_path / "run")
    assert set(numbers["per_class_figures"]) == {"boxes ap", "boxes ap50"}
    assert numbers["comparison"] == []
    assert text.startswith("# PASCAL VOC few-shot, split 1: limited to the first 1 of 11 images\n")
    assert "Masks of references without one were predicted by the segmenter" in text

    out = tmp_path / "5i"
    run("pascal-5i-1", "--data", tiny("voc"), "--shots", 1, "--seeds", 1, "--limit", 2, "--side", 64, "--out", out)
    assert "| masks compared at | 64 x 64 pixels |" in report(out)[1]
    with pytest.raises(SystemExit, match="RunError: only runs of instances can save predictions, not episodes"):
        run("pascal-5i-1", "--data", tiny("voc"), "--seeds", 1, "--save-predictions", "--out", out)


def test_cd_fsod_has_fixed_references(tmp_path):
    out = tmp_path / "run"
    run("cd-fsod-uodd", "--data", tiny("cd-fsod"), "--shots", 1, 5, "--limit", 1, "--out", out)
    numbers, text = report(out)
    assert [(draw["shots"], draw["seed"]) for draw in numbers["draws"]] == [(1, None), (5, None)]
    assert "| 1 | fixed |" in text


def test_lvis(tmp_path):
    out = tmp_path / "run"
    run("lvis", "--data", tiny("lvis"), "--shots", 2, "--limit", 3, "--save-predictions", "--out", out)
    numbers, text = report(out)
    assert "| results that count | 300 per image |" in text
    assert numbers["draws"][0]["references"] == 18  # repeated if a class has too few
    assert "| shots | IoU of | AP | AP50 | AP75 | APs | APm | APl | APr | APc | APf |" in text

    data = load(get_protocol("lvis"), tiny("lvis"))
    results = json.loads((out / "predictions" / "2shot-seed42.json").read_text())
    first = {**data.targets, "images": data.targets["images"][:3]}
    expected = evaluate_lvis(first, results, data.class_ids, result_areas="box").to_dict()
    found = numbers["draws"][0]
    for kind in ("boxes", "masks"):
        for name, value in expected[kind].items():
            assert found["figures"][f"{kind} {name}"] == (None if value is None else pytest.approx(100 * value))
        for label, value in expected[f"{kind}_per_class"].items():
            ours = found["per_class"][label][f"{kind} ap"]
            assert ours == (None if value is None else pytest.approx(100 * value))


def test_views_of_fiftyone_are_data_too(drawn, tmp_path):
    for tag in ("reference", "target"):
        drawn.save_view(f"{tag}s", drawn.match_tags(tag))
    sources = [f"--{name}=fiftyone:{drawn.name}/{name}" for name in ("references", "targets")]
    run("custom", *sources, "--shots", 1, "--seeds", 1, "--limit", 1, "--out", tmp_path)
    numbers, text = report(tmp_path)
    assert numbers["classes"] == sorted(drawn.match_tags("reference").distinct("ground_truth.detections.label"))
    assert "| preset | `default` |" in text


def test_a_killed_run_goes_on_and_ends_with_the_numbers_of_one_that_was_not(own, tmp_path, monkeypatch):
    arguments = ("custom", *own, "--shots", "1", "--seeds", "2", "--images-per-part", "1")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "nts.evaluation", "run", *arguments, *QUICK, "--out", str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (killed / "parts" / "00000.npz").is_file():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (killed / "report.json").exists()
    # The source may change while its tests run.
    code = json.loads((killed / "config.json").read_text())["code"]
    monkeypatch.setattr(protocol_run, "code_fingerprint", lambda: code)
    before = {path: path.stat().st_mtime_ns for path in (killed / "parts").glob("*.npz")}
    run(*arguments, "--out", killed)
    run(*arguments, "--out", whole)
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    numbers = [report(folder)[0] for folder in (killed, whole)]
    assert [n.pop("time")["seconds"] > 0 for n in numbers] == [True, True]
    assert numbers[0] == numbers[1]


def test_parts_are_ablated_and_negatives_described_on_the_command_line(own, tmp_path):
    folder = tmp_path / "background" / "more"
    folder.mkdir(parents=True)
    for k, scene in enumerate(target_scenes(2)):
        Image.fromarray(scene.image).save(folder / f"{k}.png")
    (folder / "notes.txt").write_text("no image")
    options = ("custom", *own, "--shots", 1, "--seeds", 1, "--limit", 1, "--preset", "default", "--out", tmp_path / "a")
    background = ("--background", tmp_path / "background")
    run(*options, "--ablate", "crops", "consensus", "--complete-labels", *background)
    numbers, text = report(tmp_path / "a")
    method = numbers["config"]["preset"]["method"]
    assert (method["crops"], method["consensus"], method["negatives"]) == (False, False, True)
    assert numbers["config"]["complete_labels"] is True
    assert "| beyond the paper | similarity, rank, negatives |" in text
    assert "labels of the reference images complete, 2 background images |" in text
    with pytest.raises(SystemExit, match=r"preset.method.crops: False there, True now"):
        run(*options, "--ablate", "consensus", "--complete-labels", *background)
    with pytest.raises(SystemExit, match=r"complete_labels: True there, False now"):
        run(*options, "--ablate", "crops", "consensus", *background)
    with pytest.raises(SystemExit, match=r"background: \w+ there, \w+ now"):
        run(*options, "--ablate", "crops", "consensus", "--complete-labels")
    with pytest.raises(SystemExit, match="uses no negatives here, so complete labels and background images have no"):
        run(*options, "--ablate", "negatives", *background)


def test_an_interruption_from_the_keyboard_is_no_traceback(own, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nts.evaluation.__main__.run", interrupt)
    with pytest.raises(SystemExit, match="interrupted: run the same command again"):
        run("custom", *own, "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "coco-fsod"], "--data is needed: the folder of COCO"),
        (["run", "coco-fsod", "--data", "/nowhere"], "LayoutError: there is no folder /nowhere"),
        (["run", "coco-fsod", "--data", "/nowhere", "--seeds", "11"], "has 10 published seeds, not 11"),
        (
            ["run", "custom", "--actors", "2"],
            "--actors and --gpus-per-actor are about the workers of a cluster: add --ray",
        ),
        (["run", "custom", "--ray", "--actors", "0"], "ClusterError: the number of workers must be at least 1, got 0"),
        (["run", "custom"], "custom needs --references and --targets"),
        (["run", "custom", "--references", "/no.json", "--targets", "/no.json"], "/no.json is not a COCO data set"),
        (
            ["run", "coco-fsod", "--data", "/nowhere", "--ablate", "magic"],
            "ValueError: there is no part 'magic'; there are similarity, rank, crops, tiles, negatives, transductive",
        ),
        (
            ["run", "coco-fsod", "--data", "/nowhere", "--preset", "default", "--background", "/nowhere"],
            "--background: /nowhere is no folder with images",
        ),
        (["compare", "/nowhere", "/nowhere"], "is not the folder of a run"),
    ],
)
def test_a_wrong_command_gives_one_message(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(arguments)


def test_episodes_by_another_predictor_and_with_weaker_references_say_so(tmp_path):
    out = tmp_path / "run"
    options = ("--data", tiny("coco"), "--shots", 1, "--seed", 5, "--limit", 2, "--out", out)
    run("coco-20i-0", *options, "--predictor", "gp-sam-both", "--kind", "box", "--promoted")
    numbers, text = report(out)
    assert (numbers["config"]["predictor"], numbers["config"]["annotation"]) == ("gp-sam-both", "box promoted")
    assert numbers["config"]["threshold"] == 0.75
    assert text.startswith("# COCO-20i, fold 0: limited to the first 2 of 1000 episodes, references annotated by box")
    assert "by the predictor 'gp-sam-both'" in text
    assert "| found | pixels of a normalised prior of at least 0.75 |" in text
    assert numbers["comparison"] == []
    with pytest.raises(SystemExit, match="predictor: gp-sam-both there, prior now"):
        run("coco-20i-0", *options, "--predictor", "prior", "--kind", "box", "--promoted")
    with pytest.raises(SystemExit, match="a mask cannot be promoted"):
        run("coco-20i-0", *options, "--promoted")
    with pytest.raises(SystemExit, match="coco-fsod evaluates instances: other predictors"):
        run("coco-fsod", *options, "--kind", "point")


@pytest.mark.parametrize("source", ["files", "fiftyone"])
def test_all_predictors_in_one_table_on_custom_data(source, request, tmp_path, capsys):
    novel = species_name(NOVEL_SPECIES[0])
    if source == "files":
        species = NOVEL_SPECIES[:3]
        scenes = [scene for number in species for scene in reference_scenes(number, 2)]
        for name, count in (("references", 6), ("targets", 6)):
            path = write_coco(tmp_path / name, scenes[:count], species)
            labels = json.loads(path.read_text())
            for image in labels["images"]:
                image["file_name"] = f"data/{image['file_name']}"
            path.write_text(json.dumps(labels))
        sources = [f"--{name}={tmp_path / name / 'labels.json'}" for name in ("references", "targets")]
    else:
        drawn = request.getfixturevalue("drawn")
        drawn.save_view("references", drawn.match_tags("reference"))
        sources = [f"--{name}=fiftyone:{drawn.name}/references" for name in ("references", "targets")]
        novel = sorted(drawn.match_tags("reference").distinct("ground_truth.detections.label"))[0]
    words = ["predictors", "custom", *sources, "--classes", novel, "--shots", "1", "--episodes", "2", "--points", "4"]
    words += ["--validation-episodes", "1"]
    main([*words, "--annotations", "mask", "point promoted", "--device", "cpu", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    table = PredictorTable.from_json((tmp_path / "out" / "predictors.json").read_text())
    assert table.to_markdown() in printed
    assert {cell.row for cell in table.cells} == {
        "prior",
        "GP-SAM, points",
        "GP-SAM, box",
        "GP-SAM, both",
        "training-free",
        "training-free, wrong class",
    }
    assert {cell.group for cell in table.cells} == {"novel", "base"}
