"""Facts about the data, and a config's `${spec...}` filled in; where the data has no such fact, what would fit."""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from plainloop.assembly.advice import inputs_in_words, what_fits
from plainloop.assembly.preprocess import preset_of, resize_for
from plainloop.config.keys import plain, typed_keys
from plainloop.config.schema import Config, record
from plainloop.config.sections import Spec
from plainloop.data import Data, first_sample
from plainloop.data.dataset import SPLITS, asked, size
from plainloop.errors import UserError, did_you_mean, first_line
from plainloop.places import unfilled


def facts_of(config: Config, data: Data, described: dict[str, Any], inputs: Any) -> dict[str, Any]:
    """What the data is.

    Args:
        described: what data and task say of themselves.
        inputs: one sample's.
    """
    shape = list(inputs.shape) if isinstance(inputs, Tensor) else None
    is_image = shape is not None and len(shape) == 3
    facts = {
        "input_shape": shape,
        "num_features": math.prod(shape) if shape is not None else None,
        "in_channels": shape[0] if is_image and shape else None,
        "image_size": shape[1:] if is_image and shape else None,
        **{f"num_{split}": size(data[split]) for split in SPLITS},
        **described,
    }
    resize = resize_for(
        config.transforms, preset_of(config.model, config.trust), bool(asked(data.train, "make_preprocess"))
    )
    if resize is not None:  # what the model sees
        if facts["image_size"] is None:
            raise UserError(f"transforms.resize: it is for images, and the inputs are of shape {tuple(shape or ())}.")
        facts["image_size"] = list(resize.output_size(*facts["image_size"]))
        facts["num_features"] = facts["in_channels"] * math.prod(facts["image_size"])
    if facts["image_size"] is not None:
        facts["input_shape"] = [facts["in_channels"], *facts["image_size"]]
    if facts.get("num_outputs") is None and len(facts["input_shape"] or ()) == 1:  # the inputs again
        facts["num_outputs"] = facts["num_features"]
    return facts


def reading_of(data: Data, facts: Mapping[str, Any]) -> dict[str, Any]:
    """How a sample is read, before its transforms: for new ones, which have no target.

    Args:
        facts: what the data set says of itself; its `reading` is added.
    """
    sample = first_sample(data.train, data.skip)
    inputs = sample[0] if isinstance(sample, tuple | list) and sample else sample
    known = {"shape": list(inputs.shape), "bytes": inputs.dtype == torch.uint8} if isinstance(inputs, Tensor) else {}
    return known | (facts.get("reading") or {})


def steps_of(config: Config, batches: int | None, loaded: bool = False) -> dict[str, int | None]:
    """How many steps come of the data; nobody knows for a stream without a length.

    Args:
        batches: in an epoch.
        loaded: the steps have been made: with batches of another size there may be fewer than the warm-up had.
    """
    warmup, total, ticks = config.schedule.warmup_steps, config.trainer.max_steps, None
    steps = None if batches is None else -(-batches // config.trainer.accumulate_steps)
    if steps is not None:
        total = min(config.trainer.max_epochs * steps, total or config.trainer.max_epochs * steps)
    if total is not None:
        ticks = total - warmup
        if config.schedule.interval == "epoch":
            ticks = None if steps is None else -(-total // steps) - warmup // steps
    if total is not None and warmup >= total and not loaded:
        raise UserError(f"schedule.warmup_steps={warmup}: the run has only {total} steps.")
    return {"steps_per_epoch": steps, "total_steps": total, "schedule_length": ticks}


def fill_spec(config: Config, cfg: DictConfig, facts: Mapping[str, Any]) -> None:
    """Section `spec`, and what else has been decided so far: from now on `${...}` finds it.

    Args:
        config, cfg: the same config, with its sections as dataclasses and as it was composed.
    """
    OmegaConf.update(cfg, "spec", _as_text(facts), merge=True, force_add=True)
    config.spec = OmegaConf.to_object(cfg.spec)  # type: ignore[assignment]
    record(config, cfg)


BREAKS = re.compile("[\x85\u2028\u2029\ud800-\udfff]")  # lines may end in the first three; the others are halves


def _survives(text: str) -> bool:
    """Whether YAML, as OmegaConf writes it, gives a text back."""
    try:
        return bool(yaml.safe_load(yaml.dump(text, allow_unicode=True).encode()) == text)
    except (UnicodeEncodeError, yaml.YAMLError):
        return False


def _as_text(facts: Any) -> Any:
    """Names of classes, words of a vocabulary: `${` in them refers to nothing. Raises UserError for those that YAML
    gives back as something else."""
    if isinstance(facts, Mapping):
        return {name: _as_text(value) for name, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_as_text(value) for value in facts]
    if isinstance(facts, str) and (facts == "???" or (BREAKS.search(facts) and not _survives(facts))):
        raise UserError(f"data: {facts!r} can't stand in a run's config: give this class, column or word another name.")
    return unfilled(facts) if isinstance(facts, str) else facts


OF_THE_RUN = ("steps_per_epoch", "total_steps", "schedule_length")


def facts_filled(config: Config, group: str) -> dict[str, Any]:
    """A group with its `${spec...}` filled in. Raises UserError where the data doesn't have such a fact."""

    node, known = getattr(config, group), vars(config.spec)

    def look(node: Any, place: str) -> None:
        for name, value in node.items() if isinstance(node, dict) else ():
            if isinstance(value, dict):
                look(value, f"{place}.{name}")
            elif isinstance(value, str) and value.startswith("${spec.") and value.endswith("}"):
                fact = value[len("${spec.") : -1]
                if fact not in known:
                    facts = [f"spec.{name}" for name in known]
                    raise UserError(f"{place}.{name}={value}: no such fact.{did_you_mean(f'spec.{fact}', facts)}")
                if known[fact] is None:
                    raise UserError(_missing(config, group, f"{place}.{name}", fact))

    look(OmegaConf.to_container(node, resolve=False), group)
    try:
        return plain(node)
    except OmegaConfBaseException as error:
        if match := re.search(r"Interpolation key '((\w+)\.[^']+)' not found", str(error)):
            raise UserError(
                f"{error.full_key} refers to {match[1]}, which {match[2]}={config.choices.get(match[2])} "
                f"doesn't have. Write {error.full_key}=VALUE"
            ) from error
        raise UserError(f"{error.full_key}: {first_line(error)}.") from error


def _missing(config: Config, group: str, place: str, fact: str) -> str:
    """Why a group's argument at `place` can't be filled in, and what to choose instead."""
    chosen, spec = f"{group}={config.choices.get(group)}", config.spec
    if fact in OF_THE_RUN:
        return (
            f"{chosen} needs the length of the run, and the data is a stream that doesn't know its own: set "
            "trainer.max_steps, or give the data set a __len__."
        )
    other, found = f"data={config.choices.get('data')}", f"an input is {inputs_in_words(spec)}"
    if fact == "num_outputs":
        other, found = f"task={config.choices.get('task')}", f"it wants the inputs again, each {inputs_in_words(spec)}"
    fields = dict(typed_keys(Spec))
    meaning = f" ({fields[fact].metadata['help']})" if fact in fields else ""
    why = f"{chosen} doesn't fit {other}: {place} needs spec.{fact}{meaning}, and {found}."
    if spec.cardinalities and fact == "num_features":
        return f"{why}\nSome are codes: model=tabular embeds them, data.categories=onehot makes them numbers."
    return f"{why}\n{what_fits(config)}" if group == "model" else why
