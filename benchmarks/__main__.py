"""Run the accuracy and speed benchmarks: `python -m benchmarks`. Each is also a module with its own options.

Results and plots of the speed benchmarks are written to `benchmarks/results`.
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
