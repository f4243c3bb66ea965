"""The benchmark of a cluster finds the same by every executor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = pytest.mark.xdist_group("ray")


def test_every_executor_finds_the_same(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks.cluster", "--images", "6", "--workers", "1"]
    subprocess.run([*command, "--out", tmp_path / "numbers.json"], cwd=ROOT, check=True, timeout=300)
    local, ray = json.loads((tmp_path / "numbers.json").read_text())
    assert (local["name"], ray["name"]) == ("local", "Ray, 1 worker")
    assert local["instances"] == ray["instances"] > 0
    assert local["images_per_second"] > 0
