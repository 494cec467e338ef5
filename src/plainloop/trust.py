"""What may be imported: to import a module is to execute it, and a run directory may be a stranger's.

A run directory is data: no module in it is ever imported. And what a run's own config names is imported only where it
was installed or lies in the checkout's src/; beside what the command line and the user's own configs name.
docs/security.md says what follows from that.
"""

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from plainloop.errors import UserError
from plainloop.places import ROOT, grammar, quoted


def refuse_a_runs_own(place: str | Path | None, what: str) -> None:
    """A run directory, which may be a stranger's, is data: nothing in it, or beside it in a folder `outputs`, is
    imported. Raises UserError."""
    if place in ("built-in", "frozen") or (place and _is_installed(place)):  # what Python says of its own; a package
        return
    here = Path.cwd().resolve()
    inside = Path(place).resolve() if place else here
    for folder in (inside, *inside.parents):
        is_above = folder == here or folder in here.parents  # the working directory may itself lie in a run directory
        if (folder.name == "outputs" and not is_above) or (folder / "composed.yaml").is_file():
            raise UserError(f"{what}: {inside} lies in a run directory, and nothing in one is ever executed.")


FOR_CHILDREN = "plainloop"  # what PYTHONSAFEPATH holds in the processes that are started; any word switches it on
# What may be named beside: by the command line and the user's own configs. None: no run's config is being built.
_named: ContextVar[frozenset[str] | None] = ContextVar("named", default=None)


@contextlib.contextmanager
def from_a_run(named: Iterable[str]) -> Iterator[None]:
    """While the config of a run directory is built, which may be a stranger's, nothing is imported but what was
    installed (of other people's packages: to import some of Python's own is to start a program) and what lies in the
    checkout's src/; and no data set is built but of ours and of src/, since others may download and write.

    Args:
        named: what is imported nevertheless, by its dotted name.
    """
    token = _named.set(frozenset(named))
    try:
        yield
    finally:
        _named.reset(token)


def in_working_directory(name: str) -> Any:
    """The spec of a module in the folder where the command was typed; None where it has none. Nothing is executed."""
    try:
        return importlib.machinery.PathFinder.find_spec(name, [os.getcwd()])
    except OSError:  # the folder is gone
        return None


def search_working_directory() -> None:
    """From now on modules are looked for in the folder where the command was typed, behind all others: one of its own
    has been named, and may need its neighbours. Not before: the folder may be a stranger's, and what Python and
    libraries look for along the path (plugins, optional packages) would be executed."""
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.append(here)  # not "": loading processes get this path, and it is to be the same there
        importlib.invalidate_caches()


@contextlib.contextmanager
def without_working_directory() -> Iterator[None]:
    """While processes are started: Python is called with `-c` there, and would look for modules in the working
    directory first, before it is told where this process looks for them."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = FOR_CHILDREN
    try:
        yield
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before


def optional(name: str) -> ModuleType:
    """A package that may not be installed. Raises ModuleNotFoundError: also where, while a run's own config is built, a
    file of that name lies elsewhere."""
    if name not in sys.modules:
        spec = importlib.util.find_spec(name)
        if spec is None or (_named.get() is not None and not _is_installed(spec.origin)):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return importlib.import_module(name)


def names_to_trust(config: Any) -> list[str]:
    """The names in a plain config that need the user's word (`trust=[...]`) when it is a run's own; with those that
    have needed it already."""

    def names(node: Any, slot: str) -> Iterator[str]:
        if isinstance(node, dict | list):
            for name, value in node.items() if isinstance(node, dict) else ((slot, value) for value in node):
                yield from names(value, slot or str(name))
        elif isinstance(node, str) and _needs_trust(node, slot):
            yield node

    return list(dict.fromkeys([*config.get("trust", ()), *names(config, "")]))


def _needs_trust(path: str, slot: str) -> bool:
    """Whether a word is the name of a class or function that was imported from where no run's config may name it."""
    parts = path.split(".")
    names = [".".join(parts[:depth]) for depth in range(1, len(parts))]
    modules = [sys.modules[name] for name in names if name in sys.modules]
    found: Any = modules[-1] if modules else None
    for part in parts[len(modules) :]:
        found = getattr(found, part, None)
    if not callable(found):
        return False
    files = [getattr(module, "__file__", None) for module in modules]
    own = getattr(sys.modules.get(getattr(found, "__module__", None) or ""), "__file__", None)
    return not (_is_plain(path) and all(map(_is_installed, files))) or (slot == "data" and is_others(own))


def is_named(path: str) -> bool:
    named = _named.get()
    return named is None or path in named


def refuse_unknown(path: str, place: str | Path | None, what: str, trust: Sequence[str]) -> None:
    """Raises UserError for a name in a run's own config that the user has to vouch for.

    Args:
        path: the dotted name.
        place: where its module lies, or None.
        what: the key and the value, for the error.
        trust: what the user trusts already.
    """
    if is_named(path) or (_is_plain(path) and _is_installed(place)):
        return
    if path.split(".")[0] in sys.stdlib_module_names:
        where = "Python's own"
    else:
        where = f"in {Path(place).parent}" if place and not _is_installed(place) else "a package's own affair"
    raise UserError(
        f"{what}: a run's own config, which may be a stranger's, names what was installed or lies in the checkout's "
        f"src/, and this is {where}.\nIf you know it, say so on the command line: {trusting([*trust, path])}"
    )


def _is_plain(path: str) -> bool:
    """Neither Python's own nor what a package keeps for itself or runs as a program."""
    parts = path.split(".")
    return parts[0] not in sys.stdlib_module_names and not any(part.startswith("_") for part in parts)


def _is_ours(place: str | Path | None) -> bool:
    return place is not None and any(Path(place).resolve().is_relative_to(each) for each in _our_places())


def is_others(place: str | Path | None) -> bool:
    """Of a package that was installed, and isn't ours."""
    return place is not None and not _is_ours(place) and _is_installed(place)


def _is_installed(place: str | Path | None) -> bool:
    """Of a package without a file of its own the folders are asked."""
    if place is None or _is_ours(place):
        return True
    both = Path(place).absolute(), Path(place).resolve()  # some installers put links to a cache there
    return any(each.is_relative_to(folder) for each in both for folder in _packages())


@functools.cache
def _our_places() -> tuple[Path, ...]:
    return Path(__file__).resolve().parent, ROOT / "src"


@functools.cache
def _packages() -> tuple[Path, ...]:
    """Where pip, conda and the system put packages."""
    found = {*site.getsitepackages(), site.getusersitepackages()}
    found |= {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    return tuple({each for place in found for each in (Path(place).absolute(), Path(place).resolve())})


def trusting(names: Iterable[str]) -> str:
    """The word that trusts these, as it is typed."""
    return quoted(f"trust=[{','.join(grammar(name) for name in dict.fromkeys(names))}]")
