"""The ways to run the method: as published, as we think it should be, and in less time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .guidance import Guidance
from .matching import MatchingConfig
from .segmenter import ProposalConfig


@dataclass(frozen=True)
class Preset:
    """Everything that decides a result, beside the models and the references.

    Attributes:
        name: ``"default"``, ``"paper"`` or ``"fast"``.
        exif: turn images as their EXIF orientation says.
        antialias: antialiased resizing, straight from the image to each model's input.
        patch_weights: how a reference's mask weighs the patches, see :func:`nts.references.prepare_reference`.
        box_convention: width and height in COCO results: ``"half-open"`` spans all pixels of the mask, ``"inclusive"``
            is one pixel short, as published.
        precision: of the models, unless the caller asks for another; see :data:`nts.devices.PRECISIONS`. Whoever loads
            models for a preset gets it from :meth:`precision_for`.
        proposals: how masks are proposed.
        matching: how proposals become instances.
    """

    name: str
    exif: bool = True
    antialias: bool = True
    patch_weights: Literal["area", "corner"] = "area"
    box_convention: Literal["half-open", "inclusive"] = "half-open"
    precision: str = "auto"
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)

    def precision_for(self, asked: str) -> str:
        """The precision to load models in.

        Args:
            asked: one of :data:`nts.devices.PRECISIONS`; ``"auto"`` leaves the choice to the preset.
        """
        return self.precision if asked == "auto" else asked


DEFAULT = Preset("default")
PAPER = Preset(
    "paper",
    exif=False,
    antialias=False,
    patch_weights="corner",
    box_convention="inclusive",
    precision="float32",
    proposals=ProposalConfig(add_no_mem_embed=False),
)
FAST = Preset("fast", precision="fast", proposals=ProposalConfig(guidance=Guidance()))
"""The default with half of the prompts, and in half precision where that is faster. Results differ a little."""
PRESETS = {preset.name: preset for preset in (DEFAULT, PAPER, FAST)}


def get_preset(preset: str | Preset) -> Preset:
    """A preset by name, or the one given."""
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]
