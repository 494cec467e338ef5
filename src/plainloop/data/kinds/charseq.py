"""Running text whose next character is to be predicted."""

import collections
import json
from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from plainloop.build import factory
from plainloop.data.dataset import IGNORED, SPLITS, InMemory
from plainloop.data.kinds.checks import check_whole_number
from plainloop.data.kinds.vocabulary import STRANGE, facts_of
from plainloop.data.preprocess import Preprocess
from plainloop.data.raw import Places, Raw
from plainloop.data.reading import New, Reader
from plainloop.data.splits import by_position
from plainloop.errors import UserError, listed
from plainloop.places import find_path


class Characters(InMemory):
    """Windows of a text: inputs (N, T) and, one character further on, targets (N, T); behind the text's end the
    targets are -100, which losses ignore.

    Args:
        numbers: the text's characters as numbers (L,); the last windows may be short of characters.
        length: T, or less where the text is shorter than that.
        vocabulary: the characters that there are.
    """

    divided = True  # by position; its windows aren't divided once more

    def __init__(self, numbers: Tensor, length: int, vocabulary: Sequence[str], note: str = ""):
        count = len(numbers) - 1  # characters that have a next one
        length = min(length, count)
        windows = -(-count // length)
        inputs = torch.zeros(windows * length, dtype=torch.int64)
        targets = torch.full((windows * length,), IGNORED)
        inputs[:count], targets[:count] = numbers[:-1], numbers[1:]
        names = [_name_of(character) for character in vocabulary]
        super().__init__(inputs.view(windows, length), targets.view(windows, length), classes=names, note=note)
        # Tokens are no numbers: a model that doesn't embed them must not take them for such.
        self.facts = facts_of(vocabulary) | {"sequence_length": length, "num_features": None}


def _name_of(character: str) -> str:
    """A character's name on the terminal and in pictures."""
    if character in (" ", STRANGE):
        return "space" if character == " " else "unknown"
    return character if character.isprintable() else ascii(character)[1:-1]


@factory("data", provides=("vocab_size", "vocabulary", "sequence_length"))
def charseq(
    split: str,
    text: str | None = None,
    path: str | None = None,
    length: int = 100,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
) -> Characters | None:
    """The next character of a running text.

    Args:
        split: "train", "val" or "test": the text's beginning, middle and end.
        text: the text itself, all of it to train on; its own characters are the vocabulary.
        path: or a file of UTF-8. Its vocabulary are the characters of the training part, behind one that stands for
            all others.
        length: characters in a window; a shorter text is one window.
        fractions: how a file is divided.
    """
    check_whole_number("length", length)
    if (text is None) == (path is None):
        raise UserError("data.text or data.path: give a text ('data.text=\" if you want you\"') or a file of text.")
    if text is not None:
        if not isinstance(text, str) or len(text) < 2:
            raise UserError(
                f"data.text={text}: a text of at least two characters is needed (in quotes, where it looks "
                "like a number: 'data.text=\"123\"')."
            )
        vocabulary = sorted(set(text))
        numbers = torch.tensor([vocabulary.index(character) for character in text])
        note = f"one text of {len(text):,} characters, all of it to train on"
        return Characters(numbers, length, vocabulary, note) if split == "train" else None
    assert path is not None
    book = _read(path)
    start, end = by_position(len(book), fractions)[split]
    if fractions[SPLITS.index(split)] == 0:
        return None
    if end - start < 2:
        raise UserError(
            f"split.fractions={list(fractions)} leaves {end - start} of {len(book)} characters for "
            f"{split}, and to say the next one takes two: raise its share, or set it to 0."
        )
    points = numpy.frombuffer(book.encode("utf-32-le"), dtype=numpy.uint32)
    known = numpy.unique(points[: by_position(len(book), fractions)["train"][1]])
    numbers = torch.from_numpy(numpy.where(numpy.isin(points, known), numpy.searchsorted(known, points) + 1, 0))
    strange = collections.Counter(map(chr, points[numbers.numpy() == 0].tolist()))
    note = f"{len(book):,} characters"
    if strange:
        note += f", {sum(strange.values())} of val and test not known from train ({listed(map(_name_of, strange), 10)})"
    return Characters(numbers[start:end], length, [STRANGE, *map(chr, known.tolist())], note)


# One text in a file of UTF-8; what the vocabulary doesn't have is its sign for unknown ones, where it has one.
OF_CHARACTERS = """\
number = {character: place for place, character in enumerate(facts["vocabulary"])}
text = Path(path).read_text(encoding="utf-8-sig")
inputs = {"tokens": numpy.array([[number.get(c, 0) if facts["strange"] else number[c] for c in text]])}
"""


class CharacterReader(Reader):
    """Running text, in the numbers of the run's vocabulary. A model of it isn't asked what each character of another
    text should have been, but for what comes next: `prompt=`."""

    takes_text = True  # to answer it

    def preprocess(self) -> Preprocess:
        return Preprocess(torch.zeros(()), torch.ones(()), bytes_in=False)

    def open(self, given: Any) -> New:
        raise UserError("this run has learned to go on with a text: prompt='how it begins' length=200")

    def raw(self) -> Raw:
        vocabulary = json.loads(self.spec.vocabulary)
        facts = {"vocabulary": vocabulary, "strange": vocabulary[0] == STRANGE}
        return Places(self.spec.sequence_length, len(vocabulary), facts=facts, script=OF_CHARACTERS)


charseq.reader = CharacterReader  # type: ignore[attr-defined]


def _read(path: str) -> str:
    """A file of UTF-8, its lines ended by "\\n". Raises UserError with the place of a byte that isn't."""
    file = find_path(path)
    if not file.is_file():
        raise UserError(f"data.path={path}: {'a folder' if file.is_dir() else 'there is no such file'}.")
    content = file.read_bytes()
    try:
        book = content.decode().removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line}: not text in UTF-8: byte {error.start} of the file is "
            f"0x{content[error.start]:02x}. Save the file as UTF-8."
        ) from error
    if len(book) < 2:
        raise UserError(f"{file}: {'one character only' if book else 'the file is empty'}.")
    return book
