"""The doors: help, the config shown, flags, exit statuses, tracebacks on request, and Hydra under Python 3.14."""

import argparse
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import yaml
from hydra._internal.utils import get_args_parser

from plainloop.commands import cli, startup, train
from plainloop.config import compose, keys, options, schema, sections
from plainloop.errors import Interrupted, MachineError, UserError, shown, tell
from tests.conftest import ROOT, command, copy_configs

COMMANDS = {command.door: command for command in (schema.Config, schema.EvaluateConfig, schema.ExportConfig)}
IMPORTED_TORCH = re.compile(r"^import time:.*\| +torch$", re.MULTILINE)


@pytest.fixture
def door_here(monkeypatch, capsys) -> Iterator[Callable]:
    """`status, out, err = door_here("train", function, "model=cnn")`: a door in this process."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("PLAINLOOP_DEBUG", "0")
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", argparse._ActionsContainer.add_argument)

    def typed(name: str, function: Callable, *words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / f"{name}.py"), *words])
        with pytest.raises(SystemExit) as ended:
            cli.door(COMMANDS[name])(function)()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    numbers = (signal.SIGCHLD, signal.SIGUSR1)
    handlers = [signal.getsignal(number) for number in numbers]
    yield typed
    for number, handler in zip(numbers, handlers, strict=True):  # a door that fails lets its children go in silence
        signal.signal(number, handler)


def not_called(*arguments):
    pytest.fail("the command's function was called")


def raising(error: BaseException) -> Callable:
    """The function of a command that ends with an error."""

    def function(*arguments):
        raise error

    return function


# --- a door of one's own ------------------------------------------------------------------------------------------


@dataclass
class Describe(schema.Command):
    """What a further command takes."""

    door: ClassVar[str] = "describe"
    usage: ClassVar[str] = "python describe.py run=RUN [words=N]\n"

    run: str = keys.key("latest", "a run directory, or latest", changes="evaluate")
    words: int = keys.key(10, "how many words it takes", min=1, changes="evaluate")
    paths: sections.Paths = field(default_factory=sections.Paths)
    trainer: sections.TrainerSection = field(default_factory=sections.TrainerSection)


def test_a_further_command_is_a_schema_a_yaml_and_a_function(door_here, tmp_path, monkeypatch):
    """No file knows the doors: one that is added has help, checks and answers of its own."""
    defaults = (options.CONFIGS / "evaluate.yaml").read_text()
    (copy_configs(tmp_path, monkeypatch) / "describe.yaml").write_text(defaults.replace("evaluate", "describe"))
    monkeypatch.setitem(COMMANDS, "describe", Describe)
    monkeypatch.setattr(cli, "find", lambda *arguments: None)
    called = []
    status, _, err = door_here("describe", lambda cfg, typed, *others: called.append((cfg.words, typed)), "words=3")
    assert (status, err) == (0, "")
    assert called == [(3, ["words=3"])]
    shown = door_here("describe", not_called, "--help")[1]
    assert shown.startswith("python describe.py run=RUN")
    assert "words=10" in shown
    assert "trainer.device=auto" in shown
    assert "trainer.max_epochs" not in shown
    for word, answer in {
        "words=0": "words=0: must be a whole number of at least 1.",
        "wrods=3": "wrods: there is no such key. Did you mean words? (python describe.py --help lists them all)",
        "outputs/a/run": "settings are typed as key=value. Write run=outputs/a/run",
        "optimizer.lr=1": "optimizer.lr: it comes from the run, and can't change here. python describe.py --help lists",
    }.items():
        status, _, err = door_here("describe", not_called, word)
        assert status == 2
        assert answer in err


# --- help and the config ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_every_key_with_its_help(name, flag, door_here):
    """`--help` names every key that may be set there, with its default and its one line, and nothing of Hydra's."""
    status, out, err = door_here(name, not_called, flag)
    assert status == 0
    assert err == ""
    assert out.startswith(f"python {name}.py ")
    for key, item in keys.typed_keys(COMMANDS[name]):
        if key.startswith("spec."):
            assert key not in out, "nobody sets the facts about the data"
        elif name != "train" and key in ("trainer.max_epochs", "trainer.profile", "trainer._target_"):
            assert key not in out, "they come from the run"
        elif name != "train" and key.startswith("trainer."):
            continue
        else:
            typed = key.removesuffix(keys.UNDER_A_GROUP)
            line = next(line for line in out.splitlines() if line.strip().startswith(f"{typed}="))
            assert line.endswith(item.metadata["help"])
    assert "hydra" not in out.lower().replace("hydra.run.dir", "")
    assert "MISSING" not in out


def test_help_lists_every_group_and_option(door_here):
    """`train.py --help` names every file in configs/, as it would be typed."""
    out = door_here("train", not_called, "--help")[1]
    words = out.replace("|", " ").replace("=", "= ").split()
    for group, names in options.groups().items():
        assert f"{group}=" in words
        assert set(names) <= set(words)


@pytest.mark.parametrize(
    ("key", "default"),
    [
        ("trainer.max_epochs", "30"),
        ("trainer.max_steps", "null"),
        ("test", "true"),
        ("trainer.compile", "false"),
        ("split.fractions", "[0.8,0.1,0.1]"),
        ("trust", "[]"),
        ("trainer.device", "auto"),
    ],
)
def test_help_shows_defaults_as_they_would_be_typed(key, default):
    """A line of the help can be copied to the command line."""
    typed = next(
        line.split()[0] for line in cli.help_text(schema.Config).splitlines() if line.strip().startswith(f"{key}=")
    )
    assert typed == f"{key}={default}"
    compose.compose([typed])


def test_cfg_job_shows_the_config_and_does_nothing(door_here, tmp_path):
    """`--cfg job` prints the composed config, references unresolved, and starts nothing."""
    status, out, err = door_here("train", not_called, "--cfg", "job", "model=cnn", "trainer.max_epochs=7")
    shown = yaml.safe_load(out)
    assert status == 0
    assert err == ""
    assert shown["model"]["_target_"] == "plainloop.models.CNN"
    assert shown["model"]["in_channels"] == "${spec.in_channels}"
    assert shown["trainer"]["max_epochs"] == 7
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_resolve_shows_the_values_without_torch(type_command, tmp_path):
    """`--cfg job --resolve` fills in what can be known, without importing torch or writing anything."""
    done = type_command(
        "train.py", "--cfg", "job", "--resolve", "paths.data=elsewhere", env={"PYTHONPROFILEIMPORTTIME": "1"}, cold=True
    )
    shown = yaml.safe_load(done.out)
    assert done.status == 0
    assert shown["data"]["path"] == "elsewhere/digits.npz"
    assert shown["optimizer"]["lr"] == 0.001
    assert "import time:" in done.err
    assert not IMPORTED_TORCH.search(done.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_a_broken_pipe_is_no_error(words, tmp_path):
    """`python train.py --help | head` ends quietly, and has imported no torch."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *words],
            check=False,
            cwd=tmp_path,
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        )
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert said == []
    assert done.returncode in (0, 128 + signal.SIGPIPE)
    assert "import time:" in done.stderr
    assert not IMPORTED_TORCH.search(done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_flags_may_stand_between_overrides(tmp_path):
    done = command("train.py", "model=cnn", "--cfg", "job", "trainer.max_epochs=7", folder=tmp_path)
    assert done.status == 0, done.err
    assert "max_epochs: 7" in done.out
    assert "_target_: plainloop.models.CNN" in done.out


@pytest.mark.slow
def test_a_working_directory_that_is_gone_is_answered(tmp_path):
    (tmp_path / "gone").mkdir()
    typed = f"cd {tmp_path}/gone && rmdir ../gone && {sys.executable} {ROOT}/train.py model=mlp"
    done = subprocess.run(["sh", "-c", typed], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the working directory is gone, deleted or replaced: cd to another one first.\n"


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
def test_a_script_of_ones_own_that_every_loading_process_would_begin_anew(guarded, tmp_path):
    """As the README's Python is copied: without the main guard it is answered, and nothing has begun."""
    lines = [
        "import plainloop",
        "",
        "",
        "def work():",
        "    words = ['model=mlp', 'trainer.max_steps=2', 'logger=none']",
    ]
    lines += ["    print(plainloop.train([*words, 'loader.num_workers=2']).metrics['steps'])", "", ""]
    lines += ['if __name__ == "__main__":', "    work()"] if guarded else ["work()"]
    (tmp_path / "mine.py").write_text("\n".join(lines) + "\n")
    done = subprocess.run([sys.executable, "mine.py"], check=False, cwd=tmp_path, capture_output=True, text=True)
    if guarded:
        assert done.returncode == 0, done.stderr
        assert "2" in done.stdout.splitlines()
        assert len(list((tmp_path / "outputs/digits_mlp").iterdir())) == 1
        return
    assert done.returncode != 0
    assert "mine.py, line 9: a loading process imports this script, and would start all of this again" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_a_terminal_obeys_nothing_in_an_error(capsys):
    """Colours, a moved cursor, a window's title: what is in a file is shown, and not done."""
    assert shown(UserError("class \x1b[2J\x9b31m\x07 größe\ttwo\nlines")) == 2
    assert capsys.readouterr().err == "error: class \\x1b[2J\\x9b31m\\x07 größe\\ttwo\nlines\n"


# --- what a command's function gets, and how it may end -----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "typed", "directory"),
    [
        ([], [], None),
        (["model=cnn", "seed=3"], ["model=cnn", "seed=3"], None),
        (["model=cnn", "hydra.run.dir=here"], ["model=cnn"], "here"),
    ],
)
def test_function_gets_config_words_and_directory(words, typed, directory, door_here):
    """The composed config, what was typed (Hydra's own keys left out), the directory, and that it's no sweep."""
    calls = []
    status, _, err = door_here("train", lambda *arguments: calls.append(arguments), *words)
    assert (status, err, len(calls)) == (0, "", 1)
    cfg, got_typed, got_directory, is_trial = calls[0]
    assert got_typed == typed
    assert got_directory is None if directory is None else got_directory.endswith(directory)
    assert is_trial is False
    assert cfg == compose.compose(typed)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("model=mpl: no such option."), 2, "error: model=mpl: no such option.\n"),
        (MachineError("the disk is full"), 1, "error: the disk is full\n"),
        (Interrupted("saved at step 3.", signal.SIGINT), 130, "stopped: saved at step 3.\n"),
        (Interrupted("saved at step 3.", signal.SIGTERM), 143, "stopped: saved at step 3.\n"),
        (KeyboardInterrupt(), 130, "stopped: "),
    ],
)
def test_exit_statuses(error, status, said, door_here):
    """2 for the user's mistakes, 1 for the machine's failures, 130 and 143 for signals; never a traceback."""
    got, _, err = door_here("train", raising(error))
    assert got == status
    assert err.startswith(said)
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("words", ["model=mpl", "data=minst", "optimizer=adma", "experiment=mnist"])
def test_a_misspelt_option_is_answered_beside_a_run_directory_too(words, door_here, tmp_path):
    """What Hydra says of it is an OSError, as is what a disk says."""
    status, _, err = door_here("train", not_called, words, "hydra.run.dir=runs/a")
    assert status == 2
    assert "Did you mean" in err
    assert len(err.splitlines()) <= 2
    assert not (tmp_path / "runs").exists()


def test_a_sweep_in_which_a_trial_has_failed_ends_with_1(door_here):
    words = ["-m", "model.dropout=0.1,2", "trainer.max_steps=2", "logger=none", "test=false"]
    status, out, _ = door_here("train", train.train_config, *words)
    assert status == 1
    assert "failed" in out


def test_a_bug_keeps_its_traceback(monkeypatch):
    """What is neither a mistake nor a failure of the machine is raised as it is."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py")])
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", argparse._ActionsContainer.add_argument)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(ZeroDivisionError):
        cli.door(schema.Config)(raising(ZeroDivisionError("a bug")))()


@pytest.mark.parametrize(("value", "traced"), [("1", True), ("yes", True), ("0", False), ("", False), (None, False)])
@pytest.mark.parametrize("words", [["model=mpl"], ["trainer.max_epochs=-3"], ["--epochs", "3"]], ids=" ".join)
def test_debug_shows_the_traceback(words, value, traced, door_here, monkeypatch):
    """PLAINLOOP_DEBUG=1 shows where an error comes from, above the error itself."""
    if value is None:
        monkeypatch.delenv("PLAINLOOP_DEBUG")
    else:
        monkeypatch.setenv("PLAINLOOP_DEBUG", value)
    status, _, err = door_here("train", not_called, *words)
    assert status == 2
    assert ("Traceback (most recent call last)" in err) == traced
    assert ("UserError" in err) == traced
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["--cfg"], ["--cfg job"]),
        (["--cfg", "jobs"], ["--cfg", "job"]),
        (["--resolve"], ["--cfg job --resolve"]),
        (["--config-name=mine"], ["configs/mine.yaml"]),
        (["--config-dir=nowhere"], ["nowhere"]),
        (["-m", "--cfg", "job", "seed=0,1"], ["--cfg", "-m"]),
        (["--frobnicate"], ["--frobnicate", "key=value"]),
        (["-e", "5"], ["-e", "key=value"]),
    ],
    ids=" ".join,
)
def test_wrong_flags_are_answered(words, pieces, door_here, tmp_path):
    """Flags of Hydra's that are used wrongly get one or two lines too, not a usage text, and start nothing."""
    status, _, err = door_here("train", not_called, *words)
    assert status == 2
    assert 1 <= len(err.splitlines()) <= 2, err
    assert err.startswith("error: ")
    for piece in pieces:
        assert piece in err
    assert not (tmp_path / "outputs").exists()


# --- Python 3.14 --------------------------------------------------------------------------------------------------


def test_guard_makes_hydras_parser_work_under_python_3_14(monkeypatch):
    """Python 3.14's argparse asks whether '%' is in a help string, and Hydra gives it an object that has no `in`."""
    original = argparse._ActionsContainer.add_argument

    def as_in_3_14(self, *names, **options):
        if options.get("help") and "%" in options["help"]:
            options["help"] % {"prog": self.prog}
        return original(self, *names, **options)

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", as_in_3_14)
    with pytest.raises(TypeError, match="LazyCompletionHelp"):
        get_args_parser()

    startup.guard_argparse()
    parser = get_args_parser()
    assert all(action.help is None or isinstance(action.help, str) for action in parser._actions)
    words = ["--cfg", "job", "-m", "model=mlp"]
    assert (
        vars(parser.parse_args(words)).items() >= {"cfg": "job", "multirun": True, "overrides": ["model=mlp"]}.items()
    )


def test_guard_is_put_on_once(monkeypatch):
    """A second door in the same process doesn't wrap what is wrapped; other parsers are as they were."""
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", argparse._ActionsContainer.add_argument)
    startup.guard_argparse()
    guarded = argparse.ArgumentParser.add_argument
    startup.guard_argparse()
    assert argparse.ArgumentParser.add_argument is guarded
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, default=0.5, help="the %(default)s rate")
    assert parser.parse_args(["--rate", "2"]).rate == 2.0
    assert "the 0.5 rate" in parser.format_help()


def test_a_line_for_a_terminal_that_is_gone_is_no_failure():
    """A closed window, `| head`: neither now, nor when what is held back is written at the end."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    tell("epoch 1", stream)
    tell("epoch 2", stream)
    stream.close()


def test_a_line_for_a_terminal_of_few_letters_is_no_failure():
    """A class or a folder may be called anything."""
    data = io.BytesIO()
    stream = io.TextIOWrapper(data, encoding="latin-1")
    tell("größe 猫", stream)
    assert data.getvalue() == b"gr\xf6\xdfe \\u732b\n"
