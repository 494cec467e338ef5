"""What it means to go on from a run: what may change, whether the data is still the same, what is loaded."""

import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from plainloop.assembly.session import Session
from plainloop.config import compose
from plainloop.config.rules import depends_on_length, validate
from plainloop.config.schema import MOVABLE, as_typed, plain
from plainloop.errors import MachineError, UserError, first_line
from plainloop.runs.checkpoint import Damaged, load
from plainloop.runs.directory import RunDir
from plainloop.training.averaging import chosen_weights
from plainloop.training.trainer import Trainer

# What may differ when a run is continued: nothing that its numbers follow from.
RESUMABLE = ("trainer.log_every", "trainer.device", "trainer.num_threads", "trainer.max_epochs", "trainer.max_steps",
             "loader.num_workers", "loader.pin_memory", "loader.prefetch_factor", "loader.persistent_workers",
             "loader.timeout", "loader.multiprocessing_context", "loader.on_device", "loader.eval.num_workers",
             "loader.eval.prefetch_factor", "checkpoint.*", "console.*", *MOVABLE,
             "test", "trust", "resume", "resume_inexact")  # fmt: skip
INEXACT = ("loader.batch_size", "trainer.accumulate_steps")  # and these with resume_inexact=true
EXTENDABLE = ("trainer.*", "optimizer.*", "scheduler", "scheduler.*", "schedule.*", "loader.*", "checkpoint.*",
              "early_stopping.*", "console.*", "logger", *MOVABLE, "name", "monitor", "monitor_mode",
              "test", "trust", "extend")  # fmt: skip


def resumed_config(old: RunDir, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    saved = old.saved_config()
    saved.trust = []  # a stranger's run can't authorise itself: what is trusted was typed
    why = f"this can't change when a run is continued; extend={old} starts a new run from it"
    allowed = (*RESUMABLE, *(INEXACT if composed.resume_inexact else ()))
    inexact = ", resume_inexact=true goes on without promising the same bits"
    cfg = compose.changed(
        saved, composed, typed, allowed, lambda name: why + (inexact if name in INEXACT else ""), old.typed()
    )
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


def extended_config(old: RunDir, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    why = "this can't change when a run is extended, its weights and optimizer state wouldn't fit"
    saved = old.saved_config()
    saved.trust = []
    for name in (word.partition("=")[0] for word in typed):
        of_state = re.fullmatch(r"optimizer\.(\w+\.)?(_target_|parameters|amsgrad|centered)", name)
        was = OmegaConf.select(saved, name, throw_on_missing=False)
        if of_state and OmegaConf.select(composed, name) != was:
            raise UserError(f"{name}: {why} (the run has {name}={as_typed(was)}).")
    cfg = compose.changed(saved, composed, typed, EXTENDABLE, lambda name: why)
    cfg.extend, cfg.resume = str(old), None
    validate(cfg)
    return cfg


def check_same_data(before: DictConfig, session: Session, old: RunDir) -> None:
    """The data must be of the sizes that the run was trained on, and divided as it was. Raises UserError with both
    values."""
    now = session.config
    for fact in ("num_train", "num_val", "num_test", "input_shape", "class_names"):
        was, found = before.spec[fact], now.spec[fact]
        if was != found:
            raise UserError(f"the data has changed since {old}: {fact} was {was} and is {found}.")
    for fact, what in (("columns", "its columns, or the words in them, are"), ("vocabulary", "its vocabulary is")):
        was = before.spec.get(fact)
        if was is not None and was != now.spec[fact]:  # words become numbers, which would be others now
            raise UserError(f"the data has changed since {old}: {what} not what the model was trained with.")
    if json.loads(old.splits.read_text()) != session.data.indices:
        raise UserError(f"the splits have changed since {old}: other samples would be tested than were held back then.")


def changed_splits(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """The splits whose content isn't what it was, by their digests; where one is missing, nobody knows."""
    pairs = {split: (digest, (now or {}).get(split)) for split, digest in (was or {}).items()}
    return [split for split, (before, found) in pairs.items() if before and found and before != found]


def fingerprint(session: Session, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint says of the run that it belongs to."""
    cfg = session.config
    scheduler = trainer.schedule.scheduler
    cuda = session.device.type == "cuda"
    return {
        "kinds": {
            "model": kind(session.model),
            "optimizer": kind(trainer.optimizer),
            "scheduler": None if scheduler is None else kind(scheduler),
        },
        "seed": cfg.seed,
        "world_size": 1,
        "batch_size": cfg.loader.batch_size,
        "accumulate_steps": cfg.trainer.accumulate_steps,
        "sizes": {split: cfg.spec[f"num_{split}"] for split in ("train", "val", "test")},
        "digests": plain(cfg.spec.digests),
        "class_names": plain(cfg.spec.class_names),
        "circumstances": {
            "torch": str(torch.__version__),
            "Python": platform.python_version(),
            "processor": torch.cuda.get_device_name(session.device) if cuda else platform.machine(),
            "threads": torch.get_num_threads(),
        },
        # Its ${...} not filled in: what refers to a key that may change, as paths.data, changes with it.
        "config": OmegaConf.to_container(cfg, resolve=False),
    }


def kind(thing: Any) -> str:
    """'torch.optim.adam.Adam': an object's class in full."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def check_best(old: RunDir) -> None:
    """The best weights are measured when a run ends: whether they are whole is asked before it goes on."""
    best = old.checkpoints / "best.pt"
    try:
        load(best)
    except FileNotFoundError:
        pass
    except Damaged as error:
        raise MachineError(f"{error} Delete it, and the run goes on without what was the best so far.") from error


def check_fingerprint(was: dict[str, Any] | None, now: dict[str, Any], inexact: bool, old: RunDir) -> list[str]:
    """Refuse a checkpoint that belongs to another run, by name; what may differ is told.

    Args:
        was, now: of the checkpoint, and of this run.
        inexact: whether the user has said resume_inexact=true.

    Returns:
        lines that say why the bits may not be the same.
    """
    if was is None:
        raise UserError(f"the checkpoint in {old} doesn't say of which run it is: it isn't this run's.")
    for name, found in now["kinds"].items():
        before = was["kinds"][name]
        if before != found:
            raise UserError(
                f"the checkpoint in {old} was made with {name} {before}, and this run has {found}: it isn't this "
                "run's checkpoint."
            )
    for name in ("seed", "sizes", "class_names"):
        if was[name] != now[name]:
            raise UserError(
                f"the checkpoint in {old} was made with {name} {was[name]}, and this run has {now[name]}: it isn't "
                "this run's checkpoint."
            )
    for name, found in _settings(now["config"]).items():
        before = _settings(was["config"]).get(name, found)
        if before != found:
            raise UserError(
                f"the checkpoint in {old} was made with {name}={as_typed(before)}, and this run has "
                f"{name}={as_typed(found)}: it isn't this run's checkpoint."
            )
    counts = ("world_size", "batch_size", "accumulate_steps")
    differences = [f"{name} was {was[name]} and is {now[name]}" for name in counts if was[name] != now[name]]
    changed = changed_splits(was["digests"], now["digests"])
    differences += [f"the content of split {split} has changed" for split in changed]
    if differences and not inexact:
        raise UserError(
            f"since {old}: {', '.join(differences)}.\nGo on all the same, without the same bits, with "
            "resume_inexact=true"
        )
    before = was["circumstances"]
    other = [
        f"{name} was {before[name]} and is {found}"
        for name, found in now["circumstances"].items()
        if before[name] != found
    ]
    return differences + other


def _settings(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a run's numbers follow from, as {"optimizer.lr": 0.001}: its config without what may change on resume."""
    found: dict[str, Any] = {}
    elsewhere = ("spec", "choices", "name", "extend", "loader.drop_last", *RESUMABLE, *INEXACT)
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in elsewhere or f"{name}.*" in elsewhere:
            continue
        found |= _settings(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def check_same_length(saved: DictConfig, session: Session) -> None:
    """With another batch size a run may have another number of steps, for which its schedule wasn't built."""
    by_epochs = "spec.steps_per_epoch" in OmegaConf.to_yaml(saved.scheduler or {})
    for fact, what, matters in (
        ("total_steps", "steps", depends_on_length(saved)),
        ("steps_per_epoch", "steps an epoch", by_epochs),
    ):
        was, now = saved.spec[fact], session.config.spec[fact]
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
    with _fitting(old):
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
    with _fitting(old):
        trainer.model.load_state_dict(state["model"])
        trainer.average.start_from(state)
        trainer.prepare.preprocess.load_state_dict(state["preprocess"])
        trainer.task.load_state_dict(state["task"])
        saved, fresh = state["optimizer"], trainer.optimizer.state_dict()["param_groups"]
        groups = [{**new, "params": was["params"]} for new, was in zip(fresh, saved["param_groups"], strict=True)]
        trainer.optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def what_differs(error: Exception) -> str:
    """What `load_state_dict` complains of: the first of its lines that says more than that it does."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else first_line(error)


@contextmanager
def _fitting(old: RunDir) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"the checkpoint in {old} doesn't fit this code any more: {what_differs(error)}") from error
