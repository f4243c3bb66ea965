"""Segmenting the images of a view with a memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import fiftyone as fo

from ..cache import TensorCache, default_cache
from ..cached_segmenter import CachedSegmenter, Segmented
from ..cached_targets import Fetched
from ..calibration import Calibration
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..pipeline import ReferenceSegmenter
from ..recommendation import Recommendation, recommend
from ..scorers import UNPROMPTED, make_scorer
from ..transduction import ConfidentPredictions
from ..utils.prefetch import prefetch_together
from ..vrp.prompt import TrainedPrompt
from . import colours, runs
from .annotation import set_up_annotation
from .cluster import check_executor, on_ray
from .confidences import Shown, fit_confidences, show_confident
from .config import SegmentationConfig
from .decisions import DECISION_ATTRIBUTES, DecidedLabels
from .documents import Document
from .errors import RunEnded
from .image_job import image_job, locally, paths_by_id
from .jobs import Job, OnProgress, Progress, run
from .label_writer import LabelField, LabelWriter, OutputSpec, field_writer
from .labels import DETECTION_ATTRIBUTES, to_document
from .options import takes
from .plan import Plan, plan_segmentation
from .runs import Collection
from .scorers import find_prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentationReport:
    """Result of a segmentation.

    Attributes:
        output_field: field of the instances.
        error_field: field of the reasons why samples could not be segmented.
        segmented: images segmented now.
        resumed: images already segmented by an earlier run with the same settings; only their confidences may change.
        instances: instances found now, per class.
        kept: labels in the field that a person has decided about; the run left them alone.
        empty: images segmented now without any instance.
        failed: ``{sample id: reason}`` of the samples that could not be segmented now; a reason names the file.
        from_cache: images segmented now without running the models, because they had been encoded before.
        seconds: duration of the work on images.
        recommendation: the recommended confidence, and what to expect of the instances of the field that have it;
            ``None`` if confidences are scores: with the preset ``"paper"``, and with a reference prompt.
        shown: the instances that the saved view shows.
    """

    output_field: str
    error_field: str
    segmented: int
    resumed: int
    instances: dict[str, int]
    kept: int
    empty: int
    failed: dict[str, str]
    from_cache: int
    seconds: float
    recommendation: Recommendation | None
    shown: Shown


@takes(SegmentationConfig)
def auto_segment_view(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    config: SegmentationConfig | None = None,
    progress: OnProgress = None,
    **options: Any,
) -> SegmentationReport:
    """Segment a view with a memory: :func:`segmentation_job`, run to completion."""
    return run(segmentation_job(view, memory_key, output_field, config=config, **options), progress)


@takes(SegmentationConfig)
def segmentation_job(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    config: SegmentationConfig | None = None,
    **options: Any,
) -> Job[SegmentationReport]:
    """Find the objects of a memory's classes in the images of a view.

    Images that an earlier run with the same settings has segmented are skipped, so an interrupted run is resumed by
    starting it again. If an image cannot be segmented, the reason is written to ``<output_field>_error`` and the run
    continues.

    Labels that a person has accepted, rejected, corrected, edited or added are never changed, even if another run
    replaces the others: see :mod:`.decisions`. No prediction repeats them.

    Encoded images are cached on disk (:func:`nts.cache.default_cache`): another run over them, with more references,
    other classes, thresholds or merging, runs no model, unless references of other sizes mean other tiles.

    The ``score`` of a detection decides its rank. Its ``confidence`` is the probability that class and mask (at an IoU
    of 0.5) are right, as far as the references tell: at the end of every run, the confidences of all instances in the
    field are fitted to the images segmented so far. A saved view shows the instances of the recommended confidence, or
    of the one in the options. With the preset ``"paper"`` and with reference prompts, ``confidence`` is the score. The
    ``similarity`` is that before merging: to the references, the score of the prompt, or both combined, as the scorer
    says.

    Args:
        view: dataset or view to segment.
        memory_key: name of a memory of the dataset.
        output_field: field for the instances; ``nts_<memory_key>`` if omitted. Only a field that an earlier
            segmentation made is ever overwritten.
        config: the options, in place of keyword arguments.

    Raises:
        InputError: if the view, the field or an option cannot be used, or no image could be segmented.
        RunNotFound: if there is no such memory.
        EncoderMismatch: if another encoder made the memory.
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
        PromptFileError: if the prompt is damaged.
        WeightsNotFound: if weights cannot be found.
    """
    config = SegmentationConfig.of(config, options)
    check_executor(config)
    plan = plan_segmentation(view, memory_key, output_field, config)
    bank = runs.load_memory(view, memory_key)
    prompt = None if config.reference_prompt is None else find_prompt(view, config.reference_prompt)
    paths = paths_by_id(view)
    total = len(paths) if config.limit is None else min(config.limit, len(paths))
    yield Progress(0, total, f"loading the encoder {plan.encoder} and the segmenter {config.segmenter}")
    models = (
        load_encoder(plan.encoder, config.device, plan.precision),
        load_segmenter(config.segmenter, config.device, plan.precision, compiled=config.compiled),
    )
    scorer = make_scorer(config.scorer, bank, *models, prompt, plan.preset)
    engine = ReferenceSegmenter(bank, *models, plan.preset, scorer=scorer)
    calibration = engine.calibration
    writer = _writer(view, plan, config, bank, engine, prompt)
    decided = DecidedLabels(view, plan.key, bank.classes)
    colours.set_class_colours(view, [plan.key], bank.classes)
    set_up_annotation(view, plan.key, bank.classes)
    cache = default_cache() if config.use_cache else None
    if plan.preset.method.transductive and config.scorer in UNPROMPTED:
        engine = yield from _transduced(engine, cache, list(islice(paths.values(), config.limit)))
    cached = CachedSegmenter(engine, cache)
    instances: Counter[str] = Counter()
    empty = from_cache = 0

    def read(sample_id: str, path: str) -> tuple[str, Fetched]:
        return sample_id, cached.fetch_file(path)

    def encode(images: Sequence[tuple[str, Fetched]]) -> list[tuple[str, Fetched]]:
        ids, fetched = zip(*images, strict=True)
        return list(zip(ids, cached.encode_together(fetched), strict=True))

    def segment(image: tuple[str, Fetched]) -> Segmented:
        sample_id, fetched = image
        return cached.segment(fetched, decided.of(sample_id, fetched.target.image_size))

    def to_labels(found: Segmented) -> list[Document]:
        nonlocal empty, from_cache
        labels = to_document(found.instances, engine.memory, calibration)
        cached.store(found)
        instances.update(detection["label"] for detection in labels["detections"])
        empty += not labels["detections"]
        from_cache += found.from_cache
        return [labels]

    if config.executor == "local":
        execute = locally(read, segment, together=encode, batch=cached.images_per_batch)
    else:
        execute = on_ray(engine, config, prompt, decided)

    try:
        images = yield from image_job(
            view,
            paths,
            writer,
            execute,
            to_labels,
            verb="segmented",
            limit=config.limit,
            counts={"instances": "detections"},
        )
    except (GeneratorExit, KeyboardInterrupt):
        # What is done by now is used, unless a newer run has begun by now, which does the same at its end.
        with suppress(RunEnded):
            _finish(view, writer, config, calibration)
        raise
    recommendation, shown = _finish(view, writer, config, calibration)
    return SegmentationReport(
        output_field=plan.key,
        error_field=runs.error_field(plan.key),
        segmented=images.done,
        resumed=images.resumed,
        instances=dict(instances),
        kept=len(decided),
        empty=empty,
        failed=images.failed,
        from_cache=from_cache,
        seconds=images.seconds,
        recommendation=recommendation,
        shown=shown,
    )


def _transduced(engine: ReferenceSegmenter, cache: TensorCache | None, paths: Sequence[str]) -> Job[ReferenceSegmenter]:
    """Segment all images once, and return a segmenter with the confident predictions among its references.

    Images that cannot be segmented are left out here: the second round records why.
    """
    cached, confident = CachedSegmenter(engine, cache), ConfidentPredictions(engine.memory)
    fetched = prefetch_together(cached.fetch_file, paths, cached.encode_together, cached.images_per_batch)
    with closing(fetched) as images:
        for number, (_, image_of) in enumerate(images):
            yield Progress(number, len(paths), "first round: looking for confident predictions")
            try:
                segmented = cached.segment(image_of())
            except Exception as error:
                logger.warning("left out of the first round: %s", error)
                continue
            cached.store(segmented)
            confident.add(segmented.instances)
    return ReferenceSegmenter(confident.joined(), engine.encoder, engine.segmenter, engine.preset)


def _finish(
    view: Collection, writer: LabelWriter, config: SegmentationConfig, calibration: Calibration | None
) -> tuple[Recommendation | None, Shown]:
    """Fit the confidences to all images of the field, and save the view of the confident instances."""
    with runs.explained(view, *writer.all_fields):
        calibration, scores = fit_confidences(view, writer, calibration)
        shown = show_confident(view, writer.fields[0], config, calibration, scores)
    return None if calibration is None else recommend(calibration, scores), shown


def _writer(
    view: Collection,
    plan: Plan,
    config: SegmentationConfig,
    bank: MemoryBank,
    engine: ReferenceSegmenter,
    prompt: TrainedPrompt | None,
) -> LabelWriter:
    classes = list(bank.classes)
    description = f"Instances found by the reference memory {plan.memory_key!r}"
    spec = OutputSpec(
        key=plan.key,
        kind=plan.kind,
        memory_key=plan.memory_key,
        settings=plan.settings(
            engine.encoder.info.fingerprint,
            segmenter_fingerprint=engine.segmenter.fingerprint,
            prompt_fingerprint=prompt and prompt.fingerprint,
        ),
        label_type=fo.Detections,
        fields=[LabelField(plan.key, description, {"memory": plan.memory_key, "classes": classes})],
        config={
            "encoder": engine.encoder.info.name,
            "segmenter": engine.segmenter.name,
            "reference_prompt": config.reference_prompt,
            "device": str(engine.encoder.device),
            "precision": engine.encoder.precision,
            "compiled": config.compiled,
            "classes": classes,
        },
        attributes={
            f"detections.{name}": field_type
            for name, field_type in {**DETECTION_ATTRIBUTES, **DECISION_ATTRIBUTES}.items()
        },
        results={
            "reference_sample_ids": sorted({entry.sample_id for entry in bank.entries}),
            "reference_files": sorted({entry.file for entry in bank.entries if entry.file}),
        },
        error_field=runs.error_field(plan.key),
    )
    return field_writer(view, spec, overwrite=config.overwrite)
