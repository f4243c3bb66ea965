"""The nAP panel: figures of an evaluation, where they come from, and how they compare.

Each tab is a module: ``draw`` sends its data, ``render`` lays it out, ``samples_of_…`` finds what a click stands for.
The panel itself (:mod:`.panel`) has the events, and decides which tab is in front.
"""

from .panel import NAPPanel, OpenNAPPanel

__all__ = ["NAPPanel", "OpenNAPPanel"]
