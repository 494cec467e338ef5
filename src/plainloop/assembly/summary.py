"""What a model is made of: its layers with their output shapes and parameters, its operations, its memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ROWS = 12  # of the table that a terminal shows


@dataclass
class Summary:
    """Filled in by `watched`.

    Args:
        shapes: module -> shape of its output for one sample; of modules that don't run, nothing.
        flops: module -> floating-point operations for one sample, by torch's own counter: matrix products,
            convolutions and attention, a multiplication and an addition being two.
    """

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)


# Attention in one piece, as each kind of device has it. Which of these torch's counter knows depends on its version.
ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_attention_math_for_mps",
)


def attention_flops(
    queries: torch.Size, keys: torch.Size, values: torch.Size, *others: Any, out_shape: Any = None, **options: Any
) -> int:
    """Operations for queries (N, H, L, E), keys (N, G, S, E) and values (N, G, S, V): each query times each key, and
    the values' mean by these weights. Places that a mask hides count as well, since they are usually computed."""
    batch, heads, places, size = queries
    return 2 * batch * heads * places * keys[-2] * (size + values[-1])


@contextmanager
def watched(model: nn.Module, samples: int) -> Iterator[Summary]:
    """A summary of what the model does within the context, where it is given a batch of so many samples."""
    from torch.utils.flop_counter import FlopCounterMode

    summary = Summary()
    names = {module: name for name, module in model.named_modules()}

    def note_shape(module: nn.Module, inputs: Any, output: Any) -> None:
        while isinstance(output, tuple | list) and output:  # a recurrent layer's outputs, and its state
            output = output[0]
        if isinstance(output, Tensor) and names[module] not in summary.shapes:
            summary.shapes[names[module]] = tuple(output.shape[1:])

    with ExitStack() as stack:
        for module in names:
            stack.callback(module.register_forward_hook(note_shape).remove)
        if any(isinstance(module, nn.LSTM) for module in names):  # in one piece it isn't counted
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False, allow_tf32=None))
        fast_path = torch.backends.mha.get_fastpath_enabled()  # nor is an encoder's layer
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        formulas = {getattr(torch.ops.aten, name): attention_flops for name in ATTENTION}
        counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=formulas))
        yield summary
    root = type(model).__name__
    for place, counts in counter.get_flop_counts().items():
        if place == root or place.startswith(f"{root}."):
            summary.flops[place[len(root) + 1 :]] = sum(counts.values()) / samples
    summary.flops[""] = counter.get_total_flops() / samples


def layers(model: nn.Module, summary: Summary, most: int | None = None) -> list[list[str]]:
    """A table: a row for each module, with its name, class, output shape, parameters and operations, below a row of
    headings. Empty for a model without modules.

    Args:
        most: only so many rows: the outermost modules; None for all.
    """
    modules = [(name, module) for name, module in model.named_modules() if name]
    if most is not None:
        depths = [name.count(".") for name, _ in modules]
        depth = max((d for d in set(depths) if sum(other <= d for other in depths) <= most), default=-1)
        modules = [(name, module) for (name, module), d in zip(modules, depths, strict=True) if d <= depth]
    rows = [["layer", "class", "output", "parameters", "FLOPs"]]
    for name, module in modules:
        count, free = parameter_counts(module)
        shape = summary.shapes.get(name)
        flops = summary.flops.get(name)
        state = "" if free == count else f", {free:,} trained" if free else " frozen"
        rows.append(
            [
                "  " * name.count(".") + name.rpartition(".")[2],
                type(module).__name__,
                "" if shape is None else " x ".join(map(str, shape)) or "1",
                f"{count:,}{state}" if count else "",
                metric(flops) if flops else "",
            ]
        )
    return rows if modules else []


def parameter_counts(module: nn.Module) -> tuple[int, int]:
    """How many numbers there are in a module's parameters, and how many of them are trained."""
    parameters = list(module.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


def memory(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, int | None]:
    """Bytes of weights (with buffers), of gradients, and of what the optimizer keeps; None where that can't be known
    before its first step."""
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "weights": sum(_bytes(tensor) for tensor in tensors),
        "gradients": sum(_bytes(p) for group in optimizer.param_groups for p in group["params"]),
        "the optimizer's state": _state_bytes(optimizer),
    }


def _state_bytes(optimizer: torch.optim.Optimizer) -> int | None:
    """The state after one step, made by a twin without data (on torch's device `meta`)."""
    parts = getattr(optimizer, "parts", {"": optimizer})
    total = 0
    for part in parts.values():
        groups = []
        for group in part.param_groups:
            twins = [nn.Parameter(torch.empty_like(p, device="meta")) for p in group["params"]]
            for twin in twins:
                twin.grad = torch.empty_like(twin)
            plain = {name: False for name in ("fused", "foreach") if name in group}
            rest = {name: value for name, value in group.items() if name not in ("lr", "initial_lr")}
            groups.append({**rest, **plain, "params": twins})
        try:
            kind: Any = type(part)
            stepped = kind(groups)
            stepped.step()
        except Exception:  # those that read a number from a tensor, or ask for the loss: it is a remark, no more
            return None
        total += sum(
            _bytes(value) for state in stepped.state.values() for value in state.values() if isinstance(value, Tensor)
        )
    return total


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def metric(number: float) -> str:
    """1,234,567 as '1.23 M'."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g} "
