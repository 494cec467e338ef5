"""SIGINT, SIGTERM and SIGUSR1 while a run trains."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from plainloop.errors import Interrupted, tell
from plainloop.runs.checkpoint import Checkpoints
from plainloop.training.trainer import Trainer


@contextlib.contextmanager
def obeying_signals(trainer: Trainer, checkpoints: Checkpoints) -> Iterator[None]:
    """SIGINT and SIGTERM finish the step, save and leave; a second one ends at once. SIGUSR1 saves and goes on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if trainer.signal is not None:
            raise Interrupted("ended at once by a second signal.", number)
        trainer.signal = number
        tell("\nfinishing the step, then saving; once more ends at once", sys.stderr)

    def save_and_go_on(number: int, frame: Any) -> None:
        checkpoints.wanted = True

    handlers: dict[Any, Any] = {signal.SIGINT: handle, signal.SIGTERM: handle}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        handlers[signal.SIGHUP] = handle
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = save_and_go_on
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
