"""The data side of the house: data sets, splits, loaders. It knows nothing of models or training.

Read in this order: `datasets.py` (where samples come from), `splits.py` (which sample is in which split),
`fetching.py` (their order, and the seed of each), `loading.py` (how they become batches), `workers.py` (in which
processes). Beside them each kind of data has a file of its own, which none of these knows.
"""

from plainloop.data.datasets import InMemory, arrays, points
from plainloop.data.fetching import each_sample, first_sample
from plainloop.data.loading import Loader, make_loader
from plainloop.data.splits import Data, Division, build_data, check_classes, class_names_of, targets_of
from plainloop.data.tables import table
from plainloop.data.torchvision_sets import fake, torchvision_set

__all__ = [
    "Data",
    "Division",
    "InMemory",
    "Loader",
    "arrays",
    "build_data",
    "check_classes",
    "class_names_of",
    "each_sample",
    "fake",
    "first_sample",
    "make_loader",
    "points",
    "table",
    "targets_of",
    "torchvision_set",
]
