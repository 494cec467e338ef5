"""A model as a row of blocks, from its inputs to its head: what fine-tuning freezes and layer-wise rates count.

A block is what the model itself repeats or lists: a residual block, an encoder layer, a single linear layer. The
last block is the head.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn


@dataclass
class Block:
    """Some of a model's parameters that belong together.

    Args:
        name: of the module, as `layer4.1`; "" for what the model itself holds.
        parameters: their names, as in `model.named_parameters()`.
    """

    name: str
    parameters: list[str] = field(default_factory=list)


def blocks_of(model: nn.Module) -> list[Block]:
    """The model's blocks, in the order in which its modules were defined; together they hold every parameter once.

    The model is taken apart, and so is whatever lists modules (`nn.Sequential`, `nn.ModuleList`) or repeats blocks
    of one class. Norms, and biases that stand alone, go with the block before them; parameters that a module holds
    beside its blocks (a class token) with the one after them.
    """
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    found: list[Block] = []
    early: list[str] = []  # of modules that are taken apart
    for name, module, whole in _parts(model):
        own = module.named_parameters(name) if whole else module.named_parameters(name, recurse=False)
        names = [each for each, _ in own if each in shapes]  # a tied weight counts where it comes first
        if not whole:
            early += names
        elif names and found and not early and all(shapes[each] <= 1 for each in names):
            found[-1].parameters += names
        elif names:
            found.append(Block(name, early + names))
            early = []
    if early:
        found.append(Block("", early))
    return found


def _parts(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module, bool]]:
    """(name, module, whether it stays whole), parents before their children."""
    taken_apart = next(module.children(), None) is not None and (
        not name or isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) or _repeats(module)
    )
    yield name, module, not taken_apart
    if taken_apart:
        for child_name, child in module.named_children():
            yield from _parts(child, f"{name}.{child_name}" if name else child_name)


def _repeats(module: nn.Module) -> bool:
    """Whether a list in it holds several blocks of one class, which have parts themselves."""
    for part in module.modules():
        if isinstance(part, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            kinds = [type(item) for item in part.children() if _is_block(item)]
            if len(kinds) > len(set(kinds)):
                return True
    return False


def _is_block(module: nn.Module) -> bool:
    lists = nn.Sequential | nn.ModuleList | nn.ModuleDict
    return not isinstance(module, lists) and next(module.children(), None) is not None
