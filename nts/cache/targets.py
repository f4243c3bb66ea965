"""Targets kept by the content of their images, the models and the choices that they are made with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from ..encoder import Encoder
from ..images import READER, digest
from ..presets import Preset, stored_settings
from ..segmenter import Segmenter
from ..targets import Target
from .tensors import TensorCache, content_key

TARGET = "target"
"""The kind of what is kept of targets, see :func:`nts.cache.content_key`."""


def target_settings(
    encoder: Encoder, segmenter: Segmenter, preset: Preset, prototypes: Tensor | None = None
) -> dict[str, Any]:
    """All that a target is made of beside its image, for the names of many.

    Args:
        encoder, segmenter: the models.
        preset: how images are read and masks proposed; how they are matched is no part of it.
        prototypes: ``[K, C]``, where prompts are led by them; no part of the settings where they are not.
    """
    proposals = stored_settings(replace(preset, proposals=replace(preset.proposals, prompts_per_chunk=None)))[
        "proposals"
    ]
    proposals["points_per_side"] = preset.proposals.points_per_side or segmenter.points_per_side
    led_by = None if preset.proposals.guidance is None or prototypes is None else digest(prototypes.cpu().numpy())
    return {
        "encoder": encoder.info.fingerprint,
        "encoder_size": encoder.info.input_size,
        "encoder_precision": encoder.precision,
        "segmenter": segmenter.fingerprint,
        "segmenter_size": segmenter.input_size,
        "segmenter_precision": segmenter.precision,
        # Images are named by the bytes of their files, which stay the same when they are read differently.
        "reader": READER,
        "exif": preset.exif,
        "antialias": preset.antialias,
        "proposals": proposals,
        "prototypes": led_by,
    }


def target_key(content: str, settings: dict[str, Any]) -> str:
    """Names a target.

    Args:
        content: names its image: a file by :func:`nts.images.digest_content`, an array by :func:`nts.images.digest`.
        settings: by :func:`target_settings`.
    """
    return content_key(TARGET, content=content, **settings)


def read_target(cache: TensorCache, key: str) -> Target | None:
    """A target that was kept; ``None`` if it was not."""
    kept = cache.get(key)
    if kept is None:
        return None
    tensors, header = kept
    height, width = header["image_size"].split()
    return Target(image_size=(int(height), int(width)), **tensors)


def keep_target(cache: TensorCache, key: str, target: Target) -> None:
    """Keep a target, if the cache can."""
    height, width = target.image_size
    cache.put(key, target.tensors, {"image_size": f"{height} {width}"})
