"""Where things are: the checkout, its doors, a file of the user's."""

import re
import shlex
import sys
import zipfile
from pathlib import Path
from typing import IO

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
    text = re.sub(r"(\\*)(?='|$)", lambda slashes: slashes[1] * 2, text).replace("'", "\\'").replace("${", "\\${")
    return f"'{text}'"


def quoted(word: str) -> str:
    """A word for the shell: in double quotes where Hydra wants it in single ones."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


def unpacks_to_more(file: IO[bytes]) -> bool:
    """Whether a file that torch would read becomes more than it is: it is compressed, has parts in more than one place,
    or holds bytes that are only counted. torch writes none of that, and memory has an end."""
    if file.read(2) != b"PK":
        return False
    try:
        with zipfile.ZipFile(file) as parts:
            entries = parts.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > file.seek(0, 2) or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                return True
            return any(b"bytearray" in parts.read(entry) for entry in entries if entry.filename.endswith(".pkl"))
    except Exception:  # zipfile's own, of several kinds: torch's reader may be less strict
        return True
