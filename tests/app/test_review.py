"""Review in the App: predictions as patches beside the panel, decisions, and undo."""

from __future__ import annotations

import re

from app_page import JOB_PATIENCE, AppPage, cy
from playwright.sync_api import expect
from review_steps import FIELD, click, decided, labels_of


def test_predictions_are_reviewed_beside_the_grid(segmented, app: AppPage, picture):
    from nts.fiftyone_adapter import load_memory

    shown = segmented.get_run_info(FIELD).config.recommendation["instances"]
    total = segmented.count(f"{FIELD}.detections")
    app.open(segmented.name)
    panel = app.open_panel("review_panel")
    expect(panel).to_contain_text(f"0 of {total} decided")
    expect(panel).to_contain_text(f"{shown} labels shown, expected precision")
    click(panel, "Show in grid")
    expect(app.page.locator(cy("entry-counts"))).to_contain_text(f"{shown} patches")

    app.select(0, 1)
    click(panel, "Accept 2 selected")
    expect(panel).to_contain_text(f"2 of {total} decided: 2 accepted")
    expect(app.page.locator(cy("entry-counts"))).to_contain_text(f"{shown - 2} patches")
    assert decided(segmented) == ["accepted"] * 2

    app.select(0)
    click(panel, "Reject 1 selected")
    expect(panel).to_contain_text(f"3 of {total} decided: 2 accepted, 1 rejected")
    click(panel, "Undo")
    expect(app.page.get_by_text("1 label as before")).to_be_visible()
    expect(panel).to_contain_text(f"2 of {total} decided: 2 accepted")
    assert decided(segmented) == ["accepted"] * 2
    picture("review_panel", app.page, clip={"x": 0, "y": 0, "width": 1600, "height": 800})

    references = len(load_memory(segmented, "demo").entries)
    click(panel, "Update (2 new)")
    expect(panel).to_contain_text("Update (0 new)", timeout=JOB_PATIENCE)
    expect(panel.get_by_role("button", name="Undo")).to_be_disabled()  # the panel has heard of the end
    assert len(load_memory(segmented, "demo").entries) == references + 2
    assert decided(segmented) == ["accepted"] * 2

    # The grid follows the update by itself.
    shown = int(re.findall(r"(\d+) labels shown", panel.inner_text())[0])
    expect(app.page.locator(cy("entry-counts"))).to_contain_text(f"{shown} patches")
    expect(app.page.locator(cy("looker"))).to_have_count(shown)

    # Patches are not annotated: the sample is opened in their place.
    panel.get_by_role("combobox").filter(has_text="Undecided").click()
    app.page.get_by_role("option", name="Accepted").click()
    expect(app.page.locator(cy("looker"))).to_have_count(2)
    app.select(0)
    click(panel, "Edit outline")
    modal = app.page.locator(cy("modal"))
    expect(modal).to_be_visible()
    expect(app.page.locator(cy("entry-counts"))).to_contain_text("1 sample")
    picture("edit_outline", app.page)


def test_a_label_of_an_open_sample_is_decided(segmented, app: AppPage):
    targets = segmented.load_saved_view("targets")
    sample = targets.first()
    labels = {label.id: label for label in sample[FIELD].detections}
    x, y, width, height = max(labels.values(), key=lambda label: label.confidence).bounding_box
    across, down = x + width / 2, y + height / 2

    app.open(segmented.name, "targets")
    app.expect_samples(len(targets))
    app.toggle_field("ground_truth")
    app.page.locator(cy("looker")).first.click()
    modal = app.page.locator(cy("modal"))
    image = modal.locator(cy("modal-looker-container"))
    expect(image.locator("canvas").first).to_be_visible()
    frame = image.bounding_box()
    side = min(frame["width"], frame["height"])  # the image is a square that fills its frame as far as it can
    left, top = frame["x"] + (frame["width"] - side) / 2, frame["y"] + (frame["height"] - side) / 2
    app.page.mouse.click(left + across * side, top + down * side)
    modal.locator(cy("panel-tab-review_panel")).click()
    panel = modal.locator(cy("panel-content-review_panel"))
    expect(panel).to_contain_text("1 selected")
    click(panel, "Accept")
    expect(app.page.get_by_text("1 label accepted")).to_be_visible()
    expect(panel).to_contain_text("Select labels in the image")
    (accepted,) = [each for each in labels_of(segmented).values() if each.get_attribute_value("decision", None)]
    assert accepted.decision == "accepted"
    x, y, width, height = labels[accepted.id].bounding_box
    assert x <= across <= x + width
    assert y <= down <= y + height
