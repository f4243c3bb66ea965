"""Training reference prompts on views: results, skipped data, and interrupted trainings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from app_requests import form, in_the_app, outcome, values
from drawn_dataset import PLUGIN, training_samples, truncate

from synthetic.scenes import species_name

SPECIES = (100, 102, 104, 106, 108)
NAMES = [species_name(number) for number in SPECIES]
FEW = {"steps": 4, "batch": 2, "kinds": ["mask", "point"]}


@pytest.fixture
def labelled(fo, make_dataset, tmp_path):
    """Twenty scenes of five species, with masks."""
    pairs = [(SPECIES[i % 5], SPECIES[(i + 1 + i // 5) % 5]) for i in range(20)]
    return make_dataset(training_samples(tmp_path, 91, pairs))


@pytest.fixture(autouse=True)
def quick(monkeypatch, fo, tmp_path):
    """A checkpoint every other step, few validation episodes, and a separate folder for interrupted trainings."""
    from dataclasses import replace

    from nts.fiftyone_adapter import prompt_training

    original = prompt_training._training_config

    def often(config):
        return replace(original(config), check_every=2, validation_episodes=4)

    monkeypatch.setattr(prompt_training, "_training_config", often)
    monkeypatch.setattr(fo.config, "default_dataset_dir", str(tmp_path / "datasets"))


def test_a_view_becomes_a_prompt_of_the_dataset(nts_fo, labelled):
    told = []
    report = nts_fo.train_reference_prompt(labelled, "objects", "shapes", progress=told.append, **FEW)
    assert report.classes == tuple(sorted(NAMES))
    assert len(report.validation_classes) == 1
    assert [entry["step"] for entry in report.log] == [2, 4]
    assert any("only 4 classes to learn from" in warning for warning in report.warnings)
    assert report.left_out == []
    assert "step 4/4, loss" in told[-1].label
    assert "mIoU" in told[-1].label
    stored = nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)["shapes"]
    assert stored["classes"] == list(report.classes)
    assert (stored["encoder"], stored["segmenter"], stored["steps"]) == ("small", "small", 4)
    prompt = nts_fo.prompts.load_prompt(labelled, "shapes")
    assert prompt.fingerprint == stored["fingerprint"]
    assert not list(Path(nts_fo.prompt_training.fo.config.default_dataset_dir).rglob("*.safetensors"))


def test_an_interrupted_training_ends_as_one_that_was_not(nts_fo, labelled):
    whole = nts_fo.train_reference_prompt(labelled, "objects", "whole", **FEW)
    job = nts_fo.prompt_training.prompt_job(labelled, "objects", "parts", **FEW)
    while "step 3/" not in next(job).label:
        pass
    job.close()
    assert "parts" not in nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)
    with pytest.raises(nts_fo.InputError, match=r"other settings \(training.seed: 1 there, 2 now\)"):
        nts_fo.train_reference_prompt(labelled, "objects", "parts", seed=2, **FEW)
    parts = nts_fo.train_reference_prompt(labelled, "objects", "parts", **FEW)
    assert parts.log == whole.log
    prompts = nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)
    assert prompts["parts"]["fingerprint"] == prompts["whole"]["fingerprint"]


def test_overwriting_starts_again(nts_fo, labelled):
    job = nts_fo.prompt_training.prompt_job(labelled, "objects", "shapes", **FEW)
    while "step 3/" not in next(job).label:
        pass
    job.close()
    report = nts_fo.train_reference_prompt(labelled, "objects", "shapes", seed=2, overwrite=True, **FEW)
    assert len(report.log) == 2
    with pytest.raises(nts_fo.InputError, match="the reference prompt 'shapes' exists already"):
        nts_fo.train_reference_prompt(labelled, "objects", "shapes", **FEW)


def test_a_custom_folder_is_not_deleted(nts_fo, labelled, tmp_path):
    nts_fo.train_reference_prompt(labelled, "objects", "shapes", folder=tmp_path / "mine", **FEW)
    assert json.loads((tmp_path / "mine" / "run" / "config.json").read_text())["training"]["steps"] == 4
    assert sorted(path.name for path in (tmp_path / "mine" / "run" / "pictures").iterdir()) == [
        "000002.png",
        "000004.png",
    ]


def test_unusable_data_are_skipped_and_reported(nts_fo, labelled):
    labels = [detection for sample in labelled for detection in sample.objects.detections]
    first, second, third = labelled.limit(3)
    truncate(first.filepath)
    Path(second.filepath).unlink()
    third.objects.detections[0].mask = None
    third.save()
    unlabelled = labelled.skip(3).first()
    unlabelled.objects = None
    unlabelled.save()
    report = nts_fo.train_reference_prompt(labelled, "objects", "shapes", **FEW)
    assert len(labels) > 20
    assert any(first.filepath in line for line in report.left_out)
    assert any(second.filepath in line for line in report.left_out)
    assert any(line.startswith("1 labels without a mask") for line in report.left_out)
    assert any(line.startswith("1 images whose field 'objects' is not set") for line in report.left_out)
    assert nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)["shapes"]["left_out"] == 4


def test_an_object_without_a_mask_is_neither_found_nor_background(nts_fo, labelled, monkeypatch):
    from nts.datasets.episodes import EpisodeImages
    from nts.fiftyone_adapter import prompt_training

    sample = labelled.first()
    x, y, width, height = sample.objects.detections[0].bounding_box
    sample.objects.detections[0].mask = None
    sample.save()
    given = []
    original = prompt_training.train
    monkeypatch.setattr(
        prompt_training, "train", lambda dataset, *more: given.append(dataset) or original(dataset, *more)
    )
    nts_fo.train_reference_prompt(labelled, "objects", "shapes", **FEW)
    ignored = EpisodeImages(given[0]).ignored(sample.id)
    ys, xs = ignored.nonzero()
    assert (xs.min(), ys.min()) == (round(x * 256), round(y * 256))
    assert (xs.max() + 1, ys.max() + 1) == (round((x + width) * 256), round((y + height) * 256))


def test_images_that_show_a_test_class_are_not_used(nts_fo, labelled, monkeypatch):
    seen = set()
    from nts.vrp.training import FeatureStore

    original = FeatureStore.get
    monkeypatch.setattr(
        FeatureStore, "get", lambda self, key, read, **more: (seen.add(key), original(self, key, read, **more))[1]
    )
    report = nts_fo.train_reference_prompt(labelled, "objects", "shapes", test_classes=[NAMES[0]], **FEW)
    hidden = {sample.id for sample in labelled if NAMES[0] in [d.label for d in sample.objects.detections]}
    assert seen
    assert not seen & hidden
    assert f"{len(hidden)} images that show a test class" in report.left_out
    assert NAMES[0] not in report.classes
    assert nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)["shapes"]["test_classes"] == [NAMES[0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": NAMES[:1]}, r"needs at least 3 classes, .* there are 1"),
        ({"classes": NAMES[:3], "test_classes": NAMES[2:3]}, "training and test classes overlap"),
        ({"classes": ["unicorn"]}, "has no label of the classes unicorn"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"kinds": ["cloud"]}, "kinds must be some of mask, box, point, scribble"),
        ({"preset": "best"}, "preset must be one of default, paper, got 'best'"),
        ({"encoder": "tiny"}, "tiny"),
    ],
)
def test_unsuitable_data_are_refused_with_a_reason(nts_fo, labelled, changes, message):
    with pytest.raises((nts_fo.InputError, RuntimeError), match=message):
        nts_fo.train_reference_prompt(labelled, "objects", "shapes", **{**FEW, **changes})
    assert nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT) == {}


def test_the_published_choices_can_be_trained(nts_fo, labelled):
    report = nts_fo.train_reference_prompt(labelled, "objects", "shapes", preset="paper", steps=2, batch=2)
    prompt = nts_fo.prompts.load_prompt(labelled, "shapes")
    assert prompt.model.config.queries == 50
    assert prompt.about["training"]["kinds"] == ["mask"]
    assert report.parameters == prompt.parameters


def test_prompts_go_to_files_and_come_back(nts_fo, labelled, tmp_path):
    nts_fo.train_reference_prompt(labelled, "objects", "shapes", **FEW)
    path = nts_fo.prompts.export_prompt(labelled, "shapes", tmp_path)
    assert path == tmp_path / "shapes.safetensors"
    with pytest.raises(nts_fo.InputError, match="exists: choose another, or switch on overwrite"):
        nts_fo.prompts.export_prompt(labelled, "shapes", path)
    nts_fo.prompts.import_prompt(labelled, path, "again")
    prompts = nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)
    assert prompts["again"]["fingerprint"] == prompts["shapes"]["fingerprint"]
    assert nts_fo.prompts.load_prompt(labelled, str(path)).fingerprint == prompts["shapes"]["fingerprint"]
    assert nts_fo.runs.delete_run(labelled, "again", nts_fo.runs.PROMPT) == ["reference prompt 'again'"]
    with pytest.raises(nts_fo.errors.RunNotFound, match="has no reference prompt 'again'; it has: shapes"):
        nts_fo.runs.delete_run(labelled, "again", nts_fo.runs.PROMPT)


def test_a_damaged_prompt_is_named(nts_fo, labelled):
    from nts.vrp.prompt import PromptFileError

    nts_fo.train_reference_prompt(labelled, "objects", "shapes", **FEW)
    results = labelled.load_run_results("shapes", cache=False)
    results.prompt = results.prompt[: len(results.prompt) // 2]
    labelled.save_run_results("shapes", results, overwrite=True, cache=False)
    with pytest.raises(PromptFileError, match=r"the reference prompt 'shapes' of the dataset .* is damaged"):
        nts_fo.prompts.load_prompt(labelled, "shapes")


# ---- in the App ------------------------------------------------------------------------------------------------------


def test_the_app_trains_and_shows_the_curves(labelled, nts_fo):
    in_the_app("train_reference_prompt", labelled, label_field="objects", prompt_key="shapes", steps=4, kinds=["mask"])
    shown = outcome(labelled)
    assert "**shapes**" in shown["summary"]
    assert "**Note**" in shown["summary"]
    (loss, miou), layout = shown["plot"]
    assert loss["x"] == miou["x"] == [1, 2, 3, 4]
    assert miou["yaxis"] == "y2"
    assert "yaxis2" in layout
    assert "shapes" in nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)


def test_the_form_warns_and_refuses(operator, labelled):
    train = operator("train_reference_prompt")
    shown = form(train, labelled)
    assert "Only 5 classes" in shown["few"]["view"]["label"]
    assert values(shown["kinds"]) == ["mask", "box", "point", "scribble"]
    assert values(shown["preset"]) == ["default", "paper"]
    assert not shown["test_classes"].get("invalid")
    leaked = form(train, labelled, classes=NAMES[:3], test_classes=NAMES[2:4])
    assert leaked["test_classes"]["invalid"]
    assert "training and test classes overlap" in leaked["test_classes"]["error_message"]
    assert form(train, labelled, prompt_key="not a name")["prompt_key"]["invalid"]


def test_operators_export_import_and_delete(operator, labelled, nts_fo, tmp_path):
    assert form(operator("delete_reference_prompt"), labelled)["problem"]["invalid"]
    nts_fo.train_reference_prompt(labelled, "objects", "shapes", **FEW)
    assert values(form(operator("export_reference_prompt"), labelled)["prompt_key"]) == ["shapes"]
    in_the_app("export_reference_prompt", labelled, prompt_key="shapes", path=str(tmp_path / "file"))
    in_the_app("import_reference_prompt", labelled, path=str(tmp_path / "file.safetensors"), prompt_key="again")
    assert sorted(nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)) == ["again", "shapes"]
    told = in_the_app("delete_reference_prompt", labelled, prompt_key="shapes")
    assert "reference prompt 'shapes'" in told[-1][1]["results"]["summary"]
    assert list(nts_fo.runs.list_runs(labelled, nts_fo.runs.PROMPT)) == ["again"]


def test_the_plugin_is_the_one_that_is_tested(fo):
    import fiftyone.operators as foo

    assert foo.get_operator(f"{PLUGIN}/train_reference_prompt").config.label == "Train reference prompt"


def test_the_older_of_two_trainings_of_a_name_ends_and_a_deleted_one_leaves_nothing(nts_fo, labelled, monkeypatch):
    from nts.fiftyone_adapter import prompt_training

    monkeypatch.setattr(prompt_training, "_CHECK_AFTER", 0)
    first = nts_fo.prompt_training.prompt_job(labelled, "objects", "learned", **FEW)
    while "step" not in next(first).label:
        pass
    assert nts_fo.runs.list_drafts(labelled, nts_fo.runs.PROMPT)["learned"]["status"] == "running"
    second = nts_fo.prompt_training.prompt_job(labelled, "objects", "learned", **FEW)
    while "waiting for an earlier training" not in next(second).label:
        pass
    with pytest.raises(nts_fo.errors.RunEnded, match="'learned' was started again meanwhile, or deleted"):
        nts_fo.run(first)
    folder = Path(nts_fo.runs.list_drafts(labelled, nts_fo.runs.PROMPT)["learned"]["scratch_folder"])
    while "step" not in next(second).label:
        pass
    assert folder.is_dir()
    assert nts_fo.runs.delete_run(labelled, "learned", nts_fo.runs.PROMPT) == ["unfinished reference prompt 'learned'"]
    with pytest.raises(nts_fo.errors.RunEnded, match="or deleted"):
        nts_fo.run(second)
    assert not folder.exists()
    assert labelled.list_runs() == []


def test_a_stopped_training_is_listed_and_can_be_finished_or_deleted(nts_fo, labelled):
    job = nts_fo.prompt_training.prompt_job(labelled, "objects", "learned", **FEW)
    while "step" not in next(job).label:
        pass
    job.close()
    assert nts_fo.runs.list_drafts(labelled, nts_fo.runs.PROMPT)["learned"]["status"] == "interrupted"
    assert nts_fo.train_reference_prompt(labelled, "objects", "learned", **FEW).steps == FEW["steps"]
    assert nts_fo.runs.list_drafts(labelled, nts_fo.runs.PROMPT) == {}
    nts_fo.runs.delete_run(labelled, "learned", nts_fo.runs.PROMPT)
    assert labelled.list_runs() == []
