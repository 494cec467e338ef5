"""The loop, and what it is made of. Everything comes in as ordinary objects.

    trainer.py             epochs, steps, log points, validation, stopping
    batches.py             a batch on its way to the model
    evaluation.py          the eval-mode pass
    update.py              backward, clipping, step; precision, and gradients that aren't finite
    randomness.py          whether a step draws anything
    meter.py               the mean of the losses, and how fast it goes
    length.py              how long a run is, and when it validates
    selection.py           the best weights, early stopping
    progress.py            where a training stands
    averaging.py           averages of the weights
    optimizer.py           optimizers, one or several
    parameter_groups.py    which parameters get which options
    schedule.py            the learning rate over the run
    lbfgs.py               a step that evaluates the loss itself
    callbacks.py           what a user hangs in

Imports: tasks, data, models, ground.
"""

from plainloop.training.callbacks import Callback
from plainloop.training.optimizer import Several
from plainloop.training.trainer import Trainer

__all__ = ["Callback", "Several", "Trainer"]
