"""From what was typed to a composed, validated config; and Hydra's complaints in our own words.

Torch-free: a mistyped override is answered before torch is imported.
"""

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from omegaconf.errors import GrammarParseError, InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from plainloop import config
from plainloop.config import ROOT
from plainloop.errors import UserError, did_you_mean, first_line, listed

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


@contextlib.contextmanager
def explaining_leftovers(cfg: DictConfig) -> Iterator[None]:
    """A `_target_` that was changed keeps the arguments of the option that was taken: where one of them is refused, the
    answer says where it stands."""
    try:
        yield
    except UserError as error:
        match = re.match(r"(\w+)\.(\w+): \w+ takes no such argument", str(error))
        group, key = match.groups() if match else ("", "")
        file = CONFIGS / group / f"{cfg.choices.get(group)}.yaml"
        text = file.read_text() if group and file.is_file() else ""
        stands = re.search(rf"^\s*{key}:", text, re.MULTILINE)
        if not stands or str(cfg[group]._target_) in text:
            raise
        raise UserError(
            f"{error}\nIt stands in configs/{group}/{file.name}. {group}=custom {group}._target_={cfg[group]._target_} "
            "begins without arguments."
        ) from error


def key_like(word: str, schema: type = config.Config) -> str:
    """The key that was probably meant by `word`, or ''."""
    names = [name for name, _ in config.typed_keys(schema) if not name.startswith("spec.")]
    known = [*names, *(groups() if schema is config.Config else ())]
    if word in ALIASES and schema is config.Config:
        return ALIASES[word]
    leaf = word.rpartition(".")[2]
    section = word.rpartition(".")[0]
    if leaf in ALIASES and section in ("", "trainer", "loader", "optimizer") and schema is config.Config:
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
    if guess:
        return leaves[guess[len(" Did you mean ") : -1]]
    return did_you_mean(word, {name.partition(".")[0] for name in names if "." in name})[len(" Did you mean ") : -1]


def check_overrides(overrides: Sequence[str], schema: type = config.Config) -> None:
    """Refuse what Hydra would answer with a usage text, or swallow: missing '=', dashes, pluses."""
    if isinstance(overrides, str):
        raise UserError(f'"{overrides}": a list of words is needed, as in ["model=mlp"]')
    for number, word in enumerate(overrides):
        following = overrides[number + 1] if number + 1 < len(overrides) else ""
        before = overrides[number - 1] if number else ""
        value = following if following and "=" not in following else "VALUE"
        name, equals, given = word.partition("=")
        if word.startswith("hydra") or word.startswith("+hydra"):
            continue
        if word.startswith("-"):
            name = name.lstrip("-").replace("-", "_")
            raise UserError(
                f"{word}: settings are typed as key=value, without dashes. "
                f"Write {key_like(name, schema) or name}={given or value}"
            )
        if word.startswith("+"):
            name = name.lstrip("+")
            if name.split(".")[0] not in groups() and name not in dict(config.typed_keys(schema)):
                if not key_like(name, schema):
                    raise UserError(_unknown_key(name, schema))
                name = key_like(name, schema)
            raise UserError(f"{word}: keys and arguments are set without a plus. Write {name}={given}")
        if word.startswith("~"):
            options = groups().get(word[1:], [])
            hint = f" {word[1:]} can be: {listed(options)}." if options else ""
            hint = f" Write {word[1:]}=none" if "none" in options else hint
            raise UserError(f"{word}: nothing can be taken out.{hint}")
        if not equals and word.strip("-") in ("help", "h"):
            raise UserError(f"{word}: python {_door(schema)} --help lists every key")
        if not equals and before.count("[") + before.count("{") > before.count("]") + before.count("}"):
            raise UserError(f"{before} {word}: quote a value that holds spaces, or leave the spaces out.")
        if not equals and re.fullmatch(r"[\w.]+:\S+", word):
            raise UserError(f"{word}: settings are typed as key=value. Write {word.replace(':', '=', 1)}")
        if not equals and "/" in word and schema is config.EvaluateConfig:
            raise UserError(f"{word}: settings are typed as key=value. Write run={word}")
        if not equals or not name:
            quote = " (or quote a value that holds spaces)" if "=" in before else ""
            key = key_like(word, schema) or word
            write = f" Write {key}={value}{quote}" if name else ""
            raise UserError(f"{word}: settings are typed as key=value.{write}")
        if name in groups() and schema is config.Config and not re.match(r"[A-Za-z_]*[^\W\d]", given):
            raise UserError(_no_option(name, given, groups()[name]))
        if name in groups() and given.lower() in ("null", "true", "false"):
            raise UserError(_no_option(name, given, groups()[name]))
        if name.split(".")[0] in ("spec", "choices"):
            raise UserError(f"{name}: nobody sets it: it follows from the data and from what is chosen"
                            f"{f', as by {name[8:]}={given}' if name.startswith('choices.') else ''}.")  # fmt: skip


def compose(overrides: Sequence[str], name: str = "train") -> DictConfig:
    """The composed and validated config for a list of overrides, as `python train.py ...` would see it."""
    return compose_with_hydra(overrides, name)[0]


def compose_with_hydra(overrides: Sequence[str], name: str = "train") -> tuple[DictConfig, DictConfig]:
    """The same, and Hydra's own section beside it."""
    schema = config.SCHEMAS[name]
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
    if schema is config.Config:
        cfg.choices = {
            name: value for name, value in hydra.runtime.choices.items() if not str(name).startswith("hydra/")
        }
        typed = any(word.startswith("transforms.normalize") for word in words_of(hydra))
        if not typed and isinstance(cfg.model, DictConfig) and _is_pretrained(cfg.model):
            cfg.transforms.normalize = "weights"
    config.validate(cfg, schema)
    interval = schema is config.Config and any(word.startswith("schedule.interval=") for word in words_of(hydra))
    if interval and cfg.scheduler is None and not cfg.extend:
        raise UserError(f"schedule.interval={cfg.schedule.interval}: it says when a scheduler ticks, and with "
                        "scheduler=none there is none.")  # fmt: skip
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
    return finish(cfg, HydraConfig.get(), config.SCHEMAS[name])


# --- a config that starts from a run's own ---------------------------------------------------------------


def changed(
    saved: DictConfig, composed: DictConfig, typed: Iterable[str], allowed: Sequence[str],
    why: Callable[[str], str], before: Sequence[str] | None = None,
) -> DictConfig:  # fmt: skip
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
            has = f" (the run has {name}={config.as_typed(old)})" if old is not None else ""
            raise UserError(f"{override}: {why(name)}{has}. What may change: {listed(allowed)}.")
        OmegaConf.update(cfg, name, OmegaConf.select(composed, name), merge=False, force_add=True)
        if name in cfg.choices:
            cfg.choices[name] = composed.choices[name]
        if name == "scheduler":  # it says when it ticks
            cfg.schedule.interval = composed.schedule.interval
    if cfg.loader.num_workers == 0:  # the run's own options of workers mean nothing now; typed ones are a mistake
        for name in config.OF_WORKERS:
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


# --- what Hydra says, in our words -----------------------------------------------------------------------


def explain(error: BaseException, schema: type = config.Config) -> BaseException:
    """The UserError that says what a Hydra, OmegaConf or YAML error means; other errors are returned as they are."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, MissingConfigException):
        return UserError(_missing_option(error))
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(error)
    if match := re.search(r"In '([^']+)': Could not override '([^'@]+)(@[^']*)?'", text):
        return UserError(_wrong_override(match[1], match[2], schema))
    if match := re.search(r"Could not override '([^']+)'", text):
        return UserError(_unknown_key(match[1], schema))
    if match := re.search(r"Error merging override ([^\s=]+)=(.*)", text):
        return UserError(_wrong_value(match[1], match[2], schema))
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return UserError(_several(match[1], schema))
    if match := re.search(r"Sweep parameters '(.+)' requires --multirun", text):
        return UserError(_several(match[1], schema))
    if isinstance(error, OverrideParseException):
        why = "" if "Exception" in first_line(error) else f" ({first_line(error)})"
        return UserError(
            f"{error.override}: can't be read{why}. Quote values that hold spaces, commas, "
            f"brackets, ~ or '=', as in 'key=\"a=b\"'."
        )
    if match := re.search(r"Multiple values for (\S+)\. To override a value use 'override (.+)'", text):
        return UserError(f"a config file chooses {match[1]} a second time. There, write '- override /{match[2]}'")
    if match := re.search(r"Invalid defaults list in '([^']+)'", text):
        return UserError(f"configs/{match[1]}.yaml: defaults must be a list, as in '- override /model: mlp'")
    if isinstance(error, YAMLError):
        mark = getattr(error, "problem_mark", None)
        place = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        return UserError(f"{place}: not valid YAML: {getattr(error, 'problem', None) or first_line(error)}.")
    if isinstance(cause, InterpolationKeyError | GrammarParseError):
        return UserError(f"{cause.full_key or _full_key(str(cause))}: {first_line(cause)}.")
    if match := re.search(r"In '([^']+)': \w+ raised while composing config:\s*(.*)", text):
        key = getattr(error.__cause__, "full_key", None) or _full_key(text)
        if key and key == match[1].partition("/")[0]:  # an experiment's keys landed in a section `experiment`
            return UserError(f"configs/{match[1]}.yaml: its first line must be '# @package _global_'.")
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
    inside = re.match(r"In '([^']+)'", str(error))
    if not options and inside and group.rpartition("/")[2] in groups():  # `- model: cnn` in an experiment
        return f"configs/{inside[1]}.yaml: write '- override /{group.rpartition('/')[2]}: {option}'"
    if not options:
        return f"{group}={option}: there is no group {group}. The groups are: {listed(groups())}."
    return _no_option(group, option, options)


def _no_option(group: str, option: str, options: Sequence[str]) -> str:
    hint = f" Write {group}=none" if option == "null" and "none" in options else did_you_mean(option, options)
    if "custom" in options and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", option):
        return f"{group}={option}: no such option. A class of your own: {group}=custom {group}._target_={option}"
    return f"{group}={option}: no such option.{hint} {group} can be: {listed(options)}."


def _wrong_override(file: str, name: str, schema: type) -> str:
    """A config file's `override /name: ...` that finds nothing to override."""
    group = name.rpartition("/")[2]
    if name in groups():
        return (
            f"configs/{file}.yaml: 'override /{name}: ...' needs '# @package _global_' as the file's first line "
            f"(or spell it 'override /{name}@_global_.{name}: ...')."
        )
    if group in groups():
        return f"configs/{file}.yaml: begin with a slash: '- override /{group}: ...'"
    return f"configs/{file}.yaml: there is no group {group}.{did_you_mean(group, groups())}"


def _several(word: str, schema: type) -> str:
    if schema is config.Config:
        return f"{word}: several values make a sweep: add -m, as in python train.py -m {word}"
    return f"{word}: one value at a time."


def _door(schema: type) -> str:
    return next(f"{name}.py" for name, known in config.SCHEMAS.items() if known is schema)


def _unknown_key(name: str, schema: type) -> str:
    if name == "_target_" and schema is config.Config:
        return "_target_: of which group? Write model._target_=..., loss._target_=..., ..."
    section = name.split(".")[0]
    guess = key_like(name, schema)
    hint = f" Did you mean {guess}?" if guess else ""
    names = [key for key, _ in config.typed_keys(schema)]
    if schema is not config.Config and (section in groups() or name in dict(config.typed_keys(config.Config))):
        return f"{name}: it comes from the run, and can't change here. python {_door(schema)} --help lists what may."
    if section in groups() and "." in name:  # the group's option is `none`
        choose = " ".join(f"{section}={option}" for option in groups()[section] if option != "none")
        return f"{name}: no {section} is chosen that could take it. Choose one: {choose}"
    if "." in name and any(key.startswith(section + ".") for key in names):
        options = [key.partition(".")[2] for key in names if key.startswith(section + ".")]
        return f"{name}: there is no such key.{hint} {section} has: {listed(options, 40)}."
    return f"{name}: there is no such key.{hint} (python {_door(schema)} --help lists them all)"


def _wrong_value(name: str, value: str, schema: type) -> str:
    fields = dict(config.typed_keys(schema))
    if name in fields:
        return f"{name}={value}: must be {config.kind_of(fields[name])}."
    inner = [key for key in fields if key.startswith(name + ".")]
    if inner:
        key = next(key for key in inner if not key.endswith("_target_"))
        return f"{name}={value}: {name} is a section; set one of its keys, as in {key}={config.default_of(fields[key])}"
    parent = name.rpartition(".")[0]
    if parent in fields:
        return f"{name}={value}: {parent} is {config.kind_of(fields[parent])}, without keys of its own."
    return f"{name}={value}: this value doesn't fit here."
