"""What the two frozen models make of an image, made once: neither changes while a prompt is trained."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..encoder import Encoder
from ..images import digest, prepare_target
from ..segmenter import ImageEmbedding, Segmenter

DISK_BUDGET = 20 << 30
MEMORY_BUDGET = 2 << 30


@dataclass(frozen=True)
class ImageFeatures:
    """One image, seen by both models, in half precision.

    Attributes:
        tokens: ``[P, C]``, DINOv2's patch tokens of the whole image.
        embedding: SAM2's, with its "no memory" embedding, which the decoder learned image prompts with.
    """

    tokens: Tensor
    embedding: ImageEmbedding

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        embedding = self.embedding
        return sum(x.nbytes for x in (self.tokens, embedding.features, *embedding.high_resolution))


class FeatureStore:
    """Features of images, computed when they are first asked for and kept, in memory and on disk, within two budgets.

    What does not fit is computed again. Files carry a hash of the image's pixels and of both models in their names: a
    folder can be shared by runs, and by processes.

    Args:
        encoder: DINOv2.
        segmenter: SAM2.
        folder: of the files; nothing is written without one.
        disk_budget: bytes of files in the folder at most.
        memory_budget: bytes in memory at most.
    """

    def __init__(
        self,
        encoder: Encoder,
        segmenter: Segmenter,
        *,
        folder: Path | None = None,
        disk_budget: int = DISK_BUDGET,
        memory_budget: int = MEMORY_BUDGET,
    ) -> None:
        self.encoder, self.segmenter = encoder, segmenter
        self._folder = folder
        self._disk_left = disk_budget
        self._memory_left = memory_budget
        self._kept: OrderedDict[Hashable, ImageFeatures] = OrderedDict()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._disk_left -= sum(file.stat().st_size for file in folder.glob("*.safetensors"))

    def get(self, key: Hashable, read: Callable[[], np.ndarray], *, flipped: bool = False) -> ImageFeatures:
        """Features of an image.

        Args:
            key: names the image while this store lives.
            read: gives the image, uint8 ``[H, W, 3]``, if it is needed.
            flipped: of the image's mirror.
        """
        place = (key, flipped)
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        image = read()
        features = self._read_or_compute(image[:, ::-1].copy() if flipped else image)
        self._memory_left -= features.nbytes
        self._kept[place] = features
        while self._memory_left < 0 and len(self._kept) > 1:
            _, oldest = self._kept.popitem(last=False)
            self._memory_left += oldest.nbytes
        return features

    def _read_or_compute(self, image: np.ndarray) -> ImageFeatures:
        path = None if self._folder is None else self._folder / f"{self._name(image)}.safetensors"
        if path is not None and path.is_file():
            stored = load_file(path)
            tokens, features = stored.pop("tokens"), stored.pop("features")
            return ImageFeatures(tokens, ImageEmbedding(features, tuple(stored[name] for name in sorted(stored))))
        computed = self._compute(image)
        if path is not None and self._disk_left >= computed.nbytes:
            self._disk_left -= computed.nbytes
            levels = {f"level{k}": level for k, level in enumerate(computed.embedding.high_resolution)}
            partial = path.with_suffix(f".{os.getpid()}.partial")
            save_file({"tokens": computed.tokens, "features": computed.embedding.features, **levels}, partial)
            os.replace(partial, path)
        return computed

    def _compute(self, image: np.ndarray) -> ImageFeatures:
        encoder_input, segmenter_input = prepare_target(image, self.encoder.info.input_size, self.segmenter.input_size)
        tokens = self.encoder.encode(encoder_input[None])[0].flatten(0, 1)
        embedding = self.segmenter.embed(segmenter_input)
        # Clones, for what inference mode made cannot take part in training.
        half = [
            x.to("cpu", torch.float16).clone(memory_format=torch.contiguous_format)
            for x in (tokens, embedding.features, *embedding.high_resolution)
        ]
        return ImageFeatures(half[0], ImageEmbedding(half[1], tuple(half[2:])))

    def _name(self, image: np.ndarray) -> str:
        models = f"{self.encoder.info.fingerprint}{self.segmenter.fingerprint}"
        return f"{digest(image)}-{hashlib.blake2b(models.encode(), digest_size=8).hexdigest()}"


def stack(features: Sequence[ImageFeatures], device: torch.device) -> tuple[Tensor, ImageEmbedding]:
    """Features of several images as batches in single precision: tokens ``[B, P, C]``, and their embeddings."""

    def batch(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors)).to(device, torch.float32)

    tokens = batch([of.tokens[None] for of in features])
    levels = zip(*(of.embedding.high_resolution for of in features), strict=True)
    embedding = ImageEmbedding(
        batch([of.embedding.features for of in features]), tuple(batch(level) for level in levels)
    )
    return tokens, embedding
