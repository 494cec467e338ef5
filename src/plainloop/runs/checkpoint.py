"""What a run must remember, written so that no crash can spoil it.

A checkpoint is torch's own file format with a digest behind it: `torch.load` reads it as it is, and `load` here
first makes sure that not one bit has changed.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from plainloop.errors import MachineError, first_line, out_of_memory
from plainloop.pickled import PHYSICAL, is_blown_up, objection
from plainloop.runs.atomic import LEFTOVERS, linked, replacing, sync_folder
from plainloop.runs.files import read_regular

MAGIC = b"plainloop-sha256"
RANKED = re.compile(r"best(?:-([1-9][0-9]{0,8}))?")  # best.pt, best-2.pt
DISK_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
TRAILER = hashlib.sha256().digest_size + len(MAGIC)


class Damaged(MachineError):
    """A checkpoint that isn't what was written."""


class _Hashing:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO):
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def check_plain(value: Any, place: str = "state") -> None:
    """Only tensors and plain containers may be saved, so that `weights_only=True` can load them.

    Found when a checkpoint is saved, not when it is needed. Raises TypeError with the place.
    """
    if value is None or type(value) in (torch.Tensor, torch.nn.Parameter, bool, int, float, str, bytes):
        return
    if type(value) in (dict, OrderedDict, Counter):  # Module.state_dict gives an OrderedDict, MultiStepLR a Counter
        for name, item in value.items():
            if type(name) not in (str, int):
                raise TypeError(
                    f"{place} has a key of type {type(name).__name__}; only words and whole numbers can be saved"
                )
            check_plain(item, f"{place}.{name}")
    elif type(value) in (list, tuple):
        for number, item in enumerate(value):
            check_plain(item, f"{place}[{number}]")
    else:
        raise TypeError(
            f"{place} is a {type(value).__name__}; only tensors, numbers, words, lists and dicts can be saved"
        )


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state to `path` so that a crash at any instant leaves the old file or the new one."""
    check_plain(state)
    try:
        with replacing(path) as file:
            hashing = _Hashing(file)
            torch.save(state, hashing)  # type: ignore[arg-type]
            file.write(hashing.hash.digest() + MAGIC)
    except (OSError, RuntimeError) as error:
        if out_of_memory(error) or "DataLoader worker" in str(error):  # one was lost: torch tells it wherever we are
            raise
        left = "the checkpoints before it stand" if any(path.parent.glob("step-*.pt")) else "there is none yet"
        full = isinstance(error, RuntimeError) or error.errno in DISK_FULL
        why = "is the disk full, or a quota reached?" if full else str(error)
        raise MachineError(f"the checkpoint {path} could not be written: {why} ({left})") from error


def load(path: Path) -> dict[str, Any]:
    """Read a state back, on the CPU. Raises Damaged when the file isn't exactly what `save` wrote."""
    try:
        if path.is_file() and not is_ours(path):  # so that nothing large is read for it
            raise Damaged(f"{path} is not a whole checkpoint of plainloop's.")
        data = read_regular(path, PHYSICAL)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, MemoryError) as error:  # a folder, a pipe; more than memory takes
        raise Damaged(f"{path} is no checkpoint: {getattr(error, 'strerror', None) or first_line(error)}.") from error
    if len(data) < TRAILER:
        raise Damaged(f"{path} is not a whole checkpoint of plainloop's.")
    if hashlib.sha256(memoryview(data)[:-TRAILER]).digest() != data[-TRAILER : -len(MAGIC)]:
        raise Damaged(f"{path} is damaged: its digest doesn't match its content.")
    why = objection(io.BytesIO(data)) if data.startswith(b"PK") else "is no file of torch.save"
    if why:
        raise Damaged(f"{path} {why}: it isn't loaded.")
    try:
        # torch doesn't mind the digest behind its own format; so the bytes needn't be copied.
        with warnings.catch_warnings(action="ignore"):  # a foreign file's pickle protocol: it is told below
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle's own errors, and whatever a pickle can make torch raise
        if out_of_memory(error):
            raise
        raise Damaged(f"{path} holds more than tensors and plain containers: it isn't loaded, nor run.") from error
    if not isinstance(state, dict):
        raise Damaged(f"{path} is not a checkpoint of a run.")
    if is_blown_up(state, len(data)):
        raise Damaged(f"{path} holds tensors that are much larger than the file: it isn't loaded.")
    return state


PARTS = ("model", "optimizer", "preprocess", "task", "position", "carried", "loggers")
COUNTED = ("epoch", "batch", "step", "samples")


def read_state(path: Path) -> dict[str, Any]:
    """The state of a run. Raises Damaged for a file that is whole, and holds something else."""
    state = load(path)
    average, fingerprint = state.get("average"), state.get("fingerprint", {})
    held = [state.get("model"), *([average.get("model")] if isinstance(average, dict) else [])]
    fits = (
        all(isinstance(state.get(part), dict) for part in PARTS)
        and (average is None or (isinstance(average, dict) and isinstance(average.get("count"), int)))
        and all(isinstance(each, dict) and all(map(torch.is_tensor, each.values())) for each in held)
        and all(type(state["position"].get(name)) is int and state["position"][name] >= 0 for name in COUNTED)
        and all(isinstance(each, dict) for each in state["loggers"].values())
        and isinstance(fingerprint, dict)
        and all(isinstance(fingerprint.get(name, {}), dict) for name in ("config", "kinds", "digests", "circumstances"))
        and isinstance(state.get("seconds"), float)
    )
    if not fits:
        raise Damaged(f"{path} is whole, and doesn't hold the state of a run: who wrote it?")
    return state


def is_ours(path: Path) -> bool:
    """Whether a file was written by `save`, and to its end."""
    with open(path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - len(MAGIC)))
        return file.read() == MAGIC


def step_of(path: Path) -> int:
    """The N of step-N.pt; -1 for other files."""
    match = re.fullmatch(r"step-([0-9]{1,18})", path.stem)
    return int(match[1]) if match else -1


class Checkpoints:
    """The folder checkpoints/ of a run: step-N.pt, the newest few, and best.pt, best-2.pt, ...

    Args:
        folder: created when the first one is saved.
        every_epochs, every_steps, every_minutes, keep, keep_best: section `checkpoint`.
    """

    def __init__(
        self,
        folder: Path,
        every_epochs: int | None = 1,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep: int = 2,
        keep_best: int = 1,
    ):
        import time

        self.folder, self.keep, self.keep_best, self.clock = folder, keep, keep_best, time.monotonic
        self.every_epochs, self.every_steps, self.every_minutes = every_epochs, every_steps, every_minutes
        self.saved_at = self.clock()
        self.wanted = False  # asked for from outside: SIGUSR1
        self.ranked: dict[Path, int] | None = None  # the step of each best one; None: to be looked up

    def due(self, trainer: Any, epoch_ended: bool) -> bool:
        """Whether to save after this step, or at this epoch's end."""
        if self.wanted:
            return True
        if epoch_ended and self.every_epochs and trainer.epoch % self.every_epochs == 0:
            return True
        if self.every_steps and not epoch_ended and trainer.step % self.every_steps == 0:
            return True
        return self.every_minutes is not None and self.clock() - self.saved_at >= 60 * self.every_minutes

    def save(self, state: dict[str, Any], best: bool, steps: Sequence[int] = ()) -> None:
        """Save as the newest, under its rank too if it is one of the best, and drop what isn't kept.

        Args:
            best: whether it is one of the best.
            steps: of all that are, the best first; none for "this one alone".
        """
        if not self.folder.is_dir():
            self.folder.mkdir()
            sync_folder(self.folder.parent)
        step = state["position"]["step"]
        path = self.folder / f"step-{step}.pt"
        if best:  # first: a run killed in between repeats its steps and finds the same best again
            self._save_best(state, [*steps[: self.keep_best]] or [step])
        save(path, state)
        self.saved_at, self.wanted = self.clock(), False
        others = [old for old in self.all() if old != path]
        newer = [old for old in others if step_of(old) > step_of(path)]  # damaged: the run went on from before them
        newer += self.folder.glob(LEFTOVERS)
        for old in [*newer, *[old for old in others if old not in newer][self.keep - 1 :]]:
            old.unlink(missing_ok=True)

    def _save_best(self, state: dict[str, Any], steps: Sequence[int]) -> None:
        """Save under its rank, when those behind it have moved. At no instant a rank loses its file before another is
        there, nor does a file that stays its last name."""
        step = state["position"]["step"]
        wanted = {self.best(rank): step for rank, step in enumerate(steps, 1)}
        own = self.best(steps.index(step) + 1)
        there = self._move({path: step for path, step in wanted.items() if path != own})
        save(own, state)  # a file of its own: no damage takes both
        self.ranked = {**there, own: step}
        for path in self.all_best():
            if path not in wanted:
                path.unlink(missing_ok=True)

    def _move(self, wanted: Mapping[Path, int]) -> dict[Path, int]:
        """Give the best ones that are there the names which they have now; what is where then."""
        if not wanted:
            return {}
        there = self._ranks() if self.ranked is None else self.ranked
        moves = []
        for path, step in wanted.items():
            source = next((other for other, found in there.items() if found == step), None)
            if there.get(path) != step and source is not None:
                moves.append((linked(source, path), path, step))
            elif source is None and path != self.best(1):
                # Lost, as the run has fallen back behind a damaged checkpoint: it will be found again, or isn't missed.
                path.unlink(missing_ok=True)
        for temporary, path, _ in reversed(moves):  # from behind: what is overwritten has its new name already
            os.replace(temporary, path)
        sync_folder(self.folder)
        return {**there, **{path: step for _, path, step in moves}}

    def _ranks(self) -> dict[Path, int]:
        """The steps of the best ones, asked of the files: a killed run may have moved some of them."""
        found = {}
        for path in self.all_best():
            with contextlib.suppress(Damaged):
                found[path] = read_state(path)["position"]["step"]
        return found

    def best(self, rank: int) -> Path:
        """best.pt, best-2.pt, ..."""
        return self.folder / ("best.pt" if rank == 1 else f"best-{rank}.pt")

    def all_best(self) -> list[Path]:
        """best.pt, best-2.pt, ... as far as they are there, the best first."""
        found = [(match, path) for path in self.folder.glob("best*.pt") if (match := RANKED.fullmatch(path.stem))]
        return [path for _, path in sorted((int(match[1] or 1), path) for match, path in found)]

    def all(self) -> list[Path]:
        """step-N.pt, newest first."""
        found = (path for path in self.folder.glob("step-*.pt") if step_of(path) >= 0 and path.is_file())
        return sorted(found, key=step_of, reverse=True)

    def last(self, tell: Callable[[str], None] = print) -> tuple[Path, dict[str, Any]]:
        """The newest checkpoint that is whole; tells of damaged ones that were passed over."""
        damaged: list[Path] = []
        for path in self.all():
            try:
                state = read_state(path)
            except Damaged as error:
                tell(f"warning: {error} Falling back to the one before.")
                damaged.append(path)
                continue
            return path, state
        what = f"all {len(damaged)} are damaged" if damaged else "there is none"
        raise MachineError(
            f"no usable checkpoint in {self.folder}: {what}. Put a copy of one there, or start a new run."
        )
