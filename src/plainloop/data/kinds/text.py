"""Texts in the rows of a table, with a label or a number each."""

import array
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from plainloop.build import factory
from plainloop.data.dataset import BaseDataset
from plainloop.data.kinds.checks import as_list, check_whole_number
from plainloop.data.kinds.columns import DATE, in_order, read_targets, targets_beside, task_for
from plainloop.data.kinds.dialect import Reading, decoded
from plainloop.data.kinds.frames import check_columns, column_of, opened
from plainloop.data.kinds.new_files import files_in, labels_of
from plainloop.data.kinds.source import Source, place
from plainloop.data.kinds.vocabulary import MARKS, PADDING, UNKNOWN, WORD, facts_of, tokenise
from plainloop.data.raw import Places, Raw
from plainloop.data.reading import New, Reader
from plainloop.errors import UserError, counted, did_you_mean, listed
from plainloop.places import find_path


def padded(samples: Sequence[tuple[dict[str, Tensor], Tensor]]) -> tuple[dict[str, Tensor], Tensor]:
    """Samples of several lengths to a batch: {"tokens": (N, T), "lengths": (N,)}, where T is the longest, and
    targets (N, ...)."""
    inputs, targets = zip(*samples, strict=True)
    tokens = [sample["tokens"] for sample in inputs]
    lengths = torch.tensor([len(one) for one in tokens])
    return {"tokens": pad_sequence(tokens, batch_first=True, padding_value=PADDING), "lengths": lengths}, torch.stack(
        targets
    )


class Texts(BaseDataset):
    """Texts with a target each. An index gives ({"tokens": (T,) int64}, target); `fit` must have been called before.

    Args:
        texts: what the rows hold.
        targets: classes (N,) int64, or values (N, 1) float32.
        tokens: "word" or "char".
        lower: lower-case the texts.
        min_count: how often a token must occur in the training split to be known.
        max_words: the most frequent ones alone are known.
        max_length: of a longer text, the first tokens.
        classes, target_names: names of the classes, or of the value.
        file, frame: where the texts are from, for errors and for `column`.
    """

    collate_fn = staticmethod(padded)

    def __init__(
        self,
        texts: Sequence[str],
        targets: Tensor,
        tokens: str = "word",
        lower: bool = True,
        min_count: int = 2,
        max_words: int = 20_000,
        max_length: int | None = None,
        classes: Sequence[str] | None = None,
        target_names: Sequence[str] | None = None,
        file: Source | None = None,
        frame: Any = None,
    ):
        self.texts, self.targets, self.classes, self.target_names = texts, targets, classes, target_names
        self.min_count, self.max_words, self.kind = min_count, max_words, tokens
        self.file, self.frame = file, frame
        numbers: dict[str, int] = {}  # every token of the file, in the order in which they occur
        flat, lengths = array.array("q"), []
        for text in texts:
            found = tokenise(text, tokens, lower)[:max_length]
            flat.extend(numbers.setdefault(token, len(numbers)) for token in found)
            lengths.append(len(found))
        self.tokens, self.flat = list(numbers), torch.tensor(flat, dtype=torch.int64)
        self.rows = torch.arange(len(texts))
        self.lengths = torch.tensor(lengths, dtype=torch.int64)
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.vocabulary: list[str] = []
        self.code: Tensor | None = None  # of every token of the file, its number in the vocabulary

    def column(self, name: str) -> list[Any]:
        """A value for each text, of any of the file's columns, for split.group and split.time. Raises UserError."""
        assert self.file is not None, "texts that come from no file have no columns"
        file, column = self.file, column_of(self.frame, "split", name, self.file)
        is_date = str(column.dtype) == "String" and column.str.contains(DATE).all()
        return (in_order(column, lambda row: place(file, row)) if is_date else column).to_list()

    def fit(self, indices: Tensor) -> None:
        """Build the vocabulary from these texts alone. Raises UserError where it would be empty."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[indices] = True
        counts = self.flat[chosen.repeat_interleave(self.lengths)].bincount(minlength=len(self.tokens)).tolist()
        often = [number for number, count in enumerate(counts) if count >= self.min_count]
        often.sort(key=lambda number: (-counts[number], self.tokens[number]))
        known = often[: self.max_words]
        if not known:
            raise UserError(f"data.min_count={self.min_count}: no {self.kind} occurs so often in the training split.")
        self.vocabulary = [*MARKS, *(self.tokens[number] for number in known)]
        self.code = torch.full((len(self.tokens),), UNKNOWN)
        self.code[known] = torch.arange(len(MARKS), len(self.vocabulary))
        self.facts = facts_of(self.vocabulary) | {"padding": PADDING}
        self.note = self._remark()

    def where(self, index: int) -> str:
        """The place of a sample in its file, for errors."""
        return f"sample {index}" if self.file is None else place(self.file, int(self.rows[index]))

    def shown(self, index: int) -> str:
        """A text as it stands in the file."""
        return self.texts[int(self.rows[index])]

    def identities(self) -> list[str]:
        """What is equal for equal samples: the texts."""
        return [self.texts[row] for row in self.rows.tolist()]

    def select(self, indices: Tensor) -> "Texts":
        """The texts at these indices, as a data set of their own with the same vocabulary."""
        part = copy.copy(self)
        part.frame = None  # it isn't needed any more, and would be sent to every worker
        for name in ("rows", "lengths", "starts", "targets"):
            setattr(part, name, getattr(self, name)[indices])
        part.note = part._remark()
        return part

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int) -> dict[str, Any]:
        """What stands in the row, before it is tokenised: {"text": ..., "label": ...}."""
        target: Any = self.targets[index].tolist()
        label = target if self.classes is None else self.classes[target]
        return {"text": self.texts[int(self.rows[index])], "label": label}

    def content_of(self, index: int) -> str:
        """The text, for the split's digest."""
        return self.texts[int(self.rows[index])]

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        assert self.code is not None, "fit(indices) builds the vocabulary"
        start = int(self.starts[index])
        return {"tokens": self.code[self.flat[start : start + int(self.lengths[index])]]}, self.targets[index]

    def _remark(self) -> str:
        """What is said of the texts on the data line."""
        known, what = len(self.vocabulary) - len(MARKS), "words" if self.kind == "word" else "characters"
        short, long = int(self.lengths.min()), int(self.lengths.max())
        said = f"texts of {short} to {long} {what}; {known:,} different ones known"
        return "\n".join(filter(None, [self.file.said if self.file else "", said]))


@factory("data", provides=("vocab_size", "vocabulary", "padding"))
def text(
    path: str,
    text: str,
    target: str | Sequence[str],
    task: str = "auto",
    tokens: str = "word",
    lower: bool = True,
    min_count: int = 2,
    max_words: int = 20_000,
    max_length: int | None = None,
    empty: str = "error",
    separator: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    encoding: str | None = None,
    missing: str | Sequence[str] | None = None,
    header: bool | None = None,
) -> Texts:
    """Texts in a column of a table.

    Args:
        path: a CSV, TSV, Parquet or JSON-lines file; a relative one is looked for in the working directory, then in
            the checkout.
        text: the column of texts.
        target: the column to predict, or a list of columns.
        task: regression: targets are (N, T) float32. binary, multiclass: classes (N,) int64, in sorted order, so that
            the second of two is the positive one. multilabel: columns of 0 and 1, (N, T) float32. Any other word: as
            the columns look.
        tokens, lower, min_count, max_words, max_length: as for `Texts`.
        empty: of rows without a text, or whose text has no token: error, or drop, which leaves them out.
        separator, decimal, thousands, encoding, missing, header: how the file is written, where the file itself
            doesn't tell it rightly: what parts its fields, the marks in its numbers, the words that mean a missing
            value, and whether its first line has the columns' names.
    """
    if tokens not in ("word", "char"):
        raise UserError(f"data.tokens={tokens}: must be word or char.{did_you_mean(tokens, ('word', 'char'))}")
    for key, number in (("min_count", min_count), ("max_words", max_words), ("max_length", max_length)):
        check_whole_number(key, number, null=key == "max_length")
    reading = Reading.of(missing, separator, decimal, thousands, encoding, header)
    if empty not in ("error", "drop"):
        raise UserError(f"data.empty={empty}: must be error or drop.{did_you_mean(empty, ('error', 'drop'))}")
    file, frame = opened(path, [text], reading)
    if empty == "drop":
        check_columns({"data.text": [text]}, frame, file)
        kept = [bool(value is not None and tokenise(str(value), tokens, lower)) for value in frame[text].to_list()]
        file.kept, count = [row for row, keep in enumerate(kept) if keep], kept.count(False)
        frame = frame.filter(kept)
        file.notes.append(f"{counted(count, 'empty text')} left out" if count else "")
    column, names = column_of(frame, "data.text", text, file), as_list(target)
    if text in names:
        raise UserError(f"data.target={listed(names)}: the text itself would be predicted from itself.")
    if str(column.dtype) not in ("String", "Categorical", "Enum"):
        raise UserError(
            f"data.text={text}: {file} has {column.dtype} there, and no text. It has: {listed(frame.columns)}."
        )
    goals = [column_of(frame, "data.target", name, file) for name in names]
    targets, classes = read_targets(goals, task, file, lambda row: place(file, row))
    texts = column.cast(str).to_list()
    data = Texts(
        texts,
        targets,
        tokens,
        lower,
        min_count,
        max_words,
        max_length,
        classes,
        None if classes else names,
        file,
        frame,
    )
    wordless = (data.lengths == 0).nonzero()
    if len(wordless):
        row = int(wordless[0])
        raise UserError(
            f"{place(file, row)}: no {tokens} is left of {text} = {texts[row]!r} (so in "
            f"{counted(len(wordless), 'row')}): leave such rows out, or data.empty=drop does."
        )
    return data


class TextReader(Reader):
    """Texts: of a table's column, in files of their own, or the text itself."""

    takes_text = True

    def open(self, given: Any) -> New:
        texts, column, names, notes = self._texts(given)
        tokens, lower, most = self.node.get("tokens", "word"), self.node.get("lower", True), self.node.get("max_length")
        number = {token: place for place, token in enumerate(json.loads(self.spec.vocabulary))}
        coded = [
            torch.tensor([number.get(token, UNKNOWN) for token in tokenise(text or "", tokens, lower)[:most]])
            for text in texts
        ]
        unknown, count = sum(int((one == UNKNOWN).sum()) for one in coded), sum(map(len, coded))
        if unknown:
            notes.append(f"{unknown:,} of {count:,} {tokens}s aren't in the training texts")
        strange = sum(len(one) > 0 and bool((one == UNKNOWN).all()) for one in coded)
        if strange:
            notes.append(f"{counted(strange, 'text')} of unknown {tokens}s alone")
        return New(Coded(coded), column, names, lambda place: f"no {tokens} in it", notes)

    def truths(self, given: Any, new: New) -> tuple[Tensor, Tensor]:
        if find_path(given).is_dir() or Path(given).suffix.lower() == ".txt":
            return labels_of(given, new.names, self.node, self.spec)
        targets = as_list(self.node["target"])
        named = targets if self.spec.class_names is not None else []
        file, frame = opened(str(given), [str(self.node["text"]), *named], Reading.among(self.node), "input")
        return targets_beside(frame, targets, self.spec, None, file, "data.target")

    def _texts(self, given: Any) -> tuple[list[str | None], str, Sequence[Any], list[str]]:
        """The texts, what they are called by, and what should be said."""
        if not isinstance(given, str | Path):
            return [str(text) for text in given], "row", range(1, len(given) + 1), []
        if find_path(given).is_dir() or Path(given).suffix.lower() == ".txt":
            files = files_in(given, (".txt",), "texts")
            encoding = self.node.get("encoding")
            return [decoded(Path(file).read_bytes(), Path(file), encoding)[0] for file in files], "file", files, []
        name = str(self.node["text"])
        file, frame = opened(str(given), [name], Reading.among(self.node), "input")
        check_columns({"data.text": [name]}, frame, file)
        return frame[name].cast(str).to_list(), "row", range(1, frame.height + 1), [file.said] if file.said else []

    def raw(self) -> Raw:
        about = {name: self.node.get(name, default) for name, default in (("lower", True), ("max_length", None))}
        pattern = WORD.pattern if self.node.get("tokens", "word") == "word" else "(?s:.)"
        return PaddedTokens(json.loads(self.spec.vocabulary), about | {"token": pattern})


# One text in a file of UTF-8.
OF_A_TEXT = """\
number = {token: place for place, token in enumerate(facts["vocabulary"])}
text = Path(path).read_text(encoding="utf-8-sig")
found = re.findall(facts["token"], text.lower() if facts["lower"] else text)[: facts["max_length"]]
if not found:
    sys.exit(f"{path!a}: no token in it")
inputs = {"tokens": numpy.array([[number.get(token, 1) for token in found]]), "lengths": numpy.array([len(found)])}
"""


class PaddedTokens(Places):
    """Texts as numbers of tokens, "tokens" (N, T), of each of which the first "lengths" (N,) count.

    Args:
        vocabulary: the tokens, by their numbers.
        facts: how a text is parted into them.
    """

    def __init__(self, vocabulary: Sequence[str], facts: Mapping[str, Any]):
        facts = {"vocabulary": list(vocabulary), **facts}
        super().__init__(11, len(vocabulary), facts=facts, script=OF_A_TEXT, imports="import re\n")
        self.types["lengths"], self.axes["lengths"] = torch.int64, ("batch",)

    def draw(self, sizes: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
        drawn, most = super().draw(sizes, generator), sizes["length"]
        drawn["lengths"] = drawn["lengths"] % most + 1
        behind = torch.arange(most) >= drawn["lengths"][:, None]
        drawn["tokens"][behind] = PADDING
        return drawn

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        return inputs

    def back(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch


class Coded(BaseDataset):
    """Texts as numbers of tokens, with the place of each; -1 - place for one without any."""

    def __init__(self, coded: Sequence[Tensor]):
        self.coded = coded

    @staticmethod
    def collate_fn(samples: Sequence[tuple[dict[str, Tensor], Tensor]]) -> Any:
        return padded(samples)

    def __len__(self) -> int:
        return len(self.coded)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        tokens = self.coded[index]
        if not len(tokens):
            return {"tokens": torch.tensor([UNKNOWN])}, torch.tensor(-1 - index)
        return {"tokens": tokens}, torch.tensor(index)


text.reader = TextReader  # type: ignore[attr-defined]


def _task_of(path: str, target: str | Sequence[str], **others: Any) -> tuple[str, str]:
    """For task=auto: what the target column says."""
    file, frame = opened(path, (), Reading.among(others))
    names = as_list(target)
    return task_for([column_of(frame, "data.target", name, file) for name in names], file)


text.task_of = _task_of  # type: ignore[attr-defined]
