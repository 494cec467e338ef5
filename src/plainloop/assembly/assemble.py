"""A composed config becomes data, preprocess, model and task, in that order.

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
from plainloop.assembly.augment import augment_for
from plainloop.assembly.finetuning import finetune
from plainloop.assembly.loaders import drawn, reading_loader, training_loader
from plainloop.assembly.loss import balanced_weights, check_loss, ignored_label, make_loss
from plainloop.assembly.preprocess import preprocess_for
from plainloop.assembly.rehearsal import check_forward
from plainloop.assembly.session import Session
from plainloop.assembly.spec import facts_filled, facts_of, fill_spec, reading_of, steps_of
from plainloop.assembly.transforms import apply_transforms, check_alike, through
from plainloop.build import build, check_arguments, construct, locate
from plainloop.config import compose
from plainloop.config.keys import plain
from plainloop.config.schema import Config, as_config
from plainloop.config.sections import TrainerSection
from plainloop.data import Data, Division, Loader, build_data
from plainloop.data.dataset import SPLITS, asked, size, stand_in
from plainloop.data.digest import check_begins_anew, digest
from plainloop.data.fetch import first_sample
from plainloop.data.loader import Skipped
from plainloop.data.workers import default_workers
from plainloop.errors import UserError, out_of_memory
from plainloop.tasks.metrics import METRIC
from plainloop.tasks.task import Task, with_auxiliary
from plainloop.training.batches import Preparation

TORCHS_THREADS = torch.get_num_threads()


def settled(cfg: DictConfig, typed: Sequence[str]) -> tuple[DictConfig, str]:
    """A new run's config once what only the data's and the model's factories can tell has been asked: the task of
    task=auto, and the normalisation.

    Args:
        typed: the words that led to `cfg`.

    Returns:
        the config, and what to say.
    """
    remark = ""
    if cfg.choices.get("task") == "auto":
        task, why = _task_of(cfg)
        cfg = compose.compose([*typed, f"task={task}"])
        remark = f"task={task}: {why} (task=... chooses another)"
    model = locate(cfg.model._target_, "model", nn.Module, list(cfg.trust))
    pretrained = cfg.model.get(getattr(model, "pretrained_by", ""))
    if pretrained and not any(word.startswith("transforms.normalize") for word in typed):
        cfg.transforms.normalize = "weights"  # they bring their own, whatever the data's is
    return cfg, remark


def _task_of(cfg: DictConfig) -> tuple[str, str]:
    """The task that a data set's factory finds by its `task_of(**arguments)`, and a word on why."""
    node, trust = plain(cfg.data), list(cfg.trust)
    target = locate(node["_target_"], "data", Dataset, trust)
    task_of = asked(target, "task_of")
    if task_of is None:
        raise UserError(
            f"task=auto: data={cfg.choices.get('data')} doesn't say what its targets are. Choose a task: "
            "task=multiclass, binary, regression, multilabel, ..."
        )
    check_arguments(target, {name: value for name, value in node.items() if name != "_target_"}, "data", {"split": ""})
    return task_of(**{name: value for name, value in node.items() if name not in ("_target_", "task")})


def assemble(cfg: DictConfig, loaded: bool = False) -> Session:
    """Build everything but the trainer. Raises UserError for whatever doesn't fit, before anything is written.

    Args:
        loaded: a run's weights and statistics are loaded afterwards, so that the data needn't be read for them.
    """
    cfg = copy.deepcopy(cfg)
    config = as_config(cfg)
    trainer = config.trainer
    device = choose_device(trainer.device, trainer.precision)
    prepare_torch(trainer, device)
    task_class = class_of_task(config)

    data, facts = _build_data(config)
    few = stand_in(data.train)
    facts["reading"] = reading_of(data, facts)
    apply_transforms(config.transforms, data, config.trust)
    sample = task_class.check_sample(first_sample(data.train, data.skip))
    _check_data(config, data, sample)
    if config.loader.num_workers is None:
        config.loader.num_workers = default_workers(data.train)
    facts = facts_of(config, data, facts | task_class.describe(data), sample[0])
    fill_spec(config, cfg, facts | steps_of(config, _training_loader(config, data, device).batches, loaded))

    skipped = Skipped(config.loader.skip_unreadable)
    preprocess = _build_preprocess(config, data, few, sample[0], skipped, loaded)
    seeding.seed_everything(config.seed, seeding.INIT)
    model = build_model(config, loaded)
    notes = finetune(config.finetune, config.paths.outputs, model, preprocess, loaded)
    task = _build_task(config, task_class, data)
    weight: Any = getattr(model, "auxiliary_weight", None)
    if weight is not None:
        task.loss_of = with_auxiliary(task, float(weight))  # type: ignore[method-assign]

    augment = augment_for(config.transforms, config.spec, config.choices, task, sample[0])
    count = _with_one_left_over(config, _training_loader(config, data, device), model)
    if count:
        config.loader.drop_last = True
        fill_spec(config, cfg, steps_of(config, _training_loader(config, data, device).batches))
        other = " (another one each epoch)" if config.loader.shuffle else ""
        notes.append(
            f"1 of {count:,} training samples is left over for an epoch's last batch, which BatchNorm can't take: it "
            f"is dropped{other}, as by loader.drop_last=true"
        )
    session = Session(
        config,
        cfg,
        data,
        model,
        task,
        Preparation(preprocess, device, trainer.precision, trainer.channels_last, augment),
        sample,
        skipped,
        notes=notes,
    )
    session.to_device()
    if config.loader.on_device:
        hold_on_device(data, device)
    if trainer.num_threads is None and device.type == "cpu" and _is_small(model, config.loader.batch_size):
        torch.set_num_threads(1)
    check_forward(session, "train")
    if data.val is not None and (config.transforms.train or config.transforms.eval):  # of another shape, perhaps
        check_forward(session, "val")
    return session


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


def prepare_torch(section: TrainerSection, device: torch.device) -> None:
    """Threads, and which kernels are used: they hold for the whole process."""
    torch.set_num_threads(section.num_threads or TORCHS_THREADS)
    if section.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    torch.use_deterministic_algorithms(section.deterministic)
    torch.backends.cudnn.benchmark = device.type == "cuda" and not section.deterministic


def class_of_task(config: Config) -> type[Task]:
    """The task's class, with a loss that fits it."""
    found: type[Task] = locate(config.task._target_, "task", Task, config.trust)
    fitting, called = config.task.get("losses") or (), str(config.choices.get("task"))
    check_loss(OmegaConf.to_container(config.loss), found.kind, fitting, called, config.trust)
    return found


def _build_data(config: Config) -> tuple[Data, dict[str, Any]]:
    """The splits, and what they say of themselves."""
    node, trust = plain(config.data), config.trust
    target = locate(node["_target_"], "data", Dataset, trust)
    seeding.seed_everything(config.seed, seeding.SPLIT)
    data = build_data(
        lambda **split: construct(target, node, "data", Dataset, **split),
        target,
        Division(**plain(config.split)),
        config.seed,
    )
    data.ignored, data.skip = ignored_label(config.loss), config.loader.skip_unreadable
    for split in SPLITS:
        check_begins_anew(data[split], data.skip)
    digests = {split: digest(data[split]) for split in SPLITS if isinstance(size(data[split]), int)}
    return data, {"digests": digests, **(asked(data.train, "facts") or {})}


def _check_data(config: Config, data: Data, sample: Any) -> None:
    """What the config asks of the splits. Raises UserError."""
    if config.transforms.train or config.transforms.eval:
        check_alike(data, sample)
    patience = config.early_stopping.patience
    if data.val is None and patience:
        raise UserError(f"early_stopping.patience={patience}: the data has no validation split.")
    if data.val is None and config.schedule.interval == "validation":
        raise UserError(f"scheduler={config.choices.get('scheduler')}: it acts on validations, and the data has none.")


def _training_loader(config: Config, data: Data, device: torch.device) -> Loader:
    """The batches to train on, to be counted."""
    limit = config.trainer.limit_batches
    return training_loader(config.loader, data, seed=config.seed, device=device, limit=limit, trust=config.trust)


def _build_preprocess(
    config: Config, data: Data, few: Dataset, inputs: Any, skipped: Skipped, loaded: bool
) -> nn.Module:
    """What goes on between the loader and the model.

    Args:
        few: the training split without its transforms; of a stream, the samples that stand for all.
        inputs: one sample's.
    """
    model = {**facts_filled(config, "model"), "in_channels": config.spec.in_channels}
    once = through(config.transforms.eval, "transforms.eval", few, config.trust)  # without what is random
    # A run's own statistics are loaded afterwards: only their shapes are needed.
    limit = 1 if loaded and not asked(data.train, "make_preprocess") else None
    with reading_loader(
        config.loader, once, seed=config.seed, trust=config.trust, skipped=skipped, limit=limit
    ) as batches:
        return preprocess_for(config.transforms, model, data, batches, inputs, config.trust)


def build_model(config: Config, loaded: bool) -> nn.Module:
    """The model; a factory of ours that asks for it is told whether a run's weights are `loaded` afterwards, and what
    the user trusts."""
    node = facts_filled(config, "model")
    target = locate(node["_target_"], "model", nn.Module, config.trust)
    check_task(config, target)
    wanted = inspect.signature(target).parameters if getattr(target, "plainloop_factory", None) else ()
    given = {name: value for name, value in {"loaded": loaded, "trusted": config.trust}.items() if name in wanted}
    model = construct(target, node, "model", nn.Module, **given)
    lazy = next((name for name, parameter in model.named_parameters() if nn.parameter.is_lazy(parameter)), None)
    if lazy:
        raise UserError(
            f"model: {lazy} has no size before its first batch. Instead of a Lazy layer take the layer itself, and "
            "its size from the data, as by model.in_features='${spec.num_features}'"
        )
    return model


def build_metrics(config: Config) -> dict[str, Any]:
    """The metrics that the run computes, by their names."""
    nodes = facts_filled(config, "metrics").items()
    return {name: build(node, f"metrics.{name}", METRIC, config.trust) for name, node in nodes}


def _build_task(config: Config, task_class: type[Task], data: Data) -> Task:
    """The task with its loss and metrics, fitted on the training split."""
    spec, kind, trust = config.spec, task_class.kind, config.trust
    names = spec.class_names or spec.target_names or [str(number) for number in range(spec.num_outputs or 0)]
    for place, numbers in balanced_weights(facts_filled(config, "loss"), kind, data, names):
        # As facts about the data: the saved config holds the numbers.
        OmegaConf.update(config.loss, place.removeprefix("loss."), numbers)
    loss = make_loss(facts_filled(config, "loss"), kind, spec.num_outputs, trust)
    metrics = build_metrics(config)
    task = construct(task_class, facts_filled(config, "task"), "task", Task, loss=loss, metrics=metrics)
    task.num_outputs = spec.num_outputs
    task.fit(data)
    return task


def _with_one_left_over(config: Config, loader: Loader, model: nn.Module) -> int:
    """How many samples an epoch draws, where its last batch has one only, and so no deviation for BatchNorm to divide
    by; else 0."""
    count, section = drawn(loader), config.loader
    normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    single = count is not None and count % section.batch_size == 1 and section.batch_size > 1
    if not (normed and single) or section.drop_last:
        return 0
    if count == 1:
        raise UserError("data: one training sample only, and BatchNorm needs two: choose a model without it.")
    return count or 0


def hold_on_device(data: Data, device: torch.device) -> None:
    """loader.on_device: the splits go where the model is. Raises UserError where they aren't in memory."""
    for split in SPLITS:
        dataset: Any = data[split]
        if dataset is None:
            continue
        if not (asked(dataset, "gives_batches") and asked(dataset, "to")):
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


def _is_small(model: nn.Module, batch_size: int) -> bool:
    """Whether a step is so little work that a second thread costs more than it helps; on a busy machine, where
    threads wait for each other, thirty times more. From sizes alone, so that the same run has the same threads."""
    return sum(parameter.numel() for parameter in model.parameters()) * batch_size < 2_000_000
