"""Where the data has no fact that a model asks for: which models would fit, and which data."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from plainloop.build import check_arguments, locate
from plainloop.config import options
from plainloop.errors import UserError, listed
from plainloop.tasks.task import Task

OF_ALL = ("input_shape", "num_features", "num_outputs")  # what most data have, whatever it is
# Options of the group data that have a fact, or a task of which not every data set knows: what a model is for that
# refers to it.
PICTURES = {"digits", "images", "torchvision"}
WHERE = {
    "in_channels": PICTURES, "image_size": PICTURES, "step_features": {"series"}, "num_numbers": {"table"},
    "cardinalities": {"table"}, "vocab_size": {"text", "charseq"}, "vocabulary": {"text", "charseq"},
    "padding": {"text"}, "sequence_length": {"charseq"}, "sequence_labelling": {"charseq"},
}  # fmt: skip


def inputs_in_words(spec: DictConfig) -> str:
    """One sample's inputs, as the model would get them: "an image of 1 x 8 x 8"."""
    shape = list(spec.input_shape or ())
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


def check_task(cfg: DictConfig, target: Any) -> None:
    """A model `for_tasks` of some kinds isn't for others: its outputs may have the right shape by chance, and mean
    nothing. Raises UserError."""
    if _is_for(target, cfg):
        return
    kinds = " or ".join(f"task={kind}" for kind in target.for_tasks)
    rebuilt = "reconstruction" in target.for_tasks and cfg.spec.num_features is not None
    raise UserError(
        f"model={cfg.choices.get('model')} is for {kinds}, and this is data={cfg.choices.get('data')} with "
        f"task={cfg.choices.get('task')}.{f' Write {kinds}, or choose another model.' * rebuilt}\n{what_fits(cfg)}"
    )


def _is_for(target: Any, cfg: DictConfig) -> bool:
    kind = locate(cfg.task._target_, "task", Task, list(cfg.trust)).kind
    return not kind or kind in getattr(target, "for_tasks", (kind,))


def what_fits(cfg: DictConfig) -> str:
    """Which models the data fits, and which data the model."""
    models = models_that_fit(cfg)
    target = locate(cfg.model._target_, "model", nn.Module, list(cfg.trust))
    asked = {*_asked(cfg.model), *getattr(target, "for_tasks", ())}
    options = [WHERE[fact] for fact in asked if fact in WHERE]
    data = sorted(set.intersection(*options)) if options else []
    said = [f"Models that fit: {listed(models, 10)}."] if models else []
    return " ".join([*said, f"Data for this model: {listed(data)}."] if data else said)


def models_that_fit(cfg: DictConfig) -> list[str]:
    """Options of the group model that are for the task, and whose facts the data has; first those for its kind."""
    found = {}
    for option in options.groups()["model"]:
        node = _option(option)
        facts = {name: _asked(value) for name, value in node.items()}
        asked = [fact for each in facts.values() for fact in each]
        if any(cfg.spec.get(fact) is None for fact in asked):
            continue
        filled = {name: cfg.spec[facts[name][0]] if facts[name] else value for name, value in node.items()}
        try:
            target = locate(str(filled.pop("_target_", "")), "model", nn.Module, list(cfg.trust))
            check_arguments(target, filled, "model", {})
        except UserError:  # a user's own that can't be imported, one that needs arguments besides
            continue
        if _is_for(target, cfg):
            found[option] = all(fact in OF_ALL for fact in asked)
    return sorted(found, key=lambda option: (found[option], option))


def _option(name: str) -> dict[str, Any]:
    """An option of the group model as it stands in its file, and in those that it begins with."""
    own: Any = OmegaConf.to_container(OmegaConf.load(options.CONFIGS / "model" / f"{name}.yaml"))
    begun: dict[str, Any] = {}
    for other in own.pop("defaults", []):
        if isinstance(other, str) and other != "_self_":
            begun |= _option(other)
    return begun | own


def _asked(node: Any) -> list[str]:
    """The facts that a config refers to."""
    node = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    return re.findall(r"\$\{spec\.(\w+)\}", str(node))
