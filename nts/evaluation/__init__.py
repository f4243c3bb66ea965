"""How good the instances are, and where the loss is.

ground truth, results -> matches -> average precision (COCO, LVIS), intervals (bootstrap), diagnostics

Everything is computed from :class:`~nts.metrics.matches.Matches`: which prediction found which annotation, at every
IoU threshold and size. What the published benchmarks evaluate, on which data, is in ``protocols``, ``layouts`` and
``sampling``; ``python -m nts.evaluation`` runs them.
"""
