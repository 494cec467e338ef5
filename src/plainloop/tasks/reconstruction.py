"""The input is the target."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from plainloop.data import Data, first_sample
from plainloop.data.dataset import asked
from plainloop.errors import UserError
from plainloop.tasks import metrics as metrics_room
from plainloop.tasks.task import Task, expect, forward


class Reconstruction(Task):
    """The input is the target: outputs of the inputs' shape (preprocessed). Further parts of a sample are ignored."""

    kind = "reconstruction"
    outputs_name = "reconstruction"
    script = """\
for error in said["mean_squared_error"]:
    print(json.dumps({"mean squared error": float(error)}))
"""

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        inputs = cls.check_sample(first_sample(data.train, data.skip))[0]
        if not isinstance(inputs, Tensor):
            raise UserError(
                "task=reconstruction: the input is the target, and must be one tensor; these inputs are a dict."
            )
        facts = asked(data.train, "facts") or {}
        if facts.get("vocab_size") or facts.get("cardinalities"):
            fix = " data.categories=onehot makes them numbers." if facts.get("cardinalities") else ""
            raise UserError(
                "task=reconstruction: the inputs hold codes of words, whose distances mean nothing: it is "
                f"for numbers.{fix}"
            )
        return {"num_outputs": None}  # as many as a vector has, once that is encoded; of other inputs there is a shape

    @classmethod
    def check_sample(cls, sample: Any) -> tuple[Any, ...]:
        return super().check_sample(sample if isinstance(sample, tuple | list) and len(sample) > 1 else (sample, 0))

    def size(self, batch: Any) -> int:
        return len(_inputs(batch))

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        inputs = _inputs(batch)
        outputs = forward(model, inputs)
        return self.loss(outputs, inputs), outputs

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        metrics_room.update_all(metrics, outputs.float().flatten(1), _inputs(batch).float().flatten(1))

    def answers(self, outputs: Any, inputs: Any, names: Sequence[str], top: int, every: bool) -> dict[str, list[Any]]:
        """How far the outputs are from the inputs: the mean square of the differences, as the model gets them."""
        return {"mean squared error": self.named(outputs, inputs)["mean_squared_error"].cpu().tolist()}

    def named(self, outputs: Any, inputs: Any) -> dict[str, Tensor]:
        errors = (outputs.float() - inputs.float()).square()
        return {"reconstruction": outputs, "mean_squared_error": errors.flatten(1).mean(1)}

    def truths(self, batch: Any, names: Sequence[str]) -> dict[str, list[Any]]:
        return {}

    def drawn(self, prediction: Tensor, shape: Sequence[int]) -> Tensor | None:
        alike = len(shape) == 3 and prediction.numel() == math.prod(shape)  # else it was resized on its way
        return prediction.reshape(*shape) if alike else None

    def losses_of(self, outputs: Any, batch: Any) -> Tensor:
        inputs = _inputs(batch)
        return super().losses_of(outputs, (inputs, inputs))

    def check(self, model: nn.Module, batch: Any) -> None:
        inputs = _inputs(batch)
        outputs = forward(model, inputs)
        right = isinstance(outputs, Tensor) and outputs.shape == inputs.shape
        expect(right, outputs, f"the inputs again {tuple(inputs.shape)}, as model=autoencoder gives them")


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch
