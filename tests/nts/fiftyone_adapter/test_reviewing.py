"""Review tags for uncertain predictions, their saved view, and consistent class colours."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from drawn_dataset import PLUGIN

REVIEW, LOW_MARGIN, LOW_SCORE = "nts_review", "nts_low_margin", "nts_low_score"


@pytest.fixture(scope="session")
def nts_colours(nts_fo):
    """Module of the colour schemes."""
    from nts.fiftyone_adapter import colours

    return colours


@pytest.fixture
def predictions(fo, make_dataset):
    """Two samples of ten predictions each, with margins and scores from 0 to 0.95, in opposite order."""
    values = np.arange(20) / 20
    samples = [fo.Sample(f"{k}.png", tags=["even" if k % 2 == 0 else "odd"]) for k in range(2)]
    for k, sample in enumerate(samples):
        sample["found"] = fo.Detections(
            detections=[
                fo.Detection(label="a", bounding_box=[0, 0, 1, 1], confidence=float(1 - value), margin=float(value))
                for value in values[k::2]
            ]
        )
    return make_dataset(samples)


def tags(dataset, field: str = "found") -> dict[str, int]:
    return dataset.count_label_tags(label_fields=field)


def test_labels_below_the_thresholds_are_tagged_with_the_reason(nts_fo, predictions):
    report = nts_fo.tag_for_review(predictions, "found", margin_below=0.2, score_below=0.15)
    assert (report.labels, report.tagged, report.reasons) == (20, 6, {LOW_MARGIN: 4, LOW_SCORE: 2})
    assert tags(predictions) == {REVIEW: 6, LOW_MARGIN: 4, LOW_SCORE: 2}
    counted = nts_fo.reviewing.count_for_review(predictions, "found", margin_below=0.2, score_below=0.15)
    assert counted == {LOW_MARGIN: 4, LOW_SCORE: 2, REVIEW: 6}
    for sample in predictions:
        for label in sample.found.detections:
            assert (LOW_MARGIN in label.tags) is (label.margin < 0.2)
            assert (LOW_SCORE in label.tags) is (label.confidence < 0.15)


def test_label_with_two_reasons_is_tagged_once(nts_fo, predictions):
    report = nts_fo.tag_for_review(predictions, "found", margin_below=0.6, score_below=0.6)
    assert (report.tagged, sum(report.reasons.values())) == (20, 23)
    assert tags(predictions)[REVIEW] == 20
    assert all(len(label.tags) == len(set(label.tags)) for s in predictions for label in s.found.detections)


def test_saved_view_shows_the_tagged_labels_smallest_margin_first(nts_fo, predictions):
    report = nts_fo.tag_for_review(predictions, "found", margin_below=0.3)
    view = predictions.load_saved_view(report.view_name)
    assert report.view_name == "review_found"
    assert view.count("found.detections") == 6
    smallest = [min(label.margin for label in sample.found.detections) for sample in view]
    assert smallest == sorted(smallest)
    view.limit(1).untag_labels(REVIEW, label_fields="found")
    assert predictions.load_saved_view("review_found").count("found.detections") == 3


def test_tagging_again_changes_nothing_and_other_thresholds_replace_the_tags(nts_fo, predictions):
    first = nts_fo.tag_for_review(predictions, "found", margin_below=0.2)
    assert nts_fo.tag_for_review(predictions, "found", margin_below=0.2) == first
    assert predictions.list_saved_views() == ["review_found"]
    nts_fo.tag_for_review(predictions, "found", score_below=0.08)
    assert tags(predictions) == {REVIEW: 1, LOW_SCORE: 1}


def test_only_the_view_is_tagged_and_cleared_and_other_tags_stay(nts_fo, predictions):
    predictions.tag_labels("mine", label_fields="found")
    nts_fo.tag_for_review(predictions.match_tags("even"), "found", margin_below=0.2)
    assert tags(predictions) == {"mine": 20, REVIEW: 2, LOW_MARGIN: 2}
    nts_fo.tag_for_review(predictions.match_tags("odd"), "found", margin_below=0.2)
    assert nts_fo.reviewing.clear_review(predictions.match_tags("odd"), "found") == 2
    assert predictions.has_saved_view("review_found")
    assert nts_fo.reviewing.clear_review(predictions, "found") == 2
    assert tags(predictions) == {"mine": 20}
    assert not predictions.has_saved_view("review_found")
    assert nts_fo.reviewing.clear_review(predictions, "found") == 0


def test_saved_view_can_be_tagged_and_cleared_itself(nts_fo, predictions):
    report = nts_fo.tag_for_review(predictions, "found", margin_below=0.3)
    view = predictions.load_saved_view(report.view_name)
    again = nts_fo.tag_for_review(view, "found", margin_below=0.2, score_below=0.9)
    assert (again.labels, again.tagged, again.reasons) == (6, 6, {LOW_MARGIN: 4, LOW_SCORE: 3})
    assert tags(predictions) == {REVIEW: 6, LOW_MARGIN: 4, LOW_SCORE: 3}
    nts_fo.tag_for_review(predictions.load_saved_view("review_found"), "found", margin_below=0.2)
    assert tags(predictions) == {REVIEW: 4, LOW_MARGIN: 4}
    assert predictions.load_saved_view("review_found").count("found.detections") == 4
    assert nts_fo.reviewing.clear_review(predictions.load_saved_view("review_found"), "found") == 4
    assert tags(predictions) == {}
    assert predictions.list_saved_views() == []


def test_view_of_what_has_no_tag_yet_gets_all_reasons(nts_fo, fo, predictions):
    untagged = predictions.filter_labels("found", ~fo.ViewField("tags").contains(REVIEW))
    nts_fo.tag_for_review(untagged, "found", margin_below=0.6, score_below=0.6)
    assert tags(predictions) == {REVIEW: 20, LOW_MARGIN: 12, LOW_SCORE: 11}


def test_tags_of_these_names_set_by_the_user_stay(nts_fo, predictions):
    predictions.tag_labels(["low_score", "low_margin"], label_fields="found")
    nts_fo.tag_for_review(predictions, "found", margin_below=0.2)
    nts_fo.tag_for_review(predictions, "found", score_below=0.18)
    assert nts_fo.reviewing.clear_review(predictions, "found") == 3
    assert tags(predictions) == {"low_score": 20, "low_margin": 20}


def test_labels_whose_tags_are_null_are_tagged_and_cleared_too(nts_fo, predictions):
    predictions.set_values("found.detections.tags", [[None] * 10] * 2)
    assert nts_fo.tag_for_review(predictions, "found", margin_below=0.2).tagged == 4
    assert tags(predictions) == {REVIEW: 4, LOW_MARGIN: 4}
    assert nts_fo.reviewing.clear_review(predictions, "found") == 4


def test_nothing_below_the_threshold_leaves_no_view(nts_fo, predictions):
    nts_fo.tag_for_review(predictions, "found", margin_below=0.2)
    report = nts_fo.tag_for_review(predictions, "found", margin_below=0.0)
    assert (report.tagged, report.view_name) == (0, None)
    assert predictions.list_saved_views() == []


def test_suggested_thresholds_tag_a_tenth(nts_fo, predictions):
    suggested = nts_fo.reviewing.suggest_thresholds(predictions, "found")
    for reason, option in ((LOW_MARGIN, "margin_below"), (LOW_SCORE, "score_below")):
        counted = nts_fo.reviewing.count_for_review(predictions, "found", **{option: suggested[reason]})
        assert counted[reason] in (1, 2)
    assert nts_fo.tag_for_review(predictions, "found").tagged == 2  # one per reason


def test_thresholds_for_very_many_labels_are_suggested_from_some_images(nts_fo, fo, make_dataset, monkeypatch):
    values = np.random.default_rng(5).random((100, 10))
    samples = [fo.Sample(f"{number}.png") for number in range(len(values))]
    for sample, margins in zip(samples, values, strict=True):
        labels = [fo.Detection(label="a", bounding_box=[0, 0, 1, 1], margin=margin) for margin in margins]
        sample["found"] = fo.Detections(detections=labels)
    dataset = make_dataset(samples)
    exact = nts_fo.reviewing.suggest_thresholds(dataset, "found")[LOW_MARGIN]
    take, taken = fo.core.collections.SampleCollection.take, []
    monkeypatch.setattr(
        fo.core.collections.SampleCollection,
        "take",
        lambda view, size, **options: taken.append(size) or take(view, size, **options),
    )
    monkeypatch.setattr("nts.fiftyone_adapter.reviewing._MAX_VALUES", 400)
    suggested = nts_fo.reviewing.suggest_thresholds(dataset, "found")
    assert suggested[LOW_MARGIN] == pytest.approx(exact, abs=0.05)
    assert taken == [40]  # a suggestion may happen to equal the exact one
    assert nts_fo.reviewing.suggest_thresholds(dataset, "found") == suggested
    monkeypatch.setattr("nts.fiftyone_adapter.reviewing._MAX_VALUES", 1)
    assert nts_fo.reviewing.suggest_thresholds(dataset, "found")[LOW_MARGIN] in values


def test_form_counts_once_for_each_choice_while_it_is_open(fo, predictions, monkeypatch):
    import fiftyone.operators as foo
    from fiftyone.operators.executor import ExecutionContext

    operator = foo.get_operator(f"{PLUGIN}/tag_for_review")
    plugin = type(operator).__module__.removesuffix(".operators.tag_for_review")
    reviewing = importlib.import_module(f"{plugin}.nts.fiftyone_adapter.reviewing")
    asked = []
    for name in ("suggest_thresholds", "count_for_review"):
        work = getattr(reviewing, name)
        monkeypatch.setattr(reviewing, name, lambda *a, _w=work, _n=name, **k: asked.append(_n) or _w(*a, **k))
    told = []
    for margin in (None, None, 0.5, 0.5, None):
        params = {"predictions_field": "found", "margin_below": margin}
        request = {"dataset_name": predictions.name, "view": [], "params": params, "prompt_id": "test_form_counts_once"}
        inputs = operator.resolve_input(ExecutionContext(request, operator_uri=operator.uri)).to_json()
        told.append(inputs["type"]["properties"]["counts"]["view"]["label"])
    assert [label.split()[0] for label in told] == ["2", "2", "11", "11", "2"]
    assert asked == ["suggest_thresholds", "count_for_review", "count_for_review"]


def test_labels_without_a_margin_are_told_and_never_tagged_for_it(nts_fo, fo, predictions):
    sample = predictions.first()
    sample.found.detections.append(fo.Detection(label="a", bounding_box=[0, 0, 1, 1], confidence=0.5))
    sample["other"] = fo.Detections(detections=[fo.Detection(label="a", bounding_box=[0, 0, 1, 1], confidence=0.5)])
    sample.save()
    assert nts_fo.tag_for_review(predictions, "found", margin_below=2.0).tagged == 20
    assert nts_fo.reviewing.suggest_thresholds(predictions, "other") == {LOW_MARGIN: None, LOW_SCORE: 0.5}
    with pytest.raises(ValueError, match="no label of 'other' in this view has a margin: auto_segment_view writes it"):
        nts_fo.tag_for_review(predictions, "other", margin_below=0.1)
    assert nts_fo.tag_for_review(predictions, "other", score_below=0.6).tagged == 1


def test_invalid_tagging_is_refused_with_a_reason(nts_fo, fo, make_dataset, predictions):
    label = fo.Detection(label="a", bounding_box=[0, 0, 1, 1])
    bare = make_dataset([fo.Sample("x.png", found=fo.Detections(detections=[label]))])
    with pytest.raises(ValueError, match="no label of 'found' in this view has a margin or a confidence"):
        nts_fo.tag_for_review(bare, "found")
    with pytest.raises(ValueError, match="the predictions field 'nothing' does not exist"):
        nts_fo.tag_for_review(predictions, "nothing", margin_below=0.1)
    predictions.save_view("review_found", predictions.limit(1), description="mine")
    with pytest.raises(ValueError, match="the saved view 'review_found' is one of your own"):
        nts_fo.tag_for_review(predictions, "found", margin_below=0.1)
    assert tags(predictions) == {}
    assert predictions.get_saved_view_info("review_found")["description"] == "mine"
    predictions.delete_saved_view("review_found")
    predictions.save_view("Review found", predictions.limit(1))
    with pytest.raises(ValueError, match="your saved view 'Review found' has the same address as 'review_found' would"):
        nts_fo.tag_for_review(predictions, "found", margin_below=0.1)
    assert tags(predictions) == {}


# ---- colours ---------------------------------------------------------------------------------------------------------


def colours(dataset, field: str) -> dict[str, str]:
    (entry,) = [entry for entry in dataset.app_config.color_scheme.fields if entry["path"] == field]
    return {value["value"]: value["color"] for value in entry["valueColors"]}


def test_class_has_one_colour_in_all_fields_however_many_are_added(nts_colours, dataset):
    nts_colours.set_class_colours(dataset, ["truth"], ["pear", "apple"])
    nts_colours.set_class_colours(dataset, ["found"], ["apple", "plum"])
    nts_colours.set_class_colours(dataset, ["truth", "found"], ["apple", "pear", "plum"])
    dataset.reload()
    assert colours(dataset, "truth") == colours(dataset, "found")
    assert len(set(colours(dataset, "truth").values())) == 3
    assert dataset.app_config.color_scheme.color_by == "value"
    assert nts_colours.label_colours(dataset, "truth", ["apple"]).items() >= colours(dataset, "truth").items()


def test_colours_chosen_by_the_user_are_used_for_our_fields(nts_colours, fo, dataset):
    own = [
        {"path": "truth", "fieldColor": "#111111", "valueColors": [{"value": "apple", "color": "red"}]},
        {"path": "found", "colorByAttribute": "confidence", "valueColors": [{"value": "pear", "color": "blue"}]},
    ]
    dataset.app_config.color_scheme = fo.ColorScheme(color_by="field", opacity=0.2, fields=own)
    dataset.save()
    nts_colours.set_class_colours(dataset, ["truth", "found", "more"], ["apple", "pear"])
    dataset.reload()
    scheme = dataset.app_config.color_scheme
    assert (scheme.color_by, scheme.opacity) == ("field", 0.2)
    assert scheme.fields[1] == own[1]
    assert scheme.fields[0]["fieldColor"] == "#111111"
    assert colours(dataset, "truth")["apple"] == colours(dataset, "more")["apple"] == "red"
    assert colours(dataset, "truth")["pear"] == colours(dataset, "more")["pear"] != "blue"


def test_colours_go_with_their_fields(nts_colours, dataset):
    nts_colours.forget_colours(dataset, ["found"])
    nts_colours.set_class_colours(dataset, ["truth", "found"], ["apple"])
    nts_colours.forget_colours(dataset, ["found"])
    scheme = dataset.app_config.color_scheme
    assert [entry["path"] for entry in scheme.fields] == ["truth"]


def in_the_app(fo, dataset, **values) -> None:
    """Change settings of a dataset in the database, as another process would, unseen by the dataset in memory."""
    stored = fo.core.odm.get_db_conn().datasets
    stored.update_one({"name": dataset.name}, {"$set": {f"app_config.{name}": value for name, value in values.items()}})


def test_concurrent_changes_in_the_app_are_not_lost(nts_colours, fo, dataset):
    nts_colours.set_class_colours(dataset, ["truth"], ["apple"])
    chosen = {"path": "truth", "valueColors": [{"value": "apple", "color": "red"}]}
    in_the_app(
        fo,
        dataset,
        color_scheme={"id": dataset.app_config.color_scheme.id, "opacity": 0.2, "fields": [chosen]},
        grid_media_field="thumbnail",
    )
    assert nts_colours.label_colours(dataset, "truth", ["apple"]) == {"apple": "red"}
    nts_colours.set_class_colours(dataset, ["truth", "found"], ["apple"])
    dataset.reload()
    scheme = dataset.app_config.color_scheme
    assert (scheme.color_by, scheme.opacity, dataset.app_config.grid_media_field) == (None, 0.2, "thumbnail")
    assert colours(dataset, "truth") == colours(dataset, "found") == {"apple": "red"}

    in_the_app(fo, dataset, **{"color_scheme.opacity": 0.3})
    nts_colours.forget_colours(dataset, ["found"])
    dataset.reload()
    assert dataset.app_config.color_scheme.opacity == 0.3
    assert [entry["path"] for entry in dataset.app_config.color_scheme.fields] == ["truth"]


def test_nothing_is_written_where_every_class_has_its_colour(nts_colours, monkeypatch, dataset):
    nts_colours.set_class_colours(dataset, ["truth"], ["apple", "pear"])
    monkeypatch.setattr(nts_colours, "_save", None)
    nts_colours.set_class_colours(dataset, ["truth"], ["pear"])
    nts_colours.forget_colours(dataset, ["found"])


def test_colours_that_only_a_browser_reads_are_replaced_in_pictures_alone(nts_colours, fo, dataset):
    chosen = {"a": "rgba(255,0,0,0.5)", "b": "", "c": "red"}
    values = [{"value": name, "color": colour} for name, colour in chosen.items()]
    dataset.app_config.color_scheme = fo.ColorScheme(fields=[{"path": "truth", "valueColors": values}])
    dataset.save()
    default = nts_colours.label_colours(dataset, "other", ["a", "b", "c"])
    assert nts_colours.label_colours(dataset, "truth", ["a", "b", "c"]) == {**default, "c": "red"}
    nts_colours.set_class_colours(dataset, ["truth"], ["a", "b", "c"])
    assert colours(dataset, "truth") == chosen
