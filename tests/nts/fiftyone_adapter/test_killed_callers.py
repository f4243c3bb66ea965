"""A caller of a cluster that is killed: the next one finds the workers free, and what was labelled done."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest
from drawn_dataset import TARGETS
from paths import ROOT

pytestmark = pytest.mark.xdist_group("ray")

OPTIONS = {"executor": "ray", "actors": 1, "use_cache": False}


def test_the_caller_after_a_killed_one_loses_nothing_and_repeats_nothing(
    nts_fo, cluster, drawn, targets, memory, quick
):
    nts_fo.auto_segment_view(targets, memory, "local", preset=quick)
    # One image is written at once, the second one is not handed to the writer any more.
    program = f"""
        import os, signal, time
        from dataclasses import replace
        import fiftyone as fo
        from nts import fiftyone_adapter as nts_fo
        from nts.fiftyone_adapter import label_writer
        from nts.presets import DEFAULT

        label_writer._WRITE_EVERY, label_writer._PAUSE = 1, 0
        quick = replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=6))
        targets = fo.load_dataset({drawn.name!r}).match_tags("target")
        job = nts_fo.segmentation_job(targets, {memory!r}, "remote", preset=quick, **{OPTIONS})
        for step in job:
            if step.done == 1:
                while len(targets.exists("remote")) < 1:
                    time.sleep(0.02)
                os.kill(os.getpid(), signal.SIGKILL)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    drawn.reload()
    (before,) = targets.exists("remote").values("remote.detections.id")

    # The cluster has one CPU, which a worker of the killed caller would still hold.
    report = nts_fo.auto_segment_view(targets, memory, "remote", preset=quick, **OPTIONS)
    assert (report.resumed, report.segmented, report.failed) == (1, TARGETS - 1, {})
    assert before in targets.values("remote.detections.id")
    names = ("label", "score", "confidence", "bounding_box", "reference_id")
    for name in names:
        assert targets.values(f"remote.detections.{name}") == targets.values(f"local.detections.{name}")
