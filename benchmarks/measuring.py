"""Shared helpers of the benchmarks: timers, memory, peak FLOP/s, models of the released sizes, and reports."""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import sam2
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from nts.encoder import Encoder
from nts.images import normalise, stretch
from nts.models import build_sam2, load_encoder, load_segmenter
from nts.references import Reference
from nts.segmenter import Segmenter
from reference_implementation import published_pipeline
from synthetic.scenes import DISTRACTOR_SPECIES, NOVEL_SPECIES, draw_scene, reference_scenes, species_name

Result = TypeVar("Result")
Size = Literal["tiny", "small", "base", "large"]

RESULTS = Path(__file__).parent / "results"

ENCODER_SHAPES: dict[str, tuple[int, int, int]] = {
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
"""Channels, blocks and heads of the released DINOv2s."""
SEGMENTER_CONFIGS = {"tiny": "t", "small": "s", "base": "b+", "large": "l"}
"""Configurations of the released SAM2.1 models."""

_PEAKS = {
    "H100": {"bfloat16": 989e12, "float16": 989e12, "float32": 67e12},
    "H200": {"bfloat16": 989e12, "float16": 989e12, "float32": 67e12},
    "A100": {"bfloat16": 312e12, "float16": 312e12, "float32": 19.5e12},
}
"""Dense FLOP/s from the vendor's data sheets, SXM versions; fp32 without TF32, as in torch by default."""


# ----------------------------------------------------------------------------------------------------------------------
# Time and memory


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """Seconds of every stage, one entry per call."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._device = device

    def time(self, stage: str, call: Callable[..., Result], *arguments: object, **options: object) -> Result:
        """Call a function and record its time, including the device's work."""
        begin = time.perf_counter()
        result = call(*arguments, **options)
        synchronise(self._device)
        self.seconds.setdefault(stage, []).append(time.perf_counter() - begin)
        return result

    def timed(self, stage: str, call: Callable[..., Result]) -> Callable[..., Result]:
        """Wrap a function to record its time."""
        return lambda *arguments, **options: self.time(stage, call, *arguments, **options)


def time_call(device: torch.device, call: Callable[[], Result], repeats: int = 1) -> tuple[Result, float]:
    """Last result and median of the seconds."""
    watch = Stopwatch(device)
    for _ in range(repeats):
        result = watch.time("call", call)
    return result, float(np.median(watch.seconds["call"]))


@dataclass
class PeakMemory:
    """Peak memory within a ``with`` block, above the memory in use at its start.

    On CUDA, memory handed out by torch's allocator. Elsewhere, the resident memory of the process, sampled every few
    milliseconds; freed memory is returned to the system first, since memory retained by the allocator would hide the
    growth.

    Attributes:
        device: device that is measured.
        peak: bytes, after the block.
    """

    device: torch.device
    peak: int = 0
    _before: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _sampler: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        give_memory_back()
        self._before = _resident()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._sampler is None:
            self.peak = torch.cuda.max_memory_allocated(self.device) - self._before
            return
        self._stop.set()
        self._sampler.join()
        self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, _resident() - self._before)

    def _sample(self) -> None:
        while not self._stop.wait(0.005):
            self._look()


def _resident() -> int:
    import psutil  # a machine with a GPU may lack it

    return psutil.Process().memory_info().rss


def give_memory_back() -> None:
    """Return freed memory to the system, if the C library supports it (glibc)."""
    if platform.system() == "Linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak FLOP/s of the device; ``None`` for GPUs that are not in the table.

    For a CPU it is measured: the best of several products of large matrices in single precision.
    """
    if device.type == "cpu":
        side = 2048
        matrix = torch.rand(side, side)
        seconds = min(time_call(device, lambda: matrix @ matrix)[1] for _ in range(6))
        return 2 * side**3 / seconds
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peaks in _PEAKS.items():
            if known in name:
                return peaks[str(dtype).removeprefix("torch.")]
    return None


def surroundings(device: torch.device) -> dict[str, Any]:
    """Hardware and software of the measurement."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


# ----------------------------------------------------------------------------------------------------------------------
# Models and images


@dataclass(frozen=True)
class Pair:
    """An encoder and a segmenter, with random or shipped weights.

    Attributes:
        encoder: DINOv2.
        segmenter: SAM2.
        name: for reports.
        points_per_side: of the grid of prompts.
    """

    encoder: Encoder
    segmenter: Segmenter
    name: str
    points_per_side: int


def small_pair(device: str, precision: str) -> Pair:
    """Models shipped with the project."""
    encoder, segmenter = load_encoder("small", device, precision), load_segmenter("small", device, precision)
    return Pair(encoder, segmenter, "the shipped small pair", segmenter.points_per_side)


def float32_pair(models: str, encoder_size: Size, segmenter_size: Size, device: torch.device) -> Pair:
    """The shipped models for ``"small"``, else random ones of the released architectures, in single precision."""
    if models == "small":
        return small_pair(device.type, "float32")
    return random_pair(encoder_size, segmenter_size, device, torch.float32)


def random_pair(encoder_size: Size, segmenter_size: Size, device: torch.device, dtype: torch.dtype) -> Pair:
    """DINOv2 and SAM2.1 of the released architectures with seeded random weights: as fast as the released models.

    Random masks are neither empty nor full: in patches, they cover a third to nine tenths of the image. The predicted
    IoU, though, is nearly the same for all prompts; see :func:`spread_predicted_iou`.
    """
    channels, blocks, heads = ENCODER_SHAPES[encoder_size]
    torch.manual_seed(0)
    dino = Dinov2Model(
        Dinov2Config(hidden_size=channels, num_hidden_layers=blocks, num_attention_heads=heads, image_size=518)
    )
    file = Path(sam2.__file__).parent / f"configs/sam2.1/sam2.1_hiera_{SEGMENTER_CONFIGS[segmenter_size]}.yaml"
    torch.manual_seed(0)
    sam = build_sam2(file)
    encoder = Encoder(dino, f"dinov2-{encoder_size}, random", device, dtype)
    segmenter = Segmenter(sam, f"{file.stem}, random", "random", device, dtype)
    return Pair(encoder, segmenter, f"DINOv2-{encoder_size} and {file.stem}, random weights", 32)


@torch.inference_mode()
def spread_predicted_iou(pair: Pair, image: np.ndarray, survivors: float) -> float:
    """Spread the predicted IoU of random weights between prompts, and return a threshold on it.

    The last layer of the IoU head is standardised over all prompts on the image, for each mask token. Otherwise the
    differences between prompts would be below the resolution of half precision.

    Args:
        pair: its segmenter is modified.
        image: uint8 ``[H, W, 3]``.
        survivors: fraction of the prompts on this image above the threshold.

    Returns:
        the middle of the widest gap in predicted IoU near the requested quantile, so rounding does not matter.
    """
    model, device = pair.segmenter._model, pair.segmenter.device
    pixels = normalise(stretch(image, pair.segmenter.input_size)).to(device)
    pyramid = published_pipeline.encode_image(model, pixels)
    points = published_pipeline.prompt_grid(pair.points_per_side, pair.segmenter.input_size, device)
    chunk = 4 if device.type == "cpu" else published_pipeline.PROMPTS_PER_CHUNK
    predicted = [published_pipeline.decode_prompts(model, pyramid, prompts)[1] for prompts in points.split(chunk)]
    logits = torch.cat(predicted).cpu().double().logit()
    mean, deviation = logits.mean(0), logits.std(0)
    last = model.sam_mask_decoder.iou_prediction_head.layers[-1]
    last.weight.copy_(last.weight.cpu() / deviation[:, None])
    last.bias.copy_((last.bias.cpu() - mean) / deviation)
    return threshold_between(((logits - mean) / deviation)[:, 1:].amax(1).sigmoid(), survivors)


def threshold_between(values: Tensor, survivors: float) -> float:
    """Threshold in the middle of the widest gap near the quantile that leaves a fraction ``survivors`` above it."""
    ordered = values.sort().values
    gaps, reach = ordered.diff(), max(1, len(ordered) // 20)
    middle = min(max(0, round((1 - survivors) * len(ordered)) - 1), len(gaps) - 1)
    first = max(0, middle - reach)
    widest = first + int(gaps[first : middle + reach + 1].argmax())
    return float(ordered[widest : widest + 2].mean())


def draw_images(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Drawn scenes uint8 ``[H, W, 3]`` of ``(H, W)`` pixels, cropped from squares."""
    height, width = size
    pool = [*NOVEL_SPECIES * 3, *DISTRACTOR_SPECIES]
    return [draw_scene([72, i], pool, side=max(size)).image[:height, :width].copy() for i in range(count)]


def draw_references(classes: int, shots: int) -> list[Reference]:
    """References of the novel species."""
    return [
        Reference(scene.image, species_name(number), scene.masks[0])
        for number in NOVEL_SPECIES[:classes]
        for scene in reference_scenes(number, shots)
    ]


def made_up_proposals(count: int, side: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Discs with radii of 2 to 20 % of the side: mask logits ``[count, side, side]`` and predicted IoU ``[count]``."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.rand(2, count, 1, 1, generator=generator) * side
    radius = side * (0.02 + 0.18 * torch.rand(count, 1, 1, generator=generator))
    line = torch.arange(side) + 0.5
    logits = radius - ((line - x) ** 2 + (line[:, None] - y) ** 2).sqrt()
    return logits, 0.4 + 0.6 * torch.rand(count, generator=generator)


# ----------------------------------------------------------------------------------------------------------------------
# Reports


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown table: first column left-aligned, numbers right-aligned; ``None`` is an empty cell."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join('' if cell is None else str(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines)


def shown(value: float | None, digits: int = 3) -> str:
    """Number with a few significant digits, without an exponent where possible."""
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}" if abs(value) >= 1e-4 else f"{value:.1e}"


def write_report(folder: Path, name: str, numbers: dict[str, Any], text: str) -> None:
    """Write ``name.json`` and ``name.md`` into the folder, and print the text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(numbers, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text.rstrip() + "\n")
    print(text)


def new_figure(columns: int, rows: int = 1, *, width: float = 4.5, height: float = 3.4) -> tuple[Any, list[Any]]:
    """Figure and panels of matplotlib, which is installed with FiftyOne; no window is opened."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(rows, columns)).flat)
