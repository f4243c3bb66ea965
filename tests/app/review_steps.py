"""Steps of a review in the App, on the dataset of the demo with the predictions of a memory."""

from __future__ import annotations

import re

from app_page import AppPage, cy
from playwright.sync_api import Locator, expect

FIELD = "nts_demo"


def labels_of(dataset, field: str = FIELD) -> dict:
    """Labels of the field by id."""
    return {label.id: label for label in dataset.exists(field).values(f"{field}.detections", unwind=True)}


def decided(dataset, field: str = FIELD) -> list[str]:
    """Decisions in the field."""
    return [each for each in dataset.values(f"{field}.detections.decision", unwind=True) if each]


def click(panel: Locator, name: str | re.Pattern[str]) -> None:
    panel.get_by_role("button", name=name).click()


def start_review(app: AppPage, dataset) -> Locator:
    """Open the dataset and the panel, show the predictions in the grid, and return the panel."""
    app.open(dataset.name)
    panel = app.open_panel("review_panel")
    click(panel, "Show in grid")
    expect(app.page.locator(cy("entry-counts"))).to_contain_text("patch")
    return panel


def expect_no_error(app: AppPage) -> None:
    """Expect neither an error message nor the page that the App shows when it fails."""
    expect(app.page.locator(".notistack-MuiContent-error, .MuiAlert-standardError")).to_have_count(0)
    expect(app.page.get_by_text(re.compile("Something went wrong|Unexpected error|Application error"))).to_have_count(0)
