"""Cache of targets, keyed by the content of their images, the models and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..crops import CROP_PATCHES
from ..encoder import Encoder
from ..images import READER, digest
from ..presets import Preset, stored_settings
from ..segmenter import Segmenter
from ..targets import Target
from .tensors import TensorCache, content_key

TARGET, CROPS, PROMPT_SCORES = "target", "crops", "prompt-scores"
"""Kinds of cached content, see :func:`nts.cache.content_key`."""


def target_settings(
    encoder: Encoder,
    segmenter: Segmenter,
    preset: Preset,
    prototypes: Tensor | None = None,
    *,
    for_prompts: bool = False,
) -> dict[str, Any]:
    """Everything beside its image that determines a target.

    Args:
        encoder, segmenter: the models.
        preset: only the parts that concern reading images and proposing masks are used.
        prototypes: ``[K, C]``; ignored unless the preset chooses points by them.
        for_prompts: the target holds what scorers need that prompt SAM2.
    """
    proposals = stored_settings(replace(preset, proposals=replace(preset.asked_proposals, prompts_per_chunk=None)))[
        "proposals"
    ]
    if preset.method.tiles:
        proposals["tiles"] = True
    if preset.method.mirrored:
        proposals["mirrored"] = True
    proposals["points_per_side"] = preset.proposals.points_per_side or segmenter.points_per_side
    proposals["iou_threshold"] = segmenter.threshold(preset.proposals)
    guided_by = None if preset.proposals.guidance is None or prototypes is None else digest(prototypes.cpu().numpy())
    return {
        "encoder": encoder.info.fingerprint,
        "encoder_size": encoder.info.input_size,
        "encoder_precision": encoder.precision,
        "segmenter": segmenter.fingerprint,
        "segmenter_size": segmenter.input_size,
        "segmenter_precision": segmenter.precision,
        # Keys contain the bytes of an image file, not its pixels, so they must name the way it is read.
        "reader": READER,
        "exif": preset.exif,
        "antialias": preset.antialias,
        "proposals": proposals,
        "prototypes": guided_by,
        **({"for_prompts": True} if for_prompts else {}),
    }


def target_key(content: str, settings: dict[str, Any]) -> str:
    """Key of a target in a cache.

    Args:
        content: digest of its image: of a file by :func:`nts.images.digest_content`, of an array by
            :func:`nts.images.digest`.
        settings: from :func:`target_settings`.
    """
    return content_key(TARGET, content=content, **settings)


def read_target(cache: TensorCache, key: str) -> Target | None:
    """Read a target; ``None`` if it is not cached."""
    found = cache.get(key)
    if found is None:
        return None
    tensors, header = found
    height, width = header["image_size"].split()
    return Target.from_tensors(tensors, (int(height), int(width)))


def write_target(cache: TensorCache, key: str, target: Target) -> None:
    """Write a target, if the cache is writable."""
    height, width = target.image_size
    cache.put(key, target.tensors, {"image_size": f"{height} {width}"})


_MOST_CLASSES = 256
"""Classes whose scores are kept for an image, beside those of its last run."""


def prompt_scores_key(target: str) -> str:
    """Key of the scores of an image by reference prompts, by the key of its target."""
    return content_key(PROMPT_SCORES, target=target)


def read_prompt_scores(cache: TensorCache, key: str) -> dict[str, Tensor]:
    """Read the scores ``[n]`` of an image by class that are cached, see :class:`nts.prompt_scores.PromptScores`."""
    found = cache.get(key)
    if found is None:
        return {}
    tensors, header = found
    return dict(zip(header["classes"].split(), tensors["scores"], strict=True))


def write_prompt_scores(cache: TensorCache, key: str, scores: Mapping[str, Tensor], used: int) -> None:
    """Write the scores of an image, old and new ones; the last ``used`` are those of this run."""
    names = list(scores)[-(used + _MOST_CLASSES) :]
    cache.put(key, {"scores": torch.stack([scores[name] for name in names])}, {"classes": " ".join(names)})


def crops_key(target: str, encoder: Encoder) -> str:
    """Key of the crop features of an image, by the key of its target."""
    return content_key(CROPS, target=target, encoder=encoder.info.fingerprint, patches=CROP_PATCHES)


def read_crops(cache: TensorCache, key: str) -> dict[int, Tensor]:
    """Read the crop features ``[C]`` of an image by proposal; those that are cached."""
    found = cache.get(key)
    if found is None:
        return {}
    tensors, _ = found
    return dict(zip(tensors["proposals"].tolist(), tensors["features"], strict=True))


def write_crops(cache: TensorCache, key: str, features: Mapping[int, Tensor]) -> None:
    """Write the crop features of an image, old and new ones."""
    proposals = torch.tensor(sorted(features), dtype=torch.int32)
    cache.put(key, {"proposals": proposals, "features": torch.stack([features[each] for each in proposals.tolist()])})
