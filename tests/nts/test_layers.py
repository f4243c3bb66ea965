"""Import graph of the engine: ordered layers, no cycles, and FiftyOne in the adapter alone."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest
from paths import ROOT

ROOMS = (
    ("nts.utils",),
    (
        "nts.images",
        "nts.masks",
        "nts.run_lengths",
        "nts.rasters",
        "nts.weights",
        "nts.pictures",
        "nts.merging",
        "nts.heatmaps",
    ),
    ("nts.method", "nts.tiling", "nts.consensus", "nts.negatives", "nts.review_order"),
    ("nts.instances", "nts.proposal_masks", "nts.references", "nts.encoder", "nts.segmenter", "nts.memory"),
    ("nts.exemplars", "nts.confidence", "nts.calibration", "nts.recommendation"),
    ("nts.matching", "nts.settled", "nts.crops", "nts.prompt_scores"),
    ("nts.tiles", "nts.inspection", "nts.transduction"),
    ("nts.targets", "nts.two_pass", "nts.tile_joining"),
    ("nts.presets", "nts.models"),
    ("nts.cache",),
    ("nts.scoring", "nts.promotion", "nts.negative_building"),
    ("nts.building", "nts.pipeline", "nts.cached_targets", "nts.cached_segmenter"),
    ("nts.metrics",),
    ("nts.datasets",),
    ("nts.vrp",),
    ("nts.scorers",),
    ("nts.cluster",),
    ("nts.evaluation",),
    ("nts.fiftyone_adapter",),
    ("operators",),
)
"""Layers from lowest to highest. A module imports from its own layer and from lower ones."""

DOORS = ("nts", "operators", "nts.evaluation.__main__")
"""Public interfaces and commands, which import from all layers."""


@cache
def modules() -> dict[str, Path]:
    """Source files of the engine and of the operators, by module name."""
    paths = sorted([*(ROOT / "nts").rglob("*.py"), *(ROOT / "operators").rglob("*.py")])
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@cache
def imports(name: str) -> frozenset[str]:
    """Modules imported anywhere in a module's source, except under ``TYPE_CHECKING``."""
    path = modules()[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package
            for _ in range(node.level - 1):
                base = base.rpartition(".")[0]
            base = ".".join(filter(None, (base, node.module))) if node.level else str(node.module)
            submodules = {f"{base}.{alias.name}" for alias in node.names} & modules().keys()
            found |= submodules
            if len(submodules) < len(node.names):
                found.add(base)
    return frozenset(found - {name})


def level(name: str) -> int | None:
    """Index of a module's layer."""
    for number, rooms in enumerate(ROOMS):
        if any(name == room or name.startswith(f"{room}.") for room in rooms):
            return number
    return None


def test_every_module_has_a_room():
    assert [name for name in modules() if level(name) is None and name not in DOORS] == []


def test_no_module_imports_from_a_higher_room():
    upward = {
        (name, other)
        for name in modules()
        for other in imports(name)
        if name not in DOORS and other in modules() and other not in DOORS and level(other) > level(name)
    }
    assert not upward


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("nts.metrics", ("nts.pipeline", "nts.cached_segmenter", "nts.datasets", "nts.evaluation", "nts.vrp")),
        ("nts.datasets", ("nts.pipeline", "nts.cached_segmenter", "nts.evaluation", "nts.vrp")),
        ("nts.vrp", ("nts.evaluation",)),
        ("nts.evaluation", ("nts.vrp.training",)),
    ],
)
def test_rooms_stay_apart(room, forbidden):
    found = {
        (name, other)
        for name in modules()
        for other in imports(name)
        if name.startswith(f"{room}.")
        and any(other == module or other.startswith(f"{module}.") for module in forbidden)
    }
    assert found == set()


def test_no_modules_import_each_other_in_a_circle():
    # A package is executed before its modules, so importing a module from a package is no import of the package.
    graph = {name: sorted(imports(name) & modules().keys()) for name in modules() if name not in DOORS}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done and name in graph:
            for other in graph[name]:
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_only_the_adapter_imports_fiftyone():
    found = {
        name
        for name in modules()
        if name.split(".")[0] == "nts" and not name.startswith("nts.fiftyone_adapter")
        for other in imports(name)
        if other.split(".")[0] == "fiftyone"
    }
    assert found == set()


def test_the_engine_imports_nothing_that_is_built_on_it():
    tops = {"synthetic", "reference_implementation", "benchmarks", "tests", "training", "demo", "operators", "tools"}
    found = {
        (name, other)
        for name in modules()
        if name.split(".")[0] == "nts"
        for other in imports(name)
        if other.split(".")[0] in tops
    }
    assert found == set()
