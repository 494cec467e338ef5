"""Whose a checkpoint is: what it says of its run, and whether that is this run still, with the same data."""

import platform
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from plainloop.assembly.session import Session
from plainloop.config.keys import plain
from plainloop.data.dataset import SPLITS
from plainloop.errors import UserError
from plainloop.runs.belonging import other_settings
from plainloop.runs.directory import RunDir
from plainloop.runs.files import MOST_SPLITS, load_json
from plainloop.training.trainer import Trainer


def of(session: Session, trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint says of the run that it belongs to."""
    config, scheduler = session.config, trainer.schedule.scheduler
    cuda = session.device.type == "cuda"
    return {
        "kinds": {
            "model": kind(session.model),
            "optimizer": kind(trainer.optimizer),
            "scheduler": None if scheduler is None else kind(scheduler),
        },
        "seed": config.seed,
        "world_size": 1,
        "batch_size": config.loader.batch_size,
        "accumulate_steps": config.trainer.accumulate_steps,
        "sizes": {split: config.spec.samples(split) for split in SPLITS},
        "digests": config.spec.digests,
        "class_names": config.spec.class_names,
        "circumstances": {
            "torch": str(torch.__version__),
            "Python": platform.python_version(),
            "processor": torch.cuda.get_device_name(session.device) if cuda else platform.machine(),
            "threads": torch.get_num_threads(),
        },
        # Its ${...} not filled in: what refers to a key that may change, as paths.data, changes with it.
        "config": OmegaConf.to_container(session.composed, resolve=False),
    }


def kind(thing: Any) -> str:
    """'torch.optim.adam.Adam': an object's class in full."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def check(was: dict[str, Any] | None, now: dict[str, Any], inexact: bool, old: RunDir) -> list[str]:
    """Refuse a checkpoint that belongs to another run, by name; what may differ is told.

    Args:
        was, now: of the checkpoint, and of this run.
        inexact: whether the user has said resume_inexact=true.

    Returns:
        lines that say why the bits may not be the same.
    """
    if was is None or not was.keys() >= now.keys():
        raise UserError(f"the checkpoint in {old} doesn't say of which run it is: it isn't this run's.")
    for before, found in _differences(was, now):
        raise UserError(
            f"the checkpoint in {old} was made with {before}, and this run has {found}: it isn't this run's checkpoint."
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
    then = was["circumstances"]
    return differences + [
        f"{name} was {then[name]} and is {found}" for name, found in now["circumstances"].items() if then[name] != found
    ]


def _differences(was: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What two checkpoints of one run have in common and these don't: what it was, and what it is."""
    for name, found in now["kinds"].items():
        if was["kinds"][name] != found:
            yield f"{name} {was['kinds'][name]}", found
    for name in ("seed", "sizes", "class_names"):
        if was[name] != now[name]:
            yield f"{name} {was[name]}", now[name]
    yield from other_settings(was["config"], now["config"])


def changed_splits(was: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> list[str]:
    """The splits whose content isn't what it was, by their digests; where one is missing, nobody knows."""
    pairs = {split: (digest, (now or {}).get(split)) for split, digest in (was or {}).items()}
    return [split for split, (before, found) in pairs.items() if before and found and before != found]


def check_same_data(before: DictConfig, session: Session, old: RunDir) -> None:
    """The data must be of the sizes that the run was trained on, and divided as it was. Raises UserError with both
    values."""
    was, now = plain(before.spec), vars(session.config.spec)
    for fact in ("num_train", "num_val", "num_test", "input_shape", "class_names"):
        if was[fact] != now[fact]:
            other = " To measure other data: python evaluate.py run=RUN input=PATH" if fact.startswith("num_") else ""
            raise UserError(f"the data has changed since {old}: {fact} was {was[fact]} and is {now[fact]}.{other}")
    for fact, what in (("columns", "its columns, or the words in them, are"), ("vocabulary", "its vocabulary is")):
        if was[fact] is not None and was[fact] != now[fact]:  # words become numbers, which would be others now
            raise UserError(f"the data has changed since {old}: {what} not what the model was trained with.")
    own = "Put the run's own back: it says which samples were held back for the test."
    if load_json(old.splits, own, MOST_SPLITS) != session.data.indices:
        raise UserError(f"the splits have changed since {old}: other samples would be tested than were held back then.")
