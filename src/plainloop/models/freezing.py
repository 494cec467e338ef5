"""Which parts of a model are trained: all of it, its head, its last blocks, or what a regular expression names."""

import re

from torch import nn

from plainloop.errors import UserError, listed
from plainloop.models.blocks import blocks_of


def freeze(model: nn.Module, trainable: str) -> None:
    """Let only some parameters require a gradient. Raises UserError for what names none.

    Args:
        trainable: "all" leaves the model as it is; "head": its last block; "last:3": its last three blocks (see
            `blocks_of`); else a regular expression that is looked for in the parameters' names.
    """
    if trainable == "all":
        return
    blocks = blocks_of(model)
    if last := re.fullmatch(r"head|last:(\d+)", trainable):
        count = int(last[1] or 1)
        if not 1 <= count <= len(blocks):
            raise UserError(
                f"finetune.trainable={trainable}: the model has {len(blocks)} blocks, "
                f"{listed([block.name or 'its own' for block in blocks], 6)}."
            )
        chosen = {name for block in blocks[-count:] for name in block.parameters}
    else:
        names = [name for name, _ in model.named_parameters()]
        try:
            chosen = {name for name in names if re.search(trainable, name)}
        except re.error as error:
            raise UserError(
                f"finetune.trainable={trainable}: must be all, head, last:N, or a regular expression, and "
                f"as one it is wrong: {error}."
            ) from error
        if not chosen:
            raise UserError(
                f"finetune.trainable={trainable}: no parameter's name has it. There are: "
                f"{listed(names, 6)}; all, head and last:N are names for whole parts."
            )
    for name, parameter in model.named_parameters():
        if name not in chosen:
            parameter.requires_grad_(False)


def train_mode(model: nn.Module) -> None:
    """`model.train()`, but for normalisation by batch statistics whose parameters are frozen: it stays in eval mode,
    or its running mean and variance would go on changing."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            for part in module.modules():
                if isinstance(part, nn.modules.batchnorm._NormBase):
                    part.eval()


def frozen_parts(model: nn.Module) -> list[str]:
    """The largest modules, by name, whose parameters are all frozen."""
    found: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        inside = any(name == other or name.startswith(f"{other}.") for other in found)
        if name and parameters and not inside and not any(parameter.requires_grad for parameter in parameters):
            found.append(name)
    return found
