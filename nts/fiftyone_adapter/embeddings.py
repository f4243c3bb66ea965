"""Embeddings of images and patches by the encoder, for ``compute_embeddings`` and ``compute_patch_embeddings``."""

from __future__ import annotations

from collections.abc import Iterable

import fiftyone.core.models as fom
import numpy as np
import torch
import torch.nn.functional as F

from ..encoder import Encoder
from ..images import normalise, stretch
from ..utils.devices import halving
from .errors import InputError


class EmbeddingModel(fom.EmbeddingsMixin, fom.SamplesMixin, fom.Model):
    """Base of the FiftyOne models: images in, embeddings out, by an ``encoder``.

    An embedding is the mean of the image's patch tokens, normalised to length 1: the class prototype (paper, Eq. 1 and
    2) of a single reference that fills its image. For patches that are comparable with prototypes of boxes, give
    ``compute_patch_embeddings`` the references' margin: ``force_square=True, alpha=0.2``.
    """

    encoder: Encoder

    @property
    def media_type(self) -> str:
        return "image"

    @property
    def transforms(self) -> None:
        return None

    @property
    def preprocess(self) -> bool:
        return False

    @property
    def has_embeddings(self) -> bool:
        return True

    def embed(self, image: np.ndarray) -> np.ndarray:
        """Embedding of an image, uint8 ``[H, W, 3]``: float32 ``[C]``."""
        return self.embed_all([image])[0]

    def embed_all(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Embeddings of images of any sizes, each uint8 ``[H, W, 3]``: float32 ``[n, C]``."""
        pixels = torch.stack([normalise(stretch(image, self.encoder.info.input_size)) for image in images])
        tokens = halving(self.encoder.encode, pixels)
        return F.normalize(tokens.flatten(1, 2).mean(1), dim=1).cpu().numpy()


class EncoderModel(EmbeddingModel):
    """Encoder alone, for embeddings.

    Args:
        encoder: a loaded encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def ragged_batches(self) -> bool:
        return False  # images are resized to one size here, so FiftyOne may pass batches of any

    @property
    def needs_fields(self) -> dict[str, str]:
        """Refuse ``apply_model``, which alone asks for them, before its first image: it skips errors of ``predict``."""
        raise InputError(
            "this model has no reference memory, so it can compute embeddings but not segment. Pass a memory: "
            "foz.load_zoo_model(name, memory=...)"
        )
