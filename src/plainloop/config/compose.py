"""From what was typed to a composed, validated config; and Hydra's complaints in our own words.

Torch-free: a mistyped override is answered before torch is imported.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from plainloop.config import rules
from plainloop.config.complaints import check_overrides, explain
from plainloop.config.options import CONFIGS, groups
from plainloop.config.schema import OF_WORKERS, SCHEMAS, Config, as_typed
from plainloop.errors import UserError, listed

for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)


# `${times:10,${optimizer.lr}}` in a config.
OmegaConf.register_new_resolver("times", lambda *numbers: math.prod(numbers), replace=True)


def compose(overrides: Sequence[str], name: str = "train") -> DictConfig:
    """The composed and validated config for a list of overrides, as `python train.py ...` would see it."""
    return compose_with_hydra(overrides, name)[0]


def compose_with_hydra(overrides: Sequence[str], name: str = "train") -> tuple[DictConfig, DictConfig]:
    """The same, and Hydra's own section beside it."""
    schema = SCHEMAS[name]
    check_overrides(overrides, schema)
    GlobalHydra.instance().clear()  # inside a command Hydra has been started already
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = hydra_compose(name, list(overrides), return_hydra_config=True)
        hydra = cfg.hydra
        with open_dict(cfg):
            del cfg["hydra"]
        return finish(cfg, hydra, schema), hydra
    except Exception as error:
        raise explain(error, schema) from error


def combinations(overrides: Sequence[str]) -> list[list[str]]:
    """What `-m` makes of `model=mlp,cnn seed=0,1` (and of Hydra's range(), choice() and glob()): four lists."""
    check_overrides(overrides)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            parser = OverridesParser.create(GlobalHydra.instance().config_loader())
            return [
                list(words) for words in BasicSweeper.split_arguments(parser.parse_overrides(list(overrides)), None)[0]
            ]
    except Exception as error:
        raise explain(error) from error


def finish(cfg: DictConfig, hydra: Any, schema: type) -> DictConfig:
    """Record which option of each group was taken, and validate. Pretrained weights bring their own normalisation,
    whatever the data's is, unless one was typed."""
    if schema is Config:
        cfg.choices = {
            name: value for name, value in hydra.runtime.choices.items() if not str(name).startswith("hydra/")
        }
        typed = any(word.startswith("transforms.normalize") for word in words_of(hydra))
        if not typed and isinstance(cfg.model, DictConfig) and _is_pretrained(cfg.model):
            cfg.transforms.normalize = "weights"
    rules.validate(cfg, schema)
    interval = schema is Config and any(word.startswith("schedule.interval=") for word in words_of(hydra))
    if interval and cfg.scheduler is None and not cfg.extend:
        raise UserError(
            f"schedule.interval={cfg.schedule.interval}: it says when a scheduler ticks, and with "
            "scheduler=none there is none."
        )
    return cfg


def words_of(hydra: Any) -> list[str]:
    """What was typed, as it was typed: a `${...}` in it isn't looked up."""
    words: Any = OmegaConf.to_container(hydra.overrides.task, resolve=False)
    return words


def _is_pretrained(model: DictConfig) -> bool:
    key = {"torchvision_model": "weights", "timm_model": "pretrained"}
    return bool(model.get(key.get(str(model.get("_target_")).rpartition(".")[2], "")))


def from_hydra(cfg: DictConfig, name: str) -> DictConfig:
    """The same, inside a function that `@hydra.main` called."""
    return finish(cfg, HydraConfig.get(), SCHEMAS[name])


# --- a config that starts from a run's own ---------------------------------------------------------------


def changed(
    saved: DictConfig,
    composed: DictConfig,
    typed: Iterable[str],
    allowed: Sequence[str],
    why: Callable[[str], str],
    before: Sequence[str] | None = None,
) -> DictConfig:
    """`saved` with the typed overrides applied: key by key, and `scheduler=cosine` as the whole section.

    `composed` is where Hydra has already put and checked their values. Keys that `allowed` doesn't name (as
    "trainer.device" or "loader.*") raise UserError with `why(key)`, unless they say what the run has already: that is
    allowed where the words that it was started with are given as `before`.
    """
    cfg = copy.deepcopy(saved)
    for override in typed:
        name = override.partition("=")[0]
        if name == "hydra.run.dir":  # no part of the config: whoever starts or continues the run looks at it
            continue
        if not any(name == key or (key.endswith("*") and name.startswith(key[:-1])) for key in allowed):
            if before is not None and (
                _said_again(saved, composed, name) or (name.startswith(FILLED_IN) and override in before)
            ):
                continue
            old = saved.choices.get(name) if name in groups() else OmegaConf.select(saved, name, throw_on_missing=False)
            has = f" (the run has {name}={as_typed(old)})" if old is not None else ""
            raise UserError(f"{override}: {why(name)}{has}. What may change: {listed(allowed)}.")
        OmegaConf.update(cfg, name, OmegaConf.select(composed, name), merge=False, force_add=True)
        if name in cfg.choices:
            cfg.choices[name] = composed.choices[name]
        if name == "scheduler":  # it says when it ticks
            cfg.schedule.interval = composed.schedule.interval
    if cfg.loader.num_workers == 0:  # the run's own options of workers mean nothing now; typed ones are a mistake
        for name in OF_WORKERS:
            cfg.loader[name] = composed.loader[name]
    return cfg


# Where a run's config holds what was made of the typed value ("auto", say), and not the value itself.
FILLED_IN = ("monitor_mode", "loader.drop_last", "loss.")  # as loss.weight=balanced


def _said_again(saved: DictConfig, composed: DictConfig, name: str) -> bool:
    """Whether an override repeats what the run has already: a cluster restarts with the same command line."""
    if name in groups():
        return composed.choices.get(name) == saved.choices.get(name)
    raw = [OmegaConf.to_container(cfg, resolve=False) for cfg in (saved, composed)]
    for part in name.split("."):
        raw = [node.get(part) if isinstance(node, dict) else None for node in raw]
    return raw[0] == raw[1]
