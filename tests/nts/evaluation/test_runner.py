"""Evaluation runs: results equal those of a direct evaluation, survive interruptions, and never share a folder."""

from __future__ import annotations

import copy
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from tiny_layouts import tiny

from nts import pipeline, targets
from nts.building import build_memory
from nts.cache import TensorCache
from nts.cached_segmenter import CachedSegmenter
from nts.datasets.annotated_images import Annotation
from nts.datasets.coco_records import mask_of_annotation
from nts.datasets.episodes import EpisodeImages, read_episodes, write_episodes
from nts.datasets.layouts import load
from nts.datasets.protocol_data import ProtocolData, protocol_data
from nts.datasets.protocols import get_protocol
from nts.datasets.published import Published
from nts.datasets.sampling import draw_references
from nts.encoder import Encoder
from nts.evaluation import instance_objects, instance_references
from nts.evaluation.comparison import compare_runs
from nts.evaluation.episode_run import EpisodeRun
from nts.evaluation.instance_run import InstanceRun
from nts.evaluation.protocol_run import Draw, Settings
from nts.evaluation.run_folder import read_config
from nts.evaluation.runner import run
from nts.images import read_image
from nts.masks import draw_masks
from nts.matching import pool_tokens
from nts.memory import MemoryBank
from nts.metrics.coco import coco_results, evaluate
from nts.metrics.error_types import diagnose
from nts.metrics.matches import match
from nts.pipeline import ReferenceSegmenter, encode_target
from nts.presets import DEFAULT, PAPER
from nts.references import Reference
from nts.segmenter import Segmenter
from nts.utils.run_folder import RunError, differing_settings
from nts.vrp.loading import load_reference_prompt
from synthetic.scenes import (
    DISTRACTOR_SPECIES,
    NOVEL_SPECIES,
    coco_dataset,
    draw_scene,
    reference_scenes,
    target_scenes,
)

SPECIES = NOVEL_SPECIES[:3]
PRESET = replace(PAPER, proposals=replace(PAPER.proposals, points_per_side=6))
SETTINGS = Settings(get_protocol("custom"), (1, 2), (33, 42), PRESET, save_predictions=True, units_per_part=2)


def write_images(dataset: dict, scenes, folder: Path) -> dict:
    folder.mkdir(parents=True)
    for image, scene in zip(dataset["images"], scenes, strict=True):
        image["path"] = str(folder / image["file_name"])
        Image.fromarray(scene.image).save(image["path"])
    return dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> ProtocolData:
    """Six references of three classes, five targets."""
    folder = tmp_path_factory.mktemp("data")
    shown = [scene for number in SPECIES for scene in reference_scenes(number, 2)]
    targets = [scene for scene in target_scenes(40) if set(scene.species.tolist()) & set(SPECIES)][:5]
    return protocol_data(
        write_images(coco_dataset(shown, SPECIES), shown, folder / "references"),
        write_images(coco_dataset(targets, SPECIES), targets, folder / "targets"),
        None,
    )


@pytest.fixture(scope="module")
def start(data, small_encoder, small_segmenter) -> Callable[..., dict]:
    """`start(folder, settings, data)`: run, and record the messages."""

    def start(folder: Path, settings: Settings = SETTINGS, of: ProtocolData = data) -> dict:
        return run(settings, of, small_encoder, small_segmenter, folder, progress=lambda _: None)

    return start


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> Path:
    """Folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    start(folder)
    return folder


def numbers_of(folder: Path) -> dict:
    """Report without its times."""
    return {key: value for key, value in json.loads((folder / "report.json").read_text()).items() if key != "time"}


def percent(value: float) -> float | None:
    return None if math.isnan(value) else pytest.approx(100 * value, abs=1e-9)


def test_the_numbers_are_those_of_the_evaluation_of_all_results_together(data, finished):
    numbers = numbers_of(finished)
    assert [(draw["shots"], draw["seed"]) for draw in numbers["draws"]] == [(1, 33), (1, 42), (2, 33), (2, 42)]
    for draw in numbers["draws"]:
        key = Draw(draw["shots"], draw["seed"]).key
        results = json.loads((finished / "predictions" / f"{key}.json").read_text())
        expected = evaluate(data.targets, results, data.class_ids, result_areas="box")
        for kind in ("boxes", "masks"):
            precision = getattr(expected, kind)
            for name, value in vars(precision.novel).items():
                assert draw["figures"][f"{kind} {name}"] == percent(value)
            for label, summary in precision.per_class.items():
                assert draw["per_class"][label][f"{kind} ap"] == percent(summary.ap)
    assert max(draw["figures"]["masks ap50"] for draw in numbers["draws"]) > 0


def test_the_models_alone_and_the_errors_are_those_of_the_diagnostics(data, finished, small_encoder, small_segmenter):
    numbers = numbers_of(finished)
    truth = [a for a in data.targets["annotations"] if a["category_id"] in data.class_ids]
    best = []
    for image in data.targets["images"]:
        target = encode_target(read_image(image["path"], exif=False), small_encoder, small_segmenter, PRESET)
        for annotation in (a for a in truth if a["image_id"] == image["id"]):
            mask = mask_of_annotation(annotation, 256, 256)
            proposed = draw_masks(target.proposals.mask_logits, (256, 256)).numpy()
            shared = (proposed & mask).sum((1, 2))
            best.append((shared / (proposed | mask).sum((1, 2))).max())
    everything = numbers["diagnostics"]["recall"][0]
    assert (everything["area"], everything["objects"]) == ("all", len(truth))
    assert everything["mean"] == pytest.approx(100 * np.mean(best), abs=0.1)
    accuracy = numbers["diagnostics"]["accuracy_on_true_masks"]
    assert [row["shots"] for row in accuracy] == [1, 2]
    assert all(row["objects"] == len(truth) and 0 < row["accuracy"]["mean"] <= 100 for row in accuracy)

    row = next(r for r in numbers["errors"] if (r["shots"], r["seed"], r["iou_type"]) == (2, 33, "masks"))
    results = json.loads((finished / "predictions" / "2shot-seed33.json").read_text())
    matches = match(data.targets, results, data.class_ids, "masks")
    expected = diagnose(matches, data.targets, results, data.class_ids).to_dict()
    assert row == {"shots": 2, "seed": 33} | expected
    text = (finished / "report.md").read_text()
    assert "## Models" in text
    assert "## Error types" in text


def test_the_results_are_those_of_the_pipeline_used_plainly(data, finished, small_encoder, small_segmenter):
    drawn = draw_references(SETTINGS.protocol, data, 2, 42)
    images = {image["id"]: image["path"] for image in data.references["images"]}
    names = {category["id"]: category["name"] for category in data.targets["categories"]}
    memory, _ = build_memory(
        (
            Reference(
                read_image(images[a["image_id"]], exif=False),
                names[class_id],
                mask_of_annotation(a, 256, 256),
                box=tuple(a["bbox"]),
                label_id=str(a["id"]),
            )
            for class_id, annotations in drawn.items()
            for a in annotations
        ),
        small_encoder,
        PRESET,
    )
    segmenter = ReferenceSegmenter(memory, small_encoder, small_segmenter, PRESET)
    target = data.targets["images"][3]
    ids = {name: class_id for class_id, name in names.items()}
    instances = segmenter.segment(read_image(target["path"], exif=False))
    expected = coco_results(instances, target["id"], [ids[name] for name in memory.classes], "inclusive")
    results = json.loads((finished / "predictions" / "2shot-seed42.json").read_text())
    results = [result for result in results if result["image_id"] == target["id"]]
    assert len(results) == len(expected) > 0
    for found, wanted in zip(results, expected, strict=True):
        assert found == wanted | {"score": pytest.approx(wanted["score"], abs=1e-5)}


def test_masks_are_pooled_once_for_all_draws(data, start, tmp_path, monkeypatch):
    def again(*_):
        raise AssertionError("pooled for a draw")

    pooled = []
    monkeypatch.setattr("nts.matching.pool_tokens", again)
    monkeypatch.setattr("nts.evaluation.model_diagnostics.pool_tokens", again)
    for module in (instance_objects, targets):
        monkeypatch.setattr(module, "pool_tokens", lambda *args: pooled.append(args) or pool_tokens(*args))
    numbers = start(tmp_path, replace(SETTINGS, limit=1, save_predictions=False))
    assert len(numbers["draws"]) == 4
    assert len(pooled) == 2  # the proposals, and the true masks


@pytest.mark.parametrize("preset", [PAPER, DEFAULT])
def test_a_second_run_with_a_cache_runs_no_model(
    data, start, small_encoder, small_segmenter, tmp_path, monkeypatch, preset
):
    def evaluate(folder: str, of: ProtocolData = data) -> dict:
        run(settings, of, small_encoder, small_segmenter, tmp_path / folder, lambda _: None, cache)
        return numbers_of(tmp_path / folder)

    def no_model(*_, **__):
        raise AssertionError("a model ran")

    cache = TensorCache(tmp_path / "cache", 10**9)
    preset = replace(preset, proposals=replace(preset.proposals, points_per_side=6))
    settings = replace(SETTINGS, preset=preset)
    start(tmp_path / "without", settings)
    expected = numbers_of(tmp_path / "without")
    assert evaluate("first") == expected
    monkeypatch.setattr(Segmenter, "embed", no_model)
    with monkeypatch.context() as patched:
        patched.setattr(Encoder, "encode", no_model)
        assert evaluate("second") == expected
    times = [json.loads((tmp_path / name / "report.json").read_text())["time"] for name in ("first", "second")]
    assert [time["from_cache"] for time in times] == [0, 5]
    assert "5 images came from the cache" in (tmp_path / "second" / "report.md").read_text()

    eroded = copy.deepcopy(data.targets)
    for annotation in eroded["annotations"]:
        run_lengths = coco_mask.encode(np.asfortranarray(smaller(annotation)))
        annotation["segmentation"] = {**run_lengths, "counts": run_lengths["counts"].decode()}
    accuracy = evaluate("eroded", replace(data, targets=eroded))["diagnostics"]
    assert accuracy["recall"] != expected["diagnostics"]["recall"]


def test_targets_of_a_segmentation_are_not_encoded_again(data, small_encoder, small_segmenter, tmp_path, monkeypatch):
    cache = TensorCache(tmp_path / "cache", 10**9)
    scene = reference_scenes(SPECIES[0], 1)[0]
    memory, _ = build_memory([Reference(scene.image, "a", scene.masks[0])], small_encoder, segmenter=None)
    segmenter = CachedSegmenter(ReferenceSegmenter(memory, small_encoder, small_segmenter, PRESET), cache)
    for image in data.targets["images"]:
        segmenter.store(segmenter.segment(segmenter.fetch_file(image["path"])))
    monkeypatch.setattr(Segmenter, "embed", None)
    run(SETTINGS, data, small_encoder, small_segmenter, tmp_path / "run", lambda _: None, cache)
    assert json.loads((tmp_path / "run" / "report.json").read_text())["time"]["from_cache"] == 5


def smaller(annotation: dict) -> np.ndarray:
    mask = mask_of_annotation(annotation, 256, 256).astype(np.uint8)
    mask[: mask.nonzero()[0].mean().astype(int)] = 0
    return mask


@pytest.mark.parametrize("predictor", ["training-free", "both-scorers"])
def test_episodes_use_the_cache_too(data, small_encoder, small_segmenter, tmp_path, monkeypatch, predictor):
    cache = TensorCache(tmp_path / "cache", 10**9)
    protocol = replace(get_protocol("coco-20i-0"), published=())
    settings = Settings(
        protocol,
        (1,),
        (0, 1),
        PRESET,
        units_per_part=1,
        episodes=4,
        predictor=predictor,
        prompt=None if predictor == "training-free" else load_reference_prompt("small"),
        annotation=Annotation("box", promoted=True),
    )
    scenes = replace(data, references=data.targets)
    run(settings, scenes, small_encoder, small_segmenter, tmp_path / "first", lambda _: None, cache)
    for method in ("embed", "propose", "decode", "predict_boxes"):
        monkeypatch.setattr(Segmenter, method, None)
    run(settings, scenes, small_encoder, small_segmenter, tmp_path / "second", lambda _: None, cache)
    assert numbers_of(tmp_path / "second") == numbers_of(tmp_path / "first")
    time = json.loads((tmp_path / "second" / "report.json").read_text())["time"]
    assert time["from_cache"] > 0


def test_an_interrupted_run_goes_on_where_it_stopped_and_ends_with_the_same_numbers(
    start, finished, tmp_path, monkeypatch
):
    encoded, original = [], pipeline.encode_target

    def encode_target(image, *args, **more):
        if len(encoded) == 3:
            raise KeyboardInterrupt
        encoded.append(image)
        return original(image, *args)

    monkeypatch.setattr(pipeline, "encode_target", encode_target)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert [path.name for path in sorted((tmp_path / "parts").iterdir())] == ["00000.npz"]
    with pytest.raises(RunError, match="has not finished"):
        compare_runs(finished, tmp_path)

    def nothing_to_encode(*_):
        raise AssertionError("references were encoded before")

    encoded.clear()
    monkeypatch.setattr(instance_references, "encode_references", nothing_to_encode)
    monkeypatch.setattr(
        pipeline, "encode_target", lambda *args, **more: encoded.append(args) or original(*args, **more)
    )
    start(tmp_path)
    assert len(encoded) == 3
    assert numbers_of(tmp_path) == numbers_of(finished)
    encoded.clear()
    start(tmp_path)
    assert not encoded
    for path in (finished / "predictions").glob("*.json"):
        assert (tmp_path / "predictions" / path.name).read_bytes() == path.read_bytes()


def test_an_interruption_among_the_references_loses_no_more_than_the_last_of_them(start, tmp_path, monkeypatch):
    monkeypatch.setattr(instance_references, "_REFERENCES_PER_SAVE", 2)
    settings = replace(SETTINGS, seeds=(33,), limit=1, save_predictions=False)
    encoded, original = [], instance_references.encode_references

    def encode_references(references, *args, **more):
        if len(encoded) == 4:
            raise KeyboardInterrupt
        for entry in original(references, *args, **more):
            encoded.append(entry.label_id)
            yield entry

    monkeypatch.setattr(instance_references, "encode_references", encode_references)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "interrupted", settings)
    before, encoded = encoded, []
    start(tmp_path / "interrupted", settings)
    assert encoded
    assert not set(before) & set(encoded)
    monkeypatch.setattr(instance_references, "encode_references", original)
    start(tmp_path / "whole", settings)
    assert numbers_of(tmp_path / "interrupted") == numbers_of(tmp_path / "whole")
    banks = [MemoryBank.load(tmp_path / run / "references.safetensors") for run in ("interrupted", "whole")]
    assert torch.equal(*(bank.instance_prototypes() for bank in banks))


def test_a_folder_that_holds_another_run_is_refused_and_says_what_differs(start, finished, data):
    other = replace(PRESET, matching=replace(PRESET.matching, nms_iou=0.7))
    with pytest.raises(RunError, match=r"holds another run(.|\n)*preset.matching.nms_iou: 0.5 there, 0.7 now"):
        start(finished, replace(SETTINGS, preset=other))
    with pytest.raises(RunError, match=r"max_detections: 100 there, 50 now"):
        start(finished, replace(SETTINGS, protocol=replace(SETTINGS.protocol, max_detections=50)))
    with pytest.raises(RunError, match=r"seeds: \[33, 42\] there, \[33\] now"):
        start(finished, replace(SETTINGS, seeds=(33,)))
    moved = copy.deepcopy(data.targets)
    moved["annotations"][0]["bbox"][0] += 1
    with pytest.raises(RunError, match=r"differs in\n  targets: \w+ there, \w+ now\n"):
        start(finished, of=replace(data, targets=moved))


# ---- negatives and confidence ----------------------------------------------------------------------------------------

BEYOND = replace(SETTINGS, preset=DEFAULT, limit=2)
BLANK = np.full((64, 64, 3), 90, np.uint8)


def write_background(folder: Path) -> tuple[Path, ...]:
    """An image of distractors, one of a single colour, and a file that is no image."""
    folder.mkdir()
    Image.fromarray(draw_scene([8, 0], DISTRACTOR_SPECIES[:4]).image).save(folder / "a.png")
    Image.fromarray(BLANK).save(folder / "b.png")
    (folder / "c.png").write_bytes(b"no")
    return tuple(sorted(folder.iterdir()))


@pytest.fixture(scope="module")
def beyond(start, tmp_path_factory) -> Path:
    """Folder of a run with the default preset."""
    folder = tmp_path_factory.mktemp("runs") / "beyond"
    start(folder, BEYOND)
    return folder


def negatives_of(folder: Path) -> dict[str, list]:
    """Negatives of a run, by image."""
    found: dict[str, list] = {}
    for negative in MemoryBank.load(folder / "references.safetensors").negatives:
        found.setdefault(negative.sample_id, []).append(negative)
    return found


def test_every_draw_has_the_negatives_of_its_own_reference_images(data, beyond):
    numbers, negatives = numbers_of(beyond), negatives_of(beyond)
    assert negatives
    assert not any(negative.sure for of_image in negatives.values() for negative in of_image)
    for draw in numbers["draws"]:
        drawn = draw_references(SETTINGS.protocol, data, draw["shots"], draw["seed"])
        images = {str(a["image_id"]) for of_class in drawn.values() for a in of_class}
        expected = sum(len(of_image) for image, of_image in negatives.items() if image in images)
        assert draw["calibration"]["negatives"] == expected
        assert draw["calibration"]["basis"] == {1: "negatives", 2: "references"}[draw["shots"]]
        assert draw["calibration"]["references"] == {1: 0, 2: 6}[draw["shots"]]
    bank = MemoryBank.load(beyond / "references.safetensors")
    assert all(entry.proposal_iou > 0 for entry in bank.entries)
    assert all(entry.whole_prototype is not None for entry in bank.entries)


def test_confidence_is_what_the_predictions_give(data, beyond):
    numbers = numbers_of(beyond)
    targets = {**data.targets, "images": data.targets["images"][:2]}
    ids = {image["id"] for image in targets["images"]}
    targets["annotations"] = [a for a in targets["annotations"] if a["image_id"] in ids]
    objects = sum(a["category_id"] in data.class_ids for a in targets["annotations"])
    for draw in numbers["draws"]:
        found, key = draw["calibration"], Draw(draw["shots"], draw["seed"]).key
        results = json.loads((beyond / "predictions" / f"{key}.json").read_text())
        matches = match(targets, results, data.class_ids, "masks")
        if found["score"] is None:
            assert (found["instances"], found["precision"], found["recall"]) == (0, None, 0)
            continue
        chosen = matches.score >= found["score"]
        right = matches.true_positives()[0, 0, chosen].sum()
        assert chosen.sum() == found["instances"]
        assert found["precision"] == pytest.approx(100 * right / chosen.sum())
        assert found["recall"] == pytest.approx(100 * right / objects)
        assert found["f1"] == pytest.approx(200 * right / (chosen.sum() + objects))
        assert 0 <= found["calibration_error"] <= 100
        assert (found["expected_precision"] is None) == (draw["shots"] == 1)
    text = (beyond / "report.md").read_text()
    assert "## Confidence" in text
    assert "| beyond the paper | similarity, rank, crops, negatives, consensus |" in text
    assert "| negatives | labels of the reference images possibly incomplete, 0 background images |" in text


def test_the_paper_has_no_negatives_and_no_calibration(finished):
    assert negatives_of(finished) == {}
    assert [draw["calibration"] for draw in numbers_of(finished)["draws"]] == [None] * 4
    text = (finished / "report.md").read_text()
    assert "## Confidence" not in text
    assert "beyond the paper" not in text


def test_complete_labels_and_background_images_are_settings_of_a_run(start, beyond, data, tmp_path):
    background = write_background(tmp_path / "background")
    settings = replace(BEYOND, complete_labels=True, background=background, shots=(2,), seeds=(42,))
    numbers = start(tmp_path / "run", settings)
    assert [str(background[2]) in line for line in numbers["skipped_background"]] == [True]
    by_image = negatives_of(tmp_path / "run")
    assert all(negative.sure for of_image in by_image.values() for negative in of_image)
    of_background = [n for of_image in by_image.values() for n in of_image if n.source == "background image"]
    assert of_background
    assert numbers["draws"][0]["calibration"]["negatives"] == sum(map(len, by_image.values()))
    text = (tmp_path / "run" / "report.md").read_text()
    assert "| negatives | labels of the reference images complete, 2 background images |" in text
    assert "1 background images could not be used" in text

    for change in ({"complete_labels": False}, {"background": background[:1]}):
        with pytest.raises(RunError, match=rf"holds another run(.|\n)*{next(iter(change))}: \w+ there, \w+ now"):
            start(tmp_path / "run", replace(settings, **change))
    ablated = replace(settings, preset=DEFAULT.without("crops"))
    with pytest.raises(RunError, match="preset.method.crops: True there, False now"):
        start(tmp_path / "run", ablated)
    again = start(tmp_path / "run", settings)
    assert again["draws"] == numbers["draws"]

    shown = tuple(Path(image["path"]) for image in data.targets["images"][:1])
    (note,) = start(tmp_path / "shown", replace(settings, background=shown, limit=1))["notes"]
    assert note.startswith("1 of the evaluated images are background images too")


def test_settings_of_negatives_that_have_no_effect_are_refused(tmp_path):
    for change in ({"complete_labels": True}, {"background": (tmp_path,)}):
        with pytest.raises(RunError, match="the preset 'paper' uses no negatives here"):
            replace(SETTINGS, **change)
        with pytest.raises(RunError, match="the preset 'default' uses no negatives here"):
            replace(BEYOND, preset=DEFAULT.without("negatives"), **change)
        with pytest.raises(RunError, match="coco-20i-0 evaluates episodes, which use no negatives"):
            Settings(get_protocol("coco-20i-0"), (1,), (0,), DEFAULT, **change)


@pytest.fixture
def crowded(data) -> ProtocolData:
    """Targets as references: every image has several objects."""
    return replace(data, references=copy.deepcopy(data.targets))


def encoded(data, encoder, segmenter, folder: Path, annotations, **options) -> MemoryBank:
    folder.mkdir()
    make = instance_references.ReferenceEncoder
    made = make(data.references, encoder, segmenter, DEFAULT, options.pop("class_ids", data.class_ids), **options)
    return made.encode_resumably(annotations, folder)[0]


def test_annotations_of_all_classes_are_no_doubtful_negatives(
    crowded, small_encoder, small_segmenter, tmp_path, monkeypatch
):
    models = (small_encoder, small_segmenter)
    image = next(
        i["id"]
        for i in crowded.references["images"]
        if len({a["category_id"] for a in crowded.references["annotations"] if a["image_id"] == i["id"]}) > 1
    )
    of_image = [a for a in crowded.references["annotations"] if a["image_id"] == image]
    first = [a for a in of_image if a["category_id"] == of_image[0]["category_id"]]
    both = encoded(crowded, *models, tmp_path / "both", of_image)
    assert set(both.negative_counts) <= {"reference image"}
    # References of one class: the other objects are negatives if their class is not evaluated, and nothing if it is.
    alone = encoded(crowded, *models, tmp_path / "alone", first[:1])
    assert alone.negative_counts == both.negative_counts
    one = encoded(crowded, *models, tmp_path / "one", first, class_ids=[first[0]["category_id"]], complete_labels=True)
    assert one.negative_counts["other class"] == len(of_image) - len(first)
    assert all(negative.sure for negative in one.negatives)
    # An image whose references are encoded in several chunks has its negatives once.
    monkeypatch.setattr(instance_references, "_REFERENCES_PER_SAVE", 1)
    chunked = encoded(crowded, *models, tmp_path / "chunked", of_image)
    assert [n.sample_id for n in chunked.negatives] == [n.sample_id for n in both.negatives]
    assert all(entry.predicted_iou is not None for entry in chunked.entries)

    everywhere = {"id": 10**6, "image_id": image, "category_id": crowded.class_ids[-1], "bbox": [0, 0, 256, 256]}
    for k, change in enumerate(
        (
            {"iscrowd": 1, "segmentation": {"size": [256, 256], "counts": [0, 256 * 256]}},
            {"iscrowd": 0, "segmentation": []},
            {"iscrowd": 0, "segmentation": {"size": [5, 5], "counts": [0, 25]}},
        )
    ):
        references = copy.deepcopy(crowded.references)
        references["annotations"].append(everywhere | change)
        bank = encoded(
            replace(crowded, references=references), *models, tmp_path / f"{k}", first, class_ids=crowded.class_ids
        )
        assert bank.negatives == ()


def test_an_interruption_among_negatives_changes_no_number(start, beyond, tmp_path, monkeypatch):
    original, seen = instance_references.NegativeEncoder.add_reference_image, []

    def interrupted(self, *args, **options):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(args)
        return original(self, *args, **options)

    monkeypatch.setattr(instance_references, "_REFERENCES_PER_SAVE", 8)
    monkeypatch.setattr(instance_references.NegativeEncoder, "add_reference_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, BEYOND)
    monkeypatch.setattr(instance_references.NegativeEncoder, "add_reference_image", original)
    start(tmp_path, BEYOND)
    assert numbers_of(tmp_path) == numbers_of(beyond)


def test_a_folder_without_a_configuration_is_not_taken_for_a_run(start, tmp_path):
    (tmp_path / "parts").mkdir()
    with pytest.raises(RunError, match="has parts of a run, but no config.json"):
        start(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"config.json is damaged"):
        start(tmp_path)
    with pytest.raises(RunError, match="is not the folder of a run"):
        compare_runs(tmp_path / "parts", tmp_path)


def test_a_damaged_part_is_named(start, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "parts" / "00001.npz").write_bytes(b"no")
    with pytest.raises(RunError, match=r"00001.npz is damaged: delete it, and run again"):
        start(tmp_path / "run")
    (tmp_path / "run" / "parts" / "00001.npz").unlink()
    start(tmp_path / "run")
    assert numbers_of(tmp_path / "run") == numbers_of(finished)


def test_an_image_that_cannot_be_used_is_listed_and_counts_as_nothing_found(data, start, finished, tmp_path):
    broken = copy.deepcopy(data.targets)
    broken["images"][1]["path"] = str(tmp_path / "gone.jpg")
    settings = replace(SETTINGS, shots=(2,), seeds=(42,))
    start(tmp_path / "run", settings, replace(data, targets=broken))
    numbers = numbers_of(tmp_path / "run")
    assert numbers["skipped"] == [f"the image {tmp_path / 'gone.jpg'} does not exist"]
    assert "1 images could not be used" in (tmp_path / "run" / "report.md").read_text()
    results = json.loads((finished / "predictions" / "2shot-seed42.json").read_text())
    left = [result for result in results if result["image_id"] != broken["images"][1]["id"]]
    assert len(left) < len(results)
    expected = evaluate(data.targets, left, data.class_ids, result_areas="box")
    assert numbers["draws"][0]["figures"]["masks ap"] == percent(expected.masks.novel.ap)
    assert numbers["images"] == 5


def test_references_that_cannot_be_used_are_listed_with_the_classes_they_leave_empty(data, start, tmp_path):
    broken = copy.deepcopy(data.references)
    names = {category["id"]: category["name"] for category in broken["categories"]}
    first = data.class_ids[0]
    for annotation in broken["annotations"]:
        if annotation["category_id"] == first:
            annotation["segmentation"] = {"size": [5, 5], "counts": [25]}
    settings = replace(SETTINGS, shots=(3,), seeds=(42,), limit=1)
    start(tmp_path / "some", settings, replace(data, references=broken))
    numbers = numbers_of(tmp_path / "some")
    assert "has 5 x 5 pixels, its image 256 x 256" in numbers["skipped_references"][0]
    assert numbers["draws"][0]["without_reference"] == [names[first]]
    text = (tmp_path / "some" / "report.md").read_text()
    assert "limited to the first 1 of 5 images" in text
    few = {names[class_id]: 2 for class_id in data.class_ids[1:]}
    assert numbers["draws"][0]["few_references"] == few
    listed = ", ".join(f"{name} (2)" for name in few)
    assert f"3 shots, seed 42: classes with fewer references than shots: {listed}" in text
    for image in broken["images"]:
        image["path"] = str(tmp_path / "gone.jpg")
    with pytest.raises(RunError, match="none of the references of 3shot-seed42 could be used: .* does not exist"):
        start(tmp_path / "none", settings, replace(data, references=broken))


@pytest.mark.parametrize(
    ("name", "options", "changes", "deviations"),
    [
        ("coco-fsod", {}, {}, []),
        ("coco-fsod", {}, {"limit": 99}, []),
        ("coco-fsod", {}, {"limit": 2}, ["limited to the first 2 of 12 images"]),
        ("coco-fsod", {"classes": ["dog", "zebra"]}, {}, ["2 classes instead of the protocol's 20"]),
        ("coco-80", {"classes": ["dog"]}, {}, ["1 classes instead of the protocol's 80"]),
        ("coco-20i-0", {}, {}, []),
        ("coco-20i-0", {}, {"limit": 5}, ["limited to the first 5 of 1000 episodes"]),
        (
            "coco-20i-0",
            {"edition": "2017"},
            {"episodes": 20},
            ["20 episodes instead of 1000", "on the edition of 2017 instead of 2014"],
        ),
        ("cd-fsod-uodd", {}, {}, []),
        ("cd-fsod-clipart1k", {}, {}, ["4 classes instead of the protocol's 20"]),
    ],
)
def test_a_run_that_is_not_the_protocols_says_so(name, options, changes, deviations, tmp_path):
    protocol = get_protocol(name)
    loaded = load(protocol, tiny(protocol.layout), **options)
    settings = Settings(protocol, (1,), (33,), PRESET, **changes)
    kind = EpisodeRun if protocol.evaluator == "episodes" else InstanceRun
    assert kind(settings, loaded, None, None, tmp_path).deviations() == deviations


def test_other_classes_are_reported_and_not_compared_with_published_figures(data, start, tmp_path):
    names = {category["id"]: category["name"] for category in data.targets["categories"]}
    published = (Published("somebody else", 1, "42", None, {"boxes ap": 50.0}, "a table"),)
    protocol = replace(SETTINGS.protocol, novel_classes=tuple(names.values()), published=published)
    settings = replace(SETTINGS, protocol=protocol, shots=(1,), seeds=(42,), save_predictions=False)
    few = replace(data, targets=data.targets | {"images": data.targets["images"][:1]})
    whole = start(tmp_path / "whole", settings, few)
    assert [row["method"] for row in whole["comparison"]] == ["somebody else"]
    part = start(tmp_path / "part", settings, replace(few, class_ids=data.class_ids[:2]))
    assert part["comparison"] == []
    text = (tmp_path / "part" / "report.md").read_text()
    assert text.startswith(f"# {protocol.title}: 2 classes instead of the protocol's 3\n")
    assert f"| Classes evaluated instead | 2: {', '.join(part['classes'])} |" in text
    assert "somebody else" not in text


def test_targets_that_are_references_by_content_are_left_out_of_own_data_and_told_of_in_published(
    data, start, tmp_path
):
    settings = replace(SETTINGS, shots=(1,), seeds=(42,), save_predictions=False)
    both = replace(data, references=copy.deepcopy(data.targets))
    for image in both.references["images"]:
        copied = tmp_path / f"copy of {image['file_name']}"
        image["path"] = shutil.copy(image["path"], copied)
    drawn = draw_references(settings.protocol, both, 1, 42).values()
    images = {annotation["image_id"] for of_class in drawn for annotation in of_class}
    numbers = start(tmp_path / "own", settings, both)
    (note,) = numbers["notes"]
    assert note.startswith(f"{len(images)} images of the targets show references too")
    assert numbers["images"] == numbers["all_images"] == len(data.targets["images"]) - len(images)
    assert numbers["deviations"] == []
    assert start(tmp_path / "own", settings, both)["draws"] == numbers["draws"]

    published = replace(settings, protocol=replace(settings.protocol, layout="coco"))
    (note,) = start(tmp_path / "published", published, both)["notes"]
    assert note.startswith(f"{len(images)} of the evaluated images show references too")

    only = {**both.targets, "images": [image for image in both.targets["images"] if image["id"] in images]}
    with pytest.raises(RunError, match="every image of the targets shows references"):
        start(tmp_path / "nothing", settings, replace(both, targets=only))


def test_two_runs_are_compared_draw_by_draw(start, finished, tmp_path):
    one_class = replace(PRESET, matching=replace(PRESET.matching, merge_exponent=0.0))
    start(tmp_path, replace(SETTINGS, preset=one_class, seeds=(42, 7), save_predictions=False))
    rows = compare_runs(finished, tmp_path, figures=("ap", "ap50"), draws=20)
    assert [(row["shots"], row["seed"], row["figure"]) for row in rows] == [
        (shots, 42, f"{kind} {figure}") for shots in (1, 2) for kind in ("boxes", "masks") for figure in ("ap", "ap50")
    ]
    for row in rows:
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
        assert row["low"] <= row["high"]
        assert row["samples"] == 5
    assert all(row["difference"] == 0 == row["low"] for row in compare_runs(finished, finished, draws=5, shots=[1]))
    with pytest.raises(RunError, match="no draw of references in common"):
        compare_runs(finished, tmp_path, seeds=[33])
    with pytest.raises(ValueError, match="unknown figure 'f1'"):
        compare_runs(finished, tmp_path, figures=["f1"])


def test_a_part_without_its_predictions_is_named(data, tmp_path):
    job = InstanceRun(SETTINGS, data, None, None, tmp_path)
    parts = [tmp_path / "parts" / f"{number:05d}.npz" for number in range(2)]
    for draw in SETTINGS.draws:
        (tmp_path / "predictions" / draw.key).mkdir(parents=True)
        (tmp_path / "predictions" / draw.key / "00000.json").write_text("[]")
    job._join_predictions(parts[:1])
    with pytest.raises(RunError, match=r"1shot-seed33.00001.json is missing: delete .*00001.npz, and run again"):
        job._join_predictions(parts)


def test_an_annotation_without_a_mask_is_no_part_of_episodes_and_told(data, tmp_path):
    scenes = copy.deepcopy(data.targets)
    scenes["annotations"][0]["segmentation"] = []
    settings = Settings(get_protocol("coco-20i-0"), (1,), (0,), PRESET, episodes=4)
    job = EpisodeRun(settings, replace(data, references=scenes, targets=scenes), None, None, tmp_path)
    assert len(job.shown[1]["annotations"]) == len(scenes["annotations"]) - 1
    assert job._notes() == ["1 annotations of the targets have no mask, and were left out."]
    images = EpisodeImages(job.shown[1])
    for episode in job.episodes[settings.draws[0]]:
        assert images.mask(episode.target, episode.class_id).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "the number of episodes must be at least 1, got 0"),
        ({"units_per_part": -1}, "the number of images per part must be at least 1, got -1"),
        ({"shots": (1, 0)}, "the number of shots must be at least 1, got 0"),
        ({"side": 0}, "the side must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(RunError, match=message):
        replace(SETTINGS, **changes)


def test_nothing_to_do_is_refused(start, data, tmp_path):
    with pytest.raises(RunError, match="at least one number of shots"):
        start(tmp_path, replace(SETTINGS, shots=()))
    with pytest.raises(RunError, match="the limit must be at least 1, got 0"):
        start(tmp_path, replace(SETTINGS, limit=0))
    with pytest.raises(RunError, match="there is no image to evaluate"):
        start(tmp_path, of=replace(data, targets={**data.targets, "images": []}))
    assert not list(tmp_path.iterdir())


def test_episodes_go_on_too_and_an_unreadable_target_counts_as_nothing_found(data, start, tmp_path, monkeypatch):
    targets = copy.deepcopy(data.targets)
    protocol = replace(get_protocol("coco-20i-0"), published=())
    settings = Settings(protocol, (1,), (0, 1), PRESET, units_per_part=1, episodes=4, threshold=0.6)
    scenes = replace(data, references=targets, targets=targets)
    start(tmp_path / "whole", settings, scenes)
    whole = numbers_of(tmp_path / "whole")
    lists = {seed: read_episodes(tmp_path / "whole" / "episodes" / f"1shot-seed{seed}.json") for seed in (0, 1)}

    encoded, original = [], pipeline.encode_target

    def encode_target(image, *args, **more):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(image)
        return original(image, *args, **more)

    monkeypatch.setattr(pipeline, "encode_target", encode_target)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path / "interrupted", settings, scenes)
    encoded.clear()
    monkeypatch.setattr(
        pipeline, "encode_target", lambda *args, **more: encoded.append(args) or original(*args, **more)
    )
    start(tmp_path / "interrupted", settings, scenes)
    assert numbers_of(tmp_path / "interrupted") == whole
    assert len(encoded) == len({e.target for drawn in lists.values() for e in drawn}) - 2
    assert all(row["difference"] == 0 for row in compare_runs(tmp_path / "whole", tmp_path / "interrupted", draws=5))

    target = lists[0][0].target
    for image in targets["images"]:
        if image["id"] == target:
            image["path"] = str(tmp_path / "gone.jpg")
    start(tmp_path / "broken", settings, scenes)
    broken = numbers_of(tmp_path / "broken")
    reason = f"the image {tmp_path / 'gone.jpg'} does not exist"
    assert f"episode 0 of 1shot-seed0: {reason}" in broken["skipped"]
    assert broken["draws"][0]["episodes"] == whole["draws"][0]["episodes"]

    write_episodes(tmp_path / "interrupted" / "episodes" / "1shot-seed0.json", lists[1])
    with pytest.raises(RunError, match="were not asked the same episodes in 1shot-seed0"):
        compare_runs(tmp_path / "whole", tmp_path / "interrupted", draws=5)


def with_a_missing_file(data: ProtocolData, number: int) -> ProtocolData:
    """The data set without the file of a target."""
    broken = copy.deepcopy(data.targets)
    broken["images"][number]["path"] = "gone.png"
    return replace(data, targets=broken)


def test_images_of_a_batch_give_the_numbers_of_single_ones(
    data, finished, small_encoder, small_segmenter, batches, tmp_path, monkeypatch
):
    settings, ticks = replace(SETTINGS, units_per_part=5), []
    of = with_a_missing_file(data, 1)
    missing = of.targets["images"][1]["id"]

    def evaluate(folder: str, cache: TensorCache | None = None) -> dict:
        run(settings, of, small_encoder, small_segmenter, tmp_path / folder, lambda _: None, cache)
        return json.loads((tmp_path / folder / "report.json").read_text())

    cache, original = TensorCache(tmp_path / "cache", 10**9), InstanceRun.evaluate
    monkeypatch.setattr(
        InstanceRun, "evaluate", lambda self, units, tick: original(self, units, lambda: ticks.append(1))
    )
    numbers = evaluate("together", cache)
    assert batches == [2, 2]
    assert len(ticks) == 5
    assert numbers["skipped"] == ["the image gone.png does not exist"]
    assert numbers["time"]["read_seconds"] > 0
    for draw in settings.draws:
        results = json.loads((tmp_path / "together" / "predictions" / f"{draw.key}.json").read_text())
        expected = json.loads((finished / "predictions" / f"{draw.key}.json").read_text())
        expected = [result for result in expected if result["image_id"] != missing]
        for name in ("image_id", "category_id"):
            assert [result[name] for result in results] == [result[name] for result in expected]
        for name, tolerance in (("score", 1e-3), ("bbox", 1)):
            np.testing.assert_allclose(
                [result[name] for result in results], [result[name] for result in expected], rtol=0, atol=tolerance
            )

    again = evaluate("again", cache)
    assert again["time"]["from_cache"] == 4
    assert numbers_of(tmp_path / "again") == numbers_of(tmp_path / "together")

    embed = Segmenter.embed

    def one_by_one(self, pixels, **options):
        assert pixels.ndim == 3, "too much"
        return embed(self, pixels, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "embed", one_by_one)
        evaluate("failing")
    monkeypatch.setattr(pipeline, "images_per_batch", lambda device: 1)
    evaluate("single")
    assert numbers_of(tmp_path / "failing") == numbers_of(tmp_path / "single")


@pytest.mark.parametrize("predictor", ["training-free", "both-scorers", "prior"])
def test_targets_of_a_batch_give_the_numbers_of_single_ones(data, start, batches, tmp_path, monkeypatch, predictor):
    settings = Settings(
        replace(get_protocol("coco-20i-0"), published=()),
        (1,),
        (0, 1),
        PRESET,
        episodes=4,
        threshold=0.6 if predictor == "training-free" else None,
        predictor=predictor,
        prompt=load_reference_prompt("small") if predictor == "both-scorers" else None,
    )
    of = with_a_missing_file(replace(data, references=data.targets), 0)
    embed, embedded = Segmenter.embed, []
    with monkeypatch.context() as patch:
        patch.setattr(
            Segmenter, "embed", lambda self, pixels, **more: embedded.append(pixels.ndim) or embed(self, pixels, **more)
        )
        start(tmp_path / "together", settings, of)
    # Four targets, one of which is missing; none is encoded again.
    assert (batches, embedded) == (([], []) if predictor == "prior" else ([2, 1], [4, 3]))
    monkeypatch.setattr(pipeline, "images_per_batch", lambda device: 1)
    start(tmp_path / "single", settings, of)
    found, expected = (numbers_of(tmp_path / name) for name in ("together", "single"))
    assert found["skipped"] == expected["skipped"] != []
    for one, other in zip(found["draws"], expected["draws"], strict=True):
        assert one["figures"] == pytest.approx(other["figures"], abs=0.5)
    assert max(draw["figures"]["miou"] for draw in found["draws"]) > 0


EPISODES = Settings(get_protocol("coco-20i-0"), (1,), (5,), PRESET, episodes=4, units_per_part=2)


def as_version_0_1_stored_it(folder: Path, **changes: str) -> None:
    """Rename settings to those of versions before predictors had their current name."""
    config = json.loads((folder / "config.json").read_text())
    config = {{"predictor": "head"}.get(name, name): value for name, value in config.items()} | changes
    (folder / "config.json").write_text(json.dumps(config))


def test_a_finished_run_of_an_earlier_version_can_be_compared(start, tmp_path):
    now, before = tmp_path / "now", tmp_path / "before"
    numbers = start(now, EPISODES, load(EPISODES.protocol, tiny("coco")))
    shutil.copytree(now, before)
    as_version_0_1_stored_it(before)
    rows = compare_runs(before, now, draws=10)
    assert [(row["figure"], row["a"], row["difference"]) for row in rows] == [
        (name, numbers["draws"][0]["figures"][name], 0) for name in ("miou", "fb-iou")
    ]
    assert differing_settings(read_config(before), read_config(now)) == []


def test_an_unfinished_run_of_an_earlier_version_is_refused_and_left_as_it_was(start, tmp_path):
    data = load(EPISODES.protocol, tiny("coco"))
    start(tmp_path, EPISODES, data)
    (tmp_path / "report.json").unlink()
    (tmp_path / "parts" / "00001.npz").unlink()
    as_version_0_1_stored_it(tmp_path, code="0" * 64)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"holds another run(.|\n)*code: 0+ there, \w+ now(.|\n)*Choose another folder"):
        start(tmp_path, EPISODES, data)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
