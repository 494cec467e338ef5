"""Targets that are classes or labels: one of several, one of two, any number of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.data import Data, check_classes, class_names_of, first_sample, targets_of
from plainloop.data.dataset import SPLITS, asked
from plainloop.errors import UserError, described
from plainloop.tasks import breakdown
from plainloop.tasks import losses as losses_room
from plainloop.tasks import metrics as metrics_room
from plainloop.tasks.breakdown import Table
from plainloop.tasks.task import Task, expect, forward


class ByClasses(Task):
    """Targets are classes, which may have weights of their own.

    torch's cross-entropy and NLL divide by the sum of the weights of a batch's samples, not by their number. In means
    over batches (an epoch's, a validation's, a window's gradient) each batch counts by that sum, so that they are the
    weighted means over all the samples. In a weighted sum of losses it counts by its samples.
    """

    outputs_name = "logits"
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

    def breakdown(
        self, predictions: Tensor, targets: Tensor, names: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> list[Table]:
        sure, said = predictions.max(1)
        return [breakdown.by_class(said, targets, names), breakdown.calibration(sure, said == targets)]


OF_CLASSES = """\
for row in said["probabilities"]:
    best = int(row.argmax())
    print(json.dumps({"prediction": facts["names"][best], "probability": float(row[best])}))
"""


def answers_of_classes(probabilities: Tensor, names: Sequence[str], top: int, every: bool) -> dict[str, list[Any]]:
    """The most probable classes of each sample, and how probable they are, as columns of a table.

    Args:
        probabilities: (N, C).
        top, every: as of `Task.answers`.
    """
    probabilities = probabilities.float().cpu()
    if top > 1:
        ranked = probabilities.argsort(dim=1, descending=True, stable=True)[:, :top]
    else:
        ranked = probabilities.argmax(1, keepdim=True)
    found: dict[str, list[Any]] = {}
    for rank in range(ranked.shape[1]):
        behind = f" {rank + 1}" if rank else ""
        found[f"prediction{behind}"] = [names[place] for place in ranked[:, rank].tolist()]
        found[f"probability{behind}"] = probabilities.gather(1, ranked[:, rank : rank + 1])[:, 0].tolist()
    if every:
        found |= {f"p({name})": column for name, column in zip(names, probabilities.T.tolist(), strict=True)}
    return found


def labels_of(true: Tensor, names: Sequence[str]) -> list[str]:
    """The names of the labels that are true (N, T): 'cat|dog' for each sample."""
    return ["|".join(name for name, is_so in zip(names, row, strict=True) if is_so) for row in true.tolist()]


def log_shares_of(targets: Tensor | None, count: int | None, ignored: int | None) -> Tensor | None:
    """The logarithm of each class's share (C,); of a class that doesn't occur, as if it did once among them."""
    if targets is None or count is None or targets.is_floating_point():
        return None
    known = targets[targets != ignored] if ignored is not None else targets
    return torch.bincount(known.flatten().long(), minlength=count).clamp(min=1).float().log().log_softmax(0)


def log_odds_of(targets: Tensor | None) -> Tensor | None:
    """The logarithm of the odds of each label, (T,), where targets are 0 or 1 (N, T); of one, (1,)."""
    if targets is None:
        return None
    yes = targets.float().reshape(len(targets), -1).sum(0).clamp(0.5, len(targets) - 0.5)
    return (yes / (len(targets) - yes)).log()


class Multiclass(ByClasses):
    """One of C classes. Outputs are logits (N, C), targets classes (N,), predictions probabilities (N, C).

    Targets that the loss ignores (its `ignore_index`, -100 by default) count neither as samples nor in metrics.
    """

    kind = "multiclass"
    takes_shares = True
    script = OF_CLASSES
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
                raise UserError(
                    f"data: a target of {split} is {data.ignored}, and this loss has no ignore_index to "
                    "pass over it. Try loss=cross_entropy"
                )
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
        return int((batch[1] != self.ignored).sum())

    def update(self, metrics: Mapping[str, Any], outputs: Any, batch: Any) -> None:
        targets = batch[1]
        if targets.ndim == 2:  # shares of classes, as of a mixed image: its own is the largest
            targets = targets.argmax(1)
        if self.ignored is not None:
            kept = targets != self.ignored
            outputs, targets = outputs[kept], targets[kept]
        if type(self).predict is Multiclass.predict:
            metrics = metrics_room.update_ranking(metrics, outputs, targets)
        if metrics:
            metrics_room.update_all(metrics, self.predict(outputs), targets)

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.float().softmax(1)

    def answers(self, outputs: Any, inputs: Any, names: Sequence[str], top: int, every: bool) -> dict[str, list[Any]]:
        return answers_of_classes(self.predict(outputs), names, top, every)

    def truths(self, batch: Any, names: Sequence[str]) -> dict[str, list[Any]]:
        return {"target": ["" if place == self.ignored else names[place] for place in batch[1].tolist()]}

    def counted(self, batch: Any) -> Tensor | None:
        return None if self.ignored is None else batch[1] != self.ignored

    def trivial(self, data: Data) -> Tensor | None:
        """The logarithms of the classes' shares."""
        return log_shares_of(targets_of(data.train), self.num_outputs, self.ignored)

    def named(self, outputs: Any, inputs: Any) -> dict[str, Tensor]:
        return {"logits": outputs, "probabilities": self.predict(outputs)}

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        wanted = outputs.shape[1] if self.num_outputs is None and getattr(outputs, "ndim", 0) == 2 else self.num_outputs
        right = isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] == wanted
        expect(right, outputs, f"logits (N, {wanted or 'classes'})")
        if targets.is_floating_point() or targets.ndim != 1:
            raise UserError(
                f"task=multiclass needs classes as whole numbers (N,); the targets are {described(targets)}."
            )
        if targets.dtype not in (torch.int64, torch.uint8):
            raise UserError(
                f"task=multiclass needs classes as int64; the targets are {described(targets)}. Return "
                "int(label) from __getitem__."
            )


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
    outputs_name = "logits"
    script = OF_CLASSES

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

    def answers(self, outputs: Any, inputs: Any, names: Sequence[str], top: int, every: bool) -> dict[str, list[Any]]:
        return answers_of_classes(self._of_both(outputs), names, top, every)

    def named(self, outputs: Any, inputs: Any) -> dict[str, Tensor]:
        return {"logits": outputs, "probabilities": self._of_both(outputs)}

    def _of_both(self, outputs: Any) -> Tensor:
        """The probabilities of both classes, (N, 2)."""
        second = self.predict(outputs)
        return torch.stack([1 - second, second], dim=1)

    def truths(self, batch: Any, names: Sequence[str]) -> dict[str, list[Any]]:
        return {"target": [names[int(place)] for place in batch[1].tolist()]}

    def trivial(self, data: Data) -> Tensor | None:
        return log_odds_of(targets_of(data.train))

    def breakdown(
        self, predictions: Tensor, targets: Tensor, names: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> list[Table]:
        said, targets = (predictions > 0.5).long(), targets.long()
        sure = torch.where(said > 0, predictions, 1 - predictions)
        return [breakdown.by_class(said, targets, names), breakdown.calibration(sure, said == targets)]

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        expect(
            isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] == 1,
            outputs,
            "logits (N, 1)",
        )
        if targets.ndim != 1:
            raise UserError(f"task=binary needs targets 0 or 1 (N,); the targets are {described(targets)}.")


class Multilabel(ZeroOne):
    """T labels, any number of them true. Outputs are logits (N, T), targets 0 or 1 (N, T), predictions probabilities
    (N, T)."""

    kind = "multilabel"
    outputs_name = "logits"
    script = """\
for row in said["probabilities"]:
    names = facts["names"] or [str(place) for place in range(len(row))]
    true = [name for name, probability in zip(names, row) if probability > 0.5]
    print(json.dumps({"prediction": "|".join(true), **{f"p({n})": float(p) for n, p in zip(names, row)}}))
"""

    @classmethod
    def describe(cls, data: Data) -> dict[str, Any]:
        target = torch.as_tensor(first_sample(data.train, data.skip)[1])
        if target.ndim != 1:
            raise UserError(f"task=multilabel needs targets 0 or 1, (T,) per sample; these are {described(target)}.")
        for split in SPLITS:
            targets = targets_of(data[split])
            wrong = [] if targets is None else ((targets != 0) & (targets != 1)).nonzero().tolist()
            if wrong:
                assert targets is not None
                raise UserError(
                    f"task=multilabel needs targets 0 or 1, (T,) per sample; sample {wrong[0][0]} of "
                    f"{split} has {targets[tuple(wrong[0])].item():g}."
                )
        names = asked(data.train, "target_names")
        return {"num_outputs": len(target), "target_names": list(names) if names else None}

    def loss_of(self, model: nn.Module, batch: Any) -> tuple[Tensor, Any]:
        inputs, targets = batch
        outputs = forward(model, inputs)
        return self.loss(outputs, targets.to(outputs.dtype)), outputs

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()

    def answers(self, outputs: Any, inputs: Any, names: Sequence[str], top: int, every: bool) -> dict[str, list[Any]]:
        """The labels that are more probable than not, and how probable each is."""
        each = self.predict(outputs).cpu()
        names = names or [str(place) for place in range(each.shape[1])]
        return {
            "prediction": labels_of(each > 0.5, names),
            **{f"p({name})": p for name, p in zip(names, each.T.tolist(), strict=True)},
        }

    def truths(self, batch: Any, names: Sequence[str]) -> dict[str, list[Any]]:
        return {"target": labels_of(batch[1] > 0.5, names or [str(place) for place in range(batch[1].shape[1])])}

    def trivial(self, data: Data) -> Tensor | None:
        return log_odds_of(targets_of(data.train))

    def breakdown(
        self, predictions: Tensor, targets: Tensor, names: Sequence[str], columns: Mapping[str, list[Any]]
    ) -> list[Table]:
        said, true = (predictions > 0.5).long(), targets.long()
        names = names or [str(place) for place in range(said.shape[1])]
        sure = torch.where(said > 0, predictions, 1 - predictions)
        return [breakdown.by_class(said, true, names), breakdown.calibration(sure.flatten(), (said == true).flatten())]

    def named(self, outputs: Any, inputs: Any) -> dict[str, Tensor]:
        return {"logits": outputs, "probabilities": self.predict(outputs)}

    def check_outputs(self, outputs: Any, targets: Any) -> None:
        shape = tuple(targets.shape)
        expect(isinstance(outputs, Tensor) and tuple(outputs.shape) == shape, outputs, f"logits {shape}")
