"""What a user may hang into the training, chosen by config (section `callbacks`), without editing the engine.

Nothing is called at every step: override `train_step` in a subclass of the Trainer for that.
"""

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
