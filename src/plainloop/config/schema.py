"""The typed sections of the configuration: every key that is plainloop's own, with its type, range and default.

Groups that name a `_target_` (data, model, loss, metrics, task, optimizer, scheduler, logger, callbacks) are
open: they hold that target's own arguments and are checked against its signature when it is built. Everything
else is closed, and a wrong key, type, range or combination is found here, before torch is imported.

A key is documented where it is defined; `python train.py --help` prints these lines.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from plainloop.errors import UserError, did_you_mean, listed


def key(default: Any, help: str, *, min: float | None = None, above: float | None = None,
        choices: tuple[str, ...] = ()) -> Any:  # fmt: skip
    """A dataclass field with its one line of help and its range."""
    metadata = {"help": help, "min": min, "above": above, "choices": choices}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def open_group() -> Any:
    """A section that takes any key: the arguments of the `_target_` that it names."""
    return DictConfig({}, flags={"struct": False})


@dataclass
class Paths:
    data: str = key("data", "where data sets lie and are downloaded to; looked for here, then in the checkout")
    outputs: str = key("outputs", "where run directories are created")


@dataclass
class Split:
    fractions: list[float] = key(
        lambda: [0.8, 0.1, 0.1],
        "shares of train, val and test; 0 declares none; a split that the data brings along is left alone",
    )
    group: str | None = key(
        None, "all samples of a group (a patient, say) into one split: a column, or an attribute of the data set"
    )
    time: str | None = key(None, "the latest samples into test, the ones before into val: a column, or an attribute")
    folds: int | None = key(None, "k-fold cross-validation: train and val shares are divided into so many parts", min=2)
    fold: int = key(0, "which of them validates, from 0", min=0)
    stratify: bool = key(
        True, "the same share of every class in each split, where there are classes; not by group or time"
    )


@dataclass
class Transforms:
    normalize: Any = key(
        "none",
        "none | train (by the training split) | weights (of the model) | {mean: ..., std: ...} | Name_Weights.X",
    )
    resize: Any = key(
        None, "images to this size, on the device: 224, [128,96] | none; null: as pretrained weights ask, else none"
    )
    train: list[Any] = key(list, "what is done to each training sample: [{_target_: torchvision.transforms.v2...}]")
    eval: list[Any] = key(list, "and to each sample of validation and test")
    flip: bool = key(False, "training images, whole batches on the device: mirror half of them left to right")
    crop: int = key(0, "pad by so many pixels, then cut out a window of the old size", min=0)
    cutout: int = key(0, "cover a square of this side", min=0)
    mixup: float | None = key(None, "blend each with another, labels too: the alpha of Beta(alpha, alpha)", above=0)
    cutmix: float | None = key(None, "paste a rectangle of another into each, labels too: the alpha", above=0)


@dataclass
class EvalLoader:
    batch_size: int | None = key(
        None, "samples per batch of validation, test and evaluate; null: as in training", min=1
    )
    num_workers: int | None = key(None, "loading processes there; null: as in training", min=0)
    prefetch_factor: int | None = key(None, "batches that each of these prepares ahead; null: as in training", min=1)
    collate_fn: Any = key(None, "samples to a batch there, as default_collate; null: as in training")


@dataclass
class Loader:
    batch_size: int = key(64, "samples per batch (and process)", min=1)
    shuffle: bool = key(True, "a new order of the training samples every epoch, from (seed, epoch)")
    drop_last: bool = key(False, "leave out a training batch that is not full")
    num_workers: int | None = key(
        None, "loading processes; null: none for data in memory or quickly fetched, else the cores", min=0
    )
    pin_memory: bool | None = key(None, "page-locked batches for faster copies to a GPU; null: on CUDA")
    on_device: bool = key(False, "hold data in memory on trainer.device, where its batches are then made: no copying")
    prefetch_factor: int | None = key(None, "batches that each worker prepares ahead; null: torch's 2", min=1)
    persistent_workers: bool | None = key(None, "keep the workers between epochs; null: yes, with workers")
    timeout: float | None = key(None, "seconds to wait for a worker's batch; null: 300 with workers", min=0)
    sampler: Any = key(
        None,
        "which training samples an epoch draws: balanced (every class as often), or {_target_: my.Sampler}; null: all",
    )
    batch_sampler: Any = key(
        None, "which samples go into a training batch: length (of similar length), or {_target_: my.BatchSampler}"
    )
    collate_fn: Any = key(
        None, "samples to a batch: my.function, or {_target_: my.Class}; null: the data set's, or torch's"
    )
    worker_init_fn: Any = key(None, "called with a loading process's number when it starts: my.function")
    eval: EvalLoader = field(default_factory=EvalLoader)
    skip_unreadable: int = key(0, "leave out up to this many samples that can't be read, and count them", min=0)
    multiprocessing_context: str | None = key(
        None, "how workers start; null: forkserver, on every Python", choices=("fork", "spawn", "forkserver")
    )


@dataclass
class Finetune:
    weights: str | None = key(
        None, "weights to start from: a run, latest, a folder of runs, or a file (.pt, .pth, .safetensors)"
    )
    partial: bool = key(False, "take what fits of them; the rest stays as it was initialised")
    trainable: str = key(
        "all", "what is trained: all, head, last:N (blocks), or a regular expression of parameters' names"
    )


@dataclass
class ParamGroups:
    no_decay_norm_bias: bool = key(False, "no weight decay on norms and biases")
    layer_decay: float | None = key(
        None, "each block's learning rate is this share of the next one's, towards the head", above=0
    )
    head_lr: float | None = key(None, "the learning rate of the head", min=0)
    rules: list[Any] = key(list, "options by parameters' names: [{match: REGEX, lr: 1e-4, weight_decay: 0}]")


@dataclass
class Schedule:
    interval: str = key("step", "when the scheduler ticks", choices=("step", "epoch", "validation"))
    warmup_steps: int = key(0, "steps of linear warm-up in front of the scheduler", min=0)
    draw: bool = key(False, "draw the learning rates over the run, and don't train: debug=schedule")


@dataclass
class TrainerSection:
    _target_: str = key("plainloop.trainer.Trainer", "a subclass of your own may override train_step")
    max_epochs: int = key(30, "passes over the training split", min=1)
    max_steps: int | None = key(None, "stop after this many optimizer steps, if that comes first", min=1)
    device: str = key("auto", "auto | cpu | cuda | cuda:N | mps")
    precision: str = key("fp32", "fp32, or autocast to bf16 or fp16", choices=("fp32", "bf16", "fp16"))
    accumulate_steps: int = key(1, "batches per optimizer step", min=1)
    max_grad_norm: float | None = key(None, "clip the norm of the gradient to this", above=0)
    compile: bool = key(False, "torch.compile the model")
    channels_last: bool = key(False, "memory format of images and convolutions; faster on GPUs")
    num_threads: int | None = key(
        None, "CPU threads of torch; null: one for a small model, else torch's own choice", min=1
    )
    deterministic: bool = key(False, "only deterministic kernels (slower; what bit-equal runs on CUDA need)")
    detect_anomaly: bool = key(False, "autograd names the operation whose backward made a NaN (slow)")
    log_every: int = key(50, "steps between log points", min=1)
    validate_every: Any = key(1, "epochs between validations; 500s: every 500 steps (s for steps); 0: never")
    limit_batches: int | None = key(None, "at most this many batches of every split", min=1)
    ema_decay: float | None = key(
        None,
        "evaluate an average of the weights, w = decay x w + (1 - decay) x new, as with 0.999; null: off",
        above=0,
    )
    swa_start: int | None = key(
        None, "evaluate the mean of the weights at every epoch's end, from this epoch on; null: off", min=1
    )
    nonfinite: str = key(
        "stop", "a loss or gradient that is NaN or infinite ends the run, or its step is skipped and counted",
        choices=("stop", "skip"),
    )  # fmt: skip
    stop_below: float | None = key(None, "end as soon as an epoch's training loss is below this")
    profile: bool = key(False, "record the whole run with torch's profiler: for a few steps, as debug=profile does")


@dataclass
class Checkpoint:
    every_epochs: int | None = key(1, "save at every N-th epoch's end; null: only at the end of the run", min=1)
    every_steps: int | None = key(None, "and every N steps", min=1)
    every_minutes: float | None = key(None, "and every N minutes", above=0)
    keep: int = key(2, "newest checkpoints kept, beside the best one", min=1)


@dataclass
class EarlyStopping:
    patience: int | None = key(None, "validations without a better value before the run ends; null: off", min=1)
    min_delta: float = key(0.0, "how much better counts as better", min=0)


@dataclass
class Console:
    every_epochs: int = key(1, "one line every N epochs (a bar, on a terminal)", min=1)
    progress: bool | None = key(None, "a progress bar; null: on a terminal")


@dataclass
class Spec:
    """Facts about the data. Nobody sets them: they are filled in once the data is there, and referred to by
    whatever comes after it, as in `in_features: ${spec.num_features}`."""

    input_shape: list[int] | None = key(None, "shape of one sample's inputs, as the model gets them")
    num_features: int | None = key(None, "numbers in one sample's inputs")
    in_channels: int | None = key(None, "channels of an image")
    image_size: list[int] | None = key(None, "height and width of an image")
    sample_rate: int | None = key(None, "samples per second of a sound")
    num_numbers: int | None = key(None, "numbers in a row of a table, before its codes of categories")
    cardinalities: list[int] | None = key(None, "how many codes each category of a table has, where it has codes")
    columns: Any = key(None, "of a table: its columns of numbers, and its categories with their words, in order")
    num_outputs: int | None = key(None, "what the model must return per sample")
    num_classes: int | None = key(None, "classes, where the target is one")
    class_names: list[str] | None = key(None, "their names, in order")
    target_names: list[str] | None = key(None, "names of regression targets")
    target_columns: list[str] = key(list, "the columns that these are of: fewer, where each has several steps")
    vocab_size: int | None = key(None, "tokens that a text's vocabulary has")
    vocabulary: str | None = key(None, "these tokens, as a list in JSON; a token's number is its place")
    sequence_length: int | None = key(None, "tokens in every sample's inputs, where all have as many")
    padding: int | None = key(None, "the token that fills up a batch of texts")
    step_features: int | None = key(None, "numbers in one step of a series")
    num_train: int | None = key(None, "samples to train on")
    num_val: int | None = key(None, "samples to validate on")
    num_test: int | None = key(None, "samples to test on")
    steps_per_epoch: int | None = key(None, "optimizer steps in an epoch")
    total_steps: int | None = key(None, "optimizer steps in the run")
    schedule_length: int | None = key(None, "ticks of the scheduler after the warm-up")
    digests: dict[str, Any] | None = key(None, "a digest of each split's content")


@dataclass
class Config:
    """What `train.py` takes."""

    seed: int = key(0, "everything random follows from it", min=0)
    name: str | None = key(None, "folder of the run under outputs/; null: DATA_MODEL")
    monitor: str = key("val/loss", "the validation quantity that selects the best weights; set by the task")
    monitor_mode: str = key("auto", "auto: as the metric says", choices=("auto", "min", "max"))
    test: bool = key(True, "measure the test split once, at the end (never in sweeps and debug runs)")
    resume: str | None = key(
        None, "continue this run: a run directory, latest, or auto (the run in hydra.run.dir, started if need be)"
    )
    resume_inexact: bool = key(
        False, "let resume= go on with another batch size or changed data; the bits are other ones then"
    )
    extend: str | None = key(None, "start a new, longer run from this run's weights and optimizer state")
    trust: list[str] = key(
        list, "functions that a _target_ may name beside our own factories, and torch.hub repositories"
    )
    paths: Paths = field(default_factory=Paths)
    split: Split = field(default_factory=Split)
    transforms: Transforms = field(default_factory=Transforms)
    loader: Loader = field(default_factory=Loader)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    finetune: Finetune = field(default_factory=Finetune)
    param_groups: ParamGroups = field(default_factory=ParamGroups)
    schedule: Schedule = field(default_factory=Schedule)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    console: Console = field(default_factory=Console)
    data: Any = field(default_factory=open_group)
    model: Any = field(default_factory=open_group)
    loss: Any = field(default_factory=open_group)
    metrics: Any = field(default_factory=open_group)
    task: Any = field(default_factory=open_group)
    optimizer: Any = field(default_factory=open_group)
    scheduler: Any = field(default_factory=open_group)
    logger: Any = field(default_factory=open_group)
    callbacks: Any = field(default_factory=open_group)
    spec: Spec = field(default_factory=Spec)
    choices: Any = field(default_factory=open_group)  # which option of each group was taken; filled in


@dataclass
class DataPlace:
    """Where a run's data has been moved to."""

    path: str | None = key(None, "where the data lies now, if it isn't where it was")
    val: str | None = key(None, "of a stream, where its files for validation lie now")
    test: str | None = key(None, "and those for the test")


@dataclass
class EvaluateConfig:
    """What `evaluate.py` takes."""

    run: str = key("latest", "a run directory, or latest")
    split: str = key("test", "what to measure", choices=("train", "val", "test"))
    checkpoint: str = key("best", "best | last | the path of a checkpoint")
    trust: list[str] = key(
        list, "functions that a _target_ may name beside our own factories, and torch.hub repositories"
    )
    paths: Paths = field(default_factory=Paths)
    data: DataPlace = field(default_factory=DataPlace)
    loader: Loader = field(default_factory=Loader)
    trainer: TrainerSection = field(default_factory=TrainerSection)


SCHEMAS = {"train": Config, "evaluate": EvaluateConfig}
# Data may be moved: whether it is still the same is seen by its sizes, splits and digests.
MOVABLE = ("paths.*", "data.path", "data.val", "data.test")
# What may differ when a run is evaluated; the rest is the run's own.
EVALUABLE = ("run", "split", "checkpoint", "trust", "trainer.device", "trainer.precision", "trainer.num_threads",
             "loader.*", *MOVABLE)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]  # of the checkout
# Of section loader; they act only with workers.
OF_WORKERS = ("prefetch_factor", "persistent_workers", "timeout", "multiprocessing_context", "worker_init_fn")
# Options of group loss that come with plainloop; each has its line in losses.py.
LOSSES = ("cross_entropy", "nll", "focal", "kl_div", "multi_margin", "bce", "bce_probabilities", "binary_focal",
          "soft_margin", "multilabel_soft_margin", "multilabel_margin", "mse", "l1", "huber", "smooth_l1",
          "poisson_nll", "gaussian_nll", "sum", "manual_bce")  # fmt: skip
REQUIRED_GROUPS = ("data", "model", "loss", "task", "optimizer")


def typed_keys(schema: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Every key of our own as ("trainer.max_epochs", its field), sections flattened."""
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(item.type):
            yield from typed_keys(item.type, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        elif item.metadata:
            yield prefix + item.name, item


def kind_of(item: dataclasses.Field) -> str:
    """'a whole number', 'true or false', ...: a key's type in words."""
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "a word",
        "list": "a list",
    }
    name = item.type.__name__ if isinstance(item.type, type) else str(item.type)
    base = next((text for start, text in words.items() if name.startswith(start)), "a value")
    if item.metadata["choices"]:
        base = "one of " + listed(item.metadata["choices"])
    elif item.metadata["min"] is not None:
        base += f" of at least {item.metadata['min']}"
    elif item.metadata["above"] is not None:
        base += f" above {item.metadata['above']}"
    return base + (" or null" if "None" in name else "")


def default_of(item: dataclasses.Field) -> str:
    """A key's default as it would be typed."""
    factory: Any = item.default_factory
    return as_typed(factory() if item.default is dataclasses.MISSING else item.default)


def as_typed(value: Any) -> str:
    """A value as it would be typed: null, true, [8,16]."""
    value = plain(value)
    if isinstance(value, str) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return json.dumps(value).replace(" ", "")


def validate(cfg: DictConfig, schema: type = Config) -> None:
    """Everything that can be known wrong from the configuration alone. Raises UserError."""
    for name, item in typed_keys(schema):
        value = OmegaConf.select(cfg, name)
        limits = item.metadata
        wrong = (
            (limits["choices"] and value is not None and value not in limits["choices"])
            or (limits["min"] is not None and value is not None and value < limits["min"])
            or (limits["above"] is not None and value is not None and not value > limits["above"])
        )
        if wrong:
            guess = did_you_mean(str(value), limits["choices"])
            raise UserError(f"{name}={value}: must be {kind_of(item)}.{guess}")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", cfg.trainer.device):
        raise UserError(f"trainer.device={cfg.trainer.device}: must be auto, cpu, cuda, cuda:N or mps.")
    if schema is Config:
        _validate_training(cfg)


def _validate_training(cfg: DictConfig) -> None:
    every = str(cfg.trainer.validate_every)
    if not re.fullmatch(r"\d+s?", every) or re.fullmatch("0+s", every):
        raise UserError(f"trainer.validate_every={every}: a number of epochs, or of steps as in 500s; 0 for never.")
    if cfg.name and (cfg.name.startswith("/") or ".." in cfg.name.split("/")):
        raise UserError(f"name={cfg.name}: a folder below paths.outputs={cfg.paths.outputs}; set that instead.")
    if (cfg.trainer.ema_decay or 0) >= 1:
        raise UserError(f"trainer.ema_decay={cfg.trainer.ema_decay}: must be below 1, as in 0.999.")
    if cfg.trainer.swa_start and cfg.trainer.ema_decay:
        raise UserError("trainer.ema_decay and trainer.swa_start both say which average of the weights is evaluated: "
                        "give one of them.")  # fmt: skip
    if (cfg.trainer.swa_start or 0) > cfg.trainer.max_epochs and not cfg.choices.get("debug"):
        raise UserError(f"trainer.swa_start={cfg.trainer.swa_start}: the run ends before, with "
                        f"trainer.max_epochs={cfg.trainer.max_epochs}.")  # fmt: skip
    for name in ("weights", "trainable"):
        if cfg.finetune[name] == "":
            raise UserError(f"finetune.{name}=: an empty word. Leave it out, or say which.")
    for number, rule in enumerate(cfg.param_groups.rules):
        if not isinstance(rule, DictConfig) or not isinstance(rule.get("match"), str) or len(rule) < 2:
            raise UserError(f"param_groups.rules[{number}]={as_typed(rule)}: a rule is written "
                            "{match: REGEX, lr: 1e-4}.")  # fmt: skip
        for name in ("params", "name", "share"):  # words of our own for a group
            if name in rule:
                raise UserError(f"param_groups.rules[{number}]={as_typed(rule)}: {name} is no option of an optimizer.")
    if (cfg.trainer.num_threads or 1) > 1024:
        raise UserError(f"trainer.num_threads={cfg.trainer.num_threads}: at most 1024.")
    if every == "0" and not cfg.choices.get("debug"):
        if cfg.early_stopping.patience:
            raise UserError(f"early_stopping.patience={cfg.early_stopping.patience} acts on validations, and "
                            "trainer.validate_every=0 makes none.")  # fmt: skip
        if cfg.schedule.interval == "validation":
            raise UserError(f"scheduler={cfg.choices.get('scheduler')} acts on validations, and "
                            "trainer.validate_every=0 makes none.")  # fmt: skip
    if cfg.loader.num_workers == 0 and cfg.spec.num_outputs is None:  # in a run's own config it may be a choice of ours
        for name in OF_WORKERS:
            if cfg.loader[name]:
                raise UserError(f"loader.{name}={as_typed(cfg.loader[name])} acts only with workers, and "
                                "loader.num_workers is 0: set it, or leave the other out.")  # fmt: skip
    fractions = list(cfg.split.fractions)
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] == 0:
        raise UserError(
            f"split.fractions={fractions}: three shares of train, val and test that add up to 1, "
            "as in split.fractions=[0.8,0.1,0.1]."
        )
    normalize = cfg.transforms.normalize
    words = isinstance(normalize, str) and re.fullmatch(r"none|train|weights|\w+_Weights\.\w+", normalize)
    if not (words or (isinstance(normalize, DictConfig) and set(normalize) == {"mean", "std"})):
        raise UserError(
            f"transforms.normalize={normalize}: must be none, train, weights, the name of weights as in "
            "ResNet18_Weights.DEFAULT, or '{mean: 0.5, std: 0.5}' (one number per channel or feature, or one for all)."
        )
    resize = plain(cfg.transforms.resize)
    sides = resize if isinstance(resize, list) and len(resize) == 2 else [resize]
    if resize not in (None, "none") and not all(type(side) is int and side > 0 for side in sides):
        raise UserError(f"transforms.resize={as_typed(resize)}: must be the side of square images as 224, "
                        "[height,width], none, or null.")  # fmt: skip
    for split in ("train", "eval"):
        for number, node in enumerate(cfg.transforms[split]):
            if not isinstance(node, DictConfig) or "_target_" not in node:
                raise UserError(
                    f"transforms.{split}[{number}]={as_typed(node)}: a transform is written "
                    "{_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}."
                )
    for name, word in (("sampler", "balanced"), ("batch_sampler", "length")):
        value = cfg.loader[name]
        if value is not None and value != word and not (isinstance(value, DictConfig) and "_target_" in value):
            raise UserError(f"loader.{name}={as_typed(value)}: must be {word}, {{_target_: my.Sampler}} or null.")
    if cfg.loader.sampler is not None and cfg.loader.batch_sampler is not None:
        raise UserError("loader.sampler and loader.batch_sampler both say which samples come next: give one of them.")
    for name in ("pin_memory", "num_workers", "eval.num_workers") if cfg.loader.on_device else ():
        value = OmegaConf.select(cfg.loader, name)
        if value:
            raise UserError(f"loader.on_device=true and loader.{name}={as_typed(value)}: what is on the "
                            "device already is neither loaded by processes nor pinned. Give one of them.")  # fmt: skip
    if cfg.split.folds and cfg.split.fold >= cfg.split.folds:
        raise UserError(f"split.fold={cfg.split.fold}: with split.folds={cfg.split.folds} they are 0 to "
                        f"{cfg.split.folds - 1}.")  # fmt: skip
    if cfg.split.time and (cfg.split.group or cfg.split.folds):
        raise UserError("split.time divides by time alone: leave split.group and split.folds out.")
    for name in ("mean", "std") if isinstance(normalize, DictConfig) else ():
        numbers = normalize[name] if isinstance(normalize[name], ListConfig) else [normalize[name]]
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise UserError(f"transforms.normalize.{name}={normalize[name]}: {number} is not a number.")
    if cfg.resume and cfg.extend:
        raise UserError("resume= continues a run and extend= starts a new one from it: give one of the two.")
    for group in ("data", "model", "loss", "metrics", "task", "optimizer", "scheduler", "logger"):
        if isinstance(cfg[group], str):
            raise UserError(
                f"{group}: {cfg[group]} in a config file: an option is chosen in its list of defaults: "
                f"'- override /{group}: {cfg[group]}'"
            )
    for group in ("metrics", "logger", "callbacks"):
        for name, node in (cfg[group] or {}).items():
            if not isinstance(node, DictConfig) or "_target_" not in node:
                raise UserError(f"{group}.{name} names no _target_: write {group}.{name}._target_=my_package.Mine")
    for group in (*REQUIRED_GROUPS, "scheduler") if cfg.scheduler else REQUIRED_GROUPS:
        if not isinstance(cfg[group], DictConfig) or "_target_" not in cfg[group]:
            raise UserError(f"{group} names no _target_: choose an option, or {group}=custom {group}._target_=my.Name")
    for name in _missing(OmegaConf.to_container(cfg, resolve=False)):
        group = name.partition(".")[0]
        raise UserError(f"{name}: {group}={cfg.choices.get(group)} needs it. Write {name}=VALUE")
    _validate_open_values(cfg)
    _validate_loss(cfg)
    _validate_monitor(cfg)


def _missing(node: Any, place: str = "") -> Iterator[str]:
    """The keys within a node that a config file left for the user to give: ???"""
    if node == "???":
        yield place
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from _missing(value, f"{place}.{name}" if place else str(name))


def _validate_open_values(cfg: DictConfig) -> None:
    """A typo such as optimizer.lr=fast, found without importing the optimizer: numbers that every target of the
    group takes as numbers."""
    for name in ("optimizer.lr", "optimizer.weight_decay", "optimizer.momentum"):
        if name.partition(".")[2] not in cfg.optimizer:
            continue
        value = OmegaConf.select(cfg, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number:
            hint = " (write 1e-3 or 0.001)" if name == "optimizer.lr" else ""
            raise UserError(f"{name}={as_typed(value)}: must be a number{hint}.")
        if value < 0:
            raise UserError(f"{name}={value}: must not be negative.")


def _validate_loss(cfg: DictConfig) -> None:
    """A task lists the losses that fit it. A loss of the user's own, or an option of theirs, is not judged by its name;
    losses.py looks at what it names, when torch is there."""
    fitting, choice = cfg.task.get("losses"), cfg.choices.get("loss")
    ours = str(cfg.loss._target_).startswith(("torch.nn.", "plainloop."))
    if isinstance(fitting, ListConfig) and choice in LOSSES and ours and choice not in fitting:
        raise UserError(
            f"loss={choice} doesn't fit task={cfg.choices.get('task')}, which takes: {listed(fitting)}.\n"
            f"Leave loss= out, or choose a task that fits the data and the loss."
        )


def _validate_monitor(cfg: DictConfig) -> None:
    if cfg.choices.get("task") == "auto":  # what it produces is known when the data has been looked at
        return
    options = ["val/loss", *(f"val/{name}" for name in cfg.metrics or {})]
    whole = "/".join(cfg.monitor.split("/")[:2])  # a metric may tell several, as val/mae/price: assemble.py looks
    if cfg.monitor not in options and whole not in options[1:]:
        raise UserError(
            f"monitor={cfg.monitor}: task={cfg.choices.get('task')} doesn't produce it."
            f"{did_you_mean(cfg.monitor, options)} It produces: {listed(options)}."
        )


def plain(cfg: Any) -> Any:
    """A config as plain dicts, lists and numbers, every `${...}` filled in."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg
