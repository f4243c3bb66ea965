"""Report of a run: figures over seeds, beside the published ones, written as JSON and Markdown.

Figures are in percent, plain values without NaN (``None`` where there was nothing to measure), so that ``report.json``
can be read back and given to :func:`~nts.evaluation.markdown.markdown`. Standard deviations over seeds are of the
sample (``n - 1``).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datasets.protocols import Protocol
from ..datasets.published import Published
from ..utils.files import write_file
from .markdown import markdown


def summarise_seeds(draws: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summarise every figure over the seeds of each number of shots: mean, standard deviation, minimum and maximum.

    Args:
        draws: each with ``shots``, ``seed`` and ``figures``; figures are percent or ``None``.

    Returns:
        For each number of shots ``shots``, ``seeds`` and ``figures``. ``std`` is ``None`` for a single seed. Seeds
        without a value are left out of a figure, and its ``seeds`` counts the others.
    """
    summary = []
    for shots in sorted({draw["shots"] for draw in draws}):
        same = [draw for draw in draws if draw["shots"] == shots]
        figures = {}
        for name in same[0]["figures"]:
            values = [draw["figures"][name] for draw in same if draw["figures"][name] is not None]
            figures[name] = {
                "mean": statistics.fmean(values) if values else None,
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "min": min(values, default=None),
                "max": max(values, default=None),
                "seeds": len(values),
            }
        summary.append({"shots": shots, "seeds": [draw["seed"] for draw in same], "figures": figures})
    return summary


def compare_with_published(
    protocol: Protocol, draws: Sequence[Mapping[str, Any]], summary: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Compare our figures with every published figure of exactly this protocol.

    A figure published for one seed is compared with ours of that seed, if it was run; all others with our mean.
    """
    rows = []
    for row in summary:
        of_seed = {draw["seed"]: draw["figures"] for draw in draws if draw["shots"] == row["shots"]}
        for published in protocol.published:
            if published.shots != row["shots"] or published.split is not None:
                continue
            for name, value in published.figures.items():
                if name in row["figures"]:
                    rows.append(_compare(published, name, value, row, of_seed))
    return rows


def _compare(
    published: Published, name: str, value: float, row: Mapping[str, Any], of_seed: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    seed = int(published.seeds) if published.seeds.isdigit() else None
    if seed is not None and seed in of_seed:
        ours, of = of_seed[seed][name], f"seed {seed}"
    else:
        ours, of = row["figures"][name]["mean"], _mean_of(row["seeds"])
    return {
        "shots": row["shots"],
        "figure": name,
        "ours": ours,
        "ours_of": of,
        "published": value,
        "published_std": published.figures.get(f"{name} std"),
        "published_of": published.seeds,
        "difference": None if ours is None else ours - value,
        "method": published.method,
        "source": published.source,
    }


def _mean_of(seeds: Sequence[int | None]) -> str:
    if len(seeds) > 1:
        return f"mean of {len(seeds)} seeds"
    return "fixed references" if seeds[0] is None else f"seed {seeds[0]}"


def write_report(folder: Path, numbers: Mapping[str, Any]) -> str:
    """Write ``report.json`` and ``report.md`` into a folder, and return the Markdown."""
    text = markdown(numbers)
    write_file(folder / "report.json", json.dumps(numbers, indent=1, allow_nan=False).encode() + b"\n")
    write_file(folder / "report.md", text.encode())
    return text
