"""Out-of-memory errors are handled in smaller chunks, and large images and many classes use bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from paths import ROOT

from nts.segmenter import ProposalConfig
from nts.utils.devices import halving


@pytest.mark.parametrize("fits", [1, 3, 5, 8])
def test_a_batch_that_does_not_fit_is_halved(fits):
    sizes = []

    def double(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > fits:
            raise torch.OutOfMemoryError("too much")
        return 2 * batch

    batch = torch.arange(8)
    assert torch.equal(halving(double, batch), 2 * batch)
    assert sum(size for size in sizes if size <= fits) == 8


def test_a_single_item_that_does_not_fit_is_an_error():
    def too_much(batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        halving(too_much, torch.arange(4))


def test_prompts_that_do_not_fit_are_decoded_fewer_at_a_time(small_segmenter, monkeypatch):
    embedding = small_segmenter.embed(torch.zeros(3, 256, 256))
    config = ProposalConfig(points_per_side=6, iou_threshold=0.0)
    expected = small_segmenter.propose(embedding, config)
    decode, chunks = small_segmenter._prompt, []

    def decode_ten(shared, sparse, *chunk):
        chunks.append(len(sparse))
        if len(sparse) > 10:
            raise torch.OutOfMemoryError("too much")
        return decode(shared, sparse, *chunk)

    monkeypatch.setattr(small_segmenter, "_prompt", decode_ten)
    monkeypatch.setattr(small_segmenter, "_most_prompts", 36)
    found = small_segmenter.propose(embedding, config)
    assert torch.allclose(found.mask_logits, expected.mask_logits, atol=1e-3)
    assert torch.equal(found.points, expected.points)
    assert sorted(chunk for chunk in chunks if chunk <= 10) == [4, 8, 8, 8, 8]
    chunks.clear()
    small_segmenter.propose(embedding, config)  # the chunk size is remembered
    assert sorted(chunks) == [4, 8, 8, 8, 8]


MATCHING = """
import resource, torch
from nts.matching import match_proposals
from nts.targets import make_target
from nts.matching import MatchingConfig, choose_instances
from nts.scoring import PrototypeScorer
from nts.segmenter import Proposals
generator = torch.Generator().manual_seed(0)
side, n = 256, 300
line = torch.arange(side)
x, y, r = torch.rand(3, n, 1, 1, generator=generator)
logits = (r * 50 + 3) ** 2 - (line - x * side) ** 2 - (line[:, None] - y * side) ** 2
predicted_iou = torch.rand(n, generator=generator)
tokens = torch.randn(37, 37, 384, generator=generator)
prototypes = torch.randn(1000, 384, generator=generator)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
match_proposals(tokens, logits, predicted_iou, prototypes[:5], (64, 64))
before = peak()
found = match_proposals(tokens, logits, predicted_iou, prototypes, (3000, 4000))
target = make_target(torch.randn(n, 384), Proposals(logits, predicted_iou, torch.zeros(n, 2)), (3000, 4000))
scores = PrototypeScorer(prototypes).scores(target)
again = choose_instances(target.masks, target.features, target.predicted_iou, scores, MatchingConfig())
assert len(found) == 100 and found.image_size == (3000, 4000), len(found)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is in kilobytes on Linux only")
def test_twelve_megapixels_and_a_thousand_classes_take_little_memory():
    """300 masks of 12 megapixels would take 14 GB as floats, 3.6 GB as bytes."""
    answer = subprocess.run(
        [sys.executable, "-c", MATCHING], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    assert float(answer.stdout) < 600  # MB


TILED = """
import resource
import numpy as np
from dataclasses import replace
from nts.memory import MemoryBank, MemoryEntry
from nts.models import load_encoder, load_segmenter
from nts.pipeline import ReferenceSegmenter
from nts.presets import DEFAULT
from nts.tiling import Tiling
import torch
encoder, segmenter = load_encoder("small"), load_segmenter("small")
bank = MemoryBank(encoder.info)
for name in "ab":
    bank.add(MemoryEntry(name, torch.randn(encoder.info.dim)))
rng = np.random.default_rng(0)
image = np.full((10_000, 10_000, 3), 90, np.uint8)
for _ in range(600):
    y, x, r = *rng.integers(0, 9_000, 2), rng.integers(20, 900)
    image[y : y + r, x : x + r] = rng.integers(0, 255, 3)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
preset = replace(DEFAULT, tiling=Tiling((4, 4)), proposals=replace(DEFAULT.proposals, points_per_side=8))
engine = ReferenceSegmenter(bank, encoder, segmenter, preset)
engine.segment(image[:300, :300])
before = peak()
target = engine.encode(image)
found = engine.match(target)
assert len(target) > 16 and target.image_size == (10_000, 10_000), len(target)
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is in kilobytes on Linux only")
def test_tiles_of_a_hundred_megapixels_take_little_memory():
    """A mask of the whole image would take 400 MB as floats, and its proposals many times that."""
    answer = subprocess.run(
        [sys.executable, "-c", TILED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600
    )
    assert float(answer.stdout) < 1000  # MB
