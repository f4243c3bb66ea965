"""Class maps in a dataset: the class of every pixel by a reference prompt, as segmentations or heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
import numpy as np
from torch import Tensor

from ..images import read_image
from ..masks import draw_class_map
from ..models import load_encoder, load_segmenter
from ..utils.threads import in_one_thread
from ..vrp.class_maps import ClassMapper, ClassMaps, whole_images
from . import colours, runs
from .config import ClassMapsConfig
from .heatmaps import heatmaps_writer, to_heatmaps
from .image_job import image_job, locally, paths_by_id
from .jobs import Job, OnProgress, Progress, run
from .label_writer import LabelField, LabelWriter, OutputSpec, field_writer
from .locking import locked
from .options import takes
from .plan import Plan, plan_class_maps
from .runs import Collection
from .scorers import find_prompt


@dataclass(frozen=True)
class ClassMapsReport:
    """Result of mapping classes.

    Attributes:
        fields: one field of segmentations, or one of heat maps per class.
        mapped: images mapped now.
        resumed: images that an earlier run with the same settings had mapped.
        images: ``{class: images mapped now in which it is present}``.
        failed: ``{sample id: reason}`` of the samples that could not be mapped now; a reason names the file.
        seconds: duration of the work on images.
    """

    fields: list[str]
    mapped: int
    resumed: int
    images: dict[str, int]
    failed: dict[str, str]
    seconds: float


@takes(ClassMapsConfig)
def map_classes(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    config: ClassMapsConfig | None = None,
    progress: OnProgress = None,
    **options: Any,
) -> ClassMapsReport:
    """Map the classes of a memory on the images of a view: :func:`class_maps_job`, run to completion."""
    return run(class_maps_job(view, memory_key, output_field, config=config, **options), progress)


@takes(ClassMapsConfig)
def class_maps_job(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    config: ClassMapsConfig | None = None,
    **options: Any,
) -> Job[ClassMapsReport]:
    """Map the classes of a memory on the images of a view, by a reference prompt. It does not tell objects apart.

    The output ``"segmentation"`` writes one :class:`fiftyone.Segmentation` per image, at the size of the image. A pixel
    has the most probable class if its probability is above 0.5, else 0, the background. The dataset's mask targets of
    the field name the values. Its attribute ``presence`` is a dictionary ``{class: probability that it is in the
    image}``, with ``\uff0e`` and ``\uff04`` for ``.`` and ``$``, which the database does not allow in keys.

    The output ``"heatmaps"`` gives every class a field of :class:`fiftyone.Heatmap`, ``<memory>_<class>_probability``,
    stored as by :func:`~nts.fiftyone_adapter.similarity_heatmaps`; ``presence`` of each is the number of its class.

    Args:
        view: dataset or view.
        memory_key: name of a memory of the dataset that was built with ``keep_images``.
        output_field: field for the segmentations; ``nts_<memory_key>_classes`` if omitted. Not for heat
            maps, which have a field per class.
        config: the options, in place of keyword arguments.

    Raises:
        InputError: if the view, the field or an option cannot be used, or no image could be mapped.
        RunNotFound: if there is no such memory.
        EncoderMismatch: if another encoder made the memory.
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
        PromptFileError: if the prompt is damaged.
        WeightsNotFound: if weights cannot be found.
    """
    config = ClassMapsConfig.of(config, options)
    plan = plan_class_maps(view, memory_key, output_field, config)
    bank = runs.load_memory(view, memory_key)
    prompt = find_prompt(view, config.reference_prompt)
    paths = paths_by_id(view)
    yield Progress(0, len(paths), f"loading the encoder {plan.encoder} and the segmenter {config.segmenter}")
    encoder = load_encoder(plan.encoder, config.device, plan.precision)
    segmenter = load_segmenter(config.segmenter, config.device, plan.precision)
    bank.check_encoder(encoder.info)
    mapper = ClassMapper(prompt, encoder, segmenter, whole_images(bank))
    settings = plan.settings(
        encoder.info.fingerprint,
        segmenter_fingerprint=segmenter.fingerprint,
        prompt_fingerprint=prompt.fingerprint,
    )
    about = {
        "encoder": encoder.info.name,
        "segmenter": segmenter.name,
        "reference_prompt": config.reference_prompt,
    }
    images = dict.fromkeys(bank.classes, 0)
    if config.output == "segmentation":
        writer = _segmentation_writer(view, plan, settings, about, overwrite=config.overwrite)
    else:
        attributes = {"presence": fo.FloatField}
        writer = heatmaps_writer(view, plan, settings, "probability", attributes, overwrite=config.overwrite)

    def process(image: np.ndarray) -> tuple[ClassMaps, tuple[int, int]]:
        maps = mapper.map(image, plan.preset)
        # Images that wait to be written take no memory of the GPU.
        return ClassMaps(maps.logits.cpu(), maps.presence.cpu()), image.shape[:2]

    def to_labels(output: tuple[ClassMaps, tuple[int, int]]) -> Sequence[fo.Label]:
        maps, image_size = output
        if config.output == "segmentation":
            labels: Sequence[fo.Label] = [_segmentation(maps, image_size, bank.classes, config.presence_threshold)]
        else:
            labels = _heatmaps(maps, image_size)
        for class_name, presence in zip(bank.classes, maps.presence.tolist(), strict=True):
            images[class_name] += presence >= config.presence_threshold
        return labels

    mapped = yield from image_job(
        view,
        paths,
        writer,
        locally(lambda _, path: read_image(path, exif=plan.preset.exif), process),
        to_labels,
        verb="mapped",
    )
    return ClassMapsReport(writer.fields, mapped.done, mapped.resumed, images, mapped.failed, mapped.seconds)


def _segmentation_writer(
    view: Collection, plan: Plan, settings: Mapping[str, Any], about: Mapping[str, Any], *, overwrite: bool
) -> LabelWriter:
    """Writer of one segmentation per image; its field gets mask targets and colours."""
    classes = list(plan.classes)
    description = f"Classes of the reference memory {plan.memory_key!r}, by a reference prompt"
    spec = OutputSpec(
        key=plan.key,
        kind=plan.kind,
        memory_key=plan.memory_key,
        settings=settings,
        label_type=fo.Segmentation,
        fields=[LabelField(plan.key, description, {"memory": plan.memory_key, "classes": classes})],
        config={**about, "classes": classes},
        attributes={"presence": fo.DictField},
        results={},
        error_field=runs.error_field(plan.key),
    )
    writer = field_writer(view, spec, overwrite=overwrite)
    with locked(view) as dataset:
        dataset.mask_targets[plan.key] = dict(enumerate(classes, start=1))
        dataset.save()
    colours.set_class_colours(view, [plan.key], classes)
    return writer


def _segmentation(
    maps: ClassMaps, image_size: tuple[int, int], classes: Sequence[str], presence_threshold: float
) -> fo.Segmentation:
    """Label of an image of size ``(H, W)``."""
    present = (maps.presence >= presence_threshold).nonzero()[:, 0]
    # In a single thread, as the models run meanwhile.
    drawn = in_one_thread(lambda: draw_class_map(maps.logits[present], image_size), maps.logits.device)
    mask = _values(drawn, present, len(classes))
    presence = dict(zip(map(_key, classes), maps.presence.tolist(), strict=True))
    return fo.Segmentation(mask=mask, presence=presence)


def _heatmaps(maps: ClassMaps, image_size: tuple[int, int]) -> list[fo.Heatmap]:
    """Labels of an image of size ``(H, W)``, one per class."""
    heatmaps = to_heatmaps(maps.probabilities, image_size)
    for heatmap, presence in zip(heatmaps, maps.presence.tolist(), strict=True):
        heatmap["presence"] = presence
    return heatmaps


def _values(drawn: Tensor, present: Tensor, classes: int) -> np.ndarray:
    """Pixel values of all classes from those of the present ones, as the smallest unsigned integers."""
    values = np.concatenate([[0], present.numpy() + 1])
    return values.astype(np.uint8 if classes < 256 else np.uint16)[drawn.numpy()]


def _key(class_name: str) -> str:
    return class_name.replace(".", "\uff0e").replace("$", "\uff04")
