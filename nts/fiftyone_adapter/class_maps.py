"""Which class every pixel of an image is of, by a reference prompt: segmentations and heat maps in a dataset."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
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
from .heatmaps import MOST_CLASSES, HeatmapsOutput, to_heatmaps
from .jobs import Job, OnProgress, Progress, first_few, run
from .locking import locked
from .outputs import LabelWriter, OutputSpec, failure, pace, paths_by_id
from .runs import Collection
from .scorers import find_prompt

logger = logging.getLogger(__name__)

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
    if output == "segmentation":
        settings["presence_threshold"] = presence_threshold
        writer: _Segmentations | _Heatmaps = _Segmentations(view, name, memory_key, bank, settings, about, overwrite)
    else:
        writer = _Heatmaps(view, memory_key, bank, settings, overwrite)
    done = writer.done() & set(paths)
    todo = [(sample_id, path) for sample_id, path in paths.items() if sample_id not in done]
    images = dict.fromkeys(bank.classes, 0)
    failed: dict[str, str] = {}
    begin = time.monotonic()
    with runs.explained(view, *writer.fields):
        try:
            for number, (sample_id, path) in enumerate(todo):
                yield Progress(len(done) + number, len(paths), pace(number, len(todo), time.monotonic() - begin))
                try:
                    image = read_image(path, exif=preset.exif)
                    maps = mapper.map(image, preset)
                    drawn = writer.draw(maps, image.shape[:2])
                except Exception as error:
                    # Whatever is wrong with this image, the others are not to suffer. The reason is reported.
                    failed[sample_id] = failure(path, error)
                    logger.warning("no class maps: %s", failed[sample_id])
                    writer.add_failure(sample_id, failed[sample_id])
                else:
                    writer.add(sample_id, drawn)
                    for class_name, presence in zip(bank.classes, maps.presence.tolist(), strict=True):
                        images[class_name] += presence >= presence_threshold
            writer.write()
            yield Progress(len(paths), len(paths), f"{len(paths)} images done")
        finally:
            writer.close(list(paths))
    if failed and len(failed) == len(paths):
        raise InputError(f"none of the {len(paths)} images could be mapped: {first_few(failed.values())}")
    mapped = len(todo) - len(failed)
    return ClassMapsReport(writer.fields, mapped, len(done), images, failed, time.monotonic() - begin)


class _Segmentations(LabelWriter):
    """Maps as one segmentation per image."""

    def __init__(
        self,
        view: Collection,
        name: str,
        memory_key: str,
        bank: MemoryBank,
        settings: dict[str, Any],
        about: Mapping[str, Any],
        overwrite: bool,
    ) -> None:
        made = OutputSpec(
            runs.CLASS_MAPS,
            fo.Segmentation,
            f"Classes of the reference memory {memory_key!r}, by a reference prompt",
            memory_key,
            bank.classes,
            {"presence": fo.DictField},
            about,
            {},
        )
        super().__init__(view, name, made, settings, overwrite=overwrite)
        self.fields = [name]
        self._classes, self._threshold = bank.classes, settings["presence_threshold"]
        with locked(view) as dataset:
            dataset.mask_targets[name] = dict(enumerate(bank.classes, start=1))
            dataset.save()
        colours.set_class_colours(view, [name], bank.classes)

    def draw(self, maps: ClassMaps, image_size: tuple[int, int]) -> fo.Segmentation:
        """The label of an image of size ``(H, W)``."""
        present = (maps.presence >= self._threshold).nonzero()[:, 0]
        mask = _values(draw_class_map(maps.logits[present], image_size), present, len(self._classes))
        presence = dict(zip(map(_key, self._classes), maps.presence.cpu().tolist(), strict=True))
        return fo.Segmentation(mask=mask, presence=presence)


class _Heatmaps(HeatmapsOutput):
    """Maps as one heat map per image and class."""

    def __init__(
        self, view: Collection, memory_key: str, bank: MemoryBank, settings: dict[str, Any], overwrite: bool
    ) -> None:
        attributes = {"presence": fo.FloatField}
        super().__init__(view, memory_key, bank.classes, settings, "probability", attributes, overwrite=overwrite)
        self.fields = list(self.field_of_class.values())

    def draw(self, maps: ClassMaps, image_size: tuple[int, int]) -> list[fo.Heatmap]:
        """The labels of an image of size ``(H, W)``, one per class."""
        heatmaps = to_heatmaps(maps.probabilities, image_size)
        for heatmap, presence in zip(heatmaps, maps.presence.tolist(), strict=True):
            heatmap["presence"] = presence
        return heatmaps


def _values(drawn: Tensor, present: Tensor, classes: int) -> np.ndarray:
    """From rows among the classes that are present to those among all, as the smallest unsigned integers."""
    values = np.concatenate([[0], present.cpu().numpy() + 1])
    return values.astype(np.uint8 if classes < 256 else np.uint16)[drawn.cpu().numpy()]


def _key(class_name: str) -> str:
    return class_name.replace(".", "\uff0e").replace("$", "\uff04")
