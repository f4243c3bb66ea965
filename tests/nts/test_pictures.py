"""Drawing of masks, captions and contact sheets."""

from __future__ import annotations

import numpy as np

from nts.pictures import class_colours, contact_sheet, draw_instances

IMAGE = np.full((40, 60, 3), 200, np.uint8)


def test_colours_differ_for_many_classes():
    colours = class_colours([str(k) for k in range(40)])
    assert len(set(colours.values())) == 40


def test_masks_are_drawn_in_their_class_s_colour_and_fit_the_size():
    masks = np.zeros((1, 40, 60), bool)
    masks[0, 10:30, 20:40] = True
    colours = {"a": (255, 0, 0)}
    picture = np.asarray(draw_instances(IMAGE, masks, ["a"], colours, ["0.87"], size=120))
    assert picture.shape == (80, 120, 3)
    red, green, _ = picture[50, 60].tolist()
    assert red > green + 100
    assert picture[75, 5].tolist() == [150, 150, 150]


def test_the_first_mask_is_on_top():
    masks = np.ones((2, 40, 60), bool)
    picture = np.asarray(draw_instances(IMAGE, masks, ["a", "b"], {"a": (255, 0, 0), "b": (0, 0, 255)}, size=60))
    red, _, blue = picture[20, 30].tolist()
    assert red > blue


def test_image_without_masks_is_left_as_it_is():
    picture = draw_instances(IMAGE, np.zeros((0, 40, 60), bool), [], {}, size=60)
    assert np.array_equal(np.asarray(picture), IMAGE)


def test_contact_sheet_has_a_place_for_everything():
    colours = class_colours([f"a long name {k}" for k in range(12)])
    cell = draw_instances(IMAGE, np.zeros((0, 40, 60), bool), [], {}, size=200)
    one = contact_sheet([[cell, cell]], ["left", "right"], colours, "Title")
    two = contact_sheet([[cell, cell], [cell, cell]], ["left", "right"], colours, "Title")
    assert one.width == 2 * 200 + 3 * 10
    assert two.height == one.height + cell.height + 10
