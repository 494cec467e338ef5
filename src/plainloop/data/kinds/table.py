"""Tables of rows and columns: `frames.py` reads a file, `columns.py` looks at what its columns hold, and
`table_encoder.py` is what happens to its rows on the device."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from plainloop.build import factory
from plainloop.data.dataset import InMemory
from plainloop.data.kinds.checks import as_list, name_in, names_in
from plainloop.data.kinds.columns import (
    NoFeature,
    check_numbers,
    codes_of,
    in_order,
    is_number,
    known_targets,
    read_targets,
    refuse_strays,
    remarks_on,
    several_labels,
    targets_beside,
    task_for,
    unknown_words,
    whole_ones,
    words_of,
)
from plainloop.data.kinds.dialect import Reading
from plainloop.data.kinds.frames import check_columns, opened
from plainloop.data.kinds.new_files import rows_in
from plainloop.data.kinds.numerals import MISSING
from plainloop.data.kinds.source import Source, place
from plainloop.data.kinds.table_encoder import TableEncoder
from plainloop.data.preprocess import normalisation
from plainloop.data.raw import Raw
from plainloop.data.reading import New, Reader, Rows
from plainloop.data.splits import SPLIT_OF
from plainloop.errors import UserError, counted, did_you_mean, listed
from plainloop.places import find_path


class Table(InMemory):
    """Rows of a table. Inputs are (N, F + K) float32: F numbers, NaN where one is missing; then a code for each of K
    categories: 0 where it is missing, else the number of its word in `columns`, from 1.

    Args:
        columns: {"numbers": [name, ...], "categories": {name: [word, ...], ...}}, in the order of the inputs.
        embed: the model gets codes, and embeds them; else a column of 0 and 1 for every word.
        frame: the rows as they are in the file, for `column`.
        file, rows: the file, and the number of each row in it, from 0, for errors.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        columns: Mapping[str, Any],
        embed: bool = False,
        frame: Any = None,
        classes: Sequence[str] | None = None,
        target_names: Sequence[str] | None = None,
        note: str = "",
        file: Source | None = None,
        rows: Tensor | None = None,
    ):
        super().__init__(inputs, targets, classes, target_names, note)
        self.columns, self.embed, self.frame, self.file, self.rows = columns, embed, frame, file, rows
        self.sizes = [len(words) for words in columns["categories"].values()]  # how many words each category has
        numbers, coded = len(columns["numbers"]), embed and bool(self.sizes)
        width = numbers + (len(self.sizes) if coded else sum(self.sizes))
        self.facts = {  # what the model gets, and how to encode another file in the same way
            "input_shape": [width],  # encoded
            # Codes are no numbers: a model that doesn't embed them must not take them for such.
            "num_features": None if coded else width,
            "num_numbers": numbers if coded else width,
            "cardinalities": [size + 1 for size in self.sizes] if coded else [],
            "columns": columns,
            "reading": {}
            if file is None
            else {"marks": {k: list(v) for k, v in file.marks.items()}, "units": file.units},
        }

    def column(self, name: str) -> list[Any]:
        """A value for each row, of any of the file's columns. Raises UserError for one that it doesn't have."""
        check_columns({"split": [name]}, self.frame, "the table")
        return self.frame[name].to_list()

    def where(self, index: int) -> str:
        """The place of a sample in its file, for errors."""
        return f"row {index}" if self.file is None or self.rows is None else place(self.file, int(self.rows[index]))

    def shown(self, index: int) -> str:
        """A row as its columns: 'age 31, sex f'."""
        values, numbers = self.inputs[index].tolist(), len(self.columns["numbers"])
        found = [f"{name} {value:.6g}" for name, value in zip(self.columns["numbers"], values, strict=False)]
        for (name, words), code in zip(self.columns["categories"].items(), values[numbers:], strict=True):
            found.append(f"{name} {words[int(code) - 1] if code else '-'}")
        return ", ".join(found)

    def select(self, indices: Sequence[int]) -> "Table":
        """The rows at these indices, without the frame: it has told who is in which split, and workers needn't
        have it."""
        inputs, targets = self.__getitems__(indices)
        rows = None if self.rows is None else self.rows[torch.as_tensor(indices, device=self.rows.device)]
        names = self.classes, self.target_names, self.note or ""
        return Table(inputs, targets, self.columns, self.embed, None, *names, self.file, rows)

    def make_preprocess(self, normalize: Any, batches: Iterable[Any]) -> "TableEncoder":
        """The encoder, fitted on the training split.

        Args:
            normalize: "none", "train", or {"mean": ..., "std": ...} of the numbers.
            batches: (inputs, targets) of the training split.
        """
        inputs, count = torch.cat([batch[0] for batch in batches]), len(self.columns["numbers"])
        numbers, codes = inputs[:, :count].double(), inputs[:, count:].long()
        fill = numbers.nanmean(0).nan_to_num(0.0)  # 0 where no training row has a value
        deviation = (numbers - fill).square().nanmean(0).sqrt().nan_to_num(0.0)
        known = [torch.bincount(codes[:, k], minlength=size + 1) > 0 for k, size in enumerate(self.sizes)]
        # Not `statistics`: rows lack numbers here and there.
        measured = fill, torch.where(deviation > 0, deviation, 1.0)
        mean, std = normalisation(normalize, count, f"the table has {count} columns of numbers", lambda: measured)
        return TableEncoder(fill, mean.expand(count), std.expand(count), known, self.embed)


# --- a file becomes a data set -------------------------------------------------------------------------------------


@factory("data", provides=("num_numbers", "cardinalities"))
def table(
    path: str,
    target: str | Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    categories: str = "onehot",
    missing_target: str = "error",
    task: str = "auto",
    group: str | None = None,
    time: str | None = None,
    labels_separator: str | None = None,
    split: str = "train",
    val: str | None = None,
    test: str | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    missing: str | Sequence[str] | None = None,
    header: bool | None = None,
) -> Table | None:
    """A file of rows and columns: CSV, TSV, Parquet, JSON lines, Excel.

    Args:
        path: the file; a relative one is looked for in the working directory, then in the checkout.
        target: the column to predict, or a list of columns.
        features: the columns to predict it from; None for all others but those of dates and of free text (or names, or
            ids), which are said.
        exclude: columns that are no features.
        categorical: columns of numbers that are names all the same: a postcode, a kind of 1, 2 or 3.
        categories: onehot (a column of 0 and 1 for each word), or embed (codes, for model=tabular).
        missing_target: error, or drop: leave out rows without a target.
        task: regression: targets are (N, T) float32 in their own unit. binary, multiclass: classes (N,) int64, in
            sorted order, so that the second of two is the positive one. multilabel: columns of 0 and 1, (N, T)
            float32. Any other word: as `task_of` says.
        group, time: columns that decide who is in which split: no features, unless `features` names them.
        labels_separator: what parts several labels in one field of the target (red|big): columns of 0 and 1.
        split: "train", "val" or "test". A column called split that holds these words (or valid, training, ...) says
            which row is in which; else all rows are here "train", to be divided.
        val, test: files of their own for validation and test, with the same columns.
        separator, decimal, thousands, encoding, missing, header: how the file is written, where the file itself
            doesn't tell it rightly: what parts its fields, the marks in its numbers, the words that mean a missing
            value, and whether its first line has the columns' names.
    """
    for argument, value, options in (
        ("categories", categories, ("onehot", "embed")),
        ("missing_target", missing_target, ("error", "drop")),
    ):
        if value not in options:
            guess = did_you_mean(value, options)
            raise UserError(f"data.{argument}={value}: must be {' or '.join(options)}.{guess}")
    reading = Reading.of(missing, separator, decimal, thousands, encoding, header)
    features, exclude, categorical = (
        names_in(key, value)
        for key, value in (("features", features), ("exclude", exclude), ("categorical", categorical))
    )
    group, time = name_in(group), name_in(time)
    others = {"val": val, "test": test}
    if split != "train" and others[split] is None and not _may_be_divided(path, reading):
        return None
    as_words = [group] if group and group not in (features or ()) else []
    as_words += as_list(target) if labels_separator is not None else []  # 1,2 is no number
    file, frame, targets = _opened(path, target, categorical, reading, words=as_words)
    divided = _split_column(frame, file, targets, [*(features or ()), *(exclude or ())])
    if split != "train" and others[split] is None and not divided:
        return None
    if divided and any(others.values()):
        raise UserError(f"data.val, data.test: {path} has a column {divided} that says which row is in which split.")
    by_split = {"split.group": group, "split.time": time, "the split's column": divided}
    chosen = _features(frame, path, targets, features, exclude, by_split)
    frame, rows, remarks = _with_targets(frame, file, targets, missing_target)
    remarks = [file.said, *remarks] if file.said else remarks

    def where(row: int) -> str:
        return place(file, int(rows[row]))

    for key, name in (("group", group), ("time", time)):
        if name is not None and frame[name].has_nulls():
            row = frame[name].is_null().arg_true()[0]
            raise UserError(f"{where(row)}: split.{key}={name} is missing: which split should the row be in?")
    if time is not None:
        frame = frame.with_columns(in_order(frame[time], where))
    embed, declared = categories == "embed", categorical or ()
    columns, said = _looked_at(frame, chosen, where, file, declared, named=features is not None, embed=embed)
    if not columns["numbers"] and not columns["categories"]:
        raise UserError(f"{file}: no column with a value is left to predict {listed(targets)} from.")
    if columns["categories"]:
        words = listed((f"{len(words)} in {name}" for name, words in columns["categories"].items()), 6)
        remarks.insert(0, f"{counted(len(columns['numbers']), 'column')} of numbers, words: {words}")
    remarks += said
    classes: list[str] | None = None
    if labels_separator is None:
        values, classes = read_targets([frame[name] for name in targets], task, file, where)
        names = None if classes else targets
        if names:
            remarks += [each for name in names for each in check_numbers(frame[name], where)]
    else:
        values, names = several_labels(_one(targets, frame), labels_separator, file, where)
    if split != "train" and others[split] is not None:
        another = str(others[split]), split, targets, classes or names or []
        file, frame, values, rows = _of_another(*another, file, missing_target, reading, labels_separator)
        found = [file.said, *(unknown_words(frame[name], columns["categories"][name]) for name in columns["categories"]
                             if name in frame.columns)]  # fmt: skip
        remarks += [f"{file}: {line}" for line in found if line]
    inputs = encode(frame, columns, file)
    if divided:
        parts = frame[divided].str.to_lowercase().replace_strict(SPLIT_OF)
        remarks.append(f"divided by its column {divided}")
        mine = (parts == split).arg_true()
        if not len(mine):
            return None
        frame, rows = frame[mine], rows[mine]
        inputs, values = (each[torch.from_numpy(mine.to_numpy().astype(numpy.int64))] for each in (inputs, values))
    told, numbers = "\n".join(remarks), torch.from_numpy(rows.to_numpy().astype(numpy.int64))
    return Table(inputs, values, columns, embed, frame, classes, names, told, file, numbers)


def _looked_at(
    frame: Any,
    chosen: Sequence[str],
    where: Callable[[int], str],
    file: Source,
    declared: Sequence[str],
    named: bool,
    embed: bool,
) -> tuple[dict[str, Any], list[str]]:
    """What the features hold, as a `Table` has it, and remarks on them. Raises UserError for one that can't be used.

    Args:
        where: the place of a row, for errors.
        declared: the columns of numbers that are names all the same.
        named: the features were asked for by name: none is left out.
        embed: the words of categories won't become columns.
    """
    columns: dict[str, Any] = {"numbers": [], "categories": {}}
    remarks: list[str] = []
    unfit: dict[str, NoFeature] = {}
    empty = [name for name in chosen if frame[name].null_count() == frame.height]
    for name in (name for name in chosen if name not in empty):
        if is_number(frame[name]):
            remarks += check_numbers(frame[name], where)
            columns["numbers"].append(name)
            continue
        try:
            columns["categories"][name], said = words_of(frame[name], file, where, name in declared, embed)
        except NoFeature as error:
            if named or name in declared:
                raise
            unfit[name] = error
            continue
        remarks += said
    used = [*columns["numbers"], *columns["categories"]]
    if not used and unfit:
        raise next(iter(unfit.values()))
    if unfit:
        remarks.append(f"left out: {listed((f'{name} ({error.why})' for name, error in unfit.items()), 6)}")
    if empty:
        remarks.append(f"without any value, left out: {listed(empty)}")
    return columns, [*remarks, *remarks_on([frame[name] for name in used])]


# Whether a table has a column of splits, by its path and state: it is built for each split, and needn't be read again.
_divided: dict[Any, bool] = {}


def _may_be_divided(path: str, reading: Reading) -> bool:
    return _divided.get(_state_of(path, reading), True)


def _state_of(path: str, reading: Reading) -> Any:
    file = find_path(path).absolute()
    status = file.stat() if file.is_file() else None
    return file, reading, status and (status.st_size, status.st_mtime_ns)


def _one(targets: Sequence[str], frame: Any) -> Any:
    """The one target column of several labels. Raises UserError."""
    if len(targets) > 1:
        raise UserError(f"data.labels_separator goes with one target, and data.target names {len(targets)}.")
    return frame[targets[0]]


def _split_column(frame: Any, file: Source, targets: Sequence[str], features: Sequence[str] | None) -> str | None:
    """The column that says which row is in which split: called split, and with such words alone."""
    for name in frame.columns:
        if name.strip().lower() != "split" or name in targets or name in (features or ()):
            continue
        known = frame[name].cast(str).str.to_lowercase().is_in(list(SPLIT_OF)).fill_null(False)
        if known.all():
            return name
        if known.sum() > len(known) / 2:
            row = int((~known).arg_true()[0])
            raise UserError(
                f"{place(file, row)}: {name} is {frame[name][row]}, where the others are train, val or test.\n"
                f"Mend it, or leave the column out: data.exclude=[{name}]"
            )
    return None


def _of_another(
    path: str,
    split: str,
    targets: Sequence[str],
    classes: Sequence[str],
    like: Source,
    missing: str,
    reading: Reading,
    separator: str | None,
) -> tuple[Source, Any, Tensor, Any]:
    """A file of its own for a split: what it is called, its rows, their targets, their numbers in it.

    Args:
        classes: the names of the classes, of the labels, or of the targets.
        like: the training rows' file, as which this one is read.
    """
    file, frame, _ = _opened(path, targets, None, reading, f"data.{split}", like)
    frame, rows, _ = _with_targets(frame, file, targets, missing)
    values = known_targets(
        [frame[name] for name in targets], classes, list(classes) != list(targets), separator, file,
        lambda row: place(file, int(rows[row])),
    )  # fmt: skip
    return file, frame, values, rows


def task_of(
    path: str, target: str | Sequence[str] | None = None, categorical: Sequence[str] | None = None, **others: Any
) -> tuple[str, str]:
    """The task that a table's target asks for, and why: ("multiclass", "species holds 3 words (...)").

    Words are classes; so are up to 20 different whole numbers, where each comes up in 5 rows or more on average, and 0
    and 1 in any case. Several columns are several labels where they hold 0 and 1 alone, and else several numbers.
    """
    file, frame, targets = _opened(path, target, names_in("categorical", categorical), Reading.among(others))
    if others.get("labels_separator") is not None:
        return "multilabel", f"{listed(targets)} holds several labels in a field"
    return task_for([frame[name].drop_nulls() for name in targets], file)


table.task_of = task_of  # type: ignore[attr-defined]


class TableReader(Reader):
    """Rows of another table; the columns to predict needn't be there."""

    def preprocess(self) -> TableEncoder:
        columns, embed = self.spec.columns, self.node.get("categories") == "embed"
        count = len(columns["numbers"])
        known = [torch.ones(len(words) + 1, dtype=torch.bool) for words in columns["categories"].values()]
        return TableEncoder(torch.zeros(count), torch.zeros(count), torch.ones(count), known, embed)

    def open(self, given: Any) -> New:
        columns = self.spec.columns
        used = [*columns["numbers"], *columns["categories"]]
        file, frame = rows_in(self, given, list(columns["categories"]))
        inputs = encode(frame, columns, file)
        filled = {name: frame[name].null_count() for name in columns["numbers"] if frame[name].has_nulls()}
        rounded = [said for name in columns["numbers"] for said in check_numbers(frame[name], file.place)]
        aside = [*used, *as_list(self.node.get("target")), *(names_in("exclude", self.node.get("exclude")) or ())]
        others = [name for name in frame.columns if name not in aside]
        told = listed((f"{count} in {name}" for name, count in filled.items()), 6)
        notes = [
            file.said,
            f"not used: {listed(others)}" if others else "",
            f"{counted(sum(filled.values()), 'missing value')} filled by the training mean ({told})" if filled else "",
            *(unknown_words(frame[name], words) for name, words in columns["categories"].items()),
            *rounded,
        ]
        return New(Rows(inputs), "row", range(1, len(inputs) + 1), notes=[note for note in notes if note])

    def truths(self, given: Any, new: New) -> tuple[Tensor, Tensor]:
        targets = as_list(self.node.get("target"))
        named = self.spec.class_names is not None or self.node.get("labels_separator") is not None
        file, frame = rows_in(self, str(given), [*self.spec.columns["categories"], *(targets if named else ())])
        return targets_beside(frame, targets, self.spec, self.node.get("labels_separator"), file, "data.target")

    def raw(self) -> Raw:
        reading = self.spec.reading or {}
        said = Reading.among(self.node)
        told = {"missing": list(MISSING if said.missing is None else said.missing), "separator": said.separator}
        return Columns(self.spec.columns, told | {name: reading.get(name) or {} for name in ("marks", "units")})


# Rows of a CSV. A word that isn't known is told: its code is 0, as a missing one's.
OF_ROWS = """\
with open(path, newline="", encoding="utf-8-sig") as file:
    separator = facts["separator"] or csv.Sniffer().sniff(file.readline(), ",;\\t|").delimiter
    file.seek(0)
    rows = list(csv.DictReader(file, delimiter=separator))


def number(text, name):
    decimal, thousands = facts["marks"].get(name, (".", ""))
    text = text.strip().replace(facts["units"].get(name) or "", "").strip().replace(thousands, "")
    truth = {"true": 1.0, "false": 0.0}.get(text.lower())
    return float("nan") if text in facts["missing"] else float(text.replace(decimal, ".")) if truth is None else truth


def code(text, name):
    known, missing = facts["categories"][name], text in facts["missing"]
    if text not in known and not missing:
        print(f"{text!a} is new in {name!a}", file=sys.stderr)
    return known.index(text) + 1 if text in known else 0


inputs = {
    "numbers": numpy.array([[number(row[name], name) for name in facts["columns"]] for row in rows], "float32"),
    "words": numpy.array([[code(row[name], name) for name in facts["categories"]] for row in rows], "int64"),
}
inputs = {name: array for name, array in inputs.items() if array.size}
"""


class Columns(Raw):
    """Rows of a table: "numbers" (N, F) in the data's own units, NaN for a missing one, and "words" (N, K), the number
    of each category's word from 1, 0 for a missing or unknown one.

    Args:
        columns: as a `Table` has them.
        told: how a file is written: which words mean that a value is missing, the marks and units of numbers.
    """

    def __init__(self, columns: Mapping[str, Any], told: Mapping[str, Any]):
        counts = {"numbers": len(columns["numbers"]), "words": len(columns["categories"])}
        kinds = {"numbers": torch.float32, "words": torch.int64}
        facts = {"columns": columns["numbers"], "categories": columns["categories"], **told}
        axes = {name: ("batch", count) for name, count in counts.items() if count}
        super().__init__(
            {name: kinds[name] for name in axes}, axes, facts=facts, script=OF_ROWS, imports="import csv\n"
        )
        self.counts, self.most = counts, [len(words) for words in columns["categories"].values()]

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        drawn = super().draw(sizes, generator)
        if "numbers" in drawn:
            missing = torch.rand(drawn["numbers"].shape, generator=generator) < 0.1
            drawn["numbers"][missing] = torch.nan
        if "words" in drawn:
            drawn["words"] = drawn["words"] % (torch.tensor(self.most) + 1)
        return drawn

    def forward(self, **inputs: Tensor) -> Tensor:
        return torch.cat([part.float() for part in inputs.values()], 1)

    def back(self, batch: Tensor) -> dict[str, Tensor]:
        count = self.counts["numbers"]
        parts = {"numbers": batch[:, :count], "words": batch[:, count:].long()}
        return {name: parts[name] for name in self.axes}


table.reader = TableReader  # type: ignore[attr-defined]


def encode(frame: Any, columns: Mapping[str, Any], file: Source | Path | str) -> Tensor:
    """The inputs (N, F + K) of a `Table` from the rows of a frame. Raises UserError for a column that isn't there, or
    holds words where numbers belong.

    Args:
        columns: as a `Table` has them, and a run keeps them in `spec.columns`.
        file: where the frame is from, for the error.
    """
    import polars

    parts = []
    check_columns({"the model needs column": [*columns["numbers"], *columns["categories"]]}, frame, file)
    for name in columns["numbers"]:
        if not is_number(frame[name]) and frame[name].count():
            raise UserError(f"{file}, column {name}: words (as {frame[name].drop_nulls()[0]}) where numbers belong.")
        parts.append(frame[name].cast(polars.Float32).to_numpy())
    for name, words in columns["categories"].items():
        parts.append(codes_of(whole_ones(frame[name]), words).astype(numpy.float32))
    return torch.from_numpy(numpy.stack(parts, axis=1))


def _opened(
    path: str,
    target: str | Sequence[str] | None,
    categorical: Sequence[str] | None,
    reading: Reading,
    key: str = "data.path",
    like: Source | None = None,
    words: Sequence[str] = (),
) -> tuple[Source, Any, list[str]]:
    """The file, its rows, and the names of the targets. Raises UserError."""
    import polars
    import polars.selectors as cs

    file, frame = opened(path, [*(categorical or ()), *words], reading, key, like)
    _divided[_state_of(path, reading)] = any(name.strip().lower() == "split" for name in frame.columns)
    if not target:
        raise UserError(
            f"data.target: which column is to be predicted? Write data.target=COLUMN. "
            f"{path} has: {listed(frame.columns)}."
        )
    targets = as_list(target)
    check_columns({"data.target": targets, "data.categorical": categorical}, frame, path)
    frame = frame.with_columns(cs.decimal().cast(polars.Float64)).with_columns(cs.float().fill_nan(None))
    # 1.0 in a file whose numbers have holes is 1 in another.
    frame = frame.with_columns(whole_ones(frame[name]).cast(polars.String) for name in categorical or ())
    for name in targets:
        refuse_strays(frame[name], "data.target", file)
        if frame[name].null_count() == frame.height:
            raise UserError(f"data.target={name}: this column of {path} has no values.")
    return file, frame, targets


def _features(
    frame: Any,
    path: str,
    targets: Sequence[str],
    features: Sequence[str] | None,
    exclude: Sequence[str] | None,
    deciding: Mapping[str, str | None],
) -> list[str]:
    """The columns to predict from. Raises UserError."""
    of_splits = {key: [name] for key, name in deciding.items() if name is not None}
    check_columns({"data.features": features, "data.exclude": exclude, **of_splits}, frame, path)
    for name in targets:
        if name in (features or ()):
            raise UserError(
                f"data.features={listed(features or ())}: it holds data.target={name}, which would be "
                "predicted from itself."
            )
    out = {*targets, *(exclude or ()), *(() if features is not None else deciding.values())}
    chosen = [name for name in (frame.columns if features is None else features) if name not in out]
    if not chosen:
        key = f"data.features={listed(features) or '[]'}" if features is not None else f"data.path={path}"
        raise UserError(
            f"{key}: there is no column to predict {listed(targets)} from. {path} has: {listed(frame.columns)}."
        )
    return list(dict.fromkeys(chosen))


def _with_targets(frame: Any, file: Source, targets: Sequence[str], missing: str) -> tuple[Any, Any, list[str]]:
    """The rows that have a target, their numbers in the file from 0, and a remark on what was left out."""
    import polars

    lacks = frame.select(polars.any_horizontal(polars.col(targets).is_null())).to_series()
    count = lacks.sum()
    if count and missing == "error":
        rows = lacks.arg_true()
        name = next(name for name in targets if frame[name][rows[0]] is None)
        others = f", and in {counted(count - 1, 'row')} after it" if count > 1 else ""
        raise UserError(
            f"{place(file, rows[0])}: the target {name} is missing{others}. Fill it in, or leave such rows "
            "out: data.missing_target=drop"
        )
    remarks = [f"{counted(count, 'row')} without {' or '.join(targets)} left out"] if count else []
    return frame.filter(~lacks), (~lacks).arg_true(), remarks
