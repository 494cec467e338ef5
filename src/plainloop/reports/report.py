"""report.html: a run on one page, for whoever hasn't seen its terminal.

At the end of a run it is written from what is in memory and in the run's directory; evaluate.py writes it anew, with
pictures of what went wrong.
"""

import dataclasses
import itertools
import json
import math
import shlex
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from plainloop.assembly.session import Session
from plainloop.assembly.summary import metric
from plainloop.config import options
from plainloop.config.schema import Config
from plainloop.data import first_sample
from plainloop.data.dataset import SPLITS, size
from plainloop.errors import UserError, counted
from plainloop.models.characters import CharModel
from plainloop.places import typed
from plainloop.reports import samples
from plainloop.reports.evaluation import Evaluation
from plainloop.reports.evaluation import samples as rows_of
from plainloop.reports.page import code, escaped, number, page, paragraph, section, table
from plainloop.reports.svg import curves
from plainloop.runs import files
from plainloop.runs.atomic import replace_text
from plainloop.runs.directory import RunDir
from plainloop.runs.survey import records
from plainloop.tasks.intervals import Interval

MOST_CLASSES = 30  # of a confusion matrix that is shown as such
MOST_RECORDS = 200_000  # of a history
WORST = 24  # samples
FROM_FILES = 6  # of them, where the run's end would wait for their files to be decoded
IN_CELL = 6  # samples of each cell that can be opened
IN_CELLS = 150  # of all cells
SCATTERED = 1500  # points of residuals
PROMPT, WRITTEN = 30, 300  # characters


def write_report(
    run: RunDir,
    config: Mapping[str, Any],
    status: str,
    session: Session | None = None,
    found: Evaluation | None = None,
    metrics: Mapping[str, float] | None = None,
    memory: str = "",
    rich: bool = False,
) -> None:
    """Write report.html into a run's directory.

    Args:
        config: the run's.
        status: "finished", "interrupted", "failed: ...", "running".
        session: what the run is made of, where it is there.
        found: what was measured last, where it was.
        metrics: the content of metrics.json.
        memory: the most that was needed, in words.
        rich: with what takes a while: all the pictures from files, the samples behind each cell.
    """
    metrics, history = dict(metrics or {}), _history(run)
    environment = _json(run.environment)
    head = _head(run, config, status, metrics, found, environment)
    parts = [
        head,
        section("Result", _result(metrics, found)),
        section("Curves", _curves(history, metrics)),
        *(_of_split(found, session, rich) if found is not None and session is not None else ()),
        section("Data", *_data(config, run)),
        section("Configuration", *_configuration(config, run)),
        section("Cost", _cost(metrics, history, memory)),
        section("Code and machine", *_environment(environment)),
        section("What next", *_commands(run, environment, status)),
    ]
    replace_text(run.report, page(f"{run.path.parent.name}/{run.path.name}", parts))


def most_memory(device: torch.device) -> str:
    """The most that this process has needed so far, in words."""
    if device.type == "cuda":
        return f"{metric(torch.cuda.max_memory_allocated(device))}B on the GPU"
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{metric(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)}B"


# --- from the run's files -------------------------------------------------------------------------------------


def _json(path: Path) -> dict[str, Any]:
    try:
        return files.load_json(path, "") if path.is_file() else {}
    except UserError:
        return {}


def _text(path: Path) -> str:
    try:
        return files.read_regular(path, files.MOST_JSON).decode(errors="replace")
    except (OSError, ValueError):
        return ""


def _history(run: RunDir) -> list[dict[str, float]]:
    """The records of history.jsonl; a line that isn't whole is left out."""
    try:
        found = [record for record in records(run) if "step" in record]
    except UserError:
        return []
    return found[-MOST_RECORDS:]


def _head(
    run: RunDir,
    config: Mapping[str, Any],
    status: str,
    metrics: Mapping[str, Any],
    found: Evaluation | None,
    environment: Mapping[str, Any],
) -> str:
    """What it is, whether it is finished, and the number that counts."""
    choices = config.get("choices") or {}
    what = f"data={choices.get('data')} model={choices.get('model')} task={choices.get('task')}"
    kind = "good" if status == "finished" else "bad" if status.startswith("failed") else "faint"
    begun = str(environment.get("time", ""))[:16].replace("T", " ")
    written = time.strftime("%Y-%m-%d %H:%M")
    lines = [
        f"<h1>{escaped(config.get('name') or '_'.join(str(choices.get(group)) for group in ('data', 'model')))}</h1>",
        f'<p><span class="status {kind}">{escaped(status)}</span> {escaped(run)}</p>',
        paragraph(f"{what}, seed {config.get('seed')}; begun {begun}, this page written {written}", "faint"),
    ]
    monitor = str(config.get("monitor") or "val/loss").removeprefix("val/")
    shown: list[tuple[str, float, str]] = []
    if found is not None:
        for name in dict.fromkeys((monitor, *found.values)):
            if name in found.values and len(shown) < 2:
                bounds = found.intervals.get(name)
                between = f"95 % interval {_between(bounds)}" if _between(bounds) != "-" else ""
                idle = found.baseline.get(name)
                without = f"{number(idle)} without looking at the inputs" if idle is not None else ""
                said = "; ".join(filter(None, (between, without)))
                shown.append((f"{found.split} {name}", found.values[name], said))
    else:
        shown = [(name, metrics[name], "") for name in (f"val/{monitor}", "val/loss") if name in metrics][:1]
    boxes = [
        f"<div>{escaped(name)}<b>{number(value)}</b><small>{escaped(said)}</small></div>" for name, value, said in shown
    ]
    return "\n".join([*lines, f'<div class="result">{"".join(boxes)}</div>' if boxes else ""])


def _between(bounds: Interval | None) -> str:
    known = bounds is not None and all(map(math.isfinite, bounds))
    return " to ".join(map(number, bounds)) if bounds is not None and known else "-"


def _result(metrics: Mapping[str, Any], found: Evaluation | None) -> str:
    """Every metric of every split."""
    values = {split: {n.removeprefix(f"{split}/"): v for n, v in metrics.items() if n.startswith(f"{split}/")}
              for split in ("val", "test")}  # fmt: skip
    if found is not None:
        values[found.split] = dict(found.values)
    splits = [split for split, each in values.items() if each]
    names = list(dict.fromkeys(name for split in splits for name in values[split]))
    if not names:
        return paragraph("Nothing has been measured.", "faint")
    bounds = found.intervals if found is not None else {}
    idle = found.baseline if found is not None else {}
    columns = ["", *splits, *([f"95 % interval of {found.split}"] if found is not None and bounds else []),
               *(["baseline"] if idle else [])]  # fmt: skip
    rows = []
    for name in names:
        row: list[Any] = [name, *(values[split].get(name) for split in splits)]
        if bounds:
            row.append(_between(bounds.get(name)))
        rows.append([*row, idle.get(name)] if idle else row)
    notes = []
    if found is not None:
        notes.append(f"{found.split}: {counted(found.count, 'sample')}.")
    if idle:
        notes.append("Baseline: a model that knows how the targets are spread in train, and no inputs.")
    if "best/epoch" in metrics:
        notes.append(f"Best weights: epoch {metrics['best/epoch']}, step {metrics['best/step']:,}, by validation.")
    return table(columns, rows) + paragraph(" ".join(notes), "faint")


def _curves(history: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> str:
    """What was recorded over the steps: the loss, every metric, the learning rate."""
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in history:
        for name, value in record.items():
            if name not in ("step", "epoch"):
                lines[name].append((record["step"], value))
    best = metrics.get("best/step")
    drawn = []
    quantities = [name.removeprefix("val/") for name in lines if name.startswith("val/")]
    for quantity in dict.fromkeys(["loss", *quantities]):
        batch = "train" if quantity == "loss" else "train, one batch"  # metrics are of the log point's batch alone
        names = {"val": "val", batch: "train", "train, mean of an epoch": "train/epoch"}
        names = {label: f"{first}{'_' if first.endswith('epoch') else '/'}{quantity}" for label, first in names.items()}
        series = {label: lines.get(name, []) for label, name in names.items()}  # each with its colour in every plot
        at = [value for step, value in series["val"] if step == best]
        marks = {"best": (float(best), at[0])} if best is not None and at else None
        if any(series.values()):
            drawn.append(curves(series, quantity, "step", "", marks))
    rates = {name: line for name, line in lines.items() if name == "lr" or name.startswith("lr/")}
    if any(len({value for _, value in line}) > 1 for line in rates.values()):
        drawn.append(curves(rates, "learning rate", "step", "learning rate"))
    return f'<div class="plots">{"".join(drawn)}</div>' if drawn else paragraph("No step has been logged.", "faint")


def _data(config: Mapping[str, Any], run: RunDir) -> Iterator[str]:
    """Sizes of the splits, and what was said of them when the run began."""
    spec = config.get("spec") or {}
    rows = [(split, spec.get(f"num_{split}")) for split in SPLITS if spec.get(f"num_{split}")]
    if rows:
        yield table(["split", "samples"], rows)
    lines = _text(run.log).splitlines()
    for line in dict.fromkeys(line for line in lines if line.startswith(("data    ", "warning: ", "note    "))):
        yield paragraph(line.removeprefix("data    ").removeprefix("note    "))


def _configuration(config: Mapping[str, Any], run: RunDir) -> Iterator[str]:
    """What isn't as it is by default."""
    rows = [(name, _written(value), _written(default)) for name, value, default in differences(config)]
    try:
        words = run.typed()
    except UserError:
        words = []
    pairs = [word.partition("=")[::2] for word in words]
    rows += [(name, value, "") for name, value in pairs if name not in {row[0] for row in rows}]
    yield table(["key", "here", "by default"], rows, texts=(1, 2)) if rows else paragraph("All as it is by default.")
    yield paragraph(f"Typed: {shlex.join(words)}" if words else "", "faint")
    yield code(_text(run.config), "the whole configuration")


def differences(config: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The choices of a config, and the keys of its closed sections that have another value than by default."""
    taken = options.usual()
    for name, choice in (config.get("choices") or {}).items():
        if choice != taken.get(name):
            yield name, choice, taken.get(name)
    plainly = Config()
    for item in dataclasses.fields(Config):
        default = getattr(plainly, item.name)
        if dataclasses.is_dataclass(default) and not isinstance(default, type) and item.name != "spec":
            yield from _apart(item.name, config.get(item.name), dataclasses.asdict(default))
        elif "help" in item.metadata and item.name != "trust":
            yield from _apart(item.name, config.get(item.name), default)


def _written(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:197]}..."


def _apart(name: str, value: Any, default: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, dict) and isinstance(default, dict):
        for key in value:
            yield from _apart(f"{name}.{key}", value[key], default.get(key))
    elif value != default:
        yield name, value, default


def _cost(metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]], memory: str) -> str:
    rates = [record["samples_per_second"] for record in history if "train/epoch_loss" in record
             and isinstance(record.get("samples_per_second"), int | float)]  # fmt: skip
    rows: list[tuple[str, Any]] = []
    if "seconds" in metrics:
        rows.append(("seconds", f"{float(metrics['seconds']):,.1f}"))
    rows += [(name, metrics[name]) for name in ("epochs", "steps", "samples", "parameters") if name in metrics]
    if rates:
        rows.append(("samples per second, the median epoch", round(sorted(rates)[len(rates) // 2])))
    if memory:
        rows.append(("most memory", memory))
    return table(["", ""], rows) if rows else ""


def _environment(environment: Mapping[str, Any]) -> Iterator[str]:
    versions = environment.get("versions")
    rows = [
        (name, environment[name])
        for name in ("platform", "processor", "cpu_count", "threads", "gpus", "python", "hostname", "git_commit")
        if environment.get(name)
    ]
    rows += [(name, version) for name, version in (versions if isinstance(versions, dict) else {}).items() if version]
    if rows:
        yield table(["", ""], [(name, str(value)) for name, value in rows], texts=(1,))
    yield code(str(environment.get("git_diff") or ""), "what was changed in the checkout since that commit")


def _commands(run: RunDir, environment: Mapping[str, Any], status: str) -> Iterator[str]:
    """To repeat it, to go on, to measure, to use it."""
    if environment.get("command"):
        yield f"<h3>the same again</h3>{code(str(environment['command']))}"
    go_on = "go on" if status != "finished" else "train longer"
    words = [run.word("resume")] if status != "finished" else [run.word("extend"), "trainer.max_epochs=N"]
    lines = {
        go_on: typed("train.py", *words),
        "measure it": typed("evaluate.py", run.word("run")),
        "use it": typed("predict.py", run.word("run"), "input=PATH"),
        "hand it on": typed("export.py", run.word("run"), "format=onnx"),
    }
    for label, line in lines.items():
        yield f"<h3>{escaped(label)}</h3>{code(line)}"


# --- from what was measured -----------------------------------------------------------------------------------


def _of_split(found: Evaluation, session: Session, rich: bool) -> Iterator[str]:
    """Where the model fails on the split that was measured last."""
    if found.answered.note:
        yield section("Where it fails", paragraph(found.answered.note))
        return
    shows = _Shown(found, session, rich)
    yield section("Confusion", *_confusion(found, shows, rich))
    yield section("The worst", *_worst(found, shows))
    for each in found.tables:
        words = [place for place, name in enumerate(each.columns) if name in ("class", "label")]
        drawn = _reliability(each.rows) if each.kind == "reliability" else ""
        title = each.title[:1].upper() + each.title[1:]
        shown = table(each.columns, each.rows, sorts=True, texts=words)
        yield section(title, paragraph(each.note), f'<div class="plots">{drawn}{shown}</div>' if drawn else shown)
    yield section("Errors against predictions", *_residuals(found))
    if rich:
        yield section("Written text", *_written_text(session, found.split))


class _Shown:
    """Samples as tiles: a picture or words, what it is called, what was said of it."""

    def __init__(self, found: Evaluation, session: Session, rich: bool):
        self.session, self.split = session, found.split
        there = size(session.data[found.split])  # which are shown by their index, where that is known
        known = there is None or found.count <= there
        self.pictures = known and samples.has_pictures(session)
        at_hand = rich or getattr(session.data[found.split], "gives_batches", False)
        self.most = FROM_FILES if self.pictures and not at_hand else WORST if self.pictures else WORST // 2
        self.held = found.answered.predictions() if self.pictures else None
        self.place = {index: place for place, index in enumerate(found.places)}
        self.rows = list(itertools.islice(rows_of(found), None if rich else WORST))

    def tile(self, row: Mapping[str, Any]) -> str:
        index = row["index"]
        picture = samples.picture_of(self.session, self.split, index) if self.pictures else ""
        words = "" if picture else samples.words_of(self.session, self.split, index)
        image = f'<img alt="" src="{picture}">' if picture else ""
        if self.held is not None:
            prediction = self.held[0][self.place[index]]
            output = self.session.task.drawn(prediction, self.session.sample[0].shape)
            image += "" if output is None else f'<img alt="" src="{samples.data_uri(output)}">'
        kind = "tile words" if words or not picture else "tile"
        name = row.get("file") or row.get("where") or f"sample {index}"
        said = []
        for label, value in row.items():
            if label.startswith(("target", "prediction", "probability", "mean ", "least ")):
                said.append(f"{escaped(label)} {number(value) if isinstance(value, float) else escaped(value)}")
        loss = f"loss {number(row['loss'])}" if row["loss"] is not None else ""
        body = "<br>".join(filter(None, (escaped(words), *said, loss, f"<small>{escaped(_short(str(name)))}</small>")))
        return f'<div class="{kind}">{image}{body}</div>'


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"... {name[-56:]}"


def _worst(found: Evaluation, shown: _Shown) -> Iterator[str]:
    rows = [row for row in shown.rows[: shown.most] if row["loss"] is not None]
    if rows:
        yield paragraph(f"The {counted(len(rows), 'sample')} of {found.split} with the largest loss.", "faint")
        yield f'<div class="tiles">{"".join(map(shown.tile, rows))}</div>'


def _confusion(found: Evaluation, shown: _Shown, rich: bool) -> Iterator[str]:
    """True classes in rows, predicted ones in columns; a cell opens its samples. Of many classes, the pairs that are
    mistaken most often."""
    columns, names = found.answered.columns, found.answered.names
    true, said = columns.get("target"), columns.get("prediction")
    if not true or not said or "probability" not in columns or len(names) < 2:
        return
    counts = Counter(pair for pair in zip(true, said, strict=True) if pair[0] != "")
    wrong = Counter({pair: count for pair, count in counts.items() if pair[0] != pair[1]})
    if len(names) > MOST_CLASSES:
        rows = [(a, b, count) for (a, b), count in wrong.most_common(MOST_CLASSES)]
        yield paragraph(f"The pairs of {len(names)} classes that are mistaken most often.", "faint")
        yield table(["class", "taken for", "samples"], rows, sorts=True, texts=(1,))
        return
    cells: dict[tuple[str, str], list[str]] = defaultdict(list)
    if rich:
        left = IN_CELLS
        for row in shown.rows:
            pair = (row["target"], row["prediction"])
            if left and pair in wrong and len(cells[pair]) < IN_CELL:
                cells[pair].append(shown.tile(row))
                left -= 1
    place = {name: number for number, name in enumerate(names)}
    totals = Counter(a for a, _ in counts.elements())
    body = []
    for name in names:
        line = [f"<th>{escaped(name)}</th>"]
        for other in names:
            count = counts[name, other]
            share = count / totals[name] if totals[name] else 0.0
            opens = f"cell-{place[name]}-{place[other]}"
            text = f"{count:,}" if count else ""
            inner = (
                f'<button data-opens="{opens}">{text}</button>' if cells.get((name, other)) else f"<span>{text}</span>"
            )
            colour = "var(--series-1)" if name == other else "var(--series-2)"
            shade = f'<i class="shade" style="background:{colour};opacity:{0.55 * share:.2f}"></i>' if count else ""
            line.append(f"<td>{shade}{inner}</td>")
        body.append(f"<tr>{''.join(line)}</tr>")
    head = "".join(f"<th>{escaped(name)}</th>" for name in names)
    opens = " A count that is underlined opens." if cells else ""
    yield paragraph(f"True classes in rows, predicted ones in columns.{opens}", "faint")
    whole = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    yield f'<div class="wide"><table class="matrix">{whole}</table></div>'
    for (name, other), tiles in cells.items():
        if tiles:
            title = f"{name}, taken for {other}: {counts[name, other]:,}, the {len(tiles)} worst"
            identity = f"cell-{place[name]}-{place[other]}"
            inside = f'{paragraph(title)}<div class="tiles">{"".join(tiles)}</div>'
            yield f'<div class="cell" id="{identity}" hidden>{inside}</div>'


def _reliability(rows: Sequence[Sequence[Any]]) -> str:
    """How often it is right over how sure it is."""
    line = [(row[2], row[3]) for row in rows]
    series = {"right": line, "as it says": [(0.0, 0.0), (1.0, 1.0)]}
    return curves(
        series,
        "how often it is right over how probable it says that is",
        "probability that it says",
        "share that is right",
    )


def _written_text(session: Session, split: str) -> Iterator[str]:
    """What a model of running text makes of how the split begins."""
    model = session.model
    if not isinstance(model, CharModel) or not model.vocabulary:
        return
    tokens = first_sample(session.data[split])[0].flatten()[:PROMPT].tolist()
    prompt = "".join(model.vocabulary[int(token)] for token in tokens)
    yield paragraph(
        f"The first {counted(len(prompt), 'character')} of {split}, and what the model goes on with.", "faint"
    )
    for temperature in (0.0, 0.8):
        said = model.generate(prompt, WRITTEN, temperature, torch.Generator().manual_seed(0))
        yield paragraph(f"temperature {temperature:g}") + code(f"{prompt}|{said}")


def _residuals(found: Evaluation) -> Iterator[str]:
    """Of each value, the errors over the predictions."""
    held = found.answered.predictions()
    if held is None or not any(each.kind == "residuals" for each in found.tables):
        return
    predictions, targets, _ = held
    step = max(1, -(-len(predictions) // SCATTERED))
    names = found.answered.names if len(found.answered.names) == predictions.shape[1] else []
    plots = []
    for column in range(min(6, predictions.shape[1])):
        said, true = predictions[::step, column].double(), targets[::step, column].double()
        name = names[column] if names else "the target"
        points = [(x, y) for x, y in zip(said.tolist(), (said - true).tolist(), strict=True) if math.isfinite(y)]
        zero = [(min(x for x, _ in points), 0.0), (max(x for x, _ in points), 0.0)] if points else []
        plots.append(
            curves(
                {"samples": points, "no error": zero},
                str(name),
                "prediction",
                "prediction - target",
                scattered=["samples"],
            )
        )
    if step > 1:
        yield paragraph(f"Each {step}th sample.", "faint")
    yield f'<div class="plots">{"".join(plots)}</div>'
