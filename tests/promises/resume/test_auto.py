"""resume=auto: the same command line every time, as a cluster types it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import plainloop
from plainloop.errors import MachineError, UserError
from plainloop.runs.checkpoint import Checkpoints
from tests.conftest import ROOT, command
from tests.promises.resume.runs import RUNS, SMOOTH, STREAM, TWO, Images, InMemoryNoise, Killed, Net, killed, own
from tests.resuming import curves, differences, newest, records, resumed, watched


def auto(folder: Path, *words: str) -> list[str]:
    """What a cluster types, every time."""
    return [*SMOOTH, *words, f"hydra.run.dir={folder}/run", "resume=auto"]


def test_auto_starts_continues_and_says_when_it_is_finished(uninterrupted, tmp_path, capsys):
    words = auto(tmp_path, "checkpoint.every_steps=1")
    killed(words, 9)
    assert newest(tmp_path / "run")["position"]["step"] == 8
    run = plainloop.train(words)
    assert run.path == tmp_path / "run"
    assert differences(uninterrupted("smooth").path, run.path) == []
    capsys.readouterr()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert plainloop.train(words).metrics == run.metrics
    assert "this run is finished (3 epochs done)" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_auto_starts_again_what_died_before_its_first_checkpoint(uninterrupted, tmp_path):
    """What had been written until then is void, in the history and in TensorBoard."""
    words = auto(tmp_path, "logger=tensorboard", "trainer.log_every=1")
    killed(words, 4)
    assert len(records(tmp_path / "run")) == 3
    assert not (tmp_path / "run/checkpoints").exists()
    run = plainloop.train(words)
    steps = [record["step"] for record in records(run.path) if "train/loss" in record]
    assert steps == list(range(1, 16))
    assert [found for found in differences(uninterrupted("smooth").path, run.path) if found.startswith("best")] == []
    assert [step for step, _ in curves(run.path)["train/grad_norm"]] == steps


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=0.5"], r"optimizer\.lr=0\.5: this can't change .*\(the run has optimizer\.lr=0\.003\)"),
        (["scheduler=cosine"], r"scheduler=cosine: this can't change .*\(the run has scheduler=one_cycle\)"),
        (["loader.batch_size=9"], r"loader\.batch_size=9: .*\(the run has loader\.batch_size=8\).*"),
        (["trainer.max_epochs=4"], r"trainer\.max_epochs=4: the schedule .* trainer\.max_epochs=3"),
    ],
    ids=str,
)
def test_auto_refuses_another_command_line(words, message, uninterrupted, tmp_path):
    path = uninterrupted("smooth").interrupted(7, tmp_path)
    key = words[0].partition("=")[0]
    others = [word for word in SMOOTH if not word.startswith(f"{key}=")]
    with pytest.raises(UserError, match=message) as refused:
        plainloop.train([*others, *words, f"hydra.run.dir={path}", "resume=auto"])
    assert ("resume_inexact=true" in str(refused.value)) == (key == "loader.batch_size")  # where it would help


@pytest.mark.slow
def test_auto_takes_words_whose_values_were_decided(tmp_path, capsys):
    """`auto` stands in the command line, and what it came to in the run's config; BatchNorm drops a lone sample."""
    words = [
        *own(data=Images, model=Net),
        "loader.batch_size=67",
        "loader.drop_last=false",
        "monitor_mode=auto",
        "trainer.max_epochs=1",
        "logger=none",
        f"hydra.run.dir={tmp_path}/run",
        "resume=auto",
    ]
    cfg = plainloop.train(words).session.config
    assert (cfg.loader.drop_last, cfg.monitor_mode) == (True, "max")
    capsys.readouterr()
    plainloop.train(words)
    assert "this run is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match="monitor_mode=min: this can't change"):
        plainloop.train([word.replace("monitor_mode=auto", "monitor_mode=min") for word in words])


@pytest.mark.slow
def test_paths_that_were_referred_to_may_change(tmp_path):
    """data.path=${paths.data}/x.csv goes with paths.data to another machine."""
    shutil.copytree(ROOT / "data", tmp_path / "moved")
    words = [
        "data=penguins",
        "model=mlp",
        "data.path=${paths.data}/penguins.csv",
        f"paths.data={ROOT}/data",
        "trainer.max_epochs=1",
        "logger=none",
        f"hydra.run.dir={tmp_path}/run",
    ]
    run = plainloop.train(words)
    resumed(run.path, f"paths.data={tmp_path}/moved", "trainer.max_epochs=2")
    assert newest(run.path)["position"]["epoch"] == 2


@pytest.mark.slow
def test_options_of_workers_where_none_were_needed(tmp_path):
    """Of how many nobody said anything, the data in memory needs none, and the options stay in the run's config."""
    words = [*own(data=InMemoryNoise), *STREAM, "trainer.max_epochs=1", "loader.multiprocessing_context=fork"]
    run = plainloop.train([*words, f"hydra.run.dir={tmp_path}/run"])
    assert plainloop.evaluate(run.path)["test/loss"] == run.metrics["test/loss"]
    resumed(run.path, "trainer.max_epochs=2")


def test_auto_needs_a_directory():
    with pytest.raises(UserError, match=r"resume=auto .*hydra\.run\.dir="):
        plainloop.train([*SMOOTH, "resume=auto"])


def test_auto_does_not_train_over_a_finished_run(uninterrupted, tmp_path):
    """Its checkpoints were deleted to save space: its numbers are still there, and stay."""
    path = Path(shutil.copytree(uninterrupted("smooth").path, tmp_path / "run"))
    shutil.rmtree(path / "checkpoints")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match="a finished run without its checkpoints"):
        plainloop.train(auto(tmp_path))
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def damage(file: Path) -> None:
    """One bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(uninterrupted, tmp_path, capsys):
    """The run goes on from the one before, to the same end; where none is whole it never starts anew."""
    path = uninterrupted("smooth").interrupted(7, tmp_path)
    last, before = Checkpoints(path / "checkpoints").all()
    damage(last)
    spoiled = Path(shutil.copytree(path, tmp_path / "run"))
    assert differences(uninterrupted("smooth").path, resumed(path)) == []
    out = capsys.readouterr().out
    assert "step-7.pt is damaged" in out
    assert "Falling back to the one before" in out

    damage(spoiled / "checkpoints" / before.name)
    files = {file: file.read_bytes() for file in spoiled.rglob("*") if file.is_file()}
    for words in (auto(tmp_path), [f"resume={spoiled}"]):
        with pytest.raises(MachineError, match="all 2 are damaged"):
            plainloop.train(words)
    assert {file: file.read_bytes() for file in spoiled.rglob("*") if file.is_file()} == files


@pytest.mark.parametrize("given", ["nowhere", "nowhere/else", "empty"])
def test_a_path_without_a_run_never_starts_one(given, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"resume={given}: (there is no such directory|not a run directory)"):
        plainloop.train([*SMOOTH, f"resume={given}"])
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.slow
def test_another_directory_cannot_be_given_when_a_run_is_continued(uninterrupted, tmp_path):
    """It would be passed over in silence: the run stays where it is. A new one may lie anywhere."""
    path = uninterrupted("smooth").interrupted(7, tmp_path)
    with pytest.raises(UserError, match=r"hydra\.run\.dir"):
        resumed(path, f"hydra.run.dir={tmp_path}/elsewhere")
    longer = plainloop.train([f"extend={path}", "trainer.max_epochs=4", f"hydra.run.dir={tmp_path}/longer"])
    assert longer.path == tmp_path / "longer"
    assert longer.metrics["epochs"] == 4


@pytest.mark.slow
def test_the_numbers_are_those_of_the_longer_run(tmp_path, monkeypatch):
    """Two epochs, resumed for three, and killed after the last checkpoint: metrics.json isn't that of the two."""
    words = [*SMOOTH, "scheduler=none", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/run"]
    run = plainloop.train(words)
    assert run.metrics["epochs"] == 2

    def dies(*given: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr("plainloop.assembly.session.Session.measure", dies)
        with pytest.raises(Killed):
            resumed(run.path, "trainer.max_epochs=3")
    assert newest(run.path)["position"]["step"] == 15
    path = resumed(run.path)
    assert json.loads((path / "metrics.json").read_text())["epochs"] == 3


@pytest.mark.slow
def test_options_of_workers_do_not_keep_a_run_from_loading_alone(tmp_path):
    """They were the run's own, and mean nothing now."""
    run = watched([*RUNS["short"], *TWO, "loader.prefetch_factor=3"], tmp_path)
    assert differences(run.path, resumed(run.copies[3], "loader.num_workers=0")) == []


@pytest.mark.slow
def test_the_command_killed_and_typed_again_ends_with_the_same_bits(tmp_path):
    """The real command, `kill -9`, and the same words again."""
    import os
    import subprocess
    import sys

    words = [
        "model=cnn",
        "model.dropout=0.2",
        "trainer.max_epochs=4",
        "trainer.ema_decay=0.9",
        "logger=none",
        "scheduler=one_cycle",
        "checkpoint.every_steps=7",
    ]
    whole = plainloop.train([*words, f"hydra.run.dir={tmp_path}/whole"])
    again = [*words, "hydra.run.dir=outputs/again", "resume=auto"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *again],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            process.kill()
            break
    process.communicate()
    assert process.returncode == -9
    done = command("train.py", *again, folder=tmp_path)
    assert done.status == 0, done.err
    assert "resume  outputs/again" in done.out
    assert differences(whole.path, tmp_path / "outputs/again") == []
