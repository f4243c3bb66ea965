"""Transduction: confident predictions on the targets join the references, and all targets are matched again.

It helps with one reference per class, and no longer with five. The instances of a target then depend on the other
targets, so it is an option, and tables name it.
"""

from __future__ import annotations

from .instances import Instances
from .memory import MemoryBank, MemoryEntry

MOST_PER_CLASS = 10
"""Predictions that join a class."""
LEAST_SCORE = 0.5
"""Predictions of at least this score join."""


class ConfidentPredictions:
    """The predictions of the highest scores of each class.

    Args:
        memory: the memory that they are found with.
    """

    def __init__(self, memory: MemoryBank) -> None:
        self._memory = memory
        self._best: dict[str, list[tuple[float, MemoryEntry]]] = {name: [] for name in memory.classes}

    def add(self, instances: Instances) -> None:
        """Add the instances of a target, whose labels index the classes of the memory."""
        for k in (instances.scores >= LEAST_SCORE).nonzero()[:, 0].tolist():
            name = self._memory.classes[int(instances.labels[k])]
            entry = MemoryEntry(name, instances.compared[k], whole_prototype=instances.features[k])
            self._best[name].append((float(instances.scores[k]), entry))
            self._best[name].sort(key=lambda scored: -scored[0])
            del self._best[name][MOST_PER_CLASS:]

    def joined(self) -> MemoryBank:
        """A memory of the references and negatives, followed by the predictions, which have no label ids."""
        memory = MemoryBank(self._memory.encoder, self._memory.preset, self._memory.created)
        memory.merge(self._memory)
        for of_class in self._best.values():
            for _, entry in of_class:
                memory.add(entry)
        return memory
