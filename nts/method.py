"""Parts of the method that go beyond the paper, each with a switch.

The parts, in the order in which an image meets them:

* ``similarity``: a soft maximum over the references of a class in place of their mean, :mod:`nts.exemplars`;
* ``rank``: the predicted IoU in rank and confidence, :mod:`nts.confidence`;
* ``crops`` or ``tiles``: the features of proposals at the scale of the references, :mod:`nts.crops`,
  :mod:`nts.tiles`;
* ``negatives``: what is of no class, :mod:`nts.negatives`;
* ``transductive``: confident predictions as further references, :mod:`nts.transduction`;
* ``merging``: soft merging, as published, or graph diffusion, :mod:`nts.merging`;
* ``consensus``: outlines voted by all masks of an object, :mod:`nts.consensus`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

Similarity = Literal["mean", "soft-maximum"]
Rank = Literal["predicted-iou", "combined"]
Merging = Literal["soft", "diffusion"]


@dataclass(frozen=True)
class Method:
    """Switches of the parts; the defaults are the published method.

    Attributes:
        similarity: ``"mean"``: cosine to the mean of a class's references, as published. ``"soft-maximum"``: over its
            references, each seen in its crop and in its whole image.
        rank: order of NMS and merging. ``"predicted-iou"``: as published, with the similarity alone as confidence.
            ``"combined"``: predicted IoU and similarity decide both.
        crops: embed the surviving instances again, from crops as the references' are, and match them again.
        survivors: number of instances that are embedded again; more, if more score nearly as high as the best.
        tiles: take the features of proposals from four overlapping tiles of the image. They are stored with the image,
            for any memory; crops are more accurate, but depend on the survivors.
        negatives: lower the confidence of instances that resemble what is of no class.
        transductive: after all images, add confident predictions as references, and match all images again. For jobs
            over a view: a single image has no others.
        merging: ``"soft"`` as published, or ``"diffusion"`` over the graph of overlaps.
        consensus: outlines by vote of all masks that SAM2 proposes for an object.
        mirrored: further votes from the mirrored image, at the cost of another pass of SAM2.

    Raises:
        ValueError: if a value is unknown, or parts exclude each other.
    """

    similarity: Similarity = "mean"
    rank: Rank = "predicted-iou"
    crops: bool = False
    survivors: int = 12
    tiles: bool = False
    negatives: bool = False
    transductive: bool = False
    merging: Merging = "soft"
    consensus: bool = False
    mirrored: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("similarity", Similarity), ("rank", Rank), ("merging", Merging)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")
        if self.survivors < 1:
            raise ValueError(f"survivors must be at least 1, got {self.survivors}")
        if self.crops and self.tiles:
            raise ValueError("crops and tiles exclude each other: both give proposals their features")
        if self.mirrored and not self.consensus:
            raise ValueError("mirrored adds voters to the consensus: switch consensus on")

    def without(self, *parts: str) -> Method:
        """The method with some parts as published.

        Raises:
            ValueError: if there is no such part.
        """
        published = Method()
        for part in parts:
            if part not in PARTS:
                raise ValueError(f"there is no part {part!r}; there are {', '.join(PARTS)}")
        changes = {part: getattr(published, part) for part in parts}
        if "consensus" in parts:
            changes["mirrored"] = False
        return replace(self, **changes)


PARTS = tuple(field.name for field in fields(Method) if field.name != "survivors")
"""Names of the switches."""

PUBLISHED = Method()
"""The published method: every part as in the paper."""
