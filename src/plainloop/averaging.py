"""Averages of the weights over a run, which often generalise better than the last ones."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """An exponential moving average: after each step, average = d * average + (1 - d) * weights.

    After step i, d is min(decay, (1 + i) / (10 + i)), so that a short run isn't held at its random beginning
    (as TensorFlow's `num_updates` does; averaging itself: Polyak and Juditsky 1992, "Acceleration of stochastic
    approximation by averaging"). Buffers (BatchNorm's statistics) are averages already and are taken as they are.

    `model` is a network of its own, for validation and for what is kept as best.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.averages: list[Tensor] = list(self.model.parameters())
        self.weights = [weight.detach() for weight in model.parameters()]
        self.buffers = list(zip(self.model.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """After every step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.averages, self.weights, 1.0 - decay)
        for copied, buffer in self.buffers:
            copied.copy_(buffer)

    def start_from(self, weights: Mapping[str, Any], updates: int) -> None:
        """Begin with an average of so many updates."""
        self.model.load_state_dict(weights)
        self.updates = updates
