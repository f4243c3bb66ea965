"""Settings of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...references import KINDS, Kind
from ..model import VRPConfig, paper
from .features import FeatureStore

FEW_CLASSES = 12
"""With fewer training classes than this the user is warned: a prompt learns the classes rather than the task."""


class TrainingError(ValueError):
    """A training cannot start; the message gives the reason and a remedy."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training. The defaults are ours; :data:`PAPER` has the published choices.

    Attributes:
        steps: optimisation steps.
        batch: episodes per step, all different.
        peak_rate: learning rate of AdamW after ``warmup`` steps; it decays along a cosine.
        warmup: steps of linear warm-up.
        weight_decay: of AdamW.
        loss: loss of the masks: BCE, Dice, or their sum (Sec. 3.4; Table 5).
        loss_side: side in pixels at which masks are compared; ``None`` for the side of SAM2's logits.
        presence_weight: weight of the loss of the object score.
        absent_share: fraction of episodes whose class is not in the target.
        kinds: kinds of annotation to simulate; one is drawn per reference.
        most_shots: maximal number of references per episode, drawn from 1 up to it.
        flip: mirror images with probability 1/2.
        seed: of all random numbers.
        check_every: steps between checkpoints, each with a validation.
        validation_episodes: number of validation episodes.
    """

    steps: int = 4000
    batch: int = 8
    peak_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    loss: Literal["both", "bce", "dice"] = "both"
    loss_side: int | None = None
    presence_weight: float = 0.1
    absent_share: float = 0.1
    kinds: tuple[Kind, ...] = KINDS
    most_shots: int = 3
    flip: bool = True
    seed: int = 1
    check_every: int = 200
    validation_episodes: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "most_shots", "check_every", "validation_episodes"):
            if getattr(self, name) < 1:
                raise TrainingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.absent_share < 1:
            raise TrainingError(f"absent_share must lie in [0, 1), got {self.absent_share}")
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise TrainingError(f"kinds must be some of {', '.join(KINDS)}, got {self.kinds}")


PAPER = TrainingConfig(
    peak_rate=1e-4,
    warmup=1,
    weight_decay=1e-6,
    loss_side=512,
    presence_weight=0.0,
    absent_share=0.0,
    kinds=("mask",),
    most_shots=1,
    flip=False,
)
"""The published choices: one kind of annotation per run, one reference, no augmentation."""


def default_vrp(store: FeatureStore, *, published: bool = False) -> VRPConfig:
    """Return the configuration that fits the models of a store; with the published choices if ``published``."""
    encoder, segmenter = store.encoder, store.segmenter.info
    config = VRPConfig(token_dim=encoder.info.dim, dim=segmenter.prompt_dim, grid=encoder.grid, kinds=KINDS)
    return paper(config) if published else config
