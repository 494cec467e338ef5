"""What is read of a run directory, which may be a stranger's: regular files of its own, of sensible sizes; and YAML
that can't become much more than what stands there."""

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plainloop.errors import UserError, first_line

MOST_YAML = 4 << 20  # bytes; ours has some ten thousand, and a long vocabulary makes it a million
MOST_FILLED = 16 << 20  # characters, when its ${...} are filled in
MOST_JSON = 1 << 30  # splits.json lists every sample of a split that was chosen at random


def check_entries(folder: Path) -> None:
    """git and tar keep links: written through one, a file of the user's would be changed, and a pipe is waited for for
    ever. So a run directory holds files and folders of its own. Raises UserError."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            try:
                mode = path.lstat().st_mode
            except OSError:  # renamed by the process that trains there
                continue
            if stat.S_ISLNK(mode):
                raise UserError(f"{path} is a link, and a run directory holds its own files: put a copy in its place.")
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise UserError(
                    f"{path} is no file and no folder (a pipe, perhaps), and has no place in a run directory."
                )


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
            _check_references(OmegaConf.to_container(config, resolve=False))
        return config
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UserError(f"{path} can't be read: it isn't YAML{where}.") from error
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise UserError(f"{path} can't be read: {_why(error)}.") from error


def load_json(path: Path, advice: str) -> Any:
    """What a JSON file holds. Raises UserError with what may be done, where it can't be read."""
    try:
        return json.loads(read_regular(path, MOST_JSON))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing. {advice}") from error
    except json.JSONDecodeError as error:
        what = "it is empty" if not error.doc.strip() else f"line {error.lineno} isn't JSON"
        raise UserError(f"{path} can't be read: {what}. {advice}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read: {_why(error)}. {advice}") from error


def _why(error: Exception) -> str:
    """Of what a stranger wrote no more than a few words are shown."""
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)[:200]


# What plainloop's own configs have: ${spec.num_outputs}, ${oc.select:choices.task,auto}, ${times:10,${optimizer.lr}}.
REFERENCE = re.compile(r"\$\{\s*(?:oc\.select:)?\s*(\.*)([\w.\[\]-]+)\s*(?:,[^${}]*)?\}")
RESOLVER = re.compile(r"\$\{times:[^${}]*\}")


def _check_references(content: Any) -> None:
    """A run's config refers to itself, and to nothing of the user's (`${oc.env:PASSWORD}`); and not so that it doubles
    at every step (`a: ${b}${b}`, `b: ${c}${c}`, ...). Raises ValueError."""
    known: dict[str, int] = {}

    def length(node: Any, place: str) -> int:
        """How many characters a node has when its references are filled in."""
        if isinstance(node, Mapping):
            return 1 + sum(of(f"{place}.{name}" if place else str(name), value) for name, value in node.items())
        if isinstance(node, list):
            return 1 + sum(of(f"{place}.{number}", value) for number, value in enumerate(node))
        text = str(node).replace("\\${", "")
        rest = REFERENCE.sub("", text)
        while RESOLVER.search(rest):
            rest = RESOLVER.sub("", rest)
        if "${" in rest:
            raise ValueError(f"{place}: only what a run's config has itself can be filled in, as in ${{optimizer.lr}}")
        names = [
            absolute(dots, name.replace("[", ".").replace("]", ""), place) for dots, name in REFERENCE.findall(text)
        ]
        return len(text) + sum(of(name, found(name)) for name in names)

    def of(place: str, node: Any) -> int:
        if place not in known:
            known[place] = 0  # of a circle, which OmegaConf tells
            known[place] = length(node, place)
            if known[place] > MOST_FILLED:
                raise ValueError(
                    f"{place or 'it'} would have more than {MOST_FILLED:,} characters with its ${{...}} filled in"
                )
        return known[place]

    def absolute(dots: str, name: str, place: str) -> str:
        """One dot is the node's own parent, two dots the parent of that, as in OmegaConf."""
        return ".".join([*place.split(".")[: -len(dots)], name]) if dots else name

    def found(place: str) -> Any:
        node = content
        for part in place.split("."):
            try:
                node = node[int(part)] if isinstance(node, list) else node[part]
            except (KeyError, IndexError, TypeError, ValueError):
                return ""  # which OmegaConf tells
        return node

    of("", content)
