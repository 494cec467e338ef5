"""From what was typed to a composed, validated config; and Hydra's complaints in our own words.

Torch-free: a mistyped override is answered before torch is imported.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from plainloop import config
from plainloop.errors import UserError, did_you_mean, first_line, listed

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

for _name, _schema in config.SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)

# `${times:10,${optimizer.lr}}` in a config.
OmegaConf.register_new_resolver("times", lambda *numbers: math.prod(numbers), replace=True)

# What people type out of habit, and what it is called here.
ALIASES = {
    "epochs": "trainer.max_epochs", "num_epochs": "trainer.max_epochs", "n_epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps", "lr": "optimizer.lr", "learning_rate": "optimizer.lr",
    "batch": "loader.batch_size", "bs": "loader.batch_size", "workers": "loader.num_workers",
    "accelerator": "trainer.device", "gpu": "trainer.device", "gpus": "trainer.device", "dataset": "data",
    "net": "model", "arch": "model", "criterion": "loss", "optim": "optimizer", "opt": "optimizer",
    "amp": "trainer.precision", "clip": "trainer.max_grad_norm", "patience": "early_stopping.patience",
    "weight_decay": "optimizer.weight_decay", "momentum": "optimizer.momentum", "output": "paths.outputs",
    "ckpt_path": "resume", "checkpoint": "resume",
}  # fmt: skip


def groups() -> dict[str, list[str]]:
    """The config groups and their options: {"model": ["cnn", "linear", ...], ...}."""
    found = {}
    for folder in sorted(path for path in CONFIGS.iterdir() if path.is_dir()):
        found[folder.name] = sorted(file.stem for file in folder.glob("*.yaml"))
    return found


def key_like(word: str, schema: type = config.Config) -> str:
    """The key that was probably meant by `word`, or ''."""
    names = [name for name, _ in config.typed_keys(schema)]
    known = [*names, *groups()]
    if word in ALIASES and schema is config.Config:
        return ALIASES[word]
    leaf = word.rpartition(".")[2]
    section = word.rpartition(".")[0]
    if leaf in ALIASES and section in ("", "trainer", "loader", "optimizer"):
        return ALIASES[leaf]
    same_leaf = [name for name in known if name.rpartition(".")[2] == leaf]
    if same_leaf:
        return same_leaf[0]
    for options in ([n for n in names if n.startswith(section + ".")] if section else [], known):
        guess = did_you_mean(word, options)
        if guess:
            return guess[len(" Did you mean ") : -1]
    leaves = {name.rpartition(".")[2]: name for name in known}
    guess = did_you_mean(leaf, leaves)
    return leaves[guess[len(" Did you mean ") : -1]] if guess else ""


def check_overrides(overrides: Sequence[str], schema: type = config.Config) -> None:
    """Refuse what Hydra would answer with a usage text, or swallow: missing '=', dashes, pluses."""
    for number, word in enumerate(overrides):
        following = overrides[number + 1] if number + 1 < len(overrides) else ""
        value = following if following and "=" not in following else "VALUE"
        if word.startswith("hydra") or word.startswith("+hydra"):
            continue
        if word.startswith("-"):
            name, _, given = word.lstrip("-").replace("-", "_").partition("=")
            raise UserError(
                f"{word}: settings are typed as key=value, without dashes. "
                f"Write {key_like(name, schema) or name}={given or value}"
            )
        if word.startswith("+"):
            bare = word.lstrip("+")
            known = bare.partition("=")[0]
            target = known
            is_ours = "." in known and known.split(".")[0] not in groups()
            if is_ours and known not in dict(config.typed_keys(schema)):
                target = key_like(known, schema) or known
            raise UserError(
                f"{word}: no plus is needed here, every key exists already. Write {target}={bare.partition('=')[2]}"
            )
        if word.startswith("~"):
            raise UserError(f"{word}: nothing can be taken out. Most groups have an option none: {word[1:]}=none")
        if "=" not in word:
            raise UserError(f"{word}: settings are typed as key=value. Write {key_like(word, schema) or word}={value}")


def compose(overrides: Sequence[str], name: str = "train") -> DictConfig:
    """The composed and validated config for a list of overrides, as `python train.py ...` would see it."""
    return compose_with_hydra(overrides, name)[0]


def compose_with_hydra(overrides: Sequence[str], name: str = "train") -> tuple[DictConfig, DictConfig]:
    """The same, and Hydra's own section beside it."""
    schema = config.SCHEMAS[name]
    check_overrides(overrides, schema)
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            cfg = hydra_compose(name, list(overrides), return_hydra_config=True)
    except Exception as error:
        raise explain(error, schema) from error
    hydra = cfg.hydra
    with open_dict(cfg):
        del cfg["hydra"]
    return finish(cfg, hydra.runtime.choices, schema), hydra


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


def finish(cfg: DictConfig, choices: Mapping[str, Any], schema: type) -> DictConfig:
    """Record which option of each group was taken, and validate."""
    if schema is config.Config:
        cfg.choices = {name: value for name, value in choices.items() if not str(name).startswith("hydra/")}
    config.validate(cfg, schema)
    return cfg


def from_hydra(cfg: DictConfig, name: str) -> DictConfig:
    """The same, inside a function that `@hydra.main` called."""
    return finish(cfg, HydraConfig.get().runtime.choices, config.SCHEMAS[name])


# --- a config that starts from a run's own ---------------------------------------------------------------


def changed(
    saved: DictConfig, composed: DictConfig, typed: Iterable[str], allowed: Sequence[str], why: str
) -> DictConfig:
    """`saved` with the typed overrides applied: key by key, and `scheduler=cosine` as the whole section.

    `composed` is where Hydra has already put and checked their values. Keys that `allowed` doesn't name (as
    "trainer.device" or "loader.*") raise UserError with `why`.
    """
    cfg = OmegaConf.create(OmegaConf.to_container(saved, resolve=False))
    assert isinstance(cfg, DictConfig)
    for override in typed:
        name = override.partition("=")[0]
        if not any(name == key or (key.endswith("*") and name.startswith(key[:-1])) for key in allowed):
            old = OmegaConf.select(saved, name, throw_on_missing=False) if "." in name else saved.choices.get(name)
            raise UserError(f"{override}: {why} (the run has {name}={old}). What may change: {listed(allowed)}.")
        OmegaConf.update(cfg, name, OmegaConf.select(composed, name), merge=False, force_add=True)
        if name in cfg.choices:
            cfg.choices[name] = composed.choices[name]
    return cfg


# --- what Hydra says, in our words -----------------------------------------------------------------------


def explain(error: BaseException, schema: type = config.Config) -> BaseException:
    """The UserError that says what a Hydra, OmegaConf or YAML error means; other errors are returned as they are."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException):
        return UserError(_missing_option(error))
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(error)
    if match := re.search(r"Could not override '([^']+)'", text):
        return UserError(_unknown_key(match[1], schema))
    if match := re.search(r"Error merging override ([^\s=]+)=(.*)", text):
        return UserError(_wrong_value(match[1], match[2], schema))
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return UserError(f"{match[1]}: several values make a sweep: add -m, as in python train.py -m {match[1]}")
    if isinstance(error, OverrideParseException):
        return UserError(
            f"{error.override}: can't be read ({first_line(error)}). Quote values that hold spaces, commas, "
            f"brackets or '=', as in 'key=\"a=b\"'."
        )
    if match := re.search(r"Multiple values for (\S+)\.", text):
        return UserError(f"{match[1]}= is given twice: keep one of them.")
    if match := re.search(r"In '([^']+)': Could not override '([^'@]+)(?:@[^']*)?'", text):
        return UserError(
            f"configs/{match[1]}.yaml: 'override /{match[2]}: ...' needs '# @package _global_' as the file's first "
            f"line (or spell it 'override /{match[2]}@_global_.{match[2]}: ...')."
        )
    if isinstance(error, YAMLError):
        mark = getattr(error, "problem_mark", None)
        place = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        return UserError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or first_line(error)}.")
    if isinstance(cause, InterpolationKeyError):
        return UserError(f"{cause.full_key}: {first_line(cause)}.")
    if match := re.search(r"In '([^']+)': \w+ raised while composing config:\s*(.*)", text):
        key = getattr(error.__cause__, "full_key", None) or _full_key(text)
        guess = key_like(key, schema) if key else ""
        hint = f" Did you mean {guess}?" if "not in" in match[2] and guess else ""
        return UserError(f"configs/{match[1]}.yaml, {key or 'a key'}: {match[2]}.{hint}")
    if isinstance(error, ConfigCompositionException | HydraException | OmegaConfBaseException):
        return UserError(f"the configuration can't be composed: {first_line(error)}.")
    return error


def _full_key(text: str) -> str:
    match = re.search(r"full_key: (\S+)", text)
    return match[1] if match else ""


def _missing_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file or "").rpartition("/")
    if not group:
        return f"configs/{option}.yaml doesn't exist."
    options = [name for name in error.options or [] if not name.startswith("_")]
    if not options:
        return f"{group}={option}: there is no group {group}. The groups are: {listed(groups())}."
    return f"{group}={option}: no such option.{did_you_mean(option, options)} {group} can be: {listed(options)}."


def _unknown_key(name: str, schema: type) -> str:
    section = name.split(".")[0]
    guess = key_like(name, schema)
    hint = f" Did you mean {guess}?" if guess else ""
    names = [key for key, _ in config.typed_keys(schema)]
    if "." in name and any(key.startswith(section + ".") for key in names):
        options = [key.partition(".")[2] for key in names if key.startswith(section + ".")]
        return f"{name}: there is no such key.{hint} {section} has: {listed(options, 40)}."
    return f"{name}: there is no such key.{hint} (python train.py --help lists them all)"


def _wrong_value(name: str, value: str, schema: type) -> str:
    fields = dict(config.typed_keys(schema))
    if name in fields:
        return f"{name}={value}: must be {config.kind_of(fields[name])}."
    inner = [key for key in fields if key.startswith(name + ".")]
    if inner:
        return f"{name}={value}: {name} is a section; set one of its keys, as in {inner[0]}={fields[inner[0]].default}"
    parent = name.rpartition(".")[0]
    if parent in fields:
        return f"{name}={value}: {parent} is {config.kind_of(fields[parent])}, without keys of its own."
    return f"{name}={value}: this value doesn't fit here."
