"""An exported file, measured like the run that it was made of: the same split, the same metrics, beside the model."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.assembly.deployable import difference, digest_of
from plainloop.assembly.onnx_file import Exported
from plainloop.assembly.serving import of_session
from plainloop.assembly.session import Session
from plainloop.commands.train import plain_numbers
from plainloop.data.raw import Raw
from plainloop.errors import UserError, listed, tell
from plainloop.reports import tables
from plainloop.runs import atomic
from plainloop.tasks.task import Task
from plainloop.training import evaluation
from plainloop.training.batches import Preparation


def evaluate_exported(run: Any, name: str, file: Path, split: str) -> dict[str, float]:
    """Measure a file and the run's own model on a split, and tell both; the file's numbers, as {"test/loss": ...}.

    Args:
        run: a `plainloop.Run`.
        name: of the checkpoint whose weights it has.
    """
    both = measure_exported(run.session, file, split)
    values = {f"{split}/{metric}": value for metric, value in both["ONNX"]["metrics"].items()}
    result = run.path / f"evaluate-{split}-{name}-{file.stem}.json"
    atomic.replace_text(result, json.dumps(plain_numbers(values), indent=2) + "\n")
    tell(f"run     {run.path}", sys.stdout)
    tell(f"model   {file}, of {name} weights", sys.stdout)
    metrics = list(both["ONNX"]["metrics"])
    rows = [["", "size", "ms per sample", *metrics]]
    for kind, found in both.items():
        numbers = [f"{found['metrics'][metric]:.4f}" for metric in metrics]
        rows.append([kind, f"{found['bytes'] / 1e6:.3f} MB", f"{found['ms']:.3f}", *numbers])
    for line in tables.table(rows).splitlines():
        tell(f"        {line}", sys.stdout)
    tell(
        f"apart   {both['ONNX']['apart']:.2g} at most, of the outputs of {both['ONNX']['count']:,} samples", sys.stdout
    )
    tell(f"written {result}", sys.stdout)
    return values


def measure_exported(session: Session, file: Path, split: str) -> dict[str, dict[str, Any]]:
    """A file of `export.py` and the model that it was made of, on a split of the run: {"PyTorch": ..., "ONNX": ...},
    and of each {"metrics": ..., "bytes": ..., "ms": ...} (per sample, with what happens before the model and behind
    it). Raises UserError for a file that isn't of these weights.
    """
    exported = Exported(file, f"model={file}")
    _check_weights(exported, session, file)
    own = session.measure(split)
    beside = Beside(exported, session.model, session.task)
    prepare = Passing(session.prepare, beside, of_session(session).reader.raw())
    loader = session.loader(split)
    assert loader is not None  # else it couldn't be measured
    with loader:
        found = evaluation.measure(beside, session.task, loader, prepare)
    weights = sum(value.nbytes for value in session.model.state_dict().values())
    of_torch = {"metrics": own, "bytes": weights, "ms": 1000 * beside.seconds["PyTorch"] / beside.count}
    of_file = {"metrics": found, "bytes": file.stat().st_size, "ms": 1000 * beside.seconds["ONNX"] / beside.count}
    return {"PyTorch": of_torch, "ONNX": of_file | {"apart": beside.apart, "count": beside.count}}


def _check_weights(exported: Exported, session: Session, file: Path) -> None:
    """Whether a file was made of a session's weights. Raises UserError."""
    if "weights" not in exported.facts:
        raise UserError(
            f"model={file}: it tells nothing of where it comes from, so it wasn't written by export.py: what its "
            "inputs and outputs mean isn't known."
        )
    if exported.facts["weights"] != digest_of(session.model, session.preprocess, session.task):
        raise UserError(
            f"model={file}: it has other weights than this run's (it is of the run {exported.facts.get('run')}): name "
            "that run, or the checkpoint that it was made of, by run= and checkpoint=."
        )


class Beside(nn.Module):
    """A file in the place of the model, which is asked as well.

    Args:
        exported: the file.
        model: the run's.
        task: says what both mean.
    """

    def __init__(self, exported: Exported, model: nn.Module, task: Task):
        super().__init__()
        self.exported, self.model, self.task = exported, model, [task]
        self.inputs: dict[str, Tensor] = {}  # of the batch that comes next, raw
        self.seconds = {"PyTorch": 0.0, "ONNX": 0.0}
        self.apart, self.count = 0.0, 0

    def forward(self, *inputs: Any, **by_name: Any) -> Tensor:
        start = time.perf_counter()
        outputs = self.model(*inputs, **by_name)
        truth = self.task[0].named(outputs, by_name or inputs[0])
        between = time.perf_counter()
        said = self.exported(self.inputs)
        self.seconds["PyTorch"] += between - start
        self.seconds["ONNX"] += time.perf_counter() - between
        self.count += len(next(iter(said.values())))
        if missing := truth.keys() - said.keys():
            raise UserError(
                f"the file gives no {listed(missing)}, which the run's task says: it isn't one of export.py."
            )
        found = {name: torch.from_numpy(said[name]) for name in truth}
        self.apart = max(self.apart, *(difference(found[name], each.cpu()) for name, each in truth.items()))
        return found[self.task[0].outputs_name].to(outputs.device)


class Passing(Preparation):
    """A batch's way to the model, on which its raw inputs are handed to the file.

    Args:
        prepare: the run's.
        beside: the file.
        raw: what it takes.
    """

    def __init__(self, prepare: Preparation, beside: Beside, raw: Raw):
        super().__init__(prepare.preprocess, prepare.device, prepare.precision, prepare.channels_last)
        self.beside, self.raw = beside, raw

    def __call__(self, batch: Any) -> Any:
        inputs = batch[0] if isinstance(batch, tuple | list) else batch
        self.beside.inputs = {name: each.cpu().contiguous() for name, each in self.raw.back(inputs).items()}
        start = time.perf_counter()
        prepared = super().__call__(batch)
        self.beside.seconds["PyTorch"] += time.perf_counter() - start
        return prepared
