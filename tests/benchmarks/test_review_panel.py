"""The benchmark of the Review panel sends every event, and writes their times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from paths import ROOT


def test_every_event_is_timed(tmp_path: Path):
    options = ["--predictions", "60", "--rounds", "1", "--output", tmp_path]
    subprocess.run([sys.executable, "-m", "benchmarks.review_panel", *options], cwd=ROOT, check=True, timeout=300)
    numbers = json.loads((tmp_path / "review_panel.json").read_text())
    (measured,) = numbers["measured"]
    assert (measured["predictions"], measured["images"]) == (60, 10)
    assert {"Open", "Slider", "Accept 10", "Accept all, confirmed", "Undo of all", "Copy all accepted"} <= set(
        measured["seconds"]
    )
    assert all(seconds > 0 for seconds in measured["seconds"].values())
    report = (tmp_path / "review_panel.md").read_text()
    assert all(f"| {event} |" in report for event in measured["seconds"])
