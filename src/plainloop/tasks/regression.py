"""Targets that are numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.data import Data, each_sample, first_sample, targets_of
from plainloop.data.dataset import SPLITS, asked, stand_in
from plainloop.data.preprocess import statistics
from plainloop.errors import UserError, described, listed
from plainloop.tasks import breakdown
from plainloop.tasks import metrics as metrics_room
from plainloop.tasks.breakdown import Table
from plainloop.tasks.task import Task, expect, forward


class Regression(Task):
    """T numbers. Outputs and targets are (N, T); predictions are in the target's own unit.

    With PoissonNLLLoss the targets are counts and stay as they are; the outputs are logarithms of rates (with
    log_input=false, rates), and predictions rates.

    Args:
        standardize: the model learns (target - mean) / deviation of the training split, so that a target in
            thousands trains as well as one in thousandths; loss values are in units of that deviation. None: unless
            the targets are counts.
    """

    kind = "regression"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        loss: nn.Module,
        metrics: Mapping[str, Any] | None = None,
        losses: Sequence[str] = (),
        standardize: bool | None = None,
    ):
        super().__init__(loss, metrics, losses)
        self.counts = isinstance(loss, nn.PoissonNLLLoss)
        self.log_rates = isinstance(loss, nn.PoissonNLLLoss) and loss.log_input
        if self.counts and standardize:
            raise UserError("task.standardize=true: the loss takes counts as they are. Leave it out.")
        self.standardize = not self.counts if standardize is None else standardize
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        target = torch.as_tensor(first_sample(data.train, data.skip)[1])
        if not target.is_floating_point() or target.ndim > 1:
            raise UserError(
                "task=regression needs targets that are float numbers, () or (T,) per sample; these are "
                f"{described(target)}."
            )
        names = asked(data.train, "target_names")
        names = list(names) if names else None
        return {
            "num_outputs": target.numel(),
            "target_names": names,
            "target_columns": asked(data.train, "target_columns") or names or [],
        }

    def fit(self, data: Data) -> None:
        for split in SPLITS if self.counts else ():
            counts = targets_of(data[split])
            below = [] if counts is None else (counts.reshape(len(counts), -1).min(1).values < 0).nonzero().tolist()
            if below:
                others = [name for name in self.losses if name != "poisson_nll"]
                raise UserError(
                    f"data: the target of sample {below[0][0]} of {split} is negative, and loss=poisson_nll "
                    f"is for counts. Others: {listed(others[:4])}."
                )
        if not self.standardize:
            return
        looked_at = stand_in(data.train)  # a stream's first samples
        targets = targets_of(looked_at)
        if targets is None:
            targets = torch.stack([torch.as_tensor(sample[1]) for sample in each_sample(looked_at, data.skip)])
        mean, deviation = statistics([(targets.double().reshape(len(targets), -1),)])
        self.mean, self.std = mean.float(), deviation.float()

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        inputs, targets = batch
        outputs = forward(model, inputs)
        # A scalar per sample is one column: (N,) is (N, 1) here. float64 is NumPy's default, and never meant.
        targets = targets.reshape(len(targets), -1).to(torch.float32)
        if self.standardize:
            targets = (targets - self.mean) / self.std
        return self.loss(outputs, targets), outputs

    def predict(self, outputs: Tensor) -> Tensor:
        if self.log_rates:
            return outputs.float().exp()
        return outputs.float() * self.std + self.mean if self.standardize else outputs.float()

    def trivial(self, data: Data) -> Tensor | None:
        """The mean of the targets."""
        if self.standardize:
            return torch.zeros_like(self.mean, device="cpu")
        targets = targets_of(data.train)
        if targets is None:
            return None
        mean = targets.double().reshape(len(targets), -1).mean(0).float()
        return mean.log() if self.log_rates else mean

    def breakdown(
        self, predictions: Tensor, targets: Tensor, names: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> list[Table]:
        count = predictions.shape[1]
        names = [""] if count == 1 else names if len(names) == count else [str(place) for place in range(count)]
        columns_of_both = zip(predictions.T, targets.T, names, strict=True)
        return [breakdown.residuals(said, true, name) for said, true, name in columns_of_both]

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        targets = batch[1].reshape(len(batch[1]), -1)
        metrics_room.update_all(metrics, self.predict(outputs), targets)

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        shape = (len(targets), targets[0].numel())
        expect(isinstance(outputs, Tensor) and tuple(outputs.shape) == shape, outputs, f"values {shape}")
        if self.counts and bool((targets < 0).any()):
            raise UserError("data: a target is negative, and loss=poisson_nll is for counts.")


class GaussianRegression(Regression):
    """T numbers, and how sure the model is of each: outputs (N, 2 T) are T means, and T numbers whose softplus is the
    variance (Nix and Weigend 1994, "Estimating the mean and variance of the target probability distribution").

    Targets are (N, T). Predictions, which metrics take, are the means; `deviation` tells how sure.
    """

    kind = "gaussian_regression"
    script = """\
count = said["prediction"].shape[1]
names = ["prediction"] if count == 1 else [f"prediction {place}" for place in range(count)]
names = facts["names"] if len(facts["names"]) == count else names
for row, deviations in zip(said["prediction"].tolist(), said["deviation"].tolist()):
    of = {f"deviation of {name}": each for name, each in zip(names, deviations)}
    print(json.dumps(dict(zip(names, row)) | of))
"""

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        facts = super().describe(data)
        return {**facts, "num_outputs": 2 * facts["num_outputs"]}

    def predict(self, outputs: Tensor) -> Tensor:
        return super().predict(outputs.chunk(2, 1)[0])

    def deviation(self, outputs: Tensor) -> Tensor:
        """The standard deviation of each prediction, (N, T), in the target's own unit."""
        deviation = nn.functional.softplus(outputs.float().chunk(2, 1)[1]).sqrt()
        return deviation * self.std if self.standardize else deviation

    def trivial(self, data: Data) -> Tensor | None:
        """The mean of the targets, and their variance."""
        mean, targets = super().trivial(data), targets_of(data.train)
        if mean is None or targets is None:
            return None
        values = targets.double().reshape(len(targets), -1)
        variance = torch.ones_like(mean) if self.standardize else values.var(0, correction=0).float()
        return torch.cat([mean, variance.clamp(min=1e-6).expm1().log()])  # whose softplus it is

    def breakdown(
        self, predictions: Tensor, targets: Tensor, names: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> list[Table]:
        deviations = [values for name, values in columns.items() if name.startswith("deviation of ")]
        own = breakdown.coverage(predictions - targets, torch.tensor(deviations).T)
        return [*super().breakdown(predictions, targets, names, columns), own]

    def answers(self, outputs: Any, inputs: Any, names: Sequence[str], top: int, every: bool) -> dict[str, list[Any]]:
        means = super().answers(outputs, inputs, names, top, every)
        deviations = self.deviation(outputs).cpu().T.tolist()
        return means | {f"deviation of {name}": each for name, each in zip(means, deviations, strict=True)}

    def named(self, outputs: Any, inputs: Any) -> dict[str, Tensor]:
        return super().named(outputs, inputs) | {"deviation": self.deviation(outputs)}

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        shape = (len(targets), 2 * targets[0].numel())
        right = isinstance(outputs, Tensor) and tuple(outputs.shape) == shape
        expect(right, outputs, f"means and variances {shape}")
