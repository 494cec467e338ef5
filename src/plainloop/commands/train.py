"""`python train.py`: a new run, one that is continued, one that is extended."""

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from plainloop.assembly.assemble import assemble, settled
from plainloop.assembly.session import Session
from plainloop.assembly.summary import layers
from plainloop.assembly.trainer import make_trainer
from plainloop.build import build
from plainloop.commands import fingerprint, resume
from plainloop.commands.failures import explained
from plainloop.commands.profiler import profiled
from plainloop.commands.run import Run, named_in
from plainloop.commands.signals import obeying_signals
from plainloop.commands.startup import collect_garbage_again
from plainloop.config import complaints, compose
from plainloop.config.keys import plain
from plainloop.config.schema import Config
from plainloop.errors import MachineError, UserError, first_line, told
from plainloop.loggers import Console, History, Logger
from plainloop.reports import evaluation, pictures, tables, terminal
from plainloop.reports.evaluation import Evaluation
from plainloop.reports.report import most_memory, write_report
from plainloop.runs import atomic
from plainloop.runs import checkpoint as checkpoint_room
from plainloop.runs.belonging import check_checkpoint, check_result, remark_on_config
from plainloop.runs.checkpoint import Checkpoints
from plainloop.runs.directory import (
    RunDir,
    check_free,
    clear,
    create,
    record_config,
    record_end,
    record_rest,
    record_resumption,
)
from plainloop.runs.finding import find, to_continue
from plainloop.tasks.metrics import ConfusionMatrix
from plainloop.training.trainer import Trainer
from plainloop.trust import from_a_run, is_named, trusting


def train(overrides: Sequence[str] = ()) -> Run:
    """Train, validate, and test once with the best weights.

    Args:
        overrides: as on the command line: ["model=mlp", "trainer.max_epochs=2"].

    Returns:
        the run; its model has the best weights.
    """
    cfg, hydra = compose.compose_with_hydra(overrides)
    return train_config(cfg, overrides, hydra.run.dir if hydra.run.dir != "." else None)


AT_THE_END = {"most": 1 << 21, "work": 1 << 21}  # of larger splits evaluate.py says how sure the metrics are


@dataclass
class Origin:
    """What a run starts from: nothing, a run that is continued, or one that is extended."""

    run: RunDir | None = None
    continued: bool = False
    auto: bool = False  # continued where there is something to continue
    state: dict[str, Any] = field(default_factory=dict)  # its newest checkpoint


def train_config(cfg: DictConfig, typed: Sequence[str], directory: str | None = None, is_trial: bool = False) -> Run:
    """Train what a composed config describes.

    Args:
        typed: the overrides that led to `cfg`.
        directory: the run directory; None for a new one under outputs/.
        is_trial: one of a sweep's trials: the test split isn't touched.
    """
    console = Console(cfg.console.every_epochs, cfg.console.progress)
    with explained(None):  # the data may be asked already what its task is
        cfg, origin, foreign = _begun(cfg, typed, directory, console)
    with foreign:
        return _prepared(cfg, origin, typed, directory, is_trial, console)


def _prepared(
    cfg: DictConfig,
    origin: Origin,
    typed: Sequence[str],
    directory: str | None,
    is_trial: bool,
    console: Console,
) -> Run:
    """From a config, and what the run starts from, to the result."""
    console.monitor = cfg.monitor
    session = _assembled(cfg, origin)
    config = session.config
    inexact = config.resume_inexact
    config.resume, config.resume_inexact = None, False  # the run's own config has neither
    if is_trial or config.choices.get("debug"):
        config.test = False
    terminal.say_what_was_found(session, console, is_trial)
    nodes = plain(config.logger or {})
    for name in ("history", "console"):
        if name in nodes:
            raise UserError(f"logger.{name}: what is written to history.jsonl and to the terminal is no option.")
    others = {name: build(node, f"logger.{name}", Logger, config.trust) for name, node in nodes.items()}
    destinations = _destinations(others, nodes, config.trust)
    loggers: dict[str, Logger] = {"history": History(), "console": console, **others}
    with explained(None), complaints.explaining_leftovers(config):
        trainer = make_trainer(session, log=_to_all(loggers), progress=console.progress)
        terminal.say_memory(session, trainer, console)
    session.record()
    identity = fingerprint.of(session, trainer)
    for line in _taken_up(origin, trainer, loggers, identity, inexact):
        console.say(f"warning: {line}")
    if origin.run is not None and origin.continued and trainer.finished() and origin.run.metrics.is_file():
        console.say(
            f"done    this run is finished ({trainer.reason}); {origin.run.shown('extend')} trains longer, as a new run"
        )
        metrics, best = origin.run.read_metrics(), _load_chosen(session, trainer, origin.run)
        if best is not None:
            check_result(origin.run, metrics, best)
        return Run(origin.run.path, session, metrics)
    continued = origin.run if origin.continued else None
    run = continued or create(config.paths.outputs, run_name(config), directory)
    trust = terminal.trust_words(session, *destinations)
    with explained(run, *trust):
        lock = run.lock()
    try:
        with explained(run, *trust):
            if directory is not None and not continued:
                check_free(run, origin.auto)
                clear(run)
            earlier = origin.state["seconds"] if continued else 0.0
            warning = _record(run, session, typed, earlier if continued else None)
            if warning:
                console.say(f"warning: {warning}")
        hints = not is_trial and not config.choices.get("debug")
        return _train(run, session, trainer, loggers, identity, hints, trust, earlier)
    finally:
        RunDir.unlock(lock)


def _begun(
    cfg: DictConfig, typed: Sequence[str], directory: str | None, console: Console
) -> tuple[DictConfig, Origin, AbstractContextManager[None]]:
    """What the run starts from, its config (a run's own with what was typed, or the composed one), and what it is built
    under."""
    old, auto = None, cfg.resume == "auto"
    if cfg.resume:
        old = to_continue(cfg.resume, cfg.paths.outputs, directory)
        cfg.resume = None  # auto, and nothing is there yet: it is started
    elif cfg.extend:
        old = find(cfg.extend, cfg.paths.outputs, "extend")
    if old is None:
        cfg, remark = settled(cfg, typed)
        if remark:
            console.say(f"note    {remark}")
        return cfg, Origin(auto=auto), contextlib.nullcontext()
    continued, foreign = not cfg.extend, from_a_run(named_in(cfg))
    cfg = (resume.resumed_config if continued else resume.extended_config)(old, cfg, typed)
    console.say(f"{'resume' if continued else 'extend'}  {old}")
    remark = remark_on_config(old, old.saved_config())
    if remark:
        console.say(f"warning: {remark}")
    return cfg, Origin(old, continued, auto, Checkpoints(old.checkpoints).last(console.say)[1]), foreign


def _assembled(cfg: DictConfig, origin: Origin) -> Session:
    """All but the trainer. Raises UserError where the data isn't that of the run which this one starts from."""
    with explained(None), complaints.explaining_leftovers(cfg):
        session = assemble(cfg, loaded=origin.run is not None)
    if origin.run is not None:
        fingerprint.check_same_data(cfg, session, origin.run)
    if origin.continued:
        resume.check_same_length(cfg, session)
    return session


def _destinations(loggers: Mapping[str, Logger], nodes: Mapping[str, Any], trust: Sequence[str]) -> list[str]:
    """Where loggers send to, as far as the config says so. A run's own config may be a stranger's, and doesn't say it:
    raises UserError where it alone does.

    Args:
        nodes: what the config says of each.
    """
    found = {name: str(logger.destination) for name, logger in loggers.items() if logger.destination is not None}
    for name, place in found.items():
        if not is_named(nodes[name]["_target_"]) and place not in trust:
            raise UserError(
                f"logger.{name}: this run's own config, which may be a stranger's, would send its results to {place}.\n"
                f"If that is where you want them, say so on the command line: {trusting([*trust, place])}"
            )
    return list(found.values())


def _taken_up(
    origin: Origin, trainer: Trainer, loggers: Mapping[str, Logger], identity: dict[str, Any], inexact: bool
) -> list[str]:
    """Load what a run that is continued remembers, or what one that is extended hands on; the warnings."""
    old, state = origin.run, origin.state
    if old is None:
        return []
    if not origin.continued:
        resume.start_from(trainer, state, old)
        changed = fingerprint.changed_splits(state["fingerprint"]["digests"], identity["digests"])
        return [f"the content of split {split} isn't what {old} was trained on." for split in changed]
    resume.check_best(old, identity["config"])
    others = fingerprint.check(state.get("fingerprint"), identity, inexact, old)
    resume.load_all(trainer, state, old)
    with resume.fitting(old):
        for name, logger in loggers.items():
            logger.load_state_dict(state["loggers"].get(name, {}))
    return [f"{line}: this run's bits may not be those of one without an interruption" for line in others]


def _record(run: RunDir, session: Session, typed: Sequence[str], earlier: float | None) -> str:
    """Write into the run directory what the run is. Returns a warning, or nothing.

    Args:
        earlier: the seconds that a run which is continued has taken before; None for a new one.
    """
    record_config(run, session.composed)
    if earlier is not None:
        return record_resumption(run, session.config.seed, typed, earlier)
    record_rest(run, session.config.seed, typed, session.data.indices)
    atomic.replace_text(run.layers, tables.table(layers(session.model, session.summary), left=5) + "\n")
    return ""


def _train(
    run: RunDir,
    session: Session,
    trainer: Trainer,
    loggers: dict[str, Logger],
    identity: dict[str, Any],
    hints: bool,
    trust: Sequence[str],
    earlier: float,
) -> Run:
    """From an assembled trainer and an empty (or resumed) run directory to the result.

    Args:
        identity: the fingerprint that every checkpoint bears.
        trust: the word `trust=[...]` that the commands need which go on from it.
        earlier: the seconds that a resumed run has had before.
    """
    cfg, console = session.config, loggers["console"]
    assert isinstance(console, Console)
    checkpoints = Checkpoints(run.checkpoints, **plain(cfg.checkpoint))

    def save(state: dict[str, Any], best: bool) -> None:
        state["fingerprint"] = identity
        state["seconds"] = earlier + time.perf_counter() - started
        state["loggers"] = {name: logger.state_dict() for name, logger in loggers.items()}
        checkpoints.save(state, best, trainer.best.steps)

    trainer.hooks.save, trainer.hooks.due = save, checkpoints.due
    started = time.perf_counter()
    try:
        with explained(run, *trust), obeying_signals(trainer, checkpoints):
            described = plain(session.composed)
            for logger in loggers.values():
                logger.open(run, copy.deepcopy(described), trainer.step)
            console.say(f"run     {run}")
            if cfg.schedule.draw:
                pictures.draw_schedule(run, session, trainer.schedule, console)
                record_end(run, "finished", time.perf_counter() - started)
                return Run(run.path, session, {})
            if trainer.step == 0:
                pictures.draw_inputs(run, session, loggers)
            anomaly = torch.autograd.set_detect_anomaly(cfg.trainer.detect_anomaly)
            validating = contextlib.nullcontext() if trainer.val_batches is None else trainer.val_batches
            with anomaly, profiled(run, trainer, console, cfg.trainer.profile), trainer.train_batches, validating:
                collect_garbage_again()
                trainer.fit()
            seconds = earlier + time.perf_counter() - started
            metrics, found = _measure_result(run, session, trainer, loggers)
            metrics["seconds"] = seconds
            for logger in loggers.values():
                logger.result(metrics, trainer.step)
            # Last: it is what says that the run is finished.
            atomic.replace_text(run.metrics, json.dumps(plain_numbers(metrics), indent=2) + "\n")
        report_on(run, session, console, "finished", found, metrics)
        terminal.say_result(run, session, trainer, metrics, console, hints, trust)
        return Run(run.path, session, metrics)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        why = first_line(error) if status == "interrupted" else told(error)
        with contextlib.suppress(OSError):  # the disk is full, say
            if isinstance(error, UserError | MachineError):
                console.say(f"failed  {error}", screen=False)
            record_end(run, status, earlier + time.perf_counter() - started, why)
        report_on(run, session, console, f"{status}: {why}")
        raise
    finally:
        for logger in loggers.values():
            with contextlib.suppress(OSError):  # the disk is full, and that has been told
                logger.close()


def run_name(cfg: Config) -> str:
    """The folder of a run under outputs/. Raises UserError for one that would lie elsewhere."""
    name = cfg.name or f"{cfg.choices.get('data')}_{cfg.choices.get('model')}"
    if cfg.choices.get("debug") and not cfg.name:
        name = f"debug_{cfg.choices.debug}"
    if name.startswith("/") or ".." in name.split("/") or not name.isprintable():
        raise UserError(f"name={name!r}: a run's folder lies below paths.outputs.")
    return name


def _to_all(loggers: Mapping[str, Logger]) -> Callable[[dict[str, Any]], None]:
    def log(record: dict[str, Any]) -> None:
        for logger in loggers.values():
            logger.log(record)

    return log


def _measure_result(
    run: RunDir, session: Session, trainer: Trainer, loggers: Mapping[str, Logger]
) -> tuple[dict[str, float], Evaluation | None]:
    """The content of metrics.json: the best validation, the last one, and the test split, which is measured here,
    once, with the best weights. The confusion matrix is counted, and the report's numbers are gathered, in the same
    pass."""
    cfg = session.config
    metrics: dict[str, float] = {"train/loss": trainer.last_train_loss}
    best = _load_chosen(session, trainer, run)
    if best is not None:
        metrics |= {f"val/{name}": value for name, value in best["carried"]["last_values"].items()}
        metrics |= {f"last/val/{name}": value for name, value in trainer.last_values.items()}
        metrics |= {"best/epoch": trainer.best.epoch, "best/step": trainer.best.step}
    confusion = [ConfusionMatrix(cfg.spec.num_classes)] if cfg.spec.num_classes and not cfg.choices.get("debug") else []
    split = "test" if cfg.test and session.data.test is not None else "val"
    found = None
    wanted = cfg.report and not cfg.choices.get("debug")
    if split == "test" or ((confusion or wanted) and session.data.val is not None):
        answered = session.answered(**AT_THE_END) if wanted else None
        each = answered.add if answered is not None else None
        values = session.measure(split, lambda: trainer.obey_signal(save=False), confusion, each)
        if answered is not None:
            try:
                found = evaluation.of(session, split, values, answered)
            except Exception as error:  # of a data set or a metric of the user's own: the result stands
                console = loggers["console"]
                assert isinstance(console, Console)
                console.say(f"note    report.html is without what each sample tells: {told(error)}")
        metrics |= {f"{split}/{name}": value for name, value in values.items()}
    for matrix in confusion if session.data[split] is not None else ():
        pictures.draw_confusion(run, session, split, matrix, trainer.step, loggers)
    parameters = sum(parameter.numel() for parameter in session.model.parameters())
    metrics |= {"epochs": trainer.epoch, "steps": trainer.step, "samples": trainer.samples, "parameters": parameters}
    return metrics, found


def report_on(
    run: RunDir,
    session: Session,
    console: Console,
    status: str,
    found: Evaluation | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write the run's report, where one is wanted. Whatever hinders it is told, and costs the run nothing."""
    if not session.config.report or session.config.choices.get("debug"):
        return
    try:
        memory = most_memory(session.device)
        write_report(run, plain(session.composed), status, session, found, metrics or {}, memory)
    except Exception as error:
        with contextlib.suppress(OSError):
            console.say(f"note    report.html isn't written: {told(error)}")


def _load_chosen(session: Session, trainer: Trainer, run: RunDir) -> dict[str, Any] | None:
    """Load best.pt, where validation has selected one, and return its state; else the model gets its last weights,
    averaged where the run averages."""
    best = run.checkpoints / "best.pt"
    if not best.exists():
        if trainer.average.chosen is not None:
            session.model.load_state_dict(trainer.average.chosen.state_dict())
        return None
    state = checkpoint_room.read_state(best)
    config: Any = OmegaConf.to_container(session.composed)
    check_checkpoint(state, best, config, trainer.best.step)
    resume.load_weights(session, state)
    return state


def plain_numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: null instead."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
