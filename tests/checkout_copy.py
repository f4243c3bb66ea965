"""Copies of the checkout, as produced by downloading the repository."""

from __future__ import annotations

import shutil
from pathlib import Path

from paths import ROOT

_FOLDERS = ("nts", "operators", "assets")
_FILES = ("__init__.py", "fiftyone.yml", "manifest.json", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")


def copy_checkout(folder: Path) -> Path:
    """Copy all files of an installed plugin, package or model source, and return the folder."""
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder
