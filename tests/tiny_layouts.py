"""The drawn data sets in the layouts of the protocols, each drawn once for all tests."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

from nts.datasets.protocols import Protocol
from synthetic.layouts import WRITERS, write_cd_fsod

CD_FSOD_SETS = ("clipart1k", "FISH", "UODD")
"""The sets of CD-FSOD that are drawn for tests: one of everything that they know."""


@lru_cache
def tiny(layout: str) -> Path:
    """The folder of a layout's data set. Nobody may write into it."""
    folder = Path(tempfile.mkdtemp(prefix="reference-segmentation-layouts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if layout == "cd-fsod":
        write_cd_fsod(folder, CD_FSOD_SETS)
    else:
        WRITERS[layout](folder)
    return folder


def is_drawn(protocol: Protocol) -> bool:
    """Whether :func:`tiny` has what a protocol needs."""
    return protocol.layout in WRITERS and (not protocol.folder or protocol.folder in CD_FSOD_SETS)
