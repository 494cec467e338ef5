"""The loop: zero_grad, forward, loss, backward, step; and around it epochs, log points, validation, stopping.

Everything comes in as ordinary objects: this room knows nothing of Hydra, of TensorBoard or of files. What the
loop needs to decide (precision, clipping, accumulation) is decided before it.

A *step* is an optimizer step: one batch, or a window of `accumulate_steps` batches.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.data import Loader
from plainloop.data.augment import Augment
from plainloop.errors import Interrupted, MachineError
from plainloop.models.freezing import train_mode
from plainloop.seeding import StepSeed
from plainloop.tasks.metrics import compute_all, reset_all
from plainloop.tasks.task import Task
from plainloop.training import batches, evaluation
from plainloop.training.averaging import EMA, SWA, Average
from plainloop.training.callbacks import Callback
from plainloop.training.meter import MeanLoss
from plainloop.training.nonfinite import SkipNonfinite
from plainloop.training.progress import Rate
from plainloop.training.schedule import Schedule
from plainloop.training.selection import Selection

CPU = torch.device("cpu")
# What a checkpoint holds of a trainer: the state of its parts, where it stands, and what it carries on from there.
PARTS = ("model", "preprocess", "task", "optimizer", "schedule", "scaler", "losses", "best", "train_batches")
POSITION = ("epoch", "batch", "step", "samples")
CARRIED = ("epoch_loss", "epoch_samples", "last_values", "last_train_loss", "validated", "stopped", "over", "ended")
MANY = 20  # steps in a row that may be skipped before the run is given up


class Trainer:
    """Trains a model: `Trainer(model, task, ...).fit()`.

    Args:
        model: the network, on the device; `task.loss_of(model, batch)` is called on it.
        task: the loss of a batch, metrics, predictions.
        optimizer, schedule: over the model's parameters.
        preprocess: applied to every batch's inputs on the device.
        augment: applied around it to training batches.
        train_batches, val_batches: loaders; without val_batches nothing is selected.
        max_epochs, max_steps: the run's length, whichever comes first.
        validate_every: epochs between validations, or steps as in "500s"; 0 for never.
        monitor, mode: the validation quantity that selects, as "val/accuracy", and "max" or "min".
        patience, min_delta: early stopping after so many validations without a better value.
        ema_decay: keep a moving average of the weights, and validate with it.
        swa_start: keep the mean of the weights at epochs' ends from this one on, and validate with it.
        nonfinite: "stop" the run at a loss or gradient that is NaN or infinite, or "skip" such steps.
        callbacks: name -> callback.
        log: called with every record: at log points and after epochs.
        progress: wraps the iterator over an epoch's windows (a progress bar).
        save: called with (state, best) when a checkpoint is due; `due` decides when that is.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        preprocess: nn.Module,
        train_batches: Loader,
        val_batches: Loader | None = None,
        *,
        device: torch.device = CPU,
        seed: int = 0,
        max_epochs: int = 1,
        max_steps: int | None = None,
        precision: str = "fp32",
        accumulate_steps: int = 1,
        max_grad_norm: float | None = None,
        augment: Augment | None = None,
        compile: bool = False,
        channels_last: bool = False,
        log_every: int = 50,
        validate_every: int | str = 1,
        stop_below: float | None = None,
        ema_decay: float | None = None,
        swa_start: int | None = None,
        nonfinite: str = "stop",
        monitor: str = "val/loss",
        mode: str = "min",
        patience: int | None = None,
        min_delta: float = 0.0,
        callbacks: Mapping[str, Callback] | None = None,
        log: Callable[[dict[str, Any]], None] = lambda record: None,
        progress: Callable[[Iterable[Any], "Trainer"], Iterable[Any]] = lambda windows, trainer: windows,
        save: Callable[[dict[str, Any], bool], None] = lambda state, best: None,
        due: Callable[["Trainer", bool], bool] = lambda trainer, epoch_ended: False,
    ):
        self.model, self.task, self.optimizer, self.schedule = model, task, optimizer, schedule
        self.train_batches, self.val_batches = train_batches, val_batches
        self.preprocess, self.device = preprocess, device
        self.max_epochs, self.max_steps, self.accumulate_steps = max_epochs, max_steps, accumulate_steps
        self.max_grad_norm, self.log_every, self.stop_below = max_grad_norm, log_every, stop_below
        text = str(validate_every)
        self.validate_steps = int(text[:-1]) if text.endswith("s") else 0
        self.validate_epochs = 0 if text.endswith("s") else int(text)
        self.monitor = monitor
        self.best = Selection(1.0 if mode == "max" else -1.0, patience, min_delta)
        self.callbacks, self.log, self.progress = dict(callbacks or {}), log, progress
        self.save, self.due = save, due

        self.network: Any = torch.compile(model) if compile else model
        self.prepare = batches.preparation(preprocess, device, channels_last)
        self.prepare_training = batches.preparation(preprocess, device, channels_last, augment)
        self.autocast = batches.autocast(device, precision)
        self.skips = nonfinite == "skip"
        # Whether batches count by their class weights. Mixed labels have none: torch's mean is one over samples then.
        self.weighted = task.weighted and not (augment is not None and augment.mixes)
        fp16 = precision == "fp16"
        # Passes the call on, unless the precision is fp16 (which leaves out steps that aren't finite by itself).
        self.scaler: Any = torch.amp.GradScaler(device.type, enabled=fp16)
        if self.skips and not fp16:
            self.scaler = SkipNonfinite(device, [*model.buffers(), *preprocess.buffers(), *task.buffers()])
        self.keep: Callable[[], None] = getattr(self.scaler, "keep", lambda: None)
        self.ema = EMA(model, ema_decay) if ema_decay is not None else None
        self.swa = SWA(model, swa_start) if swa_start is not None else None
        self.average: Average | None = self.ema or self.swa
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # A step of the user's own may well draw with NumPy: mixup, say.
        self.seed_step = StepSeed(seed, device, everything=type(self).train_step is not Trainer.train_step)

        self.epoch, self.batch, self.step, self.samples = 0, 0, 0, 0  # position: what has been done
        self.losses = MeanLoss(leave_out=self.skips)  # since the last log point
        self.trained_on: Any = None  # the newest batch of a step that is logged
        self.epoch_loss, self.epoch_samples = 0.0, 0.0
        self.last_values: dict[str, float] = {}  # of the newest validation
        self.last_train_loss = math.nan
        self.rates = {"log": Rate(), "epoch": Rate()}
        self.validated = -1  # the step of the newest validation
        self.over = -1  # the step with which an epoch's batches were used up; a stream alone knows when that is
        self.ended = 0  # the step at which an epoch was last ended: the run, too, has to be ended at its last one
        self.stopped = ""  # why the run ends before its length is reached
        self.signal: int | None = None  # set by a signal handler; obeyed when the step is finished

    # --- the run ------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the length is reached or something stops the run; `reason` says what."""
        train_mode(self.model)
        for callback in self.callbacks.values():
            callback.on_start(self)
        self._clock(True)
        while not self.finished():
            whole = self.train_epoch()
            self.end_epoch(whole)
        if self.ended != self.step:  # interrupted between the last step and what belongs to it
            self.end_epoch(self.over == self.step or self.batch == self.train_batches.batches)
        for callback in self.callbacks.values():
            callback.on_end(self)

    def train_epoch(self) -> bool:
        """Steps until the epoch's batches are used up, or the run ends; whether they are used up."""
        self._validate_by_steps()  # one that a signal has interrupted
        if self.stopped:
            return self.batch == self.train_batches.batches
        windows = self.windows(self.train_batches.epoch(self.epoch, first_batch=self.batch))
        for window in self.progress(windows, self):
            logging = (self.step + 1) % self.log_every == 0
            self.seed_step(self.step)
            self.keep()
            outputs, grad_norm = self.train_step(window, logging)
            self.schedule.step()
            self.step += 1
            if self.ema is not None:
                self.ema.update()
            self.batch += len(window)
            self.samples = self.losses.seen
            if logging:
                self._log_point(window[-1], outputs, grad_norm)
            if self.validate_steps:
                self._validate_by_steps()
            if self.due(self, False):
                self._save(best=False)
            if self.signal is not None:
                self.obey_signal(save=True)
            if self.stopped or self.step == self.max_steps:
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
        shares = [self.task.share(batch) for batch in window] if self.weighted else sizes
        for parameter in self.parameters:  # optimizer.zero_grad(), without 6 µs of its bookkeeping
            parameter.grad = None
        for number, batch in enumerate(window):
            batch = self.prepare_training(batch)
            with self.autocast:
                loss, outputs = self.task.loss_of(self.network, batch)
            self.losses.add(loss, sizes[number], shares[number])
            self.trained_on = batch if logging else None
            if len(window) > 1:
                loss = loss * (shares[number] / sum(shares))  # the window's mean is one over its samples
            self.scaler.scale(loss).backward()
        grad_norm = None
        if self.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        elif logging:
            self.scaler.unscale_(self.optimizer)
            grad_norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return outputs, grad_norm

    def windows(self, batches: Iterator[Any]) -> Iterator[list[Any]]:
        """Batches in lists of `accumulate_steps`; the last of an epoch may be shorter."""
        if self.accumulate_steps == 1:
            for batch in batches:
                yield [batch]
            return
        window = []
        for batch in batches:
            window.append(batch)
            if len(window) == self.accumulate_steps:
                yield window
                window = []
        if window:
            yield window

    # --- log points, epochs, validation -------------------------------------------------------------------

    def _log_point(self, batch: Any, outputs: Any, grad_norm: Tensor | None) -> None:
        """The only place in an epoch where the loop waits for the device."""
        loss = self._read_losses(f"the last {self.log_every} steps before step {self.step}")
        norm = float(grad_norm) if grad_norm is not None else math.nan
        if grad_norm is not None and not self.skips and not self.scaler.is_enabled():
            self._check_finite(math.isfinite(norm), f"the gradient's norm is {norm} at step {self.step}")
            self._check_weights("")
        reset_all(self.task.metrics)
        with torch.no_grad():
            # The batch as the model saw it, augmented (unless a train_step of the user's own doesn't say).
            seen = self.prepare(batch) if self.trained_on is None else self.trained_on
            self.task.update(self.task.metrics, outputs, seen)
            values = compute_all(self.task.metrics)
        self.trained_on = None
        record = {
            "step": self.step,
            "epoch": self.epoch + 1,
            "train/loss": loss,
            **{f"train/loss/{name}": float(value) for name, value in self.task.parts().items()},  # of this batch
            **{f"train/{name}": value for name, value in values.items()},
            **self.schedule.rates(),
            "grad_norm": norm,
            "samples_per_second": self.rates["log"].read(self.samples),
        }
        if isinstance(self.scaler, SkipNonfinite):
            record["skipped_steps"] = self._check_skips()
        self.last_train_loss = loss
        self._record(record)

    def _read_losses(self, where: str) -> float:
        """The mean loss since the last read, added to the epoch's; NaN where every step since then was skipped.
        Raises MachineError where it isn't finite."""
        total, count = self.losses.read()
        self.epoch_loss, self.epoch_samples = self.epoch_loss + total, self.epoch_samples + count
        if count == 0 and self.skips and self.losses.seen:
            return math.nan
        if count == 0:
            raise MachineError("train_step reported no loss: call self.losses.add(loss, size) in it.")
        self._check_finite(math.isfinite(total), f"the loss is {total / count} within {where}")
        return total / count

    def _check_skips(self, last: bool = False) -> int:
        """Steps that were skipped so far. Raises MachineError where too many were in a row, or in the end all."""
        skipped, row = int(self.scaler.skipped), int(self.scaler.in_a_row)
        given_up = row >= MANY or (last and skipped == self.step > 0)
        self._check_finite(not given_up, f"the last {row} steps were skipped, at step {self.step}")
        return skipped

    def _check_finite(self, finite: bool, what: str) -> None:
        if not finite:
            raise MachineError(
                f"{what}. Lower optimizer.lr, clip with trainer.max_grad_norm=1, or find the operation with "
                "debug=anomaly"
            )

    def end_epoch(self, whole: bool) -> None:
        """Validate, record and save where it is due: when the epoch's batches are done, or the run ends within it.

        The position moves on to the next epoch only after the validation, so that one which is interrupted is
        repeated when the run is resumed.
        """
        self._clock(False)
        record: dict[str, Any] = {"step": self.step, "epoch": self.epoch + 1, **self.schedule.rates()}
        if whole:
            self.over = self.step
            if self.losses.count or self.losses.waiting or self.epoch_samples == 0:
                self._read_losses(f"epoch {self.epoch + 1}")
            counted = isinstance(self.scaler, SkipNonfinite)  # and judged below; a scaler for fp16 doesn't count
            self._check_finite(self.epoch_samples > 0 or counted, f"no loss is finite within epoch {self.epoch + 1}")
            mean = self.epoch_loss / self.epoch_samples if self.epoch_samples else math.nan
            self.last_train_loss = record["train/epoch_loss"] = mean
            record["samples_per_second"] = self.rates["epoch"].read(self.samples)
            if self.stop_below is not None and self.last_train_loss < self.stop_below:
                self.stop(f"the training loss {self.last_train_loss:.4g} is below trainer.stop_below={self.stop_below}")
            if self.swa is not None:
                self.swa.end_epoch(self.epoch + 1, self.step, self._see_training_split)
                self.obey_signal(save=True)
        last = bool(self.stopped) or self.step == self.max_steps or (whole and self.epoch + 1 == self.max_epochs)
        if last and math.isnan(self.last_train_loss):  # the run ends before its first log point
            self.last_train_loss = self.losses.mean()
        if isinstance(self.scaler, SkipNonfinite):
            self._check_skips(last)
        by_epoch = whole and self.validate_epochs and (self.epoch + 1) % self.validate_epochs == 0
        by_step = self.validate_steps and self.step % self.validate_steps == 0
        due = by_epoch or by_step or (last and (self.validate_epochs or self.validate_steps))
        better = bool(due) and self._validated_into(record)
        self.ended = self.step
        if whole:
            self.schedule.end_epoch()
            self.epoch, self.batch = self.epoch + 1, 0
            self.epoch_loss, self.epoch_samples = 0.0, 0.0
        if whole or any(name.startswith("val/") for name in record):  # else there is nothing new in it
            self._record(record, epoch_ended=True)
        if better or self.finished() or self.due(self, True):
            self._save(better)
        self._clock(True)

    def _validate_by_steps(self) -> None:
        """A validation that is due within an epoch; at its end, and at the run's, `end_epoch` does it."""
        due = self.validate_steps and self.step > 0 and self.step % self.validate_steps == 0
        if not due or self.batch == self.train_batches.batches or self.step == self.max_steps:
            return
        self._clock(False)
        record: dict[str, Any] = {"step": self.step, "epoch": self.epoch + 1}
        better = self._validated_into(record)
        if len(record) > 2:
            self._record(record, epoch_ended=False)
        if better:
            self._save(best=True)
        self._clock(True)

    def _validated_into(self, record: dict[str, Any]) -> bool:
        """Validate, unless these weights have been; whether they are the best so far."""
        if self.val_batches is None or self.validated == self.step:
            return False
        values = self.validate()
        self.validated, self.last_values = self.step, values
        record |= {f"val/{name}": value for name, value in values.items()}
        better = self.best.better(record[self.monitor], values["loss"], self.epoch + 1, self.step)
        if self.best.exhausted:
            self.stop(f"{self.monitor} has not become better in {self.best.stale} validations (early stopping)")
        self.schedule.end_validation(record[self.monitor])
        return better

    def _see_training_split(self, model: nn.Module) -> bool:
        """Let a network see the epoch's batches once more; whether no signal came in between. What training would
        skip leaves no traces here either."""
        position = copy.deepcopy(self.train_batches.state_dict())  # of a stream that knows its own: training's
        for number, batch in enumerate(self.train_batches.epoch(self.epoch)):
            if self.signal is not None:
                break
            self.seed_step(self.step + number)
            kept = [buffer.clone() for buffer in model.buffers()] if self.skips else []
            with self.autocast:
                loss, _ = self.task.loss_of(model, self.prepare_training(batch))
            if kept and not loss.isfinite():
                for buffer, before in zip(model.buffers(), kept, strict=True):
                    buffer.copy_(before)
        self.train_batches.load_state_dict(position)
        return self.signal is None

    def _clock(self, running: bool) -> None:
        for rate in self.rates.values():
            (rate.start if running else rate.pause)(self.samples)

    def validate(self) -> dict[str, float]:
        """Loss and metrics over the validation split, without the prefix "val/"."""
        assert self.val_batches is not None
        averaged = None if self.average is None or not self.average.count else self.average.model
        return evaluation.measure(
            averaged or self.network,
            self.task,
            self.val_batches.epoch(),
            self.prepare,
            self.autocast,
            self.task.metrics,
            stopped=lambda: self.obey_signal(save=True),
        )

    def _record(self, record: dict[str, Any], epoch_ended: bool = False) -> None:
        self.log(record)
        for callback in self.callbacks.values():
            (callback.on_epoch_end if epoch_ended else callback.on_log)(self, record)

    # --- ending -------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """End the run when the current step (or epoch's end) is done."""
        self.stopped = self.stopped or reason

    @property
    def reason(self) -> str:
        """Why the run has ended; '' while it goes on."""
        if not self.stopped and self.epoch >= self.max_epochs:
            return f"{self.epoch} epochs done"
        if not self.stopped and self.max_steps is not None and self.step >= self.max_steps:
            return f"{self.step} steps done"
        return self.stopped

    def finished(self) -> bool:
        """Whether the run's length is reached, or something has stopped it."""
        return bool(self.reason)

    def obey_signal(self, save: bool) -> None:
        """If a signal came: save where we are (what was interrupted is repeated on resume), and leave."""
        if self.signal is not None:
            if save:
                self._save(best=False)
            raise Interrupted(f"stopped by a signal{' and saved' * save} at step {self.step}.", self.signal)

    # --- what must be remembered --------------------------------------------------------------------------

    def _check_weights(self, consequence: str) -> None:
        """A gradient that was infinite in one step alone has left its mark on the weights."""
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        held = [*self.parameters, *(m.running_var for m in norms if m.running_var is not None)]
        finite = torch.stack([tensor.isfinite().all() for tensor in held]).all()
        self._check_finite(bool(finite), f"the weights hold NaN or infinity at step {self.step}{consequence}")

    def _save(self, best: bool) -> None:
        self._check_weights(" and aren't saved")
        self.save(self.state_dict(), best)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain containers."""
        return {
            **{name: getattr(self, name).state_dict() for name in PARTS},
            "average": None if self.average is None else self.average.state_dict(),
            "callbacks": {name: callback.state_dict() for name, callback in self.callbacks.items()},
            "position": {name: getattr(self, name) for name in POSITION},
            "carried": {name: getattr(self, name) for name in CARRIED},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        for name in PARTS:
            getattr(self, name).load_state_dict(state[name])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for name, callback in self.callbacks.items():
            callback.load_state_dict(state["callbacks"][name])
        for name, value in (state["position"] | state["carried"]).items():
            setattr(self, name, value)
