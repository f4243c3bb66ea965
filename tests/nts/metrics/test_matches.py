"""Matching equals a direct loop; single images equal the whole; storage is lossless."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from coco_cases import box_rle, draw_case
from pycocotools import mask as coco_mask

from nts.metrics.average_precision import accumulate
from nts.metrics.matches import Matches, assign, concatenate, match, match_image


def same(a: Matches, b: Matches, but: tuple[str, ...] = ()) -> None:
    """Assert that two matches are equal in every field."""
    for name in (field.name for field in fields(Matches) if field.name not in but):
        first, second = getattr(a, name), getattr(b, name)
        if isinstance(first, np.ndarray):
            assert first.dtype == second.dtype, name
            np.testing.assert_array_equal(first, second, name)
        else:
            assert first == second, name


def assign_slowly(iou, crowd, ignored, threshold) -> list[int]:
    """One image, class, area and threshold: predictions are rows of `iou` by decreasing score."""
    taken, answer = set(), []
    for row in iou:
        best = -1
        for kind in (False, True):
            for target, value in enumerate(row):
                free = target not in taken and ignored[target] == kind
                if free and value >= min(threshold, 1 - 1e-10) and (best < 0 or value >= row[best]):
                    best = target
            if best >= 0:
                break
        if best >= 0 and not crowd[best]:
            taken.add(best)
        answer.append(best)
    return answer


@pytest.mark.parametrize("seed", range(20))
def test_assignment_equals_a_slow_loop(seed):
    rng = np.random.default_rng(seed)
    thresholds = np.array([0.5, 0.7, 1.0])
    groups = [(int(rng.integers(0, 9)), int(rng.integers(0, 6))) for _ in range(12)]
    ious = [rng.choice([0.0, 0.5, 0.6, 0.7, 0.9, 1.0], shape) for shape in groups]
    rows, columns = (np.cumsum([0, *(shape[side] for shape in groups)]) for side in (0, 1))
    crowd = rng.random(columns[-1]) < 0.2
    ignored = (rng.random((2, columns[-1])) < 0.3) | crowd
    edges = [np.argwhere(iou >= 0.5) for iou in ious]
    prediction = np.concatenate([edge[:, 0] + row for edge, row in zip(edges, rows, strict=False)])
    target = np.concatenate([edge[:, 1] + column for edge, column in zip(edges, columns, strict=False)])
    iou = np.concatenate([iou[tuple(edge.T)] for iou, edge in zip(ious, edges, strict=True)])
    group = np.repeat(np.arange(len(groups)), [shape[0] for shape in groups])
    shuffled = rng.permutation(len(iou))

    found = assign(prediction[shuffled], target[shuffled], iou[shuffled], group, crowd, ignored, thresholds)
    for a in range(2):
        for t, threshold in enumerate(thresholds):
            expected = []
            for i, values in enumerate(ious):
                of_group = slice(columns[i], columns[i + 1])
                answer = assign_slowly(values, crowd[of_group], ignored[a, of_group], threshold)
                expected += [column + columns[i] if column >= 0 else -1 for column in answer]
            assert found[a, t].tolist() == expected


@pytest.mark.parametrize("iou_type", ["boxes", "masks"])
@pytest.mark.parametrize("seed", [0, 3, 7, 10, 11, 29, 31])
def test_images_one_by_one_equal_the_whole(seed, iou_type):
    ground_truth, results = draw_case(seed)
    whole = match(ground_truth, results, iou_type=iou_type)
    parts, rows, annotation_rows = [], [], []
    for image in ground_truth["images"]:
        of_image = [i for i, a in enumerate(ground_truth["annotations"]) if a["image_id"] == image["id"]]
        found = [i for i, r in enumerate(results) if r["image_id"] == image["id"]]
        annotations = [ground_truth["annotations"][i] for i in of_image]
        of_results = [results[i] for i in found]
        parts.append(match_image(annotations, of_results, [3, 17, 90], whole.classes, image["id"], iou_type))
        rows += found
        annotation_rows += of_image
    together = concatenate(parts)
    rows, annotation_rows = np.array(rows, np.int64), np.array(annotation_rows, np.int64)
    renumbered = replace(
        together,
        result=rows[together.result],
        annotation=annotation_rows[together.annotation],
        matched=np.append(annotation_rows, -1)[together.matched].astype(np.int32),
    )
    same(whole, renumbered)
    same(together, concatenate([concatenate(parts[:2]), *([concatenate(parts[2:])] if parts[2:] else [])]))


@pytest.mark.parametrize("seed", [0, 1, 3, 11, 29, 31])
def test_stored_matches_come_back_whole(seed):
    matches = match(*draw_case(seed), iou_type="masks")
    data = matches.to_bytes()
    same(matches, Matches.from_bytes(data))
    halved = replace(matches, score=matches.score.astype(np.float32).astype(np.float64))
    same(halved, Matches.from_bytes(halved.to_bytes()))


def test_rows_lead_back_to_results_and_annotations():
    ground_truth, results = draw_case(5)
    matches = match(ground_truth, results, [17, 90], "boxes")
    assert matches.results == len(results)
    assert matches.annotations == len(ground_truth["annotations"])
    for i in range(len(matches)):
        result = results[matches.result[i]]
        assert result["score"] == matches.score[i]
        assert result["image_id"] == matches.image_ids[matches.image[i]]
        assert f"class {result['category_id']}" == matches.classes[matches.label[i]]
        if (row := matches.matched[0, 0, i]) >= 0:
            annotation = ground_truth["annotations"][row]
            assert annotation["category_id"] == result["category_id"]
            iou = coco_mask.iou([result["bbox"]], [annotation["bbox"]], [annotation["iscrowd"]])
            assert iou[0, 0] >= 0.5


def test_at_most_so_many_results_of_a_class_and_image():
    ground_truth, results = draw_case(11)
    matches = match(ground_truth, results, iou_type="boxes")
    assert len(matches) < len(results)
    assert matches.rank.max() == 99
    fewer = match(ground_truth, results, iou_type="boxes", max_detections=10)
    assert fewer.rank.max() == 9
    np.testing.assert_array_equal(
        accumulate(fewer, (1, 10)).precision, accumulate(matches, (1, 10, 100)).precision[..., :2]
    )
    with pytest.raises(ValueError, match="at most 10 predictions per class and image"):
        accumulate(fewer)


def test_an_annotation_with_the_id_zero_and_ids_as_words_can_be_found():
    annotation = {"id": 0, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    result = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "score": 0.5}
    for annotation_id in (0, "first"):
        matches = match_image([annotation | {"id": annotation_id}], [result], [1], ["a"], 1, "boxes")
        assert matches.matched[0, :, 0].tolist() == [0] * 10


def test_polygons_uncompressed_rle_and_boxes_alone_are_masks():
    box = [4.0, 6.0, 20.0, 10.0]
    polygon = [[4, 6, 4, 16, 24, 16, 24, 6]]
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[6:16, 4:24] = 1
    runs = np.diff([0, *np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0)), mask.size]).tolist()
    shapes = [
        {"segmentation": polygon},
        {"segmentation": {"size": [30, 40], "counts": runs}},
        {"segmentation": coco_mask.encode(mask)},
        {"bbox": box},
    ]
    for truth in shapes:
        for found in shapes:
            matches = match_image(
                [{"id": 1, "category_id": 1, "iscrowd": 0, **truth}],
                [{"category_id": 1, "score": 0.5, **found}],
                [1],
                ["a"],
                "image",
                "masks",
                image_size=(30, 40),
            )
            assert (matches.matched[0] == 0).all()
            assert not matches.ignored[1].any(), "200 pixels are small"
            assert matches.ignored[2].all(), "and not medium: without a stated area that of the mask counts"
    boxes = match_image(
        [{"id": 1, "category_id": 1, "bbox": box}],
        [{"category_id": 1, "score": 0.5, "segmentation": coco_mask.encode(mask)}],
        [1],
        ["a"],
        "image",
        "boxes",
    )
    assert (boxes.matched[0] == 0).all()
    with pytest.raises(ValueError, match="image 'image' has polygons, but neither height nor width"):
        match_image([{"category_id": 1, "segmentation": polygon}], [], [1], ["a"], "image", "masks")


def test_no_polygon_at_all_is_an_empty_mask():
    empty = {"category_id": 1, "segmentation": [], "iscrowd": 0}
    matches = match_image([empty], [empty | {"score": 0.5}], [1], ["a"], 1, "masks", image_size=(9, 9))
    assert (matches.matched == -1).all()


def test_numbers_and_words_as_ids_stay_apart():
    images = [{"id": image_id, "height": 9, "width": 9} for image_id in ("10", 10, "9", 9)]
    ground_truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    assert match(ground_truth, []).image_ids == (9, 10, "10", "9")


def test_invalid_matches_are_refused():
    ground_truth, results = draw_case(1)
    image_id = results[0]["image_id"]
    for score in (math.nan, math.inf):
        with pytest.raises(ValueError, match=f"a result in image {image_id!r} has the score {score}"):
            match(ground_truth, [results[0] | {"score": score}])
    with pytest.raises(ValueError, match=f"an object in image {image_id!r} has the box .*nan"):
        match(ground_truth, [results[0] | {"bbox": [0, 0, math.nan, 3]}], iou_type="boxes")
    annotation = ground_truth["annotations"][0]
    wrong_size = {"image_id": annotation["image_id"], "category_id": annotation["category_id"], "score": 1.0}
    wrong_size["segmentation"] = box_rle(annotation["bbox"], side=200)
    with pytest.raises(ValueError, match=f"masks of image {annotation['image_id']!r} differ in size"):
        match(ground_truth, [wrong_size])
    twins = {**ground_truth, "categories": [{"id": i, "name": "twin"} for i in (3, 17, 90)]}
    with pytest.raises(ValueError, match="names of classes must be unique"):
        match(twins, results)
    with pytest.raises(ValueError, match="no class to evaluate"):
        match(ground_truth, results, [])
    with pytest.raises(ValueError, match="class_ids must ascend"):
        match_image([], [], [3, 1], ["a", "b"], 1, "boxes")


def test_parts_that_do_not_belong_together_are_refused():
    one = match_image([], [], [1], ["a"], 1, "boxes")
    with pytest.raises(ValueError, match="no image"):
        concatenate([])
    with pytest.raises(ValueError, match="the image 1 is in more than one part"):
        concatenate([one, one])
    with pytest.raises(ValueError, match="parts differ in classes"):
        concatenate([one, match_image([], [], [1], ["b"], 2, "boxes")])
    with pytest.raises(ValueError, match="parts differ in iou_type"):
        concatenate([one, match_image([], [], [1], ["a"], 2, "masks")])
    with pytest.raises(ValueError, match="parts differ in max_detections: 100 and 300"):
        concatenate([one, match_image([], [], [1], ["a"], 2, "boxes", max_detections=300)])
    two = match_image([], [], [1], ["a"], 2, "boxes")
    with pytest.raises(ValueError, match="parts differ in iou_thresholds"):
        concatenate([one, replace(two, iou_thresholds=two.iou_thresholds + 0.01)])
