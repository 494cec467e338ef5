"""Losses: which of torch's fit which task and what each is given, focal losses, weighted sums, class weights.

The tasks' models return logits or values, whatever the loss. A loss that takes something else (probabilities,
targets of -1 and 1, lists of labels) gets it from here: one line of the table `TURNS` says what.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plainloop.data.dataset import IGNORED
from plainloop.errors import UserError, listed

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
            raise ValueError(
                f"BinaryFocalLoss takes targets of the outputs' shape {tuple(outputs.shape)}, and not "
                f"{tuple(targets.shape)}"
            )
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
            raise UserError(
                "loss=sum: of what? Write loss.parts.NAME=FACTOR for each loss, as in "
                "loss=sum loss.parts.cross_entropy=1 loss.parts.focal=0.5"
            )
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
# Class -> kind of task -> what it is given there. A task's config lists the options that name these.
TURNS: dict[type[nn.Module], dict[str, Turn]] = {
    nn.CrossEntropyLoss: dict.fromkeys(CLASSES, as_they_are),
    nn.NLLLoss: dict.fromkeys(CLASSES, log_probabilities),
    FocalLoss: dict.fromkeys(CLASSES, as_they_are),
    nn.KLDivLoss: {"multiclass": log_shares},
    nn.MultiMarginLoss: {"multiclass": scores},
    nn.BCEWithLogitsLoss: dict.fromkeys(YES_NO, as_they_are),
    nn.BCELoss: dict.fromkeys(YES_NO, probabilities),
    BinaryFocalLoss: dict.fromkeys(YES_NO, as_they_are),
    nn.SoftMarginLoss: dict.fromkeys(YES_NO, signs),
    nn.MultiLabelSoftMarginLoss: {"multilabel": as_they_are},
    nn.MultiLabelMarginLoss: {"multilabel": label_lists},
    nn.MSELoss: dict.fromkeys(VALUES, as_they_are),
    nn.L1Loss: dict.fromkeys(VALUES, as_they_are),
    nn.HuberLoss: dict.fromkeys(VALUES, as_they_are),
    nn.SmoothL1Loss: dict.fromkeys(VALUES, as_they_are),
    nn.PoissonNLLLoss: {"regression": as_they_are},
    nn.GaussianNLLLoss: {"gaussian_regression": mean_and_variance},
    WeightedSum: dict.fromkeys((*CLASSES, *YES_NO, *VALUES), as_they_are),
}


def turns_of(target: Any) -> dict[str, Turn] | None:
    """What a class of torch's or ours is given, by kind of task; None for a loss of the user's own."""
    return TURNS.get(target)


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


@contextmanager
def unreduced(loss: nn.Module) -> Iterator[bool]:
    """Within it, a loss of torch's gives a value for each sample and column, and True is told; any other stays as it
    is, also where it weighs its samples."""
    inner: Any = loss.loss if isinstance(loss, Fitted) else loss
    able = turns_of(type(inner)) is not None and getattr(inner, "reduction", "") == "mean"
    if not able or getattr(inner, "weight", None) is not None:
        yield False
        return
    inner.reduction = "none"
    try:
        yield True
    finally:
        inner.reduction = "mean"


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
        raise UserError(
            f"model: it ends in {found}, and the loss needs its logits: leave {found} out. Loss and "
            "predictions apply what they need by themselves."
        )
