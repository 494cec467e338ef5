"""What sends to a service has the points of history.jsonl, and whatever the service does, the run is the same."""

import importlib.util
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import plainloop
from plainloop.config.compose import compose
from plainloop.errors import UserError
from plainloop.loggers import service
from plainloop.loggers.mlflow import MLflow
from plainloop.loggers.trackio import Trackio
from plainloop.loggers.wandb import WandB
from tests.conftest import command, one_in, path_of
from tests.plainloop.loggers.fakes import Fake

WORDS = ["model=linear", "trainer.max_epochs=3", "trainer.log_every=10"]  # 120 steps, 12 log points, 3 epochs


def words(client: str, **options: Any) -> list[str]:
    given = [f"logger.fake.{name}={value}" for name, value in {"client": client, **options}.items()]
    return [*WORDS, "logger=none", f"logger.fake._target_={path_of(Fake)}", *given]


def said(file: Path) -> list[list[Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> plainloop.Run:
    return plainloop.train([*WORDS, "logger=none", f"hydra.run.dir={tmp_path_factory.mktemp('run')}/run"])


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in each.items() if name != "samples_per_second"} for each in records]


# --- what it is told ----------------------------------------------------------------------------------------------


def test_a_service_is_told_what_the_history_has(tmp_path: Path, monkeypatch, capfd):
    """And the config, the figures and the result; where it is to be seen is told, and the key that the library takes
    from the environment stands nowhere in the run directory."""
    monkeypatch.setenv("SERVICE_KEY", "top-secret")
    run = plainloop.train(words("Writing", file=tmp_path / "told"))
    (_, start), *calls, last = said(tmp_path / "told")
    assert [given[0] for what, *given in calls if what == "log"] == run.history()
    assert [given[:2] for what, *given in calls if what == "figure"] == [
        ["inputs", "89504e47"], ["confusion_matrix/test", "89504e47"]]  # fmt: skip
    assert [given for what, *given in calls if what == "result"] == [
        [json.loads((run.path / "metrics.json").read_text()), 120]
    ]
    assert last == ["close"]
    assert (start["name"], start["group"]) == (run.path.name, "digits_linear")
    assert start["config"]["optimizer"]["lr"] == 0.001
    assert (start["resumed"], start["records"]) == (False, 0)
    assert start["key"] == "top-secret"
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"top-secret" in path.read_bytes()]
    assert "note    logger fake: it is seen\\x1b[2J in a file" in capfd.readouterr().out


@pytest.mark.slow
def test_a_run_that_is_resumed_goes_on_as_the_same(tmp_path: Path):
    """The service is told how many records it was given before the checkpoint: what it has beyond is void."""
    run = plainloop.train([*words("Writing", file=tmp_path / "told"), "trainer.max_epochs=1"])
    first = said(tmp_path / "told")
    (tmp_path / "told").unlink()
    resumed = plainloop.train([f"resume={run.path}", "trainer.max_epochs=2"])
    second = said(tmp_path / "told")
    assert second[0][1]["id"] == first[0][1]["id"]
    assert second[0][1]["resumed"]
    assert second[0][1]["records"] == len([call for call in first if call[0] == "log"])
    logged = [given[0] for what, *given in [*first, *second] if what == "log"]
    assert logged == resumed.history()


@pytest.mark.slow
def test_a_run_that_is_extended_is_another(tmp_path: Path):
    run = plainloop.train([*words("Writing", file=tmp_path / "told"), "trainer.max_epochs=1"])
    plainloop.train([f"extend={run.path}", "trainer.max_epochs=1"])
    starts = [given[0] for what, *given in said(tmp_path / "told") if what == "start"]
    assert len({start["id"] for start in starts}) == 2
    assert not starts[1]["resumed"]


# --- of ill will --------------------------------------------------------------------------------------------------


ILL = {
    "Raising": (r"ConnectionError: no route to host", "15 records of 15"),
    "RaisingAtOnce": (r"PermissionError: log in first", "15 records of 15"),
    "RaisingAtLast": (r"TimeoutError: nobody answers", ""),
    "Dying": (r"its process has ended", "15 records of 15"),
    "Sleeping": (r"it didn't answer within 0\.5 s at the end", "15 records of 15"),
    "SleepingAtOnce": (r"it didn't answer within 0\.5 s at the end", "15 records of 15"),
    "SleepingAtLast": (r"it didn't answer within 0\.5 s at the end", ""),
    "Missing": (r"AttributeError: module .* has no attribute 'Missing'", "15 records of 15"),
    "HoldingUp": ("", ""),
    "Chatting": ("", ""),
}


@pytest.mark.parametrize("client", one_in(4, ILL))
def test_whatever_a_service_does_the_run_is_the_same(client, undisturbed, capfd, monkeypatch):
    """It neither fails nor waits, one line warns of it, what was lost is counted, and no process is left."""
    started: list[Any] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    slow = client.startswith("Sleeping")
    began = time.monotonic()
    run = plainloop.train(words(client, wait=0.5 if slow else 15))
    assert time.monotonic() - began < 12  # one that sleeps 30 s at every record isn't waited for
    assert timeless(run.history()) == timeless(undisturbed.history())
    assert {**run.metrics, "seconds": 0} == {**undisturbed.metrics, "seconds": 0}
    warning, lost = ILL[client]
    out = capfd.readouterr().out
    warnings = [line for line in out.splitlines() if line.startswith("warning")]
    assert len(warnings) == bool(warning), out
    assert not warning or re.fullmatch(f"warning: logger fake: {warning}.* \\(the run goes on\\)", warnings[0])
    notes = [line for line in out.splitlines() if line.startswith("note    logger")]
    assert notes == [f"note    logger fake: {lost} may not have arrived; history.jsonl has them all"] * bool(lost)
    assert all(process.poll() is not None for process in started)


def test_one_call_that_fails_is_told_and_the_next_ones_are_made(tmp_path: Path, capfd):
    run = plainloop.train(words("RaisingOnce", file=tmp_path / "told"))
    logged = [given[0] for what, *given in said(tmp_path / "told") if what == "log"]
    assert logged == [record for record in run.history() if record["step"] != 50]
    out = capfd.readouterr().out
    assert "warning: logger fake: ConnectionError: for once (the run goes on)" in out
    assert "1 record of 15 may not have arrived" in out


def test_what_doesnt_fit_the_queue_is_dropped_and_counted(capfd, monkeypatch):
    """One message is with the client, and those that the pipe holds."""
    monkeypatch.setattr(service, "MOST", 2)
    put = service.Service._put

    def in_time(self: Any, message: dict[str, Any]) -> None:
        put(self, {**message, "pipe": " " * 70_000} if "log" in message else message)  # a pipe of Linux's holds 64 kB

    monkeypatch.setattr(service.Service, "_put", in_time)
    plainloop.train(words("Sleeping", wait=0.5))
    out = capfd.readouterr().out
    # Which of the two is seen first is a matter of how busy the machine is.
    assert re.search(r"warning: logger fake: it (is too slow or doesn't answer|didn't answer within 0.5 s)", out)
    assert "15 records of 15 may not have arrived" in out


def test_when_the_run_is_killed_its_service_ends(tmp_path: Path):
    """Its standard input is at an end: it sends what it has, and is gone."""
    fake = Fake("Writing", str(tmp_path / "told"))
    run = plainloop.runs.directory.RunDir(tmp_path)  # type: ignore[attr-defined]
    fake.open(run, {}, 0)
    fake.log({"step": 1})
    assert fake.process is not None
    assert fake.process.stdin is not None
    deadline = time.monotonic() + 30
    while not (tmp_path / "told").exists() or len(said(tmp_path / "told")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    fake.process.stdin.close()
    assert fake.process.wait(30) == 0
    assert said(tmp_path / "told")[-1] == ["close"]


def test_a_log_point_costs_no_time():
    """Beside a service that sleeps: some tens of microseconds."""
    fake = Fake("Sleeping", wait=0)
    record = {"step": 1, **{f"train/metric_{number}": 0.1 * number for number in range(20)}}
    fake.open(plainloop.runs.directory.RunDir(Path("run")), {}, 0)  # type: ignore[attr-defined]
    began = time.perf_counter()
    for _ in range(1000):
        fake.log(record)
    assert (time.perf_counter() - began) / 1000 < 1e-3
    fake.close()


# --- what is asked before -----------------------------------------------------------------------------------------


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, spec: Any) -> None:
    """That a package is there, or isn't."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda each, *more: spec if each == name else find(each, *more))


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_missing_library_is_answered_with_what_installs_it(name, monkeypatch):
    pretend(monkeypatch, name, None)
    with pytest.raises(UserError, match=rf'logger={name}: the package {name} isn.t .* pip install -e "\.\[{name}\]"'):
        plainloop.train([*WORDS, f"logger={name}", *["logger.mlflow.uri=http://localhost:1"] * (name == "mlflow")])
    assert not Path("outputs").exists()


def test_a_folder_of_its_name_is_no_library(monkeypatch, tmp_path: Path):
    """wandb makes one for its files, and in a notebook Python looks for modules there."""
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="the package wandb isn't installed"):
        WandB()


@pytest.mark.slow
def test_and_before_torch_is_imported(tmp_path: Path):
    """As the command says it, from a Python that has no torch at all."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'wandb' else find(name, *more)\n"
    )
    done = command("train.py", "logger=wandb", folder=tmp_path, env={"PYTHONPATH": str(tmp_path)}, cold=True)
    assert (done.status, done.out) == (2, "")
    assert done.err == 'error: logger=wandb: the package wandb isn\'t installed. Type: pip install -e ".[wandb]"\n'
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("kind", "key", "address"),
    [
        (MLflow, "uri", "https://me:secret@host/ml"),
        (MLflow, "uri", "postgresql://me@host/ml"),
        (Trackio, "server", "https://host/?write_token=abc"),
    ],
)
def test_a_password_in_an_address_is_refused(kind, key, address):
    with pytest.raises(UserError, match=r"the config is written down: put it into the environment"):
        kind(**{key: address})


def test_options_that_mean_nothing_are_answered(monkeypatch):
    for name in ("wandb", "trackio", "mlflow"):
        pretend(monkeypatch, name, service.__spec__)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for given, answer in (
        (["logger=wandb", "logger.wandb.mode=quiet"], "mode=quiet: must be online or offline"),
        (["logger=mlflow"], r"which server\? Write logger.mlflow.uri="),
        (["logger=trackio", "logger.trackio.space=a/b", "logger.trackio.server=http://c"], "give one of them"),
        (["logger=wandb", "logger.wandb.wait=-1"], "wait=-1: a number of seconds"),
    ):
        with pytest.raises(UserError, match=answer):
            plainloop.train([*WORDS, *given])


# --- several, and a stranger's ------------------------------------------------------------------------------------


def test_several_loggers_are_chosen_as_a_list(tmp_path: Path):
    cfg = compose(["logger=[tensorboard,wandb]", "logger.wandb.mode=offline"])
    assert list(cfg.logger) == ["tensorboard", "wandb"]
    assert cfg.choices.logger == "[tensorboard,wandb]"
    with pytest.raises(UserError, match=r"logger=wanbd: no such option\. Did you mean wandb\?"):
        compose(["logger=[tensorboard,wanbd]"])
    with pytest.raises(UserError, match=r"model=\[mlp,cnn\]: no such option"):
        compose(["model=[mlp,cnn]"])
    given = [
        *WORDS,
        "trainer.max_epochs=1",
        "logger=[tensorboard,none]",
        f"hydra.run.dir={tmp_path}/run",
        "resume=auto",
    ]
    assert (plainloop.train(given).path / "tensorboard").is_dir()
    plainloop.train(given)  # the same words again


@pytest.mark.slow
def test_a_strangers_config_sends_nothing(tmp_path: Path, monkeypatch):
    """Where a run sends to is the user's word, in every command that goes on from it; evaluating and predicting send
    nothing at all."""
    given = [*words("Writing", file=tmp_path / "told", place="http://elsewhere"), "trainer.max_epochs=1"]
    run = plainloop.train([*given, f"hydra.run.dir={tmp_path}/run"])
    (tmp_path / "told").unlink()
    for word in ("resume", "extend"):
        with pytest.raises(UserError, match=r"logger.fake: .* would send its results to http://elsewhere.\n.*trust="):
            plainloop.train([f"{word}={run.path}", "trainer.max_epochs=2"])
    with monkeypatch.context() as patched:
        patched.setattr(service.subprocess, "Popen", None)
        plainloop.evaluate(run.path)
        plainloop.load_run(run.path).predict(run.session.data.test.inputs[:4].numpy())
    assert not (tmp_path / "told").exists()
    plainloop.train([f"resume={run.path}", "trainer.max_epochs=2", "trust=[http://elsewhere]"])
    assert said(tmp_path / "told")[-1] == ["close"]
    plainloop.train([*given, f"hydra.run.dir={tmp_path}/run", "trainer.max_epochs=3", "resume=auto"])  # typed again


def test_the_command_that_goes_on_has_the_word_in_it(tmp_path: Path, capsys):
    plainloop.train([*words("Writing", file=tmp_path / "told", place="http://elsewhere"), "trainer.max_epochs=1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if ".py" in line]
    evaluate, go_on = (next(line for line in lines if door in line) for door in ("evaluate.py", "train.py"))
    assert "http://elsewhere" in go_on
    assert "http://elsewhere" not in evaluate


@pytest.mark.parametrize("state", [{"id": "../../x", "records": 1}, {"id": "a" * 12, "records": "1"}, {"id": 3}])
def test_what_a_checkpoint_says_of_a_service_is_looked_at(state):
    with pytest.raises((ValueError, KeyError)):
        Fake("Writing").load_state_dict(state)
