"""Tiles of large images: where the models see an image whole, small objects vanish.

SAM2 and the encoder see every image at one size. An object of 30 pixels in an image of 4000 is a pixel or two of a mask
there. Overlapping tiles show it larger; the whole image is seen as well, so that large objects stay whole. How many
tiles an image needs follows from the sizes of the references on their own images. Proposals of tiles and of the whole
image are joined by :mod:`nts.tile_joining`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

OVERLAP = 0.25
"""Part of a tile's side that it shares with its neighbour."""
WANTED_SIDE = 0.1
"""Side of a small object that tiles are chosen for, relative to the tile."""
SMALL_QUANTILE = 0.25
"""Tiles are chosen for this quantile of the references' sides."""
LEAST_GAIN = 1.5
"""Tiles must show objects at least this much larger than the whole image does."""
MOST_TILES = 256
"""Tiles of an image that are chosen automatically; a person may ask for more."""

Window = tuple[int, int, int, int]
"""``left, top, right, bottom`` in pixels, half-open."""


@dataclass(frozen=True)
class ObjectSize:
    """Size of a reference on its image, in pixels.

    Attributes:
        side: root of the area of its box.
        image_side: longer side of the image.
    """

    side: float
    image_side: float


@dataclass(frozen=True)
class TiledImage:
    """An image and its tiles.

    Attributes:
        image: uint8 ``[H, W, 3]``.
        windows: of the tiles, row by row.
    """

    image: np.ndarray
    windows: Sequence[Window]

    @property
    def image_size(self) -> tuple[int, int]:
        """``(H, W)`` in pixels."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True)
class Tiling:
    """Grid and overlap of the tiles of images.

    Attributes:
        grid: ``"auto"`` chooses by the sizes of image and references, ``"off"`` shows images whole only;
            or ``(rows, columns)``.
        overlap: of neighbouring tiles, relative to their side, in ``[0, 0.5]``.

    Raises:
        ValueError: if a value is none of these.
    """

    grid: Literal["auto", "off"] | tuple[int, int] = "auto"
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if not isinstance(self.grid, str):
            rows, columns = self.grid
            if min(rows, columns) < 1:
                raise ValueError(f"a grid of tiles has at least one row and one column, got {self.grid}")
        elif self.grid not in ("auto", "off"):
            raise ValueError(f"tiles are 'auto', 'off', or rows and columns, got {self.grid!r}")
        if not 0 <= self.overlap <= 0.5:
            raise ValueError(f"tiles overlap by 0 to 0.5 of their side, got {self.overlap}")

    @classmethod
    def parse(cls, words: str | Sequence[int]) -> Tiling:
        """Tiling of ``"auto"``, ``"off"``, ``"3x4"`` (rows x columns), or ``(3, 4)``; raises ``ValueError``."""
        if not isinstance(words, str):
            if len(words) != 2:
                raise ValueError(f"tiles are rows and columns, got {words!r}")
            return cls((int(words[0]), int(words[1])))
        if found := re.fullmatch(r"\s*(\d+)\s*[x×*,]\s*(\d+)\s*", words):
            return cls((int(found[1]), int(found[2])))
        return cls(words)  # type: ignore[arg-type]  # checked there

    def __str__(self) -> str:
        return self.grid if isinstance(self.grid, str) else f"{self.grid[0]}x{self.grid[1]}"

    def makes_tiles(self, references: Sequence[ObjectSize]) -> bool:
        """Whether any image may be cut, see :meth:`grid_for`."""
        return not isinstance(self.grid, str) or (self.grid == "auto" and len(references) > 0)

    def grid_for(
        self, image_size: tuple[int, int], references: Sequence[ObjectSize], input_size: int
    ) -> tuple[int, int]:
        """Rows and columns of tiles for an image; ``(1, 1)`` for none.

        Args:
            image_size: ``(H, W)`` in pixels.
            references: sizes of the references, as far as they are known; without any, ``"auto"`` makes no tiles.
            input_size: side of SAM2's input. Tiles of far fewer pixels than that would show nothing more.
        """
        if not isinstance(self.grid, str):
            return self.grid
        if not self.makes_tiles(references):
            return 1, 1
        longer = max(image_size)
        # Where images are smaller than those of the references, objects are taken to be smaller as well.
        sides = [each.side * min(1.0, longer / each.image_side) for each in references]
        # In steps, so that another reference seldom means other tiles, and encoding everything again.
        wanted = 2 ** (round(2 * np.log2(float(np.quantile(sides, SMALL_QUANTILE)) / WANTED_SIDE)) / 2)
        tile = max(wanted, float(input_size))
        if longer < LEAST_GAIN * tile:
            return 1, 1
        while True:
            rows, columns = (_count(side, tile, self.overlap) for side in image_size)
            if rows * columns <= MOST_TILES:
                return rows, columns
            tile *= 1.1


def windows(image_size: tuple[int, int], grid: tuple[int, int], overlap: float = OVERLAP) -> list[Window]:
    """Tiles of an image, row by row.

    Args:
        image_size: ``(H, W)`` in pixels.
        grid: ``(rows, columns)``; no more than there are pixels.
        overlap: see :class:`Tiling`.
    """
    spans = [_spans(side, min(count, side), overlap) for side, count in zip(image_size, grid, strict=True)]
    return [(left, top, right, bottom) for top, bottom in spans[0] for left, right in spans[1]]


def _count(side: int, tile: float, overlap: float) -> int:
    """Number of tiles of this side that cover a side of an image."""
    return max(1, ceil((side / tile - overlap) / (1 - overlap)))


def _spans(side: int, count: int, overlap: float) -> list[tuple[int, int]]:
    """Begin and end of ``count`` equal tiles that cover a side."""
    length = min(side, ceil(side / (count - (count - 1) * overlap)))
    begins = [0] if count == 1 else [round(i * (side - length) / (count - 1)) for i in range(count)]
    return [(begin, begin + length) for begin in begins]
