"""Accuracy, then time: `python -m benchmarks`. Each is a module of its own, with options."""

from benchmarks import scenes, stages

scenes.run()
print()
stages.run()
