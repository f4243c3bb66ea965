"""How the cost grows: with prompts, classes, references, the image's size, and the number of images.

    python -m benchmarks.growth

Prompts and images are measured with the shipped small pair on drawn scenes. Classes and sizes concern the matching
alone, references the memory alone: there the models' work is made up, of the sizes that the released models have. The
last row of the references is a memory of the size of LVIS: 1,203 classes, ten references each.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measuring import (
    RESULTS,
    PeakMemory,
    draw_images,
    draw_references,
    made_up_proposals,
    markdown_table,
    new_figure,
    shown,
    small_pair,
    surroundings,
    time_call,
    write_report,
)
from nts.building import build_memory
from nts.matching import match_proposals
from nts.memory import EncoderInfo, MemoryBank, MemoryEntry, instance_prototype
from nts.pipeline import ReferenceSegmenter, encode_target
from nts.presets import DEFAULT
from nts.utils.devices import resolve_device

GRID_SIDES = (8, 12, 16, 24, 32)
CLASSES = (1, 10, 80, 300, 1203)
REFERENCES = (10, 100, 1000, 10_000, 36_000)
IMAGE_SIZES = ((256, 256), (480, 640), (1080, 1920), (2000, 2500), (3000, 4000))
"""``(H, W)``; the last is 12 megapixels."""
IMAGES = (1, 4, 16, 64)
LVIS_CLASSES, LVIS_SHOTS = 1203, 10
CHANNELS, PATCHES = 1024, 37
"""Of DINOv2-large, on an input of 518 pixels."""
MASK_SIDE, PROPOSALS = 256, 300
"""Of SAM2; about as many proposals as an image has."""

Rows = list[dict[str, float]]


def with_prompts(sides: Sequence[int], device: str, repeats: int) -> Rows:
    """Seconds to encode an image, against the grid of prompts; small pair."""
    pair = small_pair(device, "float32")
    image = draw_images(1, (256, 256))[0]
    rows = []
    for side in sides:
        preset = replace(DEFAULT, proposals=replace(DEFAULT.proposals, points_per_side=side))
        target, seconds = time_call(
            pair.encoder.device,
            lambda preset=preset: encode_target(image, pair.encoder, pair.segmenter, preset),
            repeats,
        )
        rows.append({"prompts": side**2, "seconds": seconds, "proposals": len(target.proposals)})
    return rows


def with_images(numbers: Sequence[int], device: str) -> Rows:
    """Seconds for so many images, one after the other; small pair."""
    pair = small_pair(device, "float32")
    engine = ReferenceSegmenter(build_memory(draw_references(4, 1), pair.encoder)[0], pair.encoder, pair.segmenter)
    images = draw_images(max(numbers), (256, 256))
    engine.segment(images[0])
    rows = []
    for number in numbers:
        _, seconds = time_call(
            pair.encoder.device, lambda number=number: [engine.segment(image) for image in images[:number]]
        )
        rows.append({"images": number, "seconds": seconds, "seconds_each": seconds / number})
    return rows


def made_up_matching(classes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens ``[h, w, C]``, mask logits, predicted IoU and prototypes ``[K, C]``, as of the released models."""
    generator = torch.Generator().manual_seed(classes)
    coarse = torch.randn(1, CHANNELS, 6, 6, generator=generator)
    tokens = F.interpolate(coarse, size=(PATCHES, PATCHES), mode="bilinear")[0].permute(1, 2, 0).contiguous()
    prototypes = F.normalize(torch.randn(classes, CHANNELS, generator=generator), dim=1)
    logits, predicted_iou = made_up_proposals(PROPOSALS, MASK_SIDE)
    return tokens.to(device), logits.to(device), predicted_iou.to(device), prototypes.to(device)


def with_classes(numbers: Sequence[int], device: torch.device, repeats: int) -> Rows:
    """Seconds to match an image of 640 x 480, against the classes."""
    rows = []
    for classes in numbers:
        inputs = made_up_matching(classes, device)
        found, seconds = time_call(device, lambda inputs=inputs: match_proposals(*inputs, (480, 640)), repeats)
        rows.append({"classes": classes, "seconds": seconds, "instances": len(found)})
    return rows


def with_image_size(sizes: Sequence[tuple[int, int]], device: torch.device, repeats: int) -> Rows:
    """Seconds and memory to match an image and draw its masks, against its size; ten classes."""
    inputs = made_up_matching(10, device)
    rows = []
    for size in sizes:
        with PeakMemory(device) as used:
            found, seconds = time_call(device, lambda size=size: match_proposals(*inputs, size), repeats)
        rows.append(
            {
                "height": size[0],
                "width": size[1],
                "megapixels": size[0] * size[1] / 1e6,
                "seconds": seconds,
                "memory": used.peak,
                "memory_of_the_result": found.masks.numel(),
                "instances": len(found),
            }
        )
        del found
    return rows


def with_references(numbers: Sequence[int], classes: int = LVIS_CLASSES) -> Rows:
    """Seconds to build, use, write and read a memory of so many references, and the size of its file."""
    return [about_memory(number, classes) for number in numbers]


def about_memory(references: int, classes: int) -> dict[str, float]:
    """One memory; its references are spread evenly over at most so many classes."""
    generator = torch.Generator().manual_seed(references)
    tokens = torch.randn(PATCHES**2, CHANNELS, generator=generator)
    weights = torch.rand(PATCHES**2, generator=generator)
    processor = torch.device("cpu")

    _, pooling = time_call(processor, lambda: instance_prototype(tokens, weights), 5)
    prototypes = torch.randn(references, CHANNELS, generator=generator)
    names = [f"class {k % classes:04}" for k in range(references)]

    def add_all() -> MemoryBank:
        bank = MemoryBank(EncoderInfo("made up", "made up", 14 * PATCHES, CHANNELS))
        for k, (name, prototype) in enumerate(zip(names, prototypes, strict=True)):
            bank.add(MemoryEntry(name, prototype, sample_id=f"{k:024x}", label_id=f"{k:024x}"))
        return bank

    bank, adding = time_call(processor, add_all)
    of_classes, averaging = time_call(processor, bank.prototypes)
    data, packing = time_call(processor, bank.to_bytes)
    again, unpacking = time_call(processor, lambda: MemoryBank.from_bytes(data))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "memory.safetensors"
        _, saving = time_call(processor, lambda: bank.save(path))
        _, loading = time_call(processor, lambda: MemoryBank.load(path))
    return {
        "references": references,
        "classes": len(of_classes),
        "read_again": len(again),
        "pool_tokens_of_one": pooling,
        "add": adding,
        "prototypes": averaging,
        "to_bytes": packing,
        "from_bytes": unpacking,
        "save": saving,
        "load": loading,
        "file_bytes": len(data),
    }


def run(
    device: str = "auto",
    repeats: int = 3,
    grid_sides: Sequence[int] = GRID_SIDES,
    classes: Sequence[int] = CLASSES,
    references: Sequence[int] = REFERENCES,
    image_sizes: Sequence[tuple[int, int]] = IMAGE_SIZES,
    images: Sequence[int] = IMAGES,
    lvis: tuple[int, int] = (LVIS_CLASSES, LVIS_SHOTS),
    output: Path | None = RESULTS,
) -> dict[str, Any]:
    """Measure, write the report, and return its numbers.

    Args:
        device: as in torch, or ``"auto"``.
        repeats: of everything but the images one after the other and the memories; medians are reported.
        grid_sides: of prompts.
        classes: numbers of them.
        references: numbers of them.
        image_sizes: ``(H, W)``.
        images: numbers of them.
        lvis: classes, and references of each, of the last memory.
        output: folder for the report; nothing is written without.
    """
    where = resolve_device(device)
    numbers = {
        "surroundings": surroundings(where),
        "prompts": with_prompts(grid_sides, where.type, repeats),
        "classes": with_classes(classes, where, repeats),
        "references": with_references(references),
        "lvis": about_memory(lvis[0] * lvis[1], lvis[0]),
        "image_size": with_image_size(image_sizes, where, repeats),
        "images": with_images(images, where.type),
    }
    if output is not None:
        write_report(output, "growth", numbers, report(numbers))
        plot(numbers, output / "growth.png")
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    place = numbers["surroundings"]

    def table(head: Sequence[str], rows: Rows, *cells: Callable[[dict[str, float]], object]) -> str:
        return markdown_table(head, [[cell(row) for cell in cells] for row in rows])

    def milliseconds(name: str) -> Callable[[dict[str, float]], str]:
        return lambda row: shown(1000 * row[name])

    prompts = table(
        ["prompts", "ms per image", "proposals"],
        numbers["prompts"],
        lambda row: row["prompts"],
        milliseconds("seconds"),
        lambda row: row["proposals"],
    )
    classes = table(
        ["classes", "ms per image", "instances"],
        numbers["classes"],
        lambda row: f"{row['classes']:,}",
        milliseconds("seconds"),
        lambda row: row["instances"],
    )
    steps = ("add", "prototypes", "to_bytes", "from_bytes", "save", "load")
    references = table(
        ["references", "classes", *(f"{step}, ms" for step in steps), "file, MB"],
        [*numbers["references"], numbers["lvis"]],
        lambda row: f"{row['references']:,}",
        lambda row: f"{row['classes']:,}",
        *(milliseconds(step) for step in steps),
        lambda row: shown(row["file_bytes"] / 1e6),
    )
    sizes = table(
        ["image", "megapixels", "ms", "memory, MiB", "of it the masks returned", "instances"],
        numbers["image_size"],
        lambda row: f"{row['width']} x {row['height']}",
        lambda row: shown(row["megapixels"]),
        milliseconds("seconds"),
        lambda row: f"{row['memory'] / 2**20:,.0f}",
        lambda row: f"{row['memory_of_the_result'] / 2**20:,.0f}",
        lambda row: row["instances"],
    )
    images = table(
        ["images", "seconds", "ms per image"],
        numbers["images"],
        lambda row: row["images"],
        lambda row: shown(row["seconds"]),
        milliseconds("seconds_each"),
    )
    pooling = shown(1000 * numbers["lvis"]["pool_tokens_of_one"])
    return f"""## How the cost grows

{place["device"]}, {place["processor"]}, {place["threads"]} threads, torch {place["torch"]}, single precision.

Prompts, the small pair on an image of 256 x 256, both models:

{prompts}

Classes, matching alone: {PROPOSALS} proposals, tokens of {CHANNELS} channels, 640 x 480:

{classes}

References, prototypes of {CHANNELS} channels. To pool the tokens of one reference takes {pooling} ms more. The last row
is a memory of the size of LVIS:

{references}

Size of the image, matching alone, {PROPOSALS} proposals, masks drawn:

{sizes}

Images one after the other, the small pair:

{images}
"""


def plot(numbers: dict[str, Any], path: Path) -> None:
    """A panel for each; all axes are logarithmic."""
    figure, panels = new_figure(3, 2, width=4.2, height=3.2)
    curves = (
        ("prompts", "prompts", {"seconds": "both models"}),
        ("classes", "classes", {"seconds": "matching"}),
        ("references", "references", {"add": "add", "prototypes": "prototypes", "save": "save", "load": "load"}),
        ("image_size", "megapixels", {"seconds": "matching and drawing"}),
        ("images", "images", {"seconds": "all of them"}),
    )
    for panel, (rows, x, lines) in zip(panels, curves, strict=False):
        for y, label in lines.items():
            panel.plot([row[x] for row in numbers[rows]], [row[y] for row in numbers[rows]], "o-", label=label)
        panel.set(xlabel=x, ylabel="seconds")
    memory = panels[5]
    for y, label in (("memory", "in use at the most"), ("memory_of_the_result", "masks returned")):
        rows = numbers["image_size"]
        memory.plot([row["megapixels"] for row in rows], [row[y] / 2**20 for row in rows], "o-", label=label)
    memory.set(xlabel="megapixels", ylabel="MiB")
    for panel in panels:
        panel.set(xscale="log", yscale="log")
        low, high = panel.get_ylim()
        panel.set_ylim(min(low, high / 10), high)  # what hardly grows shall look like it
        panel.grid(alpha=0.3)
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Read the options, run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
