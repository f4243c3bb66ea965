"""Settings of a run, and the base of runs of instances and of episodes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..cache import TensorCache
from ..datasets.annotated_images import MASKS, Annotation
from ..datasets.episodes import EPISODES_PER_FOLD
from ..datasets.protocol_data import ProtocolData
from ..datasets.protocols import Protocol, describe
from ..encoder import Encoder
from ..metrics.coco import without_nan
from ..metrics.matches import ResultAreas
from ..presets import Preset, stored_settings
from ..segmenter import Segmenter
from ..utils.run_folder import RunError, fingerprint, read_lines, read_parts
from ..vrp.prompt import TrainedPrompt
from .predictors import PROMPTED_PREDICTORS, TRAINING_FREE, default_threshold
from .report import compare_with_published, summarise_seeds
from .run_folder import code_fingerprint, read_config

UNITS_PER_PART = 50
"""Images whose work is lost at most by an interruption."""


@dataclass(frozen=True)
class Draw:
    """One draw of references, or one list of episodes; ``seed`` is ``None`` where the references are fixed."""

    shots: int
    seed: int | None

    @property
    def key(self) -> str:
        """Name in file names, such as ``"5shot-seed33"``."""
        return f"{self.shots}shot" + ("" if self.seed is None else f"-seed{self.seed}")


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        protocol: see :mod:`nts.datasets.protocols`.
        shots: numbers of references per class.
        seeds: of the draws; without effect where the references are fixed.
        preset: how images are read, masks proposed and matched.
        precision: of the models, such as ``"float32"``, for the report.
        limit: number of images, or of episodes in every list, to evaluate; all where ``None``.
        save_predictions: write the COCO results of every draw.
        units_per_part: images per part, whose work is lost at most by an interruption.
        episodes: number of episodes in a list.
        threshold: least score of painted instances, or least prior of foreground (episodes); the predictor's default
            where ``None``.
        side: compare masks at ``side`` pixels squared (episodes); at the size of the image where ``None``.
        predictor: one of :data:`nts.evaluation.predictors.PREDICTORS` (episodes).
        annotation: kind of annotation of the references (episodes).
        prompt: a trained reference prompt, for the predictors that need one (episodes).
        complete_labels: every object of the evaluated classes is annotated in the reference images (instances).
        background: files of images that show no class: everything in them is a negative (instances).

    Raises:
        RunError: if a number is below 1, or predictor, prompt and protocol do not fit together.
    """

    protocol: Protocol
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    preset: Preset
    precision: str = "float32"
    limit: int | None = None
    save_predictions: bool = False
    units_per_part: int = UNITS_PER_PART
    episodes: int = EPISODES_PER_FOLD
    threshold: float | None = None
    side: int | None = None
    predictor: str = TRAINING_FREE
    annotation: Annotation = MASKS
    prompt: TrainedPrompt | None = None
    complete_labels: bool = False
    background: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        try:
            default_threshold(self.predictor)
        except ValueError as error:
            raise RunError(str(error)) from None
        if (self.predictor in PROMPTED_PREDICTORS) != (self.prompt is not None):
            needs = "needs" if self.prompt is None else "has no use for"
            raise RunError(f"the predictor {self.predictor!r} {needs} a trained reference prompt")
        if self.protocol.evaluator != "episodes" and (self.predictor, self.annotation) != (TRAINING_FREE, MASKS):
            raise RunError(
                f"{self.protocol.name} evaluates instances: other predictors, and references without masks, are only "
                "for protocols of episodes"
            )
        if self.complete_labels or self.background:
            if self.protocol.evaluator == "episodes":
                raise RunError(f"{self.protocol.name} evaluates episodes, which use no negatives")
            if not self.preset.method.negatives:
                raise RunError(
                    f"the preset {self.preset.name!r} uses no negatives here, so complete labels and background images "
                    "have no effect: leave them out, or choose the preset 'default'"
                )
        counts = {
            "limit": self.limit,
            "number of episodes": self.episodes,
            "number of images per part": self.units_per_part,
            "side": self.side,
            "number of shots": min(self.shots, default=None),
        }
        for name, value in counts.items():
            if value is not None and value < 1:
                raise RunError(f"the {name} must be at least 1, got {value}")

    @property
    def used_threshold(self) -> float:
        """The threshold, or the predictor's default."""
        return default_threshold(self.predictor) if self.threshold is None else self.threshold

    @property
    def draws(self) -> tuple[Draw, ...]:
        """All pairs of a number of shots and a seed."""
        seeds = (None,) if self.protocol.draw == "shot-files" else self.seeds
        return tuple(dict.fromkeys(Draw(shots, seed) for shots in self.shots for seed in seeds))

    @property
    def result_areas(self) -> ResultAreas:
        """Source of the area of a result's mask. The published convention for boxes takes the box."""
        return "box" if self.preset.box_convention == "inclusive" else "own"


@dataclass(frozen=True, eq=False)
class Part:
    """Result of some images.

    Attributes:
        arrays: content of the file of the part.
        predictions: content of the file of COCO results of every draw, by its key; empty unless they are saved.
    """

    arrays: dict[str, np.ndarray]
    predictions: dict[str, bytes] = field(default_factory=dict)


class ProtocolRun(ABC):
    """Run of a protocol; a unit of work is a target image.

    Only :meth:`prepare` writes to the folder of the run, so that other processes can evaluate parts of it.

    Args:
        settings: of the run.
        data: data set of the protocol.
        encoder: a loaded encoder.
        segmenter: a loaded segmenter.
        folder: of the run.
        cache: of encoded references and targets; ``None`` for none.
    """

    def __init__(
        self,
        settings: Settings,
        data: ProtocolData,
        encoder: Encoder,
        segmenter: Segmenter,
        folder: Path,
        cache: TensorCache | None = None,
    ) -> None:
        self.settings, self.data, self.folder, self.cache = settings, data, folder, cache
        self.encoder, self.segmenter = encoder, segmenter
        names = {category["id"]: category["name"] for category in data.targets["categories"]}
        self.classes = {class_id: names[class_id] for class_id in data.class_ids}
        self.images = {image["id"]: image for image in data.targets["images"]}

    @property
    @abstractmethod
    def units(self) -> Sequence[int | str]:
        """Ids of the target images, in the order of evaluation."""

    @abstractmethod
    def drawn(self) -> Any:
        """Identity of all draws, as plain values."""

    @abstractmethod
    def prepare(self, progress: Callable[[str], None]) -> None:
        """Prepare the references, before the first target."""

    @abstractmethod
    def shared(self) -> tuple[ProtocolData, Any]:
        """Data for :meth:`evaluate` in another process, and the argument of :meth:`use` there.

        The data has the targets to evaluate, no others, and may lack references that are not read any more.
        """

    @abstractmethod
    def use(self, prepared: Any) -> None:
        """Get ready to evaluate in another process, instead of by :meth:`prepare`, with what that has prepared."""

    @abstractmethod
    def evaluate(self, units: Sequence[int | str], tick: Callable[[], Any]) -> Part:
        """Evaluate images; call ``tick`` after each."""

    @abstractmethod
    def numbers(self, parts: Sequence[Path]) -> dict[str, Any]:
        """Numbers of the report, from all parts."""

    def config(self) -> dict[str, Any]:
        """All settings that affect the numbers."""
        settings, preset = self.settings, self.settings.preset
        annotations = [a for a in self.data.targets["annotations"] if a["category_id"] in self.classes]
        return {
            "protocol": settings.protocol.name,
            "draw": settings.protocol.draw,
            "evaluator": settings.protocol.evaluator,
            "iou_types": settings.protocol.iou_types,
            "max_detections": settings.protocol.max_detections,
            "classes": list(self.classes.values()),
            "shots": list(dict.fromkeys(draw.shots for draw in settings.draws)),
            "seeds": list(dict.fromkeys(draw.seed for draw in settings.draws)),
            "limit": settings.limit,
            "targets": fingerprint([image_identity(self.images[unit]) for unit in self.units], annotations),
            "references": fingerprint(self.drawn()),
            **environment(self.encoder, self.segmenter),
            "points_per_side": preset.proposals.points_per_side or self.segmenter.points_per_side,
            "preset": stored_settings(preset),
            "complete_labels": settings.complete_labels,
            "background": fingerprint([[path.name, path.stat().st_size] for path in settings.background]),
            "precision": settings.precision,
            "save_predictions": settings.save_predictions,
            "units_per_part": settings.units_per_part,
        }

    @property
    def other_classes(self) -> bool:
        """Return whether classes other than those of the protocol are evaluated."""
        protocol = self.settings.protocol
        if protocol.novel_classes is not None:
            return set(self.classes.values()) != set(protocol.novel_classes)
        return protocol.class_count is not None and protocol.class_count != len(self.classes)

    def deviations(self) -> list[str]:
        """Deviations from the protocol, which make figures incomparable with the published ones."""
        protocol, found = self.settings.protocol, []
        if self.other_classes:
            wanted = protocol.class_count if protocol.novel_classes is None else len(protocol.novel_classes)
            other = len(self.classes) == wanted
            found.append(
                "other classes than the protocol's"
                if other
                else f"{len(self.classes)} classes instead of the protocol's {wanted}"
            )
        if self.data.edition and self.data.edition != protocol.edition:
            found.append(f"on the edition of {self.data.edition} instead of {protocol.edition}")
        return found

    def common_numbers(self, parts: Sequence[Path], draws: list[dict[str, Any]]) -> dict[str, Any]:
        """Entries of the report that all runs share."""
        protocol, draws = self.settings.protocol, without_nan(draws)
        summary = summarise_seeds(draws)
        seconds = np.sum(read_parts(parts, "seconds"), axis=0)
        evaluated = list(self.classes.values()) if self.other_classes else None
        deviations = self.deviations()
        return {
            "title": protocol.title,
            "protocol": protocol.name,
            "description": describe(protocol, evaluated, published=not deviations),
            "deviations": deviations,
            "limit": self.settings.limit,
            "headline": protocol.headline,
            "classes": list(self.classes.values()),
            "config": read_config(self.folder),
            "draws": draws,
            "summary": summary,
            "comparison": [] if deviations else compare_with_published(protocol, draws, summary),
            "skipped": read_lines(parts, "skipped"),
            "time": {
                "seconds": float(seconds.sum()),
                "images_per_second": len(self.units) / float(seconds.sum()),
                "from_cache": int(np.sum(read_parts(parts, "from_cache"))),
                **{
                    f"{phase}_seconds": float(of_phase)
                    for phase, of_phase in zip(Clock.PHASES[:-1], seconds, strict=False)
                    if not seconds[-1]
                },
            },
        }


def environment(encoder: Encoder, segmenter: Segmenter) -> dict[str, Any]:
    """Settings that affect the numbers of a run and may differ between machines: models, device, packages, code."""
    return {
        "encoder": asdict(encoder.info),
        "segmenter": {
            "name": segmenter.name,
            "fingerprint": segmenter.fingerprint,
            "input_size": segmenter.input_size,
        },
        "device": encoder.device.type,
        "torch": torch.__version__,
        **{package: version(package) for package in ("pillow", "pycocotools")},
        "code": code_fingerprint(),
    }


class Clock:
    """Stopwatch for reading, encoding and matching, or for all of it, where phases cannot be separated."""

    PHASES = ("read", "encode", "match", "all")

    def __init__(self) -> None:
        self.seconds = np.zeros(len(self.PHASES))
        self.start()

    def start(self) -> None:
        """Start a lap."""
        self._last = time.perf_counter()

    def lap(self, phase: str, device: torch.device | None = None) -> None:
        """Add the time since the last lap to a phase, after synchronising a GPU."""
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        self.seconds[self.PHASES.index(phase)] += now - self._last
        self._last = now


def image_identity(record: Mapping[str, Any]) -> list[Any]:
    """Record of an image without its path, and the size of its file."""
    path = Path(record["path"])
    known = {key: value for key, value in record.items() if key != "path"}
    return [known, path.stat().st_size if path.is_file() else None]
