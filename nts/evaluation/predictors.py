"""Predictors of episodes by name: the training-free pipeline, a trained reference prompt, and the baselines.

All of them see whole images, so a reference image is encoded once, whichever object is marked in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..encoder import Encoder
from ..masks import draw_masks
from ..memory import MemoryBank, WholeImage
from ..metrics.miou import PAINT_THRESHOLD, paint
from ..pipeline import ReferenceSegmenter
from ..presets import Preset
from ..references import Reference, annotation_weights
from ..scorers import PROMPTED, make_scorer
from ..segmenter import Segmenter
from ..vrp.class_maps import ClassMapper
from ..vrp.prompt import TrainedPrompt
from .baselines import PRIOR_THRESHOLD, GeometricPrompts, PromptKinds, ThresholdedPrior
from .episode_evaluation import Predictor
from .shared_encodings import SharedEncodings, SharedPipeline

TRAINING_FREE = "training-free"
PROMPTED_SCORERS = {"both-scorers" if name == "both" else f"{name}-scorer": name for name in PROMPTED}
"""The pipeline with a trained reference prompt as the scorer: scorers by predictor. Runs store these names."""
PREDICTORS: tuple[str, ...] = (
    TRAINING_FREE,
    "prior",
    "gp-sam-points",
    "gp-sam-box",
    "gp-sam-both",
    "vrp-map",
    *PROMPTED_SCORERS,
)
"""Names of all predictors."""
PROMPTED_PREDICTORS = ("vrp-map", *PROMPTED_SCORERS)
"""Predictors that need a trained reference prompt."""

PROMPTED_PAINT_THRESHOLD = 0.3
"""Default threshold of the score above which instances scored by a reference prompt are painted."""


class PaintedInstances:
    """The pipeline as a predictor: instances of the class, painted into a mask.

    With the scorer ``"prototype"`` it uses the method of the pipeline's preset, but no negatives: episodes have none.

    Args:
        pipeline: shared with other predictors.
        threshold: see :func:`nts.metrics.miou.paint`.
        scorer: see :func:`nts.scorers.make_scorer`.
        prompt: the trained reference prompt, for the scorers that need one.
    """

    def __init__(
        self,
        pipeline: SharedPipeline,
        threshold: float = PAINT_THRESHOLD,
        *,
        scorer: str = "prototype",
        prompt: TrainedPrompt | None = None,
    ) -> None:
        self._pipeline, self._threshold = pipeline, threshold
        self._scorer, self._prompt = scorer, prompt

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`~nts.evaluation.episode_evaluation.Predictor`. The label ids of references must differ.

        Raises:
            InvalidReference: if a reference cannot be used.
        """
        shared = self._pipeline
        memory = MemoryBank(shared.encoder.info, shared.preset.name)
        for reference in references:
            memory.add(shared.entry(reference))
        scorer = make_scorer(self._scorer, memory, shared.encoder, shared.segmenter, self._prompt, preset=shared.preset)
        segmenter = ReferenceSegmenter(memory, shared.encoder, shared.segmenter, shared.preset, scorer=scorer)
        return (paint(segmenter.match(shared.encode(target)), self._threshold) > 0).cpu().numpy()


class PromptedMap:
    """The foreground of a reference prompt's map: pixels with a positive logit.

    Args:
        encodings: shared with other predictors.
        prompt: the trained prompt.
        empty: show it the reference images without their annotations: a control of whether they matter.

    Raises:
        PromptMismatch: if the prompt was trained for other models.
    """

    def __init__(self, encodings: SharedEncodings, prompt: TrainedPrompt, *, empty: bool = False) -> None:
        prompt.check_models(encodings.encoder, encodings.segmenter)
        self._encodings, self._prompt, self._empty = encodings, prompt, empty
        self._config = prompt.model.config

    def __call__(self, references: Sequence[Reference], target: np.ndarray) -> np.ndarray:
        """See :data:`~nts.evaluation.episode_evaluation.Predictor`."""
        encodings = self._encodings
        support = [[self._whole_image(reference) for reference in references]]
        mapper = ClassMapper(self._prompt, encodings.encoder, encodings.segmenter, support)
        tokens = encodings.target_tokens(target).unflatten(0, self._config.grid)
        maps = mapper.maps(tokens, encodings.target_embedding(target))
        return draw_masks(maps.logits, target.shape[:2])[0].cpu().numpy()

    def _whole_image(self, reference: Reference) -> WholeImage:
        kind = "mask" if reference.promoted else reference.kind
        mask = np.zeros_like(reference.mask) if self._empty else reference.mask
        weights = annotation_weights(mask, kind, self._config.grid).flatten()
        sampled = annotation_weights(mask, kind, self._config.grid, "nearest").flatten().bool()
        return WholeImage(reference.sample_id, self._encodings.reference_tokens(reference), weights, kind, sampled)


def make_predictor(
    name: str,
    encoder: Encoder,
    segmenter: Segmenter,
    preset: str | Preset = "default",
    threshold: float | None = None,
    encodings: SharedEncodings | None = None,
    prompt: TrainedPrompt | None = None,
    pipeline: SharedPipeline | None = None,
) -> Predictor:
    """Build a predictor by its name.

    Args:
        name: one of :data:`PREDICTORS`.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        preset: of the pipeline; other predictors have none.
        threshold: :func:`default_threshold` where ``None``.
        encodings: shared with other predictors, so that images are encoded once.
        prompt: the trained reference prompt, for those of :data:`PROMPTED_PREDICTORS`.
        pipeline: with the same models and preset, for the predictors that are the pipeline; made here by default.

    Raises:
        ValueError: if the name is unknown, or the predictor lacks its prompt.
        PromptMismatch: if the prompt was trained for other models.
    """
    threshold = default_threshold(name) if threshold is None else threshold
    if name in PROMPTED_PREDICTORS and prompt is None:
        raise ValueError(f"the predictor {name!r} needs a trained reference prompt")
    if name == TRAINING_FREE or name in PROMPTED_SCORERS:
        scorer = PROMPTED_SCORERS.get(name, "prototype")
        pipeline = pipeline or SharedPipeline(encoder, segmenter, preset)
        return PaintedInstances(pipeline, threshold, scorer=scorer, prompt=prompt)
    encodings = encodings or SharedEncodings(encoder, segmenter)
    if prompt is not None and name == "vrp-map":
        return PromptedMap(encodings, prompt)
    prompts: dict[str, PromptKinds] = {"gp-sam-points": "points", "gp-sam-box": "box", "gp-sam-both": "both"}
    if name in prompts:
        return GeometricPrompts(encodings, prompts[name], threshold)
    return ThresholdedPrior(encodings, threshold)


def default_threshold(name: str) -> float:
    """Default threshold of a predictor: the least score that is painted, or the least normalised prior of foreground.

    Raises:
        ValueError: if the name is unknown.
    """
    if name not in PREDICTORS:
        raise ValueError(f"there is no predictor {name!r}; there are {', '.join(PREDICTORS)}")
    painted = {TRAINING_FREE: PAINT_THRESHOLD, **dict.fromkeys(PROMPTED_SCORERS, PROMPTED_PAINT_THRESHOLD)}
    return painted.get(name, PRIOR_THRESHOLD)
