"""A signal finishes the step, saves, and says how to go on; a second one ends at once; SIGUSR1 saves and goes on.

The real commands here train on a data set and with a callback of the user's own, which say where the run is and stay
there for as long as there is a file `hold-PLACE`: so every signal comes exactly where it is wanted.
"""

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import plainloop
from plainloop.runs import checkpoint
from plainloop.runs.checkpoint import Checkpoints
from plainloop.training.trainer import Trainer
from tests.conftest import ROOT, Typed, one_in
from tests.plainloop.runs.test_checkpoint import assert_same

CAUGHT = '''
import multiprocessing
import os
import time
from pathlib import Path

import torch
from torch.utils.data import Dataset

from plainloop.training.callbacks import Callback


def pause(place):
    """Say that this place is reached, and stay as long as there is a file hold-PLACE."""
    if os.path.exists(f"hold-{place}"):
        Path(f"at-{place}").touch()
        while os.path.exists(f"hold-{place}"):
            time.sleep(0.01)


loading = multiprocessing.current_process().name != "MainProcess"
if not loading:
    pause("import")


class Points(Dataset):
    """Points (4,) of two classes, moved a little by chance; 5 batches of 8 to train on."""

    classes = ("no", "yes")

    def __init__(self, split):
        generator = torch.Generator().manual_seed(sum(map(ord, split)))
        self.points = torch.randn(40 if split == "train" else 16, 4, generator=generator)
        self.targets = (self.points.sum(1) > 0).long()
        self.split = split

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        if os.path.exists("epoch-1"):
            pause(self.split)
        return self.points[index] + 0.1 * torch.randn(4), self.targets[index]

    def __setstate__(self, state):
        self.__dict__.update(state)
        if loading:
            pause("start")


class Told(Callback):
    def on_start(self, trainer):
        """A checkpoint is written, and not yet synced and renamed."""
        sync = os.fsync

        def held(file):
            if os.path.exists("epoch-1") and list(Path.cwd().rglob("checkpoints/.*.tmp")):
                pause("save")
            sync(file)

        os.fsync = held

    def on_epoch_end(self, trainer, record):
        Path("epoch-1").touch()
'''
WORDS = [
    "data=custom", "data._target_=caught.Points", "callbacks.caught._target_=caught.Told", "model=mlp",
    "model.hidden_sizes=[8]", "model.dropout=0.2", "scheduler=one_cycle", "trainer.ema_decay=0.9",
    "trainer.max_epochs=3", "trainer.log_every=2", "loader.batch_size=8", "checkpoint.every_steps=2",
    "checkpoint.keep=99", "logger=none", "hydra.run.dir=run",
]  # fmt: skip
TRUSTED = "caught.Points,caught.Told"  # they lie in the working directory, and a run's own config names them
SAID = "finishing the step, then saving; once more ends at once"
PATIENCE = 250  # seconds until something must have happened; below loader.timeout


# --- a command that is caught somewhere -----------------------------------------------------------------------


class Caught(Typed):
    """`python train.py words...`, running in a folder, in a process group of its own, as a shell starts it."""

    def __init__(self, folder: Path, *words: str, workers: str = "none", hold: str = "", **how: Any):
        self.place = hold
        (folder / "caught.py").write_text(CAUGHT)
        (folder / f"hold-{hold}").touch()
        loading = ["loader.num_workers=0"]
        if workers != "none":
            count = 2 if workers == "fork" else 1  # elsewhere each imports torch, for each split
            loading = [f"loader.num_workers={count}", f"loader.multiprocessing_context={workers}"]
        with heeded():
            super().__init__("train.py", *WORDS, *loading, *words, folder=folder, **how)

    def until(self, reached: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not reached():
            assert self.process.poll() is None, f"it has ended before {what}: {self.said()}"
            assert time.monotonic() < end, f"never seen: {what}; {self.said()}"
            time.sleep(0.01)

    def caught(self) -> None:
        """Wait until it is where it is held."""
        self.until((self.folder / f"at-{self.place}").exists, f"at-{self.place}")

    def send(self, number: int, target: str) -> None:
        """A signal to the main process alone, or to the whole group."""
        (os.killpg if target == "group" else os.kill)(self.process.pid, number)

    def release(self) -> None:
        (self.folder / f"hold-{self.place}").unlink()

    def over(self) -> tuple[int, str]:
        """Its exit status and what it has said, once it has ended and nothing of its group is left."""
        try:
            done = self.ended(PATIENCE)
            end = time.monotonic() + PATIENCE
            while alive(self.process.pid):
                assert time.monotonic() < end, "processes are left"
                time.sleep(0.05)
        finally:
            self.end()
        assert "Traceback" not in done.err, done.err
        assert "Exception ignored" not in done.err, done.err
        return done.status, done.err

    def end(self) -> None:
        if alive(self.process.pid):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def heeded() -> Iterator[None]:
    """What is started here hears signals as in a terminal, also where these tests run in the background or under
    nohup and ignore some: what is ignored is inherited, what is handled isn't."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def alive(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[Callable[..., Caught]]:
    """`typed("word", workers="fork", hold="train")`; nothing that it starts outlives the test."""
    started: list[Caught] = []

    def start(*words: str, **how: Any) -> Caught:
        started.append(Caught(tmp_path, *words, **how))
        return started[-1]

    yield start
    for each in started:
        each.end()


# --- what must have come of it --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "caught.py").write_text(CAUGHT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr(os, "fsync", os.fsync)  # given back as it was
        plainloop.train(WORDS)
    return folder / "run"


@pytest.fixture
def resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., plainloop.Run]:
    """Go on in this process with what a command has left behind."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(os, "fsync", os.fsync)
    return lambda *words: plainloop.train([*words, "loader.num_workers=0", "loader.multiprocessing_context=null"])


def comparable(run: Path) -> list[dict[str, Any]]:
    """The history without what a clock measured."""
    records = plainloop.Run(run, None, {}).history()  # type: ignore[arg-type]
    return [{name: value for name, value in record.items() if name != "samples_per_second"} for record in records]


def assert_equal_runs(run: Path, other: Path) -> None:
    """The same history, and the same bits in the last checkpoint."""
    assert comparable(run) == comparable(other)
    one, two = (Checkpoints(each / "checkpoints").last()[1] for each in (run, other))
    own = ("fingerprint", "seconds", "loggers")  # how many workers there are, and what a clock measured
    for key in one:
        if key not in own:
            assert_same(one[key], two[key])


def steps_saved(run: Path) -> set[int]:
    return {checkpoint.step_of(path) for path in (run / "checkpoints").glob("step-*.pt")}


# --- one signal -----------------------------------------------------------------------------------------------

FACTORS: dict[str, tuple[str, ...]] = {
    "workers": ("none", "fork", "spawn", "forkserver"),
    "number": ("SIGINT", "SIGTERM", "SIGHUP"),
    "hold": ("train", "val", "save"),
    "target": ("main", "group"),
}


def pairs(row: dict[str, str]) -> set[tuple[tuple[str, str], ...]]:
    return set(itertools.combinations(sorted(row.items()), 2))


def covering(factors: dict[str, tuple[str, ...]]) -> list[dict[str, str]]:
    """Few rows in which every pair of values of two factors occurs: always the row with the most pairs that are
    still missing."""
    rows = [dict(zip(factors, values, strict=True)) for values in itertools.product(*factors.values())]
    missing, chosen = set().union(*map(pairs, rows)), []
    while missing:
        chosen.append(max(rows, key=lambda row: len(pairs(row) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


ROWS = covering(FACTORS)


def test_every_pair_of_circumstances_is_tried():
    for (one, values), (other, others) in itertools.combinations(FACTORS.items(), 2):
        tried = {(row[one], row[other]) for row in ROWS}
        assert tried == set(itertools.product(values, others))
    assert len(ROWS) <= 15  # at least 4 x 3, of 72


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(row.values()))
def test_a_signal_finishes_the_step_saves_and_the_resumed_run_is_the_same(row, typed, resume, whole):
    """In the first step of the second epoch, in its validation, or when the first epoch is being saved."""
    run = typed(workers=row["workers"], hold=row["hold"], cold=row == ROWS[0])
    run.caught()
    number = getattr(signal, row["number"])
    run.send(number, row["target"])
    run.until(lambda: SAID in run.said(), SAID)
    run.release()
    status, said = run.over()
    assert status == 128 + number
    assert said.count(SAID) == 1
    saved = int(said.split("stopped: stopped by a signal and saved at step ")[1].split(".")[0])
    assert saved in {"train": (6,), "val": (10,), "save": (5, 6)}[row["hold"]]
    how = said.split(f"saved at step {saved}.\nContinue from the last checkpoint with: ")[1]
    assert how == f"python {ROOT}/train.py resume=run 'trust=[{TRUSTED}]'\n"
    directory = run.folder / "run"
    assert max(steps_saved(directory)) == saved
    assert not list(directory.rglob("*.tmp"))
    resume("resume=run")
    assert_equal_runs(directory, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "number"), [("spawn", signal.SIGINT), ("forkserver", signal.SIGTERM)], ids=["spawn", "forkserver"]
)
def test_a_signal_while_the_workers_start_waits_for_them(number, workers, typed, resume, whole):
    """To the whole group, and to processes that couldn't yet say what they do about signals."""
    run = typed(workers=workers, hold="start")
    run.caught()
    run.send(number, "group")
    run.until(lambda: SAID in run.said(), SAID)
    run.release()
    status, said = run.over()
    assert status == 128 + number
    assert "saved at step 1." in said
    resume("resume=run")
    assert_equal_runs(run.folder / "run", whole)


# --- a second one ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "target", "workers", "hold"),
    [
        ("SIGINT", "SIGINT", "group", "forkserver", "train"),
        ("SIGTERM", "SIGTERM", "main", "fork", "train"),
        ("SIGINT", "SIGTERM", "main", "forkserver", "val"),
        ("SIGTERM", "SIGINT", "main", "none", "save"),
    ],
    ids=lambda word: word,
)
def test_a_second_signal_ends_it_at_once(first, second, target, workers, hold, typed, resume, whole):
    """Whatever hangs goes on hanging: a sample in a loading process or in the main one, a disk."""
    run = typed(workers=workers, hold=hold, cold=(workers, hold) == ("none", "train"))
    run.caught()
    run.send(getattr(signal, first), target)
    run.until(lambda: SAID in run.said(), SAID)
    before = steps_saved(run.folder / "run")
    run.send(getattr(signal, second), target)
    status, said = run.over()
    assert status == 128 + getattr(signal, second)
    assert "stopped: ended at once by a second signal.\nContinue from the last checkpoint with: " in said
    assert steps_saved(run.folder / "run") == before
    run.release()
    resume("resume=run")
    assert_equal_runs(run.folder / "run", whole)


# --- one that nobody hears ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "hold"),
    [("fork", "train"), ("forkserver", "train"), ("spawn", "start")],
)
def test_what_loads_ends_with_a_main_process_that_was_killed(workers, hold, typed, resume, whole):
    """In the middle of a sample at once, and while it is being started as soon as it has been; and then nobody holds
    the run directory any more."""
    run = typed(workers=workers, hold=hold)
    run.caught()
    run.send(signal.SIGKILL, "main")
    if hold == "start":
        run.process.wait()
        run.release()
    status, _ = run.over()
    assert status == -signal.SIGKILL
    (run.folder / f"hold-{hold}").unlink(missing_ok=True)
    resume(*WORDS, "resume=auto")
    assert_equal_runs(run.folder / "run", whole)


# --- SIGUSR1 --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("target", "workers"), [("main", "none"), ("group", "forkserver")])
def test_sigusr1_saves_and_goes_on(target, workers, typed, whole):
    """Where nothing but an epoch's end is saved otherwise, every 5 steps."""
    run = typed("checkpoint.every_steps=null", workers=workers, hold="train")
    run.caught()
    run.send(signal.SIGUSR1, target)
    run.release()
    status, said = run.over()
    assert status == 0, said
    assert "stopped" not in said
    assert steps_saved(run.folder / "run") == {5, 6, 10, 15}
    assert_equal_runs(run.folder / "run", whole)


@pytest.mark.slow
def test_sigusr1_before_the_first_step_is_no_reason_to_end(typed, whole):
    """There is nothing to save yet."""
    run = typed(hold="import")
    run.caught()
    run.send(signal.SIGUSR1, "group")
    run.release()
    status, said = run.over()
    assert status == 0, said
    assert_equal_runs(run.folder / "run", whole)


# --- before the first step ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_before_anything_is_written_leaves_nothing(number, typed, resume, whole):
    run = typed("resume=auto", hold="import", cold=number == signal.SIGINT)
    run.caught()
    run.send(number, "group")
    status, said = run.over()
    assert status == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert said == ("stopped: interrupted before the first step; nothing was saved.\n" if status == 130 else "")
    assert not list((run.folder / "run").iterdir())  # the folder is Hydra's
    run.release()
    resume(*WORDS, "resume=auto")
    assert_equal_runs(run.folder / "run", whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_directory_that_is_half_made_is_started_anew(number, typed, resume, whole, tmp_path):
    """The run is caught while it asks git for the commit: there is a config.yaml, and not everything else."""
    git = tmp_path / "bin/git"
    git.parent.mkdir()
    git.write_text("#!/bin/sh\ntouch at-git\nwhile [ -e hold-git ]; do sleep 0.05; done\n")
    git.chmod(0o755)
    run = typed("resume=auto", hold="git", env={"PATH": f"{git.parent}{os.pathsep}{os.environ['PATH']}"})
    run.caught()
    run.send(number, "group")
    status, _ = run.over()
    assert status == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert (run.folder / "run/config.yaml").exists()
    assert not (run.folder / "run/environment.json").exists()
    run.release()
    resume(*WORDS, "resume=auto")
    assert_equal_runs(run.folder / "run", whole)


# --- in this process ------------------------------------------------------------------------------------------

QUICK = ["model.dropout=0.3", "trainer.log_every=7", "logger=none"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "last"),
    one_in(3, [("trainer.max_steps=60", 60), ("trainer.stop_below=99", 40), ("trainer.max_epochs=1", 40)]),
)
@pytest.mark.parametrize("where", one_in(2, ["train_step", "validate"]))
def test_what_belongs_to_the_last_step_is_made_up_for(where, length, last, monkeypatch):
    """A signal in the run's last step, or in the validation after it: the resumed run validates, and selects."""
    undisturbed = plainloop.train([*QUICK, length])
    assert undisturbed.metrics["steps"] == last
    method = getattr(Trainer, where)
    position = last - 1 if where == "train_step" else last

    def interrupted(self, *given):
        if self.step == position:
            self.signal = signal.SIGTERM
        return method(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, where, interrupted)
        with pytest.raises(KeyboardInterrupt, match=f"saved at step {last}"):
            plainloop.train([*QUICK, length, "name=stopped"])
    resumed = plainloop.train(["resume=latest"])
    assert resumed.path.parent.name == "stopped"
    assert_equal_runs(resumed.path, undisturbed.path)
    assert {**resumed.metrics, "seconds": 0} == {**undisturbed.metrics, "seconds": 0}


def test_handlers_are_given_back():
    """A notebook's Ctrl-C is its own again."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    plainloop.train([*QUICK, "trainer.max_steps=1"])
    assert [signal.getsignal(number) for number in numbers] == before


def test_it_trains_in_a_thread_which_hears_no_signals():
    runs: list[plainloop.Run] = []
    thread = threading.Thread(target=lambda: runs.append(plainloop.train([*QUICK, "trainer.max_steps=1"])))
    thread.start()
    thread.join()
    assert runs[0].metrics["steps"] == 1
