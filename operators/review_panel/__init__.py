"""The panel beside the grid in which predictions are reviewed: accepted, rejected, corrected, and taught.

The grid shows the predictions as patches, :mod:`.choices` says which, and :mod:`.panel` has the buttons.
"""

from .panel import OpenReviewPanel, ReviewPanel

__all__ = ["OpenReviewPanel", "ReviewPanel"]
