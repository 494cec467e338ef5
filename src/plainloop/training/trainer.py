"""The loop: zero_grad, forward, loss, backward, step; and around it epochs, log points, validation, stopping.

Everything comes in as ordinary objects: this room knows nothing of Hydra, of TensorBoard or of files. What the loop
needs to decide (precision, clipping, the run's length, which weights are best) is decided before it.

A *step* is an optimizer step: over one batch, or over a window of `accumulate_steps` batches.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from plainloop.data.loader import Loader
from plainloop.errors import MachineError
from plainloop.models.freezing import train_mode
from plainloop.seeding import StepSeed
from plainloop.tasks.task import Task
from plainloop.training import evaluation
from plainloop.training.averaging import NoAverage
from plainloop.training.batches import Preparation, windows
from plainloop.training.callbacks import Callback, Hooks
from plainloop.training.length import Length
from plainloop.training.meter import MeanLoss, Rates
from plainloop.training.progress import Progress
from plainloop.training.schedule import Schedule
from plainloop.training.selection import Selection
from plainloop.training.update import Update


class Trainer(Progress):
    """Trains a model: `Trainer(model, task, update, schedule, prepare, batches).fit()`.

    A subclass may override `train_step`; docs/fork.md says what it may use.

    Args:
        model: the network, on the device.
        task: the loss of a batch, metrics, predictions.
        update: one of torch's optimizers, with what surrounds its steps.
        schedule: of its learning rate.
        prepare: what happens to a batch before the model.
        train_batches, val_batches: loaders; without val_batches nothing is selected.
        accumulate_steps: batches in a step.
        length: epochs, steps, and when to validate.
        selection: the quantity that selects the best weights, and stops early.
        average: of the weights, to be validated in their place.
        seed_step: called with the step's number before each step, so that what a step draws follows from it.
        callbacks: name -> callback of the user's.
        hooks: what whoever runs the trainer is told, and does: logging, a progress bar, saving.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        update: Update,
        schedule: Schedule,
        prepare: Preparation,
        train_batches: Loader,
        val_batches: Loader | None = None,
        *,
        accumulate_steps: int = 1,
        length: Length | None = None,
        selection: Selection | None = None,
        average: NoAverage | None = None,
        seed_step: Callable[[int], None] | None = None,
        callbacks: Mapping[str, Callback] | None = None,
        hooks: Hooks | None = None,
    ):
        super().__init__(length or Length(), MeanLoss(update.leaves_out))
        self.model, self.task, self.update, self.schedule = model, task, update, schedule
        self.optimizer = update.optimizer
        self.prepare, self.preprocess, self.device = prepare, prepare.preprocess, prepare.device
        self.train_batches, self.val_batches, self.accumulate_steps = train_batches, val_batches, accumulate_steps
        self.best, self.average = selection or Selection(), average or NoAverage()
        self.callbacks, self.hooks = dict(callbacks or {}), hooks or Hooks()
        self.seed_step = seed_step or StepSeed(0, self.device)
        self.network: Any = model  # what is called: the model, or what torch.compile makes of it
        self.forward = prepare.forward(task.loss_of)
        # Whether batches count by their class weights. Mixed labels have none: torch's mean is one over samples then.
        self.weighted = task.weighted and not (prepare.augment is not None and prepare.augment.mixes)
        self.rates = Rates()
        self.trained_on: Any = None  # the newest batch of a step that is logged, as the model saw it

    # --- the run ------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the length is reached or something stops the run; `reason` says what."""
        train_mode(self.model)
        for callback in self.callbacks.values():
            callback.on_start(self)
        self.rates.start(self.samples)
        while not self.finished() or self.ended != self.step:  # or interrupted before what belongs to the last step
            whole = self.train_epoch()
            self.end_epoch(whole)
        for callback in self.callbacks.values():
            callback.on_end(self)

    def train_epoch(self) -> bool:
        """Steps until the epoch's batches are used up, or the run ends; whether they are used up."""
        self.validate_within()  # what a signal has interrupted
        if self.stopped or self.step == self.length.max_steps:
            return self.over == self.step or self.batch == self.train_batches.batches
        batches = self.train_batches.epoch(self.epoch, first_batch=self.batch)
        for window in self.hooks.progress(windows(batches, self.accumulate_steps), self):
            logging = (self.step + 1) % self.hooks.log_every == 0
            self.seed_step(self.step)
            self.update.keep()
            outputs, grad_norm = self.train_step(window, logging)
            self.schedule.step()
            self.average.end_step()
            self.step += 1
            self.batch += len(window)
            self.samples = self.losses.seen
            if logging:
                self.log_point(window[-1], outputs, grad_norm)
            if self.length.validate_steps:
                self.validate_within()
            if self.hooks.due(self, False):
                self.save()
            if self.signal is not None:
                self.obey_signal()
            if self.stopped or self.step == self.length.max_steps:
                return self.batch == self.train_batches.batches
        if self.batch == 0:
            raise MachineError(f"the training data gave no batch in epoch {self.epoch + 1}.")
        return True

    def train_step(self, window: Sequence[Any], logging: bool) -> tuple[Any, Tensor | None]:
        """One optimizer step over a window of batches (one, unless gradients are accumulated).

        Override it for another kind of step. It must tell each batch's loss to `self.losses.add(loss, size)`; it
        returns the last batch's outputs and the gradient's norm, or None: both are looked at when `logging`.
        """
        sizes = [self.task.size(batch) for batch in window]
        if 0 in sizes:
            raise MachineError(evaluation.nothing_counts(self.task, "batch") + " Raise loader.batch_size.")
        shares = [self.task.share(batch) for batch in window] if self.weighted else sizes
        self.update.zero_grad()
        for number, batch in enumerate(window):
            batch = self.prepare.training(batch)
            loss, outputs = self.forward(self.network, batch)
            self.losses.add(loss, sizes[number], shares[number])
            if len(window) > 1:
                loss = loss * (shares[number] / sum(shares))  # the window's mean is one over its samples
            self.update.backward(loss)
        grad_norm = self.update.clip(measure=logging)
        self.update.step()
        self.trained_on = batch if logging else None
        return outputs, grad_norm

    # --- log points, epochs, validation -------------------------------------------------------------------

    def log_point(self, batch: Any, outputs: Any, grad_norm: Tensor | None) -> None:
        """Where the loop waits for the device: between log points only what reads a number at every step does (class
        weights, skipped steps, a validation)."""
        loss = self.read_losses(f"the last {self.hooks.log_every} steps before step {self.step}")
        norm = None if grad_norm is None else float(grad_norm)
        checked = self.update.check(norm, self.step)
        # The batch as the model saw it, augmented (unless a train_step of the user's own doesn't say).
        seen = self.prepare(batch) if self.trained_on is None else self.trained_on
        values = evaluation.of_batch(self.task, outputs, seen)
        self.trained_on, self.last_train_loss = None, loss
        record = {"step": self.step, "epoch": self.epoch + 1, "train/loss": loss}
        record |= {f"train/{name}": value for name, value in values.items()} | self.schedule.rates()
        record |= {
            "grad_norm": math.nan if norm is None else norm,
            "samples_per_second": self.rates.log.read(self.samples),
        }
        self._record(record | checked)

    def end_epoch(self, whole: bool) -> None:
        """Validate, record and save where it is due: when the epoch's batches are done, or the run ends within it.

        The position moves on to the next epoch only after the validation, so that one which is interrupted is
        repeated when the run is resumed.
        """
        self.rates.pause(self.samples)
        record: dict[str, Any] = {"step": self.step, "epoch": self.epoch + 1, **self.schedule.rates()}
        if whole:
            self._end_batches(record)
        last = bool(self.stopped or self.length.reached(self.epoch + whole, self.step))
        if last and math.isnan(self.last_train_loss):  # the run ends before its first log point
            self.last_train_loss = self.losses.mean()
        self.update.check_epoch(self.step, last, learned=not whole or self.epoch_samples > 0)
        due = self.length.validates_after((self.epoch + 1) * whole, self.step, last)
        better = due and self._validated_into(record)
        self.ended = self.step
        if whole:
            self.schedule.end_epoch()
            self.epoch, self.batch, self.epoch_loss, self.epoch_samples = self.epoch + 1, 0, 0.0, 0.0
        if whole or any(name.startswith("val/") for name in record):  # else there is nothing new in it
            self._record(record, epoch_ended=True)
        if better or self.finished() or self.hooks.due(self, True):
            self.save(better)
        self.rates.start(self.samples)

    def _end_batches(self, record: dict[str, Any]) -> None:
        """What is known when an epoch's batches are used up: its training loss, and an average of the weights."""
        self.over = self.step
        if self.losses.count or self.losses.waiting or self.epoch_samples == 0:
            self.read_losses(f"epoch {self.epoch + 1}")
        loss = self.epoch_loss / self.epoch_samples if self.epoch_samples else math.nan
        self.last_train_loss = record["train/epoch_loss"] = loss
        record["samples_per_second"] = self.rates.epoch.read(self.samples)
        below = self.length.stop_below
        if below is not None and loss < below:
            self.stop(f"the training loss {loss:.4g} is below trainer.stop_below={below}")
        self.average.end_epoch(self)
        self.obey_signal()

    def validate_within(self) -> None:
        """A validation that is due within an epoch; at its end, and at the run's, `end_epoch` does it."""
        at_end = self.batch == self.train_batches.batches or self.step == self.length.max_steps
        if at_end or not self.length.validates_within(self.step):
            return
        self.rates.pause(self.samples)
        record: dict[str, Any] = {"step": self.step, "epoch": self.epoch + 1}
        better = self._validated_into(record)
        if len(record) > 2:
            self._record(record)
        if better:
            self.save(best=True)
        self.rates.start(self.samples)

    def _validated_into(self, record: dict[str, Any]) -> bool:
        """Validate, unless these weights have been; whether they are the best so far."""
        if self.val_batches is None or self.validated == self.step:
            return False
        values = self.validate()
        self.validated, self.last_values = self.step, values
        record |= {f"val/{name}": value for name, value in values.items()}
        monitored = record[self.best.monitor]
        better = self.best.better(monitored, values["loss"], self.epoch + 1, self.step)
        if self.best.exhausted:
            self.stop(f"{self.best.monitor} has not become better in {self.best.stale} validations (early stopping)")
        self.schedule.end_validation(monitored)
        return better

    def validate(self) -> dict[str, float]:
        """Loss and metrics over the validation split, without the prefix "val/"."""
        assert self.val_batches is not None
        network = self.average.chosen or self.network
        return evaluation.measure(network, self.task, self.val_batches.epoch(), self.prepare, self.obey_signal)

    def _record(self, record: dict[str, Any], epoch_ended: bool = False) -> None:
        self.hooks.log(record)
        for callback in self.callbacks.values():
            (callback.on_epoch_end if epoch_ended else callback.on_log)(self, record)

    # --- what must be remembered --------------------------------------------------------------------------

    def save(self, best: bool = False) -> None:
        """Save where we are, unless the weights are lost; `best`: these are the best so far."""
        self.update.check_weights(f"at step {self.step} and aren't saved")
        self.hooks.save(self.state_dict(), best)
