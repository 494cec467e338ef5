"""Where a training stands: what has been done, what ends it, and what a checkpoint remembers of it."""

import math
from typing import Any

from plainloop.errors import Interrupted, MachineError
from plainloop.training.callbacks import Callback
from plainloop.training.length import Length
from plainloop.training.meter import MeanLoss
from plainloop.training.update import check_finite

# In every checkpoint: what has a state of its own, where a training stands, and what it carries on from there.
PARTS = (
    "model",
    "preprocess",
    "task",
    "optimizer",
    "schedule",
    "update",
    "average",
    "losses",
    "best",
    "train_batches",
)
POSITION = ("epoch", "batch", "step", "samples")
CARRIED = ("epoch_loss", "epoch_samples", "last_values", "last_train_loss", "validated", "stopped", "over", "ended")


class Progress:
    """What a `Trainer` keeps count of.

    Args:
        length: how much there is to be done.
        losses: since the last log point.
    """

    callbacks: dict[str, Callback]

    def __init__(self, length: Length, losses: MeanLoss):
        self.length, self.losses = length, losses
        self.epoch, self.batch, self.step, self.samples = 0, 0, 0, 0  # what has been done
        self.epoch_loss, self.epoch_samples = 0.0, 0.0
        self.last_values: dict[str, float] = {}  # of the newest validation
        self.last_train_loss = math.nan
        self.validated = -1  # the step of the newest validation
        self.over = -1  # the step with which an epoch's batches were used up; a stream alone knows when that is
        self.ended = 0  # the step at which an epoch was last ended: the run, too, has to be ended at its last one
        self.stopped = ""  # why the run ends before its length is reached
        self.signal: int | None = None  # set by a signal handler; obeyed when the step is finished

    def read_losses(self, where: str) -> float:
        """The mean loss since the last read, added to the epoch's; NaN where every step since then was skipped.
        Raises MachineError where it isn't finite."""
        total, count = self.losses.read()
        self.epoch_loss, self.epoch_samples = self.epoch_loss + total, self.epoch_samples + count
        if count == 0 and self.losses.leaves_out and self.losses.seen:
            return math.nan
        if count == 0:
            raise MachineError("train_step reported no loss: call self.losses.add(loss, size) in it.")
        check_finite(math.isfinite(total), f"the loss is {total / count} within {where}")
        return total / count

    def stop(self, reason: str) -> None:
        """End the run when the current step (or epoch's end) is done."""
        self.stopped = self.stopped or reason

    @property
    def reason(self) -> str:
        """Why the run has ended; '' while it goes on."""
        return self.stopped or self.length.reached(self.epoch, self.step)

    def finished(self) -> bool:
        """Whether the run's length is reached, or something has stopped it."""
        return bool(self.reason)

    def obey_signal(self, save: bool = True) -> None:
        """If a signal came: save where we are (what was interrupted is repeated on resume), and leave."""
        if self.signal is not None:
            if save:
                self.save()
            raise Interrupted(f"stopped by a signal{' and saved' * save} at step {self.step}.", self.signal)

    def save(self, best: bool = False) -> None:
        """Save where we are; `best`: the weights are the best so far."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain containers."""
        return {
            **{name: getattr(self, name).state_dict() for name in PARTS},
            "callbacks": {name: callback.state_dict() for name, callback in self.callbacks.items()},
            "position": {name: getattr(self, name) for name in POSITION},
            "carried": {name: getattr(self, name) for name in CARRIED},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        for name, callback in self.callbacks.items():
            callback.load_state_dict(state["callbacks"][name])
        for names, held in ((POSITION, state["position"]), (CARRIED, state["carried"])):
            for name in names:  # and nothing else that a file may hold
                kind = type(getattr(self, name))
                if type(held[name]) is not kind:
                    raise TypeError(f"{name} is a {type(held[name]).__name__}, and not a {kind.__name__}")
                setattr(self, name, held[name])
