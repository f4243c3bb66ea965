"""Loading of encoders from ``config.json`` and ``model.safetensors``, with strict checks.

Transformers initialises missing layers at random and drops unknown ones; neither would be noticed in a prototype. Only
these two files are read, never pickled weights, adapters or code in the same folder.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Dinov2Model, PretrainedConfig, PreTrainedModel

from ..weights import WeightsNotFound, check_finite, first_line, listed
from .colour import ColourDinov2Model
from .model import FAMILIES, EncoderFamily

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "num_channels")
"""Keys that every configuration must have. Transformers would replace missing ones by those of another model."""

_UNUSED = frozenset({"embeddings.mask_token"})
"""Weights used in training only; DINOv2's files contain them even if ``use_mask_token`` is false."""


_COLOURS = "colours."
"""Start of the names of the weights that a DINOv2 with colours has beside those of a DINOv2."""


def read_encoder(config_file: Path, weights_file: Path) -> PreTrainedModel:
    """Load a model of one of :data:`nts.encoder.FAMILIES`, in single precision.

    Args:
        config_file: ``config.json`` in Hugging Face's format.
        weights_file: ``model.safetensors``.

    Raises:
        WeightsNotFound: if a file is damaged, the model belongs to no supported family, or the weights do not match the
            configuration: one is missing, unexpected, of another shape, or not finite.
    """
    family, config = _read_config(config_file)
    try:
        weights = load_file(weights_file)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsNotFound(
            f"{weights_file} could not be loaded: it is damaged or no .safetensors file ({first_line(error)})"
        ) from error
    try:
        model, found = _load(family, config, weights)
    except Exception as error:  # transformers raises errors of many types for invalid sizes or shapes
        raise WeightsNotFound(
            f"no {config.model_type} could be built from {config_file} and {weights_file}: {first_line(error)}"
        ) from error
    _check_complete(found, config.model_type, weights_file)
    check_finite(model, str(weights_file))
    return model


def write_encoder(model: PreTrainedModel, folder: Path) -> None:
    """Write a model in the format that :func:`read_encoder` reads: ``config.json`` and ``model.safetensors``."""
    if not isinstance(model, ColourDinov2Model):
        model.save_pretrained(folder)
        return
    # Versions of transformers name the weights of a DINOv2 differently in memory, but equally in files.
    plain: Any = Dinov2Model(model.config)
    state = model.state_dict()
    own = {name: state.pop(name) for name in list(state) if name.startswith(_COLOURS)}
    plain.load_state_dict(state)
    plain.to(model.dtype).save_pretrained(folder)
    save_file({**load_file(folder / "model.safetensors"), **own}, folder / "model.safetensors", {"format": "pt"})


def _load(family: EncoderFamily, config: Any, weights: dict[str, Tensor]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Build a model, and tell which of its weights are missing, unexpected, or of another shape."""
    own = {name: weights.pop(name) for name in list(weights) if family.colours and name.startswith(_COLOURS)}
    plain = Dinov2Model if family.colours else family.model
    loaded: Any = plain.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=torch.float32,
        # Set explicitly: a configuration may name a kernel on the hub, which would be downloaded and run.
        attn_implementation="sdpa",
        ignore_mismatched_sizes=True,
        output_loading_info=True,
    )
    model, found = loaded
    if not family.colours:
        return model, found
    config._attn_implementation = "sdpa"
    coloured = ColourDinov2Model(config)
    expected = {name: value.shape for name, value in coloured.state_dict().items() if name.startswith(_COLOURS)}
    fitting = {name: value for name, value in own.items() if expected.get(name) == value.shape}
    coloured.load_state_dict({**model.state_dict(), **fitting}, strict=False)
    return coloured, {
        **found,
        "missing_keys": [*found["missing_keys"], *sorted(expected.keys() - own.keys())],
        "unexpected_keys": [*found["unexpected_keys"], *sorted(own.keys() - expected.keys())],
        "mismatched_keys": [*found["mismatched_keys"], *sorted(own.keys() & expected.keys() - fitting.keys())],
    }


def _read_config(file: Path) -> tuple[EncoderFamily, PretrainedConfig]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsNotFound(f"{file} could not be read as JSON: {first_line(error)}") from error
    model_type = content.get("model_type") if isinstance(content, dict) else None
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        raise WeightsNotFound(
            f"{file} describes no supported encoder: its model_type is {model_type!r}, supported are "
            f"{', '.join(FAMILIES)}"
        )
    sizes = (*_SIZES, *(["num_register_tokens"] if family.registers else []))
    for key in sizes if family.side is not None else (*sizes, "image_size"):
        least = 0 if key == "num_register_tokens" else 1
        if type(content.get(key)) is not int or content[key] < least:
            given = f"is {content[key]!r}" if key in content else "is missing"
            raise WeightsNotFound(f"{file} is damaged: {key} {given}, and must be a whole number of at least {least}")
    if content["num_channels"] != 3:
        raise WeightsNotFound(f"{file}: num_channels is {content['num_channels']}, but images have 3 channels")
    if family.side is None and content["image_size"] % content["patch_size"]:
        raise WeightsNotFound(
            f"{file}: image_size {content['image_size']} is not a multiple of patch_size {content['patch_size']}"
        )
    try:
        return family, family.config(**_architecture(family, content, file))
    except Exception as error:  # checks and errors differ between versions of transformers
        raise WeightsNotFound(f"{file} is damaged: {first_line(error)}") from error


def _architecture(family: EncoderFamily, content: dict[str, Any], file: Path) -> dict[str, Any]:
    """Architecture settings of a configuration, without settings for loading, training or running."""
    classes = family.config.__mro__[: family.config.__mro__.index(PretrainedConfig)]
    known = {name for each in classes for name in inspect.signature(each).parameters}
    known -= inspect.signature(PretrainedConfig).parameters.keys()
    defaults = family.config()
    found = {}
    for key in sorted(known & content.keys()):
        if key.startswith(("_", "out_", "pos_embed_")):
            continue
        value, kind = content[key], type(getattr(defaults, key))
        # Some versions of transformers accept any type, and fail at the first image.
        if type(value) not in ((int, float) if kind in (int, float) else (kind,)):
            raise WeightsNotFound(f"{file} is damaged: {key} is {value!r}, and must be of type {kind.__name__}")
        found[key] = value
    return found


def _check_complete(found: dict[str, Any], model_type: str, file: Path) -> None:
    mismatched = sorted(item if isinstance(item, str) else item[0] for item in found["mismatched_keys"])
    missing = sorted(set(found["missing_keys"]) - set(mismatched))
    unexpected = sorted(set(found["unexpected_keys"]) - _UNUSED)
    problems = [
        f"{what} {listed(names)}"
        for what, names in (
            ("it lacks", missing),
            ("of another shape than config.json says are", mismatched),
            (f"a {model_type} does not have", unexpected),
        )
        if names
    ]
    problems += [str(message) for message in found.get("error_msgs", [])]
    if problems:
        raise WeightsNotFound(
            f"{file} does not hold the weights of the {model_type} that config.json describes: {'; '.join(problems)}. "
            "Take both files from the same model, in Hugging Face's format"
        )
