"""A trained reference prompt: its file, and the models and classes that it fits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from novel_references import novel_references
from safetensors.torch import save
from safetensors_header import read_header, with_header

from nts import references as references_module
from nts.building import encode_references
from nts.memory import MemoryBank
from nts.models import SMALL
from nts.scorers import make_scorer
from nts.vrp.class_maps import ClassMapper, whole_images
from nts.vrp.prompt import PromptFileError, PromptMismatch, TrainedPrompt
from synthetic.scenes import target_scenes


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
    assert shipped.fingerprint == "ce185e4cf618aed0ed277d2e58ec871dcc6ae86a97eb4cc211802934611aefc7"
    assert shipped.model.config.kinds == ("mask", "box", "point", "scribble")
    assert "kinds" not in json.loads(read_header(path.read_bytes())["config"])
    assert read_header(shipped.to_bytes()) == read_header(path.read_bytes())


def test_a_new_kind_leaves_old_prompts_as_they_are_and_is_refused_by_them(monkeypatch, small_encoder, small_segmenter):
    path = SMALL / "reference_prompt.safetensors"
    before = TrainedPrompt.load(path)
    bank, target = MemoryBank(small_encoder.info), target_scenes(1)[0].image
    entries = list(encode_references(novel_references(1, shots=2), small_encoder, keep_images=True))
    bank.add(entries[0])
    models = (small_encoder, small_segmenter)
    maps = ClassMapper(before, *models, whole_images(bank)).map(target).logits

    monkeypatch.setattr(references_module, "KINDS", ("outline", *references_module.KINDS))
    after = TrainedPrompt.load(path)
    assert after.fingerprint == before.fingerprint
    assert torch.equal(ClassMapper(after, *models, whole_images(bank)).map(target).logits, maps)

    outlined = replace(novel_references(1, shots=1)[0], kind="outline")
    (entry,) = encode_references([outlined], small_encoder, keep_images=True)
    bank.add(entry)
    with pytest.raises(PromptMismatch, match=r"does not know references of the kind 'outline', only mask, box, point"):
        make_scorer("vrp", bank, *models, after)
