"""A composed config becomes data, preprocess, model, task and trainer, in that order.

Facts about the data flow forward by name: when the data is there, the section `spec` is filled in, and all that
comes after it refers to it (`in_features: ${spec.num_features}`).
"""

import copy
import inspect
import os
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import Dataset

from plainloop import seeding
from plainloop.assembly.advice import check_task
from plainloop.assembly.finetuning import finetune
from plainloop.assembly.loaders import drawn, training_loader
from plainloop.assembly.loss import balanced_weights, check_loss, ignored_label, make_loss
from plainloop.assembly.rehearsal import check_forward
from plainloop.assembly.session import Session
from plainloop.assembly.spec import facts_filled, fill_spec, fill_steps
from plainloop.assembly.transforms import (
    apply_transforms,
    augment_for,
    check_alike,
    preprocess_for,
)
from plainloop.build import build, check_arguments, construct, locate
from plainloop.config import compose
from plainloop.config.schema import plain
from plainloop.data import Data, Division, build_data
from plainloop.data.dataset import SPLITS, own, size
from plainloop.data.digest import check_begins_anew, digest
from plainloop.data.fetch import first_sample
from plainloop.data.loader import Skipped
from plainloop.data.workers import default_workers
from plainloop.errors import (
    UserError,
    out_of_memory,
)
from plainloop.tasks.metrics import METRIC
from plainloop.tasks.task import Task, with_auxiliary
from plainloop.training.batches import Preparation

TORCHS_THREADS = torch.get_num_threads()


def settled(cfg: DictConfig, typed: Sequence[str]) -> tuple[DictConfig, str]:
    """With task=auto the data is asked for its task, and the config is composed once more with it.

    A data set's factory answers by its `task_of(**arguments)`, which gives the task and a word on why.

    Returns:
        the config, and what to say.
    """
    if cfg.choices.get("task") != "auto":
        return cfg, ""
    node, trust = plain(cfg.data), list(cfg.trust)
    target = locate(node["_target_"], "data", Dataset, trust)
    task_of = getattr(target, "task_of", None)
    if task_of is None:
        raise UserError(
            f"task=auto: data={cfg.choices.get('data')} doesn't say what its targets are. Choose a task: "
            "task=multiclass, binary, regression, multilabel, ..."
        )
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
    task_class = locate(cfg.task._target_, "task", Task, trust)
    check_loss(OmegaConf.to_container(cfg.loss), task_class.kind, str(cfg.choices.get("task")), trust)

    data_node = plain(cfg.data)
    data_class = locate(data_node["_target_"], "data", Dataset, trust)
    seeding.seed_everything(cfg.seed, seeding.SPLIT)
    data = build_data(
        lambda **split: construct(data_class, data_node, "data", Dataset, **split),
        data_class,
        Division(**plain(cfg.split)),
        cfg.seed,
    )
    data.ignored, data.skip = ignored_label(cfg.loss), cfg.loader.skip_unreadable
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
    fill_spec(cfg, data, facts | task_class.describe(data), sample, device, loaded)

    few = getattr(plain_train, "looked_at", plain_train)  # of a stream, the samples that stand for all
    skipped = Skipped(cfg.loader.skip_unreadable)
    preprocess = preprocess_for(cfg, data, few, sample[0], skipped, loaded)
    seeding.seed_everything(cfg.seed, seeding.INIT)
    model = _build_model(cfg, trust, loaded)
    notes = finetune(cfg, model, preprocess, loaded)
    names = cfg.spec.class_names or cfg.spec.target_names or [str(n) for n in range(cfg.spec.num_outputs or 0)]
    for place, numbers in balanced_weights(facts_filled(cfg, "loss"), task_class.kind, data, names):
        OmegaConf.update(cfg, place, numbers)  # as facts about the data: the saved config holds the numbers
    loss = make_loss(facts_filled(cfg, "loss"), task_class.kind, cfg.spec.num_outputs, trust)
    metrics = {
        name: build(node, f"metrics.{name}", METRIC, trust) for name, node in facts_filled(cfg, "metrics").items()
    }
    task = construct(task_class, facts_filled(cfg, "task"), "task", Task, loss=loss, metrics=metrics)
    task.num_outputs = cfg.spec.num_outputs
    task.fit(data)
    if hasattr(model, "auxiliary_weight"):
        task.loss_of = with_auxiliary(task, float(model.auxiliary_weight))  # type: ignore[arg-type]

    augment = augment_for(cfg, task, sample[0])
    notes += _leave_out_a_single_sample(cfg, data, model, device)
    session = Session(
        cfg,
        data,
        model,
        task,
        Preparation(preprocess, device, cfg.trainer.precision, cfg.trainer.channels_last, augment),
        sample,
        skipped,
        notes=notes,
    )
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
    target = locate(node["_target_"], "model", nn.Module, trust)
    check_task(cfg, target)
    asked = inspect.signature(target).parameters if getattr(target, "plainloop_factory", None) else ()
    given = {name: value for name, value in {"loaded": loaded, "trusted": trust}.items() if name in asked}
    model = construct(target, node, "model", nn.Module, **given)
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
            raise UserError(
                f"loader.on_device=true is for data in memory that is fetched by whole batches, and "
                f"{split} isn't ({type(dataset).__name__}): leave it out."
            )
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
    fill_steps(cfg, data, device)
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
