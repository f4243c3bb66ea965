"""The runs panel, event by event, without a browser: jobs at work, outcomes, and stored runs."""

from __future__ import annotations

import asyncio

import pytest
from app_requests import in_the_app, outcome, request
from drawn_dataset import CLASSES, PLUGIN, TARGETS

from panel_driver import Panel

FIELD = "nts_shapes"
SPACES = {"_cls": "Space", "component_id": "root", "children": []}
"""Layout of panels, which every request of the App has."""


@pytest.fixture
def panel(evaluated):
    return Panel(evaluated, "runs_panel").event("on_load")


def test_runs_are_listed_with_their_status(nts_fo, evaluated, panel):
    sample = evaluated.first()
    sample.first.detections.append(sample.first.detections[0].copy())
    sample.first.detections[-1].confidence = None
    sample.save()
    with pytest.raises(nts_fo.InputError):
        nts_fo.evaluate_nap(evaluated, "first", "ground_truth", eval_key="broken")
    job = nts_fo.evaluation_job(evaluated, "second", "ground_truth", eval_key="going")
    next(job)
    rows = {row["key"]: row for row in panel.event("on_refresh").data["stored"]["table"]}
    assert rows["nap_second"]["status"] == "complete"
    assert rows["going"]["status"] == "running"
    assert rows["broken"]["status"].startswith("failed: a prediction")
    job.close()
    assert "going" not in [row["key"] for row in panel.event("on_refresh").data["stored"]["table"]]

    listed = [row["key"] for row in panel.data["stored"]["table"]]
    panel.event("on_open", row=listed.index("nap_first"))
    ((_, opened),) = [(name, sent) for name, sent in panel.sent if name == "open_panel"]
    assert (opened["name"], opened["state"]) == ("nap_panel", {"header": {"run": "nap_first"}})
    panel.event("on_delete", row=listed.index("broken"))
    assert panel.prompted()["operator_uri"] == f"{PLUGIN}/delete_evaluation"
    assert panel.prompted()["params"] == {"eval_key": "broken"}


def test_heat_maps_are_listed_and_can_be_deleted(evaluated, panel):
    from nts.fiftyone_adapter import runs

    made = {"memory_key": "shapes", "classes": list(CLASSES), "fields": [f"shapes_{name}" for name in CLASSES]}
    runs.store(evaluated, "shapes_similarity", runs.HEATMAPS, made)
    row = panel.event("on_refresh").data["stored"]["table"][0]
    assert row["what"] == f"Set of heat maps. memory shapes: {', '.join(CLASSES)}"
    assert row["status"] == "2 fields"
    buttons = panel.layout["type"]["properties"]["stored"]["type"]["properties"]["table"]["view"]["row_actions"]
    assert [button["tooltip"] for button in buttons] == ["Export …", "Delete …"]
    panel.event("on_delete", row=0)
    assert panel.prompted()["operator_uri"] == f"{PLUGIN}/delete_similarity_heatmaps"
    assert panel.prompted()["params"] == {"heatmaps_key": "shapes_similarity"}


def test_prompts_and_class_maps_are_listed_and_can_be_deleted(evaluated, panel):
    from nts.fiftyone_adapter import runs

    trained = {"classes": ["wren", "owl", "gull"], "encoder": "small", "segmenter": "small"}
    runs.store(evaluated, "birds", runs.PROMPT, {**trained, "status": "complete"})
    runs.store(evaluated, "imported", runs.PROMPT, trained)
    mapped = {"memory_key": "shapes", "reference_prompt": "birds", "status": "incomplete", "segmented": 3, "failed": 1}
    runs.store(evaluated, "maps", runs.CLASS_MAPS, mapped)
    runs.begin(evaluated, "going", runs.PROMPT, {"label_field": "truth", "steps": 40, "status": "running"})
    rows = panel.event("on_refresh").data["stored"]["table"]
    listed = {row["key"]: (row["what"], row["status"]) for row in rows}
    words = "Reference prompt. 3 classes, encoder small, segmenter small"
    assert listed["birds"] == listed["imported"] == (words, "complete")
    assert listed["maps"] == (
        "Set of class maps. memory shapes, reference prompt birds, 3 images, 1 failed",
        "incomplete",
    )
    assert listed["going"] == ("Reference prompt. truth, 40 steps", "running")
    for key, operator, parameter in (
        ("maps", "delete_class_maps", "output_field"),
        ("going", "delete_reference_prompt", "prompt_key"),
    ):
        panel.event("on_delete", row=[row["key"] for row in rows].index(key))
        assert panel.prompted()["operator_uri"] == f"{PLUGIN}/{operator}"
        assert panel.prompted()["params"] == {parameter: key}


def test_says_when_a_run_was_deleted_elsewhere(nts_fo, evaluated, panel):
    listed = [row["key"] for row in panel.data["stored"]["table"]]
    nts_fo.runs.delete_run(evaluated, "nap_second", nts_fo.runs.EVALUATION)
    panel.event("on_delete", row=listed.index("nap_second"))
    assert panel.notices == ["There is no evaluation nap_second any more"]
    assert "nap_second" not in [row["key"] for row in panel.data["stored"]["table"]]


def test_memories_are_exported_and_other_runs_are_not(nts_fo, drawn, references):
    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    panel = Panel(drawn, "runs_panel").event("on_load").event("on_export", row=0)
    assert panel.prompted()["operator_uri"] == f"{PLUGIN}/export_memory"
    assert panel.prompted()["params"] == {"memory_key": "shapes"}


def test_an_empty_dataset_has_the_tools_all_the_same(dataset):
    panel = Panel(dataset, "runs_panel").event("on_load")
    assert "Nothing stored yet" in panel.words
    panel.event("on_tool", operator="import_memory")
    assert panel.prompted()["operator_uri"] == f"{PLUGIN}/import_memory"


def test_an_outcome_leads_on_and_can_be_dismissed(drawn, references):
    in_the_app("build_reference_memory", references, label_field="ground_truth", memory_key="shapes")
    panel = Panel(drawn, "runs_panel").event("on_load")
    assert "Build reference memory: done" in panel.words
    assert panel.data["outcome_of_last"]["table"] == [{"class": name, "references": 2} for name in CLASSES]
    panel.event("on_next_step", step=0)
    assert panel.grid.count() == TARGETS, "the samples without references"
    prompt = panel.prompted()
    assert (prompt["operator_uri"], prompt["params"]) == (f"{PLUGIN}/auto_segment_view", {"memory_key": "shapes"})
    panel.event("on_next_step", step=1)
    ((_, opened),) = [(name, sent) for name, sent in panel.sent if name == "open_panel"]
    assert (opened["name"], opened["state"]) == ("memory_panel", {"header": {"memory": "shapes"}})
    panel.event("on_dismiss")
    assert outcome(drawn) is None
    assert "Build reference memory: done" not in panel.words


def test_the_outcome_of_a_job_between_two_looks_is_shown(drawn, references):
    panel = Panel(drawn, "runs_panel").event("on_load")
    in_the_app("build_reference_memory", references, label_field="ground_truth", memory_key="shapes")
    panel.event("on_look")
    assert "Build reference memory: done" in panel.words
    assert [row["key"] for row in panel.data["stored"]["table"]] == ["shapes"]


def test_a_form_starts_the_operator_and_closes(drawn, references):
    """In the App, a form that waits for its operator covers everything."""
    from fiftyone.operators.executor import execute_or_delegate_operator

    asked = request(references, label_field="ground_truth", memory_key="shapes") | {"spaces": SPACES}

    async def messages() -> list[tuple[str, dict]]:
        result = await execute_or_delegate_operator(f"{PLUGIN}/build_reference_memory", asked)
        return [(message.body.operator_uri, message.body.params) async for message in result.result]

    (opened, panel), (started, params) = asyncio.run(messages())
    assert (opened, panel["name"]) == ("open_panel", "runs_panel")
    assert started == f"{PLUGIN}/build_reference_memory"
    assert drawn.list_runs() == []
    in_the_app("build_reference_memory", references, **params)
    drawn.reload()
    assert drawn.list_runs() == ["shapes"]


def test_a_running_job_is_shown_and_stopped_and_the_next_one_resumes(
    nts_fo, operator, drawn, references, targets, every_step
):
    from nts.fiftyone_adapter import running
    from nts.fiftyone_adapter.errors import JobStopped

    nts_fo.build_reference_memory(references, "ground_truth", "shapes")
    job = running.announced(targets, "Auto-segment view", FIELD, nts_fo.segmentation_job(targets, "shapes"))
    while not next(job).label.startswith("1/"):
        pass
    panel = Panel(drawn, "runs_panel").event("on_load")
    assert f"Auto-segment view: {FIELD}" in panel.words
    (shown,) = panel.state["jobs"]
    assert 0 < shown["fraction"] < 1

    # Another tab is told, and refuses to start the same.
    from app_requests import form

    problem = form(operator("auto_segment_view"), targets)["problem"]
    assert problem["invalid"]
    assert problem["view"]["label"] == f"Auto-segment view is at work on {FIELD}"

    panel.event("on_stop", job=shown["id"])
    assert "stopping after this step" in panel.words
    with pytest.raises(JobStopped, match="stopped after"):
        for _ in job:
            pass
    panel.event("on_look")
    assert panel.state["jobs"] == []
    assert nts_fo.runs.list_runs(drawn, nts_fo.runs.SEGMENTATION)[FIELD]["status"] == "incomplete"
    done = drawn.exists(FIELD).count()
    assert 1 <= done < TARGETS
    assert "problem" not in form(operator("auto_segment_view"), targets)
    assert nts_fo.auto_segment_view(targets, "shapes").resumed == done


def test_a_job_whose_process_is_gone_is_not_shown(drawn):
    import subprocess
    import sys
    from dataclasses import asdict

    from nts.fiftyone_adapter import running
    from nts.fiftyone_adapter.locking import machine_name

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lost = running.RunningJob("1", "Auto-segment view", FIELD, 0.5, "2/4", 0.0, machine_name(), ended.pid)
    elsewhere = running.RunningJob("2", "Auto-segment view", "other", 0.5, "2/4", 1.0, "another machine", ended.pid)
    for job in (lost, elsewhere):
        running._store(drawn).set(f"job:{job.id}", asdict(job))
    assert [job.makes for job in running.running_jobs(drawn)] == ["other"]


def test_a_stopped_job_says_how_far_it_came(nts_fo, drawn, references, targets, every_step):
    import threading
    import time

    from nts.fiftyone_adapter import running

    nts_fo.build_reference_memory(references, "ground_truth", "shapes")

    def stop_the_first() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for job in running.running_jobs(drawn):
                running.request_stop(drawn, job.id)
                return
            time.sleep(0.01)

    stopping = threading.Thread(target=stop_the_first)
    stopping.start()
    told = in_the_app("auto_segment_view", targets, memory_key="shapes")
    stopping.join()
    assert [call for call, _ in told] == ["reload_dataset", "notify"]
    ended = outcome(drawn)
    assert ended["status"] == "stopped"
    assert ended["summary"].startswith("Stopped after")
