"""Load the encoder and the segmenter by name.

``small`` is the pair that comes with the project. All other weights are the released ones, from the Hugging Face hub or
from a local folder or file. The last two models of each sort are cached in the process.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import sam2
import torch
from huggingface_hub import hf_hub_download
from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES
from sam2.modeling.sam2_base import SAM2Base

from .encoder import FAMILIES, Encoder, fingerprint
from .encoder.files import read_encoder
from .segmenter import Segmenter
from .segmenter.config import build_sam2
from .utils.devices import resolve_device, resolve_precision
from .weights import WeightsNotFound, check_finite, first_line

__all__ = [
    "ENCODERS",
    "SEGMENTERS",
    "SMALL",
    "WeightsNotFound",
    "build_sam2",
    "fetch_weights",
    "load_encoder",
    "load_segmenter",
    "segmenter_name",
]

SMALL = Path(__file__).parent / "small"

ENCODERS = ("small", *(name for family in FAMILIES.values() for name in family.names))
"""Names that :func:`load_encoder` accepts. A folder with a model of these families is also accepted."""

_SAM2_REPOSITORIES = {Path(file).stem: (repo, config) for repo, (config, file) in HF_MODEL_ID_TO_FILENAMES.items()}

SEGMENTERS = ("small", *sorted(_SAM2_REPOSITORIES))
"""Names that :func:`load_segmenter` accepts. A checkpoint file of these models is also accepted."""


@lru_cache(maxsize=2)
def load_encoder(name: str = "small", device: str = "auto", precision: str = "auto") -> Encoder:
    """Load a DINOv2, with or without registers, or a DINOv3.

    Args:
        name: one of :data:`ENCODERS`, or a folder with ``config.json`` and ``model.safetensors``.
        device: ``"auto"``, or as in torch.
        precision: one of :data:`nts.utils.devices.PRECISIONS`.

    Raises:
        WeightsNotFound: if the name is unknown, the weights cannot be downloaded, or they do not fit the model that
            ``config.json`` describes.
    """
    model = read_encoder(*_find_encoder(name))
    where = resolve_device(device)
    return Encoder(model, name, where, resolve_precision(precision, where))


def load_segmenter(
    name: str = "small", device: str = "auto", precision: str = "auto", *, compiled: bool = False
) -> Segmenter:
    """Load a SAM2.

    Args:
        name: one of :data:`SEGMENTERS`; or its repository on the Hugging Face hub (``facebook/sam2.1-hiera-large``); or
            a checkpoint file that has a released model's name (``.../sam2_hiera_large.pt``); or a folder that holds
            one ``.yaml`` (the model, in the ``sam2`` package's format, see :func:`nts.segmenter.config.build_sam2`) and
            one ``.pt``.
        device: ``"auto"``, or as in torch.
        precision: one of :data:`nts.utils.devices.PRECISIONS`.
        compiled: compile the decoder with ``torch.compile``, for runs over many images: the first image takes half a
            minute longer, decoding the others about three quarters of the time. On a CPU it needs a C++ compiler.

    Raises:
        WeightsNotFound: if the name is unknown, the weights cannot be downloaded, or the files are damaged, do not
            belong together, or do not describe a SAM2.
    """
    return _load_segmenter(segmenter_name(name), device, precision, compiled)


def segmenter_name(name: str) -> str:
    """Map a repository on the hub to its name in :data:`SEGMENTERS`; other names and paths are returned unchanged.

    >>> segmenter_name("facebook/sam2.1-hiera-large")
    'sam2.1_hiera_large'
    """
    if name in HF_MODEL_ID_TO_FILENAMES and not Path(name).exists():
        return Path(HF_MODEL_ID_TO_FILENAMES[name][1]).stem
    return name


@lru_cache(maxsize=2)
def _load_segmenter(name: str, device: str, precision: str, compiled: bool) -> Segmenter:
    config_file, checkpoint = _find_segmenter(name)
    model = build_sam2(config_file)
    _load_checkpoint(model, checkpoint, name, config_file)
    where = resolve_device(device)
    return Segmenter(model, name, fingerprint(model), where, resolve_precision(precision, where), compiled=compiled)


def _load_checkpoint(model: SAM2Base, checkpoint: Path, name: str, config_file: Path) -> None:
    try:
        # weights_only: the unpickler builds tensors and plain containers, and runs no code.
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
        model.load_state_dict(weights, strict=True)
    except Exception as error:  # a damaged file makes torch's reader raise all kinds of errors
        raise WeightsNotFound(
            f"the checkpoint {checkpoint} of the segmenter {name!r} is damaged, or belongs to another model than "
            f"{config_file.name}: {first_line(error)}"
        ) from error
    check_finite(model, f"the checkpoint {checkpoint} of the segmenter {name!r}")


def fetch_weights(encoder: str, segmenter: str) -> None:
    """Fetch the weights of both models from the Hugging Face hub into its cache, unless they are there.

    Args:
        encoder: a name for :func:`load_encoder`.
        segmenter: a name for :func:`load_segmenter`.

    Raises:
        WeightsNotFound: if a name is unknown, or the weights cannot be fetched.
    """
    _find_encoder(encoder)
    _find_segmenter(segmenter_name(segmenter))


def _find_encoder(name: str) -> tuple[Path, Path]:
    """Locate ``config.json`` and ``model.safetensors`` of an encoder."""
    folder = SMALL / "encoder" if name == "small" else Path(name).expanduser()
    files = ("config.json", "model.safetensors")
    if folder.is_dir():
        for file in files:
            if not (folder / file).is_file():
                raise WeightsNotFound(
                    f"the folder {folder} lacks {file}: an encoder's folder holds {' and '.join(files)}. Other "
                    "formats, such as pickled weights (.bin, .pth), are not read"
                )
        return folder / files[0], folder / files[1]
    family = next((family for family in FAMILIES.values() if name in family.names), None)
    if family is None:
        raise WeightsNotFound(
            f"there is no encoder {name!r}: it is neither one of {', '.join(ENCODERS)} nor a folder on this machine"
        )
    access = ""
    if family.gated:
        access = (
            f"They are gated: accept their licence on https://huggingface.co/{name}, then log in with `hf auth login`, "
            "or set HF_TOKEN. "
        )
    try:
        return Path(hf_hub_download(name, files[0])), Path(hf_hub_download(name, files[1]))
    except Exception as error:  # from the hub, its HTTP client, or the disk: the reason follows
        raise WeightsNotFound(
            f"the weights of the encoder {name!r} could not be fetched: {' and '.join(files)} from the Hugging Face "
            f"repository {name}. {access}Without a network, copy those two files into a folder and give the folder's "
            f"path as the encoder. ({first_line(error)})"
        ) from error


def _find_segmenter(name: str) -> tuple[Path, Path]:
    """Locate the model file and the checkpoint of a segmenter."""
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
            f"there is no segmenter {name!r}: it is neither one of {', '.join(SEGMENTERS)}, nor one of these models' "
            "repositories on the Hugging Face hub, nor a file or folder on this machine"
        )
    repository, _ = _SAM2_REPOSITORIES[name]
    try:
        return _packaged_config(name), Path(hf_hub_download(repository, f"{name}.pt"))
    except Exception as error:  # from the hub, its HTTP client, or the disk: the reason follows
        raise WeightsNotFound(
            f"the weights of the segmenter {name!r} could not be fetched: {name}.pt from the Hugging Face repository "
            f"{repository}. Without a network, copy that file to this machine and give its path as the segmenter. "
            f"({first_line(error)})"
        ) from error


def _packaged_config(name: str) -> Path:
    return Path(sam2.__file__).parent / _SAM2_REPOSITORIES[name][1]


def _the_only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise WeightsNotFound(f"the folder {folder} must hold exactly one {pattern}, it holds {len(found)}")
    return found[0]
