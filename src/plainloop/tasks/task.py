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

from plainloop import losses as losses_room
from plainloop import metrics as metrics_room
from plainloop.data import Data, check_classes, class_names_of, each_sample, first_sample, targets_of
from plainloop.data.splits import IGNORED, SPLITS, own
from plainloop.errors import MachineError, UserError, listed


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

    def __init__(self, loss: nn.Module, metrics: Mapping[str, Any] | None = None, losses: Sequence[str] = ()):
        super().__init__()
        self.loss = losses_room.fitted(loss, self.kind)
        self.metrics = dict(metrics or {})
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

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        """Add a batch to metrics."""
        metrics_room.update_all(metrics, self.predict(outputs), batch[1])

    def check(self, model: nn.Module, batch: Any) -> None:
        """One batch forward, before the first step: raises UserError where shapes don't fit."""
        with torch.enable_grad():  # whose graph knows what the model ends in
            outputs = forward(model, batch[0])
        self.check_outputs(outputs, batch[1])
        ours = type(self).predict.__module__ == __name__ and losses_room.is_known(self.loss)
        if ours:  # else the user decides what outputs mean
            losses_room.check_end(outputs, self.kind)

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        """Compare shapes and types of outputs and targets. Raises UserError."""


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


class ByClasses(Task):
    """Targets are classes, which may have weights of their own.

    torch's cross-entropy and NLL divide by the sum of the weights of a batch's samples, not by their number. In means
    over batches (an epoch's, a validation's, a window's gradient) each batch counts by that sum, so that they are the
    weighted means over all the samples. In a weighted sum of losses it counts by its samples.
    """

    class_weights: Tensor | None = None  # on the CPU, where most batches are when they are counted

    @property
    def weighted(self) -> bool:
        return losses_room.weights_of_mean(self.loss) is not None

    def share(self, batch: Any) -> float:
        if self.class_weights is None:
            weights = losses_room.weights_of_mean(self.loss)
            assert weights is not None
            self.class_weights = weights.double().cpu()
        targets = batch[1].flatten().cpu()
        return float(self.class_weights[targets[targets != self.loss.ignore_index].long()].sum())


class Multiclass(ByClasses):
    """One of C classes. Outputs are logits (N, C), targets classes (N,), predictions probabilities (N, C).

    Targets that the loss ignores (its `ignore_index`, -100 by default) count neither as samples nor in metrics.
    """

    kind = "multiclass"
    takes_shares = True
    ignored: int | None = None  # the label that is ignored, where the data may hold it

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        names = class_names_of(data.train, ignored=data.ignored, skip=data.skip)
        if len(names) < 2:
            raise UserError(f"data: one class only ({names[0] if names else 'none'}): there is nothing to learn.")
        check_classes(data, names)
        return {"num_outputs": len(names), "num_classes": len(names), "class_names": names}

    def fit(self, data: Data) -> None:
        label: Any = getattr(self.loss, "ignore_index", None)
        for split in SPLITS if label is None and losses_room.is_known(self.loss) else ():
            targets = targets_of(data[split])
            if targets is not None and bool(targets.eq(data.ignored).any()):
                raise UserError(f"data: a target of {split} is {data.ignored}, and this loss has no ignore_index to "
                                "pass over it. Try loss=cross_entropy")  # fmt: skip
        for split in SPLITS if label is not None else ():
            targets = targets_of(data[split])
            hits = None if targets is None else targets.eq(label)
            if data[split] is not None and (hits is None or bool(hits.any())):
                self.ignored = label
            if hits is not None and bool(hits.all()):
                raise UserError(f"data: every target of {split} is {label}, which the loss ignores (ignore_index).")

    def size(self, batch: Any) -> int:
        if self.ignored is None:
            return len(batch[1])
        count = int((batch[1] != self.ignored).sum())
        if count == 0:
            raise MachineError(f"every target of a batch is {self.ignored}, which the loss ignores: it has no mean. "
                               "Raise loader.batch_size.")  # fmt: skip
        return count

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        predictions, targets = self.predict(outputs), batch[1]
        if targets.ndim == 2:  # shares of classes, as of a mixed image: its own is the largest
            targets = targets.argmax(1)
        if self.ignored is not None:
            kept = targets != self.ignored
            predictions, targets = predictions[kept], targets[kept]
        metrics_room.update_all(metrics, predictions, targets)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(1)

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        wanted = outputs.shape[1] if self.num_outputs is None and getattr(outputs, "ndim", 0) == 2 else self.num_outputs
        right = isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] == wanted
        _expect(right, outputs, f"logits (N, {wanted or 'classes'})")
        if targets.is_floating_point() or targets.ndim != 1:
            raise UserError(f"task=multiclass needs classes as whole numbers (N,); the targets are {_seen(targets)}.")
        if targets.dtype not in (torch.int64, torch.uint8):
            raise UserError(f"task=multiclass needs classes as int64; the targets are {_seen(targets)}. Return "
                            "int(label) from __getitem__.")  # fmt: skip


class ZeroOne(Task):
    """Targets of 0 and 1. The losses take any number there, so that others are looked for."""

    unseen = False  # whether there are labels that the data set doesn't list

    def fit(self, data: Data) -> None:
        self.unseen = any(data[split] is not None and targets_of(data[split]) is None for split in SPLITS)

    def size(self, batch: Any) -> int:
        """Samples in a batch. Labels that the data set doesn't list are looked at here."""
        targets = batch[1]
        if self.unseen:
            outside = targets[(targets != 0) & (targets != 1)]
            if len(outside):
                raise UserError(f"data: a sample has label {outside[0].item():g}, outside the two classes 0 and 1.")
        return len(targets)


class Binary(ZeroOne):
    """Two classes. Outputs are logits (N, 1), targets 0 or 1 (N,), predictions probabilities of class 1 (N,)."""

    kind = "binary"

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        names = class_names_of(data.train, skip=data.skip)
        if len(names) != 2:
            raise UserError(f"task=binary needs two classes; the data has {len(names)}. Try task=multiclass")
        check_classes(data, names)
        return {"num_outputs": 1, "num_classes": 2, "class_names": names}

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        inputs, targets = batch
        outputs = forward(model, inputs)
        return self.loss(outputs.squeeze(1), targets.to(outputs.dtype)), outputs

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.squeeze(1).float().sigmoid()

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        _expect(
            isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] == 1,
            outputs,
            "logits (N, 1)",
        )
        if targets.ndim != 1:
            raise UserError(f"task=binary needs targets 0 or 1 (N,); the targets are {_seen(targets)}.")


class Multilabel(ZeroOne):
    """T labels, any number of them true. Outputs are logits (N, T), targets 0 or 1 (N, T), predictions probabilities
    (N, T)."""

    kind = "multilabel"

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        target = torch.as_tensor(first_sample(data.train, data.skip)[1])
        if target.ndim != 1:
            raise UserError(f"task=multilabel needs targets 0 or 1, (T,) per sample; these are {_seen(target)}.")
        for split in SPLITS:
            targets = targets_of(data[split])
            wrong = [] if targets is None else ((targets != 0) & (targets != 1)).nonzero().tolist()
            if wrong:
                assert targets is not None
                raise UserError(f"task=multilabel needs targets 0 or 1, (T,) per sample; sample {wrong[0][0]} of "
                                f"{split} has {targets[tuple(wrong[0])].item():g}.")  # fmt: skip
        names = own(data.train, "target_names")
        return {"num_outputs": len(target), "target_names": list(names) if names else None}

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        inputs, targets = batch
        outputs = forward(model, inputs)
        return self.loss(outputs, targets.to(outputs.dtype)), outputs

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        shape = tuple(targets.shape)
        _expect(isinstance(outputs, Tensor) and tuple(outputs.shape) == shape, outputs, f"logits {shape}")


class SequenceLabelling(ByClasses):
    """A class for every place of a sequence. Outputs are logits (N, T, C), targets classes (N, T), predictions
    probabilities (N, T, C).

    Places that the loss ignores (its `ignore_index`, -100 by default: padding) count neither in the loss nor in
    metrics; what counts as a sample, in means, is a place.
    """

    kind = "sequence_labelling"

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        target = torch.as_tensor(first_sample(data.train, data.skip)[1])
        if target.ndim != 1 or target.is_floating_point():
            raise UserError(
                "task=sequence_labelling needs a class for every place of a sequence, (T,) per sample; these "
                f"targets are {_seen(target)}.{' Try task=multiclass' if target.ndim == 0 else ''}"
            )
        names = class_names_of(data.train, skip=data.skip)
        return {"num_outputs": len(names), "num_classes": len(names), "class_names": names}

    def size(self, batch: Any) -> int:
        count = int((batch[1] != self.ignored).sum())
        if count == 0:
            raise MachineError("every place of a batch is padding: there is nothing to learn from it.")
        return count

    @property
    def ignored(self) -> int:
        """The label of places that don't count."""
        return getattr(self.loss, "ignore_index", IGNORED)

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        inputs, targets = batch
        outputs = forward(model, inputs)
        return self.loss(outputs.flatten(0, 1), targets.flatten()), outputs

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(-1)

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        kept = batch[1] != self.ignored
        metrics_room.update_all(metrics, self.predict(outputs[kept]), batch[1][kept])

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        shape = (*targets.shape, self.num_outputs)
        _expect(isinstance(outputs, Tensor) and tuple(outputs.shape) == shape, outputs, f"logits {shape}")


class Reconstruction(Task):
    """The input is the target: outputs of the inputs' shape (preprocessed). Further parts of a sample are ignored."""

    kind = "reconstruction"

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        inputs = cls.check_sample(first_sample(data.train, data.skip))[0]
        if not isinstance(inputs, Tensor):
            raise UserError("task=reconstruction: the input is the target, and must be one tensor; these inputs are a "
                            "dict.")  # fmt: skip
        facts = own(data.train, "facts") or {}
        if facts.get("vocab_size") or facts.get("cardinalities"):
            fix = " data.categories=onehot makes them numbers." if facts.get("cardinalities") else ""
            raise UserError("task=reconstruction: the inputs hold codes of words, whose distances mean nothing: it is "
                            f"for numbers.{fix}")  # fmt: skip
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

    def check(self, model: nn.Module, batch: Any) -> None:
        inputs = _inputs(batch)
        outputs = forward(model, inputs)
        right = isinstance(outputs, Tensor) and outputs.shape == inputs.shape
        _expect(right, outputs, f"the inputs again {tuple(inputs.shape)}, as model=autoencoder gives them")


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch


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

    def __init__(self, loss: nn.Module, metrics: Mapping[str, Any] | None = None, losses: Sequence[str] = (),
                 standardize: bool | None = None):  # fmt: skip
        super().__init__(loss, metrics)
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
                f"{_seen(target)}."
            )
        names = own(data.train, "target_names")
        names = list(names) if names else None
        return {"num_outputs": target.numel(), "target_names": names,
                "target_columns": own(data.train, "target_columns") or names or []}  # fmt: skip

    def fit(self, data: Data) -> None:
        for split in SPLITS if self.counts else ():
            counts = targets_of(data[split])
            below = [] if counts is None else (counts.reshape(len(counts), -1).min(1).values < 0).nonzero().tolist()
            if below:
                raise UserError(
                    f"data: the target of sample {below[0][0]} of {split} is negative, and loss=poisson_nll "
                    f"is for counts. Others: {listed(losses_room.fitting(self.kind)[:4])}."
                )
        if not self.standardize:
            return
        few = own(data.train, "looked_at")  # of a stream, the samples that stand for all
        targets = targets_of(data.train if few is None else few)
        if targets is None:
            targets = torch.stack([torch.as_tensor(sample[1]) for sample in each_sample(data.train, data.skip)])
        targets = targets.double().reshape(len(targets), -1)
        self.mean = targets.mean(0).float()
        deviation = targets.std(0, unbiased=False).float()
        self.std = torch.where(deviation > 0, deviation, torch.ones(()))

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

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        targets = batch[1].reshape(len(batch[1]), -1)
        metrics_room.update_all(metrics, self.predict(outputs), targets)

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        shape = (len(targets), targets[0].numel())
        _expect(isinstance(outputs, Tensor) and tuple(outputs.shape) == shape, outputs, f"values {shape}")
        if self.counts and bool((targets < 0).any()):
            raise UserError("data: a target is negative, and loss=poisson_nll is for counts.")


class GaussianRegression(Regression):
    """T numbers, and how sure the model is of each: outputs (N, 2 T) are T means, and T numbers whose softplus is the
    variance (Nix and Weigend 1994, "Estimating the mean and variance of the target probability distribution").

    Targets are (N, T). Predictions, which metrics take, are the means; `deviation` tells how sure.
    """

    kind = "gaussian_regression"

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

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        shape = (len(targets), 2 * targets[0].numel())
        right = isinstance(outputs, Tensor) and tuple(outputs.shape) == shape
        _expect(right, outputs, f"means and variances {shape}")


def _seen(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__


def _expect(right: bool, outputs: Any, wanted: str) -> None:
    if not right:
        raise UserError(f"model: its outputs are {_seen(outputs)}, where the task needs {wanted}.")
