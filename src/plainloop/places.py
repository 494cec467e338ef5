"""Where things are: the checkout, its doors, a file of the user's."""

import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout


def find_path(path: str | Path) -> Path:
    """A relative path of the user's is looked for in the working directory, then in the checkout."""
    given = Path(path).expanduser()
    inside = ROOT / given
    return inside if not given.is_absolute() and not given.exists() and inside.exists() else given


def typed(script: str, *words: str) -> str:
    """A command as it would have to be typed here: `python PATH/train.py 'run=my run'`."""
    door = Path(sys.argv[0])
    place = door.with_name(script) if (ROOT / door.name).is_file() and door.suffix == ".py" else Path(script)
    return " ".join(map(quoted, ["python", str(place), *words]))


PLAIN = re.compile(r"[A-Za-z0-9_./:@%+-]+")  # what Hydra takes as a word without quotes
LITERAL = re.compile(r"null|true|false|[+-]?([\d_.]+(e[+-]?\d+)?|nan|inf)", re.IGNORECASE)  # and as none


def grammar(text: str) -> str:
    """A text as a value in Hydra's grammar: in quotes, where it isn't a plain word there."""
    if PLAIN.fullmatch(text) and not LITERAL.fullmatch(text):
        return text
    text = re.sub(r"(\\*)(?='|$)", lambda slashes: slashes[1] * 2, text).replace("'", "\\'")
    return f"'{unfilled(text)}'"


def unfilled(text: str) -> str:
    """A text in which `${` refers to nothing: with a backslash before it, and what stands before that doubled."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", text)


def quoted(word: str) -> str:
    """A word for the shell: in double quotes where Hydra wants it in single ones."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)
