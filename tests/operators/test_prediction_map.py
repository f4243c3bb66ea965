"""The map of predictions in the App: how it is opened, and decisions about its patches."""

from __future__ import annotations

import json

import pytest
from app_requests import decide_in_the_app, form, in_the_app
from review_field import FIELD, decisions_of

MAP = f"{FIELD}_map"


@pytest.fixture
def mapped(operator, segmented):
    operator("index_predictions")(segmented, FIELD)
    return segmented


def test_the_map_is_opened(segmented, targets):
    told = in_the_app("index_predictions", segmented, predictions_field=FIELD)
    said, sent = told[-1][1]["results"]["summary"], {name.rpartition("/")[2]: params for name, params in told}
    assert said.startswith(f"**{targets.count(f'{FIELD}.detections')} predictions**, 4 references and ")
    assert f"Choose **{FIELD}_embeddings** in the Embeddings panel" in said
    assert "Left out" not in said
    assert sent["open_panel"]["name"] == "Embeddings"
    patches, order = sent["set_view"]["view"]
    assert ["field", MAP] in patches["kwargs"]
    assert {("field_or_expr", f"{MAP}.role"), ("reverse", True)} <= {tuple(each) for each in order["kwargs"]}
    assert {entry["path"] for entry in sent["set_color_scheme"]["fields"]} >= {FIELD, MAP}


def test_what_is_not_in_the_map_is_counted(nts_fo, segmented, references):
    bank, gone = nts_fo.load_memory(segmented, "shapes"), references.first().id
    count = sum(each.sample_id == gone for each in (*bank.entries, *bank.negatives))
    segmented.delete_samples([gone])
    said = in_the_app("index_predictions", segmented, predictions_field=FIELD)[-1][1]["results"]["summary"]
    assert f"Left out: {count} references and negatives are of images that are not in this dataset." in said


def test_lassoed_selected_and_opened_patches_are_decided_about(operator, mapped):
    patches = mapped.to_patches(MAP)
    ids = list(decisions_of(mapped))
    reference = next(patch.id for patch in patches if patch[MAP].role == "reference")

    lasso = patches.select([*ids[:2], reference])
    shown = form(operator("decide_predictions"), lasso)
    assert shown["predictions_field"]["default"] == FIELD
    assert shown["count"]["view"]["label"] == "2 labels in view", "a reference is no prediction"
    said = decide_in_the_app(lasso, predictions_field=FIELD, action="accepted")
    assert said == f"**2 labels** of {FIELD} are accepted."

    decide_in_the_app(patches, [ids[2], reference], predictions_field=FIELD, action="rejected")
    opened = [{"label_id": ids[3], "sample_id": patches[ids[3]].sample_id, "field": MAP}]
    decide_in_the_app(patches, labels=opened, predictions_field=FIELD, action="rejected")

    expected = dict.fromkeys(ids) | dict.fromkeys(ids[:2], "accepted") | dict.fromkeys(ids[2:4], "rejected")
    assert decisions_of(mapped) == expected


def test_the_grid_shows_the_new_decisions(mapped):
    import fiftyone as fo
    from bson import json_util

    told = in_the_app("decide_predictions", mapped.to_patches(MAP), predictions_field=FIELD, action="accepted")
    (stages,) = (params["view"] for name, params in told if name.endswith("set_view"))
    grid = fo.DatasetView._build(mapped, json_util.loads(json.dumps(stages)))
    decided = [patch[MAP].decision for patch in grid if patch[MAP].role == "prediction"]
    assert decided == ["accepted"] * len(decisions_of(mapped))


def test_a_lasso_over_samples_decides_about_its_labels_alone(operator, mapped):
    ids = list(decisions_of(mapped))[:2]
    for field in (FIELD, MAP):
        lasso = mapped.match_labels(ids=ids, fields=field)  # as FiftyOne's panel does
        assert form(operator("decide_predictions"), lasso)["count"]["view"]["label"] == "2 labels in view"
        decide_in_the_app(lasso, predictions_field=FIELD, action="accepted")
        assert {each for each, decision in decisions_of(mapped).items() if decision} == set(ids)
