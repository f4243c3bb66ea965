"""The engine on a GPU: is it right there, how fast is it, and where does the time go; in one run of a few minutes.

    python -m benchmarks.gpu --minutes 8                DINOv2-large and SAM2.1-large, random weights, 1024 prompts
    python -m benchmarks.gpu --device cpu --small       every stage with the small pair, in seconds

The stages run in the order of their value. The report (JSON, Markdown, plot) is written after each, so a run that is
cut off keeps what it has measured. A stage that fails leaves its traceback in the report; one that would begin after
the time is left out. FiftyOne is not needed: :func:`road` runs the loop of ``auto_segment_view`` (prefetched files,
models, a thread that stores and encodes the results), with a writer that throws them away.

As in :mod:`benchmarks.speed`, half of the prompts of random weights exceed the threshold, and NMS is disabled: their
masks are noise over the whole image, the worst case for everything after the decoder.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import (
    RESULTS,
    Pair,
    PeakMemory,
    draw_images,
    draw_references,
    markdown_table,
    new_figure,
    random_pair,
    shown,
    small_pair,
    spread_predicted_iou,
    surroundings,
    synchronise,
    time_call,
)
from benchmarks.speed import as_published, compare, equality, jpeg_file
from nts import proposal_masks, targets
from nts.building import build_memory
from nts.cache import TensorCache
from nts.cached_segmenter import CachedSegmenter, Segmented
from nts.encoder import Encoder
from nts.images import PreparedImage
from nts.instances import Instances
from nts.memory import MemoryBank
from nts.metrics.coco import coco_results
from nts.pipeline import ReferenceSegmenter, encode_image
from nts.presets import DEFAULT, FAST, PAPER, Preset
from nts.proposal_masks import DrawnMasks
from nts.references import Reference
from nts.segmenter import ProposalConfig, Segmenter
from nts.targets import EncodedTarget
from nts.utils.devices import resolve_device, resolve_precision
from nts.utils.prefetch import BackgroundWriter, prefetch_together
from reference_implementation.published_pipeline import Constants

GOALS = {"exact": 50, "fast": 100}
"""Images per second that are aimed at on an H200, with both large models in half precision."""
SAME_IOU = 0.999
"""IoU of the masks of CPU and GPU in single precision."""

DINO, SAM_ENCODER, SCORE, DRAW, POOL, OVERLAPS, CROPS, MATCH = (
    "DINOv2",
    "SAM2 encoder",
    "decoder: score",
    "decoder: draw",
    "pool",
    "overlaps",
    "draw instances",
    "match, with the three above",
)


@dataclass
class Bench:
    """State shared by the stages. Models are loaded when a stage asks for them.

    Attributes:
        device: that is measured.
        small: the small pair, few prompts and images, to try every stage in seconds.
        deadline: of :func:`time.monotonic`.
    """

    device: torch.device
    small: bool
    deadline: float

    def has_time(self) -> bool:
        """Whether something may still begin."""
        return time.monotonic() < self.deadline

    @cached_property
    def images(self) -> list[np.ndarray]:
        """Drawn scenes uint8 ``[H, W, 3]``."""
        return draw_images(2, (256, 256)) if self.small else draw_images(16, (480, 640))

    @cached_property
    def dtype(self) -> torch.dtype:
        """The fast precision of the device."""
        return resolve_precision("fast", self.device)

    @cached_property
    def pair(self) -> Pair:
        """Both models, the large ones with random weights, in single precision."""
        if self.small:
            return replace(small_pair(self.device.type, "float32"), points_per_side=8)
        return random_pair("large", "large", self.device, torch.float32)

    @cached_property
    def _references(self) -> list[Reference]:
        return draw_references(3 if self.small else 10, 1)

    @cached_property
    def _memories(self) -> dict[tuple[str, str], MemoryBank]:
        return {}

    @cached_property
    def threshold(self) -> float:
        """On the predicted IoU; half of the prompts of random weights exceed it."""
        return 0.3 if self.small else spread_predicted_iou(self.pair, self.images[0], 0.5)

    def engine(self, preset: Preset, pair: Pair | None = None) -> ReferenceSegmenter:
        """Engine with a few classes; by default with the models in the fast precision."""
        pair = pair or in_precision(self.pair, self.dtype)
        key = pair.encoder.info.fingerprint, preset.patch_weights
        if key not in self._memories:
            self._memories[key] = build_memory(self._references, pair.encoder, preset)[0]
        return ReferenceSegmenter(self._memories[key], pair.encoder, pair.segmenter, preset)

    def preset(self, name: str, points_per_side: int | None = None) -> Preset:
        """``"exact"``, ``"fast"``: computation of the recipe; ``"default"``: with the parts beyond the paper."""
        threshold = self.threshold
        if name == "default":
            side = points_per_side or self.pair.points_per_side
            return replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=side, iou_threshold=threshold))
        constants = Constants(points_per_side=points_per_side or self.pair.points_per_side, iou_threshold=threshold)
        if not self.small:
            constants = replace(constants, nms_iou=1.0)
        return as_published({"exact": PAPER, "fast": FAST}[name], constants)


def in_precision(pair: Pair, dtype: torch.dtype) -> Pair:
    """The same models in another precision; they share their weights."""
    encoder = copy.copy(pair.encoder)
    encoder._dtype, encoder.precision = dtype, str(dtype).removeprefix("torch.")
    segmenter = pair.segmenter
    return replace(
        pair,
        encoder=encoder,
        segmenter=Segmenter(segmenter._model, segmenter.name, segmenter.fingerprint, segmenter.device, dtype),
    )


def on_cpu(pair: Pair) -> Pair:
    """A copy of the models on the CPU, in single precision."""
    cpu, encoder, segmenter = torch.device("cpu"), pair.encoder, pair.segmenter
    return replace(
        pair,
        encoder=Encoder(copy.deepcopy(encoder._model), encoder.info.name, cpu, torch.float32),
        segmenter=Segmenter(copy.deepcopy(segmenter._model), segmenter.name, segmenter.fingerprint, cpu, torch.float32),
    )


def segment_all(engine: ReferenceSegmenter, images: Sequence[PreparedImage], batch: int) -> list[Instances]:
    """Segment prepared images, a batch of them through the encoders at a time."""
    found = []
    for begin in range(0, len(images), batch):
        together = engine.targets.encode_together(images[begin : begin + batch])
        found += [engine.match(engine.encode(image)) for image in together]
    return found


# ----------------------------------------------------------------------------------------------------------------------
# Stages: each returns its numbers and its Markdown


Measured = tuple[dict[str, Any], str]


def ceilings(bench: Bench) -> Measured:
    """Peak rates of the device: products of large matrices, and copies."""
    side, numbers = (512 if bench.small else 8192), {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(side, side, device=bench.device, dtype=dtype)
        product = partial(torch.mm, matrix, matrix)
        product()
        numbers[str(dtype).removeprefix("torch.")] = 2 * side**3 / time_call(bench.device, product, 5)[1]
    source = torch.empty(1 << 22 if bench.small else 1 << 30, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    numbers["bandwidth"] = 2 * len(source) / time_call(bench.device, partial(target.copy_, source), 5)[1]
    rows = [
        ["float32, TFLOP/s", shown(numbers["float32"] / 1e12)],
        ["bfloat16, TFLOP/s", shown(numbers["bfloat16"] / 1e12)],
        ["copy, read and written, TB/s", shown(numbers["bandwidth"] / 1e12)],
    ]
    return numbers, markdown_table(["product of matrices, or copy", "measured"], rows)


def small_equality(bench: Bench) -> Measured:
    """The small pair, with trained weights, against the CPU: instances of all presets, and encoded targets."""
    images = draw_images(1 if bench.small else 10, (256, 256))
    pair = small_pair(bench.device.type, "float32")
    if bench.small:
        pair = replace(pair, points_per_side=8)
    constants = Constants(points_per_side=pair.points_per_side, iou_threshold=pair.segmenter.iou_threshold)
    presets = {"exact": as_published(PAPER, constants), "default": DEFAULT}
    if bench.small:
        presets["default"] = replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=8))
    half = in_precision(pair, bench.dtype)
    numbers, text = _agreement(bench, pair, half, presets, as_published(FAST, constants), images)
    numbers["targets"] = _targets_agree(bench.engine(presets["default"], pair), images)
    return numbers, f"{text}\n\n{_said_of_targets(numbers['targets'])}"


def released_equality(bench: Bench) -> Measured:
    """The released architectures with random weights against the CPU, with a quarter of the prompts, on one image."""
    points = bench.pair.points_per_side // (1 if bench.small else 2)
    exact, fast = (bench.preset(name, points) for name in ("exact", "fast"))
    # All instances are compared: which of two nearly equal scores is among the best hundred is a matter of rounding.
    exact, fast = (replace(each, matching=replace(each.matching, max_instances=4096)) for each in (exact, fast))
    half = in_precision(bench.pair, bench.dtype)
    return _agreement(bench, bench.pair, half, {"exact": exact}, fast, bench.images[:1])


def _agreement(
    bench: Bench, pair: Pair, half: Pair, presets: dict[str, Preset], fast: Preset, images: Sequence[np.ndarray]
) -> Measured:
    """Instances on the device against those on the CPU in single precision, of the same preset; fast against exact."""
    cpu = on_cpu(pair)
    expected = {name: _segmented(bench.engine(preset, cpu), images) for name, preset in presets.items()}
    trials = [(f"{name}, float32", name, preset, pair) for name, preset in presets.items()]
    trials.append((f"exact, {half.encoder.precision}", "exact", presets["exact"], half))
    trials.append((f"fast, {half.encoder.precision}", "exact", fast, half))
    rows = []
    for title, against, preset, models in trials:
        found = _segmented(bench.engine(preset, models), images)
        row = equality([compare(a, b) for a, b in zip(expected[against], found, strict=True)])
        in_float32 = models is pair
        row["right"] = row["images_differing"] == 0 and row["same_labels"] and row["min_mask_iou"] >= SAME_IOU
        rows.append({"what": title, "float32": in_float32, **row})
    head = ["", "instances", "images that differ", "labels", "lowest IoU", "largest difference of scores", "right"]
    table = [
        [
            row["what"],
            row["instances"],
            f"{row['images_differing']} of {row['images']}",
            "equal" if row["same_labels"] else "differ",
            f"{row['min_mask_iou']:.5f}",
            f"{row['max_score_difference']:.1e}",
            ("yes" if row["right"] else "**NO**") if row["float32"] else "",
        ]
        for row in rows
    ]
    right = all(row["right"] for row in rows if row["float32"])
    return {"rows": rows, "right": right}, markdown_table(head, table)


def _segmented(engine: ReferenceSegmenter, images: Sequence[np.ndarray]) -> list[Instances]:
    return [engine.segment(image) for image in images]


def _targets_agree(engine: ReferenceSegmenter, images: Sequence[np.ndarray]) -> dict[str, int]:
    """Masks that the device draws and encodes itself, against the same logits drawn on the CPU."""
    masks = differing = pixels = overlaps = 0
    for image in images:
        target = engine.encode(image)
        assert isinstance(target, EncodedTarget)
        logits, size = target.proposals.mask_logits, target.image_size
        found, expected = DrawnMasks.drawn_together(logits, size), DrawnMasks.of_logits(logits.cpu(), size)
        which = torch.arange(len(logits))
        for a, b in zip(*(_whole(drawn, which, size) for drawn in (found, expected)), strict=True):
            wrong = int((a != b).sum())
            masks, differing, pixels = masks + 1, differing + (wrong > 0), pixels + wrong
        counted = proposal_masks.overlaps_of_masks(logits, size).cpu()
        drawn = torch.stack(_whole(found, which, size)).flatten(1).double() if len(which) else counted
        overlaps += int((counted - drawn @ drawn.T).abs().max()) if len(which) else 0
    return {"masks": masks, "differing": differing, "pixels": pixels, "overlap_error": overlaps}


def _whole(drawn: DrawnMasks, which: torch.Tensor, size: tuple[int, int]) -> list[torch.Tensor]:
    masks = []
    for crop, (x1, y1, x2, y2) in zip(*drawn.crops(which), strict=True):
        mask = torch.zeros(size, dtype=torch.bool)
        mask[y1:y2, x1:x2] = crop
        masks.append(mask)
    return masks


def _said_of_targets(found: dict[str, int]) -> str:
    return (
        f"Of {found['masks']} masks that the device drew and encoded, {found['differing']} differ from those that the "
        f"CPU drew of the same logits, by {found['pixels']} pixels together. Counted overlaps are off by at most "
        f"{found['overlap_error']} pixels."
    )


def speed(bench: Bench, name: str, batches: Sequence[int] = (8, 1, 4, 2)) -> Measured:
    """Images per second, from prepared images to instances, and peak memory, by images per batch."""
    engine = bench.engine(bench.preset(name))
    images = [engine.prepare(image) for image in bench.images]
    rows = []
    for batch in [b for b in batches if b <= len(images)]:
        if rows and not bench.has_time():
            break
        with PeakMemory(bench.device) as used:
            segment_all(engine, images[:batch], batch)
        repeats = 1 if bench.small or name not in GOALS else 3
        found, seconds = time_call(bench.device, partial(segment_all, engine, images, batch), repeats)
        rows.append(
            {
                "batch": batch,
                "images_per_second": len(images) / seconds,
                "seconds_per_image": seconds / len(images),
                "memory": used.peak,
                "instances": float(np.mean([len(each) for each in found])),
            }
        )
    best = max(row["images_per_second"] for row in rows)
    table = [
        [row["batch"], shown(row["images_per_second"]), shown(1000 * row["seconds_per_image"]), _mebibytes(row)]
        for row in sorted(rows, key=lambda row: row["batch"])
    ]
    goal = f" The goal on an H200 is {GOALS[name]}." if name in GOALS and not bench.small else ""
    text = (
        f"{markdown_table(['images per batch', 'images per second', 'ms per image', 'peak memory, MiB'], table)}\n\n"
        f"Best: **{shown(best)}** images per second in {engine.encoder.precision}.{goal} "
        f"{rows[0]['instances']:.0f} instances per image."
    )
    return {"rows": rows, "best": best, "precision": engine.encoder.precision}, text


def _mebibytes(row: dict[str, Any]) -> str:
    return f"{row['memory'] / 2**20:,.0f}"


def speed_in_float32(bench: Bench) -> Measured:
    """Images per second of the exact protocol in single precision."""
    engine = bench.engine(bench.preset("exact"), bench.pair)
    images = [engine.prepare(image) for image in bench.images[:8]]
    segment_all(engine, images[:2], 2)
    seconds = time_call(bench.device, partial(segment_all, engine, images, 4))[1]
    return {"images_per_second": len(images) / seconds}, f"{shown(len(images) / seconds)} images per second in float32."


class StageClock:
    """Time of stages on the device and on the host, without waiting between them.

    On CUDA the device's time is that between two events on its stream, idle time included. Nested stages are counted
    in each other.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.host: Counter[str] = Counter()
        self.on_device: Counter[str] = Counter()

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function to record its time."""

        def wrapped(*given: Any, **options: Any) -> Any:
            with self._measured(stage):
                return call(*given, **options)

        return wrapped

    @contextlib.contextmanager
    def _measured(self, stage: str) -> Iterator[None]:
        cuda = self._device.type == "cuda"
        events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if cuda else []
        if cuda:
            events[0].record()
        begin = time.perf_counter()
        yield
        self.host[stage] += time.perf_counter() - begin
        if cuda:
            events[1].record()
            self._events.append((stage, events[0], events[1]))

    def finish(self) -> None:
        """Read the events."""
        synchronise(self._device)
        for stage, begin, end in self._events:
            self.on_device[stage] += begin.elapsed_time(end) / 1000
        if self._device.type != "cuda":
            self.on_device = Counter(self.host)


def _stages_of(engine: ReferenceSegmenter) -> list[tuple[Any, str, str]]:
    return [
        (engine.encoder, "encode", DINO),
        (engine.segmenter, "embed", SAM_ENCODER),
        (engine.segmenter, "_score", SCORE),
        (engine.segmenter, "_draw", DRAW),
        (targets, "pool_tokens", POOL),
        (proposal_masks, "overlaps_of_masks", OVERLAPS),
        (proposal_masks, "draw_crops", CROPS),
        (engine, "match", MATCH),
    ]


@contextlib.contextmanager
def _patched(
    engine: ReferenceSegmenter, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for owner, attribute, stage in _stages_of(engine):
            stack.enter_context(patch.object(owner, attribute, wrap(stage, getattr(owner, attribute))))
        yield


def stages(bench: Bench, name: str, peaks: dict[str, float]) -> Measured:
    """Time of every stage, and the share of the roofline of those that are products."""
    engine = bench.engine(bench.preset(name))
    batch = min(8, len(bench.images))
    images = [engine.prepare(image) for image in bench.images[:batch]]
    segment_all(engine, images, batch)
    clock = StageClock(bench.device)
    with _patched(engine, clock.timed):
        found, seconds = time_call(bench.device, partial(segment_all, engine, images, batch))
    clock.finish()
    prepare = time_call(torch.device("cpu"), partial(engine.prepare, bench.images[0]), 5)[1]
    floors = _floors(engine, images, batch, peaks)
    rows = []
    for _, _, stage in _stages_of(engine):
        if stage not in clock.host:
            continue
        on_device, floor = clock.on_device[stage] / batch, floors.get(stage)
        share = None if floor is None or not on_device else floor["seconds"] / on_device
        rows.append(
            {"stage": stage, "device": on_device, "host": clock.host[stage] / batch, "floor": floor, "share": share}
        )
    table = [
        [
            row["stage"],
            shown(1000 * row["device"]),
            shown(1000 * row["host"]),
            "" if row["floor"] is None else shown(row["floor"]["flops"] / 1e9),
            "" if row["floor"] is None else f"{1000 * row['floor']['seconds']:.3g} ({row['floor']['bound']})",
            "" if row["share"] is None else f"{100 * row['share']:.0f} %",
        ]
        for row in rows
    ]
    head = ["stage", "on the device, ms", "on the host, ms", "GFLOP", "roofline, ms", "share"]
    instances = float(np.mean([len(each) for each in found]))
    text = (
        f"{markdown_table(head, table)}\n\n{batch} images per batch, {shown(1000 * seconds / batch)} ms per image, "
        f"{instances:.0f} instances; preparing an image takes {shown(1000 * prepare)} ms of another thread.\n\n"
        "The roofline of a stage is the larger of its arithmetic over the measured peak, and of its weights, inputs "
        "and outputs over the measured bandwidth, each moved once. Where the host takes as long as the device, the "
        "device waits for it."
    )
    return {"rows": rows, "batch": batch, "seconds_per_image": seconds / batch}, text


def _floors(
    engine: ReferenceSegmenter, images: Sequence[PreparedImage], batch: int, peaks: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Least time per image of the stages that are products of matrices."""
    flops: Counter[str] = Counter()
    moved: Counter[str] = Counter()

    def count(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **options: Any) -> Any:
            with FlopCounterMode(display=False) as counter:
                result = call(*given, **options)
            flops[stage] += counter.get_total_flops()
            if stage == SCORE:
                moved[stage] += 2 * _bytes(result[1])
            if stage == DRAW:
                moved[stage] += _bytes(given[1]) + _bytes(result)
            return result

        return counted

    with _patched(engine, count):
        segment_all(engine, images, batch)
    for stage, model in ((DINO, engine.encoder._model), (SAM_ENCODER, engine.segmenter._model)):
        moved[stage] += 4 * sum(weight.numel() for weight in model.parameters())
    precision = engine.encoder.precision
    floors = {}
    for stage in (DINO, SAM_ENCODER, SCORE, DRAW):
        by = {"arithmetic": flops[stage] / peaks[precision], "memory": moved[stage] / peaks["bandwidth"]}
        bound = max(by, key=by.__getitem__)
        floors[stage] = {"seconds": by[bound] / len(images), "bound": bound, "flops": flops[stage] / len(images)}
    return floors


def _bytes(value: Any) -> int:
    """Bytes of all tensors in a tensor, a tuple, or an object's attributes."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    parts = value if isinstance(value, tuple) else vars(value).values()
    return sum(_bytes(part) for part in parts)


def waits(bench: Bench) -> Measured:
    """Where the host waits for a GPU, in one image of every preset."""
    numbers: dict[str, dict[str, int]] = {}
    for name in ("exact", "fast", "default"):
        engine = bench.engine(bench.preset(name))
        image = engine.prepare(bench.images[0])
        engine.match(engine.encode(image))
        numbers[name] = _waits_in(bench.device, lambda engine=engine, image=image: engine.match(engine.encode(image)))
    places = sorted({place for found in numbers.values() for place in found})
    table = [[place, *(found.get(place, "") for found in numbers.values())] for place in places]
    table.append(["**all**", *(sum(found.values()) for found in numbers.values())])
    return numbers, markdown_table(["line", *numbers], table)


def _waits_in(device: torch.device, call: Callable[[], Any]) -> dict[str, int]:
    if device.type != "cuda":
        call()
        return {}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    lines = (
        "/".join([*Path(each.filename).parts[-2:]]) + f":{each.lineno}"
        for each in found
        if "synchroniz" in str(each.message)
    )
    return dict(Counter(lines))


def kernels(bench: Bench, name: str) -> Measured:
    """The kernels that take most of the time, and how long the device is idle."""
    engine = bench.engine(bench.preset(name))
    batch = min(4, len(bench.images))
    images = [engine.prepare(image) for image in bench.images[:batch]]
    segment_all(engine, images, batch)
    cuda = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    with profile(activities=activities) as profiler:
        _, seconds = time_call(bench.device, partial(segment_all, engine, images, batch))
    times = [
        (event.key, (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6, event.count)
        for event in profiler.key_averages()
        if not cuda or event.device_type != torch.autograd.DeviceType.CPU
    ]
    times.sort(key=lambda each: -each[1])
    busy, calls = sum(each[1] for each in times), sum(each[2] for each in times)
    rows = [{"kernel": key, "seconds": s / batch, "calls": n / batch} for key, s, n in times[:25]]
    table = [[f"`{row['kernel'][:90]}`", shown(1000 * row["seconds"]), shown(row["calls"])] for row in rows]
    text = (
        f"{markdown_table(['kernel', 'ms per image', 'calls per image'], table)}\n\nAll kernels: "
        f"{shown(1000 * busy / batch)} of {shown(1000 * seconds / batch)} ms per image, with the profiler at work; "
        f"{calls / batch:.0f} calls."
    )
    return {"rows": rows, "busy": busy / batch, "seconds": seconds / batch, "calls": calls / batch}, text


def road(bench: Bench) -> Measured:
    """Images per second from files to encoded results: prefetching, models, cache, and a writer that discards."""
    rows = []
    files = [jpeg_file(image) for image in bench.images]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k}.jpg" for k in range(2 if bench.small else 64)]
        for k, path in enumerate(paths):
            path.write_bytes(files[k % len(files)] + str(k).encode())  # other bytes: another image for the cache
        for name in ("exact", "default") if bench.small else ("exact", "fast", "default"):
            engine = bench.engine(bench.preset(name))
            cache = TensorCache(Path(folder) / name, 10**11)
            some = paths[:16] if name == "default" else paths  # crops of noise take long
            _travel(CachedSegmenter(engine, None), some[:2])
            for run, where in (("without a cache", None), ("filling the cache", cache), ("from the cache", cache)):
                if rows and not bench.has_time():
                    break
                found, seconds = time_call(bench.device, partial(_travel, CachedSegmenter(engine, where), some))
                rows.append({"engine": name, "run": run, "images_per_second": len(some) / seconds, "instances": found})
    table = [[row["engine"], row["run"], shown(row["images_per_second"]), f"{row['instances']:.0f}"] for row in rows]
    head = ["engine", "run", "images per second", "instances per image"]
    return {"rows": rows}, markdown_table(head, table)


def _travel(cached: CachedSegmenter, paths: Sequence[Path]) -> float:
    """The loop of ``auto_segment_view`` without a database; returns the mean number of instances."""
    engine, found = cached.segmenter, []

    def write(segmented: Segmented) -> None:
        cached.store(segmented)
        labels = coco_results(segmented.instances, 0, range(len(engine.classes)), engine.preset.box_convention)
        found.append(len(labels))

    fetched = prefetch_together(cached.fetch_file, paths, cached.encode_together, cached.images_per_batch)
    with BackgroundWriter() as background, closing(fetched) as inputs:
        for _, input_of in inputs:
            background.do(partial(write, cached.segment(input_of())))
    return float(np.mean(found))


def chunks(bench: Bench) -> Measured:
    """Time of the decoder by prompts per chunk."""
    engine = bench.engine(bench.preset("exact"))
    image = engine.prepare(bench.images[0])
    _, embedding = encode_image(image, engine.encoder, engine.segmenter, engine.preset)
    rows = []
    for chunk in (None, 16, 64) if bench.small else (None, 32, 64, 128, 256, 512, 1024):
        if rows and not bench.has_time():
            break
        config: ProposalConfig = replace(engine.preset.proposals, prompts_per_chunk=chunk)
        with PeakMemory(bench.device) as used:
            engine.segmenter.propose(embedding, config)
        propose = partial(engine.segmenter.propose, embedding, config)
        seconds = time_call(bench.device, propose, 1 if bench.small else 5)[1]
        of_device = engine.segmenter._chunk_size(embedding)
        rows.append({"chunk": chunk, "of_device": of_device, "seconds": seconds, "memory": used.peak})
    table = [
        [
            f"{row['of_device']} (chosen for the device)" if row["chunk"] is None else row["chunk"],
            shown(1000 * row["seconds"]),
            _mebibytes(row),
        ]
        for row in rows
    ]
    return {"rows": rows}, markdown_table(["prompts per chunk", "ms", "peak memory, MiB"], table)


def compiled(bench: Bench) -> Measured:
    """The decoder as it is, compiled, and compiled with CUDA graphs: time, time to compile, and difference."""
    if bench.small:
        return {}, "Left out with the small pair: compiling takes most of a minute."
    engine = bench.engine(bench.preset("exact"))
    _, embedding = encode_image(bench.images[0], engine.encoder, engine.segmenter, engine.preset)
    segmenter, config = engine.segmenter, engine.preset.proposals
    expected = segmenter.propose(embedding, config)
    rows = []
    for title in ("as it is", "compiled", "compiled, CUDA graphs"):
        if rows and not bench.has_time():
            break
        dtype = bench.dtype
        other = Segmenter(segmenter._model, "", "", bench.device, dtype, compiled=title == "compiled")
        if title == "compiled, CUDA graphs":
            other._compiled = True
            for name in ("prompt", "draw"):
                setattr(other._decoder, name, _in_graphs(getattr(other._decoder, name)))
        found, first = time_call(bench.device, partial(other.propose, embedding, config))
        other.propose(embedding, config)
        seconds = time_call(bench.device, partial(other.propose, embedding, config), 5)[1]
        same = len(found) == len(expected)
        differing = float(((found.mask_logits > 0) != (expected.mask_logits > 0)).float().mean()) if same else None
        rows.append({"decoder": title, "seconds": seconds, "first": first, "differing": differing})
    table = [
        [
            row["decoder"],
            shown(1000 * row["seconds"]),
            shown(row["first"]),
            "other survivors" if row["differing"] is None else f"{row['differing']:.1e}",
        ]
        for row in rows
    ]
    return {"rows": rows}, markdown_table(["decoder", "ms", "first call, s", "pixels that differ"], table)


def _in_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function of the decoder with CUDA graphs, and copy what it returns out of their memory.

    The engine does not do so: some of the versions of torch that it supports fail with such graphs outside the main
    thread, where FiftyOne runs operators.
    """
    graphs = torch.compile(function, dynamic=False, mode="reduce-overhead")

    def call(*given: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        result = graphs(*given)
        if isinstance(result, torch.Tensor):
            return result.clone()
        kept = result.room_for(len(result))
        kept[:] = result
        return kept

    return call


# ----------------------------------------------------------------------------------------------------------------------
# The run


def plan() -> list[tuple[str, Callable[[Bench, dict[str, Any]], Measured]]]:
    """Titles and stages, the most valuable first; a stage gets the numbers of those before."""
    return [
        ("Ceilings", lambda bench, _: ceilings(bench)),
        ("Equality, the small pair", lambda bench, _: small_equality(bench)),
        ("Equality, released architectures", lambda bench, _: released_equality(bench)),
        ("Speed, exact", lambda bench, _: speed(bench, "exact")),
        ("Speed, fast", lambda bench, _: speed(bench, "fast")),
        ("Stages, exact", lambda bench, before: stages(bench, "exact", before["Ceilings"]["numbers"])),
        ("Waits", lambda bench, _: waits(bench)),
        ("Kernels, exact", lambda bench, _: kernels(bench, "exact")),
        ("The road", lambda bench, _: road(bench)),
        ("Prompts per chunk", lambda bench, _: chunks(bench)),
        ("Stages, fast", lambda bench, before: stages(bench, "fast", before["Ceilings"]["numbers"])),
        ("Speed, default", lambda bench, _: speed(bench, "default", (8, 1))),
        ("Speed, float32", lambda bench, _: speed_in_float32(bench)),
        ("Compiled decoder", lambda bench, _: compiled(bench)),
    ]


def run(
    device: str = "auto", minutes: float = 8, *, small: bool = False, output: Path | None = RESULTS
) -> dict[str, Any]:
    """Measure, write the report after every stage, and return its numbers.

    Args:
        device: as in torch, or ``"auto"``.
        minutes: after which no stage begins.
        small: try every stage with the small pair.
        output: folder for the report; ``None`` writes nothing.
    """
    where = resolve_device(device)
    bench = Bench(where, small, time.monotonic() + 60 * minutes)
    done: dict[str, Any] = {}
    numbers = {"surroundings": surroundings(where), "small": small, "minutes": minutes, "stages": done}
    for title, stage in plan():
        begin = time.monotonic()
        if not bench.has_time():
            done[title] = {"skipped": "no time was left"}
        else:
            try:
                measured, text = stage(bench, done)
                done[title] = {"numbers": measured, "text": text}
            except Exception:  # the others still tell something
                done[title] = {"error": traceback.format_exc()}
                if where.type == "cuda":
                    torch.cuda.empty_cache()
        done[title]["seconds"] = time.monotonic() - begin
        print(section(title, done[title]), flush=True)
        if output is not None:
            save(numbers, output)
    return numbers


def save(numbers: dict[str, Any], folder: Path) -> None:
    """Write JSON, Markdown and plot."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "gpu_small" if numbers["small"] else "gpu"
    (folder / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (folder / f"{name}.md").write_text(report(numbers))
    plot(numbers, folder / f"{name}.png")


def section(title: str, stage: dict[str, Any]) -> str:
    """A stage as Markdown."""
    if "error" in stage:
        body = f"**Failed:**\n\n```\n{stage['error'].rstrip()}\n```"
    else:
        body = stage.get("text") or f"Left out: {stage['skipped']}."
    return f"### {title}\n\n{body}\n\n{stage['seconds']:.0f} s.\n"


def report(numbers: dict[str, Any]) -> str:
    """All stages as Markdown."""
    place = numbers["surroundings"]
    models = "The small pair" if numbers["small"] else "DINOv2-large and SAM2.1-large, random weights, 1024 prompts"
    failed = [title for title, stage in numbers["stages"].items() if "error" in stage]
    head = (
        f"## The engine on {place['device']}\n\n{models}. {place['processor']}, {place['cores']} cores, "
        f"torch {place['torch']}.{' **Failed: ' + ', '.join(failed) + '.**' if failed else ''}\n"
    )
    return "\n".join([head, *(section(title, stage) for title, stage in numbers["stages"].items())])


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Images per second by batch, and time by stage."""
    figure, (speeds, times) = new_figure(2, width=6)
    measured = {title: stage.get("numbers") for title, stage in numbers["stages"].items()}
    for name in ("exact", "fast", "default"):
        found = measured.get(f"Speed, {name}")
        if found:
            rows = sorted(found["rows"], key=lambda row: row["batch"])
            speeds.plot([row["batch"] for row in rows], [row["images_per_second"] for row in rows], "o-", label=name)
    speeds.set(xlabel="images per batch", ylabel="images per second", ylim=(0, None))
    found = measured.get("Stages, exact")
    if found:
        rows = found["rows"][::-1]
        positions = np.arange(len(rows))
        times.barh(positions + 0.2, [1000 * row["device"] for row in rows], 0.38, label="on the device")
        times.barh(positions - 0.2, [1000 * row["host"] for row in rows], 0.38, label="on the host")
        times.set(yticks=positions, yticklabels=[row["stage"] for row in rows], xlabel="ms per image, exact")
    for panel in (speeds, times):
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=8, help="no stage begins after this time")
    parser.add_argument("--small", action="store_true", help="every stage with the small pair, in seconds")
    parser.add_argument("--output", type=Path, default=RESULTS)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
