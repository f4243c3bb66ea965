"""The benchmark for GPUs runs on a CPU, tells what is wrong, and keeps what it has measured."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu
from nts.instances import Instances


def test_every_stage_runs_in_small(tmp_path):
    numbers = gpu.run("cpu", minutes=5, small=True, output=tmp_path)
    assert json.loads((tmp_path / "gpu_small.json").read_text()) == numbers
    assert [title for title, _ in gpu.plan()] == list(numbers["stages"])
    assert [stage.get("error") or stage.get("skipped") for stage in numbers["stages"].values()] == [None] * 14
    measured = {title: stage["numbers"] for title, stage in numbers["stages"].items()}
    for title in ("Equality, the small pair", "Equality, released architectures"):
        assert measured[title]["right"]
        assert all(row["instances"] > 0 for row in measured[title]["rows"])
    drawn = measured["Equality, the small pair"]["targets"]
    assert drawn["masks"] > 0
    assert drawn["differing"] == drawn["pixels"] == drawn["overlap_error"] == 0
    for name in ("exact", "fast", "default"):
        assert measured[f"Speed, {name}"]["best"] > 0
    timed = {row["stage"]: row for row in measured["Stages, exact"]["rows"]}
    assert {gpu.DINO, gpu.SAM_ENCODER, gpu.SCORE, gpu.DRAW, gpu.POOL, gpu.OVERLAPS, gpu.MATCH} <= set(timed)
    assert timed[gpu.DRAW]["floor"]["flops"] > 0
    assert all(row["device"] > 0 for row in timed.values())
    runs = [(row["engine"], row["run"]) for row in measured["The road"]["rows"]]
    assert runs == [
        (name, run)
        for name in ("exact", "default")
        for run in ("without a cache", "filling the cache", "from the cache")
    ]
    text = (tmp_path / "gpu_small.md").read_text()
    assert all(f"### {title}" in text for title in numbers["stages"])
    assert (tmp_path / "gpu_small.png").stat().st_size > 0


def found(masks: torch.Tensor) -> list[Instances]:
    n = len(masks)
    columns = {name: torch.ones(n) for name in ("scores", "similarities", "margins", "predicted_iou")}
    indices = {name: torch.arange(n) for name in ("labels", "proposals", "references")}
    return [Instances.of_masks(masks, features=torch.zeros(n, 2), **columns, **indices)]


@pytest.mark.parametrize(("pixels", "right"), [(0, True), (1, False)])
def test_a_pixel_of_a_small_mask_is_told(monkeypatch, pixels, right):
    expected = torch.zeros(2, 9, 40, dtype=torch.bool)
    expected[:, 1:8, 1:30] = True
    changed = expected.clone()
    changed[1, 3, 5 : 5 + pixels] = False
    answers = iter([found(expected), *[found(changed)] * 3])
    monkeypatch.setattr(gpu, "_segmented", lambda engine, images: next(answers))
    monkeypatch.setattr(gpu, "on_cpu", lambda pair: pair)
    bench = SimpleNamespace(engine=lambda preset, pair: None)
    half = SimpleNamespace(encoder=SimpleNamespace(precision="bfloat16"))
    numbers, text = gpu._agreement(bench, SimpleNamespace(), half, {"exact": None}, None, [None])
    assert numbers["right"] == right
    assert ("**NO**" in text) == (not right)
    assert [row["float32"] for row in numbers["rows"]] == [True, False, False]


def test_a_stage_that_fails_is_told_and_the_next_one_runs(tmp_path, monkeypatch, capsys):
    def fail(bench: gpu.Bench, before: dict) -> gpu.Measured:
        raise RuntimeError("an illegal memory access")

    def pass_by(bench: gpu.Bench, before: dict) -> gpu.Measured:
        saved = json.loads((tmp_path / "gpu_small.json").read_text())
        assert "illegal memory access" in saved["stages"]["First"]["error"]
        return {"of": 1}, "Passed."

    def be_late(bench: gpu.Bench, before: dict) -> gpu.Measured:
        bench.deadline = 0
        return {}, "Late."

    monkeypatch.setattr(
        gpu, "plan", lambda: [("First", fail), ("Second", pass_by), ("Third", be_late), ("Fourth", fail)]
    )
    numbers = gpu.run("cpu", small=True, output=tmp_path)
    assert numbers["stages"]["Second"]["numbers"] == {"of": 1}
    assert numbers["stages"]["Fourth"]["skipped"] == "no time was left"
    text = (tmp_path / "gpu_small.md").read_text()
    assert "Failed: First." in text
    assert "RuntimeError: an illegal memory access" in text
    assert "Left out: no time was left." in capsys.readouterr().out
