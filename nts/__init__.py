"""Reference-based instance segmentation without training: the engine, usable without FiftyOne.

images -> references -> memory -> proposals -> matching -> merging -> instances -> evaluation
"""

__version__ = "0.1.0"
