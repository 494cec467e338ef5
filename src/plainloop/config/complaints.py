"""What is typed wrong, answered in our words: before Hydra sees it, and in the place of Hydra's own errors."""

import contextlib
import re
from collections.abc import Iterator, Sequence

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig
from omegaconf.errors import GrammarParseError, InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from plainloop.config.keys import default_of, groups_of, kind_of, override, typed_keys
from plainloop.config.options import CONFIGS, groups
from plainloop.config.schema import Command, Config
from plainloop.errors import UserError, did_you_mean, first_line, listed
from plainloop.places import quoted

# --- before Hydra sees it ------------------------------------------------------------------------------------------


LIST = re.compile(r"\[([^][{}]+)\]")  # of options: logger=[tensorboard,wandb]


def check_overrides(overrides: Sequence[str], schema: type[Command] = Config) -> None:
    """Refuse what Hydra would answer with a usage text, or swallow: missing '=', dashes, pluses."""
    if isinstance(overrides, str):
        raise UserError(f'"{overrides}": a list of words is needed, as in ["model=mlp"]')
    known = groups()
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
            if name.split(".")[0] not in known and name not in dict(typed_keys(schema)):
                if not key_like(name, schema):
                    raise UserError(_unknown_key(name, schema))
                name = key_like(name, schema)
            raise UserError(f"{word}: keys and arguments are set without a plus. Write {name}={given}")
        if word.startswith("~"):
            options = known.get(word[1:], [])
            hint = f" {word[1:]} can be: {listed(options)}." if options else ""
            hint = f" Write {word[1:]}=none" if "none" in options else hint
            raise UserError(f"{word}: nothing can be taken out.{hint}")
        if not equals and word.strip("-") in ("help", "h"):
            raise UserError(f"{word}: python {schema.door}.py --help lists every key")
        if not equals and before.count("[") + before.count("{") > before.count("]") + before.count("}"):
            raise UserError(f"{before} {word}: quote a value that holds spaces, or leave the spaces out.")
        if not equals and re.fullmatch(r"[\w.]+:\S+", word):
            raise UserError(f"{word}: settings are typed as key=value. Write {word.replace(':', '=', 1)}")
        if not equals and "/" in word and "run" in dict(typed_keys(schema)):
            raise UserError(f"{word}: settings are typed as key=value. Write run={word}")
        if not equals or not name:
            quote = " (or quote a value that holds spaces)" if "=" in before else ""
            key = key_like(word, schema) or word
            write = f" Write {key}={value}{quote}" if name else ""
            raise UserError(f"{word}: settings are typed as key=value.{write}")
        if name in known and groups_of(schema).get(name) == "several" and (several := LIST.fullmatch(given)):
            for option in several[1].split(","):
                if option.strip() not in known[name]:
                    raise UserError(_no_option(name, option.strip(), known[name]))
            continue
        if name in known and schema is Config and not re.match(r"[A-Za-z_]*[^\W\d]", given):
            raise UserError(_no_option(name, given, known[name]))
        if name in known and given.lower() in ("null", "true", "false"):
            raise UserError(_no_option(name, given, known[name]))
        if name.split(".")[0] in ("spec", "choices"):
            raise UserError(
                f"{name}: nobody sets it: it follows from the data and from what is chosen"
                f"{f', as by {name[8:]}={given}' if name.startswith('choices.') else ''}."
            )


# --- what Hydra, OmegaConf or YAML complain of ---------------------------------------------------------------------


def explain(error: BaseException, schema: type[Command] = Config) -> BaseException:
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


def _wrong_override(file: str, name: str, schema: type[Command]) -> str:
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


def _wrong_value(name: str, value: str, schema: type[Command]) -> str:
    fields = dict(typed_keys(schema))
    if name in fields:
        return f"{name}={value}: must be {kind_of(fields[name])}."
    inner = [key for key in fields if key.startswith(name + ".")]
    if inner:
        key = next(key for key in inner if not key.endswith("_target_"))
        return f"{name}={value}: {name} is a section; set one of its keys, as in {key}={default_of(fields[key])}"
    parent = name.rpartition(".")[0]
    if parent in fields:
        return f"{name}={value}: {parent} is {kind_of(fields[parent])}, without keys of its own."
    return f"{name}={value}: this value doesn't fit here."


def _several(word: str, schema: type[Command]) -> str:
    if schema is Config:
        name, _, value = word.partition("=")
        one = f"\nOne value that holds a comma is quoted: {quoted(override(name, value))}" if " " in value else ""
        return f"{word}: several values make a sweep: add -m, as in python train.py -m {quoted(word)}{one}"
    return f"{word}: one value at a time."


def _full_key(text: str) -> str:
    match = re.search(r"full_key: (\S+)", text)
    return match[1] if match else ""


# --- what it should have been --------------------------------------------------------------------------------------


def _unknown_key(name: str, schema: type[Command]) -> str:
    if name == "_target_" and schema is Config:
        return "_target_: of which group? Write model._target_=..., loss._target_=..., ..."
    section = name.split(".")[0]
    guess = key_like(name, schema)
    hint = f" Did you mean {guess}?" if guess else ""
    names = [key for key, _ in typed_keys(schema)]
    if schema is not Config and (section in groups() or name in dict(typed_keys(Config))):
        return f"{name}: it comes from the run, and can't change here. python {schema.door}.py --help lists what may."
    if section in groups() and "." in name:  # the group's option is `none`
        choose = " ".join(f"{section}={option}" for option in groups()[section] if option != "none")
        return f"{name}: no {section} is chosen that could take it. Choose one: {choose}"
    if "." in name and any(key.startswith(section + ".") for key in names):
        options = [key.partition(".")[2] for key in names if key.startswith(section + ".")]
        return f"{name}: there is no such key.{hint} {section} has: {listed(options, 40)}."
    return f"{name}: there is no such key.{hint} (python {schema.door}.py --help lists them all)"


def _no_option(group: str, option: str, options: Sequence[str]) -> str:
    hint = f" Write {group}=none" if option == "null" and "none" in options else did_you_mean(option, options)
    if "custom" in options and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", option):
        return f"{group}={option}: no such option. A class of your own: {group}=custom {group}._target_={option}"
    return f"{group}={option}: no such option.{hint} {group} can be: {listed(options)}."


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


def key_like(word: str, schema: type[Command] = Config) -> str:
    """The key that was probably meant by `word`, or ''."""
    names = [name for name, _ in typed_keys(schema) if not name.startswith("spec.")]
    known = [*names, *(groups() if schema is Config else ())]
    if word in ALIASES and schema is Config:
        return ALIASES[word]
    leaf = word.rpartition(".")[2]
    section = word.rpartition(".")[0]
    if leaf in ALIASES and section in ("", "trainer", "loader", "optimizer") and schema is Config:
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


# --- what is refused when it is built ------------------------------------------------------------------------------


@contextlib.contextmanager
def explaining_leftovers(cfg: DictConfig | Config) -> Iterator[None]:
    """A `_target_` that was changed keeps the arguments of the option that was taken: where one of them is refused, the
    answer says where it stands."""
    try:
        yield
    except UserError as error:
        match = re.match(r"(\w+)\.(\w+): \w+ takes no such argument", str(error))
        group, key = match.groups() if match else ("", "")
        file = CONFIGS / group / f"{cfg.choices.get(group)}.yaml"
        text = file.read_text() if group and file.is_file() else ""
        target = str(getattr(cfg, group)._target_) if text else ""
        if not re.search(rf"^\s*{key}:", text, re.MULTILINE) or target in text:
            raise
        raise UserError(
            f"{error}\nIt stands in configs/{group}/{file.name}. {group}=custom {group}._target_={target} "
            "begins without arguments."
        ) from error
