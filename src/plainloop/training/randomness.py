"""Whether a step draws random numbers at all: where nothing does, no generator has to be seeded before it."""

from collections.abc import Iterable
from typing import Any

from torch import nn

# Layers of torch's that draw nothing; those with dropout are looked at one by one.
QUIET = (
    "activation",
    "batchnorm",
    "container",
    "conv",
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
DRAWING = (nn.RReLU, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d)


def may_draw(parts: Iterable[Any]) -> bool:
    """Whether any of the modules, metrics, optimizers, schedulers and callbacks that take part in a step may draw: all
    may that aren't torch's or ours, as nobody knows, and so may whatever has a dropout above 0, or calls a function of
    the user's."""
    return any(_module_may(part) if isinstance(part, nn.Module) else not _is_known(part) for part in parts)


def _module_may(module: nn.Module) -> bool:
    return any(not _is_known(part) or isinstance(part, DRAWING) or _drops_out(part) for part in module.modules())


def _is_known(part: Any) -> bool:
    """Whether a class is torch's and quiet, or ours."""
    where = type(part).__module__
    quiet = where.startswith("torch.nn.modules.") and where.rpartition(".")[2] in QUIET
    calls = any(hasattr(part, name) for name in ("lr_lambdas", "_scale_fn_custom", "_schedulers"))
    return quiet or (where.startswith(("plainloop.", "torch.optim.")) and not calls)


def _drops_out(part: nn.Module) -> bool:
    """As recurrent layers and attention do, which have it as a number."""
    share = getattr(part, "dropout", 0.0)
    return isinstance(share, int | float) and share > 0


def no_seed(step: int) -> None:
    """In the place of `StepSeed`, where nothing draws."""
