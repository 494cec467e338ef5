"""What a config asks of the data: its `${spec...}` filled in; and where the data has no such fact, what would fit."""

import re
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop import compose
from plainloop.build import check_arguments, locate
from plainloop.config import Spec, plain, typed_keys
from plainloop.errors import UserError, did_you_mean, first_line, listed

OF_THE_RUN = ("steps_per_epoch", "total_steps", "schedule_length")
OF_ALL = ("input_shape", "num_features", "num_outputs")  # what most data have, whatever it is

# Options of the group data that have a fact, or a task of which not every data set knows: what a model is for that
# refers to it.
PICTURES = {"digits", "images", "torchvision"}
WHERE = {
    "in_channels": PICTURES, "image_size": PICTURES, "step_features": {"series"}, "num_numbers": {"table"},
    "cardinalities": {"table"}, "vocab_size": {"text", "charseq"}, "vocabulary": {"text", "charseq"},
    "padding": {"text"}, "sequence_length": {"charseq"}, "sequence_labelling": {"charseq"},
}  # fmt: skip


def facts_filled(cfg: DictConfig, group: str) -> dict[str, Any]:
    """A group with its `${spec...}` filled in. Raises UserError where the data doesn't have such a fact."""

    def look(node: Any, place: str) -> None:
        for name, value in node.items() if isinstance(node, dict) else ():
            if isinstance(value, dict):
                look(value, f"{place}.{name}")
            elif isinstance(value, str) and value.startswith("${spec.") and value.endswith("}"):
                fact = value[len("${spec.") : -1]
                if fact not in cfg.spec:
                    facts = [f"spec.{name}" for name in cfg.spec]
                    raise UserError(f"{place}.{name}={value}: no such fact.{did_you_mean(f'spec.{fact}', facts)}")
                if cfg.spec[fact] is None:
                    raise UserError(_missing(cfg, group, f"{place}.{name}", fact))

    look(OmegaConf.to_container(cfg[group], resolve=False), group)
    try:
        return plain(cfg[group])
    except OmegaConfBaseException as error:
        if match := re.search(r"Interpolation key '((\w+)\.[^']+)' not found", str(error)):
            raise UserError(f"{error.full_key} refers to {match[1]}, which {match[2]}={cfg.choices.get(match[2])} "
                            f"doesn't have. Write {error.full_key}=VALUE") from error  # fmt: skip
        raise UserError(f"{error.full_key}: {first_line(error)}.") from error


def _missing(cfg: DictConfig, group: str, place: str, fact: str) -> str:
    """Why a group's argument at `place` can't be filled in, and what to choose instead."""
    chosen, spec = f"{group}={cfg.choices.get(group)}", cfg.spec
    if fact in OF_THE_RUN:
        return (f"{chosen} needs the length of the run, and the data is a stream that doesn't know its own: set "
                "trainer.max_steps, or give the data set a __len__.")  # fmt: skip
    other, found = f"data={cfg.choices.get('data')}", f"an input is {inputs_in_words(spec)}"
    if fact == "num_outputs":
        other, found = f"task={cfg.choices.get('task')}", f"it wants the inputs again, each {inputs_in_words(spec)}"
    fields = dict(typed_keys(Spec))
    meaning = f" ({fields[fact].metadata['help']})" if fact in fields else ""
    why = f"{chosen} doesn't fit {other}: {place} needs spec.{fact}{meaning}, and {found}."
    if spec.cardinalities and fact == "num_features":
        return f"{why}\nSome are codes: model=tabular embeds them, data.categories=onehot makes them numbers."
    return f"{why}\n{_instead(cfg)}" if group == "model" else why


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
        f"task={cfg.choices.get('task')}.{f' Write {kinds}, or choose another model.' * rebuilt}\n{_instead(cfg)}"
    )


def _is_for(target: Any, cfg: DictConfig) -> bool:
    kind = locate(cfg.task._target_, "task", list(cfg.trust)).kind
    return not kind or kind in getattr(target, "for_tasks", (kind,))


def _instead(cfg: DictConfig) -> str:
    """Which models the data fits, and which data the model."""
    models = models_that_fit(cfg)
    target = locate(cfg.model._target_, "model", list(cfg.trust))
    asked = {*_asked(cfg.model), *getattr(target, "for_tasks", ())}
    options = [WHERE[fact] for fact in asked if fact in WHERE]
    data = sorted(set.intersection(*options)) if options else []
    said = [f"Models that fit: {listed(models, 10)}."] if models else []
    return " ".join([*said, f"Data for this model: {listed(data)}."] if data else said)


def models_that_fit(cfg: DictConfig) -> list[str]:
    """Options of the group model that are for the task, and whose facts the data has; first those for its kind."""
    found = {}
    for option in compose.groups()["model"]:
        node = _option(option)
        facts = {name: _asked(value) for name, value in node.items()}
        asked = [fact for each in facts.values() for fact in each]
        if any(cfg.spec.get(fact) is None for fact in asked):
            continue
        filled = {name: cfg.spec[facts[name][0]] if facts[name] else value for name, value in node.items()}
        try:
            target = locate(str(filled.pop("_target_", "")), "model", list(cfg.trust))
            check_arguments(target, filled, "model", {})
        except UserError:  # a user's own that can't be imported, one that needs arguments besides
            continue
        if _is_for(target, cfg):
            found[option] = all(fact in OF_ALL for fact in asked)
    return sorted(found, key=lambda option: (found[option], option))


def _option(name: str) -> dict[str, Any]:
    """An option of the group model as it stands in its file, and in those that it begins with."""
    own: Any = OmegaConf.to_container(OmegaConf.load(compose.CONFIGS / "model" / f"{name}.yaml"))
    begun: dict[str, Any] = {}
    for other in own.pop("defaults", []):
        if isinstance(other, str) and other != "_self_":
            begun |= _option(other)
    return begun | own


def _asked(node: Any) -> list[str]:
    """The facts that a config refers to."""
    node = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    return re.findall(r"\$\{spec\.(\w+)\}", str(node))
