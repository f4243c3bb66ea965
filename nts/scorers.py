"""Scorers by name: the one place to register a new :class:`~nts.scoring.Scorer`."""

from __future__ import annotations

from collections.abc import Callable

from .encoder import Encoder
from .memory import MemoryBank
from .scoring import PrototypeScorer, Scorer
from .segmenter import Segmenter
from .vrp.class_maps import ClassMapper, whole_images
from .vrp.prompt import TrainedPrompt
from .vrp.scorer import CombinedScorer, VRPScorer

UNPROMPTED: dict[str, Callable[[MemoryBank, Encoder], Scorer]] = {
    "prototype": lambda memory, encoder: PrototypeScorer(memory.prototypes().to(encoder.device)),
}
"""Scorers that need no training."""

PROMPTED: dict[str, Callable[[MemoryBank, ClassMapper], Scorer]] = {
    "vrp": lambda memory, mapper: VRPScorer(mapper),
    "both": lambda memory, mapper: CombinedScorer(mapper, memory.prototypes()),
}
"""Scorers that need a trained visual reference prompt, and a memory with whole images."""

SCORERS = (*UNPROMPTED, *PROMPTED)
"""Names that :func:`make_scorer` accepts."""


def make_scorer(
    name: str, memory: MemoryBank, encoder: Encoder, segmenter: Segmenter, prompt: TrainedPrompt | None = None
) -> Scorer:
    """Make a scorer for the classes of a memory.

    Args:
        name: one of :data:`SCORERS`.
        memory: its classes are scored.
        encoder, segmenter: the models that will encode the targets.
        prompt: trained for these models; only for the scorers in :data:`PROMPTED`.

    Raises:
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
        ValueError: if there is no scorer of that name, it lacks its prompt, or the memory is empty.
    """
    if name in UNPROMPTED:
        return UNPROMPTED[name](memory, encoder)
    if name not in PROMPTED:
        raise ValueError(f"the scorer must be one of {', '.join(SCORERS)}, got {name!r}")
    if prompt is None:
        raise ValueError(f"the scorer {name!r} needs a trained reference prompt")
    return PROMPTED[name](memory, ClassMapper(prompt, encoder, segmenter, whole_images(memory)))
