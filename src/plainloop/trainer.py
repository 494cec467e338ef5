"""The loop: zero_grad, forward, loss, backward, step; and around it epochs, log points, validation, stopping.

Everything comes in as ordinary objects: this room knows nothing of Hydra, of TensorBoard or of files. What the
loop needs to decide (precision, clipping, accumulation) is decided before it.

A *step* is an optimizer step: one batch, or a window of `accumulate_steps` batches.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop import inference
from plainloop.callbacks import Callback
from plainloop.data import Loader
from plainloop.errors import Interrupted, MachineError
from plainloop.metrics import MeanLoss, compute_all, reset_all
from plainloop.optim import Schedule
from plainloop.seeding import StepSeed
from plainloop.tasks import Task

CPU = torch.device("cpu")


class Rate:
    """Samples per second of training, with the time for validation and saving left out."""

    def __init__(self) -> None:
        self.seconds, self.samples = 0.0, 0
        self.since: tuple[float, int] | None = None

    def start(self, samples: int) -> None:
        self.since = (time.perf_counter(), samples)

    def pause(self, samples: int) -> None:
        if self.since is not None:
            self.seconds += time.perf_counter() - self.since[0]
            self.samples += samples - self.since[1]
            self.since = None

    def read(self, samples: int) -> float:
        """The rate since the last read."""
        self.pause(samples)
        rate = self.samples / self.seconds if self.seconds > 0 else 0.0
        self.seconds, self.samples = 0.0, 0
        self.start(samples)
        return rate


class Trainer:
    """Trains a model: `Trainer(model, task, ...).fit()`.

    Args:
        model: the network, on the device; `task.loss_of(model, batch)` is called on it.
        task: the loss of a batch, metrics, predictions.
        optimizer, schedule: over the model's parameters.
        preprocess: applied to every batch's inputs on the device.
        train_batches, val_batches: loaders; without val_batches nothing is selected.
        max_epochs, max_steps: the run's length, whichever comes first.
        validate_every: epochs between validations, or steps as in "500s"; 0 for never.
        monitor, mode: the validation quantity that selects, as "val/accuracy", and "max" or "min".
        patience, min_delta: early stopping after so many validations without a better value.
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
        compile: bool = False,
        channels_last: bool = False,
        log_every: int = 50,
        validate_every: int | str = 1,
        stop_below: float | None = None,
        monitor: str = "val/loss",
        mode: str = "min",
        patience: int | None = None,
        min_delta: float = 0.0,
        callbacks: Sequence[Callback] = (),
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
        self.monitor, self.sign = monitor, 1.0 if mode == "max" else -1.0
        self.patience, self.min_delta = patience, min_delta
        self.callbacks, self.log, self.progress, self.save, self.due = (
            list(callbacks),
            log,
            progress,
            save,
            due,
        )

        self.network: Any = torch.compile(model) if compile else model
        self.prepare = inference.preparation(preprocess, device, channels_last)
        self.autocast = inference.autocast(device, precision)
        # Does nothing but pass the call on unless the precision is fp16.
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.seed_step = StepSeed(seed, device)

        self.epoch, self.batch, self.step, self.samples = 0, 0, 0, 0  # position: what has been done
        self.losses = MeanLoss()  # since the last log point
        self.epoch_loss, self.epoch_samples = 0.0, 0
        self.best: float | None = None
        self.best_loss = math.inf
        self.best_epoch = self.best_step = self.stale = 0
        self.last_values: dict[str, float] = {}  # of the newest validation
        self.last_train_loss = math.nan
        self.rates = {"log": Rate(), "epoch": Rate()}
        self.reason = ""  # why the run has ended
        self.signal: int | None = None  # set by a signal handler; obeyed when the step is finished

    # --- the run ------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the length is reached or something stops the run; `reason` says what."""
        self.model.train()
        for callback in self.callbacks:
            callback.on_start(self)
        self._clock(True)
        while not self.finished():
            self.train_epoch()
        for callback in self.callbacks:
            callback.on_end(self)

    def train_epoch(self) -> None:
        """The rest of the current epoch, then validation and a checkpoint."""
        windows = self.windows(self.train_batches.epoch(self.epoch, first_batch=self.batch))
        for window in self.progress(windows, self):
            logging = (self.step + 1) % self.log_every == 0
            outputs, grad_norm = self.train_step(window, logging)
            self.step += 1
            self.batch += len(window)
            self.schedule.step()
            if logging:
                self._log_point(window[-1], outputs, grad_norm)
            if self.validate_steps and self.step % self.validate_steps == 0:
                self._validate_and_save(epoch_ended=False)
            elif self.due(self, False):
                self._save(best=False)
            if self.signal is not None:
                self._obey()
            if self.reason or self.step == self.max_steps:
                break
        if self.batch == 0:
            raise MachineError("the training split gave no batch.")
        if self.batch >= len(self.train_batches):
            self._end_epoch()
        elif self.finished():
            self._validate_and_save(epoch_ended=True)

    def train_step(self, window: Sequence[Any], logging: bool) -> tuple[Any, Tensor | None]:
        """One optimizer step over a window of batches (one, unless gradients are accumulated).

        Override it for another kind of step. Returns the last batch's outputs and the gradient's norm, or None;
        both are looked at when `logging`.
        """
        self.seed_step(self.step)
        sizes = [self.task.size(batch) for batch in window]
        self.optimizer.zero_grad()
        for number, batch in enumerate(window):
            batch = self.prepare(batch)
            with self.autocast:
                loss, outputs = self.task.loss_of(self.network, batch)
            self.losses.add(loss, sizes[number])
            if len(window) > 1:
                loss = loss * (sizes[number] / sum(sizes))  # the window's mean is one over its samples
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
        self.samples += sum(sizes)
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
        total, count = self.losses.read()
        self.epoch_loss, self.epoch_samples = self.epoch_loss + total, self.epoch_samples + count
        loss = total / count
        if not math.isfinite(loss):
            raise MachineError(
                f"the loss is {loss} within the last {self.log_every} steps before step {self.step}. Lower "
                "optimizer.lr, clip with trainer.max_grad_norm=1, or find the operation with debug=anomaly"
            )
        reset_all(self.task.metrics)
        with torch.no_grad():
            self.task.update(self.task.metrics, outputs, self.prepare(batch))
            values = compute_all(self.task.metrics)
        record = {
            "step": self.step,
            "epoch": self.epoch + 1,
            "train/loss": loss,
            **{f"train/{name}": value for name, value in values.items()},
            "lr": self.schedule.rate(),
            "grad_norm": float(grad_norm) if grad_norm is not None else math.nan,
            "samples_per_second": self.rates["log"].read(self.samples),
        }
        self.last_train_loss = loss
        self._record(record)

    def _end_epoch(self) -> None:
        total, count = self.losses.read()
        loss = (self.epoch_loss + total) / (self.epoch_samples + count)
        self.epoch_loss, self.epoch_samples = 0.0, 0
        self.epoch, self.batch = self.epoch + 1, 0
        self.last_train_loss = loss
        if not math.isfinite(loss):
            raise MachineError(
                f"the loss of epoch {self.epoch} is {loss}. Lower optimizer.lr, clip with trainer.max_grad_norm=1, or "
                "find the operation with debug=anomaly"
            )
        self.schedule.end_epoch()
        if self.stop_below is not None and loss < self.stop_below:
            self.stop(f"the training loss {loss:.4g} is below trainer.stop_below={self.stop_below}")
        self._validate_and_save(epoch_ended=True, train_loss=loss)

    def _validate_and_save(self, epoch_ended: bool, train_loss: float | None = None) -> None:
        """Validate where it is due, record it, and save the newest and the best state."""
        self._clock(False)
        record: dict[str, Any] = {
            "step": self.step,
            "epoch": self.epoch if train_loss is not None else self.epoch + 1,
        }
        if train_loss is not None:
            record["train/epoch_loss"] = train_loss
            record["samples_per_second"] = self.rates["epoch"].read(self.samples)
        better = False
        by_epoch = self.validate_epochs and self.epoch % self.validate_epochs == 0 and train_loss is not None
        by_step = self.validate_steps and self.step % self.validate_steps == 0
        if self.val_batches is not None and (by_epoch or by_step or (self._validates() and self.finished())):
            values = self.validate()
            record |= {f"val/{name}": value for name, value in values.items()}
            better = self._compare(record[self.monitor], values["loss"])
            self.schedule.end_validation(record[self.monitor])
        if epoch_ended:
            record["lr"] = self.schedule.rate()
        if len(record) > 2:
            self._record(record, epoch_ended)
        if better or self.finished() or self.due(self, epoch_ended):
            self._save(better)
        self._clock(True)

    def _clock(self, running: bool) -> None:
        for rate in self.rates.values():
            (rate.start if running else rate.pause)(self.samples)

    def validate(self) -> dict[str, float]:
        """Loss and metrics over the validation split, without the prefix "val/"."""
        assert self.val_batches is not None
        self.last_values = inference.measure(
            self.network, self.task, self.val_batches.epoch(), self.prepare, self.autocast, self.task.metrics,
            stopped=self.obey_between_batches,
        )  # fmt: skip
        return self.last_values

    def _validates(self) -> bool:
        return bool(self.validate_epochs or self.validate_steps)

    def _compare(self, value: float, loss: float) -> bool:
        """Whether these weights are the best so far: by the monitored value, and among equal ones (a small
        validation split has many) by the validation loss. NaN is never best. Counts towards early stopping."""
        margin = self.min_delta if self.patience is not None else 0.0
        better = not math.isnan(value) and (self.best is None or self.sign * value > self.sign * self.best + margin)
        self.stale = 0 if better else self.stale + 1
        if self.patience is not None and self.stale >= self.patience:
            self.stop(f"{self.monitor} has not become better in {self.stale} validations (early stopping)")
        if better or (value == self.best and loss < self.best_loss):
            self.best, self.best_loss = value, loss
            self.best_epoch, self.best_step = self._epochs_begun(), self.step
            return True
        return False

    def _epochs_begun(self) -> int:
        return self.epoch + (self.batch > 0)

    def _record(self, record: dict[str, Any], epoch_ended: bool = False) -> None:
        self.log(record)
        for callback in self.callbacks:
            (callback.on_epoch_end if epoch_ended else callback.on_log)(self, record)

    # --- ending -------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """End the run when the current step (or epoch's end) is done."""
        self.reason = self.reason or reason

    def finished(self) -> bool:
        """Whether the run's length is reached, or something has stopped it; `reason` says what."""
        if self.reason:
            return True
        if self.epoch >= self.max_epochs:
            self.reason = f"{self.epoch} epochs done"
        elif self.max_steps is not None and self.step >= self.max_steps:
            self.reason = f"{self.max_steps} steps done"
        return bool(self.reason)

    def _obey(self) -> None:
        """A signal came: the step is finished, so save and leave."""
        assert self.signal is not None
        self._save(best=False)
        raise Interrupted(f"stopped by a signal and saved at step {self.step}.", self.signal)

    def obey_between_batches(self) -> None:
        """A signal during validation is obeyed at once; the validation is repeated on resume."""
        if self.signal is not None:
            raise Interrupted(f"stopped by a signal at step {self.step}, during validation.", self.signal)

    # --- what must be remembered --------------------------------------------------------------------------

    def _save(self, best: bool) -> None:
        self.save(self.state_dict(), best)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on: tensors and plain containers."""
        return {
            "model": self.model.state_dict(),
            "preprocess": self.preprocess.state_dict(),
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": {
                "epoch": self.epoch,
                "batch": self.batch,
                "step": self.step,
                "samples": self.samples,
            },
            "losses": self.losses.state_dict(),
            "epoch_loss": [self.epoch_loss, self.epoch_samples],
            "best": {
                "value": self.best,
                "loss": self.best_loss,
                "epoch": self.best_epoch,
                "step": self.best_step,
                "stale": self.stale,
            },
            "last": {"values": self.last_values, "train_loss": self.last_train_loss, "reason": self.reason},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.preprocess.load_state_dict(state["preprocess"])
        self.task.load_state_dict(state["task"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        position = state["position"]
        self.epoch, self.batch = position["epoch"], position["batch"]
        self.step, self.samples = position["step"], position["samples"]
        self.losses.load_state_dict(state["losses"], self.device)
        self.epoch_loss, self.epoch_samples = state["epoch_loss"]
        best = state["best"]
        self.best, self.best_loss, self.stale = best["value"], best["loss"], best["stale"]
        self.best_epoch, self.best_step = best["epoch"], best["step"]
        self.last_values, self.last_train_loss = dict(state["last"]["values"]), state["last"]["train_loss"]
