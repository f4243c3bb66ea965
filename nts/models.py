"""Finding and loading the two models, by the names that their users know.

``small`` is the pair that comes with the project. All other weights are the released ones, from the Hugging Face hub or
from a local folder or file. Loaded models are kept, so that the next caller does not load them again.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import sam2
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors import SafetensorError
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from sam2.modeling.sam2_base import SAM2Base
from transformers import Dinov2Config, Dinov2Model

from .devices import resolve_device, resolve_precision
from .encoder import Encoder, fingerprint
from .segmenter import Segmenter
from .vrp.prompt import ReferencePrompt

SMALL = Path(__file__).parent / "small"

ENCODERS = ("small", *(f"facebook/dinov2-{size}" for size in ("small", "base", "large", "giant")))
"""Names that :func:`load_encoder` knows; any folder in Hugging Face's DINOv2 format will do as well."""

_SAM2_REPOSITORIES = {Path(file).stem: (repo, config) for repo, (config, file) in HF_MODEL_ID_TO_FILENAMES.items()}

SEGMENTERS = ("small", *sorted(_SAM2_REPOSITORIES))
"""Names that :func:`load_segmenter` knows; any checkpoint file of these models will do as well."""


PROMPTS = ("small",)
"""Reference prompts that come with the project; any file of a trained one will do as well."""


class WeightsNotFound(RuntimeError):
    """Weights that could not be had. The message says which file, from where, and how to give it by hand."""


@lru_cache(maxsize=2)
def load_encoder(name: str = "small", device: str = "auto", precision: str = "auto") -> Encoder:
    """Load a DINOv2.

    Args:
        name: one of :data:`ENCODERS`, or a folder with ``config.json`` and ``model.safetensors``.
        device: ``"auto"``, or as in torch.
        precision: one of :data:`nts.devices.PRECISIONS`.

    Raises:
        WeightsNotFound: if the name is unknown, or the weights cannot be fetched or read.
    """
    folder = SMALL / "encoder" if name == "small" else Path(name).expanduser()
    if folder.is_dir():
        _require(folder, "config.json", "model.safetensors")
    elif name not in ENCODERS:
        raise WeightsNotFound(
            f"there is no encoder {name!r}: it is neither one of {', '.join(ENCODERS)} nor a folder on this machine"
        )
    source = str(folder) if folder.is_dir() else name
    try:
        config = Dinov2Config.from_pretrained(source)
        model = Dinov2Model.from_pretrained(source, config=config, dtype=torch.float32)
    except (OSError, ValueError, SafetensorError) as error:
        raise WeightsNotFound(
            f"the weights of the encoder {name!r} could not be loaded: config.json and model.safetensors from "
            f"{'the folder' if folder.is_dir() else 'the Hugging Face repository'} {source}. "
            "Without a network, copy those two files into a folder and give the folder's path as the encoder. "
            f"({_first_line(error)})"
        ) from error
    where = resolve_device(device)
    return Encoder(model, name, where, resolve_precision(precision, where))


@lru_cache(maxsize=2)
def load_segmenter(
    name: str = "small", device: str = "auto", precision: str = "auto", *, compiled: bool = False
) -> Segmenter:
    """Load a SAM2.

    Args:
        name: one of :data:`SEGMENTERS`; or a checkpoint file that has a released model's name
            (``.../sam2_hiera_large.pt``); or a folder that holds one ``.yaml`` (the model, in the ``sam2`` package's
            format) and one ``.pt``.
        device: ``"auto"``, or as in torch.
        precision: one of :data:`nts.devices.PRECISIONS`.
        compiled: compile the decoder with ``torch.compile``, for runs over many images: the first takes half a minute
            longer, the others are decoded in about three quarters of the time. A CPU needs a C++ compiler for it.

    Raises:
        WeightsNotFound: if the name is unknown, or the weights cannot be fetched or read.
    """
    config_file, checkpoint = _find_segmenter(name)
    model = build_sam2(config_file)
    try:
        model.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"])
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsNotFound(
            f"the checkpoint {checkpoint} of the segmenter {name!r} is damaged, or belongs to another model than "
            f"{Path(config_file).name}: {_first_line(error)}"
        ) from error
    where = resolve_device(device)
    return Segmenter(model, name, fingerprint(model), where, resolve_precision(precision, where), compiled=compiled)


def build_sam2(config_file: str | Path, **options: Any) -> SAM2Base:
    """A SAM2 with random weights.

    Args:
        config_file: ``.yaml`` in the ``sam2`` package's format.
        options: values of its model that take the place of the file's.
    """
    config = OmegaConf.load(config_file)
    OmegaConf.resolve(config)
    config.model.update(options)
    return instantiate(config.model, _recursive_=True)


def load_reference_prompt(name: str = "small") -> ReferencePrompt:
    """A trained visual reference prompt.

    Args:
        name: ``"small"``, for the small pair, which comes with the project; or a ``.safetensors`` file.

    Raises:
        WeightsNotFound: if there is no such file.
        PromptFileError: if the file is damaged, or something else.
    """
    path = SMALL / "reference_prompt.safetensors" if name == "small" else Path(name).expanduser()
    if not path.is_file():
        raise WeightsNotFound(
            f"there is no reference prompt {name!r}: it is neither {PROMPTS[0]!r}, which comes with the project, "
            "nor a file on this machine"
        )
    return ReferencePrompt.load(path)


def _find_segmenter(name: str) -> tuple[Path, Path]:
    """The model file and the checkpoint of a segmenter."""
    path = SMALL / "segmenter" if name == "small" else Path(name).expanduser()
    if path.is_dir():
        return _the_only(path, "*.yaml"), _the_only(path, "*.pt")
    if path.is_file():
        if path.stem not in _SAM2_REPOSITORIES:
            released = ", ".join(f"{stem}.pt" for stem in SEGMENTERS[1:])
            raise WeightsNotFound(
                f"which model does {path} belong to? Name the file as the release does ({released}), or give a folder "
                "with the checkpoint and its .yaml"
            )
        return _packaged_config(path.stem), path
    if name not in _SAM2_REPOSITORIES:
        raise WeightsNotFound(
            f"there is no segmenter {name!r}: it is neither one of {', '.join(SEGMENTERS)} nor a file on this machine"
        )
    repository, _ = _SAM2_REPOSITORIES[name]
    try:
        return _packaged_config(name), Path(hf_hub_download(repository, f"{name}.pt"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsNotFound(
            f"the weights of the segmenter {name!r} could not be fetched: {name}.pt from the Hugging Face repository "
            f"{repository}. Without a network, copy that file to this machine and give its path as the segmenter. "
            f"({_first_line(error)})"
        ) from error


def _packaged_config(name: str) -> Path:
    return Path(sam2.__file__).parent / _SAM2_REPOSITORIES[name][1]


def _the_only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise WeightsNotFound(f"the folder {folder} must hold exactly one {pattern}, it holds {len(found)}")
    return found[0]


def _require(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise WeightsNotFound(f"the folder {folder} lacks {name}: a DINOv2 folder holds {' and '.join(names)}")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
