"""Whose a checkpoint, a result or a config is: what lies in a run directory may have been copied in from another."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.config.keys import as_typed, is_among, may_change
from plainloop.config.schema import Config
from plainloop.errors import UserError
from plainloop.runs.directory import RunDir
from plainloop.runs.files import MOST_YAML, load_yaml, read_regular

# What doesn't say whose a checkpoint is: what may change, what follows from other keys, and what a run is called.
MAY_CHANGE = list(may_change(Config, "resume", "inexact"))
NOT_SETTINGS = ("spec", "choices", "name", "extend", "loader.drop_last")


def settings(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a run's numbers follow from, as {"optimizer.lr": 0.001}: its config without what may change on resume."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name not in NOT_SETTINGS and not is_among(name, MAY_CHANGE):
            found |= settings(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def other_settings(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Where two configs differ: ("optimizer.lr=0.1", "optimizer.lr=0.001"). A key that only one has is newer than the
    other."""
    before = settings(was)
    for name, found in settings(now).items():
        if before.get(name, found) != found:
            yield f"{name}={as_typed(before[name])}", f"{name}={as_typed(found)}"


def check_checkpoint(
    state: Mapping[str, Any], path: Path, config: Mapping[str, Any], step: float | None = None
) -> None:
    """A checkpoint must be of the run in whose directory it lies: it is measured, and believed. Raises UserError.

    Args:
        state: what it holds.
        config: the run's, not filled in.
        step: the one that it must be of, where that is known: of best.pt that of the best validation.
    """
    own = "Put the run's own back, or delete it."
    try:
        was, at = state["fingerprint"]["config"], state["position"]["step"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} doesn't say of which run it is: it isn't this run's. {own}") from error
    for before, found in other_settings(was, config):
        raise UserError(
            f"{path} was made with {before}, and this run (its composed.yaml) has {found}: it isn't this run's. {own}"
        )
    if step is not None and at != step:
        raise UserError(f"{path} is of step {at}, and this run was best in step {step}: it isn't this run's. {own}")


def check_result(run: RunDir, metrics: Mapping[str, Any], best: Mapping[str, Any]) -> None:
    """What metrics.json says of the best validation is what best.pt remembers of it. Raises UserError.

    Args:
        best: the content of best.pt.
    """
    for name, value in best["carried"].get("last_values", {}).items():
        told = metrics.get(f"val/{name}", value)
        if told != value and value == value and abs(value) < float("inf"):  # JSON has no others
            raise UserError(
                f"{run.metrics} says val/{name} {told}, and best.pt {value}: it isn't this run's. Delete it: "
                f"{run.shown('resume')} measures the result anew."
            )


def remark_on_config(run: RunDir, saved: DictConfig) -> str:
    """What is wrong with config.yaml, which is there to be read: composed.yaml counts. Nothing where all is well.

    Args:
        saved: what composed.yaml holds.
    """
    try:
        written = OmegaConf.to_yaml(saved, resolve=True)
        if read_regular(run.config, MOST_YAML) == written.encode():
            return ""
        whole, composed = load_yaml(run.config, filled=False), load_yaml(run.composed)
        if not OmegaConf.is_dict(whole) or not whole.keys() >= composed.keys():
            return f"{run.config} isn't whole; composed.yaml counts"
        there: Any = OmegaConf.to_container(whole)
        filled: Any = OmegaConf.to_container(saved, resolve=True)
    except UserError as error:
        return f"{error} composed.yaml counts"
    except (OmegaConfBaseException, OSError, ValueError):  # of composed.yaml: it is told where it is used
        return ""
    for before, found in other_settings(there, filled):
        return f"{run.config} isn't this run's: it says {before}, and composed.yaml, which counts, {found}"
    return ""
