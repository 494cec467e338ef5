"""`python export.py`: a run as one file that takes raw inputs, for whoever has neither this project nor its data."""

import io
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from plainloop.assembly import deployable, onnx_file
from plainloop.assembly.deployable import Graph
from plainloop.assembly.quiet import quietly
from plainloop.assembly.serving import Served
from plainloop.assembly.spec import facts_filled
from plainloop.commands.failures import explained
from plainloop.commands.measure_export import measure_exported
from plainloop.commands.run import load_composed, load_served
from plainloop.commands.startup import collect_garbage_again
from plainloop.config.keys import plain
from plainloop.errors import MachineError, UserError, first_line, listed, tell
from plainloop.runs import atomic
from plainloop.runs.directory import RunDir

SUFFIX = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
FIRST = '"""What a model says of a file: python use.py FILE. Needs numpy'  # of every use.py


def export_config(cfg: DictConfig, typed: Sequence[str]) -> Path:
    """Export what a composed config of `export.py` describes; the file."""
    run, served, _ = load_served(cfg, typed, on_cpu=True)
    with explained(None):
        collect_garbage_again()
        path = _output(cfg, run)
        tell(f"run     {run}", sys.stdout)
        facts = deployable.facts_of(served, run.path.name)
        if cfg.format == "safetensors":
            content = _weights(served, facts)
            _write(path, content)
            tell(
                f"holds   {len(served.model.state_dict())} tensors of the model, by their names in its state_dict",
                sys.stdout,
            )
            tell(f"written {path} ({_size(len(content))})", sys.stdout)
            return path
        graph = deployable.traced(served)
        facts |= {"takes": _plain(graph.inputs), "gives": _plain(graph.outputs), **graph.raw.facts}
        for line in graph.lines():
            tell(line, sys.stdout)
        precision = served.config.trainer.precision
        if precision != "fp32":
            tell(f"note    it computes in fp32; the run itself predicts in {precision}", sys.stdout)
        make = _onnx if cfg.format == "onnx" else _torch_export
        content, largest = make(graph, facts)
        shapes = f"batches of {', '.join(map(str, deployable.TRIED))}"
        tell(f"checked against PyTorch in {shapes}: the largest difference is {largest:.2g}", sys.stdout)
        if cfg.quantize == "int8":
            whole, content = content, onnx_file.quantised(content)
            tell(
                f"int8    {_size(len(content))} instead of {_size(len(whole))}; {_loss(cfg, typed, content)}",
                sys.stdout,
            )
        _write(path, content)
        tell(f"written {path} ({_size(len(content))})", sys.stdout)
        if cfg.format == "onnx":
            beside = path.with_name("use.py")
            atomic.replace_text(beside, program(path.name, graph, served))
            tell(f"written {beside}", sys.stdout)
            tell(f"next    python {beside} FILE", sys.stdout)
    return path


def _output(cfg: DictConfig, run: RunDir) -> Path:
    """Where the file goes. Raises UserError."""
    suffix = SUFFIX[cfg.format]
    if cfg.output is None:
        folder = run.path / "export"
        if folder.is_symlink():
            raise UserError(f"{folder} is a link: nothing is written through it. Another place: output=FILE{suffix}")
        path = folder / f"model{'.int8' if cfg.quantize == 'int8' else ''}{suffix}"
    else:
        path = Path(cfg.output).expanduser()
    if cfg.output is not None and not path.parent.is_dir():
        raise UserError(f"output={cfg.output}: there is no folder {path.parent}. Make it first: mkdir -p {path.parent}")
    if path.is_dir():
        raise UserError(f"output={cfg.output}: that is a folder.")
    beside = path.with_name("use.py")
    if cfg.format == "onnx" and (beside.exists() or beside.is_symlink()):
        ours = beside.is_file() and not beside.is_symlink() and beside.read_bytes().startswith(FIRST.encode())
        if not ours:
            raise UserError(
                f"{beside} isn't one that export.py has written, and would be replaced: choose another output="
            )
        if f"with_name({path.name!a})" not in beside.read_text(errors="replace"):
            raise UserError(
                f"{beside} is that of another file, which would be left without: choose another folder in output="
            )
    return path


def _write(path: Path, content: bytes) -> None:
    """A whole file, or none. An OSError names it."""
    try:
        path.parent.mkdir(exist_ok=True)
        with atomic.replacing(path) as file:
            file.write(content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _loss(cfg: DictConfig, typed: Sequence[str], content: bytes) -> str:
    """What a quantised file loses, on the validation split, where the run's data can be had."""
    try:
        with quietly():
            session = load_composed(cfg, typed)[0].session
    except UserError as error:
        return f"what it loses isn't measured: {first_line(error)}"
    split = next((split for split in ("val", "test", "train") if session.data[split] is not None), "train")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(content)
        both = measure_exported(session, file, split)
    pairs = [(name, both["ONNX"]["metrics"][name], value) for name, value in both["PyTorch"]["metrics"].items()]
    return listed(f"{split}/{name} {now:.4f} instead of {was:.4f}" for name, now, was in pairs)


def _size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _plain(signature: Mapping[str, tuple[str, tuple[str | int, ...]]]) -> dict[str, Any]:
    """A signature as JSON has it."""
    return {name: [kind, list(axes)] for name, (kind, axes) in signature.items()}


# --- the formats ----------------------------------------------------------------------------------------------------


def _onnx(graph: Graph, facts: Mapping[str, Any]) -> tuple[bytes, float]:
    content = onnx_file.made(graph, facts)
    exported = onnx_file.Exported(content, "the file")
    return content, graph.compare(exported, "the file")


def _torch_export(graph: Graph, facts: Mapping[str, Any]) -> tuple[bytes, float]:
    """A program of torch.export's, which `torch.export.load` reads; the facts lie in it as facts.json."""
    program = deployable.standing_alone(graph)
    for node in program.graph.nodes:  # where it was traced: paths of this machine
        for told in ("stack_trace", "source_fn_stack", "from_node"):
            node.meta.pop(told, None)
    buffer = io.BytesIO()
    with quietly():
        torch.export.save(program, buffer, extra_files={"facts.json": json.dumps(facts)})
        buffer.seek(0)
        module = torch.export.load(buffer).module()

    def run(inputs: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
        with torch.no_grad():
            return module(*inputs.values())

    return buffer.getvalue(), graph.compare(run, "the file")


def _weights(served: Served, facts: Mapping[str, Any]) -> bytes:
    """The model's weights, as safetensors; what to build for them, and what happens before and behind it, in the
    metadata."""
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in served.model.state_dict().items()}
    around = {"preprocess": served.prepare.preprocess, "task": served.task}
    told = {**facts, "arguments": facts_filled(served.config, "model"), "spec": plain(served.config.spec)}
    for name, module in around.items():
        told[f"state of {name}"] = {key: value.tolist() for key, value in module.state_dict().items()}
    try:
        return save(tensors, {"format": "pt", "plainloop": json.dumps(told)})
    except Exception as error:  # of safetensors, for types of numbers that it doesn't have
        raise MachineError(f"format=safetensors: {first_line(error)}") from error


# --- a program that uses the file -----------------------------------------------------------------------------------


def program(name: str, graph: Graph, served: Served) -> str:
    """A few lines of Python that say of a file what `predict.py` says. Whatever the run tells (names of classes, of
    columns) is read from the file's metadata: nothing of it becomes code.

    Args:
        name: of the exported file, beside which it will lie.
    """
    raw = graph.raw
    pillow = ", Pillow" if "PIL" in raw.imports else ""
    standard = [line for line in raw.imports.splitlines() if line.startswith("import")]
    ours = "\n".join(sorted(["import json", "import sys", *standard]))
    others = "\n".join(["import numpy", "import onnxruntime", *raw.imports.splitlines()[len(standard) :]])
    return f'''{FIRST}{pillow} and onnxruntime."""

{ours}
from pathlib import Path

{others}

if len(sys.argv) != 2:
    sys.exit(__doc__)
path = sys.argv[1]
session = onnxruntime.InferenceSession(Path(__file__).with_name({name!a}))
facts = json.loads(session.get_modelmeta().custom_metadata_map["plainloop"])
{raw.script}
said = dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs)))
{served.task.script}'''
