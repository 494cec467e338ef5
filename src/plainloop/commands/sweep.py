"""A sweep: every combination of what was typed, each in a directory of its own, then a ranked table.

All trials are composed and checked before the first one is trained; one that fails doesn't end the others; the
test split is measured for the winner alone.
"""

import json
import math
import shlex
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from plainloop import places
from plainloop.config import compose
from plainloop.config.keys import override
from plainloop.errors import MachineError, UserError, first_line, shown, tell
from plainloop.reports import tables
from plainloop.runs import atomic
from plainloop.runs.directory import RunDir, unique


@dataclass
class Trial:
    """One combination: its overrides, its directory, and what came of it."""

    overrides: list[str]
    folder: Path
    failure: str = ""
    value: float | None = None

    def setting(self, key: str) -> str:
        return {word.partition("=")[0]: word.partition("=")[2] for word in self.overrides}.get(key, "")


def run(overrides: Sequence[str], train: Callable[[DictConfig, list[str], str, bool], Any]) -> list[Trial]:
    """Train every combination, print them ranked by the monitored quantity, and test the winner."""
    combinations = compose.combinations(overrides)
    composed = [compose.compose_with_hydra(words) for words in combinations]
    for cfg, _ in composed:
        if cfg.resume or cfg.extend:
            raise UserError("resume= and extend= continue one run: they don't go with a sweep (-m).")
    folder = _folder([cfg for cfg, _ in composed], composed[0][1])
    trials = [Trial(words, folder / str(number)) for number, words in enumerate(combinations)]
    tell(f"sweep   {len(trials)} trials in {folder}", sys.stdout)
    for number, (trial, (cfg, _)) in enumerate(zip(trials, composed, strict=True), 1):
        tell(f"\ntrial   {number} of {len(trials)}: {' '.join(trial.overrides)}", sys.stdout)
        try:
            train(cfg, trial.overrides, str(trial.folder), True)
        except (UserError, MachineError) as error:
            shown(error)
            trial.failure = first_line(error)
        except Exception as error:  # a bug in a user's module, say: the other trials may do without it
            traceback.print_exc()
            trial.failure = first_line(error)
    if all(trial.failure for trial in trials):
        raise MachineError(f"every trial of the sweep failed; the first: {trials[0].failure}")
    rank(folder, trials, test=composed[0][0].test)
    return trials


def _folder(configs: Sequence[DictConfig], hydra: DictConfig) -> Path:
    """outputs/<name>/sweep-<timestamp>-<id>, or what hydra.sweep.dir= says; DATA_MODEL without what is swept."""
    if hydra.sweep.dir != ".":
        return Path(hydra.sweep.dir)
    shared = [names.pop() for group in ("data", "model") if len(names := {cfg.choices[group] for cfg in configs}) == 1]
    name = configs[0].name or "_".join(shared) or "sweep"
    return unique(Path(configs[0].paths.outputs) / name, f"sweep-{time.strftime('%Y-%m-%d_%H-%M-%S')}")


def rank(folder: Path, trials: Sequence[Trial], test: bool) -> None:
    """Print and write the trials, best first, and measure the best one on the test split."""
    done = [trial for trial in trials if not trial.failure]
    saved = RunDir(done[0].folder).saved_config()
    sign = -1.0 if saved.monitor_mode == "max" else 1.0
    for trial in done:
        trial.value = RunDir(trial.folder).read_metrics().get(saved.monitor)
    done.sort(key=lambda trial: math.inf if trial.value is None else sign * trial.value)
    swept = [key for key in _keys(trials) if len({trial.setting(key) for trial in trials}) > 1]
    lines = [["rank", saved.monitor, *swept, "run"]]
    for place, trial in enumerate(done, 1):
        value = "-" if trial.value is None else f"{trial.value:.4f}"
        lines.append([str(place), value, *map(trial.setting, swept), str(trial.folder)])
    lines += [["-", "failed", *map(trial.setting, swept), trial.failure] for trial in trials if trial.failure]
    tell(f"\n{tables.table(lines)}\n", sys.stdout)
    spread = over_repeats(done, swept)
    if spread:
        tell(
            f"{tables.table([[saved.monitor, 'mean', 'deviation', 'of', *spread[0][3]], *map(_row, spread)])}\n",
            sys.stdout,
        )
    ranking = [{"run": trial.folder.name, saved.monitor: trial.value, "overrides": trial.overrides} for trial in done]
    atomic.replace_text(folder / "ranking.json", json.dumps(ranking, indent=2) + "\n")
    if test and done[0].value is not None and _has_test(saved):
        from plainloop.commands.evaluate import evaluate

        tell("The winner on the test split, which no trial has touched:", sys.stdout)
        evaluate(done[0].folder, split="test")
    if done[0].value is not None:
        tell(f"next    {places.typed('train.py', override('extend', str(done[0].folder)))}", sys.stdout)
        tell(f"        {shlex.join(['tensorboard', '--logdir', str(folder)])}", sys.stdout)


def over_repeats(trials: Sequence[Trial], swept: Sequence[str]) -> list[tuple[float, float, int, dict[str, str]]]:
    """Mean and standard deviation over seeds and folds, for each setting of the other keys that were swept."""
    if not {"seed", "split.fold"} & set(swept):
        return []
    others = [key for key in swept if key not in ("seed", "split.fold")]
    values: dict[tuple[str, ...], list[float]] = {}
    for trial in trials:
        if trial.value is not None:
            values.setdefault(tuple(map(trial.setting, others)), []).append(trial.value)
    return [
        (statistics.fmean(each), statistics.stdev(each), len(each), dict(zip(others, setting, strict=True)))
        for setting, each in values.items()
        if len(each) > 1
    ]


def _row(spread: tuple[float, float, int, dict[str, str]]) -> list[str]:
    mean, deviation, count, setting = spread
    return ["", f"{mean:.4f}", f"{deviation:.4f}", str(count), *setting.values()]


def _keys(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(word.partition("=")[0] for trial in trials for word in trial.overrides))


def _has_test(saved: DictConfig) -> bool:
    return bool(saved.spec.num_test) and not saved.choices.get("debug")
