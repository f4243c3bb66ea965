"""The panel of runs: jobs at work, the outcome of the last one, and everything that the plugin stores in the dataset.

:mod:`.stored` is the list of stored runs, :mod:`.outcome` shows an outcome, and :mod:`.panel` has the events.
"""

from .panel import OpenRunsPanel, RunsPanel

__all__ = ["OpenRunsPanel", "RunsPanel"]
