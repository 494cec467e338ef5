"""The processes that load: how many there are, how they start, and what signals do to them."""

import ast
import atexit
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from plainloop import seeding
from plainloop.data.dataset import asked
from plainloop.errors import UserError
from plainloop.trust import FOR_CHILDREN, without_working_directory


def default_workers(dataset: Dataset, seconds: float = 5.0) -> int:
    """How many processes load, where nobody has said it: none for data in memory and for streams, and none where an
    epoch's samples are fetched within `seconds` (as the first few tell), which is about what starting processes
    costs; else one for each core, 8 at most. The results don't depend on it.
    """
    if asked(dataset, "gives_batches") or isinstance(dataset, IterableDataset):
        return 0
    count = len(dataset)  # type: ignore[arg-type]
    few = range(min(8, count))
    with seeding.preserved():
        started = time.perf_counter()
        for index in few:
            with suppress(Exception):  # a sample that can't be read is told when it is needed
                dataset[index]
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, 8) if (time.perf_counter() - started) / len(few) * count > seconds else 0


def default_start_method() -> str:
    """One start method on every Python version: forkserver where there is one (fork copies held locks and
    CUDA's state), else spawn."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def refuse_unguarded_scripts() -> None:
    """Processes that are started anew import the script that started them: one that trains as it is imported would
    begin anew in each. Raises UserError."""
    frame: Any = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_globals["__name__"] == "__main__"):
        frame = frame.f_back
    file = frame.f_globals.get("__file__") if frame is not None else None
    if file is None or not os.path.isfile(file):  # a notebook, python -c
        return
    with open(file, encoding="utf-8") as script:
        statements = ast.parse(script.read()).body
    here = [each for each in statements if each.lineno <= frame.f_lineno <= (each.end_lineno or each.lineno)]
    if here and not (isinstance(here[0], ast.If) and "__name__" in ast.unparse(here[0].test)):
        raise UserError(
            f"{file}, line {frame.f_lineno}: a loading process imports this script, and would start all of this again. "
            'Put what it does\nbelow a line  if __name__ == "__main__":  (or set loader.num_workers=0)'
        )


# Those that a terminal or a cluster sends to the whole process group: they are the main process's to obey.
SIGNALS = [getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGINT", "SIGTERM") if hasattr(signal, name)]


def watch(iterator: Any) -> None:
    """Notice at once when a loading process is lost. torch waits for the whole of its timeout before it looks whether
    they live, and of a forkserver's children no signal tells."""
    get = getattr(type(iterator), "_try_get_data", None)
    if get is None or "_try_get_data" in vars(iterator):
        return
    # Weakly: a cycle would leave the iterator to the garbage collector, which see `end`.
    weakly = weakref.proxy(iterator)

    def get_or_notice(timeout: float = 5.0) -> tuple[bool, Any]:
        until = time.monotonic() + timeout
        while True:
            try:
                found, data = get(weakly, min(1.0, max(0.0, until - time.monotonic())))
            except (ConnectionError, EOFError) as error:  # its batch was to be had from a process that is gone
                for process in weakly._workers:
                    process.join(0.2)
                lost = [str(process.pid) for process in weakly._workers if not process.is_alive()]
                if not lost:
                    raise
                raise RuntimeError(f"DataLoader worker (pid(s) {', '.join(lost)}) exited unexpectedly") from error
            if found or time.monotonic() >= until:
                return found, data

    iterator._try_get_data = get_or_notice
    _watched.add(iterator)


_watched: weakref.WeakSet = weakref.WeakSet()


@atexit.register
def _end_what_was_left() -> None:
    """Loaders that nobody has closed: else multiprocessing terminates their processes, which wait 30 s then."""
    for iterator in list(_watched):
        end(iterator, at_once=True)


def end(iterator: Any, at_once: bool) -> None:
    """End the loading processes of one of the DataLoader's iterators. Left to the garbage collector, their queues may
    be closed before they are told (then each is waited for 10 s, and SIGTERM isn't obeyed for 30).

    Args:
        at_once: don't wait until they have done what they are at, which may be for good.
    """
    if at_once:
        from torch.utils.data._utils import signal_handling

        if iterator._worker_pids_set:  # else torch's SIGCHLD handler would complain of each
            signal_handling._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        for process in iterator._workers:
            process.kill()
    iterator._shutdown_workers()


@contextmanager
def signals_held() -> Iterator[None]:
    """Signals wait while processes are started, and whatever is started inherits that they wait there: until
    `outlive_signals`, nothing can end it. For this process they come when the block is left."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        with without_working_directory():
            yield
        return
    from multiprocessing import forkserver, resource_tracker

    before, others = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS), forkserver.connect_to_new_process
    try:
        with without_working_directory():
            resource_tracker.ensure_running()  # on its way it lets SIGINT and SIGTERM through again
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            forkserver.connect_to_new_process = _our_forkserver().connect_to_new_process
            yield
    finally:
        forkserver.connect_to_new_process = others
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


SLOW_TO_IMPORT = ("torch", "torch.utils.data", "torchvision")


@functools.cache
def _our_forkserver() -> Any:
    """What it starts has the signal mask that it was started with: in the process's usual one, the user's own
    processes would wait for ever to be terminated. It imports torch once, and not each of its children anew."""
    from multiprocessing.forkserver import ForkServer

    server = ForkServer()
    if sys.platform == "linux":  # macOS has libraries that can't be used in a fork of a process that has loaded them
        # Not what lies in a checkout: this process may have it from elsewhere than the server would find it.
        server.set_forkserver_preload(["__main__", *(name for name in SLOW_TO_IMPORT if name in sys.modules)])
    return server


class Prepared:
    """What a worker does first: it outlives signals, then the user's own `loader.worker_init_fn`."""

    def __init__(self, own: Callable[[int], object] | None = None):
        self.own = own

    def __call__(self, worker: int) -> None:
        outlive_signals(worker)
        if self.own is not None:
            self.own(worker)


def outlive_signals(worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM go to the whole process group; the workers must live until the main process
    has finished its step, and then end with it. 30 seconds after a SIGTERM they end by themselves, and at a second
    one at once."""
    if (
        os.environ.get("PYTHONSAFEPATH") == FOR_CHILDREN
    ):  # it was for the start; what it starts itself is its own affair
        del os.environ["PYTHONSAFEPATH"]
    terminated = threading.Event()

    def end_soon(number: int, frame: Any) -> None:
        if terminated.is_set():
            os._exit(0)
        terminated.set()
        timer = threading.Timer(30, os._exit, (0,))
        timer.daemon = True
        timer.start()

    told = sys.excepthook

    def tell(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not issubclass(kind, ConnectionError | EOFError):  # the main process, or another worker, has gone first
            told(kind, error, trace)

    sys.excepthook = tell
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()
    for number in SIGNALS:
        signal.signal(number, end_soon if number == signal.SIGTERM else signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _end_with_the_main_process() -> None:
    """However that ended. torch's own watch looks every 5 s whether the parent is still the same, and from a
    forkserver it never sees a change: that one lives as long as its children."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
