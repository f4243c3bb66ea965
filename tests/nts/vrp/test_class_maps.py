"""Class maps of a reference prompt, and the whole images of a memory that they need."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from novel_references import novel_references

from nts.building import encode_references
from nts.memory import MemoryBank, WholeImage
from nts.pipeline import encode_target, prepare_image
from nts.references import Reference, annotation_weights
from nts.scorers import make_scorer
from nts.vrp import class_maps
from nts.vrp.class_maps import ClassMapper, whole_images
from nts.vrp.model import VisualReferencePrompt, VRPConfig, paper
from nts.vrp.prompt import PromptMismatch, TrainedPrompt
from synthetic.scenes import target_scenes


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
        references = [replace(r, label_id=f"{r.label_id}/{keep}") for r in novel_references(1, shots=2)]
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
    for k, entry in enumerate(memory.entries):  # as built before samples were stored, except for one reference
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


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_maps_need_no_proposals(prompt, memory, small_encoder, small_segmenter, preset):
    models, image = (small_encoder, small_segmenter), target_scenes(1)[0].image
    mapper = ClassMapper(prompt, *models, whole_images(memory))
    target = encode_target(image, *models, preset, keep_embedding=True)
    expected = mapper.maps(target.tokens, target.embedding)
    assert torch.equal(mapper.map(image, preset).logits, expected.logits)
    assert torch.equal(mapper.map(prepare_image(image, *models, preset), preset).logits, expected.logits)
