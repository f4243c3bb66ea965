"""Segmenting the images of a view by a memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import fiftyone as fo

from ..cache import default_cache
from ..cached_segmenter import CachedSegmenter, Segmented
from ..models import load_encoder, load_segmenter
from ..pipeline import ReferenceSegmenter
from ..presets import Preset, get_preset, preset_fingerprint
from ..scorers import make_scorer
from . import checks, colours, runs
from .checks import InputError
from .image_job import image_job, paths_by_id
from .jobs import Job, OnProgress, Progress, run
from .label_writer import field_writer
from .labels import DETECTION_ATTRIBUTES, to_detections
from .runs import Collection
from .scorers import chosen_prompt


@dataclass(frozen=True)
class SegmentationReport:
    """What a segmentation found.

    Attributes:
        output_field: where the instances stand.
        error_field: where the reasons stand for samples that could not be segmented.
        segmented: images segmented now.
        resumed: images that an earlier run with the same settings had done, and that were left as they are.
        instances: instances found now, per class.
        empty: images segmented now in which nothing was found.
        failed: ``{sample id: reason}`` for the samples that could not be segmented now; a reason names its file.
        from_cache: of the images segmented now those that had been encoded before, so that no model ran.
        seconds: duration of the work on images.
    """

    output_field: str
    error_field: str
    segmented: int
    resumed: int
    instances: dict[str, int]
    empty: int
    failed: dict[str, str]
    from_cache: int
    seconds: float


def auto_segment_view(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    progress: OnProgress = None,
    **options: Any,
) -> SegmentationReport:
    """Segment a view by a memory: :func:`segmentation_job`, run to its end."""
    return run(segmentation_job(view, memory_key, output_field, **options), progress)


def segmentation_job(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    score_threshold: float = 0.0,
    max_instances: int = 100,
    limit: int | None = None,
    overwrite: bool = False,
    segmenter: str = "small",
    encoder: str | None = None,
    preset: str | Preset | None = None,
    scorer: str = "prototype",
    reference_prompt: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    use_cache: bool = True,
    compiled: bool = False,
) -> Job[SegmentationReport]:
    """Find the objects of a memory's classes in the images of a view.

    Images that have their result from an earlier run with the same settings are not done again, so an interrupted run
    is finished by starting it again. An image that cannot be segmented gets the reason in ``<output_field>_error``, and
    the run goes on.

    What the models make of an image is kept on disk (:func:`nts.cache.default_cache`): another run over it, with more
    references, other classes, thresholds or merging, needs no model.

    Args:
        view: dataset or view to segment.
        memory_key: name of a memory of the dataset.
        output_field: field for the instances; ``nts_<memory_key>`` without. Only a field that an earlier segmentation
            made is ever written again.
        score_threshold: instances are kept above this score, in ``[0, 1]``.
        max_instances: at most this many instances per image.
        limit: segment only the first images of the view, to see whether the settings suit; a later run does the rest.
        overwrite: where the field holds results of other settings, delete them (all of them) and begin anew.
        segmenter: a name for :func:`nts.models.load_segmenter`.
        encoder: a name for :func:`nts.models.load_encoder`; the one that made the memory without.
        preset: ``"default"``, ``"paper"`` or ``"fast"``; the one that made the memory without.
        scorer: scores proposals for the memory's classes, one of :data:`nts.scorers.SCORERS`. The ``similarity``
            of a detection is its score: the cosine to the class prototype, the prompt's score, or the two combined.
        reference_prompt: for the scorers ``"vrp"`` and ``"both"``: the name of a prompt of the dataset, ``"small"``, or
            a file. The memory must have been built with ``keep_images``.
        device: for both models, ``"auto"`` or as in torch.
        precision: for both models, one of :data:`nts.utils.devices.PRECISIONS`.
        use_cache: read and keep what the models make of images. Only the scorer ``"prototype"`` can.
        compiled: compile SAM2's decoder, for many images, see :func:`nts.models.load_segmenter`.

    Raises:
        InputError: if the view, the field or the settings will not do.
        RunNotFound: if there is no such memory.
        EncoderMismatch: if another encoder made the memory.
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
        PromptFileError: if the prompt is damaged.
        WeightsNotFound: if weights cannot be had.
    """
    checks.check_view(view)
    bank = runs.load_memory(view, memory_key)
    output_field = output_field or checks.suggest_output_field(view, memory_key)
    checks.check_output_field(view, output_field)
    if limit is not None and not isinstance(limit, int):
        raise InputError(f"limit must be a whole number, got {limit!r}")
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    preset = get_preset(preset or bank.preset)
    try:
        matching = replace(preset.matching, score_threshold=score_threshold, max_instances=max_instances)
    except ValueError as error:
        raise InputError(str(error)) from error
    preset = replace(preset, matching=matching)
    precision = preset.precision_for(precision)
    prompt = chosen_prompt(view, bank, scorer, reference_prompt)

    paths = paths_by_id(view)
    total = len(paths) if limit is None else min(limit, len(paths))
    yield Progress(0, total, f"loading the encoder {encoder or bank.encoder.name} and the segmenter {segmenter}")
    models = (
        load_encoder(encoder or bank.encoder.name, device, precision),
        load_segmenter(segmenter, device, precision, compiled=compiled),
    )
    engine = ReferenceSegmenter(bank, *models, preset, scorer=make_scorer(scorer, bank, *models, prompt))
    settings = {
        "memory_fingerprint": runs.fingerprint(bank),
        "encoder_fingerprint": engine.encoder.info.fingerprint,
        "segmenter_fingerprint": engine.segmenter.fingerprint,
        "preset": preset.name,
        "preset_fingerprint": preset_fingerprint(preset),
        "score_threshold": score_threshold,
        "max_instances": max_instances,
        "scorer": scorer,
        "prompt_fingerprint": prompt and prompt.fingerprint,
    }
    writer = field_writer(
        view,
        output_field,
        runs.SEGMENTATION,
        fo.Detections,
        memory_key,
        bank.classes,
        settings,
        description=f"Instances found by the reference memory {memory_key!r}",
        attributes={f"detections.{name}": field_type for name, field_type in DETECTION_ATTRIBUTES.items()},
        config={
            "encoder": engine.encoder.info.name,
            "segmenter": engine.segmenter.name,
            "reference_prompt": reference_prompt,
            "device": str(engine.encoder.device),
            "precision": engine.encoder.precision,
            "compiled": compiled,
        },
        results={
            "reference_sample_ids": sorted({entry.sample_id for entry in bank.entries}),
            "reference_files": sorted({entry.file for entry in bank.entries if entry.file}),
        },
        overwrite=overwrite,
    )
    colours.set_class_colours(view, [output_field], bank.classes)
    cached = CachedSegmenter(engine, default_cache() if use_cache else None)
    instances: Counter[str] = Counter()
    empty = from_cache = 0

    def to_labels(found: Segmented) -> list[fo.Detections]:
        nonlocal empty, from_cache
        labels = to_detections(found.instances, bank)
        cached.store(found)
        instances.update(detection.label for detection in labels.detections)
        empty += not labels.detections
        from_cache += found.encoded is None
        return [labels]

    images = yield from image_job(
        view,
        paths,
        writer,
        cached.fetch_file,
        cached.segment,
        to_labels,
        verb="segmented",
        limit=limit,
        counts={"instances": "detections"},
    )
    return SegmentationReport(
        output_field=output_field,
        error_field=runs.error_field(output_field),
        segmented=images.done,
        resumed=images.resumed,
        instances=dict(instances),
        empty=empty,
        failed=images.failed,
        from_cache=from_cache,
        seconds=images.seconds,
    )
