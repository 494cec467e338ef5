"""`python train.py model=mlp`: what it prints and writes, and that the numbers agree; with every group swapped."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml

import plainloop
from plainloop.tasks.classification import Multiclass
from tests.conftest import ROOT, Done, path_of
from tests.plainloop.commands.runs import trained


def test_the_default_run_reaches_96_percent(digits_command: Done):
    assert digits_command.status == 0, digits_command.err
    assert digits_command.metrics()["test/accuracy"] >= 0.96


def test_the_run_says_what_it_found_and_what_to_type_next(digits_command: Done):
    out = digits_command.out
    assert "digits: 1,258 train, 180 val, 359 test; inputs 1 x 8 x 8 uint8; 10 classes (0, 1, 2" in out
    assert "17,226 parameters" in out  # 64*128+128 + 128*64+64 + 64*10+10
    run = digits_command.run.relative_to(digits_command.folder)
    assert f"python {ROOT}/evaluate.py run={run}" in out  # beside the train.py that was typed
    assert f"python {ROOT}/train.py resume={run} trainer.max_epochs=60" in out
    assert "tensorboard --logdir outputs" in out
    assert re.search(r"\n +loss +accuracy +macro_f1\n +val .*\n +test ", out)


def test_on_a_pipe_there_is_one_clean_line_per_epoch(digits_command: Done):
    lines = [line for line in digits_command.out.splitlines() if line.startswith("epoch ")]
    form = r"epoch \d+/30  loss \d\.\d{4}  val/loss \d\.\d{4}  val/accuracy \d\.\d{4}  [\d,]+ samples/s"
    assert len(lines) == 30
    assert all(re.fullmatch(form, line) for line in lines)
    assert "\r" not in digits_command.out + digits_command.err
    assert digits_command.err == ""


def test_a_run_directory_holds_what_the_contract_says(digits_command: Done):
    run = digits_command.run
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-f]{4}", run.name)
    assert run.parent == digits_command.folder / "outputs" / "digits_mlp"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["in_features"] == 64
    assert config["spec"]["num_train"] == 1258
    assert config["choices"]["data"] == "digits"
    assert "${" not in (run / "config.yaml").read_text()
    assert yaml.safe_load((run / "overrides.yaml").read_text()) == ["model=mlp"]
    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["seed"] == 0
    assert environment["command"].endswith("train.py model=mlp")
    splits = json.loads((run / "splits.json").read_text())
    indices = sorted(i for split in splits.values() for i in split["indices"])
    assert indices == list(range(1797))
    assert {path.name for path in run.iterdir()} == {
        "report.html",
        "config.yaml",
        "composed.yaml",
        "overrides.yaml",
        "environment.json",
        "train.log",
        "history.jsonl",
        "metrics.json",
        "splits.json",
        "layers.txt",
        "checkpoints",
        "tensorboard",
        "figures",
    }
    checkpoints = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert checkpoints == ["best.pt", "step-1160.pt", "step-1200.pt"]  # 40 steps in each of 30 epochs
    assert (run / "train.log").read_text().splitlines() == digits_command.out.splitlines()


def test_the_history_has_every_log_point_and_every_epoch(digits_command: Done):
    records = [json.loads(line) for line in (digits_command.run / "history.jsonl").read_text().splitlines()]
    points = [record for record in records if "train/loss" in record]
    epochs = [record for record in records if "train/epoch_loss" in record]
    assert [record["step"] for record in points] == list(range(50, 1201, 50))
    assert [record["step"] for record in epochs] == list(range(40, 1201, 40))
    assert [record["epoch"] for record in epochs] == list(range(1, 31))
    assert set(points[0]) == {
        "step",
        "epoch",
        "train/loss",
        "train/accuracy",
        "train/macro_f1",
        "lr",
        "grad_norm",
        "samples_per_second",
    }
    assert {"val/loss", "val/accuracy", "val/macro_f1"} <= set(epochs[0])


def test_the_best_epoch_is_chosen_by_validation_alone(digits_command: Done):
    records = [json.loads(line) for line in (digits_command.run / "history.jsonl").read_text().splitlines()]
    validations = [
        (record["val/accuracy"], -record["val/loss"], record["epoch"]) for record in records if "val/loss" in record
    ]
    metrics = digits_command.metrics()
    assert metrics["best/epoch"] == max(validations)[2]
    assert metrics["val/accuracy"] == max(validations)[0]
    assert not any(name.startswith("test/") for record in records for name in record)


@pytest.mark.slow
def test_a_pipe_that_is_closed_does_not_end_the_training(tmp_path: Path):
    """`python train.py | head -1`: nobody reads any more, and the run goes on to its end."""
    import os
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "trainer.max_epochs=3", "logger=none"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    (log,) = (tmp_path / "outputs").glob("*/*/train.log")
    assert "done    3 epochs done" in log.read_text()


@pytest.mark.slow
def test_a_terminal_gets_a_bar_per_epoch(tmp_path: Path):
    """A pseudo-terminal stands in for the screen."""
    import fcntl
    import os
    import pty
    import struct
    import subprocess
    import sys
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # rows, columns
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "model=mlp", "trainer.max_epochs=2", "logger=none"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side has closed
            break
        if not piece:
            break
        shown += piece
    assert process.wait() == 0
    text = shown.decode()
    for epoch in (1, 2):
        assert re.search(
            rf"epoch {epoch}/2 100%\|█+\| [\d.,]+k? samples/s, loss \d.\d+  val/loss \d.\d+  val/accuracy", text
        )
    assert "epoch 2/2  loss" in next((tmp_path / "outputs").glob("*/*/train.log")).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["model=linear"],
        ["model=cnn"],
        ["model=mine"],
        ["model=mlp", "model.norm=batch", "model.activation=gelu"],
        ["optimizer=sgd"],
        ["optimizer=adamw"],
        ["scheduler=step"],
        ["scheduler=cosine"],
        ["scheduler=one_cycle"],
        ["scheduler=plateau"],
        ["scheduler=cosine", "schedule.warmup_steps=5"],
        ["scheduler=none"],
        ["metrics=none", "monitor=val/loss"],
        ["data=breast_cancer"],
        ["data=penguins"],
        ["data=penguins", "loss=l1"],
        ["data=mine"],
        ["task=mine"],
        ["trainer.precision=bf16"],
        ["trainer.accumulate_steps=2"],
        ["trainer.max_grad_norm=1"],
        ["early_stopping.patience=1"],
        ["transforms.normalize=none"],
        ["loader.drop_last=true"],
        ["transforms.normalize={mean: 0.1, std: 0.2}"],
        ["trainer.deterministic=true"],
    ],
    ids=" ".join,
)
def test_every_swap_trains_and_is_reproduced_by_evaluate(words):
    run = trained("trainer.max_epochs=2", *words)
    assert run.metrics["test/loss"] == plainloop.evaluate(run.path)["test/loss"]


@pytest.mark.slow
def test_a_torchvision_model_trains_on_grey_images():
    run = trained("model=torchvision", "model.name=resnet18", "trainer.max_steps=3")
    assert run.model.conv1.in_channels == 1
    assert run.model.fc.out_features == 10


class Unnamed(Multiclass):
    """Knows how many classes there are, and has no names for them."""

    @classmethod
    def describe(cls, data):
        return {**super().describe(data), "class_names": None}


def test_classes_without_names_are_drawn_by_their_numbers():
    run = plainloop.train(["model=linear", f"task._target_={path_of(Unnamed)}", "trainer.max_epochs=1", "logger=none"])
    assert (run.path / "metrics.json").is_file()
    assert (run.path / "figures" / "confusion_matrix_test.png").is_file()
