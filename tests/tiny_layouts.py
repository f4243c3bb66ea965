"""Drawn datasets in the layouts of the protocols, each drawn once per test run."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from nts.datasets.protocols import Protocol
from synthetic.layouts import WRITERS, write_cd_fsod

CD_FSOD_SETS = ("clipart1k", "FISH", "UODD")
"""Datasets of CD-FSOD drawn for tests: one of each variant."""


@lru_cache
def tiny(layout: str) -> Path:
    """Folder of a layout's dataset. Read-only by convention."""
    folder = Path(tempfile.mkdtemp(prefix="reference-segmentation-layouts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if layout == "cd-fsod":
        write_cd_fsod(folder, CD_FSOD_SETS)
    else:
        WRITERS[layout](folder)
    return folder


def is_drawn(protocol: Protocol) -> bool:
    """Return True if :func:`tiny` provides the data of a protocol."""
    return protocol.layout in WRITERS and (not protocol.folder or protocol.folder in CD_FSOD_SETS)
