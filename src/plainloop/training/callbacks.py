"""What is hung into the training: a user's callbacks, chosen by config, and the hooks of whoever runs the trainer.

No callback is called at every step: override `train_step` in a subclass of the Trainer for that.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


class Callback:
    """Override what you need. `trainer` is the Trainer; its attributes (model, optimizer, step, ...) are yours."""

    def on_start(self, trainer: Any) -> None:
        """Before the first step."""

    def on_log(self, trainer: Any, record: dict[str, Any]) -> None:
        """At a log point, with the line that goes into the history."""

    def on_epoch_end(self, trainer: Any, record: dict[str, Any]) -> None:
        """After an epoch and its validation. `trainer.stop("why")` ends the run here."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must remember of this callback: tensors and plain containers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called before `on_start` when a run is resumed."""

    def on_end(self, trainer: Any) -> None:
        """After the last step."""


@dataclass
class Hooks:
    """What a trainer tells whoever runs it, and asks of them; by default nothing.

    Args:
        log: called with every record: at log points and after epochs.
        log_every: steps between log points.
        progress: wraps the iterator over an epoch's windows (a progress bar).
        save: called with (state, best) when a checkpoint is due.
        due: asked with (trainer, epoch_ended), after every step and at every epoch's end, whether one is.
    """

    log: Callable[[dict[str, Any]], None] = lambda record: None
    log_every: int = 50
    progress: Callable[[Iterable[Any], Any], Iterable[Any]] = lambda windows, trainer: windows
    save: Callable[[dict[str, Any], bool], None] = lambda state, best: None
    due: Callable[[Any, bool], bool] = lambda trainer, epoch_ended: False
