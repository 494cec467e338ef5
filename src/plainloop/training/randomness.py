"""Whether a step draws random numbers at all: where nothing does, no generator has to be seeded before it."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

# Layers of torch's that draw nothing but what dropout does.
KNOWN = (
    "activation",
    "batchnorm",
    "container",
    "conv",
    "dropout",
    "flatten",
    "instancenorm",
    "linear",
    "loss",
    "normalization",
    "padding",
    "pixelshuffle",
    "pooling",
    "rnn",
    "sparse",
    "upsampling",
)
DRAWING = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


# Where torch keeps functions of the user's that it calls on the way forward, backward, or around a step.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_optimizer_step_pre_hooks",
         "_optimizer_step_post_hooks", "lr_lambdas", "_scale_fn_custom", "_schedulers")  # fmt: skip


def may_draw(parts: Iterable[Any]) -> bool:
    """Whether any of the modules, metrics, optimizers, schedulers and callbacks that take part in a step may draw: all
    may that are somebody else's, and so may whatever has a dropout above 0."""
    parts = list(parts)
    return somebody_elses(parts) or any(isinstance(part, DRAWING) or _drops_out(part) for part in _all(parts))


def somebody_elses(parts: Iterable[Any]) -> bool:
    """Whether any of them, or a part of theirs, is neither torch's and known nor ours, or calls a function of the
    user's: nobody knows what these draw, or whether from torch, NumPy or Python."""
    return not all(_is_known(part) for part in _all(parts))


def _all(parts: Iterable[Any]) -> Iterator[Any]:
    for part in parts:
        yield from part.modules() if isinstance(part, nn.Module) else [part]


def _is_known(part: Any) -> bool:
    where = type(part).__module__
    torchs = where.startswith("torch.nn.modules.") and where.rpartition(".")[2] in KNOWN
    calls = any(getattr(part, name, None) for name in HOOKS) or "forward" in getattr(part, "__dict__", {})
    return (torchs or where.startswith(("plainloop.", "torch.optim."))) and not calls


def _drops_out(part: nn.Module) -> bool:
    """As recurrent layers and attention do, which have it as a number."""
    share = getattr(part, "dropout", 0.0)
    return isinstance(share, int | float) and share > 0


def no_seed(step: int) -> None:
    """In the place of `StepSeed`, where nothing draws."""
