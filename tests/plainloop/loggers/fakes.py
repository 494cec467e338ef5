"""Services that are no services: one that writes down what it is told, and some of every ill will."""

import atexit
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plainloop.loggers import service


class Fake(service.Service):
    """Calls the client of this module that is named.

    Args:
        client: Writing, Raising, ...
        file: where it writes.
        place: where it says that it sends to.
    """

    extra = "fake"

    def __init__(self, client: str, file: str | None = None, place: str | None = None, wait: float = 15.0):
        super().__init__(wait, **({} if file is None else {"file": file}))
        self.client, self.destination = client, place  # type: ignore[misc]


class Writing(service.Client):
    """One JSON list a call."""

    def __init__(self, run: Mapping[str, Any], file: str):
        super().__init__(run)
        self.file = Path(file)
        self._write("start", {**run, "key": os.environ.get("SERVICE_KEY")})
        self.notes.append("it is seen\x1b[2J in a file")

    def _write(self, *what: Any) -> None:
        with self.file.open("a") as file:
            print(json.dumps(what), file=file)

    def log(self, record: Mapping[str, Any]) -> None:
        self._write("log", record)

    def figure(self, name: str, path: str, step: int) -> None:
        self._write("figure", name, Path(path).read_bytes()[:4].hex(), step)

    def result(self, metrics: Mapping[str, float], step: int) -> None:
        self._write("result", metrics, step)

    def close(self) -> None:
        self._write("close")


class Raising(service.Client):
    def log(self, record: Mapping[str, Any]) -> None:
        raise ConnectionError(f"no route to host\nat step {record['step']}")


class RaisingOnce(Writing):
    def log(self, record: Mapping[str, Any]) -> None:
        if record["step"] == 50:
            raise ConnectionError("for once")
        super().log(record)


class RaisingAtOnce(service.Client):
    def __init__(self, run: Mapping[str, Any]):
        raise PermissionError("log in first")


class RaisingAtLast(service.Client):
    def close(self) -> None:
        raise TimeoutError("nobody answers")


class Dying(service.Client):
    def log(self, record: Mapping[str, Any]) -> None:
        os._exit(3)


class Sleeping(service.Client):
    def log(self, record: Mapping[str, Any]) -> None:
        time.sleep(30)


class SleepingAtOnce(service.Client):
    def __init__(self, run: Mapping[str, Any]):
        time.sleep(30)


class SleepingAtLast(service.Client):
    def close(self) -> None:
        time.sleep(30)


class HoldingUp(service.Client):
    """As libraries do: a thread that Python waits for at its end, and something to be done then."""

    def __init__(self, run: Mapping[str, Any]):
        super().__init__(run)
        threading.Thread(target=time.sleep, args=(30,)).start()
        atexit.register(time.sleep, 30)


class Chatting(service.Client):
    """Prints, where the answers go too."""

    def log(self, record: Mapping[str, Any]) -> None:
        print("{}\nnot JSON")
        os.write(1, b"nor this\n")
