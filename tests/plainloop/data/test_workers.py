"""The processes that load: how many, how they start and end, and what signals do to them."""

import multiprocessing
import os
import signal
import sys
from multiprocessing import resource_sharer
from types import SimpleNamespace
from typing import Any

import pytest

from plainloop.data.loader import default_start_method, default_workers
from plainloop.data.workers import _end_what_was_left, signals_held, watch
from tests.plainloop.data.bare import tell_what_is_imported
from tests.plainloop.data.loading import Augmented, generators, loader, numbered


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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each imports torch itself")
def test_loading_processes_need_not_import_torch():
    """They are forked from one that has imported it."""
    context = multiprocessing.get_context("forkserver")
    answers = context.Queue()
    process = context.Process(target=tell_what_is_imported, args=(answers,))
    with signals_held():
        process.start()
    assert answers.get(timeout=300)
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
