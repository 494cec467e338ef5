"""The typed sections of the configuration: every key that is plainloop's own, with its type, range and default.

Groups that name a `_target_` (data, model, loss, metrics, task, optimizer, scheduler, logger, callbacks) are
open: they hold that target's own arguments and are checked against its signature when it is built. Everything
else is closed, and a wrong key, type, range or combination is found here, before torch is imported.

A key is documented where it is defined; `python train.py --help` prints these lines.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plainloop.errors import listed


def key(
    default: Any, help: str, *, min: float | None = None, above: float | None = None, choices: tuple[str, ...] = ()
) -> Any:
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
    _target_: str = key("plainloop.training.Trainer", "a subclass of your own may override train_step")
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
        "stop",
        "a loss or gradient that is NaN or infinite ends the run, or its step is skipped and counted",
        choices=("stop", "skip"),
    )
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


def plain(cfg: Any) -> Any:
    """A config as plain dicts, lists and numbers, every `${...}` filled in."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def section(node: DictConfig) -> Any:
    """A closed section as its dataclass, every `${...}` filled in: `section(cfg.loader).batch_size`."""
    return OmegaConf.to_object(node)
