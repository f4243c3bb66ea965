"""Folders that tests read from."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

SHARED = ROOT.parent / "shared"
"""Cases with known answers that are not part of the project; tests that need them are skipped without."""
