"""What a text is made of, words or characters, are its tokens; a vocabulary gives each known token a number."""

import json
import re
from collections.abc import Sequence
from typing import Any

PADDING, UNKNOWN = 0, 1
MARKS = ("<pad>", "<unk>")  # what stands for them in a vocabulary
STRANGE = "\N{REPLACEMENT CHARACTER}"  # and for a character that a book's training part doesn't have
WORD = re.compile(r"\w+(?:['\N{RIGHT SINGLE QUOTATION MARK}]\w+)*|[^\w\s]")


def tokenise(text: str, tokens: str, lower: bool) -> list[str]:
    """The tokens of a text: its words (with an apostrophe inside, if they have one) and signs, or its characters."""
    text = text.lower() if lower else text
    return WORD.findall(text) if tokens == "word" else list(text)


def facts_of(vocabulary: Sequence[str]) -> dict[str, Any]:
    """A vocabulary as it is kept with the run: as one string, because a config of 20,000 entries takes seconds."""
    return {"vocab_size": len(vocabulary), "vocabulary": json.dumps(list(vocabulary), ensure_ascii=False)}
