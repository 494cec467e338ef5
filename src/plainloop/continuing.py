"""What it means to go on from a run: what may change, whether the data is still the same, what is loaded."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plainloop import compose
from plainloop.assemble import Session
from plainloop.config import validate
from plainloop.errors import UserError, first_line
from plainloop.rundir import RunDir
from plainloop.trainer import Trainer

# What may differ when a run is continued: nothing that its numbers follow from.
RESUMABLE = ("trainer.log_every", "trainer.device", "trainer.num_threads", "trainer.max_epochs", "trainer.max_steps",
             "loader.num_workers", "loader.pin_memory", "loader.prefetch_factor", "loader.persistent_workers",
             "loader.timeout", "loader.multiprocessing_context", "checkpoint.*", "console.*", "paths.*",
             "test", "trust", "resume")  # fmt: skip
EXTENDABLE = ("trainer.*", "optimizer.*", "scheduler", "scheduler.*", "schedule.*", "loader.*", "checkpoint.*",
              "early_stopping.*", "console.*", "logger", "paths.*", "name", "monitor", "monitor_mode",
              "test", "trust", "extend")  # fmt: skip


def resumed_config(old: RunDir, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    saved = old.saved_config()
    saved.trust = []  # a stranger's run can't authorise itself: what is trusted was typed
    why = f"this can't change when a run is continued; extend={old} starts a new run from it"
    cfg = compose.changed(saved, composed, typed, RESUMABLE, why)
    for name in ("max_epochs", "max_steps"):
        if cfg.trainer[name] != saved.trainer[name] and depends_on_length(saved):
            raise UserError(
                f"trainer.{name}={cfg.trainer[name]}: the schedule of this run was built for "
                f"trainer.{name}={saved.trainer[name]}.\n"
                f"Train longer as a new run: python train.py extend={old} trainer.{name}={cfg.trainer[name]}"
            )
    cfg.resume, cfg.extend = str(old), None
    validate(cfg)
    return cfg


def depends_on_length(cfg: DictConfig) -> bool:
    """Whether the schedule refers to the length of the run."""
    return bool(re.search(r"spec\.(total_steps|schedule_length)|trainer\.max_", OmegaConf.to_yaml(cfg.scheduler or {})))


def extended_config(old: RunDir, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    why = "this can't change when a run is extended, its weights and optimizer state wouldn't fit"
    saved = old.saved_config()
    saved.trust = []
    cfg = compose.changed(saved, composed, typed, EXTENDABLE, why)
    cfg.extend, cfg.resume = str(old), None
    validate(cfg)
    return cfg


def check_same_data(before: DictConfig, session: Session, old: RunDir) -> None:
    """The data must still be what the run was trained on, and divided as it was. Raises UserError with both values."""
    now = session.config
    for fact in ("num_train", "num_val", "num_test", "input_shape", "class_names"):
        was, found = before.spec[fact], now.spec[fact]
        if was != found:
            raise UserError(f"the data has changed since {old}: {fact} was {was} and is {found}.")
    if json.loads(old.splits.read_text()) != session.data.indices:
        raise UserError(f"the splits have changed since {old}: other samples would be tested than were held back then.")


def load_all(trainer: Trainer, state: dict[str, Any], old: RunDir) -> None:
    """Everything that the checkpoint remembers: the run goes on where it was saved."""
    with _fitting(old):
        trainer.load_state_dict(state)


def load_weights(session: Session, state: dict[str, Any]) -> None:
    """Only what predictions follow from."""
    session.model.load_state_dict(state["model"])
    session.preprocess.load_state_dict(state["preprocess"])
    session.task.load_state_dict(state["task"])


def start_from(trainer: Trainer, state: dict[str, Any], old: RunDir) -> None:
    """Weights and the optimizer's moments, with the new run's own hyper-parameters, position and schedule."""
    with _fitting(old):
        trainer.model.load_state_dict(state["model"])
        trainer.preprocess.load_state_dict(state["preprocess"])
        trainer.task.load_state_dict(state["task"])
        saved, fresh = state["optimizer"], trainer.optimizer.state_dict()["param_groups"]
        groups = [{**new, "params": was["params"]} for new, was in zip(fresh, saved["param_groups"], strict=True)]
        trainer.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


@contextmanager
def _fitting(old: RunDir) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"the checkpoint in {old} doesn't fit this code any more: {first_line(error)}") from error
