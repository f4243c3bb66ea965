"""Shared fixtures: an environment isolated from the network and from the user's FiftyOne, and a database on demand.

Tests of the engine never import FiftyOne. Tests that need it request the fixture `fo`, `make_dataset` or `drawn`; the
first one starts a private mongod.
"""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from paths import ROOT

import private_mongod

if TYPE_CHECKING:
    import fiftyone
    import ray.cluster_utils

HOME = Path(tempfile.mkdtemp(prefix="reference-segmentation-tests-"))

# The libraries read these variables on import, so they are set before any test module is imported.
os.environ.update(
    {
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_PLUGINS_DIR": str(ROOT),
        "FIFTYONE_CONFIG_PATH": str(HOME / "config.json"),
        "FIFTYONE_DATABASE_DIR": str(HOME / "database"),
        "FIFTYONE_DEFAULT_DATASET_DIR": str(HOME / "datasets"),
        "FIFTYONE_DATASET_ZOO_DIR": str(HOME / "datasets"),
        "FIFTYONE_MODEL_ZOO_DIR": str(HOME / "models"),
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        "NTS_CACHE_DIR": str(HOME / "cache"),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        # Ray on this machine would write a token into the home folder, and this process would ask clusters for it.
        "RAY_AUTH_MODE": "disabled",
    }
)
# The small models do not benefit from more than four threads. Processes of pytest-xdist share the cores; they inherit
# the variable from the first process, which has set it for itself.
if _processes := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(_processes)))
else:
    os.environ.setdefault("OMP_NUM_THREADS", str(min(4, os.cpu_count() or 1)))


_TOOLING = ("tools", "benchmarks", "training", "demo")
"""Folders of tests for set-up, benchmarks and training scripts."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots",
        type=Path,
        metavar="FOLDER",
        help="tell the story of the browser on the data set of `make demo`, and put the README's pictures there",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, marker in (("fo", "db"), ("browser", "browser")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
        if "browser" in getattr(item, "fixturenames", ()):
            # The tests of a file share a server, so pytest-xdist must run them in one process.
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        if any(item.path.is_relative_to(ROOT / "tests" / folder) for folder in _TOOLING):
            item.add_marker("tooling")
    # Quick tests run first, to report errors of the engine within seconds; browser tests run last.
    items.sort(key=lambda item: [item.get_closest_marker(marker) is not None for marker in ("browser", "db")])


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def fiftyone_db() -> str:
    """URI of a mongod private to this test run."""
    return private_mongod.start()


@pytest.fixture(scope="session")
def fo(fiftyone_db: str) -> ModuleType:
    """FiftyOne on the private database, with the plugin loaded."""
    import fiftyone
    import fiftyone.operators as foo

    foo.list_operators()  # loads the plugins
    return fiftyone


@pytest.fixture(scope="session")
def nts_fo(fo: ModuleType) -> ModuleType:
    """The adapter with its submodules, imported after FiftyOne is connected to the private database."""
    from nts import fiftyone_adapter
    from nts.fiftyone_adapter import evaluation_comparison, importing, inspecting, run_overview  # noqa: F401

    return fiftyone_adapter


@pytest.fixture(scope="session")
def operator(fo: ModuleType) -> Callable[[str], fiftyone.operators.Operator]:
    """`operator(name)`: an operator of the plugin, as registered with FiftyOne."""
    return lambda name: fo.operators.get_operator(f"@nts/reference-segmentation/{name}")


@pytest.fixture
def every_step(operator: Callable, nts_fo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Running jobs announce every step, and not two a second."""
    plugin = type(operator("auto_segment_view")).__module__.partition(".operators")[0]
    for package in ("", f"{plugin}."):
        running = importlib.import_module(f"{package}nts.fiftyone_adapter.running")
        monkeypatch.setattr(running, "_UPDATE_AFTER", 0.0)


@pytest.fixture
def make_dataset(fo: ModuleType) -> Iterator[Callable[..., fiftyone.Dataset]]:
    """`make_dataset(samples=(), **kwargs of fo.Dataset)`; the datasets are deleted after the test."""
    made = []

    def make(samples=(), **kwargs) -> fiftyone.Dataset:
        made.append(fo.Dataset(**kwargs))
        made[-1].add_samples(list(samples))
        return made[-1]

    yield make
    for dataset in made:
        if not dataset.deleted:
            dataset.delete()


@pytest.fixture
def dataset(make_dataset: Callable[..., fiftyone.Dataset]) -> fiftyone.Dataset:
    """Empty dataset."""
    return make_dataset()


@pytest.fixture
def drawn(make_dataset: Callable[..., fiftyone.Dataset], tmp_path: Path) -> fiftyone.Dataset:
    """Drawn scenes with masks in `ground_truth`; see drawn_dataset.py."""
    from drawn_dataset import drawn_samples

    return make_dataset(drawn_samples(tmp_path))


@pytest.fixture
def references(drawn: fiftyone.Dataset) -> fiftyone.DatasetView:
    """References among the drawn scenes."""
    return drawn.match_tags("reference")


@pytest.fixture
def targets(drawn: fiftyone.Dataset) -> fiftyone.DatasetView:
    """Targets among the drawn scenes."""
    return drawn.match_tags("target")


@pytest.fixture(scope="session")
def small_encoder():
    """Shipped DINOv2, on the CPU."""
    from nts.models import load_encoder

    return load_encoder("small", "cpu")


@pytest.fixture(scope="session")
def small_segmenter():
    """Shipped SAM2, on the CPU."""
    from nts.models import load_segmenter

    return load_segmenter("small", "cpu")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ray.cluster_utils.Cluster]:
    """Ray cluster: a head without work, and a node with one CPU; all workers use a cache of their own."""
    import ray
    from ray.cluster_utils import Cluster

    before = dict(os.environ)
    os.environ["NTS_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = made.address
    yield made
    ray.shutdown()
    made.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """A single intra-op thread of torch: sums have a fixed order, so equal runs give equal numbers."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
