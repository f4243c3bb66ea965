"""Training of visual reference prompts on labelled classes (VRP-SAM, Sec. 3.4), for use on classes never seen.

labelled images -> class split -> episodes -> frozen features, simulated annotations -> batches -> loss -> best weights
"""

from .classes import LEAST_CLASSES, ClassSplit, images_of_classes, split_classes
from .config import FEW_CLASSES, PAPER, TrainingConfig, TrainingError, default_vrp
from .features import FEATURES_BUDGET, FeatureStore
from .loop import Progress, TrainingReport, run_training, train
from .loss import mask_loss

__all__ = [
    "FEATURES_BUDGET",
    "FEW_CLASSES",
    "LEAST_CLASSES",
    "PAPER",
    "ClassSplit",
    "FeatureStore",
    "Progress",
    "TrainingConfig",
    "TrainingError",
    "TrainingReport",
    "default_vrp",
    "images_of_classes",
    "mask_loss",
    "run_training",
    "split_classes",
    "train",
]
