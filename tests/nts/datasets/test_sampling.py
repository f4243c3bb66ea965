"""Draws of references: the exact published rule, LVIS's repetitions, shot files, and the stratified draw."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from paths import ROOT
from tiny_layouts import is_drawn, tiny

from nts.datasets.layouts import load
from nts.datasets.protocol_data import protocol_data
from nts.datasets.protocols import PROTOCOLS, get_protocol
from nts.datasets.sampling import (
    Candidate,
    candidate_key,
    draw_references,
    qualifies,
    sample_references,
    stratified_sample,
)

DRAWN = [name for name, protocol in PROTOCOLS.items() if is_drawn(protocol) and protocol.draw != "episodes"]


def made_up(boxes_by_class: dict[int, list[tuple]], size: int = 200) -> dict:
    """Dataset with one image per box and classes named `c<id>`."""
    rows = [(class_id, box) for class_id, boxes in boxes_by_class.items() for box in boxes]
    return {
        "images": [{"id": k, "width": size, "height": size, "file_name": f"{k}.jpg"} for k in range(len(rows))],
        "annotations": [
            {"id": k + 1, "image_id": k, "category_id": class_id, "bbox": list(box), "iscrowd": 0, "area": 1.0}
            for k, (class_id, box) in enumerate(rows)
        ],
        "categories": [{"id": class_id, "name": f"c{class_id}"} for class_id in boxes_by_class],
    }


GOOD, SMALL, NEAR = (50, 50, 60, 60), (50, 50, 31, 60), (9, 50, 60, 60)


class TestPublished:
    def test_the_rule_is_the_published_one_written_out(self):
        """One CPython generator for all classes; classes by first appearance, shuffled and taken in order."""
        data = load(get_protocol("coco-fsod"), tiny("coco"))
        names = {c["id"]: c["name"] for c in data.references["categories"]}
        sizes = {i["id"]: (i["width"], i["height"]) for i in data.references["images"]}
        for seed in (33, 42):
            random.seed(seed)
            by_class: dict[int, list[dict]] = {}
            for a in data.references["annotations"]:
                if names[a["category_id"]] in get_protocol("coco-fsod").novel_classes:
                    by_class.setdefault(a["category_id"], []).append(a)
            expected = {}
            for class_id, of_class in by_class.items():
                random.shuffle(of_class)
                images, expected[class_id] = set(), []
                for a in of_class:
                    (x, y, w, h), (width, height) = a["bbox"], sizes[a["image_id"]]
                    valid = not a["iscrowd"] and w >= 32 and h >= 32 and x >= 10 and y >= 10
                    valid = valid and x + w <= width - 10 and y + h <= height - 10
                    if valid and a["image_id"] not in images and len(expected[class_id]) < 2:
                        images.add(a["image_id"])
                        expected[class_id].append(a["id"])
            drawn = draw_references(get_protocol("coco-fsod"), data, 2, seed)
            assert {class_id: [a["id"] for a in of_class] for class_id, of_class in drawn.items()} == expected
            assert list(drawn) == list(by_class)

    def test_the_draw_hangs_on_the_order_of_the_file_and_the_set_of_classes(self):
        dataset = made_up({3: [GOOD] * 6, 5: [GOOD] * 6, 8: [GOOD] * 6})
        backwards = {**dataset, "annotations": dataset["annotations"][::-1]}
        drawn = sample_references(dataset, 3, 33)
        assert list(drawn) == [3, 5, 8]
        assert list(sample_references(backwards, 3, 33)) == [8, 5, 3]
        assert sample_references(dataset, 3, 33, [5, 8])[8] != drawn[8]
        assert sample_references(dataset, 3, 33) == drawn

    @pytest.mark.parametrize(
        ("box", "may"),
        [
            ((10, 10, 32, 32), True),
            ((10, 10, 31.9, 32), False),
            ((10, 10, 32, 31.9), False),
            ((9.9, 10, 32, 32), False),
            ((10, 9.9, 32, 32), False),
            ((158, 58, 32, 32), True),
            ((158.1, 58, 32, 32), False),
            ((58, 58.1, 32, 32), False),
        ],
    )
    def test_a_reference_is_32_pixels_and_10_from_the_border(self, box, may):
        assert qualifies({"bbox": box}, 200, 100) is may
        assert not qualifies({"bbox": box, "iscrowd": 1}, 200, 100)

    def test_a_class_without_annotations_is_named(self):
        dataset = made_up({3: [GOOD], 5: []})
        with pytest.raises(ValueError, match="no annotation at all of 'c5'"):
            sample_references(dataset, 1, 33)


class TestLvis:
    def test_too_few_that_qualify_are_repeated_in_turn(self):
        dataset = made_up({1: [SMALL, GOOD, NEAR, GOOD], 2: [GOOD] * 9})
        drawn = sample_references(dataset, 5, 42, too_few="repeat")
        a, b = drawn[1][:2]
        assert a != b
        assert drawn[1] == [a, b, a, b, a]
        assert all(tuple(annotation["bbox"]) == GOOD for annotation in drawn[1])
        assert len({annotation["id"] for annotation in drawn[2]}) == 5

    def test_without_any_that_qualifies_the_first_of_the_shuffled_list_are_taken(self):
        dataset = made_up({1: [SMALL, NEAR, SMALL, NEAR]})
        shuffled = list(dataset["annotations"])
        random.Random(42).shuffle(shuffled)
        assert sample_references(dataset, 3, 42, too_few="repeat") == {1: shuffled[:3]}
        assert sample_references(dataset, 6, 42, too_few="repeat") == {1: shuffled + shuffled[:2]}

    def test_the_drawn_data_set_has_both_cases(self):
        protocol = get_protocol("lvis")
        data = load(protocol, tiny("lvis"))
        names = {c["id"]: c["name"] for c in data.references["categories"]}
        sizes = {i["id"]: (i["width"], i["height"]) for i in data.references["images"]}
        drawn = draw_references(protocol, data, 3, 42)
        assert {len(of_class) for of_class in drawn.values()} == {3}
        valid = {
            names[class_id]: [qualifies(a, *sizes[a["image_id"]]) for a in of_class]
            for class_id, of_class in drawn.items()
        }
        distinct = {names[class_id]: len({a["id"] for a in of_class}) for class_id, of_class in drawn.items()}
        assert (distinct.pop("gargoyle"), valid.pop("gargoyle")) == (1, [True] * 3)
        assert valid.pop("hornet") == [False] * 3
        assert all(all(of_class) for of_class in valid.values())


class TestShotFiles:
    @pytest.mark.parametrize("shots", [1, 5, 10])
    def test_every_annotation_of_the_file_is_used_once(self, shots):
        protocol = get_protocol("cd-fsod-clipart1k")
        folder = tiny("cd-fsod")
        drawn = draw_references(protocol, load(protocol, folder), shots, 0)
        file = json.loads((folder / "clipart1k" / "annotations" / f"{shots}_shot.json").read_text())
        found = Counter((c, tuple(a["bbox"])) for c, annotations in drawn.items() for a in annotations)
        assert found == Counter((a["category_id"], tuple(a["bbox"])) for a in file["annotations"])
        assert [len(of_class) for of_class in drawn.values()] == [shots, shots, shots, min(shots, 7)]

    def test_28_two_objects_of_a_class_in_one_image_are_two_references(self):
        protocol = get_protocol("cd-fsod-deepfish")
        (of_class,) = draw_references(protocol, load(protocol, tiny("cd-fsod")), 10, 0).values()
        assert len({a["id"] for a in of_class}) == 10
        assert max(Counter(a["image_id"] for a in of_class).values()) > 1
        assert min(min(a["bbox"][2:]) for a in of_class) < 32

    def test_a_class_that_a_shot_file_lacks_is_named(self):
        dataset = made_up({1: [GOOD], 2: [GOOD]})
        for annotation, shots in zip(dataset["annotations"], (5, 1), strict=True):
            annotation["shots"] = shots
        data = protocol_data(dataset, dataset, None)
        with pytest.raises(ValueError, match="the shot file of 5 shots has no annotation of 'c2'"):
            draw_references(get_protocol("cd-fsod-deepfish"), data, 5, 0)

    def test_other_shots_than_there_are_files_are_refused(self):
        protocol = get_protocol("cd-fsod-deepfish")
        with pytest.raises(ValueError, match="no shot file of 3 shots, only of 1, 5, 10"):
            draw_references(protocol, load(protocol, tiny("cd-fsod")), 3, 0)


class TestStratified:
    @staticmethod
    def candidates(seed: int = 0, images: int = 8, per_class: int = 24) -> list[Candidate]:
        rng = np.random.default_rng(seed)
        return [
            Candidate(f"{name}{k}", name, f"image {rng.integers(images)}", float(rng.lognormal()))
            for name in "abc"
            for k in range(per_class)
        ]

    def test_the_order_in_which_candidates_come_does_not_matter_and_the_seed_does(self):
        candidates = self.candidates()
        draw = stratified_sample(candidates, 5, 3)
        shuffled = [candidates[i] for i in np.random.default_rng(1).permutation(len(candidates))]
        assert stratified_sample(shuffled, 5, 3) == draw
        assert len({stratified_sample(candidates, 5, seed).chosen["a"] for seed in range(10)}) > 5

    @pytest.mark.parametrize("shots", [1, 2, 5, 8])
    def test_a_class_has_one_object_per_image_while_there_are_images(self, shots):
        for seed in range(10):
            candidates = self.candidates(seed)
            draw = stratified_sample(candidates, shots, seed)
            for name, of_class in draw.chosen.items():
                assert len(of_class) == len({c.key for c in of_class}) == shots
                images = {c.image for c in candidates if c.class_name == name}
                assert len({c.image for c in of_class}) == min(shots, len(images))
            assert draw.too_few == {}

    def test_when_images_are_used_up_objects_of_used_images_are_taken(self):
        draw = stratified_sample(self.candidates(images=2), 5, 3)
        for of_class in draw.chosen.values():
            assert len(of_class) == 5
            assert len({c.image for c in of_class}) == 2

    def test_every_size_is_there_when_no_image_stands_in_the_way(self):
        candidates = [Candidate(str(k), "a", str(k), float(k)) for k in range(40)]
        for seed in range(20):
            sizes = [c.size for c in stratified_sample(candidates, 4, seed).chosen["a"]]
            assert [int(size // 10) for size in sizes] == [0, 1, 2, 3]

    def test_too_few_are_all_taken_and_told(self):
        candidates = self.candidates(per_class=4) + [Candidate(f"d{k}", "d", "image 0", 1.0) for k in range(9)]
        draw = stratified_sample(candidates, 6, 0)
        assert draw.too_few == {"a": 4, "b": 4, "c": 4}
        assert {c.key for c in draw.chosen["a"]} == {"a0", "a1", "a2", "a3"}
        assert len(draw.chosen["d"]) == 6

    def test_one_class_does_not_move_another(self):
        candidates = self.candidates()
        alone = stratified_sample([c for c in candidates if c.class_name == "b"], 5, 3)
        assert alone.chosen["b"] == stratified_sample(candidates, 5, 3).chosen["b"]

    def test_impossible_draws_are_refused(self):
        with pytest.raises(ValueError, match="shots must be at least 1, got 0"):
            stratified_sample([], 0, 1)
        with pytest.raises(ValueError, match="1 candidates have the key of another"):
            stratified_sample([Candidate("a", "x", "1", 1.0), Candidate("a", "y", "2", 1.0)], 1, 1)
        assert stratified_sample([], 1, 1).chosen == {}


class TestStratifiedReferences:
    def test_numbers_of_classes_and_other_classes_do_not_matter(self):
        """The draw depends on the name of a class, as the protocol's text says."""
        boxes = [(10 + k, 10, 20 + k, 30) for k in range(9)]
        dataset = made_up({1: boxes, 2: boxes})
        renumbered = json.loads(json.dumps(dataset))
        for annotation in renumbered["annotations"]:
            annotation["category_id"] = {1: 7, 2: 3}[annotation["category_id"]]
            annotation["id"] += 1
        box = {"image_id": 0, "bbox": [5, 5, 9, 9], "iscrowd": 0, "area": 81.0}
        renumbered["annotations"].insert(0, {"id": 1, "category_id": 1, **box})
        renumbered["categories"] = [{"id": c, "name": name} for c, name in ((1, "other"), (7, "c1"), (3, "c2"))]
        for seed in range(5):
            one, other = (
                draw_references(get_protocol("custom"), protocol_data(d, d, ["c1", "c2"]), 3, seed)
                for d in (dataset, renumbered)
            )
            for mine, theirs in ((1, 7), (2, 3)):
                assert [a["image_id"] for a in one[mine]] == [a["image_id"] for a in other[theirs]]

    def test_relative_boxes_a_pixel_apart_have_keys_of_their_own(self):
        """Numbered keys would depend on the order of the labels."""
        first = candidate_key("a.jpg", "cat", (0.1000, 0.1, 0.2, 0.2), {})
        assert candidate_key("a.jpg", "cat", (0.1002, 0.1, 0.2, 0.2), {}) != first

    def test_ids_and_order_of_a_data_set_do_not_matter_and_crowds_are_not_drawn(self):
        protocol = get_protocol("custom")
        dataset = made_up({1: [(10 + k, 10, 20 + k, 30) for k in range(9)], 2: [GOOD] * 4})
        for annotation in dataset["annotations"]:
            annotation["area"] = annotation["bbox"][2]
        dataset["annotations"][0]["iscrowd"] = 1
        renumbered = json.loads(json.dumps(dataset))
        for image in renumbered["images"]:
            image["id"] = f"id {image['id']}"
        for annotation in renumbered["annotations"]:
            annotation |= {"id": 1000 - annotation["id"], "image_id": f"id {annotation['image_id']}"}
        renumbered["annotations"].reverse()
        one, other = (draw_references(protocol, protocol_data(d, d, None), 8, 5) for d in (dataset, renumbered))
        assert [a["bbox"] for a in one[1]] == [a["bbox"] for a in other[1]]
        assert {class_id: len(of_class) for class_id, of_class in one.items()} == {1: 8, 2: 4}
        assert all(not a["iscrowd"] for a in one[1])

    def test_equal_objects_are_drawn_once_each(self):
        dataset = made_up({1: [GOOD]})
        dataset["annotations"].append({**dataset["annotations"][0], "id": 2})
        drawn = draw_references(get_protocol("custom"), protocol_data(dataset, dataset, None), 2, 5)
        assert {a["id"] for a in drawn[1]} == {1, 2}

    def test_a_class_without_objects_is_named(self):
        dataset = made_up({1: [GOOD], 2: []})
        with pytest.raises(ValueError, match="no annotation at all of 'c2'"):
            draw_references(get_protocol("custom"), protocol_data(dataset, dataset, ["c1", "c2"]), 1, 5)


@pytest.mark.parametrize("name", DRAWN)
def test_every_protocol_draws_references_of_the_classes_it_evaluates(name):
    protocol = get_protocol(name)
    data = load(protocol, tiny(protocol.layout))
    for seed in protocol.seeds[:2]:
        drawn = draw_references(protocol, data, 1, seed)
        assert sorted(drawn) == list(data.class_ids)
        images = {image["id"] for image in data.references["images"]}
        for class_id, of_class in drawn.items():
            assert [a["category_id"] for a in of_class] == [class_id]
            assert of_class[0]["image_id"] in images
    with pytest.raises(ValueError, match="at least 1"):
        draw_references(protocol, data, 0, 1)


def test_a_novel_class_gives_references_of_several_images():
    protocol = get_protocol("coco-fsod")
    data = load(protocol, tiny("coco"))
    drawn = {seed: draw_references(protocol, data, 2, seed) for seed in protocol.seeds}
    for draw in drawn.values():
        assert all(len({a["image_id"] for a in of_class}) == 2 for of_class in draw.values())
    with pytest.raises(ValueError, match="are needed"):
        draw_references(protocol, data, 30, 33)


def test_episodes_have_no_references_beforehand():
    protocol = get_protocol("coco-20i-0")
    with pytest.raises(ValueError, match="with every episode"):
        draw_references(protocol, load(protocol, tiny("coco")), 1, 0)


def test_draws_are_the_same_in_another_process_with_another_hash_seed():
    """Draws must not depend on the order of a set, or on the process."""
    program = """
from nts.datasets.sampling import Candidate, sample_references, stratified_sample
rows = [{"id": k, "image_id": k, "category_id": k % 3, "bbox": [20, 20, 60, 60]} for k in range(60)]
dataset = {
    "images": [{"id": k, "width": 99, "height": 99} for k in range(60)],
    "annotations": rows, "categories": [{"id": c, "name": str(c)} for c in range(3)],
}
print([[a["id"] for a in of_class] for of_class in sample_references(dataset, 5, 33).values()])
candidates = [Candidate(str(k), str(k % 3), str(k % 11), k * 7 % 13) for k in range(60)]
print([[c.key for c in of_class] for of_class in stratified_sample(candidates, 5, 33).chosen.values()])
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    published = [[33, 0, 3, 18, 9], [7, 37, 10, 55, 4], [44, 23, 5, 50, 56]]
    stratified = [["39", "30", "36", "18", "33"], ["28", "34", "25", "16", "22"], ["56", "47", "53", "5", "50"]]
    assert outputs == {f"{published}\n{stratified}\n"}
