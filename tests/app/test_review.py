"""Review in the App: predictions as patches beside the panel, decisions, and undo."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_page import JOB_PATIENCE, AppPage, cy
from playwright.sync_api import Locator, expect

FIELD = "nts_demo"


@pytest.fixture
def segmented(fo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator:
    """Dataset of the demo, segmented: full size for pictures, otherwise small for a short test."""
    from demo import scenes as demo
    from nts.fiftyone_adapter import auto_segment_view, build_reference_memory

    targets = demo.TARGETS
    if request.config.getoption("screenshots") is None:
        targets = 6
        monkeypatch.setattr(demo, "SHOTS", 2)  # probabilities need two
    dataset = demo.load_dataset(tmp_path, targets)
    build_reference_memory(dataset.load_saved_view("references"), "ground_truth", "demo")
    auto_segment_view(dataset.load_saved_view("targets"), "demo")
    yield dataset
    dataset.delete()


def decided(dataset) -> list[str]:
    """Decisions in the field."""
    return [each for each in dataset.values(f"{FIELD}.detections.decision", unwind=True) if each]


def click(panel: Locator, name: str | re.Pattern[str]) -> None:
    panel.get_by_role("button", name=name).click()


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
