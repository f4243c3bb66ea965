"""Proposals of an image's tiles and of the whole image, as one target in the pixels of the image.

An object that a tile's border cuts is proposed in parts. A part is dropped where a neighbour or the whole image has the
object entire; parts that agree where their tiles overlap are joined. Of the whole image only proposals count that are
large for a tile: the tiles show the others at more pixels. Everything later (suppression, merging, crops) sees the
proposals of all tiles at once.

Masks are handled as run lengths and as crops in the overlaps of tiles, so that the memory depends on the size of a
tile, and not on that of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import WindowDrawer, boxes_of_masks
from .proposal_masks import DrawnMasks, RunLengthMasks
from .targets import EncodedTarget, Target
from .tiling import Window

LARGE = 0.5
"""Proposals of the whole image count from this longer side on, relative to that of a tile."""
BORDER = 1 / 64
"""Proposals that come this near to an inner border, relative to the tile's side, are cut by it."""
ENTIRE = 0.7
"""A proposal has an object entire if it covers this much of the part, and the part this much of what the tile sees."""
SAME_PART = 0.5
"""Parts with at least this IoU where their tiles overlap belong to one object."""
REPEATED = 0.7
"""Cut proposals of a tile with more than this IoU are taken for one, the one of the highest predicted IoU."""

_BLOCK = 256
"""Side of the blocks in which pixels are compared."""


@dataclass(frozen=True)
class Tile:
    """A tile, and the target that was encoded from it.

    Attributes:
        window: its pixels in the image.
        target: in the pixels of the tile.
    """

    window: Window
    target: Target


def large_proposals(whole: EncodedTarget, tiles: Sequence[Window]) -> EncodedTarget:
    """The target of the whole image with its large proposals only, see :data:`LARGE`."""
    height, width = whole.image_size
    left, top, right, bottom = tiles[0]
    logits = whole.proposals.mask_logits
    boxes = boxes_of_masks(logits > 0)
    sides = (boxes[:, 2:] - boxes[:, :2] + 1) / torch.tensor(logits.shape[:0:-1], device=boxes.device)
    keep = (sides * torch.tensor([width / (right - left), height / (bottom - top)], device=boxes.device)).amax(1)
    keep = (keep >= LARGE) & (logits > 0).flatten(1).any(1)
    own = whole.proposals
    return replace(
        whole,
        proposals=replace(
            own, mask_logits=logits[keep], predicted_iou=own.predicted_iou[keep], points=own.points[keep]
        ),
    )


def join_tiles(whole: Target, logits: Tensor, tiles: Sequence[Tile]) -> Target:
    """One target of an image from those of its tiles.

    Args:
        whole: of the whole image.
        logits: ``[n, S, S]`` of the masks of ``whole``.
        tiles: at least one.
    """
    pieces = [Tile(_all_of(whole.image_size), whole), *tiles]
    proposals, drawer = _Proposals.of(pieces), WindowDrawer(logits.cpu(), whole.image_size)

    def pixels(which: Tensor) -> _Pixels:
        """Masks of proposals of one piece."""
        number, rows = int(proposals.piece[which[0]]), proposals.row[which]
        if number == 0:
            return _Logits(drawer, rows, proposals.boxes[which])
        return _Crops(pieces[number].target.masks, rows, pieces[number].window)

    shared = _shared_by_pieces(pieces, proposals, pixels)
    proposals.keep &= ~_entire_elsewhere(proposals, shared)
    _drop_repeated_parts(pieces, proposals)
    groups = _groups(proposals, shared)
    joined = Tile(_all_of(whole.image_size), _joined(pieces, proposals, groups))
    proposals.keep[[k for group in groups for k in group]] = False
    with_joined = _shared_with_joined(joined.target, len(proposals), pieces, proposals, pixels)
    keep = torch.cat([proposals.keep, torch.ones(len(joined.target), dtype=torch.bool)])
    pieces = [*pieces, joined]
    pairs = [(shared.first, shared.second, shared.pixels), with_joined]
    for first, piece in zip(_Proposals.of(pieces).first, pieces, strict=False):
        i, j = first + piece.target.masks.pairs.long()
        pairs.append((i, j, piece.target.masks.shared.long()))
    return _assembled(pieces, keep, *(torch.cat(columns) for columns in zip(*pairs, strict=True)))


@dataclass
class _Proposals:
    """The ``n`` proposals of all pieces; the whole image is piece 0.

    Attributes:
        piece: int64 ``[n]``.
        row: int64 ``[n]`` among the proposals of the piece.
        boxes: int64 ``[n, 4]`` half-open, in the pixels of the image.
        areas: int64 ``[n]`` in pixels.
        predicted_iou: ``[n]``.
        cut: bool ``[n]``, by an inner border of its tile.
        keep: bool ``[n]``; those that are dropped are marked here.
        first: number of the first proposal of each piece.
    """

    piece: Tensor
    row: Tensor
    boxes: Tensor
    areas: Tensor
    predicted_iou: Tensor
    cut: Tensor
    keep: Tensor
    first: list[int]

    @classmethod
    def of(cls, pieces: Sequence[Tile]) -> _Proposals:
        counts = [len(piece.target) for piece in pieces]
        boxes = [piece.target.masks.full_boxes.long() + _offset(piece.window) for piece in pieces]
        size = pieces[0].target.image_size
        areas = torch.cat([piece.target.masks.areas for piece in pieces]).long()
        return cls(
            piece=torch.repeat_interleave(torch.arange(len(pieces)), torch.tensor(counts)),
            row=torch.cat([torch.arange(count) for count in counts]),
            boxes=torch.cat(boxes),
            areas=areas,
            predicted_iou=torch.cat([piece.target.predicted_iou for piece in pieces]),
            cut=torch.cat([_cut(of, piece.window, size) for of, piece in zip(boxes, pieces, strict=True)]),
            keep=areas > 0,
            first=[0, *torch.tensor(counts).cumsum(0).tolist()],
        )

    def __len__(self) -> int:
        return len(self.row)

    def of_piece(self, number: int) -> Tensor:
        """Kept proposals of a piece."""
        begin, end = self.first[number], self.first[number + 1]
        return begin + self.keep[begin:end].nonzero()[:, 0]


@dataclass(frozen=True)
class _Shared:
    """Pairs of proposals of different pieces that share pixels, ``first < second``.

    Attributes:
        first, second: int64 ``[p]``.
        pixels: int64 ``[p]`` that they share.
        first_inside, second_inside: int64 ``[p]``, pixels of each in what both pieces see.
    """

    first: Tensor
    second: Tensor
    pixels: Tensor
    first_inside: Tensor
    second_inside: Tensor


def _offset(window: Window) -> Tensor:
    return torch.tensor(window[:2]).repeat(2)


def _cut(boxes: Tensor, window: Window, image_size: tuple[int, int]) -> Tensor:
    """Which boxes come near to a border of their tile that is none of the image."""
    left, top, right, bottom = window
    margin_x, margin_y = BORDER * (right - left), BORDER * (bottom - top)
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    if left > 0:
        cut |= boxes[:, 0] < left + margin_x
    if top > 0:
        cut |= boxes[:, 1] < top + margin_y
    if right < image_size[1]:
        cut |= boxes[:, 2] > right - margin_x
    if bottom < image_size[0]:
        cut |= boxes[:, 3] > bottom - margin_y
    return cut


class _Pixels(Protocol):
    """Masks of ``k`` proposals.

    Attributes:
        boxes: int64 ``[k, 4]`` half-open, in the pixels of the image.
    """

    @property
    def boxes(self) -> Tensor: ...

    def inside(self, window: Window, which: Tensor) -> Tensor:
        """Pixels of some of the masks, int64 ``[m]``, in a window of the image: bool ``[m, h w]``."""
        ...


class _Logits:
    """Masks of the whole image, drawn from their logits a window at a time."""

    def __init__(self, drawer: WindowDrawer, rows: Tensor, boxes: Tensor) -> None:
        self._drawer, self._rows, self.boxes = drawer, rows, boxes

    def inside(self, window: Window, which: Tensor) -> Tensor:
        if len(which) == 0:
            left, top, right, bottom = window
            return torch.zeros(0, (bottom - top) * (right - left), dtype=torch.bool)
        return self._drawer.draw(window, self._rows[which]).flatten(1)


class _Crops:
    """Masks of a tile, from their run lengths."""

    def __init__(self, masks: RunLengthMasks, rows: Tensor, window: Window) -> None:
        self._crops, boxes = masks.crops(rows)
        self.boxes = boxes + _offset(window)

    def inside(self, window: Window, which: Tensor) -> Tensor:
        left, top, right, bottom = window
        pixels = torch.zeros(len(which), bottom - top, right - left, dtype=torch.bool)
        for drawn, k, (x1, y1, x2, y2) in zip(pixels, which.tolist(), self.boxes[which].tolist(), strict=True):
            a, b, c, d = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
            drawn[b - top : d - top, a - left : c - left] = self._crops[k][b - y1 : d - y1, a - x1 : c - x1]
        return pixels.flatten(1)


def _shared_by_pieces(pieces: Sequence[Tile], proposals: _Proposals, pixels: Callable[[Tensor], _Pixels]) -> _Shared:
    """Shared pixels of the proposals of different pieces."""
    none = torch.zeros(0, dtype=torch.int64)
    found = [(none, none, none, none, none)]
    for a, b in combinations(range(len(pieces)), 2):
        both = _intersection(pieces[a].window, pieces[b].window)
        if both is None:
            continue
        of_a, of_b = (_reaching(proposals, number, both) for number in (a, b))
        if len(of_a) and len(of_b):
            counts, of_first, of_second = _shared_pixels(pixels(of_a), pixels(of_b), both)
            i, j = counts.nonzero(as_tuple=True)
            found.append((of_a[i], of_b[j], counts[i, j], of_first[i], of_second[j]))
    return _Shared(*(torch.cat(columns) for columns in zip(*found, strict=True)))


def _shared_pixels(first: _Pixels, second: _Pixels, window: Window) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels in a window that masks share, ``[a, b]``, and that they have, ``[a]`` and ``[b]``.

    Blocks of the window are taken one by one, with the masks that reach into them. Counts in a block are exact in
    single precision.
    """
    left, top, right, bottom = window
    shared = torch.zeros(len(first.boxes), len(second.boxes), dtype=torch.int64)
    sizes = [torch.zeros(len(masks.boxes), dtype=torch.int64) for masks in (first, second)]
    for y in range(top, bottom, _BLOCK):
        for x in range(left, right, _BLOCK):
            block = (x, y, min(x + _BLOCK, right), min(y + _BLOCK, bottom))
            i, j = (_reaches(masks.boxes, block).nonzero()[:, 0] for masks in (first, second))
            a, b = first.inside(block, i).float(), second.inside(block, j).float()
            sizes[0][i] += a.sum(1).long()
            sizes[1][j] += b.sum(1).long()
            shared[i[:, None], j] += (a @ b.T).long()
    return shared, sizes[0], sizes[1]


def _reaches(boxes: Tensor, window: Window) -> Tensor:
    """Which boxes have pixels in a window: bool ``[k]``."""
    x1, y1, x2, y2 = boxes.T
    left, top, right, bottom = window
    return (x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top)


def _intersection(a: Window, b: Window) -> Window | None:
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (left, top, right, bottom) if left < right and top < bottom else None


def _reaching(proposals: _Proposals, piece: int, window: Window) -> Tensor:
    """Kept proposals of a piece whose boxes reach into a window."""
    own = proposals.of_piece(piece)
    return own[_reaches(proposals.boxes[own], window)]


def _entire_elsewhere(proposals: _Proposals, shared: _Shared) -> Tensor:
    """Which cut proposals are parts of an object that another piece has entire: bool ``[n]``."""
    found = torch.zeros(len(proposals), dtype=torch.bool)
    both = (
        (shared.first, shared.second, shared.second_inside),
        (shared.second, shared.first, shared.first_inside),
    )
    for part, entire, seen in both:
        is_part = proposals.cut[part] & ~proposals.cut[entire]
        covered = shared.pixels >= ENTIRE * proposals.areas[part]
        found[part[is_part & covered & (shared.pixels >= ENTIRE * seen)]] = True
    return found


def _drop_repeated_parts(pieces: Sequence[Tile], proposals: _Proposals) -> None:
    """Drop cut proposals that repeat a better one of their tile, so that every object is joined once."""
    for first, piece in zip(proposals.first, pieces, strict=False):
        masks, cut = piece.target.masks, proposals.cut & proposals.keep
        i, j = masks.pairs.long()
        shared = masks.shared.long()
        iou = shared / (masks.areas[i].long() + masks.areas[j].long() - shared)
        repeated = (iou > REPEATED) & cut[first + i] & cut[first + j]
        i, j = first + i[repeated], first + j[repeated]
        is_better = proposals.predicted_iou[i] >= proposals.predicted_iou[j]
        better, worse = torch.where(is_better, i, j), torch.where(is_better, j, i)
        for k in proposals.predicted_iou[better].argsort(descending=True, stable=True).tolist():
            if proposals.keep[better[k]]:
                proposals.keep[worse[k]] = False


def _groups(proposals: _Proposals, shared: _Shared) -> list[list[int]]:
    """Parts that belong to one object, at most one of each tile; those that agree best come together first."""
    is_part = proposals.cut & proposals.keep
    union = shared.first_inside + shared.second_inside - shared.pixels
    agreement = shared.pixels / union.clamp(min=1)
    pairs = (is_part[shared.first] & is_part[shared.second] & (agreement >= SAME_PART)).nonzero()[:, 0]
    pairs = pairs[agreement[pairs].argsort(descending=True, stable=True)]
    groups: dict[int, list[int]] = {}
    for i, j in zip(shared.first[pairs].tolist(), shared.second[pairs].tolist(), strict=True):
        a, b = groups.get(i, [i]), groups.get(j, [j])
        if not {int(proposals.piece[k]) for k in a} & {int(proposals.piece[k]) for k in b}:
            groups |= dict.fromkeys([*a, *b], sorted([*a, *b]))
    return list({group[0]: group for group in groups.values()}.values())


def _joined(pieces: Sequence[Tile], proposals: _Proposals, groups: Sequence[Sequence[int]]) -> Target:
    """Proposals that join the parts of every group: masks are united, features and predicted IoU averaged by area."""
    whole = pieces[0].target

    def united(masks: Callable[[Target], DrawnMasks]) -> tuple[list[Tensor], list[Window]]:
        crops, boxes = [], []
        for group in groups:
            of_parts, windows = [], []
            for k in group:
                piece = pieces[int(proposals.piece[k])]
                drawn, box = masks(piece.target).crops(proposals.row[k : k + 1])
                of_parts += drawn
                windows.append((box[0] + _offset(piece.window)).tolist())
            crop, window = _union(of_parts, windows)
            crops.append(crop)
            boxes.append(window)
        return crops, boxes

    def average(column: Callable[[Target], Tensor]) -> Tensor:
        means = []
        for group in groups:
            parts = torch.stack([column(pieces[int(proposals.piece[k])].target)[proposals.row[k]] for k in group])
            weights = proposals.areas[list(group)].to(parts.dtype)
            means.append(weights @ parts / weights.sum())
        return torch.stack(means) if means else column(whole)[:0]

    drawn = DrawnMasks.of_crops(*united(lambda target: target.masks.drawn))
    voted = None if whole.voted is None else DrawnMasks.of_crops(*united(lambda target: _present(target.voted)))
    of_tiles = None
    if whole.of_tiles is not None:
        of_tiles = F.normalize(average(lambda target: target.tile_features), dim=1)
    return Target(
        features=F.normalize(average(lambda target: target.features), dim=1),
        predicted_iou=average(lambda target: target.predicted_iou),
        masks=RunLengthMasks.of_drawn(drawn, whole.image_size),
        voted=voted,
        of_tiles=of_tiles,
    )


def _union(crops: Sequence[Tensor], windows: Sequence[Sequence[int]]) -> tuple[Tensor, Window]:
    """Union of masks that are cut to windows, and the window around it; empty masks do not count."""
    parts = [(crop, window) for crop, window in zip(crops, windows, strict=True) if crop.numel()]
    if not parts:
        return torch.zeros(0, 0, dtype=torch.bool), (0, 0, 0, 0)
    lefts, tops, rights, bottoms = zip(*(window for _, window in parts), strict=True)
    left, top = min(lefts), min(tops)
    union = torch.zeros(max(bottoms) - top, max(rights) - left, dtype=torch.bool)
    for crop, (x1, y1, x2, y2) in parts:
        union[y1 - top : y2 - top, x1 - left : x2 - left] |= crop
    return union, (left, top, max(rights), max(bottoms))


def _shared_with_joined(
    joined: Target,
    first: int,
    pieces: Sequence[Tile],
    proposals: _Proposals,
    pixels: Callable[[Tensor], _Pixels],
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels that kept proposals share with joined ones, which are numbered from ``first`` on."""
    none = torch.zeros(0, dtype=torch.int64)
    found = [(none, none, none)]
    for k in range(len(joined)):
        row = torch.tensor([k])
        left, top, right, bottom = joined.masks.full_boxes[k].tolist()
        window = (left, top, right, bottom)
        own = _Crops(joined.masks, row, _all_of(joined.image_size))
        for number in range(len(pieces)):
            others = _reaching(proposals, number, window)
            if len(others):
                shared, _, _ = _shared_pixels(pixels(others), own, window)
                i = shared[:, 0].nonzero()[:, 0]
                found.append((others[i], torch.full_like(i, first + k), shared[i, 0]))
    i, j, shared = (torch.cat(columns) for columns in zip(*found, strict=True))
    return i, j, shared


def _assembled(pieces: Sequence[Tile], keep: Tensor, first: Tensor, second: Tensor, shared: Tensor) -> Target:
    """Target of the kept proposals of all pieces, with their overlaps."""
    targets = [piece.target for piece in pieces]
    rows = [of_piece.nonzero()[:, 0] for of_piece in keep.split([len(target) for target in targets])]

    def drawn(masks: Callable[[Target], DrawnMasks]) -> DrawnMasks:
        return DrawnMasks.concatenated(
            [masks(piece.target).shifted(of, piece.window[:2]) for piece, of in zip(pieces, rows, strict=True)]
        )

    def column(values: Callable[[Target], Tensor]) -> Tensor:
        return torch.cat([values(target)[of] for target, of in zip(targets, rows, strict=True)])

    number = keep.cumsum(0) - 1
    both = keep[first] & keep[second]
    pairs = number[torch.stack([first[both], second[both]])]
    masks = drawn(lambda target: target.masks.drawn)
    return Target(
        features=column(lambda target: target.features),
        predicted_iou=column(lambda target: target.predicted_iou),
        masks=RunLengthMasks(
            image_size=targets[0].image_size,
            boxes=masks.inclusive_boxes,
            empty=torch.zeros(len(masks.full_boxes), dtype=torch.bool),
            areas=column(lambda target: target.masks.areas),
            pairs=pairs.to(torch.int16 if int(keep.sum()) <= 1 << 15 else torch.int32),
            shared=shared[both].int(),
            **masks.tensors,
        ),
        voted=None if targets[0].voted is None else drawn(lambda target: _present(target.voted)),
        of_tiles=None if targets[0].of_tiles is None else column(lambda target: target.tile_features),
    )


def _all_of(image_size: tuple[int, int]) -> Window:
    height, width = image_size
    return 0, 0, width, height


def _present(voted: DrawnMasks | None) -> DrawnMasks:
    assert voted is not None, "all pieces are encoded with one preset"
    return voted
