"""Draws of episodes: reproducible on every machine, and disjoint."""

from __future__ import annotations

import json

import pytest

from nts.datasets.episodes import Episode, draw_episodes, read_episodes, write_episodes


def dataset_of(classes_of_images: list[set[int]]) -> dict:
    annotations = [
        {"id": 100 * i + c, "image_id": i, "category_id": c} for i, cs in enumerate(classes_of_images) for c in cs
    ]
    categories = [{"id": c, "name": f"class {c}"} for c in sorted(set().union(*classes_of_images))]
    return {"images": [{"id": i} for i in range(len(classes_of_images))], "annotations": annotations} | {
        "categories": categories
    }


def test_a_draw_is_stable_and_independent_of_the_order_of_the_file():
    dataset = dataset_of([{1, 2}, {1}, {2, 3}, {1, 3}, {2}, {1, 2, 3}, {3}, {1}])
    episodes = draw_episodes(dataset, dataset, [1, 2, 3], shots=2, seed=0, count=4)
    assert episodes == [
        Episode(3, 6, (3, 5)),
        Episode(2, 5, (2, 4)),
        Episode(3, 5, (3, 6)),
        Episode(2, 2, (5, 4)),
    ]
    turned = {key: list(reversed(values)) for key, values in dataset.items()}
    assert draw_episodes(turned, turned, [3, 2, 1], shots=2, seed=0, count=4) == episodes
    assert draw_episodes(dataset, dataset, [1, 2, 3], shots=2, seed=1, count=4) != episodes


def test_every_class_is_drawn_about_as_often_and_no_target_is_its_own_reference():
    dataset = dataset_of([{1}] * 6 + [{2}] * 300 + [{3}] * 7)
    episodes = draw_episodes(dataset, dataset, [1, 2, 3], shots=5, seed=321)
    assert len(episodes) == 1000
    assert all(280 < sum(e.class_id == c for e in episodes) < 390 for c in (1, 2, 3))
    assert all(e.target not in e.references and len(set(e.references)) == 5 for e in episodes)


def test_classes_with_too_few_images_are_not_drawn_and_none_at_all_is_refused():
    dataset = dataset_of([{1}, {1}, {2}])
    episodes = draw_episodes(dataset, dataset, [1, 2], shots=1, seed=0, count=50)
    assert {e.class_id for e in episodes} == {1}
    crowd = {**dataset, "annotations": [{**a, "iscrowd": 1} for a in dataset["annotations"]]}
    with pytest.raises(ValueError, match="no class has a target image and 1 other"):
        draw_episodes(crowd, crowd, [1, 2], shots=1, seed=0)


def test_references_of_other_images_than_the_targets_may_be_all_there_are():
    references, targets = dataset_of([{1}]), dataset_of([set(), {1}])
    assert draw_episodes(references, targets, [1], shots=1, seed=0, count=1) == [Episode(1, 1, (0,))]


def test_a_list_survives_its_file(tmp_path):
    episodes = [Episode(3, "a", ("b", 4)), Episode(1, 2, (7, 8))]
    write_episodes(tmp_path / "list.json", episodes, seed=4)
    assert read_episodes(tmp_path / "list.json") == episodes
    assert json.loads((tmp_path / "list.json").read_text())["seed"] == 4
    (tmp_path / "list.json").write_text('{"episodes": [1]}')
    with pytest.raises(ValueError, match="is not a file of episodes"):
        read_episodes(tmp_path / "list.json")
