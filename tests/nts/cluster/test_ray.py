"""A real Ray cluster of several nodes on this machine: results, dying nodes, poisoned images, placement on GPUs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from novel_references import novel_references
from PIL import Image

from nts.building import build_memory
from nts.cluster import ray_executor
from nts.cluster.ray_executor import ClusterError, Pool, run_on_ray, segment_on_ray
from nts.cluster.transfer import dumps, loads
from nts.cluster.worker import Outcome, Setup, Task
from nts.memory import MemoryBank
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT
from nts.settled import Settled
from synthetic.scenes import target_scenes

pytestmark = pytest.mark.xdist_group("ray")

IMAGES = 10
QUICK = replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=8))


@pytest.fixture(scope="module")
def memory(small_encoder) -> MemoryBank:
    return build_memory(novel_references(3, shots=2), small_encoder, segmenter=None)[0]


@pytest.fixture(scope="module")
def setup(memory) -> Setup:
    return Setup(memory.to_bytes(), "small", "small", QUICK)


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    for number, scene in enumerate(target_scenes(IMAGES)):
        Image.fromarray(scene.image).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(IMAGES)]


class Poison:
    """Ends every process that reads it."""

    def __reduce__(self):
        return os._exit, (7,)


def run(tasks: list[Task], setup: Setup, **pool) -> dict[str, Outcome]:
    outcomes = list(segment_on_ray(tasks, setup, Pool(**pool)))
    assert sorted(outcome.key for outcome in outcomes) == sorted(task.key for task in tasks)  # each once
    return {outcome.key: outcome for outcome in outcomes}


def test_results_are_those_of_this_process_to_the_digit(cluster, setup, memory, paths, small_encoder, small_segmenter):
    engine = ReferenceSegmenter(memory, small_encoder, small_segmenter, QUICK)
    every_class = torch.ones(1, len(memory.classes), dtype=torch.bool)
    decided = Settled.of_masks(torch.from_numpy(target_scenes(1)[0].masks[:1]), every_class, (256, 256))
    tasks = [Task(path.name, str(path), decided if path.name == "0.png" else None) for path in paths]
    tasks += [Task("address", f"file://{paths[1]}"), Task("missing", "nowhere.png"), Task("text", __file__)]
    found = run(tasks, setup)
    for number, scene in enumerate(target_scenes(IMAGES)):
        expected = engine.match(engine.encode(scene.image), decided if number == 0 else None)
        instances = found[f"{number}.png"].instances
        for name in ("scores", "labels", "boxes", "masks", "references", "compared", "proposals"):
            assert torch.equal(getattr(instances, name), getattr(expected, name)), (number, name)
    assert torch.equal(found["address"].instances.scores, found["1.png"].instances.scores)
    for name, words in (("missing", "does not exist (on "), ("text", "is not an image")):
        assert found[name].instances is None
        assert words in found[name].reason
        assert ", process " in found[name].reason
    assert not found["2.png"].from_cache
    assert run(tasks[2:3], setup)["2.png"].from_cache


def test_an_image_that_kills_its_worker_fails_alone(cluster, setup, paths):
    tasks = [Task(path.name, str(path), Poison() if k == 1 else None) for k, path in enumerate(paths[:6])]
    found = run(tasks, setup)
    assert [name for name, outcome in found.items() if outcome.instances is None] == ["1.png"]
    assert "its worker died every time" in found["1.png"].reason


class ByValue:
    """A setup whose class workers cannot import."""

    def __init__(self, setup) -> None:
        self.setup, self.device = setup, setup.device

    def __reduce__(self):
        from ray import cloudpickle

        return cloudpickle.loads, (cloudpickle.dumps(self.setup),)


def test_tasks_in_flight_when_a_worker_died_are_tried_again_one_by_one(cluster, tmp_path):
    log = tmp_path / "log"

    class Dying:
        device = "cpu"

        def worker(self, threads):
            def work(tasks):
                with log.open("a") as file:
                    file.write("".join(tasks) + "\n")
                if "e" in tasks:
                    os._exit(7)
                return [task.upper() for task in tasks]

            return work

    found = dict(run_on_ray({key: key for key in "abcdefghijkl"}, ByValue(Dying()), Pool(actors=1), block=4))
    assert found == {key: None if key == "e" else key.upper() for key in "abcdefghijkl"}
    tried = log.read_text().split()
    assert {"abc", "def", "ghi", "jkl"} <= set(tried)
    assert [keys for keys in tried if "e" in keys] == ["def", "e", "e"]
    assert [keys for keys in tried if "f" in keys] == ["def", "f"]


@pytest.mark.parametrize(
    ("tasks", "most", "least_blocks", "sizes"),
    [
        (12, 4, 1, [4, 4, 4]),
        (13, 4, 1, [3, 3, 3, 4]),
        (12, 16, 4, [3, 3, 3, 3]),
        (3, 16, 4, [1, 1, 1]),
        (100, 16, 4, [14, 14, 14, 15, 14, 14, 15]),
    ],
)
def test_blocks_of_tasks_are_small_and_even(tasks, most, least_blocks, sizes):
    blocks = list(ray_executor._blocks({str(k): k for k in range(tasks)}, most, least_blocks))
    assert [len(block) for block in blocks] == sizes
    assert [(key, loads(task)) for block in blocks for key, task in block.items()] == [
        (str(k), k) for k in range(tasks)
    ]


def test_a_node_that_is_killed_loses_nothing_and_repeats_nothing(cluster, setup, memory, paths):
    import ray

    lost = cluster.add_node(num_cpus=1)
    tasks = [Task(f"{name}-{path.name}", str(path)) for name in "abcd" for path in paths]
    outcomes, killed = [], False
    for outcome in segment_on_ray(tasks, Setup(memory.to_bytes(), "small", "small", QUICK, use_cache=False)):
        outcomes.append(outcome)
        if not killed:
            assert len([node for node in ray.nodes() if node["Alive"]]) == 3
            cluster.remove_node(lost, allow_graceful=False)
            killed = True
    assert len(outcomes) == len({outcome.key for outcome in outcomes}) == len(tasks)
    assert all(outcome.instances is not None for outcome in outcomes)
    of_image = {outcome.key: outcome.instances.scores for outcome in outcomes}
    for path in paths:
        assert torch.equal(of_image[f"a-{path.name}"], of_image[f"d-{path.name}"])


def test_gpus_that_are_not_there_are_told(cluster, setup, paths):
    with pytest.raises(ClusterError, match="a worker needs 0.5 GPUs, and the cluster has 0"):
        next(segment_on_ray([Task("a", str(paths[0]))], setup, Pool(gpus=0.5)))


def test_models_on_a_gpu_need_a_cluster_with_gpus(cluster, setup, paths):
    with pytest.raises(ClusterError, match="a worker needs a GPU, and the cluster has none"):
        next(segment_on_ray([Task("a", str(paths[0]))], replace(setup, device="cuda")))


def test_numbers_of_workers_out_of_range_are_refused():
    with pytest.raises(ClusterError, match="the number of workers must be at least 1, got 0"):
        Pool(actors=0)
    with pytest.raises(ClusterError, match="the GPUs of a worker must be at least 0, got -1"):
        Pool(gpus=-1)


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "workers"),
    [
        ({"CPU": 8}, 1, 0, 8),
        ({"CPU": 8}, 3, 0, 2),
        ({"CPU": 8, "GPU": 2}, 1, 1, 2),
        ({"CPU": 8, "GPU": 2}, 1, 0, 8),
        ({"CPU": 8, "GPU": 0.3}, 1, 0.1, 3),
        ({"CPU": 0}, 1, 0, 1),
        ({}, 1, 0, 1),
    ],
)
def test_workers_are_as_many_as_cpus_and_gpus_allow(resources, cpus, gpus, workers):
    assert ray_executor._room(resources, cpus, gpus) == workers


@pytest.fixture
def two_gpus() -> Iterator:
    """Ray on this machine, with two GPUs that are only declared."""
    import ray

    ray.init("local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


def test_every_worker_has_a_gpu_of_its_own(two_gpus):
    @two_gpus.remote(num_cpus=0)
    class Seen:
        def __init__(self) -> None:
            self.workers = set()

        def add(self, process: int) -> int:
            self.workers.add(process)
            return len(self.workers)

    class Looking:
        device = "auto"

        def __init__(self) -> None:
            self.seen = Seen.remote()

        def worker(self, threads):
            def look(tasks):
                # Both workers are there before the first of them goes on.
                deadline = time.monotonic() + 120
                while two_gpus.get(self.seen.add.remote(os.getpid())) < 2:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                return [(os.getpid(), two_gpus.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"])] * len(tasks)

            return look

    outcomes = dict(run_on_ray(dict.fromkeys("abcdefghijkl"), ByValue(Looking())))
    assert sorted(outcomes) == list("abcdefghijkl")
    of_workers = {process: (tuple(ids), visible) for process, ids, visible in outcomes.values()}
    assert len(of_workers) == 2  # though there are CPUs for three
    assert sorted(of_workers.values()) == [((0,), "0"), ((1,), "1")]


def test_workers_with_a_gpu_take_blocks_of_their_own_size(two_gpus):
    class Counting:
        def __init__(self, device) -> None:
            self.device = device

        def worker(self, threads):
            return lambda tasks: [len(tasks)] * len(tasks)

    def sizes(device: str) -> set[int]:
        tasks = dict.fromkeys("abcdefghijkl")
        return set(dict(run_on_ray(tasks, ByValue(Counting(device)), Pool(1), block=2, block_on_gpu=3)).values())

    assert (sizes("auto"), sizes("cpu")) == ({3}, {2})


def test_a_worker_that_cannot_start_says_why(two_gpus):
    class Broken:
        device = "cpu"

        def worker(self, threads):
            raise ValueError("there are no models here")

    with pytest.raises(ClusterError, match=r"could not start: ValueError: there are no models here \(on .*, process "):
        list(run_on_ray({"a": 1, "b": 2}, ByValue(Broken())))


def test_no_images_need_no_cluster(setup, monkeypatch):
    monkeypatch.setattr(ray_executor, "_connected", None)
    assert list(segment_on_ray([], setup)) == []


def test_ray_that_is_missing_is_told(setup, paths, monkeypatch):
    monkeypatch.setattr(ray_executor, "is_installed", lambda: False)
    with pytest.raises(ClusterError, match=r"pip install 'ray\[data\]'"):
        next(segment_on_ray([Task("a", str(paths[0]))], setup))


def test_objects_travel_to_processes_where_the_engine_has_another_name():
    task = Task(
        "a", "b", Settled.of_masks(torch.ones(1, 2, 3, dtype=torch.bool), torch.ones(1, 4, dtype=torch.bool), (2, 3))
    )
    data = dumps(task)
    # As in the App: the engine is a part of the plugin's package. Pickle writes names with their lengths.
    name, other = b"nts.cluster.worker", b"some.plugin.nts.cluster.worker"
    assert bytes([len(name)]) + name in data
    renamed = data.replace(bytes([len(name)]) + name, bytes([len(other)]) + other)
    frame = int.from_bytes(renamed[3:11], "little") + len(renamed) - len(data)
    renamed = renamed[:3] + frame.to_bytes(8, "little") + renamed[11:]
    again = loads(renamed)
    assert isinstance(again, Task)
    assert (again.key, again.path) == ("a", "b")
    assert torch.equal(again.settled.classes, task.settled.classes)
    np.testing.assert_array_equal(loads(dumps(np.arange(3))), np.arange(3))
