"""Presets by name, and the settings that they fix."""

from __future__ import annotations

import pytest

from nts.presets import DEFAULT, PAPER, get_preset


def test_presets_by_name():
    assert get_preset("paper") is PAPER
    assert get_preset(DEFAULT) is DEFAULT
    assert (PAPER.exif, PAPER.antialias, PAPER.patch_weights) == (False, False, "corner")
    assert not PAPER.proposals.add_no_mem_embed
    with pytest.raises(ValueError, match="unknown preset 'fastest'; there are default, paper, fast"):
        get_preset("fastest")
