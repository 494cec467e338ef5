"""Which options, and which of several optimizers, each of a model's parameters gets: section `param_groups`."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from plainloop.errors import UserError, listed
from plainloop.models.blocks import blocks_of

Options = dict[str, dict[str, Any]]  # parameter -> what its group has otherwise than the optimizer says


def group_options(
    model: nn.Module,
    named: Mapping[str, nn.Parameter],
    no_decay_norm_bias: bool = False,
    layer_decay: float | None = None,
    head_lr: float | None = None,
    rules: Sequence[Mapping[str, Any]] = (),
) -> Options:
    """What each parameter's group has otherwise than the optimizer says; {} where everything is as it says.

    Args:
        named: the parameters that are trained.
        no_decay_norm_bias: no weight decay on biases and norms: parameters of one dimension.
        layer_decay: the rate of a block is this share of the next one's, down from the head's (Clark et al. 2020,
            "ELECTRA: Pre-training text encoders as discriminators rather than generators").
        head_lr: the last block's rate.
        rules: options by regular expression, as {match: "^features", lr: 1e-4}; where several match, later ones win.
            They beat what the keys above say of the same option.
    """
    options: Options = {name: {} for name in named}
    blocks = blocks_of(model)
    head = blocks[-1] if blocks else None
    if head_lr is not None and not any(name in options for name in (head.parameters if head else ())):
        raise UserError(
            f"param_groups.head_lr={head_lr}: the head {head.name if head else ''} isn't trained. Leave "
            "it out, or choose the head by finetune.trainable"
        )
    for below, block in enumerate(reversed(blocks)):
        for name in [name for name in block.parameters if name in options]:
            if layer_decay is not None and below > 0:
                options[name] |= {"share": layer_decay**below, "name": block.name}
            if head_lr is not None and below == 0:
                options[name] |= {"lr": head_lr, "name": "head"}
    for name, parameter in named.items():
        if no_decay_norm_bias and parameter.ndim <= 1:
            options[name]["weight_decay"] = 0.0
    for rule in rules:
        chosen = {key: value for key, value in rule.items() if key != "match"}
        for name in matching(rule["match"], named, "param_groups.rules"):
            options[name] |= chosen | ({"name": rule["match"]} if "lr" in chosen else {})
    return options


def matching(pattern: str, names: Iterable[str], key: str) -> list[str]:
    """The names in which a regular expression is found. Raises UserError where there is none."""
    try:
        found = [name for name in names if re.search(pattern, name)]
    except re.error as error:
        raise UserError(f"{key}: {pattern} is no regular expression: {error}.") from error
    if not found:
        raise UserError(f"{key}: {pattern} matches no trained parameter. There are: {listed(names, 6)}.")
    return found


def divided(
    parts: Mapping[str, Any], model: nn.Module, named: Mapping[str, nn.Parameter]
) -> dict[str, dict[str, nn.Parameter]]:
    """Which parameters each of several optimizers has: those that its key `parameters` says, or the rest. Raises
    UserError where one has none, or a parameter none or two.

    `parameters` is a regular expression of names, or `hidden_matrices`: weights of two dimensions, but for
    embeddings and the head.
    """
    for name, part in parts.items():
        if not isinstance(part, Mapping) or "_target_" not in part:
            parts_of = [other for other, node in parts.items() if isinstance(node, Mapping) and "_target_" in node]
            written = [f"optimizer.{other}.{name}" for other in parts_of]
            raise UserError(
                f"optimizer.{name}: there are several optimizers here, each with its own _target_ and "
                f"arguments. Write {listed(written)}"
            )
    shares: dict[str, dict[str, nn.Parameter]] = {}
    owner: dict[str, str] = {}
    rest = [name for name, part in parts.items() if part.get("parameters") is None]
    if len(rest) > 1:
        raise UserError(
            f"optimizer: {listed(rest)} all take the rest of the parameters. Give all but one of them "
            "its own, as in optimizer.NAME.parameters='^head'"
        )
    for part, node in parts.items():
        wanted = node.get("parameters")
        if wanted is None:
            continue
        key = f"optimizer.{part}.parameters"
        if not isinstance(wanted, str):
            raise UserError(f"{key}={wanted}: must be a regular expression of parameters' names, or hidden_matrices.")
        names = hidden_matrices(model, named) if wanted == "hidden_matrices" else matching(wanted, named, key)
        if not names:
            raise UserError(
                f"{key}=hidden_matrices: the model has none (weights of two dimensions that are no "
                "embedding's, nor the head's). Choose another optimizer, as optimizer=adamw"
            )
        for name in names:
            if name in owner:
                raise UserError(f"{key}: {name} belongs to optimizer.{owner[name]} already.")
            owner[name] = part
    left = [name for name in named if name not in owner]
    if left and not rest:
        raise UserError(
            f"optimizer: no optimizer has {listed(left, 6)}. Let one of {listed(parts)} take the "
            "rest, by leaving its `parameters` out."
        )
    owner |= dict.fromkeys(left, rest[0] if rest else "")
    for part in parts:  # one that takes the rest may find nothing left
        share = {name: parameter for name, parameter in named.items() if owner[name] == part}
        if share:
            shares[part] = share
    return shares


def hidden_matrices(model: nn.Module, named: Iterable[str]) -> list[str]:
    """Names of the weights of two dimensions, but for those of embeddings and of the head: what Muon is made for."""
    blocks = blocks_of(model)
    head = set(blocks[-1].parameters) if blocks else set()
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    return [
        name
        for name, parameter in model.named_parameters()
        if name in named and parameter.ndim == 2 and name not in head and id(parameter) not in embeddings
    ]
