"""What can go wrong with the machine, and what comes of it: a non-zero status (or the fallback that is promised),
one or two lines with cause and remedy, no process left over, and the last good state as it was.

One case of each class goes through the real command, the variants are driven in process. What goes wrong on the way
is written into a file `trap`: it happens as soon as the run has a checkpoint, and no more when the file is gone. Here
are the data set and the model to which it happens, and what all chapters look at.
"""

import hashlib
import itertools
import json
import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, get_worker_info

from plainloop.runs import checkpoint
from plainloop.runs.checkpoint import Checkpoints
from plainloop.training.callbacks import Callback
from tests import conftest
from tests.conftest import ROOT, Done, path_of
from tests.plainloop.runs.test_checkpoint import assert_same

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
FRAGILE = ("data=custom", f"data._target_={path_of(Samples)}", "model=custom", f"model._target_={path_of(Net)}",
           "split.fractions=[0.75,0.25,0]", "loader.batch_size=4", "trainer.max_epochs=3", "trainer.log_every=3",
           "logger=none", "metrics=none", "monitor=val/loss", "name=fragile")  # fmt: skip


TRUSTED = f"trust=[{path_of(Samples)},{path_of(Net)}]"  # what a run's own config may not name without a word


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


class Typed(conftest.Typed):
    """A command that is typed; what fails in it stands in these tests."""

    def __init__(
        self,
        folder: Path,
        *words: str,
        script: str = "train.py",
        env: dict[str, str] | None = None,
        cold: bool = False,
    ):
        super().__init__(script, *words, folder=folder, env={"PYTHONPATH": str(ROOT), **(env or {})}, cold=cold)

    def ended(self, timeout: float = 240) -> Done:
        """Wait for its end, and for that of all processes that it has started."""
        done = super().ended(timeout)
        assert_none_is_left(self.process.pid)
        return done


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


SPOIL_ONE = DAMAGE["a bit of a weight at 0.5"]


def spoil_all(run: Path) -> None:
    """Every step-N.pt, each in another way."""
    for path, spoil in zip(Checkpoints(run / "checkpoints").all(), (SPOIL_ONE, cut(0.5)), strict=True):
        path.write_bytes(spoil(path.read_bytes()))


def write_arrays(count: int = 40, names: str = "abcd", first_pixel: int = 0) -> None:
    """mine.npz: images of 2 x 2 in four classes."""
    images = (numpy.arange(count * 4) % 251).astype("uint8").reshape(count, 1, 2, 2)
    images[:, 0, 0, 0] += numpy.uint8(first_pixel)
    numpy.savez("mine.npz", inputs=images, targets=numpy.arange(count) % 4, classes=numpy.array(list(names)))


FORK = "loader.num_workers=2 loader.multiprocessing_context=fork"


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
        f"data._target_={path_of(Given)}",
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


def sealed(data: bytes) -> bytes:
    """With a digest behind it that is right: who can write a file can do this too."""
    return data + hashlib.sha256(data).digest() + checkpoint.MAGIC
