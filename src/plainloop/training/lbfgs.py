"""Training with an optimizer that evaluates the loss itself, perhaps many times in a step: L-BFGS."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from plainloop.errors import UserError
from plainloop.training.trainer import Trainer


class ClosureTrainer(Trainer):
    """The trainer whose optimizer is given a closure: zero_grad, forward, loss, backward, as often as it likes
    (Liu and Nocedal 1989, "On the limited memory BFGS method for large scale optimization").

    All evaluations within a step see the same batch, augmented once, and the same dropout masks. The loss that is
    recorded is the first one: that of the weights which the step begins with.
    """

    def train_step(self, window: Sequence[Any], logging: bool) -> tuple[Any, Tensor | None]:
        size = self.task.size(window[0])
        share = self.task.share(window[0]) if self.weighted else size
        batch = self.prepare.training(window[0])
        first: list[Any] = []

        def closure() -> Tensor:
            self.seed_step(self.step)
            self.update.zero_grad()
            loss, outputs = self.forward(self.network, batch)
            if not first:
                first.extend((loss.detach(), outputs))
            loss.backward()
            return loss

        self.optimizer.step(closure)  # type: ignore[arg-type]  # it gives back a tensor, not a number
        self.losses.add(first[0], size, share)
        self.trained_on = batch if logging else None
        return first[1], self.update.clip(measure=logging)


def check_closure_settings(
    evaluates: str, precision: str, accumulate_steps: int, max_grad_norm: float | None, nonfinite: str
) -> None:
    """What can't be done where the loss is evaluated several times in a step. Raises UserError.

    Args:
        evaluates: what does that, by name.
    """
    typed = {
        "precision=fp16": precision == "fp16",
        f"accumulate_steps={accumulate_steps}": accumulate_steps > 1,
        f"max_grad_norm={max_grad_norm}": max_grad_norm is not None,
        "nonfinite=skip": nonfinite == "skip",
    }
    for setting, chosen in typed.items():
        if chosen:
            raise UserError(
                f"trainer.{setting}: {evaluates} evaluates the loss several times in a step, and can't "
                "do that. Leave it out, or choose another one."
            )
