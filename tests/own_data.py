"""A custom data set of drawn scenes, as arguments of `python -m nts.evaluation run custom`."""

from __future__ import annotations

import json
from pathlib import Path

from synthetic.scenes import NOVEL_SPECIES, reference_scenes, target_scenes, write_coco


def write_own_data(folder: Path) -> tuple[str, ...]:
    """Write COCO files of two classes and four targets, `targets/data/*.png`, and return the arguments for them."""
    species = NOVEL_SPECIES[:2]
    sets = {
        "references": [scene for number in species for scene in reference_scenes(number, 1)],
        "targets": [scene for scene in target_scenes(40) if set(scene.species.tolist()) & set(species)][:4],
    }
    arguments = []
    for name, scenes in sets.items():
        arguments += [f"--{name}", str(write_coco(folder / name, scenes, species))]
        labels = json.loads(Path(arguments[-1]).read_text())
        for image in labels["images"]:
            image["file_name"] = f"data/{image['file_name']}"
        Path(arguments[-1]).write_text(json.dumps(labels))
    return tuple(arguments)
