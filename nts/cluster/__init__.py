"""Segmenting on several machines, by Ray."""
