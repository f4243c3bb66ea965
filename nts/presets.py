"""Presets of the method: the published settings, the recommended ones, and faster ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from .matching import MatchingConfig
from .method import PUBLISHED, Method
from .segmenter import ProposalConfig
from .segmenter.guidance import Guidance
from .tiling import Tiling


@dataclass(frozen=True)
class Preset:
    """All settings that determine a result, besides the models and the references.

    Attributes:
        name: ``"default"``, ``"paper"`` or ``"fast"``.
        exif: apply the EXIF orientation of images.
        antialias: antialiased resizing, directly from the image to each model's input.
        patch_weights: weighting of patches by a reference's mask, see :func:`nts.references.prepare_reference`.
        box_convention: width and height in COCO results: ``"half-open"`` spans all pixels of the mask; ``"inclusive"``
            is one pixel less, as published.
        precision: precision of the models, unless the caller chooses another; see
            :data:`nts.utils.devices.PRECISIONS` and :meth:`precision_for`.
        proposals: settings of mask proposals.
        matching: settings of matching and merging.
        tiling: how large images are cut into tiles; as published, not at all.
        method: the parts that go beyond the paper. They are for scoring by prototypes; with a trained reference prompt,
            matching is as published.
    """

    name: str
    exif: bool = True
    antialias: bool = True
    patch_weights: Literal["area", "corner"] = "area"
    box_convention: Literal["half-open", "inclusive"] = "half-open"
    precision: str = "auto"
    proposals: ProposalConfig = field(default_factory=ProposalConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    tiling: Tiling = field(default_factory=Tiling)
    method: Method = PUBLISHED

    @property
    def asked_proposals(self) -> ProposalConfig:
        """Settings of mask proposals, with the voters that the method needs."""
        return replace(self.proposals, voters=self.method.consensus)

    def without(self, *parts: str) -> Preset:
        """The preset with some parts of the method as published, see :meth:`nts.method.Method.without`."""
        return replace(self, method=self.method.without(*parts))

    def precision_for(self, asked: str) -> str:
        """Precision to load models in.

        Args:
            asked: one of :data:`nts.utils.devices.PRECISIONS`; ``"auto"`` for the preset's own.
        """
        return self.precision if asked == "auto" else asked


DEFAULT = Preset(
    "default",
    proposals=ProposalConfig(iou_threshold=None, connected=True),
    method=Method(similarity="soft-maximum", rank="combined", crops=True, negatives=True, consensus=True),
)
PAPER = Preset(
    "paper",
    exif=False,
    antialias=False,
    patch_weights="corner",
    box_convention="inclusive",
    precision="float32",
    proposals=ProposalConfig(add_no_mem_embed=False),
    tiling=Tiling("off"),
)
FAST = Preset(
    "fast",
    precision="fast",
    proposals=ProposalConfig(iou_threshold=None, guidance=Guidance(), connected=True),
    method=Method(similarity="soft-maximum", rank="combined", negatives=True, consensus=True),
)
"""Half of the prompts, no crops, and half precision where it is faster."""
PRESETS = {preset.name: preset for preset in (DEFAULT, PAPER, FAST)}


def get_preset(preset: str | Preset) -> Preset:
    """Return a preset by name, or a :class:`Preset` unchanged.

    Raises:
        ValueError: if there is no preset of this name.
    """
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; there are {', '.join(PRESETS)}")
    return PRESETS[preset]


def stored_settings(preset: Preset) -> dict[str, Any]:
    """Settings of a preset as nested dictionaries, under the names used in stored runs and cache keys."""
    settings = asdict(preset)
    # Options added later are left out at their defaults, to keep earlier fingerprints and keys valid.
    if preset.tiling == _untold(preset):
        del settings["tiling"]
    if preset.method == PUBLISHED:
        del settings["method"]
    if not preset.proposals.voters:
        del settings["proposals"]["voters"]
    if not preset.proposals.connected:
        del settings["proposals"]["connected"]
    if not preset.proposals.scales:
        del settings["proposals"]["scales"]
    if settings["proposals"]["guidance"] is not None:
        settings["proposals"]["guidance"] = stored_guidance(settings["proposals"]["guidance"])
    return settings


def _untold(preset: Preset) -> Tiling:
    """Tiling of a preset that is not stored."""
    return Tiling("off" if preset.name == "paper" else "auto")


def stored_guidance(guidance: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`~nts.segmenter.guidance.Guidance` under the names used in stored runs and cache keys."""
    return {_STORED_NAMES.get(name, name): value for name, value in guidance.items()}


_STORED_NAMES = {"guided_fraction": "led_share"}
"""Stored names of fields that were renamed later."""


def preset_fingerprint(preset: Preset) -> str:
    """SHA-256 of the settings of a preset that affect results.

    Score threshold, maximal number of instances and tiles are excluded: runs store them separately.
    """
    matching = replace(preset.matching, score_threshold=0.0, max_instances=1)
    proposals = replace(preset.proposals, prompts_per_chunk=None)
    settings = stored_settings(replace(preset, matching=matching, proposals=proposals, tiling=_untold(preset)))
    # Options added later are left out at their defaults, to keep earlier fingerprints valid.
    if settings["proposals"]["guidance"] is None:
        del settings["proposals"]["guidance"]
    if settings["precision"] == "auto" or (preset.name == "paper" and settings["precision"] == "float32"):
        del settings["precision"]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
