"""A DINOv2 whose patch tokens also hold the colours of the patch.

A small encoder trained on few images knows less about photographs than a histogram of their colours does. Features of a
region are means over its tokens, and the mean of histograms is the histogram of the region, so a histogram of every
patch, appended to its token, adds its colours to all features. Colours are counted in cells of intensity and two
opponent colours; the square root makes the products of histograms Bhattacharyya coefficients; a learned projection
reduces their length and weighs them against the other features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ..images import IMAGENET_MEAN, IMAGENET_STD

_STRIDE = 2  # every second pixel is counted, in both directions


class ColourDinov2Config(Dinov2Config):
    """Configuration of :class:`ColourDinov2Model`.

    Args:
        colour_size: length of the projected histogram.
        colour_intensities: cells along the axis of intensity.
        colour_opponents: cells along each of the two axes of opponent colours.
        kwargs: of a DINOv2; ``hidden_size`` does not include the histogram.
    """

    model_type = "dinov2_with_colour"

    def __init__(
        self, colour_size: int = 128, colour_intensities: int = 8, colour_opponents: int = 9, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.colour_size = colour_size
        self.colour_intensities = colour_intensities
        self.colour_opponents = colour_opponents


class ColourHistogram(nn.Module):
    """Square root of the colour histogram of every patch, projected."""

    def __init__(self, config: ColourDinov2Config) -> None:
        super().__init__()
        self._patch: Any = config.patch_size
        self._cells = (config.colour_intensities, config.colour_opponents)
        cells = config.colour_intensities * config.colour_opponents**2
        self.projection = nn.Linear(cells, config.colour_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """ImageNet-normalised pixels ``[B, 3, s, s]`` to ``[B, P, colour_size]``."""
        return self.projection(self.histograms(pixels))

    def histograms(self, pixels: Tensor) -> Tensor:
        """Square roots of the fractions of a patch's pixels in every cell, ``[B, P, cells]``.

        A pixel counts in the two nearest cells along each axis, by its distance to their centres.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            pixels = pixels.float()[:, :, ::_STRIDE, ::_STRIDE]
            intensity, warm, green = _opponents(pixels).unbind(1)
            patch, side = self._patch // _STRIDE, pixels.shape[-1] // (self._patch // _STRIDE)

            def in_patches(values: Tensor) -> Tensor:
                return values.unflatten(2, (side, patch)).unflatten(1, (side, patch)).transpose(2, 3).flatten(3, 4)

            tents = [
                _tents(in_patches(values).flatten(1, 2), low, high, cells)
                for values, low, high, cells in (
                    (intensity, 0.0, 1.0, self._cells[0]),
                    (warm, -0.5, 0.5, self._cells[1]),
                    (green, -0.5, 0.5, self._cells[1]),
                )
            ]
            opponents = (tents[1][..., :, None] * tents[2][..., None, :]).flatten(3)
            counts = tents[0].transpose(2, 3) @ opponents
            return (counts.flatten(2) / patch**2).clamp(min=1e-6).sqrt()


def _opponents(pixels: Tensor) -> Tensor:
    """ImageNet-normalised RGB ``[B, 3, H, W]`` to intensity in ``[0, 1]``, and two opponent colours around 0."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    red, green, blue = (pixels * std + mean).clamp(0, 1).unbind(1)
    return torch.stack([(red + green + blue) / 3, red - blue, green - (red + blue) / 2], 1)


def _tents(values: Tensor, low: float, high: float, cells: int) -> Tensor:
    """Weights of the cells between two bounds for each value, ``[…, cells]``; they sum to 1."""
    at = ((values.clamp(low, high) - low) / (high - low) * (cells - 1))[..., None]
    return (1 - (at - torch.arange(cells, device=values.device)).abs()).clamp(min=0)


class ColourDinov2Model(Dinov2Model):
    """DINOv2 with the projected colour histogram of each patch appended to its token, and zeros to the CLS token."""

    config_class = ColourDinov2Config

    def __init__(self, config: ColourDinov2Config) -> None:
        super().__init__(config)
        self.colours = ColourHistogram(config)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """See ``Dinov2Model``; ``last_hidden_state`` is longer by ``colour_size``."""
        out = super().forward(pixel_values, **kwargs)
        tokens = out.last_hidden_state
        colours = F.pad(self.colours(pixel_values), (0, 0, 1, 0)).to(tokens.dtype)
        out.last_hidden_state = torch.cat([tokens, colours], 2)
        return out
