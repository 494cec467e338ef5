"""Whether a run survives `kill -9`: it is killed at random instants and started again, until it has finished, and must
then equal one that was never interrupted, bit for bit.

One run is trained without interruption, for reference. Then others are started with the same command line, as a
cluster would (`hydra.run.dir=DIR resume=auto`), each time with another number of loading processes and another way to
start them, and killed: the main process alone, or its whole group, while it starts, trains, validates or saves. A
process that was killed is followed by the next at once. After each kill every checkpoint is read back, and the loading
processes must end by themselves. At the end of each run are compared: the history, line by line; all tensors and
numbers of the last and the best checkpoint; metrics.json; and TensorBoard's curves, read as TensorBoard reads them.

    python benchmarks/kill.py [--kills 300] [--epochs 10] [--seed 0] [--json FILE]

About ten seconds a kill. The exit status is 1 if anything was wrong; the working folder is then left for a look at it.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch

from plainloop.errors import MachineError
from plainloop.runs import checkpoint
from plainloop.runs.checkpoint import Checkpoints

TRAIN = str(Path(__file__).resolve().parents[1] / "train.py")
# A data set that draws from all three generators for every sample, and takes its time.
AUGMENTED = '''
import random
import time

import numpy
import torch
from torch.utils.data import Dataset


class Augmented(Dataset):
    """Images (1, 8, 8) of four classes, mirrored, shifted and blurred by chance whenever they are fetched."""

    classes = ("a", "b", "c", "d")

    def __init__(self, count=300, delay=0.004):
        generator = torch.Generator().manual_seed(0)
        self.targets = torch.randint(len(self.classes), (count,), generator=generator)
        kinds = torch.randn(len(self.classes), 1, 8, 8, generator=generator)
        self.images = kinds[self.targets] + torch.randn(count, 1, 8, 8, generator=generator)
        self.delay = delay

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        time.sleep(self.delay)
        image = self.images[index]
        if random.random() < 0.5:
            image = image.flip(2)
        image = image.roll(int(numpy.random.randint(-1, 2)), dims=1)
        return image + 0.1 * torch.randn(1, 8, 8), self.targets[index]
'''
# A trainer that writes down what it is at, so that one can choose when to kill it, and knows what was hit.
WATCHED = """
import contextlib
import os

from plainloop.training.trainer import Trainer


class Watched(Trainer):
    file = os.open("phase", os.O_RDWR | os.O_CREAT)
    now, count = "start-up", 0

    @contextlib.contextmanager
    def phase(self, name):
        before, Watched.now = self.now, name
        self.tell()
        yield
        Watched.now = before
        self.tell()

    def tell(self):
        Watched.count += 1
        os.pwrite(self.file, f"{self.now:12}{self.count:8}".encode(), 0)

    def fit(self):
        with self.phase("training"):
            super().fit()
        Watched.now = "end"
        self.tell()

    def validate(self):
        with self.phase("validation"):
            return super().validate()

    def _save(self, best):
        with self.phase("saving"):
            super()._save(best)
"""
# 240 samples to train on: 15 steps of two batches in each epoch.
WORDS = (
    "data=custom", "data._target_=augmented.Augmented", "task=multiclass", "trainer._target_=watched.Watched",
    "model=cnn", "model.channels=[4,8]", "model.dropout=0.2", "scheduler=one_cycle", "trainer.ema_decay=0.9",
    "trainer.accumulate_steps=2", "trainer.max_grad_norm=1", "trainer.log_every=2",
    "loader.batch_size=8", "checkpoint.every_steps=3", "logger=tensorboard",
)  # fmt: skip
WORKERS, METHODS = (0, 1, 2, 4), ("fork", "spawn", "forkserver")
OWN = ("fingerprint", "seconds", "loggers")  # of a checkpoint: how many workers there are, what a clock measured
PATIENCE = 600  # seconds until something must have happened


# --- one process ----------------------------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Write the modules that the runs use into the folder where the commands will be typed."""
    (folder / "augmented.py").write_text(AUGMENTED)
    (folder / "watched.py").write_text(WATCHED)


class Life:
    """`python train.py hydra.run.dir=DIR resume=auto ...`, running.

    Args:
        folder: where it is typed.
        name: the run directory in it.
        words: of the command.
        workers, method: how many loading processes, and how they are started.
    """

    def __init__(self, folder: Path, name: str, words: Sequence[str], workers: int = 0, method: str = "forkserver"):
        self.folder, self.run = folder, folder / name
        (folder / "phase").write_text(f"{'start-up':12}{0:8}")
        self.loading = f"{workers} workers by {method}" if workers else "no workers"
        how = method if workers else "null"
        own = (
            f"hydra.run.dir={name}",
            "resume=auto",
            f"loader.num_workers={workers}",
            f"loader.multiprocessing_context={how}",
        )
        self.screen = open(folder / f"{name}.err", "w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, TRAIN, *words, *own],
            cwd=folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=self.screen,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.began = time.monotonic()

    def phase(self) -> tuple[str, int]:
        """What it is at, and how many times that has changed."""
        name, count = (self.folder / "phase").read_text().split()
        return name, int(count)

    def moments(self, pause: float = 0.001) -> Iterator[None]:
        """Goes on as long as the process does. Raises TimeoutError where nothing else ends the wait."""
        started = time.monotonic()
        while self.process.poll() is None:
            if time.monotonic() - started > PATIENCE:
                self.kill(group=True)
                raise TimeoutError(f"nothing has happened for {PATIENCE} s in {self.run}")
            yield
            time.sleep(pause)

    def wait_for(self, reached: Callable[[], bool]) -> bool:
        """Whether it has come so far; else it has ended before."""
        return any(reached() for _ in self.moments())

    def wait(self) -> int:
        """Its exit status."""
        for _ in self.moments(0.05):
            pass
        return self.process.returncode

    def kill(self, group: bool) -> bool:
        """`kill -9`: the main process alone, or the whole group. Whether it was still alive."""
        if self.process.poll() is None:
            (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        return self.process.wait() == -signal.SIGKILL

    def left(self) -> list[int]:
        """The processes of the group that still run."""
        return processes(self.process.pid)

    def errors(self) -> str:
        """What it has said on stderr."""
        self.screen.seek(0)
        return self.screen.read()


def processes(group: int) -> list[int]:
    """The processes of a group; those that are dead and not yet waited for don't count, where /proc tells."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return []
        return [group]
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                state, _, its_group = (place / "stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:  # it has ended in between
                continue
            if int(its_group) == group and state not in "ZX":
                found.append(int(place.name))
    return found


def lines(path: Path) -> int:
    """Lines in a file that may not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until_random_instant(life: Life, draw: random.Random, startup: float) -> bool:
    """Wait for an instant that is drawn at random: of the start-up, of the training, of a validation or of a save.

    Args:
        startup: seconds that a start usually takes.

    Returns:
        whether the process has lived so long.
    """
    what = draw.choices(("start-up", "anything", "validation", "saving"), (15, 50, 17, 18))[0]
    if what == "start-up":
        delay = draw.uniform(0, startup)
        return life.wait_for(lambda: time.monotonic() - life.began >= delay)
    if not life.wait_for(lambda: life.phase()[0] != "start-up"):
        return False
    if what == "anything":
        goal = lines(life.run / "history.jsonl") + draw.randint(1, 12)
        if not life.wait_for(lambda: lines(life.run / "history.jsonl") >= goal):
            return False
    else:
        seen: set[int] = set()
        times = draw.randint(1, 2 if what == "validation" else 6)

        def met() -> bool:
            name, count = life.phase()
            if name == what:
                seen.add(count)
            return len(seen) == times

        if not life.wait_for(met):
            return False
    end = time.monotonic() + draw.uniform(0, {"anything": 0.4, "validation": 0.12, "saving": 0.01}[what])
    return life.wait_for(lambda: time.monotonic() >= end)


# --- comparison -------------------------------------------------------------------------------------------------


def damaged(run: Path) -> list[str]:
    """The checkpoints of a run that can't be read."""
    bad = []
    for path in sorted((run / "checkpoints").glob("*.pt")):
        try:
            checkpoint.load(path)
        except MachineError as error:
            bad.append(str(error))
    return bad


def records(run: Path) -> list[dict[str, Any]]:
    """The lines of history.jsonl."""
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, Any]]:
    """The history without what a clock has measured."""
    return [{key: value for key, value in record.items() if key != "samples_per_second"} for record in records(run)]


def difference(one: Any, other: Any, place: str) -> str:
    """Where two nests of containers, tensors and values differ, or ''; tensors are compared bit for bit."""
    if type(one) is not type(other):
        return f"{place}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        equal = same and one.numpy().tobytes() == other.numpy().tobytes()
        return "" if equal else f"{place}: other numbers"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{place}: keys {sorted(set(one) ^ set(other))} or their order"
        return next(filter(None, (difference(one[key], other[key], f"{place}.{key}") for key in one)), "")
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return f"{place}: {len(one)} and {len(other)} long"
        pairs = enumerate(zip(one, other, strict=True))
        return next(filter(None, (difference(a, b, f"{place}[{number}]") for number, (a, b) in pairs)), "")
    both_nan = one != one and other != other
    return "" if one == other or both_nan else f"{place}: {one} and {other}"


def once_each(run: Path) -> list[str]:
    """What is wrong with the steps in a run's history: every log point and every epoch stands there once, in order."""
    found = records(run)
    config = Checkpoints(run / "checkpoints").last()[1]["fingerprint"]["config"]
    total, epochs, every = (
        config["spec"]["total_steps"],
        config["trainer"]["max_epochs"],
        config["trainer"]["log_every"],
    )
    points = [record["step"] for record in found if "train/loss" in record]
    ends = [record["epoch"] for record in found if "train/epoch_loss" in record]
    wrong = []
    if points != list(range(every, total + 1, every)):
        wrong.append(f"the history's log points are at steps {points}")
    if ends != list(range(1, epochs + 1)):
        wrong.append(f"the history's epochs are {ends}")
    return wrong


def curves(run: Path, split: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a split: tag -> (step, value), sorted."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard" / split), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: sorted((event.step, event.value) for event in events.Scalars(tag)) for tag in events.Tags()["scalars"]}


def wrong_curves(run: Path) -> list[str]:
    """Where TensorBoard doesn't show what the history holds, each record once."""
    wrong = []
    expected: dict[str, dict[str, list[tuple[int, float]]]] = {"train": {}, "val": {}, "test": {}}
    for record in records(run):
        for key, value in record.items():
            split, _, tag = key.rpartition("/")
            if key not in ("step", "epoch"):
                expected[split or "train"].setdefault(tag, []).append((record["step"], value))
    last = records(run)[-1]["step"]
    for key, value in json.loads((run / "metrics.json").read_text()).items():
        if key.startswith("test/"):
            expected["test"][key.removeprefix("test/")] = [(last, value)]
    for split, tags in expected.items():
        shown = curves(run, split)
        for tag, held in tags.items():
            steps, found = sorted(step for step, _ in held), [step for step, _ in shown.get(tag, [])]
            lost = list((collections.Counter(steps) - collections.Counter(found)).elements())
            more = list((collections.Counter(found) - collections.Counter(steps)).elements())
            if lost or more:
                wrong.append(f"TensorBoard's {split}/{tag} lacks steps {lost} and has steps {more} too often")
            else:
                exact = [(step, torch.tensor(value, dtype=torch.float32).item()) for step, value in sorted(held)]
                wrong += [f"TensorBoard's {split}/{tag} has other values"] if exact != shown[tag] else []
    return wrong


def compare(run: Path, reference: Path) -> list[str]:
    """What is wrong with a finished run, beside one that was never interrupted."""
    try:
        return [line for line in (*once_each(run), *damaged(run), *differences(run, reference)) if line]
    except Exception as error:  # whatever a broken file may lead to
        return [f"it can't be compared: {type(error).__name__}: {error}"]


def differences(run: Path, reference: Path) -> Iterator[str]:
    """Where two finished runs differ; '' where they don't."""
    yield difference(timeless(run), timeless(reference), "history")
    for name in ("last", "best"):
        one, other = (
            Checkpoints(place / "checkpoints").last()[1]
            if name == "last"
            else checkpoint.load(place / "checkpoints/best.pt")
            for place in (run, reference)
        )
        for state in (one, other):
            for key in OWN:
                del state[key]
        yield difference(one, other, f"the {name} checkpoint")
    one, other = (json.loads((place / "metrics.json").read_text()) for place in (run, reference))
    yield difference({**one, "seconds": 0}, {**other, "seconds": 0}, "metrics.json")
    yield from wrong_curves(run)
    left = [str(path.relative_to(run)) for path in run.rglob("*.tmp")]
    yield f"files are left over: {left}" if left else ""


# --- many of them -------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What has happened."""

    kills: int = 0
    starts: int = 0
    finished: int = 0
    phases: collections.Counter[str] = field(default_factory=collections.Counter)
    hit: collections.Counter[str] = field(default_factory=collections.Counter)
    workers: collections.Counter[str] = field(default_factory=collections.Counter)
    ends: list[tuple[float, str]] = field(
        default_factory=list
    )  # seconds until a group was gone, and how it was started
    damaged: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # starts that ended by themselves, without finishing

    @property
    def wrong(self) -> list[str]:
        return [*self.damaged, *self.differing, *self.orphans, *self.refused]


def bury(life: Life, tally: Tally, seconds: float = 120.0) -> None:
    """See to it that what was started by a killed process ends by itself: at once, or, where it was just being started,
    when it has imported torch, which can take long on a busy machine. What is left for good is left after two minutes
    too."""
    killed = time.monotonic()
    while life.left():
        if time.monotonic() - killed > seconds:
            count = len(life.left())
            tally.orphans.append(
                f"{life.run.name}, {life.loading}: {count} processes are left {seconds:g} s after the main one"
            )
            os.killpg(life.process.pid, signal.SIGKILL)
            return
        time.sleep(0.02)
    tally.ends.append((time.monotonic() - killed, life.loading))


def rehearse(folder: Path, kills: int, epochs: int, seed: int, say: Callable[[str], None] = print) -> Tally:
    """Kill runs at random, and let the last one finish.

    Args:
        folder: an empty one, for the modules and the run directories.
        kills: in all runs together.
        epochs: of each run.
    """
    prepare(folder)
    draw, tally, words = random.Random(seed), Tally(), [*WORDS, f"trainer.max_epochs={epochs}"]
    reference = Life(folder, "reference", words)
    reference.wait_for(lambda: reference.phase()[0] != "start-up")
    startup = time.monotonic() - reference.began
    if reference.wait() != 0:
        raise RuntimeError(f"the run that nobody disturbs fails:\n{reference.errors()}")
    say(f"reference: {startup:.1f} s to start, {time.monotonic() - reference.began:.1f} s in all")
    problems = once_each(reference.run) + wrong_curves(reference.run)
    if problems:
        raise RuntimeError(f"the run that nobody disturbs is wrong: {problems}")
    number = 0
    while tally.kills < kills:
        number += 1
        survive(folder, f"run-{number}", words, reference.run, kills, startup, draw, tally, say)
    return tally


def survive(
    folder: Path,
    name: str,
    words: Sequence[str],
    reference: Path,
    kills: int,
    startup: float,
    draw: random.Random,
    tally: Tally,
    say: Callable[[str], None],
) -> None:
    """One run, killed again and again until it is finished, and then compared."""
    before, failures = tally.kills, len(tally.refused)
    old: Life | None = None
    while True:
        workers, method = draw.choice(WORKERS), draw.choice(METHODS)
        life = Life(folder, name, words, workers, method)
        tally.starts += 1
        if old is not None:
            bury(old, tally)  # while the next one starts
        group = draw.random() < 1 / 3
        killed = tally.kills < kills and wait_until_random_instant(life, draw, startup) and life.kill(group)
        if not killed:
            if life.wait() == 0:
                break
            tally.refused.append(f"{name}: a start has failed:\n{life.errors()}")
            say(tally.refused[-1])
            if len(tally.refused) - failures == 3:
                return
            continue
        phase = life.phase()[0]
        tally.kills += 1
        tally.phases[phase] += 1
        tally.hit["the group" if group else "the main process"] += 1
        tally.workers[life.loading] += 1
        bad = damaged(life.run)
        tally.damaged += [f"{name}: {line}" for line in bad]
        newest = max((checkpoint.step_of(path) for path in life.run.glob("checkpoints/step-*.pt")), default=0)
        say(
            f"kill {tally.kills:3}  {name}, {life.loading}: {'the group' if group else 'the main process'} at {phase}; "
            f"last saved step {newest}{', DAMAGED: ' + '; '.join(bad) if bad else ''}"
        )
        old = life
    bury(life, tally)
    tally.finished += 1
    wrong = compare(life.run, reference)
    tally.differing += [f"{name}: {line}" for line in wrong]
    say(f"{name} is finished after {tally.kills - before} kills: {'; '.join(wrong) or 'equal to the reference'}")
    if not wrong:
        shutil.rmtree(life.run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="in all runs together")
    parser.add_argument("--epochs", type=int, default=10, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    folder, started = Path(tempfile.mkdtemp(prefix="plainloop-kill-")), time.monotonic()
    tally = rehearse(folder, arguments.kills, arguments.epochs, arguments.seed, lambda line: print(line, flush=True))
    seconds = time.monotonic() - started
    runs = len({line.partition(":")[0] for line in tally.differing})
    print(f"\n{tally.kills} kills, {tally.starts} starts, {tally.finished} runs finished, {seconds / 60:.0f} minutes")
    for title, counts in (("at", tally.phases), ("hit", tally.hit), ("workers", tally.workers)):
        print(f"  {title:10}" + ", ".join(f"{name}: {count}" for name, count in sorted(counts.items())))
    print(f"  {len(tally.damaged)} damaged checkpoints, {runs} differing runs, {len(tally.refused)} failed starts")
    slowest, how = max(tally.ends)
    print(f"  {len(tally.orphans)} times processes were left; else the last was gone after {slowest:.1f} s ({how})")
    print("\n".join(tally.wrong))
    if arguments.json:
        arguments.json.write_text(json.dumps({**vars(tally), "seconds": seconds}, indent=2) + "\n")
    if tally.wrong:
        sys.exit(f"something was wrong: see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
