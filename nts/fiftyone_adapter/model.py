"""The engine as a FiftyOne model, for ``dataset.apply_model(model, label_field=...)``."""

from __future__ import annotations

from dataclasses import dataclass

import fiftyone as fo
import numpy as np

from ..cache import default_cache
from ..cached_segmenter import CachedSegmenter
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..pipeline import ReferenceSegmenter
from ..presets import Preset, get_preset
from ..scorers import make_scorer
from ..vrp.loading import load_reference_prompt
from ..vrp.prompt import TrainedPrompt
from .embeddings import EmbeddingModel
from .labels import to_detections


@dataclass(frozen=True)
class ModelConfig:
    """Configuration of a :class:`ReferenceSegmenterModel`.

    FiftyOne reads from it which options of ``apply_model`` (``confidence_thresh``, ``filter_classes``) the model
    applies itself. There are none: FiftyOne applies them to the returned labels.

    Attributes:
        classes: of the memory.
        encoder, segmenter: names of the models.
        preset: its name.
        scorer: its name, one of :data:`nts.scorers.SCORERS`.
    """

    classes: tuple[str, ...]
    encoder: str
    segmenter: str
    preset: str
    scorer: str


class ReferenceSegmenterModel(EmbeddingModel):
    """Segments images by a reference memory; its encoder gives embeddings of images and patches.

    >>> model = ReferenceSegmenterModel(memory)
    >>> dataset.apply_model(model, label_field="birds", skip_failures=False)

    FiftyOne's image readers do not reduce 16-bit images to 8 bits and ignore the preset, so the image is read again
    from the sample's file. The result is that of ``auto_segment_view``, except for ``confidence``: it is the
    probability in images like the reference images, where ``auto_segment_view`` fits it to the images that it segments.

    Args:
        memory: the reference memory.
        encoder: a name for :func:`nts.models.load_encoder`. Default: the encoder of the memory.
        segmenter: a name for :func:`nts.models.load_segmenter`.
        preset: ``"default"``, ``"paper"``, ``"fast"`` or a :class:`~nts.presets.Preset`. Default: the preset
            that the memory was built with.
        device: for both models, ``"auto"`` or as in torch.
        precision: for both models, one of :data:`nts.utils.devices.PRECISIONS`.
        scorer: scores proposals for the memory's classes, one of :data:`nts.scorers.SCORERS`.
        reference_prompt: for the scorers ``"vrp"`` and ``"both"``: a prompt
            (:func:`~nts.fiftyone_adapter.prompts.load_prompt` loads those of a dataset), or a name for
            :func:`nts.vrp.loading.load_reference_prompt`.
        use_cache: cache encoded images on disk. Scorers that need SAM2's embedding ignore it.
    """

    def __init__(
        self,
        memory: MemoryBank,
        encoder: str | None = None,
        segmenter: str = "small",
        preset: str | Preset | None = None,
        device: str = "auto",
        precision: str = "auto",
        scorer: str = "prototype",
        reference_prompt: TrainedPrompt | str | None = None,
        use_cache: bool = True,
    ) -> None:
        super().__init__()
        preset = get_preset(preset or memory.preset)
        precision = preset.precision_for(precision)
        if isinstance(reference_prompt, str):
            reference_prompt = load_reference_prompt(reference_prompt)
        models = (
            load_encoder(encoder or memory.encoder.name, device, precision),
            load_segmenter(segmenter, device, precision),
        )
        made = make_scorer(scorer, memory, *models, reference_prompt, preset)
        self.segmenter = ReferenceSegmenter(memory, *models, preset, scorer=made)
        self.encoder = self.segmenter.encoder
        self._cached = CachedSegmenter(self.segmenter, default_cache() if use_cache else None)

    @property
    def config(self) -> ModelConfig:
        """The memory's classes and the names of the models."""
        engine = self.segmenter
        return ModelConfig(
            engine.classes, engine.encoder.info.name, engine.segmenter.name, engine.preset.name, engine.scorer.name
        )

    @property
    def ragged_batches(self) -> bool:
        return True

    def predict(self, image: np.ndarray, sample: fo.Sample | None = None) -> fo.Detections:
        """Find the objects in an image, uint8 ``[H, W, 3]``, or in that of a sample."""
        fetched = self._cached.fetch(image) if sample is None else self._cached.fetch_file(sample.filepath)
        found = self._cached.segment(fetched)
        self._cached.store(found)
        return to_detections(found.instances, self.segmenter.memory, self.segmenter.calibration)
