"""What the doors and a notebook call: train, evaluate, load_run."""

import contextlib
import json
import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from plainloop import checkpoint as checkpoint_room
from plainloop import compose, rundir, tables
from plainloop.assemble import Session, assemble, make_trainer
from plainloop.build import build
from plainloop.checkpoint import Checkpoints
from plainloop.config import EvaluateConfig, plain, validate
from plainloop.data import Data
from plainloop.data.splits import SPLITS
from plainloop.errors import Interrupted, MachineError, UserError, first_line
from plainloop.loggers import Console, History, Logger
from plainloop.metrics import ConfusionMatrix
from plainloop.preprocess import Preprocess
from plainloop.rundir import RunDir
from plainloop.trainer import Trainer

# What may differ when a run is continued: nothing that its numbers follow from.
RESUMABLE = ("trainer.log_every", "trainer.device", "trainer.num_threads", "trainer.max_epochs", "trainer.max_steps",
             "loader.num_workers", "loader.pin_memory", "loader.prefetch_factor", "loader.persistent_workers",
             "loader.timeout", "loader.multiprocessing_context", "checkpoint.*", "console.*", "paths.*",
             "test", "trust", "resume")  # fmt: skip
EXTENDABLE = ("trainer.*", "optimizer.*", "scheduler", "scheduler.*", "schedule.*", "loader.*", "checkpoint.*",
              "early_stopping.*", "console.*", "logger", "paths.*", "name", "seed", "monitor", "monitor_mode",
              "test", "trust", "extend")  # fmt: skip
EVALUABLE = ("run", "split", "checkpoint", "trust", "trainer.device", "trainer.precision", "trainer.num_threads",
             "trainer.limit_batches", "loader.*", "paths.*")  # fmt: skip


@dataclass
class Run:
    """A run: its directory, and what it is made of."""

    path: Path
    session: Session
    metrics: dict[str, float]

    @property
    def config(self) -> DictConfig:
        """The composed config, with the data's facts in `spec`."""
        return self.session.config

    @property
    def model(self) -> nn.Module:
        return self.session.model

    @property
    def preprocess(self) -> Preprocess:
        return self.session.preprocess

    @property
    def data(self) -> Data:
        return self.session.data

    def history(self) -> list[dict[str, Any]]:
        """The records of history.jsonl."""
        return [json.loads(line) for line in RunDir(self.path).history.read_text().splitlines()]


# --- train --------------------------------------------------------------------------------------------------


def train(overrides: Sequence[str] | DictConfig = (), typed: Sequence[str] = (), directory: str | None = None,
          sweep: bool = False) -> Run:  # fmt: skip
    """Train, validate, and test once with the best weights.

    Args:
        overrides: as on the command line, ["model=mlp", "trainer.max_epochs=2"]; or a composed config.
        typed: what was typed, where `overrides` is a composed config.
        directory: the run directory; None for a new one under outputs/.
        sweep: this is one trial of a sweep: the test split isn't touched.

    Returns:
        the run, its model with the best weights.
    """
    if not isinstance(overrides, DictConfig):
        typed = list(overrides)
        cfg = compose.compose(typed)
    else:
        cfg = overrides
    console = Console(cfg.console.every_epochs, cfg.console.progress, cfg.monitor)
    old, state = None, None
    if cfg.resume:
        old = rundir.find(cfg.resume, cfg.paths.outputs, "resume")
        cfg = _resumed_config(old, cfg, typed)
    elif cfg.extend:
        old = rundir.find(cfg.extend, cfg.paths.outputs, "extend")
        cfg = _extended_config(old, cfg, typed)
    if old is not None:
        console.say(f"{'resume' if cfg.resume else 'extend'}  {old}")
        _, state = Checkpoints(old.checkpoints).last(console.say)
    console.monitor = cfg.monitor

    with _explained(None):
        session = assemble(cfg)
    if old is not None:
        _same_data(cfg, session.config, old)
    cfg = session.config
    if sweep or cfg.choices.get("debug"):
        cfg.test = False
    _say_what_was_found(session, console)
    loggers = _make_loggers(cfg, console)
    with _explained(None):
        trainer = make_trainer(session, log=_to_all(loggers), progress=console.progress)

    if state is not None and cfg.resume:
        _load(trainer, state, old)
        for name, logger in loggers.items():
            logger.load_state_dict(state["loggers"].get(name, {}))
        if trainer._finished():
            console.say(f"done    this run is finished ({trainer.reason}); extend={old} trains longer, as a new run")
            return _finished_run(old, session)
    elif state is not None:
        _start_from(trainer, state, old)

    run = old if cfg.resume and old else rundir.create(cfg.paths.outputs, run_name(cfg), directory)
    with _explained(run):
        if cfg.resume:
            cfg.resume = None
            rundir.record_config(run, cfg, plain(cfg))  # with what was changed, a longer max_epochs say
        else:
            rundir.record_config(run, cfg, plain(cfg))
            rundir.record_rest(run, cfg.seed, typed, session.data.indices)
    return _train(run, session, trainer, loggers, console, hints=not sweep and not cfg.choices.get("debug"))


def _train(run: RunDir, session: Session, trainer: Trainer, loggers: dict[str, Logger], console: Console,
           hints: bool) -> Run:  # fmt: skip
    cfg = session.config
    section = cfg.checkpoint
    checkpoints = Checkpoints(
        run.checkpoints, section.every_epochs, section.every_steps, section.every_minutes, section.keep
    )

    def save(state: dict[str, Any], best: bool) -> None:
        state["loggers"] = {name: logger.state_dict() for name, logger in loggers.items()}
        checkpoints.save(state, best)

    trainer.save, trainer.due = save, checkpoints.due
    started = time.perf_counter()
    try:
        with _explained(run), _signals(trainer):
            for logger in loggers.values():
                logger.open(run, plain(cfg), trainer.step)
            console.say(f"run     {run}")
            if trainer.step == 0:
                _draw_inputs(run, session, loggers)
            with (
                torch.autograd.set_detect_anomaly(cfg.trainer.detect_anomaly),
                _profiled(run, trainer, cfg, console),
            ):
                trainer.fit()
            metrics = _result(run, session, trainer, time.perf_counter() - started, loggers)
        _say_result(run, session, trainer, metrics, console, hints)
        return Run(run.path, session, metrics)
    except (UserError, MachineError) as error:
        console.say(f"failed  {error}", screen=False)
        raise
    finally:
        for logger in loggers.values():
            logger.close()


def run_name(cfg: DictConfig) -> str:
    """The folder of a run under outputs/."""
    if cfg.name:
        return cfg.name
    if cfg.choices.get("debug"):
        return f"debug_{cfg.choices.debug}"
    return f"{cfg.choices.get('data')}_{cfg.choices.get('model')}"


def _make_loggers(cfg: DictConfig, console: Console) -> dict[str, Logger]:
    """The history and the console always; others as the group `logger` says."""
    others = {name: build(node, f"logger.{name}", list(cfg.trust)) for name, node in plain(cfg.logger or {}).items()}
    return {"history": History(), "console": console, **others}


def _to_all(loggers: Mapping[str, Logger]) -> Callable[[dict[str, Any]], None]:
    def log(record: dict[str, Any]) -> None:
        for logger in loggers.values():
            logger.log(record)

    return log


def _result(
    run: RunDir, session: Session, trainer: Trainer, seconds: float, loggers: dict[str, Logger]
) -> dict[str, float]:
    """metrics.json: the best validation, the last one, and the test split, measured once with the best weights."""
    cfg = session.config
    metrics: dict[str, float] = {"train/loss": trainer.last_train_loss}
    best = run.checkpoints / "best.pt"
    last = {f"last/val/{name}": value for name, value in trainer.last_values.items()}
    if trainer.best is not None and best.exists():
        state = checkpoint_room.load(best)
        _load_weights(session, state)
        values = state["last"]["values"]
        metrics |= {f"val/{name}": value for name, value in values.items()} | last
        metrics |= {"best/epoch": trainer.best_epoch, "best/step": trainer.best_step}
    confusion = _confusion(cfg)
    split = "test" if cfg.test and session.data.test is not None else "val"
    if split == "test" or (confusion and session.data.val is not None):
        values = session.measure(split, trainer._obey_between_batches, confusion)
        metrics |= {f"{split}/{name}": value for name, value in values.items()}
        if confusion:
            _draw_confusion(run, session, split, confusion[0], trainer.step, loggers)
    metrics |= {"epochs": trainer.epoch, "steps": trainer.step, "samples": trainer.samples, "seconds": seconds,
                "parameters": sum(p.numel() for p in session.model.parameters())}  # fmt: skip
    run.metrics.write_text(json.dumps({n: _number(v) for n, v in metrics.items()}, indent=2) + "\n")
    for logger in loggers.values():
        logger.result(metrics, trainer.step)
    return metrics


def _number(value: float) -> float | None:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _draw_inputs(run: RunDir, session: Session, loggers: Mapping[str, Logger]) -> None:
    """A grid of training images, as the data set gives them."""
    if len(loggers) < 3 or session.config.spec.image_size is None:
        return  # nobody would show it
    from plainloop.figures import image_grid

    train = session.data.train
    images = [train[index][0] for index in range(min(64, len(train)))]  # type: ignore[arg-type]
    image_grid(torch.stack(images), run.figures / "inputs.png")
    for logger in loggers.values():
        logger.figure("inputs", run.figures / "inputs.png", 0)


def _confusion(cfg: DictConfig) -> list[ConfusionMatrix]:
    """A confusion matrix to be counted along with the last pass, where there are classes and somebody to look."""
    return [ConfusionMatrix(cfg.spec.num_classes)] if cfg.spec.num_classes and not cfg.choices.get("debug") else []


def _draw_confusion(run: RunDir, session: Session, split: str, confusion: ConfusionMatrix, step: int,
                    loggers: Mapping[str, Logger]) -> None:  # fmt: skip
    from plainloop.figures import confusion_matrix

    path = run.figures / f"confusion_matrix_{split}.png"
    confusion_matrix(confusion.compute().cpu(), list(session.config.spec.class_names), path)
    for logger in loggers.values():
        logger.figure(f"confusion_matrix/{split}", path, step)


# --- resume and extend ----------------------------------------------------------------------------------------


def _resumed_config(old: RunDir, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    saved = old.saved_config()
    why = f"this can't change when a run is continued; extend={old} starts a new run from it"
    cfg = compose.changed(saved, composed, typed, RESUMABLE, why)
    for name in ("max_epochs", "max_steps"):
        if cfg.trainer[name] != saved.trainer[name] and _depends_on_length(saved):
            raise UserError(
                f"trainer.{name}={cfg.trainer[name]}: the schedule of this run was built for "
                f"trainer.{name}={saved.trainer[name]}.\n"
                f"Train longer as a new run: python train.py extend={old} trainer.{name}={cfg.trainer[name]}"
            )
    cfg.resume, cfg.extend = str(old), None
    validate(cfg)
    return cfg


def _depends_on_length(cfg: DictConfig) -> bool:
    """Whether the schedule refers to the length of the run."""
    return bool(re.search(r"spec\.(total_steps|schedule_length)|trainer\.max_", OmegaConf.to_yaml(cfg.scheduler or {})))


def _extended_config(old: RunDir, composed: DictConfig, typed: Sequence[str]) -> DictConfig:
    why = "this can't change when a run is extended, its weights and optimizer state wouldn't fit"
    cfg = compose.changed(old.saved_config(), composed, typed, EXTENDABLE, why)
    cfg.extend, cfg.resume = str(old), None
    validate(cfg)
    return cfg


def _same_data(before: DictConfig, now: DictConfig, old: RunDir) -> None:
    """The data must still be what the run was trained on. Raises UserError with both values."""
    for fact in ("num_train", "num_val", "num_test", "input_shape", "class_names"):
        was, found = before.spec[fact], now.spec[fact]
        if was != found:
            raise UserError(f"the data has changed since {old}: {fact} was {was} and is {found}.")


def _load(trainer: Trainer, state: dict[str, Any], old: RunDir | None) -> None:
    try:
        trainer.load_state_dict(state)
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"the checkpoint in {old} doesn't fit this code any more: {first_line(error)}") from error


def _load_weights(session: Session, state: dict[str, Any]) -> None:
    session.model.load_state_dict(state["model"])
    session.preprocess.load_state_dict(state["preprocess"])
    session.task.load_state_dict(state["task"])


def _start_from(trainer: Trainer, state: dict[str, Any], old: RunDir | None) -> None:
    """Weights and the optimizer's moments, with the new run's own hyper-parameters, position and schedule."""
    fresh = trainer.optimizer.state_dict()["param_groups"]
    groups = [
        {**new, "params": was["params"]} for new, was in zip(fresh, state["optimizer"]["param_groups"], strict=True)
    ]
    try:
        trainer.model.load_state_dict(state["model"])
        trainer.preprocess.load_state_dict(state["preprocess"])
        trainer.task.load_state_dict(state["task"])
        trainer.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the checkpoint in {old} doesn't fit this code any more: {first_line(error)}") from error


def _finished_run(old: RunDir | None, session: Session) -> Run:
    assert old is not None
    best = old.checkpoints / "best.pt"
    if best.exists():
        _load_weights(session, checkpoint_room.load(best))
    return Run(old.path, session, old.read_metrics())


# --- evaluate and load_run ------------------------------------------------------------------------------------


def load_run(path: str | Path = "latest", checkpoint: str = "best", overrides: Sequence[str] = (),
             outputs: str = "outputs", trust: Sequence[str] = ()) -> Run:  # fmt: skip
    """Rebuild a run from its directory alone: model, preprocess, data, config.

    Args:
        path: a run directory, or "latest".
        checkpoint: "best", "last", or the path of a checkpoint file.
        overrides: what may differ, as ["trainer.device=cpu", "paths.data=FOLDER"].
        trust: functions that the run's config may name.
    """
    composed = compose.compose(list(overrides), "evaluate")
    return _load_run(rundir.find(str(path), outputs), checkpoint, composed, overrides, trust)[0]


def _load_run(run: RunDir, checkpoint: str, composed: DictConfig, typed: Sequence[str],
              trust: Sequence[str]) -> tuple[Run, str]:  # fmt: skip
    """The run and the name of the checkpoint that was taken."""
    why = "this can't change when a run is evaluated"
    # A stranger's run can't authorise itself: what it may build is what the command line trusts.
    saved = run.saved_config()
    saved.trust = list(trust)
    typed = [word for word in typed if word.partition("=")[0] not in ("run", "split", "checkpoint", "trust")]
    cfg = compose.changed(saved, composed, typed, EVALUABLE, why)
    validate(cfg)
    name, state = _chosen_checkpoint(run, checkpoint)
    with _explained(None):
        session = assemble(cfg)
    _same_data(saved, session.config, run)
    try:
        _load_weights(session, state)
    except RuntimeError as error:
        raise UserError(f"{name} doesn't fit the model of {run}: {first_line(error)}") from error
    session.model.eval()
    return Run(run.path, session, run.read_metrics()), name


def _chosen_checkpoint(run: RunDir, which: str) -> tuple[str, dict[str, Any]]:
    checkpoints = Checkpoints(run.checkpoints)
    best = run.checkpoints / "best.pt"
    if which == "best" and best.exists():
        return "best", checkpoint_room.load(best)
    if which in ("best", "last"):  # without validation nothing was selected: the last one is what there is
        if not checkpoints.all():
            raise UserError(f"run={run}: it has no checkpoint.")
        return "last", checkpoints.last()[1]
    if not Path(which).is_file():
        raise UserError(f"checkpoint={which}: must be best, last, or the path of a file.")
    return Path(which).stem, checkpoint_room.load(Path(which))


def evaluate(run: str | Path | DictConfig = "latest", split: str = "test", checkpoint: str = "best",
             typed: Sequence[str] = ()) -> dict[str, float]:  # fmt: skip
    """Measure a run on a split, rebuilt from its directory alone, and write the result beside its own.

    Args:
        run: a run directory or "latest"; or the composed config of `evaluate.py`, with what was `typed`.

    Returns:
        {"test/loss": ..., "test/accuracy": ...}, also in evaluate-<split>-<checkpoint>.json.
    """
    if isinstance(run, DictConfig):
        composed = run
    else:
        composed = compose.compose([f"run={run}", f"split={split}", f"checkpoint={checkpoint}", *typed], "evaluate")
    validate(composed, EvaluateConfig)
    found = rundir.find(composed.run, composed.paths.outputs)
    loaded, name = _load_run(found, composed.checkpoint, composed, typed, list(composed.trust))
    values = {f"{composed.split}/{n}": v for n, v in loaded.session.measure(composed.split).items()}
    plain_values = {n: _number(v) for n, v in values.items()}
    file = found.path / f"evaluate-{composed.split}-{name}.json"
    file.write_text(json.dumps(plain_values, indent=2) + "\n")
    asked = "" if name == composed.checkpoint or composed.checkpoint not in ("best", "last") else " (there is no best)"
    print(f"run     {found}\nmodel   {name} weights{asked}")
    print(tables.of_metrics({composed.split: values}))
    print(_compared(values, loaded.metrics, composed.split, name))
    print(f"written {file}")
    return values


def _compared(values: Mapping[str, float], known: Mapping[str, float], split: str, name: str) -> str:
    """One line: whether the run's own numbers came out again."""
    own = {key: known.get(key if name == "best" or split == "test" else f"last/{key}") for key in values}
    if (
        split == "train"
        or any(value is None for value in own.values())
        or (name == "last" and "best/step" in known and split == "test")
    ):
        return "check   the run itself has no such numbers to compare with"
    worst = max(abs(values[key] - float(own[key] or 0.0)) for key in values)
    return (
        "check   equal to the run's own numbers"
        if worst == 0
        else f"check   differs from the run's own by up to {worst:.3g}"
    )


# --- what is said ---------------------------------------------------------------------------------------------


def _say_what_was_found(session: Session, console: Console) -> None:
    cfg = session.config
    spec = cfg.spec
    sizes = ", ".join(f"{spec[f'num_{split}']:,} {split}" for split in SPLITS if spec[f"num_{split}"])
    inputs = session.data.train[0][0]
    shape = " x ".join(map(str, inputs.shape)) or "1" if isinstance(inputs, Tensor) else "a dict"
    kind = f" {str(inputs.dtype).removeprefix('torch.')}" if isinstance(inputs, Tensor) else ""
    names = list(spec.class_names or [])
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    values = ", ".join(spec.target_names or [f"{spec.num_outputs} value" + "s" * (spec.num_outputs != 1)])
    target = f"{len(names)} classes ({shown})" if names else f"target: {values}"
    note = getattr(session.data.train, "note", "")
    console.say(
        f"data    {cfg.choices.get('data')}: {sizes}; inputs {shape}{kind}; {target}{f'; {note}' if note else ''}"
    )
    count = sum(p.numel() for p in session.model.parameters())
    trainable = sum(p.numel() for p in session.model.parameters() if p.requires_grad)
    frozen = f", {trainable:,} of them trainable" if trainable != count else ""
    console.say(f"model   {cfg.choices.get('model')} ({type(session.model).__name__}): {count:,} parameters{frozen}")
    threads = f" ({torch.get_num_threads()} threads)" if session.device.type == "cpu" else ""
    workers = f", {session.workers} loading processes" if session.workers else ""
    device = torch.cuda.get_device_name(session.device) if session.device.type == "cuda" else str(session.device)
    console.say(
        f"train   {type_name(cfg.optimizer)}, {type_name(cfg.loss)}, {spec.total_steps:,} steps "
        f"({spec.steps_per_epoch:,} per epoch) on {device}{threads}, {cfg.trainer.precision}{workers}"
    )


def type_name(node: Any) -> str:
    return str(node._target_).rpartition(".")[2]


def _say_result(run: RunDir, session: Session, trainer: Trainer, metrics: dict[str, float], console: Console,
                hints: bool) -> None:  # fmt: skip
    rows = {}
    for split, label in (("val", "val"), ("test", "test")):
        values = {name: value for name, value in metrics.items() if name.startswith(f"{split}/")}
        if values:
            rows[label] = values
    console.say(f"done    {trainer.reason}, {metrics['seconds']:.1f} s")
    if rows:
        console.say(tables.of_metrics(rows))
    if "best/epoch" in metrics:
        console.say(
            f"best    {session.config.monitor} {trainer.best:.4f} in epoch {metrics['best/epoch']} (step {metrics['best/step']})"
        )
    elif session.data.val is None:
        console.say(f"best    no validation split: the last weights stand (train loss {metrics['train/loss']:.6g})")
    console.say(f"run     {run}")
    if not hints:
        return
    longer = "extend" if _depends_on_length(session.config) else "resume"
    epochs = session.config.trainer.max_epochs * (1 if longer == "extend" else 2)
    console.say(f"next    python evaluate.py run={run}")
    console.say(f"        python train.py {longer}={run} trainer.max_epochs={epochs}")
    console.say(f"        tensorboard --logdir {session.config.paths.outputs}")


# --- what may go wrong ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(run: RunDir | None) -> Iterator[None]:
    """Failures of the machine in two lines: what happened, and how to go on."""

    def resumable() -> str:
        if run is None or not Checkpoints(run.checkpoints).all():
            return ""
        return f"\nContinue from the last checkpoint with: python train.py resume={run}"

    try:
        yield
    except Interrupted as error:
        raise Interrupted(f"{error}{resumable()}", error.status - 128) from error
    except torch.OutOfMemoryError as error:
        raise MachineError(
            f"out of memory on {error and 'the device'}: lower loader.batch_size and raise trainer.accumulate_steps as much."
            f"{resumable()}"
        ) from error
    except MachineError as error:
        raise MachineError(f"{error}{resumable()}") from error
    except OSError as error:
        if error.errno is None:
            raise
        raise MachineError(f"{error}{resumable()}") from error


@contextlib.contextmanager
def _signals(trainer: Trainer) -> Iterator[None]:
    """SIGINT and SIGTERM finish the step, save and leave; a second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if trainer.signal is not None:
            raise Interrupted("ended at once by a second signal.", number)
        trainer.signal = number
        print("\nfinishing the step, then saving; once more ends at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _profiled(run: RunDir, trainer: Trainer, cfg: DictConfig, console: Console) -> Iterator[None]:
    """trainer.profile: torch's profiler around the training, its trace and table in profile/."""
    if not cfg.trainer.profile:
        yield
        return
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if trainer.device.type == "cuda" else [])
    with profile(activities=activities, record_shapes=True) as profiler:
        yield
    run.profile.mkdir(exist_ok=True)
    profiler.export_chrome_trace(str(run.profile / "trace.json"))
    by = "self_cuda_time_total" if trainer.device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=40)
    (run.profile / "operations.txt").write_text(table)
    console.say("\n".join(table.splitlines()[:14]))
    console.say(
        f"profile {run.profile}/operations.txt; open {run.profile}/trace.json in chrome://tracing or ui.perfetto.dev"
    )
