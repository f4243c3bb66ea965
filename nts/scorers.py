"""Scorers by name: the one place to register a new :class:`~nts.scoring.Scorer`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .encoder import Encoder
from .memory import MemoryBank
from .presets import Preset, get_preset
from .scoring import Scorer, make_prototype_scorer
from .segmenter import Segmenter
from .vrp.class_maps import ClassMapper, whole_images
from .vrp.prompt import TrainedPrompt
from .vrp.scorer import CombinedScorer, VRPScorer

Source = TypeVar("Source")


@dataclass(frozen=True)
class ScorerKind(Generic[Source]):
    """A scorer that can be chosen by name.

    Attributes:
        label: in forms.
        description: in forms.
        make: makes the scorer for the classes of a memory, from the encoder and the preset, or from the class maps of a
            prompt.
    """

    label: str
    description: str
    make: Callable[[MemoryBank, Source], Scorer]


UNPROMPTED: dict[str, ScorerKind[tuple[Encoder, Preset]]] = {
    "prototype": ScorerKind(
        "Prototypes",
        "Similarity to the class prototypes, without training",
        lambda memory, how: make_prototype_scorer(memory, how[1].method, how[0].device),
    ),
}
"""Scorers that need no training."""

PROMPTED: dict[str, ScorerKind[ClassMapper]] = {
    "vrp": ScorerKind(
        "Reference prompt",
        "A network trained to segment the objects of references",
        lambda memory, mapper: VRPScorer(mapper),
    ),
    "both": ScorerKind(
        "Both",
        "Similarity times the square root of the prompt's score",
        lambda memory, mapper: CombinedScorer(mapper, memory.prototypes()),
    ),
}
"""Scorers that need a trained visual reference prompt, and a memory with whole images."""

SCORERS: dict[str, ScorerKind] = {**UNPROMPTED, **PROMPTED}
"""All scorers by the names that :func:`make_scorer` accepts and that runs store."""


def make_scorer(
    name: str,
    memory: MemoryBank,
    encoder: Encoder,
    segmenter: Segmenter,
    prompt: TrainedPrompt | None = None,
    preset: str | Preset = "default",
) -> Scorer:
    """Make a scorer for the classes of a memory.

    Args:
        name: one of :data:`SCORERS`.
        memory: its classes are scored.
        encoder, segmenter: the models that will encode the targets.
        prompt: trained for these models; only for the scorers in :data:`PROMPTED`.
        preset: that of the targets; only for the scorers in :data:`UNPROMPTED`.

    Raises:
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
        ValueError: if there is no scorer of that name, it lacks its prompt, or the memory is empty.
    """
    if name in UNPROMPTED:
        return UNPROMPTED[name].make(memory, (encoder, get_preset(preset)))
    if name not in PROMPTED:
        raise ValueError(f"the scorer must be one of {', '.join(SCORERS)}, got {name!r}")
    if prompt is None:
        raise ValueError(f"the scorer {name!r} needs a trained reference prompt")
    return PROMPTED[name].make(memory, ClassMapper(prompt, encoder, segmenter, whole_images(memory)))
