"""Averages of the weights over a run, which often generalise better than the last ones."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


class NoAverage:
    """No average: validation takes the weights as they are."""

    count = 0  # of weights that have gone in
    model: nn.Module | None = None  # the second network

    def end_step(self) -> None:
        """After every step."""

    def end_epoch(self, trainer: Any) -> None:
        """After every epoch's batches; what is repeated at the same step counts once."""

    @property
    def chosen(self) -> nn.Module | None:
        """The network that is validated; None for the one that is trained."""
        return self.model if self.count else None

    def state_dict(self) -> dict[str, Any] | None:
        return None

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Nothing is remembered."""

    def start_from(self, state: Mapping[str, Any]) -> None:
        """Begin a new run from another one's checkpoint."""


class Average(NoAverage):
    """A second network that holds an average of the first one's weights, for validation and for what is kept as best.

    While `count` is 0 there is nothing in it.
    """

    model: nn.Module

    def __init__(self, model: nn.Module):
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.averages: list[Tensor] = list(self.model.parameters())
        self.weights = [weight.detach() for weight in model.parameters()]
        self.buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def add(self, share: float) -> None:
        """average = (1 - share) * average + share * weights; buffers are taken as they are."""
        self.count += 1
        torch._foreach_lerp_(self.averages, self.weights, share)
        for copied, buffer in self.buffers:
            copied.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        assert state is not None
        self.model.load_state_dict(state["model"])
        self.count = state["count"]

    def start_from(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])


def chosen_weights(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Of a checkpoint, the weights that predictions follow from: the averaged ones, where there are any."""
    average = state["average"]
    return average["model"] if average and average["count"] else state["model"]


class EMA(Average):
    """An exponential moving average: after each step, average = d * average + (1 - d) * weights.

    After step i, d is min(decay, (1 + i) / (10 + i)), so that a short run isn't held at its random beginning
    (as TensorFlow's `num_updates` does; averaging itself: Polyak and Juditsky 1992, "Acceleration of stochastic
    approximation by averaging"). Buffers (BatchNorm's statistics) are averages already and are taken as they are.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self.decay = decay

    def end_step(self) -> None:
        step = self.count + 1
        self.add(1.0 - min(self.decay, (1 + step) / (10 + step)))

    def start_from(self, state: Mapping[str, Any]) -> None:
        """A moving average goes on where it was."""
        moving = state["average"] and "added" not in state["average"]
        if moving:
            self.load_state_dict(state["average"])
        else:
            super().start_from(state)


class SWA(Average):
    """The mean of the weights at the ends of epochs (Izmailov et al. 2018, "Averaging weights leads to wider optima and
    better generalization"). BatchNorm's statistics belong to none of these weights, and are measured anew.

    Args:
        start: the first epoch, from 1, whose end counts.
    """

    def __init__(self, model: nn.Module, start: int):
        super().__init__(model)
        self.start = start
        self.added = -1  # the step at which weights last went in
        # Frozen ones keep the statistics that they have.
        self.norms = [
            (of_average, norm)
            for of_average, norm in zip(self.model.modules(), model.modules(), strict=True)
            if isinstance(norm, _NormBase) and norm.track_running_stats
        ]

    def end_epoch(self, trainer: Any) -> None:
        if trainer.epoch + 1 < self.start or self.added == trainer.step:
            return
        norms: list[Any] = [of_average for of_average, norm in self.norms if norm.training]
        before = copy.deepcopy(self.state_dict()) if norms else {}
        self.add(1.0 / (self.count + 1))
        if norms and not self._renewed(norms, trainer):
            self.load_state_dict(before)  # with half of the statistics it would be none
            return
        self.added = trainer.step

    def _renewed(self, norms: Sequence[Any], trainer: Any) -> bool:
        """Measure the statistics of these layers over the training split; whether they have seen all of it."""
        momenta = [norm.momentum for norm in norms]
        self.model.eval()  # but for these: dropout has no place in what evaluation will see
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
            norm.train()
        try:
            with torch.no_grad():
                return self._see_training_split(trainer)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()

    def _see_training_split(self, trainer: Any) -> bool:
        """Look at the epoch's batches once more; whether no signal came in between. What training would skip leaves no
        traces here either."""
        position = copy.deepcopy(trainer.train_batches.state_dict())  # of a stream that knows its own: training's
        for number, batch in enumerate(trainer.train_batches.epoch(trainer.epoch)):
            if trainer.signal is not None:
                break
            trainer.seed_step(trainer.step + number)
            kept = [buffer.clone() for buffer in self.model.buffers()] if trainer.update.leaves_out else []
            loss, _ = trainer.forward(self.model, trainer.prepare.training(batch))
            if kept and not loss.isfinite():
                for buffer, before in zip(self.model.buffers(), kept, strict=True):
                    buffer.copy_(before)
        trainer.train_batches.load_state_dict(position)
        return trainer.signal is None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "added": self.added}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        super().load_state_dict(state)
        assert state is not None
        self.added = state["added"]
