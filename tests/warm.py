"""Commands that start at once: a process that has imported what others wrote, and forks a child for each command.

`python train.py` imports torch for four seconds and then trains for one. What is tested in a hundred of them is what
comes after the imports, so these are made once: `start` has this file run as a program, which imports the libraries and
then waits to be asked for children. Our own modules aren't among them: a child imports those itself, from the checkout
whose door it opens, as any process does.

A child is a process in all that the tests look at: it leads a session and a group of its own, has the environment,
folder, files and signal handlers of one that has just been started, runs the script as `__main__`, waits for its
threads and runs its exit handlers. What it can't show is how Python starts and how it takes itself apart: what an
import costs and whether it is made, limits that are inherited, another seed of `hash`, objects that complain when they
are deleted at the very end. Tests of those start a real one, `cold`; and so does one test of each class.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torch._inductor.config", "torch.utils.data", "torch.utils.tensorboard", "torchvision", "hydra",
             "hydra._internal.instantiate._instantiate2", "omegaconf", "numpy", "polars", "PIL.Image")  # fmt: skip

# --- in the tests ----------------------------------------------------------------------------------------------


def start(
    words: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: Any, stderr: Any, cold: bool = False
) -> "subprocess.Popen[bytes] | Child":
    """`python words...` in a session of its own, writing into two open files."""
    if not cold and hasattr(socket, "send_fds"):
        return Child(words, cwd, env, stdout, stderr)
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


class Child:
    """A command that runs, with what subprocess.Popen has under the same names."""

    def __init__(self, words: Sequence[str], cwd: Path, env: Mapping[str, str], stdout: Any, stderr: Any):
        question = {"words": list(words), "cwd": str(cwd), "env": dict(env)}
        self.pid = ask(question, [stdout.fileno(), stderr.fileno()])
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = ask({"ended": self.pid})
        return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("python", timeout)
            time.sleep(0.005)
        return status


LOCK = threading.Lock()
PROGRAM: list[socket.socket] = []  # the way to it, once it has been started; it ends when this process does


def ask(question: dict[str, Any], files: Sequence[int] = ()) -> Any:
    """One line to the program, with files, and its answer."""
    with LOCK:
        if not PROGRAM:
            ours, theirs = socket.socketpair()
            command = [sys.executable, __file__, str(theirs.fileno())]
            subprocess.Popen(command, pass_fds=[theirs.fileno()], start_new_session=True)
            theirs.close()
            PROGRAM.append(ours)
        socket.send_fds(PROGRAM[0], [json.dumps(question).encode() + b"\n"], list(files))
        return json.loads(PROGRAM[0].recv(100))


# --- in the program --------------------------------------------------------------------------------------------


def serve(asked: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork children, and say how they have ended. Returns in a child alone: what it has been asked for."""
    while True:
        line, files, _, _ = socket.recv_fds(asked, 1 << 20, 2)
        while line and not line.endswith(b"\n"):
            line += asked.recv(1 << 20)
        if not line:  # the tests have ended
            sys.exit()
        question = json.loads(line)
        if "ended" in question:
            pid, status = os.waitpid(question["ended"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                return question, files
            for file in files:
                os.close(file)
        asked.sendall(json.dumps(answer).encode())


def become(words: list[str], cwd: str, env: dict[str, str], files: list[int]) -> None:
    """Make this process what `python words...` is when Python has started."""
    os.setsid()
    for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *files]):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(cwd)
    sys.argv = words
    sys.path[: 1 + len(search_path(os.environ))] = [str(Path(words[0]).parent), *search_path(env)]
    os.environ.clear()
    os.environ.update(env)


def run(script: str) -> int | str | None:
    """Run it as `__main__`; what it has exited with, as sys.exit takes it."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        return ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def leave(code: int | str | None) -> None:
    """End this process as Python does, but without taking a million objects apart, which takes seconds."""
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for its threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def search_path(env: Mapping[str, str]) -> list[str]:
    return [entry for entry in env.get("PYTHONPATH", "").split(os.pathsep) if entry]


if __name__ == "__main__":
    gc.disable()
    for library in LIBRARIES:
        importlib.import_module(library)
    gc.freeze()  # a process that has just been started has nothing that the collector would look through
    gc.enable()
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        question, files = serve(asked)
    become(**question, files=files)
    leave(run(sys.argv[0]))
