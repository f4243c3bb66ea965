"""Worlds of drawn scenes: the benchmark, and others to choose methods and constants on.

A world has ten novel species among distractors. Choices are made on the validation worlds; the benchmark only confirms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nts.references import Reference
from synthetic.scenes import DISTRACTOR_SPECIES, NOVEL_SPECIES, Scene, draw_scene, species_name


@dataclass(frozen=True)
class World:
    """Species and seeds of drawn scenes.

    Attributes:
        name: of the world.
        novel: species to find.
        distractors: other species.
        seeds: of target scenes and of reference scenes.
    """

    name: str
    novel: Sequence[int]
    distractors: Sequence[int]
    seeds: tuple[int, int]

    def targets(self, count: int) -> list[Scene]:
        """Target images: novel species among distractors, slightly more objects of the former."""
        pool = [*self.novel * 3, *self.distractors]
        return [draw_scene([self.seeds[0], number], pool) for number in range(count)]

    def references(self, species: int, count: int, *, clean: bool = True) -> list[Scene]:
        """Images with one well visible member of a species, the first object, among other objects.

        Args:
            species: of the first object.
            count: number of images.
            clean: the other objects are distractors; else about half of them are of the novel species, without a label.
        """
        others = self.distractors if clean else [*self.novel * 2, *self.distractors]
        return [draw_scene([self.seeds[1], species, i], others, featured=species) for i in range(count)]


def as_reference(scene: Scene, species: int, number: int) -> Reference:
    """The featured object of a reference scene."""
    sample_id = f"{species}-{number}"
    return Reference(scene.image, species_name(species), scene.masks[0], sample_id=sample_id, label_id=sample_id)


def _validation(name: str, first: int, distractors: int, seed: int) -> World:
    """A world like the benchmark: two pairs of look-alikes, and six distractors that resemble a novel species."""
    novel = tuple(first + offset for offset in (0, 1, 2, 3, 4, 6, 8, 10, 12, 14))
    impostors = [first + offset for offset in (5, 7, 9, 11, 13, 15)]
    return World(name, novel, (*impostors, *range(distractors, distractors + 18)), (seed, seed + 1))


BENCHMARK = World("benchmark", tuple(NOVEL_SPECIES), tuple(DISTRACTOR_SPECIES), (72, 73))
WORLDS = {
    world.name: world
    for world in (
        BENCHMARK,
        _validation("validation-1", 50_000, 60_000, 172),
        _validation("validation-2", 52_000, 62_000, 174),
        _validation("validation-3", 54_000, 64_000, 176),
    )
}
"""All worlds by name."""
