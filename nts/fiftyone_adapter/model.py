"""The engine as a FiftyOne model, for ``dataset.apply_model(model, label_field=...)``."""

from __future__ import annotations

import fiftyone as fo
import fiftyone.core.models as fom
import numpy as np

from ..cache import default_cache
from ..images import digest, digest_file, read_image
from ..memory import MemoryBank
from ..models import load_encoder, load_reference_prompt, load_segmenter
from ..pipeline import ReferenceSegmenter, Scorer
from ..presets import Preset, get_preset
from ..target_cache import keep_target, read_target
from ..vrp.prompt import ReferencePrompt
from .labels import to_detections


class ReferenceSegmenterModel(fom.SamplesMixin, fom.Model):
    """Segments images by a reference memory.

    >>> model = ReferenceSegmenterModel(load_memory(dataset, "birds"))  # doctest: +SKIP
    >>> dataset.apply_model(model, label_field="birds")  # doctest: +SKIP

    FiftyOne's own image readers turn no 16-bit image into 8 bits and know nothing of the preset, so the image is read
    again from the sample's file: the result is the one that ``auto_segment_view`` gives.

    Args:
        memory: the reference memory.
        encoder: a name for :func:`nts.models.load_encoder`; the one that made the memory without.
        segmenter: a name for :func:`nts.models.load_segmenter`.
        preset: ``"default"``, ``"paper"``, ``"fast"`` or a :class:`~nts.presets.Preset`; the one that made the memory
            without.
        device: for both models, ``"auto"`` or as in torch.
        precision: for both models, one of :data:`nts.devices.PRECISIONS`.
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
        reference_prompt: ReferencePrompt | str | None = None,
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
        self._cache = default_cache() if use_cache and self.segmenter.keeps_targets else None

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
        engine = self.segmenter
        if self._cache is None:
            image = image if sample is None else read_image(sample.filepath, exif=engine.preset.exif)
            return to_detections(engine.segment(image), engine.memory)
        key = engine.target_key(digest(image) if sample is None else digest_file(sample.filepath))
        target = read_target(self._cache, key)
        if target is None:
            image = image if sample is None else read_image(sample.filepath, exif=engine.preset.exif)
            target = engine.encode(image).target()
            keep_target(self._cache, key, target)
        return to_detections(engine.match_target(target), engine.memory)
