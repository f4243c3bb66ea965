"""DINOv2: from pixels to patch tokens."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor
from transformers import Dinov2Model

from .devices import autocast
from .memory import EncoderInfo


class Encoder:
    """A loaded DINOv2.

    Attributes:
        info: name, fingerprint of the weights, input size and token length.
        grid: ``(h, w)`` patches of an input.
        device: where it runs.
        precision: that it computes in, as torch calls it.
    """

    def __init__(self, model: Dinov2Model, name: str, device: torch.device, dtype: torch.dtype) -> None:
        config = model.config
        # DINOv2's inputs are square; the configuration's type allows for others.
        size, patch = int(config.image_size), int(config.patch_size)  # type: ignore[arg-type]
        side = size // patch
        self.info = EncoderInfo(name, fingerprint(model), size, config.hidden_size)
        self.grid = (side, side)
        self.device = device
        self._dtype = dtype
        self.precision = str(dtype).removeprefix("torch.")
        self._model = model.float().to(device).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        """Patch tokens after the final LayerNorm (``x_norm_patchtokens`` of the official code), not normalised.

        Args:
            pixels: ``[B, 3, s, s]`` ImageNet-normalised, ``s = info.input_size``.

        Returns:
            float ``[B, h, w, C]`` on the encoder's device.
        """
        with autocast(self.device, self._dtype):
            tokens = self._model(pixel_values=pixels.to(self.device)).last_hidden_state[:, 1:]
        return tokens.float().unflatten(1, self.grid)


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over the names and values of all weights: equal for equal models, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
