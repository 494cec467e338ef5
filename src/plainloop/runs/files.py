"""What is read of a run directory, which may be a stranger's: regular files of its own, of sensible sizes; and YAML
that can't become much more than what stands there."""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.config.references import check_references
from plainloop.errors import UserError, first_line

MOST_YAML = 4 << 20  # bytes; ours has some ten thousand, and a long vocabulary makes it a million
MOST_FILLED = 16 << 20  # characters, when its ${...} are filled in
MOST_JSON = 64 << 20  # environment.json has the changes of the checkout
MOST_SPLITS = 1 << 30  # splits.json lists every sample of a split that was chosen at random


def everything_in(*places: Path) -> Iterator[tuple[Path, int]]:
    """Files, folders and what else lies there, however deep, with its mode; links aren't followed."""
    left = list(places)
    while left:
        path = left.pop()
        try:
            mode = path.lstat().st_mode
            left += path.iterdir() if stat.S_ISDIR(mode) else []
        except OSError:  # there is none, or it is renamed just now by the process that trains there
            continue
        yield path, mode


def check_entries(paths: Iterable[Path]) -> None:
    """git and tar keep links: written through one, a file of the user's would be changed, and a pipe is waited for for
    ever. So what plainloop reads and writes in a run directory are files and folders of its own; what other tools put
    beside them is theirs. Raises UserError."""
    for path, mode in everything_in(*paths):
        if stat.S_ISLNK(mode):
            raise UserError(f"{path} is a link, and a run directory holds its own files: put a copy in its place.")
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise UserError(f"{path} is no file and no folder (a pipe, perhaps): it has no place in a run directory.")


def read_regular(path: Path, most: int | None = None) -> bytes:
    """The content of a file. Raises OSError for what isn't a regular one (a pipe would be waited for, a device has no
    end), ValueError for one of more bytes than `most`."""
    with open(path, "rb", opener=_without_waiting) as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode):
            raise OSError("it is no regular file")
        if most is not None and state.st_size > most:
            raise ValueError(f"it has {state.st_size:,} bytes, and may have {most:,}")
        return file.read()


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def load_yaml(path: Path, filled: bool = True) -> Any:
    """A config of OmegaConf's. Raises UserError where it can't be read.

    Args:
        filled: its `${...}` will be filled in: so they must be of a run.
    """
    try:
        text = read_regular(path, MOST_YAML).decode()
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise ValueError(
                    f"line {event.start_mark.line + 1}: anchors and aliases aren't read, plainloop writes none"
                )
        config = OmegaConf.create(text)
        if filled:
            check_references(OmegaConf.to_container(config, resolve=False), MOST_FILLED)
        return config
    except AssertionError as error:  # OmegaConf's, for YAML that is a number alone
        raise UserError(f"{path} can't be read: it is no mapping and no list.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UserError(f"{path} can't be read: it isn't YAML{where}.") from error
    except (OSError, ValueError, RecursionError, OmegaConfBaseException) as error:
        raise UserError(f"{path} can't be read: {_why(error)}.") from error


def load_json(path: Path, advice: str, most: int = MOST_JSON) -> dict[str, Any]:
    """The object that a JSON file holds, of so many bytes at most. Raises UserError with what may be done, where it
    can't be read."""
    try:
        data = read_regular(path, most)
        if len(data) > MOST_JSON and data.count(b"[") + data.count(b"{") > 100:  # ours holds a list for each split
            raise ValueError("it holds other things than numbers")
        found = json.loads(data.decode())
        if not isinstance(found, dict):
            raise ValueError("it holds no object {...}")
        return found
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. {advice}") from error
    except json.JSONDecodeError as error:
        what = "it is empty" if not error.doc.strip() else f"line {error.lineno} isn't JSON"
        raise UserError(f"{path} can't be read: {what}. {advice}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {_why(error)}. {advice}") from error


def _why(error: Exception) -> str:
    """Of what a stranger wrote no more than a few words are shown."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no text (UTF-8)"
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)[:200]
