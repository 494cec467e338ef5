"""The data side of the house: data sets, splits, loaders. It knows nothing of models or training.

Read in this order: `datasets.py` (where samples come from), `splits.py` (which sample is in which split),
`fetching.py` (their order, and the seed of each), `loading.py` (how they become batches), `workers.py` (in which
processes).
"""

from plainloop.data.datasets import InMemory, arrays, points, torchvision_set
from plainloop.data.fetching import each_sample, first_sample
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
    "each_sample",
    "first_sample",
    "make_loader",
    "points",
    "table",
    "targets_of",
    "torchvision_set",
]
