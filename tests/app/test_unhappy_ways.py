"""Error messages of the App for missing and wrong input and for failures, and the resulting state of the database."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from app_page import AppPage
from drawn_dataset import drawn_samples, truncate

BUILD, SEGMENT, EVALUATE = "Build reference memory", "Auto-segment view", "Evaluate nAP"
PREDICTIONS = "nts_birds"
FIRST_DONE = re.compile(r"[1-9]\d*/\d+ images, ")


@pytest.fixture
def drawn(make_dataset: Callable, tmp_path: Path):
    """Drawn scenes with masks in `ground_truth`, persistent until the test ends."""
    folder = tmp_path / "images"
    folder.mkdir()
    dataset = make_dataset(drawn_samples(folder), persistent=True)
    dataset.save_view("targets", dataset.match_tags("target"))
    return dataset


@pytest.fixture
def with_memory(drawn):
    """The same with a memory `birds`."""
    from nts.fiftyone_adapter import build_reference_memory

    build_reference_memory(drawn.match_tags("reference"), "ground_truth", "birds")
    return drawn


@pytest.fixture
def with_many_targets(with_memory):
    """The same with enough targets to interrupt a run. Their files are new, so none is in the cache."""
    import fiftyone as fo

    sources = with_memory.match_tags("target").values("filepath")
    samples = []
    for k in range(36):
        source = Path(sources[k % len(sources)])
        path = source.with_name(f"more{k}.png")
        path.write_bytes(source.read_bytes() + uuid4().bytes)  # bytes after the end of a PNG are ignored
        samples.append(fo.Sample(path, tags=["target"]))
    with_memory.add_samples(samples)
    return with_memory


def test_without_a_memory_the_form_says_what_to_do_first(drawn, app: AppPage):
    app.open(drawn.name, "targets")
    form = app.open_operator(SEGMENT)
    form.expect_refusal("This dataset has no reference memory yet: run 'Build reference memory' first")
    form.cancel()


def test_without_labels_the_form_says_what_is_needed(make_dataset, drawn, app: AppPage):
    unlabelled = make_dataset(persistent=True)
    unlabelled.add_images(drawn.values("filepath"))
    app.open(unlabelled.name)
    for operator, title in ((BUILD, "No label field"), (EVALUATE, "No predictions")):
        form = app.open_operator(operator)
        form.expect_refusal(title)
        form.expect_refusal("These samples have no labels of type Detections")
        form.cancel()


def test_bad_names_are_refused_while_they_are_typed(with_memory, app: AppPage):
    app.open(with_memory.name)
    form = app.open_operator(BUILD)
    for name, refusal in (
        ("two words", "'two words' cannot be the name of a memory: use letters, digits and underscores"),
        ("birds", "The memory 'birds' exists already: choose another name, or switch on overwrite"),
    ):
        form.fill("Memory name", name)
        form.expect_refusal(refusal)
    form.fill("Memory name", "more_birds")
    form.expect_no_refusal()
    form.cancel()

    form = app.open_operator(SEGMENT)
    form.fill("Output field", "ground_truth")
    form.expect_refusal("was not made by auto_segment_view: it is never overwritten; choose another output field")
    form.cancel()
    with_memory.reload()
    assert with_memory.list_runs() == ["birds"]


def test_a_field_without_confidences_cannot_be_evaluated(drawn, app: AppPage):
    from nts.fiftyone_adapter.runs import EVALUATION, list_drafts, list_runs

    drawn.clone_sample_field("ground_truth", "copied")
    app.open(drawn.name)
    form = app.open_operator(EVALUATE)
    form.choose("Predictions", "copied")
    form.choose("Ground truth", "ground_truth")
    outcome = form.execute()
    outcome.expect_failure(EVALUATE, "predictions need a finite confidence to be evaluated")
    outcome.done()
    drawn.reload()
    assert list_runs(drawn, EVALUATION) == {}
    assert list_drafts(drawn, EVALUATION)["nap_copied"]["status"] == "failed"


def test_a_field_is_not_evaluated_against_itself(drawn, app: AppPage):
    app.open(drawn.name)
    outcome = app.open_operator(EVALUATE).execute()
    outcome.expect_failure(EVALUATE, "The field 'ground_truth' cannot be evaluated against itself")
    outcome.done()
    drawn.reload()
    assert drawn.list_runs() == []


def test_a_damaged_memory_is_named_and_nothing_is_written(with_memory, app: AppPage):
    from nts.fiftyone_adapter.runs import MEMORY, list_runs, results

    run_results = with_memory.load_run_results("birds", cache=False)
    run_results.bank = results(with_memory, "birds", MEMORY)["bank"][:1000]
    with_memory.save_run_results("birds", run_results, overwrite=True, cache=False)
    app.open(with_memory.name, "targets")
    outcome = app.open_operator(SEGMENT).execute()
    outcome.expect_failure(SEGMENT, f"The memory 'birds' of the dataset '{with_memory.name}'")
    outcome.done()
    with_memory.reload()
    assert not with_memory.has_sample_field(PREDICTIONS)
    assert with_memory.list_runs() == list(list_runs(with_memory, MEMORY)) == ["birds"]


def test_an_unreadable_image_does_not_stop_the_others(with_memory, app: AppPage):
    targets = with_memory.match_tags("target")
    broken, *good = targets.values("filepath")
    truncate(broken)
    app.open(with_memory.name, "targets")
    outcome = app.open_operator(SEGMENT).execute()
    outcome.expect_text(f"instances in {len(good)} images")
    outcome.expect_text(f"1 images could not be segmented (see the field {PREDICTIONS}_error)")
    outcome.done()
    with_memory.reload()
    assert targets.exists(PREDICTIONS).values("filepath") == good
    assert targets.exists(f"{PREDICTIONS}_error").values("filepath") == [broken]
    assert "cannot be decoded" in targets.match({"filepath": broken}).first()[f"{PREDICTIONS}_error"]


def test_images_that_go_away_in_the_middle_are_done_by_the_next_run(with_many_targets, app: AppPage, tmp_path: Path):
    targets = with_many_targets.match_tags("target")
    folder = Path(targets.first().filepath).parent
    app.open(with_many_targets.name, "targets")
    app.expect_samples(len(targets))
    outcome = app.open_operator(SEGMENT).execute()
    outcome.expect_text(FIRST_DONE)
    folder.rename(tmp_path / "elsewhere")
    outcome.expect_text(f"could not be segmented (see the field {PREDICTIONS}_error)")
    outcome.done()
    with_many_targets.reload()
    done = set(targets.exists(PREDICTIONS).values("id"))
    assert 1 <= len(done) < len(targets)
    assert set(targets.exists(f"{PREDICTIONS}_error").values("id")) == set(targets.values("id")) - done

    (tmp_path / "elsewhere").rename(folder)
    outcome = app.open_operator(SEGMENT).execute()
    outcome.expect_text(f"{len(done)} images were skipped: already segmented with the same settings")
    outcome.done()
    with_many_targets.reload()
    assert len(targets.exists(PREDICTIONS)) == len(targets)
    assert len(targets.exists(f"{PREDICTIONS}_error")) == 0


def test_a_failure_in_the_middle_is_shown_and_what_was_done_stays(with_many_targets, app: AppPage):
    # Delete the run's record alone, while the plugin would delete its fields too: the run must end with a message.
    targets = with_many_targets.match_tags("target")
    app.open(with_many_targets.name, "targets")
    outcome = app.open_operator(SEGMENT).execute()
    outcome.expect_text(FIRST_DONE)
    with_many_targets.reload()
    with_many_targets.delete_run(PREDICTIONS)
    outcome.expect_failure(SEGMENT, f"'{PREDICTIONS}' was deleted meanwhile")
    outcome.done()
    with_many_targets.reload()
    assert len(targets.exists(PREDICTIONS)) < len(targets)


def test_closing_the_tab_stops_the_run_and_the_next_one_finishes_it(
    with_many_targets, open_tab: Callable[..., AppPage]
):
    from nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

    targets = with_many_targets.match_tags("target")
    app = open_tab()
    app.open(with_many_targets.name, "targets")
    app.open_operator(SEGMENT).execute().expect_text(FIRST_DONE)
    app.close()
    run = wait_until(lambda: _ended(with_many_targets))
    assert run["status"] == "incomplete"
    assert 1 <= run["segmented"] < len(targets)
    assert len(targets.exists(PREDICTIONS)) == run["segmented"]

    app = open_tab()
    app.open(with_many_targets.name, "targets")
    outcome = app.open_operator(SEGMENT).execute()
    outcome.expect_text(f"{run['segmented']} images were skipped: already segmented with the same settings")
    with_many_targets.reload()
    assert len(targets.exists(PREDICTIONS)) == len(targets)
    assert list_runs(with_many_targets, SEGMENTATION)[PREDICTIONS]["status"] == "complete"


def _ended(dataset) -> dict | None:
    """Record of the segmentation, or None while it runs."""
    from nts.fiftyone_adapter.runs import SEGMENTATION, list_runs

    dataset.reload()
    run = list_runs(dataset, SEGMENTATION)[PREDICTIONS]
    return None if run["status"] == "running" else run


def wait_until(look: Callable[[], dict | None], seconds: float = 60) -> dict:
    """Poll `look` until it returns a value."""
    deadline = time.monotonic() + seconds
    while (seen := look()) is None:
        assert time.monotonic() < deadline, "the run goes on though its tab was closed"
        time.sleep(0.1)
    return seen
