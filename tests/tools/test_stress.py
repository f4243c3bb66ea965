"""Short runs of tools/stress.py: killed processes, and simultaneous starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
from paths import ROOT


@pytest.mark.db
@pytest.mark.parametrize(
    "arguments",
    [["pairs", "--pairs", "4"], ["kill", "--instants", "1", "--jobs", "segment", "evaluate"]],
    ids=lambda arguments: arguments[0],
)
def test_processes_that_are_killed_or_meet_leave_right_results(arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "stress.py", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 failures\n")
