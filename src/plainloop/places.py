"""Where things are: the checkout, its doors, a file of the user's."""

import contextlib
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


def quoted(word: str) -> str:
    """A word for the shell: in double quotes where Hydra wants it in single ones."""
    if "'" in word and not set(word) & set('"$`\\!'):
        return f'"{word}"'
    return shlex.quote(word)


def unpacks_to_more(file: IO[bytes]) -> bool:
    """Whether a file that torch would read is compressed, or has parts in more than one place, as torch never writes
    it: a few bytes could become more than memory holds."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as parts:
        entries = parts.infolist()
        size = sum(entry.file_size for entry in entries)
        return size > file.seek(0, 2) or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    return False
