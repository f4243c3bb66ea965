"""Differences between two runs, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..datasets.episodes import read_episodes
from ..datasets.protocols import get_protocol
from ..metrics.bootstrap import pair, paired_bootstrap, percentiles, share_better
from ..metrics.coco import without_nan
from ..metrics.miou import bootstrap_episodes, summarise_episodes
from ..utils.names import as_names
from ..utils.run_folder import RunError, read_parts
from .episode_run import counts_of_draw
from .protocol_run import Draw
from .run_folder import finished_numbers, parts_of, read_matches


def compare_runs(
    a: Path,
    b: Path,
    *,
    figures: str | Sequence[str] = ("ap", "ap50", "ap75"),
    draws: int = 1000,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Compare two finished runs: differences ``b - a``, with 95 % intervals of the bootstrap over images.

    Every draw of references that both runs have is compared on the images (or episodes) that both evaluated.

    Args:
        a, b: folders of the runs.
        figures: of :data:`nts.metrics.bootstrap.FIGURES`, for boxes and for masks; for episodes always both.
        draws: samples of images.
        shots: numbers of shots to compare; all where ``None``.
        seeds: seeds to compare; all where ``None``.

    Returns:
        A row for every draw and figure: ``shots``, ``seed``, ``figure``, ``a``, ``b``, ``difference``, ``low`` and
        ``high`` in percent, ``p_better`` and ``samples``, the number of images or episodes.

    Raises:
        RunError: if one has not finished, or nothing can be compared.
        ValueError: if a figure is unknown, or the ground truth differs.
    """
    runs = [finished_numbers(folder) for folder in (a, b)]
    protocols = {numbers["config"]["protocol"] for numbers in runs}
    if len(protocols) > 1:
        raise RunError(f"runs of different protocols cannot be compared: {' and '.join(sorted(protocols))}")
    there = [{Draw(draw["shots"], draw["seed"]): draw["figures"] for draw in numbers["draws"]} for numbers in runs]
    common = [
        draw
        for draw in there[0]
        if draw in there[1] and (not shots or draw.shots in shots) and (not seeds or draw.seed in seeds)
    ]
    if not common:
        raise RunError(f"{a} and {b} have no draw of references in common (of those asked for)")
    protocol = get_protocol(protocols.pop())
    rows = []
    for draw in tqdm(common, unit="draw", desc="bootstrap"):
        if protocol.evaluator == "episodes":
            rows += _compare_episodes(a, b, draw, draws)
            continue
        for iou_type in protocol.iou_types:
            first, second = (read_matches(parts_of(folder), f"{draw.key} {iou_type}") for folder in (a, b))
            first, second = pair(first, second)
            for figure in as_names(figures) or []:
                found = paired_bootstrap(first, second, figure=figure, draws=draws)
                name = f"{iou_type} {figure}"
                rows.append(
                    {
                        "shots": draw.shots,
                        "seed": draw.seed,
                        "figure": name,
                        "a": there[0][draw].get(name),
                        "b": there[1][draw].get(name),
                        "difference": 100 * found.difference,
                        "low": 100 * found.low,
                        "high": 100 * found.high,
                        "p_better": found.p_better,
                        "samples": found.images,
                    }
                )
    return without_nan(rows)


def _compare_episodes(a: Path, b: Path, draw: Draw, draws: int) -> list[dict[str, Any]]:
    lists = [read_episodes(folder / "episodes" / f"{draw.key}.json") for folder in (a, b)]
    if lists[0] != lists[1]:
        raise RunError(f"{a} and {b} were not asked the same episodes in {draw.key}")
    counts = []
    for folder in (a, b):
        keys = [Draw(d["shots"], d["seed"]) for d in finished_numbers(folder)["draws"]]
        rows = np.concatenate(read_parts(parts_of(folder), "episodes"))
        counts.append(counts_of_draw(rows, keys.index(draw)))
    class_ids = [episode.class_id for episode in lists[0]]
    accuracy = [summarise_episodes(class_ids, c, {k: str(k) for k in sorted(set(class_ids))}) for c in counts]
    drawn = bootstrap_episodes(class_ids, *counts, draws=draws)
    values = {"miou": [x.miou for x in accuracy], "fb-iou": [x.fb_iou for x in accuracy]}
    return [
        {
            "shots": draw.shots,
            "seed": draw.seed,
            "figure": figure,
            "a": 100 * first,
            "b": 100 * second,
            "difference": 100 * (second - first),
            "low": 100 * percentiles(drawn[figure])[0],
            "high": 100 * percentiles(drawn[figure])[1],
            "p_better": share_better(drawn[figure]),
            "samples": len(class_ids),
        }
        for figure, (first, second) in values.items()
    ]
