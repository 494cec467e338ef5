"""Optimizers: which of a model's parameters they step, in which groups, and several of them at once."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from plainloop.build import check_arguments, construct, locate
from plainloop.errors import UserError, did_you_mean, first_line
from plainloop.training.parameter_groups import Options, divided, group_options


def make_optimizer(
    node: Mapping[str, Any],
    model: nn.Module,
    device: torch.device,
    groups: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    task: nn.Module | None = None,
) -> torch.optim.Optimizer:
    """Build the optimizer over the parameters that require a gradient, fused where torch has a fused kernel.

    Args:
        node: `_target_` and its arguments; of `Several`, a node for each optimizer.
        groups: section `param_groups`.
        task: a loss may learn something too; its parameters are named `task.loss...`.
    """
    named = dict(model.named_parameters())
    named |= {f"task.{name}": parameter for name, parameter in task.named_parameters()} if task is not None else {}
    trainable = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    if not trainable:
        raise UserError("model: it has no parameter that requires a gradient: there is nothing to train.")
    options = group_options(model, trainable, **(groups or {}))
    embeddings = [(name, module) for name, module in model.named_modules() if getattr(module, "sparse", False)]
    sparse = {f"{name}.weight" if name else "weight" for name, _ in embeddings}
    if locate(node["_target_"], "optimizer", torch.optim.Optimizer, trust) is not Several:
        return _build(node, "optimizer", trainable, options, device, sparse, trust)
    parts = {name: part for name, part in node.items() if name != "_target_"}
    shares = divided(parts, model, trainable)
    built = {}
    for name, share in shares.items():
        arguments = {key: value for key, value in parts[name].items() if key != "parameters"}
        built[name] = _build(arguments, f"optimizer.{name}", share, options, device, sparse, trust, name)
        if needs_closure(built[name]):
            raise UserError(
                f"optimizer.{name}: {type(built[name]).__name__} evaluates the loss itself in its steps, "
                "and can't be one of several."
            )
    return Several(built)


def _build(
    node: Mapping[str, Any],
    slot: str,
    named: Mapping[str, nn.Parameter],
    options: Options,
    device: torch.device,
    sparse: set[str],
    trust: Sequence[str],
    part: str = "",
) -> torch.optim.Optimizer:
    arguments = dict(node)
    target = locate(arguments["_target_"], slot, torch.optim.Optimizer, trust)
    accepted = inspect.signature(target).parameters
    # No fused kernel takes complex numbers, nor the gradients of sparse embeddings.
    fusable = device.type in ("cpu", "cuda") and all(p.is_floating_point() for p in named.values())
    if "fused" in accepted and fusable and not sparse & named.keys() and not _chosen(arguments):
        arguments["fused"] = True
    check_arguments(
        target, {name: value for name, value in arguments.items() if name != "_target_"}, slot, {"params": 0}
    )
    _check_fit(target, arguments, named, options, sparse, slot)
    _check_options(target, arguments, slot, [options[name] for name in named if options.get(name)])
    default = accepted["lr"].default if "lr" in accepted else None
    params = _grouped(named, options, arguments.get("lr", default), list(accepted), target.__name__, part)
    return construct(target, arguments, slot, torch.optim.Optimizer, params=params)


def _check_fit(
    target: Any,
    arguments: Mapping[str, Any],
    named: Mapping[str, nn.Parameter],
    options: Options,
    sparse: set[str],
    slot: str,
) -> None:
    """Optimizers that take only some parameters, or no sparse gradients. Raises UserError."""
    if not (inspect.isclass(target) and issubclass(target, torch.optim.Optimizer)):
        return
    if issubclass(target, torch.optim.LBFGS):
        if any(options.values()):
            raise UserError(f"{slot}: L-BFGS has one group of parameters: leave param_groups out.")
        _check_lbfgs(arguments, slot)
    if issubclass(target, torch.optim.Muon):
        for name, parameter in named.items():
            if parameter.ndim != 2:
                raise UserError(
                    f"{slot}: Muon takes weights of two dimensions alone, and {name} has {parameter.ndim}. "
                    "optimizer=muon gives it those of the hidden layers, and the rest to AdamW."
                )
    dense = [name for name in named if name not in sparse]
    if dense and issubclass(target, torch.optim.SparseAdam):
        raise UserError(
            f"{slot}: SparseAdam is for nn.Embedding(sparse=True) alone, and {dense[0]} isn't one's. Give it these, "
            "and the rest to another, with optimizer=several"
        )
    if len(dense) < len(named):  # which take sparse gradients, and with which options, torch says at a step only
        trial = nn.Parameter(torch.zeros(2, 1))
        trial.grad = torch.eye(2, 1).to_sparse(1)
        try:
            make: Any = target
            make([trial], **{name: value for name, value in arguments.items() if name != "_target_"}).step()
        except RuntimeError as error:
            raise UserError(
                f"{slot}: {next(name for name in named if name in sparse)} is a sparse embedding's: "
                f"{first_line(error)}. Build the model without sparse=True, or give it to SparseAdam, as "
                "optimizer=several can"
            ) from error


def _check_lbfgs(arguments: Mapping[str, Any], slot: str) -> None:
    """What torch finds out in a step, if ever. Raises UserError."""
    for name in ("max_iter", "max_eval", "history_size"):
        value = arguments.get(name, 1)
        right = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not right and not (name == "max_eval" and value is None):
            raise UserError(f"{slot}: LBFGS can't run with {name}={value}: it must be a whole number of at least 1.")
    search = arguments.get("line_search_fn")
    if search not in (None, "strong_wolfe"):
        raise UserError(f"{slot}: LBFGS can't run with line_search_fn={search}: it must be strong_wolfe or null.")


def _check_options(target: Any, arguments: Mapping[str, Any], slot: str, options: Sequence[Mapping[str, Any]]) -> None:
    """Options of groups are none that the optimizer would refuse for all: torch looks at these alone. Raises
    UserError."""
    accepted = inspect.signature(target).parameters
    tried: list[Mapping[str, Any]] = []
    for each in [{}, *options] if options else []:
        chosen = {name: value for name, value in each.items() if name in accepted}
        if chosen in tried:
            continue
        tried.append(chosen)
        try:
            twin = [nn.Parameter(torch.zeros(2, 1))]
            construct(target, {**arguments, **chosen}, slot, torch.optim.Optimizer, params=twin)
        except UserError as error:
            if not chosen:
                raise
            raise UserError(f"param_groups: {error}") from error


def _chosen(arguments: Mapping[str, Any]) -> bool:
    """Whether the user has already said which implementation is wanted, or asks for what no fused kernel does."""
    said = "fused" in arguments or arguments.get("foreach") is not None
    return said or any(arguments.get(name) for name in ("differentiable", "capturable"))


def _grouped(
    named: Mapping[str, nn.Parameter], options: Options, rate: Any, accepted: Sequence[str], called: str, part: str
) -> list[Any]:
    """The parameters, in groups of equal options: what an optimizer takes as `params`."""
    if not part and not any(options.get(name) for name in named):
        return list(named.values())
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named.items():
        chosen = dict(options.get(name, {}))
        share = chosen.pop("share", 1.0)
        label = chosen.pop("name", "")
        for option in chosen:
            if option not in accepted:
                raise UserError(
                    f"param_groups: {called}, which trains {name}, has no option {option}."
                    f"{did_you_mean(option, accepted)}"
                )
        if share != 1.0 and "lr" not in chosen:
            chosen["lr"] = rate * share
        label = "/".join(word for word in (part, label) if word)
        group = groups.setdefault(repr((label, chosen)), {"params": [], **chosen, "name": label})
        group["params"].append(parameter)
    return list(groups.values())


class Several(torch.optim.Optimizer):
    """Optimizers over disjoint parameters, that step one after another and look like one.

    Args:
        parts: name -> optimizer.
    """

    def __init__(self, parts: Mapping[str, torch.optim.Optimizer]):
        self.parts = dict(parts)
        groups = [group for part in self.parts.values() for group in part.param_groups]
        shared = set.intersection(*(set(part.defaults) for part in self.parts.values()))
        defaults = next(iter(self.parts.values())).defaults
        super().__init__([{**group} for group in groups], {name: defaults[name] for name in sorted(shared)})
        self._share()

    def _share(self) -> None:
        """One list of groups and one state, of which each part sees its own."""
        begin = 0
        for part in self.parts.values():
            end = begin + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[begin:end], self.state
            begin = end

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        begin = 0
        for part in self.parts.values():
            end = begin + len(part.param_groups)
            part.__setstate__({"state": self.state, "param_groups": self.param_groups[begin:end]})
            begin = end

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss


def needs_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step evaluates the loss itself, perhaps many times, as that of L-BFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
