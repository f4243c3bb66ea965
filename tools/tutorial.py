"""Execute docs/tutorial.ipynb and store its outputs: python tools/tutorial.py

Uses a private database, separate from the user's datasets.
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
    """Execute all cells in the notebook's folder in a new kernel, and store their outputs in the notebook.

    Args:
        notebook: notebook to execute, modified in place.
        timeout: of one cell, in seconds.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    # Execution times would change the file on every run.
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", record_timing=False)
    client.execute(cwd=str(PATH.parent))
    notebook.metadata.pop("language_info", None)  # contains the Python version of the machine
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        # Progress bars and warnings contain machine-specific names.
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            # Pillow provides both; the PNG is several times larger.
            if "image/jpeg" in output.get("data", {}):
                del output.data["image/png"]
    return notebook


def main() -> None:
    """Execute the notebook, and write it if all cells succeed."""
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
