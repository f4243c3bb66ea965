"""Fixtures of the tests of reference prompts."""

from __future__ import annotations

import pytest
import torch
from novel_references import novel_references

from nts.building import encode_references
from nts.memory import MemoryBank
from nts.vrp.model import VisualReferencePrompt, VRPConfig
from nts.vrp.prompt import TrainedPrompt
from synthetic.scenes import NOVEL_SPECIES


@pytest.fixture(scope="module")
def prompt(small_encoder, small_segmenter) -> TrainedPrompt:
    """Untrained prompt with a non-zero dense prompt."""
    torch.manual_seed(0)
    config = VRPConfig(small_encoder.info.dim, small_segmenter.info.prompt_dim, small_encoder.grid, queries=4)
    model = VisualReferencePrompt(config).eval().requires_grad_(False)
    torch.nn.init.normal_(model.dense[-1].weight, std=0.05)
    return TrainedPrompt(model, small_encoder.info, small_segmenter.info, ("cat", "dog"), {"steps": 3})


@pytest.fixture(scope="module")
def memory(small_encoder) -> MemoryBank:
    """Memory of ten classes; one of them has two references."""
    bank = MemoryBank(small_encoder.info)
    references = [*novel_references(1, shots=2), *novel_references(len(NOVEL_SPECIES), shots=1)[1:]]
    for entry in encode_references(references, small_encoder, keep_images=True):
        bank.add(entry)
    return bank
