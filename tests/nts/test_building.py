"""Building memories: encoding references with the shipped encoder, and skipping unusable ones."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from novel_references import novel_references

from nts.building import Skipped, build_memory, encode_references
from nts.memory import MemoryBank


@pytest.fixture(scope="module")
def memory(small_encoder) -> MemoryBank:
    bank, skipped = build_memory(novel_references(3, shots=2), small_encoder)
    assert skipped == []
    return bank


def test_memory_holds_a_prototype_of_every_reference(memory, small_encoder):
    assert memory.encoder == small_encoder.info
    assert memory.shots == dict.fromkeys(memory.classes, 2)
    assert len(memory.classes) == 3
    assert [entry.label_id for entry in memory.entries] == [r.label_id for r in novel_references(3, shots=2)]
    assert all(entry.weight > 0 for entry in memory.entries)


def test_references_are_encoded_the_same_alone_and_in_batches(small_encoder, memory):
    alone = [
        next(encode_references([reference], small_encoder)).prototype for reference in novel_references(3, shots=2)
    ]
    assert torch.allclose(torch.stack(alone), memory.instance_prototypes(), atol=1e-4)


def test_references_are_read_as_they_are_needed(small_encoder):
    read = itertools.count()
    stream = (reference for reference in novel_references(3, shots=2) for _ in [next(read)])
    next(encode_references(stream, small_encoder, batch_size=2))
    assert next(read) == 2


def test_a_reference_that_cannot_be_used_is_named_and_the_others_are_not_affected(small_encoder, memory):
    broken = replace(novel_references(3, shots=2)[0], box=(900.0, 900.0, 5.0, 5.0), label_id="broken", sample_id="far")
    results = list(encode_references([broken, *novel_references(3, shots=2)], small_encoder))
    assert isinstance(results[0], Skipped)
    assert (results[0].sample_id, results[0].label_id) == ("far", "broken")
    assert "outside its image of 256 x 256 pixels" in results[0].reason
    assert torch.allclose(results[1].prototype, memory.entries[0].prototype, atol=1e-4)
