"""What a problem means: what the model must return, the loss of a batch, how outputs become predictions.

    task.py              the base of all tasks
    classification.py    one of several classes, one of two, several labels
    regression.py        numbers, and how sure the model is of them
    sequences.py         a class for every place
    reconstruction.py    the input again
    losses.py            which of torch's losses fit, and what each is given
    metrics.py           sums over a split, read once at the end
    answered.py          what a model said of each sample of a split
    intervals.py         how sure a number is
    breakdown.py         where a model fails, in tables

Imports: data, ground.
"""

from plainloop.tasks.classification import Binary, Multiclass, Multilabel
from plainloop.tasks.losses import BinaryFocalLoss, FocalLoss, WeightedSum
from plainloop.tasks.metrics import (
    AUROC,
    F1,
    MAE,
    R2,
    RMSE,
    Accuracy,
    ConfusionMatrix,
    ExactMatch,
    LabelAccuracy,
    LabelF1,
    Perplexity,
    Precision,
    Recall,
)
from plainloop.tasks.reconstruction import Reconstruction
from plainloop.tasks.regression import GaussianRegression, Regression
from plainloop.tasks.sequences import SequenceLabelling
from plainloop.tasks.task import Task, forward

__all__ = [
    "AUROC",
    "F1",
    "MAE",
    "R2",
    "RMSE",
    "Accuracy",
    "Binary",
    "BinaryFocalLoss",
    "ConfusionMatrix",
    "ExactMatch",
    "FocalLoss",
    "GaussianRegression",
    "LabelAccuracy",
    "LabelF1",
    "Multiclass",
    "Multilabel",
    "Perplexity",
    "Precision",
    "Recall",
    "Reconstruction",
    "Regression",
    "SequenceLabelling",
    "Task",
    "WeightedSum",
    "forward",
]
