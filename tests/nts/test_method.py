"""Switches of the parts beyond the paper."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nts.method import PARTS, PUBLISHED, Method
from nts.presets import DEFAULT, FAST, PAPER

EVERYTHING = Method(
    similarity="soft-maximum",
    rank="combined",
    crops=True,
    negatives=True,
    transductive=True,
    merging="diffusion",
    consensus=True,
    mirrored=True,
)


def test_the_published_method_has_no_part():
    assert Method() == PUBLISHED == PAPER.method
    assert EVERYTHING.without(*PARTS) == PUBLISHED


def test_every_switch_is_a_part():
    assert set(PARTS) == {field.name for field in fields(Method)} - {"survivors"}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_switched_off_alone(part):
    method = Method(tiles=True) if part == "tiles" else EVERYTHING
    changed = {name for name in PARTS if getattr(method, name) != getattr(method.without(part), name)}
    # Mirrored voters are of no use without the consensus.
    assert changed == ({"consensus", "mirrored"} if part == "consensus" else {part})


def test_presets_have_the_parts_that_pay_for_themselves():
    assert Method(similarity="soft-maximum", rank="combined", crops=True, negatives=True, consensus=True) == (
        DEFAULT.method
    )
    assert DEFAULT.without("crops").method == FAST.method
    assert DEFAULT.without().method == DEFAULT.method


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similarity": "median"}, "similarity must be one of mean, soft-maximum, got 'median'"),
        ({"rank": "area"}, "rank must be one of predicted-iou, combined, got 'area'"),
        ({"merging": "hard"}, "merging must be one of soft, diffusion, got 'hard'"),
        ({"survivors": 0}, "survivors must be at least 1, got 0"),
        ({"crops": True, "tiles": True}, "crops and tiles exclude each other"),
        ({"mirrored": True}, "mirrored adds voters to the consensus: switch consensus on"),
    ],
)
def test_values_that_make_no_method_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Method(**options)


def test_an_unknown_part_is_named_with_those_there_are():
    with pytest.raises(ValueError, match="there is no part 'crop'; there are similarity, rank, crops, tiles"):
        PUBLISHED.without("crop")
    with pytest.raises(ValueError, match="there is no part 'survivors'"):
        DEFAULT.without("survivors")
