"""Files that are whole or not there: written beside, synced, and renamed."""

import os
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file so that a full disk or a crash leaves the old one."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing in it
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
