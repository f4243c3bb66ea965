"""Views without the stages that depend on a field."""

from __future__ import annotations

import pytest
from drawn_dataset import TARGETS


@pytest.fixture
def stages(nts_fo):
    from nts.fiftyone_adapter import view_stages

    return view_stages


def test_stages_on_a_field_are_left_out(stages, predicted):
    from fiftyone import ViewField as F

    view = predicted.match_tags("target").sort_by("filepath", reverse=True)
    for narrower in (
        view.filter_labels("found", F("confidence") > 2),
        view.exists("found", False),
        view.match(F("found.detections").length() > 1000),
        view.sort_by(F("found.detections").length()),
        view.select_fields("ground_truth"),
        view.exclude_fields("found"),
    ):
        rest = stages.without_stages_on(narrower, "found", "found_error")
        assert rest.values("id") == view.values("id")
        assert rest.has_field("found.detections")


def test_other_stages_stay(stages, predicted):
    view = predicted.match_tags("target").limit(TARGETS - 1)
    for fields in (["found"], ["foun", "ground"]):
        rest = stages.without_stages_on(view, *fields)
        assert rest._serialize(include_uuids=False) == view._serialize(include_uuids=False)
    assert stages.without_stages_on(predicted, "found").values("id") == predicted.values("id")


def test_filtered_labels_are_noticed(stages, predicted):
    from fiftyone import ViewField as F

    assert stages.hides_labels(predicted.filter_labels("found", F("confidence") > 0.5), "found")
    for view in (predicted, predicted.match_tags("target"), predicted.filter_labels("ground_truth", F("label") == "a")):
        assert not stages.hides_labels(view, "found")
