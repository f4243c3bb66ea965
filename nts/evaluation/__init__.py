"""Evaluation: runs of protocols, their reports and comparison, and baselines.

``python -m nts.evaluation`` runs the protocols of :mod:`nts.datasets.protocols` and prints their tables. Metrics are in
:mod:`nts.metrics`.
"""
