"""Encode negatives: proposals off all labels of reference images, background images, and rejected objects.

SAM2 runs once over every reference image. The same pass tells how well it proposes the references themselves, which the
calibration needs, see :mod:`nts.calibration`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .cache import TensorCache, content_key
from .crops import embed_crops
from .encoder import Encoder
from .images import digest, normalise, stretch
from .memory import Negative, NegativeSource
from .negatives import off_label_proposals, off_labels
from .presets import Preset
from .proposal_masks import DrawnMasks
from .references import Reference
from .segmenter import Segmenter
from .segmenter.scales import propose_at_scales

NEGATIVES, PROPOSED = "negatives", "proposed"
"""Kinds of cached content, see :func:`nts.cache.content_key`."""

_SIDE = 256
"""Labels and proposals are compared at this many pixels squared."""


@dataclass(frozen=True)
class _Looked:
    """Result for an image.

    Attributes:
        prototypes: float ``[N, C]`` of the negatives.
        predicted_iou: float ``[N]`` of their proposals.
        found: float ``[m, 2]``, predicted IoU and IoU of the best proposal for each label; NaN and 0 if there is none.
    """

    prototypes: Tensor
    predicted_iou: Tensor
    found: Tensor


@dataclass(frozen=True)
class _Proposed:
    """Proposals of a reference image, or of a background image.

    Attributes:
        masks: at the size of the image.
        compared: at the side of the comparison with labels.
        predicted_iou: float ``[n]``.
    """

    masks: DrawnMasks
    compared: DrawnMasks
    predicted_iou: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, as they are stored."""
        tensors = {"predicted_iou": self.predicted_iou}
        for prefix, drawn in ((_MASKS, self.masks), (_COMPARED, self.compared)):
            tensors |= {f"{prefix}{name}": tensor for name, tensor in drawn.tensors.items()}
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> _Proposed:
        """Inverse of :attr:`tensors`."""
        masks, compared = (
            DrawnMasks(**{n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)})
            for prefix in (_MASKS, _COMPARED)
        )
        return cls(masks, compared, tensors["predicted_iou"])


_MASKS, _COMPARED = "masks_", "compared_"


class NegativeEncoder:
    """Collects the negatives of images, one image at a time.

    Args:
        encoder: that of the references.
        segmenter: proposes what may be a negative.
        preset: how masks are proposed.
        cache: for the negatives of images.

    Attributes:
        negatives: of all images so far.
    """

    def __init__(
        self, encoder: Encoder, segmenter: Segmenter, preset: Preset, cache: TensorCache | None = None
    ) -> None:
        self._encoder, self._segmenter, self._cache = encoder, segmenter, cache
        # Guidance by prototypes needs prototypes, and voters are for outlines.
        self._proposals = replace(preset.proposals, guidance=None)
        self.negatives: list[Negative] = []

    def add_reference_image(
        self,
        references: Sequence[Reference],
        labelled: Sequence[np.ndarray] = (),
        others: Sequence[np.ndarray] = (),
        marked: Sequence[np.ndarray] = (),
        *,
        complete: bool = False,
    ) -> list[Reference]:
        """Look for negatives in the image of some references.

        Points and strokes, of references or in ``marked``, leave the extent of their objects open. No proposal that
        holds a pixel of them becomes a negative; but one on another part of the object may, so nothing in the image is
        sure, even if every object is labelled.

        Args:
            references: all of one image, at least one.
            labelled: bool ``[H, W]`` each, masks of further labelled objects of the classes, not empty.
            others: the same of other classes; those that lie on no label of the classes are negatives themselves.
            marked: the same of points and strokes on further objects of the classes.
            complete: every object of the classes is labelled, so that nothing else can be one.

        Returns:
            the references with their best proposals, except for points and strokes.
        """
        first = references[0]
        outlined = [reference for reference in references if not reference.is_sparse]
        marks = [*(reference.mask for reference in references if reference.is_sparse), *marked]
        of_classes = [*(reference.mask for reference in outlined), *labelled]
        looked = self._look(first.image, [*of_classes, *others], marks)
        self._add(looked, "reference image", complete and not marks, first.sample_id, first.file)
        # A wren that is labelled as a bird too, or its head, is no negative of wrens.
        apart = _apart(others, of_classes, marks)
        prototypes = self._embed_labels(first.image, [others[row] for row in apart])
        # They count as SAM2 would propose them in a target; what it does not propose would never be found.
        found = looked.found[len(of_classes) :][apart].nan_to_num(0)
        of_others = _Looked(prototypes, found[:, 0], found)
        self._add(of_others, "other class", True, first.sample_id, first.file)
        best = iter(looked.found.tolist())
        return [each if each.is_sparse else _with_proposal(each, *next(best)) for each in references]

    def add_background_image(self, image: np.ndarray, sample_id: str = "", file: str = "") -> None:
        """Take every proposal of an image that shows no class, uint8 ``[H, W, 3]``, as a negative."""
        self._add(self._look(image, []), "background image", True, sample_id, file)

    def add_rejected(self, references: Sequence[Reference]) -> None:
        """Take objects of one image as negatives, such as predictions that a person has rejected."""
        prototypes = self._embed_labels(references[0].image, [reference.mask for reference in references])
        for reference, prototype in zip(references, prototypes, strict=True):
            self.negatives.append(
                Negative(prototype, "rejected", True, reference.sample_id, reference.label_id, reference.file)
            )

    def _add(self, looked: _Looked, source: NegativeSource, sure: bool, sample_id: str, file: str) -> None:
        for prototype, predicted in zip(looked.prototypes, looked.predicted_iou.tolist(), strict=True):
            self.negatives.append(Negative(prototype, source, sure, sample_id, "", file, predicted))

    def _embed_labels(self, image: np.ndarray, masks: Sequence[np.ndarray]) -> Tensor:
        crops, boxes = _cropped(masks)
        return embed_crops(image, crops, boxes, self._encoder)

    def _look(self, image: np.ndarray, masks: Sequence[np.ndarray], marks: Sequence[np.ndarray] = ()) -> _Looked:
        key = None
        if self._cache is not None:
            key = self._key(image, masks, marks)
            if (cached := self._cache.get(key)) is not None:
                tensors, _ = cached
                return _Looked(tensors["prototypes"], tensors["predicted_iou"], tensors["found"])
        looked = self._compare(image, masks, marks)
        if self._cache is not None and key is not None:
            self._cache.put(key, vars(looked))
        return looked

    def _compare(self, image: np.ndarray, masks: Sequence[np.ndarray], marks: Sequence[np.ndarray]) -> _Looked:
        proposed = self._propose(image)
        drawn, predicted_iou = proposed.compared.filled((_SIDE, _SIDE)), proposed.predicted_iou
        labels = _stacked(masks)
        chosen = off_label_proposals(drawn, predicted_iou, labels, _joined(marks))
        crops, boxes = proposed.masks.crops(chosen)
        seen = [row for row, crop in enumerate(crops) if crop.numel()]
        return _Looked(
            embed_crops(image, [crops[row] for row in seen], boxes[seen], self._encoder),
            predicted_iou[chosen[seen]],
            best_proposals(drawn, predicted_iou, labels),
        )

    def _propose(self, image: np.ndarray) -> _Proposed:
        """The proposals of an image; cached for themselves, since its labels may change."""
        key = None
        if self._cache is not None:
            key = content_key(PROPOSED, image=digest(image), **self._proposal_settings())
            if (cached := self._cache.get(key)) is not None:
                return _Proposed.from_tensors(cached[0])
        segmenter = self._segmenter
        pixels = normalise(stretch(image, segmenter.input_size))
        embedding = segmenter.embed(pixels, add_no_mem_embed=self._proposals.add_no_mem_embed)
        proposals = propose_at_scales(segmenter, pixels, embedding, self._proposals)
        proposed = _Proposed(
            DrawnMasks.of_logits(proposals.mask_logits, (image.shape[0], image.shape[1])),
            DrawnMasks.of_logits(proposals.mask_logits, (_SIDE, _SIDE)),
            proposals.predicted_iou.float().cpu(),
        )
        if self._cache is not None and key is not None:
            self._cache.put(key, proposed.tensors)
        return proposed

    def _key(self, image: np.ndarray, masks: Sequence[np.ndarray], marks: Sequence[np.ndarray]) -> str:
        return content_key(
            NEGATIVES,
            image=digest(image),
            masks=[digest(np.packbits(mask)) for mask in masks],
            marks=[digest(np.packbits(mask)) for mask in marks],
            encoder=self._encoder.info.fingerprint,
            encoder_precision=self._encoder.precision,
            **self._proposal_settings(),
        )

    def _proposal_settings(self) -> dict[str, Any]:
        segmenter = self._segmenter
        return {
            "segmenter": segmenter.fingerprint,
            "segmenter_precision": segmenter.precision,
            "points": self._proposals.points_per_side or segmenter.points_per_side,
            "iou_threshold": segmenter.threshold(self._proposals),
            "add_no_mem_embed": self._proposals.add_no_mem_embed,
            **({"connected": True} if self._proposals.connected else {}),
            **({"scales": self._proposals.scales} if self._proposals.scales else {}),
        }


def _with_proposal(reference: Reference, predicted_iou: float, iou: float) -> Reference:
    return replace(reference, predicted_iou=predicted_iou if iou > 0 else None, proposal_iou=iou)


def best_proposals(masks: Tensor, predicted_iou: Tensor, labelled: Tensor) -> Tensor:
    """Predicted IoU and IoU of the proposal that overlaps each label most.

    Args:
        masks: bool ``[n, H, W]``, proposals.
        predicted_iou: ``[n]``.
        labelled: bool ``[m, H, W]``.

    Returns:
        float ``[m, 2]``; NaN and 0 for a label that no proposal overlaps.
    """
    if len(masks) == 0 or len(labelled) == 0:
        return torch.tensor([[torch.nan, 0.0]]).repeat(len(labelled), 1)
    flat, marked = masks.flatten(1).float(), labelled.flatten(1).float()
    shared = marked @ flat.T
    iou, best = (shared / (marked.sum(1)[:, None] + flat.sum(1) - shared).clamp(min=1)).max(1)
    predicted = torch.where(iou > 0, predicted_iou.float()[best], torch.nan)
    return torch.stack([predicted, iou], 1)


def _apart(others: Sequence[np.ndarray], labelled: Sequence[np.ndarray], marks: Sequence[np.ndarray]) -> list[int]:
    """Indices of the other labels that lie on no label and hold no mark."""
    masks = _stacked(others)
    apart = off_labels(masks, _stacked(labelled)) & ~(masks & _joined(marks)).flatten(1).any(1)
    return apart.nonzero()[:, 0].tolist()


def _stacked(masks: Sequence[np.ndarray]) -> Tensor:
    """Masks ``[H, W]`` at the side of the comparison; one that would vanish keeps every pixel that it touches."""
    covers = [_cover(mask) for mask in masks]
    drawn = [cover >= 0.5 if (cover >= 0.5).any() else cover > 0 for cover in covers]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, _SIDE, _SIDE, dtype=torch.bool)


def _joined(marks: Sequence[np.ndarray]) -> Tensor:
    """Every pixel that some of the marks ``[H, W]`` touch, at the side of the comparison."""
    touched = np.zeros((_SIDE, _SIDE), bool)
    for mark in marks:
        touched |= _cover(mark) > 0
    return torch.from_numpy(touched)


def _cover(mask: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize((_SIDE, _SIDE), Image.Resampling.BOX))


def _cropped(masks: Sequence[np.ndarray]) -> tuple[list[Tensor], Tensor]:
    """Masks of a whole image, cut to their half-open boxes."""
    crops, boxes = [], []
    for mask in masks:
        ys, xs = mask.nonzero()
        x1, y1, x2, y2 = int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1
        crops.append(torch.from_numpy(mask[y1:y2, x1:x2].astype(bool)))
        boxes.append((x1, y1, x2, y2))
    return crops, torch.tensor(boxes).reshape(-1, 4)
