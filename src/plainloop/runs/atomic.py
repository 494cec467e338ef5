"""Files that are whole or not there: written beside, synced, and renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LEFTOVERS = ".*.tmp"  # of processes that were killed while they wrote


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the context ends; whatever happens before, the old one stays.

    A power cut may not leave the new name with nothing in it: so the file is on the disk before it is renamed, and
    the rename before anything that is written later.
    """
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:  # never one that is there already, nor through a link
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a small file in this way. An OSError names it, and not the one beside it."""
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def own(path: Path) -> Path:
    """Before something is appended to a file: it gets a copy of its own, where another name leads to it too (tar keeps
    such names, and so do backups)."""
    if path.exists() and path.stat().st_nlink > 1:
        with open(path, "rb") as original, replacing(path) as file:
            shutil.copyfileobj(original, file)
    return path


def linked(path: Path, other: Path) -> Path:
    """Another name of a file, to be renamed to `other`: a link where the file system has such, else a copy."""
    temporary = _beside(other)
    try:
        os.link(path, temporary)
    except OSError:
        with open(path, "rb") as original, open(temporary, "xb") as file:
            shutil.copyfileobj(original, file)
            file.flush()
            os.fsync(file.fileno())
    return temporary


def _beside(path: Path) -> Path:
    """A name in the same folder that nobody can foresee."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where folders can be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
