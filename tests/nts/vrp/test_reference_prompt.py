"""A trained reference prompt: its file, the models it fits, its class maps, and its scores of proposals."""

from __future__ import annotations

import json
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from nts import references as references_module
from nts.building import build_memory, encode_references
from nts.cache import TensorCache
from nts.cached_segmenter import CachedSegmenter
from nts.instances import Instances
from nts.memory import MemoryBank, WholeImage
from nts.models import SMALL
from nts.pipeline import ReferenceSegmenter, encode_target, prepare_image
from nts.references import Reference, annotation_weights
from nts.scorers import SCORERS, make_scorer
from nts.vrp import class_maps
from nts.vrp.class_maps import ClassMapper, whole_images
from nts.vrp.model import VisualReferencePrompt, VRPConfig, paper
from nts.vrp.prompt import PromptFileError, PromptMismatch, TrainedPrompt
from nts.vrp.scorer import SURROUNDINGS, score_proposals
from synthetic.scenes import NOVEL_SPECIES, reference_scenes, species_name, target_scenes


@pytest.fixture(scope="module")
def prompt(small_encoder, small_segmenter) -> TrainedPrompt:
    """Untrained, but for a dense prompt that says something."""
    torch.manual_seed(0)
    config = VRPConfig(small_encoder.info.dim, small_segmenter.info.prompt_dim, small_encoder.grid, queries=4)
    model = VisualReferencePrompt(config).eval().requires_grad_(False)
    torch.nn.init.normal_(model.dense[-1].weight, std=0.05)
    return TrainedPrompt(model, small_encoder.info, small_segmenter.info, ("cat", "dog"), {"steps": 3})


def drawn_references(species: int, count: int) -> list[Reference]:
    return [
        Reference(scene.image, species_name(species), scene.masks[0], label_id=f"{species}/{i}")
        for i, scene in enumerate(reference_scenes(species, count))
    ]


@pytest.fixture(scope="module")
def memory(small_encoder) -> MemoryBank:
    """Ten classes; of one, two references."""
    bank = MemoryBank(small_encoder.info)
    references = [r for k, number in enumerate(NOVEL_SPECIES) for r in drawn_references(number, 2 if k == 0 else 1)]
    for entry in encode_references(references, small_encoder, keep_images=True):
        bank.add(entry)
    return bank


# ---- the file --------------------------------------------------------------------------------------------------------


def test_it_comes_back_from_its_file_as_it_went(tmp_path, prompt):
    path = tmp_path / "prompt.safetensors"
    prompt.save(path)
    again = TrainedPrompt.load(path)
    assert (again.encoder, again.segmenter, again.classes) == (prompt.encoder, prompt.segmenter, prompt.classes)
    assert again.about == {"steps": 3}
    assert again.model.config == prompt.model.config
    assert again.parameters == prompt.parameters
    for name, value in prompt.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value.half().float())
    assert path.stat().st_size < 4 << 20


def header_of(data: bytes) -> dict[str, str]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def with_header(data: bytes, **changes: str) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"].update(changes)
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"nothing", "damaged or no reference prompt"),
        (lambda data: data[:-9], "damaged or no reference prompt"),
        (lambda data: save({"weight": torch.ones(2)}), "its format tag is not"),
        (lambda data: with_header(data, schema_version="9"), "update the plugin"),
        (lambda data: with_header(data, config='{"token_dim": 3}'), "do not agree"),
        (lambda data: with_header(data, config="{"), "do not agree"),
    ],
)
def test_damaged_files_are_refused_with_their_name(tmp_path, prompt, spoil, message):
    path = tmp_path / "prompt.safetensors"
    path.write_bytes(spoil(prompt.to_bytes()))
    with pytest.raises(PromptFileError, match=rf"prompt.safetensors .*{message}"):
        TrainedPrompt.load(path)
    with pytest.raises(PromptFileError, match="could not be read"):
        TrainedPrompt.load(tmp_path / "missing")
    with pytest.raises(PromptFileError, match="could not be written"):
        prompt.save(tmp_path / "missing" / "prompt.safetensors")


def test_it_serves_the_models_that_it_was_trained_for_alone(prompt, memory, small_encoder, small_segmenter):
    references = whole_images(memory)
    ClassMapper(prompt, small_encoder, small_segmenter, references)
    other = replace(prompt, encoder=replace(prompt.encoder, name="other", fingerprint="f" * 64))
    with pytest.raises(PromptMismatch, match="trained for the encoder 'other'"):
        ClassMapper(other, small_encoder, small_segmenter, references)
    other = replace(prompt, segmenter=replace(prompt.segmenter, name="other", fingerprint="f" * 64))
    with pytest.raises(PromptMismatch, match="trained for the segmenter 'other'"):
        ClassMapper(other, small_encoder, small_segmenter, references)


def test_classes_that_it_was_trained_on_are_not_novel(prompt):
    prompt.check_novel(["cow"])
    with pytest.raises(PromptMismatch, match=r"trained on 'cat', 'dog': as novel classes they would be a leak"):
        prompt.check_novel(["cow", "dog", "cat"])


def test_the_shipped_prompt_has_the_fingerprint_and_the_header_that_it_had_before_kinds_were_stored():
    path = SMALL / "reference_prompt.safetensors"
    shipped = TrainedPrompt.load(path)
    assert shipped.fingerprint == "85b67f2f34df4700c4644cda1447fa176dd4adf5908dbec073cd7b86127cae1d"
    assert shipped.model.config.kinds == ("mask", "box", "point", "scribble")
    assert "kinds" not in json.loads(header_of(path.read_bytes())["config"])
    assert header_of(shipped.to_bytes()) == header_of(path.read_bytes())


def test_a_new_kind_leaves_old_prompts_as_they_are_and_is_refused_by_them(monkeypatch, small_encoder, small_segmenter):
    path = SMALL / "reference_prompt.safetensors"
    before = TrainedPrompt.load(path)
    bank, target = MemoryBank(small_encoder.info), target_scenes(1)[0].image
    entries = list(encode_references(drawn_references(NOVEL_SPECIES[0], 2), small_encoder, keep_images=True))
    bank.add(entries[0])
    models = (small_encoder, small_segmenter)
    maps = ClassMapper(before, *models, whole_images(bank)).map(target).logits

    monkeypatch.setattr(references_module, "KINDS", ("outline", *references_module.KINDS))
    after = TrainedPrompt.load(path)
    assert after.fingerprint == before.fingerprint
    assert torch.equal(ClassMapper(after, *models, whole_images(bank)).map(target).logits, maps)

    outlined = replace(drawn_references(NOVEL_SPECIES[0], 1)[0], kind="outline")
    (entry,) = encode_references([outlined], small_encoder, keep_images=True)
    bank.add(entry)
    with pytest.raises(PromptMismatch, match=r"does not know references of the kind 'outline', only mask, box, point"):
        make_scorer("vrp", bank, *models, after)


# ---- memories --------------------------------------------------------------------------------------------------------


def test_labels_of_one_image_share_its_tokens_and_mark_it_together(small_encoder):
    scene = next(s for s in target_scenes(30) if len(s.masks) > 2)
    references = [Reference(scene.image, "thing", mask, label_id=str(i)) for i, mask in enumerate(scene.masks)]
    references.append(Reference(scene.image, "other", scene.masks[0] | scene.masks[1], label_id="both"))
    bank = MemoryBank(small_encoder.info)
    for entry in encode_references(references, small_encoder, keep_images=True):
        bank.add(entry)
    things, others = whole_images(bank)[1], whole_images(bank)[0]
    assert len(things) == len(others) == 1
    assert things[0].tokens is bank.entries[-1].whole_image.tokens
    together = scene.masks.any(0)
    assert ((things[0].weights > 0) == (annotation_weights(together, "mask", small_encoder.grid).flatten() > 0)).all()
    again = MemoryBank.from_bytes(bank.to_bytes())
    assert len(again.to_bytes()) < 2.5 * things[0].tokens.nbytes
    for before, after in zip(bank.entries, again.entries, strict=True):
        assert torch.equal(before.whole_image.tokens, after.whole_image.tokens)
        assert torch.equal(before.whole_image.weights, after.whole_image.weights)
        assert (before.whole_image.key, before.whole_image.kind) == (after.whole_image.key, after.whole_image.kind)


def test_a_memory_may_hold_references_with_and_without_images(small_encoder):
    bank = MemoryBank(small_encoder.info)
    for keep in (True, False):
        references = [replace(r, label_id=f"{r.label_id}/{keep}") for r in drawn_references(NOVEL_SPECIES[0], 2)]
        for entry in encode_references(references, small_encoder, keep_images=keep):
            bank.add(entry)
    again = MemoryBank.from_bytes(bank.to_bytes())
    assert [entry.whole_image is None for entry in again.entries] == [False, False, True, True]
    with pytest.raises(PromptMismatch, match="2 of the 4 references of this memory were stored without their whole"):
        whole_images(again)


def test_a_prompt_with_the_published_choices_sees_annotations_as_in_its_training(small_encoder, small_segmenter):
    config = paper(VRPConfig(small_encoder.info.dim, small_segmenter.info.prompt_dim, small_encoder.grid))
    torch.manual_seed(0)
    model = VisualReferencePrompt(config).eval().requires_grad_(False)
    prompt = TrainedPrompt(model, small_encoder.info, small_segmenter.info, ())
    scene = next(s for s in target_scenes(30) if len(s.masks) > 1)
    bank = MemoryBank(small_encoder.info)
    references = [Reference(scene.image, "thing", mask, label_id=str(i)) for i, mask in enumerate(scene.masks[:2])]
    for entry in encode_references(references, small_encoder, keep_images=True):
        bank.add(entry)
    bank = MemoryBank.from_bytes(bank.to_bytes())
    ((image,),) = whole_images(bank)
    union = annotation_weights(scene.masks[:2].any(0), "mask", small_encoder.grid, "nearest").flatten()
    assert torch.equal(image.sampled.float(), union)
    assert not torch.equal(image.weights.float(), union)

    (state,) = ClassMapper(prompt, small_encoder, small_segmenter, [[image]])._states
    kinds = torch.zeros(1, 1, dtype=torch.int64)
    expected = model.encode_support(image.tokens[None, None].float(), union[None, None], kinds)
    assert torch.equal(state.queries, expected.queries)


def test_memories_without_samples_load_and_are_refused_by_a_prompt_that_needs_them(
    prompt, memory, small_encoder, small_segmenter
):
    old = MemoryBank(small_encoder.info)
    for k, entry in enumerate(memory.entries):  # as built before samples were stored, but for one reference
        whole = entry.whole_image if k == 1 else replace(entry.whole_image, sampled=None)
        old.add(replace(entry, whole_image=whole))
    old = MemoryBank.from_bytes(old.to_bytes())
    assert [entry.whole_image.sampled is None for entry in old.entries] == [k != 1 for k in range(len(old))]
    assert torch.equal(old.entries[1].whole_image.sampled, memory.entries[1].whole_image.sampled)
    make_scorer("vrp", old, small_encoder, small_segmenter, prompt)
    config = replace(prompt.model.config, rasterisation="nearest")
    published = replace(prompt, model=VisualReferencePrompt(config).eval())
    with pytest.raises(PromptMismatch, match="built without such samples: build the memory again"):
        make_scorer("vrp", old, small_encoder, small_segmenter, published)
    make_scorer("vrp", memory, small_encoder, small_segmenter, published)


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_maps_of_many_classes_are_those_of_each(prompt, memory, small_encoder, small_segmenter, monkeypatch):
    monkeypatch.setattr(class_maps, "_REFERENCES_PER_CHUNK", 8)  # two chunks
    models = (small_encoder, small_segmenter)
    target = encode_target(target_scenes(1)[0].image, *models, keep_embedding=True)
    mapper = ClassMapper(prompt, *models, whole_images(memory))
    assert len(mapper._states) == 2
    maps = mapper.maps(target.tokens, target.embedding)
    assert maps.logits.shape == (10, 64, 64)
    assert ((maps.presence >= 0) & (maps.presence <= 1)).all()
    for k, images in enumerate(whole_images(memory)):
        alone = ClassMapper(prompt, *models, [images]).maps(target.tokens, target.embedding)
        assert torch.allclose(maps.logits[k], alone.logits[0], atol=1e-4)
        assert torch.allclose(maps.presence[k], alone.presence[0], atol=1e-5)


def test_an_empty_reference_gives_a_map_all_the_same(prompt, small_encoder, small_segmenter, memory):
    image = memory.entries[0].whole_image
    empty = WholeImage("empty", image.tokens, torch.zeros_like(image.weights))
    mapper = ClassMapper(prompt, small_encoder, small_segmenter, [[empty]])
    assert mapper.map(target_scenes(1)[0].image).logits.isfinite().all()


# ---- scores ----------------------------------------------------------------------------------------------------------


def slow_score(probability: np.ndarray, mask: np.ndarray) -> float:
    if not mask.any():
        return 0.0
    ys, xs = mask.nonzero()
    side = max(np.ptp(ys), np.ptp(xs)) + 1
    margin = int(np.ceil(SURROUNDINGS * side))
    rows = slice(max(0, ys.min() - margin), ys.max() + 1 + margin)
    columns = slice(max(0, xs.min() - margin), xs.max() + 1 + margin)
    inside = probability[mask].sum()
    return inside / mask.sum() * inside / max(probability[rows, columns].sum(), 1e-6)


def test_scores_are_those_of_the_slow_way():
    rng = np.random.default_rng(0)
    probabilities = rng.random((3, 20, 20)) ** 3
    masks = np.zeros((12, 20, 20), bool)
    for mask in masks[1:]:
        y, x = rng.integers(0, 18, 2)
        mask[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = True
        mask &= rng.random((20, 20)) > 0.2
        mask[y, x] = True
    scores = score_proposals(torch.from_numpy(probabilities).float(), torch.from_numpy(masks))
    expected = [[slow_score(p, mask) for p in probabilities] for mask in masks]
    assert np.allclose(scores.numpy(), expected, atol=1e-5)


def test_a_whole_beats_its_part_and_what_lies_beside_it():
    probability = torch.full((1, 32, 32), 0.01)
    probability[0, 8:20, 8:20] = 0.95
    masks = torch.zeros(4, 32, 32, dtype=torch.bool)
    masks[0, 8:20, 8:20] = True  # the object
    masks[1, 8:14, 8:14] = True  # a part of it
    masks[2, 4:24, 4:24] = True  # more than it
    masks[3, 24:30, 24:30] = True  # something else
    whole, part, more, other = score_proposals(probability, masks)[:, 0].tolist()
    assert whole > part > other
    assert whole > more > other
    assert whole > 0.85


@pytest.mark.parametrize("scorer", ["vrp", "both"])
def test_prompt_scores_take_the_place_of_similarities(prompt, memory, small_encoder, small_segmenter, scorer):
    models = (small_encoder, small_segmenter)
    segmenter = ReferenceSegmenter(memory, *models, scorer=make_scorer(scorer, memory, *models, prompt))
    target = segmenter.encode(target_scenes(1)[0].image)
    instances = segmenter.match(target)
    assert isinstance(instances, Instances)
    masks = target.proposals.mask_logits > 0
    maps = ClassMapper(prompt, *models, whole_images(memory)).maps(target.tokens, target.embedding)
    scores = score_proposals(maps.probabilities, masks)
    if scorer == "both":
        plain = ReferenceSegmenter(memory, *models)
        assert len(plain.match(target)) > 0
        cosine = torch.stack([_cosine(target, masks, p) for p in memory.prototypes()], 1)
        scores = cosine * scores.sqrt()
    best, labels = scores.max(1)
    assert torch.allclose(instances.similarities, best[instances.proposals], atol=1e-5)
    assert torch.equal(instances.labels, labels[instances.proposals])


def _cosine(target, masks, prototype):
    from nts.matching import pool_tokens

    return (pool_tokens(target.tokens, masks) @ prototype).clamp(0, 1)


def test_a_scorer_without_what_it_needs_is_refused(prompt, memory, small_encoder, small_segmenter):
    models = (small_encoder, small_segmenter)
    with pytest.raises(ValueError, match="the scorer 'vrp' needs a trained reference prompt"):
        make_scorer("vrp", memory, *models)
    with pytest.raises(ValueError, match="the scorer must be one of prototype, vrp, both, got 'best'"):
        make_scorer("best", memory, *models, prompt)
    plain, _ = build_memory(drawn_references(NOVEL_SPECIES[0], 1), small_encoder)
    with pytest.raises(PromptMismatch, match="build the memory again, with whole images"):
        make_scorer("both", plain, *models, prompt)


@pytest.mark.parametrize("scorer", ["vrp", "both"])
def test_an_image_without_its_embedding_is_refused(prompt, memory, small_encoder, small_segmenter, scorer):
    models = (small_encoder, small_segmenter)
    target = encode_target(target_scenes(1)[0].image, *models)
    segmenter = ReferenceSegmenter(memory, *models, scorer=make_scorer(scorer, memory, *models, prompt))
    for without in (target, target.compact()):
        with pytest.raises(ValueError, match="encoded without its embedding"):
            segmenter.match(without)


def test_a_scorer_that_needs_the_embedding_uses_no_cache(prompt, memory, small_encoder, small_segmenter, tmp_path):
    models = (small_encoder, small_segmenter)
    cache = TensorCache(tmp_path, 10**9)
    for name in SCORERS:
        engine = ReferenceSegmenter(memory, *models, scorer=make_scorer(name, memory, *models, prompt))
        cached = CachedSegmenter(engine, cache)
        cached.store(cached.segment(cached.fetch(target_scenes(1)[0].image)))
        assert cache.count() == (name == "prototype")
        cache.clear()


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_maps_need_no_proposals(prompt, memory, small_encoder, small_segmenter, preset):
    models, image = (small_encoder, small_segmenter), target_scenes(1)[0].image
    mapper = ClassMapper(prompt, *models, whole_images(memory))
    target = encode_target(image, *models, preset, keep_embedding=True)
    expected = mapper.maps(target.tokens, target.embedding)
    assert torch.equal(mapper.map(image, preset).logits, expected.logits)
    assert torch.equal(mapper.map(prepare_image(image, *models, preset), preset).logits, expected.logits)
