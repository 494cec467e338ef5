"""`python predict.py`: what a run has learned, for new inputs."""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from plainloop.assembly.serving import Served
from plainloop.commands.failures import explained
from plainloop.commands.run import load_served
from plainloop.commands.startup import collect_garbage_again
from plainloop.config.keys import plain
from plainloop.data.kinds.vocabulary import STRANGE
from plainloop.errors import MachineError, UserError, counted, listed, tell
from plainloop.models.characters import CharModel
from plainloop.reports import tables
from plainloop.reports.rows import Row, RowFile
from plainloop.runs.directory import RunDir

SHOWN = 10  # rows on the terminal


def predict_config(cfg: DictConfig, typed: Sequence[str]) -> Path | None:
    """Predict what a composed config of `predict.py` describes; the file with the answers, or none for a text."""
    run, served, _ = load_served(cfg, typed)
    if cfg.prompt is not None:
        with explained(None):
            tell(f"run     {run}", sys.stderr)  # the text alone on standard output
            tell(cfg.prompt + _written(cfg, served), sys.stdout)
        return None
    with explained(None):
        collect_garbage_again()
        if cfg.text is not None and not served.reader.takes_text:
            raise UserError(
                f"text={cfg.text:.20}: this run's data={served.config.choices.get('data')}, of no texts: input=PATH"
            )
        path = _output(cfg, run)
        new = served.reader.open(plain(cfg.input) if cfg.text is None else [cfg.text])
        tell(f"run     {run}", sys.stdout)
        for note in new.notes:
            tell(f"note    {note}", sys.stdout)
        file = RowFile(path, resume=cfg.resume)
        if file.done and (file.done > len(new.names) or str(new.names[file.done - 1]) != file.last):
            raise UserError(f"resume=true: {path} has answers for another input, as its last row ({file.last}) tells.")
        if file.done:
            tell(f"resume  {counted(file.done, 'row')} stand in {path} already", sys.stdout)
        shown: list[Row] = []
        count = failed = 0
        with file:
            for row in _with_bar(served.rows(new, cfg.top, cfg.probabilities, file.done), len(new.names) - file.done):
                file.write(row)
                count, failed = count + 1, failed + ("error" in row and row["error"] != "")
                if len(shown) < SHOWN:
                    shown.append(row)
    for line in _table(shown).splitlines():
        tell(f"        {line}", sys.stdout)
    more = f", {count - len(shown):,} more of them in the file" if count > len(shown) else ""
    tell(f"done    {counted(count, 'row')}{more}", sys.stdout)
    tell(f"written {path}", sys.stdout)
    if failed:
        what = f"{counted(failed, 'input')} of {count} can't be read, and have an error in the place of an answer"
        if failed == count:
            raise MachineError(f"none of {counted(count, 'input')} can be read, as {shown[0]['error']}: see {path}")
        tell(f"warning: {what}", sys.stderr)
    return path


def _written(cfg: DictConfig, served: Served) -> str:
    """What a model of running text writes after the prompt. Raises UserError for another model."""
    model = served.model
    if not isinstance(model, CharModel):
        raise UserError(
            f"prompt={cfg.prompt:.20}: this run's model={served.config.choices.get('model')} writes no text: "
            "input=PATH says what to predict from."
        )
    unknown = sorted(set(cfg.prompt) - set(model.vocabulary))
    if unknown and STRANGE not in model.vocabulary:
        raise UserError(
            f"prompt={cfg.prompt:.20}: the text that the run has learned has no {listed(map(repr, unknown))}. It has: "
            f"{listed(map(repr, model.vocabulary), 100)}."
        )
    if unknown:
        tell(f"note    not in the training text, and read as unknown: {listed(map(repr, unknown))}", sys.stderr)
    generator = torch.Generator().manual_seed(cfg.seed or 0)
    temperature = 1.0 if cfg.temperature is None else cfg.temperature
    with served.prepare.autocast():
        return model.generate(cfg.prompt, cfg.length or 200, temperature, generator, cfg.top_k)


def _output(cfg: DictConfig, run: RunDir) -> Path:
    """Where the answers go. Raises UserError."""
    if cfg.output is not None:
        path = Path(cfg.output).expanduser()
        if isinstance(cfg.input, str) and path.exists() and Path(cfg.input).exists() and path.samefile(cfg.input):
            raise UserError(f"output={cfg.output}: that is the input.")
        if not path.parent.is_dir():
            folder = path.parent
            raise UserError(f"output={cfg.output}: there is no folder {folder}. Make it first: mkdir -p {folder}")
        return path
    name = "text" if cfg.text is not None else Path(cfg.input).stem if isinstance(cfg.input, str) else ""
    name = name or "input"
    name = "stdin" if name == "-" else re.sub(r"[^\w.+-]", "_", name)
    return run.path / f"predictions-{name}.csv"


def _with_bar(answers: Iterator[Row], count: int) -> Iterator[Row]:
    """A bar on a terminal, where it takes a while."""
    if not sys.stderr.isatty():
        return answers
    from tqdm import tqdm

    return iter(tqdm(answers, total=count, unit=" rows", delay=1, leave=False))


def _table(shown: Sequence[Row]) -> str:
    """The first rows for people."""
    if not shown:
        return ""
    names = [name for name in shown[0] if name != "error" or any(row["error"] for row in shown)]
    lines = [names, *([_short(row[name]) for name in names] for row in shown)]
    return tables.table([line[:12] for line in lines])


def _short(value: Any) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:18]} ... {text[-17:]}"
