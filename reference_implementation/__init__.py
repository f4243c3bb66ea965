"""Published method, implemented plainly: oracle of the tests and baseline of the benchmarks."""
