"""Around a training: failures of the machine in two lines, signals, and the profiler."""

import atexit
import contextlib
import gc
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch

from plainloop.checkpoint import Checkpoints
from plainloop.errors import Interrupted, MachineError, UserError, first_line
from plainloop.loggers import Console
from plainloop.rundir import RunDir, typed
from plainloop.trainer import Trainer


def collect_garbage_again() -> None:
    """A door has switched the collector off for the imports (over a second of its looking at torch's objects);
    what has been imported by now stays for good, so it needn't be looked at again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # triton complains of leaks when Python ends and objects are still frozen


@contextlib.contextmanager
def explained(run: RunDir | None) -> Iterator[None]:
    """Failures of the machine in two lines: what happened, and how to go on."""

    def resumable() -> str:
        if run is None or not Checkpoints(run.checkpoints).all():
            return ""
        return f"\nContinue from the last checkpoint with: {typed('train.py', f'resume={run}')}"

    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{error}{resumable()}", error.status - 128) from error
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"out of memory: lower loader.batch_size and raise trainer.accumulate_steps by as much.{resumable()}"
        ) from error
    except MachineError as error:
        raise MachineError(f"{error}{resumable()}") from error
    except IndexError as error:  # a label that no check saw, as the data set has no `targets` to look at
        match = re.search(r"Target (-?\d+) is out of bounds", str(error))
        if match is None:
            raise
        raise UserError(
            f"data: a sample has label {match[1]}, outside the classes that the data set declares."
        ) from error
    except RuntimeError as error:
        if not re.search(r"DataLoader (worker|timed out)", str(error)):
            raise
        raise MachineError(f"{first_line(error)}{resumable()}") from error
    except OSError as error:
        if error.errno is None:
            raise
        raise MachineError(f"{error}{resumable()}") from error


@contextlib.contextmanager
def obeying_signals(trainer: Trainer) -> Iterator[None]:
    """SIGINT and SIGTERM finish the step, save and leave; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if trainer.signal is not None:
            raise Interrupted("ended at once by a second signal.", number)
        trainer.signal = number
        print("\nfinishing the step, then saving; once more ends at once", file=sys.stderr, flush=True)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def profiled(run: RunDir, trainer: Trainer, console: Console, wanted: bool) -> Iterator[None]:
    """trainer.profile: torch's profiler around the training, its trace and table in profile/."""
    if not wanted:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    cuda = trainer.device.type == "cuda"
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])], record_shapes=True
    ) as profiler:
        yield
    run.profile.mkdir(exist_ok=True)
    profiler.export_chrome_trace(str(run.profile / "trace.json"))
    by = "self_cuda_time_total" if cuda else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=40)
    (run.profile / "operations.txt").write_text(table)
    console.say("\n".join(table.splitlines()[:14]))
    console.say(
        f"profile {run}/profile/operations.txt; open trace.json beside it in chrome://tracing or ui.perfetto.dev"
    )
