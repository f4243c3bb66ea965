"""Which class every pixel of an image is of, by a reference prompt: segmentations and heat maps in a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import fiftyone as fo
import numpy as np
from torch import Tensor

from ..images import read_image
from ..masks import draw_class_map
from ..memory import MemoryBank
from ..models import load_encoder, load_segmenter
from ..presets import Preset, get_preset, preset_fingerprint
from ..vrp.class_maps import ClassMapper, ClassMaps, whole_images
from . import checks, colours, runs
from .checks import InputError
from .heatmaps import MOST_CLASSES, heatmaps_writer, to_heatmaps
from .image_job import image_job, paths_by_id
from .jobs import Job, OnProgress, Progress, run
from .label_writer import LabelWriter, field_writer
from .locking import locked
from .runs import Collection
from .scorers import find_prompt

MapOutput = Literal["segmentation", "heatmaps"]
MAP_OUTPUTS: tuple[MapOutput, ...] = ("segmentation", "heatmaps")


@dataclass(frozen=True)
class ClassMapsReport:
    """What maps were made.

    Attributes:
        fields: where the maps stand: one field of segmentations, or one of heat maps per class.
        mapped: images that have their maps now.
        resumed: images that had them already, from an earlier run with the same settings.
        images: ``{class: images mapped now in which it is present}``.
        failed: ``{sample id: reason}`` for the samples that could not be mapped; a reason names its file.
        seconds: duration of the work on images.
    """

    fields: list[str]
    mapped: int
    resumed: int
    images: dict[str, int]
    failed: dict[str, str]
    seconds: float


def map_classes(
    view: Collection, memory_key: str, output_field: str | None = None, *, progress: OnProgress = None, **options: Any
) -> ClassMapsReport:
    """Map the classes of a memory on the images of a view: :func:`class_maps_job`, run to its end."""
    return run(class_maps_job(view, memory_key, output_field, **options), progress)


def class_maps_job(
    view: Collection,
    memory_key: str,
    output_field: str | None = None,
    *,
    output: MapOutput = "segmentation",
    reference_prompt: str = "small",
    presence_threshold: float = 0.5,
    overwrite: bool = False,
    segmenter: str = "small",
    encoder: str | None = None,
    preset: str | Preset | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Job[ClassMapsReport]:
    """Map the classes of a memory on the images of a view, by a reference prompt. It does not tell objects apart.

    ``"segmentation"`` gives every image a :class:`fiftyone.Segmentation` of its own size. A pixel is of the most
    probable class if that is more probable than not, else 0, the background. The dataset's mask targets of the field
    name the values. Its attribute ``presence`` is a dictionary ``{class: probability that it is in the image}``, with
    ``\uff0e`` and ``\uff04`` for ``.`` and ``$``, which the database allows in no key.

    ``"heatmaps"`` gives every class a field of :class:`fiftyone.Heatmap`, ``<memory>_<class>_probability``, stored as
    :func:`~nts.fiftyone_adapter.similarity_heatmaps` does; ``presence`` of each is the number of its class.

    Args:
        view: dataset or view.
        memory_key: name of a memory of the dataset that was built with ``keep_images``.
        output_field: field for the segmentations; ``nts_<memory_key>_classes`` without. Heat maps name theirs.
        output: which of the two.
        reference_prompt: name of a prompt of the dataset, ``"small"``, or a file.
        presence_threshold: a class of lower presence is not painted; heat maps show every class.
        overwrite: where there are maps of other settings, delete them (all of them) and begin anew.
        segmenter: a name for :func:`nts.models.load_segmenter`.
        encoder: a name for :func:`nts.models.load_encoder`; the one that made the memory without.
        preset: ``"default"`` or ``"paper"``; the one that made the memory without.
        device: for both models, ``"auto"`` or as in torch.
        precision: for both models, one of :data:`nts.utils.devices.PRECISIONS`.

    Raises:
        InputError: if the view, the field or the settings will not do, or no image could be mapped.
        RunNotFound: if there is no such memory.
        EncoderMismatch: if another encoder made the memory.
        PromptMismatch: if the prompt was trained for other models, or the memory has no whole images.
        PromptFileError: if the prompt is damaged.
        WeightsNotFound: if weights cannot be had.
    """
    checks.check_view(view)
    bank = runs.load_memory(view, memory_key)
    if output not in MAP_OUTPUTS:
        raise InputError(f"output must be one of {', '.join(MAP_OUTPUTS)}, got {output!r}")
    if not 0 <= presence_threshold <= 1:
        raise InputError(f"presence_threshold must be in [0, 1], got {presence_threshold}")
    if output == "heatmaps" and output_field is not None:
        raise InputError("heat maps have a field per class, named by the memory and the class: leave output_field out")
    if output == "heatmaps" and len(bank.classes) > MOST_CLASSES:
        raise InputError(
            f"the memory has {len(bank.classes)} classes, and heat maps need a field for each: at most {MOST_CLASSES}; "
            "choose the output 'segmentation'"
        )
    name = output_field or checks.suggest_output_field(view, memory_key, runs.CLASS_MAPS)
    checks.check_output_field(view, name, runs.CLASS_MAPS)
    support = whole_images(bank)
    prompt = find_prompt(view, reference_prompt)
    preset = get_preset(preset or bank.preset)
    precision = preset.precision_for(precision)

    paths = paths_by_id(view)
    yield Progress(0, len(paths), f"loading the encoder {encoder or bank.encoder.name} and the segmenter {segmenter}")
    loaded_encoder = load_encoder(encoder or bank.encoder.name, device, precision)
    loaded_segmenter = load_segmenter(segmenter, device, precision)
    bank.check_encoder(loaded_encoder.info)
    mapper = ClassMapper(prompt, loaded_encoder, loaded_segmenter, support)
    settings = {
        "memory_fingerprint": runs.fingerprint(bank),
        "encoder_fingerprint": loaded_encoder.info.fingerprint,
        "segmenter_fingerprint": loaded_segmenter.fingerprint,
        "preset": preset.name,
        "preset_fingerprint": preset_fingerprint(preset),
        "prompt_fingerprint": prompt.fingerprint,
    }
    about = {
        "encoder": loaded_encoder.info.name,
        "segmenter": loaded_segmenter.name,
        "reference_prompt": reference_prompt,
    }
    images = dict.fromkeys(bank.classes, 0)
    if output == "segmentation":
        settings["presence_threshold"] = presence_threshold
        writer = _segmentation_writer(view, name, memory_key, bank, settings, about, overwrite=overwrite)
    else:
        writer = heatmaps_writer(
            view, memory_key, bank.classes, settings, "probability", {"presence": fo.FloatField}, overwrite=overwrite
        )

    def process(image: np.ndarray) -> tuple[ClassMaps, tuple[int, int]]:
        return mapper.map(image, preset), image.shape[:2]

    def to_labels(output_of_image: tuple[ClassMaps, tuple[int, int]]) -> Sequence[fo.Label]:
        maps, image_size = output_of_image
        if output == "segmentation":
            labels: Sequence[fo.Label] = [_segmentation(maps, image_size, bank.classes, presence_threshold)]
        else:
            labels = _heatmaps(maps, image_size)
        for class_name, presence in zip(bank.classes, maps.presence.tolist(), strict=True):
            images[class_name] += presence >= presence_threshold
        return labels

    mapped = yield from image_job(
        view, paths, writer, lambda path: read_image(path, exif=preset.exif), process, to_labels, verb="mapped"
    )
    return ClassMapsReport(writer.fields, mapped.done, mapped.resumed, images, mapped.failed, mapped.seconds)


def _segmentation_writer(
    view: Collection,
    name: str,
    memory_key: str,
    bank: MemoryBank,
    settings: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    overwrite: bool,
) -> LabelWriter:
    """Writer of one segmentation per image; its field gets mask targets and colours."""
    writer = field_writer(
        view,
        name,
        runs.CLASS_MAPS,
        fo.Segmentation,
        memory_key,
        bank.classes,
        settings,
        description=f"Classes of the reference memory {memory_key!r}, by a reference prompt",
        attributes={"presence": fo.DictField},
        config=about,
        results={},
        overwrite=overwrite,
    )
    with locked(view) as dataset:
        dataset.mask_targets[name] = dict(enumerate(bank.classes, start=1))
        dataset.save()
    colours.set_class_colours(view, [name], bank.classes)
    return writer


def _segmentation(
    maps: ClassMaps, image_size: tuple[int, int], classes: Sequence[str], presence_threshold: float
) -> fo.Segmentation:
    """Label of an image of size ``(H, W)``."""
    present = (maps.presence >= presence_threshold).nonzero()[:, 0]
    mask = _values(draw_class_map(maps.logits[present], image_size), present, len(classes))
    presence = dict(zip(map(_key, classes), maps.presence.cpu().tolist(), strict=True))
    return fo.Segmentation(mask=mask, presence=presence)


def _heatmaps(maps: ClassMaps, image_size: tuple[int, int]) -> list[fo.Heatmap]:
    """Labels of an image of size ``(H, W)``, one per class."""
    heatmaps = to_heatmaps(maps.probabilities, image_size)
    for heatmap, presence in zip(heatmaps, maps.presence.tolist(), strict=True):
        heatmap["presence"] = presence
    return heatmaps


def _values(drawn: Tensor, present: Tensor, classes: int) -> np.ndarray:
    """Pixel values of all classes from those of the present ones, as the smallest unsigned integers."""
    values = np.concatenate([[0], present.cpu().numpy() + 1])
    return values.astype(np.uint8 if classes < 256 else np.uint16)[drawn.cpu().numpy()]


def _key(class_name: str) -> str:
    return class_name.replace(".", "\uff0e").replace("$", "\uff04")
