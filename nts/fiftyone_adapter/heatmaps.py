"""Heat maps in a dataset: similarity to the classes of a memory, or their probability; one field per class."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import fiftyone as fo
from torch import Tensor

from ..heatmaps import enlarge, similarity_maps
from ..images import prepare_target, read_image
from ..models import load_encoder
from ..presets import get_preset
from ..utils.names import as_names
from . import checks, runs
from .checks import InputError
from .config import HeatmapsConfig
from .image_job import image_job, paths_by_id
from .jobs import Job, OnProgress, Progress, run
from .label_writer import LabelField, LabelWriter, OutputSpec, take_over
from .locking import exclusive
from .options import takes
from .runs import Collection

MOST_CLASSES = 20
"""Maximal number of classes with heat maps: each is a field of its own, in the sidebar and in the database."""

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

    Only the encoder runs, so it takes a fraction of the time of a segmentation. Each class gets a field of its own,
    ``<memory>_<class>_similarity``. The maps are stored in the database, with the aspect ratio of their image and at
    most 128 pixels long, and are deleted with their field. Values are rounded to hundredths.

    Args:
        view: dataset or view.
        memory_key: name of a memory of the dataset.
        config: the options, in place of keyword arguments. At most :data:`MOST_CLASSES` classes can be mapped.

    Raises:
        InputError: if the view, the classes or an option cannot be used, or no image could be mapped.
        RunNotFound: if there is no such memory.
        EncoderMismatch: if another encoder made the memory.
        WeightsNotFound: if the encoder's weights cannot be found.
    """
    config = HeatmapsConfig.of(config, options)
    checks.check_view(view)
    bank = runs.load_memory(view, memory_key)
    classes = list(bank.classes) if config.classes is None else sorted(set(as_names(config.classes) or ()))
    if unknown := [name for name in classes if name not in bank.classes]:
        raise InputError(
            f"the memory {memory_key!r} has no class {', '.join(unknown)}; it has: {', '.join(bank.classes)}"
        )
    if not 0 < len(classes) <= MOST_CLASSES:
        raise InputError(f"choose 1 to {MOST_CLASSES} classes, not {len(classes)}: each gets a field of its own")

    paths = paths_by_id(view)
    yield Progress(0, len(paths), f"loading the encoder {config.encoder or bank.encoder.name}")
    preset = get_preset(config.preset or bank.preset)
    precision = preset.precision_for(config.precision)
    encoder = load_encoder(config.encoder or bank.encoder.name, config.device, precision)
    bank.check_encoder(encoder.info)
    prototypes = bank.prototypes()[[bank.classes.index(name) for name in classes]].to(encoder.device)

    settings = {"memory_fingerprint": runs.fingerprint(bank), "preset": preset.name}
    writer = heatmaps_writer(view, memory_key, classes, settings, overwrite=config.overwrite)

    def read(path: str) -> tuple[Tensor, tuple[int, int]]:
        image = read_image(path, exif=preset.exif)
        pixels, _ = prepare_target(image, encoder.info.input_size, _SEGMENTER_INPUT, antialias=preset.antialias)
        return pixels, image.shape[:2]

    def process(prepared: tuple[Tensor, tuple[int, int]]) -> tuple[Tensor, tuple[int, int]]:
        pixels, image_size = prepared
        return similarity_maps(encoder.encode(pixels[None])[0], prototypes), image_size

    images = yield from image_job(view, paths, writer, read, process, lambda maps: to_heatmaps(*maps), verb="mapped")
    fields = dict(zip(classes, writer.fields, strict=True))
    return HeatmapsReport(fields, images.done, images.resumed, images.failed, images.seconds)


def heatmap_fields(
    view: Collection, memory_key: str, classes: Sequence[str], shown: str = "similarity"
) -> dict[str, str]:
    """Return the field of every class: its existing one, or ``<memory>_<class>_<shown>``.

    Characters that no field name may have become underscores. A number is appended where the name is taken.
    """
    made = runs.list_runs(view, runs.HEATMAPS).get(runs.heatmaps_key(memory_key, shown))
    fields = dict(zip(made["classes"], made["fields"], strict=True)) if made else {}
    taken = {*view._root_dataset.get_field_schema(), *fields.values()}
    for name in classes:
        if name not in fields:
            plain = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_") or "class"
            base = f"{memory_key}_{plain}_{shown}"
            numbered = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
            fields[name] = next(field for field in numbered if field not in taken)
            taken.add(fields[name])
    return {name: fields[name] for name in classes}


def to_heatmaps(maps: Tensor, image_size: tuple[int, int]) -> list[fo.Heatmap]:
    """Convert maps ``[K, h, w]`` to labels of the aspect ratio of their image, ``(H, W)``, at most 128 pixels long."""
    # Rounded, they take a third of the space; 0 is transparent in the App for any range.
    values = enlarge(maps, image_size, _LONGEST).cpu().numpy().round(2)
    return [fo.Heatmap(map=value, range=list(RANGE)) for value in values]


SHOWN = {
    "similarity": "Cosine similarity to the class {name!r} of the reference memory {memory!r}",
    "probability": "Probability of the class {name!r} of the reference memory {memory!r}, by a reference prompt",
}
"""Quantities that heat maps can show, by the end of the names of their fields, and descriptions of the fields."""


@exclusive
def heatmaps_writer(
    view: Collection,
    memory_key: str,
    classes: Sequence[str],
    settings: Mapping[str, Any],
    shown: str = "similarity",
    attributes: Mapping[str, type[fo.Field]] | None = None,
    *,
    overwrite: bool = False,
) -> LabelWriter:
    """Writer of heat maps, one field per class.

    Args:
        view: the images to map.
        memory_key: the memory.
        classes: of the maps, in the order of the fields.
        settings: everything that decides a result; an earlier run of the same settings is resumed, or gets more
            classes.
        shown: a key of :data:`SHOWN`.
        attributes: ``{name: type}`` of the attributes that :class:`fiftyone.Heatmap` lacks.
        overwrite: delete an earlier run with other settings.

    Raises:
        InputError: if there are maps with other settings and ``overwrite`` is off, or the name of the run is taken.
        RunEnded: if the memory was deleted or built again since it was loaded.
    """
    key = runs.heatmaps_key(memory_key, shown)
    runs.check_memory(view, memory_key, settings["memory_fingerprint"])
    earlier = take_over(view, key, runs.HEATMAPS, settings, overwrite=overwrite)
    if earlier is None and key in view._root_dataset.list_runs():
        raise InputError(
            f"the heat maps of the memory {memory_key!r} would be stored as {key!r}, and this name is taken by a run "
            "of another kind: delete or rename that one, or build the memory under another name"
        )
    field_of_class = heatmap_fields(view, memory_key, classes, shown)
    runs.check_editable(view, field_of_class.values())
    all_fields = dict(zip(earlier["classes"], earlier["fields"], strict=True)) if earlier else {}
    all_fields.update(field_of_class)
    spec = OutputSpec(
        key,
        runs.HEATMAPS,
        fo.Heatmap,
        [
            LabelField(
                field,
                SHOWN[shown].format(name=name, memory=memory_key),
                {"memory": memory_key, "class": name},
            )
            for name, field in field_of_class.items()
        ],
        {
            **settings,
            "memory_key": memory_key,
            "classes": list(all_fields),
            "fields": list(all_fields.values()),
        },
        attributes or {},
    )
    return LabelWriter(view, spec)
