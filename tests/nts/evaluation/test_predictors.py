"""Predictors, simulated references, controls and the table of all predictors, on drawn images in memory."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nts.datasets.annotated_images import ANNOTATIONS, AnnotatedImages, Annotation, parse_annotations
from nts.datasets.episode_lists import EpisodeList, draw_lists, read_lists, write_lists
from nts.datasets.episodes import Episode, EpisodeImages, draw_episodes, show_wrong_class
from nts.evaluation.baselines import GeometricPrompts, ThresholdedPrior, target_prior
from nts.evaluation.episode_evaluation import evaluate_episodes
from nts.evaluation.predictor_evaluation import Row, evaluate_predictors
from nts.evaluation.predictor_table import PredictorTable
from nts.evaluation.predictors import PREDICTORS, PROMPTED, PaintedInstances, make_predictor
from nts.evaluation.shared_encodings import SharedEncodings, SharedPipeline
from nts.evaluation.thresholds import choose_threshold, choose_thresholds
from nts.images import normalise, stretch
from nts.metrics.miou import summarise_episodes
from nts.promotion import promote_boxes
from nts.references import Reference
from nts.vrp.loading import load_reference_prompt
from synthetic.episodes import drawn_images
from synthetic.scenes import NOVEL_SPECIES, VALIDATION_SPECIES, species_name

SPECIES = (*NOVEL_SPECIES[:3], *VALIDATION_SPECIES[:4:2])
GROUPS = {"novel": (1, 2, 3), "base": (4, 5)}


@pytest.fixture(scope="module")
def images() -> tuple[EpisodeImages, EpisodeImages]:
    return drawn_images(SPECIES, references_per_class=3, targets_per_class=3)


@pytest.fixture(scope="module")
def lists(images) -> list[EpisodeList]:
    return draw_lists(*images, GROUPS, shots=(1, 2), count=6)


@pytest.fixture
def encodings(small_encoder, small_segmenter) -> SharedEncodings:
    return SharedEncodings(small_encoder, small_segmenter)


# ----------------------------------------------------------------------------------------------------------------------
# Drawn images


def test_drawn_targets_hold_their_class_others_and_distractors_and_references_one_object(images):
    references, targets = images
    assert [c["name"] for c in references.dataset["categories"]] == [species_name(number) for number in SPECIES]
    assert len(references.dataset["images"]) == len(targets.dataset["images"]) == 15
    assert len(references.dataset["annotations"]) == 15
    shown = {image["id"]: [] for image in targets.dataset["images"]}
    for annotation in targets.dataset["annotations"]:
        shown[annotation["image_id"]].append(annotation["category_id"])
    of_class = [1 + i // 3 for i in range(15)]
    assert all(class_id in classes for class_id, classes in zip(of_class, shown.values(), strict=True))
    assert sum(len(classes) > len(set(classes)) for classes in shown.values()) > 4
    assert not shown.keys() & {image["id"] for image in references.dataset["images"]}


def test_a_drawn_image_is_the_same_whatever_the_numbers_of_images(images):
    more, _ = drawn_images(SPECIES, references_per_class=4, targets_per_class=1)
    again, _ = drawn_images(SPECIES, references_per_class=3, targets_per_class=1)
    other, _ = drawn_images(SPECIES, references_per_class=3, targets_per_class=1, seed=1)
    assert np.array_equal(again.image("reference 4"), images[0].image("reference 4"))
    assert np.array_equal(more.image("reference 5"), images[0].image("reference 4"))
    assert not np.array_equal(other.image("reference 4"), images[0].image("reference 4"))
    with pytest.raises(ValueError, match="must be different species"):
        drawn_images([SPECIES[0], SPECIES[0]])


# ----------------------------------------------------------------------------------------------------------------------
# Annotations


@pytest.mark.parametrize("annotation", ANNOTATIONS, ids=str)
def test_every_row_and_episode_sees_the_same_annotation_of_an_image(images, small_segmenter, annotation):
    references, _ = images
    first, again = (AnnotatedImages(references, annotation, segmenter=small_segmenter) for _ in range(2))
    again.reference("reference 7", 3)  # what was asked before changes nothing
    shown = [of.reference("reference 1", 1) for of in (first, again, first)]
    assert all(np.array_equal(shown[0].mask, other.mask) for other in shown)
    assert len({other.label_id for other in shown}) == 1
    assert shown[0].promoted is annotation.promoted
    assert shown[0].kind == annotation.kind
    if annotation.kind in ("point", "scribble"):
        other = AnnotatedImages(references, annotation, seed=1, segmenter=small_segmenter)
        if not annotation.promoted:
            assert not np.array_equal(other.reference("reference 1", 1).mask, shown[0].mask)


def test_annotations_have_ids_of_their_own_and_are_what_they_were_when_this_was_written(images):
    masks = AnnotatedImages(images[0], Annotation()).reference("reference 1", 1)
    assert masks.label_id == images[0].reference("reference 1", 1).label_id
    assert np.array_equal(masks.mask, images[0].mask("reference 1", 1))
    points = AnnotatedImages(images[0], Annotation("point")).reference("reference 1", 1)
    assert points.label_id == "reference 1/1/point"
    assert points.mask.sum() == 20
    assert not (points.mask & ~masks.mask).any()
    assert np.flatnonzero(points.mask)[:3].tolist() == [12578, 13096, 13352]


def test_a_promoted_box_is_nearer_to_the_mask_than_the_box(images, small_segmenter):
    def overlap(annotation: Annotation) -> float:
        shown = AnnotatedImages(images[0], annotation, segmenter=small_segmenter)
        found = []
        for image in images[0].dataset["annotations"]:
            mask = images[0].mask(image["image_id"], image["category_id"])
            marked = shown.reference(image["image_id"], image["category_id"]).mask
            found.append((mask & marked).sum() / (mask | marked).sum())
        return float(np.mean(found))

    assert overlap(Annotation("box", True)) > overlap(Annotation("box")) + 0.1


def test_a_reference_of_which_sam2_draws_nothing_is_shown_as_it_was_annotated(images, small_segmenter, monkeypatch):
    monkeypatch.setattr("nts.datasets.annotated_images.promote", lambda references, _: iter(references))
    shown = AnnotatedImages(images[0], Annotation("box", True), segmenter=small_segmenter)
    raw = AnnotatedImages(images[0], Annotation("box")).reference("reference 1", 1)
    for _ in range(2):
        assert np.array_equal(shown.reference("reference 1", 1).mask, raw.mask)
    assert shown.not_promoted == {"reference 1/1/box promoted"}


def test_annotations_are_told_in_words():
    assert parse_annotations(["box promoted", "mask", "mask"]) == (Annotation("box", True), Annotation())
    assert [Annotation.parse(str(annotation)) for annotation in ANNOTATIONS] == list(ANNOTATIONS)
    for words, message in (
        ("line", "no kind of annotation 'line'"),
        ("box drawn", "is not an annotation"),
        ("mask promoted", "cannot be promoted"),
    ):
        with pytest.raises(ValueError, match=message):
            Annotation.parse(words)
    with pytest.raises(ValueError, match="promoted by a segmenter, and there is none"):
        AnnotatedImages(None, Annotation("box", True))


# ----------------------------------------------------------------------------------------------------------------------
# The wrong class


def test_the_control_shows_another_class_on_other_images_and_always_the_same(images):
    references, targets = images
    episodes = draw_episodes(references.dataset, targets.dataset, (1, 2, 3), shots=2, seed=0, count=40)
    misled = show_wrong_class(episodes, references.dataset, (1, 2, 3), seed=0)
    for episode, instead in zip(episodes, misled, strict=True):
        assert instead.class_id != episode.class_id
        assert instead.class_id in (1, 2, 3)
        assert instead.target == episode.target
        assert len(set(instead.references)) == 2
        for image in instead.references:
            assert references.mask(image, instead.class_id).any()
            assert not references.mask(image, episode.class_id).any()
    assert show_wrong_class(episodes[5:7], references.dataset, (3, 2, 1), seed=0) == misled[5:7]
    assert show_wrong_class(episodes, references.dataset, (1, 2, 3), seed=1) != misled
    assert {instead.class_id for instead in misled} == {1, 2, 3}


def test_a_target_is_no_reference_of_the_wrong_class_and_a_lonely_class_is_told():
    dataset = {
        "annotations": [{"image_id": i, "category_id": c} for i, c in ((1, 1), (2, 1), (1, 2), (3, 2))],
    }
    (misled,) = show_wrong_class([Episode(1, 1, (2,))], dataset, (1, 2), seed=0)
    assert misled == Episode(2, 1, (3,))
    with pytest.raises(ValueError, match=r"no class but that of the episode \(category 1\) has 1 images"):
        show_wrong_class([Episode(1, 1, (2,))], dataset, (1,), seed=0)


def test_the_predictor_is_given_the_wrong_class_and_judged_by_the_right_one(images):
    references, targets = images
    episodes = draw_episodes(references.dataset, targets.dataset, (1, 2, 3), shots=1, seed=0, count=5)
    misled = show_wrong_class(episodes, references.dataset, (1, 2, 3), seed=0)
    names = []

    def predictor(shown, target):
        names.extend(reference.class_name for reference in shown)
        return np.ones(target.shape[:2], bool)

    outcomes = list(evaluate_episodes(episodes, references, targets, predictor, shown=misled))
    assert names == [species_name(SPECIES[episode.class_id - 1]) for episode in misled]
    for episode, outcome in zip(episodes, outcomes, strict=True):
        assert outcome.counts.intersection == targets.mask(episode.target, episode.class_id).sum()


# ----------------------------------------------------------------------------------------------------------------------
# Predictors


def test_the_thresholded_prior_is_the_cosine_to_the_patches_that_are_half_covered(encodings, small_encoder, images):
    reference = images[0].reference("reference 1", 1)
    target = images[1].image("target 1")
    grid = small_encoder.grid[0]

    def tokens(image):
        return small_encoder.encode(normalise(stretch(image, small_encoder.info.input_size))[None])[0].flatten(0, 1)

    covered = Image.fromarray(reference.mask.astype(np.float32)).resize((grid, grid), Image.Resampling.BOX)
    chosen = torch.from_numpy(np.array(covered) >= 0.5).flatten()
    assert 0 < chosen.sum() < 100
    cosine = torch.cosine_similarity(tokens(target)[:, None], tokens(reference.image)[chosen][None], dim=-1).amax(1)
    stretched = ((cosine - cosine.min()) / (cosine.max() - cosine.min() + 1e-7)).reshape(1, 1, grid, grid)
    expected = torch.nn.functional.interpolate(stretched, size=target.shape[:2], mode="bilinear")[0, 0]
    found = target_prior(encodings, [reference], target)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    masks = [ThresholdedPrior(encodings, threshold)([reference], target) for threshold in (0.5, 0.8)]
    assert masks[0].sum() > masks[1].sum() > 0
    assert not (masks[1] & ~masks[0]).any()


def test_a_single_point_of_a_reference_is_enough(encodings, images):
    reference = images[0].reference("reference 1", 1)
    for y, x in ((0, 0), (128, 7), (255, 255)):
        mask = np.zeros_like(reference.mask)
        mask[y, x] = True
        found = target_prior(encodings, [replace(reference, mask=mask, kind="point")], images[1].image("target 1"))
        assert found.max() > 0.5


def test_references_count_together_in_any_order(encodings, images):
    target = images[1].image("target 1")
    both = [images[0].reference(f"reference {n}", 1) for n in (1, 2)]
    apart = {reference.label_id: target_prior(encodings, [reference], target) for reference in both}
    together = target_prior(encodings, both, target)
    assert not any(torch.equal(together, alone) for alone in apart.values())
    torch.testing.assert_close(target_prior(encodings, both[::-1], target), together)


def test_images_seen_before_are_not_encoded_again_unless_memory_is_short(
    small_encoder, small_segmenter, images, monkeypatch
):
    encoded, original = [], type(small_encoder).encode
    monkeypatch.setattr(type(small_encoder), "encode", lambda self, x: encoded.append(1) or original(self, x))
    target = images[1].image("target 1")
    first, second = images[0].reference("reference 1", 1), images[0].reference("reference 4", 2)
    for budget, expected in ((1 << 30, 3), (1, 5)):
        encoded.clear()
        encodings = SharedEncodings(small_encoder, small_segmenter, budget)
        for reference in (first, second, first, second):
            ThresholdedPrior(encodings)([reference], target)
        assert len(encoded) == expected


@pytest.mark.parametrize("prompts", ["points", "box", "both"])
def test_sam2_is_prompted_with_what_it_was_told_to_be(encodings, prompts):
    pseudo_mask = np.zeros((40, 60), bool)
    pseudo_mask[10:20, 30:50] = True
    points, labels = GeometricPrompts(encodings, prompts).prompt(pseudo_mask)
    again, _ = GeometricPrompts(encodings, prompts).prompt(pseudo_mask)
    assert torch.equal(points, again)
    corners = points[labels != 1].tolist()
    assert corners == ([] if prompts == "points" else [[30, 10], [50, 20]])
    assert labels[labels != 1].tolist() == ([] if prompts == "points" else [2, 3])
    clicked = points[labels == 1]
    assert len(clicked) == (0 if prompts == "box" else 5)
    assert all(pseudo_mask[int(y), int(x)] for x, y in clicked.tolist())
    if prompts != "box":
        other, _ = GeometricPrompts(encodings, prompts, seed=1).prompt(pseudo_mask)
        assert not torch.equal(points, other)
        one = np.zeros_like(pseudo_mask)
        one[3, 4] = True
        assert [4.5, 3.5] in GeometricPrompts(encodings, prompts).prompt(one)[0].tolist()


def test_the_box_of_a_pseudo_mask_gives_the_mask_that_sam2_draws_for_that_box(encodings, small_segmenter, images):
    reference, target = images[0].reference("reference 1", 1), images[1].image("target 1")
    predictor = GeometricPrompts(encodings, "box", 0.9)
    pseudo_mask = ThresholdedPrior(encodings, 0.9)([reference], target)
    ys, xs = pseudo_mask.nonzero()
    box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
    found, expected = predictor([reference], target), promote_boxes(target, [box], small_segmenter).masks[0]
    assert (found & expected).sum() / (found | expected).sum() > 0.99


def test_nothing_alike_is_nothing_found(encodings, images, monkeypatch):
    target = images[1].image("target 1")
    monkeypatch.setattr("nts.evaluation.baselines.target_prior", lambda *_: torch.zeros(target.shape[:2]))
    for predictor in (ThresholdedPrior(encodings), GeometricPrompts(encodings, "both")):
        assert not predictor([images[0].reference("reference 1", 1)], target).any()


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_takes_references_of_every_kind(name, small_encoder, small_segmenter, images):
    prompt = load_reference_prompt("small") if name in PROMPTED else None
    predictor = make_predictor(name, small_encoder, small_segmenter, prompt=prompt)
    target = images[1].image("target 1")
    for annotation in ANNOTATIONS:
        shown = AnnotatedImages(images[0], annotation, segmenter=small_segmenter)
        found = predictor([shown.reference("reference 1", 1), shown.reference("reference 2", 1)], target)
        assert found.shape == target.shape[:2]
        assert found.dtype == bool


def test_a_predictor_without_its_prompt_is_refused(small_encoder, small_segmenter):
    for name in PROMPTED:
        with pytest.raises(ValueError, match=f"the predictor '{name}' needs a trained reference prompt"):
            make_predictor(name, small_encoder, small_segmenter)


def test_an_unknown_predictor_is_told(small_encoder, small_segmenter):
    with pytest.raises(ValueError, match="there is no predictor 'best'; there are training-free, prior, gp-sam-points"):
        make_predictor("best", small_encoder, small_segmenter)


# ----------------------------------------------------------------------------------------------------------------------
# Thresholds


def cut_at(images: EpisodeImages, best: float):
    """A predictor that is right at one threshold, and the worse the farther from it."""

    def make(threshold: float):
        def predictor(references: list[Reference], target: np.ndarray) -> np.ndarray:
            found = np.zeros(target.shape[:2], bool)
            found[: int(len(found) * (1 - abs(threshold - best)))] = True
            return found

        return predictor

    return make


def test_the_best_threshold_is_chosen_and_the_lower_of_equals(images):
    references, targets = images
    episodes = draw_episodes(references.dataset, targets.dataset, GROUPS["base"], shots=1, seed=0, count=6)
    whole = EpisodeImages(
        {
            **targets.dataset,
            "annotations": [
                {**a, "segmentation": {"size": [256, 256], "counts": [0, 256 * 256]}}
                for a in targets.dataset["annotations"]
            ],
        },
        pixels={i["id"]: targets.image(i["id"]) for i in targets.dataset["images"]},
    )
    best, found = choose_threshold(cut_at(targets, 0.6), [0.9, 0.6, 0.3], episodes, references, whole)
    assert best == 0.6
    assert found[0.6] == 1.0
    assert found[0.9] == found[0.3] == pytest.approx(0.7, abs=0.01)
    assert choose_threshold(cut_at(targets, 0.6), [0.9, 0.3], episodes, references, whole)[0] == 0.3
    with pytest.raises(ValueError, match="needs some to choose from"):
        choose_threshold(cut_at(targets, 0.6), [], episodes, references, whole)


def test_thresholds_are_chosen_by_the_episodes_given_alone(images, encodings):
    references, targets = images
    asked = set()

    def make(threshold: float):
        def predictor(shown, target):
            asked.update(reference.class_name for reference in shown)
            return ThresholdedPrior(encodings, threshold)(shown, target)

        return predictor

    episodes = draw_episodes(references.dataset, targets.dataset, GROUPS["base"], shots=1, seed=0, count=4)
    annotations = (Annotation(), Annotation("point"))
    chosen = choose_thresholds(make, (0.5, 0.75), episodes, references, targets, annotations)
    assert set(chosen) == set(annotations)
    assert asked <= {species_name(SPECIES[class_id - 1]) for class_id in GROUPS["base"]}


def test_a_threshold_goes_by_the_annotation(encodings, images):
    target = images[1].image("target 1")
    mask = images[0].reference("reference 1", 1)
    box = AnnotatedImages(images[0], Annotation("box")).reference("reference 1", 1)
    predictor = ThresholdedPrior(encodings, {Annotation(): 0.9, Annotation("box", True): 0.6})
    assert np.array_equal(predictor([mask], target), ThresholdedPrior(encodings, 0.9)([mask], target))
    assert np.array_equal(predictor([box], target), ThresholdedPrior(encodings, 0.6)([box], target))
    with pytest.raises(ValueError, match="no threshold for references annotated by a point"):
        predictor([replace(mask, kind="point")], target)


# ----------------------------------------------------------------------------------------------------------------------
# The table


def upper_half(references, target):
    found = np.zeros(target.shape[:2], bool)
    found[: len(found) // 2] = True
    return found


@pytest.fixture(scope="module")
def predictors_seen() -> list[tuple]:
    return []


@pytest.fixture(scope="module")
def table(images, lists, predictors_seen) -> PredictorTable:
    def watching(name):
        def predictor(references, target):
            predictors_seen.append((name, target.tobytes()[:64], [(r.label_id, r.mask.tobytes()) for r in references]))
            return upper_half(references, target)

        return predictor

    rows = {
        "half": Row(watching("half")),
        "the same": Row(watching("the same")),
        "misled": Row(watching("misled"), "wrong class"),
        "nothing": Row(lambda references, target: np.zeros(target.shape[:2], bool)),
    }
    annotations = (Annotation(), Annotation("point"))
    return evaluate_predictors(
        *images, lists, GROUPS, rows, annotations=annotations, against="half", draws=50, about={"seed": 0}
    )


def test_the_table_has_a_cell_for_everything(table, lists):
    assert len(table.cells) == 4 * 2 * 2 * 2
    for cell in table.cells:
        assert cell.episodes == 6
        assert set(cell.per_class) == {species_name(SPECIES[c - 1]) for c in GROUPS[cell.group]}
    assert set(table.seconds) == {"half", "the same", "misled", "nothing"}
    with pytest.raises(KeyError):
        table.cell("half", "mask", 7, "novel")


def test_figures_are_those_of_the_episodes_and_lie_within_their_intervals(table, images, lists):
    of_list = lists[0]
    outcomes = list(evaluate_episodes(of_list.episodes, *images, upper_half))
    names = {c["id"]: c["name"] for c in images[1].dataset["categories"] if c["id"] in GROUPS["novel"]}
    expected = summarise_episodes(
        [e.class_id for e in of_list.episodes], np.array([o.counts.numbers for o in outcomes]), names
    )
    cell = table.cell("half", "mask", of_list.shots, of_list.group)
    assert cell.figures["miou"].value == pytest.approx(100 * expected.miou)
    assert cell.figures["fb-iou"].value == pytest.approx(100 * expected.fb_iou)
    for cell in table.cells:
        for estimate in (*cell.figures.values(), *cell.differences.values()):
            assert estimate.low <= estimate.value <= estimate.high


def test_equal_predictors_differ_by_nothing_and_one_that_finds_nothing_is_worse(table):
    for cell in table.cells:
        if cell.row == "half":
            assert cell.differences == {}
        if cell.row == "the same":
            assert all((d.low, d.value, d.high, d.p_better) == (0, 0, 0, 0.5) for d in cell.differences.values())
        if cell.row == "nothing":
            assert cell.figures["miou"].value == 0
            less = cell.differences["miou"]
            assert less.high < 0
            assert less.p_better < 0.1
            half = table.cell("half", cell.annotation, cell.shots, cell.group)
            assert less.value == pytest.approx(-half.figures["miou"].value)


def test_every_row_is_shown_the_same_annotations_in_the_same_episodes(table, predictors_seen):
    of_row = {
        name: [seen[1:] for seen in predictors_seen if seen[0] == name] for name in ("half", "the same", "misled")
    }
    assert len(of_row["half"]) == 6 * 4 * 2
    assert of_row["half"] == of_row["the same"]
    assert [seen[0] for seen in of_row["half"]] == [seen[0] for seen in of_row["misled"]]
    for (_, right), (_, wrong) in zip(of_row["half"], of_row["misled"], strict=True):
        assert not {label for label, _ in right} & {label for label, _ in wrong}
    masks = {}
    for _, shown in of_row["half"] + of_row["misled"]:
        for label, mask in shown:
            assert masks.setdefault(label, mask) == mask


def test_a_table_survives_its_json_and_is_told_in_markdown(table):
    text = table.to_json()
    assert PredictorTable.from_json(text) == table
    broken = json.loads(text)
    del broken["cells"][0]["row"]
    for damaged in (json.dumps(broken), "[]", "no json"):
        with pytest.raises(ValueError, match="this is not a table of predictors"):
            PredictorTable.from_json(damaged)
    markdown = table.to_markdown()
    assert "### novel classes, 1 reference (6 episodes)" in markdown
    assert "### base classes, 2 references (6 episodes)" in markdown
    assert "| mIoU | mask | point |" in markdown
    assert "less that of *half*" in markdown
    assert "| the same | +0.0 (+0.0 to +0.0) |" in markdown


def test_a_class_without_an_episode_and_a_broken_image_are_told(images, lists):
    references, targets = images
    broken = EpisodeImages(
        {**targets.dataset, "images": [{**image, "path": "/gone.png"} for image in targets.dataset["images"]]}
    )
    of_class = [e for e in lists[0].episodes if e.class_id == lists[0].episodes[0].class_id]
    one = [EpisodeList("novel", 1, tuple(of_class))]
    table = evaluate_predictors(references, broken, one, GROUPS, {"half": Row(upper_half)}, draws=5)
    cell = table.cells[0]
    assert sum(value is None for value in cell.per_class.values()) == 2
    assert cell.figures["miou"].value == 0
    assert len(table.skipped) == len(of_class)
    assert "the image /gone.png does not exist" in table.skipped[0]
    assert "No episode, novel, 1 shots: " in table.to_markdown()
    assert PredictorTable.from_json(table.to_json()) == table


def test_lists_are_drawn_once_and_survive_their_files(images, lists, tmp_path):
    assert draw_lists(*images, GROUPS, shots=(1, 2), count=6) == lists
    write_lists(tmp_path / "lists", lists)
    assert read_lists(tmp_path / "lists") == sorted(lists, key=lambda of_list: (of_list.group, of_list.shots))
    with pytest.raises(ValueError, match="there are no lists of episodes"):
        read_lists(tmp_path)
    with pytest.raises(ValueError, match="the base classes: no class has a target image and 9 other images"):
        draw_lists(*images, {"base": (4, 5)}, shots=[9])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"against": "best"}, "there is no row 'best' to compare with; there are half"),
        ({"lists": [EpisodeList("novel", 1, ())]}, "the novel classes, 1 shots, has no episode"),
        ({"lists": [EpisodeList("novel", 1, (Episode(5, "target 1", ("reference 1",)),))]}, r"categories \[5\]"),
    ],
)
def test_a_table_that_cannot_be_made_is_refused(images, lists, changes, message):
    options = {"lists": lists, "groups": GROUPS, "rows": {"half": Row(upper_half)}} | changes
    with pytest.raises(ValueError, match=message):
        evaluate_predictors(*images, **options)


def test_the_training_free_pipeline_beats_itself_misled(images, small_encoder, small_segmenter):
    lists = draw_lists(*images, {"novel": GROUPS["novel"]}, shots=[1], count=8)
    predictor = PaintedInstances(SharedPipeline(small_encoder, small_segmenter))
    rows = {"right": Row(predictor), "misled": Row(predictor, "wrong class")}
    table = evaluate_predictors(*images, lists, GROUPS, rows, draws=5)
    right, misled = (cell.figures["miou"].value for cell in table.cells)
    assert right > misled + 10
