"""A run directory: its paths and its lock; create it, record in it, read it back."""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.config.keys import groups_of, override
from plainloop.config.schema import Config
from plainloop.errors import MachineError, UserError, first_line, listed
from plainloop.places import quoted
from plainloop.runs import files
from plainloop.runs.atomic import replace_text
from plainloop.runs.environment import environment


class Busy(MachineError):
    """Another process trains in this directory."""


class RunDir:
    """The paths in a run directory."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.composed = path / "composed.yaml"
        self.overrides = path / "overrides.yaml"
        self.environment = path / "environment.json"
        self.splits = path / "splits.json"
        self.layers = path / "layers.txt"
        self.history = path / "history.jsonl"
        self.metrics = path / "metrics.json"
        self.ended = path / "ended.json"
        self.log = path / "train.log"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.figures = path / "figures"
        self.profile = path / "profile"
        self.report = path / "report.html"

    def __str__(self) -> str:
        """As it would be typed: relative to the working directory where it lies below it."""
        try:
            return str(self.path.resolve().relative_to(Path.cwd()))
        except ValueError:
            return str(self.path)

    def word(self, key: str) -> str:
        """As a word of a command: `resume=outputs/digits_mlp/...`."""
        return override(key, str(self))

    def shown(self, key: str) -> str:
        """The same for the shell."""
        return quoted(self.word(key))

    def checked(self) -> "RunDir":
        """Itself, where all that is read and written in it is its own. Raises UserError."""
        files.check_entries(path for path in vars(self).values() if path != self.path)
        return self

    def saved_config(self) -> DictConfig:
        """The run's config before its `${...}` were filled in, so that a changed key reaches all that refer to it."""
        if not self.composed.is_file():
            raise UserError(f"{self.composed} is missing: put the run's own back, from which it is built anew.")
        typed = OmegaConf.structured(Config)  # so that a key which is newer than the run has its default
        saved = files.load_yaml(self.composed)
        missing = [name for name in groups_of(Config) if not isinstance(saved, DictConfig) or name not in saved]
        if missing:
            raise UserError(f"{self.composed} is no run's config, or not all of one: it lacks {listed(missing)}.")
        try:
            merged = OmegaConf.merge(typed, saved)
        except (ValueError, OmegaConfBaseException) as error:
            raise UserError(f"{self.composed} isn't a run's: {first_line(error)[:200]}") from error
        assert isinstance(merged, DictConfig)
        merged.trust = []  # a run can't authorise itself: what is trusted is typed
        if isinstance(merged.data, DictConfig) and "download" in merged.data:
            merged.data.download = False  # nor fetch anything: likewise
        choices = merged.choices
        if not isinstance(choices, DictConfig) or not all(isinstance(each, str | None) for each in choices.values()):
            raise UserError(f"{self.composed} isn't a run's: its choices are no words.")
        return merged

    def typed(self) -> list[str]:
        """The overrides that the run was started with."""
        if not self.overrides.is_file():
            return []
        advice = "Delete it: the run goes on without."
        try:
            found = files.load_yaml(self.overrides, filled=False)
        except UserError as error:
            raise UserError(f"{error} {advice}") from error
        words: Any = OmegaConf.to_container(found) if OmegaConf.is_list(found) else None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{self.overrides} can't be read: it is no list of words. {advice}")
        return words

    def has_checkpoints(self) -> bool:
        """Whether there is anything to continue from."""
        return any(self.checkpoints.glob("step-*.pt"))

    def lock(self) -> int:
        """Keep other processes from training in this directory; released with the process. Raises Busy."""
        try:
            import fcntl
        except ImportError:  # Windows has no flock, and can't open a folder
            return os.open(os.devnull, os.O_RDONLY)
        descriptor = os.open(self.path, os.O_RDONLY)
        for wait in (0.05, 0.05, 0.05, None):  # for an instant somebody may ask below whether it is locked
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if wait is None:
                    os.close(descriptor)
                    raise Busy(f"{self} is being trained by another process.") from error
                time.sleep(wait)
                continue
            except OSError:  # a file system without locks
                pass
            break
        return descriptor

    def is_locked(self) -> bool | None:
        """Whether a process trains in this directory; None where there are no locks that would tell."""
        try:
            import fcntl

            descriptor = os.open(self.path, os.O_RDONLY)
        except (ImportError, OSError):
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
        finally:
            os.close(descriptor)  # with the lock
        return False

    @staticmethod
    def unlock(descriptor: int) -> None:
        """Give the lock back, also where a loading process that was forked still holds it open."""
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def read_metrics(self) -> dict[str, float]:
        """metrics.json, or nothing for a run that hasn't finished."""
        advice = "Delete it: resume= measures the result anew."
        found = files.load_json(self.metrics, advice) if self.metrics.is_file() else {}
        for name, value in found.items():
            number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
            if value is not None and not (number or value != value):
                raise UserError(f"{self.metrics} can't be read: {name!r:.50} is no number. {advice}")
        return found


def create(outputs: str, name: str, given: str | None = None) -> RunDir:
    """A new directory outputs/<name>/<timestamp>-<short id>/, or the one that was given. Raises MachineError."""
    try:
        if given is None:
            return RunDir(unique(Path(outputs) / name, time.strftime("%Y-%m-%d_%H-%M-%S")))
        Path(given).mkdir(parents=True, exist_ok=True)
        return RunDir(Path(given)).checked()
    except OSError as error:
        raise MachineError(
            f"the run directory can't be created: {error}. Another place: "
            f"{'paths.outputs' if given is None else 'hydra.run.dir'}=FOLDER"
        ) from error


def unique(parent: Path, stem: str) -> Path:
    """Create parent/<stem>-<short id>, a directory that nobody else gets, also when two start in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = parent / f"{stem}-{uuid.uuid4().hex[:4]}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue


def check_free(run: RunDir, auto: bool = False) -> None:
    """No run may be in a directory where one is started, but for one that never came to its first checkpoint, with
    resume=auto. To be asked with the lock held. Raises UserError."""
    if run.has_checkpoints():
        if run.config.is_file() and run.composed.is_file():
            raise UserError(
                f"{run} already holds a run. Continue it with {run.shown('resume')}, or choose another directory."
            )
        raise UserError(
            f"{run} holds checkpoints, and not the config.yaml and composed.yaml that belong to them: put "
            "these back, or choose another directory."
        )
    if not run.config.exists() or (auto and run.composed.exists() and not run.metrics.exists()):
        return
    if not run.composed.exists():
        raise UserError(f"{run} holds a config.yaml that isn't a run's. Choose another directory.")
    what = "a finished run without its checkpoints" if run.metrics.exists() else "a run that saved no checkpoint"
    raise UserError(f"{run} already holds {what}. Delete it, or choose another directory.")


def clear(run: RunDir) -> None:
    """Remove what a run that never came to its first checkpoint has left, before it is started again."""
    import shutil

    if run.config.exists():
        for file in (run.history, run.ended):
            file.unlink(missing_ok=True)
        for folder in (run.checkpoints, run.tensorboard, run.figures):  # a best.pt without step-N.pt, perhaps
            shutil.rmtree(folder, ignore_errors=True)


def record_config(run: RunDir, composed: DictConfig) -> None:
    """Write the config, with its `${...}` filled in and before. Raises UserError for one that can't be read again."""
    text = OmegaConf.to_yaml(composed, resolve=False)
    if len(text.encode()) > files.MOST_YAML:
        raise UserError(
            f"the config has {len(text):,} characters, with all names of classes and words of the vocabulary, and may "
            f"have {files.MOST_YAML:,}: take fewer words (data.max_words, data.min_count)."
        )
    head = "# config.yaml before its ${...} were filled in; resume=, extend= and evaluate start from here.\n"
    replace_text(run.composed, head + text)
    replace_text(run.config, OmegaConf.to_yaml(composed, resolve=True))


def record_rest(run: RunDir, seed: int, typed: Sequence[str], splits: dict[str, Any]) -> None:
    """Write what was typed, which sample is in which split, and the environment."""
    replace_text(run.overrides, OmegaConf.to_yaml(OmegaConf.create(list(typed))))
    replace_text(run.splits, json.dumps(splits))
    replace_text(run.environment, json.dumps({**environment(seed), "resumed": []}, indent=2))


def record_end(run: RunDir, status: str, seconds: float, error: str = "") -> None:
    """Write how a run has ended that has no metrics.json. Of one that was killed nothing is written.

    Args:
        status: "failed", "interrupted" (by a signal, and resumed as if nothing had happened), or "finished" (where
            nothing was to be trained).
        seconds: how long it took, with what it took before it was resumed.
    """
    replace_text(run.ended, json.dumps({"status": status, "error": error, "seconds": seconds}, indent=2) + "\n")


def record_resumption(run: RunDir, seed: int, typed: Sequence[str], seconds: float) -> str:
    """Add what was typed, and where, when a run is continued; the results of its older weights are void. Returns a
    warning, where nobody knows any more how the run began.

    Args:
        seconds: how long it has taken by then.
    """
    void = (*run.path.glob("evaluate-*.json"), *run.path.glob("evaluate-*.csv"), run.metrics, run.ended, run.report)
    for old in void:
        old.unlink(missing_ok=True)
    before: dict[str, Any] = {}
    warning = ""
    try:
        before = files.load_json(run.environment, "What the run was begun with isn't known any more.")
    except UserError as error:
        warning = str(error)
    earlier = before.get("resumed", [])
    if not isinstance(earlier, list):
        earlier, warning = [], f"{run.environment} is none of plainloop's: how the run went on before isn't known."
    before["resumed"] = [*earlier, {**environment(seed), "overrides": list(typed), "seconds": seconds}]
    replace_text(run.environment, json.dumps(before, indent=2))
    return warning
