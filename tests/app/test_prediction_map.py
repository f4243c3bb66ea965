"""The map of predictions, references and negatives in FiftyOne's Embeddings panel."""

from __future__ import annotations

import re

from app_page import AppPage, Form, cy
from playwright.sync_api import expect
from review_steps import FIELD, click, decided, expect_no_error, start_review

MAP = f"{FIELD}_map"


def test_predictions_are_mapped_and_those_in_a_lasso_decided(segmented, app: AppPage, picture):
    panel = start_review(app, segmented)
    click(panel, "Map…")
    Form(app.page, "Map and search predictions").submit()
    segmented.reload()
    points = segmented.count(f"{MAP}.detections")
    app.expect_patches(points)

    embeddings = app.page.locator(cy("panel-content-Embeddings"))
    embeddings.get_by_text(f"{FIELD}_embeddings", exact=True).click()
    expect(embeddings).to_contain_text(f"{points} points")
    embeddings.get_by_text("None", exact=True).click()
    app.page.get_by_text(re.compile(r"(^|\.)role$")).last.click()
    expect(embeddings).to_contain_text("negative")
    picture("prediction_map", app.page)

    embeddings.get_by_text("Select", exact=True).click()
    frame = embeddings.locator("canvas").first.bounding_box()
    corners = [(0.5, 0.1), (0.95, 0.1), (0.95, 0.9), (0.5, 0.9), (0.5, 0.1)]
    (x, y), *others = ((frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in corners)
    app.page.mouse.move(x, y)
    app.page.mouse.down()
    for x, y in others:
        app.page.mouse.move(x, y, steps=5)
    app.page.mouse.up()
    expect(app.page.locator(cy("entry-counts"))).not_to_contain_text(f"{points} patches")
    form = app.open_operator("Accept or reject predictions")
    expect(form.dialog).to_contain_text(re.compile(r"\d+ labels? in view"))
    lassoed = int(re.findall(r"(\d+) labels? in view", form.dialog.inner_text())[0])
    assert 0 < lassoed < segmented.count(f"{FIELD}.detections")
    form.submit()
    app.expect_patches(points)
    assert decided(segmented) == ["accepted"] * lassoed
    expect_no_error(app)
