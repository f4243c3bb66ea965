"""The configs of the jobs: every option of building, segmenting and mapping."""

# ruff: noqa: RUF009 (option() returns dataclass fields)

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, ClassVar, Literal, get_args

import torch

from ..models import ENCODERS, SEGMENTERS
from ..presets import PRESETS, Preset
from ..references import Kind
from ..scorers import PROMPTED, SCORERS, UNPROMPTED
from ..tiling import OVERLAP
from ..utils.devices import PRECISIONS
from .options import Options, option, table
from .runs import Collection

WeakLabels = Literal["promoted", "raw", "skip"]
WEAK_LABELS: tuple[WeakLabels, ...] = get_args(WeakLabels)
"""Treatment of labels weaker than a mask (boxes, points, scribbles): SAM2 draws their masks, they are used without
masks, or they are left out."""

MapOutput = Literal["segmentation", "heatmaps"]
MAP_OUTPUTS: tuple[MapOutput, ...] = get_args(MapOutput)

EXECUTORS = ("local", "ray")
"""Where the models of a segmentation run."""

SHOWN = ("recommended", "all")
"""Choices of what is shown of a segmentation, beside a number."""

_FETCHED = "'small' comes with the plugin, the others are downloaded once. Or the path of"


def _encoder(default: str | None) -> Any:
    help = f"{_FETCHED} a folder with config.json and model.safetensors"
    if default is None:
        help = f"Default: the encoder of the memory. {help}"
    return option(default, help, label="Encoder", suggestions=ENCODERS)


def _segmenter() -> Any:
    help = f"{_FETCHED} a checkpoint file with a released model's name, or of a folder with its .yaml and .pt"
    return option("small", help, label="Segmenter", suggestions=SEGMENTERS)


def _preset(default: str | None) -> Any:
    help = (
        "'default' is recommended, 'paper' follows the publication exactly, 'fast' samples half of SAM2's points, "
        "guided by the prototypes"
    )
    if default is None:
        help = f"Default: the preset of the memory. {help}"
    return option(default, help, label="Preset", also=(Preset,), choices=tuple(PRESETS))


def _device() -> Any:
    help = "'auto' uses a GPU if there is one; or a torch device, such as 'cpu' or 'cuda:1'"
    return option("auto", help, label="Device", also=(torch.device,))


def _precision() -> Any:
    help = (
        "'auto' follows the preset: float32 for 'paper', as published; 'fast' for 'fast'; otherwise bfloat16 on GPUs "
        "that support it, else float32. 'fast' also uses bfloat16 on CPUs that support it"
    )
    return option("auto", help, label="Precision", choices=PRECISIONS)


def _use_cache(contents: str) -> Any:
    return option(True, f"Read and write the disk cache of {contents}", label="Use the cache", type=bool)


@dataclass(frozen=True)
class MemoryConfig(Options):
    """Options of :func:`~nts.fiftyone_adapter.memory_job`."""

    job: ClassVar[str] = "memory_job"

    classes: Sequence[str] | str | None = option(
        None, "Default: all classes of the label field", label="Classes", type=list
    )
    weak_labels: WeakLabels = option(
        "promoted",
        "Labels without a mask: SAM2 draws their masks ('promoted'), they are used without ('raw') or skipped ('skip')",
        choices=WEAK_LABELS,
    )
    encoder: str = _encoder("small")
    segmenter: str = _segmenter()
    preset: str | Preset = _preset("default")
    keep_images: bool = option(
        False,
        "Store the tokens of whole reference images, for the scorers 'vrp' and 'both' and for class maps. About 0.2 MB "
        "an image with the encoder 'small', 2.8 MB with dinov2-large",
        label="Keep whole images",
        type=bool,
    )
    complete_labels: bool = option(
        False,
        "If every object of the classes has a label in the reference images, everything else in them is a negative; an "
        "object without a label would teach the memory to reject its own class. Only for presets that use negatives",
        label="Is every object of the classes labelled in the reference images?",
        type=bool,
    )
    background: str | Collection | None = option(
        None,
        "Saved view of the dataset, by its name, with images that show none of the classes: everything in them is a "
        "negative. From Python, any view. Only for presets that use negatives",
        label="Background images",
        also=(Collection,),
    )
    overwrite: bool = option(False, "Replace a memory of this name", label="Overwrite", type=bool)
    device: str = _device()
    precision: str = _precision()
    use_cache: bool = _use_cache("encoded references")


@dataclass(frozen=True)
class NegativesConfig(Options):
    """Options of :func:`~nts.fiftyone_adapter.negatives_job`."""

    job: ClassVar[str] = "negatives_job"

    segmenter: str = _segmenter()
    device: str = _device()
    precision: str = _precision()
    use_cache: bool = _use_cache("negatives of images")


@dataclass(frozen=True)
class SegmentationConfig(Options):
    """Options of :func:`~nts.fiftyone_adapter.segmentation_job`."""

    job: ClassVar[str] = "segmentation_job"

    score_threshold: float = option(
        0.0,
        "Minimal raw score of an instance that is written, exclusive. 0 writes all, as an evaluation needs; what is "
        "shown of them is chosen by 'shown'",
        label="Score threshold",
        type=float,
        min=0,
        max=1,
        stored=True,
    )
    max_instances: int = option(
        100, "Those of the highest scores are kept", label="Maximum objects per image", type=int, min=1, stored=True
    )
    shown: str | float = option(
        "recommended",
        "Least confidence of the instances in the saved view '<field> · confident': the recommended one, or a number. "
        "'all' saves no view: for an evaluation, which needs all instances",
        label="Show",
        type=float,
        min=0,
        max=1,
        choices=SHOWN,
    )
    min_precision: float | None = option(
        None,
        "In place of the recommended confidence, the least one that is expected to give this precision",
        label="Expected precision",
        type=float,
        min=0,
        max=1,
    )
    limit: int | None = option(
        None,
        "How many, for a trial; a later run continues with the others. Default: all",
        label="Try on the first images",
        type=int,
        min=1,
    )
    overwrite: bool = option(
        False,
        "Delete results with other settings in the field, except decided labels, and start over",
        label="Overwrite",
        type=bool,
    )
    tiles: str | tuple[int, int] | None = option(
        None,
        "Small objects in large images: 'auto' cuts an image into overlapping tiles where the references are small on "
        "theirs, 'off' sees images whole only; or rows and columns, such as '3x4'. Every image is seen whole as well. "
        "Default: that of the preset: 'auto', or 'off' for 'paper'",
        label="Tiles",
        also=(tuple, list),
        suggestions=("auto", "off"),
        scorers=tuple(UNPROMPTED),
    )
    tile_overlap: float = option(
        OVERLAP,
        "Overlap of neighbouring tiles, relative to their side: objects smaller than that are whole in one of them",
        label="Overlap of tiles",
        type=float,
        min=0,
        max=0.5,
        scorers=tuple(UNPROMPTED),
    )
    segmenter: str = _segmenter()
    encoder: str | None = _encoder(None)
    preset: str | Preset | None = _preset(None)
    scorer: str = option(
        "prototype",
        "Scores the classes of a proposal: by the similarity to the prototypes, by a trained reference prompt, or by "
        "both: the similarity times the square root of the prompt's score",
        label="Scorer",
        choices=tuple(SCORERS),
        stored=True,
    )
    reference_prompt: str | None = option(
        None,
        "Name of a prompt of the dataset, 'small', or a file. The memory must have been built with keep_images",
        label="Reference prompt",
        scorers=tuple(PROMPTED),
    )
    device: str = _device()
    precision: str = _precision()
    use_cache: bool = _use_cache("encoded images")
    compiled: bool = option(
        False, "Compile SAM2's decoder: for many images, see nts.models.load_segmenter", label="Compile", type=bool
    )
    executor: str = option(
        "local",
        "Where the models run: in this process, or on the Ray cluster of RAY_ADDRESS (on this machine without it); see "
        "docs/cluster.md",
        label="Run on",
        choices=EXECUTORS,
    )
    actors: int | None = option(
        None,
        "Workers on the cluster, each with the models. Default: as many as there is room for",
        label="Workers",
        type=int,
        min=1,
    )
    gpus_per_actor: float | None = option(
        None,
        "GPUs of each worker; a fraction shares one. Default: 1 where the cluster has any, else 0",
        label="GPUs per worker",
        type=float,
        min=0,
    )


@dataclass(frozen=True)
class ClassMapsConfig(Options):
    """Options of :func:`~nts.fiftyone_adapter.class_maps_job`."""

    job: ClassVar[str] = "class_maps_job"

    output: MapOutput = option(
        "segmentation",
        "'segmentation': the class of every pixel, in one field. 'heatmaps': a probability for every class, one field "
        "each",
        label="Output",
        choices=MAP_OUTPUTS,
    )
    reference_prompt: str = option(
        "small",
        "Name of a prompt of the dataset, 'small', or a file. The memory must have been built with keep_images",
        label="Reference prompt",
    )
    presence_threshold: float = option(
        0.5,
        "Paint only classes that the prompt finds in the image with at least this probability; heat maps show all",
        label="Presence threshold",
        type=float,
        min=0,
        max=1,
        stored=True,
    )
    overwrite: bool = option(False, "Delete maps with other settings and start over", label="Overwrite", type=bool)
    segmenter: str = _segmenter()
    encoder: str | None = _encoder(None)
    preset: str | Preset | None = _preset(None)
    device: str = _device()
    precision: str = _precision()

    def stored(self) -> dict[str, Any]:
        """Return the options that a run stores; heat maps show all classes, at any threshold, and store none."""
        return {} if self.output == "heatmaps" else super().stored()


@dataclass(frozen=True)
class HeatmapsConfig(Options):
    """Options of :func:`~nts.fiftyone_adapter.heatmaps_job`."""

    job: ClassVar[str] = "heatmaps_job"

    classes: Sequence[str] | str | None = option(
        None, "Classes to map, one field each. Default: all classes of the memory", label="Classes", type=list
    )
    overwrite: bool = option(False, "Delete maps with other settings and start over", label="Overwrite", type=bool)
    encoder: str | None = _encoder(None)
    preset: str | Preset | None = _preset(None)
    device: str = _device()
    precision: str = _precision()


TrainingPreset = Literal["default", "paper"]
TRAINING_PRESETS: tuple[TrainingPreset, ...] = get_args(TrainingPreset)


@dataclass(frozen=True)
class PromptConfig(Options):
    """Options of :func:`~nts.fiftyone_adapter.prompt_training.prompt_job`."""

    job: ClassVar[str] = "prompt_job"

    classes: Sequence[str] | str | None = option(
        None,
        "Training classes; a fifth of them is used for validation. Default: all but the test classes",
        label="Classes",
        type=list,
    )
    test_classes: Sequence[str] | str = option(
        (), "Not trained on: images that show one of them are left out", label="Test classes", type=list
    )
    kinds: Sequence[Kind] | Kind | None = option(
        None,
        "Simulated from the masks during training. Default: all, or masks alone for the preset 'paper'",
        label="Kinds of references",
        type=list,
    )
    steps: int = option(
        4000,
        "Optimiser steps: a few hundred for a trial, thousands for a good prompt",
        label="Steps",
        type=int,
        min=1,
    )
    batch: int = option(8, "Episodes per step", label="Batch", type=int, min=1)
    most_shots: int | None = option(
        None, "Default: 3, or 1 for the preset 'paper'", label="Max references per episode", type=int, min=1
    )
    preset: TrainingPreset = option(
        "default",
        "'default' is recommended, 'paper' follows the publication exactly",
        label="Preset",
        choices=TRAINING_PRESETS,
    )
    encoder: str = _encoder("small")
    segmenter: str = _segmenter()
    seed: int = option(1, "Seed of the training", label="Seed", type=int)
    folder: str | os.PathLike | None = option(
        None, "Folder for checkpoints, log and pictures. Default: they are removed at the end", label="Folder"
    )
    overwrite: bool = option(
        False,
        "Replace a prompt of this name; restart a training that was interrupted",
        label="Overwrite",
        type=bool,
    )
    device: str = _device()


@dataclass(frozen=True)
class EvaluationConfig(Options):
    """Options of :func:`~nts.fiftyone_adapter.evaluation_job`."""

    job: ClassVar[str] = "evaluation_job"

    classes: Sequence[str] | str | None = option(
        None,
        "The novel classes. Default: those of the memory that made the predictions, or, if the predictions are not "
        "ours, all of the ground truth but the base classes",
        label="Classes",
        type=list,
    )
    base_classes: Sequence[str] | str = option(
        (),
        "Classes to evaluate beside the novel ones; they do not count in nAP",
        label="Base classes",
        type=list,
    )
    eval_key: str | None = option(None, "Name of the stored result. Default: nap_<predictions_field>", label="Name")
    leave_out_references: bool = option(
        True,
        "Leave out the samples that references of the memory came from, and copies of their files: they would inflate "
        "the result",
        label="Leave out reference samples",
        type=bool,
    )
    memory_key: str | None = option(
        None, "The memory with these references. Default: the one that made the predictions", label="Memory"
    )
    crowd: str | None = option(
        "iscrowd",
        "Attribute of the ground truth that marks crowds: true, a number other than 0, or a text like '1' or 'true'. "
        "None: no object is a crowd",
        label="Crowd attribute",
        also=(NoneType,),
    )
    diagnose_models: bool = option(
        False,
        "Rerun the models that made the predictions, to measure proposals and encoder separately; takes as long as the "
        "segmentation",
        label="Diagnose the models",
        type=bool,
    )
    overwrite: bool = option(
        False,
        "Replace a result of this name when the new one is complete. FiftyOne's own evaluation of that name is deleted "
        "first: if the new one fails after that, the old numbers stay, but not the outcome of each object",
        label="Overwrite",
        type=bool,
    )


def markdown() -> str:
    """Page of the docs with the options of all jobs."""
    titles = {
        MemoryConfig: "Build reference memory",
        NegativesConfig: "Add negatives to a memory",
        SegmentationConfig: "Auto-segment view",
        ClassMapsConfig: "Map classes",
        HeatmapsConfig: "Similarity heat maps",
        PromptConfig: "Train reference prompt",
        EvaluationConfig: "Evaluate nAP",
    }
    parts = ["# Options", "Written by `make docs` from `nts/fiftyone_adapter/config.py`."]
    for config, title in titles.items():
        parts += [
            f"## {title}",
            f"Keyword arguments of `{config.job}`, or fields of `{config.__name__}`.",
            table(config),
        ]
    return "\n\n".join(parts) + "\n"
