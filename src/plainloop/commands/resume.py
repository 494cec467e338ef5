"""What it means to go on from a run: its config with what was typed, whether it can, and what is loaded."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop import places
from plainloop.assembly.session import Session
from plainloop.config.changes import changed
from plainloop.config.keys import as_typed, may_change, override
from plainloop.config.rules import depends_on_length, validate
from plainloop.config.schema import Config
from plainloop.errors import MachineError, UserError, first_line
from plainloop.runs.belonging import check_checkpoint
from plainloop.runs.checkpoint import Checkpoints, Damaged, read_state
from plainloop.runs.directory import RunDir
from plainloop.training.averaging import chosen_weights
from plainloop.training.trainer import Trainer


def resumed_config(old: RunDir, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    """The run's own config, with what was typed. Raises UserError where a key's numbers would be others then."""
    saved = old.saved_config()
    inexact = list(may_change(Config, "inexact"))

    def why(name: str) -> str:
        other_bits = ", resume_inexact=true goes on without promising the same bits" * (name in inexact)
        return f"this can't change when a run is continued; {old.shown('extend')} starts a new run from it{other_bits}"

    when = ("resume", "inexact") if composed.resume_inexact else ("resume",)
    cfg = changed(saved, composed, typed, may_change(Config, *when), why, old.typed())
    for name in ("max_epochs", "max_steps"):
        if cfg.trainer[name] != saved.trainer[name] and depends_on_length(saved):
            longer = f"trainer.{name}={cfg.trainer[name]}"
            trust = [override("trust", list(composed.trust))] if composed.trust else []
            raise UserError(
                f"{longer}: the schedule of this run was built for "
                f"trainer.{name}={saved.trainer[name]}.\n"
                f"Train longer as a new run: {places.typed('train.py', old.word('extend'), longer, *trust)}"
            )
    cfg.resume, cfg.extend = str(old), None
    check_config(cfg, old)
    return cfg


def extended_config(old: RunDir, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    """The config of a new run that starts from this one's weights. Raises UserError where they wouldn't fit."""
    why = "this can't change when a run is extended, its weights and optimizer state wouldn't fit"
    saved = old.saved_config()
    for name in (word.partition("=")[0] for word in typed):
        of_state = re.fullmatch(r"optimizer\.(\w+\.)?(_target_|parameters|amsgrad|centered)", name)
        was = OmegaConf.select(saved, name, throw_on_missing=False)
        if of_state and OmegaConf.select(composed, name) != was:
            raise UserError(f"{name}: {why} (the run has {name}={as_typed(was)}).")
    saved.paths.outputs = composed.paths.outputs  # a run decides nothing about where another one is written
    cfg = changed(saved, composed, typed, may_change(Config, "extend"), lambda name: why)
    cfg.extend, cfg.resume = str(old), None
    check_config(cfg, old)
    return cfg


def check_config(cfg: DictConfig, old: RunDir) -> None:
    """Raises UserError for a config that no run can have, whatever is wrong in it."""
    try:
        validate(cfg)
    except UserError:
        raise
    except (OmegaConfBaseException, TypeError, AttributeError, LookupError, ValueError, ArithmeticError) as error:
        raise UserError(f"{old.composed} can't be used: {first_line(error)[:200]}") from error


def check_best(old: RunDir, config: Mapping[str, Any]) -> None:
    """The best weights are measured when a run ends: whether they are whole, and its own, is asked before it goes on.

    Args:
        config: the run's, not filled in.
    """
    for best in Checkpoints(old.checkpoints).all_best():
        try:
            # Of which step is asked at the end: killed between two files, a run finds the same best again.
            check_checkpoint(read_state(best), best, config)
        except Damaged as error:
            what = "was the best so far" if best.stem == "best" else "it holds"
            raise MachineError(f"{error} Delete it, and the run goes on without what {what}.") from error


def check_same_length(saved: DictConfig, session: Session) -> None:
    """With another batch size a run may have another number of steps, for which its schedule wasn't built."""
    by_epochs = "spec.steps_per_epoch" in OmegaConf.to_yaml(saved.scheduler or {})
    for fact, what, matters in (
        ("total_steps", "steps", depends_on_length(saved)),
        ("steps_per_epoch", "steps an epoch", by_epochs),
    ):
        was, now = saved.spec[fact], getattr(session.config.spec, fact)
        if was != now and matters:
            raise UserError(
                f"the schedule of this run was built for {was} {what}, and with this batch size there are {now}. Keep "
                "loader.batch_size x trainer.accumulate_steps as it was, or start a new run with extend="
            )


def keeps_length(saved: DictConfig, batch_size: int, accumulate_steps: int) -> bool:
    """Whether the schedule of a run can go on with batches of another size."""
    if not depends_on_length(saved) or not saved.spec.num_train:
        return True
    count = saved.spec.num_train
    batches = count // batch_size if saved.loader.drop_last else -(-count // batch_size)
    return -(-batches // accumulate_steps) == saved.spec.steps_per_epoch


def load_all(trainer: Trainer, state: dict[str, Any], old: RunDir) -> None:
    """Everything that the checkpoint remembers: the run goes on where it was saved."""
    was = state["fingerprint"]["batch_size"]
    with fitting(old):
        trainer.load_state_dict(state)
    loader = trainer.train_batches
    if was != loader.batch_size:  # as many samples into the epoch, but for what doesn't fill a batch
        done, batches = trainer.batch * was, loader.batches
        ended = batches is not None and done >= (loader.num_samples or 0)
        trainer.batch = batches if ended and batches is not None else done // loader.batch_size


def load_weights(session: Session, state: dict[str, Any]) -> None:
    """Only what predictions follow from: the averaged weights, where the run has them."""
    session.model.load_state_dict(chosen_weights(state))
    session.preprocess.load_state_dict(state["preprocess"])
    session.task.load_state_dict(state["task"])


def start_from(trainer: Trainer, state: dict[str, Any], old: RunDir) -> None:
    """Weights and the optimizer's moments, with the new run's own hyper-parameters, position and schedule."""
    with fitting(old):
        trainer.model.load_state_dict(state["model"])
        trainer.average.start_from(state)
        trainer.preprocess.load_state_dict(state["preprocess"])
        trainer.task.load_state_dict(state["task"])
        saved, fresh = state["optimizer"], trainer.optimizer.state_dict()["param_groups"]
        groups = [{**new, "params": was["params"]} for new, was in zip(fresh, saved["param_groups"], strict=True)]
        trainer.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def what_differs(error: Exception) -> str:
    """What `load_state_dict` complains of: the first of its lines that says more than that it does."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else first_line(error)


@contextmanager
def fitting(old: RunDir) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"the checkpoint in {old} doesn't fit this code any more: {what_differs(error)}") from error
