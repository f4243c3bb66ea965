"""Instances with arbitrary values, and a memory to go with them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from nts.instances import Instances
from nts.memory import EncoderInfo, MemoryBank, MemoryEntry

CHANNELS = 40


def made_up_instances(masks: np.ndarray) -> Instances:
    """Instances with the given masks, bool ``[m, H, W]``, of the classes of :func:`two_references`."""
    count = len(masks)
    scores, which = torch.linspace(0.9, 0.3, count), torch.arange(count) % 2
    return Instances.of_masks(
        torch.from_numpy(masks),
        labels=which,
        scores=scores,
        similarities=scores + 0.05,
        margins=scores / 3,
        predicted_iou=scores - 0.1,
        features=F.normalize(torch.randn(count, CHANNELS, generator=torch.Generator().manual_seed(1)), dim=1),
        proposals=torch.arange(count),
        references=1 - which,
    )


def two_references() -> MemoryBank:
    """A memory with a reference of ``b``, then one of ``a``."""
    bank = MemoryBank(EncoderInfo("some", "f", 28, 3))
    for name, label_id in (("b", "label-b"), ("a", "label-a")):
        bank.add(MemoryEntry(name, torch.ones(3), "sample", label_id))
    return bank
