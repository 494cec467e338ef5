"""Which weights are the best so far, and whether it is time to stop."""

import math
from dataclasses import dataclass

REMEMBERED = ("value", "loss", "epoch", "step", "reference", "stale")


@dataclass
class Selection:
    """The best validation so far, and how many have passed since one that was clearly better.

    Best is the best monitored value, and among equal ones (a small validation split has many) the one with the
    lower loss. Patience counts validations whose value isn't better than the reference by `min_delta`, and the
    reference is the last one that was. A value that is NaN, or whose loss is, is never best.

    Args:
        monitor: the validation quantity that selects, as "val/accuracy".
        mode: "max" or "min".
        patience: early stopping after so many validations without a better value; None for never.
        min_delta: how much better counts as better.
    """

    monitor: str = "val/loss"
    mode: str = "min"
    patience: int | None = None
    min_delta: float = 0.0
    value: float | None = None
    loss: float = math.inf
    epoch: int = 0
    step: int = 0
    reference: float | None = None
    stale: int = 0

    def better(self, value: float, loss: float, epoch: int, step: int) -> bool:
        """Take a validation into account: whether its weights are the best so far."""
        value = math.nan if math.isnan(loss) else value
        if self._beats(value, self.reference, self.min_delta):
            self.reference, self.stale = value, 0
        else:
            self.stale += 1
        if self._beats(value, self.value, 0.0) or (value == self.value and loss < self.loss):
            self.value, self.loss, self.epoch, self.step = value, loss, epoch, step
            return True
        return False

    def _beats(self, value: float, other: float | None, margin: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        return not math.isnan(value) and (other is None or sign * (value - other) > margin)

    @property
    def exhausted(self) -> bool:
        """Whether the patience of early stopping is used up."""
        return self.patience is not None and self.stale >= self.patience

    def state_dict(self) -> dict[str, float | int | None]:
        return {name: getattr(self, name) for name in REMEMBERED}

    def load_state_dict(self, state: dict[str, float | int | None]) -> None:
        for name in REMEMBERED:
            setattr(self, name, state[name])
