"""What the doors (train.py, evaluate.py) share: `@hydra.main`, with help and errors of our own.

Torch-free, so that `--help`, `--cfg job` and a mistyped override are answered at once.
"""

import os
import signal
import sys
import textwrap
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from plainloop.commands import sweep
from plainloop.commands.startup import guard_argparse
from plainloop.config import complaints, compose
from plainloop.config.options import CONFIGS, groups
from plainloop.config.schema import EVALUABLE, SCHEMAS, default_of, typed_keys
from plainloop.errors import Interrupted, MachineError, UserError, shown
from plainloop.runs.finding import find, to_continue

# Hydra's own flags that are of use here; what else begins with a dash is a mistake.
FLAGS = ("-m", "--multirun", "-c", "--cfg", "--resolve", "-p", "--package", "--info", "-i", "--shell-completion",
         "-sc", "--hydra-help", "--version", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn",
         "--run", "-r")  # fmt: skip
FLAGS_WITH_VALUE = ("-c", "--cfg", "-p", "--package", "--config-dir", "-cd", "--config-path", "-cp",
                    "--config-name", "-cn")  # fmt: skip
# cfg, what was typed, the run directory where one is given, and whether this is a trial of a sweep
Command = Callable[[DictConfig, list[str], str | None, bool], object]


def door(name: str) -> Callable[[Command], Callable[[], None]]:
    """Turn a function into a command: `python NAME.py [key=value ...]`."""

    def decorate(function: Command) -> Callable[[], None]:
        def command() -> None:
            sys.exit(_run(name, function, sys.argv[1:]))

        return command

    return decorate


def end_children() -> None:
    """After a failure a loading process may hang for good. To be called while the error, and so the loader, is still
    held: torch would wait 5 s for each process when it cleans up, and Python for as long as it takes."""
    children = sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else []
    if children and hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would complain of each
    for child in children:
        child.kill()


def _run(name: str, function: Command, words: list[str]) -> int:
    """Run a door's function under Hydra; the exit status."""
    schema = SCHEMAS[name]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors instead of printing them: explain() does that
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else torch's profiler tells of GPUs that aren't there
    guard_argparse()
    failures: list[Exception] = []

    def task(cfg: DictConfig) -> None:
        hydra_cfg = HydraConfig.get()
        typed = compose.words_of(hydra_cfg)
        given = hydra_cfg.runtime.output_dir if hydra_cfg.run.dir != "." else None
        try:
            composed = compose.from_hydra(cfg, name)
            if composed.get("resume"):
                to_continue(composed.resume, composed.paths.outputs, given)
            for key in ("extend", "run"):
                if composed.get(key):
                    find(composed[key], composed.paths.outputs, key)
            function(composed, typed, given, False)
        except Exception as error:  # raised below: Hydra would print a line of its own about it
            failures.append(error)

    main = hydra.main(config_path=str(CONFIGS), config_name=name, version_base="1.3")(task)
    try:
        if "--help" in words or "-h" in words:
            print(help_text(name), flush=True)
            return 0
        _check_flags(words, name)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("torchrun: training on several processes isn't built yet; start one: python train.py ...")
        overrides = _overrides_only(words)
        complaints.check_overrides(overrides, schema)
        if "-m" in words or "--multirun" in words:
            sweep.run(overrides, function)
            return 0
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
        given = any(word.startswith("hydra.run.dir=") for word in words)
        if isinstance(error, OSError) and given and not failures:  # Hydra makes it before it calls anything of ours
            what = f"the run directory can't be created: {error}. Another place: hydra.run.dir=FOLDER"
            return shown(MachineError(what))
        end_children()
        explained = complaints.explain(error, schema)
        if isinstance(explained, UserError):
            explained.__cause__ = error
            return shown(explained)
        raise


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


def _overrides_only(words: list[str]) -> list[str]:
    """The command line without Hydra's own flags and their values."""
    kept, skip = [], False
    for word in words:
        flag = word.partition("=")[0]
        if skip:
            skip = False
        elif flag in FLAGS:
            skip = word in FLAGS_WITH_VALUE
        else:
            kept.append(word)
    return kept


def help_text(name: str) -> str:
    """Every command form, group and key, read from the config folder and the schema."""
    lines = [
        f"python {name}.py [key=value ...]",
        "",
        *(
            textwrap.dedent("""\
            python train.py model=cnn optimizer.lr=3e-4      choose options of groups, set keys
            python train.py experiment=NAME                  a complete recipe
            python train.py resume=RUN                       continue a run (RUN: a run directory, or latest)
            python train.py hydra.run.dir=DIR resume=auto    start there, or continue: a cluster's one command line
            python train.py extend=RUN trainer.max_epochs=20 train longer, as a new run
            python train.py -m model=mlp,cnn seed=0,1        a sweep: every combination, then a ranked table
            python train.py debug=fast                       a few batches of everything (and overfit, schedule, ...)
            python train.py --cfg job [--resolve]            show the config and do nothing
            """).splitlines()
            if name == "train"
            else textwrap.dedent("""\
            python evaluate.py run=RUN [split=test] [checkpoint=best|last|PATH]
            measures a run, rebuilt from its directory alone (RUN: a run directory, or latest)
            """).splitlines()
        ),
    ]
    if name == "train":
        lines += ["", "Groups and their options (configs/GROUP/OPTION.yaml):"]
        for group, options in groups().items():
            # Broken between options only.
            broken = textwrap.wrap(
                f"{group}={' |'.join(options)}", 100, initial_indent="  ", subsequent_indent="      "
            )
            lines += [
                line.replace(" |", "|") if number == 0 else "      " + line[6:].replace(" |", "|")
                for number, line in enumerate(broken)
            ]
    own = name == "train"
    lines += ["", "Keys, with their defaults:" if own else "Keys; what isn't given is as in the run:"]
    for key, item in typed_keys(SCHEMAS[name]):
        allowed = own or key in EVALUABLE or f"{key.partition('.')[0]}.*" in EVALUABLE
        if allowed and not key.startswith("spec."):
            lines.append(f"  {f'{key}={default_of(item)}':<42} {item.metadata['help']}")
    lines += [
        "",
        "A group's own arguments are those of its _target_, as in optimizer.weight_decay=0.01.",
        "PLAINLOOP_DEBUG=1 shows the traceback of an error.",
    ]
    return "\n".join(lines)
