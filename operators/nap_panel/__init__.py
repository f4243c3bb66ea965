"""The nAP panel: figures of an evaluation, their causes, and comparisons.

Each tab is a module: ``draw`` sends its data, ``render`` lays it out, ``samples_of_…`` finds the samples of a click.
The panel itself (:mod:`.panel`) has the events and the header.
"""

from .panel import NAPPanel, OpenNAPPanel

__all__ = ["NAPPanel", "OpenNAPPanel"]
