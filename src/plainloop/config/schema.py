"""What each command takes: the sections, and the groups of configs/.

A group names a `_target_` (data, model, loss, ...) and is open: it holds that target's own arguments, which are checked
against its signature when it is built. Everything else is closed: a wrong key, type, range or combination is found
before torch is imported.
"""

import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from plainloop.config.keys import as_typed, group, key, open_section, plain
from plainloop.config.sections import (
    Checkpoint,
    Console,
    EarlyStopping,
    Finetune,
    Loader,
    ParamGroups,
    Paths,
    Schedule,
    Spec,
    Split,
    TrainerSection,
    Transforms,
)
from plainloop.errors import UserError, listed


class Command:
    """What is known of a command beside its keys."""

    door: ClassVar[str]  # python DOOR.py; its defaults are configs/DOOR.yaml
    usage: ClassVar[str]  # the first lines of its help
    is_composed: ClassVar[bool] = True  # by Hydra, from configs/DOOR.yaml and what is typed
    first: ClassVar[str] = ""  # of one that isn't: the key whose value may be typed alone, as the first word


@dataclass
class DataPlace:
    """Where a run's data has been moved to. Whether it is still the same is seen by its sizes, splits and digests."""

    path: str | None = key(None, "where the data lies now, if it isn't where it was", changes="resume extend evaluate")
    val: str | None = key(None, "of a stream, where its files for validation lie now", changes="resume extend evaluate")
    test: str | None = key(None, "and those for the test", changes="resume extend evaluate")
    download: bool | None = key(
        None, "of a set of torchvision's: fetch it, if it isn't there", changes="resume extend evaluate"
    )


def trusted() -> Any:
    """The key `trust`, of which each command has one: what a run says of itself authorises nothing."""
    return key(
        list,
        "functions that a _target_ may name beside our own factories, and torch.hub repositories",
        changes="resume extend evaluate",
    )


@dataclass
class Config(Command):
    """What `train.py` takes, and a run is made of."""

    door: ClassVar[str] = "train"
    usage: ClassVar[str] = """\
python train.py [key=value ...]

python train.py model=cnn optimizer.lr=3e-4      choose options of groups, set keys
python train.py experiment=NAME                  a complete recipe
python train.py resume=RUN                       continue a run (RUN: a run directory, or latest)
python train.py hydra.run.dir=DIR resume=auto    start there, or continue: a cluster's one command line
python train.py extend=RUN trainer.max_epochs=20 train longer, as a new run
python train.py -m model=mlp,cnn seed=0,1        a sweep: every combination, then a ranked table
python train.py debug=fast                       a few batches of everything (and overfit, schedule, ...)
python train.py --cfg job [--resolve]            show the config and do nothing
"""

    seed: int = key(0, "everything random follows from it", min=0)
    name: str | None = key(None, "folder of the run under outputs/; null: DATA_MODEL", changes="extend")
    monitor: str = key(
        "val/loss", "the validation quantity that selects the best weights; set by the task", changes="extend"
    )
    monitor_mode: str = key(
        "auto", "auto: as the metric says", choices=("auto", "min", "max"), changes="extend", decided=True
    )
    test: bool = key(
        True, "measure the test split once, at the end (never in sweeps and debug runs)", changes="resume extend"
    )
    report: bool = key(True, "write report.html at the end: the run on one page", changes="resume extend")
    resume: str | None = key(
        None,
        "continue this run: a run directory, latest, or auto (the run in hydra.run.dir, started if need be)",
        changes="resume",
    )
    resume_inexact: bool = key(
        False,
        "let resume= go on with another batch size, accumulation or content of the data; the results then differ",
        changes="resume",
    )
    extend: str | None = key(
        None, "start a new, longer run from this run's weights and optimizer state", changes="extend"
    )
    trust: list[str] = trusted()
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
    data: Any = group(known=DataPlace)
    model: Any = group()
    loss: Any = group(decided=True)
    metrics: Any = group("several")
    task: Any = group()
    optimizer: Any = group(changes="extend")
    scheduler: Any = group("one or none", option="extend", changes="extend")
    logger: Any = group("several", option="extend")
    callbacks: Any = group("several")
    spec: Spec = field(default_factory=Spec)
    choices: Any = field(default_factory=open_section)  # which option of each group was taken; filled in

    def check(self) -> None:
        if self.name and (self.name.startswith("/") or ".." in self.name.split("/")):
            raise UserError(f"name={self.name}: a folder below paths.outputs={self.paths.outputs}; set that instead.")
        if self.resume and self.extend:
            raise UserError("resume= continues a run and extend= starts a new one from it: give one of the two.")


@dataclass
class ExportedFile:
    """`model=FILE`, see `UNDER_A_GROUP`."""

    file: str | None = key(None, "a file that export.py wrote: measured beside the run's own model", changes="evaluate")


@dataclass
class EvaluateConfig(Command):
    """What `evaluate.py` takes."""

    door: ClassVar[str] = "evaluate"
    usage: ClassVar[str] = """\
python evaluate.py run=RUN [split=test] [checkpoint=best|best-2|last|PATH] [model=FILE.onnx]
python evaluate.py run=A,B                  two runs on the same split, in pairs
python evaluate.py run=RUN input=PATH       on other data of the same kind, with their targets

measures a run, rebuilt from its directory alone (RUN: a run directory, or latest)
"""

    run: str = key("latest", "a run directory, or latest; two of them, as A,B, are compared", changes="evaluate")
    input: str | None = key(None, "other data of the same kind, all of it, instead of a split", changes="evaluate")
    split: str = key("test", "what to measure", choices=("train", "val", "test"), changes="evaluate")
    report: bool = key(True, "write the run's report.html anew, with what was measured", changes="evaluate")
    checkpoint: str = key("best", "best | best-2 | last | the path of a checkpoint", changes="evaluate")
    model: ExportedFile = field(default_factory=ExportedFile)
    trust: list[str] = trusted()
    paths: Paths = field(default_factory=Paths)
    data: DataPlace = field(default_factory=DataPlace)
    loader: Loader = field(default_factory=Loader)
    trainer: TrainerSection = field(default_factory=TrainerSection)

    def check(self) -> None:
        file = self.model.file
        if file is None:
            return
        if not file.endswith(".onnx"):
            raise UserError(f"model={file}: must be an ONNX file that export.py wrote; the run's own needs no naming.")
        if not os.path.isfile(os.path.expanduser(file)):
            raise UserError(f"model={file}: there is no such file. python export.py run=RUN output={file} writes it.")
        check_onnx(f"model={file}", ("onnxruntime",))


@dataclass
class PredictConfig(Command):
    """What `predict.py` takes."""

    door: ClassVar[str] = "predict"
    usage: ClassVar[str] = """\
python predict.py run=RUN input=PATH [output=FILE.csv|.jsonl|.parquet]
python predict.py run=RUN prompt="ROMEO:" length=200 temperature=0.8

predicts for new files, rows or arrays what a run has learned (RUN: a run directory, or latest). PATH: a file, a folder,
a pattern, a table, numbers; - for paths on standard input. A model of running text goes on with the prompt
"""

    run: str = key("latest", "a run directory, or latest", changes="evaluate")
    input: Any = key(None, "what to predict from: a path, or [[1,2],[3,4]]", changes="evaluate")
    text: str | None = key(None, "a text to predict from, instead of input", changes="evaluate")
    prompt: str | None = key(None, "a text to go on with, instead of input", changes="evaluate")
    length: int | None = key(None, "of what follows the prompt, in characters; null: 200", min=1, changes="evaluate")
    temperature: float | None = key(
        None, "what the prompt's logits are divided by; 0: always the most probable; null: 1", min=0, changes="evaluate"
    )
    top_k: int | None = key(
        None, "after the prompt, only so many of the most probable characters; null: all", min=1, changes="evaluate"
    )
    seed: int | None = key(None, "that of what is drawn after the prompt; null: 0", min=0, changes="evaluate")
    output: str | None = key(None, "where the answers go; null: a CSV in the run directory", changes="evaluate")
    resume: bool = key(False, "go on where an earlier call with this output was ended", changes="evaluate")
    top: int = key(1, "of classes, so many of the most probable", min=1, changes="evaluate")
    probabilities: bool = key(False, "the probability of every class, too", changes="evaluate")
    checkpoint: str = key("best", "best | best-2 | last | the path of a checkpoint", changes="evaluate")
    trust: list[str] = trusted()
    paths: Paths = field(default_factory=Paths)
    loader: Loader = field(default_factory=Loader)
    trainer: TrainerSection = field(default_factory=TrainerSection)

    def check(self) -> None:
        if [self.input, self.text, self.prompt].count(None) != 2:
            raise UserError(
                "input=PATH or text='...' says what to predict from, prompt='...' what to go on with: give one of them."
            )
        of_prompt = {name: getattr(self, name) for name in ("length", "temperature", "top_k", "seed")}
        of_rows = {name: getattr(self, name) for name in ("output", "resume", "probabilities")}
        for name, value in (of_rows if self.prompt is not None else of_prompt).items():
            if value is not None and value is not False:
                needs = "input=" if self.prompt is not None else "prompt='...'"
                raise UserError(f"{name}={as_typed(value)}: that means something with {needs} only. Leave it out.")
        if self.prompt == "":
            raise UserError("prompt='': one character at least, from which the text goes on.")
        if self.input is not None and not isinstance(self.input, str | list):
            raise UserError(f"input={as_typed(self.input)}: must be a path, or a list of paths or numbers.")
        if self.output is not None and not self.output.endswith((".csv", ".jsonl", ".parquet")):
            raise UserError(f"output={self.output}: must end in .csv, .jsonl or .parquet.")


@dataclass
class RunsConfig(Command):
    """What `runs.py` takes: words alone, of which nothing is composed."""

    door: ClassVar[str] = "runs"
    usage: ClassVar[str] = """\
python runs.py [FOLDER] [key=value ...]

python runs.py                                   all runs below outputs/, newest first, and what differs between them
python runs.py sort=test/accuracy                the best first; sort=-optimizer.lr turns the order round
python runs.py 'filter=model=cnn,optimizer.lr<1e-2,status=finished'
python runs.py compare=A,B                       what differs between some, and their curves (A: a run's name, the end
                                                 of it, or latest)
python runs.py compare=A,B format=html > compare.html
"""
    is_composed: ClassVar[bool] = False
    first: ClassVar[str] = "outputs"

    outputs: str = key("outputs", "the folder below which runs are looked for; it may be typed without outputs=")
    sort: str | None = key(None, "a metric, a key of the config, status, seconds, ...; null: the newest first")
    filter: str | None = key(None, "conditions on these, with =, !=, <, <=, >, >=, several by comma")
    compare: str | None = key(None, "two runs or more, by comma")
    format: str = key(
        "terminal", "what is written to standard output", choices=("terminal", "md", "csv", "latex", "html")
    )

    def check(self) -> None:
        if self.compare is not None and (self.sort or self.filter):
            raise UserError("compare= names its runs: leave sort= and filter= out.")


@dataclass
class ExportConfig(Command):
    """What `export.py` takes."""

    door: ClassVar[str] = "export"
    usage: ClassVar[str] = """\
python export.py run=RUN [format=onnx|torch_export|safetensors] [output=FILE]

writes a file that takes raw inputs (pixels, a table's numbers, a text's tokens) and gives named outputs, checked
against PyTorch; beside an ONNX file, use.py, which needs neither this project nor PyTorch (RUN: a run directory, or
latest)
"""

    run: str = key("latest", "a run directory, or latest", changes="evaluate")
    format: str = key(
        "onnx",
        "onnx: for onnxruntime and others; torch_export: a .pt2 for torch; safetensors: the weights alone",
        choices=("onnx", "torch_export", "safetensors"),
        changes="evaluate",
    )
    output: str | None = key(None, "where it goes; null: export/model.onnx in the run directory", changes="evaluate")
    quantize: str = key(
        "none", "of an ONNX file: int8 writes weights of 8 bits", choices=("none", "int8"), changes="evaluate"
    )
    checkpoint: str = key("best", "best | last | the path of a checkpoint", changes="evaluate")
    trust: list[str] = trusted()
    paths: Paths = field(default_factory=Paths)
    data: DataPlace = field(default_factory=DataPlace)
    loader: Loader = field(default_factory=Loader)
    trainer: TrainerSection = field(default_factory=TrainerSection)

    def check(self) -> None:
        suffix = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}[self.format]
        if self.output is not None and not self.output.endswith(suffix):
            raise UserError(f"output={self.output}: format={self.format} writes a file that ends in {suffix}.")
        if self.quantize != "none" and self.format != "onnx":
            raise UserError(f"quantize={self.quantize}: it is for format=onnx, and this is format={self.format}.")
        if self.format == "onnx":
            check_onnx("format=onnx")


def check_onnx(what: str, needed: Sequence[str] = ("onnx", "onnxscript", "onnxruntime")) -> None:
    """Whether ONNX files can be made and run here. Raises UserError with the command that installs what is lacking.

    Args:
        what: asks for it, as it was typed.
        needed: packages.
    """
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs {listed(missing)}, which {'is' if len(missing) == 1 else 'are'}n't installed. Type: "
            "pip install -e '.[export]' (in the checkout; or pip install \"plainloop[export]\")"
        )


# --- a composed config as one of these ------------------------------------------------------------------------


def as_config(cfg: DictConfig, schema: type[Command] = Config) -> Any:
    """A composed config with its sections as dataclasses, every `${...}` in them filled in. Open groups stay as they
    are: they refer to facts about the data, which aren't there yet."""
    values = {}
    for item in dataclasses.fields(schema):  # type: ignore[arg-type]
        node = cfg[item.name]
        is_section, is_key = dataclasses.is_dataclass(item.type), "help" in item.metadata
        values[item.name] = OmegaConf.to_object(node) if is_section else plain(node) if is_key else node
    return schema(**values)


def record(config: Config, cfg: DictConfig) -> None:
    """Write what has been decided since `as_config` into the composed config, which is saved with the run."""
    for item in dataclasses.fields(Config):
        name = item.name
        if dataclasses.is_dataclass(item.type):
            section, node = getattr(config, name), cfg[name]
            for part in (part.name for part in dataclasses.fields(section)):
                now = plain(getattr(section, part))
                if now != plain(node[part]):
                    OmegaConf.update(node, part, now, merge=False)
        elif "help" in item.metadata and plain(cfg[name]) != getattr(config, name):
            cfg[name] = getattr(config, name)
