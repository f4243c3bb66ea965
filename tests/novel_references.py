"""References of novel species, for tests of the engine."""

from __future__ import annotations

from nts.references import Reference
from synthetic.scenes import NOVEL_SPECIES, reference_scenes, species_name


def novel_references(classes: int, shots: int) -> list[Reference]:
    """References of the first novel species, with unique label ids."""
    return [
        Reference(scene.image, species_name(number), scene.masks[0], label_id=f"{number}-{i}")
        for number in NOVEL_SPECIES[:classes]
        for i, scene in enumerate(reference_scenes(number, shots))
    ]
