"""What goes wrong in a review: a closed tab, a memory or labels that others delete or edit, nothing left, very many."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from app_page import JOB_PATIENCE, AppPage, cy
from playwright.sync_api import expect
from review_steps import FIELD, click, decided, expect_no_error, labels_of, start_review

MANY, MANY_FIELD = "many", "nts_many"


def test_a_closed_tab_loses_nothing_nor_does_an_edit_from_elsewhere(segmented, open_tab: Callable[..., AppPage]):
    app = open_tab()
    panel = start_review(app, segmented)
    shown = int(re.findall(r"(\d+) labels shown", panel.inner_text())[0])
    app.select(0, 1)
    click(panel, "Accept 2 selected")
    expect(panel).to_contain_text(": 2 accepted")
    app.expect_patches(shown - 2)
    app.close()
    assert decided(segmented) == ["accepted"] * 2

    app = open_tab()
    app.open(segmented.name)
    panel = app.page.locator(cy("panel-content-review_panel"))
    expect(panel).to_contain_text(": 2 accepted")
    app.expect_patches(shown - 2)
    expect(panel.get_by_role("button", name=f"Accept all {shown - 2}")).to_be_visible()
    app.select(0)
    click(panel, "Reject 1 selected")
    expect(panel).to_contain_text(": 2 accepted, 1 rejected")
    click(panel, "Undo")
    expect(panel).not_to_contain_text("1 rejected")

    # Another person edits two labels: one undecided, one of the accepted.
    labels = labels_of(segmented)
    of_decision = {label.get_attribute_value("decision", None): label.id for label in labels.values()}
    for sample in segmented.exists(FIELD):
        for label in sample[FIELD].detections:
            if label.id == of_decision[None]:
                label.label = "unicorn"
            if label.id == of_decision["accepted"]:
                label.mask = np.ones_like(label.mask)
        sample.save()
    click(panel, "Update (2 new)")
    expect(panel).to_contain_text("Update (0 new)", timeout=JOB_PATIENCE)
    expect(panel).to_contain_text("2 corrected")
    after = labels_of(segmented)
    assert after[of_decision[None]].label == "unicorn"
    assert after[of_decision["accepted"]].mask.all()
    assert {after[each].decision for each in of_decision.values()} == {"corrected"}
    expect_no_error(app)


def test_decisions_go_on_without_the_memory(segmented, app: AppPage):
    panel = start_review(app, segmented)
    shown = int(re.findall(r"(\d+) labels shown", panel.inner_text())[0])
    app.select(0, 1)
    click(panel, "Accept 2 selected")
    expect(panel.get_by_role("button", name="Update (2 new)")).to_be_enabled()
    app.expect_patches(shown - 2)
    segmented.delete_run("demo")  # by FiftyOne, which leaves the predictions
    click(panel, "Update (2 new)")
    words = "The memory demo was deleted: decisions are stored, but there is nothing to teach."
    expect(panel).to_contain_text(words)
    expect(panel.get_by_role("button", name="Update (0 new)")).to_be_disabled()
    app.select(0)
    click(panel, "Reject 1 selected")
    expect(panel).to_contain_text(": 2 accepted, 1 rejected")
    app.expect_patches(shown - 3)
    assert sorted(decided(segmented)) == ["accepted", "accepted", "rejected"]
    expect_no_error(app)


def test_nothing_is_left_to_review(segmented, app: AppPage):
    total = len(labels_of(segmented))
    panel = start_review(app, segmented)
    click(panel, re.compile("Reject all"))
    expect(panel).to_contain_text("Nothing left here")
    expect(panel.get_by_role("button", name=re.compile("Accept all|Reject all|Wrong outline"))).to_have_count(0)
    app.expect_samples(len(segmented))
    click(panel, "Show all undecided")
    left = total - len(decided(segmented))
    app.expect_patches(left)
    click(panel, f"Accept all {left}")
    if left > 50:
        click(panel, f"Accept {left}")
    expect(panel).to_contain_text(f"Nothing left to reviewAll {total} labels are decided.")
    expect(panel).to_contain_text(f"{total} of {total} decided")
    for name in ("Undo", re.compile(r"Update \([1-9]"), "Copy accepted to…"):
        expect(panel.get_by_role("button", name=name)).to_be_enabled()
    assert len(decided(segmented)) == total
    expect_no_error(app)


@pytest.fixture
def many(fo, tmp_path: Path):
    """Dataset of 100 images with 80 made-up predictions each."""
    from benchmarks.review_panel import reviewable

    dataset = reviewable(MANY, 8000, tmp_path, side=128)
    dataset.persistent = True
    yield dataset
    dataset.delete()


def test_eight_thousand_predictions(many, app: AppPage):
    panel = start_review(app, many)
    expect(panel).to_contain_text("0 of 8000 decided")
    shown = int(re.findall(r"(\d+) labels shown", panel.inner_text())[0])
    app.expect_patches(shown)
    slider = panel.get_by_role("slider")
    slider.focus()
    slider.press("Home")
    expect(panel).to_contain_text("8000 labels shown")
    app.expect_patches(8000)
    app.select(0, 1, 2)
    click(panel, "Accept 3 selected")
    expect(panel).to_contain_text("3 of 8000 decided: 3 accepted")
    app.expect_patches(7997)
    click(panel, "Accept all 7997")
    click(panel, "Accept 7997")
    expect(panel).to_contain_text("Nothing left to review")
    assert decided(many, MANY_FIELD) == ["accepted"] * 8000
    click(panel, "Undo")
    expect(panel).to_contain_text("3 of 8000 decided: 3 accepted")
    app.expect_patches(7997)
    assert len(decided(many, MANY_FIELD)) == 3
    expect_no_error(app)
