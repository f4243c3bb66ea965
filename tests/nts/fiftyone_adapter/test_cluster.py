"""Segmentation of a view by Ray, which is started on this machine: results, failures and resuming as in a local run."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawn_dataset import TARGETS, truncate

pytestmark = pytest.mark.xdist_group("ray")


def found(drawn, field: str) -> list:
    names = ("label", "score", "confidence", "bounding_box", "similarity", "reference_id", "written")
    return [drawn.match_tags("target").values(f"{field}.detections.{name}") for name in names]


def test_a_cluster_finds_what_a_local_run_finds_and_resumes_it(nts_fo, decisions, drawn, targets, memory, quick):
    nts_fo.auto_segment_view(targets, memory, "local", preset=quick)
    decided = targets.values("local.detections.id", unwind=True)[0]
    broken = Path(targets.last().filepath)
    content = broken.read_bytes()
    truncate(str(broken))
    options = {"preset": quick, "executor": "ray", "actors": 1, "use_cache": False}
    report = nts_fo.auto_segment_view(targets, memory, "remote", limit=2, **options)
    assert report.segmented == 2
    report = nts_fo.auto_segment_view(targets, memory, "remote", **options)
    assert (report.resumed, report.segmented) == (2, TARGETS - 3)
    (reason,) = report.failed.values()
    assert str(broken) in reason
    assert ", process " in reason
    broken.write_bytes(content)
    report = nts_fo.auto_segment_view(targets, memory, "remote", **options)
    assert (report.resumed, report.segmented) == (TARGETS - 1, 1)
    assert found(drawn, "remote") == found(drawn, "local")
    assert not any(drawn.values("remote_error"))

    # Decisions of a person are respected there as well.
    decisions.decide(drawn, "local", "accepted", [decided])
    again = nts_fo.auto_segment_view(
        targets, memory, "local", preset=quick, score_threshold=0.01, overwrite=True, executor="ray"
    )
    assert again.kept == 1
    assert again.from_cache == TARGETS
    kept = targets.values("local.detections.id", unwind=True)
    assert decided in kept


def test_ray_that_is_not_installed_is_told_before_anything_is_loaded(nts_fo, targets, memory, monkeypatch):
    monkeypatch.setattr("nts.fiftyone_adapter.cluster.is_installed", lambda: False)
    with pytest.raises(nts_fo.InputError, match=r"pip install 'ray\[data\]'") as error:
        nts_fo.auto_segment_view(targets, memory, executor="ray")
    assert error.value.option == "executor"
