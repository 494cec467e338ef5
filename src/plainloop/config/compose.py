"""From what was typed to a composed, validated config; and Hydra's complaints in our own words.

Torch-free: a mistyped override is answered before torch is imported.
"""

import math
from collections.abc import Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from plainloop.config.complaints import check_overrides, explain
from plainloop.config.keys import UNDER_A_GROUP, groups_of, override, typed_keys
from plainloop.config.options import CONFIGS
from plainloop.config.references import fill_in_the_rest
from plainloop.config.rules import validate
from plainloop.config.schema import Command, Config
from plainloop.errors import UserError
from plainloop.places import PLAIN

# `${times:10,${optimizer.lr}}` in a config.
OmegaConf.register_new_resolver("times", lambda *numbers: product(numbers), replace=True)


def product(numbers: Sequence[Any]) -> Any:
    """Of numbers alone: words would be repeated. Raises ValueError."""
    if not all(isinstance(number, int | float) and abs(number) < 1e18 for number in numbers):
        raise ValueError("times: numbers are needed")
    return math.prod(numbers)


def compose(overrides: Sequence[str], schema: type[Command] = Config) -> DictConfig:
    """The composed and validated config for a list of overrides, as `python train.py ...` would see it."""
    return compose_with_hydra(overrides, schema)[0]


def compose_with_hydra(overrides: Sequence[str], schema: type[Command] = Config) -> tuple[DictConfig, DictConfig]:
    """The same, and Hydra's own section beside it."""
    check_overrides(overrides, schema)
    overrides = [grammatical(word, schema) for word in overrides]
    GlobalHydra.instance().clear()  # inside a command Hydra has been started already
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = hydra_compose(made_known(schema), list(overrides), return_hydra_config=True)
        hydra = cfg.hydra
        with open_dict(cfg):
            del cfg["hydra"]
        return _finish(cfg, hydra, schema), hydra
    except Exception as error:
        raise explain(error, schema) from error


def grammatical(word: str, schema: type[Command] = Config) -> str:
    """An override as Hydra's grammar wants it: a value with letters, brackets or signs that it doesn't know is one text
    (data.path=größe, data.target=price [EUR], data.path=a#b.csv)."""
    name, equals, value = word.partition("=")
    if name == "run" and "," in value and value[0] not in "'\"[":  # two runs, and not a sweep
        return override(name, value)
    if name + UNDER_A_GROUP in dict(typed_keys(schema)):
        name += UNDER_A_GROUP
        word = name + equals + value
    if (
        not equals
        or not value
        or value[0] in "'\"[{("
        or PLAIN.fullmatch(value)
        or "${" in value
        or value.endswith(",")
    ):
        return word
    if any(value.count(first) != value.count(last) for first, last in ("[]", "{}", "()")):
        return word  # one is missing, as it seems
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return override(name, value)
    return word


def from_hydra(cfg: DictConfig, schema: type[Command]) -> DictConfig:
    """The same, inside a function that `@hydra.main` called."""
    return _finish(cfg, HydraConfig.get(), schema)


def made_known(schema: type[Command]) -> str:
    """Tell Hydra of a schema, as what the defaults in configs/ begin with; the name of these."""
    name, store = schema.door, ConfigStore.instance()
    if f"{name}_schema.yaml" not in store.repo:  # stored once more, it would be translated anew
        store.store(name=f"{name}_schema", node=schema)
    return name


def _finish(cfg: DictConfig, hydra: Any, schema: type[Command]) -> DictConfig:
    """Record which option of each group was taken, and validate."""
    if groups_of(schema):
        taken = hydra.runtime.choices.items()
        choices = {name: value for name, value in taken if not str(name).startswith("hydra/")}
        for name in groups_of(schema):
            if name not in choices and cfg[name]:  # several options, which Hydra doesn't tell
                choices[name] = f"[{','.join(map(str, cfg[name]))}]"
        cfg.choices = choices
    fill_in_the_rest(cfg)
    validate(cfg, schema)
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
