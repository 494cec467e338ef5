"""Which weights are the best so far, and whether it is time to stop."""

import math
from dataclasses import dataclass, field
from typing import Any

VALIDATION = ("value", "loss", "epoch", "step")
REMEMBERED = (*VALIDATION, "reference", "stale")


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
        keep: so many of the best are remembered.
    """

    monitor: str = "val/loss"
    mode: str = "min"
    patience: int | None = None
    min_delta: float = 0.0
    keep: int = 1
    value: float | None = None
    loss: float = math.inf
    epoch: int = 0
    step: int = 0
    reference: float | None = None
    stale: int = 0
    others: list[tuple[float, float, int, int]] = field(default_factory=list)  # VALIDATION of the next best, in order

    def better(self, value: float, loss: float, epoch: int, step: int) -> bool:
        """Take a validation into account: whether its weights are among the best so far, of which `keep` are kept."""
        value = math.nan if math.isnan(loss) else value
        if self._beats(value, self.reference, self.min_delta):
            self.reference, self.stale = value, 0
        else:
            self.stale += 1
        if math.isnan(value):
            return False
        now = (value, loss, epoch, step)
        kept = sorted([*self._kept(), now], key=self._order)[: self.keep]  # of equal ones the earlier stays ahead
        (self.value, self.loss, self.epoch, self.step), *self.others = kept
        return now in kept

    def _order(self, validation: tuple[float, float, int, int]) -> tuple[float, float]:
        """What sorts the best to the front: its value, and among equal ones its loss."""
        value, loss, _, _ = validation
        return (-value if self.mode == "max" else value), loss

    def _kept(self) -> list[tuple[float, float, int, int]]:
        return [] if self.value is None else [(self.value, self.loss, self.epoch, self.step), *self.others]

    @property
    def steps(self) -> list[int]:
        """Of the best so far, the best first."""
        return [step for *_, step in self._kept()]

    def _beats(self, value: float, other: float | None, margin: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        return not math.isnan(value) and (other is None or sign * (value - other) > margin)

    @property
    def exhausted(self) -> bool:
        """Whether the patience of early stopping is used up."""
        return self.patience is not None and self.stale >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {**{name: getattr(self, name) for name in REMEMBERED}, "others": list(self.others)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in REMEMBERED:
            setattr(self, name, state[name])
        others = [tuple(each) for each in state.get("others", ())]  # a checkpoint that is older than these has none
        if not all(len(each) == 4 and {*map(type, each)} <= {int, float} for each in others):
            raise TypeError("the next best validations are no numbers")
        self.others = others[: self.keep - 1]
