"""A composed config becomes data, preprocess, model, task and trainer, in that order.

Facts about the data flow forward by name: when the data is there, the section `spec` is filled in, and all that
comes after it refers to it (`in_features: ${spec.num_features}`).
"""

import copy
import inspect
import math
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from plainloop import compose, inference, losses, seeding
from plainloop.augment import Augment
from plainloop.build import build, check_arguments, locate
from plainloop.closures import ClosureTrainer, check_closure_settings
from plainloop.config import plain
from plainloop.data import Data, Division, Loader, build_data
from plainloop.data.fetching import first_sample
from plainloop.data.loading import Skipped
from plainloop.data.splits import SPLITS, check_begins_anew, digest, own, size
from plainloop.data.workers import default_workers
from plainloop.errors import (
    MachineError,
    UserError,
    first_line,
    label_outside,
    listed,
    origin,
    out_of_memory,
    told,
)
from plainloop.facts import check_task, facts_filled
from plainloop.finetuning import finetune
from plainloop.loaders import drawn, evaluation_loader, first_two, training_loader
from plainloop.models.freezing import train_mode
from plainloop.optim import make_optimizer, needs_closure
from plainloop.pipelines import apply_transforms, augment_for, check_alike, check_shares, preprocess_for, resize_for
from plainloop.schedule import make_schedule
from plainloop.summary import Summary, watched
from plainloop.tasks import Task, with_auxiliary
from plainloop.trainer import Trainer

TORCHS_THREADS = torch.get_num_threads()


@dataclass
class Session:
    """All that a config describes, built."""

    config: DictConfig  # with `spec` filled in, `${...}` not
    data: Data
    preprocess: nn.Module
    model: nn.Module
    task: Task
    device: torch.device
    sample: tuple[Any, ...]  # the first of the training split
    prepare: Callable[[Any], Any]
    autocast: AbstractContextManager
    skipped: Skipped  # samples that can't be read
    augment: Augment | None = None  # of training batches
    summary: Summary = field(default_factory=Summary)  # of the model's layers
    notes: list[str] = field(default_factory=list)  # what was decided for the user, and should be said

    @property
    def workers(self) -> int:
        """Processes that load the training split."""
        return self.config.loader.num_workers

    def loader(self, split: str) -> Loader | None:
        """The batches of a split in their own order, whole: for validation, test and evaluation."""
        dataset = self.data[split]
        if dataset is None:
            return None
        return evaluation_loader(self.config, dataset, self.device, split, self.skipped)

    def measure(
        self, split: str, stopped: Callable[[], None] = lambda: None, also: Sequence[Any] = ()
    ) -> dict[str, float]:
        """Loss and metrics over a split. Raises UserError where the data has no such split."""
        loader = self.loader(split)
        if loader is None:
            raise UserError(f"split={split}: the data has none. It has: {listed(s for s in SPLITS if self.data[s])}.")
        with loader:
            return inference.measure(
                self.model, self.task, loader, self.prepare, self.autocast, self.task.metrics, stopped, also
            )

    def to_device(self) -> None:
        memory_format = torch.channels_last if self.config.trainer.channels_last else torch.preserve_format
        self.model.to(self.device, memory_format=memory_format)  # type: ignore[call-overload]
        self.preprocess.to(self.device)
        self.task.to(self.device)
        for metric in self.task.metrics.values():
            if hasattr(metric, "to"):  # torchmetrics' hold their states on a device
                metric.to(self.device)


def settled(cfg: DictConfig, typed: Sequence[str]) -> tuple[DictConfig, str]:
    """With task=auto the data is asked for its task, and the config is composed once more with it.

    A data set's factory answers by its `task_of(**arguments)`, which gives the task and a word on why.

    Returns:
        the config, and what to say.
    """
    if cfg.choices.get("task") != "auto":
        return cfg, ""
    node, trust = plain(cfg.data), list(cfg.trust)
    target = locate(node["_target_"], "data", trust)
    task_of = getattr(target, "task_of", None)
    if task_of is None:
        raise UserError(f"task=auto: data={cfg.choices.get('data')} doesn't say what its targets are. Choose a task: "
                        "task=multiclass, binary, regression, multilabel, ...")  # fmt: skip
    check_arguments(target, {name: value for name, value in node.items() if name != "_target_"}, "data", {"split": ""})
    task, why = task_of(**{name: value for name, value in node.items() if name not in ("_target_", "task")})
    return compose.compose([*typed, f"task={task}"]), f"task={task}: {why} (task=... chooses another)"


def assemble(cfg: DictConfig, loaded: bool = False) -> Session:
    """Build everything but the trainer. Raises UserError for whatever doesn't fit, before anything is written.

    Args:
        loaded: a run's weights and statistics are loaded afterwards, so that the data needn't be read for them.
    """
    cfg = copy.deepcopy(cfg)
    device = choose_device(cfg.trainer.device, cfg.trainer.precision)
    torch.set_num_threads(cfg.trainer.num_threads or TORCHS_THREADS)
    if cfg.trainer.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(cfg.trainer.deterministic)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not cfg.trainer.deterministic
    trust = list(cfg.trust)
    task_class = locate(cfg.task._target_, "task", trust)
    losses.check(OmegaConf.to_container(cfg.loss), task_class.kind, str(cfg.choices.get("task")), trust)

    data_node = plain(cfg.data)
    seeding.seed_everything(cfg.seed, seeding.SPLIT)
    data = build_data(
        lambda **split: build(data_node, "data", trust, **split), locate(data_node["_target_"], "data", trust),
        Division(**plain(cfg.split)), cfg.seed,
    )  # fmt: skip
    data.ignored, data.skip = losses.ignored_label(cfg.loss), cfg.loader.skip_unreadable
    for split in SPLITS:
        check_begins_anew(data[split], data.skip)
    digests = {split: digest(data[split]) for split in SPLITS if isinstance(size(data[split]), int)}
    plain_train = data.train
    apply_transforms(cfg, data)
    sample = task_class.check_sample(first_sample(data.train, data.skip))
    if cfg.transforms.train or cfg.transforms.eval:
        check_alike(data, sample)
    if cfg.loader.num_workers is None:
        cfg.loader.num_workers = default_workers(data.train)
    if data.val is None and cfg.early_stopping.patience:
        raise UserError(f"early_stopping.patience={cfg.early_stopping.patience}: the data has no validation split.")
    if data.val is None and cfg.schedule.interval == "validation":
        raise UserError(f"scheduler={cfg.choices.get('scheduler')}: it acts on validations, and the data has none.")
    facts = {"digests": digests, **(own(data.train, "facts") or {})}
    _fill_spec(cfg, data, facts | task_class.describe(data), sample, device, loaded)

    few = getattr(plain_train, "looked_at", plain_train)  # of a stream, the samples that stand for all
    skipped = Skipped(cfg.loader.skip_unreadable)
    preprocess = preprocess_for(cfg, data, few, sample[0], skipped, loaded)
    seeding.seed_everything(cfg.seed, seeding.INIT)
    model = _build_model(cfg, trust, loaded)
    notes = finetune(cfg, model, preprocess, loaded)
    names = cfg.spec.class_names or cfg.spec.target_names or [str(n) for n in range(cfg.spec.num_outputs or 0)]
    for place, numbers in losses.balanced(facts_filled(cfg, "loss"), task_class.kind, data, names):
        OmegaConf.update(cfg, place, numbers)  # as facts about the data: the saved config holds the numbers
    loss = losses.make_loss(facts_filled(cfg, "loss"), task_class.kind, cfg.spec.num_outputs, trust)
    metrics = {name: build(node, f"metrics.{name}", trust) for name, node in facts_filled(cfg, "metrics").items()}
    task = build(facts_filled(cfg, "task"), "task", trust, loss=loss, metrics=metrics)
    task.num_outputs = cfg.spec.num_outputs
    task.fit(data)
    if hasattr(model, "auxiliary_weight"):
        task.loss_of = with_auxiliary(task, float(model.auxiliary_weight))  # type: ignore[arg-type]

    augment = augment_for(cfg, task, sample[0])
    notes += _leave_out_a_single_sample(cfg, data, model, device)
    session = Session(
        cfg, data, preprocess, model, task, device, sample,
        inference.preparation(preprocess, device, cfg.trainer.channels_last),
        inference.autocast(device, cfg.trainer.precision), skipped, augment, notes=notes,
    )  # fmt: skip
    session.to_device()
    if cfg.loader.on_device:
        hold_on_device(data, device)
    if cfg.trainer.num_threads is None and device.type == "cpu" and _is_small(model, cfg.loader.batch_size):
        torch.set_num_threads(1)
    check_forward(session, "train")
    if data.val is not None and (cfg.transforms.train or cfg.transforms.eval):  # of another shape, perhaps
        check_forward(session, "val")
    return session


def _build_model(cfg: DictConfig, trust: Sequence[str], loaded: bool) -> nn.Module:
    """The model; a factory of ours that asks for it is told whether a run's weights are `loaded` afterwards, and what
    the user trusts."""
    node = facts_filled(cfg, "model")
    target = locate(node["_target_"], "model", trust)
    check_task(cfg, target)
    asked = inspect.signature(target).parameters if getattr(target, "plainloop_factory", None) else ()
    given = {name: value for name, value in {"loaded": loaded, "trusted": trust}.items() if name in asked}
    model = build(node, "model", trust, **given)
    lazy = next((name for name, parameter in model.named_parameters() if nn.parameter.is_lazy(parameter)), None)
    if lazy:
        raise UserError(
            f"model: {lazy} has no size before its first batch. Instead of a Lazy layer take the layer itself, and "
            "its size from the data, as by model.in_features='${spec.num_features}'"
        )
    return model


def hold_on_device(data: Data, device: torch.device) -> None:
    """loader.on_device: the splits go where the model is. Raises UserError where they aren't in memory."""
    for split in SPLITS:
        dataset: Any = data[split]
        if dataset is None:
            continue
        if not (getattr(dataset, "gives_batches", False) and hasattr(dataset, "to")):
            raise UserError(f"loader.on_device=true is for data in memory that is fetched by whole batches, and "
                            f"{split} isn't ({type(dataset).__name__}): leave it out.")  # fmt: skip
        try:
            dataset.to(device)
        except RuntimeError as error:
            if out_of_memory(error):
                raise UserError(f"loader.on_device=true: {split} doesn't fit into the memory of {device}.") from error
            raise


def _leave_out_a_single_sample(cfg: DictConfig, data: Data, model: nn.Module, device: torch.device) -> list[str]:
    """A last batch of one sample has no deviation for BatchNorm to divide by: it is dropped, and that is said."""
    count = drawn(training_loader(cfg, data.train, device))
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    single = count is not None and count % cfg.loader.batch_size == 1 and cfg.loader.batch_size > 1
    if not (normed and single) or cfg.loader.drop_last:
        return []
    if count == 1:
        raise UserError("data: one training sample only, and BatchNorm needs two: choose a model without it.")
    cfg.loader.drop_last = True
    _fill_steps(cfg, data, device)
    other = " (another one each epoch)" if cfg.loader.shuffle else ""
    return [
        f"1 of {count:,} training samples is left over for an epoch's last batch, which BatchNorm can't take: it is "
        f"dropped{other}, as by loader.drop_last=true"
    ]


def _is_small(model: nn.Module, batch_size: int) -> bool:
    """Whether a step is so little work that a second thread costs more than it helps; on a busy machine, where
    threads wait for each other, thirty times more. From sizes alone, so that the same run has the same threads."""
    return sum(parameter.numel() for parameter in model.parameters()) * batch_size < 2_000_000


def choose_device(name: str, precision: str) -> torch.device:
    """The device that `trainer.device` names. Raises UserError where it isn't there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no usable GPU here"
            raise UserError(f"trainer.device={name}: {why}. Use trainer.device=cpu, or leave it at auto.")
        number = int(name.partition(":")[2] or 0)
        if number >= count:
            raise UserError(f"trainer.device={name}: there are {count} GPUs, cuda:0 to cuda:{count - 1}.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("trainer.device=mps: not available here. Use trainer.device=cpu, or leave it at auto.")
    if precision == "fp16" and name == "cpu":
        raise UserError("trainer.precision=fp16 is for GPUs. On the CPU use trainer.precision=bf16 or fp32.")
    return torch.device(name)


def _fill_spec(
    cfg: DictConfig, data: Data, described: dict[str, Any], sample: tuple[Any, Any], device: torch.device, loaded: bool
) -> None:
    """Section `spec`: what the data is, and how many steps come of it."""
    shape = list(sample[0].shape) if isinstance(sample[0], Tensor) else None
    is_image = shape is not None and len(shape) == 3
    spec = {
        "input_shape": shape,
        "num_features": math.prod(shape) if shape is not None else None,
        "in_channels": shape[0] if is_image and shape else None,
        "image_size": shape[1:] if is_image and shape else None,
        **{f"num_{split}": size(data[split]) for split in SPLITS},
        **described,
    }
    resize = resize_for(cfg, data)
    if resize is not None:  # what the model sees
        if spec["image_size"] is None:
            raise UserError(f"transforms.resize: it is for images, and the inputs are of shape {tuple(shape or ())}.")
        spec["image_size"] = list(resize.output_size(*spec["image_size"]))
        spec["num_features"] = spec["in_channels"] * math.prod(spec["image_size"])
    if spec["image_size"] is not None:
        spec["input_shape"] = [spec["in_channels"], *spec["image_size"]]
    if spec.get("num_outputs") is None and len(spec["input_shape"] or ()) == 1:  # the inputs again
        spec["num_outputs"] = spec["num_features"]
    OmegaConf.update(cfg, "spec", spec, merge=True, force_add=True)
    _fill_steps(cfg, data, device, loaded)


def _fill_steps(cfg: DictConfig, data: Data, device: torch.device, loaded: bool = False) -> None:
    """How many steps come of the data; nobody knows for a stream without a length.

    Args:
        loaded: the steps have been made: with batches of another size there may be fewer than the warm-up had.
    """
    batches = training_loader(cfg, data.train, device).batches
    warmup, total, ticks = cfg.schedule.warmup_steps, cfg.trainer.max_steps, None
    steps = None if batches is None else -(-batches // cfg.trainer.accumulate_steps)
    if steps is not None:
        total = min(cfg.trainer.max_epochs * steps, total or math.inf)
    if total is not None:
        ticks = total - warmup
        if cfg.schedule.interval == "epoch":
            ticks = None if steps is None else -(-total // steps) - warmup // steps
    if total is not None and warmup >= total and not loaded:
        raise UserError(f"schedule.warmup_steps={warmup}: the run has only {total} steps.")
    spec = {"steps_per_epoch": steps, "total_steps": total, "schedule_length": ticks}
    OmegaConf.update(cfg, "spec", spec, merge=True, force_add=True)


def check_forward(session: Session, split: str) -> None:
    """Two samples through the model, before anything is written: shapes that don't fit are found here."""
    dataset = session.data[split]
    assert dataset is not None
    loader = first_two(session.config, dataset, split, session.skipped)
    with seeding.preserved():
        try:
            raw = next(iter(loader))
        except MachineError as error:
            raise UserError(str(error)) from error
        batch = session.prepare(raw)
        with inference.eval_mode(session.model), torch.no_grad(), session.autocast:
            at_fault = f"model={session.config.choices.get('model')}"
            try:
                with watched(session.model, 2) as session.summary:
                    session.task.check(session.model, batch)
                at_fault = f"loss={session.config.choices.get('loss')}, or the model,"
                with torch.enable_grad():
                    loss, outputs = session.task.loss_of(session.model, batch)
                if not isinstance(loss, Tensor) or loss.ndim > 0:
                    seen = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                    raise UserError(f"loss: it must be one number, the mean over the batch; this one is {seen}.")
                _check_gradient(session, loss, outputs)
                if split == "train" and session.task.size(batch) > 1:
                    at_fault = f"model={session.config.choices.get('model')} in training mode"
                    _in_training_mode(session, batch)
            except (UserError, MachineError):
                raise
            except Exception as error:
                if out_of_memory(error):
                    raise
                if outside := label_outside(error):
                    raise UserError(outside) from error
                raise UserError(
                    f"{at_fault} can't take a batch {_described(batch[0])}: {told(error)} ({origin(error)})"
                ) from error
            if session.augment is not None and session.augment.mixes:
                check_shares(session.config, session.task, outputs)
            _check_metrics(session, batch, outputs)


def _in_training_mode(session: Session, batch: Any) -> None:
    """Some models return something else while they train. A copy is asked, in which the batch may leave its traces."""
    try:
        model = copy.deepcopy(session.model)
    except Exception:  # one that can't be copied will be asked in the first step
        return
    train_mode(model)
    session.task.loss_of(model, batch)


def _described(inputs: Any) -> str:
    """A batch's inputs in an error: "of shape (2, 1, 8, 8)"; a type that isn't float32, and a dict's parts by name."""
    if isinstance(inputs, dict):
        parts = (f"{name} {tuple(part.shape) if isinstance(part, Tensor) else ''}" for name, part in inputs.items())
        return f"of {listed(part.strip() for part in parts)}, which are given to forward by name"
    if not isinstance(inputs, Tensor):
        return f"of type {type(inputs).__name__}"
    kind = "" if inputs.dtype == torch.float32 else f" and type {str(inputs.dtype).removeprefix('torch.')}"
    return f"of shape {tuple(inputs.shape)}{kind}"


def _check_gradient(session: Session, loss: Tensor, outputs: Any) -> None:
    """Whether autograd can go back from the loss to what is trained. (That there is nothing to train, the optimizer
    says.) Raises UserError."""
    trained = [p for module in (session.model, session.task) for p in module.parameters() if p.requires_grad]
    if loss.requires_grad or not trained:
        return
    if isinstance(outputs, Tensor) and not outputs.requires_grad:
        few = session.config.finetune.trainable
        which = "" if few == "all" else f" (finetune.trainable={few})"
        raise UserError(f"model: its outputs follow from no parameter that is trained{which}, as far as autograd sees. "
                        "What cuts them off: detach, no_grad, .item(), NumPy, argmax.")  # fmt: skip
    raise UserError("loss: it doesn't follow from the model's outputs, as far as autograd sees. What cuts it off: "
                    "detach, no_grad, .item(), torch.tensor(...), NumPy, argmax.")  # fmt: skip


def _check_metrics(session: Session, batch: Any, outputs: Any) -> None:
    """Each metric is given two samples, so that one that doesn't fit is found before the first step."""
    for name, metric in session.task.metrics.items():
        try:
            metric.reset()
            session.task.update({name: metric}, outputs, batch)
            metric.reset()
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"metrics.{name}: {type(metric).__name__} doesn't fit task={session.config.choices.get('task')}: "
                f"{first_line(error)} ({origin(error)})"
            ) from error


def make_trainer(session: Session, **hooks: Any) -> Trainer:
    """The optimizer, the schedule and the trainer over a session; `hooks` are log, progress, save and due."""
    cfg, trust = session.config, list(session.config.trust)
    mode = cfg.monitor_mode = monitor_mode(session)
    optimizer = make_optimizer(
        facts_filled(cfg, "optimizer"), session.model, session.device, plain(cfg.param_groups), trust, session.task
    )
    asks_for_loss = needs_closure(optimizer)  # before a scheduler wraps its step
    schedule = make_schedule(
        facts_filled(cfg, "scheduler") if cfg.scheduler else None, optimizer, cfg.schedule.interval,
        cfg.schedule.warmup_steps, mode, trust, cfg.spec.schedule_length,
    )  # fmt: skip
    section = plain(cfg.trainer)
    averaged_after = (section["swa_start"] or 0) * (cfg.spec.steps_per_epoch or 0)
    if averaged_after > (cfg.spec.total_steps or math.inf) and not cfg.choices.get("debug"):
        raise UserError(f"trainer.swa_start={section['swa_start']}: the run ends before the end of that epoch, with "
                        f"trainer.max_steps={section['max_steps']}.")  # fmt: skip
    elsewhere = (
        "_target_",
        "device",
        "num_threads",
        "deterministic",
        "detect_anomaly",
        "limit_batches",
        "profile",
    )
    trainer_class = locate(section["_target_"], "trainer", trust)
    if asks_for_loss and trainer_class is Trainer:
        trainer_class = ClosureTrainer
        settings = ("precision", "accumulate_steps", "max_grad_norm", "nonfinite")
        check_closure_settings(optimizer, **{name: section[name] for name in settings})
    nodes = plain(cfg.callbacks or {})
    callbacks = {name: build(node, f"callbacks.{name}", trust) for name, node in nodes.items()}
    return trainer_class(
        session.model, session.task, optimizer, schedule, session.preprocess,
        training_loader(cfg, session.data.train, session.device, session.skipped),
        session.loader("val"),
        augment=session.augment, device=session.device, seed=cfg.seed, monitor=cfg.monitor, mode=mode,
        patience=cfg.early_stopping.patience, min_delta=cfg.early_stopping.min_delta, callbacks=callbacks,
        **{name: value for name, value in section.items() if name not in elsewhere}, **hooks,
    )  # fmt: skip


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
        raise UserError(f"monitor={cfg.monitor}: data.target={listed(session.config.spec.target_columns)} gives "
                        f"{listed(options)}. Write monitor={options[0]}")  # fmt: skip
    higher = getattr(session.task.metrics[name], "higher_is_better", None)
    if cfg.monitor_mode != "auto":
        return cfg.monitor_mode
    if higher is None:
        raise UserError(f"monitor={cfg.monitor}: is more better, or less? Write monitor_mode=max or monitor_mode=min")
    return "max" if higher else "min"
