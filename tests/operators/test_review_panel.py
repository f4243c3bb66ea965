"""The review panel, event by event, without a browser: its messages to the App, and what it changes."""

from __future__ import annotations

import asyncio
import importlib

import pytest
from app_requests import decide_in_the_app, in_the_app, outcome
from drawn_dataset import CLASSES, PLUGIN
from review_field import FIELD, decisions_of

from panel_driver import Panel


@pytest.fixture
def panel(segmented):
    return Panel(segmented, "review_panel").event("on_load")


def labels_in(grid) -> list[str]:
    return grid.values(f"{FIELD}.id")


def test_opens_at_the_recommended_confidence(segmented, panel):
    recommendation = segmented.get_run_info(FIELD).config.recommendation
    assert panel.state["header"]["field"] == FIELD
    assert panel.state["threshold"] == pytest.approx(recommendation["threshold"], abs=1e-3)
    assert f"{recommendation['instances']} labels shown" in panel.words
    assert f"0 of {recommendation['of']} decided" in panel.words
    assert f"expected precision {recommendation['precision']:.0%}" in panel.words
    assert sum(panel.data["histogram"][0]["y"]) == recommendation["of"]


def test_the_grid_shows_what_is_chosen_in_order(segmented, panel):
    panel.event("on_start")
    assert panel.grid._is_patches
    confidences = panel.grid.values(f"{FIELD}.confidence")
    assert confidences == sorted(confidences, reverse=True)
    assert min(confidences) >= panel.state["threshold"]
    shown = len(confidences)
    panel.choose("threshold", 0.0)
    assert len(panel.grid) == len(decisions_of(segmented)) > shown
    panel.choose("choices.order", "unsure")
    unsure = [abs(value - 0.5) for value in panel.grid.values(f"{FIELD}.confidence")]
    assert unsure == sorted(unsure)
    panel.choose("choices.class", CLASSES[1])
    assert set(panel.grid.values(f"{FIELD}.label")) == {CLASSES[1]}


def test_selected_patches_are_decided_and_leave_the_grid(segmented, panel):
    panel.event("on_start")
    chosen = panel.grid.limit(2)
    ids, count = labels_in(chosen), len(panel.grid)
    panel.select(*chosen.values("id"))
    assert "Accept 2 selected" in panel.words
    panel.event("on_decide", decision="accepted")
    assert {each for each, decision in decisions_of(segmented).items() if decision == "accepted"} == set(ids)
    assert len(panel.grid) == count - 2
    assert not set(ids) & set(labels_in(panel.grid))
    assert "2 of" in panel.words
    assert panel.selected == []
    panel.choose("choices.decision", "accepted")
    assert set(labels_in(panel.grid)) == set(ids)


def test_undo_takes_back_decision_by_decision(segmented, panel):
    panel.event("on_start")
    first, second = labels_in(panel.grid)[:2]
    before = decisions_of(segmented)
    for decision in ("accepted", "rejected"):
        panel.select(panel.grid.first().id)
        panel.event("on_decide", decision=decision)
    assert (decisions_of(segmented)[first], decisions_of(segmented)[second]) == ("accepted", "rejected")
    panel.event("on_undo")
    assert (decisions_of(segmented)[first], decisions_of(segmented)[second]) == ("accepted", None)
    panel.event("on_undo")
    assert decisions_of(segmented) == before
    assert panel.event("on_undo").notices == []


def test_undo_covers_forms_and_outlives_the_panel(segmented, panel):
    panel.event("on_start")
    before = decisions_of(segmented)
    first, second = labels_in(panel.grid)[:2]
    panel.select(panel.grid.first().id)
    panel.event("on_decide", decision="accepted")
    decide_in_the_app(segmented.select_labels(ids=[second], fields=FIELD), predictions_field=FIELD, action="rejected")
    again = Panel(segmented, "review_panel").event("on_load")
    assert "Undo 1 rejected" in again.words
    again.event("on_undo")
    assert again.notices[0] == "1 label as before"
    assert (decisions_of(segmented)[first], decisions_of(segmented)[second]) == ("accepted", None)
    assert "Undo 1 accepted" in again.words
    again.event("on_undo")
    assert decisions_of(segmented) == before


def test_a_decision_made_meanwhile_is_told_and_not_taken_back(segmented, panel):
    panel.event("on_start")
    first, second = labels_in(panel.grid)[:2]
    panel.select(panel.grid.first().id)
    panel.event("on_decide", decision="accepted")
    decide_in_the_app(segmented.select_labels(ids=[second], fields=FIELD), predictions_field=FIELD, action="rejected")
    panel.event("on_undo")
    assert panel.notices[0] == "Another decision was made meanwhile: undo that one first"
    assert (decisions_of(segmented)[first], decisions_of(segmented)[second]) == ("accepted", "rejected")
    assert "Undo 1 rejected" in panel.words


def test_labels_that_were_changed_or_deleted_since_are_counted(segmented, panel):
    panel.event("on_start")
    chosen = panel.grid.limit(3)
    ids = labels_in(chosen)
    panel.select(*chosen.values("id"))
    panel.event("on_decide", decision="accepted")
    segmented.delete_labels(ids=ids[:1], fields=FIELD)
    for sample in segmented.exists(FIELD):
        for label in sample[FIELD].detections:
            if label.id == ids[1]:
                label.label = "another"
        sample.save()
    panel.event("on_undo")
    assert panel.notices[0] == "1 label as before, 1 changed since, which stay as they are, 1 not there any more"
    assert decisions_of(segmented)[ids[1]] == "accepted"
    assert decisions_of(segmented)[ids[2]] is None


def test_the_state_of_the_panel_does_not_grow_with_its_decisions(segmented, panel, monkeypatch):
    history = importlib.import_module(f"{_plugin()}.nts.fiftyone_adapter.runs.history")
    panel.event("on_start")
    panel.choose("threshold", 0.0)
    monkeypatch.setattr(history, "MOST_LABELS", len(panel.grid) - 1)
    panel.event("on_decide", decision="accepted")
    assert panel.notices[0].endswith(" labels accepted, too many to take back")
    assert panel.state["undo"] is None
    assert all(decisions_of(segmented).values())


def test_all_that_is_shown_is_decided_without_a_selection(segmented, panel, monkeypatch):
    panel.event("on_start")
    ids = labels_in(panel.grid)
    assert f"Accept all {len(ids)}" in panel.words
    panel.event("on_decide", decision="rejected")
    rejected = {each for each, decision in decisions_of(segmented).items() if decision == "rejected"}
    assert rejected == set(ids)
    assert panel.grid is None
    assert "Nothing left to show here" in panel.notices


def test_very_many_are_asked_about(segmented, panel, monkeypatch):
    module = importlib.import_module(type(_registered()).__module__)
    monkeypatch.setattr(module, "ASK_ABOVE", 1)
    panel.event("on_start")
    shown = labels_in(panel.grid)
    panel.event("on_decide", decision="accepted")
    assert set(decisions_of(segmented).values()) == {None}
    assert f"Accept {len(shown)} labels at once?" in panel.words
    panel.event("on_cancel")
    assert "at once?" not in panel.words
    panel.event("on_decide", decision="accepted")
    panel.event("on_decide", decision="rejected")
    assert set(decisions_of(segmented).values()) == {None}, "another decision is asked about again"
    panel.event("on_decide", decision="rejected")
    assert {each for each, decision in decisions_of(segmented).items() if decision == "rejected"} == set(shown)
    panel.event("on_undo")
    assert set(decisions_of(segmented).values()) == {None}


def test_what_is_shown_is_decided_even_if_the_grid_shows_something_else(segmented, panel):
    """The panel may be open beside the whole dataset."""
    panel.event("on_decide", decision="accepted")
    accepted = [each for each, decision in decisions_of(segmented).items() if decision == "accepted"]
    assert len(accepted) == segmented.get_run_info(FIELD).config.recommendation["instances"]
    assert len(accepted) < len(decisions_of(segmented))


def test_nothing_is_decided_about_while_the_grid_shows_the_map_or_a_lasso(segmented, panel):
    in_the_app("index_predictions", segmented, predictions_field=FIELD)
    ids = list(decisions_of(segmented))
    for grid in (segmented.to_patches(f"{FIELD}_map"), segmented.match_labels(ids=ids[:2], fields=FIELD)):
        panel.grid = grid
        panel.event("on_decide", decision="accepted")
        assert panel.notices == ["The grid shows something else: select patches in it, or click Show in grid"]
    assert not any(decisions_of(segmented).values())
    panel.grid = segmented.to_patches(f"{FIELD}_map")
    panel.select(ids[0])
    panel.event("on_decide", decision="accepted")
    assert [each for each, decision in decisions_of(segmented).items() if decision] == ids[:1]


def test_an_update_leaves_the_map_before_it_goes(segmented, panel):
    in_the_app("index_predictions", segmented, predictions_field=FIELD)
    panel.event("on_start")
    panel.select(panel.grid.first().id)
    panel.event("on_decide", decision="accepted")
    panel.grid = segmented.to_patches(f"{FIELD}_map")
    panel.event("on_teach")
    assert panel.prompted()["operator_uri"] == f"{PLUGIN}/update_predictions"
    assert panel.grid.has_field(FIELD)
    assert not panel.grid.has_field(f"{FIELD}_map")


def test_a_drawn_label_is_shown_last_by_those_that_teach_most(fo, segmented, panel):
    sample = segmented.match_tags("target").first()
    drawn_label = fo.Detection(label=CLASSES[0], bounding_box=[0.1, 0.1, 0.2, 0.2])
    sample[FIELD].detections.append(drawn_label)
    sample.save()
    others = [each for each in decisions_of(segmented) if each != drawn_label.id]
    decisions = importlib.import_module("nts.fiftyone_adapter.decisions")
    decisions.decide(segmented, FIELD, "rejected", others)
    panel.choose("choices.order", "teach")
    assert labels_in(panel.grid) == [drawn_label.id]


def test_another_class_needs_a_selection(segmented, panel):
    panel.event("on_start")
    panel.event("on_change_class")
    assert panel.notices == ["Select the predictions of another class first"]
    panel.select(panel.grid.first().id)
    panel.event("on_change_class")
    assert panel.prompted()["operator_uri"] == f"{PLUGIN}/decide_predictions"


def test_labels_without_a_class_or_with_odd_confidences_do_not_stop_the_panel(segmented, panel):
    import fiftyone as fo

    sample = segmented.exists(FIELD).first()
    for confidence in (None, 7.0, float("nan")):
        label = fo.Detection(bounding_box=[0.1, 0.1, 0.2, 0.2], confidence=confidence)
        sample[FIELD].detections.append(label)
    sample.save()
    total = len(decisions_of(segmented))
    panel.event("on_start")
    assert f"0 of {total} decided" in panel.words


def _registered():
    import fiftyone.operators as foo

    return foo.get_operator(f"{PLUGIN}/review_panel")


def _plugin() -> str:
    return type(_registered()).__module__.partition(".operators")[0]


def test_update_teaches_and_says_what_changed(segmented, panel):
    panel.event("on_start")
    panel.select(*panel.grid.limit(2).values("id"))
    panel.event("on_decide", decision="accepted")
    assert "Update (2 new)" in panel.words
    panel.event("on_teach")
    prompt = panel.prompted()
    assert (prompt["operator_uri"], prompt["skip_prompt"]) == (f"{PLUGIN}/update_predictions", True)
    in_the_app("update_predictions", segmented, **prompt["params"])
    assert outcome(segmented)["summary"].startswith("2 references and 0 negatives added: ")
    panel.event("on_taught")
    assert "Update (0 new)" in panel.words
    recommended = segmented.get_run_info(FIELD).config.recommendation["threshold"]
    assert panel.state["threshold"] == pytest.approx(recommended, abs=1e-3)
    assert [*decisions_of(segmented).values()].count("accepted") == 2


def test_the_grid_is_drawn_anew_after_an_update(segmented, panel):
    def filters():
        return [
            stage._serialize(include_uuid=False)
            for stage in panel.grid._all_stages
            if type(stage).__name__ == "FilterLabels"
        ]

    panel.event("on_start")
    panel.event("on_taught")
    first, count = filters(), len(panel.grid)
    panel.event("on_refresh")
    assert filters() == first
    panel.event("on_taught")
    assert filters() != first, "the App draws a view with the same stages as before"
    assert len(panel.grid) == count


def test_labels_are_read_once_per_event_and_the_memory_once(segmented, panel, monkeypatch):
    teaching = importlib.import_module(f"{_plugin()}.nts.fiftyone_adapter.teaching")
    runs = importlib.import_module(f"{_plugin()}.nts.fiftyone_adapter.runs")
    load, values, calls = runs.load_memory, type(segmented).values, []
    monkeypatch.setattr(runs, "load_memory", lambda *args: calls.append("memory") or load(*args))

    def read(dataset, paths, **options):
        calls.append("labels")
        return values(dataset, paths, **options)

    monkeypatch.setattr(type(segmented), "values", read)
    monkeypatch.setattr(teaching, "_loaded", {})
    panel.select()
    assert sorted(calls) == ["labels", "memory"]
    panel.select()
    assert sorted(calls) == ["labels", "labels", "memory"]


def test_those_that_teach_most_come_in_batches(segmented, panel):
    queue = importlib.import_module("nts.fiftyone_adapter.review_queue")
    first = queue.review_queue(segmented, FIELD)
    panel.choose("choices.order", "teach")
    assert panel.state["threshold"] == 0
    assert labels_in(panel.grid) == first
    assert f"{len(first)} labels shown" in panel.words
    panel.select(*panel.grid.limit(2).values("id"))
    panel.event("on_decide", decision="accepted")
    assert labels_in(panel.grid) == first[2:], "the rest of the batch stays"
    panel.event("on_decide", decision="wrong outline")
    assert {each for each, decision in decisions_of(segmented).items() if decision} == set(first)
    assert "Update (2 new)" in panel.words, "a wrong outline teaches nothing"
    following = labels_in(panel.grid)
    assert len(following) == min(queue.BATCH, len(decisions_of(segmented)) - len(first))
    assert not set(following) & set(first)
    panel.choose("choices.order", "confident")
    assert panel.state["threshold"] > 0
    assert len(panel.grid) != len(following)


def test_batches_of_a_memory_that_is_gone_are_the_most_confident(segmented, panel):
    segmented.delete_run("shapes")  # by FiftyOne, which leaves the predictions
    panel.choose("choices.order", "teach")
    confidences = panel.grid.values(f"{FIELD}.confidence")
    assert confidences == sorted(confidences, reverse=True)
    assert max(confidences) == max(segmented.values(f"{FIELD}.detections.confidence", unwind=True))


def test_without_its_memory_predictions_are_decided_but_teach_nothing(segmented, panel):
    panel.event("on_start")
    segmented.delete_run("shapes")  # by FiftyOne, which leaves the predictions
    panel.select(*panel.grid.limit(2).values("id"))
    words = "The memory shapes was deleted: decisions are stored, but there is nothing to teach."
    assert words in panel.words
    panel.event("on_decide", decision="accepted")
    assert list(decisions_of(segmented).values()).count("accepted") == 2
    assert "Update (0 new)" in panel.words
    panel.event("on_undo")
    assert set(decisions_of(segmented).values()) == {None}


def test_an_update_after_the_memory_was_deleted_says_so(segmented, panel):
    """Another person deletes it while the panel, which does not know yet, offers the update."""
    panel.event("on_start")
    panel.select(*panel.grid.limit(2).values("id"))
    panel.event("on_decide", decision="accepted")
    assert "Update (2 new)" in panel.words
    segmented.delete_run("shapes")
    panel.event("on_teach")
    assert panel.notices == ["The memory shapes was deleted: decisions are stored, but there is nothing to teach."]
    assert "prompt_user_for_operation" not in dict(panel.sent)


def test_a_selection_that_is_gone_is_not_taken_for_all(segmented, panel):
    """The button says 2, but the App has lost the selection."""
    panel.event("on_start")
    panel.select(*panel.grid.limit(2).values("id"))
    assert "Accept 2 selected" in panel.words
    panel.selected = []
    panel.event("on_decide", decision="accepted")
    assert set(decisions_of(segmented).values()) == {None}
    assert panel.notices == ["The selection is gone: select the predictions again"]
    assert "Accept all" in panel.words
    panel.select(*panel.grid.limit(2).values("id"))
    panel.selected = []
    assert "Accept all" in panel.event("on_load").words, "another tab has no selection"


def test_another_choice_selects_nothing(segmented, panel):
    """The App keeps patches selected that it does not show any more."""
    panel.event("on_start")
    panel.select(*panel.grid.limit(2).values("id"))
    panel.choose("choices.decision", "accepted")
    assert panel.selected == []
    assert "Nothing to show" in panel.words


def test_the_state_of_another_dataset_is_left_behind(fo, nts_fo, segmented, panel):
    """Its field has the same name."""
    panel.event("on_start")
    panel.event("on_decide", decision="accepted")
    panel.choose("choices.class", CLASSES[0])
    panel.dataset, panel.grid = segmented.clone(), None
    panel.event("on_change_dataset")
    assert panel.state["choices"]["class"] == "all classes"
    panel.dataset.delete()


def test_the_panel_says_what_is_hidden_and_what_is_left(segmented, panel):
    panel.event("on_start")
    panel.event("on_decide", decision="rejected")
    left = list(decisions_of(segmented).values()).count(None)
    assert f"{left} labels of another class or with less confidence are undecided" in panel.words
    assert "Accept" not in panel.words.replace("Copy accepted", "").replace("Accepted", "")
    panel.event("on_show_all")
    assert len(panel.grid) == left
    panel.event("on_decide", decision="accepted")
    assert f"All {len(decisions_of(segmented))} labels are decided." in panel.words
    panel.choose("choices.decision", "corrected")
    assert "No prediction has this decision and class." in panel.words


@pytest.mark.parametrize(("event", "params"), [("on_decide", {"decision": "accepted"}), ("on_look", {})])
def test_a_field_that_was_deleted_meanwhile_is_told(segmented, panel, event, params):
    runs = importlib.import_module("nts.fiftyone_adapter.runs")
    panel.event("on_start")
    runs.delete_run(segmented, FIELD, runs.SEGMENTATION)
    panel.event(event, **params)
    assert panel.grid is None, "the App cannot show a view of a field that is gone"
    assert f"There is no segmentation {FIELD} any more" in panel.notices
    assert "No predictions yet" in panel.words


def test_a_memory_that_was_deleted_meanwhile_leaves_the_review(segmented, panel):
    """Its predictions go with it."""
    runs = importlib.import_module("nts.fiftyone_adapter.runs")
    runs.delete_run(segmented, "shapes", runs.MEMORY)
    panel.event("on_teach")
    assert f"There is no segmentation {FIELD} any more" in panel.notices


def test_the_map_of_the_field_is_offered(segmented, panel):
    panel.event("on_map")
    prompt = panel.prompted()
    assert prompt["operator_uri"] == f"{PLUGIN}/index_predictions"
    assert prompt["params"] == {"predictions_field": FIELD}


def test_without_predictions_the_panel_says_what_to_do(drawn):
    panel = Panel(drawn, "review_panel").event("on_load")
    assert "No predictions yet" in panel.words
    panel.event("on_segment")
    assert panel.prompted()["operator_uri"] == f"{PLUGIN}/auto_segment_view"


def test_accepted_predictions_are_copied_by_a_form(operator, segmented, panel):
    from app_requests import form

    copying = operator("copy_accepted")
    assert form(copying, segmented)["problem"]["view"]["label"] == "Nothing accepted"
    panel.event("on_start")
    panel.event("on_decide", decision="accepted")
    count = [*decisions_of(segmented).values()].count("accepted")
    shown = form(copying, segmented)
    assert shown["count"]["view"]["label"] == f"{count} accepted or corrected labels"
    said = in_the_app("copy_accepted", segmented, predictions_field=FIELD, to_field="finished")
    assert said[-1][1]["results"]["summary"] == f"**{count} labels** of {FIELD} were copied to finished."
    segmented.reload()
    assert segmented.count("finished.detections") == count


def test_a_copy_made_in_the_app_is_stored_though_the_dataset_is_reloaded(fo, segmented, panel, monkeypatch):
    """Panels look for running jobs all the time, and every request of the App reloads the shared dataset."""
    from app_requests import request
    from fiftyone.operators.executor import execute_or_delegate_operator

    panel.event("on_start")
    panel.select(*panel.grid.limit(2).values("id"))
    panel.event("on_decide", decision="accepted")
    add = type(segmented).add_sample_field

    def reloaded_meanwhile(dataset, *args, **kwargs):
        segmented.reload()
        return add(dataset, *args, **kwargs)

    monkeypatch.setattr(type(segmented), "add_sample_field", reloaded_meanwhile)
    asked = request(segmented, predictions_field=FIELD, to_field="finished")
    asked["spaces"] = {"_cls": "Space", "component_id": "root", "children": []}
    result = asyncio.run(execute_or_delegate_operator(f"{PLUGIN}/copy_accepted", asked))
    result.raise_exceptions()
    segmented.reload()
    assert segmented.count("finished.detections") == 2


# ---- beside an open sample -------------------------------------------------------------------------------------------


@pytest.fixture
def beside(segmented, targets):
    return Panel(segmented, "review_panel", targets.first().id).event("on_load")


def test_labels_selected_in_an_open_sample_are_decided(segmented, targets, beside):
    assert "Select labels in the image" in beside.words
    first, second, *_ = targets.first()[FIELD].detections
    beside.select_labels(FIELD, first.id, second.id)
    assert "2 selected" in beside.words
    beside.event("on_decide", decision="accepted")
    decided = {label: decision for label, decision in decisions_of(segmented).items() if decision}
    assert decided == {first.id: "accepted", second.id: "accepted"}
    calls = [name for name, _ in beside.sent]
    assert "set_view" not in calls, "the grid below stays as it is"
    assert "clear_selected_labels" in calls
    beside.event("on_undo")
    assert not any(decisions_of(segmented).values())


def test_labels_that_were_selected_before_the_panel_was_opened_count(segmented, targets, beside):
    label = targets.first()[FIELD].detections[0]
    beside.selected_labels = [{"label_id": label.id, "sample_id": beside.sample, "field": FIELD}]
    assert "1 selected" in beside.event("on_load").words
    beside.event("on_decide", decision="accepted")
    assert decisions_of(segmented)[label.id] == "accepted"


def test_other_labels_become_references_or_negatives(nts_fo, segmented, targets, beside):
    label = targets.first().ground_truth.detections[0]
    beside.select_labels("ground_truth", label.id)
    assert "Accept" not in beside.words, "it is no prediction"
    beside.event("on_use", use_as="reference")
    prompt = beside.prompted()
    assert (prompt["operator_uri"], prompt["params"]) == (f"{PLUGIN}/add_references", {"use_as": "reference"})
    before = len(nts_fo.load_memory(segmented, "shapes"))
    params = {"view_target": "SELECTED_LABELS", "label_field": "ground_truth", "memory_key": "shapes"}
    labels = beside.selected_labels
    in_the_app("add_references", segmented.view(), selected_labels=labels, **params)
    memory = nts_fo.load_memory(segmented, "shapes")
    assert len(memory) == before + 1
    assert memory.entries[-1].label_id == label.id

    other = targets.first().ground_truth.detections[1]
    labels = beside.select_labels("ground_truth", other.id).selected_labels
    in_the_app("add_references", segmented.view(), selected_labels=labels, use_as="negative", **params)
    assert other.id in {each.label_id for each in nts_fo.load_memory(segmented, "shapes").negatives}


def test_an_outline_is_edited_in_fiftyones_annotation(segmented, panel):
    panel.event("on_start")
    panel.event("on_edit")
    assert panel.notices == ["Select the prediction to edit first"]
    patch = panel.grid.first()
    panel.select(patch.id)
    panel.event("on_edit")
    assert panel.grid.values("id") == [patch.sample_id], "patches cannot be annotated"
    assert "open_sample" not in dict(panel.sent), "the App does not have the sample yet"
    panel.event("on_change_view")
    sent = dict(panel.sent)
    assert sent["open_sample"] == {"id": patch.sample_id, "mode": "annotate"}
    assert [label["label_id"] for label in sent["set_selected_labels"]["labels"]] == [patch[FIELD].id]
    assert "open_sample" not in dict(panel.event("on_change_view").sent), "it is opened once"


def test_a_prediction_that_is_gone_cannot_be_edited(segmented, panel):
    panel.event("on_start")
    panel.select(panel.grid.first().id)
    segmented.set_values(FIELD, [None] * len(segmented))
    panel.event("on_edit")
    assert panel.notices == ["Select the prediction to edit first"]


def test_a_running_update_is_shown_and_its_end_shows_the_new_predictions(segmented, panel, every_step):
    from nts.fiftyone_adapter import running
    from nts.fiftyone_adapter.teaching import teaching_job

    panel.event("on_start")
    panel.select(*panel.grid.limit(2).values("id"))
    panel.event("on_decide", decision="accepted")
    job = running.announced(segmented, "Update predictions", FIELD, teaching_job(segmented, FIELD))
    next(job)
    panel.event("on_look")
    assert f"Update predictions: {FIELD}" in panel.words
    for _ in job:
        pass
    panel.event("on_look")
    assert panel.state["jobs"] == []
    assert "Update (0 new)" in panel.words


def test_nothing_is_left_after_the_last_decision(segmented, panel):
    panel.choose("threshold", 0.0)
    panel.event("on_decide", decision="accepted")
    if panel.state["asking"]:
        panel.event("on_decide", decision="accepted")
    assert "Nothing left to show here" in panel.notices
    total = len(decisions_of(segmented))
    assert f"{total} of {total} decided" in panel.words
    assert panel.grid is None


def test_a_label_that_was_edited_elsewhere_is_not_lost(nts_fo, segmented, panel):
    """The panel shows it as it is; the next update marks it as corrected, and keeps it."""
    panel.event("on_start")
    patch = panel.grid.first()
    sample = segmented[patch.sample_id]
    (label,) = [each for each in sample[FIELD].detections if each.id == patch[FIELD].id]
    label.label = "unicorn"
    sample.save()
    panel.event("on_refresh")
    assert "unicorn" in panel.words
    importlib.import_module("nts.fiftyone_adapter.teaching").teach(segmented, FIELD)
    assert decisions_of(segmented)[label.id] == "corrected"
    assert "unicorn" in nts_fo.load_memory(segmented, "shapes").classes
