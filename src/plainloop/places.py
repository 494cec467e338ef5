"""Where things are: the checkout, its doors, a file of the user's."""

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
    return shlex.join(["python", str(place), *words])
