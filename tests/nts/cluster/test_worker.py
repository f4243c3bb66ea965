"""Work of a worker in this process: batches of images, as on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from novel_references import novel_references
from PIL import Image

from nts.building import build_memory
from nts.cluster.worker import Outcome, Setup, Task, Worker
from nts.presets import DEFAULT
from nts.segmenter import Segmenter
from nts.settled import Settled
from synthetic.scenes import target_scenes

QUICK = replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=8))


@pytest.fixture(scope="module")
def setup(small_encoder) -> Setup:
    memory = build_memory(novel_references(3, shots=2), small_encoder, segmenter=None)[0]
    return Setup(memory.to_bytes(), "small", "small", QUICK, device="cpu", use_cache=False)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> list[Task]:
    """Five images, of the second of which an object is settled, a missing file, and a file that is no image."""
    folder, scenes = tmp_path_factory.mktemp("images"), target_scenes(5)
    for number, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / f"{number}.png")
    settled = Settled.of_masks(torch.from_numpy(scenes[1].masks[:1]), torch.ones(1, 3, dtype=torch.bool), (256, 256))
    files: Sequence[str | Path] = ("0.png", "1.png", "gone.png", "2.png", Path(__file__), "3.png", "4.png")
    return [Task(f"task {k}", str(folder / file), settled if k == 1 else None) for k, file in enumerate(files)]


@pytest.fixture(scope="module")
def expected(setup, tasks) -> list[Outcome]:
    """Outcomes of the images one by one."""
    outcomes = list(Worker(setup)(tasks))
    assert [outcome.instances is None for outcome in outcomes] == [False, False, True, False, True, False, False]
    assert all(len(outcome.instances) for outcome in outcomes if outcome.instances is not None)
    return outcomes


def check_same(found: Sequence[Outcome], expected: Sequence[Outcome]) -> None:
    assert [(outcome.key, outcome.reason) for outcome in found] == [(each.key, each.reason) for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.instances is None) == (other.instances is None)
        if one.instances is not None:
            assert torch.equal(one.instances.labels, other.instances.labels)
            assert torch.allclose(one.instances.scores, other.instances.scores, atol=1e-3)
            assert torch.allclose(one.instances.boxes, other.instances.boxes, atol=1)


def test_images_of_a_batch_have_the_results_of_single_ones_and_a_file_fails_alone(setup, tasks, expected, batches):
    check_same(list(Worker(setup)(tasks)), expected)
    assert batches == [2, 2, 1]


def test_every_image_of_a_batch_has_its_own_entry_in_the_cache(setup, tasks, expected, batches, tmp_path, monkeypatch):
    monkeypatch.setenv("NTS_CACHE_DIR", str(tmp_path))
    worker = Worker(replace(setup, use_cache=True))
    check_same(list(worker(tasks[:2])), expected[:2])
    found = list(worker(tasks))
    check_same(found, expected)
    assert [outcome.from_cache for outcome in found] == [True, True, False, False, False, False, False]
    assert batches == [2, 0, 2, 1]


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_an_image_that_the_models_fail_on_does_not_fail_its_neighbours(
    setup, tasks, expected, batches, monkeypatch, error
):
    worker, embed = Worker(setup), Segmenter.embed
    third = worker._cached.fetch_file(tasks[3].path).target.segmenter_input

    def failing(self, pixels, **options):
        if pixels.ndim == 4 or torch.equal(pixels, third):
            raise error("it is too much")
        return embed(self, pixels, **options)

    monkeypatch.setattr(Segmenter, "embed", failing)
    found = list(worker(tasks))
    assert batches
    assert found[3].instances is None
    assert "2.png" in found[3].reason
    assert "it is too much" in found[3].reason
    check_same([*found[:3], *found[4:]], [*expected[:3], *expected[4:]])
