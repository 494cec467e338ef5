"""What can be known wrong from the configuration alone, before torch is imported: keys, sections, what lies across."""

import math
import re
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from plainloop.config import options
from plainloop.config.keys import as_typed, groups_of, kind_of, typed_keys
from plainloop.config.schema import Command, Config, as_config
from plainloop.config.sections import OF_WORKERS
from plainloop.errors import UserError, did_you_mean, listed


def validate(cfg: DictConfig, schema: type[Command] = Config) -> None:
    """Raises UserError for the first thing that is wrong."""
    _check_groups(cfg, schema)
    config = as_config(cfg, schema)
    _check_ranges(config, schema)
    for part in (config, *vars(config).values()):
        if hasattr(type(part), "check"):
            part.check()
    if schema is Config:
        for rule in (
            _check_averages,
            _check_validations,
            _check_workers,
            _check_optimizer,
            _check_loss,
            _check_monitor,
        ):
            rule(config)


LARGEST = 1 << 62  # whole numbers beyond it fit into no tensor, and into no loop of Python's


def _check_ranges(config: Command, schema: type[Command]) -> None:
    for name, item in typed_keys(schema):
        value, limits = attrgetter(name)(config), item.metadata
        if type(value) is int and abs(value) > LARGEST:
            raise UserError(f"{name}={value:.3g}: a number of that size means nothing here.")
        wrong = (
            (limits["choices"] and value is not None and value not in limits["choices"])
            or (limits["min"] is not None and value is not None and value < limits["min"])
            or (limits["above"] is not None and value is not None and not value > limits["above"])
        )
        if wrong:
            guess = did_you_mean(str(value), limits["choices"])
            raise UserError(f"{name}={value}: must be {kind_of(item)}.{guess}")


def _check_groups(cfg: DictConfig, schema: type[Command]) -> None:
    """Each group names what it holds, and nothing is left to be given."""
    for group, holds in groups_of(schema).items():
        node = cfg[group]
        if isinstance(node, str):
            raise UserError(
                f"{group}: {node} in a config file: an option is chosen in its list of defaults: "
                f"'- override /{group}: {node}'"
            )
        for name, inner in (node or {}).items() if holds == "several" else ():
            if not _names_target(inner):
                raise UserError(f"{group}.{name} names no _target_: write {group}.{name}._target_=my_package.Mine")
        if (holds == "one" or (holds == "one or none" and node)) and not _names_target(node):
            raise UserError(f"{group} names no _target_: choose an option, or {group}=custom {group}._target_=my.Name")
    for name in _missing(OmegaConf.to_container(cfg, resolve=False)):
        group = name.partition(".")[0]
        raise UserError(f"{name}: {group}={cfg.choices.get(group)} needs it. Write {name}=VALUE")


def _names_target(node: Any) -> bool:
    return isinstance(node, DictConfig) and "_target_" in node


def _missing(node: Any, place: str = "") -> Iterator[str]:
    """The keys within a node that a config file left for the user to give: ???"""
    if node == "???":
        yield place
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from _missing(value, f"{place}.{name}" if place else str(name))


# --- across sections -------------------------------------------------------------------------------------------


def _check_averages(config: Config) -> None:
    start, epochs = config.trainer.swa_start, config.trainer.max_epochs
    if (start or 0) > epochs and not config.choices.get("debug"):
        raise UserError(f"trainer.swa_start={start}: the run ends before, with trainer.max_epochs={epochs}.")


def _check_validations(config: Config) -> None:
    """What acts on validations needs some."""
    if str(config.trainer.validate_every) != "0" or config.choices.get("debug"):
        return
    patience = config.early_stopping.patience
    acting = {
        f"early_stopping.patience={patience}": bool(patience),
        f"scheduler={config.choices.get('scheduler')}": config.schedule.interval == "validation",
    }
    for words in (words for words, acts in acting.items() if acts):
        raise UserError(f"{words} acts on validations, and trainer.validate_every=0 makes none.")


def _check_workers(config: Config) -> None:
    """What means something only with workers needs some; in a run's own config, whose facts are there, that there are
    none may be a choice of ours."""
    if config.loader.num_workers != 0 or config.spec.num_outputs is not None:
        return
    for name in OF_WORKERS:
        value = getattr(config.loader, name)
        if value:
            raise UserError(
                f"loader.{name}={as_typed(value)} acts only with workers, and loader.num_workers is 0: set it, or "
                "leave the other out."
            )


def _check_optimizer(config: Config) -> None:
    """A typo such as optimizer.lr=fast, found without importing the optimizer: numbers that every target of the
    group takes as numbers."""
    for name in ("lr", "weight_decay", "momentum"):
        if name not in config.optimizer:
            continue
        value = config.optimizer[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            hint = " (write 1e-3 or 0.001)" if name == "lr" else ""
            raise UserError(f"optimizer.{name}={as_typed(value)}: must be a number{hint}.")
        if value < 0:
            raise UserError(f"optimizer.{name}={value}: must not be negative.")


def _check_loss(config: Config) -> None:
    """A task lists the options of the group `loss` that fit it. One that no task lists, or whose target is the user's
    own, isn't judged by its name: assembly/loss.py looks at the target, when torch is there."""
    fitting, choice = config.task.get("losses"), config.choices.get("loss")
    ours = str(config.loss._target_).startswith(("torch.nn.", "plainloop."))
    if not isinstance(fitting, ListConfig) or not ours or choice in fitting:
        return
    if any(
        choice in (options.read("task", task).get("task", {}).get("losses") or ()) for task in options.groups()["task"]
    ):
        raise UserError(
            f"loss={choice} doesn't fit task={config.choices.get('task')}, which takes: {listed(fitting)}.\n"
            f"Leave loss= out, or choose a task that fits the data and the loss."
        )


def _check_monitor(config: Config) -> None:
    if config.choices.get("task") == "auto":  # what it produces is known when the data has been looked at
        return
    produced = ["val/loss", *(f"val/{name}" for name in config.metrics or {})]
    # A metric may tell several, as val/mae/price: assembly/trainer.py looks at those.
    whole = "/".join(config.monitor.split("/")[:2])
    if config.monitor not in produced and whole not in produced[1:]:
        raise UserError(
            f"monitor={config.monitor}: task={config.choices.get('task')} doesn't produce it."
            f"{did_you_mean(config.monitor, produced)} It produces: {listed(produced)}."
        )


def depends_on_length(config: Config | DictConfig) -> bool:
    """Whether the schedule refers to the length of the run."""
    node = OmegaConf.to_yaml(config.scheduler or {})
    return bool(re.search(r"spec\.(total_steps|schedule_length)|trainer\.max_", node))
