"""Execute docs/tutorial.ipynb and store its outputs: python tools/tutorial.py

It runs on a database of its own, so the datasets of whoever runs it stay as they are.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import private_mongod

PATH = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def execute(notebook: nbformat.NotebookNode, timeout: float = 600) -> nbformat.NotebookNode:
    """Run all cells in the notebook's folder, in a new kernel, and store what they show in the notebook.

    Args:
        notebook: the notebook.
        timeout: of one cell, in seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    # Times of execution would change the file whenever it runs.
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(PATH.parent))
    notebook.metadata.pop("language_info", None)  # names the Python version of whoever ran it
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        # Progress bars and warnings name the machine.
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            # Pillow offers both, and the PNG is several times as large.
            if "image/jpeg" in output.get("data", {}):
                del output.data["image/png"]
    return notebook


def main() -> None:
    """Execute the notebook, and write it if no cell failed."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            {
                "FIFTYONE_DATABASE_URI": private_mongod.start(),
                "FIFTYONE_DATABASE_VALIDATION": "false",
                "FIFTYONE_DO_NOT_TRACK": "true",
                "FIFTYONE_SHOW_PROGRESS_BARS": "false",
                "NTS_CACHE_DIR": folder,
            }
        )
        notebook = execute(nbformat.read(PATH, as_version=4))
    nbformat.write(notebook, PATH)


if __name__ == "__main__":
    sys.exit(main())
