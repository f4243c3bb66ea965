"""The two ways to run the method: as published, and as we think it should be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .matching import MatchingConfig
from .segmenter import ProposalConfig


@dataclass(frozen=True)
class Preset:
    """Everything that decides a result, beside the models and the references.

    Attributes:
        name: ``"default"`` or ``"paper"``.
        exif: turn images as their EXIF orientation says.
        antialias: antialiased resizing, straight from the image to each model's input.
        patch_weights: how a reference's mask weighs the patches, see :func:`nts.references.prepare_reference`.
        box_convention: width and height in COCO results: ``"half-open"`` spans all pixels of the mask, ``"inclusive"``
            is one pixel short, as published.
        proposals: how masks are proposed.
        matching: how proposals become instances.
    """

    name: str
    exif: bool = True
    antialias: bool = True
    patch_weights: Literal["area", "corner"] = "area"
    box_convention: Literal["half-open", "inclusive"] = "half-open"
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)


DEFAULT = Preset("default")
PAPER = Preset(
    "paper",
    exif=False,
    antialias=False,
    patch_weights="corner",
    box_convention="inclusive",
    proposals=ProposalConfig(add_no_mem_embed=False),
)
PRESETS = {preset.name: preset for preset in (DEFAULT, PAPER)}


def get_preset(preset: str | Preset) -> Preset:
    """A preset by name, or the one given."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]
