"""Segmentation of a view: resumption, settings, failures, and output fields."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import replace

import pytest
from drawn_dataset import CLASSES, REFERENCES, TARGETS, drawn_samples, truncate


def test_interrupted_segmentation_is_resumed(nts_fo, drawn, targets, memory, quick):
    job = nts_fo.segmentation_job(targets, memory, preset=quick)
    for _ in range(4):  # loading, then three images; two are done when the third begins
        next(job)
    job.close()
    done = drawn.exists("nts_shapes")
    assert done.count() == 2
    assert drawn.get_run_info("nts_shapes").config.status == "incomplete"
    before = _without_confidences(done)

    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert (report.resumed, report.segmented) == (2, 1)
    # The confidences of all images are fitted to all of them.
    assert before.items() <= _without_confidences(done).items()
    assert drawn.get_run_info("nts_shapes").config.status == "complete"
    assert drawn.get_run_info("nts_shapes").config.segmented == TARGETS


def test_dry_run_is_part_of_the_run(nts_fo, drawn, targets, memory, quick):
    assert nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1).segmented == 1
    assert drawn.get_run_info("nts_shapes").config.status == "incomplete"
    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert (report.resumed, report.segmented) == (1, TARGETS - 1)


def test_other_settings_need_overwrite(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth")
    ids = drawn.values("nts_shapes.detections.id", unwind=True)
    with pytest.raises(nts_fo.InputError, match=r"other settings \(score_threshold 0.0, now 0.9\): choose another"):
        nts_fo.auto_segment_view(targets, memory, preset=quick, score_threshold=0.9)
    assert drawn.values("nts_shapes.detections.id", unwind=True) == ids

    report = nts_fo.auto_segment_view(targets, memory, preset=quick, score_threshold=0.9, overwrite=True, limit=1)
    assert report.resumed == 0
    assert drawn.exists("nts_shapes").count() == 1
    assert drawn.list_runs(method="nts_nap") == []


def test_other_preset_is_another_setting(nts_fo, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    with pytest.raises(nts_fo.InputError, match=r"other settings \(preset default, now paper\)"):
        nts_fo.auto_segment_view(targets, memory, preset="paper")
    finer = replace(quick, proposals=replace(quick.proposals, points_per_side=7))
    with pytest.raises(nts_fo.InputError, match=r"other settings \(another preset\)"):
        nts_fo.auto_segment_view(targets, memory, preset=finer)


def test_rebuilt_memory_is_another_memory(nts_fo, drawn, references, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick)
    nts_fo.build_reference_memory(references, "ground_truth", memory, overwrite=True)
    assert nts_fo.auto_segment_view(targets, memory, preset=quick).resumed == TARGETS
    nts_fo.build_reference_memory(references.limit(3), "ground_truth", memory, overwrite=True)
    with pytest.raises(nts_fo.InputError, match="another memory"):
        nts_fo.auto_segment_view(targets, memory, preset=quick)
    # The references of the predictions were recorded when they were made.
    assert nts_fo.evaluate_nap(drawn, "nts_shapes", "ground_truth").left_out_references == REFERENCES


def test_image_that_fails_is_recorded_and_the_run_goes_on(nts_fo, drawn, targets, memory, quick):
    broken = targets.skip(1).first()
    content = truncate(broken.filepath)
    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert report.segmented == TARGETS - 1
    assert list(report.failed) == [broken.id]
    broken.reload()
    assert broken.nts_shapes is None
    assert broken.nts_shapes_error == report.failed[broken.id]
    assert broken.filepath in broken.nts_shapes_error
    assert drawn.get_run_info("nts_shapes").config.failed == 1

    with open(broken.filepath, "wb") as file:
        file.write(content)
    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert (report.segmented, report.resumed, report.failed) == (1, TARGETS - 1, {})
    broken.reload()
    assert broken.nts_shapes is not None
    assert broken.nts_shapes_error is None


def test_mistake_in_the_engine_is_recorded_with_its_kind(nts_fo, targets, memory, quick, monkeypatch):
    from nts.pipeline import TargetEncoder

    encode, calls = TargetEncoder.encode, []

    def fails_once(self, image):
        calls.append(image)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return encode(self, image)

    monkeypatch.setattr(TargetEncoder, "encode", fails_once)
    report = nts_fo.auto_segment_view(targets, memory, preset=quick, use_cache=False)
    assert [reason.split(": ", 1)[1] for reason in report.failed.values()] == ["RuntimeError: out of memory"]
    assert report.segmented == TARGETS - 1


def test_samples_with_nothing_found_get_empty_detections(nts_fo, targets, memory, quick):
    report = nts_fo.auto_segment_view(targets, memory, preset=quick, score_threshold=1.0)
    assert (report.segmented, report.empty, report.instances) == (TARGETS, TARGETS, {})
    assert [sample.nts_shapes.detections for sample in targets] == [[]] * TARGETS
    assert nts_fo.evaluate_nap(targets, "nts_shapes", "ground_truth").result.masks.novel.ap == 0


def test_view_may_filter_on_the_field_that_is_written(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    report = nts_fo.auto_segment_view(targets.exists("nts_shapes", False), memory, preset=quick)
    assert (report.resumed, report.segmented) == (0, TARGETS - 1)
    assert drawn.exists("nts_shapes").count() == TARGETS


def test_view_that_hides_fields_cannot_hide_what_is_there(nts_fo, targets, memory, quick):
    view = targets.select_fields()
    nts_fo.auto_segment_view(view, memory, preset=quick)
    assert nts_fo.auto_segment_view(view, memory, preset=quick).resumed == TARGETS
    with pytest.raises(nts_fo.InputError, match="never overwritten"):
        nts_fo.auto_segment_view(view, memory, "ground_truth", overwrite=True)


def test_slice_of_a_grouped_dataset_is_segmented(nts_fo, fo, make_dataset, tmp_path, quick):
    samples = drawn_samples(tmp_path)
    for sample in samples:
        (tmp_path / "right").mkdir(exist_ok=True)
        shutil.copy(sample.filepath, tmp_path / "right")
    grouped = make_dataset()
    grouped.add_group_field("group", default="left")
    for sample in samples:
        group = fo.Group()
        right = fo.Sample(
            tmp_path / "right" / sample.filename, tags=sample.tags, ground_truth=sample.ground_truth.copy()
        )
        sample["group"], right["group"] = group.element("left"), group.element("right")
        grouped.add_samples([sample, right])

    right = grouped.select_group_slices("right")
    nts_fo.build_reference_memory(right.match_tags("reference"), "ground_truth", "shapes")
    targets = right.match_tags("target")
    assert nts_fo.auto_segment_view(targets, "shapes", preset=quick).segmented == TARGETS
    assert nts_fo.auto_segment_view(targets, "shapes", preset=quick).resumed == TARGETS
    assert targets.exists("nts_shapes").count() == TARGETS
    assert nts_fo.evaluate_nap(right, "nts_shapes", "ground_truth").result.images == TARGETS

    # The dataset itself shows the other slice.
    decisions = importlib.import_module("nts.fiftyone_adapter.decisions")
    (label, *_) = targets.values("nts_shapes.detections.id", unwind=True)
    decisions.decide(targets, "nts_shapes", "accepted", [label])
    assert decisions.undo_last(grouped, "nts_shapes").restored == 1
    assert decisions.decision_counts(right, "nts_shapes")["accepted"] == 0
    decisions.decide(targets, "nts_shapes", "accepted", [label])
    assert decisions.copy_decided(right, "nts_shapes", "finished") == 1


def test_output_field_is_suggested_and_counts_up(nts_fo, fo, drawn, targets, memory, quick):
    assert nts_fo.checks.suggest_output_field(drawn, memory) == "nts_shapes"
    drawn.add_sample_field("nts_shapes", fo.StringField)
    assert nts_fo.checks.suggest_output_field(drawn, memory) == "nts_shapes_2"
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    assert drawn.exists("nts_shapes_2").count() == 1
    assert nts_fo.checks.suggest_output_field(drawn, memory) == "nts_shapes_2"


def test_field_of_predictions_describes_itself(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    field = drawn.get_field("nts_shapes")
    assert field.description == "Instances found by the reference memory 'shapes'"
    assert field.info == {"memory": "shapes", "classes": list(CLASSES)}
    for attribute in ("score", "similarity", "margin", "predicted_iou", "reference_id"):
        assert drawn.has_field(f"nts_shapes.detections.{attribute}")


def _without_confidences(view) -> dict[str, list[dict]]:
    return {
        sample.id: [{**label.to_dict(), "confidence": None} for label in sample.nts_shapes.detections]
        for sample in view
    }


def test_confident_predictions_join_the_references_in_a_first_round(nts_fo, drawn, targets, memory):
    from dataclasses import replace

    from nts.presets import DEFAULT

    preset = replace(DEFAULT, method=replace(DEFAULT.method, transductive=True))
    plain = nts_fo.auto_segment_view(targets, memory, "plain")
    report = nts_fo.auto_segment_view(targets, memory, "joined", preset=preset)
    assert report.segmented == plain.segmented
    assert report.from_cache == report.segmented  # the first round has encoded them
    ids = set(drawn.values("joined.detections.reference_id", unwind=True))
    assert ids <= {*drawn.values("ground_truth.detections.id", unwind=True), ""}
    assert (
        drawn.get_run_info("joined").config.preset_fingerprint != drawn.get_run_info("plain").config.preset_fingerprint
    )


def test_both_rounds_encode_several_images_at_once_on_a_gpu(nts_fo, targets, memory, quick, monkeypatch):
    from nts import pipeline

    preset = replace(quick, method=replace(quick.method, transductive=True))
    truncate(targets.last().filepath)
    alone = nts_fo.auto_segment_view(targets, memory, "alone", preset=preset, use_cache=False)
    batches, together = [], pipeline.encode_together
    monkeypatch.setattr(pipeline, "images_per_batch", lambda device: 2)
    monkeypatch.setattr(
        pipeline, "encode_together", lambda images, *more: batches.append(len(images)) or together(images, *more)
    )
    report = nts_fo.auto_segment_view(targets, memory, "together", preset=preset, use_cache=False)
    assert batches == [2, 2]
    assert report.segmented == alone.segmented == TARGETS - 1
    assert report.failed == alone.failed != {}
    for name in ("label", "reference_id"):
        assert targets.values(f"together.detections.{name}") == targets.values(f"alone.detections.{name}")
    found, expected = (targets.values(f"{field}.detections.score", unwind=True) for field in ("together", "alone"))
    assert found == pytest.approx(expected, abs=1e-3)
    assert any(score is not None for score in found)


def test_tiles_are_stored_with_a_run_and_seen_by_the_next(nts_fo, drawn, targets, memory, quick):
    report = nts_fo.auto_segment_view(targets, memory, preset=quick, tiles=(2, 2))
    config = drawn.get_run_info("nts_shapes").config
    assert (config.tiles, config.tile_overlap) == ("2x2", 0.25)
    assert report.segmented == TARGETS
    again = nts_fo.auto_segment_view(targets, memory, preset=quick, tiles="2 x 2")
    assert (again.resumed, again.segmented) == (TARGETS, 0)
    with pytest.raises(nts_fo.InputError, match=r"other settings \(tiles 2x2, now auto\)"):
        nts_fo.auto_segment_view(targets, memory, preset=quick)
    other = nts_fo.auto_segment_view(targets, memory, preset=quick, tiles="off", overwrite=True)
    assert other.segmented == TARGETS


def test_a_run_from_before_there_were_tiles_is_resumed(nts_fo, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, preset=quick, limit=1)
    config = drawn.get_run_info("nts_shapes").config
    for name in ("tiles", "tile_overlap"):
        delattr(config, name)
    drawn.update_run_config("nts_shapes", config)
    with pytest.raises(nts_fo.InputError, match=r"other settings \(tiles off, now 2x2\)"):
        nts_fo.auto_segment_view(targets, memory, preset=quick, tiles="2x2")
    report = nts_fo.auto_segment_view(targets, memory, preset=quick)
    assert (report.resumed, report.segmented) == (1, TARGETS - 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiles": "many"}, "tiles are 'auto', 'off', or rows and columns, got 'many'"),
        ({"tiles": (0, 2)}, "at least one row and one column"),
        ({"tiles": (1, 2, 3)}, "rows and columns"),
        ({"tile_overlap": 0.7}, "tile_overlap must lie in"),
        ({"tiles": "2x2", "scorer": "vrp", "reference_prompt": "small"}, "sees images whole"),
    ],
)
def test_tiles_that_cannot_be_are_refused(nts_fo, targets, memory, options, message):
    with pytest.raises(nts_fo.InputError, match=message):
        nts_fo.auto_segment_view(targets, memory, **options)
