"""The optimizer, the schedule and the trainer over what has been assembled."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from plainloop.assembly.session import Session
from plainloop.build import build, locate
from plainloop.config.keys import plain
from plainloop.errors import UserError, listed
from plainloop.seeding import StepSeed
from plainloop.training.averaging import EMA, SWA, NoAverage
from plainloop.training.callbacks import Callback, Hooks
from plainloop.training.lbfgs import ClosureTrainer, check_closure_settings
from plainloop.training.length import Length
from plainloop.training.optimizer import make_optimizer, needs_closure
from plainloop.training.randomness import may_draw, no_seed, somebody_elses
from plainloop.training.schedule import Schedule, make_schedule
from plainloop.training.selection import Selection
from plainloop.training.trainer import Trainer
from plainloop.training.update import make_update


def make_trainer(session: Session, **hooks: Any) -> Trainer:
    """The optimizer, the schedule and the trainer over a session; `hooks` are log, progress, save and due."""
    cfg, trust = session.config, session.config.trust
    mode = cfg.monitor_mode = monitor_mode(session)
    optimizer = make_optimizer(
        session.filled("optimizer"), session.model, session.device, plain(cfg.param_groups), trust, session.task
    )
    asks_for_loss = needs_closure(optimizer)  # before a scheduler wraps its step
    schedule = make_schedule(
        session.filled("scheduler") if cfg.scheduler else None,
        optimizer,
        cfg.schedule.interval,
        cfg.schedule.warmup_steps,
        mode,
        trust,
        cfg.spec.schedule_length,
    )
    section = cfg.trainer
    model, task, prepare = session.model, session.task, session.prepare
    trainer_class = locate(section._target_, "trainer", Trainer, trust)
    if asks_for_loss and trainer_class is Trainer:
        trainer_class = ClosureTrainer
    if asks_for_loss and trainer_class.train_step is Trainer.train_step:
        raise UserError(
            f"trainer._target_={section._target_}: its train_step can't give {type(optimizer).__name__} the closure "
            "that it needs. Derive it from plainloop.training.lbfgs.ClosureTrainer, or choose another optimizer."
        )
    if issubclass(trainer_class, ClosureTrainer):
        evaluates = type(optimizer).__name__ if asks_for_loss else trainer_class.__name__
        check_closure_settings(
            evaluates, section.precision, section.accumulate_steps, section.max_grad_norm, section.nonfinite
        )
    nodes = plain(cfg.callbacks or {})
    callbacks = {name: build(node, f"callbacks.{name}", Callback, trust) for name, node in nodes.items()}
    trainer = trainer_class(
        model,
        task,
        make_update(
            optimizer,
            (model, prepare.preprocess, task),
            session.device,
            section.precision,
            section.max_grad_norm,
            section.nonfinite,
        ),
        schedule,
        prepare,
        session.training_loader(),
        session.loader("val"),
        accumulate_steps=section.accumulate_steps,
        length=Length(section.max_epochs, section.max_steps, section.validate_every, section.stop_below),
        selection=Selection(
            cfg.monitor, mode, cfg.early_stopping.patience, cfg.early_stopping.min_delta, cfg.checkpoint.keep_best
        ),
        average=_average(session),
        seed_step=_seed_step(session, trainer_class, optimizer, schedule, callbacks),
        callbacks=callbacks,
        hooks=Hooks(log_every=section.log_every, **hooks),
    )
    if section.compile:
        trainer.network = torch.compile(model)
    return trainer


def _seed_step(
    session: Session,
    trainer_class: type[Trainer],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    callbacks: Mapping[str, Callback],
) -> Callable[[int], None]:
    """What seeds each step, where anything in it may draw."""
    prepare, task, section = session.prepare, session.task, session.config.trainer
    own_step = trainer_class.train_step is not Trainer.train_step
    parts = [session.model, prepare.preprocess, task, *task.metrics.values(), optimizer, *callbacks.values()]
    parts += getattr(optimizer, "parts", {}).values()
    parts += [] if schedule.scheduler is None else [schedule.scheduler]
    if own_step or section.compile or prepare.augment is not None or may_draw(parts):
        # What the user has written may well draw with NumPy: mixup, say.
        return StepSeed(session.config.seed, session.device, everything=own_step or somebody_elses(parts))
    return no_seed


def _average(session: Session) -> NoAverage:
    """The average of the weights that section `trainer` asks for. Raises UserError for one that never begins."""
    cfg, section = session.config, session.config.trainer
    if section.ema_decay is not None:
        return EMA(session.model, section.ema_decay)
    if section.swa_start is None:
        return NoAverage()
    begins_after = section.swa_start * (cfg.spec.steps_per_epoch or 0)
    if begins_after > (cfg.spec.total_steps or math.inf) and not cfg.choices.get("debug"):
        raise UserError(
            f"trainer.swa_start={section.swa_start}: the run ends before the end of that epoch, with "
            f"trainer.max_steps={section.max_steps}."
        )
    return SWA(session.model, section.swa_start)


def monitor_mode(session: Session) -> str:
    """ "max" or "min": as configured, else as the metric says of itself."""
    cfg = session.config
    name = cfg.monitor.removeprefix("val/")
    if name == "loss":
        return "min" if cfg.monitor_mode == "auto" else cfg.monitor_mode
    name, _, part = name.partition("/")
    parts = getattr(session.task.metrics[name], "names", None) or ([""] if not part else [])
    if part not in parts:  # of several targets there is one each
        options = [f"val/{name}{f'/{each}' * bool(each)}" for each in parts or [""]]
        raise UserError(
            f"monitor={cfg.monitor}: data.target={listed(session.config.spec.target_columns)} gives "
            f"{listed(options)}. Write monitor={options[0]}"
        )
    higher = getattr(session.task.metrics[name], "higher_is_better", None)
    if cfg.monitor_mode != "auto":
        return cfg.monitor_mode
    if higher is None:
        raise UserError(f"monitor={cfg.monitor}: is more better, or less? Write monitor_mode=max or monitor_mode=min")
    return "max" if higher else "min"
