"""End-to-end story in the App: build a memory, segment the rest, review, update, evaluate, and explore the result.

Every step is checked on the page and in the database. `make screenshots` runs the same story on the dataset of
`make demo`, and saves the pictures for the documentation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_page import JOB_PATIENCE, AppPage, Form, Outcome, cy
from playwright.sync_api import Locator, expect

MEMORY, PREDICTIONS, EVALUATION = "demo", "nts_demo", "nap_nts_demo"
TARGETS = 8


@pytest.fixture
def scenes(fo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator:
    """Dataset of the demo: full size for pictures, otherwise small for a short test."""
    from demo import scenes as demo

    targets = demo.TARGETS
    if request.config.getoption("screenshots") is None:
        targets = TARGETS
        monkeypatch.setattr(demo, "SHOTS", 2)  # probabilities need two
    dataset = demo.load_dataset(tmp_path, targets)
    yield dataset
    dataset.delete()


def test_from_references_to_the_panel(scenes, app: AppPage, picture):
    outcome = build_a_memory(app, scenes, picture)
    outcome = segment_the_rest(app, scenes, outcome, picture)
    review(app, scenes, outcome)
    evaluate(app, scenes, picture)
    explore(app, scenes, picture)
    inspect_the_memory(app, scenes, picture)


def build_a_memory(app: AppPage, dataset, picture) -> Outcome:
    from nts.fiftyone_adapter import load_memory, runs

    references = dataset.load_saved_view("references")
    app.open(dataset.name, "references")
    app.expect_samples(len(references))

    form = app.open_operator("Build reference memory")
    form.tick("Current view")
    form.choose("Label field", "ground_truth")
    form.fill("Memory name", MEMORY)
    form.expect_no_refusal()
    picture("build_reference_memory_form", form.dialog)
    outcome = form.execute()
    shots = references.count_values("ground_truth.detections.label")
    outcome.expect_text(f"The memory {MEMORY} holds {sum(shots.values())} references of {len(shots)} classes")
    assert dict(outcome.table()) == {name: str(count) for name, count in shots.items()}
    picture("build_reference_memory", outcome.panel)

    dataset.reload()
    stored = runs.list_runs(dataset, runs.MEMORY)[MEMORY]
    assert dict(zip(stored["classes"], stored["shots"], strict=True)) == shots
    assert {entry.sample_id for entry in load_memory(dataset, MEMORY).entries} == set(references.values("id"))
    return outcome


def segment_the_rest(app: AppPage, dataset, outcome: Outcome, picture) -> Outcome:
    from nts.fiftyone_adapter import runs

    targets = dataset.load_saved_view("targets")
    expect(app.sidebar_field(PREDICTIONS)).to_have_count(0)
    outcome.button("Segment the rest").click()
    form = Form(app.page, "Auto-segment view")
    app.expect_samples(len(targets))  # those without references
    expect(form.dialog.get_by_role("radio", name=re.compile("^Current view"))).to_be_checked()
    form.expect_no_refusal()
    outcome = form.execute()
    outcome.expect_text(re.compile(rf"[1-9]\d*/{len(targets)} images, .* s each, .* left"))
    picture("auto_segment_view_progress", outcome.panel, moving=True)
    outcome.expect_text(re.compile(rf"{PREDICTIONS}: \d+ instances in {len(targets)} images"))
    steps = [(int(n), int(total)) for text in outcome.texts() for n, total in re.findall(r"(\d+)/(\d+) images", text)]
    assert len(set(steps)) >= 2, outcome.texts()
    assert steps == sorted(steps)
    assert {total for _, total in steps} == {len(targets)}

    dataset.reload()
    found = Counter()
    classes = runs.list_runs(dataset, runs.MEMORY)[MEMORY]["classes"]
    references = set(dataset.load_saved_view("references").values("ground_truth.detections.id", unwind=True))
    for sample in targets:
        for detection in sample[PREDICTIONS].detections:
            assert detection.mask.any()
            assert 0 < detection.confidence <= 1
            assert detection.label in classes
            assert detection.reference_id in references
            found[detection.label] += 1
    assert found
    assert dict(outcome.table()) == {name: str(count) for name, count in found.items()}
    run = runs.list_runs(dataset, runs.SEGMENTATION)[PREDICTIONS]
    assert run["status"] == "complete"
    confident = dataset.load_saved_view(f"{PREDICTIONS} · confident")
    shown = confident.count(f"{PREDICTIONS}.detections")
    assert 0 < shown < found.total()
    assert run["recommendation"]["words"].startswith(f"{shown} of {found.total()} instances have a confidence of")
    assert "Expected precision" in run["recommendation"]["words"]
    outcome.expect_text(run["recommendation"]["words"])
    outcome.expect_text(f"The saved view {PREDICTIONS} · confident shows them.")

    expect(app.sidebar_field(PREDICTIONS)).to_be_visible()
    app.expect_view("FilterLabels")
    app.expect_samples(len(targets))
    app.toggle_field("ground_truth")
    picture("auto_segment_view", app.page, clip={"x": 0, "y": 0, "width": 1600, "height": 700})
    return outcome


def review(app: AppPage, dataset, outcome: Outcome) -> None:
    """Accept what is shown of the most confident, reject one, update, and copy what was accepted."""
    from nts.fiftyone_adapter import load_memory, runs

    shown = runs.list_runs(dataset, runs.SEGMENTATION)[PREDICTIONS]["recommendation"]["instances"]
    outcome.button("Review").click()
    panel = app.page.locator(cy("panel-content-review_panel"))
    expect(panel).to_contain_text(f"{shown} labels shown, expected precision")
    expect(app.page.locator(cy("looker")).first).to_be_visible()  # the grid is beside the panel, not below it
    panel.get_by_role("button", name="Show in grid").click()
    app.expect_patches(shown)
    app.select(0, 1)
    panel.get_by_role("button", name="Accept 2 selected").click()
    app.expect_patches(shown - 2)
    app.select(0)
    panel.get_by_role("button", name="Reject 1 selected").click()
    app.expect_patches(shown - 3)
    before = load_memory(dataset, MEMORY)
    panel.get_by_role("button", name="Update (3 new)").click()
    expect(panel).to_contain_text("Update (0 new)", timeout=JOB_PATIENCE)
    expect(panel.get_by_role("button", name="Undo")).to_be_disabled()  # the panel has heard of the end
    after = load_memory(dataset, MEMORY)
    assert len(after) == len(before) + 2
    assert after.negative_counts["rejected"] == 1
    decisions = [each for each in dataset.values(f"{PREDICTIONS}.detections.decision", unwind=True) if each]
    assert sorted(decisions) == ["accepted", "accepted", "rejected"]

    panel.get_by_role("button", name="Copy accepted to…").click()
    form = Form(app.page, "Copy accepted predictions")
    expect(form.dialog).to_contain_text("2 accepted or corrected labels")
    form.fill("Copy to", "finished")
    form.expect_no_refusal()
    form.submit()
    dataset.reload()
    assert dataset.count("finished.detections") == 2


def evaluate(app: AppPage, dataset, picture) -> None:
    from nts.fiftyone_adapter import evaluate_nap, runs
    from nts.fiftyone_adapter.evaluation_results import load_evaluation

    app.open(dataset.name, "targets")
    app.expect_samples(len(dataset.load_saved_view("targets")))
    form = app.open_operator("Evaluate nAP")
    form.tick("Current view")
    form.choose("Predictions", PREDICTIONS)
    form.choose("Ground truth", "ground_truth")
    outcome = form.execute()
    outcome.expect_text(f"Stored as {EVALUATION}")

    dataset.reload()
    targets = dataset.load_saved_view("targets")
    expected = evaluate_nap(targets, PREDICTIONS, "ground_truth", eval_key="in_python")
    runs.delete_run(dataset, "in_python", runs.EVALUATION)
    assert load_evaluation(dataset, EVALUATION) == {**expected.to_dict(), "eval_key": EVALUATION}
    everything, *classes = expected.table()
    assert everything["masks_ap"] > 10
    assert {row["class"] for row in classes} == set(runs.list_runs(dataset, runs.MEMORY)[MEMORY]["classes"])
    assert outcome.table() == [[_as_shown(value) for value in row.values()] for row in expected.table()]
    picture("evaluate_nap", outcome.panel)


def explore(app: AppPage, dataset, picture) -> None:
    from nts.fiftyone_adapter.evaluation_results import open_evaluation

    evaluation = open_evaluation(dataset, EVALUATION)
    panel = app.open_panel("nap_panel")
    expect(panel).to_contain_text(f"Mask nAP{_percent(evaluation.summary('masks')['ap'])}")
    expect(panel).to_contain_text(f"Box nAP{_percent(evaluation.summary('boxes')['ap'])}")
    rows = panel.locator("tbody tr")
    expect(rows).to_have_count(1 + len(evaluation.classes))
    expect(panel.locator(".js-plotly-plot .bars .point").last).to_be_visible()  # of the best class
    picture("nap_panel", app.page)

    # Select one class by its row, another by its bar, and query the database for its samples independently.
    with_bar = [name for name in evaluation.classes if (evaluation.summary("masks", name)["ap"] or 0) > 0.05]
    samples = {name: _samples_with(dataset, name) for name in with_bar}
    common, rare = (choose(samples, key=samples.get) for choose in (max, min))
    assert samples[common] > samples[rare]
    rows.filter(has_text=common).click()
    app.expect_samples(samples[common])
    _click_bar(panel, rare)
    app.expect_samples(samples[rare])


def inspect_the_memory(app: AppPage, dataset, picture) -> None:
    from nts.fiftyone_adapter import load_memory

    bank = load_memory(dataset, MEMORY)
    references = {entry.sample_id for entry in bank.entries}
    app.page.locator(cy("panel-tab-runs_panel")).click()
    app.page.locator(cy("panel-content-runs_panel")).locator("tr").filter(has_text="Memory.").click()
    panel = app.page.locator(cy("panel-content-memory_panel"))
    expect(panel).to_contain_text(f"{len(bank)} references of {len(bank.classes)} classes")
    expect(panel).not_to_contain_text("No picture")
    expect(panel.get_by_role("img").first).to_be_visible()
    picture("memory_panel", panel)

    # Start from a number of samples that the next click changes: the grid may show a single one already.
    panel.get_by_role("button", name="Show in grid").click()
    app.expect_samples(len(references))
    panel.get_by_role("img").first.click()
    app.expect_samples(1)
    panel.get_by_role("tab", name="Similarity of classes").click()
    expect(panel.locator(".js-plotly-plot .heatmaplayer image")).to_be_visible()
    picture("memory_panel_similarity", panel)


def _samples_with(dataset, name: str) -> int:
    """Number of evaluated targets with an object of a class, labelled or predicted.

    Rejected predictions do not count, nor do images whose accepted predictions became references.
    """
    from nts.fiftyone_adapter.inspecting import reference_samples

    references = reference_samples(dataset, MEMORY)
    targets = (each for each in dataset.load_saved_view("targets").iter_samples() if each.id not in references)
    labels = ([sample[field] for field in ("ground_truth", PREDICTIONS) if sample[field]] for sample in targets)
    return sum(
        any(
            name == each.label and each.get_attribute_value("decision", None) != "rejected"
            for field in fields
            for each in field.detections
        )
        for fields in labels
    )


def _click_bar(panel: Locator, name: str) -> None:
    """Click the bar of a class; bars are drawn in the order of the axis labels."""
    chart = panel.locator(".js-plotly-plot")
    labels = [label.strip() for label in chart.locator(".ytick").all_text_contents()]
    bar = chart.locator(".bars").last.locator(".point path").nth(labels.index(name))
    # Plotly covers its bars with a layer that receives the mouse (hence force) and detects hovering first.
    bar.hover(force=True)
    expect(chart.locator(".hoverlayer .hovertext").first).to_be_visible()
    bar.click(force=True)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _as_shown(value: str | float | None) -> str:
    return f"{value:.1f}" if isinstance(value, float) else value or ""
