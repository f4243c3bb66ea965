"""Training-free, reference-based instance segmentation. The engine; only ``nts.fiftyone_adapter`` imports FiftyOne.

>>> from nts import Reference, ReferenceSegmenter, build_memory, read_image
>>> memory, skipped = build_memory([Reference(image, "bird", mask)])
>>> segmenter = ReferenceSegmenter(memory)
>>> instances = segmenter.segment(read_image("street.jpg"))
>>> instances.boxes.shape[1]
4
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .building import build_memory
    from .images import read_image
    from .instances import Instances
    from .matching import MatchingConfig, match_proposals
    from .memory import MemoryBank
    from .models import load_encoder, load_segmenter
    from .pipeline import ReferenceSegmenter
    from .presets import Preset, get_preset
    from .promotion import promote
    from .references import Reference

__version__ = "0.2.0"

__all__ = [
    "Instances",
    "MatchingConfig",
    "MemoryBank",
    "Preset",
    "Reference",
    "ReferenceSegmenter",
    "build_memory",
    "get_preset",
    "load_encoder",
    "load_segmenter",
    "match_proposals",
    "promote",
    "read_image",
]

# Imported on first use (PEP 562): torch, transformers and SAM2 take seconds to import, and every import of a submodule
# runs this file first, those of the operators and of `python -m nts.evaluation --help` among them.
_MODULES = {
    "Instances": "instances",
    "MatchingConfig": "matching",
    "MemoryBank": "memory",
    "Preset": "presets",
    "Reference": "references",
    "ReferenceSegmenter": "pipeline",
    "build_memory": "building",
    "get_preset": "presets",
    "load_encoder": "models",
    "load_segmenter": "models",
    "match_proposals": "matching",
    "promote": "promotion",
    "read_image": "images",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
