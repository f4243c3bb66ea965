"""The engine as a FiftyOne model, for ``dataset.apply_model(model, label_field=...)``."""

from __future__ import annotations

from dataclasses import dataclass

import fiftyone as fo
import fiftyone.core.models as fom
import numpy as np

from ..cache import default_cache
from ..cached_segmenter import CachedSegmenter
from ..memory import MemoryBank
from ..models import load_encoder, load_reference_prompt, load_segmenter
from ..pipeline import ReferenceSegmenter, Scorer
from ..presets import Preset, get_preset
from ..vrp.prompt import TrainedPrompt
from .embeddings import EncoderEmbeddings
from .labels import to_detections


@dataclass(frozen=True)
class ModelConfig:
    """What a :class:`ReferenceSegmenterModel` is made of.

    FiftyOne asks a model's configuration for the options of ``apply_model`` that the model applies itself
    (``confidence_thresh``, ``filter_classes``). There are none: FiftyOne applies them to what the model returns.

    Attributes:
        classes: of the memory.
        encoder, segmenter: names of the models.
        preset: its name.
        scorer: what judges the class of a proposal.
    """

    classes: tuple[str, ...]
    encoder: str
    segmenter: str
    preset: str
    scorer: Scorer


class ReferenceSegmenterModel(EncoderEmbeddings, fom.SamplesMixin, fom.Model):
    """Segments images by a reference memory; its encoder gives embeddings of images and patches.

    >>> model = ReferenceSegmenterModel(memory)
    >>> dataset.apply_model(model, label_field="birds", skip_failures=False)

    FiftyOne's own image readers turn no 16-bit image into 8 bits and know nothing of the preset, so the image is read
    again from the sample's file: the result is the one that ``auto_segment_view`` gives.

    Args:
        memory: the reference memory.
        encoder: a name for :func:`nts.models.load_encoder`; the one that made the memory without.
        segmenter: a name for :func:`nts.models.load_segmenter`.
        preset: ``"default"``, ``"paper"``, ``"fast"`` or a :class:`~nts.presets.Preset`; the one that made the memory
            without.
        device: for both models, ``"auto"`` or as in torch.
        precision: for both models, one of :data:`nts.utils.devices.PRECISIONS`.
        scorer: what judges the class of a proposal, as in :class:`~nts.pipeline.ReferenceSegmenter`.
        reference_prompt: for the scorers ``"vrp"`` and ``"both"``: a prompt (:func:`~nts.fiftyone_adapter.load_prompt`
            has those of a dataset), or a name for :func:`nts.models.load_reference_prompt`.
        use_cache: read and keep what the models make of images; only the scorer ``"prototype"`` can.
    """

    def __init__(
        self,
        memory: MemoryBank,
        encoder: str | None = None,
        segmenter: str = "small",
        preset: str | Preset | None = None,
        device: str = "auto",
        precision: str = "auto",
        scorer: Scorer = "prototype",
        reference_prompt: TrainedPrompt | str | None = None,
        use_cache: bool = True,
    ) -> None:
        super().__init__()
        preset = get_preset(preset or memory.preset)
        precision = preset.precision_for(precision)
        if isinstance(reference_prompt, str):
            reference_prompt = load_reference_prompt(reference_prompt)
        self.segmenter = ReferenceSegmenter(
            memory,
            load_encoder(encoder or memory.encoder.name, device, precision),
            load_segmenter(segmenter, device, precision),
            preset,
            scorer=scorer,
            prompt=reference_prompt,
        )
        self.encoder = self.segmenter.encoder
        self._cached = CachedSegmenter(self.segmenter, default_cache() if use_cache else None)

    @property
    def config(self) -> ModelConfig:
        """The memory's classes and the names of the models."""
        engine = self.segmenter
        return ModelConfig(
            engine.classes, engine.encoder.info.name, engine.segmenter.name, engine.preset.name, engine.scorer
        )

    @property
    def media_type(self) -> str:
        return "image"

    @property
    def ragged_batches(self) -> bool:
        return True

    @property
    def transforms(self) -> None:
        return None

    @property
    def preprocess(self) -> bool:
        return False

    def predict(self, image: np.ndarray, sample: fo.Sample | None = None) -> fo.Detections:
        """The objects in an image, uint8 ``[H, W, 3]``, or in that of a sample."""
        looked_up = self._cached.look_up(image) if sample is None else self._cached.look_up_file(sample.filepath)
        found = self._cached.segment(looked_up)
        self._cached.keep(found)
        return to_detections(found.instances, self.segmenter.memory)
