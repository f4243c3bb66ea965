"""Decisions of a person about predictions outlive every run, and predictions do not repeat them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from collections import Counter
from types import ModuleType

import numpy as np
import pytest
from drawn_dataset import CLASSES
from paths import ROOT

FIELD = "nts_shapes"


@pytest.fixture
def runs(nts_fo) -> ModuleType:
    return importlib.import_module("nts.fiftyone_adapter.runs")


@pytest.fixture
def segmented(nts_fo, drawn, targets, memory, quick):
    """Targets with predictions, each image with a few."""
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert all(len(labels) >= 3 for labels in targets.values(f"{FIELD}.detections"))
    return targets


def label_ids(view) -> list[str]:
    return view.values(f"{FIELD}.detections.id", unwind=True)


def stored(view) -> dict[str, tuple]:
    """Everything about every label, by id."""
    return {
        label.id: (label.label, label.bounding_box, label.mask.tobytes(), label.confidence, label.score, *label.tags)
        for labels in view.values(f"{FIELD}.detections")
        for label in labels
    }


def again(nts_fo, segmented, memory, quick, **options):
    """Another run with other settings, in place of the first."""
    return nts_fo.auto_segment_view(
        segmented, memory, preset=quick, overwrite=True, **{"score_threshold": 0.01, **options}
    )


def overlap(first, second, size) -> float:
    from nts.fiftyone_adapter.labels import label_mask

    a, b = label_mask(first, size), label_mask(second, size)
    return (a & b).sum() / (a | b).sum()


def test_a_decision_is_stored_on_the_label(nts_fo, drawn, segmented, decisions):
    first, second, *rest = label_ids(segmented)
    decisions.decide(segmented, FIELD, "accepted", [first])
    decisions.decide(segmented, FIELD, "rejected", [second])
    by_id = {label.id: label for labels in drawn.exists(FIELD).values(f"{FIELD}.detections") for label in labels}
    assert (by_id[first].decision, by_id[first].tags) == ("accepted", ["accepted"])
    assert (by_id[second].decision, by_id[second].tags) == ("rejected", ["rejected"])
    assert by_id[first].decided_at is not None
    assert by_id[first].decided_from == drawn.get_run_info(FIELD).config.memory_fingerprint
    assert decisions.decision_counts(drawn, FIELD) == {
        "undecided": len(rest),
        "accepted": 1,
        "rejected": 1,
        "wrong outline": 0,
        "corrected": 0,
    }
    assert drawn.count_label_tags(label_fields=FIELD) == {"accepted": 1, "rejected": 1}


def test_a_changed_mind_leaves_one_tag(segmented, decisions):
    first = label_ids(segmented)[0]
    for decision in ("accepted", "rejected", "corrected", "accepted"):
        decisions.decide(segmented, FIELD, decision, [first])
        assert segmented.count_label_tags(label_fields=FIELD) == {decision: 1}
    decisions.decide(segmented, FIELD, None, [first])
    assert segmented.count_label_tags(label_fields=FIELD) == {}
    assert decisions.decision_counts(segmented, FIELD)["undecided"] == len(label_ids(segmented))


def test_undo_restores_classes_and_decisions(segmented, decisions):
    ids = label_ids(segmented)[:4]
    decisions.decide(segmented, FIELD, "accepted", ids[:2])
    before = stored(segmented), decisions.decision_counts(segmented, FIELD)
    done = decisions.decide(segmented, FIELD, "corrected", ids, class_name="other")
    assert Counter(segmented.values(f"{FIELD}.detections.label", unwind=True))["other"] == 4
    assert decisions.undo(segmented, FIELD, done) == 4
    assert (stored(segmented), decisions.decision_counts(segmented, FIELD)) == before


def test_undo_leaves_out_labels_that_are_gone(drawn, segmented, decisions):
    ids = label_ids(segmented)[:2]
    done = decisions.decide(segmented, FIELD, "accepted", ids)
    drawn.delete_labels(ids=ids[:1], fields=FIELD)
    assert decisions.undo(segmented, FIELD, done) == 1


def states(view) -> dict[str, tuple]:
    """Class, decision with time and memory, and tags of every label, by id."""
    names = ("decision", "decided_at", "decided_from")
    return {
        label.id: (label.label, *(label.get_attribute_value(name, None) for name in names), *label.tags)
        for label in view.values(f"{FIELD}.detections", unwind=True)
    }


def test_the_last_decisions_are_taken_back_one_by_one(drawn, segmented, decisions):
    ids = label_ids(segmented)
    expected = [states(segmented)]
    steps = [
        ("accepted", ids[:3], None),
        ("corrected", ids[1:5], "other"),
        (None, ids[:2], None),
        ("rejected", ids, None),
    ]
    for decision, chosen, class_name in steps:
        decisions.decide(segmented, FIELD, decision, chosen, class_name=class_name)
        expected.append(states(segmented))
    for (decision, chosen, _), before in zip(reversed(steps), reversed(expected[:-1]), strict=True):
        last = decisions.last_step(drawn, FIELD)
        assert (last.decision, last.labels) == (decision, len(chosen))
        report = decisions.undo_last(drawn, FIELD, last.id)
        assert (report.step, report.restored, report.changed, report.gone) == (last, len(chosen), 0, 0)
        assert states(segmented) == before
    assert decisions.last_step(drawn, FIELD) is None
    assert decisions.undo_last(drawn, FIELD) is None


def test_what_was_changed_since_is_not_taken_back(drawn, segmented, decisions):
    decided_again, renamed, edited, gone, untouched = label_ids(segmented)[:5]
    decisions.decide(segmented, FIELD, "accepted", [decided_again])
    decisions.decide(segmented, FIELD, "rejected", [decided_again, renamed, edited, gone, untouched])
    # Two people at work: the second decides and undoes, so that the decision of the first is the last one again.
    decisions.decide(segmented, FIELD, "rejected", [decided_again])
    other = decisions.last_step(drawn, FIELD)
    importlib.import_module("nts.fiftyone_adapter.runs").remove_step(drawn, FIELD, other.id)
    for sample in segmented:
        for label in sample[FIELD].detections:
            if label.id == renamed:
                label.label = "another"
            if label.id == edited:
                label.bounding_box = [0.1, 0.1, 0.3, 0.3]
        sample.save()
    decisions.mark_edited(drawn, FIELD)
    drawn.delete_labels(ids=[gone], fields=FIELD)
    before = states(segmented)
    report = decisions.undo_last(drawn, FIELD)
    assert (report.restored, report.changed, report.gone) == (1, 3, 1)
    after = states(segmented)
    assert {each for each in after if after[each] != before[each]} == {untouched}
    assert after[untouched][1] is None


def test_edited_labels_are_no_step(drawn, segmented, decisions):
    sample = segmented.first()
    sample[FIELD].detections[0].label = "another"
    sample.save()
    assert decisions.mark_edited(drawn, FIELD) == 1
    assert decisions.last_step(drawn, FIELD) is None


def test_a_decision_that_is_not_the_last_any_more_is_not_taken_back(nts_fo, drawn, segmented, decisions):
    first, second = label_ids(segmented)[:2]
    decisions.decide(segmented, FIELD, "accepted", [first])
    seen = decisions.last_step(drawn, FIELD)
    decisions.decide(segmented, FIELD, "rejected", [second])
    before = states(segmented)
    with pytest.raises(nts_fo.InputError, match="another decision was made meanwhile"):
        decisions.undo_last(drawn, FIELD, seen.id)
    assert states(segmented) == before


def test_the_history_is_bounded(drawn, segmented, decisions, runs, monkeypatch):
    history = importlib.import_module("nts.fiftyone_adapter.runs.history")
    monkeypatch.setattr(history, "MOST_STEPS", 3)
    monkeypatch.setattr(history, "MOST_LABELS", 5)
    ids = label_ids(segmented)
    for count, kept in (
        (1, [1]),
        (1, [1, 1]),
        (1, [1, 1, 1]),
        (1, [1, 1, 1]),
        (3, [1, 1, 3]),
        (4, [4]),
        (6, []),
        (2, [2]),
    ):
        decisions.decide(segmented, FIELD, "accepted", ids[:count])
        assert [step["labels"] for step in runs.list_steps(drawn, FIELD)] == kept
        assert len(history._store(drawn).list_keys()) == 1 + len(kept), "nothing else is stored"


def test_the_history_goes_with_the_field(drawn, segmented, decisions, runs):
    history = importlib.import_module("nts.fiftyone_adapter.runs.history")
    decisions.decide(segmented, FIELD, "accepted", label_ids(segmented)[:2])
    runs.delete_run(drawn, FIELD, runs.SEGMENTATION)
    assert history._store(drawn).list_keys() == []


def test_what_was_taught_is_not_taken_back(drawn, segmented, decisions):
    decisions.decide(segmented, FIELD, "accepted", label_ids(segmented)[:1])
    importlib.import_module("nts.fiftyone_adapter.teaching").teach(segmented, FIELD)
    assert decisions.last_step(drawn, FIELD) is None


def test_all_labels_of_a_view_can_be_decided(segmented, decisions):
    from fiftyone import ViewField as F

    threshold = np.median(segmented.values(f"{FIELD}.detections.score", unwind=True))
    above = segmented.filter_labels(FIELD, F("score") > threshold)
    count = above.count(f"{FIELD}.detections")
    assert 0 < count < len(label_ids(segmented))
    assert len(decisions.decide(above, FIELD, "accepted")) == count
    assert decisions.decision_counts(segmented, FIELD)["accepted"] == count


def test_decided_labels_outlive_another_run(nts_fo, drawn, segmented, memory, quick, decisions):
    accepted, rejected, corrected, undecided, *_ = label_ids(segmented)
    decisions.decide(segmented, FIELD, "accepted", [accepted])
    decisions.decide(segmented, FIELD, "rejected", [rejected])
    decisions.decide(segmented, FIELD, "corrected", [corrected], class_name="other")
    before = stored(segmented)
    report = again(nts_fo, segmented, memory, quick)
    after = stored(segmented)
    assert report.kept == 3
    assert report.segmented == len(segmented)
    for label_id in (accepted, rejected, corrected):
        assert after[label_id] == before[label_id]
    assert undecided not in after
    assert drawn.get_run_info(FIELD).config.status == "complete"
    assert drawn.get_run_info(FIELD).config.score_threshold == 0.01


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_the_same_object_is_not_found_twice(nts_fo, segmented, memory, quick, decisions, preset):
    """Accepted: by no class. Rejected: not by the class that was rejected."""
    samples = {sample.id: sample for sample in segmented}
    accepted, rejected = [], []
    for sample in samples.values():
        best, second, *_ = sample[FIELD].detections
        accepted.append(best.id)
        rejected.append(second.id)
    decisions.decide(segmented, FIELD, "accepted", accepted)
    decisions.decide(segmented, FIELD, "rejected", rejected)
    again(nts_fo, segmented, memory, quick if preset == "default" else "paper")
    for sample in segmented:
        size = (sample.metadata.height, sample.metadata.width) if sample.metadata else (256, 256)
        by_id = {label.id: label for label in sample[FIELD].detections}
        new = [label for label in by_id.values() if label.id not in (*accepted, *rejected)]
        assert new, "the other objects are found again"
        (kept,) = [by_id[label_id] for label_id in accepted if label_id in by_id]
        (refused,) = [by_id[label_id] for label_id in rejected if label_id in by_id]
        # At the size of the image: what is compared at the size of the logits may differ by a pixel at the border.
        assert all(overlap(label, kept, size) < 0.55 for label in new)
        assert all(overlap(label, refused, size) < 0.55 for label in new if label.label == refused.label)


def test_a_run_without_decisions_replaces_everything(nts_fo, drawn, segmented, memory, quick):
    before = set(label_ids(segmented))
    report = again(nts_fo, segmented.limit(1), memory, quick)
    assert report.kept == 0
    assert drawn.exists(FIELD).count() == 1
    assert not before & set(label_ids(drawn.exists(FIELD)))


def test_images_beyond_the_view_keep_their_decided_labels_only(nts_fo, drawn, segmented, memory, quick, decisions):
    last = segmented.last()
    kept = last[FIELD].detections[0].id
    decisions.decide(segmented, FIELD, "accepted", [kept])
    again(nts_fo, segmented.limit(1), memory, quick)
    assert label_ids(drawn.select(last.id)) == [kept]
    report = nts_fo.auto_segment_view(segmented, memory, preset=quick, score_threshold=0.01)
    assert (report.resumed, report.segmented) == (1, len(segmented) - 1)
    assert kept in label_ids(drawn.select(last.id))
    assert len(label_ids(drawn.select(last.id))) > 1


def test_an_interrupted_run_loses_no_decision(nts_fo, drawn, segmented, memory, quick, decisions):
    ids = [labels[0].id for labels in segmented.values(f"{FIELD}.detections")]
    decisions.decide(segmented, FIELD, "accepted", ids)
    job = nts_fo.segmentation_job(segmented, memory, preset=quick, overwrite=True, score_threshold=0.01)
    for _ in range(3):
        next(job)
    job.close()
    assert set(ids) <= set(label_ids(segmented))
    assert drawn.get_run_info(FIELD).config.status == "incomplete"
    report = nts_fo.auto_segment_view(segmented, memory, preset=quick, score_threshold=0.01)
    assert report.segmented >= 1
    assert set(ids) <= set(label_ids(segmented))
    assert drawn.get_run_info(FIELD).config.status == "complete"


def test_a_decision_made_during_a_run_is_kept(nts_fo, drawn, segmented, memory, quick, decisions):
    """A decided label of an image that the run has yet to reach is rejected after all."""
    last = segmented.last()
    kept = last[FIELD].detections[0].id
    decisions.decide(segmented, FIELD, "accepted", [kept])
    job = nts_fo.segmentation_job(segmented, memory, preset=quick, overwrite=True, score_threshold=0.01)
    for _ in range(2):
        next(job)
    decisions.decide(drawn, FIELD, "rejected", [kept])
    for _ in job:
        pass
    (label,) = [each for each in drawn[last.id][FIELD].detections if each.id == kept]
    assert label.decision == "rejected"


@pytest.mark.parametrize("change", ["class", "no class", "box", "mask", "drawn by hand"])
def test_labels_that_a_person_edits_count_as_corrected(nts_fo, drawn, segmented, memory, quick, change):
    import fiftyone as fo

    sample = segmented.first()
    label = sample[FIELD].detections[0]
    if change == "class":
        label.label = "other"
    elif change == "no class":
        label.label = None
    elif change == "box":
        x, y, width, height = label.bounding_box
        label.bounding_box = [x, y, width * 0.9, height]
    elif change == "mask":
        label.mask = np.ones_like(label.mask)
        label.mask[0, 0] = False
    else:
        label = fo.Detection(label=CLASSES[0], bounding_box=[0.1, 0.1, 0.2, 0.2])
        sample[FIELD].detections.append(label)
    sample.save()
    report = again(nts_fo, segmented, memory, quick)
    assert report.kept == 1
    (kept,) = [each for each in drawn[sample.id][FIELD].detections if each.id == label.id]
    assert (kept.decision, kept.tags) == ("corrected", ["corrected"])
    assert (kept.label, kept.bounding_box) == (label.label, label.bounding_box)


def test_labels_that_nobody_touched_are_undecided(segmented, decisions):
    assert decisions.mark_edited(segmented, FIELD) == 0
    assert decisions.decision_counts(segmented, FIELD)["undecided"] == len(label_ids(segmented))


def test_predictions_of_earlier_versions_are_undecided(drawn, segmented, decisions):
    """They have a score but no digest."""
    for sample in segmented:
        for label in sample[FIELD].detections:
            label["written"] = None
        sample.save()
    assert decisions.mark_edited(drawn, FIELD) == 0


def test_a_deletion_says_how_many_decided_labels_go(nts_fo, drawn, segmented, decisions, runs):
    assert f"field {FIELD!r}" in runs.run_contents(drawn, FIELD, runs.SEGMENTATION)
    decisions.decide(segmented, FIELD, "accepted", label_ids(segmented)[:2])
    assert f"field {FIELD!r} with 2 decided labels" in runs.run_contents(drawn, FIELD, runs.SEGMENTATION)
    runs.delete_run(drawn, FIELD, runs.SEGMENTATION)
    assert not drawn.has_sample_field(FIELD)


def test_what_cannot_be_decided_is_refused(nts_fo, segmented, decisions):
    with pytest.raises(nts_fo.InputError, match="there is no decision 'good'; there are accepted, rejected, wrong"):
        decisions.decide(segmented, FIELD, "good")
    with pytest.raises(nts_fo.InputError, match="only a corrected label has another class"):
        decisions.decide(segmented, FIELD, "accepted", class_name="other")
    with pytest.raises(nts_fo.InputError, match="'ground_truth' is not a field of predictions .* there are nts_shapes"):
        decisions.decide(segmented, "ground_truth", "accepted")


def test_rejected_predictions_are_not_evaluated(nts_fo, decisions, drawn, segmented):
    """As if they were deleted; a label drawn by hand counts as certain."""
    import fiftyone as fo

    truth = segmented.first().ground_truth.detections[0]
    sample = segmented.first()
    sample[FIELD].detections.append(fo.Detection(label=truth.label, bounding_box=truth.bounding_box, mask=truth.mask))
    sample.save()
    decisions.mark_edited(segmented, FIELD)
    wrong = label_ids(segmented)[:5]
    decisions.decide(segmented, FIELD, "rejected", wrong)
    report = nts_fo.evaluate_nap(segmented, FIELD, "ground_truth", eval_key="reviewed")
    assert "5 predictions that were rejected by a person were left out" in report.notes
    drawn.delete_labels(ids=wrong, fields=FIELD)
    without = nts_fo.evaluate_nap(segmented, FIELD, "ground_truth", eval_key="deleted")
    assert report.result.masks.novel == without.result.masks.novel
    assert without.result.masks.novel.ap50 > 0


def test_accepted_labels_are_copied_once(nts_fo, decisions, drawn, segmented):
    accepted, corrected, rejected, *_ = label_ids(segmented)
    decisions.decide(segmented, FIELD, "accepted", [accepted])
    decisions.decide(segmented, FIELD, "corrected", [corrected], class_name="other")
    decisions.decide(segmented, FIELD, "rejected", [rejected])
    assert decisions.copy_decided(segmented, FIELD, "finished") == 2
    copied = [label for labels in drawn.exists("finished").values("finished.detections") for label in labels]
    assert {label.copied_from for label in copied} == {accepted, corrected}
    assert {label.label for label in copied} >= {"other"}
    by_id = {label.id: label for labels in segmented.values(f"{FIELD}.detections") for label in labels}
    for label in copied:
        assert (label.mask == by_id[label.copied_from].mask).all()
    assert decisions.copy_decided(segmented, FIELD, "finished") == 0


def test_copies_join_labels_that_are_there_already(nts_fo, decisions, drawn, segmented):
    """One that a person drew before is no duplicate of itself; others stay."""
    sample = segmented.first()
    same = sample[FIELD].detections[0]
    twin = same.copy()
    twin.label = same.label
    sample.ground_truth.detections = [twin]
    sample.save()
    decisions.decide(segmented, FIELD, "accepted", [same.id, sample[FIELD].detections[1].id])
    assert decisions.copy_decided(segmented, FIELD, "ground_truth") == 1
    assert len(drawn[sample.id].ground_truth.detections) == 2


def test_a_copy_loses_nothing_that_is_written_meanwhile(fo, decisions, drawn, segmented, monkeypatch):
    """Another person labels the same image between the reading and the writing, or it has no labels yet."""
    first, second = segmented.exists(FIELD).limit(2)
    chosen = [first[FIELD].detections[0].id, second[FIELD].detections[0].id]
    decisions.decide(segmented, FIELD, "accepted", chosen)
    drawn.add_sample_field("finished", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    choose = decisions._without_duplicates

    def labelled_meanwhile(*args):
        sample = drawn[first.id]
        if sample.finished is None:
            sample["finished"] = fo.Detections(detections=[fo.Detection(label="$new", bounding_box=[0, 0, 1, 1])])
            sample.save()
        return choose(*args)

    monkeypatch.setattr(decisions, "_without_duplicates", labelled_meanwhile)
    assert decisions.copy_decided(segmented, FIELD, "finished") == 2
    drawn.reload()
    of_first, of_second = (drawn[each.id].finished.detections for each in (first, second))
    assert [label.get_attribute_value("copied_from", None) for label in of_first] == [None, chosen[0]]
    assert [label.copied_from for label in of_second] == [chosen[1]]


def test_labels_without_a_box_are_copied_too(fo, decisions, drawn, segmented):
    sample = segmented.first()
    sample[FIELD].detections.append(fo.Detection(label="mark", bounding_box=None, decision="accepted"))
    sample.save()
    assert decisions.copy_decided(segmented, FIELD, "ground_truth") == 1
    assert decisions.copy_decided(segmented, FIELD, "ground_truth") == 0


def test_a_run_without_its_field_is_started_again(nts_fo, decisions, drawn, segmented):
    """As one that was killed between the two leaves it."""
    drawn.delete_sample_field(FIELD)
    assert decisions.mark_edited(drawn, FIELD) == 0
    nts_fo.auto_segment_view(segmented, "shapes", FIELD, overwrite=True)
    assert segmented.count(f"{FIELD}.detections") > 0


def test_predictions_are_not_copied_to_predictions(nts_fo, decisions, segmented):
    with pytest.raises(nts_fo.InputError, match="'nts_shapes' holds predictions of a segmentation"):
        decisions.copy_decided(segmented, FIELD, FIELD)


def test_two_reviewers_at_once_keep_the_decisions_of_both(nts_fo, drawn, segmented, decisions):
    """Label by label, while the other writes to the same images."""
    ids = [label for of_image in segmented.values(f"{FIELD}.detections.id") for label in of_image]
    ours, theirs = ids[::2], ids[1::2]
    code = f"""
        import fiftyone as fo
        from nts.fiftyone_adapter.decisions import decide

        dataset = fo.load_dataset({drawn.name!r})
        print("ready", flush=True)
        input()
        for label in {theirs!r}:
            decide(dataset, {FIELD!r}, "rejected", [label])
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "ready\n"
    other.stdin.write("\n")
    other.stdin.flush()
    for label in ours:
        decisions.decide(segmented, FIELD, "accepted", [label])
    assert other.wait(timeout=120) == 0
    drawn.reload()
    found = dict(
        zip(
            drawn.values(f"{FIELD}.detections.id", unwind=True),
            drawn.values(f"{FIELD}.detections.decision", unwind=True),
            strict=True,
        )
    )
    assert found == dict.fromkeys(ours, "accepted") | dict.fromkeys(theirs, "rejected")
    assert drawn.count_label_tags() == {"accepted": len(ours), "rejected": len(theirs)}
