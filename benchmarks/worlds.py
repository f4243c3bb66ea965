"""Worlds of drawn scenes: the benchmarks, and others to choose methods and constants on.

A world has ten novel species among distractors. Choices are made on the validation worlds; the benchmarks only confirm.
The scenes of the natural worlds are those of :mod:`synthetic.natural`, with larger objects in natural light; those of
the large worlds, of :mod:`synthetic.large`, are large images with small objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nts.references import Reference
from synthetic.large import draw_large_scene
from synthetic.natural import draw_natural_scene
from synthetic.scenes import DISTRACTOR_SPECIES, NOVEL_SPECIES, Scene, draw_scene, species_name


@dataclass(frozen=True)
class World:
    """Species and seeds of drawn scenes.

    Attributes:
        name: of the world.
        novel: species to find.
        distractors: other species.
        seeds: of target scenes and of reference scenes.
        natural: larger objects, in natural light.
        large: large images with many small objects.
    """

    name: str
    novel: Sequence[int]
    distractors: Sequence[int]
    seeds: tuple[int, int]
    natural: bool = False
    large: bool = False

    def targets(self, count: int) -> list[Scene]:
        """Target images: novel species among distractors, slightly more objects of the former."""
        pool = [*self.novel * 3, *self.distractors]
        return [self._draw([self.seeds[0], number], pool) for number in range(count)]

    def references(self, species: int, count: int, *, clean: bool = True) -> list[Scene]:
        """Images with one well visible member of a species, the first object, among other objects.

        Args:
            species: of the first object.
            count: number of images.
            clean: the other objects are distractors; else about half of them are of the novel species, without a label.
        """
        others = self.distractors if clean else [*self.novel * 2, *self.distractors]
        return [self._draw([self.seeds[1], species, i], others, featured=species) for i in range(count)]

    @property
    def _draw(self) -> Callable[..., Scene]:
        if self.large:
            return draw_large_scene
        return draw_natural_scene if self.natural else draw_scene


def as_reference(scene: Scene, species: int, number: int) -> Reference:
    """The featured object of a reference scene."""
    sample_id = f"{species}-{number}"
    return Reference(scene.image, species_name(species), scene.masks[0], sample_id=sample_id, label_id=sample_id)


def _world(name: str, first: int, distractors: int, seed: int, **kind: bool) -> World:
    """A world like the benchmark: two pairs of look-alikes, and six distractors that resemble a novel species."""
    novel = tuple(first + offset for offset in (0, 1, 2, 3, 4, 6, 8, 10, 12, 14))
    impostors = [first + offset for offset in (5, 7, 9, 11, 13, 15)]
    return World(name, novel, (*impostors, *range(distractors, distractors + 18)), (seed, seed + 1), **kind)


BENCHMARK = World("benchmark", tuple(NOVEL_SPECIES), tuple(DISTRACTOR_SPECIES), (72, 73))
WORLDS = {
    world.name: world
    for world in (
        BENCHMARK,
        _world("validation-1", 50_000, 60_000, 172),
        _world("validation-2", 52_000, 62_000, 174),
        _world("validation-3", 54_000, 64_000, 176),
        _world("natural", 34_000, 44_000, 182, natural=True),
        _world("natural-validation", 56_000, 66_000, 184, natural=True),
        _world("large", 36_000, 46_000, 192, large=True),
        _world("large-validation", 58_000, 68_000, 194, large=True),
    )
}
"""All worlds by name."""
