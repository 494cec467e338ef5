"""The optimizer, the schedule and the trainer over what has been assembled."""

import math
from typing import Any

from plainloop.assembly.session import Session
from plainloop.assembly.spec import facts_filled
from plainloop.build import build, locate
from plainloop.config.schema import plain
from plainloop.errors import (
    UserError,
    listed,
)
from plainloop.training.callbacks import Callback
from plainloop.training.lbfgs import ClosureTrainer, check_closure_settings
from plainloop.training.optimizer import make_optimizer, needs_closure
from plainloop.training.schedule import make_schedule
from plainloop.training.trainer import Trainer


def make_trainer(session: Session, **hooks: Any) -> Trainer:
    """The optimizer, the schedule and the trainer over a session; `hooks` are log, progress, save and due."""
    cfg, trust = session.config, list(session.config.trust)
    mode = cfg.monitor_mode = monitor_mode(session)
    optimizer = make_optimizer(
        facts_filled(cfg, "optimizer"), session.model, session.device, plain(cfg.param_groups), trust, session.task
    )
    asks_for_loss = needs_closure(optimizer)  # before a scheduler wraps its step
    schedule = make_schedule(
        facts_filled(cfg, "scheduler") if cfg.scheduler else None,
        optimizer,
        cfg.schedule.interval,
        cfg.schedule.warmup_steps,
        mode,
        trust,
        cfg.spec.schedule_length,
    )
    section = plain(cfg.trainer)
    averaged_after = (section["swa_start"] or 0) * (cfg.spec.steps_per_epoch or 0)
    if averaged_after > (cfg.spec.total_steps or math.inf) and not cfg.choices.get("debug"):
        raise UserError(
            f"trainer.swa_start={section['swa_start']}: the run ends before the end of that epoch, with "
            f"trainer.max_steps={section['max_steps']}."
        )
    elsewhere = (
        "_target_",
        "device",
        "num_threads",
        "deterministic",
        "detect_anomaly",
        "limit_batches",
        "profile",
    )
    trainer_class = locate(section["_target_"], "trainer", Trainer, trust)
    if asks_for_loss and trainer_class is Trainer:
        trainer_class = ClosureTrainer
        settings = ("precision", "accumulate_steps", "max_grad_norm", "nonfinite")
        check_closure_settings(optimizer, **{name: section[name] for name in settings})
    nodes = plain(cfg.callbacks or {})
    callbacks = {name: build(node, f"callbacks.{name}", Callback, trust) for name, node in nodes.items()}
    return trainer_class(
        session.model,
        session.task,
        optimizer,
        schedule,
        session.preprocess,
        session.training_loader(),
        session.loader("val"),
        augment=session.augment,
        device=session.device,
        seed=cfg.seed,
        monitor=cfg.monitor,
        mode=mode,
        patience=cfg.early_stopping.patience,
        min_delta=cfg.early_stopping.min_delta,
        callbacks=callbacks,
        **{name: value for name, value in section.items() if name not in elsewhere},
        **hooks,
    )


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
