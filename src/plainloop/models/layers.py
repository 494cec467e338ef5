"""Layers by name, so that a config can say `activation: gelu`; and the questions that all models ask of their
arguments."""

from torch import nn

from plainloop.errors import UserError, did_you_mean, listed

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def activation_named(name: str) -> nn.Module:
    """A new activation layer. Raises UserError for a name that isn't known."""
    if name not in ACTIVATIONS:
        raise UserError(
            f"model.activation={name}: not known.{did_you_mean(str(name), ACTIVATIONS)} "
            f"There are: {listed(ACTIVATIONS)}."
        )
    return ACTIVATIONS[name]()


def check_counts(**counts: object) -> None:
    """Sizes and numbers of layers: whole numbers from 1. Raises UserError, which names the argument."""
    for name, value in counts.items():
        if type(value) is not int or value < 1:
            raise UserError(f"model.{name}={value}: must be a whole number of at least 1.")


def check_sizes(least: int = 0, example: str = "[128,64]", **lists: object) -> None:
    """Lists of sizes, so many numbers at least in each. Raises UserError, which names the argument."""
    for name, sizes in lists.items():
        fitting = isinstance(sizes, list | tuple) and all(type(size) is int and size > 0 for size in sizes)
        if not fitting or len(sizes) < least:  # type: ignore[arg-type]
            raise UserError(f"model.{name}={sizes}: a list of whole numbers from 1, as in {example}.")


def check_dropout(dropout: float) -> None:
    """A share from 0 to 1. Raises UserError."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise UserError(f"model.dropout={dropout}: a share from 0 to 1.")
