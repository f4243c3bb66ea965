"""Lists of episodes for a table: one for every group of classes and number of references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .episodes import EPISODES_PER_FOLD, Episode, EpisodeImages, draw_episodes, write_episodes


@dataclass(frozen=True)
class EpisodeList:
    """Episodes of one group of classes and one number of references.

    Attributes:
        group: name of the group of classes, such as ``"novel"`` or ``"base"``.
        shots: references per episode.
        episodes: drawn once, for all predictors.
    """

    group: str
    shots: int
    episodes: tuple[Episode, ...]


def draw_lists(
    references: EpisodeImages,
    targets: EpisodeImages,
    groups: Mapping[str, Sequence[int]],
    *,
    shots: Sequence[int],
    seed: int = 0,
    count: int = EPISODES_PER_FOLD,
) -> list[EpisodeList]:
    """Draw the episodes of a table, see :func:`~nts.datasets.episodes.draw_episodes`.

    Args:
        references: source of the references.
        targets: source of the targets.
        groups: category ids by name of their group, ``{"novel": ..., "base": ...}``.
        shots: numbers of references.
        seed: of the draw.
        count: episodes per list.

    Raises:
        ValueError: if a group has no class with enough images; the message names it.
    """
    lists = []
    for group, class_ids in groups.items():
        for k in shots:
            try:
                drawn = draw_episodes(references.dataset, targets.dataset, class_ids, shots=k, seed=seed, count=count)
            except ValueError as error:
                raise ValueError(f"the {group} classes: {error}") from error
            lists.append(EpisodeList(group, k, tuple(drawn)))
    return lists


def write_lists(folder: Path, lists: Sequence[EpisodeList]) -> None:
    """Write every list to its own file, such as ``novel-5shot.json``. The folder is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for of_list in lists:
        path = folder / f"{of_list.group}-{of_list.shots}shot.json"
        write_episodes(path, of_list.episodes, group=of_list.group, shots=of_list.shots)
