"""A run, rebuilt from its directory alone."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from plainloop.assembly.assemble import assemble
from plainloop.assembly.serving import Served, of_session, serve
from plainloop.assembly.session import Session
from plainloop.commands import fingerprint, resume
from plainloop.commands.failures import explained
from plainloop.config import compose
from plainloop.config.changes import changed
from plainloop.config.keys import UNDER_A_GROUP, may_change, override, typed_keys
from plainloop.config.schema import Config, EvaluateConfig
from plainloop.data import Data
from plainloop.errors import MachineError, UserError, listed, tell
from plainloop.runs import checkpoint as checkpoint_room
from plainloop.runs.belonging import check_checkpoint, check_result, remark_on_config
from plainloop.runs.checkpoint import Checkpoints
from plainloop.runs.directory import RunDir
from plainloop.runs.finding import find
from plainloop.trust import from_a_run


@dataclass
class Run:
    """A run: its directory, and what it is made of."""

    path: Path
    session: Session = field(repr=False)
    metrics: dict[str, float]

    @property
    def config(self) -> Config:
        """Its config: sections as dataclasses, the data's facts in `spec`."""
        return self.session.config

    @property
    def model(self) -> nn.Module:
        return self.session.model

    @property
    def preprocess(self) -> nn.Module:
        return self.session.preprocess

    @property
    def data(self) -> Data:
        return self.session.data

    @property
    def classes(self) -> list[str]:
        """The names of the classes, the labels or the values that it predicts, in order."""
        return self.session.names

    def predict(self, inputs: Any, top: int = 1, probabilities: bool = False) -> Any:
        """What the run says of new inputs, read as its own were: a polars frame, with the columns of `predict.py`.

        Args:
            inputs: a path, as for `predict.py`; or, as the data asks for: paths of files, arrays (N, ...), rows (a list
                of dicts, or a frame), texts.
            top: where there are classes, so many of the most probable.
            probabilities: the probability of every class, too.
        """
        import polars

        served = of_session(self.session)
        return polars.DataFrame(
            list(served.rows(served.reader.open(inputs), top, probabilities)), infer_schema_length=None
        )

    def history(self) -> list[dict[str, Any]]:
        """The records of history.jsonl."""
        return [json.loads(line) for line in RunDir(self.path).history.read_text().splitlines()]


def load_run(path: str | Path = "latest", checkpoint: str = "best", overrides: Sequence[str] = ()) -> Run:
    """Rebuild a run from its directory alone: model (in eval mode), preprocess, data, config.

    Args:
        path: a run directory, or "latest".
        checkpoint: "best", "best-2", "last", or the path of a checkpoint file.
        overrides: what may differ, as ["trainer.device=cpu", "paths.data=FOLDER", "trust=[my.function]"].
    """
    typed = [override("run", str(path)), override("checkpoint", checkpoint), *overrides]
    return load_composed(compose.compose(typed, EvaluateConfig), typed)[0]


NAMES = ("_target_", "trust", "collate_fn", "worker_init_fn", "lr_lambda")  # keys that name classes and functions


def named_in(composed: DictConfig) -> set[str]:
    """The classes and functions that a command's own config names: the user, and not a run's config. (What the user
    calls the run is no such name: it is a folder's, which a stranger may have chosen.)"""

    def words(node: Any, key: str) -> Iterator[str]:
        if isinstance(node, dict):
            for name, value in node.items():
                yield from words(value, str(name))
        elif isinstance(node, list):
            for value in node:
                yield from words(value, key)
        elif isinstance(node, str) and key in NAMES:
            yield node

    return set(words(OmegaConf.to_container(composed, resolve=False), ""))


def load_composed(composed: DictConfig, typed: Sequence[str]) -> tuple[Run, str]:
    """The run that a command's composed config names, and the name of the checkpoint that was taken."""
    run, saved, cfg = named_run(composed, typed)
    name, state, path = chosen_checkpoint(run, composed.checkpoint)
    with explained(None), from_a_run(named_in(composed)):
        session = assemble(cfg, loaded=True)
    metrics = check_own(run, saved, name, state, path)
    fingerprint.check_same_data(saved, session, run)
    for split in fingerprint.changed_splits(saved.spec.digests, session.config.spec.digests):
        tell(f"warning: the content of split {split} isn't what this run was trained and tested on.", sys.stderr)
    try:
        resume.load_weights(session, state)
    except (RuntimeError, KeyError) as error:
        raise UserError(
            f"checkpoint={composed.checkpoint} doesn't fit the model of {run}: {resume.what_differs(error)}"
        ) from error
    session.model.eval()
    return Run(run.path, session, metrics), name


def load_served(
    cfg: DictConfig, typed: Sequence[str], measured: bool = False, on_cpu: bool = False
) -> tuple[RunDir, Served, str]:
    """The run that a command names, as it answers, and the name of the checkpoint that was taken.

    Args:
        measured: with the run's metrics.
        on_cpu: whatever its config says.
    """
    run, saved, changed = named_run(cfg, typed)
    if on_cpu:
        changed.trainer.device = "cpu"
    name, state, path = chosen_checkpoint(run, cfg.checkpoint)
    with explained(None), from_a_run(named_in(cfg)):
        served = serve(changed, state, measured)
    check_own(run, saved, name, state, path)
    return run, served, name


def named_run(composed: DictConfig, typed: Sequence[str]) -> tuple[RunDir, DictConfig, DictConfig]:
    """The run that a command's composed config names, its config, and that with what was typed. Raises UserError."""
    schema: Any = OmegaConf.get_type(composed)
    run = find(composed.run, composed.paths.outputs)
    saved = run.saved_config()
    saved.trust = list(composed.trust)  # a stranger's run can't authorise itself
    keys = [name for name, _ in typed_keys(schema)]
    commands_own = [name for name in keys if "." not in name or name.endswith(UNDER_A_GROUP)]
    commands_own += [name.removesuffix(UNDER_A_GROUP) for name in commands_own]
    typed = [word for word in typed if word.partition("=")[0] not in commands_own]
    allowed = may_change(schema, "evaluate")
    cfg = changed(saved, composed, typed, allowed, lambda name: "this can't change when a run is evaluated")
    resume.check_config(cfg, run)
    return run, saved, cfg


def check_own(run: RunDir, saved: DictConfig, name: str, state: dict[str, Any], path: Path) -> dict[str, float]:
    """What was read must be the run's own; its metrics. Raises UserError.

    Args:
        name, state, path: of the checkpoint, as `chosen_checkpoint` gives them.
    """
    metrics = run.read_metrics()
    if name != "other":
        own: Any = OmegaConf.to_container(saved)
        check_checkpoint(state, path, own, metrics.get("best/step") if name == "best" else None)
    if name == "best":
        check_result(run, metrics, state)
    remark = remark_on_config(run, saved)
    if remark:
        tell(f"warning: {remark}", sys.stderr)
    return metrics


def chosen_checkpoint(run: RunDir, which: str) -> tuple[str, dict[str, Any], Path]:
    """What it is called, what it holds, and its file."""
    checkpoints = Checkpoints(run.checkpoints)
    best = run.checkpoints / "best.pt"
    if which == "best" and best.exists():
        try:
            return "best", checkpoint_room.read_state(best), best
        except checkpoint_room.Damaged as error:
            raise MachineError(f"{error} The newest weights instead: checkpoint=last") from error
    if which in ("best", "last"):  # without validation nothing was selected: the last one is what there is
        if not checkpoints.all():
            raise UserError(f"run={run}: it has no checkpoint.")
        path, state = checkpoints.last()
        return "last", state, path
    path = Path(which)
    if checkpoint_room.RANKED.fullmatch(which):  # best-2
        path = run.checkpoints / f"{which}.pt"
        if not path.exists():
            there = listed([best.stem for best in checkpoints.all_best()] or ["none"])
            raise UserError(f"checkpoint={which}: of the best this run has {there}. Train with checkpoint.keep_best=K.")
    elif not path.is_file():
        raise UserError(f"checkpoint={which}: must be best, best-2, last, or the path of a file.")
    try:
        state = checkpoint_room.read_state(path)
    except checkpoint_room.Damaged as error:
        raise UserError(f"checkpoint={which}: {error}") from error
    inside = path.resolve().parent == run.checkpoints.resolve()
    return path.stem if inside else "other", state, path
