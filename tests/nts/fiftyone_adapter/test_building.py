"""Building memories from a view: selected classes, skipped labels, and negatives."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_dataset import CLASSES, SPECIES, truncate
from PIL import Image

from nts.images import read_image
from nts.models import WeightsNotFound
from nts.pipeline import ReferenceSegmenter
from synthetic.scenes import DISTRACTOR_SPECIES, draw_scene, reference_scenes


def test_memory_takes_only_the_classes_asked_for(nts_fo, drawn, references):
    report = nts_fo.build_reference_memory(references, "ground_truth", "one", classes=[CLASSES[1], "unheard-of"])
    assert report.shots == {CLASSES[1]: 2}
    assert report.missing_classes == ["unheard-of"]
    assert nts_fo.load_memory(drawn, "one").classes == CLASSES[1:]
    assert drawn.load_run_view("one").values("id") == references.values("id")


def test_memory_reports_skipped_labels_with_a_reason(nts_fo, fo, references):
    first, second, third = list(references)[:3]
    first.ground_truth.detections[0].mask = None
    first.save()
    truncate(second.filepath)
    third.ground_truth.detections.append(fo.Detection(bounding_box=[0, 0, 1, 1], mask=np.ones((2, 2), bool)))
    third.save()

    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes", weak_labels="skip")
    assert report.shots == {CLASSES[1]: 2}
    assert report.missing_classes == [CLASSES[0]]
    reasons = [item.reason for item in report.skipped]
    assert reasons[0] == f"label {CLASSES[0]!r} of {first.filepath}: it has a box but no mask"
    assert reasons[1].startswith(f"label {CLASSES[0]!r} of {second.filepath}: the image {second.filepath} cannot be")
    assert reasons[2] == f"label None of {third.filepath}: it has no class"

    raw = nts_fo.build_reference_memory(references, "ground_truth", "raw", weak_labels="raw")
    assert raw.shots == {CLASSES[0]: 1, CLASSES[1]: 2}
    assert (raw.kinds, raw.promoted, raw.unpromoted) == ({"mask": 2, "box": 1}, 0, 0)
    drawn = nts_fo.build_reference_memory(references, "ground_truth", "drawn")
    assert (drawn.kinds, drawn.promoted, drawn.unpromoted) == ({"mask": 2, "box": 1}, 1, 0)


# ---- negatives -------------------------------------------------------------------------------------------------------


def negatives_by_sample(nts_fo, dataset, key: str) -> dict[str, list]:
    found: dict[str, list] = {}
    for negative in nts_fo.load_memory(dataset, key).negatives:
        found.setdefault(negative.sample_id, []).append(negative)
    return found


def add_label(fo, sample, mask: np.ndarray, class_name: str | None, **attributes) -> None:
    sample.ground_truth.detections.append(fo.Detection.from_mask(mask, label=class_name, **attributes))
    sample.save()


EVERYWHERE = np.ones((256, 256), bool)


def test_reference_images_give_negatives_and_references_know_their_proposals(nts_fo, drawn, references):
    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    bank = nts_fo.load_memory(drawn, "shapes")
    assert report.negatives == bank.negative_counts == {"reference image": len(bank.negatives)}
    assert set(negatives_by_sample(nts_fo, drawn, "shapes")) <= set(references.values("id"))
    assert {negative.file for negative in bank.negatives} <= {entry.file for entry in bank.entries}
    assert not any(negative.sure for negative in bank.negatives)
    assert all(entry.proposal_iou > 0.3 and entry.predicted_iou is not None for entry in bank.entries)
    assert all(entry.whole_prototype is not None for entry in bank.entries)

    sure = nts_fo.build_reference_memory(references, "ground_truth", "sure", complete_labels=True)
    assert sure.negatives == report.negatives
    assert all(negative.sure for negative in nts_fo.load_memory(drawn, "sure").negatives)


def test_the_paper_needs_no_negatives_and_loads_no_segmenter_for_them(nts_fo, drawn, references):
    report = nts_fo.build_reference_memory(references, "ground_truth", "plain", preset="paper", segmenter="nowhere")
    assert (report.negatives, nts_fo.load_memory(drawn, "plain").negatives) == ({}, ())
    with pytest.raises(WeightsNotFound, match="'nowhere'"):
        nts_fo.build_reference_memory(references, "ground_truth", "other", segmenter="nowhere")
    for option in ({"complete_labels": True}, {"background": references}):
        with pytest.raises(nts_fo.InputError, match="the preset 'paper' uses no negatives") as caught:
            nts_fo.build_reference_memory(references, "ground_truth", "other", preset="paper", **option)
        assert caught.value.option == next(iter(option))


def test_labels_that_the_view_hides_are_no_negatives(nts_fo, fo, drawn, references):
    from fiftyone import ViewField as F

    first = references.first()
    add_label(fo, first, EVERYWHERE, CLASSES[0], hidden=True)
    shown = references.filter_labels("ground_truth", F("hidden") != True)  # noqa: E712 (of the database)
    report = nts_fo.build_reference_memory(shown, "ground_truth", "shapes")
    assert report.shots == dict.fromkeys(CLASSES, 2)
    found = negatives_by_sample(nts_fo, drawn, "shapes")
    assert first.id not in found
    assert found


@pytest.mark.parametrize(
    ("label", "config"),
    [
        ({"label": CLASSES[0], "bounding_box": [0, 0, 1, 1]}, {"weak_labels": "skip"}),  # no mask
        ({"label": CLASSES[0], "bounding_box": [0, 0, 1, 1], "mask_path": "gone.png"}, {}),  # its mask cannot be read
        ({"label": None, "bounding_box": [0, 0, 1, 1], "mask": np.ones((2, 2), bool)}, {}),  # of any class
        ({"label": None, "bounding_box": [0, 0, 1, 1], "mask": np.ones((2, 2), bool)}, {"classes": CLASSES}),
    ],
)
def test_labels_that_became_no_reference_are_no_negatives(nts_fo, fo, drawn, references, label, config):
    first = references.first()
    first.ground_truth.detections.append(fo.Detection(**label))
    first.save()
    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes", **config)
    assert len(report.skipped) == (0 if "classes" in config else 1)
    assert report.shots == dict.fromkeys(CLASSES, 2)
    assert first.id not in negatives_by_sample(nts_fo, drawn, "shapes")


def test_labels_of_unknown_extent_leave_the_others_of_the_image_unsure(nts_fo, fo, drawn, references):
    first = references.first()
    first.ground_truth.detections.append(fo.Detection(label=CLASSES[0]))  # no box, so anything may be it
    first.save()
    nts_fo.build_reference_memory(references, "ground_truth", "shapes", complete_labels=True)
    found = negatives_by_sample(nts_fo, drawn, "shapes")
    assert {negative.sure for negative in found.pop(first.id, [])} <= {False}
    assert {negative.sure for of_sample in found.values() for negative in of_sample} == {True}


def test_labels_of_other_classes_are_sure_negatives_if_they_have_a_mask(nts_fo, fo, drawn, references):
    first = references.first()
    own = first.ground_truth.detections[0].label
    corner = np.zeros_like(EVERYWHERE)
    corner[:40, :40] = True
    add_label(fo, first, corner, "label of the scene")
    add_label(fo, first, EVERYWHERE, "everything")  # the object of the class is in it, but only a small part of it
    first.ground_truth.detections.append(fo.Detection(label="box", bounding_box=[0.5, 0.5, 0.2, 0.2]))
    first.save()
    nts_fo.build_reference_memory(references, "ground_truth", "one", classes=[own])
    others = [n for n in nts_fo.load_memory(drawn, "one").negatives if n.source == "other class"]
    assert [(n.sample_id, n.sure) for n in others[:1]] == [(first.id, True)]
    assert len(others) in (1, 2)
    # The same object under another name.
    first.ground_truth.detections[0].label, same = own, first.ground_truth.detections[0].copy()
    same.label = "synonym"
    first.ground_truth.detections = [first.ground_truth.detections[0], same]
    first.save()
    nts_fo.build_reference_memory(references, "ground_truth", "two", classes=[own])
    assert "other class" not in nts_fo.load_memory(drawn, "two").negative_counts


def test_no_negative_lies_under_a_point(nts_fo, fo, drawn, references):
    for sample in references.iter_samples(autosave=True):
        ys, xs = np.mgrid[0:256:8, 0:256:8] / 256
        points = list(zip(xs.ravel().tolist(), ys.ravel().tolist(), strict=True))
        sample["clicks"] = fo.Keypoints(keypoints=[fo.Keypoint(label="a", points=points)])
    report = nts_fo.build_reference_memory(references, "clicks", "raw", weak_labels="raw", complete_labels=True)
    held = report.negatives
    for sample in references.iter_samples(autosave=True):
        sample["clicks"] = fo.Keypoints(keypoints=[fo.Keypoint(label="a", points=[(0.5, 0.5)])])
    report = nts_fo.build_reference_memory(references, "clicks", "one", weak_labels="raw", complete_labels=True)
    assert sum(report.negatives.values()) > 20
    assert sum(held.values()) <= 2, "only a proposal of less than 8 pixels fits between the points"
    assert not any(negative.sure for negative in nts_fo.load_memory(drawn, "one").negatives)


def test_strokes_that_became_no_reference_keep_their_place(nts_fo, fo, drawn, references):
    square = [(0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (0.1, 0.3)]
    rows = [[(0.0, y / 64), (1.0, y / 64)] for y in range(64)]
    for sample in references.iter_samples(autosave=True):
        outline = fo.Polyline(label="a", points=[square], closed=True, filled=True)
        sample["lines"] = fo.Polylines(polylines=[outline, fo.Polyline(label="a", points=rows)])
    report = nts_fo.build_reference_memory(references, "lines", "lines", weak_labels="skip")
    assert (report.shots, report.negatives) == ({"a": 4}, {})
    nts_fo.build_reference_memory(references, "lines", "other", weak_labels="skip", classes=["a"])
    assert nts_fo.load_memory(drawn, "other").negatives == ()


# ---- background images -----------------------------------------------------------------------------------------------


@pytest.fixture
def background(fo, drawn, tmp_path) -> str:
    """Saved view of two images that show distractors alone."""
    samples = []
    for number in range(2):
        path = tmp_path / f"background{number}.png"
        Image.fromarray(draw_scene([8, number], DISTRACTOR_SPECIES[:4]).image).save(path)
        samples.append(fo.Sample(path, tags=["background"]))
    drawn.add_samples(samples)
    drawn.save_view("empty scenes", drawn.match_tags("background"))
    return "empty scenes"


def test_everything_in_background_images_is_a_sure_negative(nts_fo, drawn, references, background):
    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes", background=background)
    assert (report.background_images, report.skipped_background) == (2, [])
    of_background = [n for n in nts_fo.load_memory(drawn, "shapes").negatives if n.source == "background image"]
    assert report.negatives["background image"] == len(of_background) > 4
    assert {n.sample_id for n in of_background} == set(drawn.match_tags("background").values("id"))
    assert all(n.sure and n.file for n in of_background)
    view = nts_fo.build_reference_memory(
        references, "ground_truth", "again", background=drawn.match_tags("background").limit(1)
    )
    assert view.background_images == 1


def test_images_that_are_no_background_are_left_out_and_told(nts_fo, fo, drawn, references, background):
    from fiftyone import ViewField as F

    unreadable, labelled = drawn.match_tags("background")
    truncate(unreadable.filepath)
    corner = np.zeros_like(EVERYWHERE)
    corner[:9, :9] = True
    labelled["ground_truth"] = fo.Detections(detections=[fo.Detection.from_mask(corner, label=CLASSES[0])])
    labelled.save()
    copy = fo.Sample(references.first().filepath)
    nameless = fo.Sample(
        labelled.filepath, ground_truth=fo.Detections(detections=[fo.Detection(bounding_box=[0, 0, 0.1, 0.1])])
    )
    drawn.add_samples([copy, nameless])
    chosen = [unreadable.id, labelled.id, references.last().id, copy.id, nameless.id]
    hidden = drawn.select(chosen).filter_labels("ground_truth", F("label") == "none", only_matches=False)
    report = nts_fo.build_reference_memory(references, "ground_truth", "shapes", background=hidden)
    assert (report.background_images, "background image" in report.negatives) == (0, False)
    reasons = {item.sample_id: item.reason for item in report.skipped_background}
    assert list(reasons) == drawn.select(chosen).values("id")
    assert reasons[unreadable.id].startswith(f"the image {unreadable.filepath} cannot be decoded")
    assert reasons[labelled.id] == (
        f"{labelled.filepath}: it has a label {CLASSES[0]!r} in 'ground_truth': background images show none of the "
        "classes"
    )
    for sample_id in (references.last().id, copy.id):
        assert reasons[sample_id].endswith("references were taken from it, so it is no background image")
    assert "it has a label of an unknown class in 'ground_truth'" in reasons[nameless.id]
    # An object of a class that is not asked for is background.
    other = next(sample for sample in references if sample.ground_truth.detections[0].label == CLASSES[1])
    report = nts_fo.build_reference_memory(
        references, "ground_truth", "one", classes=CLASSES[:1], background=drawn.select(other.id)
    )
    assert (report.background_images, report.skipped_background) == (1, [])


def test_background_view_that_is_unknown_deleted_or_empty_is_refused(nts_fo, drawn, references, background):
    def refused(chosen, message):
        with pytest.raises(nts_fo.InputError, match=message) as caught:
            nts_fo.build_reference_memory(references, "ground_truth", "shapes", background=chosen)
        assert caught.value.option == "background"

    refused("full scenes", "has no saved view 'full scenes' of background images; it has: empty scenes")
    refused(drawn.limit(0), "the view of background images cannot be used: the view has no samples")
    refused(drawn.to_patches("ground_truth"), "this is a view of patches")
    drawn.delete_samples(drawn.match_tags("background"))
    refused(background, "the saved view 'empty scenes' cannot be used: the view has no samples")
    drawn.delete_saved_view(background)
    refused(background, "has no saved view 'empty scenes' of background images; it has: none")
    with pytest.raises(nts_fo.InputError, match="background must be a text"):
        nts_fo.build_reference_memory(references, "ground_truth", "shapes", background=3)
    assert drawn.list_runs() == []


# ---- memories that there is little to calibrate with -----------------------------------------------------------------


def calibration_of(bank):
    return ReferenceSegmenter(bank).calibration


def test_all_references_in_one_image(nts_fo, fo, make_dataset, tmp_path):
    scene = draw_scene([5, 0], SPECIES)
    Image.fromarray(scene.image).save(tmp_path / "all.png")
    detections = [fo.Detection.from_mask(mask, label="thing") for mask in scene.masks]
    dataset = make_dataset([fo.Sample(tmp_path / "all.png", objects=fo.Detections(detections=detections))])
    report = nts_fo.build_reference_memory(dataset, "objects", "things", complete_labels=True)
    bank = nts_fo.load_memory(dataset, "things")
    assert report.shots == {"thing": len(scene.masks)}
    calibration = calibration_of(bank)
    assert calibration.images == 1
    assert calibration.basis == ("references" if bank.negatives else "none")
    assert len(ReferenceSegmenter(bank).segment(scene.image)) > 0


def test_one_class_alone(nts_fo, drawn, references):
    nts_fo.build_reference_memory(references, "ground_truth", "one", classes=CLASSES[:1], complete_labels=True)
    bank = nts_fo.load_memory(drawn, "one")
    calibration = calibration_of(bank)
    assert (calibration.basis, calibration.references) == ("references", 2)
    assert calibration.negatives == len(bank.negatives)


def test_no_proposal_is_left_as_a_negative(nts_fo, fo, drawn, references):
    for sample in references:
        add_label(fo, sample, EVERYWHERE, sample.ground_truth.detections[0].label)
    report = nts_fo.build_reference_memory(references, "ground_truth", "full", complete_labels=True)
    assert report.negatives == {}
    bank = nts_fo.load_memory(drawn, "full")
    assert calibration_of(bank).basis == "none"
    assert len(ReferenceSegmenter(bank).segment(read_image(drawn.match_tags("target").first().filepath))) > 0


def test_one_reference_per_class_rests_on_negatives_alone(nts_fo, fo, make_dataset, tmp_path):
    samples = []
    for number in SPECIES:
        (scene,) = reference_scenes(number, 1)
        path = tmp_path / f"{number}.png"
        Image.fromarray(scene.image).save(path)
        labels = [fo.Detection.from_mask(scene.masks[0], label=str(number))]
        samples.append(fo.Sample(path, objects=fo.Detections(detections=labels)))
    dataset = make_dataset(samples)
    report = nts_fo.build_reference_memory(dataset, "objects", "few")
    assert report.negatives
    calibration = calibration_of(nts_fo.load_memory(dataset, "few"))
    assert (calibration.basis, calibration.images) == ("negatives", 2)
