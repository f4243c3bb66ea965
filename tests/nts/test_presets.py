"""Presets by name, and the settings that they fix."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from nts.cache.targets import target_key, target_settings
from nts.matching import MatchingConfig
from nts.method import PARTS, PUBLISHED
from nts.presets import DEFAULT, FAST, PAPER, Preset, get_preset, preset_fingerprint
from nts.segmenter import ProposalConfig
from nts.segmenter.guidance import Guidance

BEFORE_PARTS = {
    "default": replace(DEFAULT, method=PUBLISHED, proposals=ProposalConfig()),
    "fast": replace(FAST, method=PUBLISHED, proposals=ProposalConfig(guidance=Guidance())),
}
"""The presets of version 0.2.0, whose proposals were the published ones."""

FINGERPRINTS = {
    PAPER: "4d8f1a4cb2d302729e8b1aeb77361473b0c24e8169ba0f5e74401be5d04db568",
    replace(PAPER, matching=MatchingConfig(nms_iou=0.6)): (
        "fc88d4aa7d478598996e19776c2a557ac729b1b095036fb94bfa5d460800ee3e"
    ),
    BEFORE_PARTS["default"]: "d2b5df9106bd0afeb32ae2cfdb70d19b61f5f24d20a1e4b3b485a9bc9c70ccfd",
    BEFORE_PARTS["fast"]: "187447b2788e4949530d054e7cb40ac83a244ea290b236cd119d0bfe36b5f1e3",
}
"""As version 0.2.0 computed them, before there were parts: runs in datasets store them."""

KEYS = {
    PAPER: "target-ec05bd3433ca8639f437b50229cf2eba4cded3c4",
    BEFORE_PARTS["default"]: "target-a9128840ad794b7e2594ce8030f676b95facb4fc",
    BEFORE_PARTS["fast"]: "target-dbe13bed6fae422a3e25d7dca862b723f5dfe1ed",
}
"""The same of targets in the cache, with these models."""

ENCODER = SimpleNamespace(info=SimpleNamespace(fingerprint="e" * 8, input_size=336), precision="float32")
SEGMENTER = SimpleNamespace(
    fingerprint="s" * 8,
    input_size=256,
    precision="float32",
    points_per_side=16,
    threshold=lambda proposals: 0.4 if proposals.iou_threshold is None else proposals.iou_threshold,
)


def key(preset: Preset) -> str:
    return target_key("c", target_settings(ENCODER, SEGMENTER, preset))


def test_presets_by_name():
    assert get_preset("paper") is PAPER
    assert get_preset(DEFAULT) is DEFAULT
    assert (PAPER.exif, PAPER.antialias, PAPER.patch_weights) == (False, False, "corner")
    assert not PAPER.proposals.add_no_mem_embed
    assert PAPER.method == PUBLISHED
    with pytest.raises(ValueError, match="unknown preset 'fastest'; there are default, paper, fast"):
        get_preset("fastest")


@pytest.mark.parametrize("preset", FINGERPRINTS, ids=lambda preset: preset.name)
def test_fingerprints_of_published_methods_are_those_of_earlier_versions(preset):
    assert preset_fingerprint(preset) == FINGERPRINTS[preset]


@pytest.mark.parametrize("preset", KEYS, ids=lambda preset: preset.name)
def test_cached_targets_of_earlier_versions_are_found(preset):
    assert key(preset) == KEYS[preset]


def ablations() -> list[Preset]:
    return [DEFAULT, *(DEFAULT.without(part) for part in PARTS), FAST, PAPER]


def test_every_part_that_a_preset_has_changes_its_fingerprint():
    used = {part for part in PARTS if getattr(DEFAULT.method, part) != getattr(PUBLISHED, part)}
    assert len({preset_fingerprint(preset) for preset in ablations()}) == 3 + len(used)


def test_parts_that_change_no_target_share_those_of_the_cache():
    """Crops have a key of their own, and negatives belong to the memory."""
    for part in ("similarity", "rank", "crops", "negatives"):
        assert key(DEFAULT.without(part)) == key(DEFAULT)
    tiled = replace(DEFAULT, method=replace(DEFAULT.method, crops=False, tiles=True))
    mirrored = replace(DEFAULT, method=replace(DEFAULT.method, mirrored=True))
    assert len({key(preset) for preset in (DEFAULT, DEFAULT.without("consensus"), tiled, mirrored, PAPER)}) == 5


def test_voters_are_drawn_for_the_consensus_alone():
    assert DEFAULT.asked_proposals.voters
    assert FAST.asked_proposals.voters
    assert not PAPER.asked_proposals.voters
    assert DEFAULT.without("consensus").asked_proposals == DEFAULT.proposals


def test_an_unknown_part_of_a_preset_is_named():
    with pytest.raises(ValueError, match="there is no part 'masks'; there are similarity, "):
        DEFAULT.without("masks")
