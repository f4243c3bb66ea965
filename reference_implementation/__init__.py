"""The published recipe, written plainly: the oracle of tests and the baseline of benchmarks."""
