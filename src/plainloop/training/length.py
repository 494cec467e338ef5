"""How long a run is, and when it validates on the way."""

from dataclasses import dataclass


@dataclass
class Length:
    """The length of a run: epochs or steps, whichever comes first.

    Args:
        max_epochs: passes over the training split.
        max_steps: optimizer steps; None for no limit.
        validate_every: epochs between validations, or steps as in "500s"; 0 for never. A run that validates at all
            does so at its end, too.
        stop_below: the run ends as soon as an epoch's training loss is below this; None for never.
    """

    max_epochs: int = 1
    max_steps: int | None = None
    validate_every: int | str = 1
    stop_below: float | None = None

    def __post_init__(self) -> None:
        text = str(self.validate_every)
        self.validate_steps = int(text[:-1]) if text.endswith("s") else 0
        self.validate_epochs = 0 if text.endswith("s") else int(text)

    def reached(self, epochs: int, steps: int) -> str:
        """Why a run ends after so many epochs and steps; '' while it goes on."""
        if epochs >= self.max_epochs:
            return f"{epochs} epochs done"
        if self.max_steps is not None and steps >= self.max_steps:
            return f"{steps} steps done"
        return ""

    def validates_within(self, steps: int) -> bool:
        """Whether a validation is due after so many steps, within an epoch."""
        return self.validate_steps > 0 and steps > 0 and steps % self.validate_steps == 0

    def validates_after(self, epochs: int, steps: int, last: bool) -> bool:
        """Whether one is due at an epoch's end, after so many whole epochs (0 within one), or at the run's."""
        by_epoch = self.validate_epochs > 0 and epochs > 0 and epochs % self.validate_epochs == 0
        return by_epoch or self.validates_within(steps) or (last and self.validate_every not in (0, "0"))
