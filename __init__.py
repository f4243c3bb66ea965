"""FiftyOne plugin and source of zoo models: training-free, reference-based instance segmentation.

Imports are inside the functions because pytest also imports this file, as a plain module, where relative imports fail.
"""


def register(plugin):
    """Register the operators and panels. FiftyOne calls it when it loads plugins."""
    from .operators import OPERATORS

    for operator in OPERATORS:
        plugin.register(operator)


def download_model(model_name, model_path):
    """Fetch the weights of a model of ``manifest.json``. FiftyOne's model zoo calls it."""
    from .nts.fiftyone_adapter import zoo

    zoo.download_model(model_name, model_path)


def load_model(model_name, model_path, **kwargs):
    """Load a model of ``manifest.json``. FiftyOne's model zoo calls it with the arguments of ``load_zoo_model``."""
    from .nts.fiftyone_adapter import zoo

    return zoo.load_model(model_name, **kwargs)
