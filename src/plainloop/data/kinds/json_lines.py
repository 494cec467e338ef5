"""Data that is larger than memory: files of JSON lines, read from the front to the back, a buffer at a time.

Walking along the lines is cheap and is done by every process; a line is parsed only by the one that needs it
(`stream.py`). record.py says what a record is, shards.py which files there are.
"""

import bisect
import dataclasses
import functools
import itertools
import os
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from plainloop import seeding
from plainloop.build import factory
from plainloop.data.classes import place_among_classes
from plainloop.data.dataset import SPLITS, BaseDataset, InMemory
from plainloop.data.kinds.checks import check_whole_number, names_in
from plainloop.data.kinds.record import Form, class_name, parsed
from plainloop.data.kinds.shards import Shards, draws, found_shards, opened
from plainloop.data.reading import New, Reader, Rows
from plainloop.errors import UserError, counted, first_line, listed

Line = tuple[int, int, bytes]  # number of its file, its place in it (from 1), what it says
T = TypeVar("T")
LONGEST = 1 << 28  # bytes of a line: one that never ends would fill the memory


@dataclass
class Place:
    """Where a walk along the files stands: in which file of the epoch's order, at which byte, behind how many lines."""

    shard: int = 0
    offset: int = 0
    line: int = 0


BEGINNING = {"shard": 0, "offset": 0, "line": 0, "buffer": 0, "given": 0}


class Records(BaseDataset, IterableDataset):
    """The records of a split, of files that are read through in every epoch.

    The files come in an order that follows from (seed, epoch). So many lines as the buffer holds are read, given in
    an order that follows from (seed, epoch, how many buffers were before), and then the next are read. Where the
    reading stands is told by the place where the buffer begins and by how many of it have been given: to go there,
    one buffer is read anew.

    Args:
        part: which lines are of this split: those whose number (`draws`) lies in [part[0], part[1]).
        form: how a record becomes a sample.
        buffer: lines that are held and shuffled at a time.
        shuffle: whether they, and the files, are shuffled at all.
        rank, world: of the shuffled lines, this process takes those whose position in the epoch is rank modulo world.
    """

    def __init__(
        self,
        shards: Shards,
        form: Form,
        part: tuple[float, float] = (0.0, 1.0),
        buffer: int = 10_000,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ):
        self.shards, self.form, self.part = shards, form, part
        self.buffer, self.shuffle, self.seed = buffer if shuffle else 100, shuffle, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.start: Mapping[str, int] = BEGINNING
        self.begun, self.given = dict(BEGINNING), 0
        self.classes = form.classes
        self.target_names = [form.target] if form.target and not form.shapes.get(form.target) else None
        self.looked_at: InMemory | None = None  # samples for statistics
        self.note = ""
        self.facts: dict[str, Any] = {}

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.start = epoch, BEGINNING

    def state_dict(self) -> dict[str, int]:
        """Behind the line that was given last."""
        return {**self.begun, "given": self.given}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """The next iteration goes on there."""
        self.start = dict(state)

    def __iter__(self) -> Iterator[Line]:
        start, self.start = self.start, BEGINNING
        return self._from(start, self.epoch)  # as they are now: another pass may begin before this one ends

    def _from(self, start: Mapping[str, int], epoch: int) -> Iterator[Line]:
        place = Place(start["shard"], start["offset"], start["line"])
        lines, given = self.lines(self.order(epoch), place), start["given"]
        for number in itertools.count(start["buffer"]):
            begun = {**dataclasses.asdict(place), "buffer": number}
            held = list(itertools.islice(lines, self.buffer))
            if not held:
                return
            order = self._shuffled(len(held), epoch, number + 1) if self.shuffle else range(len(held))
            for index in range(given, len(held)):
                self.begun, self.given = begun, index + 1  # here, so that each of several iterations sets its own
                if (number * self.buffer + index) % self.world == self.rank:
                    yield held[order[index]]
            held.clear()  # before the next are read
            given = 0

    def order(self, epoch: int) -> Sequence[int]:
        """The numbers of the files, in an epoch's order."""
        count = len(self.shards.files)
        return self._shuffled(count, epoch, 0) if self.shuffle else range(count)

    def _shuffled(self, count: int, epoch: int, what: int) -> list[int]:
        generator = seeding.generator(self.seed, seeding.ORDER, epoch, what)
        return torch.randperm(count, generator=generator).tolist()

    def lines(self, order: Sequence[int], place: Place) -> Iterator[Line]:
        """The lines of this split from a place on, which moves along. Raises UserError."""
        (low, high), whole = self.part, self.part == (0.0, 1.0)
        for number in order[place.shard :]:
            try:
                with opened(self.shards.files[number]) as file:
                    file.seek(place.offset)
                    drawn = itertools.repeat(0.0) if whole else draws(self.shards.names[number], self.seed, place.line)
                    for text, draw in zip(iter(lambda: file.readline(LONGEST), b""), drawn, strict=False):
                        if len(text) == LONGEST:
                            where = f"{self.shards.files[number]}, line {place.line + 1}"
                            raise UserError(f"{where}: it has more than {LONGEST:,} bytes.")
                        place.offset += len(text)
                        place.line += 1
                        if low <= draw < high and not text.isspace():
                            yield number, place.line, text
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(
                    f"{self.shards.files[number]}, line {place.line + 1}: it can't be read: {first_line(error)}"
                ) from error
            place.shard, place.offset, place.line = place.shard + 1, 0, 0

    def decode(self, raw: Line) -> tuple[Tensor, Tensor | int]:
        """The sample that a line holds. Raises UserError with its file and line."""
        return self.read(raw, self.form.sample)

    def read(self, line: Line, what: Callable[[Any], T]) -> T:
        """What a function makes of the record on a line. Raises UserError with its file and line."""
        try:
            return what(parsed(line[2]))
        except UserError as error:
            raise UserError(f"{self.shards.files[line[0]]}, line {line[1]}: {error}") from error

    def heads(self, count: int) -> Iterator[Line]:
        """The first lines of every file, about `count` in all; of so many files, evenly spread, where there are more
        files than that. (A file may hold one class alone.)"""
        files = len(self.shards.files)
        for shard in range(min(files, count)):
            number = shard * files // min(files, count)
            yield from itertools.islice(self.lines([number], Place()), -(-count // files))


# --- from a config ------------------------------------------------------------------------------------------


@factory("data")
def json_lines(
    path: str,
    split: str,
    val: str | None = None,
    test: str | None = None,
    features: Sequence[str] | None = None,
    target: str | None = "target",
    classes: Sequence[str] | None = None,
    task: str | None = None,
    peek: int = 1000,
    buffer: int = 10_000,
    shuffle: bool = True,
    fractions: Sequence[float] = (1.0, 0.0, 0.0),
    seed: int = 0,
    unreadable: int = 0,
) -> Records | None:
    """A stream of records from files of JSON lines, compressed (.jsonl.gz) or not.

    Args:
        path: the files, as in 'shards/*.jsonl'.
        val, test: the files of validation and test. Without them each line of `path` is drawn into one of the splits
            by its file's name and its number, in these `fractions`.
        features: fields that hold a number each; None for the field `inputs`, which holds a list of them.
        target: the field to predict: a class, a number or a list of numbers; None for none.
        classes: the names of the classes, in order; None for those among the records that are looked at.
        task: whose targets are classes, or aren't; None for what the targets look like.
        peek: how many training records are looked at beforehand, for what they hold, their classes, and statistics
            for standardising; they come from the heads of all files.
        buffer: records that are shuffled at a time; shuffle=False leaves all in their order.
        unreadable: how many of those that are looked at may be unreadable.
    """
    features = names_in("features", features)
    names_in("classes", classes)
    check_whole_number("peek", peek)
    check_whole_number("buffer", buffer)
    given = {name: found_shards(pattern, name) for name, pattern in (("val", val), ("test", test)) if pattern}
    shards = {**given, "train": found_shards(path, "path")}
    for one, other in itertools.combinations(shards, 2):
        both = {os.path.realpath(file) for file in shards[one].files} & set(map(os.path.realpath, shards[other].files))
        if both:
            raise UserError(f"data: {min(both)} is among the files of {one} and of {other}.")
    parts = _parts(fractions, list(given))
    if parts[split] is None:
        return None

    form = Form(
        list(features) if features else None,
        target,
        [class_name(name) or str(name) for name in classes] if classes else None,
    )
    train = Records(shards["train"], form, parts["train"] or (0.0, 1.0), seed=seed)
    if form.classes is None and _are_classes(_looked_at(train, peek, unreadable, form.target_of), task):
        names = set(_looked_at(train, peek, unreadable, form.class_of))
        train.form = Form(form.features, target, _in_order(names, f"{target}: the records that were looked at"))
    samples = _looked_at(train, peek, unreadable, train.form.sample)

    own = shards.get(split, shards["train"])
    records = Records(own, train.form, parts[split] or (0.0, 1.0), buffer, shuffle and split == "train", seed)
    if next(records.lines(range(len(own.files)), Place()), None) is None:
        hint = "" if split in given else f" Raise its share: split.fractions={list(fractions)}"
        raise UserError(f"data: there is no record for {split} in {listed(own.files, 3)}.{hint}")
    records.looked_at = InMemory(
        torch.stack([inputs for inputs, _ in samples]), torch.stack([torch.as_tensor(value) for _, value in samples])
    )
    records.note = (
        f"{counted(len(own.files), 'file')}, {_size(own.size())}; "
        f"{'classes and ' * (train.form.classes is not form.classes)}statistics from {len(samples):,} records"
    )
    records.facts = {"digests": {name: shards.get(name, shards["train"]).digest() for name in SPLITS if parts[name]}}
    return records


def _parts(fractions: Sequence[float], given: Sequence[str]) -> dict[str, tuple[float, float] | None]:
    """Which numbers of `draws` belong to a split; None for a split that isn't wanted. A split of its own files
    has them all."""
    shares = {name: 0.0 if name in given else share for name, share in zip(SPLITS, fractions, strict=True)}
    ends = [end / sum(shares.values()) for end in itertools.accumulate(shares.values())]
    ends = [1.0 if end > 1 - 1e-9 else end for end in ends]
    drawn = zip(SPLITS, [0.0, *ends], ends, strict=False)
    return {name: (0.0, 1.0) if name in given else (low, high) if high > low else None for name, low, high in drawn}


def _looked_at(train: Records, count: int, unreadable: int, what: Callable[[Any], T]) -> list[T]:
    """What a function makes of the first records of the files; a few may be unreadable. Raises UserError."""
    found, failed = [], 0
    for line in train.heads(count):
        try:
            found.append(train.read(line, what))
        except UserError:
            failed += 1
            if failed > unreadable:
                raise
    if not found:
        raise UserError(f"data: there is no record to train on in {listed(train.shards.files, 3)}.")
    return found


def _are_classes(targets: Sequence[Any], task: str | None) -> bool:
    """Whether targets are classes: because the task says so, or else they themselves."""
    if task in ("multiclass", "binary", "regression", "multilabel"):
        return task in ("multiclass", "binary")
    return any(isinstance(target, str | bool) for target in targets)


def _in_order(names: set[str], where: str) -> list[str]:
    """Classes that are numbers in the order of the numbers. Raises UserError for a single one."""
    if len(names) < 2:
        raise UserError(
            f"data.target={where} have one class only ({listed(names)}). Name all with data.classes=[a,b], "
            "or raise data.peek"
        )
    return sorted(names, key=place_among_classes)


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _task_of(path: str, **arguments: Any) -> tuple[str, str]:
    records = json_lines(path, "train", **{**arguments, "task": None})
    assert records is not None
    target = arguments.get("target", "target")
    if records.classes is not None:
        return "multiclass", f"the field {target} holds classes ({listed(records.classes, 4)})"
    return ("regression", f"the field {target} holds numbers") if target else ("reconstruction", "there is no target")


json_lines.task_of = _task_of  # type: ignore[attr-defined]


class RecordReader(Reader):
    """The lines of other files; the target needn't be in them."""

    def open(self, given: Any) -> New:
        form = Form(names_in("features", self.node.get("features")), None)
        form.shapes["inputs"] = tuple(self.reading("shape"))
        if not isinstance(given, str | os.PathLike):
            records = given.to_dicts() if hasattr(given, "to_dicts") else list(given)
            inputs = [form.sample(record)[0] for record in records]
            if not inputs:
                raise UserError("input: there are no records in it.")
            return New(Rows(torch.stack(inputs)), "row", range(1, len(inputs) + 1))
        lines = Lines(found_shards(os.fspath(given), "input").files, form)
        if not len(lines):
            raise UserError(f"input={given}: there are no lines in it.")
        alone = len(lines.found) == 1
        return New(lines, "row" if alone else "line", _Named(lines, alone), lines.why)


json_lines.reader = RecordReader  # type: ignore[attr-defined]


class Lines(BaseDataset):
    """Lines of files that are read when they are asked for: (input, place), or (zeros, -1 - place). Of each only its
    place in its file is held."""

    def __init__(self, files: Sequence[str], form: Form):
        self.found, self.form = files, form
        starts, numbers = array("q"), array("q")
        self.firsts = []  # the place of each file's first line
        for file in files:
            self.firsts.append(len(starts))
            try:
                with opened(file) as lines:
                    start = 0
                    for number, line in enumerate(iter(functools.partial(lines.readline, LONGEST), b""), 1):
                        if not line.isspace():
                            starts.append(start)
                            numbers.append(number)
                        start += len(line)
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"{file}: it can't be read: {first_line(error)}") from error
        self.starts, self.numbers = starts, numbers
        self.held: tuple[int, Any] | None = None  # the file that was read last, open

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        try:
            return self._read(index), index
        except UserError:  # `why` tells it
            return torch.zeros(self.form.shapes["inputs"]), -1 - index

    def _read(self, index: int) -> Tensor:
        number = self.file_of(index)
        if self.held is None or self.held[0] != number:
            self.held = number, opened(self.found[number])
        file = self.held[1]
        file.seek(self.starts[index])
        return self.form.sample(parsed(file.readline(LONGEST)))[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "held": None}  # a loading process opens them itself

    def file_of(self, index: int) -> int:
        return bisect.bisect_right(self.firsts, index) - 1

    def why(self, index: int) -> str:
        """Why a line is no record."""
        try:
            self._read(index)
        except UserError as error:
            return str(error)
        return "it could not be read, and now it can"

    def where(self, index: int) -> str:
        return f"{self.found[self.file_of(index)]}, line {self.numbers[index]}"


class _Named(Sequence[Any]):
    """What lines are called: by their numbers, in one file; with their files, in several."""

    def __init__(self, lines: Lines, alone: bool):
        self.lines, self.alone = lines, alone

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: Any) -> Any:
        number = self.lines.numbers[index]
        return number if self.alone else f"{self.lines.found[self.lines.file_of(index)]}:{number}"
