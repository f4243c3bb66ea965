"""Heat maps in a dataset: similarity to the classes of a memory, or their probability; one field per class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from torch import Tensor

from ..heatmaps import enlarge, similarity_maps
from ..images import prepare_target, read_image
from ..models import load_encoder
from ..utils.threads import in_one_thread
from . import runs
from .config import HeatmapsConfig
from .heatmap_fields import check_heatmap_fields
from .image_job import image_job, locally, paths_by_id
from .jobs import Job, OnProgress, Progress, run
from .label_writer import LabelField, LabelWriter, OutputSpec, take_over
from .locking import exclusive
from .options import takes
from .plan import Plan, plan_heatmaps
from .runs import Collection

RANGE = (0.0, 1.0)
"""The same for all fields, so that a colour means the same in every image and class. The App hides values below it."""

_LONGEST = 128  # pixels; finer than the encoder's grid, and about 10 KiB in the database
_SEGMENTER_INPUT = 1024  # SAM2's: the preset `paper` takes the encoder's input from the segmenter's


@dataclass(frozen=True)
class HeatmapsReport:
    """Result of mapping similarities.

    Attributes:
        fields: ``{class: field of its maps}``.
        mapped: images mapped now.
        resumed: images that an earlier run with the same settings had mapped.
        failed: ``{sample id: reason}`` of the samples that could not be mapped now; a reason names the file.
        seconds: duration of the work on images.
    """

    fields: dict[str, str]
    mapped: int
    resumed: int
    failed: dict[str, str]
    seconds: float


@takes(HeatmapsConfig)
def similarity_heatmaps(
    view: Collection,
    memory_key: str,
    *,
    config: HeatmapsConfig | None = None,
    progress: OnProgress = None,
    **options: Any,
) -> HeatmapsReport:
    """Map the similarity of a view's images to the classes of a memory: :func:`heatmaps_job`, run to completion."""
    return run(heatmaps_job(view, memory_key, config=config, **options), progress)


@takes(HeatmapsConfig)
def heatmaps_job(
    view: Collection, memory_key: str, *, config: HeatmapsConfig | None = None, **options: Any
) -> Job[HeatmapsReport]:
    """Map the cosine between patches and class prototypes: one :class:`fiftyone.Heatmap` per image and class.

    Only the encoder runs, so it takes a fraction of the time of a segmentation. Each class gets its own field,
    ``<memory>_<class>_similarity``. The maps are stored in the database, with the aspect ratio of their image and at
    most 128 pixels long, and are deleted with their field. Values are rounded to hundredths.

    Args:
        view: dataset or view.
        memory_key: name of a memory of the dataset.
        config: the options, in place of keyword arguments. At most
            :data:`~nts.fiftyone_adapter.heatmap_fields.MOST_CLASSES` classes can be mapped.

    Raises:
        InputError: if the view, the classes or an option cannot be used, or no image could be mapped.
        RunNotFound: if there is no such memory.
        EncoderMismatch: if another encoder made the memory.
        WeightsNotFound: if the encoder's weights cannot be found.
    """
    config = HeatmapsConfig.of(config, options)
    plan = plan_heatmaps(view, memory_key, config)
    bank = runs.load_memory(view, memory_key)
    paths = paths_by_id(view)
    yield Progress(0, len(paths), f"loading the encoder {plan.encoder}")
    preset = plan.preset
    encoder = load_encoder(plan.encoder, config.device, plan.precision)
    bank.check_encoder(encoder.info)
    writer = heatmaps_writer(view, plan, plan.similarity_settings(), overwrite=config.overwrite)
    prototypes = bank.prototypes()[[bank.classes.index(name) for name in plan.classes]].to(encoder.device)

    def read(sample_id: str, path: str) -> tuple[Tensor, tuple[int, int]]:
        image = read_image(path, exif=preset.exif)
        pixels, _ = prepare_target(image, encoder.info.input_size, _SEGMENTER_INPUT, antialias=preset.antialias)
        return pixels, image.shape[:2]

    def process(prepared: tuple[Tensor, tuple[int, int]]) -> tuple[Tensor, tuple[int, int]]:
        pixels, image_size = prepared
        return similarity_maps(encoder.encode(pixels[None])[0], prototypes).cpu(), image_size

    images = yield from image_job(
        view, paths, writer, locally(read, process), lambda maps: to_heatmaps(*maps), verb="mapped"
    )
    fields = dict(zip(plan.classes, writer.fields, strict=True))
    return HeatmapsReport(fields, images.done, images.resumed, images.failed, images.seconds)


def to_heatmaps(maps: Tensor, image_size: tuple[int, int]) -> list[fo.Heatmap]:
    """Convert maps ``[K, h, w]`` to labels of the aspect ratio of their image, ``(H, W)``, at most 128 pixels long.

    Maps on the CPU are resized with a single intra-op thread, as the models are running meanwhile.
    """
    # Rounded, they take a third of the space; 0 is transparent in the App for any range.
    enlarged = in_one_thread(lambda: enlarge(maps, image_size, _LONGEST), maps.device)
    values = enlarged.cpu().numpy().round(2)
    return [fo.Heatmap(map=value, range=list(RANGE)) for value in values]


SHOWN = {
    "similarity": "Cosine similarity to the class {name!r} of the reference memory {memory!r}",
    "probability": "Probability of the class {name!r} of the reference memory {memory!r}, by a reference prompt",
}
"""Quantities that heat maps can show, by the end of the names of their fields, and descriptions of the fields."""


@exclusive
def heatmaps_writer(
    view: Collection,
    plan: Plan,
    settings: Mapping[str, Any],
    shown: str = "similarity",
    attributes: Mapping[str, type[fo.Field]] | None = None,
    *,
    overwrite: bool = False,
) -> LabelWriter:
    """Writer of heat maps, one field per class.

    Args:
        view: the images to map.
        plan: the run; its classes are in the order of the fields.
        settings: everything that decides a result; an earlier run of the same settings is resumed, or gets more
            classes.
        shown: a key of :data:`SHOWN`.
        attributes: ``{name: type}`` of the attributes that :class:`fiftyone.Heatmap` lacks.
        overwrite: delete an earlier run with other settings.

    Raises:
        InputError: if there are maps with other settings and ``overwrite`` is off, or the name of the run is taken.
        RunEnded: if the memory was deleted or built again since the plan was made.
    """
    runs.check_memory(view, plan.memory_key, settings["memory_fingerprint"])
    earlier = take_over(view, plan.key, plan.kind, settings, overwrite=overwrite)
    field_of_class = check_heatmap_fields(view, plan.memory_key, plan.classes, shown)
    all_fields = dict(zip(earlier["classes"], earlier["fields"], strict=True)) if earlier else {}
    all_fields.update(field_of_class)
    spec = OutputSpec(
        key=plan.key,
        kind=plan.kind,
        memory_key=plan.memory_key,
        settings=settings,
        label_type=fo.Heatmap,
        fields=[
            LabelField(
                field,
                SHOWN[shown].format(name=name, memory=plan.memory_key),
                {"memory": plan.memory_key, "class": name},
            )
            for name, field in field_of_class.items()
        ],
        config={"classes": list(all_fields), "fields": list(all_fields.values())},
        attributes=attributes or {},
    )
    return LabelWriter(view, spec)
