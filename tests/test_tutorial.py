"""The tutorial: it runs, and its outputs equal the stored ones."""

from __future__ import annotations

import re

import nbformat
import pytest

import tutorial


@pytest.fixture(scope="module")
def stored() -> nbformat.NotebookNode:
    return nbformat.read(tutorial.PATH, as_version=4)


@pytest.fixture(scope="module")
def executed(fo, tmp_path_factory) -> nbformat.NotebookNode:
    """The notebook, executed again on the private database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))  # without the cache of earlier tests
        notebook = tutorial.execute(nbformat.read(tutorial.PATH, as_version=4))
    fo.delete_non_persistent_datasets()  # FiftyOne would, when its last client leaves
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Types of output of every code cell."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[output.get("name") or min(output.data) for output in cell.outputs] for cell in cells]


def mask_ap(notebook: nbformat.NotebookNode) -> float:
    """Mask AP over all classes, in percent, printed by the last cell."""
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    return float(re.search(r"^all +([\d.]+)", text, re.MULTILINE)[1])


def test_the_stored_notebook_is_valid_and_was_executed_in_order(stored):
    nbformat.validate(stored)
    cells = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert len(cells) <= 10
    assert sum(kinds.count("image/jpeg") for kinds in outputs(stored)) >= 3


def test_the_tutorial_runs_and_shows_what_is_stored(stored, executed):
    assert outputs(executed) == outputs(stored)
    assert mask_ap(executed) == pytest.approx(mask_ap(stored), abs=3)  # processors round differently
