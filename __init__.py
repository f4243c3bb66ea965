"""FiftyOne plugin: reference-based instance segmentation without training."""


def register(plugin):
    """FiftyOne's way in. The import stays in here: pytest, too, imports this file, and as a plain module."""
    from .operators import OPERATORS

    for operator in OPERATORS:
        plugin.register(operator)
