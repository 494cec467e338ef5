"""A stream of JSON lines: every record once an epoch, in an order that follows from the seed, and nothing is held."""

import gzip
import itertools
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import plainloop
from plainloop.assembly import assemble
from plainloop.config import schema
from plainloop.config.compose import compose
from plainloop.data import Loader, make_loader
from plainloop.data.kinds.json_lines import Records, draws, json_lines
from plainloop.data.kinds.shards import found_shards
from plainloop.errors import MachineError, UserError
from tests.conftest import ROOT, one_in
from tests.formats import write_clouds, write_lines


def write_numbered(folder: Path, sizes: tuple[int, ...] = (30, 50, 20), suffix: str = ".jsonl") -> str:
    """Files whose records hold their own number, 0 to the sum of the sizes, as input and target."""
    starts = itertools.accumulate(sizes, initial=0)
    for number, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        records = [{"inputs": [float(value)], "target": float(value)} for value in range(start, start + size)]
        write_lines(folder / f"part-{number}{suffix}", records)
    return str(folder / f"*{suffix}")


def stream(path: str, split: str = "train", **arguments: Any) -> Records:
    records = json_lines(path, split, **arguments)
    assert records is not None
    return records


def numbers_of(records: Records, epoch: int = 0) -> list[int]:
    """The numbers of an epoch's records, in their order."""
    records.set_epoch(epoch)
    return [int(records.decode(raw)[0]) for raw in records]


def loader(records: Records, batch_size: int = 7, **options: Any) -> Loader:
    return make_loader(
        records,
        schema.Loader(**{"batch_size": batch_size, "num_workers": 0, **options}),
        seed=0,
        device=torch.device("cpu"),
    )


def batches_of(batches: Any) -> list[list[int]]:
    return [targets.int().tolist() for _, targets in batches]


# --- order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("buffer", [1, 7, 100, 10_000])
def test_every_record_comes_once_an_epoch(tmp_path, buffer, suffix):
    """Whatever the buffer, which may be larger than a file, or than all; and in another order every epoch."""
    records = stream(write_numbered(tmp_path, suffix=suffix), buffer=buffer)
    orders = [tuple(numbers_of(records, epoch)) for epoch in range(4)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len(set(orders)) == 4 or buffer == 1  # then only the files change places


def test_the_order_follows_from_seed_and_epoch_alone(tmp_path):
    """Not from what was drawn or read before, and it draws from nobody else's generator."""
    path = write_numbered(tmp_path)
    expected = numbers_of(stream(path, seed=3, buffer=10), epoch=5)
    used = stream(path, seed=3, buffer=10)
    numbers_of(used, 2)
    list(itertools.islice(used, 13))
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    assert numbers_of(used, 5) == expected
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert numbers_of(stream(path, seed=4, buffer=10), 5) != expected


def test_the_shuffle_is_fair(tmp_path):
    """In a buffer that holds all, each of 20 records comes first as often as chance allows, and likewise each file."""
    records = stream(write_numbered(tmp_path, sizes=(5, 5, 5, 5)), buffer=20)
    first, files = Counter(), Counter()
    for epoch in range(2000):
        records.set_epoch(epoch)
        number, line, _ = next(iter(records))
        first[number, line] += 1
        files[records.order(epoch)[0]] += 1
    assert (
        max(abs(first[file, line] - 100) for file in range(4) for line in range(1, 6)) < 5 * (2000 * 0.05 * 0.95) ** 0.5
    )
    assert max(abs(files[file] - 500) for file in range(4)) < 5 * (2000 * 0.25 * 0.75) ** 0.5


def test_without_shuffling_records_come_as_they_lie(tmp_path):
    path = write_numbered(tmp_path)
    assert numbers_of(stream(path, shuffle=False), 3) == list(range(100))
    drawn = numbers_of(stream(path, "val", fractions=[0.5, 0.5, 0]), 3)  # validation is never shuffled
    assert drawn == sorted(drawn)


def test_no_more_is_held_than_the_buffer(tmp_path):
    """When the n-th record is given, at most the buffers up to its own have been read."""
    records, read = stream(write_numbered(tmp_path), buffer=10), []
    original = records.lines
    records.lines = lambda *place: (read.append(line) or line for line in original(*place))
    for number, _ in enumerate(records):
        assert len(read) == 10 * (number // 10 + 1)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_an_epoch_out(tmp_path, world):
    """Each record is one rank's, and no rank has more than one record more than another; together they are the order
    of one."""
    path = write_numbered(tmp_path)
    alone = stream(path, buffer=16)
    orders = []
    for rank in range(world):
        part = Records(alone.shards, alone.form, buffer=16, rank=rank, world=world)
        orders.append(numbers_of(part, 1))
    merged = [number for group in itertools.zip_longest(*orders) for number in group if number is not None]
    assert merged == numbers_of(alone, 1)


# --- workers, and resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_matter(tmp_path, workers):
    """Batches, their order and their content are those of one process, in two epochs by the same workers."""
    records = stream(write_numbered(tmp_path), buffer=16)
    alone, together = loader(records), loader(records, num_workers=workers, multiprocessing_context="fork")
    for epoch in range(2):
        expected = batches_of(alone.epoch(epoch))
        assert batches_of(together.epoch(epoch)) == expected
        assert sorted(itertools.chain(*expected)) == list(range(100))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "suffix"), one_in(4, [(2, ".jsonl"), (0, ".jsonl"), (0, ".jsonl.gz"), (2, ".jsonl.gz")])
)
def test_an_epoch_goes_on_where_it_was_left(tmp_path, workers, suffix):
    """From the state behind each batch, in a new loader, the rest comes: also where workers had read further ahead;
    and then the next epoch, whole."""
    path = write_numbered(tmp_path, suffix=suffix)
    options = {"num_workers": workers, "multiprocessing_context": "fork"} if workers else {}
    first = loader(stream(path, buffer=16), **options)
    whole, following = batches_of(first.epoch(3)), batches_of(loader(stream(path, buffer=16)).epoch(4))
    for done in range(1, len(whole) + 1) if not workers else (1, 6, 14):
        batches = first.epoch(3)
        head = batches_of(itertools.islice(batches, done))
        state = first.state_dict()
        second = loader(stream(path, buffer=16), **options)
        second.load_state_dict(state)
        assert head + batches_of(second.epoch(3, first_batch=done)) == whole
        assert batches_of(second.epoch(4)) == following
        list(batches)


def test_the_state_is_a_few_numbers(tmp_path):
    """Not the buffer itself."""
    batches = loader(stream(write_numbered(tmp_path)))
    next(batches.epoch(0))
    assert set(batches.state_dict()["stream"]["own"]) == {"shard", "offset", "line", "buffer", "given"}
    assert all(isinstance(value, int) for value in batches.state_dict()["stream"]["own"].values())


def test_to_go_on_one_buffer_is_read_anew(tmp_path):
    """And not all that came before it."""
    path = write_numbered(tmp_path, sizes=(400, 300, 300))
    batches = loader(stream(path, buffer=50), batch_size=10)
    walked = batches_of(itertools.islice(batches.epoch(0), 73))
    records, read = stream(path, buffer=50), []
    original = records.lines
    records.lines = lambda *place: (read.append(line) or line for line in original(*place))
    second = loader(records, batch_size=10)
    second.load_state_dict(batches.state_dict())
    rest = second.epoch(0, first_batch=73)
    found = batches_of(itertools.islice(rest, 1))
    assert len(read) == 50
    assert sorted(itertools.chain(*walked, *found, *batches_of(rest))) == list(range(1000))


def test_two_iterations_do_not_disturb_each_other(tmp_path):
    """A pass that begins while another is read, as a callback may do."""
    records = stream(write_numbered(tmp_path), buffer=16)
    expected = batches_of(loader(records).epoch(2))
    batches = loader(records)
    one = batches.epoch(2)
    head = batches_of(itertools.islice(one, 5))
    numbers_of(records, 7)
    head += batches_of(itertools.islice(one, 1))
    state = batches.state_dict()
    assert head + batches_of(one) == expected
    batches.load_state_dict(state)
    assert batches_of(batches.epoch(2, first_batch=6)) == expected[6:]


# --- splits --------------------------------------------------------------------------------------------------


def parts_of(path: str, fractions=(0.7, 0.1, 0.2), seed: int = 0) -> dict[str, set[int]]:
    found = {}
    for split in ("train", "val", "test"):
        records = json_lines(path, split, fractions=fractions, seed=seed)
        if records is not None:
            found[split] = set(numbers_of(records))
    return found


@pytest.mark.slow
def test_each_line_is_in_one_split(tmp_path):
    """In about its share: within 5 deviations of chance, in all and in each file."""
    path = write_numbered(tmp_path, sizes=(3000, 5000, 2000))
    parts = parts_of(path)
    assert sorted(itertools.chain(*parts.values())) == list(range(10_000))
    for split, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        for low, high in ((0, 3000), (3000, 8000), (8000, 10_000), (0, 10_000)):
            count = sum(low <= number < high for number in parts[split])
            assert abs(count - share * (high - low)) < 5 * ((high - low) * share * (1 - share)) ** 0.5
    assert parts_of(path) == parts
    assert parts_of(path, seed=1) != parts


@pytest.mark.slow
def test_a_line_stays_in_its_split(tmp_path):
    """When files are added, compressed, or moved elsewhere as a whole."""
    before = parts_of(write_numbered(tmp_path / "here" / "deep", sizes=(300, 500, 200)))
    assert parts_of(write_numbered(tmp_path / "there", sizes=(300, 500, 200), suffix=".jsonl.gz")) == before
    more = parts_of(write_numbered(tmp_path / "more", sizes=(300, 500, 200, 400)))
    assert all(before[split] <= more[split] for split in before)


def test_a_share_of_zero_is_no_split(tmp_path):
    path = write_numbered(tmp_path)
    assert set(parts_of(path, [1, 0, 0])) == {"train"}
    assert parts_of(path, [1, 0, 0])["train"] == set(range(100))
    assert set(parts_of(path, [0.5, 0, 0.5])) == {"train", "test"}


def test_draws_can_be_entered_anywhere():
    """Where a file is entered at a line, the line's number is what it was."""
    whole = list(itertools.islice(draws("a", 1, 0), 3000))
    for start in (1, 500, 1023, 1024, 1025, 2500):
        assert list(itertools.islice(draws("a", 1, start), 100)) == whole[start : start + 100]
    assert abs(numpy.mean(whole) - 0.5) < 5 * (1 / 12 / 3000) ** 0.5
    other = list(itertools.islice(draws("b", 1, 0), 3000))
    assert abs(numpy.corrcoef(whole, other)[0, 1]) < 5 / 3000**0.5


def test_splits_of_their_own_files(tmp_path):
    """Validation and test from files: training keeps all of its own, or shares them with what has none."""
    train = write_numbered(tmp_path / "train")
    write_lines(tmp_path / "val.jsonl", [{"inputs": [1000.0], "target": 1.0}, {"inputs": [1001.0], "target": 1.0}])
    val = str(tmp_path / "val.jsonl")
    assert numbers_of(stream(train, "val", val=val, fractions=[0.8, 0.1, 0.1])) == [1000, 1001]
    both = [numbers_of(stream(train, split, val=val, fractions=[0.8, 0.1, 0.1])) for split in ("train", "test")]
    assert sorted(itertools.chain(*both)) == list(range(100))
    assert len(both[1]) > 0
    alone = stream(train, val=val, test=write_numbered(tmp_path / "test"), fractions=[0.8, 0.1, 0.1])
    assert sorted(numbers_of(alone)) == list(range(100))


# --- records -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "arguments", "inputs", "target"),
    [
        ({"inputs": [1, 2.5], "target": 3}, {}, [1.0, 2.5], 3.0),
        ({"inputs": [[1, 2], [3, 4]], "target": [5, 6]}, {}, [[1.0, 2.0], [3.0, 4.0]], [5.0, 6.0]),
        ({"a": 1, "b": True, "c": 7, "y": 2}, {"features": ["b", "a"], "target": "y"}, [1.0, 1.0], 2.0),
        ({"inputs": [1], "target": "x"}, {}, [1.0], 0),
        ({"inputs": [1], "target": "x"}, {"classes": ["y", "x"]}, [1.0], 1),
        ({"inputs": [1], "target": 20}, {"task": "multiclass"}, [1.0], 2),
        ({"inputs": [1], "target": True}, {}, [1.0], 1),
        ({"inputs": [1]}, {"target": None}, [1.0], 0),
    ],
)
def test_records_become_samples(tmp_path, record, arguments, inputs, target):
    """Lists and fields of numbers are float32; classes have the number of their name, in its order."""
    others: dict[Any, Any] = {"x": ["y"], 20: [3, 5], True: [False]}
    field = arguments.get("target", "target")
    kinds = others.get(record.get(field), []) if not isinstance(record.get(field), list) else []
    write_lines(tmp_path / "a.jsonl", [record, *({**record, field: value} for value in kinds)])
    records = stream(str(tmp_path / "a.jsonl"), shuffle=False, **arguments)
    found = records.decode(next(iter(records)))
    assert found[0].dtype == torch.float32
    assert found[0].tolist() == inputs
    assert (found[1] if isinstance(found[1], int) else found[1].tolist()) == target


def test_classes_are_looked_for_in_all_files(tmp_path):
    """Each file holds one class only, as files that were written one after the other do."""
    for number in (10, 9, 2):
        write_lines(tmp_path / f"{number}.jsonl", [{"inputs": [1.0], "target": number}] * 500)
    records = stream(str(tmp_path / "*.jsonl"), task="multiclass", peek=30)
    assert records.classes == ["2", "9", "10"]
    assert records.looked_at is not None
    assert Counter(records.looked_at.targets.tolist()) == {0: 10, 1: 10, 2: 10}


def test_blank_lines_are_passed_over(tmp_path):
    """And a mark at the beginning of the file, and a last line without its end."""
    line = '{"inputs": [1], "target": 2}'
    (tmp_path / "a.jsonl").write_bytes(f"\ufeff{line}\n\n  \r\n{line}\r\n{line}".encode())
    assert len(numbers_of(stream(str(tmp_path / "a.jsonl")))) == 3


def test_statistics_are_those_of_training_records(tmp_path):
    """Normalisation and the target's unit come from the training records among those that are looked at."""
    path = write_numbered(tmp_path, sizes=(300, 300))
    words = ["data=stream", f"data.path={path}", "data.peek=200", "task=regression", "model=linear"]
    session = assemble.assemble(compose(words))
    train = numbers_of(stream(path, fractions=[0.8, 0.1, 0.1], shuffle=False))
    expected = [number for low in (0, 300) for number in [n for n in train if low <= n < low + 300][:100]]
    assert session.data.train.looked_at.inputs.flatten().tolist() == expected
    assert session.task.mean.item() == pytest.approx(numpy.mean(expected), rel=1e-6)
    assert session.task.std.item() == pytest.approx(numpy.std(expected), rel=1e-6)
    inputs = session.preprocess(torch.tensor([[float(number)] for number in expected]))
    assert inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)


# --- what can be wrong ----------------------------------------------------------------------------------------

GOOD = '{"inputs": [1, 2], "target": "a"}\n{"inputs": [1, 2], "target": "b"}\n'
BAD = {
    "not JSON": ('{"inputs": [1, 2], "target" "a"}', {}, ["line 3", "not JSON", "Expecting ':'"]),
    "cut off": ('{"inputs": [1,', {}, ["line 3", "not JSON"]),
    "no object": ("[1, 2]", {}, ["line 3", "a list", "an object"]),
    "no field": ('{"inputs": [1, 2]}', {}, ["line 3", "no field target", "inputs"]),
    "wrong length": ('{"inputs": [1, 2, 3], "target": "a"}', {}, ["line 3", "3 numbers", "2 numbers"]),
    "ragged": ('{"inputs": [[1], [1, 2]], "target": "a"}', {}, ["line 3", "inputs", "numbers"]),
    "words": ('{"inputs": ["1", "2"], "target": "a"}', {}, ["line 3", "inputs", '"1"', "numbers"]),
    "null": ('{"inputs": [1, null], "target": "a"}', {}, ["line 3", "inputs", "null"]),
    "NaN": ('{"inputs": [1, NaN], "target": "a"}', {}, ["line 3", "inputs", "NaN"]),
    "too large": ('{"inputs": [1, 1e99], "target": "a"}', {}, ["line 3", "inputs", "infinity"]),
    "no class": ('{"inputs": [1, 2], "target": null}', {}, ["line 3", "target", "null", "a word"]),
    "a fraction for a class": ('{"inputs": [1, 2], "target": 1.5}', {}, ["line 3", "target", "1.5"]),
    "another class": ('{"inputs": [1, 2], "target": "c"}', {"classes": ["a", "b"]}, ["line 3", "c", "data.classes"]),
    "not UTF-8": ('{"inputs": [1, 2], "target": "\udcff"}', {}, ["line 3", "UTF-8"]),
    "a field that isn't there": ("", {"features": ["inputz"]}, ["line 1", "inputz", "Did you mean inputs?"]),
    "a list where a number belongs": ("", {"features": ["inputs"]}, ["line 1", "inputs", "[1, 2]", "number"]),
    "words for numbers": ("", {"task": "regression"}, ["line 1", "target", '"a"', "numbers"]),
    "features as a word": ("", {"features": "inputs"}, ["data.features=[inputs]"]),
    "no buffer": ("", {"buffer": 0}, ["data.buffer=0"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_records_are_named(tmp_path, case):
    """With their file and line, before anything is built."""
    line, arguments, words = BAD[case]
    file = tmp_path / "a.jsonl"
    file.write_bytes((GOOD + line).encode(errors="surrogateescape"))
    with pytest.raises(UserError) as error:
        json_lines(str(file), "train", **arguments)
    assert all(word in str(error.value) for word in words), error.value
    assert len(str(error.value).splitlines()) <= 2
    assert str(file) in str(error.value) or "line" not in words[0]


@pytest.mark.parametrize("case", [case for case, (line, _, _) in BAD.items() if line])
def test_a_bad_record_that_comes_later_is_named(tmp_path, case):
    """Behind those that were looked at: it ends the run by its file and line, unless such lines may be left out."""
    line, arguments, words = BAD[case]
    file = tmp_path / "a.jsonl"
    file.write_bytes((GOOD + line + "\n" + GOOD).encode(errors="surrogateescape"))
    records = stream(str(file), peek=2, **arguments)
    with pytest.raises(MachineError) as error:
        list(loader(records))
    assert all(word in str(error.value) for word in words), error.value
    assert f"{file}, line 3" in str(error.value)
    kept = list(loader(records, skip_unreadable=1).epoch())
    assert [len(targets) for _, targets in kept] == [4]


def test_as_many_bad_lines_as_are_allowed_are_looked_past(tmp_path):
    (tmp_path / "a.jsonl").write_text(GOOD + "no\n" + GOOD)
    path = str(tmp_path / "a.jsonl")
    assert stream(path, unreadable=1).classes == ["a", "b"]
    with pytest.raises(UserError, match="line 3"):
        stream(path)


def empty(folder: Path) -> None:
    (folder / "a.jsonl").write_text("\n\n")


def damaged(folder: Path) -> None:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(GOOD.encode() * 1000)[:-30])


def no_gz(folder: Path) -> None:
    (folder / "a.jsonl.gz").write_text(GOOD)


@pytest.mark.parametrize(
    ("make", "arguments", "words"),
    [
        (empty, {}, ["no record to train on", "a.jsonl"]),
        (lambda folder: None, {}, ["no such file", "FOLDER/*.jsonl"]),
        (lambda folder: (folder / "a.jsonl").mkdir(), {}, ["no such file"]),
        (damaged, {"peek": 10_000}, ["a.jsonl.gz, line", "can't be read"]),
        (no_gz, {}, ["a.jsonl.gz, line 1", "can't be read"]),
        (lambda folder: (folder / "a.jsonl").write_text(GOOD[:34]), {}, ["one class only", "a", "data.classes"]),
        (lambda folder: (folder / "a.jsonl").write_text(GOOD), {"val": "a.jsonl"}, ["a.jsonl", "train", "val"]),
        (lambda folder: (folder / "a.jsonl").write_text(GOOD), {"test": "b.jsonl"}, ["data.test=b.jsonl", "no such"]),
        (
            lambda folder: (folder / "a.jsonl").write_text(GOOD),
            {"split": "val", "fractions": [0.999, 0.001, 0], "classes": ["a", "b"]},
            ["no record for val", "split.fractions"],
        ),
    ],
    ids=["empty", "none", "folder", "cut off", "no gzip", "one class", "in two splits", "no test", "no val record"],
)
def test_bad_files_are_named(tmp_path, make: Callable[[Path], Any], arguments, words):
    """In the folder where the test runs, so that relative names are found."""
    make(tmp_path)
    with pytest.raises(UserError) as error:
        json_lines("a.jsonl*", **{"split": "train", **arguments})
    assert all(word in str(error.value) for word in words), error.value


def test_a_folder_is_answered_with_the_pattern(tmp_path):
    write_numbered(tmp_path / "shards")
    with pytest.raises(UserError, match=r"data.path='shards/\*.jsonl'"):
        json_lines("shards", "train")


def test_fields_of_numbers_are_offered(tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"x": 1, "y": 2, "name": "k", "target": 3}])
    with pytest.raises(UserError, match=r"no field inputs. Choose the fields with data.features=\[x,y\]"):
        json_lines("a.jsonl", "train")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["split.folds=3"], "split.folds=3"),
        (["split.group=kind"], "split.group=kind"),
        (["loader.sampler=balanced"], "loader.sampler=balanced"),
        (["scheduler=cosine"], "trainer.max_steps"),
        (["task=binary", "data.target=kind"], "two classes; the data has 3"),
        (["data.pth=x"], "data.pth"),
    ],
)
def test_what_a_stream_cannot_do_is_said(tmp_path, words, expected):
    path = write_clouds(tmp_path)
    with pytest.raises(UserError, match=expected.replace(".", r"\.")):
        plainloop.train(["data=stream", f"data.path={path}", "data.target=y", "task=regression", *words])


# --- training ------------------------------------------------------------------------------------------------


def train(path: str, *words: str) -> Any:
    return plainloop.train(["data=stream", f"data.path={path}", "logger=none", "data.buffer=50", *words])


def assert_same_weights(one: Any, other: Any) -> None:
    """In the newest checkpoints of two runs, bit for bit."""
    files = [
        max((run.path / "checkpoints").glob("step-*.pt"), key=lambda file: int(file.stem[5:])) for run in (one, other)
    ]
    assert files[0].name == files[1].name
    first, second = (torch.load(file, weights_only=True) for file in files)
    for part in ("model", "optimizer", "task", "preprocess"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "metric", "least"), one_in(2, [("kind", "accuracy", 0.95), ("y", "r2", 0.95)]))
def test_it_trains_and_evaluates(tmp_path, capsys, target, metric, least):
    """Words make classes, numbers a regression; the evaluation finds the run's own numbers again."""
    path = write_clouds(tmp_path / "shards")
    run = train(path, f"data.target={target}", "trainer.max_epochs=3", "optimizer.lr=0.02", "loader.batch_size=16")
    said = capsys.readouterr().out
    assert f"the field {target} holds" in said
    assert "3 files" in said
    assert run.metrics[f"test/{metric}"] >= least
    again = plainloop.evaluate(run.path)
    assert again == {name: run.metrics[name] for name in again}
    assert plainloop.evaluate(run.path, split="val")["val/loss"] == run.metrics["val/loss"]
    splits = json.loads((run.path / "splits.json").read_text())
    assert set(splits) == {"train", "val", "test"}


@pytest.mark.slow
def test_a_regression_finds_the_line(tmp_path):
    """y = x0 - 2 x1 + 1 without noise: a linear model in the target's own unit has nearly no error."""
    run = train(
        write_clouds(tmp_path / "shards"),
        "data.target=y",
        "model=linear",
        "trainer.max_epochs=25",
        "optimizer.lr=0.1",
        "console.every_epochs=25",
    )
    assert run.metrics["test/mae"] < 0.01
    inputs = torch.tensor([[1.0, 1.0], [3.0, -1.0]])
    found = run.session.task.predict(run.model(run.preprocess(inputs)))
    torch.testing.assert_close(found, torch.tensor([[0.0], [6.0]]), atol=0.05, rtol=0)


def test_its_numbers_are_those_of_the_files(tmp_path):
    """Accuracy and loss of the files for validation and test, computed from their lines by hand."""
    path = write_clouds(tmp_path / "train")
    held = {"val": write_clouds(tmp_path / "val", 90, 1), "test": write_clouds(tmp_path / "test", 120, 2)}
    run = train(path, "data.target=kind", "trainer.max_epochs=1", *(f"data.{name}={held[name]}" for name in held))
    for split, count in (("val", 90), ("test", 120)):
        lines = [line for file in sorted((tmp_path / split).iterdir()) for line in file.read_text().splitlines()]
        assert len(lines) == count
        inputs = torch.tensor([json.loads(line)["inputs"] for line in lines])
        kinds = torch.tensor([["ash", "birch", "cedar"].index(json.loads(line)["kind"]) for line in lines])
        with torch.inference_mode():
            logits = run.model.eval()(run.preprocess(inputs))
        loss = torch.nn.functional.cross_entropy(logits, kinds).item()
        assert run.metrics[f"{split}/loss"] == pytest.approx(loss, rel=1e-5)
        assert run.metrics[f"{split}/accuracy"] == pytest.approx((logits.argmax(1) == kinds).float().mean().item())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "shorter"),
    [
        (["trainer.max_epochs=3"], "trainer.max_epochs=2"),
        (["trainer.max_steps=80"], "trainer.max_steps=44"),
        (["trainer.max_steps=80", "transforms.train=[{_target_: torch.nn.Dropout}]"], "trainer.max_steps=44"),
    ],
    ids=["epochs", "steps", "random transforms"],
)
def test_it_resumes_bit_for_bit(tmp_path, words, shorter):
    """At an epoch's end, and in the middle of one, where the stream goes on from its own state."""
    path = write_clouds(tmp_path / "shards")
    own = ["data.target=kind", "loader.batch_size=16"]
    whole = train(path, *own, *words)
    stopped = train(path, *own, shorter, *words[1:])
    resumed = plainloop.train([f"resume={stopped.path}", words[0]])
    assert_same_weights(whole, resumed)
    assert resumed.metrics["test/loss"] == whole.metrics["test/loss"]


@pytest.mark.slow
def test_files_that_have_changed_are_noticed(tmp_path, capsys):
    """By their names and sizes."""
    path = write_clouds(tmp_path / "shards")
    run = train(path, "data.target=kind", "trainer.max_epochs=1")
    with (tmp_path / "shards" / "0.jsonl").open("a") as file:
        file.write('{"inputs": [1.0, 1.0], "kind": "ash", "y": 0}\n')
    with pytest.raises(UserError, match="split train has changed"):
        plainloop.train([f"resume={run.path}", "trainer.max_epochs=2"])
    plainloop.evaluate(run.path)
    assert "split test" in capsys.readouterr().err


def test_another_number_of_the_same_size_is_noticed(tmp_path):
    """In any place of small files, and in one of the places of a large one."""
    lines = [f'{{"inputs": [{number}.0, 1.0], "y": {number % 2}}}' for number in range(100, 400)]
    for number in (0, 1):
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    before = found_shards(f"{tmp_path}/*.jsonl", "path").digest()
    assert found_shards(f"{tmp_path}/*.jsonl", "path").digest() == before
    lines[150] = lines[150].replace("250.0", "259.0")
    (tmp_path / "1.jsonl").write_text("\n".join(lines) + "\n")
    assert found_shards(f"{tmp_path}/*.jsonl", "path").digest() != before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_data(tmp_path):
    """A stream of 60 MB needs no more than one of 10 MB, but for what allocators take: a data
    set that held what it read would need 50 MB more."""
    figures = tmp_path / "figures.json"
    words = ["--megabytes", "10", "60", "--buffer", "1000", "--workers", "0", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/stream.py"), *words, "--json", str(figures)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert figures.exists(), done.stdout + done.stderr
    peaks = json.loads(figures.read_text())
    assert abs(peaks["60"] - peaks["10"]) < 40e6
