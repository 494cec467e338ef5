"""Everything that can be known wrong from the configuration alone."""

import math
import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from plainloop.config.schema import (
    LOSSES,
    OF_WORKERS,
    REQUIRED_GROUPS,
    Config,
    as_typed,
    kind_of,
    plain,
    typed_keys,
)
from plainloop.errors import UserError, did_you_mean, listed


def validate(cfg: DictConfig, schema: type = Config) -> None:
    """Everything that can be known wrong from the configuration alone. Raises UserError."""
    for name, item in typed_keys(schema):
        value = OmegaConf.select(cfg, name)
        limits = item.metadata
        wrong = (
            (limits["choices"] and value is not None and value not in limits["choices"])
            or (limits["min"] is not None and value is not None and value < limits["min"])
            or (limits["above"] is not None and value is not None and not value > limits["above"])
        )
        if wrong:
            guess = did_you_mean(str(value), limits["choices"])
            raise UserError(f"{name}={value}: must be {kind_of(item)}.{guess}")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", cfg.trainer.device):
        raise UserError(f"trainer.device={cfg.trainer.device}: must be auto, cpu, cuda, cuda:N or mps.")
    if schema is Config:
        _validate_training(cfg)


def _validate_training(cfg: DictConfig) -> None:
    every = str(cfg.trainer.validate_every)
    if not re.fullmatch(r"\d+s?", every) or re.fullmatch("0+s", every):
        raise UserError(f"trainer.validate_every={every}: a number of epochs, or of steps as in 500s; 0 for never.")
    if cfg.name and (cfg.name.startswith("/") or ".." in cfg.name.split("/")):
        raise UserError(f"name={cfg.name}: a folder below paths.outputs={cfg.paths.outputs}; set that instead.")
    if (cfg.trainer.ema_decay or 0) >= 1:
        raise UserError(f"trainer.ema_decay={cfg.trainer.ema_decay}: must be below 1, as in 0.999.")
    if cfg.trainer.swa_start and cfg.trainer.ema_decay:
        raise UserError(
            "trainer.ema_decay and trainer.swa_start both say which average of the weights is evaluated: "
            "give one of them."
        )
    if (cfg.trainer.swa_start or 0) > cfg.trainer.max_epochs and not cfg.choices.get("debug"):
        raise UserError(
            f"trainer.swa_start={cfg.trainer.swa_start}: the run ends before, with "
            f"trainer.max_epochs={cfg.trainer.max_epochs}."
        )
    for name in ("weights", "trainable"):
        if cfg.finetune[name] == "":
            raise UserError(f"finetune.{name}=: an empty word. Leave it out, or say which.")
    for number, rule in enumerate(cfg.param_groups.rules):
        if not isinstance(rule, DictConfig) or not isinstance(rule.get("match"), str) or len(rule) < 2:
            raise UserError(
                f"param_groups.rules[{number}]={as_typed(rule)}: a rule is written {{match: REGEX, lr: 1e-4}}."
            )
        for name in ("params", "name", "share"):  # words of our own for a group
            if name in rule:
                raise UserError(f"param_groups.rules[{number}]={as_typed(rule)}: {name} is no option of an optimizer.")
    if (cfg.trainer.num_threads or 1) > 1024:
        raise UserError(f"trainer.num_threads={cfg.trainer.num_threads}: at most 1024.")
    if every == "0" and not cfg.choices.get("debug"):
        if cfg.early_stopping.patience:
            raise UserError(
                f"early_stopping.patience={cfg.early_stopping.patience} acts on validations, and "
                "trainer.validate_every=0 makes none."
            )
        if cfg.schedule.interval == "validation":
            raise UserError(
                f"scheduler={cfg.choices.get('scheduler')} acts on validations, and "
                "trainer.validate_every=0 makes none."
            )
    if cfg.loader.num_workers == 0 and cfg.spec.num_outputs is None:  # in a run's own config it may be a choice of ours
        for name in OF_WORKERS:
            if cfg.loader[name]:
                raise UserError(
                    f"loader.{name}={as_typed(cfg.loader[name])} acts only with workers, and "
                    "loader.num_workers is 0: set it, or leave the other out."
                )
    fractions = list(cfg.split.fractions)
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise UserError(
            f"split.fractions={fractions}: three shares of train, val and test that add up to 1, "
            "as in split.fractions=[0.8,0.1,0.1]."
        )
    normalize = cfg.transforms.normalize
    words = isinstance(normalize, str) and re.fullmatch(r"none|train|weights|\w+_Weights\.\w+", normalize)
    if not (words or (isinstance(normalize, DictConfig) and set(normalize) == {"mean", "std"})):
        raise UserError(
            f"transforms.normalize={normalize}: must be none, train, weights, the name of weights as in "
            "ResNet18_Weights.DEFAULT, or '{mean: 0.5, std: 0.5}' (one number per channel or feature, or one for all)."
        )
    resize = plain(cfg.transforms.resize)
    sides = resize if isinstance(resize, list) and len(resize) == 2 else [resize]
    if resize not in (None, "none") and not all(type(side) is int and side > 0 for side in sides):
        raise UserError(
            f"transforms.resize={as_typed(resize)}: must be the side of square images as 224, "
            "[height,width], none, or null."
        )
    for split in ("train", "eval"):
        for number, node in enumerate(cfg.transforms[split]):
            if not isinstance(node, DictConfig) or "_target_" not in node:
                raise UserError(
                    f"transforms.{split}[{number}]={as_typed(node)}: a transform is written "
                    "{_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}."
                )
    for name, word in (("sampler", "balanced"), ("batch_sampler", "length")):
        value = cfg.loader[name]
        if value is not None and value != word and not (isinstance(value, DictConfig) and "_target_" in value):
            raise UserError(f"loader.{name}={as_typed(value)}: must be {word}, {{_target_: my.Sampler}} or null.")
    if cfg.loader.sampler is not None and cfg.loader.batch_sampler is not None:
        raise UserError("loader.sampler and loader.batch_sampler both say which samples come next: give one of them.")
    for name in ("pin_memory", "num_workers", "eval.num_workers") if cfg.loader.on_device else ():
        value = OmegaConf.select(cfg.loader, name)
        if value:
            raise UserError(
                f"loader.on_device=true and loader.{name}={as_typed(value)}: what is on the "
                "device already is neither loaded by processes nor pinned. Give one of them."
            )
    if cfg.split.folds and cfg.split.fold >= cfg.split.folds:
        raise UserError(
            f"split.fold={cfg.split.fold}: with split.folds={cfg.split.folds} they are 0 to {cfg.split.folds - 1}."
        )
    if cfg.split.time and (cfg.split.group or cfg.split.folds):
        raise UserError("split.time divides by time alone: leave split.group and split.folds out.")
    for name in ("mean", "std") if isinstance(normalize, DictConfig) else ():
        numbers = normalize[name] if isinstance(normalize[name], ListConfig) else [normalize[name]]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise UserError(f"transforms.normalize.{name}={normalize[name]}: {number} is not a number.")
    if cfg.resume and cfg.extend:
        raise UserError("resume= continues a run and extend= starts a new one from it: give one of the two.")
    for group in ("data", "model", "loss", "metrics", "task", "optimizer", "scheduler", "logger"):
        if isinstance(cfg[group], str):
            raise UserError(
                f"{group}: {cfg[group]} in a config file: an option is chosen in its list of defaults: "
                f"'- override /{group}: {cfg[group]}'"
            )
    for group in ("metrics", "logger", "callbacks"):
        for name, node in (cfg[group] or {}).items():
            if not isinstance(node, DictConfig) or "_target_" not in node:
                raise UserError(f"{group}.{name} names no _target_: write {group}.{name}._target_=my_package.Mine")
    for group in (*REQUIRED_GROUPS, "scheduler") if cfg.scheduler else REQUIRED_GROUPS:
        if not isinstance(cfg[group], DictConfig) or "_target_" not in cfg[group]:
            raise UserError(f"{group} names no _target_: choose an option, or {group}=custom {group}._target_=my.Name")
    for name in _missing(OmegaConf.to_container(cfg, resolve=False)):
        group = name.partition(".")[0]
        raise UserError(f"{name}: {group}={cfg.choices.get(group)} needs it. Write {name}=VALUE")
    _validate_open_values(cfg)
    _validate_loss(cfg)
    _validate_monitor(cfg)


def _missing(node: Any, place: str = "") -> Iterator[str]:
    """The keys within a node that a config file left for the user to give: ???"""
    if node == "???":
        yield place
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from _missing(value, f"{place}.{name}" if place else str(name))


def _validate_open_values(cfg: DictConfig) -> None:
    """A typo such as optimizer.lr=fast, found without importing the optimizer: numbers that every target of the
    group takes as numbers."""
    for name in ("optimizer.lr", "optimizer.weight_decay", "optimizer.momentum"):
        if name.partition(".")[2] not in cfg.optimizer:
            continue
        value = OmegaConf.select(cfg, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number:
            hint = " (write 1e-3 or 0.001)" if name == "optimizer.lr" else ""
            raise UserError(f"{name}={as_typed(value)}: must be a number{hint}.")
        if value < 0:
            raise UserError(f"{name}={value}: must not be negative.")


def _validate_loss(cfg: DictConfig) -> None:
    """A task lists the losses that fit it. A loss of the user's own, or an option of theirs, is not judged by its name;
    losses.py looks at what it names, when torch is there."""
    fitting, choice = cfg.task.get("losses"), cfg.choices.get("loss")
    ours = str(cfg.loss._target_).startswith(("torch.nn.", "plainloop."))
    if isinstance(fitting, ListConfig) and choice in LOSSES and ours and choice not in fitting:
        raise UserError(
            f"loss={choice} doesn't fit task={cfg.choices.get('task')}, which takes: {listed(fitting)}.\n"
            f"Leave loss= out, or choose a task that fits the data and the loss."
        )


def _validate_monitor(cfg: DictConfig) -> None:
    if cfg.choices.get("task") == "auto":  # what it produces is known when the data has been looked at
        return
    options = ["val/loss", *(f"val/{name}" for name in cfg.metrics or {})]
    whole = "/".join(cfg.monitor.split("/")[:2])  # a metric may tell several, as val/mae/price: assemble.py looks
    if cfg.monitor not in options and whole not in options[1:]:
        raise UserError(
            f"monitor={cfg.monitor}: task={cfg.choices.get('task')} doesn't produce it."
            f"{did_you_mean(cfg.monitor, options)} It produces: {listed(options)}."
        )


def depends_on_length(cfg: DictConfig) -> bool:
    """Whether the schedule refers to the length of the run."""
    return bool(re.search(r"spec\.(total_steps|schedule_length)|trainer\.max_", OmegaConf.to_yaml(cfg.scheduler or {})))
