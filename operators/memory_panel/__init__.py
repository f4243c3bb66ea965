"""The panel of a reference memory: pictures of its references, similarity of its classes, and leave one out.

Each tab is a module: ``draw`` sends its data, ``render`` lays it out. The panel itself (:mod:`.panel`) has the events,
and decides which tab is in front; :mod:`.state` holds the person's choices.
"""

from .panel import MemoryPanel, OpenMemoryPanel

__all__ = ["MemoryPanel", "OpenMemoryPanel"]
