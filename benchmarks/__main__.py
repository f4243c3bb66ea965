"""Accuracy, then speed: `python -m benchmarks`. Each is a module of its own, with options.

Numbers and pictures of the speed go to `benchmarks/results`.
"""

from benchmarks import growth, levers, scenes, speed

scenes.run()
print()
speed.run("small")
speed.run("released")
levers.run()
growth.run()
