"""A run as one module from raw inputs to named outputs, and that as a graph, whose shapes are looked at: what every
exported file is made of."""

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import plainloop
from plainloop import seeding
from plainloop.assembly.quiet import quietly
from plainloop.assembly.serving import Served
from plainloop.data.raw import Raw
from plainloop.errors import MachineError, UserError, described, first_line, listed, told
from plainloop.models.unpacked import Unpacked, as_torch_has_it
from plainloop.tasks.task import forward

TRACED = 2  # samples in the batch that is traced
TRIED = (1, 3, 7)  # and in those that are tried
ALLOWED = 1e-4  # by which outputs may differ, in parts of their size where that is above 1


class Deployable(nn.Module):
    """Raw inputs, in the order of their names, to named outputs.

    Args:
        raw: what it takes.
        preprocess, model, task: the run's.
    """

    def __init__(self, raw: Raw, preprocess: nn.Module, model: nn.Module, task: Any):
        super().__init__()
        self.raw, self.preprocess, self.model = raw, preprocess, model
        self.task = [task]  # in a list: its loss is no part of what is traced

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        batch = self.preprocess(self.raw(**dict(zip(self.raw.axes, inputs, strict=True))))
        return self.task[0].named(forward(self.model, batch), batch)


@dataclass
class Graph:
    """A traced module.

    Args:
        program: torch's.
        inputs, outputs: by name, the type and the axes of each: a name, or how long one is that is fixed.
        limits: of axes with a name, the most that they may have.
        raw: what it takes.
        answer: (inputs) -> outputs as the run itself gives them.
    """

    program: Any
    inputs: dict[str, tuple[str, tuple[str | int, ...]]]
    outputs: dict[str, tuple[str, tuple[str | int, ...]]]
    limits: dict[str, int]
    raw: Raw
    answer: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = field(repr=False)

    def lines(self) -> list[str]:
        """What is taken and given, for people."""
        said = []
        for word, signature in (("takes", self.inputs), ("gives", self.outputs)):
            for name, (kind, axes) in signature.items():
                shape = ", ".join(self._axis(axis) for axis in axes)
                said.append(f"{word}   {name} {kind} ({shape})")
        fixed = self.fixed()
        return said + (
            [f"fixed   {listed(f'{name} is always {size}' for name, size in fixed.items())}"] if fixed else []
        )

    def _axis(self, axis: str | int) -> str:
        return f"{axis} up to {self.limits[axis]}" if axis in self.limits else str(axis)

    def fixed(self) -> dict[str, int]:
        """The axes that should have been free, and aren't."""
        pairs = [pair for name, wanted in self.raw.axes.items() for pair in self._beside(name, wanted)]
        return {axis: size for axis, size in pairs if isinstance(axis, str) and isinstance(size, int)}

    def _beside(self, name: str, wanted: Sequence[str | int]) -> Iterator[tuple[str | int, str | int]]:
        """What each axis of an input should be called, and what it is."""
        return zip(wanted, self.inputs[name][1], strict=True)

    def trials(self) -> Iterator[dict[str, Tensor]]:
        """Inputs of three shapes that it wasn't traced with."""
        fixed, generator = self.fixed(), torch.Generator().manual_seed(0)
        for place, batch in enumerate(TRIED):
            sizes = {axis: each[1 + place] for axis, each in self.raw.sizes.items()}
            sizes = {axis: min(size, self.limits.get(axis, size)) for axis, size in sizes.items()}
            yield self.raw.draw({"batch": batch, **sizes, **fixed}, generator)

    def compare(self, run: Callable[[Mapping[str, Tensor]], Mapping[str, Any]], what: str) -> float:
        """The largest difference between what a file says and what the run says, over the trials. Raises MachineError
        where it is too large.

        Args:
            run: the file.
            what: it is, for the error.
        """
        largest = 0.0
        for inputs in self.trials():
            shapes = listed(f"{name} {tuple(each.shape)}" for name, each in inputs.items())
            try:
                said = run(inputs)
            except Exception as error:  # of any runtime
                raise MachineError(f"{what} fails on {shapes}: {first_line(error)[:300]}") from error
            for name, truth in self.answer(inputs).items():
                apart = difference(torch.as_tensor(said[name]), truth)
                if not apart <= ALLOWED:
                    raise MachineError(
                        f"{what} says something else than PyTorch: {name} differs by {apart:.2g} (at most {ALLOWED:g} "
                        f"is rounding) on {shapes}. No file is written."
                    )
                largest = max(largest, apart)
        return largest


def difference(said: Tensor, truth: Tensor) -> float:
    """The largest difference, in parts of the largest number where that is above 1. Infinite for other shapes."""
    if said.shape != truth.shape:
        return float("inf")
    apart = (said.double() - truth.double()).abs()
    same = (said == truth) | (said.isnan() & truth.isnan())  # infinite ones, too
    apart = torch.where(same, 0.0, apart)
    size = float(truth.double().abs().nan_to_num(0, 0, 0).max()) if truth.numel() else 0.0
    return float(apart.max()) / max(1.0, size) if apart.numel() else 0.0


def traced(served: Served) -> Graph:
    """A run as a graph. Raises UserError for one that can't be, with the reason."""
    _check_exportable(served)
    raw = served.reader.raw()
    original = Deployable(raw, served.prepare.preprocess, served.model, served.task).eval()
    twin = Deployable(raw, _traceable(served.prepare.preprocess), _traceable(served.model), served.task).eval()

    def answer(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            return original(*inputs.values())

    sizes = {"batch": TRACED, **{axis: each[0] for axis, each in raw.sizes.items()}}
    example = raw.draw(sizes, torch.Generator().manual_seed(1))
    seeding.seed_everything(0, seeding.MEASURE)
    try:
        outputs = answer(example)
    except Exception as error:  # of the model's own code
        shapes = listed(f"{name} {tuple(each.shape)}" for name, each in example.items())
        raise UserError(
            f"model: {type(served.model).__name__} fails on drawn inputs, {shapes}: {told(error)}"
        ) from error
    for name, value in outputs.items():
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != TRACED:
            raise UserError(
                f"model: its outputs are {described(value)} ({name}), and an exported file gives tensors, a row for "
                "each sample."
            )
    free = tuple(
        {place: _auto() for place, axis in enumerate(axes) if isinstance(axis, str)} for axes in raw.axes.values()
    )
    try:
        with torch.no_grad(), quietly():
            program = torch.export.export(twin, tuple(example.values()), dynamic_shapes=(free,), strict=False)
    except Exception as error:  # of torch's tracing and what it walks through
        raise UserError(
            f"model: {type(served.model).__name__} can't be traced, and so not exported: {_reason(error)}"
        ) from error
    graph = _looked_at(program, raw, answer, list(outputs))
    if "batch" in graph.fixed():
        raise UserError(
            f"model: {type(served.model).__name__} works for batches of {TRACED} samples only once it is traced: a "
            "size is made a plain number somewhere in its forward, as len(inputs) does: write inputs.shape[0]."
        )
    return graph


def _check_exportable(served: Served) -> None:
    """Whether a run is among what can be exported at all. Raises UserError."""
    if served.config.transforms.eval:
        raise UserError(
            "transforms.eval: what it does is done to each sample where it is loaded, by code that no exported file "
            "has. Train with transforms.resize and transforms.normalize instead, which are part of one."
        )
    if any(parameter.is_sparse for parameter in served.model.state_dict().values()):
        raise UserError("model: it holds sparse tensors, which no exported file can.")


def _auto() -> Any:
    return torch.export.Dim.AUTO


def _traceable(module: Any) -> nn.Module:
    """A copy whose parts are changed for twins that exporters know: recurrent layers, and what has a method `traceable`
    that gives its own."""
    twin_of = getattr(module, "traceable", None)
    if callable(twin_of):
        return twin_of()
    if isinstance(module, nn.RNNBase):
        return Unpacked(module)
    twin = copy.copy(module)
    twin._modules = {name: None if part is None else _traceable(part) for name, part in module._modules.items()}
    return twin


def _reason(error: BaseException) -> str:
    """The line of torch's error that says why."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "data-dependent" in str(error).lower():
        return "what it does depends on the values of its inputs (an if, a loop, a length, .item())."
    return (lines[0] if lines else type(error).__name__)[:300]


def _looked_at(
    program: Any, raw: Raw, answer: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], outputs: Sequence[str]
) -> Graph:
    """The graph with its signature."""
    held = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    named: dict[str, str] = {}
    limits: dict[str, int] = {}
    inputs = {}
    for (name, wanted), place in zip(raw.axes.items(), program.graph_signature.user_inputs, strict=True):
        axes: list[str | int] = []
        for axis, size in zip(wanted, held[place].shape, strict=True):
            free = isinstance(axis, str) and _length(size) is None
            axes.append(axis if free else int(size))
            if free:
                named[str(size)] = str(axis)
                most = getattr(program.range_constraints.get(size.node.expr), "upper", None)
                if most is not None and most < 10**9:
                    limits[str(axis)] = min(int(most), limits.get(str(axis), int(most)))
        inputs[name] = (_kind(held[place]), tuple(axes))
    results = [argument.meta["val"] for argument in next(n for n in program.graph.nodes if n.op == "output").args[0]]
    given = {}
    for name, value in zip(outputs, results, strict=True):
        lengths = [(size, _length(size)) for size in value.shape]
        shape = tuple(named.get(str(size), str(size)) if known is None else known for size, known in lengths)
        given[name] = (_kind(value), shape)
    return Graph(program, inputs, given, limits, raw, answer)


def _length(size: Any) -> int | None:
    """How long an axis is, of which torch may know so although it is a symbol; None for one that is free."""
    return size if isinstance(size, int) else int(size) if size.node.expr.is_number else None


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


# --- what is told beside it -----------------------------------------------------------------------------------------


def facts_of(served: Served, run: str) -> dict[str, Any]:
    """What an exported file tells of itself: plain values.

    Args:
        run: what the run is called.
    """
    config = served.config
    return {
        "plainloop": plainloop.__version__,
        "run": run,
        "task": config.choices.get("task") or type(served.task).__name__,
        "data": config.choices.get("data"),
        "model": config.choices.get("model"),
        "names": served.names,
        "weights": digest_of(served.model, served.prepare.preprocess, served.task),
    }


def digest_of(*modules: nn.Module) -> str:
    """A SHA-256 of all that answers follow from."""
    found = hashlib.sha256()
    for place, module in enumerate(modules):
        for name, value in sorted(module.state_dict().items()):
            found.update(f"{place} {name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def standing_alone(graph: Graph) -> Any:
    """The program, for whoever has torch and nothing else."""
    as_torch_has_it(graph.program.graph_module)
    return graph.program
