"""A memory built from clicked points in the App, on a dataset without masks or boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from app_page import AppPage
from drawn_dataset import CLASSES, REFERENCES, drawn_samples
from PIL import Image
from playwright.sync_api import expect

BUILD = "Build reference memory"
DRAWS_THE_MASKS = "Segmenter that draws the masks"


@pytest.fixture
def clicked(make_dataset: Callable, tmp_path: Path):
    """Drawn scenes with three simulated clicks on every object; deleted after the test."""
    import fiftyone as fo

    from nts.datasets.annotations import simulate
    from nts.fiftyone_adapter.labels import detection_mask

    samples = []
    for number, sample in enumerate(drawn_samples(tmp_path)):
        with Image.open(sample.filepath) as image:
            width, height = image.size
        keypoints = []
        for label in sample.ground_truth.detections:
            mask = detection_mask(label, (height, width))
            ys, xs = simulate(mask, "point", np.random.default_rng(number), points=3).nonzero()
            points = [((x + 0.5) / width, (y + 0.5) / height) for x, y in zip(xs, ys, strict=True)]
            keypoints.append(fo.Keypoint(label=label.label, points=points))
        if "reference" in sample.tags:
            samples.append(fo.Sample(sample.filepath, clicks=fo.Keypoints(keypoints=keypoints)))
    return make_dataset(samples, persistent=True)


def test_a_memory_from_points_alone(clicked, app: AppPage):
    from nts.fiftyone_adapter import load_memory
    from nts.fiftyone_adapter.runs import MEMORY, list_runs

    app.open(clicked.name)
    app.expect_samples(REFERENCES)
    form = app.open_operator(BUILD)
    form.choose("Label field", "clicks")
    expect(form.dialog).to_contain_text(f"{REFERENCES} points without a mask")
    form.show_advanced()
    expect(form.dialog).to_contain_text(DRAWS_THE_MASKS)
    form.tick("Use them without masks")
    expect(form.dialog).not_to_contain_text(DRAWS_THE_MASKS)
    form.tick("Have SAM2 draw the masks")
    expect(form.dialog).to_contain_text(DRAWS_THE_MASKS)
    form.fill("Memory name", "birds")
    form.expect_no_refusal()
    outcome = form.execute()
    outcome.expect_text(
        f"The memory birds holds {REFERENCES} references of {len(CLASSES)} classes ({REFERENCES} points)"
    )
    outcome.expect_text(f"SAM2 drew the masks of {REFERENCES} of them")
    assert outcome.table() == [[name, str(REFERENCES // len(CLASSES))] for name in CLASSES]
    outcome.done()

    clicked.reload()
    assert list_runs(clicked, MEMORY)["birds"]["weak_labels"] == "promoted"
    entries = load_memory(clicked, "birds").entries
    assert [(entry.kind, entry.promoted) for entry in entries] == [("point", True)] * REFERENCES
    assert [entry.label_id for entry in entries] == clicked.values("clicks.keypoints.id", unwind=True)

    panel = app.open_panel("memory_panel")
    expect(panel).to_contain_text(f"{REFERENCES} references of {len(CLASSES)} classes")
    expect(panel.get_by_role("img")).to_have_count(REFERENCES)
    panel.get_by_role("img").first.click()
    app.expect_samples(1)
