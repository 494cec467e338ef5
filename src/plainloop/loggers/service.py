"""Loggers that send to a service, from a process of their own: whatever it does there, the run neither waits nor fails.

A service's library may raise, hang, start threads of its own and hold up Python's end. So none is imported here: a
`Service` writes what there is to send into the pipe of a child process, and never waits for it; there a `Client` calls
the library. What the service loses, history.jsonl has.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from plainloop.errors import UserError, counted, first_line, tell
from plainloop.loggers.logger import Logger

if TYPE_CHECKING:
    from plainloop.runs.directory import RunDir

MOST = 10_000  # messages that wait for a service which is slow; what comes then is lost, and counted
PATIENCE = 20  # calls in a row that may fail, then the service is given up
ORPHAN = 60  # seconds that a child has left to finish in, when its run was killed
START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from plainloop.loggers.service import serve; serve()"


class Service(Logger):
    """The run's side; it has a `Client` of the same module do the work.

    Args:
        wait: at the end of the run, so many seconds at most for what is still to be sent.
        arguments: those of the client, beside the run.
    """

    package: ClassVar[str] = "plainloop"  # what has to be installed
    extra: ClassVar[str] = "service"  # pip install -e ".[EXTRA]"
    client: ClassVar[str] = "Client"  # its name, in the same module

    def __init__(self, wait: float = 15.0, **arguments: Any):
        if isinstance(wait, bool) or not isinstance(wait, int | float) or not 0 <= wait <= 3600:
            raise UserError(f"wait={wait}: a number of seconds, as 15; 3600 at most.")
        self.check_installed()
        self.wait, self.arguments = wait, arguments
        self.id = uuid.uuid4().hex[:12]  # the run's name for the service; that of the run which goes on
        self.given, self.handled = 0, 0  # records
        self.trouble, self.told = "", False
        self.notes: list[str] = []
        self.waiting: queue.Queue[bytes | None] = queue.Queue(MOST)  # None: that was all
        self.process: subprocess.Popen[bytes] | None = None
        self.read = threading.Event()  # all that it said

    @classmethod
    def check_installed(cls) -> None:
        """Raises UserError, without importing anything."""
        spec = importlib.util.find_spec(cls.package)
        if spec is None or spec.origin is None:  # a mere folder of that name, as wandb makes one for its files
            raise UserError(
                f'logger={cls.extra}: the package {cls.package} isn\'t installed. Type: pip install -e ".[{cls.extra}]"'
            )

    # --- what a logger is asked ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"id": self.id, "records": self.given}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not state:  # the run had no such logger then
            return
        self.id, self.given = state["id"], state["records"]
        if not (isinstance(self.id, str) and re.fullmatch("[0-9a-f]{12}", self.id)) or type(self.given) is not int:
            raise ValueError("what a logger remembers of its service is no number of a run")

    def open(self, run: "RunDir", config: Mapping[str, Any], step: int) -> None:
        self.handled = self.given
        about: dict[str, Any] = {
            "id": self.id,
            "name": run.path.name,
            "group": run.path.parent.name,
            "folder": str(run.path.resolve()),
        }
        about |= {"config": config, "resumed": step > 0, "records": self.given}
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        words = [sys.executable, "-c", START, json.dumps([os.path.abspath(each) for each in sys.path])]
        try:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a signal to the run isn't one to it: it sends what there is
            )
        except OSError as error:
            self.trouble = f"it can't be started: {error}"
            self._say()
            return
        target = f"{type(self).__module__}.{self.client}"
        self._put({"start": {"target": target, "arguments": self.arguments, "run": about}})
        for work in (self._write, self._read):
            threading.Thread(target=work, daemon=True).start()

    def log(self, record: Mapping[str, Any]) -> None:
        self.given += 1
        self._put({"log": dict(record)})
        self._say()

    def figure(self, name: str, path: Path, step: int) -> None:
        self._put({"figure": [name, str(path.resolve()), step]})

    def result(self, metrics: Mapping[str, float], step: int) -> None:
        self._put({"result": [dict(metrics), step]})

    def close(self) -> None:
        if self.process is None:
            return
        self._put({"end": True})
        with contextlib.suppress(queue.Full):
            self.waiting.put_nowait(None)
        try:
            self.process.wait(self.wait)
            self.read.wait(1)
        except subprocess.TimeoutExpired:
            self.trouble = self.trouble or f"it didn't answer within {self.wait:g} s at the end"
        finally:
            if self.process.poll() is None:
                kill_group(self.process)
        self._say()
        lost = self.given - self.handled
        if lost > 0:
            what = f"{counted(lost, 'record')} of {self.given:,} may not have arrived; history.jsonl has them all"
            tell(f"note    {self._name()}: {what}", sys.stdout)
        self.process = None

    # --- the pipe -----------------------------------------------------------------------------------------

    def _put(self, message: dict[str, Any]) -> None:
        if self.process is None:
            return
        try:
            self.waiting.put_nowait(json.dumps(message, default=str).encode() + b"\n")
        except queue.Full:
            self.trouble = self.trouble or "it is too slow or doesn't answer"

    def _write(self) -> None:
        """In a thread: what stands in the pipe's way waits here."""
        assert self.process is not None
        assert self.process.stdin is not None
        with contextlib.suppress(OSError, ValueError), self.process.stdin as pipe:  # it may be gone
            for message in iter(self.waiting.get, None):
                left = memoryview(message)
                while left:
                    left = left[os.write(pipe.fileno(), left) :]

    def _read(self) -> None:
        """In a thread: what the client answers."""
        assert self.process is not None
        assert self.process.stdout is not None
        ended = False
        with self.process.stdout as pipe:
            for line in pipe:
                answer = json.loads(line)
                ended = answer.get("ended", False)
                self.handled += answer.get("handled", 0)
                self.notes += answer.get("notes", [])
                self.trouble = self.trouble or answer.get("trouble", "")
        if not ended:
            self.trouble = self.trouble or "its process has ended"
        self.read.set()

    def _say(self) -> None:
        """What there is to tell, from the thread that writes to the terminal: of troubles the first."""
        while self.notes:
            tell(f"note    {self._name()}: {self.notes.pop(0)}", sys.stdout)
        if self.trouble and not self.told:
            self.told = True
            tell(f"warning: {self._name()}: {self.trouble} (the run goes on)", sys.stdout)

    def _name(self) -> str:
        return f"logger {self.extra}"


def has_password(uri: str) -> bool:
    """Whether an address says a user, a password or a token."""
    parts = urlsplit(uri)
    return "@" in parts.netloc or bool(re.search("token|key|secret|password", parts.query, re.IGNORECASE))


def kill_group(process: "subprocess.Popen[bytes]") -> None:
    """A process, and those that it has started."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
    process.wait()


# --- in the child process -----------------------------------------------------------------------------------------


class Client:
    """What a service is asked to do. Whatever is raised here is told, and the run goes on.

    Args:
        run: "id", "name", "group" and "folder" of the run, its "config", whether it is "resumed", and how many
            "records" it had sent by then: what the service has beyond these will come once more, bit for bit.
        arguments: from the config.
    """

    def __init__(self, run: Mapping[str, Any], **arguments: Any):
        self.notes: list[str] = []  # what the user should know: where it is to be seen

    def log(self, record: Mapping[str, Any]) -> None:
        """A line of history.jsonl."""

    def figure(self, name: str, path: str, step: int) -> None:
        """A picture, as a PNG."""

    def result(self, metrics: Mapping[str, float], step: int) -> None:
        """The content of metrics.json."""

    def close(self) -> None:
        """After the last of these."""


def serve() -> None:
    """Do what stands in the lines of standard input, and answer each with a line on standard output. What the library
    prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError, OSError):
            signal.signal(number, signal.SIG_IGN)

    def answer(**said: Any) -> None:
        with contextlib.suppress(OSError):  # the run is gone
            print(json.dumps(said), file=answers, flush=True)

    client, failures = None, 0
    try:
        for line in sys.stdin:
            ((what, given),) = json.loads(line).items()
            if what == "end":
                break
            try:
                if what == "start":
                    module, _, name = given["target"].rpartition(".")
                    client = getattr(importlib.import_module(module), name)(given["run"], **given["arguments"])
                else:
                    assert client is not None
                    getattr(client, what)(*(given if isinstance(given, list) else [given]))
                failures = 0
            except Exception as error:
                failures += 1
                answer(trouble=f"{type(error).__name__}: {first_line(error)[:300]}")
                if client is None or failures == PATIENCE:
                    os._exit(1)
            else:
                answer(handled=int(what == "log"), notes=[client.notes.pop(0) for _ in client.notes[:]])
        else:  # no end was said: the run was killed
            limit = threading.Timer(ORPHAN, os._exit, [1])
            limit.daemon = True
            limit.start()
        if client is not None:
            client.close()
            answer(notes=client.notes)
    except Exception as error:
        answer(trouble=f"{type(error).__name__}: {first_line(error)[:300]}")
    answer(ended=True)
    os._exit(0)  # whatever the library would still wait for
