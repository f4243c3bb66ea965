"""The pipeline with the cache: nothing is encoded twice, and results are those without it."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from novel_references import novel_references
from PIL import Image

from nts import crops as crops_module
from nts.building import build_memory
from nts.cache import TensorCache
from nts.cache.targets import CROPS, TARGET
from nts.cached_segmenter import CachedSegmenter, Segmented
from nts.encoder import Encoder
from nts.memory import MemoryBank
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT, PAPER
from nts.scoring import PrototypeScorer
from nts.segmenter import Segmenter
from nts.targets import EncodedImage, Target
from nts.tiling import Tiling
from synthetic.scenes import target_scenes

IMAGE = target_scenes(1)[0].image


@pytest.fixture(scope="module")
def memory(small_encoder, small_segmenter) -> MemoryBank:
    return build_memory(novel_references(3, shots=3), small_encoder, segmenter=small_segmenter)[0]


def smaller(memory: MemoryBank) -> MemoryBank:
    """One reference of every class."""
    bank = MemoryBank(memory.encoder)
    for entry in memory.entries[::3]:
        bank.add(entry)
    bank.add_negatives(memory.negatives)
    return bank


@pytest.fixture
def cache(tmp_path) -> TensorCache:
    return TensorCache(tmp_path / "cache", 10**9)


def run(segmenter: ReferenceSegmenter, cache: TensorCache, image: np.ndarray = IMAGE) -> Segmented:
    cached = CachedSegmenter(segmenter, cache)
    found = cached.segment(cached.fetch(image))
    cached.store(found)
    return found


def same(one, two) -> bool:
    names = ("boxes", "labels", "scores", "similarities", "margins", "predicted_iou", "proposals", "references")
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in names) and torch.equal(
        one.masks, two.masks
    )


def no_model(*_, **__):
    raise AssertionError("a model ran")


@pytest.fixture
def without_models(monkeypatch):
    def forbid() -> None:
        for model, method in ((Encoder, "encode"), (Segmenter, "embed"), (Segmenter, "propose")):
            monkeypatch.setattr(model, method, no_model)

    return forbid


def test_a_second_run_embeds_no_crop_and_runs_no_model(memory, small_encoder, small_segmenter, cache, without_models):
    segmenter = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    expected = segmenter.segment(IMAGE)
    first = run(segmenter, cache)
    assert first.target.crops.new == len(first.target.crops.features) > 0
    assert (cache.count(TARGET), cache.count(CROPS)) == (1, 1)
    without_models()
    second = run(segmenter, cache)
    assert second.from_cache
    assert second.target.crops.new == 0
    assert len(expected) > 0
    assert same(first.instances, expected)
    assert same(second.instances, expected)


def test_only_images_that_are_not_cached_are_encoded_together(memory, small_encoder, small_segmenter, cache):
    images = [scene.image for scene in target_scenes(3)]
    segmenter = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    run(segmenter, cache, images[1])
    cached = CachedSegmenter(segmenter, cache)
    fetched = [cached.fetch(image) for image in images]
    together = cached.encode_together(fetched)
    assert [type(each.target) for each in together] == [EncodedImage, Target, EncodedImage]
    assert [each.key for each in together] == [each.key for each in fetched]
    assert [each.target.image_size for each in together] == [(256, 256)] * 3
    for each, alone in zip(together, fetched, strict=True):
        found, expected = cached.segment(each), cached.segment(alone)
        assert found.from_cache == expected.from_cache
        assert torch.equal(found.instances.labels, expected.instances.labels)
        assert torch.allclose(found.instances.scores, expected.instances.scores, atol=1e-3)
        assert torch.allclose(found.instances.boxes, expected.instances.boxes, atol=1)


def test_another_memory_embeds_only_its_new_survivors(memory, small_encoder, small_segmenter, cache, monkeypatch):
    few = ReferenceSegmenter(
        smaller(memory), small_encoder, small_segmenter, replace(DEFAULT, method=replace(DEFAULT.method, survivors=4))
    )
    known = set(run(few, cache).target.crops.features)
    assert len(known) >= 4
    embedded: list[int] = []
    embed = crops_module.embed_crops

    def counted(image, masks, boxes, encoder):
        embedded.append(len(masks))
        return embed(image, masks, boxes, encoder)

    monkeypatch.setattr(crops_module, "embed_crops", counted)
    monkeypatch.setattr(Segmenter, "embed", no_model)
    more = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    found = run(more, cache)
    survivors = set(found.target.crops.features)
    assert known < survivors
    assert embedded == [found.target.crops.new] == [len(survivors - known)]
    again = run(more, cache)
    assert again.target.crops.new == 0
    assert set(again.target.crops.features) == survivors, "old and new ones are stored together"
    assert same(again.instances, found.instances)


def test_crops_are_cut_from_the_file_that_was_fetched(memory, small_encoder, small_segmenter, cache, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    cached = CachedSegmenter(ReferenceSegmenter(memory, small_encoder, small_segmenter), cache)
    first = cached.segment(cached.fetch_file(path))
    cached.store(replace(first, target=replace(first.target, embedded=None)))
    fetched = cached.fetch_file(path)
    Image.fromarray(IMAGE[::-1].copy()).save(path)
    second = cached.segment(fetched)
    assert second.from_cache
    assert second.target.crops.new == first.target.crops.new > 0
    assert torch.allclose(second.instances.scores, first.instances.scores, atol=1e-4)


@pytest.mark.parametrize("part", ["crops", "negatives", "consensus"])
def test_ablations_share_what_is_cached(memory, small_encoder, small_segmenter, cache, part):
    full = run(ReferenceSegmenter(memory, small_encoder, small_segmenter), cache)
    less = run(ReferenceSegmenter(memory, small_encoder, small_segmenter, DEFAULT.without(part)), cache)
    assert less.from_cache == (part != "consensus")
    assert not same(full.instances, less.instances)
    assert cache.count(CROPS) == (2 if part == "consensus" else 1)


def test_a_cached_target_of_another_preset_is_refused_in_words(memory, small_encoder, small_segmenter):
    full = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    paper = ReferenceSegmenter(memory, small_encoder, small_segmenter, "paper")
    target = paper.encode(IMAGE)
    for each in (target, target.compact()):
        with pytest.raises(ValueError, match="encode it with the preset that it is matched with"):
            full.match(each)


def test_results_that_wait_to_be_stored_do_not_keep_the_inputs_of_the_models(
    memory, small_encoder, small_segmenter, cache
):
    cached = CachedSegmenter(ReferenceSegmenter(memory, small_encoder, small_segmenter), cache)
    fetched = cached.fetch(IMAGE)
    pixels = weakref.ref(fetched.target.segmenter_input)
    found = cached.segment(fetched)
    del fetched
    gc.collect()
    assert pixels() is None
    cached.store(found)
    assert cache.count(TARGET) == 1


def test_without_a_cache_nothing_is_stored(memory, small_encoder, small_segmenter):
    cached = CachedSegmenter(ReferenceSegmenter(memory, small_encoder, small_segmenter), None)
    found = cached.segment(cached.fetch(IMAGE))
    cached.store(found)
    assert found.key is None
    assert found.target.crops.new > 0


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    """Four scenes side by side, 512 x 512 pixels: the references are half as large there."""
    scenes = [scene.image for scene in target_scenes(4)]
    return np.concatenate([np.concatenate(scenes[:2], 1), np.concatenate(scenes[2:], 1)])


@pytest.mark.parametrize("preset", [DEFAULT, PAPER])
def test_tiles_of_a_large_image_are_one_entry_of_the_cache(
    preset, memory, small_encoder, small_segmenter, cache, large, monkeypatch
):
    def engine(tiles: str) -> ReferenceSegmenter:
        tiled = replace(preset, tiling=Tiling.parse(tiles))
        return ReferenceSegmenter(memory, small_encoder, small_segmenter, tiled)

    whole, tiled = run(engine("off"), cache, large), run(engine("2x2"), cache, large)
    assert len(tiled.instances) > len(whole.instances)
    assert tiled.instances.image_size == (512, 512)
    assert whole.key != tiled.key
    assert cache.count(TARGET) == 2
    monkeypatch.setattr(Segmenter, "embed", None)
    again = run(engine("2x2"), cache, large)
    assert again.from_cache
    assert same(again.instances, tiled.instances)
    assert engine("off").targets.key("x", (512, 512)) == engine("auto").targets.key("x", (256, 256))


def test_tiles_find_what_each_of_them_shows(memory, small_encoder, small_segmenter, large):
    """An object inside a tile is found as in the image of the tile alone."""
    tiling = Tiling((2, 2), overlap=0.0)  # the scenes themselves
    tiled = ReferenceSegmenter(memory, small_encoder, small_segmenter, replace(DEFAULT, tiling=tiling))
    alone = ReferenceSegmenter(memory, small_encoder, small_segmenter)
    masks = tiled.encode(large).compact().masks
    crops, boxes = masks.crops(torch.arange(len(masks.areas)))
    found = {(tuple(box), int(crop.sum())) for box, crop in zip(boxes.tolist(), crops, strict=True)}
    for number, scene in enumerate(target_scenes(4)):
        target = alone.encode(scene.image).compact()
        row, column = divmod(number, 2)
        crops, boxes = target.masks.crops(torch.arange(len(target)))
        boxes += torch.tensor([256 * column, 256 * row]).repeat(2)
        inside = [
            (tuple(box), int(crop.sum()))
            for box, crop in zip(boxes.tolist(), crops, strict=True)
            if box[0] > 256 * column + 4 and box[2] < 256 * (column + 1) - 4
            if box[1] > 256 * row + 4 and box[3] < 256 * (row + 1) - 4
        ]
        assert len(inside) > 3
        assert set(inside) <= found


def test_scorers_that_need_an_embedding_see_images_whole(memory, small_encoder, small_segmenter):
    class NeedsEmbedding(PrototypeScorer):
        scores_cached_targets = False

    scorer = NeedsEmbedding(memory.prototypes())
    tiled = replace(DEFAULT, tiling=Tiling((2, 2)))
    engine = ReferenceSegmenter(memory, small_encoder, small_segmenter, tiled, scorer=scorer)
    assert engine.targets.grid((4000, 4000)) == (1, 1)
