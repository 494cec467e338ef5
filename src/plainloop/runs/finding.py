"""The run that RUN names, as in resume=RUN: a directory, the end of its path, or the latest."""

import os
import re
from pathlib import Path

from plainloop.errors import UserError, listed
from plainloop.runs.directory import RunDir
from plainloop.runs.files import MOST_YAML, read_regular


def to_continue(resume: str, outputs: str, directory: str | None) -> RunDir | None:
    """The run that `resume=` names; None where resume=auto finds none in `directory` yet. Raises UserError."""
    if resume != "auto":
        run = find(resume, outputs, "resume")
        if directory is not None and Path(directory).resolve() != run.path.resolve():
            raise UserError(
                f"hydra.run.dir={directory}: a run that is continued stays where it is, in {run}. Leave "
                f"hydra.run.dir out, or start a new run from it with {run.shown('extend')}"
            )
        return run
    if directory is None:
        raise UserError(
            "resume=auto continues the run in a directory, or starts it there: say which, as in "
            "hydra.run.dir=outputs/long resume=auto"
        )
    run = RunDir(Path(directory))
    return run.checked() if run.config.is_file() and run.has_checkpoints() else None


def several(text: str) -> list[str]:
    """The runs that `run=A,B` names, each as `find` takes it; a directory may have a comma in its name."""
    return [text] if "," not in text or Path(text).expanduser().exists() else text.split(",")


def find(text: str, outputs: str = "outputs", key: str = "run") -> RunDir:
    """The run that RUN names: a run directory, the end of its path, or "latest". Raises UserError."""
    if text == "latest":
        return latest(outputs, key)
    if not text:
        raise UserError(f"{key}=: give a run directory, or {key}=latest")
    path = Path(text).expanduser()
    if path.suffix == ".pt":
        also = f" checkpoint={text}" if key == "run" else ", which goes on from its newest checkpoint"
        raise UserError(f"{key}={text}: a run is a directory. Write {key}={path.parent.parent}{also}")
    if path.name == "checkpoints":
        path = path.parent
    if not os.path.exists(path) and os.path.isfile(Path(outputs) / text / "composed.yaml"):
        path = Path(outputs) / text
    if not os.path.exists(path):  # which is False of a name that is too long, too
        path = _ending_in(text.rstrip("/"), outputs, key)
    if not (path / "config.yaml").is_file() or not (path / "composed.yaml").is_file():
        own = path / "config.yaml"
        inside = sorted(file.parent for file in path.glob("**/config.yaml") if file != own)[:1]
        hint = f" Inside it there is {inside[0]}." if inside else ""
        missing = "it needs config.yaml and composed.yaml"
        if (path / "checkpoints").is_dir():
            missing = f"{'composed.yaml' if own.is_file() else 'config.yaml'} is missing: put it back"
        raise UserError(f"{key}={text}: not a run directory ({missing}).{hint}")
    return RunDir(path).checked()


LEAST = 4  # letters of a run's end, by which it can be named; each ends in so many of its own


def _ending_in(text: str, outputs: str, key: str) -> Path:
    """The run whose path ends in this text, as `297f` or `77d1/3`. Raises UserError where there is none, or several."""
    found = []
    if len(text) >= LEAST:
        found = [file.parent for file in Path(outputs).glob("**/composed.yaml") if str(file.parent).endswith(text)]
    if len(found) > 1:
        raise UserError(
            f"{key}={text}: {len(found)} runs end so: {listed(sorted(map(str, found)), 4)}. Give more of one."
        )
    if not found:
        raise UserError(f"{key}={text}: there is no such directory. {key}=latest takes the newest run in {outputs}/.")
    return found[0]


def latest(outputs: str, key: str = "run") -> RunDir:
    """The newest run that isn't a debug run and has a checkpoint."""
    newest = sorted(
        Path(outputs).glob("**/checkpoints/step-*.pt"), key=lambda path: path.lstat().st_mtime_ns, reverse=True
    )
    seen: set[Path] = set()
    for checkpoint in newest:
        path = checkpoint.parent.parent
        if path in seen or not (path / "config.yaml").is_file():
            continue
        seen.add(path)
        if not re.search(r"^  debug: (?!null)", _text(path / "config.yaml"), re.MULTILINE):
            return RunDir(path).checked()
    raise UserError(
        f"{key}=latest: there is no run with a checkpoint in {outputs}/. Train one first, or give its directory as "
        f"{key}=DIRECTORY."
    )


def _text(path: Path) -> str:
    try:
        return read_regular(path, MOST_YAML).decode("utf-8", errors="replace")
    except (OSError, ValueError):  # a pipe, or none that plainloop wrote
        return ""
