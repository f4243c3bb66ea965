"""Seconds from an event of the Review panel to its response, by the number of predictions, without a browser.

    python -m benchmarks.review_panel

Every event goes through FiftyOne's executor, as those of the App do: it reads the panel's state, and answers with
changes of the state and with views. What the App then does with them, above all the patches that it draws, is not
measured. The predictions are made up (see :mod:`benchmarks.writer`), the database is a private one.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.measuring import RESULTS, Stopwatch, markdown_table, shown, surroundings, write_report
from benchmarks.writer import CHANNELS, CLASSES, SIDE, dataset_with_memory, made_up, segment_made_up
from tools import private_mongod
from tools.panel_driver import Panel

ROOT = Path(__file__).resolve().parent.parent
PREDICTIONS = (100, 1_000, 10_000)
MOST_PER_IMAGE = 100
SELECTED = 10
ROUNDS = 3
"""Times that every event is sent; the median is reported."""


def reviewable(name: str, predictions: int, folder: Path, *, side: int = SIDE):
    """Dataset with made-up predictions of a memory, on at least ten images of noise.

    Args:
        name: of the dataset and of the memory; the field is ``nts_<name>``.
        predictions: a multiple of their number per image.
        folder: for the images.
        side: of the images, in pixels. The predictions are placed on images of :data:`benchmarks.writer.SIDE` pixels.
    """
    import fiftyone as fo

    dataset = dataset_with_memory(folder, name)
    images = max(10, predictions // MOST_PER_IMAGE)
    rng = np.random.default_rng(0)
    samples = []
    for number in range(images):
        path = folder / f"target-{number}.png"
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
        samples.append(fo.Sample(str(path), tags=["target"]))
    dataset.add_samples(samples, progress=False)
    del samples  # FiftyOne reloads every sample that is held in memory after each write
    each = predictions // images
    segment_made_up(dataset.match_tags("target"), name, lambda number: made_up(each, CHANNELS, CLASSES, seed=number))
    return dataset


def time_events(dataset, field: str, rounds: int = ROUNDS) -> tuple[dict[str, list[float]], int]:
    """Send every event of the panel in turn.

    Returns:
        the seconds of each, and the bytes of the panel's state, which every event carries, at its largest.
    """
    import fiftyone.operators as foo

    watch = Stopwatch(torch.device("cpu"))
    panel = Panel(dataset, "review_panel")

    def time(what: str, method: str, **params: Any) -> None:
        watch.time(what, panel.event, method, **params)

    def select(count: int = SELECTED) -> None:
        panel.selected = panel.grid.limit(count).values("id")

    def submit(**more: Any) -> None:
        """Submit the form that the panel has opened."""
        prompt = panel.prompted()
        context = {"dataset": dataset, "view": panel.grid, "selected": panel.selected}
        result = foo.execute_operator(prompt["operator_uri"], {**context, "params": {**prompt["params"], **more}})
        result.raise_exceptions()

    def accept_all() -> None:
        panel.event("on_decide", decision="accepted")
        if panel.state["asking"]:
            panel.event("on_decide", decision="accepted")

    panel.event("on_load")  # imports torch
    largest = 0
    for _ in range(rounds):
        time("Open", "on_load")
        time("Show in grid", "on_start")
        time("Look for jobs, every 2 s", "on_look")
        time("Slider", "on_choice", path="threshold", value=0.2)
        time("Slider", "on_choice", path="threshold", value=0.0)
        time("Order: least sure", "on_choice", path="choices.order", value="unsure")
        time("Order: by class", "on_choice", path="choices.order", value="class")
        time("Order: teach me first", "on_choice", path="choices.order", value="teach")
        panel.event("on_choice", path="choices.order", value="confident")
        panel.event("on_choice", path="threshold", value=0.0)
        select()
        time(f"Select {SELECTED}", "on_change_selected")
        time(f"Accept {SELECTED}", "on_decide", decision="accepted")
        time("Undo", "on_undo")
        select()
        time("Change class: open the form", "on_change_class")
        watch.time(f"Change class of {SELECTED}", submit, class_name="another")
        panel.event("on_start")
        select(1)
        time("Edit outline", "on_edit")
        panel.selected = []
        panel.event("on_start")
        watch.time("Accept all, confirmed", accept_all)
        largest = max(largest, len(json.dumps(panel.state)))
        time("Copy accepted: open the form", "on_copy")
        watch.time("Copy all accepted", submit, to_field="finished")
        dataset.reload()
        dataset.delete_sample_field("finished")
        time("Undo of all", "on_undo")
    return watch.seconds, largest


def run(
    predictions: Sequence[int] = PREDICTIONS, rounds: int = ROUNDS, output: Path | None = RESULTS
) -> dict[str, Any]:
    """Measure, write the report, and return its numbers."""
    os.environ.update({"FIFTYONE_PLUGINS_DIR": str(ROOT), "FIFTYONE_SHOW_PROGRESS_BARS": "false"})
    private_mongod.start()
    columns = []
    for count in predictions:
        name = f"review_{count}"
        with tempfile.TemporaryDirectory() as folder:
            dataset = reviewable(name, count, Path(folder))
            seconds, state = time_events(dataset, f"nts_{name}", rounds)
            images = dataset.match_tags("target").count()
            dataset.delete()
        medians = {event: float(np.median(times)) for event, times in seconds.items()}
        columns.append({"predictions": count, "images": images, "seconds": medians, "state_bytes": state})
    numbers = {"surroundings": surroundings(torch.device("cpu")), "rounds": rounds, "measured": columns}
    if output is not None:
        write_report(output, "review_panel", numbers, report(numbers))
    return numbers


def report(numbers: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    columns = numbers["measured"]
    rows = [[event, *(shown(each["seconds"][event], 2) for each in columns)] for event in columns[0]["seconds"]]
    rows.append(["Largest state of the panel, kB", *(shown(each["state_bytes"] / 1000, 2) for each in columns)])
    return f"""## The Review panel

Seconds from an event to its response, by the number of predictions. Medians of {numbers["rounds"]}.

{markdown_table(["predictions", *(f"{each['predictions']:,}" for each in columns)], rows)}
"""


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", type=int, nargs="+", default=PREDICTIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
