"""Folders with test data."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Root of the checkout."""

SHARED = ROOT.parent / "shared"
"""Golden cases that are not part of the project; tests that need them are skipped if they are missing."""
