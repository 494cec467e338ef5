"""The data side of the house: data sets, splits, loaders. It knows nothing of models or training.

Read in this order: `datasets.py` (where samples come from), `splits.py` (which sample is in which split),
`loading.py` (their order, and how they become batches).
"""

from plainloop.data.datasets import InMemory, arrays, points, torchvision_set
from plainloop.data.loading import Loader, make_loader
from plainloop.data.splits import Data, build_data, check_classes, class_names_of, targets_of
from plainloop.data.tables import table

__all__ = [
    "Data",
    "InMemory",
    "Loader",
    "arrays",
    "build_data",
    "check_classes",
    "class_names_of",
    "make_loader",
    "points",
    "table",
    "targets_of",
    "torchvision_set",
]
