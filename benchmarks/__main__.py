"""Accuracy, then speed: `python -m benchmarks`. Each is a module of its own, with options.

Numbers and pictures of the speed go to `benchmarks/results`.
"""

from benchmarks import fast, growth, levers, scenes, second_run, speed

scenes.run()
print()
for models in ("small", "released"):
    speed.run(models)
    speed.run(models, "fast")
    second_run.run(models)
fast.run()
levers.run()
growth.run()
