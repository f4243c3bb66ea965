"""The benchmark of the writer runs, and writes what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from paths import ROOT


def test_made_up_results_are_written_to_a_database(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.writer", "--images", "6", "--instances", "20"]
    subprocess.run([*command, "--out", tmp_path / "numbers.json"], cwd=ROOT, check=True, timeout=300)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert (numbers["images"], numbers["instances"]) == (6, 20)
    assert numbers["images per second"] > 0
    # A feature of 320 half-precision numbers and a mask, for each of 120 instances.
    assert 0.08 < numbers["MB of documents"] < 1
