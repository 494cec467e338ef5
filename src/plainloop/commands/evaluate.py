"""`python evaluate.py`: measure a run on a split, rebuilt from its directory alone."""

import json
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from plainloop.commands.failures import explained
from plainloop.commands.run import load_composed
from plainloop.commands.startup import collect_garbage_again
from plainloop.commands.train import plain_numbers
from plainloop.config import compose
from plainloop.config.keys import override
from plainloop.config.schema import EvaluateConfig
from plainloop.reports import terminal
from plainloop.runs import atomic


def evaluate(
    run: str | Path = "latest", split: str = "test", checkpoint: str = "best", overrides: Sequence[str] = ()
) -> dict[str, float]:
    """Measure a run on a split, rebuilt from its directory alone, and write the result beside its own.

    Args:
        run: a run directory, or "latest".
        split: "train", "val" or "test".
        checkpoint: "best", "last", or the path of a checkpoint file.
        overrides: what may differ, as for `load_composed`.

    Returns:
        {"test/loss": ..., "test/accuracy": ...}, also in evaluate-<split>-<checkpoint>.json.
    """
    typed = [override("run", str(run)), f"split={split}", override("checkpoint", checkpoint), *overrides]
    return evaluate_config(compose.compose(typed, EvaluateConfig), typed)


def evaluate_config(cfg: DictConfig, typed: Sequence[str]) -> dict[str, float]:
    """Evaluate what a composed config of `evaluate.py` describes."""
    run, name = load_composed(cfg, typed)
    with explained(None):
        collect_garbage_again()
        values = {f"{cfg.split}/{metric}": value for metric, value in run.session.measure(cfg.split).items()}
        file = run.path / f"evaluate-{cfg.split}-{name}.json"
        atomic.replace_text(file, json.dumps(plain_numbers(values), indent=2) + "\n")
    terminal.say_evaluation(run.path, values, run.metrics, cfg.split, asked=cfg.checkpoint, taken=name, file=file)
    return values
