"""Training a reference prompt in the App: a few steps, and the curves of the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from app_page import AppPage
from drawn_dataset import training_samples
from playwright.sync_api import expect

SPECIES = (100, 102, 104, 106)
TRAIN = "Train reference prompt"


@pytest.fixture
def labelled(make_dataset: Callable, tmp_path: Path):
    """Twelve scenes of four species, with masks."""
    pairs = [(SPECIES[i % 4], SPECIES[(i + 1) % 4]) for i in range(12)]
    return make_dataset(training_samples(tmp_path, 93, pairs), persistent=True)


def test_a_prompt_is_trained_in_the_app(labelled, app: AppPage):
    from nts.fiftyone_adapter.runs import PROMPT, list_runs

    app.open(labelled.name)
    app.expect_samples(12)
    form = app.open_operator(TRAIN)
    expect(form.dialog).to_contain_text("Only 4 classes to learn from")
    form.fill("Name", "follow")
    form.fill("Steps", "3")
    form.expect_no_refusal()
    outcome = form.execute()
    outcome.expect_text("The reference prompt follow")
    outcome.expect_text("Note")
    expect(outcome.panel.locator(".js-plotly-plot .scatterlayer .trace")).to_have_count(2)
    assert any("Train reference prompt: follow" in text for text in outcome.texts()), "its progress"
    outcome.done()
    labelled.reload()
    assert list_runs(labelled, PROMPT)["follow"]["steps"] == 3
