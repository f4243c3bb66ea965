"""Evaluation of predictors: the control with a wrong class, and the table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drawn_episodes import GROUPS, SPECIES

from nts.datasets.annotated_images import Annotation
from nts.datasets.episode_lists import EpisodeList, draw_lists, write_lists
from nts.datasets.episodes import Episode, EpisodeImages, draw_episodes, read_episodes, show_wrong_class
from nts.evaluation.episode_evaluation import evaluate_episodes
from nts.evaluation.predictor_evaluation import Row, evaluate_predictors
from nts.evaluation.predictor_table import PredictorTable
from nts.evaluation.predictors import PaintedInstances
from nts.evaluation.shared_encodings import SharedPipeline
from nts.metrics.miou import summarise_episodes
from synthetic.scenes import species_name


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
    for of_list in lists:
        path = tmp_path / "lists" / f"{of_list.group}-{of_list.shots}shot.json"
        assert read_episodes(path) == list(of_list.episodes)
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
