"""The loop, and what it is made of. Everything comes in as ordinary objects.

    trainer.py             epochs, steps, log points, validation, stopping
    batches.py             a batch on its way to the model
    evaluation.py          the eval-mode pass
    meter.py               the mean of the losses
    selection.py           the best weights, early stopping
    progress.py            how fast it goes
    nonfinite.py           steps that are left out
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
