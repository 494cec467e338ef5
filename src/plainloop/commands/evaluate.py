"""`python evaluate.py`: measure a run on a split, rebuilt from its directory alone; or compare two on the same."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from plainloop.commands.failures import explained
from plainloop.commands.run import Run, load_composed
from plainloop.commands.startup import collect_garbage_again
from plainloop.commands.train import plain_numbers
from plainloop.config import compose
from plainloop.config.keys import override, plain
from plainloop.config.schema import EvaluateConfig
from plainloop.errors import UserError, tell
from plainloop.reports import evaluation, terminal
from plainloop.reports.evaluation import Evaluation
from plainloop.reports.report import write_report
from plainloop.runs import atomic
from plainloop.runs.directory import RunDir
from plainloop.runs.finding import several
from plainloop.tasks.answered import differences


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
    runs = several(cfg.run)
    found: list[Evaluation] = []
    for name in runs:
        cfg.run = name
        run, taken = load_composed(cfg, typed)
        with explained(None):
            collect_garbage_again()
            found.append(_evaluated(run, cfg, taken))
            if len(found) > 1:
                _compare(found[0], found[-1], runs[0], name)
    return found[-1].named


def _evaluated(run: Run, cfg: DictConfig, taken: str) -> Evaluation:
    """Measure, say and write.

    Args:
        taken: the checkpoint.
    """
    split = cfg.split
    none = " (without validation there is no best)" if cfg.checkpoint == "best" and taken == "last" else ""
    tell(f"run     {run.path}\nmodel   {taken} weights{none}", sys.stdout)
    answered = run.session.answered()
    found = evaluation.of(split, run.session.measure(split, each=answered.add), answered)
    evaluation.say(found)
    terminal.say_comparison(found.named, run.metrics, split, taken)
    file = run.path / f"evaluate-{split}-{taken}.json"
    written = {**plain_numbers(found.named), **evaluation.details(found)}
    atomic.replace_text(file, json.dumps(written, indent=2) + "\n")
    tell(f"written {file}", sys.stdout)
    evaluation.write_samples(found, run.session, file.with_suffix(".csv"))
    evaluation.say_where(found, file.with_suffix(".csv"))
    if cfg.report:
        directory, session = RunDir(run.path), run.session
        status = "finished" if directory.metrics.is_file() else "interrupted"
        write_report(directory, plain(session.composed), status, session, found, run.metrics, rich=True)
        tell(f"written {directory.report}", sys.stdout)
    return found


def _compare(first: Evaluation, second: Evaluation, name: str, other: str) -> None:
    """What can be said of two runs by the same samples. Raises UserError where they aren't the same."""
    ours, theirs = first.answered.columns, second.answered.columns
    targets = [column for column in ours if column.split(" ")[0] == "target"]
    if first.count != second.count or any(ours[column] != theirs.get(column) for column in targets):
        raise UserError(
            f"run={name},{other}: their {first.split} splits aren't the same samples ({first.count} and {second.count} "
            "of them, with other targets): only what was measured on the same ones can be compared."
        )
    evaluation.say_differences(differences(first.answered, second.answered, (first.values, second.values)), name, other)
