"""Building SAM2 from a ``.yaml`` file, without hydra.

``hydra.utils.instantiate`` calls anything that a file names under ``_target_``, so a downloaded file can run code. Here
the whole file is validated first, and only classes of the released image models are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import SAM2Base

from ..weights import WeightsNotFound, first_line

_MODEL = "sam2.modeling.sam2_base.SAM2Base"

# All targets of the released configurations, by the names used there.
_CLASSES: Mapping[str, Callable[..., Any]] = {
    _MODEL: SAM2Base,
    "sam2.modeling.backbones.hieradet.Hiera": Hiera,
    "sam2.modeling.backbones.image_encoder.FpnNeck": FpnNeck,
    "sam2.modeling.backbones.image_encoder.ImageEncoder": ImageEncoder,
    "sam2.modeling.memory_attention.MemoryAttention": MemoryAttention,
    "sam2.modeling.memory_attention.MemoryAttentionLayer": MemoryAttentionLayer,
    "sam2.modeling.memory_encoder.CXBlock": CXBlock,
    "sam2.modeling.memory_encoder.Fuser": Fuser,
    "sam2.modeling.memory_encoder.MaskDownSampler": MaskDownSampler,
    "sam2.modeling.memory_encoder.MemoryEncoder": MemoryEncoder,
    "sam2.modeling.position_encoding.PositionEmbeddingSine": PositionEmbeddingSine,
    "sam2.modeling.sam.transformer.RoPEAttention": RoPEAttention,
}

# Some parameters of allowed classes are unsafe (Hiera unpickles the file named by weights_path), so strings are allowed
# for these parameters only.
_TEXTS: Mapping[str, frozenset[str]] = {
    "activation": frozenset({"relu", "gelu", "glu"}),
    "fpn_interp_model": frozenset({"nearest", "bilinear"}),
    "fuse_type": frozenset({"sum", "avg"}),
}

_STRIDE = 16
"""Pixels of the input per position of the image embedding, for all SAM2 models."""


def build_sam2(config_file: str | Path, **options: Any) -> SAM2Base:
    """Build a SAM2 with random weights.

    Args:
        config_file: ``.yaml`` in the ``sam2`` package's format, with the model under the key ``model``. It may contain
            numbers, lists and classes of the released models; interpolations (``${...}``) are not supported.
        options: model arguments that override those in the file.

    Raises:
        WeightsNotFound: if the file is not valid YAML, names any other class, or does not describe a valid model.
            Nothing is built before the whole file has been validated.
    """
    file = Path(config_file)
    tree = _read(file)
    _check(tree, (), file)
    if not isinstance(tree.get("model"), dict) or tree["model"].get("_target_") != _MODEL:
        raise WeightsNotFound(f"{file} describes no SAM2: it needs the key 'model' with '_target_: {_MODEL}'")
    tree["model"].update(options)
    model = _build(tree["model"], "model", file)
    size = model.image_size
    if type(size) is not int or size < _STRIDE or size % _STRIDE:
        raise WeightsNotFound(f"{file}: model.image_size must be a multiple of {_STRIDE}, got {size!r}")
    return model


def _read(file: Path) -> dict[str, Any]:
    """Content of the file as plain dictionaries, lists and values, without resolving interpolations."""
    try:
        # OmegaConf's loader is a safe one. Unlike PyYAML's own it reads 1e-6 as a number.
        tree: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise WeightsNotFound(f"{file} is not a valid model configuration: {first_line(error)}") from error
    if not isinstance(tree, dict):
        raise WeightsNotFound(f"{file} describes no SAM2: it holds a {type(tree).__name__}, not the key 'model'")
    return tree


def _check(node: Any, path: tuple[str, ...], file: Path) -> None:
    """Refuse everything except numbers, allowed strings, and classes of the released models."""
    if isinstance(node, dict):
        for key, value in node.items():
            here = (*path, str(key))
            if not isinstance(key, str):
                raise _refusal(file, here, "keys must be names")
            if "${" in key:
                raise _refusal(file, here, "interpolations are not supported")
            if key == "_target_":
                if not isinstance(value, str) or value not in _CLASSES:
                    raise _refusal(
                        file,
                        here,
                        f"{value!r} is not one of the classes of the released SAM2 models, and is not called",
                    )
            elif key.startswith("_"):
                raise _refusal(file, here, "of hydra's special keys only '_target_' is supported")
            else:
                _check(value, here, file)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            _check(value, (*path, str(index)), file)
    elif isinstance(node, str):
        if "${" in node:
            raise _refusal(file, path, f"interpolations are not supported, got {node!r}")
        if node not in _TEXTS.get(path[-1], ()):
            raise _refusal(file, path, f"{node!r} is not a valid value of this argument; write it as a number")
    elif node is not None and not isinstance(node, (bool, int, float)):
        raise _refusal(file, path, f"a value of type {type(node).__name__} is not supported")


def _refusal(file: Path, path: tuple[str, ...], reason: str) -> WeightsNotFound:
    return WeightsNotFound(f"{file} is refused at {'.'.join(path) or 'its top'}: {reason}")


def _build(node: Any, path: str, file: Path) -> Any:
    """Build a validated node, innermost objects first, in the order of the file."""
    if isinstance(node, list):
        return [_build(value, f"{path}.{index}", file) for index, value in enumerate(node)]
    if not isinstance(node, dict):
        return node
    arguments = {key: _build(value, f"{path}.{key}", file) for key, value in node.items() if key != "_target_"}
    if "_target_" not in node:
        return arguments
    try:
        return _CLASSES[node["_target_"]](**arguments)
    except Exception as error:  # constructors raise errors of many types for invalid arguments
        raise WeightsNotFound(
            f"{file}: {path} cannot be built as {node['_target_']} from its arguments: {first_line(error)}"
        ) from error
