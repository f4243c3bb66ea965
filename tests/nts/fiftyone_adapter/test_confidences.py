"""Confidences fitted to the images of a field, the recommendation of a run, and the saved view of what is confident."""

from __future__ import annotations

import pytest
import torch
from calibrated_memory import store_calibrated_memory
from drawn_dataset import CLASSES, TARGETS

from nts.calibration import Calibration
from nts.pipeline import ReferenceSegmenter
from nts.recommendation import in_words, recommend

FIELD, VIEW = "nts_known", "nts_known · confident"


@pytest.fixture
def bank(nts_fo, references, small_encoder, small_segmenter, quick):
    """Memory with negatives, stored as `known`."""
    return store_calibrated_memory(references, "known", small_encoder, small_segmenter, quick)


@pytest.fixture
def segment(nts_fo, targets, bank, quick):
    """`segment(view=targets, **options)`: segment with that memory."""

    def segment(view=targets, memory="known", **options):
        return nts_fo.auto_segment_view(view, memory, preset=options.pop("preset", quick), **options)

    return segment


@pytest.fixture
def calibration(bank, small_encoder, small_segmenter, quick) -> Calibration:
    """Calibration of that memory, for images like the reference images."""
    calibration = ReferenceSegmenter(bank, small_encoder, small_segmenter, quick).calibration
    assert calibration.basis == "references"
    return calibration


def of_labels(dataset, attribute: str) -> list:
    return dataset.values(f"{FIELD}.detections.{attribute}", unwind=True)


def test_confidences_are_probabilities_for_all_images_of_the_field(drawn, segment, calibration):
    segment(limit=1)
    few = of_labels(drawn, "score")
    assert of_labels(drawn, "confidence") == pytest.approx(_probabilities(calibration, few))
    report = segment()
    scores = of_labels(drawn, "score")
    assert set(few) < set(scores)
    assert of_labels(drawn, "confidence") == pytest.approx(_probabilities(calibration, scores))
    assert of_labels(drawn, "confidence")[: len(few)] != pytest.approx(_probabilities(calibration, few))
    assert (report.resumed, report.segmented) == (1, TARGETS - 1)


def test_run_stores_its_calibration_and_what_it_recommends(drawn, segment, calibration):
    report = segment()
    scores = torch.tensor(of_labels(drawn, "score"), dtype=torch.float64)
    stored = drawn.get_run_info(FIELD).config
    shifted = Calibration.from_dict(stored.calibration)
    assert shifted.line.offset == pytest.approx(calibration.shifted(scores).line.offset)
    assert len(shifted.replicates) == len(calibration.replicates) > 0
    expected = recommend(shifted, scores)
    assert report.recommendation == expected
    assert stored.recommendation["words"] == in_words(shifted, expected) == report.shown.words
    assert "Expected precision" in report.shown.words
    for name in ("threshold", "instances", "of", "precision", "recall"):
        assert stored.recommendation[name] == getattr(expected, name)
    assert tuple(stored.recommendation["precision_interval"]) == expected.precision_interval
    assert stored.recommendation["references"] == 4
    assert stored.recommendation["negatives"] == calibration.negatives
    assert stored.recommendation["images"] == 4


def test_resumed_run_with_nothing_to_do_changes_nothing(drawn, segment):
    first = segment()
    samples, modified = _labels(drawn), drawn.values("last_modified_at")
    stages = drawn.load_saved_view(VIEW)._serialize(include_uuids=False)
    second = segment()
    assert (second.resumed, second.segmented) == (TARGETS, 0)
    assert (second.recommendation, second.shown) == (first.recommendation, first.shown)
    assert _labels(drawn) == samples
    assert drawn.values("last_modified_at") == modified
    assert drawn.load_saved_view(VIEW)._serialize(include_uuids=False) == stages


def test_labels_of_a_person_stay_as_they_are(fo, drawn, targets, segment):
    segment(limit=1)
    sample = targets.first()
    removed, renamed, *_ = sample[FIELD].detections
    other = CLASSES[1 - CLASSES.index(renamed.label)]
    renamed.label = other
    drawn_by_hand = fo.Detection(label=other, bounding_box=[0.1, 0.1, 0.2, 0.2], confidence=0.123)
    without_confidence = fo.Detection(label=other, bounding_box=[0.1, 0.1, 0.2, 0.2])
    sample[FIELD].detections = [drawn_by_hand, *sample[FIELD].detections[1:], without_confidence]
    sample.save()
    before = {label.id: label.confidence for label in sample[FIELD].detections}

    segment()
    sample.reload()
    after = {label.id: label for label in sample[FIELD].detections}
    assert list(after) == list(before)
    assert removed.id not in after
    assert after[renamed.id].label == other
    assert after[renamed.id].confidence == before[renamed.id], "a corrected label is not touched"
    assert {after[each.id].decision for each in (renamed, drawn_by_hand, without_confidence)} == {"corrected"}
    others = [each for each in after.values() if each.get_attribute_value("decision", None) is None]
    assert any(each.confidence != before[each.id] for each in others), "the others are fitted to all images"
    assert after[drawn_by_hand.id].confidence == 0.123
    assert after[without_confidence.id].confidence is None


def test_saved_view_shows_the_confident_instances_of_all_images(drawn, targets, segment):
    report = segment(targets)
    shown = drawn.load_saved_view(VIEW)
    confidences = of_labels(drawn, "confidence")
    assert report.shown.view_name == VIEW
    assert report.shown.threshold == 0.5
    assert shown.values("id") == targets.values("id")
    assert shown.count(f"{FIELD}.detections") == sum(p >= 0.5 for p in confidences) < len(confidences)
    assert report.recommendation.instances == shown.count(f"{FIELD}.detections")

    # Only what is shown changes with these options: they are no settings.
    for options in ({"shown": 0.99}, {"shown": 0.0}, {"min_precision": 0.6}):
        report = segment(targets, **options)
        threshold = report.shown.threshold
        assert threshold == options.get("shown", threshold)
        assert (report.resumed, report.segmented) == (TARGETS, 0)
        count = drawn.load_saved_view(VIEW).count(f"{FIELD}.detections")
        assert count == sum(p >= threshold for p in confidences)
        assert report.shown.words.startswith(f"{count} of {len(confidences)} instances have a confidence of at least")
        assert drawn.load_saved_view(VIEW).values("id") == targets.values("id")
    assert report.recommendation.threshold == 0.5
    assert segment(targets, shown="all").shown.view_name is None
    assert drawn.list_saved_views() == []
    assert of_labels(drawn, "confidence") == confidences


def test_expected_precision_is_that_of_the_instances_shown(drawn, segment):
    asked = 0.85
    threshold = segment(min_precision=asked).shown.threshold
    confidences = sorted(of_labels(drawn, "confidence"), reverse=True)
    means = [sum(confidences[: n + 1]) / (n + 1) for n in range(len(confidences))]
    enough = max(n for n, mean in enumerate(means) if mean >= asked)
    assert threshold == pytest.approx(confidences[enough], abs=1e-6)
    assert confidences[enough] >= threshold


def test_precision_that_no_threshold_gives_is_told_and_the_recommended_one_used(segment):
    shown = segment(min_precision=1.0).shown
    assert shown.threshold == 0.5
    assert shown.words.startswith(
        "No threshold is expected to give a precision of 100%, so the recommended one is used."
    )
    assert "Expected precision" in shown.words


@pytest.mark.parametrize("basis", ["none", "negatives"])
def test_calibration_that_does_not_know_says_so(nts_fo, drawn, references, segment, bank, basis):
    if basis == "none":
        bank.remove_negatives(source="reference image")
    else:
        first = {entry.class_name: entry.label_id for entry in bank.entries}
        bank.remove(label_ids=[entry.label_id for entry in bank.entries if entry.label_id not in first.values()])
    nts_fo.runs.store_memory(references, "little", bank)
    report = segment(memory="little", output_field=FIELD)
    told = "Confidences are not calibrated" if basis == "none" else "precision and recall are unknown"
    assert told in report.shown.words
    assert report.recommendation.precision is None
    assert drawn.get_run_info(FIELD).config.recommendation["basis"] == basis
    shown = segment(memory="little", output_field=FIELD, min_precision=0.9).shown
    assert shown.words.startswith("It is unknown which threshold gives a precision of 90%")
    assert told in shown.words
    assert shown.threshold == 0.5


def test_published_confidence_is_the_score(drawn, segment):
    report = segment(preset="paper")
    assert report.recommendation is None
    assert (report.shown.threshold, report.shown.view_name, report.shown.words) == (None, None, "")
    assert of_labels(drawn, "confidence") == of_labels(drawn, "score")
    assert drawn.list_saved_views() == []
    middle = sorted(of_labels(drawn, "score"))[len(of_labels(drawn, "score")) // 2]
    shown = segment(preset="paper", shown=middle).shown
    count = sum(score >= middle for score in of_labels(drawn, "score"))
    assert shown.words.startswith(f"{count} of {len(of_labels(drawn, 'score'))} instances")
    assert drawn.load_saved_view(VIEW).count(f"{FIELD}.detections") == count
    assert "no probabilities" in segment(preset="paper", min_precision=0.5).shown.words


def test_contradicting_options_are_refused(nts_fo, segment):
    for shown in ("all", 0.7):
        with pytest.raises(nts_fo.InputError, match="min_precision takes the place of the recommended confidence"):
            segment(shown=shown, min_precision=0.9)


@pytest.mark.parametrize("name", [VIEW, "nts known - confident"])
def test_saved_view_of_the_user_is_never_overwritten(drawn, targets, segment, name):
    drawn.save_view(name, targets.limit(1), description="mine")
    report = segment()
    assert report.shown.view_name is None
    assert f"No view of them was saved: {'the' if name == VIEW else 'your'} saved view '{name}'" in report.shown.words
    assert drawn.list_saved_views() == [name]
    assert len(drawn.load_saved_view(name)) == 1
    segment(shown="all")
    assert drawn.list_saved_views() == [name]


def test_view_that_depends_on_the_field_does_not_narrow_the_saved_one(drawn, targets, segment):
    segment(targets, shown=0.9)
    narrow = drawn.load_saved_view(VIEW)
    report = segment(narrow, shown=0.01)
    assert report.resumed == TARGETS
    assert drawn.load_saved_view(VIEW).count(f"{FIELD}.detections") > narrow.count(f"{FIELD}.detections")
    segment(targets.exists(f"{FIELD}_error", False).select_fields())
    assert drawn.load_saved_view(VIEW).values("id") == targets.values("id")


def test_stopped_run_has_its_confidences_and_its_view(nts_fo, drawn, targets, bank, quick, calibration):
    job = nts_fo.segmentation_job(targets, "known", preset=quick)
    for _ in range(4):
        next(job)
    job.close()
    config = drawn.get_run_info(FIELD).config
    assert config.status == "incomplete"
    assert config.recommendation["of"] == drawn.count(f"{FIELD}.detections") > 0
    scores = of_labels(drawn, "score")
    assert of_labels(drawn, "confidence") == pytest.approx(_probabilities(calibration, scores))
    assert drawn.has_saved_view(VIEW)


def test_saved_view_goes_with_the_run(nts_fo, drawn, segment):
    runs = nts_fo.runs
    segment()
    drawn.save_view("mine", drawn.limit(1))
    assert f"saved view '{VIEW}'" in runs.run_contents(drawn, "known", runs.MEMORY)
    assert f"saved view '{VIEW}'" in runs.delete_run(drawn, FIELD, runs.SEGMENTATION)
    assert drawn.list_saved_views() == ["mine"]


def test_run_that_was_deleted_meanwhile_saves_no_view(nts_fo, drawn, targets, bank, quick):
    job = nts_fo.segmentation_job(targets, "known", preset=quick)
    for step in job:
        if step.done == step.total:
            nts_fo.runs.delete_run(drawn, FIELD, nts_fo.runs.SEGMENTATION)
            break
    with pytest.raises(nts_fo.errors.RunEnded, match="deleted meanwhile"):
        nts_fo.run(job)
    assert drawn.list_saved_views() == []
    assert drawn.list_runs() == ["known"]


def test_probabilities_rank_as_scores_do(nts_fo, drawn, segment):
    segment()
    by_probability = nts_fo.evaluate_nap(drawn, FIELD, "ground_truth", eval_key="by_probability")
    evaluation = nts_fo.evaluation_results.open_evaluation(drawn, "by_probability")
    assert evaluation.recommendation == drawn.get_run_info(FIELD).config.recommendation
    drawn.set_values(f"{FIELD}.detections.confidence", drawn.values(f"{FIELD}.detections.score"))
    by_score = nts_fo.evaluate_nap(drawn, FIELD, "ground_truth", eval_key="by_score")
    assert by_probability.result.masks.novel.ap > 0
    for kind in ("masks", "boxes"):
        of_both = [getattr(each.result, kind) for each in (by_probability, by_score)]
        assert of_both[0] == of_both[1]


def test_evaluation_notes_that_a_view_hides_predictions(nts_fo, drawn, segment):
    segment()
    hidden = f"the view filters the labels of '{FIELD}'"
    of_all = nts_fo.evaluate_nap(drawn, FIELD, "ground_truth", eval_key="of_all")
    assert not [note for note in of_all.notes if note.startswith(hidden)]
    of_shown = nts_fo.evaluate_nap(drawn.load_saved_view(VIEW), FIELD, "ground_truth", eval_key="of_shown")
    assert [note for note in of_shown.notes if note.startswith(hidden)]


def _probabilities(calibration: Calibration, scores: list[float]) -> list[float]:
    """Probabilities of scores in images that have just these scores."""
    scores = torch.tensor(scores, dtype=torch.float64)
    return calibration.shifted(scores).probabilities(scores).tolist()


def _labels(dataset) -> dict[str, dict]:
    return {sample.id: sample[FIELD].to_dict() for sample in dataset.exists(FIELD)}
