"""The models that FiftyOne's model zoo offers where this repository is registered as a source of models::

    import fiftyone.zoo as foz

    foz.register_zoo_model_source("https://github.com/<owner>/<repository>")
    model = foz.load_zoo_model("reference-segmentation/small", memory=(dataset, "birds"))
    dataset.apply_model(model, label_field="birds")

``manifest.json`` describes the models to FiftyOne, which calls the two functions through the repository's
``__init__.py``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fiftyone as fo

from ..memory import MemoryBank
from ..models import fetch_weights, load_encoder
from .embeddings import EncoderModel
from .errors import InputError
from .model import ReferenceSegmenterModel
from .runs import load_memory

MODELS = {
    "reference-segmentation/small": ("small", "small"),
    "reference-segmentation/dinov2-small-sam2.1-tiny": ("facebook/dinov2-small", "sam2.1_hiera_tiny"),
    "reference-segmentation/dinov2-base-sam2.1-base-plus": ("facebook/dinov2-base", "sam2.1_hiera_base_plus"),
    "reference-segmentation/dinov2-large-sam2.1-large": ("facebook/dinov2-large", "sam2.1_hiera_large"),
    "reference-segmentation/dinov2-large-sam2-large": ("facebook/dinov2-large", "sam2_hiera_large"),
    "reference-segmentation/dinov3-large-sam2.1-large": (
        "facebook/dinov3-vitl16-pretrain-lvd1689m",
        "sam2.1_hiera_large",
    ),
}
"""Encoder and segmenter of each model."""

Memory = MemoryBank | str | os.PathLike | tuple[fo.Dataset | str, str]
"""A memory; its file; or a dataset, or the name of one, and the key of a memory in it."""


def download_model(name: str, path: str) -> None:
    """Fetch the weights of a model from the Hugging Face hub, unless they are there, and note that in a file.

    The hub's own cache holds the weights. FiftyOne takes a model as downloaded where the file at ``path`` exists.

    Raises:
        WeightsNotFound: if they cannot be fetched.
    """
    encoder, segmenter = MODELS[name]
    fetch_weights(encoder, segmenter)
    Path(path).write_text(json.dumps({"encoder": encoder, "segmenter": segmenter}))


def load_model(
    name: str, *, memory: Memory | None = None, device: str = "auto", precision: str = "auto", **options: Any
) -> ReferenceSegmenterModel | EncoderModel:
    """Load a model of :data:`MODELS`.

    FiftyOne returns a model that is still in use again when it is loaded with equal arguments. After the memory of a
    key was replaced, load with ``cache=False``.

    Args:
        name: of the model.
        memory: see :data:`Memory`. Without one, the model computes embeddings only.
        device: for both models, ``"auto"`` or as in torch.
        precision: for both models, one of :data:`nts.utils.devices.PRECISIONS`.
        options: of :class:`~nts.fiftyone_adapter.ReferenceSegmenterModel`, such as ``preset``.

    Raises:
        EncoderMismatch: if another encoder made the memory.
        InputError: if there are options for segmenting, but no memory.
        MemoryFileError: if the memory's file is missing or damaged.
        RunNotFound: if the dataset has no such memory.
        WeightsNotFound: if weights cannot be loaded.
    """
    encoder, segmenter = MODELS[name]
    if memory is None:
        if options:
            raise InputError(f"{', '.join(sorted(options))}: only of use with a reference memory; pass memory=...")
        return EncoderModel(load_encoder(encoder, device, precision))
    options = {"encoder": encoder, "segmenter": segmenter, **options}
    return ReferenceSegmenterModel(_load_memory(memory), device=device, precision=precision, **options)


def _load_memory(memory: Memory) -> MemoryBank:
    # No isinstance check for MemoryBank: FiftyOne imports the zoo's copy of this package under another name, so the
    # caller's class may differ.
    if isinstance(memory, tuple):
        dataset, key = memory
        return load_memory(fo.load_dataset(dataset) if isinstance(dataset, str) else dataset, key)
    if isinstance(memory, str | os.PathLike):
        return MemoryBank.load(memory)
    return memory
