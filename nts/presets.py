"""The ways to run the method: as published, as we think it should be, and in less time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from .matching import MatchingConfig
from .segmenter import ProposalConfig
from .segmenter.guidance import Guidance


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
        precision: of the models, unless the caller asks for another; see :data:`nts.utils.devices.PRECISIONS` and
            :meth:`precision_for`.
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
            asked: one of :data:`nts.utils.devices.PRECISIONS`; ``"auto"`` leaves the choice to the preset.
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


def stored_settings(preset: Preset) -> dict[str, Any]:
    """Everything that a preset decides, as nested dictionaries, under the names that stored runs and caches use."""
    settings = asdict(preset)
    if settings["proposals"]["guidance"] is not None:
        settings["proposals"]["guidance"] = stored_guidance(settings["proposals"]["guidance"])
    return settings


def stored_guidance(guidance: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`~nts.segmenter.guidance.Guidance` under the names that stored runs and caches use."""
    return {_STORED_NAMES.get(name, name): value for name, value in guidance.items()}


_STORED_NAMES = {"guided_fraction": "led_share"}
"""Fields that were renamed after runs had been stored with them."""


def preset_fingerprint(preset: Preset) -> str:
    """SHA-256 of everything in a preset that changes results.

    Excluded are the options that a run stores beside its preset: score threshold and number of instances.
    """
    matching = replace(preset.matching, score_threshold=0.0, max_instances=1)
    proposals = replace(preset.proposals, prompts_per_chunk=None)
    settings = stored_settings(replace(preset, matching=matching, proposals=proposals))
    # Options that were added later are left out at their defaults, so that earlier fingerprints stay valid.
    if settings["proposals"]["guidance"] is None:
        del settings["proposals"]["guidance"]
    if settings["precision"] == "auto" or (preset.name == "paper" and settings["precision"] == "float32"):
        del settings["precision"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
