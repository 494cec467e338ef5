"""Streams: divided among processes, and entered anywhere."""

import copy
import json
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

import plainloop
from plainloop.config import schema
from plainloop.data import make_loader
from plainloop.errors import UserError
from plainloop.training.trainer import Trainer
from tests.conftest import one_in
from tests.promises.resume.runs import STREAM, Shuffling, own
from tests.resuming import differences, records, resumed, unequal


@pytest.mark.slow
def test_a_stream_that_is_interrupted_at_the_runs_end_ends_its_epoch(tmp_path, monkeypatch):
    """It has no length by which to know that the epoch's batches are used up."""
    words = [*own(data=Shuffling), *STREAM, "trainer.stop_below=100"]
    whole = plainloop.train([*words, f"hydra.run.dir={tmp_path}/whole"])
    assert records(whole.path)[-1]["train/epoch_loss"] < 100
    validate = Trainer.validate

    def interrupted(self: Trainer) -> dict[str, float]:
        self.signal = signal.SIGTERM
        return validate(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "validate", interrupted)
        with pytest.raises(KeyboardInterrupt, match="saved"):
            plainloop.train([*words, f"hydra.run.dir={tmp_path}/stopped"])
    assert [found for found in differences(whole.path, resumed(tmp_path / "stopped")) if "files" not in found] == []


class Raw(IterableDataset):
    """0, 1, 2, ...: decoded to itself, the epoch, the process that decoded it, and a random number of each library."""

    def __init__(self, count: int = 23):
        self.count, self.epoch = count, 0
        self.read = 0
        self.decoded = torch.zeros(4, dtype=torch.int64).share_memory_()  # by each process

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.count):
            self.read += 1
            yield number

    def decode(self, number: int) -> Tensor:
        self.decoded[me()] += 1
        drawn = [random.random(), float(numpy.random.rand()), float(torch.rand(()))]
        return torch.tensor([number, self.epoch, me(), *drawn], dtype=torch.float64)


def me() -> int:
    worker = get_worker_info()
    return worker.id if worker else 0


class Mixed(Raw):
    """In an order that is drawn while it is read, from all three libraries, and told apart by epoch."""

    def __iter__(self) -> Iterator[Any]:
        held = list(range(self.count))
        while held:
            drawn = random.random() + numpy.random.rand() + float(torch.rand(()))
            yield held.pop(int(drawn / 3 * len(held)))


class Kept(Mixed):
    """The same, and it knows where it stands."""

    def __init__(self, count: int = 23):
        super().__init__(count)
        self.held: list[int] = []
        self.loaded = False

    def __iter__(self) -> Iterator[Any]:
        if not self.loaded:
            self.held = list(range(self.count))
        self.loaded = False
        while self.held:
            self.read += 1
            drawn = random.random() + numpy.random.rand() + float(torch.rand(()))
            yield self.held.pop(int(drawn / 3 * len(self.held)))

    def state_dict(self) -> dict[str, Any]:
        return {"held": self.held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held, self.loaded = list(state["held"]), True


class Dividing(Raw):
    """It divides itself among the workers, as torch's documentation shows."""

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return iter(range(start, self.count, step))


def loader_of(dataset: IterableDataset, workers: int = 0, **options: Any) -> Any:
    """A loader of a stream, whose processes are forked: quick to start, and they share the counts."""
    start = {"multiprocessing_context": "fork"} if workers else {}
    given = {name: options.pop(name) for name in ("seed", "limit") if name in options}
    section = schema.Loader(**{"batch_size": 4, "num_workers": workers, **start, **options})
    return make_loader(dataset, section, device=torch.device("cpu"), **{"seed": 1, **given})


def told(batches: Any) -> list[Tensor]:
    """Numbers, epochs and drawn numbers of each batch, without the process."""
    return [batch[:, [0, 1, 3, 4, 5]] for batch in batches]


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_each_batch_is_decoded_by_its_own_process(workers):
    dataset = Raw()
    batches = list(loader_of(dataset, workers).epoch(0))
    assert [int(n) for batch in batches for n in batch[:, 0]] == list(range(23))  # once each, and in their order
    assert [set(batch[:, 2].int().tolist()) for batch in batches] == [{k % max(workers, 1)} for k in range(6)]
    sizes = [4, 4, 4, 4, 4, 3]
    walking = max(workers, 1)
    assert dataset.decoded.tolist() == [sum(sizes[w::walking]) if w < walking else 0 for w in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    one_in(
        3,
        [
            (Mixed, {"limit": 4}),
            (Raw, {}),
            (Mixed, {}),
            (Kept, {"drop_last": True}),
            (Dividing, {}),
            (Dividing, {"batch_size": 1, "limit": 7}),
        ],
    ),
    ids=str,
)
def test_workers_do_not_matter_to_a_stream(kind, options):
    """The same batches, in the same order, with the same numbers drawn."""
    truth = told(loader_of(kind(), **options).epoch(1))
    for workers in (1, 2, 3):
        assert unequal(truth, told(loader_of(kind(), workers, **options).epoch(1))) == []
    numbers = [int(n) for batch in truth for n in batch[:, 0]]
    size, most = options.get("batch_size", 4), options.get("limit", 99)
    count = min(size * most, 20 if "drop_last" in options else 23)
    assert len(numbers) == len(set(numbers)) == count
    assert set(torch.cat(truth)[:, 1].tolist()) == {1.0}  # it was told the epoch


@pytest.mark.slow
def test_epochs_of_a_stream_differ():
    """Its order, where it draws one, and its augmentation; with workers that live through both."""
    for workers in (0, 2):
        loader = loader_of(Mixed(), workers)
        first, second, again = (torch.cat(told(loader.epoch(epoch))) for epoch in (0, 1, 0))
        assert torch.equal(first, again)
        assert first[:, 0].tolist() != second[:, 0].tolist()
        assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist()) == list(range(23))
        assert not torch.isin(first[:, 2], second[:, 2]).any()
        other = torch.cat(told(loader_of(Mixed(), workers, seed=2).epoch(0)))
        assert first[:, 0].tolist() != other[:, 0].tolist()
        assert not torch.isin(first[:, 2:], other[:, 2:]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "workers"), one_in(4, [(Kept, 2), (Kept, 0), (Raw, 0), (Raw, 2), (Mixed, 0), (Mixed, 2)])
)
def test_a_stream_is_entered_anywhere(kind, workers):
    """By count, or where it knows its position, by that; the process that fetches is another one then."""
    loader, whole, states = loader_of(kind(), workers), [], []
    for batch in loader.epoch(3):
        whole.append(batch)
        states.append(copy.deepcopy(loader.state_dict()))
    following = told(loader_of(kind()).epoch(4))
    for first, then in ((1, 0), (2, 3), (3, 0), (4, 0), (5, 2), (6, 0)):
        again = loader_of(kind(), then)
        again.load_state_dict(states[first - 1])
        assert unequal(told(whole[first:]), told(again.epoch(3, first_batch=first))) == []
        assert unequal(following, told(again.epoch(4))) == []  # and the next one is whole


def test_a_stream_that_knows_its_position_goes_there_itself():
    """Nothing is read again; one that doesn't know is walked over, and not decoded."""
    loader = loader_of(Kept())
    batches = loader.epoch(0)
    for _ in range(4):
        next(batches)
    state = loader.state_dict()
    for kind, read in ((Kept, 23 - 16), (Raw, 23)):
        dataset = kind()
        again = loader_of(dataset)
        again.load_state_dict(state if kind is Kept else {"unreadable": {}, "stream": None})
        assert len(list(again.epoch(0, first_batch=4))) == 2
        assert dataset.read == read
        assert dataset.decoded.tolist() == [23 - 16, 0, 0, 0]


class Restarting(Kept):
    """At its end its state is that of its beginning."""

    def state_dict(self) -> dict[str, Any]:
        return {"held": list(self.held) or list(range(self.count))}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_that_has_ended_is_not_entered_again(workers):
    loader = loader_of(Restarting(), workers)
    whole, states = [], []
    for batch in loader.epoch(0):
        whole.append(batch)
        states.append(copy.deepcopy(loader.state_dict()))
    assert [len(batch) for batch in whole] == [4, 4, 4, 4, 4, 3]
    for first in (4, 6):
        again = loader_of(Restarting(), workers)
        again.load_state_dict(states[first - 1])
        assert unequal(told(whole[first:]), told(again.epoch(0, first_batch=first))) == []


class GoingOn(Shuffling):
    """Iterated again, it goes on where it was: a look at its first sample costs one."""

    def __iter__(self) -> Iterator[Any]:
        while self.at < self.count:
            self.at += 1
            yield self.given(self.at)
        self.at = 0

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.at = state["at"]


def test_a_stream_that_goes_on_where_it_was_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"GoingOn goes on where it was .* __iter__ begin at the beginning"):
        plainloop.train([*own(data=GoingOn), *STREAM, "trainer.max_epochs=1"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_walking_a_stream_leaves_the_callers_numbers_alone(workers):
    random.seed(3), numpy.random.seed(3), torch.manual_seed(3)
    expected = random.random(), numpy.random.rand(), float(torch.rand(()))
    random.seed(3), numpy.random.seed(3), torch.manual_seed(3)
    for _ in loader_of(Mixed(), workers).epoch(0):
        pass
    assert (random.random(), numpy.random.rand(), float(torch.rand(()))) == expected


@pytest.mark.slow
def test_a_stream_without_a_length_ends_where_it_is_told(uninterrupted):
    """After so many epochs, which end where the data does, or after so many steps."""
    by_epochs, by_steps = (
        json.loads((uninterrupted(name).path / "metrics.json").read_text()) for name in ("shuffling", "remembering")
    )
    assert (by_epochs["epochs"], by_epochs["steps"], by_epochs["samples"]) == (2, 12, 90)  # 45 are 12 batches, 6 steps
    assert (by_steps["epochs"], by_steps["steps"], by_steps["samples"]) == (1, 10, 45 + 4 * 8)


@pytest.mark.slow
def test_a_schedule_that_needs_a_length_is_refused_on_a_stream_without(tmp_path):
    words = [*own(data=Shuffling), *STREAM, "trainer.max_epochs=2"]
    for name in ("one_cycle", "cosine"):
        with pytest.raises(UserError, match=rf"scheduler={name}.*length.*trainer\.max_steps"):
            plainloop.train([*words, f"scheduler={name}"])
    assert list(tmp_path.iterdir()) == []  # found before anything is written
    run = plainloop.train([*words, "scheduler=one_cycle", "trainer.max_steps=4"])
    assert run.metrics["steps"] == 4
    for name in ("step", "plateau"):  # these don't ask for it
        assert plainloop.train([*words, f"scheduler={name}"]).metrics["epochs"] == 2
