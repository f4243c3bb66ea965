"""Properties of the drawn scenes."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from synthetic import scenes as sc

RANGES = {
    "train": sc.TRAIN_SPECIES,
    "validation": sc.VALIDATION_SPECIES,
    "novel": sc.NOVEL_SPECIES,
    "distractors": sc.DISTRACTOR_SPECIES,
}


@pytest.fixture(scope="module")
def drawn() -> list[sc.Scene]:
    return sc.target_scenes(30)


def test_equal_seeds_give_equal_scenes():
    first, again, other = (sc.draw_scene(seed, range(100, 106)) for seed in (5, 5, 6))
    for field in ("image", "masks", "species", "parts"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    assert (first.image != other.image).any()


def test_a_scene_does_not_depend_on_what_was_drawn_before():
    sc.make_species.cache_clear()
    cold = sc.draw_scene(9, sc.NOVEL_SPECIES)
    sc.target_scenes(2)
    np.testing.assert_array_equal(cold.image, sc.draw_scene(9, sc.NOVEL_SPECIES).image)


def test_a_species_is_drawn_from_its_number_alone():
    species = sc.make_species(123)
    sc.make_species.cache_clear()
    assert sc.make_species(123) == species
    assert sc.make_species(124) != species


@pytest.mark.parametrize(("a", "b"), combinations(RANGES, 2))
def test_ranges_of_species_are_disjoint(a: str, b: str):
    assert not set(RANGES[a]) & set(RANGES[b])


def test_no_trained_species_resembles_a_novel_one_by_inheritance():
    for number in sc.NOVEL_SPECIES:
        relatives = {number, sc.look_alike(number)} - {None}
        assert relatives <= set(sc.NOVEL_SPECIES)


def test_look_alikes_share_traits_but_are_not_the_same():
    for number in (*sc.NOVEL_SPECIES, *sc.DISTRACTOR_SPECIES):
        relative = sc.look_alike(number)
        if relative is None:
            continue
        species, model = sc.make_species(number), sc.make_species(relative)
        plain, model_plain = species.varieties[0], model.varieties[0]
        shared = [
            species.outline == model.outline,
            species.layout == model.layout,
            plain[1] == model_plain[1],
            (plain[0], plain[2]) == (model_plain[0], model_plain[2]),
        ]
        assert sum(shared) == 2


def test_members_of_a_species_differ():
    species = sc.make_species(sc.NOVEL_SPECIES[0])
    assert len(set(species.varieties)) == sc.VARIETIES


def test_names_are_unique_and_pronounceable():
    numbers = [number for numbers in RANGES.values() for number in numbers]
    names = {sc.species_name(number) for number in numbers}
    assert len(names) == len(numbers)
    assert all(name.isalpha() and len(name) == 6 for name in names)


def test_a_scene_is_consistent(drawn: list[sc.Scene]):
    for scene in drawn:
        assert scene.image.shape == (sc.SIDE, sc.SIDE, 3)
        assert scene.image.dtype == np.uint8
        assert scene.masks.shape == (len(scene.species), sc.SIDE, sc.SIDE)
        assert scene.masks.dtype == bool
        assert scene.masks.sum(0).max() <= 1, "visible masks overlap"
        np.testing.assert_array_equal(scene.parts > 0, scene.masks.any(0))


def test_objects_have_the_promised_sizes(drawn: list[sc.Scene]):
    longer = []
    for scene in drawn:
        for mask in scene.masks:
            assert mask.sum() >= sc.MIN_VISIBLE_PIXELS
            ys, xs = mask.nonzero()
            longer.append((max(np.ptp(xs), np.ptp(ys)) + 1) / sc.SIDE)
    # An occluded object may show less than its size, and soft edges add up to a pixel on either side.
    assert max(longer) <= sc.SIZES.most + 2 / sc.SIDE
    assert min(longer) < 0.08
    assert max(longer) > 0.25


def test_scenes_hold_groups_parts_and_neighbours(drawn: list[sc.Scene]):
    assert any(len(np.unique(scene.species)) < len(scene.species) for scene in drawn)
    assert all(1 <= len(scene.masks) <= 7 for scene in drawn)
    several = [len(np.unique(scene.parts[mask])) >= 2 for scene in drawn for mask in scene.masks]
    assert np.mean(several) > 0.8


def test_the_featured_object_comes_first_and_is_well_visible():
    number = sc.NOVEL_SPECIES[3]
    for scene in sc.reference_scenes(number, 10):
        assert scene.species[0] == number
        assert (scene.species == number).sum() == 1
        ys, xs = scene.masks[0].nonzero()
        assert max(np.ptp(xs), np.ptp(ys)) >= 0.04 * sc.SIDE


def test_benchmark_scenes_hold_novel_species_and_distractors(drawn: list[sc.Scene]):
    seen = np.concatenate([scene.species for scene in drawn])
    assert set(seen.tolist()) <= {*sc.NOVEL_SPECIES, *sc.DISTRACTOR_SPECIES}
    assert set(sc.NOVEL_SPECIES) <= set(seen.tolist())
    assert len(sc.NOVEL_SPECIES) >= 8
    assert len(sc.DISTRACTOR_SPECIES) >= 20


def test_a_small_set_of_targets_is_a_piece_of_a_larger_one(drawn: list[sc.Scene]):
    np.testing.assert_array_equal(sc.target_scenes(1, first=7)[0].image, drawn[7].image)


def test_coco_round_trip(tmp_path, drawn: list[sc.Scene], capsys):
    scenes = drawn[:4]
    path = sc.write_coco(tmp_path / "targets", scenes)
    coco = COCO(str(path))
    capsys.readouterr()
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == [sc.species_name(n) for n in sc.NOVEL_SPECIES]
    for image_id, scene in enumerate(scenes, start=1):
        file_name = coco.loadImgs(image_id)[0]["file_name"]
        np.testing.assert_array_equal(np.array(Image.open(path.parent / "data" / file_name)), scene.image)
        wanted = [i for i, number in enumerate(scene.species) if number in sc.NOVEL_SPECIES]
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert len(annotations) == len(wanted)
        for i, annotation in zip(wanted, annotations, strict=True):
            mask = coco.annToMask(annotation).astype(bool)
            np.testing.assert_array_equal(mask, scene.masks[i])
            assert sc.NOVEL_SPECIES[annotation["category_id"] - 1] == scene.species[i]
            ys, xs = mask.nonzero()
            assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0


def test_a_data_set_has_both_splits(tmp_path):
    paths = sc.write_data_set(tmp_path, targets=3, references_per_class=2)
    references = json.loads(paths["references"].read_text())
    assert len(references["images"]) == len(references["annotations"]) == 2 * len(sc.NOVEL_SPECIES)
    targets = json.loads(paths["targets"].read_text())
    assert len(targets["images"]) == 3
    # Distractors are distinguished from the background, and are no references.
    assert len(targets["annotations"]) == sum(len(scene.masks) for scene in sc.target_scenes(3))
    assert {c["id"] for c in references["categories"]} == set(range(1, 11))
