"""The memory bank: adding, removing, merging, and atomic files."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from safetensors_header import with_header

from nts.memory import (
    EncoderInfo,
    EncoderMismatch,
    MemoryBank,
    MemoryEntry,
    MemoryFileError,
    Negative,
    class_prototype,
    instance_prototype,
)
from nts.negatives import MOST_NEGATIVES
from nts.tiling import ObjectSize
from nts.utils.files import pack_tensors, unpack_tensors

ENCODER = EncoderInfo("some/encoder", "ab" * 32, 518, 8)


def make_bank(names: str = "bba", seed: int = 0, encoder: EncoderInfo = ENCODER) -> MemoryBank:
    generator = torch.Generator().manual_seed(seed)
    bank = MemoryBank(encoder)
    for i, name in enumerate(names):
        prototype = torch.randn(encoder.dim, generator=generator)
        kind = ("mask", "box", "point", "scribble")[i % 4]
        bank.add(MemoryEntry(name, prototype, f"sample{i}", f"label{seed}-{i}", kind, 3.5 + i, promoted=i % 3 == 1))
    return bank


def negative(value: float, source: str = "reference image", label_id: str = "", sample_id: str = "s") -> Negative:
    return Negative(torch.full((8,), value), source, source != "reference image", sample_id, label_id, "file", 0.7)


def assert_equal(one: MemoryBank, two: MemoryBank) -> None:
    assert (one.encoder, one.preset, one.created) == (two.encoder, two.preset, two.created)
    assert torch.equal(one.instance_prototypes(), two.instance_prototypes())
    for a, b in zip(one.entries, two.entries, strict=True):
        assert a.prototype is not b.prototype
        assert (a.whole_prototype is None) == (b.whole_prototype is None)
        if b.whole_prototype is not None:
            assert torch.equal(a.whole_prototype, b.whole_prototype)
        assert replace(a, prototype=b.prototype, whole_prototype=b.whole_prototype).__dict__ == b.__dict__
    for n, m in zip(one.negatives, two.negatives, strict=True):
        assert torch.equal(n.prototype, m.prototype)
        assert replace(n, prototype=m.prototype).__dict__ == m.__dict__


def test_sizes_of_objects_are_stored_and_missing_in_earlier_files():
    bank = make_bank()
    for entry, size in zip(bank.entries, (ObjectSize(12.5, 640), None, ObjectSize(40, 4000)), strict=True):
        bank.add(replace(entry, size=size))
    data = bank.to_bytes()
    assert [entry.size for entry in MemoryBank.from_bytes(data).entries] == [entry.size for entry in bank.entries]
    tensors, header = unpack_tensors(data, "nts-memory", 4, noun="memory", source="it", error=MemoryFileError)
    earlier = {name: value for name, value in header.items() if name not in ("sizes", "format", "schema_version")}
    read = MemoryBank.from_bytes(pack_tensors(tensors, "nts-memory", 4, earlier))
    assert [entry.size for entry in read.entries] == [None] * 3


def test_instance_prototype_is_the_weighted_mean_of_the_tokens():
    generator = torch.Generator().manual_seed(1)
    tokens, weights = torch.randn(50, 8, generator=generator), torch.rand(50, generator=generator)
    expected = sum(w * t for w, t in zip(weights, tokens, strict=True)) / sum(weights)
    assert torch.allclose(instance_prototype(tokens, weights), expected, atol=1e-6)
    assert torch.allclose(instance_prototype(tokens, weights > 0.5), tokens[weights > 0.5].mean(0), atol=1e-6)


def test_invalid_prototypes_are_refused():
    with pytest.raises(ValueError, match="covers no patch"):
        instance_prototype(torch.ones(4, 2), torch.zeros(4))
    with pytest.raises(ValueError, match="NaN"):
        instance_prototype(torch.full((4, 2), torch.nan), torch.ones(4))
    with pytest.raises(ValueError, match="at least one reference"):
        class_prototype(torch.zeros(0, 4))


def test_classes_are_sorted_and_shots_counted():
    bank = make_bank("cabbb")
    assert bank.classes == ("a", "b", "c")
    assert bank.shots == {"a": 1, "b": 3, "c": 1}
    assert bank.entry_labels().tolist() == [2, 0, 1, 1, 1]
    expected = [class_prototype(bank.instance_prototypes()[bank.entry_labels() == k]) for k in range(3)]
    assert torch.equal(bank.prototypes(), torch.stack(expected))
    assert "5 references of 3 classes" in repr(bank)


def test_adding_a_label_again_replaces_it():
    bank = make_bank("ab")
    bank.add(replace(bank.entries[0], class_name="c"))
    assert bank.shots == {"b": 1, "c": 1}


def test_labels_copied_to_another_sample_are_references_of_their_own():
    """FiftyOne's labels retain their id when copied from one sample to another."""
    bank = make_bank("ab")
    bank.add(replace(bank.entries[0], sample_id="another"))
    assert bank.shots == {"a": 2, "b": 1}
    assert MemoryBank.from_bytes(bank.to_bytes()).shots == bank.shots
    assert bank.remove(label_ids=[bank.entries[0].label_id]) == 2


def test_references_and_classes_can_be_removed():
    bank = make_bank("aabbc")
    assert bank.remove(label_ids=["label0-0", "no such label"]) == 1
    assert bank.remove(class_name="b") == 2
    assert bank.shots == {"a": 1, "c": 1}
    assert bank.remove(class_name="zebra") == 0


def test_removing_no_label_leaves_entries_without_a_label_id():
    bank = MemoryBank(ENCODER)
    bank.add(MemoryEntry("a", torch.ones(8)))
    bank.add(MemoryEntry("a", torch.zeros(8)))
    assert bank.remove(label_ids=[""]) == 0
    assert len(bank) == 2


def test_merging_takes_all_references_of_both_and_those_of_one_label_once():
    bank, other = make_bank("ab"), make_bank("bc", seed=1)
    bank.merge(other)
    assert bank.shots == {"a": 1, "b": 2, "c": 1}
    bank.merge(other)
    assert len(bank) == 4


def test_banks_of_different_encoders_or_presets_do_not_merge():
    other = make_bank(encoder=EncoderInfo("other/encoder", "cd" * 32, 518, 8))
    with pytest.raises(EncoderMismatch, match=r"made by the encoder 'some/encoder'.*not by 'other/encoder'"):
        make_bank().merge(other)
    with pytest.raises(EncoderMismatch, match="'default', the other by 'paper'"):
        make_bank().merge(MemoryBank(ENCODER, "paper"))


def test_entries_that_do_not_fit_are_refused():
    bank = MemoryBank(ENCODER)
    with pytest.raises(EncoderMismatch, match="makes vectors of length 8"):
        bank.add(MemoryEntry("a", torch.ones(9)))
    with pytest.raises(ValueError, match="NaN or infinity"):
        bank.add(MemoryEntry("a", torch.full((8,), torch.nan)))
    with pytest.raises(ValueError, match="'l1' has no class"):
        bank.add(MemoryEntry("", torch.ones(8), label_id="l1"))


def test_empty_memory_has_no_prototypes():
    with pytest.raises(ValueError, match="the memory is empty"):
        MemoryBank(ENCODER).prototypes()
    assert_equal(MemoryBank.from_bytes((empty := MemoryBank(ENCODER)).to_bytes()), empty)


def test_saved_bank_comes_back_equal(tmp_path):
    bank = make_bank("zebra")
    bank.save(tmp_path / "bank.safetensors")
    assert_equal(MemoryBank.load(tmp_path / "bank.safetensors"), bank)
    assert [file.name for file in tmp_path.iterdir()] == ["bank.safetensors"]


def test_files_of_the_first_schema_are_still_read():
    bank = make_bank("ab")
    entries = [
        {
            "class_name": e.class_name,
            "sample_id": e.sample_id,
            "label_id": e.label_id,
            "kind": "box",
            "weight": e.weight,
        }
        for e in bank.entries
    ]
    old = MemoryBank.from_bytes(with_header(bank.to_bytes(), schema_version="1", entries=json.dumps(entries)))
    assert torch.equal(old.instance_prototypes(), bank.instance_prototypes())
    assert [(entry.label_id, entry.kind, entry.promoted) for entry in old.entries] == [
        ("label0-0", "box", False),
        ("label0-1", "box", False),
    ]


def test_file_made_by_another_encoder_is_refused(tmp_path):
    make_bank().save(tmp_path / "bank.safetensors")
    assert len(MemoryBank.load(tmp_path / "bank.safetensors", ENCODER)) == 3
    with pytest.raises(EncoderMismatch, match=r"made by the encoder 'some/encoder'.*use 'some/encoder', or build"):
        MemoryBank.load(tmp_path / "bank.safetensors", EncoderInfo("other/encoder", "cd" * 32, 518, 8))


def test_a_reference_costs_its_vector_and_little_more():
    encoder = EncoderInfo("facebook/dinov2-large", "ef" * 32, 518, 1024)
    size = len(make_bank("a" * 101, encoder=encoder).to_bytes()) - len(make_bank("a", encoder=encoder).to_bytes())
    assert 4096 <= size / 100 < 4096 + 250


@pytest.mark.parametrize("failure", ["replace", "write"])
def test_old_file_survives_when_writing_fails(tmp_path, monkeypatch, failure):
    path = tmp_path / "bank.safetensors"
    old = make_bank("ab")
    old.save(path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace" if failure == "replace" else "fsync", fail)
    with pytest.raises(MemoryFileError, match=r"could not be written to .*bank.safetensors: No space left on device"):
        make_bank("xyz").save(path)
    monkeypatch.undo()
    assert_equal(MemoryBank.load(path), old)
    assert [file.name for file in tmp_path.iterdir()] == ["bank.safetensors"], "no half-written file is left"


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "bank.safetensors", tmp_path / "file" / "bank.safetensors"):
        with pytest.raises(MemoryFileError, match=r"could not be written to .*bank.safetensors"):
            make_bank().save(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: b"", "damaged or no memory file"),
        (lambda data: b"not a memory at all", "damaged or no memory file"),
        (lambda data: data[:-7], "damaged or no memory file"),
        (lambda data: data[:40], "damaged or no memory file"),
        (lambda data: save({"weight": torch.ones(2)}), "its format tag is not 'nts-memory'"),
        (lambda data: with_header(data, schema_version="99"), r"schema version 99, .* reads up to 4: update"),
        (lambda data: with_header(data, entries="[]"), "header and its tensors do not agree"),
        (lambda data: with_header(data, encoder="{}"), "header and its tensors do not agree"),
        (lambda data: with_header(data, schema_version="one"), "its schema version is 'one'"),
    ],
)
def test_damaged_files_are_refused_with_their_name(tmp_path, spoil, message):
    path = tmp_path / "bank.safetensors"
    path.write_bytes(spoil(make_bank().to_bytes()))
    with pytest.raises(MemoryFileError, match=rf"bank.safetensors .*{message}"):
        MemoryBank.load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MemoryFileError, match=r"nowhere.safetensors could not be read: No such file"):
        MemoryBank.load(tmp_path / "nowhere.safetensors")


def test_nan_in_a_file_is_refused(tmp_path):
    data = make_bank("a").to_bytes()
    path = tmp_path / "bank.safetensors"
    path.write_bytes(data[:-32] + struct.pack("<8f", *[float("nan")] * 8))
    with pytest.raises(MemoryFileError, match="NaN or infinity"):
        MemoryBank.load(path)


# Whole images, proposals and negatives


def full_bank() -> MemoryBank:
    """A bank with everything that schema 4 stores; not every entry has all of it."""
    bank = MemoryBank(ENCODER)
    for k, entry in enumerate(make_bank("abab").entries):
        if k != 1:
            entry = replace(entry, whole_prototype=torch.full((8,), float(k)), predicted_iou=0.8, proposal_iou=0.6)
        bank.add(entry)
    bank.add(replace(bank.entries[1], label_id="missed", predicted_iou=None, proposal_iou=0.0))
    for source in ("reference image", "other class", "background image"):
        bank.add_negative(negative(1.0, source))
    bank.add_negative(negative(2.0, "rejected", "prediction"))
    return bank


def test_negatives_come_back_in_the_order_of_insertion():
    bank = full_bank()
    assert [each.source for each in bank.negatives] == [
        "reference image",
        "other class",
        "background image",
        "rejected",
    ]
    assert repr(bank) == "MemoryBank(5 references of 2 classes, 4 negatives, encoder 'some/encoder')"
    assert "negatives" not in repr(make_bank())


def test_a_negative_of_the_same_label_replaces_the_one_before():
    bank = full_bank()
    bank.add_negative(negative(3.0, "rejected", "prediction"))
    assert len(bank.negatives) == 4
    assert bank.negatives[-1].prototype.tolist() == [3.0] * 8
    bank.add_negative(negative(3.0, "rejected", "prediction", sample_id="another"))
    bank.add_negative(negative(1.0))
    assert len(bank.negatives) == 6, "proposals have no label, and any number of them may be there"


def test_negatives_are_removed_by_source_or_label_and_references_stay():
    bank = full_bank()
    assert bank.remove_negatives(source="background image") == 1
    assert bank.remove_negatives(label_ids=["prediction", "", "no such label"]) == 1
    assert [each.source for each in bank.negatives] == ["reference image", "other class"]
    assert bank.remove_negatives() == 0
    assert bank.remove(class_name="a") == 2
    assert len(bank.negatives) == 2


def test_negatives_that_do_not_fit_are_refused():
    bank = MemoryBank(ENCODER)
    with pytest.raises(EncoderMismatch, match="the prototype of negative 's' has shape"):
        bank.add_negative(replace(negative(1.0), prototype=torch.ones(9)))
    with pytest.raises(ValueError, match="the prototype of negative 'l' holds NaN or infinity"):
        bank.add_negative(negative(float("inf"), label_id="l"))
    with pytest.raises(EncoderMismatch, match="'l2' in its whole image has shape"):
        bank.add(MemoryEntry("a", torch.ones(8), label_id="l2", whole_prototype=torch.ones(3)))
    assert bank.negatives == ()


def test_merging_takes_the_negatives_of_both():
    bank, other = full_bank(), full_bank()
    other.add_negative(negative(5.0, "rejected", "prediction"))
    bank.merge(other)
    assert [each.label_id for each in bank.negatives].count("prediction") == 1
    assert len(bank.negatives) == 7
    assert bank.negatives[-1].prototype.tolist() == [5.0] * 8


def test_everything_comes_back_from_a_file(tmp_path):
    bank = full_bank()
    bank.save(tmp_path / "bank.safetensors")
    assert_equal(MemoryBank.load(tmp_path / "bank.safetensors"), bank)


def test_an_image_is_known_by_its_file_or_else_its_sample():
    assert negative(1.0).image == "file"
    assert replace(negative(1.0), file="").image == "s"
    assert make_bank("a").entries[0].image == "sample0"


def test_files_of_the_third_schema_are_still_read():
    bank = make_bank("ab")
    entries = [
        {
            name: getattr(e, name)
            for name in ("class_name", "sample_id", "label_id", "kind", "weight", "promoted", "file")
        }
        for e in bank.entries
    ]
    data = with_header(bank.to_bytes(), schema_version="3", entries=json.dumps(entries), negatives=None)
    assert set(load(data)) == {"instance_prototypes"}
    old = MemoryBank.from_bytes(data)
    assert_equal(old, bank)
    assert old.negatives == ()
    assert all(e.whole_prototype is None and e.proposal_iou is None for e in old.entries)


def test_a_file_that_lost_its_negatives_is_refused():
    with pytest.raises(MemoryFileError, match="header and its tensors do not agree"):
        MemoryBank.from_bytes(with_header(full_bank().to_bytes(), negatives="[]"))


def many_negatives(groups: int, of_each: int, seed: int = 0) -> list[Negative]:
    """Negatives that resemble each other within groups: group 0, group 1, ..."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, 1, 8, generator=generator)
    prototypes = (centres + 0.01 * torch.randn(groups, of_each, 8, generator=generator)).flatten(0, 1)
    return [replace(negative(1.0), prototype=prototype) for prototype in prototypes]


def test_thousands_of_negatives_are_thinned_and_decisions_of_a_person_are_not():
    bank = MemoryBank(ENCODER)
    found = many_negatives(5, 450)
    rejected = [replace(found[0], source="rejected", label_id=f"r{k}") for k in range(30)]
    bank.add_negatives([*rejected, *found])
    assert sum(each.source == "rejected" for each in bank.negatives) == 30
    left = torch.stack([each.prototype for each in bank.negatives if each.source != "rejected"])
    assert len(left) == MOST_NEGATIVES == 2000
    centres = torch.stack([each.prototype for each in found]).unflatten(0, (5, 450)).mean(1)
    assert set((left[:, None] - centres).norm(dim=2).argmin(1).tolist()) == set(range(5)), "some of every group"
    bank.add_negatives([])
    assert len(bank.negatives) == 2030


def test_merged_memories_are_thinned_as_well():
    bank, other = full_bank(), full_bank()
    other.add_negatives(many_negatives(100, 20))
    bank.merge(other)
    assert len(bank.negatives) == MOST_NEGATIVES + 1, "and the rejected one"
