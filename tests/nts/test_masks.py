"""Class maps at image size, compared with resizing all maps and taking the maximum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nts.masks import draw_class_map


@pytest.mark.parametrize("image_size", [(48, 64), (200, 130), (20, 300), (97, 193)])
@pytest.mark.parametrize("classes", [1, 5])
def test_class_map_is_the_highest_positive_logit_after_enlarging_all_maps(image_size, classes):
    logits = torch.randn(classes, 1, 6, 6, generator=torch.Generator().manual_seed(classes))
    logits = F.interpolate(logits, size=(32, 32), mode="bicubic")[:, 0]
    enlarged = F.interpolate(logits[None], size=image_size, mode="bilinear", align_corners=False, antialias=True)[0]
    best, which = enlarged.max(0)
    expected = torch.where(best > 0, which + 1, 0)
    drawn = draw_class_map(logits, image_size)
    sure = (enlarged.abs() > 1e-4).all(0)  # rounding may decide either way exactly at the border
    if classes > 1:
        top = enlarged.topk(2, dim=0).values
        sure &= top[0] - top[1] > 1e-4
    assert sure.float().mean() > 0.99
    assert torch.equal(drawn[sure].long(), expected[sure])


def test_class_map_without_a_class_is_background():
    assert not draw_class_map(torch.zeros(0, 8, 8), (20, 30)).any()
    assert draw_class_map(torch.full((2, 8, 8), -1.0), (20, 30)).shape == (20, 30)
