"""A sweep: every combination of what was typed, each in a directory of its own, then a ranked table.

This is a Hydra sweeper in the place of its basic one: it composes and checks every trial before the first one is
trained, goes on when one fails, and measures the test split of the winner alone.
"""

import json
import math
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import filter_overrides
from omegaconf import OmegaConf

from plainloop import compose, config, rundir, tables
from plainloop.errors import MachineError, UserError, first_line


class Sweeper(BasicSweeper):
    """Named by `hydra.sweeper._target_` in configs/train.yaml."""

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None):
        super().__init__(max_batch_size, params)

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        loader = self.hydra_context.config_loader
        typed = [*self._parse_config(), *arguments]
        trials = self.split_arguments(OverridesParser.create(config_loader=loader).parse_overrides(typed), None)[0]
        for trial in trials:
            cfg = loader.load_sweep_config(self.config, list(trial))
            choices = cfg.hydra.runtime.choices
            task = OmegaConf.masked_copy(cfg, [name for name in cfg if name != "hydra"])
            compose.finish(task, choices, config.Config)
            if task.resume or task.extend:
                raise UserError("resume= and extend= continue one run: they don't go with a sweep (-m).")
        swept = _swept_keys(trials)
        first = loader.load_sweep_config(self.config, list(trials[0]))
        folder = self._folder(first)
        print(f"sweep   {len(trials)} trials in {folder}", flush=True)
        with _hydra_dir(self.config, folder):
            results = self.launcher.launch(trials, initial_job_idx=0)
        failures = {}
        for number, result in enumerate(results):
            if isinstance(result.return_value, Exception):  # already shown by the door
                failures[number] = first_line(result.return_value)
        finish_sweep(folder, [filter_overrides(trial) for trial in trials], swept, failures)
        if len(failures) == len(trials):
            raise MachineError(f"every trial of the sweep failed: {failures[0]}")
        return results

    def _folder(self, cfg: Any) -> Path:
        if str(cfg.hydra.sweep.dir) != ".":
            return Path(cfg.hydra.sweep.dir)
        choices = cfg.hydra.runtime.choices
        name = cfg.name or f"{choices['data']}_{choices['model']}"
        return Path(cfg.paths.outputs) / name / f"sweep-{time.strftime('%Y-%m-%d_%H-%M-%S')}"


class _hydra_dir:
    """Tell Hydra's launcher, and through it the trials, where the sweep lies."""

    def __init__(self, cfg: Any, folder: Path):
        self.cfg, self.folder = cfg, folder

    def __enter__(self) -> None:
        from omegaconf import open_dict, read_write

        with read_write(self.cfg), open_dict(self.cfg):
            self.cfg.hydra.sweep.dir = str(self.folder)
            self.cfg.hydra.sweep.subdir = "${hydra.job.num}"

    def __exit__(self, *error: object) -> None:
        pass


def _swept_keys(trials: list[list[str]]) -> list[str]:
    """The keys whose value isn't the same in every trial."""
    values: dict[str, set[str]] = {}
    for trial in trials:
        for override in trial:
            name, _, value = override.partition("=")
            values.setdefault(name, set()).add(value)
    return [name for name, seen in values.items() if len(seen) > 1]


def finish_sweep(folder: Path, trials: list[list[str]], swept: list[str], failures: dict[int, str]) -> None:
    """Print the trials ranked by the monitored quantity, write the ranking, and test the winner."""
    ranked = []
    monitor = mode = ""
    for number, trial in enumerate(trials):
        run = rundir.RunDir(folder / str(number))
        if number in failures or not run.config.is_file():
            continue
        saved = OmegaConf.load(run.config)
        monitor = saved.monitor
        mode = saved.monitor_mode
        ranked.append((run.read_metrics().get(monitor), number, trial))
    if not ranked:
        return
    sign = -1.0 if mode == "max" else 1.0
    ranked.sort(key=lambda row: math.inf if row[0] is None else sign * row[0])
    header = ["rank", monitor, *swept, "run"]
    lines = [header]
    for place, (value, number, trial) in enumerate(ranked, 1):
        values = dict(word.partition("=")[::2] for word in trial)
        shown = "-" if value is None else f"{value:.4f}"
        lines.append([str(place), shown, *(values.get(name, "") for name in swept), str(folder / str(number))])
    for number, why in failures.items():
        values = dict(word.partition("=")[::2] for word in trials[number])
        lines.append(["-", "failed", *(values.get(name, "") for name in swept), why])
    table = tables.of_words(lines, indent="")
    ranking = [{"run": str(number), monitor: value, "overrides": trial} for value, number, trial in ranked]
    (folder / "ranking.json").write_text(json.dumps(ranking, indent=2) + "\n")
    print(f"\n{table}\n", flush=True)
    winner = folder / str(ranked[0][1])
    if ranked[0][0] is not None and "test" in json.loads((winner / "splits.json").read_text()):
        from plainloop.commands import evaluate

        print("the winner on the test split, which no trial has touched:", flush=True)
        evaluate(winner, split="test")
