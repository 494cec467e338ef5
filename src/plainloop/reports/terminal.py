"""What a run tells: the lines before and after the training."""

import math
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from textwrap import indent
from typing import Any

import torch
from torch import Tensor

from plainloop import seeding
from plainloop.assembly.session import Session
from plainloop.assembly.summary import ROWS, layers, memory, metric, parameter_counts
from plainloop.config.keys import override, plain
from plainloop.config.rules import depends_on_length
from plainloop.data.dataset import SPLITS, asked
from plainloop.data.overlap import shared_samples
from plainloop.errors import listed, tell
from plainloop.loggers import Console
from plainloop.models.freezing import frozen_parts
from plainloop.places import typed
from plainloop.reports import tables
from plainloop.reports.classes import missing_classes, uneven_classes
from plainloop.runs.directory import RunDir
from plainloop.training.trainer import Trainer
from plainloop.trust import names_to_trust


def say_what_was_found(session: Session, console: Console, is_trial: bool = False) -> None:
    """What the data are, what was decided for the user, what the model is made of, and how it is trained."""
    console.say(f"data    {_data(session)}")
    for line in _shared_samples(session):
        console.say(f"warning: {line}")
    for line in missing_classes(session):
        console.say(f"warning: {line}")
    for line in (*_notes(session), *uneven_classes(session)):
        console.say(f"note    {line}")
    console.say(f"model   {_model(session)}")
    if not all(parameter.requires_grad for parameter in session.model.parameters()):
        console.say(f"        frozen: {listed(frozen_parts(session.model), 8) or 'some of its parameters'}")
    if not is_trial and (rows := layers(session.model, session.summary, most=ROWS)):
        console.say(_indented(tables.table(rows, left=5)))
    console.say(f"train   {_training(session)}")


def _data(session: Session) -> str:
    """How many samples, of what shape, for which target; and what the data set says of itself."""
    spec = session.spec
    counts = {split: spec.samples(split) for split in SPLITS if session.data[split] is not None}
    sizes = ", ".join(f"{'stream for' if n is None else f'{n:,}'} {split}" for split, n in counts.items())
    remark = asked(session.data.train, "note") or ""
    if "\n" in remark:
        remark = f"\n{_indented(remark)}"
    elif remark:
        remark = f"; {remark}"
    return f"{session.config.choices.get('data')}: {sizes}; inputs {_inputs(session)}; {_target(spec)}{remark}"


def _inputs(session: Session) -> str:
    """'1 x 8 x 8 uint8'; of several inputs, their names."""
    inputs = session.sample[0]
    if not isinstance(inputs, Tensor):
        return ", ".join(inputs)
    return f"{' x '.join(map(str, inputs.shape)) or '1'} {str(inputs.dtype).removeprefix('torch.')}"


def _target(spec: Any) -> str:
    """'2 classes (cat, dog)', 'target: price', 'target: 3 values'."""
    names = list(spec.class_names or [])
    if names:
        return f"{len(names)} classes ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"
    count = f"{spec.num_outputs} value" + "s" * (spec.num_outputs != 1) if spec.num_outputs else "the inputs"
    return f"target: {', '.join(spec.target_names or [count])}"


def _shared_samples(session: Session) -> Iterator[str]:
    for split, pairs in shared_samples(session.data).items():
        index, other = pairs[0]
        yield (
            f"{len(pairs):,} of {session.spec.samples(split):,} samples of {split} are also in train, and "
            f"don't measure what is new (its sample {index} is sample {other} of train)"
        )


def _notes(session: Session) -> Iterator[str]:
    """What was decided for the user."""
    remarks = (*session.notes, getattr(session.preprocess, "note", ""), getattr(session.model, "note", ""))
    yield from filter(None, remarks)
    if session.config.loader.batch_sampler == "length":
        loader = session.training_loader()
        with seeding.preserved():
            padded, otherwise = loader.source.batch_sampler.padding()  # type: ignore[union-attr]
        yield f"batches of similar length: {padded:,} padded places in an epoch instead of {otherwise:,}"


def _model(session: Session) -> str:
    count, free = parameter_counts(session.model)
    trained = f", {free:,} of them trained ({free / count:.1%})" if free < count else ""
    flops = session.summary.flops.get("")
    work = f", {metric(flops)}FLOPs a sample" if flops else ""
    name = f"{session.config.choices.get('model')} ({type(session.model).__name__})"
    return f"{name}: {count:,} parameters{trained}{work}"


def _training(session: Session) -> str:
    """The optimizer, the loss, the length, and the machine that it runs on."""
    cfg, spec = session.config, session.spec
    steps = f"{spec.total_steps:,} steps" if spec.total_steps else f"{cfg.trainer.max_epochs} epochs"
    steps += f" ({spec.steps_per_epoch:,} per epoch)" if spec.steps_per_epoch else ""
    where = f"{_device(session.device)}, {cfg.trainer.precision}"
    workers = f"{cfg.loader.num_workers or 'no'} loading process{'es' * (cfg.loader.num_workers != 1)}"
    return f"{type_name(cfg.optimizer)}, {type_name(cfg.loss)}, {steps} on {where}, {workers}"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    number = torch.get_num_threads()
    return f"{device} ({number} thread{'s' * (number != 1)})" if device.type == "cpu" else str(device)


def type_name(node: Any) -> str:
    """A target's name; of several, theirs."""
    parts = [part for part in node.values() if hasattr(part, "_target_")] if hasattr(node, "values") else []
    name = str(node._target_).rpartition(".")[2]
    return " + ".join(type_name(part) for part in parts) if parts and name == "Several" else name


def say_memory(session: Session, trainer: Trainer, console: Console) -> None:
    """What a training step holds beside the batch and its activations."""
    parts = {name: size for name, size in memory(session.model, trainer.optimizer).items() if size}
    console.say(f"memory  {', '.join(f'{metric(size)}B of {name}' for name, size in parts.items())}")


def say_result(
    run: RunDir,
    session: Session,
    trainer: Trainer,
    metrics: dict[str, float],
    console: Console,
    hints: bool,
    trust: Sequence[str],
) -> None:
    """The result of a run, and what to type next."""
    console.say(f"done    {trainer.reason}, {metrics['seconds']:.1f} s")
    rows = {
        split: {name: value for name, value in metrics.items() if name.startswith(f"{split}/")}
        for split in ("val", "test")
    }
    if any(rows.values()):
        console.say(_indented(tables.metrics_table({split: values for split, values in rows.items() if values})))
    if "best/epoch" in metrics:
        console.say(
            f"best    {session.config.monitor} {trainer.best.value:.4f} in epoch {metrics['best/epoch']} "
            f"(step {metrics['best/step']})"
        )
    elif session.data.val is None:
        console.say(f"best    no validation split: the last weights stand (train loss {metrics['train/loss']:.6g})")
    console.say(f"run     {run}")
    if hints:
        console.say(f"next    {_indented(_next_commands(run, session, trainer, trust)).lstrip()}")


def _next_commands(run: RunDir, session: Session, trainer: Trainer, trust: Sequence[str]) -> str:
    """To measure it again, to train longer, to watch it."""
    split = next(name for name in ("test", "val", "train") if session.data[name] is not None)
    words = [run.word("run")] if split == "test" else [run.word("run"), f"split={split}"]
    longer = "extend" if depends_on_length(session.config) or trainer.stopped else "resume"
    epochs = session.config.trainer.max_epochs * (1 if longer == "extend" else 2)
    return "\n".join(
        (
            typed("evaluate.py", *words, *trust_words(session)),
            typed("train.py", run.word(longer), f"trainer.max_epochs={epochs}", *trust),
            shlex.join(["tensorboard", "--logdir", session.config.paths.outputs]),
        )
    )


def trust_words(session: Session, *more: str) -> list[str]:
    """The word `trust=[...]` that a command needs which starts from this session's run; none, where it names nothing
    but what was installed and what lies in src/.

    Args:
        more: what beside, to go on with the training.
    """
    names = list(dict.fromkeys([*names_to_trust(plain(session.composed)), *more]))
    return [override("trust", names)] if names else []


def say_comparison(values: Mapping[str, float], own: Mapping[str, float], split: str, taken: str) -> None:
    """Whether the run's own numbers came out again."""
    # metrics.json holds val/... of the best weights, last/val/... of the last, test/... of the best, if there are any
    prefix = "last/" if split == "val" and taken == "last" else ""
    comparable = taken == ("best" if "best/step" in own else "last") or prefix
    known = {name: own[prefix + name] for name in values if prefix + name in own}
    if comparable and split != "train" and len(known) == len(values):
        worst = max(_apart(value, known[name]) for name, value in values.items())
        same = "equal to the run's own numbers" if worst == 0 else f"differs from the run's own by up to {worst:.3g}"
        tell(f"check   {same}", sys.stdout)


def _apart(value: float, known: float | None) -> float:
    """How far a number is from that in metrics.json, where null stands for NaN and infinity."""
    if known is None or not math.isfinite(value):
        return 0.0 if known is None and not math.isfinite(value) else math.inf
    return abs(value - known)


def _indented(lines: str) -> str:
    """Below a word at the left margin, as `data` or `done`."""
    return indent(lines, 8 * " ")
