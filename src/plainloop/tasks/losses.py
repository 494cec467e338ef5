"""Losses: which of torch's fit which task and what each is given, focal losses, weighted sums, class weights.

The tasks' models return logits or values, whatever the loss. A loss that takes something else (probabilities,
targets of -1 and 1, lists of labels) gets it from here: one line of the table `LOSSES` says what.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.build import build, check_arguments, locate
from plainloop.data import Data, each_sample, targets_of
from plainloop.data.splits import IGNORED, own
from plainloop.errors import UserError, did_you_mean, listed

Turn = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


# --- what a loss is given, of a task's outputs and targets ------------------------------------------------------


def as_they_are(outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Logits or values, and the targets."""
    return outputs, targets


def scores(outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Scores (N, C), of which the true class's must be the largest."""
    return outputs.float(), targets


def log_probabilities(outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Logarithms of probabilities (N, C). Of a model that ends in LogSoftmax they stay what they are."""
    return outputs.float().log_softmax(1), targets


def log_shares(outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Logarithms of probabilities, and the classes' true shares (N, C): 1 for the class, unless they are mixed."""
    log = outputs.float().log_softmax(1)
    if targets.ndim == 2:
        return log, targets.float()
    return log, torch.zeros_like(log).scatter_(1, targets.long().unsqueeze(1), 1)


def probabilities(outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Probabilities of yes."""
    return outputs.float().sigmoid(), targets.float()


def signs(outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Targets of -1 and 1."""
    return outputs.float(), 2 * targets.float() - 1


def label_lists(outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The numbers of a sample's true labels (N, T), filled up with -1."""
    ones, labels = targets.sort(dim=1, descending=True, stable=True)
    return outputs.float(), torch.where(ones > 0, labels, -1)


def mean_and_variance(outputs: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """Of 2 T outputs the first half are means, and softplus of the second the variances."""
    mean, raw = outputs.float().chunk(2, 1)
    return mean, targets, F.softplus(raw)


# --- losses of our own ------------------------------------------------------------------------------------------


class FocalLoss(nn.Module):
    """Cross-entropy in which samples that are right already count less: -w (1 - p)^gamma log p, with p the
    probability of the true class (Lin, Goyal, Girshick, He, Dollár 2017, "Focal loss for dense object detection").

    Logits (N, C) and classes (N,) to the mean over samples. With gamma 0 and no weight it is cross-entropy.

    Args:
        gamma: how much less; 0 or more.
        weight: a factor w for each class, (C,): the paper's alpha. The mean is over samples all the same.
        ignore_index: samples with this label don't count.
    """

    weight: Tensor | None

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None, ignore_index: int = IGNORED):
        super().__init__()
        self.gamma, self.ignore_index = _not_negative(gamma, "gamma"), ignore_index
        self.register_buffer("weight", weight)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim != 1 or targets.is_floating_point():
            raise ValueError(f"FocalLoss takes classes (N,), and not targets of shape {tuple(targets.shape)}")
        log = outputs.float().log_softmax(1)
        counted = targets != self.ignore_index
        classes = torch.where(counted, targets, 0).long()
        losses = _focal(log.gather(1, classes.unsqueeze(1)).squeeze(1), self.gamma)
        if self.weight is not None:
            losses = losses * self.weight[classes]
        return (losses * counted).sum() / counted.sum()


class BinaryFocalLoss(nn.Module):
    """The same for answers of yes or no: logits and targets of 0 and 1, both (N,) or (N, T), to their mean.

    Args:
        gamma: as for FocalLoss.
        alpha: the weight of yes, between 0 and 1; that of no is 1 - alpha. None: both 1.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None):
        super().__init__()
        self.gamma = _not_negative(gamma, "gamma")
        if alpha is not None and not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be between 0 and 1, not {alpha}")
        self.alpha = alpha

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape != targets.shape:
            raise ValueError(f"BinaryFocalLoss takes targets of the outputs' shape {tuple(outputs.shape)}, and not "
                             f"{tuple(targets.shape)}")  # fmt: skip
        outputs = outputs.float()
        losses = _focal(F.logsigmoid(torch.where(targets > 0, outputs, -outputs)), self.gamma)
        if self.alpha is not None:
            losses = losses * torch.where(targets > 0, self.alpha, 1 - self.alpha)
        return losses.mean()


def _focal(log: Tensor, gamma: float) -> Tensor:
    # 1 - p without loss of digits; not quite 0, where a power below 1 has no derivative.
    return -((-torch.expm1(log)).clamp(min=1e-12) ** gamma) * log


def _not_negative(value: float, name: str) -> float:
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} must be 0 or more, not {value}")
    return value


class WeightedSum(nn.Module):
    """A sum of losses of the same outputs and targets, each times its factor.

    After every call `newest` holds the parts' values, without their factors and their graphs, to be recorded.

    Args:
        parts: name -> loss.
        factors: name -> factor; 1 where it has none.
    """

    def __init__(self, parts: Mapping[str, nn.Module], factors: Mapping[str, float] | None = None):
        super().__init__()
        if not parts:
            raise UserError("loss=sum: of what? Write loss.parts.NAME=FACTOR for each loss, as in "
                            "loss=sum loss.parts.cross_entropy=1 loss.parts.focal=0.5")  # fmt: skip
        self.parts = nn.ModuleDict(parts)
        self.factors = dict.fromkeys(parts, 1.0) | dict(factors or {})
        self.newest: dict[str, Tensor] = {}
        labels: list[Any] = [part.ignore_index for part in parts.values() if hasattr(part, "ignore_index")]
        if len(set(labels)) > 1:
            raise UserError(f"loss.parts: they ignore different labels ({listed(labels)}): give them one ignore_index.")
        if len(labels) == len(parts):  # what one part would count can't be left out of all
            self.ignore_index = labels[0]

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        values = {name: part(outputs, targets) for name, part in self.parts.items()}
        self.newest = {name: value.detach() for name, value in values.items()}
        return torch.stack([self.factors[name] * value for name, value in values.items()]).sum()


# --- the table --------------------------------------------------------------------------------------------------

CLASSES = ("multiclass", "sequence_labelling")  # kinds of task with one class per sample or place
YES_NO = ("binary", "multilabel")
VALUES = ("regression", "reconstruction")

# Option of the group `loss` -> its class, and kind of task -> what it is given there.
LOSSES: dict[str, tuple[type[nn.Module], dict[str, Turn]]] = {
    "cross_entropy": (nn.CrossEntropyLoss, dict.fromkeys(CLASSES, as_they_are)),
    "nll": (nn.NLLLoss, dict.fromkeys(CLASSES, log_probabilities)),
    "focal": (FocalLoss, dict.fromkeys(CLASSES, as_they_are)),
    "kl_div": (nn.KLDivLoss, {"multiclass": log_shares}),
    "multi_margin": (nn.MultiMarginLoss, {"multiclass": scores}),
    "bce": (nn.BCEWithLogitsLoss, dict.fromkeys(YES_NO, as_they_are)),
    "bce_probabilities": (nn.BCELoss, dict.fromkeys(YES_NO, probabilities)),
    "binary_focal": (BinaryFocalLoss, dict.fromkeys(YES_NO, as_they_are)),
    "soft_margin": (nn.SoftMarginLoss, dict.fromkeys(YES_NO, signs)),
    "multilabel_soft_margin": (nn.MultiLabelSoftMarginLoss, {"multilabel": as_they_are}),
    "multilabel_margin": (nn.MultiLabelMarginLoss, {"multilabel": label_lists}),
    "mse": (nn.MSELoss, dict.fromkeys(VALUES, as_they_are)),
    "l1": (nn.L1Loss, dict.fromkeys(VALUES, as_they_are)),
    "huber": (nn.HuberLoss, dict.fromkeys(VALUES, as_they_are)),
    "smooth_l1": (nn.SmoothL1Loss, dict.fromkeys(VALUES, as_they_are)),
    "poisson_nll": (nn.PoissonNLLLoss, {"regression": as_they_are}),
    "gaussian_nll": (nn.GaussianNLLLoss, {"gaussian_regression": mean_and_variance}),
    "sum": (WeightedSum, dict.fromkeys((*CLASSES, *YES_NO, *VALUES), as_they_are)),
}

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


def fitting(kind: str) -> list[str]:
    """Options of the group `loss` that fit a kind of task."""
    return [name for name, (_, turns) in LOSSES.items() if kind in turns]


def turns_of(target: Any) -> dict[str, Turn] | None:
    """What a class of torch's or ours is given, by kind of task; None for a loss of the user's own."""
    return next((turns for known, turns in LOSSES.values() if known is target), None)


# --- from the configuration to a loss ---------------------------------------------------------------------------


def check(node: Any, kind: str, task: str, trust: Sequence[str] = (), slot: str = "loss") -> None:
    """Whether a loss can work with a kind of task ("" for a task of the user's own, which knows best), before anything
    is built. Raises UserError with those that do."""
    target = locate(node["_target_"], "loss", trust)
    name, turns = getattr(target, "__name__", str(target)), turns_of(target)
    if kind and name in UNFIT and target is getattr(nn, name, None):
        why, instead = UNFIT[name]
        raise UserError(f"{slot}: {name} {why}.\nInstead, {instead}. task={task} takes: {listed(fitting(kind))}.")
    if kind and turns is not None and kind not in turns:
        raise UserError(f"{slot}: {name} doesn't fit task={task}, which takes: {listed(fitting(kind))}.")
    if slot != "loss" and target in (WeightedSum, nn.PoissonNLLLoss, nn.GaussianNLLLoss):
        raise UserError(f"{slot}: {name} can't be part of a sum: outputs mean something else to it than to the others.")
    if target is WeightedSum:
        for part, (inner, _) in _parts(node, slot).items():
            check(inner, kind, task, trust, f"{slot}.parts.{part}")


def _parts(node: Mapping[str, Any], slot: str) -> dict[str, tuple[dict[str, Any], float]]:
    """A sum's parts as nodes, with their factors. A part is written as its factor alone, or with arguments and a
    `factor` among them; one of ours needs no _target_. Raises UserError."""
    found = {}
    written = node.get("parts") or {}
    if not isinstance(written, Mapping):
        raise UserError(f"{slot}.parts={written}: write {slot}.parts.NAME=FACTOR for each loss.")
    for name, value in written.items():
        inner = {"factor": 1.0, **value} if isinstance(value, Mapping) else {"factor": value}
        factor = inner.pop("factor")
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
            raise UserError(f"{slot}.parts.{name}={factor}: its factor in the sum must be a number, as in "
                            f"{slot}.parts.{name}=0.5")  # fmt: skip
        if "_target_" not in inner:
            if name not in LOSSES:
                raise UserError(f"{slot}.parts.{name}: no such loss.{did_you_mean(name, LOSSES)} One of your own needs "
                                f"{slot}.parts.{name}._target_=my_package.MyLoss")  # fmt: skip
            known = LOSSES[name][0]
            inner["_target_"] = f"{'torch.nn' if hasattr(nn, known.__name__) else known.__module__}.{known.__name__}"
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


def balanced(node: Mapping[str, Any], kind: str, data: Data, names: Sequence[str],
             slot: str = "loss") -> Iterator[tuple[str, list[float]]]:  # fmt: skip
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
            raise UserError(f"{slot}.{name}=balanced: it is for {'classes' if name == 'weight' else 'yes or no'}."
                            f"{other if kind in (*CLASSES, *YES_NO) else ''}")  # fmt: skip
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
            raise UserError(f"{slot}.{name}=balanced: the training split has no sample {what}. Give the numbers: "
                            f"{slot}.{name}=[...]")  # fmt: skip
        yield f"{slot}.{name}", numbers.tolist()
    for part, inner in (node.get("parts") or {}).items():
        if isinstance(inner, Mapping):
            yield from balanced(inner, kind, data, names, f"{slot}.parts.{part}")


def _labels(data: Data) -> Tensor:
    """All targets of the training split; of a stream, of the samples that stand for all."""
    few = own(data.train, "looked_at")
    dataset = data.train if few is None else few
    labels = targets_of(dataset)
    if labels is not None:
        return labels
    each = [torch.as_tensor(sample[1]) for sample in each_sample(dataset, data.skip)]
    one_shape = len({one.shape for one in each}) == 1  # unless they are sequences of different lengths
    return torch.stack(each) if one_shape else torch.cat(each)


def make_loss(
    node: Mapping[str, Any], kind: str, count: int, trust: Sequence[str] = (), slot: str = "loss"
) -> nn.Module:
    """Build the loss that a config node describes: lists of weights become tensors, a sum's parts are built first.

    Args:
        kind: of task.
        count: how many outputs there are per sample, and so class weights; any for a task of the user's own.
    """
    target = locate(node["_target_"], "loss", trust)
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
    if isinstance(target, type) and issubclass(target, tuple(known for known, _ in LOSSES.values())):
        taken = [name for name in ("weight", "pos_weight") if name in inspect.signature(target).parameters]
        given = {name: arguments[name] for name in taken if arguments.get(name) is not None}
        weights = {name: _weights(value, kind, count, f"{slot}.{name}") for name, value in given.items()}
    loss = build({**arguments, **weights}, slot, trust)
    right = "batchmean" if target is nn.KLDivLoss else "mean"
    if getattr(loss, "reduction", right) != right:
        raise UserError(f"{slot}.reduction={loss.reduction}: must be {right}, the mean over a batch's samples.")
    return loss


def _weights(value: Any, kind: str, count: int, name: str) -> Tensor:
    """Numbers, one for each output, as a tensor. Raises UserError."""
    numbers = value if isinstance(value, list) else [value]
    right = all(isinstance(one, int | float) and not isinstance(one, bool) and 0 <= one < math.inf for one in numbers)
    if not right or not any(numbers):
        words = "" if kind not in (*CLASSES, *YES_NO) else ", or balanced"
        raise UserError(f"{name}={value}: a list of numbers from 0 on, not all of them 0{words}.")
    if kind == "binary" and name.endswith(".weight"):
        raise UserError(f"{name}={value}: with one logit for two classes, write {name[:-6]}pos_weight=NUMBER: how much "
                        "more class 1 counts.")  # fmt: skip
    if kind and len(numbers) != count:
        what = "classes" if kind in CLASSES else "labels" if kind == "multilabel" else "outputs"
        raise UserError(f"{name}={value}: {len(numbers)} number{'s' * (len(numbers) != 1)} for {count} {what}.")
    return torch.tensor(numbers, dtype=torch.float32)


# --- in a task --------------------------------------------------------------------------------------------------


class Fitted(nn.Module):
    """A loss of torch's behind what turns a task's outputs and targets into what it takes, in float32."""

    def __init__(self, loss: nn.Module, turn: Turn):
        super().__init__()
        self.loss, self.turn = loss, turn
        if hasattr(loss, "ignore_index"):
            self.ignore_index = loss.ignore_index

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(outputs.device.type, enabled=False):  # BCELoss refuses to work under it
            return self.loss(*self.turn(outputs, targets))


def fitted(loss: nn.Module, kind: str) -> nn.Module:
    """A loss as a task calls it: loss(outputs, targets). One of the user's own, or that fits already, is returned."""
    if isinstance(loss, WeightedSum):
        return WeightedSum({name: fitted(part, kind) for name, part in loss.parts.items()}, loss.factors)
    turn = (turns_of(type(loss)) or {}).get(kind, as_they_are)
    return loss if turn is as_they_are else Fitted(loss, turn)


def weights_of_mean(loss: nn.Module) -> Tensor | None:
    """The class weights of a loss whose mean over a batch is weighted by them; None where every sample counts alike."""
    inner = loss.loss if isinstance(loss, Fitted) else loss
    return inner.weight if isinstance(inner, nn.CrossEntropyLoss | nn.NLLLoss) else None


def is_known(loss: nn.Module) -> bool:
    """Whether a loss is torch's or ours, and no user's own."""
    parts = loss.parts.values() if isinstance(loss, WeightedSum) else [loss]
    return any(isinstance(part, Fitted) or turns_of(type(part)) is not None for part in parts)


# --- a model that ends in what the loss does itself -------------------------------------------------------------

ENDS = {"SoftmaxBackward": "Softmax", "SigmoidBackward": "Sigmoid", "LogSigmoidBackward": "LogSigmoid"}
SAME_NUMBERS = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Permute", "T", "Clone",
                "ToCopy", "Slice", "Select", "Alias")  # fmt: skip


def check_end(outputs: Any, kind: str) -> None:
    """Whether outputs that should be logits come out of a softmax or a sigmoid, by the graph that autograd has of
    them. Raises UserError.

    LogSoftmax changes nothing where a softmax comes next; for yes or no it does.
    """
    node = getattr(outputs, "grad_fn", None)
    while node is not None and node.name().partition("Backward")[0] in SAME_NUMBERS:
        node = node.next_functions[0][0]
    ends = ENDS | ({"LogSoftmaxBackward": "LogSoftmax"} if kind in YES_NO else {})
    found = None if node is None else ends.get(node.name().rstrip("0123456789"))
    if kind in (*CLASSES, *YES_NO) and found:
        raise UserError(f"model: it ends in {found}, and the loss needs its logits: leave {found} out. Loss and "
                        "predictions apply what they need by themselves.")  # fmt: skip
