"""Group `loss`: whether it fits the task, class weights from the data, the loss itself."""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.build import check_arguments, construct, locate
from plainloop.config import options
from plainloop.data import Data, each_sample, targets_of
from plainloop.data.dataset import IGNORED, stand_in
from plainloop.errors import UserError, did_you_mean, listed
from plainloop.tasks.losses import CLASSES, TURNS, YES_NO, WeightedSum, turns_of

OWN_TASK = "write a task of your own whose loss_of does (src/project/tasks.py)"
# Of torch.nn, those that no task here can use: why, and what to do instead.
UNFIT = {
    "AdaptiveLogSoftmaxWithLoss": ("is a model's last layer and a loss in one", "take loss=cross_entropy"),
    "LinearCrossEntropyLoss": ("is a model's last layer and a loss in one", "take loss=cross_entropy, the same values"),
    "CTCLoss": ("needs the lengths of inputs and targets that aren't aligned, and no task gives them", OWN_TASK),
    "CosineEmbeddingLoss": ("compares two outputs of a pair of inputs, and no task gives them", OWN_TASK),
    "HingeEmbeddingLoss": ("takes distances of pairs, and no task gives them", f"for two classes, loss=soft_margin; or "
                           f"{OWN_TASK}"),
    "MarginRankingLoss": ("ranks the two outputs of a pair of inputs, and no task gives them", OWN_TASK),
    "TripletMarginLoss": ("compares outputs of three inputs, and no task gives them", OWN_TASK),
    "TripletMarginWithDistanceLoss": ("compares outputs of three inputs, and no task gives them", OWN_TASK),
}  # fmt: skip


def check_loss(
    node: Any, kind: str, fitting: Sequence[str], task: str, trust: Sequence[str] = (), slot: str = "loss"
) -> None:
    """Whether a loss can work with a kind of task ("" for a task of the user's own, which knows best), before anything
    is built. Raises UserError.

    Args:
        fitting: options of the group `loss` that do, as the task's config lists them.
        task: what the task is called.
    """
    target = locate(node["_target_"], "loss", nn.Module, trust)
    name, turns = getattr(target, "__name__", str(target)), turns_of(target)
    takes = f"task={task} takes: {listed(fitting)}." if fitting else ""
    if kind and name in UNFIT and target is getattr(nn, name, None):
        why, instead = UNFIT[name]
        raise UserError(f"{slot}: {name} {why}.\nInstead, {instead}. {takes}".rstrip())
    if kind and turns is not None and kind not in turns:
        which = f", which takes: {listed(fitting)}" if fitting else ""
        raise UserError(f"{slot}: {name} doesn't fit task={task}{which}.")
    if slot != "loss" and target in (WeightedSum, nn.PoissonNLLLoss, nn.GaussianNLLLoss):
        raise UserError(f"{slot}: {name} can't be part of a sum: outputs mean something else to it than to the others.")
    if target is WeightedSum:
        for part, (inner, _) in _parts(node, slot).items():
            check_loss(inner, kind, fitting, task, trust, f"{slot}.parts.{part}")


def _parts(node: Mapping[str, Any], slot: str) -> dict[str, tuple[dict[str, Any], float]]:
    """A sum's parts as nodes, with their factors. A part is written as its factor alone, or with arguments and a
    `factor` among them; one that is called as an option of the group needs no _target_. Raises UserError."""
    found = {}
    written = node.get("parts") or {}
    if not isinstance(written, Mapping):
        raise UserError(f"{slot}.parts={written}: write {slot}.parts.NAME=FACTOR for each loss.")
    for name, value in written.items():
        inner = {"factor": 1.0, **value} if isinstance(value, Mapping) else {"factor": value}
        factor = inner.pop("factor")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
            raise UserError(
                f"{slot}.parts.{name}={factor}: its factor in the sum must be a number, as in {slot}.parts.{name}=0.5"
            )
        if "_target_" not in inner:
            known = [option for option in options.groups()["loss"] if option != "custom"]
            if name not in known:
                raise UserError(
                    f"{slot}.parts.{name}: no such loss.{did_you_mean(name, known)} One of your own needs "
                    f"{slot}.parts.{name}._target_=my_package.MyLoss"
                )
            inner = options.read("loss", name) | inner
        found[name] = inner, float(factor)
    return found


def ignored_label(node: Mapping[str, Any]) -> int:
    """The label that a loss (or the parts of a sum) passes over. Raises UserError where it is no whole number."""
    parts = {f"parts.{name}.": part for name, part in (node.get("parts") or {}).items() if isinstance(part, Mapping)}
    labels = {f"loss.{place}ignore_index": part.get("ignore_index") for place, part in {"": node, **parts}.items()}
    for key, label in labels.items():
        if label is not None and type(label) is not int:
            raise UserError(f"{key}={label}: must be a whole number, the label that is passed over.")
    return next((label for label in labels.values() if label is not None), IGNORED)


def balanced_weights(
    node: Mapping[str, Any], kind: str, data: Data, names: Sequence[str], slot: str = "loss"
) -> Iterator[tuple[str, list[float]]]:
    """The numbers for each `weight: balanced` and `pos_weight: balanced`, from the training split's labels.

    A class's weight is N / (C count), so that all classes weigh the same together; a label's `pos_weight` is how many
    samples without it there are for one with it.

    Args:
        names: of the classes or labels.

    Returns:
        keys as "loss.weight", and their numbers.
    """
    wanted = [name for name in ("weight", "pos_weight") if node.get(name) == "balanced"]
    for name in wanted:
        if (name == "weight") != (kind in CLASSES) or kind not in (*CLASSES, *YES_NO):
            other = {True: " Write pos_weight=balanced", False: " Write weight=balanced"}.get(kind in YES_NO)
            raise UserError(
                f"{slot}.{name}=balanced: it is for {'classes' if name == 'weight' else 'yes or no'}."
                f"{other if kind in (*CLASSES, *YES_NO) else ''}"
            )
        labels = _labels(data)
        if name == "weight":
            labels = labels.flatten()
            counts = torch.bincount(labels[labels != data.ignored].long(), minlength=len(names)).double()
            numbers = counts.sum() / (len(names) * counts)
        else:
            yes = labels.reshape(len(labels), -1).double().sum(0)
            counts, numbers = torch.minimum(yes, len(labels) - yes), (len(labels) - yes) / yes
        if bool((counts == 0).any()):
            empty = int((counts == 0).nonzero()[0])
            what = f"of class {names[empty]}" if name == "weight" else f"with (or none without) label {empty}"
            raise UserError(
                f"{slot}.{name}=balanced: the training split has no sample {what}. Give the numbers: "
                f"{slot}.{name}=[...]"
            )
        yield f"{slot}.{name}", numbers.tolist()
    for part, inner in (node.get("parts") or {}).items():
        if isinstance(inner, Mapping):
            yield from balanced_weights(inner, kind, data, names, f"{slot}.parts.{part}")


def _labels(data: Data) -> Tensor:
    """All targets of the training split; of a stream, of the samples that stand for all."""
    dataset = stand_in(data.train)
    labels = targets_of(dataset)
    if labels is not None:
        return labels
    each = [torch.as_tensor(sample[1]) for sample in each_sample(dataset, data.skip)]
    one_shape = len({one.shape for one in each}) == 1  # unless they are sequences of different lengths
    return torch.stack(each) if one_shape else torch.cat(each)


def make_loss(
    node: Mapping[str, Any], kind: str, count: int | None, trust: Sequence[str] = (), slot: str = "loss"
) -> nn.Module:
    """Build the loss that a config node describes: lists of weights become tensors, a sum's parts are built first.

    Args:
        kind: of task.
        count: how many outputs there are per sample, and so class weights; any for a task of the user's own.
    """
    target = locate(node["_target_"], "loss", nn.Module, trust)
    if target is WeightedSum:
        arguments = {name: value for name, value in node.items() if name != "_target_"}
        if "factors" in arguments:
            raise UserError(f"{slot}.factors: a factor is written with its loss: {slot}.parts.NAME=FACTOR")
        check_arguments(target, arguments, slot, given={"factors": None})
        parts = _parts(node, slot)
        built = {n: make_loss(inner, kind, count, trust, f"{slot}.parts.{n}") for n, (inner, _) in parts.items()}
        return WeightedSum(built, {name: factor for name, (_, factor) in parts.items()})
    arguments = dict(node)
    if target is nn.KLDivLoss:  # its "mean" would be over the classes too
        arguments.setdefault("reduction", "batchmean")
        if arguments.get("log_target"):
            raise UserError(f"{slot}.log_target=true: the targets are classes, and no logarithms. Leave it out.")
    weights = {}
    if isinstance(target, type) and issubclass(target, tuple(TURNS)):
        taken = [name for name in ("weight", "pos_weight") if name in inspect.signature(target).parameters]
        given = {name: arguments[name] for name in taken if arguments.get(name) is not None}
        weights = {name: _weights(value, kind, count, f"{slot}.{name}") for name, value in given.items()}
    loss = construct(target, {**arguments, **weights}, slot, nn.Module)
    right = "batchmean" if target is nn.KLDivLoss else "mean"
    if getattr(loss, "reduction", right) != right:
        raise UserError(f"{slot}.reduction={loss.reduction}: must be {right}, the mean over a batch's samples.")
    return loss


def _weights(value: Any, kind: str, count: int | None, name: str) -> Tensor:
    """Numbers, one for each output, as a tensor. Raises UserError."""
    numbers = value if isinstance(value, list) else [value]
    right = all(isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one < math.inf for one in numbers)
    if not right or not any(numbers):
        words = "" if kind not in (*CLASSES, *YES_NO) else ", or balanced"
        raise UserError(f"{name}={value}: a list of numbers from 0 on, not all of them 0{words}.")
    if kind == "binary" and name.endswith(".weight"):
        raise UserError(
            f"{name}={value}: with one logit for two classes, write {name[:-6]}pos_weight=NUMBER: how much "
            "more class 1 counts."
        )
    if kind and len(numbers) != count:
        what = "classes" if kind in CLASSES else "labels" if kind == "multilabel" else "outputs"
        raise UserError(f"{name}={value}: {len(numbers)} number{'s' * (len(numbers) != 1)} for {count} {what}.")
    return torch.tensor(numbers, dtype=torch.float32)
