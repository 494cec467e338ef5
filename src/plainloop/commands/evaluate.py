"""`python evaluate.py`: measure a run on a split, rebuilt from its directory alone; or compare two on the same."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from plainloop.assembly.serving import labelled
from plainloop.commands.failures import explained
from plainloop.commands.measure_export import evaluate_exported
from plainloop.commands.run import Run, load_composed, load_served
from plainloop.commands.startup import collect_garbage_again
from plainloop.commands.train import plain_numbers
from plainloop.config import compose
from plainloop.config.keys import override, plain
from plainloop.config.schema import EvaluateConfig
from plainloop.errors import UserError, counted, tell
from plainloop.reports import evaluation, terminal
from plainloop.reports.evaluation import Evaluation
from plainloop.reports.report import write_report
from plainloop.runs import atomic
from plainloop.runs.directory import RunDir
from plainloop.runs.finding import several
from plainloop.runs.survey import status_of
from plainloop.tasks.answered import Answered, differences
from plainloop.training.evaluation import measure


def evaluate(
    run: str | Path = "latest", split: str = "test", checkpoint: str = "best", overrides: Sequence[str] = ()
) -> dict[str, float]:
    """Measure a run on a split, rebuilt from its directory alone, and write the result beside its own.

    Args:
        run: a run directory, or "latest"; "A,B" compares two.
        split: "train", "val" or "test".
        checkpoint: "best", "last", or the path of a checkpoint file.
        overrides: what may differ, as for `load_composed`.

    Returns:
        {"test/loss": ..., "test/accuracy": ...}, also in evaluate-<split>-<checkpoint>.json; of several runs, the
        last one's.
    """
    typed = [override("run", str(run)), f"split={split}", override("checkpoint", checkpoint), *overrides]
    return evaluate_config(compose.compose(typed, EvaluateConfig), typed)


def evaluate_config(cfg: DictConfig, typed: Sequence[str]) -> dict[str, float]:
    """Evaluate what a composed config of `evaluate.py` describes."""
    if cfg.model.file is not None:
        run, taken = load_composed(cfg, typed)
        with explained(None):
            collect_garbage_again()
            return evaluate_exported(run, taken, Path(cfg.model.file).expanduser(), cfg.split)
    names = several(cfg.run)
    if len(names) > 1:
        return _compared(cfg, typed, names)
    found = _of_split(cfg, *load_composed(cfg, typed)) if cfg.input is None else _of_new(cfg, typed)
    return found.named


def _compared(cfg: DictConfig, typed: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Measure several runs on the same samples, and tell the first from each of the others. Raises UserError where the
    samples aren't the same: before anything is measured, where that can be seen."""
    loaded = []
    for name in names if cfg.input is None else ():
        cfg.run = name
        loaded.append(load_composed(cfg, typed))
        first, spec = loaded[0][0].session.spec, loaded[-1][0].session.spec
        facts = [(each.samples(cfg.split), each.class_names, each.target_names) for each in (first, spec)]
        if facts[0] != facts[1]:
            raise _not_the_same(names[0], name, cfg.split, facts[0][0], facts[1][0])
    found: list[Evaluation] = []
    for place, name in enumerate(names):
        cfg.run = name
        found.append(_of_split(cfg, *loaded[place], brief=True) if loaded else _of_new(cfg, typed, brief=True))
        with explained(None):
            if place:
                _compare(found[0], found[-1], names[0], name)
    return found[-1].named


def _of_split(cfg: DictConfig, run: Run, taken: str, brief: bool = False) -> Evaluation:
    """Measure a split of the run's own data.

    Args:
        taken: the checkpoint.
        brief: without the numbers on the terminal.
    """
    with explained(None):
        collect_garbage_again()
        _say_run(run.path, cfg.checkpoint, taken)
        answered = run.session.answered()
        values = run.session.measure(cfg.split, each=answered.add)
        found = evaluation.of(run.session, cfg.split, values, answered)
        if not brief:
            evaluation.say(found)
        terminal.say_comparison(found.named, run.metrics, cfg.split, taken)
        _write(found, run.path / f"evaluate-{cfg.split}-{taken}.json")
    if cfg.report:
        directory, session = RunDir(run.path), run.session
        write_report(directory, plain(session.composed), status_of(directory), session, found, run.metrics, rich=True)
        tell(f"written {directory.report}", sys.stdout)
    return found


def _of_new(cfg: DictConfig, typed: Sequence[str], brief: bool = False) -> Evaluation:
    """Measure other data of the same kind, read as the run's own were; from its directory alone. Raises UserError.

    Args:
        brief: without the numbers on the terminal.
    """
    run, served, taken = load_served(cfg, typed, measured=True)
    with explained(None):
        collect_garbage_again()
        new = served.reader.open(cfg.input)
        targets, there = served.reader.truths(cfg.input, new)
        _say_run(run.path, cfg.checkpoint, taken)
        for note in new.notes:
            tell(f"note    {note}", sys.stdout)
        answered, seen = Answered(served.task, served.names), list[int]()
        with served.loader(new) as loader:
            batches = labelled(loader, targets, there, seen)
            values = measure(served.model, served.task, batches, served.prepare, each=answered.add)
        found = evaluation.of_samples("new", values, answered, seen, new.column, lambda place: new.names[place])
        if not brief:
            evaluation.say(found)
        lacking = int((~there).sum())
        if lacking:
            tell(f"warning: {counted(lacking, 'sample')} without a target, left out", sys.stderr)
        if len(seen) + lacking < len(new.names):
            unread = len(new.names) - len(seen) - lacking
            tell(f"warning: {counted(unread, 'input')} can't be read, and aren't measured", sys.stderr)
        name = re.sub(r"[^\w.+-]", "_", Path(str(cfg.input)).stem or "input")
        _write(found, run.path / f"evaluate-input-{name}-{taken}.json")
    return found


def _say_run(path: Path, asked: str, taken: str) -> None:
    """Which run, and which of its weights.

    Args:
        asked, taken: the checkpoint.
    """
    none = " (without validation there is no best)" if asked == "best" and taken == "last" else ""
    tell(f"run     {path}\nmodel   {taken} weights{none}", sys.stdout)


def _write(found: Evaluation, file: Path) -> None:
    """The numbers, and a row for each sample."""
    written = {**plain_numbers(found.named), **evaluation.details(found)}
    atomic.replace_text(file, json.dumps(written, indent=2) + "\n")
    tell(f"written {file}", sys.stdout)
    evaluation.write_samples(found, file.with_suffix(".csv"))
    evaluation.say_where(found, file.with_suffix(".csv"))


def _compare(first: Evaluation, second: Evaluation, name: str, other: str) -> None:
    """What can be said of two runs by the same samples. Raises UserError where they aren't the same."""
    ours, theirs = first.answered.columns, second.answered.columns
    targets = [column for column in ours if column.split(" ")[0] == "target"]
    if first.count != second.count or any(ours[column] != theirs.get(column) for column in targets):
        raise _not_the_same(name, other, first.split, first.count, second.count)
    evaluation.say_differences(differences(first.answered, second.answered, (first.values, second.values)), name, other)


def _not_the_same(name: str, other: str, split: str, *counts: Any) -> UserError:
    return UserError(
        f"run={name},{other}: their {split} splits aren't the same samples ({counts[0]} and {counts[1]} of them, with "
        "other targets): only what was measured on the same ones can be compared."
    )
