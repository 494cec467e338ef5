"""Samples and batches. This room knows nothing of models or training.

    dataset.py       where samples come from, and all that is asked of them
    splits.py        which sample is in which split
    classes.py       the classes of a data set
    order.py         in which order, and in which batch
    fetch.py         how a batch's samples are fetched, each under a seed of its own
    stream.py        the same for data that can only be walked through
    loader.py        how they become batches
    workers.py       in which processes
    transforms.py    what happens to a sample where it is loaded
    augment.py       what happens to training batches on the device
    preprocess.py    what happens to every batch there: one normalisation for all kinds of data
    reading.py       new inputs, read as a run's own were
    raw.py           the same, for an exported file that reads nothing itself; resizing.py: images there
    digest.py, overlap.py    whether data has changed, and whether splits share samples

Each kind of data has a file in kinds/, which none of these knows; its factory is named `plainloop.data.NAME`.

Imports: config, ground.
"""

from plainloop.build import hands_on
from plainloop.data.classes import check_classes, class_names_of
from plainloop.data.dataset import BaseDataset, InMemory, targets_of
from plainloop.data.fetch import each_sample, first_sample
from plainloop.data.loader import Loader, make_loader
from plainloop.data.splits import Data, Division, build_data

__all__ = [
    "BaseDataset",
    "Data",
    "Division",
    "InMemory",
    "Loader",
    "build_data",
    "check_classes",
    "class_names_of",
    "each_sample",
    "first_sample",
    "make_loader",
    "targets_of",
]
__getattr__ = hands_on(__name__, "kinds")
