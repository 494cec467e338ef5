"""The house: rooms stand on rooms, and nobody reaches upwards."""

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

ENGINE = ROOT / "src" / "plainloop"

# From the top down. Each room imports from those below it only, and from the ground.
ROOMS = (
    "commands",
    "reports",
    "assembly",
    "training",
    "tasks",
    "data.kinds",
    "data",
    "models.zoo",
    "models",
    "loggers",
    "runs",
    "config",
    "ground",
)
HYDRA = ("config", "assembly", "commands")  # rooms that know Hydra and OmegaConf


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    names = {}
    for path in sorted(ENGINE.rglob("*.py")):
        parts = path.relative_to(ENGINE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()


def room_of(module: str) -> str:
    """The room of a module: `data.kinds` of plainloop.data.kinds.images, `ground` of plainloop.errors."""
    name = module.removeprefix("plainloop").lstrip(".")
    return next((room for room in ROOMS if name == room or name.startswith(f"{room}.")), "ground")


@functools.cache
def imported(path: Path) -> set[str]:
    """The names of all modules that a file imports, anywhere in it: in functions, and for the type checker too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in inside}
    return found


@functools.cache
def arrows() -> dict[str, set[str]]:
    """Which of the engine's modules each of them imports. (The package's own front hands on by name.)"""
    return {name: {other for other in imported(path) if other in MODULES} for name, path in MODULES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_no_arrow_leads_upwards(module):
    floor = ROOMS.index(room_of(module))
    above = [other for other in arrows()[module] if ROOMS.index(room_of(other)) < floor]
    assert not above, f"{module} imports from above: {', '.join(above)}"


def test_there_is_no_circle():
    """Within rooms, too."""
    done: set[str] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(arrows()[module]):
                follow(other, (*path, module))
            done.add(module)

    for module in MODULES:
        follow(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_only_the_rooms_that_compose_and_assemble_know_hydra(module):
    """And `runs`, which reads a saved config."""
    known = {name.partition(".")[0] for name in imported(MODULES[module])} & {"hydra", "omegaconf"}
    if room_of(module) == "runs":
        known -= {"omegaconf"}
    assert not known or room_of(module) in HYDRA


def allowed(room: str) -> set[str]:
    """What the front of a room says that it imports: its last line, `Imports: data, models, ground.`"""
    docstring = ast.get_docstring(ast.parse(MODULES[f"plainloop.{room}"].read_text())) or ""
    match = re.search(r"^Imports: (.+)\.$", docstring, re.MULTILINE)
    assert match, f"the front of {room} doesn't say what the room imports"
    return set(match[1].split(", "))


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "ground"])
def test_a_room_imports_what_its_front_allows(room):
    """A part of a room (data/kinds) is a room of its own, and named with the whole (data)."""
    may = allowed(room)
    assert may <= {each.partition(".")[0] for each in ROOMS}
    for module in [name for name in MODULES if room_of(name) == room]:
        for other in arrows()[module]:
            place = room_of(other)
            assert place == room or place.partition(".")[0] in may, f"{module} imports {other}"


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "ground"])
def test_a_front_names_every_file_of_its_room(room):
    """In reading order, for whoever comes in."""
    folder = ENGINE / room.replace(".", "/")
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    missing = [path.name for path in folder.glob("*.py") if path.name != "__init__.py" and path.name not in docstring]
    assert not missing
