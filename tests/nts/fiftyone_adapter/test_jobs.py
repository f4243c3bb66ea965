"""All jobs in sequence, by function calls, and their progress."""

from __future__ import annotations

from drawn_dataset import CLASSES, REFERENCES, TARGETS, fields_and_runs


def test_whole_job_by_functions(nts_fo, drawn, references, targets):
    before = fields_and_runs(drawn)

    built = nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    assert built.shots == dict.fromkeys(CLASSES, 2)
    assert built.skipped == []

    segmented = nts_fo.auto_segment_view(targets, "shapes")
    assert segmented.output_field == "nts_shapes"
    assert segmented.segmented == TARGETS
    assert segmented.failed == {}
    assert sum(segmented.instances.values()) > 0

    found = [d for sample in targets for d in sample.nts_shapes.detections]
    assert {d.label for d in found} <= set(CLASSES)
    reference_labels = set(references.values("ground_truth.detections.id", unwind=True))
    assert {d.reference_id for d in found} <= reference_labels
    assert references.first().nts_shapes is None

    report = nts_fo.evaluate_nap(drawn, "nts_shapes", "ground_truth")
    assert report.left_out_references == REFERENCES
    assert report.result.images == TARGETS
    assert report.result.novel_classes == CLASSES
    assert 0.02 < report.result.masks.novel.ap50 <= 1
    assert nts_fo.evaluation_results.load_evaluation(drawn, report.eval_key)["result"] == report.result.to_dict()

    deleted = nts_fo.runs.delete_run(drawn, "shapes", nts_fo.runs.MEMORY)
    assert deleted == [
        "field 'nts_shapes'",
        "field 'nts_shapes_error'",
        "saved view 'nts_shapes · confident'",
        "evaluation 'nap_nts_shapes'",
        "segmentation 'nts_shapes'",
        "memory 'shapes'",
    ]
    assert fields_and_runs(drawn) == before


def test_jobs_tell_how_far_they_are(nts_fo, targets, memory, quick):
    steps = []
    nts_fo.auto_segment_view(targets, memory, preset=quick, progress=steps.append)
    assert [step.done for step in steps] == [0, *range(TARGETS), TARGETS]
    assert steps[-1].fraction == 1
    assert steps[2].label.startswith(f"1/{TARGETS} images, ")
    assert steps[2].label.endswith(" s left")
