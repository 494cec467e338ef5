"""What can go wrong with the machine, and what comes of it: a non-zero status (or the fallback that is promised),
one or two lines with cause and remedy, no process left over, and the last good state as it was.

One case of each class goes through the real command, the variants are driven in process. What goes wrong on the way
is written into a file `trap`: it happens as soon as the run has a checkpoint, and no more when the file is gone.
"""

import hashlib
import itertools
import json
import multiprocessing
import os
import pickle
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from torchvision.transforms.functional import pil_to_tensor

import plainloop
from plainloop.assembly.assemble import assemble
from plainloop.assembly.trainer import make_trainer
from plainloop.config import schema
from plainloop.config.compose import compose
from plainloop.data import make_loader
from plainloop.errors import MachineError, UserError
from plainloop.reports import pictures
from plainloop.runs import checkpoint, environment
from plainloop.runs.checkpoint import Checkpoints
from plainloop.training.callbacks import Callback
from tests.conftest import ROOT, Done
from tests.plainloop.runs.test_checkpoint import assert_same

HERE = __name__
pytestmark = pytest.mark.slow  # plain `pytest` has the catalogue of mistakes, and stays short

# --- a data set and a model that fail when they are told to ---------------------------------------------------------


def trapped() -> str:
    """What is to go wrong now: the content of the file `trap`, once there is a checkpoint."""
    trap = Path("trap")
    return trap.read_text() if trap.exists() and any(Path().glob("outputs/**/checkpoints/step-*.pt")) else ""


def sleep_for_good() -> None:
    threading.Event().wait()


def compute_for_good() -> None:
    """One call of C's that never comes back to Python: no signal handler of Python's runs any more."""
    sum(itertools.repeat(0))


def stop() -> None:
    """As a process that waits for a file system which is gone: SIGTERM doesn't reach it."""
    os.kill(os.getpid(), signal.SIGSTOP)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    os._exit(3)


def fill_the_gpu() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB of which 0 is free.\n"
        "If reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
    )


def fill_torchs_memory() -> None:
    """More than any machine has: torch's own error."""
    torch.empty(10**15)


def fill_pythons_memory() -> None:
    bytearray(10**16)


def fill_numpys_memory() -> None:
    numpy.empty(10**16)


FAULTS = {function.__name__: function for function in (
    sleep_for_good, compute_for_good, stop, kill, crash, leave,
    fill_the_gpu, fill_torchs_memory, fill_pythons_memory, fill_numpys_memory,
)}  # fmt: skip


def features(index: int) -> torch.Tensor:
    """The inputs of a sample, (4,)."""
    return torch.sin(torch.arange(1.0, 5.0) * (index + 1))


class Samples(Dataset):
    """24 samples in two classes. The trap `data FAULT` springs in its loading processes, `data NUMBER` makes that
    sample unreadable; with `listed` it has files, as torchvision's folders do."""

    def __init__(self, listed: bool = False):
        self.classes = ["even", "odd"]
        self.targets = [index % 2 for index in range(24)]
        if listed:
            self.samples = [(f"files/{index}.wav", index % 2) for index in range(24)]

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int):
        where, _, what = trapped().partition(" ")
        if where == "data" and what.isdigit() and int(what) == index:
            raise ValueError("the header says 7 channels\nand more that nobody wants to read")
        if where == "data" and what in FAULTS and get_worker_info() is not None:
            FAULTS[what]()
        return features(index), index % 2


class Flow(torch.autograd.Function):
    """Passes its input on, and `value` as the gradient."""

    @staticmethod
    def forward(ctx, inputs, value):
        ctx.value = value
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, ctx.value), None


class Net(nn.Module):
    """A linear layer; the traps `model FAULT` (in a training batch of more than three samples), `loss VALUE` and
    `gradient VALUE` spring in it.

    Args:
        poison: "loss nan", "gradient inf" or "elsewhere inf", in training step `at` alone (the first is 1);
            "elsewhere" is the gradient of a weight that no other step uses.
    """

    def __init__(self, poison: str = "", at: int = 0, norm: bool = False):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4) if norm else nn.Identity()
        self.unused = nn.Parameter(torch.ones(2))
        self.poison, self.at, self.count = poison, at, 0

    def forward(self, inputs):
        outputs = self.layer(self.norm(inputs))
        if not self.training:
            return outputs + (torch.nan if trapped() == "validation nan" else 0)
        self.count += 1
        where, _, what = (self.poison if self.count == self.at else trapped()).partition(" ")
        if where == "model" and len(inputs) > 3:
            FAULTS[what]()
        if where == "loss":
            outputs = outputs * float(what)
        if where == "gradient":
            outputs = Flow.apply(outputs, float(what))
        if where == "elsewhere":
            outputs = outputs + 0 * Flow.apply(self.unused, float(what))
        return outputs


class WaitsForALine(Callback):
    """Holds the run up before its first step until something is written into the pipe `go`, if there is one."""

    def on_start(self, trainer) -> None:
        if Path("go").exists():
            with open("go") as pipe:
                pipe.readline()


# --- what is looked at ----------------------------------------------------------------------------------------------

# 10 steps an epoch, three epochs: step-20.pt, step-30.pt and best.pt are left.
QUICK = ("model=mlp", "model.hidden_sizes=[8]", "loader.batch_size=128", "trainer.max_epochs=3", "trainer.log_every=4",
         "logger=none", "test=false")  # fmt: skip
LINEAR = ("model=linear", *QUICK[2:])
# 18 samples to train on, 5 steps an epoch, three epochs.
FRAGILE = ("data=custom", f"data._target_={HERE}.Samples", "model=custom", f"model._target_={HERE}.Net",
           "split.fractions=[0.75,0.25,0]", "loader.batch_size=4", "trainer.max_epochs=3", "trainer.log_every=3",
           "logger=none", "metrics=none", "monitor=val/loss", "name=fragile")  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`trained(*QUICK)`: the directory of a finished run, trained once and for all; tests spoil copies of it."""
    made: dict[tuple[str, ...], Path] = {}

    def train(*words: str) -> Path:
        if words not in made:
            made[words] = tmp_path_factory.mktemp("trained")
            plainloop.train([*words, f"hydra.run.dir={made[words]}"])
        return made[words]

    return train


@pytest.fixture
def copied(trained, tmp_path: Path) -> Callable[..., Path]:
    """`copied(*QUICK)`: a copy of such a run, to be spoilt."""
    return lambda *words: Path(shutil.copytree(trained(*words), tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, byte for byte."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def steps(run: Path) -> list[str]:
    return sorted(file.name for file in (run / "checkpoints").glob("step-*.pt"))


def newest(run: Path) -> Path:
    return Checkpoints(run / "checkpoints").all()[0]


def assert_same_end(run: Path, whole: Path) -> None:
    """The run has come to the state that another one has, bit for bit, with the same history."""
    ends = []
    for each in (run, whole):
        path, state = Checkpoints(each / "checkpoints").last(pytest.fail)
        lines = [json.loads(line) for line in (each / "history.jsonl").read_text().splitlines()]
        for line in lines:
            line.pop("samples_per_second", None)
        kept = {name: value for name, value in state.items() if name not in ("seconds", "loggers", "fingerprint")}
        ends.append([path.name, steps(each), kept, lines])
    assert_same(ends[0], ends[1])


def assert_told(text: str, *pieces: str) -> None:
    """One or two lines, which hold all these pieces."""
    assert 1 <= len(text.splitlines()) <= 2, text
    assert "Traceback" not in text
    for piece in pieces:
        assert piece in text


def processes_of(session: int) -> dict[int, str]:
    """The processes of a session, a command's and all that it has started: process -> its command line."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            state, *numbers = (process / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(numbers[2]) == session and state not in "ZX":
                found[int(process.name)] = (process / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):  # no process, or one that has just ended
            continue
    return found


def assert_none_is_left(session: int) -> None:
    """All processes of a session have ended, or are about to."""
    if not Path("/proc/self/stat").exists():
        with pytest.raises(ProcessLookupError):
            os.killpg(session, 0)
        return
    for process, line in processes_of(session).items():
        try:
            descriptor = os.pidfd_open(process)
        except ProcessLookupError:
            continue
        ended, _, _ = select.select([descriptor], [], [], 20)
        os.close(descriptor)
        assert ended, f"left over: {line}"


class Typed:
    """A command that is typed in a folder, in a session of its own."""

    def __init__(self, folder: Path, *words: str, script: str = "train.py", env: dict[str, str] | None = None):
        self.folder = folder
        self.process = subprocess.Popen(
            words if script == "" else [sys.executable, str(ROOT / script), *words],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(env or {})},
        )

    def ended(self) -> Done:
        """Wait for its end, and for that of all processes that it has started."""
        try:
            out, err = self.process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            for process in processes_of(self.process.pid):
                os.kill(process, signal.SIGKILL)
            raise
        assert_none_is_left(self.process.pid)
        return Done(self.process.returncode, out, err, self.folder)


# --- checkpoints that are damaged -----------------------------------------------------------------------------------


def cut(left: float) -> Callable[[bytes], bytes]:
    """So many bytes of it (all but so many, if negative), or such a share of it."""
    return lambda data: data[: int(left * len(data)) if isinstance(left, float) else left]


def flipped(place: float) -> Callable[[bytes], bytes]:
    """With one bit flipped, at such a share of its length, and another bit of the byte each time."""

    def spoil(data: bytes) -> bytes:
        number = min(int(place * len(data)), len(data) - 1)
        return data[:number] + bytes([data[number] ^ 1 << number % 8]) + data[number + 1 :]

    return spoil


def flipped_in_weights(place: float) -> Callable[[bytes], bytes]:
    """With one bit of a weight flipped."""

    def spoil(data: bytes) -> bytes:
        import io

        weights = torch.load(io.BytesIO(data), weights_only=True)["model"]["layers.1.weight"].numpy().tobytes()
        number = data.index(weights) + int(place * len(weights))
        return data[:number] + bytes([data[number] ^ 1 << number % 8]) + data[number + 1 :]

    return spoil


LENGTHS = [0, 1, 2, 16, 47, 48, 49, 64, 1000, 0.1, 0.25, 0.4, 0.5, 0.75, 0.9, 0.99, -49, -48, -16, -1]
PAGE = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    **{f"cut to {left}": cut(left) for left in LENGTHS},
    **{f"a bit at {number}/13": flipped(number / 13) for number in range(14)},
    **{f"a bit of a weight at {place}": flipped_in_weights(place) for place in (0, 0.1, 0.3, 0.5, 0.8, 0.999)},
    "zeros": lambda data: bytes(len(data)),
    "zeros at the end": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "a web page": lambda data: PAGE,
    "a web page as long": lambda data: PAGE.ljust(len(data)),
    "nothing of ours": lambda data: data[: -checkpoint.TRAILER],
}


QUICKLY = ("cut to 0", "cut to 0.5", "cut to -1", "a bit at 1/13", "a bit at 13/13", "a bit of a weight at 0.5",
           "zeros", "a web page")  # fmt: skip


@pytest.mark.parametrize(
    "spoil",
    [pytest.param(spoil, id=name, marks=[] if name in QUICKLY else pytest.mark.slow) for name, spoil in DAMAGE.items()],
)
def test_a_damaged_checkpoint_is_passed_over(spoil, trained, copied, capsys):
    """The run goes on from the one before, says so, and ends with the bits that it had."""
    run = copied(*QUICK)
    path = newest(run)
    path.write_bytes(spoil(path.read_bytes()))
    capsys.readouterr()
    plainloop.train([f"resume={run}"])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert len(said) == 1
    assert str(path) in said[0]
    assert "Falling back to the one before." in said[0]
    assert_same_end(run, trained(*QUICK))


def test_torch_alone_does_not_see_a_flipped_bit_of_a_weight(copied):
    """Why there is a digest: the file is read without an error, and a weight is another one."""
    path = newest(copied(*QUICK))
    whole = torch.load(path, weights_only=True)["model"]["layers.1.weight"]
    path.write_bytes(flipped_in_weights(0.5)(path.read_bytes()))
    assert not torch.equal(torch.load(path, weights_only=True)["model"]["layers.1.weight"], whole)


SPOIL_ONE = DAMAGE["a bit of a weight at 0.5"]


def spoil_all(run: Path) -> None:
    """Every step-N.pt, each in another way."""
    for path, spoil in zip(Checkpoints(run / "checkpoints").all(), (SPOIL_ONE, cut(0.5)), strict=True):
        path.write_bytes(spoil(path.read_bytes()))


@pytest.mark.parametrize("words", ["resume=RUN", "hydra.run.dir=RUN resume=auto", "extend=RUN trainer.max_epochs=5"])
def test_where_all_are_damaged_nothing_is_started(words, copied):
    """Not even with resume=auto: what is there isn't written over. The best weights are as good as before."""
    run = copied(*QUICK)
    spoil_all(run)
    before = contents(run)
    with pytest.raises(MachineError) as caught:
        plainloop.train(words.replace("RUN", str(run)).split())
    assert_told(str(caught.value), f"{run}/checkpoints", "all 2 are damaged")
    assert re.search(r"extend=|new run|best|copy|backup", str(caught.value))  # what to do now
    assert contents(run) == before
    assert not Path("outputs").exists()
    evaluated = plainloop.evaluate(run, split="val")
    assert evaluated["val/loss"] == json.loads(before["metrics.json"])["val/loss"]
    with pytest.raises(MachineError, match="all 2 are damaged"):
        plainloop.evaluate(run, checkpoint="last")


@pytest.mark.parametrize(
    "spoil", [SPOIL_ONE, cut(0.5), DAMAGE["a web page"], lambda data: b""], ids=["a bit", "cut", "a web page", "empty"]
)
def test_a_damaged_best_is_never_measured(spoil, copied):
    """Neither by evaluate nor at a run's end; the newest weights are offered instead."""
    run = copied(*QUICK)
    best = run / "checkpoints/best.pt"
    best.write_bytes(spoil(best.read_bytes()))
    before = contents(run)
    for again in (lambda: plainloop.evaluate(run), lambda: plainloop.load_run(run)):
        with pytest.raises(MachineError) as caught:
            again()
        assert_told(str(caught.value), str(best), "checkpoint=last")
    assert contents(run) == before
    assert plainloop.evaluate(run, split="val", checkpoint="last")["val/loss"] > 0


def test_a_run_whose_best_is_damaged_does_not_train_in_vain(copied):
    """With a rate of zero the first epoch stays the best. It is told before the first step, or made good."""
    run = copied(*QUICK, "optimizer.lr=0.0")
    best = run / "checkpoints/best.pt"
    whole = checkpoint.load(best)
    assert whole["position"]["epoch"] == 1
    best.write_bytes(SPOIL_ONE(best.read_bytes()))
    before = contents(run)
    try:
        resumed = plainloop.train([f"resume={run}", "trainer.max_epochs=5"])
    except MachineError as error:
        assert_told(str(error), str(best))
        assert contents(run) == before
    else:
        assert_same(checkpoint.load(best)["model"], whole["model"])
        assert resumed.metrics["best/epoch"] == 1


@pytest.mark.parametrize(
    "state", [{}, {"position": {"step": 99}}, {"model": {}}, [1, 2], torch.ones(3)], ids=lambda state: str(state)[:12]
)
def test_a_file_that_is_whole_and_no_checkpoint_is_refused(state, copied, tmp_path):
    """With the digest that it should have."""
    run = copied(*QUICK)
    file = tmp_path / "given.pt"
    torch.save(state, file)
    file.write_bytes(sealed(file.read_bytes()))
    for place in (run / "checkpoints/step-30.pt", run / "checkpoints/step-20.pt"):
        shutil.copyfile(file, place)
    before = contents(run)
    for way in (
        lambda: plainloop.train([f"resume={run}"]),
        lambda: plainloop.train([f"extend={run}"]),
        lambda: plainloop.evaluate(run, checkpoint="last"),
        lambda: plainloop.evaluate(run, checkpoint="given.pt"),
    ):
        with pytest.raises((MachineError, UserError)) as caught:
            way()
        assert_told(str(caught.value), "checkpoint")
    assert contents(run) == before


# --- checkpoints of other runs --------------------------------------------------------------------------------------


class Named(Samples):
    """The same samples, with classes that can be named, and as many of them as are wanted."""

    def __init__(self, names: list[str], count: int = 24):
        super().__init__()
        self.classes, self.count, self.targets = names, count, self.targets[:count]

    def __len__(self) -> int:
        return self.count


NAMED = ("data=custom", f"data._target_={HERE}.Named", "data.names=[cat,dog]")
STEPPED = ("scheduler=step", "scheduler.step_size=2")
FOREIGN = [
    # id, the run's words, those of the run that the checkpoint is from (None: of another model's), what must be named
    ("another model", (), None, ("model", "MLP", "Linear")),
    ("another size of the model", (), ("model.hidden_sizes=[16]",), ("hidden_sizes",)),
    ("AdamW for SGD", ("optimizer=sgd",), ("optimizer=adamw",), ("optimizer", "AdamW", "SGD")),
    ("SGD for AdamW", ("optimizer=adamw",), ("optimizer=sgd",), ("optimizer", "AdamW", "SGD")),
    ("Adam for AdamW", ("optimizer=adamw",), (), ("optimizer", "adam.Adam,", "AdamW")),
    ("another scheduler", STEPPED, ("scheduler=cosine",), ("scheduler", "StepLR", "CosineAnnealingLR")),
    ("a scheduler for none", (), STEPPED, ("scheduler", "StepLR", "None")),
    ("no scheduler", STEPPED, (), ("scheduler", "StepLR", "None")),
    ("another rate", (), ("optimizer.lr=0.5",), ("optimizer.lr", "0.5", "0.001")),
    ("another dropout", (), ("model.dropout=0.5",), ("model.dropout",)),
    ("another seed", (), ("seed=1",), ("seed", "1", "0")),
    ("another size of the data", (), ("split.fractions=[0.6,0.2,0.2]",), ("train", "1078", "1258")),
    ("other classes", NAMED, (*NAMED[:2], "data.names=[dog,cat]"), ("class_names", "['dog', 'cat']")),
    ("another batch size", (), ("loader.batch_size=64",), ("batch_size", "64", "128", "resume_inexact")),
]


@pytest.mark.parametrize(("own", "other", "pieces"), [pytest.param(*row[1:], id=row[0]) for row in FOREIGN])
def test_a_checkpoint_of_another_run_is_refused_by_name(own, other, pieces, trained, copied):
    """It has been copied into the directory, and is whole."""
    run = copied(*QUICK, *own)
    step = checkpoint.step_of(newest(run))
    other = LINEAR if other is None else (*QUICK, *other)
    shutil.copyfile(newest(trained(*other)), run / f"checkpoints/step-{step + 1}.pt")
    before = contents(run)
    with pytest.raises(UserError) as caught:
        plainloop.train([f"resume={run}"])
    assert_told(str(caught.value), *pieces)
    assert contents(run) == before
    (run / f"checkpoints/step-{step + 1}.pt").unlink()
    plainloop.train([f"resume={run}"])  # the run's own stands
    assert_same_end(run, trained(*QUICK, *own))


def test_a_checkpoint_of_another_model_is_not_measured(trained, copied):
    run = copied(*QUICK)
    for words in (LINEAR, (*QUICK, "model.hidden_sizes=[16]")):
        other = newest(trained(*words))
        with pytest.raises(UserError) as caught:
            plainloop.evaluate(run, checkpoint=str(other))
        assert_told(str(caught.value), str(other), "the model of", "layers.1.weight")


def write_arrays(count: int = 40, names: str = "abcd", first_pixel: int = 0) -> None:
    """mine.npz: images of 2 x 2 in four classes."""
    images = (numpy.arange(count * 4) % 251).astype("uint8").reshape(count, 1, 2, 2)
    images[:, 0, 0, 0] += numpy.uint8(first_pixel)
    numpy.savez("mine.npz", inputs=images, targets=numpy.arange(count) % 4, classes=numpy.array(list(names)))


CHANGES = [
    ({"count": 44}, ("num_train", "was 28", "is 31")),
    ({"names": "abdc"}, ("class_names", "'c', 'd'", "'d', 'c'")),
    ({"names": "abcde"}, ("class_names", "'e'")),
    ({"first_pixel": 1}, ("content", "train", "resume_inexact=true")),
]


@pytest.mark.parametrize(("change", "pieces"), CHANGES, ids=lambda value: next(iter(value), ""))
def test_data_that_has_changed_is_refused_by_name(change, pieces):
    write_arrays()
    words = [*QUICK, "data.path=mine.npz", "data.inputs=inputs", "data.targets=targets", "hydra.run.dir=mine"]
    plainloop.train([*words, "trainer.max_epochs=1"])
    before = contents(Path("mine"))
    write_arrays(**change)
    with pytest.raises(UserError) as caught:
        plainloop.train(["resume=mine", "trainer.max_epochs=2"])
    assert_told(str(caught.value), *pieces)
    assert contents(Path("mine")) == before
    write_arrays()
    assert plainloop.train(["resume=mine", "trainer.max_epochs=2"]).metrics["epochs"] == 2


# --- disks that are full, folders that can't be written -------------------------------------------------------------

BIG = (*QUICK, "model.hidden_sizes=[2048]", "trainer.max_epochs=1")  # 1.8 MB of weights and moments


@contextmanager
def full_disk(size: int):
    """No file may become larger than `size`, here and in commands that are typed, as on a disk that is full. (Python
    ignores SIGXFSZ.)"""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_old_checkpoint(trained, copied):
    """In process, at the end of an epoch; with room again, the run goes on as if nothing had been."""
    run = copied(*BIG)
    before = contents(run / "checkpoints")
    with full_disk(1_000_000), pytest.raises(MachineError) as caught:
        plainloop.train([f"resume={run}", "trainer.max_epochs=3"])
    assert_told(str(caught.value), "best.pt could not be written", "disk full", "resume=run")
    assert contents(run / "checkpoints") == before
    resumed = plainloop.train([f"resume={run}", "trainer.max_epochs=3"])
    assert_same_end(resumed.path, trained(*BIG, "trainer.max_epochs=3"))


def test_a_disk_that_is_full_at_the_first_checkpoint(tmp_path):
    with full_disk(1_000_000), pytest.raises(MachineError) as caught:
        plainloop.train([*BIG, "hydra.run.dir=run"])
    assert_told(str(caught.value), "could not be written", "disk full", "there is none yet")
    assert list((tmp_path / "run/checkpoints").iterdir()) == []


@pytest.mark.parametrize("logger", ["none", "tensorboard"])
@pytest.mark.parametrize("size", [1500, 9000], ids=["config", "history"])
def test_a_disk_that_is_full_before_a_checkpoint_is_due(size, logger, monkeypatch):
    """The config has 3 kB, and the history comes to 9 before its run ends: closing what can't be written doesn't
    hide the cause."""
    monkeypatch.setattr(environment, "_git", lambda *_: None)  # the size of a diff is nobody's business here
    monkeypatch.setattr(pictures, "draw_inputs", lambda *_: None)
    words = [
        *QUICK,
        "trainer.log_every=1",
        "trainer.max_epochs=30",
        "checkpoint.every_epochs=null",
        "data=mine",
        "trainer.validate_every=0",
        f"logger={logger}",
        "hydra.run.dir=run",
    ]
    with full_disk(size), pytest.raises(MachineError) as caught:
        plainloop.train(words)
    assert_told(str(caught.value), "disk full")


@pytest.mark.slow
def test_typed_a_full_disk_leaves_the_old_checkpoint(copied, trained):
    run = copied(*BIG)
    before = contents(run / "checkpoints")
    with full_disk(1_000_000):
        command = Typed(run.parent, "resume=run", "trainer.max_epochs=3")
    done = command.ended()
    assert done.status == 1
    assert_told(done.err, "error: ", "best.pt could not be written", "disk full", "train.py resume=run")
    assert contents(run / "checkpoints") == before
    resumed = plainloop.train(["resume=run", "trainer.max_epochs=3"])
    assert_same_end(resumed.path, trained(*BIG, "trainer.max_epochs=3"))


in_proc = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a place where nobody can write")
PLACES = [
    pytest.param("paths.outputs=/proc/nowhere", "paths.outputs=", marks=in_proc),
    pytest.param("paths.outputs=file", "paths.outputs="),
    pytest.param("paths.outputs=file/inside", "paths.outputs="),
    pytest.param("name=file paths.outputs=.", "paths.outputs="),
    pytest.param("hydra.run.dir=/proc/nowhere", "hydra.run.dir=", marks=in_proc),
    pytest.param("hydra.run.dir=file", "hydra.run.dir="),
]


@pytest.mark.parametrize(("words", "remedy"), PLACES)
def test_where_no_run_directory_can_be_created(words, remedy, tmp_path):
    """Said after the checks and before the first step, with the key that names another place."""
    (tmp_path / "file").write_text("a file, where a folder belongs")
    with pytest.raises(MachineError) as caught:
        plainloop.train([*QUICK, *words.split()])
    assert_told(str(caught.value), words.split("=")[1].split()[0].split("/")[-1], remedy)
    assert contents(tmp_path) == {"file": b"a file, where a folder belongs"}


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize("key", ["paths.outputs", "hydra.run.dir"])
def test_typed_where_no_run_directory_can_be_created(key, tmp_path):
    done = Typed(tmp_path, *QUICK, f"{key}=/proc/nowhere").ended()
    assert done.status == 1
    assert_told(done.err, "error: ", "/proc/nowhere", f"{key}=")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_folder_that_cannot_be_written(tmp_path):
    """A file is in its place."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoints").write_text("a file")
    with pytest.raises(MachineError) as caught:
        plainloop.train([*QUICK, "hydra.run.dir=run"])
    assert_told(str(caught.value), "run/checkpoints")
    assert (tmp_path / "run/checkpoints").read_text() == "a file"


def test_an_evaluation_that_cannot_be_written(copied, capsys):
    """A folder is in the place of the file: it is told, and the run is as it was."""
    run = copied(*QUICK)
    (run / "evaluate-val-best.json").mkdir()
    before = contents(run)
    with pytest.raises(MachineError) as caught:
        plainloop.evaluate(run, split="val")
    assert_told(str(caught.value), "evaluate-val-best.json")
    assert contents(run) == before


# --- two runs at once -----------------------------------------------------------------------------------------------


HELD_UP = f"callbacks.wait._target_={HERE}.WaitsForALine"


def two_at_once(folder: Path, *words: str) -> tuple[int, Done, Done]:
    """Type the same command twice at the same time, with 0 and 1 for SEED: the number of the one that trains (it is
    held up until the other one has ended), how it has ended, and how the other has."""
    os.mkfifo(folder / "go")
    pipe = os.open(folder / "go", os.O_RDWR)
    both = [Typed(folder, *(word.replace("SEED", str(number)) for word in words)) for number in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        waiting = {threads.submit(each.ended): number for number, each in enumerate(both)}
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        os.write(pipe, b"go\n")
    os.close(pipe)
    (folder / "go").unlink()
    (won,) = [each for each in waiting if each not in done]  # one has ended while the other one waited
    return waiting[won], won.result(), done.pop().result()


@pytest.mark.slow
@pytest.mark.parametrize("words", ["hydra.run.dir=run", "hydra.run.dir=run resume=auto"])
def test_typed_of_two_in_one_directory_one_wins(words, tmp_path, trained):
    """Also where both are told to continue what is there, and nothing is yet. The loser writes nothing."""
    winner, won, lost = two_at_once(tmp_path, *QUICK, "seed=SEED", HELD_UP, *words.split())
    assert won.status == 0, won.err
    assert won.err == ""
    assert lost.status == 1
    assert_told(lost.err, "error: run is being trained by another process")
    assert OmegaConf.load(tmp_path / "run/config.yaml").seed == winner
    assert f"seed={winner}" in (tmp_path / "run/overrides.yaml").read_text()
    assert_same_end(tmp_path / "run", trained(*QUICK, f"seed={winner}", HELD_UP))


def test_a_run_directory_that_lost_a_part_is_told_apart(copied, tmp_path):
    """What may stand where a run is to be started; nothing of it is overwritten."""
    started = [*QUICK, f"hydra.run.dir={tmp_path}/run"]

    def left(*names: str) -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        path = copied(*QUICK)
        for name in names:
            target = path / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        return path

    for names, message in (
        (["config.yaml"], "holds checkpoints, and not the config.yaml and composed.yaml"),
        (["composed.yaml", "checkpoints"], "holds a config.yaml that isn't a run's"),
        (["metrics.json", "checkpoints"], "a run that saved no checkpoint. Delete it"),
        (["checkpoints"], "a finished run without its checkpoints. Delete it"),
        ([], "Continue it with resume="),
    ):
        path = left(*names)
        before = sorted(path.rglob("*"))
        with pytest.raises(UserError, match=message):
            plainloop.train(started)
        assert sorted(path.rglob("*")) == before
    for name in ("config.yaml", "composed.yaml"):
        with pytest.raises(UserError, match=r"it needs config\.yaml and composed\.yaml"):
            plainloop.evaluate(left(name))


def test_a_best_checkpoint_alone_does_not_outlive_a_new_start(copied, tmp_path):
    """Killed between best.pt and its first step-N.pt, and started again with resume=auto."""
    path = copied(*QUICK)
    (path / "metrics.json").unlink()
    for file in (path / "checkpoints").glob("step-*.pt"):
        file.unlink()
    best = path / "checkpoints/best.pt"
    best.write_bytes(b"of a run that is no more")
    run = plainloop.train([*QUICK, "trainer.validate_every=0", f"hydra.run.dir={path}", "resume=auto"])
    assert run.path == path
    assert not best.exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hydra.run.dir=run resume=auto", "resume=run"])
def test_typed_of_two_that_continue_one_run_one_wins(how, tmp_path, trained):
    plainloop.train([*QUICK, HELD_UP, "trainer.max_epochs=1", "hydra.run.dir=run"])
    _, won, lost = two_at_once(tmp_path, *how.split(), "trainer.max_epochs=3")
    assert won.status == 0, won.err
    assert lost.status == 1
    assert_told(lost.err, "error: run is being trained by another process")
    assert_same_end(tmp_path / "run", trained(*QUICK, HELD_UP))


@pytest.mark.slow
def test_typed_two_without_a_directory_get_their_own(tmp_path, trained):
    both = [Typed(tmp_path, *QUICK) for _ in range(2)]
    runs = [each.ended().run for each in both]
    assert runs[0] != runs[1]
    for run in runs:
        assert (run / "metrics.json").is_file()
        assert_same(checkpoint.load(newest(run))["model"], checkpoint.load(newest(trained(*QUICK)))["model"])


# --- what happens to a run on its way -------------------------------------------------------------------------------


class Trap(NamedTuple):
    """A row: what goes wrong, the words that are typed beside FRAGILE, and what the answer holds."""

    fault: str
    words: str
    pieces: tuple[str, ...]
    typed: bool = False


HANGS = ("within 5 s", "loader.timeout=SECONDS", "loader.num_workers=0")
LOST = ("a loading process was lost", "loader.num_workers")
FULL = ("out of memory", "lower loader.batch_size", "raise trainer.accumulate_steps", "resume_inexact=true",
        "loader.batch_size=2", "trainer.accumulate_steps=2")  # fmt: skip
FORK = "loader.num_workers=2 loader.multiprocessing_context=fork"
TRAPS = [
    Trap("data kill", "loader.num_workers=2", LOST, typed=True),
    Trap("data kill", FORK, LOST),
    Trap("data crash", FORK, LOST),
    Trap("data leave", FORK, LOST),
    Trap("data sleep_for_good", f"{FORK} loader.timeout=5", HANGS, typed=True),
    Trap("data compute_for_good", f"{FORK} loader.timeout=5", HANGS, typed=True),
    Trap("data stop", f"{FORK} loader.timeout=5", HANGS, typed=True),
    Trap("loss nan", "", ("the loss is nan", "step 6", "optimizer.lr", "trainer.max_grad_norm"), typed=True),
    Trap("loss inf", "trainer.log_every=1", ("the loss is", "step 6", "optimizer.lr")),
    Trap("gradient inf", "", ("step 6", "optimizer.lr", "trainer.max_grad_norm"), typed=True),
    Trap("gradient nan", "trainer.log_every=50", ("the loss is nan", "epoch 2")),
    Trap("gradient inf", "trainer.log_every=50 trainer.max_grad_norm=1", ("the loss is nan", "epoch 2")),
    Trap("gradient nan", "trainer.log_every=50 checkpoint.every_steps=1", ("step 2 and aren't saved",)),
    Trap("model fill_the_gpu", "", FULL, typed=True),
    Trap("model fill_torchs_memory", "", FULL),
    Trap("model fill_pythons_memory", "", FULL),
    Trap("model fill_numpys_memory", "", FULL),
    Trap("data fill_the_gpu", FORK, FULL),
    Trap("data fill_torchs_memory", FORK, FULL),
    Trap("data fill_numpys_memory", f"{FORK} loader.skip_unreadable=99", FULL),
    Trap("data fill_torchs_memory", f"{FORK} loader.skip_unreadable=99", FULL),
]


def assert_goes_on(run: Path, words: str, trained) -> None:
    """What was saved is whole, and the run comes to the end that it would have come to, however it is loaded."""
    Path("trap").unlink()
    for path in (run / "checkpoints").glob("*.pt"):
        state = checkpoint.load(path)
        assert all(value.isfinite().all() for value in state["model"].values())
    plainloop.train([f"resume={run}", *(FORK.split() if "num_workers" in words else [])])
    assert_same_end(run, trained(*FRAGILE, *(word for word in words.split() if not word.startswith("loader."))))


# What hangs is ended by the command, and other start methods take long: these rows are typed only.
IN_PROCESS = [
    row for row in TRAPS if "timeout" not in row.words and ("num_workers" not in row.words or FORK in row.words)
]


@pytest.mark.parametrize(
    ("fault", "words", "pieces"), [row[:3] for row in IN_PROCESS], ids=lambda value: str(value)[:40]
)
def test_what_goes_wrong_is_told_and_the_run_can_go_on(fault, words, pieces, trained, tmp_path):
    Path("trap").write_text(fault)
    with pytest.raises(MachineError) as caught:
        plainloop.train([*FRAGILE, *words.split()])
    assert multiprocessing.active_children() == []
    (run,) = (tmp_path / "outputs/fragile").iterdir()
    assert_told(str(caught.value), *pieces, f"resume=outputs/fragile/{run.name}")
    assert_goes_on(run, words, trained)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words", "pieces"), [row[:3] for row in TRAPS if row.typed], ids=lambda value: str(value)[:40]
)
def test_typed_what_goes_wrong_is_told_and_the_run_can_go_on(fault, words, pieces, trained, tmp_path):
    """The command ends by itself, with status 1 and all that it has started."""
    Path("trap").write_text(fault)
    done = Typed(tmp_path, *FRAGILE, *words.split()).ended()
    assert done.status == 1, done.err
    run = done.run
    assert_told(done.err, "error: ", *pieces, f"{ROOT}/train.py resume={run.relative_to(tmp_path)}")
    assert f"failed  {done.err.removeprefix('error: ').splitlines()[0]}" in (run / "train.log").read_text()
    assert_goes_on(run, words, trained)


@pytest.mark.slow
def test_typed_an_evaluation_that_hangs_ends(tmp_path, copied):
    run = copied(*FRAGILE)
    (tmp_path / "outputs/other/checkpoints").mkdir(parents=True)
    (tmp_path / "outputs/other/checkpoints/step-1.pt").write_text("the trap may spring")
    (tmp_path / "trap").write_text("data compute_for_good")
    before = contents(run)
    done = Typed(tmp_path, "run=run", "split=val", *FORK.split(), "loader.timeout=5", script="evaluate.py").ended()
    assert done.status == 1
    assert_told(done.err, "error: ", *HANGS)
    assert contents(run) == before


def test_how_long_a_worker_is_waited_for():
    """Five minutes where there are workers and nobody says otherwise."""
    options = {"seed": 0, "device": torch.device("cpu")}
    assert make_loader(Samples(), schema.Loader(batch_size=4, num_workers=2), **options).loader.timeout == 300
    assert make_loader(Samples(), schema.Loader(batch_size=4, num_workers=2, timeout=7), **options).loader.timeout == 7
    assert make_loader(Samples(), schema.Loader(batch_size=4, num_workers=0), **options).loader.timeout == 0


def test_a_worker_that_is_killed_while_a_checkpoint_is_written(trained, tmp_path, monkeypatch):
    """What is told is the process that was lost, and not a full disk; the old checkpoint stands."""
    written = torch.save

    def kill_a_worker(state, file):
        if state["position"]["step"] == 10:
            for child in multiprocessing.active_children():
                child.kill()
            time.sleep(30)  # which the handler of SIGCHLD cuts short, wherever the kernel delivers it
        written(state, file)

    words = f"{FORK} trainer.validate_every=0"
    monkeypatch.setattr(torch, "save", kill_a_worker)
    with pytest.raises(MachineError) as caught:
        plainloop.train([*FRAGILE, *words.split()])
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert_told(str(caught.value), *LOST)
    (run,) = (tmp_path / "outputs/fragile").iterdir()
    assert steps(run) == ["step-5.pt"]
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["step-5.pt"]
    plainloop.train([f"resume={run}"])
    assert_same_end(run, trained(*FRAGILE, *words.split()))


# --- samples that can't be read -------------------------------------------------------------------------------------


def index_in(split: str, run: Path, place: int = 3) -> int:
    """The number, in the user's own data set, of a sample of a split."""
    return json.loads((run / "splits.json").read_text())[split]["indices"][place]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("listed", [False, True], ids=["unnamed", "files"])
def test_a_sample_that_cannot_be_read_is_named(listed, split, trained, tmp_path):
    """By its number in the user's data set (here a part of that is trained on), with its file where there is one;
    in the same words from a loading process."""
    words = f"data.listed={listed}".lower()
    number = index_in(split, trained(*FRAGILE, words), -1)
    (tmp_path / "trap").write_text(f"data {number}")
    messages = []
    for folder, how in (("none", "loader.num_workers=0"), ("two", FORK)):
        with pytest.raises(MachineError) as caught:
            plainloop.train([*FRAGILE, words, *how.split(), "hydra.run.dir=outputs/run"])
        assert multiprocessing.active_children() == []
        messages.append(str(caught.value))
        (tmp_path / "outputs/run").rename(folder)
    name = f"sample {number} (files/{number}.wav)" if listed else f"sample {number} "
    assert_told(
        messages[0],
        name,
        "ValueError: the header says 7 channels",
        "test_faults.py, line",
        "loader.skip_unreadable",
        "resume=outputs/run",
    )
    assert messages[1] == messages[0]
    (tmp_path / "trap").unlink()
    for run in (tmp_path / "none", tmp_path / "two"):
        plainloop.train([f"resume={run}"])
        assert_same_end(run, trained(*FRAGILE, words))


@pytest.mark.slow
def test_typed_a_sample_that_cannot_be_read_is_named(trained, tmp_path):
    number = index_in("train", trained(*FRAGILE))
    (tmp_path / "trap").write_text(f"data {number}")
    done = Typed(tmp_path, *FRAGILE, "data.listed=true", "loader.num_workers=2").ended()
    assert done.status == 1
    assert_told(
        done.err,
        f"error: data: sample {number} (files/{number}.wav) can't be read: ValueError: the header",
        f"train.py resume={done.run.relative_to(tmp_path)}",
    )


class Pictures(torchvision.datasets.ImageFolder):
    """A folder of pictures, one folder inside for each class."""

    def __init__(self, folder: str):
        super().__init__(folder, transform=pil_to_tensor)


def draw_pictures(*spoilt: int) -> list[str]:
    """20 pictures of 8 x 8, PNG and JPEG, in pictures/{cat,dog}; some of them spoilt in one way or another. Their
    paths, in order."""
    ways = [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: PAGE, lambda data: bytes(len(data))]
    paths = []
    for number in range(20):
        kind = ("cat", "dog")[number // 10]
        path = Path(f"pictures/{kind}/{number:02}.{('png', 'jpg')[number % 2]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (numpy.arange(192) * (number + 3) % 256).astype("uint8").reshape(8, 8, 3)
        Image.fromarray(pixels).save(path)
        if number in spoilt:
            path.write_bytes(ways[spoilt.index(number) % 4](path.read_bytes()))
        paths.append(str(path))
    return paths


PICTURES = ("data=custom", f"data._target_={HERE}.Pictures", "data.folder=pictures", "model=cnn", "model.channels=[4]",
            "split.fractions=[0.8,0.2,0]", "loader.batch_size=4", "trainer.max_epochs=3", "logger=none", "test=false",
            "metrics=none", "monitor=val/loss", "hydra.run.dir=run")  # fmt: skip


def pictures_of(split: str) -> list[int]:
    """Which of the twenty are in a split."""
    session = assemble(compose([word for word in PICTURES if not word.startswith("hydra")]))
    return list(session.data.indices[split]["indices"])


@pytest.mark.parametrize(("way", "place"), [(0, 0), (1, 1), (2, 5), (3, -1), (0, 5), (1, 0)])
def test_a_picture_that_is_damaged_is_named(way, place):
    """Cut, empty, a web page, zeros. Also the first one, which is looked at before the training begins."""
    draw_pictures()
    number = pictures_of("train")[place]
    path = draw_pictures(*[-1] * way, number)[number]
    with pytest.raises((UserError, MachineError)) as caught:
        plainloop.train(PICTURES)
    assert_told(str(caught.value), f"sample {number} ({path}) can't be read: ", "loader.skip_unreadable")


def skipped(err: str) -> list[str]:
    """The files that warnings say are left out."""
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert all("left out" in line for line in lines)
    return sorted(re.search(r"\((pictures/.+?)\)", line)[1] for line in lines)


@pytest.mark.parametrize(("splits", "normalize"), [("train", "train"), ("val", "none"), ("both", "none")])
def test_up_to_so_many_pictures_are_left_out(splits, normalize, capsys):
    """Each is named once, however many epochs there are; and with loading processes all is the same."""
    draw_pictures()
    numbers = [pictures_of("train")[7], pictures_of("train")[11], pictures_of("val")[1]]
    numbers = {"train": numbers[:2], "val": numbers[2:], "both": numbers}[splits]
    paths = draw_pictures(*numbers)
    words = [*PICTURES[:-1], f"loader.skip_unreadable={len(numbers)}", f"transforms.normalize={normalize}"]
    for folder, how in (("none", "loader.num_workers=0"), ("two", FORK)):
        capsys.readouterr()
        run = plainloop.train([*words, *how.split(), f"hydra.run.dir={folder}"])
        assert skipped(capsys.readouterr().err) == sorted(paths[number] for number in numbers)
        assert run.metrics["samples"] == 3 * (16 - sum(number in pictures_of("train") for number in numbers))
    assert_same(checkpoint.load(newest(Path("two")))["model"], checkpoint.load(newest(Path("none")))["model"])


def test_what_is_left_out_is_remembered(capsys):
    """A run that is continued doesn't name it again, and counts it."""
    draw_pictures()
    numbers = [pictures_of("train")[7], pictures_of("val")[1]]
    draw_pictures(*numbers)
    plainloop.train([*PICTURES, "loader.skip_unreadable=2", "trainer.max_epochs=1"])
    assert len(skipped(capsys.readouterr().err)) == 2
    run = plainloop.train(["resume=run", "trainer.max_epochs=3"])
    assert skipped(capsys.readouterr().err) == []
    assert run.metrics["samples"] == 3 * 15


def test_what_is_left_out_does_not_count():
    """With a rate of zero, an epoch's loss is the mean over what can be read, and so is that of a validation."""
    draw_pictures()
    bad = [pictures_of("train")[2], pictures_of("train")[9], pictures_of("val")[3]]
    draw_pictures(*bad)
    words = [
        *PICTURES,
        "loader.skip_unreadable=5",
        "optimizer=sgd",
        "optimizer.lr=0.0",
        "trainer.max_epochs=1",
        "model=mlp",
        "model.hidden_sizes=[8]",
    ]
    run = plainloop.train([word for word in words if "channels" not in word])
    data = Pictures("pictures")
    for split, name in (("train", "train/epoch_loss"), ("val", "val/loss")):
        samples = [data[number] for number in run.data.indices[split]["indices"] if number not in bad]
        inputs, targets = torch.stack([one for one, _ in samples]), torch.tensor([label for _, label in samples])
        with torch.no_grad():
            truth = nn.functional.cross_entropy(run.model(run.preprocess(inputs)), targets)
        assert run.history()[-1][name] == pytest.approx(float(truth), rel=1e-5)


@pytest.mark.parametrize("how", ["loader.num_workers=0", FORK])
def test_one_more_than_may_be_left_out_ends_the_run(how, capsys):
    draw_pictures()
    numbers = pictures_of("train")[5:8]
    paths = draw_pictures(*numbers)
    with pytest.raises(MachineError) as caught:
        plainloop.train([*PICTURES, *how.split(), "loader.skip_unreadable=2"])
    (last,) = {paths[number] for number in numbers} - set(skipped(capsys.readouterr().err))
    assert_told(str(caught.value), "more than loader.skip_unreadable=2", last)


class Bare(Dataset):
    """The same pictures, with nothing but their files listed: neither classes nor targets.

    Args:
        values: give a number for a target, instead of a class.
    """

    def __init__(self, values: bool = False):
        self.pictures = Pictures("pictures")
        self.files, self.values = [path for path, _ in self.pictures.samples], values

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        image, label = self.pictures[index]
        return image, float(label) if self.values else label


@pytest.mark.parametrize("task", ["multiclass", "binary", "regression"])
def test_a_picture_that_is_damaged_is_named_where_nothing_is_listed(task, capsys):
    """Also where the whole data set is read through before the training, for its classes or for its targets' mean."""
    draw_pictures()
    number = pictures_of("train")[5]
    path = draw_pictures(number)[number]
    words = [f"data._target_={HERE}.Bare" if "_target_" in word else word for word in PICTURES if "folder" not in word]
    words += [f"task={task}", f"data.values={task == 'regression'}".lower()]
    words += ["model=mlp", "model.hidden_sizes=[8]"] if task != "multiclass" else []
    words = [word for word in words if "channels" not in word]
    with pytest.raises((UserError, MachineError)) as caught:
        plainloop.train(words)
    assert_told(str(caught.value), f"sample {number} ({path}) can't be read: ", "loader.skip_unreadable")
    capsys.readouterr()
    run = plainloop.train([*words[:-1], words[-1], "loader.skip_unreadable=1", "hydra.run.dir=other"])
    assert skipped(capsys.readouterr().err) == [path]
    assert run.metrics["samples"] in (3 * 15, 3 * 16)  # whichever split the sample has come into


def test_splits_share_what_may_be_left_out():
    """Two are unreadable in all, one of them in the validation split, and one may be."""
    draw_pictures()
    draw_pictures(pictures_of("train")[5], pictures_of("val")[1])
    with pytest.raises(MachineError, match=r"more than loader\.skip_unreadable=1"):
        plainloop.train([*PICTURES, "loader.skip_unreadable=1"])


@pytest.mark.slow
def test_typed_pictures_that_are_damaged(tmp_path):
    """By default the first one ends the run; two may be left out, and are named."""
    draw_pictures()
    numbers = pictures_of("train")[6:8]
    paths = draw_pictures(*numbers)
    done = Typed(tmp_path, *PICTURES, "loader.num_workers=2").ended()
    assert done.status == 1
    assert_told(done.err, "error: data: sample ", "can't be read", "loader.skip_unreadable")
    assert any(paths[number] in done.err for number in numbers)
    done = Typed(tmp_path, *PICTURES[:-1], *FORK.split(), "loader.skip_unreadable=2").ended()
    assert done.status == 0
    assert skipped(done.err) == sorted(paths[number] for number in numbers)


# --- numbers that aren't finite -------------------------------------------------------------------------------------


def trainer_for(*overrides: str, **hooks: Any):
    """A session and its trainer, without a run directory."""
    words = [word for word in FRAGILE if not word.startswith("name=")]
    session = assemble(compose([*words, *overrides]))
    return session, make_trainer(session, **hooks)


POISONS = ("loss nan", "loss inf", "loss -inf", "gradient inf", "gradient -inf", "gradient nan", "elsewhere inf",
           "elsewhere nan")  # fmt: skip
HOWS = ("trainer.max_grad_norm=1", "trainer.accumulate_steps=2", "optimizer=sgd", "optimizer=adamw",
        "trainer.ema_decay=0.9")  # fmt: skip
POISONED = [(poison, at, "") for poison in POISONS for at in (7, 9)]
POISONED += [(poison, 7, how) for poison in ("loss nan", "gradient inf", "elsewhere inf") for how in HOWS]


@pytest.mark.parametrize(("poison", "at", "how"), POISONED)
def test_what_is_not_finite_ends_the_run_by_the_next_log_point(poison, at, how):
    """In one step alone, between log points and at one (every three steps); no validation, no save comes first."""
    words = [f"model.poison={poison}", f"model.at={at}", "trainer.validate_every=0", "trainer.max_epochs=9"]
    if "accumulate" in how:  # five batches an epoch are three steps, and batch 11 is in the seventh
        words[1] = "model.at=11"
    _, trainer = trainer_for(*words, *how.split())
    with pytest.raises(MachineError, match=r"optimizer\.lr.*trainer\.max_grad_norm"):
        trainer.fit()
    assert trainer.step == 9


@pytest.mark.parametrize("poison", ["loss nan", "gradient inf", "gradient nan", "elsewhere inf"])
def test_what_is_not_finite_is_never_saved(poison):
    """Where a checkpoint is due after each step, the step that poisoned the weights is the first without one."""
    saved = []
    _, trainer = trainer_for(
        f"model.poison={poison}",
        "model.at=7",
        "trainer.log_every=100",
        save=lambda state, best: saved.append((state["position"]["step"], best)),
        due=lambda trainer, ended: True,
    )
    with pytest.raises(MachineError, match="the weights hold NaN or infinity at step 7 and aren't saved"):
        trainer.fit()
    assert [step for step, _ in saved] == [1, 2, 3, 4, 5, 5, 6]  # the fifth ends an epoch
    assert [step for step, best in saved if best] == [5]


@pytest.mark.parametrize("poison", ["loss nan", "gradient inf", "gradient nan"])
def test_a_step_that_is_not_finite_is_left_out_where_that_is_wanted(poison):
    """trainer.nonfinite=skip: the weights are those of a loop that leaves this step out, and it is counted."""
    records = []
    session, trainer = trainer_for(
        f"model.poison={poison}",
        "model.at=7",
        "trainer.nonfinite=skip",
        "trainer.validate_every=0",
        log=records.append,
    )
    model = Net()
    model.load_state_dict(session.model.state_dict())
    trainer.fit()
    optimizer = torch.optim.Adam([model.layer.weight, model.layer.bias], lr=trainer.schedule.rate(), fused=True)
    batches = itertools.chain.from_iterable(trainer.train_batches.epoch(number) for number in range(3))
    for step, (inputs, targets) in enumerate(batches, 1):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        if step != 7:
            optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(value, session.model.state_dict()[name])
    points = [record for record in records if "train/loss" in record]
    assert [record["skipped_steps"] for record in points] == [0, 0, 1, 1, 1]  # at steps 3, 6, 9, 12, 15
    assert all(numpy.isfinite(record["train/loss"]) for record in points)


class Sometimes(plainloop.tasks.Accuracy):
    """A half in the first validation, and half of that in each that follows, but NaN in those of `nan`."""

    def __init__(self, nan: list[int]):
        self.nan, self.computed = nan, 0
        super().__init__()

    def compute(self):
        self.computed += 1
        return torch.tensor(torch.nan if self.computed in self.nan else 0.5**self.computed)


@pytest.mark.parametrize(("nan", "best"), [([1], 2), ([1, 2], 3), ([2], 1), ([2, 3], 1), ([1, 2, 3], None)])
def test_a_metric_that_is_nan_is_never_best(nan, best, tmp_path):
    """Though its epoch is saved as the last one is, and though it comes first."""
    words = [f"metrics.some._target_={HERE}.Sometimes", f"metrics.some.nan={nan}".replace(" ", "")]
    run = plainloop.train([*FRAGILE, *words, "monitor=val/some", "trainer.log_every=50", "checkpoint.keep=9"])
    values = [record["val/some"] for record in run.history()]
    assert values == [None if number in nan else 0.5**number for number in (1, 2, 3)]
    assert steps(run.path) == ["step-10.pt", "step-15.pt", "step-5.pt"]
    path = run.path / "checkpoints/best.pt"
    assert path.exists() == (best is not None)
    if best is not None:
        assert checkpoint.load(path)["position"]["step"] == 5 * best
        assert run.metrics["best/epoch"] == best


def test_a_validation_that_is_nan_is_never_best(tmp_path):
    """The outputs are NaN from the second epoch on."""
    Path("trap").write_text("validation nan")
    run = plainloop.train([*FRAGILE, "trainer.max_epochs=2"])
    assert [record["val/loss"] is None for record in run.history() if "val/loss" in record] == [False, True]
    assert run.metrics["best/epoch"] == 1
    assert checkpoint.load(run.path / "checkpoints/best.pt")["position"]["epoch"] == 1


# --- out of memory --------------------------------------------------------------------------------------------------


def command_in(text: str) -> list[str]:
    """The words of the command that a message ends with."""
    return shlex.split(text.splitlines()[-1].partition(": ")[2])


def batches_of(run: Path) -> tuple[int, int]:
    """Samples per batch, and batches per step."""
    loader, trainer = (OmegaConf.load(run / "config.yaml")[name] for name in ("loader", "trainer"))
    return loader.batch_size, trainer.accumulate_steps


@pytest.mark.parametrize(
    "words",
    [
        "",
        "scheduler=one_cycle",
        "scheduler=cosine loader.drop_last=true",
        "scheduler=one_cycle loader.batch_size=5",
        "loader.batch_size=9",
        "model.norm=true",
        "trainer.accumulate_steps=3",
        "checkpoint.every_steps=1",
    ],
)
def test_the_command_that_is_advised_when_memory_is_full_works(words, tmp_path):
    """Smaller batches, and as many more of them a step, for the run itself; where its schedule can't go on so, for a
    new run from its weights. The trap lets batches of three and less through."""
    Path("trap").write_text("model fill_the_gpu")
    with pytest.raises(MachineError) as caught:
        plainloop.train([*FRAGILE, *words.split()])
    python, script, *typed = command_in(str(caught.value))
    assert (python, script) == ("python", "train.py")
    (run,) = (tmp_path / "outputs/fragile").iterdir()
    before = batches_of(run)
    again = plainloop.train(typed)
    assert again.path.samefile(run) != ("drop_last" in words)
    assert again.metrics["epochs"] == 3
    after = batches_of(again.path)
    assert after[0] < before[0]
    assert after[0] * after[1] == before[0] * before[1]


def test_memory_that_is_full_before_the_first_checkpoint(monkeypatch):
    """There is nothing to continue: what to start with is said."""
    monkeypatch.setattr(sys.modules[HERE], "trapped", lambda: "model fill_torchs_memory")
    with pytest.raises(MachineError) as caught:
        plainloop.train(FRAGILE)
    assert_told(str(caught.value), "out of memory", "loader.batch_size=2 trainer.accumulate_steps=2")
    assert "resume=" not in str(caught.value)
    assert plainloop.train([*FRAGILE, "loader.batch_size=2", "trainer.accumulate_steps=2"]).metrics["epochs"] == 3


def test_a_batch_of_one_cannot_be_halved(monkeypatch):
    """Nothing is advised that would fail again."""
    monkeypatch.setattr(
        sys.modules[HERE].Net, "forward", lambda net, x: net.layer(x) if not net.training else fill_the_gpu()
    )
    with pytest.raises(MachineError) as caught:
        plainloop.train([*FRAGILE, "loader.batch_size=1"])
    assert_told(str(caught.value), "out of memory")
    assert "loader.batch_size=1" not in str(caught.value)
    assert "accumulate_steps=" not in str(caught.value)


def test_memory_that_is_full_in_an_evaluation(copied, monkeypatch):
    """What is advised can be typed: evaluate.py takes no trainer.accumulate_steps."""
    run = copied(*FRAGILE)
    before = contents(run)
    net = sys.modules[HERE].Net
    forward = net.forward
    monkeypatch.setattr(net, "forward", lambda self, x: forward(self, x) if len(x) <= 3 else fill_the_gpu())
    with pytest.raises(MachineError) as caught:
        plainloop.evaluate(run, split="val")
    assert_told(str(caught.value), "out of memory", "loader.batch_size")
    assert "accumulate_steps" not in str(caught.value)
    assert contents(run) == before
    assert plainloop.evaluate(run, split="val", overrides=["loader.batch_size=2"])["val/loss"] > 0


def test_memory_that_is_full_at_the_first_look(monkeypatch, tmp_path):
    """Two samples are too much already: it is told as what it is, before anything is written."""
    monkeypatch.setattr(sys.modules[HERE].Net, "forward", lambda *_: fill_the_gpu())
    with pytest.raises(MachineError) as caught:
        plainloop.train(FRAGILE)
    assert_told(str(caught.value), "out of memory")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_no_memory_holds(tmp_path):
    with pytest.raises(MachineError) as caught:
        plainloop.train([*QUICK, "model.hidden_sizes=[1000000000000]"])
    assert_told(str(caught.value), "out of memory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_typed_the_command_that_is_advised_works(tmp_path):
    Path("trap").write_text("model fill_the_gpu")
    failed = Typed(tmp_path, *FRAGILE).ended()
    assert failed.status == 1
    words = command_in(failed.err)
    assert words[0] == "python"
    done = Typed(tmp_path, sys.executable, *words[1:], script="").ended()
    assert done.status == 0, done.err
    assert done.run == failed.run
    assert done.metrics()["epochs"] == 3


# --- data that nothing can be learned from --------------------------------------------------------------------------


class Given(Dataset):
    """Samples with these labels, in two splits.

    Args:
        train, val: their labels.
        lists: the data set lists its labels in `targets`.
        kind: their type, as int64.
        shape: that of one label.
        classes: how many the data set declares; with 0 they are found among the labels.
    """

    splits = ("train", "val")

    def __init__(
        self,
        split: str,
        train: list[float],
        val: list[float],
        lists: bool = True,
        kind: str = "int64",
        shape: list[int] | None = None,
        classes: int = 2,
    ):
        self.labels = torch.tensor(train if split == "train" else val, dtype=getattr(torch, kind))
        self.labels = self.labels.reshape(-1, *(shape or []))
        self.first = 0 if split == "train" else len(train)
        if classes:
            self.classes = [str(number) for number in range(classes)]
        if lists:
            self.targets = self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return features(self.first + index), self.labels[index]


def given(train: Any, val: Any, *words: str) -> list[str]:
    """The words for a run on such labels."""
    model = [word for word in FRAGILE if word.startswith(("model", "loader", "trainer", "logger"))]
    return [
        *model,
        "data=custom",
        f"data._target_={HERE}.Given",
        f"data.train={list(train)}".replace(" ", ""),
        f"data.val={list(val)}".replace(" ", ""),
        "split.fractions=[1,0,0]",
        "hydra.run.dir=run",
        *words,
    ]


TEN, FOUR = [0, 1] * 5, [1, 0, 0, 1]
NOTHING = [
    ("no training samples", given([], FOUR), "the training split is empty"),
    ("no validation samples", given(TEN, []), "split val"),
    ("one sample for BatchNorm", given([0], [0] * 4, "model.norm=true", "loader.batch_size=4"), "BatchNorm"),
]


@pytest.mark.parametrize(("words", "piece"), [pytest.param(*row[1:], id=row[0]) for row in NOTHING])
def test_data_that_is_empty_is_refused(words, piece, tmp_path):
    with pytest.raises(UserError) as caught:
        plainloop.train(words)
    assert_told(str(caught.value), "data", piece)
    assert list(tmp_path.iterdir()) == []


class DriesUp(IterableDataset):
    """A stream of ten samples in its first epoch, and of none after that."""

    classes = ["even", "odd"]

    def __init__(self, epochs: int):
        self.epochs, self.epoch = epochs, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter([(features(index), index % 2) for index in range(10)] if self.epoch < self.epochs else [])


@pytest.mark.parametrize("how", ["", FORK])
def test_a_stream_that_dries_up_is_noticed(how, tmp_path):
    """No epoch of zero batches passes as trained; the checkpoint before it stands."""
    words = [word for word in FRAGILE if not word.startswith(("data", "split", "name"))]
    words += ["data=custom", f"data._target_={HERE}.DriesUp", "trainer.max_steps=90", "hydra.run.dir=run"]
    with pytest.raises(UserError, match="the training split is empty"):
        plainloop.train([*words, "data.epochs=0"])
    assert not Path("run").exists()
    with pytest.raises(MachineError) as caught:
        plainloop.train([*words, "data.epochs=1", *how.split()])
    assert_told(str(caught.value), "no batch in epoch 2", "resume=run")
    assert checkpoint.load(newest(tmp_path / "run"))["position"]["step"] == 3


@pytest.mark.parametrize(
    ("count", "batch_size", "dropped"), [(9, 4, True), (10, 4, False), (8, 4, False), (5, 2, True)]
)
def test_a_sample_that_is_left_over_is_kept_from_batch_norm(count, batch_size, dropped, capsys):
    """It is said, and another one is left over in each epoch. Without BatchNorm nothing is dropped."""
    labels = [number % 2 for number in range(count)]
    words = given(labels, FOUR, "model.norm=true", f"loader.batch_size={batch_size}")
    run = plainloop.train(words)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note ")]
    assert len(lines) == dropped
    assert all(f"1 of {count} training samples" in line and "dropped" in line for line in lines)
    assert run.metrics["samples"] == 3 * (count - dropped)
    assert run.config.spec.steps_per_epoch == (count - dropped + batch_size - 1) // batch_size
    plain = plainloop.train(
        [word.replace("model.norm=true", "model.norm=false") for word in words[:-4]]
        + [f"loader.batch_size={batch_size}", *words[-4:-3], "hydra.run.dir=plain"]
    )
    assert plain.metrics["samples"] == 3 * count


def test_one_sample_a_batch_is_nothing_for_batch_norm():
    with pytest.raises(UserError) as caught:
        plainloop.train(given(TEN, FOUR, "model.norm=true", "loader.batch_size=1"))
    assert_told(str(caught.value), "BatchNorm", "loader.batch_size")


# --- targets that are ignored ---------------------------------------------------------------------------------------

SOME = [0, -100, 1, -100, -100, 1, 0, 1, -100, 0]


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("lists", ["true", "false"])
def test_a_split_whose_targets_are_all_ignored_is_an_error(split, lists):
    """Never NaN: before the first step where the labels are listed, else when they are seen."""
    labels = {"train": TEN, "val": FOUR, split: [-100] * 4}
    with pytest.raises((UserError, MachineError)) as caught:
        plainloop.train(given(labels["train"], labels["val"], f"data.lists={lists}"))
    assert_told(str(caught.value), "-100", "ignore")
    if lists == "true":
        assert split in str(caught.value)
        assert not Path("run").exists()


def test_a_batch_whose_targets_are_all_ignored_is_an_error():
    """Four batches of two, in order; the third is ignored."""
    with pytest.raises(MachineError) as caught:
        plainloop.train(given([0, 1, 1, 0, -100, -100, 1, 1], FOUR, "loader.batch_size=2", "loader.shuffle=false"))
    assert_told(str(caught.value), "every target of a batch is -100", "loader.batch_size")


IGNORES = [
    ("-100", SOME, [], -100),
    ("-100, unlisted", SOME, ["data.lists=false"], -100),
    ("-1", [-1 if label == -100 else label for label in SOME], ["loss.ignore_index=-1"], -1),
    ("255", [255 if label == -100 else label for label in SOME], ["loss.ignore_index=255"], 255),
    (
        "255, undeclared",
        [255 if label == -100 else label for label in SOME],
        ["loss.ignore_index=255", "data.classes=0"],
        255,
    ),
    ("a class", [2 if label == -100 else label for label in SOME], ["loss.ignore_index=1"], 1),
]


@pytest.mark.parametrize(("labels", "words", "ignored"), [pytest.param(*row[1:], id=row[0]) for row in IGNORES])
def test_what_is_ignored_counts_nowhere(labels, words, ignored):
    """With a rate of zero: losses are torch's own over the rest, whatever the batches; metrics are of the rest."""
    labels = [0 if label == 2 else label for label in labels]
    val = [1, 0, labels[1] if ignored != 1 else 1, 0, 0]
    run = plainloop.train(
        given(
            labels,
            val,
            *words,
            "optimizer=sgd",
            "optimizer.lr=0.0",
            "loader.batch_size=4",
            "trainer.max_epochs=1",
            "loader.shuffle=false",
            "trainer.log_every=1",
        )
    )
    inputs = torch.stack([features(index) for index in range(15)])
    with torch.no_grad():
        logits = run.model(inputs)
    kept = torch.tensor(val) != ignored
    record = run.history()[-1]
    truth = {
        "train/epoch_loss": nn.functional.cross_entropy(logits[:10], torch.tensor(labels), ignore_index=ignored),
        "val/loss": nn.functional.cross_entropy(logits[10:], torch.tensor(val), ignore_index=ignored),
        "val/accuracy": (logits[10:].argmax(1) == torch.tensor(val))[kept].float().mean(),
    }
    for name, value in truth.items():
        assert record[name] == pytest.approx(float(value), rel=1e-6)
    assert run.metrics["samples"] == sum(label != ignored for label in labels)
    points = [record["train/accuracy"] for record in run.history() if "train/accuracy" in record]
    for start, accuracy in zip((0, 4, 8), points, strict=True):
        part = torch.tensor(labels[start : start + 4])
        right = logits[start : min(start + 4, 10)].argmax(1) == part
        assert accuracy == pytest.approx(float(right[part != ignored].float().mean()))


def test_accumulated_steps_weigh_by_what_counts():
    """Two batches of which one has three ignored targets make the step that one large batch makes."""
    labels = [0, -100, -100, -100, 1, 0, 1, 1]
    weights = []
    for size, windows in ((4, 2), (8, 1)):
        run = plainloop.train(
            given(
                labels,
                FOUR,
                "optimizer=sgd",
                "optimizer.lr=0.5",
                f"loader.batch_size={size}",
                f"trainer.accumulate_steps={windows}",
                "loader.shuffle=false",
                f"hydra.run.dir=run{size}",
            )
        )
        weights.append(checkpoint.load(newest(run.path))["model"]["layer.weight"])
    torch.testing.assert_close(weights[0], weights[1])


# --- labels and shapes ----------------------------------------------------------------------------------------------

VALUES = [0.5, -1.0, 2.0, 0.0, 1.5, -0.5, 1.0, 0.2]
LABELS = [
    # id, words, what the answer holds
    ("too large, listed", given([0, 1, 0, 2], FOUR), ("sample 3 of train", "label 2", "2 classes")),
    ("too large, in val", given(TEN, [0, 1, 5, 1]), ("sample 2 of val", "label 5", "2 classes")),
    ("negative, listed", given([0, -1, 0, 1], FOUR), ("sample 1 of train", "label -1")),
    ("too large, unlisted", given([*TEN, 7, 1], FOUR, "data.lists=false"), ("label 7", "classes")),
    ("too large, unlisted, first", given([7, *TEN], FOUR, "data.lists=false"), ("label 7", "classes")),
    ("too large, unlisted, in val", given(TEN, [0, 1, 9], "data.lists=false"), ("label 9", "classes")),
    ("negative, unlisted", given([*TEN, -3, 1], FOUR, "data.lists=false"), ("label -3", "classes")),
    ("2 for binary, listed", given([0, 1, 2, 1], FOUR, "task=binary"), ("sample 2 of train", "label 2")),
    ("2 for binary, unlisted", given([*TEN, 2, 1], FOUR, "task=binary", "data.lists=false"), ("label 2", "classes")),
    ("-1 for binary, unlisted", given([*TEN, -1], FOUR, "task=binary", "data.lists=false"), ("label -1", "classes")),
    ("2 for binary, in val", given(TEN, [0, 2], "task=binary", "data.lists=false"), ("label 2", "classes")),
    ("floats as classes", given(TEN, FOUR, "data.kind=float32"), ("float32", "whole numbers")),
    ("floats, unlisted", given(TEN, FOUR, "data.kind=float32", "data.lists=false"), ("float32", "whole numbers")),
    ("(N, 1) as classes", given(TEN, FOUR, "data.shape=[1]"), ("classes", "(N,)", "(2, 1)")),
    ("(N, 1) for binary", given(TEN, FOUR, "data.shape=[1]", "task=binary"), ("(N,)", "(2, 1)")),
    ("whole numbers as values", given(TEN, FOUR, "task=regression"), ("float", "int64")),
    ("(N, 2) against (N, 1)", given(VALUES, VALUES, "task=regression", "data.kind=float32", "data.shape=[1]"),
     ("outputs", "(2, 2)", "(2, 1)")),
]  # fmt: skip


@pytest.mark.parametrize(("words", "pieces"), [pytest.param(*row[1:], id=row[0]) for row in LABELS])
def test_labels_that_do_not_fit_are_refused(words, pieces):
    """With the first of them, or its type, or its shape."""
    if "task=binary" in words:
        words = [*words, f"model._target_={HERE}.One"]
    with pytest.raises(UserError) as caught:
        plainloop.train(words)
    assert_told(str(caught.value), *pieces)


class One(Net):
    """One output: (N, 1), or (N,) with `flat`."""

    def __init__(self, flat: bool = False):
        super().__init__()
        self.layer, self.flat = nn.Linear(4, 1), flat

    def forward(self, inputs):
        outputs = super().forward(inputs)
        return outputs[:, 0] if self.flat else outputs


ONE = f"model._target_={HERE}.One"
AS_VALUES = ("task=regression", ONE, "data.kind=float32")


@pytest.mark.parametrize(
    "words",
    [AS_VALUES, (*AS_VALUES, "data.shape=[1]"), ("task=binary", ONE)],
    ids=["values, scalar", "values, one each", "binary"],
)
def test_flat_outputs_never_meet_targets_in_a_column(words):
    """(N,) against (N, 1) would compare each sample with all others."""
    labels = [0, 1] * 4 if "task=binary" in words else VALUES
    with pytest.raises(UserError) as caught:
        plainloop.train(given(labels, labels, *words, "model.flat=true"))
    assert_told(
        str(caught.value), "outputs are float32 of shape (2,)", "(N, 1)" if "task=binary" in words else "(2, 1)"
    )


def test_a_number_per_sample_is_a_column():
    """Targets () and (1,) per sample are the same to a model that returns (N, 1): each is compared with its own."""
    metrics = []
    for name, shape in (("scalar", "null"), ("column", "[1]")):
        run = plainloop.train(
            given(
                VALUES,
                VALUES,
                *AS_VALUES,
                f"data.shape={shape}",
                f"hydra.run.dir={name}",
                "optimizer=sgd",
                "optimizer.lr=0.0",
                "trainer.max_epochs=1",
            )
        )
        metrics.append({name: value for name, value in run.metrics.items() if name != "seconds"})
    assert metrics[0] == metrics[1]
    with torch.no_grad():
        outputs = run.model(torch.stack([features(8 + index) for index in range(8)]))[:, 0]
    targets = (torch.tensor(VALUES) - numpy.mean(VALUES)) / numpy.std(VALUES)
    assert run.metrics["val/loss"] == pytest.approx(float((outputs - targets).square().mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["int32", "uint8", "int16"])
def test_whole_numbers_of_any_width_are_classes(kind):
    """Trained, with the same result, or refused by their type."""
    run = plainloop.train(given(TEN, FOUR))
    try:
        other = plainloop.train(given(TEN, FOUR, f"data.kind={kind}", "hydra.run.dir=other"))
    except UserError as error:
        assert_told(str(error), kind, "int64")
    else:
        assert other.metrics["val/loss"] == run.metrics["val/loss"]


# --- what comes from strangers --------------------------------------------------------------------------------------


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, file: Path):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


def sealed(data: bytes) -> bytes:
    """With a digest behind it that is right: who can write a file can do this too."""
    return data + hashlib.sha256(data).digest() + checkpoint.MAGIC


def evil_files(file: Path) -> dict[str, bytes]:
    """A pickle with code in it, by itself and where torch puts it, with our digest and without."""
    import io

    state, zipped = {"model": Evil(file), "position": {"step": 99}}, io.BytesIO()
    torch.save(state, zipped)
    legacy = io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    kinds = {"pickle": pickle.dumps(state), "torch": zipped.getvalue(), "old torch": legacy.getvalue()}
    return {**kinds, **{f"{name}, sealed": sealed(data) for name, data in kinds.items()}}


EVIL = ["pickle", "torch", "old torch", "pickle, sealed", "torch, sealed", "old torch, sealed"]


@pytest.mark.parametrize("kind", EVIL)
def test_code_in_the_newest_checkpoint_is_not_run(kind, trained, copied, tmp_path):
    """It is passed over as a damaged one is, or refused."""
    executed = tmp_path / "executed"
    run = copied(*QUICK)
    path = newest(run)
    for way in (
        lambda: plainloop.train([f"resume={run}"]),
        lambda: plainloop.train([f"extend={run}"]),
        lambda: plainloop.evaluate(run, split="val", checkpoint="last"),
    ):
        path.write_bytes(evil_files(executed)[kind])
        before = contents(run / "checkpoints")
        try:
            way()
        except (MachineError, UserError) as error:
            assert_told(str(error), str(path))
            assert contents(run / "checkpoints") == before
        assert not executed.exists()
    pickle.loads(evil_files(executed)["pickle"])["model"].close()  # what is in it does work
    assert executed.exists()


@pytest.mark.parametrize("kind", EVIL)
def test_code_in_the_best_or_a_given_checkpoint_is_not_run(kind, copied, tmp_path):
    executed = tmp_path / "executed"
    run = copied(*QUICK)
    (tmp_path / "given.pt").write_bytes(evil_files(executed)[kind])
    shutil.copyfile(tmp_path / "given.pt", run / "checkpoints/best.pt")
    before = contents(run)
    for name, way in (
        ("best.pt", lambda: plainloop.evaluate(run, split="val")),
        ("best.pt", lambda: plainloop.load_run(run)),
        ("given.pt", lambda: plainloop.evaluate(run, split="val", checkpoint="given.pt")),
    ):
        with pytest.raises((MachineError, UserError)) as caught:
            way()
        assert_told(str(caught.value), name)
        assert not executed.exists()
    assert contents(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["torch, sealed", "pickle, sealed"])
def test_typed_code_in_a_checkpoint_is_not_run(kind, copied, tmp_path):
    executed = tmp_path / "executed"
    run = copied(*QUICK)
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(evil_files(executed)[kind])
    before = contents(run)
    for script, words in (("evaluate.py", ["run=run"]), ("train.py", ["resume=run"])):
        done = Typed(tmp_path, *words, script=script).ended()
        assert done.status in (1, 2), done.err
        assert_told(done.err, "error: ", "run/checkpoints")
    assert not executed.exists()
    assert contents(run) == before


SOURCES = [
    "os.system",
    "torch.hub.load",
    "torch.load",
    "torch.hub.load_state_dict_from_url",
    "pickle.load",
    "subprocess.Popen",
]


@pytest.mark.parametrize("target", SOURCES)
def test_what_loads_code_is_no_target(target, copied, tmp_path):
    """Neither typed nor in a stranger's run, which says that it is trusted."""
    run = copied(*QUICK)
    for file in (run / "composed.yaml", run / "config.yaml"):
        cfg = OmegaConf.load(file)
        cfg.model, cfg.trust = {"_target_": target}, [target]
        OmegaConf.save(cfg, file)
    before = contents(run)
    for way in (
        lambda: plainloop.train(["model=custom", f"model._target_={target}"]),
        lambda: plainloop.train([f"resume={run}"]),
        lambda: plainloop.train([f"extend={run}"]),
        lambda: plainloop.evaluate(run),
    ):
        with pytest.raises(UserError) as caught:
            way()
        assert_told(str(caught.value), f"model._target_={target}")
    assert contents(run) == before
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("file", ["config.yaml", "composed.yaml"])
def test_yaml_that_would_call_something_does_not(file, copied, tmp_path):
    """Whether it is read at all or not; where it is, it is refused."""
    executed = tmp_path / "executed"
    run = copied(*QUICK)
    text = (run / file).read_text()
    assert "seed: 0\n" in text
    (run / file).write_text(text.replace("seed: 0\n", f"seed: !!python/object/apply:os.system ['touch {executed}']\n"))
    for way in (lambda: plainloop.evaluate(run, split="val"), lambda: plainloop.train([f"resume={run}"])):
        if file == "composed.yaml":
            with pytest.raises(UserError) as caught:
                way()
            assert_told(str(caught.value), file)
        else:
            way()
        assert not executed.exists()


def crafted_archive(folder: Path) -> Path:
    """An archive with CIFAR-10's name whose members want to lie elsewhere."""
    import io

    folder.mkdir()
    archive = folder / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("cifar-10-batches-py")
        link.type, link.linkname = tarfile.SYMTYPE, ".."
        tar.addfile(link)
        for name in ("../outside", "cifar-10-batches-py/outside", str(folder.parent / "outside"), "inside"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    return archive


@pytest.mark.parametrize("lies", ["there", "on the server"])
def test_an_archive_with_another_digest_is_not_opened(lies, tmp_path, monkeypatch):
    """Whether it lies in the folder already or is what the server gives: nothing is taken out of it."""
    made = crafted_archive(tmp_path / "made")
    url = made.as_uri() if lies == "on the server" else (tmp_path / "nowhere").as_uri()
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", url)
    if lies == "there":
        shutil.copytree(made.parent, tmp_path / "data")
    with pytest.raises(UserError) as caught:
        plainloop.train(["data=cifar10", "paths.data=data"])
    assert_told(str(caught.value), "CIFAR10", "paths.data=FOLDER")
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in found} == {made.name}


def test_an_archive_never_writes_outside_its_folder(tmp_path, monkeypatch):
    """Even one whose digest is right."""
    made = crafted_archive(tmp_path / "data")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", hashlib.md5(made.read_bytes()).hexdigest())
    with pytest.raises(UserError):
        plainloop.train(["data=cifar10", "paths.data=data"])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.slow
def test_typed_an_archive_with_another_digest_is_not_opened(tmp_path):
    """There is no network: the proxy's port is closed."""
    made = crafted_archive(tmp_path / "data")
    nowhere = dict.fromkeys(
        ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    done = Typed(tmp_path, "data=cifar10", "paths.data=data", env=nowhere).ended()
    assert done.status == 2
    assert_told(done.err, "error: CIFAR10 is not in data and could not be downloaded", "paths.data=FOLDER")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [made]


@pytest.mark.parametrize("name", ["inputs", "targets", "classes"])
def test_code_in_arrays_is_not_run(name, tmp_path):
    executed = tmp_path / "executed"
    write_arrays()
    with numpy.load("mine.npz") as held:
        arrays = {**held, name: numpy.array([Evil(executed)] * len(held[name]), dtype=object)}
    numpy.savez("mine.npz", **arrays)
    with pytest.raises(UserError) as caught:
        plainloop.train(["data.path=mine.npz", "data.inputs=inputs", "data.targets=targets"])
    assert_told(str(caught.value), "mine.npz", "Python objects", "could run code")
    assert not executed.exists()
    assert not (tmp_path / "outputs").exists()


# --- state that could not be loaded again ---------------------------------------------------------------------------


class Remembers(Callback):
    """Remembers words: in a list, and after `good` epochs in a set."""

    def __init__(self, good: int = 0):
        self.good, self.epochs = good, 0

    def on_epoch_end(self, trainer, record) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        words = ["seen", "words"]
        return {"deep": [{"seen": words if self.epochs <= self.good else set(words)}]}


@pytest.mark.parametrize("good", [0, 1])
def test_state_that_is_not_plain_is_found_when_it_is_saved(good, tmp_path):
    """And not when it is needed: with its place, and with what was saved before as it was."""
    words = [f"callbacks.mine._target_={HERE}.Remembers", f"callbacks.mine.good={good}", "hydra.run.dir=run"]
    with pytest.raises(TypeError, match=r"state\.callbacks\.mine\.deep\[0\]\.seen is a set"):
        plainloop.train([*QUICK, *words])
    assert steps(tmp_path / "run") == ["step-10.pt"] * good
    if good:
        assert checkpoint.load(newest(tmp_path / "run"))["position"]["step"] == 10


# --- one case of each class that is told before the first step, typed -----------------------------------------------

TYPED = [
    ("all are damaged", "train.py", "resume=run", 1, ("run/checkpoints", "all 2 are damaged")),
    ("AdamW for SGD", "train.py", "resume=run", 2, ("optimizer", "AdamW", "SGD")),
    ("best is damaged", "evaluate.py", "run=run", 1, ("best.pt", "checkpoint=last")),
    ("no samples", "train.py", " ".join(NOTHING[0][1]), 2, ("the training split is empty",)),
    ("all are ignored", "train.py", " ".join(given(TEN, [-100] * 3)), 2, ("every target of val is -100",)),
    ("a label too large", "train.py", " ".join(LABELS[0][1]), 2, ("sample 3 of train", "label 2")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "script", "words", "status", "pieces"), TYPED, ids=lambda value: str(value)[:20])
def test_typed_what_is_told_before_the_first_step(name, script, words, status, pieces, copied, trained, tmp_path):
    if "run=run" in words or "resume=run" in words:
        run = copied(*QUICK, "optimizer=sgd")
        if name == "AdamW for SGD":
            shutil.copyfile(newest(trained(*QUICK, "optimizer=adamw")), run / "checkpoints/step-31.pt")
        elif name == "best is damaged":
            best = run / "checkpoints/best.pt"
            best.write_bytes(SPOIL_ONE(best.read_bytes()))
        else:
            spoil_all(run)
    before = contents(tmp_path)
    done = Typed(tmp_path, *words.split(), script=script).ended()
    assert done.status == status, done.err
    assert_told(done.err, "error: ", *pieces)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_typed_the_newest_is_damaged(copied, trained):
    run = copied(*QUICK)
    path = newest(run)
    path.write_bytes(SPOIL_ONE(path.read_bytes()))
    done = Typed(run.parent, "resume=run").ended()
    assert done.status == 0
    assert "warning: run/checkpoints/step-30.pt is damaged" in done.out
    assert "Falling back to the one before." in done.out
    assert_same_end(run, trained(*QUICK))


@pytest.mark.slow
def test_typed_a_sample_that_is_left_over_is_said(tmp_path):
    done = Typed(tmp_path, *given([0, 1] * 4 + [0], FOUR, "model.norm=true", "loader.batch_size=4")).ended()
    assert done.status == 0
    assert done.err == ""
    assert "note    1 of 9 training samples is left over" in done.out
