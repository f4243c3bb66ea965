"""Drawn scenes with exact masks, and tiny datasets of them in the layouts of published benchmarks."""
