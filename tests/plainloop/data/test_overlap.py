"""The same sample in two splits is found, in memory and in files, and only that."""

import builtins
import collections
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

import plainloop
from plainloop.data import Data, InMemory
from plainloop.data import overlap as overlap_room
from plainloop.data.kinds.files import Files
from plainloop.data.overlap import shared_samples
from plainloop.data.transforms import transformed


def by_comparing(some: InMemory, train: InMemory) -> list[tuple[int, int]]:
    """Every pair of samples looked at: the first equal one of train for each."""
    found = []
    for index in range(len(some)):
        for other in range(len(train)):
            if all(torch.equal(a, b) for a, b in zip(some[index], train[other], strict=True)):
                found.append((index, other))
                break
    return found


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(1,), (3,), (7,), (1, 3, 2), (2, 2, 5)])
def test_shared_rows_are_found_as_by_comparing_all(kind, shape):
    """Few different values, so that many samples come twice; of any width in bytes."""
    random = numpy.random.default_rng(0)

    def some(count: int) -> InMemory:
        inputs = torch.as_tensor(random.integers(0, 2, (count, *shape))).to(kind)
        return InMemory(inputs, torch.as_tensor(random.integers(0, 2, count)))

    data = Data(some(30), some(20), some(25))
    expected = {split: by_comparing(data[split], data.train) for split in ("val", "test")}
    assert shared_samples(data) == {split: pairs for split, pairs in expected.items() if pairs}


def test_another_target_is_another_sample():
    inputs = torch.arange(6.0).reshape(3, 2)
    assert (
        shared_samples(Data(InMemory(inputs, torch.tensor([0, 1, 1])), None, InMemory(inputs, torch.tensor([1, 0, 0]))))
        == {}
    )


def test_different_samples_have_different_hashes():
    """All 2^16 rows of sixteen zeros and ones, as bytes and as floats: none takes another's place."""
    rows = torch.cartesian_prod(*[torch.tensor([0, 1])] * 16)
    for kind in (torch.uint8, torch.float32, torch.float64):
        assert len(set(overlap_room._hashes(rows.to(kind)))) == 2**16


def test_splits_of_one_data_set_are_compared_by_their_indices():
    """Through Subsets and transforms: what is told are places in the splits."""
    inputs = torch.arange(10.0)[:, None].repeat(1, 3)
    inputs[7] = inputs[2]
    whole = InMemory(inputs, torch.zeros(10, dtype=torch.int64))
    data = Data(
        transformed(Subset(whole, [0, 1, 2, 3]), torch.nn.Identity()), Subset(whole, [4, 5]), Subset(whole, [6, 7])
    )
    assert shared_samples(data) == {"test": [(1, 2)]}


@pytest.fixture
def written(tmp_path) -> list[tuple[str, int]]:
    """Ten files: 3 and 8 are equal; 4 and 9 differ in one byte between the pieces that are looked at first; 5 has
    4's size; the others have sizes of their own."""
    random = numpy.random.default_rng(0)
    contents = [random.bytes(100 + number) for number in range(10)]
    contents[8] = contents[3]
    contents[4] = random.bytes(100_000)
    contents[9] = contents[4][:30_000] + b"!" + contents[4][30_001:]
    contents[5] = random.bytes(100_000)
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.bin").write_bytes(content)
    return [(str(tmp_path / f"{number}.bin"), 0) for number in range(10)]


class Kept(Files):
    def __getitem__(self, index: int) -> Any:
        raise AssertionError("nothing is decoded")


def test_shared_files_are_found_by_their_content(written, monkeypatch):
    """And no more is read than is needed: nothing of a file whose size no other has, all of none but of those whose
    pieces are equal."""
    read: collections.Counter[str] = collections.Counter()
    real = builtins.open

    def watched(file: Any, *words: Any, **more: Any) -> Any:
        read[Path(file).stem] += 1
        return real(file, *words, **more)

    monkeypatch.setattr(builtins, "open", watched)
    whole = Kept(written, ["a"])
    data = Data(Subset(whole, range(5)), Subset(whole, [5, 6, 7]), Kept(written[8:], ["a"]))
    assert shared_samples(data) == {"test": [(0, 3)]}
    assert set(read) == {"3", "8", "4", "9", "5"}
    assert read["5"] == 1  # its pieces differ from those of 4


def test_a_file_that_is_listed_twice_is_shared(written):
    assert shared_samples(Data(Kept(written[:3], ["a"]), None, Kept(written[2:4], ["a"]))) == {"test": [(0, 2)]}


def test_a_file_that_is_gone_is_no_error(written):
    Path(written[1][0]).unlink()
    data = Data(Kept(written[:4], ["a"]), None, Kept([written[1], written[8]], ["a"]))
    assert shared_samples(data) == {"test": [(1, 3)]}


class Own(Dataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("nothing is fetched")


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        raise AssertionError("nothing is read")


@pytest.mark.parametrize("dataset", [Own(), Endless(), Subset(Own(), [0, 1])], ids=["own", "stream", "subset"])
def test_nothing_is_said_of_data_that_cannot_be_looked_at(dataset):
    assert shared_samples(Data(dataset, dataset, dataset)) == {}


def test_nothing_is_said_of_very_large_data(monkeypatch, written):
    """Nobody waits for it."""
    data = InMemory(torch.zeros(10, 1), torch.zeros(10))
    assert len(shared_samples(Data(data, None, data))["test"]) == 10
    monkeypatch.setattr(overlap_room, "MOST_SAMPLES", 9)
    assert shared_samples(Data(data, None, data)) == {}
    assert shared_samples(Data(Kept(written, ["a"]), None, Kept(written, ["a"]))) == {}


def test_it_is_said_before_the_training(tmp_path, capsys):
    """In arrays of the user's, with the count and an example; and of the digits, which are all different, nothing."""
    images = numpy.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=numpy.uint8)
    images[20:] = images[:20]
    labels = numpy.arange(40) % 20 % 2
    numpy.savez(tmp_path / "a.npz", images=images, labels=labels)
    words = ["data=digits", f"data.path={tmp_path / 'a.npz'}", "trainer.max_epochs=1", "logger=none"]
    run = plainloop.train(words)
    split = run.data.indices["test"]["indices"], run.data.indices["train"]["indices"]
    count = sum((index + 20) % 40 in split[1] for index in split[0])
    assert count > 0
    assert f"warning: {count} of {len(split[0])} samples of test are also in train" in capsys.readouterr().out
    plainloop.train(["data=digits", "trainer.max_steps=1", "logger=none"])
    assert "also in train" not in capsys.readouterr().out
