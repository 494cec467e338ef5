"""What a config asks of the data: its `${spec...}` filled in; and where the data has no such fact, what would fit."""

import math
import re
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from plainloop.assembly.advice import inputs_in_words, what_fits
from plainloop.assembly.loaders import training_loader
from plainloop.assembly.preprocess import preset_of, resize_for
from plainloop.config.schema import Spec, plain, section, typed_keys
from plainloop.data import Data
from plainloop.data.dataset import SPLITS, size
from plainloop.errors import (
    UserError,
    did_you_mean,
    first_line,
)


def fill_spec(
    cfg: DictConfig, data: Data, described: dict[str, Any], sample: tuple[Any, Any], device: torch.device, loaded: bool
) -> None:
    """Section `spec`: what the data is, and how many steps come of it."""
    shape = list(sample[0].shape) if isinstance(sample[0], Tensor) else None
    is_image = shape is not None and len(shape) == 3
    spec = {
        "input_shape": shape,
        "num_features": math.prod(shape) if shape is not None else None,
        "in_channels": shape[0] if is_image and shape else None,
        "image_size": shape[1:] if is_image and shape else None,
        **{f"num_{split}": size(data[split]) for split in SPLITS},
        **described,
    }
    resize = resize_for(section(cfg.transforms), preset_of(cfg.model, list(cfg.trust)), data)
    if resize is not None:  # what the model sees
        if spec["image_size"] is None:
            raise UserError(f"transforms.resize: it is for images, and the inputs are of shape {tuple(shape or ())}.")
        spec["image_size"] = list(resize.output_size(*spec["image_size"]))
        spec["num_features"] = spec["in_channels"] * math.prod(spec["image_size"])
    if spec["image_size"] is not None:
        spec["input_shape"] = [spec["in_channels"], *spec["image_size"]]
    if spec.get("num_outputs") is None and len(spec["input_shape"] or ()) == 1:  # the inputs again
        spec["num_outputs"] = spec["num_features"]
    OmegaConf.update(cfg, "spec", spec, merge=True, force_add=True)
    fill_steps(cfg, data, device, loaded)


def fill_steps(cfg: DictConfig, data: Data, device: torch.device, loaded: bool = False) -> None:
    """How many steps come of the data; nobody knows for a stream without a length.

    Args:
        loaded: the steps have been made: with batches of another size there may be fewer than the warm-up had.
    """
    batches = training_loader(
        section(cfg.loader),
        data,
        seed=cfg.seed,
        device=device,
        limit=cfg.trainer.limit_batches,
        trust=list(cfg.trust),
    ).batches
    warmup, total, ticks = cfg.schedule.warmup_steps, cfg.trainer.max_steps, None
    steps = None if batches is None else -(-batches // cfg.trainer.accumulate_steps)
    if steps is not None:
        total = min(cfg.trainer.max_epochs * steps, total or math.inf)
    if total is not None:
        ticks = total - warmup
        if cfg.schedule.interval == "epoch":
            ticks = None if steps is None else -(-total // steps) - warmup // steps
    if total is not None and warmup >= total and not loaded:
        raise UserError(f"schedule.warmup_steps={warmup}: the run has only {total} steps.")
    spec = {"steps_per_epoch": steps, "total_steps": total, "schedule_length": ticks}
    OmegaConf.update(cfg, "spec", spec, merge=True, force_add=True)


OF_THE_RUN = ("steps_per_epoch", "total_steps", "schedule_length")


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
            raise UserError(
                f"{error.full_key} refers to {match[1]}, which {match[2]}={cfg.choices.get(match[2])} "
                f"doesn't have. Write {error.full_key}=VALUE"
            ) from error
        raise UserError(f"{error.full_key}: {first_line(error)}.") from error


def _missing(cfg: DictConfig, group: str, place: str, fact: str) -> str:
    """Why a group's argument at `place` can't be filled in, and what to choose instead."""
    chosen, spec = f"{group}={cfg.choices.get(group)}", cfg.spec
    if fact in OF_THE_RUN:
        return (
            f"{chosen} needs the length of the run, and the data is a stream that doesn't know its own: set "
            "trainer.max_steps, or give the data set a __len__."
        )
    other, found = f"data={cfg.choices.get('data')}", f"an input is {inputs_in_words(spec)}"
    if fact == "num_outputs":
        other, found = f"task={cfg.choices.get('task')}", f"it wants the inputs again, each {inputs_in_words(spec)}"
    fields = dict(typed_keys(Spec))
    meaning = f" ({fields[fact].metadata['help']})" if fact in fields else ""
    why = f"{chosen} doesn't fit {other}: {place} needs spec.{fact}{meaning}, and {found}."
    if spec.cardinalities and fact == "num_features":
        return f"{why}\nSome are codes: model=tabular embeds them, data.categories=onehot makes them numbers."
    return f"{why}\n{what_fits(cfg)}" if group == "model" else why
