"""The nAP panel, event by event, without a browser: its messages to the App, and the samples it selects."""

from __future__ import annotations

import json

import pytest
from drawn_dataset import CLASSES, PLUGIN

from panel_driver import Panel


@pytest.fixture
def panel(evaluated):
    return Panel(evaluated, "nap_panel").event("on_load")


def test_opens_on_the_newest_evaluation(nts_fo, evaluated, panel):
    assert panel.state["header"]["run"] == "nap_second"
    summary = nts_fo.evaluation_results.open_evaluation(evaluated, "nap_second").summary("masks")
    assert f'"title": "{100 * summary["ap"]:.1f}"' in panel.words
    assert "2 novel classes" in panel.words
    assert "equal to pycocotools" in panel.words
    assert [row["class"] for row in panel.data["summary"]["table"]] == ["All novel", *CLASSES]
    bars = panel.data["summary"]["bars"]
    assert [trace["name"] for trace in bars] == ["AP50", "AP"]
    assert sorted(bars[1]["y"]) == sorted(CLASSES)


def test_another_evaluation_and_boxes(nts_fo, evaluated, panel):
    panel.event("on_run", value="nap_first")
    masks = panel.data["summary"]["table"]
    panel.choose("header.iou_type", "boxes")
    boxes = panel.data["summary"]["table"]
    ap = nts_fo.evaluation_results.open_evaluation(evaluated, "nap_first").summary("boxes", CLASSES[0])["ap"]
    assert boxes[1]["ap"] == f"{100 * ap:.1f}" != masks[1]["ap"]


@pytest.mark.parametrize("click", ["row", "bar"])
def test_a_class_shows_its_samples_and_labels(evaluated, panel, click):
    if click == "row":
        panel.event("on_table", row=2, column=0, path="summary.table")
    else:
        panel.event("on_class_bar", y=CLASSES[1], x=12.0, trace_idx=0)
    view = panel.shown()
    labels = view.distinct("second.detections.label") + view.distinct("ground_truth.detections.label")
    assert set(labels) == {CLASSES[1]}
    expected = [
        sample.id
        for sample in evaluated
        if any(d.label == CLASSES[1] for d in [*sample.ground_truth.detections, *sample.second.detections])
    ]
    assert view.values("id") == expected
    assert 0 < len(view) < len(evaluated)


def test_a_heading_orders_the_table(panel):
    for expected in (True, False):
        panel.event("on_table", row=-1, column=1, path="summary.table")
        rows = [float(row["ap"]) for row in panel.data["summary"]["table"][1:]]
        assert rows == sorted(rows, reverse=expected)
    panel.event("on_table", row=2, column=1, path="summary.table")
    assert panel.shown().distinct("ground_truth.detections.label") == [panel.data["summary"]["table"][2]["class"]]


def test_curves(panel):
    panel.event("on_tab", value="curves")
    assert panel.data["curves"]["plot"][0]["name"] == "All novel"
    panel.choose("curves.choices.classes", [CLASSES[0]])
    panel.choose("curves.choices.iou", "0.5")
    at_half = panel.data["curves"]["plot"]
    assert [trace["name"] for trace in at_half] == ["All novel", CLASSES[0]]
    panel.choose("curves.choices.iou", "mean")
    mean = panel.data["curves"]["plot"]
    assert all(a >= b for a, b in zip(at_half[1]["y"], mean[1]["y"], strict=True))
    assert at_half[1]["x"][0] == 0.0
    assert at_half[1]["x"][-1] == 1.0


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8])
def test_confidence_moves_precision_and_recall(evaluated, panel, threshold):
    panel.event("on_tab", value="confidence").choose("confidence.choices.threshold", threshold)
    path = "second.detections"
    outcomes, scores = evaluated.values([f"{path}.nap_second", f"{path}.confidence"], unwind=True)
    right = sum(o == "tp" and s >= threshold for o, s in zip(outcomes, scores, strict=True))
    wrong = sum(o == "fp" and s >= threshold for o, s in zip(outcomes, scores, strict=True))
    objects = evaluated.count("ground_truth.detections")
    assert f'"Right ({right})"' in panel.words
    assert f'"Wrong ({wrong})"' in panel.words
    assert f'"Missed ({objects - right})"' in panel.words
    assert f'"title": "{100 * right / (right + wrong):.1f}"' in panel.words
    for outcome, field, count in (("tp", "second", right), ("fp", "second", wrong)):
        panel.event("on_outcome", outcome=outcome)
        assert panel.shown().count(f"{field}.detections") == count
    panel.event("on_outcome", outcome="fn")
    assert panel.shown().count("ground_truth.detections") == objects - right


def test_reliability_is_the_share_of_right_predictions_by_confidence(evaluated, panel):
    panel.event("on_tab", value="confidence")
    path = "second.detections"
    outcomes, scores = evaluated.values([f"{path}.nap_second", f"{path}.confidence"], unwind=True)
    (bars,) = panel.data["confidence"]["reliability"]
    error = 0.0
    for number, (height, (count, confidence)) in enumerate(zip(bars["y"], bars["customdata"], strict=True)):
        here = [(s, o == "tp") for o, s in zip(outcomes, scores, strict=True) if number <= 10 * s < number + 1]
        assert bars["x"][number] == pytest.approx(number / 10 + 0.05)
        assert count == len(here)
        if here:
            assert height == pytest.approx(sum(right for _, right in here) / count)
            assert confidence == pytest.approx(sum(s for s, _ in here) / count)
            error += count / len(scores) * abs(height - confidence)
        else:
            assert height is confidence is None
    assert len(bars["y"]) == 10
    assert f"Reliability: expected calibration error {error:.3f}" in panel.words
    panel.choose("confidence.choices.class", CLASSES[0])
    (bars,) = panel.data["confidence"]["reliability"]
    assert sum(count for count, _ in bars["customdata"]) == evaluated.count_values(f"{path}.label")[CLASSES[0]]


def test_recommended_confidence_is_marked_on_the_curve(nts_fo, evaluated):
    words = "9 of 11 instances have a confidence of at least 0.5."
    for key, recommendation in (("nap_first", None), ("nap_second", {"threshold": 0.5, "words": words})):
        info = evaluated.get_run_info(key)
        info.config.recommendation = recommendation
        evaluated.update_run_config(key, info.config)
    panel = Panel(evaluated, "nap_panel").event("on_load").event("on_tab", value="confidence")
    layout = panel.layout["type"]["properties"]["confidence"]["type"]["properties"]["plot"]["view"]["layout"]
    (label,) = layout["annotations"]
    assert (label["text"], label["x"]) == ("recommended", 0.5)
    assert [line["x0"] for line in layout["shapes"]] == [panel.state["confidence"]["choices"]["threshold"], 0.5]
    assert f"Recommended by the segmentation: {words}" in panel.words
    panel.event("on_run", value="nap_first")
    assert "ecommended" not in panel.words


def test_outcomes_of_boxes_are_not_taken_for_those_of_masks(panel):
    panel.choose("header.iou_type", "boxes").event("on_tab", value="confidence")
    assert "choose masks to see the samples" in panel.words
    panel.event("on_outcome", outcome="tp")
    assert [sent["variant"] for name, sent in panel.sent if name == "notify"] == ["error"]
    assert not [name for name, _ in panel.sent if name == "set_view"]


def test_views_list_no_labels(evaluated, panel):
    panel.event("on_tab", value="confidence").choose("confidence.choices.threshold", 0.5)
    for outcome in ("tp", "fp", "fn"):
        panel.event("on_outcome", outcome=outcome)
        stages = json.dumps([sent["view"] for name, sent in panel.sent if name == "set_view"])
        ids = evaluated.values("ground_truth.detections.id", unwind=True)
        assert not [label_id for label_id in ids if label_id in stages]


def test_missed_where_some_samples_have_no_predictions(evaluated, nts_fo):
    sample = evaluated.first()
    sample["second"] = None
    sample.save()
    nts_fo.evaluate_nap(evaluated, "second", "ground_truth", eval_key="sparse")
    panel = (
        Panel(evaluated, "nap_panel")
        .event("on_load")
        .event("on_tab", value="confidence")
        .choose("confidence.choices.threshold", 0.5)
    )
    panel.event("on_outcome", outcome="fn")
    assert panel.state["header"]["run"] == "sparse"
    missed = [view for view in panel.shown() if view.id == sample.id]
    assert len(missed[0].ground_truth.detections) == len(sample.ground_truth.detections)


def test_a_cell_of_very_many_labels_shows_the_first(panel, monkeypatch):
    from fiftyone.plugins.orgs.nts.reference_segmentation.nts.fiftyone_adapter import evaluation_results

    monkeypatch.setattr(evaluation_results, "MAX_LABELS", 1)
    heat = panel.event("on_tab", value="errors").data["errors"]["confusion"][0]
    found = {name: heat["z"][heat["y"].index(name)][heat["x"].index(name)] or 0 for name in CLASSES}
    name = max(found, key=found.__getitem__)
    assert found[name] > 1
    panel.event("on_confusion_cell", x=name, y=name)
    assert panel.shown().count("second.detections") == panel.shown().count("ground_truth.detections") == 1
    assert "the first 1 of" in json.dumps(panel.sent)


def test_errors_and_confusions_show_their_samples(nts_fo, evaluated, panel):
    panel.event("on_tab", value="errors")
    bars = panel.data["errors"]["kinds"]
    assert len(panel.data["errors"]["oracles"][0]["x"]) == 3
    counts = dict(zip(bars[0]["y"], bars[0]["x"], strict=True))
    assert counts["Wrong class"] > 0
    panel.event("on_error_bar", y="Wrong class", trace_idx=0)
    assert panel.shown().count("second.detections") == counts["Wrong class"]
    assert panel.shown().distinct("second.detections.nap_second_error") == ["wrong class"]

    heat = panel.data["errors"]["confusion"][0]
    seen = 0
    for true, row in zip(heat["y"], heat["z"], strict=True):
        for predicted, count in zip(heat["x"], row, strict=True):
            if count is None:
                continue
            panel.event("on_confusion_cell", x=predicted, y=true)
            objects, predictions = (panel.shown().count(f"{f}.detections") for f in ("ground_truth", "second"))
            assert objects == (0 if true == "(background)" else count)
            assert predictions == (0 if predicted == "(missed)" else count)
            seen += 1
    assert seen > 3


def test_shots_need_two_numbers_of_references(nts_fo, evaluated, panel):
    assert "One number of references so far" in panel.event("on_tab", value="shots").words
    for key, shots in (("nap_first", [1, 1]), ("nap_second", [3, 3])):
        info = evaluated.get_run_info(key)
        info.config.shots = shots
        evaluated.update_run_config(key, info.config)
    panel = Panel(evaluated, "nap_panel").event("on_load").event("on_tab", value="shots")
    single, mean = panel.data["shots"]["plot"]
    assert single["x"] == mean["x"] == [1, 3]
    assert mean["error_y"]["array"] == [0.0, 0.0]
    panel.event("on_shots_point", trace_idx=0, idx=0)
    assert panel.state["header"]["run"] == "nap_first"


def test_two_evaluations_compared(nts_fo, evaluated, panel):
    assert "Choose another evaluation" in panel.event("on_tab", value="compare").words
    assert "Choose another evaluation" not in panel.choose("compare.choices.other", "nap_first").words
    first, second = (
        nts_fo.evaluation_results.open_evaluation(evaluated, f"nap_{name}") for name in ("first", "second")
    )
    difference = 100 * (second.summary("masks")["ap"] - first.summary("masks")["ap"])
    row = panel.data["compare"]["table"][0]
    assert row["figure"] == "AP"
    assert float(row["difference"]) == pytest.approx(difference, abs=0.06)
    low, high = map(float, row["interval"].split(" … "))
    assert low <= float(row["difference"]) <= high
    assert set(panel.data["compare"]["bars"][0]["y"]) == set(CLASSES)


def test_a_comparison_is_made_once_and_with_fewer_draws_of_many_predictions(nts_fo, evaluated, monkeypatch):
    from nts.fiftyone_adapter import evaluation_comparison, evaluation_results

    monkeypatch.setattr(evaluation_comparison, "_MANY_PREDICTIONS", 10)
    first, second = (
        nts_fo.evaluation_results.open_evaluation(evaluated, f"nap_{name}") for name in ("first", "second")
    )
    comparison = nts_fo.evaluation_comparison.compare_evaluations(first, second, "masks")
    assert comparison.figures["ap"].draws == 200
    evaluation_results._opened.cache_clear()
    again = nts_fo.evaluation_results.open_evaluation(evaluated, "nap_second")
    assert again is not second
    assert nts_fo.evaluation_comparison.compare_evaluations(first, again, "masks") is comparison


def test_evaluations_of_other_classes_are_not_compared(nts_fo, evaluated):
    nts_fo.evaluate_nap(evaluated, "second", "ground_truth", eval_key="one_class", classes=CLASSES[:1])
    panel = Panel(evaluated, "nap_panel").event("on_load").event("on_tab", value="compare")
    assert "These two cannot be compared" in panel.choose("compare.choices.other", "nap_first").words


def test_says_what_to_do_where_there_is_nothing(drawn):
    panel = Panel(drawn, "nap_panel").event("on_load")
    assert "No evaluation yet" in panel.words
    assert "build a reference memory" in panel.words
    panel.event("on_next_step")
    assert panel.prompted()["operator_uri"] == f"{PLUGIN}/build_reference_memory"


def test_evaluations_of_an_earlier_version_are_listed(evaluated):
    info = evaluated.get_run_info("nap_second")
    info.config.schema = 1
    evaluated.update_run_config("nap_second", info.config)
    panel = Panel(evaluated, "nap_panel").event("on_load").event("on_run", value="nap_second")
    assert "This evaluation cannot be shown" in panel.words
    assert "evaluate again" in panel.words
    assert "nap_first" in panel.words


def test_says_when_what_came_of_each_object_is_gone(evaluated, panel):
    evaluated.delete_evaluation("nap_second")
    panel.event("on_tab", value="confidence").event("on_outcome", outcome="fp")
    ((_, note),) = [(name, sent) for name, sent in panel.sent if name == "notify"]
    assert note["variant"] == "error"
    assert "evaluate again" in note["message"]


def test_says_when_what_is_shown_was_deleted_elsewhere(nts_fo, evaluated, panel):
    nts_fo.runs.delete_run(evaluated, "nap_second", nts_fo.runs.EVALUATION)
    panel.event("on_tab", value="summary").event("on_class_bar", y=CLASSES[0])
    assert panel.state["header"]["run"] == "nap_first"


@pytest.mark.parametrize("field", ["second", "ground_truth"])
def test_says_when_a_field_was_deleted(evaluated, panel, field):
    evaluated.delete_sample_field(field)
    clicks = (
        ("on_table", {"row": 1, "column": 0}),
        ("on_class_bar", {"y": CLASSES[0]}),
        ("on_outcome", {"outcome": "fn"}),
        ("on_error_bar", {"y": "Wrong class", "trace_idx": 0}),
        ("on_confusion_cell", {"x": CLASSES[0], "y": CLASSES[0]}),
    )
    for click, params in clicks:
        panel.event(click, **params)
        ((_, note),) = [(name, sent) for name, sent in panel.sent if name == "notify"]
        assert f"'{field}' was deleted since this evaluation" in note["message"]


def test_samples_are_those_that_were_evaluated_even_if_their_tags_changed(nts_fo, evaluated):
    chosen = evaluated.take(4, seed=1)
    chosen.tag_samples("chosen")
    nts_fo.evaluate_nap(evaluated.match_tags("chosen"), "second", "ground_truth", eval_key="of_four")
    ids = set(chosen.values("id"))
    evaluated.untag_samples("chosen")
    stored = nts_fo.evaluation_results.open_evaluation(evaluated, "of_four")
    assert set(stored.samples(evaluated).values("id")) == ids
    assert set(stored.samples_with(evaluated, CLASSES).values("id")) <= ids


def test_class_names_that_look_like_numbers_are_names(nts_fo, evaluated):
    names = {CLASSES[0]: "1", CLASSES[1]: "2020-01"}
    for field in ("second", "ground_truth"):
        labels = evaluated.values(f"{field}.detections.label")
        evaluated.set_values(f"{field}.detections.label", [[names[label] for label in of] for of in labels])
    nts_fo.evaluate_nap(evaluated, "second", "ground_truth", eval_key="numbers")
    panel = Panel(evaluated, "nap_panel").event("on_load")
    assert '"type": "category"' in panel.words
    panel.event("on_class_bar", y=1)
    assert panel.shown().distinct("ground_truth.detections.label") == ["1"]
    panel.event("on_tab", value="errors")
    assert panel.words.count('"type": "category"') == 2
    panel.event("on_confusion_cell", x=1, y=1)
    assert panel.shown().distinct("ground_truth.detections.label") == ["1"]


def test_confidences_may_be_scores_beyond_one(nts_fo, evaluated):
    scores = evaluated.values("second.detections.confidence")
    evaluated.set_values("second.detections.confidence", [[10 * score - 5 for score in of] for of in scores])
    nts_fo.evaluate_nap(evaluated, "second", "ground_truth", eval_key="scores")
    panel = Panel(evaluated, "nap_panel").event("on_load").event("on_tab", value="confidence")
    lines = panel.data["confidence"]["plot"][0]["x"]
    assert min(lines) < 0 < 1 < max(lines)
    assert f'"range": [{min(lines)}, {max(lines)}]' in panel.words
    assert "There is no reliability diagram" in panel.words
    assert panel.data["confidence"]["reliability"] == []


def test_a_threshold_stays_where_it_was_put(nts_fo, evaluated, panel):
    best = nts_fo.evaluation_results.open_evaluation(evaluated, "nap_second").best_threshold("masks")
    assert best - 0.001 < panel.state["confidence"]["choices"]["threshold"] <= best
    panel.event("on_tab", value="confidence").choose("confidence.choices.threshold", 0.125).event("on_refresh")
    assert panel.state["confidence"]["choices"]["threshold"] == 0.125
    panel.event("on_run", value="nap_first")
    assert panel.state["confidence"]["choices"]["threshold"] != 0.125


def test_clicks_show_ground_truth_and_predictions_alone(panel):
    panel.event("on_class_bar", y=CLASSES[0])
    ((_, active),) = [(name, sent) for name, sent in panel.sent if name == "set_active_fields"]
    assert active["fields"] == ["ground_truth", "second"]


def test_the_grid_follows_the_slider_after_a_click(panel):
    panel.event("on_tab", value="confidence").choose("confidence.choices.threshold", 0.0)
    assert "set_view" not in [name for name, _ in panel.sent], "nothing was clicked yet"
    panel.event("on_outcome", outcome="fp")
    every = panel.shown().count("second.detections")
    panel.choose("confidence.choices.threshold", 0.6)
    fewer = panel.shown()
    assert 0 < fewer.count("second.detections") < every
    assert fewer.bounds("second.detections.confidence")[0] >= 0.6
    panel.event("on_tab", value="curves").event("on_tab", value="confidence")
    panel.choose("confidence.choices.threshold", 0.5)
    assert "set_view" not in [name for name, _ in panel.sent], "another tab was in front"


def test_a_new_evaluation_is_in_front_when_the_panel_is_opened_again(nts_fo, evaluated, panel):
    panel.event("on_run", value="nap_first").event("on_load")
    assert panel.state["header"]["run"] == "nap_first"
    nts_fo.evaluate_nap(evaluated, "first", "ground_truth", eval_key="nap_third")
    panel.event("on_load")
    assert panel.state["header"]["run"] == "nap_third"
