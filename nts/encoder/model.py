"""DINOv2 and DINOv3 encoders: normalised pixels to patch tokens."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PretrainedConfig,
    PreTrainedModel,
)

from ..memory import EncoderInfo
from ..utils.devices import autocast, to_device
from ..utils.threads import in_one_thread, is_small
from .colour import ColourDinov2Config, ColourDinov2Model


@dataclass(frozen=True)
class EncoderFamily:
    """An architecture of encoders.

    Attributes:
        config: configuration class in transformers.
        model: model class in transformers.
        names: names of its models on the Hugging Face hub.
        registers: register tokens precede the patch tokens, after the CLS token.
        side: patches per side of the input; ``None`` to take the input size from the configuration's ``image_size``.
        gated: downloading requires an account that accepted the licence.
        colours: the colours of a patch follow its token.
    """

    config: type[PretrainedConfig]
    model: type[PreTrainedModel]
    names: tuple[str, ...]
    registers: bool = False
    side: int | None = None
    gated: bool = False
    colours: bool = False

    def prefix_tokens(self, config: PretrainedConfig) -> int:
        """Number of tokens before the patch tokens."""
        return 1 + (config.num_register_tokens if self.registers else 0)

    def token_length(self, config: PretrainedConfig) -> int:
        """Length of a patch token."""
        return config.hidden_size + (config.colour_size if self.colours else 0)

    def input_size(self, config: PretrainedConfig) -> int:
        """Side of the square input in pixels."""
        return config.image_size if self.side is None else self.side * config.patch_size


_SIZES = ("small", "base", "large", "giant")

FAMILIES: Mapping[str, EncoderFamily] = {
    "dinov2": EncoderFamily(Dinov2Config, Dinov2Model, tuple(f"facebook/dinov2-{size}" for size in _SIZES)),
    "dinov2_with_registers": EncoderFamily(
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
        tuple(f"facebook/dinov2-with-registers-{size}" for size in _SIZES),
        registers=True,
    ),
    ColourDinov2Config.model_type: EncoderFamily(ColourDinov2Config, ColourDinov2Model, (), colours=True),
    # DINOv3's position encoding accepts any input size; its image_size of 224 is only that of its image processor.
    # DINOv2's 518 pixels are 37 patches of 14. With patches of 16 the same grid takes 592 pixels; objects then cover
    # the same number of patches.
    "dinov3_vit": EncoderFamily(
        DINOv3ViTConfig,
        DINOv3ViTModel,
        tuple(f"facebook/dinov3-{size}-pretrain-lvd1689m" for size in ("vits16", "vits16plus", "vitb16", "vitl16")),
        registers=True,
        side=37,
        gated=True,
    ),
}
"""Supported families by the ``model_type`` of ``config.json``."""


class Encoder:
    """A DINOv2 or DINOv3 encoder.

    Attributes:
        info: name, fingerprint of the weights, input size and token length.
        grid: ``(h, w)`` patches of an input.
        patch_size: side of a patch in pixels.
        device: device of the model.
        precision: name of the dtype that it computes in, as in torch.
        is_small: it runs with one intra-op thread on a CPU, see :mod:`nts.utils.threads`.
    """

    def __init__(self, model: PreTrainedModel, name: str, device: torch.device, dtype: torch.dtype) -> None:
        config = model.config
        family = FAMILIES[config.model_type]
        size = family.input_size(config)
        side = size // config.patch_size
        self.info = EncoderInfo(name, fingerprint(model), size, family.token_length(config))
        self.grid = (side, side)
        self.patch_size: int = config.patch_size
        self.device = device
        self._dtype = dtype
        self.precision = str(dtype).removeprefix("torch.")
        self._prefix_tokens = family.prefix_tokens(config)
        self._model = model.float().to(device).eval().requires_grad_(False)
        self.is_small = is_small(model)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Return patch tokens after the final LayerNorm (``x_norm_patchtokens`` in the official code).

        Tokens are not L2-normalised.

        Args:
            pixels: ``[B, 3, s, s]`` ImageNet-normalised, ``s = info.input_size`` or another multiple of the patch size.

        Returns:
            float ``[B, h, w, C]`` on the encoder's device.
        """
        side = pixels.shape[-1] // self.patch_size

        def encode() -> Tensor:
            with autocast(self.device, self._dtype):
                hidden = self._model(pixel_values=to_device(pixels, self.device)).last_hidden_state
                return hidden[:, self._prefix_tokens :]

        tokens = in_one_thread(encode, self.device) if self.is_small else encode()
        return tokens.float().unflatten(1, (side, side))


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over the names and values of all weights, independent of the file they were loaded from.

    Memories and prompts store it, so it must not depend on the version of transformers.
    """
    digest = hashlib.sha256()
    for name, value in sorted(_with_stable_names(model.state_dict()), key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


# Transformers 5 renamed weights of DINOv2 and DINOv3. Stored fingerprints use the new names.
_RENAMED = (
    (re.compile(r"^(encoder\.layer\.\d+\.attention)\.attention\.query\."), r"\1.q_proj."),
    (re.compile(r"^(encoder\.layer\.\d+\.attention)\.attention\.key\."), r"\1.k_proj."),
    (re.compile(r"^(encoder\.layer\.\d+\.attention)\.attention\.value\."), r"\1.v_proj."),
    (re.compile(r"^(encoder\.layer\.\d+\.attention)\.output\.dense\."), r"\1.o_proj."),
    (re.compile(r"^(encoder\.layer\.\d+\.mlp)\.weights_out\."), r"\1.down_proj."),
    (re.compile(r"^layer\."), "model.layer."),
)
_GATED = re.compile(r"^(encoder\.layer\.\d+\.mlp)\.weights_in\.(weight|bias)$")
"""Weights of two layers that transformers below 5 stores in one tensor."""


def _with_stable_names(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if gated := _GATED.match(name):
            for part, half in zip(("gate_proj", "up_proj"), value.chunk(2), strict=True):
                yield f"{gated[1]}.{part}.{gated[2]}", half
            continue
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        yield name, value
