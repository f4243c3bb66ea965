"""Concurrent runs, and deletions, renames and locks during a run."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
from drawn_dataset import CLASSES, TARGETS
from paths import ROOT


@pytest.fixture
def memory(nts_fo, references) -> str:
    """Name of a memory with whole images."""
    nts_fo.build_reference_memory(references, "ground_truth", "m", keep_images=True)
    return "m"


def begin(job, steps: int = 3):
    """Run the first steps of a job."""
    for _ in zip(range(steps), job, strict=False):
        pass
    return job


def in_another_process(dataset, code: str) -> str:
    """Run code with `dataset` and `nts_fo` in a subprocess, and return its output."""
    prelude = f"""
        import fiftyone as fo
        from nts import fiftyone_adapter as nts_fo
        dataset = fo.load_dataset({dataset.name!r})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


KINDS = {
    "segmentation": ("segmentation_job", "SEGMENTATION", "nts_m", ["nts_m", "nts_m_error"]),
    "class maps": ("class_maps_job", "CLASS_MAPS", "nts_m_classes", ["nts_m_classes", "nts_m_classes_error"]),
    "heat maps": (
        "heatmaps_job",
        "HEATMAPS",
        "m_similarity",
        [f"m_{name}_similarity" for name in CLASSES],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["memory", "run", "first field", "last field"])
def test_deletions_during_a_run_end_it_and_leave_nothing(nts_fo, drawn, targets, memory, kind, what):
    make, constant, key, fields = KINDS[kind]
    run_kind = getattr(nts_fo.runs, constant)
    before = set(drawn.get_field_schema())
    job = begin(getattr(nts_fo, make)(targets, memory))
    if what == "memory":
        nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY)
    elif what == "run":
        nts_fo.runs.delete_run(drawn, key, run_kind)
    else:
        drawn.delete_sample_field(fields[0 if what == "first field" else -1])
    with pytest.raises(nts_fo.errors.RunEnded, match="deleted meanwhile"):
        nts_fo.run(job)
    if "field" in what:
        nts_fo.runs.delete_run(drawn, key, run_kind)
    assert set(drawn.get_field_schema()) == before
    assert drawn.list_runs() == ([] if what == "memory" else [memory])


@pytest.mark.parametrize("kind", KINDS)
def test_a_dataset_that_is_deleted_ends_the_run_in_words(nts_fo, drawn, targets, memory, kind):
    job = begin(getattr(nts_fo, KINDS[kind][0])(targets, memory))
    drawn.delete()
    with pytest.raises(nts_fo.errors.RunEnded, match="deleted"):
        nts_fo.run(job)


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_that_is_deleted_or_built_again_while_models_load_is_noticed(
    nts_fo, drawn, references, targets, memory, kind
):
    before = set(drawn.get_field_schema())
    job = begin(getattr(nts_fo, KINDS[kind][0])(targets, memory), steps=1)
    nts_fo.build_reference_memory(references.limit(2), "ground_truth", memory, overwrite=True, keep_images=True)
    with pytest.raises(nts_fo.errors.RunEnded, match="was built again meanwhile"):
        nts_fo.run(job)
    job = begin(getattr(nts_fo, KINDS[kind][0])(targets, memory), steps=1)
    nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY)
    with pytest.raises(nts_fo.errors.RunEnded, match="was deleted meanwhile"):
        nts_fo.run(job)
    assert set(drawn.get_field_schema()) == before
    assert drawn.list_runs() == []


def test_a_memory_that_another_process_has_replaced_is_read_as_it_is_now(nts_fo, drawn, memory):
    count = len(nts_fo.load_memory(drawn, memory))
    in_another_process(
        drawn,
        f"""
        from nts.fiftyone_adapter import runs
        bank = nts_fo.load_memory(dataset, {memory!r})
        bank.remove(label_ids=[bank.entries[0].label_id])
        runs.replace_memory(dataset, {memory!r}, bank)
        """,
    )
    assert len(nts_fo.load_memory(drawn, memory)) == count - 1


@pytest.mark.parametrize("threshold", [0.3, 0.0])
def test_the_older_of_two_segmentations_of_a_field_ends(nts_fo, drawn, targets, memory, threshold):
    first = begin(nts_fo.segmentation_job(targets, memory, "p", use_cache=False))
    nts_fo.auto_segment_view(targets, memory, "p", score_threshold=threshold, overwrite=True)
    with pytest.raises(nts_fo.errors.RunEnded, match="'p' was started again meanwhile"):
        nts_fo.run(first)
    config = drawn.get_run_info("p").config
    assert (config.score_threshold, config.status, config.segmented) == (threshold, "complete", TARGETS)
    assert drawn.bounds("p.detections.score")[0] >= threshold
    assert drawn.count("p.detections") == config.instances


def test_a_segmentation_that_another_process_starts_ends_the_one_of_this(nts_fo, drawn, targets, memory):
    first = begin(nts_fo.segmentation_job(targets, memory, "p", use_cache=False))
    code = (
        f"nts_fo.auto_segment_view(dataset.match_tags('target'), {memory!r}, 'p', score_threshold=0.3, overwrite=True)"
    )
    in_another_process(drawn, code)
    with pytest.raises(nts_fo.errors.RunEnded, match="'p' was started again meanwhile, in another tab or process"):
        nts_fo.run(first)
    drawn.reload()
    assert drawn.get_run_info("p").config.score_threshold == 0.3
    assert drawn.bounds("p.detections.score")[0] >= 0.3


def test_a_dataset_that_another_process_deletes_ends_the_run_in_words(nts_fo, drawn, targets, memory):
    job = begin(nts_fo.segmentation_job(targets, memory, "p", use_cache=False))
    in_another_process(drawn, "dataset.delete()")
    with pytest.raises(nts_fo.errors.RunEnded, match="was deleted meanwhile"):
        nts_fo.run(job)


@pytest.mark.parametrize("what", ["predictions", "ground truth", "dataset", "segmented again"])
def test_an_evaluation_ends_in_words_when_what_it_reads_is_gone(nts_fo, drawn, targets, memory, what):
    nts_fo.auto_segment_view(targets, memory, "p")
    job = begin(nts_fo.evaluation_job(targets, "p", "ground_truth"), steps=1)
    if what == "dataset":
        drawn.delete()
    elif what == "segmented again":
        nts_fo.auto_segment_view(targets, memory, "p", score_threshold=0.5, overwrite=True)
    else:
        drawn.delete_sample_field({"predictions": "p", "ground truth": "ground_truth"}[what])
    with pytest.raises(nts_fo.errors.RunEnded, match="deleted|segmented again meanwhile"):
        nts_fo.run(job)
    if what != "dataset":
        for name in nts_fo.runs.list_drafts(drawn, nts_fo.runs.EVALUATION):
            nts_fo.runs.delete_run(drawn, name, nts_fo.runs.EVALUATION)
        assert "nap_p" not in drawn.list_runs()
        assert not [path for path in drawn.get_field_schema(flat=True) if "nap_p" in path]


def test_a_build_ends_in_words_when_its_labels_or_its_name_are_gone(nts_fo, drawn, references):
    job = begin(nts_fo.memory_job(references, "ground_truth", "m"), steps=2)
    nts_fo.build_reference_memory(references.limit(2), "ground_truth", "m")
    kept = nts_fo.load_memory(drawn, "m").shots
    with pytest.raises(nts_fo.InputError, match="the memory 'm' exists already"):
        nts_fo.run(job)
    assert nts_fo.load_memory(drawn, "m").shots == kept
    job = begin(nts_fo.memory_job(references, "ground_truth", "n"), steps=1)
    drawn.delete_sample_field("ground_truth")
    with pytest.raises(nts_fo.errors.RunEnded, match="'ground_truth' was deleted meanwhile"):
        nts_fo.run(job)
    assert drawn.list_runs() == ["m"]


def test_a_field_that_somebody_else_makes_while_models_load_is_not_written(fo, nts_fo, drawn, targets, memory):
    job = begin(nts_fo.segmentation_job(targets, memory, "p"), steps=1)
    drawn.add_sample_field("p", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    with pytest.raises(nts_fo.InputError, match="it is never overwritten"):
        nts_fo.run(job)
    assert "p" not in drawn.list_runs()
    assert not drawn.has_field("p_error")


def test_threads_of_one_process_can_read_one_memory(nts_fo, drawn, memory):
    expected = nts_fo.load_memory(drawn, memory).shots
    with ThreadPoolExecutor(8) as pool:
        shots = list(pool.map(lambda _: nts_fo.load_memory(drawn, memory).shots, range(64)))
    assert shots == [expected] * 64


def test_deleting_a_training_in_a_clone_keeps_the_checkpoints_of_the_original(nts_fo, drawn, tmp_path):
    from nts.fiftyone_adapter import runs

    (tmp_path / "scratch").mkdir()
    draft = {"scratch_folder": str(tmp_path / "scratch"), "dataset_id": str(drawn._doc.id), "status": "interrupted"}
    runs.begin(drawn, "prompt", runs.PROMPT, draft)
    clone = drawn.clone()
    nts_fo.runs.delete_run(clone, "prompt", nts_fo.runs.PROMPT)
    clone.delete()
    assert (tmp_path / "scratch").is_dir()
    nts_fo.runs.delete_run(drawn, "prompt", nts_fo.runs.PROMPT)
    assert not (tmp_path / "scratch").exists()


def test_a_damaged_evaluation_says_so_and_can_be_deleted(nts_fo, drawn, targets, memory):
    nts_fo.auto_segment_view(targets, memory, "p")
    nts_fo.evaluate_nap(targets, "p", "ground_truth")
    drawn.save_run_results("nap_p", drawn.init_run_results("nap_p", other=1), overwrite=True)
    for read in (nts_fo.evaluation_results.open_evaluation, nts_fo.evaluation_results.load_evaluation):
        with pytest.raises(nts_fo.InputError, match="the evaluation 'nap_p' is damaged"):
            read(drawn, "nap_p")
    drawn.save_run_results("p", drawn.init_run_results("p", other=1), overwrite=True)
    nts_fo.evaluate_nap(targets, "p", "ground_truth", overwrite=True)
    nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY)
    assert drawn.list_runs() == drawn.list_evaluations() == []


# ---- read-only fields and names --------------------------------------------------------------------------------------


def lock(dataset, path: str, read_only: bool = True) -> None:
    field = dataset.get_field(path)
    field.read_only = read_only
    field.save()


@pytest.mark.parametrize("path", ["p", "p_error", "p.detections.confidence"])
def test_a_read_only_output_is_refused_before_the_work(nts_fo, drawn, targets, memory, path):
    nts_fo.auto_segment_view(targets, memory, "p", limit=1)
    lock(drawn, path)
    steps = []
    with pytest.raises(nts_fo.InputError, match=f"the field '{path}' is read-only: make it editable first"):
        steps.extend(nts_fo.segmentation_job(targets, memory, "p"))
    assert steps == []


@pytest.mark.parametrize("kind", ["class maps", "heat maps"])
def test_read_only_maps_are_refused_before_the_work(nts_fo, drawn, targets, memory, kind):
    make, constant, key, (field, *_) = KINDS[kind]
    nts_fo.run(getattr(nts_fo, make)(targets.limit(1), memory))
    lock(drawn, field)
    steps = []
    with pytest.raises(nts_fo.InputError, match="is read-only"):
        steps.extend(getattr(nts_fo, make)(targets, memory))
    assert len(steps) <= 1  # heat maps determine their fields once the encoder is loaded
    with pytest.raises(nts_fo.InputError, match="is read-only"):
        nts_fo.runs.delete_run(drawn, key, getattr(nts_fo.runs, constant))
    assert drawn.has_field(field)


@pytest.mark.parametrize("field", ["p", "ground_truth"])
def test_read_only_labels_are_refused_before_they_are_evaluated_or_tagged(nts_fo, drawn, targets, memory, field):
    nts_fo.auto_segment_view(targets, memory, "p")
    lock(drawn, field)
    steps = []
    with pytest.raises(nts_fo.InputError, match=f"'{field}' is read-only"):
        steps.extend(nts_fo.evaluation_job(targets, "p", "ground_truth"))
    assert steps == []
    assert drawn.list_evaluations() == []
    if field == "p":
        with pytest.raises(nts_fo.InputError, match="is read-only"):
            nts_fo.tag_for_review(targets, "p")


@pytest.mark.parametrize("field", ["p", "ground_truth"])
def test_a_deletion_is_whole_or_not_at_all(nts_fo, drawn, targets, memory, field):
    nts_fo.auto_segment_view(targets, memory, "p")
    nts_fo.evaluate_nap(targets, "p", "ground_truth")
    nts_fo.similarity_heatmaps(targets, memory)
    before = sorted(drawn.list_runs()), drawn.list_evaluations(), set(drawn.get_field_schema(flat=True))
    lock(drawn, field)
    runs = nts_fo.runs
    for name, kind in ((memory, runs.MEMORY), ("p", runs.SEGMENTATION), ("nap_p", runs.EVALUATION)):
        with pytest.raises(nts_fo.InputError, match=f"'{field}' is read-only"):
            runs.delete_run(drawn, name, kind)
    assert (sorted(drawn.list_runs()), drawn.list_evaluations(), set(drawn.get_field_schema(flat=True))) == before
    lock(drawn, field, read_only=False)
    nts_fo.runs.delete_run(drawn, memory, nts_fo.runs.MEMORY)
    assert drawn.list_runs() == drawn.list_evaluations() == []


def test_read_only_counts_of_an_evaluation_are_found_before_it_is_made_again_or_deleted(nts_fo, drawn, targets, memory):
    nts_fo.auto_segment_view(targets, memory, "p")
    nts_fo.auto_segment_view(targets, memory, "q")
    for field in ("p", "q"):
        nts_fo.evaluate_nap(targets, field, "ground_truth")
    before = sorted(drawn.list_runs()), drawn.list_evaluations(), set(drawn.get_field_schema(flat=True))
    lock(drawn, "nap_q_tp")
    steps = []
    with pytest.raises(nts_fo.InputError, match="'nap_q_tp' is read-only"):
        steps.extend(nts_fo.evaluation_job(targets, "q", "ground_truth", overwrite=True))
    assert steps == []
    runs = nts_fo.runs
    for name, kind in ((memory, runs.MEMORY), ("q", runs.SEGMENTATION), ("nap_q", runs.EVALUATION)):
        with pytest.raises(nts_fo.InputError, match="'nap_q_tp' is read-only"):
            runs.delete_run(drawn, name, kind)
    assert (sorted(drawn.list_runs()), drawn.list_evaluations(), set(drawn.get_field_schema(flat=True))) == before


def test_a_sample_that_is_deleted_meanwhile_leaves_the_run_complete(nts_fo, drawn, targets, memory):
    job = begin(nts_fo.segmentation_job(targets, memory, "p"))
    drawn.delete_samples([targets.last().id])
    nts_fo.run(job)
    config = drawn.get_run_info("p").config
    assert (config.status, config.segmented) == ("complete", TARGETS - 1)


def test_names_that_are_too_long_for_files_are_refused(nts_fo, drawn, references, targets, memory):
    name = "x" * 101
    for job in (
        nts_fo.memory_job(references, "ground_truth", name),
        nts_fo.segmentation_job(targets, memory, name),
        nts_fo.prompt_training.prompt_job(references, "ground_truth", name),
    ):
        with pytest.raises(nts_fo.InputError, match="it has 101 characters, and at most 100 are allowed"):
            nts_fo.run(job)


@pytest.mark.parametrize("name", ["self", "clean", "get_field", "to_dict", "save", "pk", "frames"])
def test_names_that_break_fiftyones_documents_are_refused(nts_fo, drawn, targets, memory, name):
    with pytest.raises(nts_fo.InputError, match=f"'{name}' cannot be the name of a field: FiftyOne's samples use it"):
        nts_fo.auto_segment_view(targets, memory, name)
    with pytest.raises(nts_fo.InputError, match=f"'{name}' cannot be the name of a field"):
        nts_fo.map_classes(targets, memory, name)


@pytest.mark.parametrize("name", ["label", "mask", "self", "to_polyline", "has_mask", "confidence", "tags"])
def test_evaluations_do_not_take_the_names_of_what_labels_have(nts_fo, drawn, targets, memory, name):
    nts_fo.auto_segment_view(targets, memory, "p")
    with pytest.raises(nts_fo.InputError, match=f"'{name}'"):
        nts_fo.evaluate_nap(targets, "p", "ground_truth", eval_key=name)
    assert drawn.list_evaluations() == []
