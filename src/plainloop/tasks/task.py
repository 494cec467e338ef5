"""What a problem means: what the model must return, the loss of a batch, how outputs become predictions.

A task owns the two lines in the middle of the training loop. A batch is what the loader gave, on the device and
preprocessed; the tasks here expect (inputs, targets), where inputs are a tensor, or a dict that is passed to
`forward` by name. For another kind of batch, or several losses, write a task of your own: override `loss_of` and
`predict` (src/project/ has a small one).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.data import Data
from plainloop.errors import UserError, described
from plainloop.tasks import losses as losses_room
from plainloop.tasks import metrics as metrics_room
from plainloop.tasks.breakdown import Table


def forward(model: nn.Module, inputs: Any) -> Any:
    """Call the model with a tensor, or with a dict by name."""
    return model(**inputs) if isinstance(inputs, dict) else model(inputs)


class Task(nn.Module):
    """Base of all tasks. A module, so that what it has fitted is saved with the run and moves to the device.

    Args:
        loss: outputs and targets to a scalar: the mean over the batch. What one of torch's takes instead of logits or
            values (probabilities, say) is made for it: see losses.py.
        metrics: name -> metric with update, compute and reset.
        losses: options of the group `loss` that fit; checked before anything is built.
    """

    kind = ""  # of the table in losses.py: what the outputs and targets are, where they are one of ours
    takes_shares = False  # whether targets may be (N, num_classes) shares, as MixUp makes them
    outputs_name = "outputs"  # what the model's outputs themselves are called in `named`
    # What a program says of `named`, whose tensors it has as NumPy arrays in `said`: a row of JSON for each sample. In
    # `facts` are the names of classes or values.
    script = """\
values = said["prediction"].reshape(len(said["prediction"]), -1)
names = ["prediction"] if values.shape[1] == 1 else [f"prediction {place}" for place in range(values.shape[1])]
names = facts["names"] if len(facts["names"]) == len(names) else names
for row in values:
    print(json.dumps(dict(zip(names, row.tolist()))))
"""

    def __init__(self, loss: nn.Module, metrics: Mapping[str, Any] | None = None, losses: Sequence[str] = ()):
        super().__init__()
        self.loss = losses_room.fitted(loss, self.kind)
        self.metrics = dict(metrics or {})
        self.losses = tuple(losses)
        self.num_outputs: int | None = None  # what the data asks of the model, once it is known

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        """What the data means to this task, for the section `spec`: at least num_outputs. Raises UserError."""
        raise NotImplementedError

    @classmethod
    def check_sample(cls, sample: Any) -> tuple[Any, ...]:
        """The parts of a sample, of which the first is the model's input. Raises UserError where it has none.
        Override it for samples of another form."""
        if not isinstance(sample, tuple | list) or len(sample) < 2:
            raise UserError(
                f"data: a sample must be (input, target); sample 0 is {type(sample).__name__}. "
                "Return both from __getitem__."
            )
        if not isinstance(sample[0], Tensor | dict):
            picture = hasattr(sample[0], "getbands")  # Pillow's
            how = "torchvision.transforms.v2.functional.pil_to_tensor" if picture else "torch.as_tensor"
            raise UserError(
                f"data: an input must be a tensor (or a dict of tensors); that of sample 0 is "
                f"{type(sample[0]).__name__}. Convert it in __getitem__, as with {how}."
            )
        if sample[1] is None or isinstance(sample[1], str):
            raise UserError(
                f"data: a target must be a number or a tensor; that of sample 0 is {sample[1]!r}. In __getitem__, "
                "return a class by its number, from 0, and give the data set an attribute `classes` with their names."
            )
        return tuple(sample)

    def fit(self, data: Data) -> None:
        """Look at the training split before the training starts (for statistics of targets, say)."""

    def size(self, batch: Any) -> int:
        """Samples in a batch. Override it for batches of another form than (inputs, targets tensor)."""
        return len(batch[1])

    @property
    def weighted(self) -> bool:
        """Whether a batch's loss counts by its `share` in means over batches, and not by its samples."""
        return False

    def share(self, batch: Any) -> float:
        """What a batch's loss counts for in means over batches, where `weighted`."""
        return self.size(batch)

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        """The loss of a batch (the mean over its samples) and the model's outputs."""
        inputs, targets = batch
        outputs = forward(model, inputs)
        return self.loss(outputs, targets), outputs

    def parts(self) -> dict[str, Tensor]:
        """What the newest loss was made of, by name: recorded beside it as loss/NAME. Override it where `loss_of` adds
        up several."""
        return self.loss.newest if isinstance(self.loss, losses_room.WeightedSum) else {}

    def predict(self, outputs: Any) -> Tensor:
        """What outputs mean, and what metrics take: probabilities, or values in the target's unit."""
        return outputs

    def answers(self, outputs: Any, inputs: Any, names: Sequence[str], top: int, every: bool) -> dict[str, list[Any]]:
        """What a batch's outputs say, as the columns of a table, a value for each sample.

        Args:
            inputs: the model's.
            names: of the classes, the labels or the values.
            top: where there are classes, so many of the most probable.
            every: the probability of each class, too.
        """
        values = torch.as_tensor(self.predict(outputs)).float().cpu()
        columns = values.reshape(len(values), -1).T.tolist()
        if len(names) != len(columns):
            names = ["prediction"] if len(columns) == 1 else [f"prediction {place}" for place in range(len(columns))]
        return dict(zip(names, columns, strict=True))

    def truths(self, batch: Any, names: Sequence[str]) -> dict[str, list[Any]]:
        """A batch's targets, as the columns of a table, a value for each sample.

        Args:
            names: as of `answers`.
        """
        values = torch.as_tensor(batch[1]).float().cpu()
        columns = values.reshape(len(values), -1).T.tolist()
        if len(columns) == 1:
            return {"target": columns[0]}
        names = names if len(names) == len(columns) else [str(place) for place in range(len(columns))]
        return {f"target {name}": column for name, column in zip(names, columns, strict=True)}

    def counted(self, batch: Any) -> Tensor | None:
        """Which targets count, True or False for each; None: all of them."""
        return None

    def losses_of(self, outputs: Any, batch: Any) -> Tensor:
        """The loss of each sample alone, (N,), of a batch that the model has had; NaN where none of its targets
        counts."""

        loss_of: Callable[..., tuple[Tensor, Any]] = self.loss_of

        def loss(outputs: Any, batch: Any) -> Tensor:
            return loss_of(lambda *_, **__: outputs, batch)[0].detach().float()

        count, counted = len(batch[1]), self.counted(batch)
        with losses_room.unreduced(self.loss) as able:
            if able:
                each = loss(outputs, batch).reshape(count, -1)
                if counted is not None:
                    each = each.masked_fill(~counted.reshape(count, -1), torch.nan)
                return each.nanmean(1).cpu()
        return torch.stack([loss(_one(outputs, place), _one(batch, place)) for place in range(count)]).cpu()

    def trivial(self, data: Data) -> Tensor | None:
        """The outputs for a sample of a model that knows nothing of inputs, and of the targets only how they are spread
        in the training split; None where nobody knows."""
        return None

    def breakdown(
        self, predictions: Tensor, targets: Tensor, names: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> list[Table]:
        """Where the model is right and where it fails.

        Args:
            predictions, targets: of a whole split, as metrics get them, on the CPU.
            names: as of `answers`.
            columns: of `truths` and `answers`.
        """
        return []

    def drawn(self, prediction: Tensor, shape: Sequence[int]) -> Tensor | None:
        """A prediction, as metrics get it of one sample, as an image (C, H, W) to be shown beside the input, which is
        of this shape; None where it is none."""
        return None

    def named(self, outputs: Any, inputs: Any) -> dict[str, Tensor]:
        """What a batch's outputs say, as tensors by name: what an exported file returns. Among them, as
        `outputs_name`, the outputs themselves.

        Args:
            inputs: the model's.
        """
        return {"prediction": self.predict(outputs), self.outputs_name: outputs}

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        """Add a batch to metrics."""
        metrics_room.update_all(metrics, self.predict(outputs), batch[1])

    def check(self, model: nn.Module, batch: Any) -> None:
        """One batch forward, before the first step: raises UserError where shapes don't fit."""
        with torch.enable_grad():  # whose graph knows what the model ends in
            outputs = forward(model, batch[0])
        self.check_outputs(outputs, batch[1])
        ours = type(self).predict.__module__.startswith("plainloop.tasks.") and losses_room.is_known(self.loss)
        if ours:  # else the user decides what outputs mean
            losses_room.check_end(outputs, self.kind)

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        """Compare shapes and types of outputs and targets. Raises UserError."""


def _one(batch: Any, place: int) -> Any:
    """A sample of a batch, as a batch."""
    if isinstance(batch, dict):
        return {name: _one(value, place) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(_one(value, place) for value in batch)
    return batch[place : place + 1]


def with_auxiliary(task: Task, weight: float) -> Callable[..., tuple[Tensor, Any]]:
    """A task's `loss_of` for a model that returns (outputs, auxiliary outputs ...) while it trains: the loss of each
    auxiliary output counts with this weight; the outputs are the main ones."""

    loss_of: Callable[..., tuple[Tensor, Any]] = task.loss_of

    def loss_of_all(model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        others: list[Any] = []

        def main(*inputs: Any, **by_name: Any) -> Any:
            outputs = model(*inputs, **by_name)
            if not isinstance(outputs, tuple):
                return outputs
            others.extend(other for other in outputs[1:] if other is not None)
            return outputs[0]

        loss, outputs = loss_of(main, batch)
        newest = task.parts()
        for other in others:
            loss = loss + weight * loss_of(lambda *_, other=other, **__: other, batch)[0]
        if isinstance(task.loss, losses_room.WeightedSum):  # what is recorded is the main output's
            task.loss.newest = newest
        return loss, outputs

    return loss_of_all


def expect(right: bool, outputs: Any, wanted: str) -> None:
    if not right:
        raise UserError(f"model: its outputs are {described(outputs)}, where the task needs {wanted}.")
