"""The order of an epoch and the augmentation of a sample follow from the seed and the position, from nothing else."""

import itertools
import multiprocessing
import os
import random
import signal
from collections.abc import Sequence
from multiprocessing import resource_sharer
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import Dataset

from plainloop.config import schema
from plainloop.data import InMemory, Loader, make_loader
from plainloop.data.loader import Fetch, default_start_method, default_workers
from plainloop.data.workers import _end_what_was_left, watch
from plainloop.errors import MachineError, UserError

CPU = torch.device("cpu")


def numbered(count: int) -> InMemory:
    """In memory: input and target are the sample's own number."""
    return InMemory(torch.arange(count).float().unsqueeze(1), torch.arange(count))


class Augmented(Dataset):
    """Its input is three random numbers, one from each library; its target is the sample's own number."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        drawn = [torch.rand(()).item(), numpy.random.rand(), random.random()]
        return torch.tensor(drawn, dtype=torch.float64), index


def loader(dataset: Dataset, batch_size: int = 8, seed: int = 1, limit: int | None = None, **options: Any) -> Loader:
    section = schema.Loader(**{"batch_size": batch_size, "num_workers": 0, **options})
    return make_loader(dataset, section, seed=seed, device=CPU, limit=limit)


def order_of(batches: Any) -> list[list[int]]:
    """The samples of each batch."""
    return [targets.tolist() for _, targets in batches]


def generators() -> tuple[Any, ...]:
    """The states of the default generators, in a form that can be compared."""
    kind, keys, *rest = numpy.random.get_state()
    return random.getstate(), (kind, keys.tolist(), *rest), torch.get_rng_state().tolist()


# --- order --------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_permutation():
    """Every sample once; another order in another epoch and for another seed."""
    orders = {
        (seed, epoch): tuple(itertools.chain(*order_of(loader(numbered(100), seed=seed).epoch(epoch))))
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert all(sorted(order) == list(range(100)) for order in orders.values())
    assert len(set(orders.values())) == 4


def test_the_order_follows_from_seed_and_epoch_alone():
    """Not from earlier epochs, nor from what else was drawn, nor from the batch size."""
    used = loader(numbered(50))
    for epoch in (0, 4, 2):
        list(used.epoch(epoch))
    torch.manual_seed(99)
    expected = order_of(loader(numbered(50)).epoch(3))
    assert order_of(used.epoch(3)) == expected
    other = loader(numbered(50), batch_size=7).epoch(3)
    assert list(itertools.chain(*order_of(other))) == list(itertools.chain(*expected))


def test_the_order_is_a_fair_shuffle():
    """Which sample comes first, over 2,000 epochs: each of 20 as often as chance allows."""
    order = loader(numbered(20)).source
    counts = torch.zeros(20)
    for epoch in range(2000):
        counts[order.order(epoch)[0]] += 1
    assert (counts - 100).abs().max() < 5 * (2000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("dataset", [numbered(30), Augmented(30)], ids=["in memory", "sample by sample"])
@pytest.mark.parametrize("first", range(6))
def test_an_epoch_can_start_at_any_batch(dataset, first):
    """What is left is the rest of the same epoch, augmentation included: this is how a run resumes."""
    every = list(loader(dataset, drop_last=False).epoch(5))
    rest = list(loader(dataset, drop_last=False).epoch(5, first_batch=first))
    assert len(every) == 4
    assert len(rest) == max(0, 4 - first)
    for (inputs, targets), (expected_inputs, expected_targets) in zip(rest, every[first:], strict=True):
        assert torch.equal(inputs, expected_inputs)
        assert torch.equal(targets, expected_targets)


def test_validation_is_never_shuffled():
    """Without shuffle every epoch is 0, 1, 2, ..., whatever its number and the seed."""
    for seed, epoch in ((0, 0), (1, 0), (1, 7)):
        batches = loader(numbered(20), shuffle=False, seed=seed).epoch(epoch)
        assert list(itertools.chain(*order_of(batches))) == list(range(20))


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(16, False, [8, 8]), (19, False, [8, 8, 3]), (19, True, [8, 8]), (5, False, [5]), (8, True, [8])],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_batch_sizes(count, drop_last, sizes, shuffle):
    """The last batch is short, or left out; the length and the number of samples tell it beforehand."""
    batches = loader(numbered(count), drop_last=drop_last, shuffle=shuffle)
    assert [len(batch) for batch in order_of(batches.epoch())] == sizes
    assert len(batches) == len(sizes)
    assert batches.num_samples == sum(sizes)


def test_what_drop_last_drops_differs_from_epoch_to_epoch():
    """So that no sample is left out of every epoch."""
    batches = loader(numbered(19), drop_last=True)
    seen = [set(itertools.chain(*order_of(batches.epoch(epoch)))) for epoch in range(20)]
    assert all(len(samples) == 16 for samples in seen)
    assert set.union(*seen) == set(range(19))


@pytest.mark.parametrize(("limit", "batches", "samples"), [(1, 1, 8), (2, 2, 16), (3, 3, 19), (9, 3, 19)])
def test_limit(limit, batches, samples):
    """At most this many batches; the first ones of the whole epoch's order."""
    limited = loader(numbered(19), limit=limit)
    assert (len(limited), limited.num_samples) == (batches, samples)
    assert order_of(limited.epoch(2)) == order_of(loader(numbered(19)).epoch(2))[:batches]
    assert len(list(limited.epoch(2, first_batch=1))) == batches - 1


def test_dropping_every_batch_is_refused():
    with pytest.raises(UserError, match="drops every batch: 5 samples are fewer than"):
        loader(numbered(5), drop_last=True)


@pytest.mark.parametrize("option", [{"prefetch_factor": 4}, {"timeout": 10}], ids=str)
def test_options_of_workers_without_workers_are_refused(option):
    """An argument that would be ignored is an error."""
    with pytest.raises(UserError, match=next(iter(option))):
        loader(numbered(5), **option)


# --- augmentation -------------------------------------------------------------------------------------------


def everything(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(targets)


@pytest.fixture(scope="module")
def by_workers() -> dict[int, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Epochs 0 and 1, and epoch 1 from its second batch on, loaded by 0, 1 and 2 processes."""
    found = {}
    for workers in (0, 1, 2):
        batches = loader(Augmented(30), num_workers=workers)
        found[workers] = [everything(batches.epoch(*position)) for position in ((0,), (1,), (1, 2))]
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_matter(by_workers, workers):
    """Samples, their order and their augmentation (torch's, NumPy's and Python's) are the same, bit for bit."""
    for alone, together in zip(by_workers[0], by_workers[workers], strict=True):
        assert torch.equal(alone[1], together[1])
        assert torch.equal(alone[0], together[0])


def test_every_sample_is_augmented_in_its_own_way(by_workers):
    """60 samples of two epochs: 60 different numbers from each of the three libraries."""
    drawn = torch.cat([inputs for inputs, _ in by_workers[0][:2]])
    assert drawn.shape == (60, 3)
    for library in range(3):
        assert len(set(drawn[:, library].tolist())) == 60


def test_augmentation_looks_random(by_workers):
    """Uniform numbers: their mean is 1/2 and they don't go together, within 5 deviations of chance."""
    drawn = torch.cat([inputs for inputs, _ in by_workers[0][:2]])
    assert ((drawn.mean(0) - 0.5).abs() < 5 * (1 / 12 / 60) ** 0.5).all()
    assert (torch.corrcoef(drawn.T).triu(diagonal=1).abs() < 5 / 60**0.5).all()


def test_the_next_epoch_augments_anew():
    """The same sample at the same position (no shuffling) is another one in another epoch or under another seed."""
    inputs = [
        everything(loader(Augmented(10), shuffle=False, seed=seed).epoch(epoch))[0]
        for seed in (1, 2)
        for epoch in (0, 1)
    ]
    assert torch.equal(inputs[0], everything(loader(Augmented(10), shuffle=False, seed=1).epoch(0))[0])
    for one, other in itertools.combinations(inputs, 2):
        assert not (one == other).any()


def test_a_sample_drawn_twice_is_augmented_twice():
    """What counts is the position in the order, not the sample: as a sampler with replacement needs."""
    fetch = Fetch(Augmented(10), seed=0)
    first, second, other = fetch.__getitems__((0, 0, torch.tensor([3, 3, 5]))).batch[0]
    assert not (first == second).any()
    (again,) = fetch.__getitems__((0, 1, torch.tensor([3]))).batch[0]
    assert torch.equal(again, second)  # position 1, in whichever batch it comes
    (replaced,) = fetch.__getitems__((0, 2, torch.tensor([9]))).batch[0]
    assert torch.equal(replaced, other)


def test_the_batch_size_does_not_change_a_samples_augmentation():
    small, large = (everything(loader(Augmented(30), batch_size=size).epoch(1)) for size in (4, 30))
    assert torch.equal(small[1], large[1])
    assert torch.equal(small[0], large[0])


@pytest.mark.parametrize("dataset", [numbered(20), Augmented(20)], ids=["in memory", "sample by sample"])
@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_draws_nothing_from_the_default_generators(dataset, workers):
    """Dropout and the user's own random numbers don't depend on what the loader does."""
    batches = loader(dataset, num_workers=workers)
    before = generators()
    assert len(list(batches.epoch(0))) == 3
    assert len(list(batches.epoch(1, first_batch=1))) == 2
    assert generators() == before


def test_epochs_can_be_begun_out_of_turn():
    """An iterator keeps its epoch when another pass begins before or while it is read, as a callback may do."""
    expected = [everything(loader(Augmented(30)).epoch(epoch)) for epoch in (0, 1)]
    batches = loader(Augmented(30))
    started, waiting = batches.epoch(0), batches.epoch(1)
    head = [next(started), next(started)]
    list(batches.epoch(5, first_batch=2))
    found = everything([*head, *started]), everything(waiting)
    for (inputs, targets), (expected_inputs, expected_targets) in zip(found, expected, strict=True):
        assert torch.equal(targets, expected_targets)
        assert torch.equal(inputs, expected_inputs)


class Failing(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        raise OSError("cannot identify image file")


def test_generators_come_back_when_a_sample_fails():
    before = generators()
    with pytest.raises(MachineError, match="sample 3 can't be read: OSError: cannot identify"):
        list(loader(Failing()))
    assert generators() == before


# --- batches ------------------------------------------------------------------------------------------------


class Dicts(Dataset):
    """Inputs by name, as a text model takes them."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int):
        return {"tokens": torch.full((3,), index), "length": index}, float(index)


def test_samples_are_collated_as_torch_does():
    (inputs, targets), *_ = loader(Dicts(), shuffle=False)
    assert inputs["tokens"].tolist() == [[i] * 3 for i in range(5)]
    assert inputs["length"].tolist() == targets.tolist() == [0, 1, 2, 3, 4]


class Growing(Dataset):
    """From sample 13 on, samples are longer; sample 3 can't be read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int):
        if index == 3:
            raise OSError("gone")
        return torch.zeros(2 + (index >= 13)), index


@pytest.mark.parametrize("skip", [0, 1])
def test_the_sample_of_another_shape_is_named(skip):
    """Not the first of the batch, and whatever was left out before."""
    batches = iter(loader(Growing(), batch_size=20, shuffle=False, skip_unreadable=skip))
    wanted = "sample 13 can't be put into a batch with sample 0: .*" if skip else "sample 3 can't be read"
    with pytest.raises(MachineError, match=wanted):
        next(batches)


class Counting(InMemory):
    """In memory, and counts how often a batch is asked for."""

    asked = 0

    def __getitem__(self, index: int):
        raise AssertionError("a sample was fetched by itself")

    def __getitems__(self, indices: Sequence[int]):
        self.asked += 1
        return super().__getitems__(indices)


def test_data_in_memory_is_fetched_a_batch_at_a_time():
    """One `__getitems__` per batch and no collating: a hundred times faster than a sample at a time."""
    data = Counting(torch.arange(20.0), torch.arange(20))
    assert sorted(itertools.chain(*order_of(loader(data)))) == list(range(20))
    assert data.asked == 3


class Long(Augmented):
    """So long that a pass over it takes more than a few seconds."""

    def __len__(self) -> int:
        return 10**9


@pytest.mark.parametrize(
    ("dataset", "loads"),
    [(numbered(10), False), (Augmented(10), False), (Long(1), True)],
    ids=["memory", "few", "many"],
)
def test_how_many_workers_by_default(dataset, loads):
    """None for data in memory, nor for a quick pass; processes for a long one. Finding out draws nothing."""
    before = generators()
    assert (default_workers(dataset) > 0) == loads
    assert default_workers(dataset) <= 8
    assert generators() == before


@pytest.mark.parametrize("dataset", [Augmented(20), numbered(20)], ids=["sample by sample", "in memory"])
def test_what_is_asked_for_is_copied_to_the_workers(dataset, monkeypatch):
    """A shared tensor would need a file and a thread of the main process for each batch, which complains of a worker
    that is killed while it fetches one."""
    shared, main, register = [], os.getpid(), resource_sharer._ResourceSharer.register

    def noted(self: Any, send: Any, close: Any) -> Any:
        shared.append(os.getpid())
        return register(self, send, close)

    monkeypatch.setattr(resource_sharer._ResourceSharer, "register", noted)
    with loader(dataset, num_workers=2, multiprocessing_context="fork") as batches:
        assert sorted(int(target) for _, targets in batches.epoch(0) for target in targets) == list(range(20))
    assert main not in shared


def test_loaders_that_nobody_closed_are_ended_at_exit():
    """By what is registered for it; multiprocessing would terminate them, which they obey 30 s later."""
    left = loader(Augmented(20), num_workers=2, multiprocessing_context="fork")
    next(left.epoch(0))
    processes = left.running._workers
    assert all(process.is_alive() for process in processes)
    _end_what_was_left()
    assert not any(process.is_alive() for process in processes)


def mask_of_this_process(answers: Any) -> None:
    answers.put(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))


@pytest.mark.slow
def test_the_users_own_processes_obey_signals():
    """Signals wait in the loading processes until these can deal with them; in others they don't."""
    with loader(Augmented(20), num_workers=1) as batches:
        list(batches.epoch(0))
    context = multiprocessing.get_context("forkserver")
    answers = context.Queue()
    process = context.Process(target=mask_of_this_process, args=(answers,))
    process.start()
    assert answers.get(timeout=300) == []
    process.join()


class LostIterator:
    """One of the DataLoader's iterators, whose batch was to come from a process that has died, or lives."""

    def __init__(self, alive: bool):
        self._workers = [SimpleNamespace(pid=77, is_alive=lambda: alive, join=lambda timeout: None)]

    def _try_get_data(self, timeout: float) -> tuple[bool, Any]:
        raise ConnectionResetError("reset by peer")


def test_a_batch_that_a_lost_process_held_is_its_loss():
    """Tensors are handed over by their process: with it gone, the connection to it is refused."""
    lost, living = LostIterator(alive=False), LostIterator(alive=True)
    watch(lost)
    watch(living)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid\(s\) 77\) exited unexpectedly"):
        lost._try_get_data(1.0)
    with pytest.raises(ConnectionResetError, match="reset by peer"):
        living._try_get_data(1.0)


def test_workers_are_not_forked():
    """Fork copies held locks and CUDA's state; the same start method on every Python version."""
    assert default_start_method() in ("forkserver", "spawn")
    options = loader(Augmented(20), num_workers=1).loader
    assert options.multiprocessing_context.get_start_method() == default_start_method()


def test_no_more_workers_than_batches():
    """A validation split of one batch doesn't start eight processes."""
    assert loader(Augmented(8), num_workers=2).loader.num_workers == 1
    assert loader(Augmented(9), num_workers=2).loader.num_workers == 2
