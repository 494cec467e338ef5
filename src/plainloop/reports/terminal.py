"""What a run tells: the lines before and after the training, and its pictures."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plainloop import seeding
from plainloop.assembly.session import Session
from plainloop.assembly.summary import ROWS, memory, metric, parameter_counts, table
from plainloop.config.rules import depends_on_length
from plainloop.data.dataset import SPLITS, asked
from plainloop.data.overlap import shared_samples
from plainloop.errors import listed
from plainloop.loggers import Console
from plainloop.models.freezing import frozen_parts
from plainloop.places import typed
from plainloop.reports import tables
from plainloop.runs.directory import RunDir
from plainloop.training.trainer import Trainer


def say_what_was_found(session: Session, console: Console, is_trial: bool = False) -> None:
    cfg = session.config
    spec = session.spec
    counts = {split: spec.samples(split) for split in SPLITS if session.data[split] is not None}
    sizes = ", ".join(f"{'stream for' if n is None else f'{n:,}'} {split}" for split, n in counts.items())
    inputs = session.sample[0]
    shape = " x ".join(map(str, inputs.shape)) or "1" if isinstance(inputs, Tensor) else ", ".join(inputs)
    kind = f" {str(inputs.dtype).removeprefix('torch.')}" if isinstance(inputs, Tensor) else ""
    names = list(spec.class_names or [])
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    outputs = f"{spec.num_outputs} value" + "s" * (spec.num_outputs != 1) if spec.num_outputs else "the inputs"
    values = ", ".join(spec.target_names or [outputs])
    target = f"{len(names)} classes ({shown})" if names else f"target: {values}"
    remark = asked(session.data.train, "note") or ""
    remark = (
        "\n".join(["", *remark.splitlines()]).replace("\n", "\n        ")
        if "\n" in remark
        else remark and f"; {remark}"
    )
    console.say(f"data    {cfg.choices.get('data')}: {sizes}; inputs {shape}{kind}; {target}{remark}")
    for split, pairs in shared_samples(session.data).items():
        index, other = pairs[0]
        console.say(
            f"warning: {len(pairs):,} of {spec.samples(split):,} samples of {split} are also in train, and "
            f"don't measure what is new (its sample {index} is sample {other} of train)"
        )
    for remark in (*session.notes, getattr(session.preprocess, "note", ""), getattr(session.model, "note", "")):
        if remark:
            console.say(f"note    {remark}")
    if cfg.loader.batch_sampler == "length":
        sampler = session.training_loader().source.batch_sampler  # type: ignore[union-attr]
        with seeding.preserved():
            padded, otherwise = sampler.padding()
        console.say(f"note    batches of similar length: {padded:,} padded places in an epoch instead of {otherwise:,}")
    count, free = parameter_counts(session.model)
    trained = f", {free:,} of them trained ({free / count:.1%})" if free < count else ""
    flops = session.summary.flops.get("")
    work = f", {metric(flops)}FLOPs a sample" if flops else ""
    console.say(
        f"model   {cfg.choices.get('model')} ({type(session.model).__name__}): {count:,} parameters{trained}{work}"
    )
    if free < count:
        console.say(f"        frozen: {listed(frozen_parts(session.model), 8) or 'some of its parameters'}")
    for line in [] if is_trial else table(session.model, session.summary, most=ROWS):
        console.say(f"        {line}")
    number = torch.get_num_threads()
    threads = f" ({number} thread{'s' * (number != 1)})" if session.device.type == "cpu" else ""
    workers = f", {cfg.loader.num_workers or 'no'} loading process{'es' * (cfg.loader.num_workers != 1)}"
    device = torch.cuda.get_device_name(session.device) if session.device.type == "cuda" else str(session.device)
    steps = f"{spec.total_steps:,} steps" if spec.total_steps else f"{cfg.trainer.max_epochs} epochs"
    steps += f" ({spec.steps_per_epoch:,} per epoch)" if spec.steps_per_epoch else ""
    where = f"{device}{threads}, {cfg.trainer.precision}{workers}"
    console.say(f"train   {type_name(cfg.optimizer)}, {type_name(cfg.loss)}, {steps} on {where}")


def say_memory(session: Session, trainer: Trainer, console: Console) -> None:
    """What a training step holds beside the batch and its activations."""
    parts = {name: size for name, size in memory(session.model, trainer.optimizer).items() if size}
    console.say(f"memory  {', '.join(f'{metric(size)}B of {name}' for name, size in parts.items())}")


def type_name(node: Any) -> str:
    """A target's name; of several, theirs."""
    parts = [part for part in node.values() if hasattr(part, "_target_")] if hasattr(node, "values") else []
    name = str(node._target_).rpartition(".")[2]
    return " + ".join(type_name(part) for part in parts) if parts and name == "Several" else name


def say_result(
    run: RunDir, session: Session, trainer: Trainer, metrics: dict[str, float], console: Console, hints: bool
) -> None:
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
            f"best    {session.config.monitor} {trainer.best.value:.4f} in epoch {metrics['best/epoch']} "
            f"(step {metrics['best/step']})"
        )
    elif session.data.val is None:
        console.say(f"best    no validation split: the last weights stand (train loss {metrics['train/loss']:.6g})")
    console.say(f"run     {run}")
    if not hints:
        return
    longer = "extend" if depends_on_length(session.config) or trainer.stopped else "resume"
    epochs = session.config.trainer.max_epochs * (1 if longer == "extend" else 2)
    split = next(name for name in ("test", "val", "train") if session.data[name] is not None)
    words = [f"run={run}"] if split == "test" else [f"run={run}", f"split={split}"]
    console.say(f"next    {typed('evaluate.py', *words)}")
    console.say(f"        {typed('train.py', f'{longer}={run}', f'trainer.max_epochs={epochs}')}")
    console.say(f"        {shlex.join(['tensorboard', '--logdir', session.config.paths.outputs])}")


def say_evaluation(
    path: Path, values: Mapping[str, float], own: Mapping[str, float], split: str, asked: str, taken: str, file: Path
) -> None:
    """The result of an evaluation, and whether the run's own numbers came out again."""
    none = " (without validation there is no best)" if asked == "best" and taken == "last" else ""
    print(f"run     {path}\nmodel   {taken} weights{none}")
    print(tables.of_metrics({split: values}))
    # metrics.json holds val/... of the best weights, last/val/... of the last, test/... of the best, if there are any
    prefix = "last/" if split == "val" and taken == "last" else ""
    comparable = taken == ("best" if "best/step" in own else "last") or prefix
    known = {name: own[prefix + name] for name in values if prefix + name in own}
    if comparable and split != "train" and len(known) == len(values):
        worst = max(_apart(value, known[name]) for name, value in values.items())
        same = "equal to the run's own numbers" if worst == 0 else f"differs from the run's own by up to {worst:.3g}"
        print(f"check   {same}")
    print(f"written {file}")


def _apart(value: float, known: float | None) -> float:
    """How far a number is from that in metrics.json, where null stands for NaN and infinity."""
    if known is None or not math.isfinite(value):
        return 0.0 if known is None and not math.isfinite(value) else math.inf
    return abs(value - known)
