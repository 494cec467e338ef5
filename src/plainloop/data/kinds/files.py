"""Files as samples: a folder for each class, or a table of paths and labels. `images.py` and `audio.py` know what
is in one file; here they are found, looked at and counted."""

import collections
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from plainloop.data.classes import place_among_classes
from plainloop.data.dataset import BaseDataset
from plainloop.data.kinds.checks import as_list
from plainloop.data.kinds.columns import check_numbers, is_whole, read_targets, refuse_strays, several_labels, task_for
from plainloop.data.kinds.frames import read_frame
from plainloop.data.kinds.source import Source, place
from plainloop.data.splits import SPLIT_NAMES, SPLIT_OF
from plainloop.errors import UserError, did_you_mean, first_line, listed
from plainloop.places import find_path

TABLES = (".csv", ".tsv", ".tab", ".parquet", ".json", ".jsonl", ".ndjson")
MOST = 50_000  # files that are looked at before the training; of more, evenly spread ones


class Files(BaseDataset):
    """Samples that are read when they are asked for; `__getitem__` is the subclass's.

    Args:
        samples: (file, class) of each; or (file, [number, ...]): to be predicted, or 1 for each label.
        classes: the names of the classes; None where they are numbers.
        target_names: and what those are called.
        note: what was found.
        frame: the table, where they come from one, with a row for each sample.
    """

    samples: list[tuple[str, Any]]

    def __init__(
        self,
        samples: Sequence[tuple[str, Any]],
        classes: Sequence[str] | None,
        target_names: Sequence[str] | None = None,
        note: str = "",
        frame: Any = None,
    ):
        self.samples, self.note, self.frame, self.target_names = list(samples), note, frame, target_names
        self.classes = None if classes is None else list(classes)
        labels = [label for _, label in self.samples]
        self.targets = torch.tensor(labels, dtype=torch.float32 if classes is None else torch.int64)

    def __len__(self) -> int:
        return len(self.samples)

    def content_of(self, index: int) -> tuple[str, int] | None:
        """A file's name and size, for the split's digest; of many files, of evenly spread ones."""
        file = self.samples[index][0]
        if index % -(-len(self) // MOST) or not os.path.isfile(file):
            return None
        return os.path.basename(file), os.path.getsize(file)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "frame": None}  # loading processes need no table

    def where(self, index: int) -> str:
        """The file of a sample, for errors."""
        return self.samples[index][0]

    def column(self, name: str) -> list[Any]:
        """The table's column of this name, one value per sample (for split.group and split.time)."""
        if self.frame is None:
            raise UserError(f"split: a folder of files has no column {name}: write a table of paths and labels (CSV).")
        if name not in self.frame.columns:
            raise UserError(
                f"split: the table has no column {name}.{did_you_mean(name, self.frame.columns)} "
                f"It has: {listed(self.frame.columns)}."
            )
        return self.frame[name].to_list()


class Found:
    """What lies in a folder, or stands in a table.

    Args:
        path: as the user has typed it.
        what: "images", for errors.
    """

    def __init__(self, path: str, what: str):
        self.path, self.what = path, what
        self.target_names: list[str] | None = None  # of the numbers or the labels, where there are no classes
        self.several = False  # whether those are labels
        self.remark = ""  # on how the table is written
        self.files: dict[str, list[tuple[str, Any]]] = {}  # (file, label) by split
        self.rows: dict[str, list[int]] = {}  # where each stands in the table
        self.frame: Any = None
        self.classes: list[str] = []
        self.passed_over: collections.Counter[str] = collections.Counter()
        self.broken: list[str] = []
        self.every = 1  # of so many files one was looked at

    def look(self, read: Callable[[str], Any]) -> list[Any]:
        """What `read` tells of each file, as far as its header; those that it can't read are left out and named."""
        self.every = -(-sum(map(len, self.files.values())) // MOST)
        told = []
        for split, files in self.files.items():
            kept = []
            for number, (file, _) in enumerate(files):
                if number % self.every == 0:
                    header = _header(file, read)
                    if isinstance(header, _Broken):
                        self.broken.append(f"{file}: {header.why}")
                        continue
                    told.append(header)
                kept.append(number)
            if not kept:
                raise UserError(
                    f"data.path={self.path}: none of the {self.what} for {split} can be read, as {self.broken[-1]}."
                )
            self.files[split] = [files[number] for number in kept]
            if self.rows:
                self.rows[split] = [self.rows[split][number] for number in kept]
        if self.target_names is None:
            self._find_classes()
        return told

    def _find_classes(self) -> None:
        known = {label for _, label in self.files["train"]}
        self.classes = sorted(known, key=place_among_classes)
        for split, files in self.files.items():
            unknown = next(((file, label) for file, label in files if label not in known), None)
            if unknown:
                raise UserError(
                    f"data.path={self.path}: {split} has the class {unknown[1]} (as {unknown[0]}), which "
                    f"train doesn't have. Train has: {listed(self.classes)}."
                )
        if len(self.classes) == 1:
            raise UserError(
                f"data.path={self.path}: one class only ({self.classes[0]}): there is nothing to learn. "
                f"A folder for each class is needed, with its {self.what} in it."
            )

    def samples(self, split: str) -> dict[str, Any]:
        """The arguments `samples`, `classes` and others of `Files`, for a split."""
        frame = None if self.frame is None else self.frame[self.rows[split]]
        if self.target_names is not None:
            return {"samples": self.files[split], "classes": None, "target_names": self.target_names, "frame": frame}
        number = {label: number for number, label in enumerate(self.classes)}
        samples = [(file, number[label]) for file, label in self.files[split]]
        return {"samples": samples, "classes": self.classes, "frame": frame}

    def note(self, *remarks: str) -> str:
        """Lines on what was found: the remarks, the classes' sizes, and what was passed over."""
        lines = [remark for remark in (self.remark, *remarks) if remark]
        labels = [label for _, label in self.files["train"]]
        if self.target_names is not None:
            for name, values in zip(self.target_names, zip(*labels, strict=True), strict=True):
                numbers = f"{name} from {min(values):g} to {max(values):g}"
                lines.append(f"{sum(values):g} {self.what} of {name}" if self.several else numbers)
        else:
            counts = collections.Counter(labels)
            least, most = min(counts.values()), max(counts.values())
            lines.append(f"{f'{least} to ' * (most > least)}{most} {self.what} per class")
        if self.passed_over:
            lines.append("passed over: " + ", ".join(f"{count} {what}" for what, count in self.passed_over.items()))
        if self.every > 1:
            lines.append(f"one in {self.every} files was looked at")
        if self.broken:
            lines.append(
                f"{len(self.broken)} can't be read and {'is' if len(self.broken) == 1 else 'are'} left out: "
                + listed(self.broken, 3)
            )
        return "\n".join(lines)


class _Broken:
    def __init__(self, why: str):
        self.why = why


_headers: dict[tuple[Any, ...], Any] = {}  # a data set is built once per split, and its files are looked at once


def _header(file: str, read: Callable[[str], Any]) -> Any:
    """What `read` tells of a file that hasn't changed since it told it, or why it can't."""
    key: tuple[Any, ...] = (read, file)
    try:
        status = os.stat(file)
        key = (read, file, status.st_size, status.st_mtime_ns)
        if key not in _headers:
            _headers[key] = read(file) if status.st_size else _Broken("the file is empty")
    except PermissionError as error:
        raise UserError(f"{file}: it may not be read (permission denied).") from error
    except UserError:
        raise
    except Exception as error:  # whatever a decoder makes of a broken file
        _headers[key] = _Broken(first_line(error).partition(file)[0].rstrip(" '\""))
    return _headers[key]


def find(
    path: str,
    suffixes: Sequence[str],
    what: str,
    column: tuple[str, str | None],
    target: str | Sequence[str] | None,
    task: str,
    labels_separator: str | None,
) -> Found:
    """The files of a data set, by split. Raises UserError.

    Args:
        path: a folder with a folder for each class in it, or with train/, val/ and test/, and in these a folder for
            each class; or a table with a column of paths, relative to it, one of labels and, if it likes, one that
            is called `split`.
        suffixes: of the files that are meant.
        what: "images".
        column: ("image", name of the column of paths, or None for the usual ones).
        target: the column of labels, or several; None for the usual names.
        task: regression: the columns hold numbers. multilabel: 0 and 1, or see `labels_separator`. binary,
            multiclass: one column of classes. Any other word: what the columns hold.
        labels_separator: what parts several labels in one field (red|big).
    """
    root, found = find_path(path), Found(path, what)
    if not root.exists():
        raise UserError(f"data.path={path}: there is no such file or folder.")
    if root.is_dir() and task in ("regression", "multilabel"):
        has = "numbers" if task == "regression" else "several labels"
        raise UserError(f"data.path={path}: folders of classes have no {has}; task={task} needs a table (CSV).")
    if root.is_dir():
        _from_folders(root, found, suffixes)
    elif root.suffix.lower() in TABLES:
        _from_table(root, found, column, as_list(target), task, labels_separator)
    else:
        archive = " Unpack it first." if root.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar") else ""
        raise UserError(
            f"data.path={path}: a file, where a folder with a folder for each class is needed, or a table "
            f"of paths and labels ({listed(TABLES[:4])}).{archive}"
        )
    if not found.files.get("train"):
        raise UserError(f"data.path={path}: there are no {what} for training in it.")
    return found


def _from_folders(root: Path, found: Found, suffixes: Sequence[str]) -> None:
    folders, beside = _listed(root, found)
    parts: dict[str, os.DirEntry] = {}
    for folder in folders:
        split = SPLIT_OF.get(folder.name.lower())
        if split in parts:
            raise UserError(f"{root}: two folders for {split}: {parts[split].name} and {folder.name}.")
        if split:
            parts[split] = folder
    # Among the classes of vehicles there may be a train: images lie in it, and no folders.
    if "train" in parts and (_listed(Path(parts["train"]), None)[0] or len(parts) == len(folders)):
        if len(parts) < len(folders):
            found.passed_over["folders beside train"] += len(folders) - len(parts)
        for split in (name for name in SPLIT_NAMES if name in parts):
            inside, loose = _listed(Path(parts[split]), found)
            found.files[split] = _by_class(Path(parts[split]), inside, loose, found, suffixes)
    elif set(parts) - {"train"}:
        names = listed(folder.name for folder in parts.values())
        raise UserError(
            f"data.path={found.path}: {root} has a folder {names}, and none for training: put the classes' "
            "folders into a folder train."
        )
    else:
        found.files["train"] = _by_class(root, folders, beside, found, suffixes)


def _listed(folder: Path | str, found: Found | None) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
    """The folders and the files in a folder, by name; hidden ones are counted only."""
    try:
        with os.scandir(folder) as entries:
            everything = sorted(entries, key=lambda entry: entry.name)
    except PermissionError as error:
        raise UserError(f"{folder}: it may not be read (permission denied).") from error
    shown = [entry for entry in everything if not entry.name.startswith((".", "__MACOSX"))]
    if found is not None and len(everything) > len(shown):
        found.passed_over["hidden"] += len(everything) - len(shown)
    folders = [entry for entry in shown if entry.is_dir() and not _leads_back(entry)]
    return folders, [entry for entry in shown if not entry.is_dir()]


def _leads_back(entry: os.DirEntry) -> bool:
    """Whether a link leads to a folder that it lies in: following it would have no end."""
    return entry.is_symlink() and Path(entry.path).parent.resolve().is_relative_to(Path(entry.path).resolve())


def _by_class(
    root: Path, folders: Sequence[os.DirEntry], beside: Sequence[os.DirEntry], found: Found, suffixes: Sequence[str]
) -> list[tuple[str, str]]:
    if not folders:
        has = f"{len(beside)} files and no folder" if beside else "nothing"
        raise UserError(
            f"data.path={found.path}: {root} has {has} in it. A folder for each class is needed, as "
            f"{root.name}/cat and {root.name}/dog, or a table of paths and labels (CSV)."
        )
    if beside:
        found.passed_over["beside the classes' folders"] += len(beside)
    files = []
    for folder in folders:
        inside = list(_files_in(folder.path, found, suffixes))
        if not inside:
            raise UserError(
                f"data.path={found.path}: the folder {folder.path} has no {found.what} in it "
                f"({listed(suffixes, 5)}). Put some there, or remove it."
            )
        files += [(file, folder.name) for file in inside]
    return files


def _files_in(folder: str, found: Found, suffixes: Sequence[str]) -> Iterator[str]:
    """The files that are meant, in a folder and the folders in it, in the order of their names."""
    folders, files = _listed(folder, found)
    for entry in files:
        suffix = os.path.splitext(entry.name)[1]
        if suffix.lower() in suffixes:
            yield entry.path
        else:
            found.passed_over[suffix or "without a suffix"] += 1
    for entry in folders:
        yield from _files_in(entry.path, found, suffixes)


USUAL = {
    "target": ("label", "class", "target", "category", "labels"),
    "": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "audio"),
}


def _from_table(
    file: Path,
    found: Found,
    column: tuple[str, str | None],
    named: Sequence[str | None],
    task: str,
    separator: str | None,
) -> None:
    classes = task in ("binary", "multiclass") or separator is not None  # words, as they stand: 007 isn't 7
    usual = [*USUAL[""], *(USUAL["target"] if classes else ())]
    words = [*filter(None, [column[1], *(named if classes else ())]), *usual, *map(str.capitalize, usual)]
    words += map(str.upper, usual)
    source = Source(file)
    frame = found.frame = read_frame(source, words)
    paths = _column(frame.columns, *column, file)
    targets = [_column(frame.columns, "target", name, file) for name in named or [None]]
    divided = next((name for name in frame.columns if name.lower() == "split"), None)
    for name in (paths, *targets, *([divided] if divided else ())):
        if frame[name].has_nulls():
            none = f" A field of {separator} alone has no label." if separator and name in targets else ""
            raise UserError(f"{place(source, frame[name].is_null().arg_true()[0])}: {name} is missing.{none}")
    labels, found.target_names = _labels([frame[name] for name in targets], source, task, separator)
    found.remark = source.said
    found.several = task == "multilabel"
    parts = frame[divided].to_list() if divided else ["train"] * frame.height
    for row, (name, label, part) in enumerate(zip(frame[paths].to_list(), labels, parts, strict=True)):
        split = SPLIT_OF.get(str(part).strip().lower())
        if split is None:
            raise UserError(f"{place(source, row)}: split is {part}; it must be train, val or test.")
        path = file.parent / str(name)
        if not path.is_file():
            raise UserError(f"{place(source, row)}: there is no file {path} (paths start from the table's folder).")
        found.files.setdefault(split, []).append((str(path), label))
        found.rows.setdefault(split, []).append(row)


def _labels(
    columns: Sequence[Any], source: Source, task: str, separator: str | None
) -> tuple[list[Any], list[str] | None]:
    """A class for each row, and None; or numbers for each row, and their names. Raises UserError."""
    if separator is not None and (task != "multilabel" or len(columns) > 1):
        raise UserError(f"data.labels_separator={separator} goes with one target, and with task=multilabel.")
    if separator is not None:
        several, words = several_labels(columns[0], separator, source, source.place)
        return several.tolist(), words
    if task not in ("regression", "binary", "multiclass", "multilabel"):
        task, _ = task_for(columns, source)
    if task in ("regression", "multilabel"):
        for column in columns:
            refuse_strays(column, "data.target", source)
        values, _ = read_targets(columns, task, source, source.place)
        source.notes += [said for column in columns for said in check_numbers(column, source.place)]
        return values.tolist(), [column.name for column in columns]
    if len(columns) > 1:
        names = listed(column.name for column in columns)
        raise UserError(f"data.target=[{names}]: several go with task=regression (numbers) or multilabel (0 and 1).")
    _refuse_many_numbers(columns[0], source)
    return list(map(str, columns[0].to_list())), None


def _refuse_many_numbers(column: Any, source: Source) -> None:
    """Raises UserError for numbers where classes are needed."""
    import polars

    numbers = column.cast(polars.Float64, strict=False)
    different = numbers.n_unique()
    if not numbers.has_nulls() and (not is_whole(numbers) or different > max(20, len(column) / 2)):
        raise UserError(
            f"{source}: {column.name} holds {different} different numbers, as {column[0]}, where classes are needed. "
            "To predict numbers: task=regression"
        )


def _column(columns: Sequence[str], argument: str, name: str | None, file: Path) -> str:
    """The column that an argument names, or that has a usual name."""
    if name is not None:
        if name not in columns:
            raise UserError(
                f"data.{argument}={name}: {file} has no such column.{did_you_mean(name, columns)} "
                f"It has: {listed(columns)}."
            )
        return name
    usual = next((c for word in USUAL.get(argument, USUAL[""]) for c in columns if c.lower() == word), None)
    if usual is None:
        raise UserError(
            f"{file}: which column is the {argument}? Write data.{argument}=COLUMN. It has: {listed(columns)}."
        )
    return usual
