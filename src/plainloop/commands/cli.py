"""What the doors share, the scripts that are typed: `@hydra.main`, with help and errors of our own.

Torch-free, so that `--help`, `--cfg job` and a mistyped override are answered at once.
"""

import importlib
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from plainloop.commands import sweep
from plainloop.commands.startup import guard_argparse
from plainloop.config import complaints, compose
from plainloop.config.keys import UNDER_A_GROUP, default_of, groups_of, is_among, may_change, typed_keys
from plainloop.config.options import CONFIGS, groups
from plainloop.config.schema import Command
from plainloop.config.words import taken
from plainloop.errors import Interrupted, MachineError, UserError, shown
from plainloop.runs.finding import find, several, to_continue

# Hydra's own flags that are of use here; what else begins with a dash is a mistake.
FLAGS = ("-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "--info", "-i", "--shell-completion",
         "-sc", "--hydra-help", "--version", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn",
         "--run", "-r")  # fmt: skip
FLAGS_WITH_VALUE = ("-c", "--cfg", "-p", "--package", "--config-dir", "-cd", "--config-path", "-cp",
                    "--config-name", "-cn")  # fmt: skip
# cfg, what was typed, the run directory where one is given, and whether this is a trial of a sweep
Main = Callable[[Any, list[str], str | None, bool], object]


def door(schema: type[Command]) -> Callable[[Main], Callable[[], None]]:
    """Turn a function into the command that takes what the schema says: `python DOOR.py [key=value ...]`."""

    def decorate(function: Main) -> Callable[[], None]:
        def command() -> None:
            sys.exit(_run(schema, function, sys.argv[1:]))

        return command

    return decorate


def is_there() -> bool:
    """Whether the working directory exists."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def end_children() -> None:
    """After a failure a loading process may hang for good. To be called while the error, and so the loader, is still
    held: torch would wait 5 s for each process when it cleans up, and Python for as long as it takes."""
    children = sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else []
    if children and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would complain of each
    for child in children:
        child.kill()


def _run(schema: type[Command], function: Main, words: list[str]) -> int:
    """Run a door's function under Hydra; the exit status."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them: explain() does that
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else torch's profiler tells of GPUs that aren't there
    guard_argparse()
    if not is_there():
        return shown(UserError("the working directory is gone, deleted or replaced: cd to another one first."))
    if hasattr(signal, "SIGUSR1") and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
        signal.signal(signal.SIGUSR1, lambda number, frame: None)  # "save and go on", and there is nothing yet
    failures: list[Exception] = []

    def task(cfg: DictConfig) -> None:
        hydra_cfg = HydraConfig.get()
        typed = compose.words_of(hydra_cfg)
        given = hydra_cfg.runtime.output_dir if hydra_cfg.run.dir != "." else None
        try:
            composed = compose.from_hydra(cfg, schema)
            if composed.get("resume"):
                to_continue(composed.resume, composed.paths.outputs, given)
            for key in ("extend", "run"):
                for name in several(composed[key]) if composed.get(key) else ():
                    find(name, composed.paths.outputs, key)
            _check_loggers(composed)
            function(composed, typed, given, False)
        except Exception as error:  # raised below: Hydra would print a line of its own about it
            failures.append(error)

    try:
        if "--help" in words or "-h" in words:
            print(help_text(schema), flush=True)
            return 0
        if not schema.is_composed:
            function(taken(words, schema), words, None, False)
            return 0
        main = hydra.main(config_path=str(CONFIGS), config_name=compose.made_known(schema), version_base="1.3")(task)
        _check_flags(words, schema.door)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("torchrun: training on several processes isn't built yet; start one: python train.py ...")
        overrides, flags = _parted(words)
        complaints.check_overrides(overrides, schema)
        overrides = [compose.grammatical(word, schema) for word in overrides]
        sys.argv[1:] = [*flags, *overrides]  # argparse wants them together
        if "-m" in words or "--multirun" in words:
            return 1 if any(trial.failure for trial in sweep.run(overrides, function)) else 0
        main()
        if failures:
            raise failures[0]
        return 0
    except (UserError, MachineError, Interrupted) as error:
        status = shown(error)
        end_children()
        return status
    except KeyboardInterrupt:
        end_children()
        return shown(Interrupted("interrupted before the first step; nothing was saved.", signal.SIGINT))
    except BrokenPipeError:  # `python train.py --cfg job | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        end_children()
        explained = complaints.explain(error, schema)
        if isinstance(explained, UserError):
            explained.__cause__ = error
            return shown(explained)
        given = any(word.startswith("hydra.run.dir=") for word in words)
        if isinstance(error, OSError) and given and not failures:  # Hydra makes it before it calls anything of ours
            what = f"the run directory can't be created: {error}. Another place: hydra.run.dir=FOLDER"
            return shown(MachineError(what))
        raise


def _check_loggers(composed: DictConfig) -> None:
    """Whether the packages are installed that the chosen loggers of ours need, before torch is imported."""
    for node in (composed.get("logger") or {}).values():
        module, _, name = str(node.get("_target_")).rpartition(".")
        if re.fullmatch(r"plainloop\.loggers\.\w+", module):
            kind = getattr(importlib.import_module(module), name, None)
            getattr(kind, "check_installed", lambda: None)()


def _check_flags(words: list[str], name: str) -> None:
    """Refuse what argparse would answer with a usage text, or Hydra with a traceback."""
    shows = [number for number, word in enumerate(words) if word.partition("=")[0] in ("-c", "--cfg")]
    for number in shows:
        value = words[number].partition("=")[2] or "".join(words[number + 1 : number + 2])
        if value not in ("job", "hydra", "all"):
            raise UserError(f"{words[number]} shows the config. Write python {name}.py --cfg job")
    if "--resolve" in words and not shows:
        raise UserError(f"--resolve fills in what --cfg shows. Write python {name}.py --cfg job --resolve")
    elsewhere = [word for word in words if word.partition("=")[0] in ("--config-dir", "-cd", "--config-path", "-cp")]
    if elsewhere and ("-m" in words or "--multirun" in words):
        raise UserError(f"{elsewhere[0]} doesn't go with -m: put the config files into configs/")
    if shows and ("-m" in words or "--multirun" in words):
        raise UserError("--cfg shows one config and -m trains several: leave one of them out.")


def _parted(words: list[str]) -> tuple[list[str], list[str]]:
    """The overrides of a command line; and Hydra's own flags, with their values."""
    overrides: list[str] = []
    flags: list[str] = []
    is_value = False
    for word in words:
        is_flag = is_value or word.partition("=")[0] in FLAGS
        (flags if is_flag else overrides).append(word)
        is_value = not is_value and word in FLAGS_WITH_VALUE
    return overrides, flags


def help_text(schema: type[Command]) -> str:
    """How a command is typed, and every group and key, read from the config folder and the schema."""
    lines = schema.usage.splitlines()
    starts_anew = "run" not in dict(typed_keys(schema))  # and not from a run
    if groups_of(schema):
        lines += ["", "Groups and their options (configs/GROUP/OPTION.yaml):"]
        for group, options in groups().items():
            # Broken between options only.
            broken = textwrap.wrap(
                f"{group}={' |'.join(options)}", 100, initial_indent="  ", subsequent_indent="      "
            )
            lines += [line[:6] + line[6:].replace(" |", "|") for line in broken]
    lines += ["", "Keys, with their defaults:" if starts_anew else "Keys; what isn't given is as in the run:"]
    of_a_run = list(may_change(schema, "evaluate"))
    for key, item in typed_keys(schema):
        if not key.startswith("spec.") and (starts_anew or is_among(key, of_a_run)):
            name = key.removesuffix(UNDER_A_GROUP)
            lines.append(f"  {f'{name}={default_of(item)}':<42} {item.metadata['help']}")
    lines.append("")
    if schema.is_composed:
        lines.append("A group's own arguments are those of its _target_, as in optimizer.weight_decay=0.01.")
    lines.append("PLAINLOOP_DEBUG=1 shows the traceback of an error.")
    return "\n".join(lines)
