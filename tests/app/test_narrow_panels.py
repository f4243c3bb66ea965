"""All panels in a narrow column: nothing is cut off, and nothing lies over anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from app_page import AppPage, cy
from playwright.sync_api import Locator, expect
from review_steps import FIELD

WIDTH = 420
NAP_TABS = {
    "Summary": "text=AP per class",
    "Curves": "text=precision at 101 recalls",
    "Confidence": "text=The slider starts at the largest F1",
    "Errors": "text=Wrong predictions by type",
    "Shots": "text=One number of references",
    "Compare": "text=Choose another evaluation",
}
"""Tabs of the nAP panel, and words in each."""

# Tables and rows of tabs scroll by themselves.
_PROBLEMS = """panel => {
    const frame = panel.getBoundingClientRect(), problems = [];
    const scrolls = element => element.closest(".MuiTableContainer-root, .MuiTabs-root, .js-plotly-plot");
    const words = element => `${element.tagName} "${element.innerText ?? ""}"`.slice(0, 80);
    const seen = [...panel.querySelectorAll("*")].filter(element => element.getClientRects().length);
    for (const element of seen) {
        const box = element.getBoundingClientRect();
        if ((box.right > frame.right + 1 || box.left < frame.left - 1) && !scrolls(element))
            problems.push(`${words(element)} reaches beyond the panel: ${box.left} to ${box.right}`);
        if (element.matches("p, button, th, [role=tab]") && element.scrollWidth > element.clientWidth + 1)
            problems.push(`${words(element)} is cut off`);
    }
    const controls = seen.filter(element => element.matches("button, [role=combobox], [role=slider], p"));
    for (const [number, one] of controls.entries())
        for (const other of controls.slice(number + 1)) {
            if (one.contains(other) || other.contains(one)) continue;
            const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (wide > 2 && high > 2) problems.push(`${words(one)} lies over ${words(other)}`);
        }
    if (panel.scrollWidth > panel.clientWidth + 1) problems.push(`it scrolls sideways: ${panel.scrollWidth}`);
    return problems;
}"""


def open_beside(app: AppPage, name: str) -> Locator:
    """Open a panel as a tab of the narrow column, whose plus button lies below a label of the App's own."""
    app.page.locator(cy("new-panel-btn")).last.dispatch_event("click")
    app.page.locator(cy(f"new-panel-option-{name}")).dispatch_event("click")
    panel = app.page.locator(cy(f"panel-content-{name}"))
    expect(panel).to_be_visible()
    return panel


def show_tab(panel: Locator, name: str, content: str) -> None:
    """Show a tab of a panel, with a part of its content."""
    panel.get_by_role("tab", name=name, exact=True).click()
    expect(panel.locator(content).first).to_be_visible()


@pytest.fixture
def narrow(open_tab: Callable[..., AppPage]) -> AppPage:
    """A tab whose panels are as narrow: beside the sidebar, the grid takes half."""
    return open_tab(window=(1140, 1000))


def test_panels_fit_a_narrow_column(segmented, narrow: AppPage, tmp_path: Path):
    from nts.fiftyone_adapter import evaluate_nap

    app, problems = narrow, []

    def look(panel: Locator, name: str) -> None:
        """Note what does not fit, and keep a picture of it."""
        assert abs(panel.bounding_box()["width"] - WIDTH) <= 10
        problems.extend(f"{name}: {problem}" for problem in panel.evaluate(_PROBLEMS))
        panel.screenshot(path=tmp_path / f"{name}.png", animations="disabled")

    evaluate_nap(segmented, FIELD, "ground_truth", eval_key="another")
    app.open(segmented.name)
    form = app.open_operator("Evaluate nAP")
    form.choose("Predictions", FIELD)
    form.choose("Ground truth", "ground_truth")
    outcome = form.execute()
    outcome.expect_text("Stored as")
    expect(outcome.panel.locator("table")).to_have_count(2)
    look(outcome.panel, "runs")

    panel = open_beside(app, "memory_panel")
    expect(panel.get_by_role("img").first).to_be_visible()
    look(panel, "memory")
    panel.get_by_role("img").first.click()
    expect(panel).to_contain_text("Chosen: a reference of")
    look(panel, "memory-chosen")
    show_tab(panel, "Similarity of classes", ".js-plotly-plot")
    look(panel, "memory-classes")
    show_tab(panel, "Check references", "table")
    look(panel, "memory-checks")

    panel = open_beside(app, "nap_panel")
    for name, content in NAP_TABS.items():
        show_tab(panel, name, content)
        look(panel, f"nap-{name}")
    panel.get_by_role("combobox").last.click()
    app.page.get_by_role("option").first.click()
    expect(panel.locator("table")).to_be_visible()
    look(panel, "nap-compared")

    panel = open_beside(app, "review_panel")
    expect(panel).to_contain_text("labels shown")
    panel.get_by_role("button", name="Show in grid").click()
    expect(app.page.locator(cy("entry-counts"))).to_contain_text("patch")
    look(panel, "review")
    app.select(0)
    expect(panel.get_by_role("button", name="Accept 1 selected")).to_be_visible()
    look(panel, "review-selected")
    panel.get_by_role("combobox").filter(has_text="Undecided").click()
    app.page.get_by_role("option", name="Wrong outline").click()
    expect(panel).to_contain_text("Nothing to show")
    look(panel, "review-nothing")
    assert problems == []
    panel.evaluate("panel => { panel.querySelector('p').style.minWidth = '600px' }")
    assert panel.evaluate(_PROBLEMS) != [], "the test would see it"
