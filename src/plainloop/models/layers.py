"""Layers by name, so that a config can say `activation: gelu`."""

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
