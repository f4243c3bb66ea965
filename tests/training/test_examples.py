"""Photographs to train on: what is held out, what is cut out, and where the masks lie."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.scenes import NOVEL_SPECIES, SIDE, TRAIN_SPECIES
from training import examples
from training.labelled_objects import draw_view, read_objects
from training.pool import NOT_CUT_OUT, read_pool, resize


@pytest.fixture(scope="module")
def pool(photographs):
    return read_pool(photographs / "pool", "train")


def test_held_out_photographs_are_others_and_few(photographs, pool):
    held_out = read_pool(photographs / "pool", "validation")
    names = [{each.name for of_set in of.sets.values() for each in of_set} for of in (pool, held_out)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) <= 48
    assert 0 < len(names[1]) < len(names[0]) / 3


def test_copies_of_a_photograph_are_on_the_same_side():
    from training.pool import _is_held_out

    for number in range(30):
        copies = [f"IMG_{number}_scaled_{k}_png_jpg.jpg" for k in range(3)] + [f"IMG_{number}.png"]
        assert len({_is_held_out(name) for name in copies}) == 1


def test_a_folder_without_sets_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder with an annotations.json"):
        read_pool(tmp_path, "train")


def test_cut_outs_lie_inside_their_photograph(pool):
    assert pool.cut_outs
    for photograph, i in pool.cut_outs:
        assert not photograph.name.startswith(NOT_CUT_OUT)
        mask = photograph.masks([i])[0]
        assert mask[1:-1, 1:-1].sum() == mask.sum() >= 900


@pytest.mark.parametrize(
    "kind", [examples.drawn, *(kind for kind, _ in examples.KINDS)], ids=lambda kind: kind.__name__
)
def test_examples_are_pure_functions_of_the_random_numbers(pool, kind):
    first, again, other = (kind(np.random.default_rng(seed), pool) for seed in (3, 3, 4))
    assert (first.image == again.image).all()
    assert (first.masks == again.masks).all()
    assert (first.image != other.image).any()
    assert first.image.shape == (SIDE, SIDE, 3)
    assert first.image.dtype == np.uint8
    assert first.masks.shape[1:] == first.parts.shape == (SIDE, SIDE)
    assert not (first.parts > 0)[~first.masks.any(0)].any()


def test_examples_recur_but_depend_on_the_step_only(pool):
    """A later step draws the same examples whether or not earlier steps were drawn, as after resuming."""

    def draw(source: examples.Examples, step: int) -> list[examples.Example]:
        return source.draw(np.random.default_rng([5, step]), step, 4)

    through = examples.Examples(pool, seed=5)
    steps = [draw(through, step) for step in range(3)]
    resumed = draw(examples.Examples(pool, seed=5), 2)
    for a, b in zip(steps[2], resumed, strict=True):
        assert (a.image == b.image).all()
        assert (a.masks == b.masks).all()
    other = examples.Examples(pool, seed=5, rank=1).draw(np.random.default_rng([5, 2]), 2, 4)
    assert any((a.image != b.image).any() for a, b in zip(resumed, other, strict=True))


def test_a_mirrored_example_keeps_its_masks_on_its_objects():
    image = np.full((SIDE, SIDE, 3), 40, np.uint8)
    mask = np.zeros((1, SIDE, SIDE), bool)
    mask[0, 20:60, 5:90] = True
    image[mask[0]] = 160
    regions = np.where(mask, 4, 2).astype(np.int32)
    example = examples.Example(image, mask, mask[0].astype(np.uint8), True, regions)
    columns = set()
    for seed in range(8):
        again = examples._again(np.random.default_rng(seed), example)
        bright = again.image.mean(2) > 90
        assert (bright == again.masks[0]).all()
        assert (bright == (again.parts > 0)).all()
        assert (bright == (again.regions[0] == 4)).all()
        columns.add(int(np.flatnonzero(bright.any(0))[0]))
    assert columns == {5, SIDE - 90}


def test_masks_stay_on_their_objects_when_a_photograph_is_placed(pool):
    """A photograph whose objects are white: wherever it is placed, the masks cover the white."""
    source = pool.sets["coco_masks"][0]

    class White:
        rles = source.rles
        masks = staticmethod(source.masks)
        regions = staticmethod(lambda: np.where(source.masks().any(0), 7, 3)[None])

        @staticmethod
        def image():
            shown = source.masks().any(0)
            return np.repeat((shown * np.uint8(255))[..., None], 3, 2)

    for seed, zoom in enumerate((0.3, 0.7, 1.0, 2.0)):
        image, masks, regions = examples.place(np.random.default_rng(seed), White, zoom=zoom)
        covered = masks.any(0)
        assert covered.any()
        assert (image[..., 0][covered] > 100).mean() > 0.95
        assert (regions[0][covered] == 7).mean() > 0.9
        assert set(np.unique(regions)) <= {-1, 3, 7}


def test_pasted_masks_are_disjoint_and_exhaustive(pool):
    for seed in range(6):
        background = np.full((SIDE, SIDE, 3), 0.5, np.float32)
        scene = examples.paste(np.random.default_rng(seed), pool, background)
        assert scene.masks.sum(0).max(initial=0) <= 1
        assert np.count_nonzero(np.abs(scene.image - 0.5).max(2)[~scene.masks.any(0)] > 0.45) < 0.02 * SIDE**2


def test_background_is_not_clicked_where_an_object_was_dropped():
    masks = np.zeros((2, SIDE, SIDE), bool)
    masks[0, 50:100, 50:100] = True
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    for small, exhaustive in ((20, True), (3, False)):
        masks[1, 200 : 200 + small, 200 : 200 + small] = True
        example = examples._finish(np.random.default_rng(0), image, masks, exhaustive=True)
        assert example.exhaustive == exhaustive == (len(example.masks) == 2)
        masks[1] = False


def test_species_are_those_of_the_training():
    rng = np.random.default_rng(0)
    drawn = {number for _ in range(50) for number in examples.draw_species(rng)}
    assert drawn <= set(TRAIN_SPECIES)
    assert not drawn & set(NOVEL_SPECIES)


def test_resizing_keeps_the_kind_of_array():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:20] = True
    assert resize(mask, (40, 60)).dtype == bool
    assert resize(mask, (40, 60)).sum() == pytest.approx(4 * mask.sum(), rel=0.05)
    assert resize(np.zeros((20, 30, 3), np.uint8), (7, 9)).shape == (7, 9, 3)


def test_objects_of_photographs_are_seen_as_references_and_as_targets(photographs, pool):
    objects = read_objects(pool, photographs / "classes")
    assert "whole" in objects
    assert len(objects) == 4
    assert [each.index for each in objects["whole"]] == [None] * 8
    for of_class in objects.values():
        for crop in (True, False):
            rng = np.random.default_rng(1)
            view = draw_view(rng, of_class[0], 56, 14, crop=crop)
            assert view.pixels.shape == (3, 56, 56)
            assert view.weights.shape[1:] == (4, 4)
            assert len(view.weights) == 1 or not crop
            assert view.weights[0].sum() > 0
