"""The sections of the configuration: every key with its type, range, default and help, and each section's rules.

A key is documented where it is defined; `python train.py --help` prints these lines. What may change when a run is
continued, extended or evaluated is said there too: `changes`, of a key or of a whole section. A section's `check`
raises UserError for what is wrong whatever stands in the others.
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from plainloop.config.keys import as_typed, key
from plainloop.errors import UserError


@dataclass
class Paths:
    changes: ClassVar[str] = "resume extend evaluate"

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

    def check(self) -> None:
        shares = self.fractions
        if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
            raise UserError(
                f"split.fractions={shares}: three shares of train, val and test that add up to 1, "
                "as in split.fractions=[0.8,0.1,0.1]."
            )
        if self.folds and self.fold >= self.folds:
            raise UserError(f"split.fold={self.fold}: with split.folds={self.folds} they are 0 to {self.folds - 1}.")
        if self.time and (self.group or self.folds):
            raise UserError("split.time divides by time alone: leave split.group and split.folds out.")


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

    def check(self) -> None:
        self._check_normalize()
        sides = self.resize if isinstance(self.resize, list) and len(self.resize) == 2 else [self.resize]
        if self.resize not in (None, "none") and not all(type(side) is int and side > 0 for side in sides):
            raise UserError(
                f"transforms.resize={as_typed(self.resize)}: must be the side of square images as 224, "
                "[height,width], none, or null."
            )
        for split, nodes in (("train", self.train), ("eval", self.eval)):
            for number, node in enumerate(nodes):
                if not isinstance(node, dict) or "_target_" not in node:
                    raise UserError(
                        f"transforms.{split}[{number}]={as_typed(node)}: a transform is written "
                        "{_target_: torchvision.transforms.v2.RandomRotation, degrees: 10}."
                    )

    def _check_normalize(self) -> None:
        given = self.normalize
        by_name = isinstance(given, str) and re.fullmatch(r"none|train|weights|\w+_Weights\.\w+", given)
        if not (by_name or (isinstance(given, dict) and set(given) == {"mean", "std"})):
            raise UserError(
                f"transforms.normalize={given}: must be none, train, weights, the name of weights as in "
                "ResNet18_Weights.DEFAULT, or '{mean: 0.5, std: 0.5}' (one number per channel or feature, or one for "
                "all)."
            )
        for name, numbers in given.items() if isinstance(given, dict) else ():
            for number in numbers if isinstance(numbers, list) else [numbers]:
                if isinstance(number, bool) or not isinstance(number, int | float):
                    raise UserError(f"transforms.normalize.{name}={numbers}: {number} is not a number.")


@dataclass
class EvalLoader:
    batch_size: int | None = key(
        None, "samples per batch of validation, test and evaluate; null: as in training", min=1
    )
    num_workers: int | None = key(None, "loading processes there; null: as in training", min=0, changes="resume")
    prefetch_factor: int | None = key(
        None, "batches that each of these prepares ahead; null: as in training", min=1, changes="resume"
    )
    collate_fn: Any = key(None, "samples to a batch there, as default_collate; null: as in training")


@dataclass
class Loader:
    changes: ClassVar[str] = "extend evaluate"

    batch_size: int = key(64, "samples per batch (and process)", min=1, changes="inexact")
    shuffle: bool = key(True, "a new order of the training samples every epoch, from (seed, epoch)")
    drop_last: bool = key(False, "leave out a training batch that is not full", decided=True)
    num_workers: int | None = key(
        None,
        "loading processes; null: none for data in memory or quickly fetched, else the cores",
        min=0,
        changes="resume",
    )
    pin_memory: bool | None = key(
        None, "page-locked batches for faster copies to a GPU; null: on CUDA", changes="resume"
    )
    on_device: bool = key(
        False, "hold data in memory on trainer.device, where its batches are then made: no copying", changes="resume"
    )
    prefetch_factor: int | None = key(
        None, "batches that each worker prepares ahead; null: torch's 2", min=1, changes="resume", of_workers=True
    )
    persistent_workers: bool | None = key(
        None, "keep the workers between epochs; null: yes, with workers", changes="resume", of_workers=True
    )
    timeout: float | None = key(
        None, "seconds to wait for a worker's batch; null: 300 with workers", min=0, changes="resume", of_workers=True
    )
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
    worker_init_fn: Any = key(
        None, "called with a loading process's number when it starts: my.function", of_workers=True
    )
    eval: EvalLoader = field(default_factory=EvalLoader)
    skip_unreadable: int = key(0, "leave out up to this many samples that can't be read, and count them", min=0)
    multiprocessing_context: str | None = key(
        None,
        "how workers start; null: forkserver, on every Python",
        choices=("fork", "spawn", "forkserver"),
        changes="resume",
        of_workers=True,
    )

    def check(self) -> None:
        for name, value, word in (
            ("sampler", self.sampler, "balanced"),
            ("batch_sampler", self.batch_sampler, "length"),
        ):
            if value is not None and value != word and not (isinstance(value, dict) and "_target_" in value):
                raise UserError(f"loader.{name}={as_typed(value)}: must be {word}, {{_target_: my.Sampler}} or null.")
        if self.sampler is not None and self.batch_sampler is not None:
            raise UserError(
                "loader.sampler and loader.batch_sampler both say which samples come next: give one of them."
            )
        for name, value in (
            ("pin_memory", self.pin_memory),
            ("num_workers", self.num_workers),
            ("eval.num_workers", self.eval.num_workers),
        ):
            if self.on_device and value:
                raise UserError(
                    f"loader.on_device=true and loader.{name}={as_typed(value)}: what is on the "
                    "device already is neither loaded by processes nor pinned. Give one of them."
                )


# What means something only where processes load the data.
OF_WORKERS = tuple(item.name for item in dataclasses.fields(Loader) if item.metadata.get("of_workers"))


@dataclass
class Finetune:
    weights: str | None = key(
        None,
        "weights to start from: a run, latest, a folder of runs, or a file (.pt, .pth, .safetensors)",
        decided=True,
    )
    partial: bool = key(False, "take what fits of them; the rest stays as it was initialised")
    trainable: str = key(
        "all", "what is trained: all, head, last:N (blocks), or a regular expression of parameters' names"
    )

    def check(self) -> None:
        for name, value in (("weights", self.weights), ("trainable", self.trainable)):
            if value == "":
                raise UserError(f"finetune.{name}=: an empty word. Leave it out, or say which.")


@dataclass
class ParamGroups:
    no_decay_norm_bias: bool = key(False, "no weight decay on norms and biases")
    layer_decay: float | None = key(
        None, "each block's learning rate is this share of the next one's, towards the head", above=0
    )
    head_lr: float | None = key(None, "the learning rate of the head", min=0)
    rules: list[Any] = key(list, "options by parameters' names: [{match: REGEX, lr: 1e-4, weight_decay: 0}]")

    def check(self) -> None:
        for number, rule in enumerate(self.rules):
            if not isinstance(rule, dict) or not isinstance(rule.get("match"), str) or len(rule) < 2:
                raise UserError(
                    f"param_groups.rules[{number}]={as_typed(rule)}: a rule is written {{match: REGEX, lr: 1e-4}}."
                )
            for name in {"params", "name", "share"} & set(rule):  # words of our own for a group
                raise UserError(f"param_groups.rules[{number}]={as_typed(rule)}: {name} is no option of an optimizer.")


@dataclass
class Schedule:
    changes: ClassVar[str] = "extend"

    interval: str = key("step", "when the scheduler ticks", choices=("step", "epoch", "validation"))
    warmup_steps: int = key(0, "steps of linear warm-up in front of the scheduler", min=0)
    draw: bool = key(False, "draw the learning rates over the run, and don't train: debug=schedule")


@dataclass
class TrainerSection:
    changes: ClassVar[str] = "extend"

    _target_: str = key("plainloop.training.Trainer", "a subclass of your own may override train_step")
    max_epochs: int = key(30, "passes over the training split", min=1, changes="resume")
    max_steps: int | None = key(
        None, "stop after this many optimizer steps, if that comes first", min=1, changes="resume"
    )
    device: str = key("auto", "auto | cpu | cuda | cuda:N | mps", changes="resume evaluate")
    precision: str = key(
        "fp32", "fp32, or autocast to bf16 or fp16", choices=("fp32", "bf16", "fp16"), changes="evaluate"
    )
    accumulate_steps: int = key(1, "batches per optimizer step", min=1, changes="inexact")
    max_grad_norm: float | None = key(None, "clip the norm of the gradient to this", above=0)
    compile: bool = key(False, "torch.compile the model")
    channels_last: bool = key(False, "memory format of images and convolutions; faster on GPUs")
    num_threads: int | None = key(
        None,
        "CPU threads of torch; null: one for a small model, else torch's own choice",
        min=1,
        changes="resume evaluate",
    )
    deterministic: bool = key(False, "only deterministic kernels (slower; what bit-equal runs on CUDA need)")
    detect_anomaly: bool = key(False, "autograd names the operation whose backward made a NaN (slow)")
    log_every: int = key(50, "steps between log points", min=1, changes="resume")
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

    def check(self) -> None:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise UserError(f"trainer.device={self.device}: must be auto, cpu, cuda, cuda:N or mps.")
        every = str(self.validate_every)
        if not re.fullmatch(r"\d+s?", every) or re.fullmatch("0+s", every):
            raise UserError(f"trainer.validate_every={every}: a number of epochs, or of steps as in 500s; 0 for never.")
        if (self.ema_decay or 0) >= 1:
            raise UserError(f"trainer.ema_decay={self.ema_decay}: must be below 1, as in 0.999.")
        if self.swa_start and self.ema_decay:
            raise UserError(
                "trainer.ema_decay and trainer.swa_start both say which average of the weights is evaluated: "
                "give one of them."
            )
        if (self.num_threads or 1) > 1024:
            raise UserError(f"trainer.num_threads={self.num_threads}: at most 1024.")


@dataclass
class Checkpoint:
    changes: ClassVar[str] = "resume extend"

    every_epochs: int | None = key(1, "save at every N-th epoch's end; null: only at the end of the run", min=1)
    every_steps: int | None = key(None, "and every N steps", min=1)
    every_minutes: float | None = key(None, "and every N minutes", above=0)
    keep: int = key(2, "newest checkpoints kept, beside the best one", min=1)
    keep_best: int = key(1, "best ones kept, by the monitored value: best.pt, best-2.pt, ...", min=1)


@dataclass
class EarlyStopping:
    changes: ClassVar[str] = "extend"

    patience: int | None = key(None, "validations without a better value before the run ends; null: off", min=1)
    min_delta: float = key(0.0, "how much better counts as better", min=0)


@dataclass
class Console:
    changes: ClassVar[str] = "resume extend"

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
    reading: Any = key(None, "how a sample is read before it is transformed: its shape, and what its kind adds")
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

    def samples(self, split: str) -> int | None:
        """How many a split has; 0 for none, None for a stream that doesn't know."""
        return getattr(self, f"num_{split}")
