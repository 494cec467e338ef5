"""Where the data has no fact that a model asks for: which models would fit, and which data."""

import re
from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import Dataset

from plainloop.build import check_arguments, locate
from plainloop.config import options
from plainloop.config.schema import Config
from plainloop.config.sections import Spec
from plainloop.errors import UserError, listed
from plainloop.tasks.task import Task

OF_ALL = ("input_shape", "num_features", "num_outputs")  # what most data have, whatever it is


def inputs_in_words(spec: Spec) -> str:
    """One sample's inputs, as the model would get them: "an image of 1 x 8 x 8"."""
    shape = spec.input_shape or []
    sizes = " x ".join(map(str, shape))
    if spec.padding is not None:
        return "a text of any length"
    if spec.vocab_size:
        return f"a sequence of {sizes} tokens"
    if spec.step_features:
        return f"a window of {sizes} numbers"
    if spec.in_channels:
        return f"{'a spectrogram' if spec.sample_rate else 'an image'} of {sizes}"
    if spec.cardinalities:
        return f"a row of {spec.num_numbers} numbers and {len(spec.cardinalities)} codes of words"
    if spec.input_shape is None:
        return "of several parts"
    return f"a vector of {sizes} number{'s' * (shape != [1])}" if len(shape) == 1 else f"of shape {tuple(shape)}"


def check_task(config: Config, target: Any) -> None:
    """A model `for_tasks` of some kinds isn't for others: its outputs may have the right shape by chance, and mean
    nothing. Raises UserError."""
    if _is_for(target, config):
        return
    kinds = " or ".join(f"task={kind}" for kind in target.for_tasks)
    rebuilt = "reconstruction" in target.for_tasks and config.spec.num_features is not None
    choices = config.choices
    raise UserError(
        f"model={choices.get('model')} is for {kinds}, and this is data={choices.get('data')} with "
        f"task={choices.get('task')}.{f' Write {kinds}, or choose another model.' * rebuilt}\n{what_fits(config)}"
    )


def _is_for(target: Any, config: Config) -> bool:
    kind = locate(config.task._target_, "task", Task, config.trust).kind
    return not kind or kind in getattr(target, "for_tasks", (kind,))


def what_fits(config: Config) -> str:
    """Which models the data fits, and which data the model."""
    models = models_that_fit(config)
    target = locate(config.model._target_, "model", nn.Module, config.trust)
    data = data_that_fits(_asked(config.model), getattr(target, "for_tasks", ()), config.trust)
    said = [f"Models that fit: {listed(models, 10)}."] if models else []
    return " ".join([*said, f"Data for this model: {listed(data)}."] if data else said)


def models_that_fit(config: Config) -> list[str]:
    """Options of the group model that are for the task, and whose facts the data has; first those for its kind."""
    found, spec = {}, vars(config.spec)
    for option in options.groups()["model"]:
        node = _option("model", option)
        facts = {name: _asked(value) for name, value in node.items()}
        asked = [fact for each in facts.values() for fact in each]
        if any(spec.get(fact) is None for fact in asked):
            continue
        filled = {name: spec[facts[name][0]] if facts[name] else value for name, value in node.items()}
        try:
            target = locate(str(filled.pop("_target_", "")), "model", nn.Module, config.trust)
            check_arguments(target, filled, "model", {})
        except UserError:  # a user's own that can't be imported, one that needs arguments besides
            continue
        if _is_for(target, config):
            found[option] = all(fact in OF_ALL for fact in asked)
    return sorted(found, key=lambda option: (found[option], option))


def data_that_fits(asked: Iterable[str], tasks: Iterable[str], trust: list[str]) -> list[str]:
    """Options of the group data whose factory says that it provides what a model asks for, and that choose a task which
    the model is for; none where nothing that it asks for is special."""
    provided, chosen = {}, {}
    for option in options.groups()["data"]:
        node = _option("data", option)
        try:
            target = locate(str(node.get("data", node).get("_target_", "")), "data", Dataset, trust)
        except UserError:
            continue
        provided[option] = set(getattr(target, "provides", ()))
        chosen[option] = {node.get("override /task")}
    special = set(asked) & set().union(*provided.values())
    of_tasks = [option for option in provided if chosen[option] & set(tasks)]
    if not special and not of_tasks:
        return []
    return [option for option in of_tasks or provided if special <= provided[option]]


def _option(group: str, name: str) -> dict[str, Any]:
    """An option as it stands in its file, and in those of its group that it begins with; "override /task", say, is
    what its defaults choose of another group."""
    own = options.read(group, name)
    begun: Any = {}
    for other in own.pop("defaults", []):
        if isinstance(other, dict):
            begun = OmegaConf.merge(begun, other)
        elif other != "_self_":
            file = other.partition("@")[0].removeprefix(f"/{group}/")  # `mlp@_here_`, `/model/mlp`
            begun = OmegaConf.merge(begun, _option(group, file))
    found: Any = OmegaConf.to_container(OmegaConf.merge(begun, own))
    return found


def _asked(node: Any) -> list[str]:
    """The facts that a config refers to."""
    node = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    return re.findall(r"\$\{spec\.(\w+)\}", str(node))
