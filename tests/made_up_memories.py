"""Memories of random vectors: classes as directions with noise, and negatives of several images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nts.memory import EncoderInfo, MemoryBank, MemoryEntry, Negative, NegativeSource

CHANNELS = 16


def made_up_memory(
    shots: Mapping[str, int],
    negatives: int = 0,
    *,
    seed: int = 0,
    noise: float = 0.6,
    images: int = 4,
    sure: bool = True,
    source: NegativeSource = "reference image",
    order: Sequence[int] | None = None,
    copies: int = 1,
    names: Mapping[str, str] | None = None,
) -> MemoryBank:
    """A memory with a number of references of every class.

    Args:
        shots: references per class.
        negatives: number of negatives.
        seed: of all random numbers.
        noise: of a reference, relative to the direction of its class.
        images: number of images that references and negatives come from.
        sure: of the negatives.
        source: of the negatives.
        order: of the references, as a permutation.
        copies: of every reference.
        names: new names of classes.
    """
    generator = torch.Generator().manual_seed(seed)
    bank = MemoryBank(EncoderInfo("made up", "0" * 64, 64, CHANNELS))
    entries = []
    for name, count in shots.items():
        direction = torch.randn(CHANNELS, generator=generator)
        for _ in range(count):
            crop, whole = direction + noise * torch.randn(2, CHANNELS, generator=generator)
            quality = float(0.5 + 0.5 * torch.rand(1, generator=generator))
            image = f"image {len(entries) % images}"
            entries.append(
                MemoryEntry(
                    (names or {}).get(name, name),
                    crop,
                    sample_id=image,
                    whole_prototype=whole,
                    predicted_iou=quality,
                    proposal_iou=quality,
                )
            )
    for row in order if order is not None else range(len(entries)):
        for _ in range(copies):
            bank.add(entries[row])
    for number in range(negatives):
        prototype = torch.randn(CHANNELS, generator=generator)
        quality = float(0.5 + 0.5 * torch.rand(1, generator=generator))
        bank.add_negative(Negative(prototype, source, sure, f"image {number % images}", predicted_iou=quality))
    return bank


def units(count: int, seed: int = 0) -> Tensor:
    """Random unit vectors ``[count, CHANNELS]``."""
    vectors = torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)
