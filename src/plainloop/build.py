"""A `_target_` becomes an object: imported, allowed, checked against its signature, and named in errors.

A `_target_` is code execution, and a run directory may be a stranger's. So what a slot may build is decided by
kind (a Module for a model, an Optimizer for an optimizer, ...). Functions are accepted only when their own
source marks them with `@factory(slot)`, or when the user trusts them on the command line (`trust=[my.function]`);
a run directory can authorise nothing. To import a module is to execute it already: so what a run's own config names is
imported only where it was installed or lies in the checkout's src/ (trust.py).
"""

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from plainloop.errors import MachineError, UserError, did_you_mean, first_line, listed, origin, out_of_memory, told
from plainloop.trust import (
    in_working_directory,
    is_named,
    is_others,
    refuse_a_runs_own,
    refuse_unknown,
    search_working_directory,
    trusting,
)

# Names that other libraries give to arguments of torch's.
SYNONYMS = {"learning_rate": "lr", "wd": "weight_decay", "beta": "betas", "epsilon": "eps", "p": "dropout"}

# Sizes that a model usually takes from the data.
SIZES = {
    "in_features": "num_features",
    "in_channels": "in_channels",
    "input_size": "num_features",
    "out_features": "num_outputs",
    "num_classes": "num_outputs",
    "num_outputs": "num_outputs",
}

F = TypeVar("F", bound=Callable[..., Any])


def factory(slot: str, **known: Any) -> Callable[[F], F]:
    """Mark a function as one that configs may name in this slot.

    Args:
        known: what is known before it builds anything, as attributes of the function: the facts that a data set
            `provides`, the argument by which a model is `pretrained_by`.
    """

    def mark(function: F) -> F:
        for name, value in {**known, "plainloop_factory": slot}.items():
            setattr(function, name, value)
        return function

    return mark


def hands_on(front: str, folder: str) -> Callable[[str], Any]:
    """A `__getattr__` for a room whose options lie in a folder, one in each file and called as the file is: so
    `plainloop.data.images` is `images` of data/kinds/images.py, and a file that is deleted or added needs no line."""

    def found(name: str) -> Any:
        place = f"{front}.{folder}.{name}"
        if name.startswith("_") or importlib.util.find_spec(place) is None:
            raise AttributeError(f"module {front!r} has no attribute {name!r}")
        return getattr(importlib.import_module(place), name)

    def options() -> list[str]:
        """What can be named: the files that define what they are called. For suggestions."""
        files = [file for place in sys.modules[front].__path__ for file in Path(place, folder).glob("[a-z]*.py")]
        return [file.stem for file in files if f"\ndef {file.stem}(" in file.read_text("utf-8")]

    found.options = options  # type: ignore[attr-defined]
    return found


# What a slot takes: a class (of which an object is built), words for a function, or the methods that a class must have.
Kind = type | str | tuple[str, ...]


def build(node: Mapping[str, Any], slot: str, kind: Kind, trust: Sequence[str] = (), **given: Any) -> Any:
    """Build what a plain (resolved) config node describes: `_target_` and its keyword arguments.

    Args:
        slot, kind: as for `locate`.
        given: arguments that come from us (a Dataset's split, an optimizer's params), not from the config.
    """
    return construct(locate(node["_target_"], slot, kind, trust), node, slot, kind, **given)


def locate(path: str, slot: str, kind: Kind, trust: Sequence[str] = (), key: str = "") -> Any:
    """The class or function that a `_target_` names, if this slot may build it. Raises UserError.

    Args:
        slot: where it stands, as "model", "metrics.accuracy" or "loader.collate_fn".
        kind: what the slot takes: nn.Module, say; "a function of a list of samples"; ("update", "compute", "reset").
        key: what names it, if not SLOT._target_.
    """
    key = key or f"{slot}._target_"
    path = str(path) if str(path).isprintable() else repr(path)
    target = _imported(path, key, trust)
    if slot == "data" and not is_named(path) and is_others(_file_of(target)):
        raise UserError(
            f"{key}={path}: a data set may download and write, and this one is named by a run's own config, which may "
            f"be a stranger's. If you know it, say so on the command line: {trusting([*trust, path])}"
        )
    if inspect.isclass(target) and not isinstance(kind, str):
        fits = issubclass(target, kind) if isinstance(kind, type) else all(hasattr(target, name) for name in kind)
        if fits:
            return target
    elif path in trust or (callable(target) and getattr(target, "plainloop_factory", None) in _groups(slot, kind)):
        return target
    elif isinstance(kind, type) and isinstance(target, kind):
        raise UserError(
            f"{key}={path} is {in_words(kind)} that exists already. Name its class, of which one is built "
            "here, or a function that returns it."
        )
    elif callable(target):
        group, is_one = slot.partition(".")[0], not isinstance(kind, type)
        own = " (a function of outputs and targets: call it in the forward of one)" if group == "loss" else ""
        raise UserError(
            f"{key}={path} is a function, and {slot} takes {in_words(kind)}{own}.\n"
            f"If you know the function and it {'is' if is_one else 'returns'} one, say so on the command line: "
            f"'trust=[{path}]'"
        )
    if inspect.ismodule(target):
        raise UserError(f"{key}={path} is a module. Name what is meant in it, {in_words(kind)}.")
    raise UserError(f"{key}={path} is not {in_words(kind)}.")


def _imported(path: str, key: str, trust: Sequence[str] = ()) -> Any:
    """What a dotted name means: a module's class or function, or a class's method."""
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise UserError(f"{key}={path}: must be a dotted name, as in my_package.MyClass")
    target, used = _module(parts, f"{key}={path}", trust)
    if used == len(parts) - 1 and not hasattr(target, parts[-1]) and parts[-1] in _submodules(target):
        target, used = _module([*parts, ""], f"{key}={path}", trust)
    for depth in range(used, len(parts)):
        if not hasattr(target, parts[depth]):
            hint = _what_it_has(target, parts[depth])
            raise UserError(f"{key}={path}: {'.'.join(parts[:depth])} has no {parts[depth]}.{hint}")
        target = getattr(target, parts[depth])
    return target


def _module(parts: Sequence[str], what: str, trust: Sequence[str]) -> tuple[ModuleType, int]:
    """The innermost module that a dotted name goes through, imported, and how many of the name's parts are its own."""
    path = ".".join(parts).rstrip(".")
    module, used = None, 0
    for depth in range(1, len(parts)):
        name = ".".join(parts[:depth])
        try:
            if name not in sys.modules:  # what has been imported before executes nothing now
                refuse_unknown(path, None, what, trust)  # to look for some is to run something, too
                spec = importlib.util.find_spec(name)
                here = spec is None and depth == 1
                spec = in_working_directory(name) if here else spec
                if spec is None:
                    break
                for place in (spec.origin, *(spec.submodule_search_locations or [])):
                    refuse_a_runs_own(place, what)
                    refuse_unknown(path, place, what, trust)
                if here:
                    search_working_directory()
            module, used = importlib.import_module(name), depth
        except UserError:
            raise
        except ModuleNotFoundError as error:
            if error.name == name:  # its parent is a module and no package
                break
            raise UserError(f"{what}: importing {name} failed: {error} ({origin(error)})") from error
        except (Exception, SystemExit) as error:
            why = "it exits the program" if isinstance(error, SystemExit) else first_line(error)
            raise UserError(
                f"{what}: importing {name} failed: {type(error).__name__}: {why} ({origin(error)})"
            ) from error
    if module is None:
        raise UserError(
            f"{what}: no module named {parts[0]}. It must be installed, or lie in src/ or in the "
            "folder where the command is typed."
        )
    return module, used


def _what_it_has(target: Any, word: str) -> str:
    """' Did you mean MyNet?' for a name that a module or class lacks; else what a module defines itself."""
    names = [name for name in dir(target) if not name.startswith("_") and not inspect.ismodule(getattr(target, name))]
    elsewhere: list[str] = getattr(vars(target).get("__getattr__"), "options", list)()
    modules = _submodules(target)
    own = [name for name in names if getattr(getattr(target, name), "__module__", "") == target.__name__]
    return (
        did_you_mean(word, [*names, *elsewhere])
        or did_you_mean(word, modules)
        or (f" It has: {listed(own, 8)}." if own else "")
    )


def _submodules(target: Any) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(getattr(target, "__path__", None) or [])]


def _file_of(target: Any) -> str | None:
    return getattr(sys.modules.get(getattr(target, "__module__", None) or ""), "__file__", None)


def _groups(slot: str, kind: Kind) -> tuple[str, ...]:
    """The words of `@factory` that are meant for a slot: "metrics.accuracy" is of the group "metrics"."""
    return (slot,) if isinstance(kind, str) else (slot, slot.split(".")[0].partition("[")[0])


def in_words(kind: Kind) -> str:
    """A kind as it is called in errors: "a torch.nn.Module", by the shortest path that leads to the class."""
    if isinstance(kind, str):
        return kind
    if isinstance(kind, tuple):
        return f"a class with {', '.join(kind[:-1])} and {kind[-1]}"
    parts = kind.__module__.split(".")
    paths = [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
    front = next(path for path in paths if getattr(sys.modules.get(path), kind.__name__, None) is kind)
    return f"a {front}.{kind.__name__}"


def construct(target: Any, node: Mapping[str, Any], slot: str, kind: Kind, **given: Any) -> Any:
    """`build` with a target that has been located already."""
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    check_arguments(target, arguments, slot, given)
    try:
        built = target(**given, **arguments)
    except (UserError, MachineError):
        raise
    except Exception as error:
        if out_of_memory(error) or isinstance(error, OSError):
            raise
        typed = listed(f"{name}={_shown(value)}" for name, value in arguments.items() if name != "params")
        what = f"building {target.__name__} failed, with arguments"
        if isinstance(error, TypeError | ValueError | AssertionError | ArithmeticError | RuntimeError):
            what = f"{target.__name__} refused its arguments"
        raise UserError(f"{slot}: {what} ({typed or 'none'}): {told(error)} ({origin(error)})") from error
    no_split = slot == "data" and built is None  # what a function returns for a split that it doesn't have
    is_another = isinstance(kind, type) and not inspect.isclass(target) and not isinstance(built, kind)
    if is_another and not no_split:
        returned = type(built).__name__
        raise UserError(f"{slot}: {node['_target_']} returned {returned}, and {slot} takes {in_words(kind)}.")
    return built


def check_arguments(
    target: Callable[..., Any], arguments: Mapping[str, Any], slot: str, given: Mapping[str, Any]
) -> None:
    """Unknown and missing arguments, and words where numbers belong, by the target's signature. Raises UserError."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # some builtins have none
        return
    kinds = inspect.Parameter
    names = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY) and name not in given
    ]
    takes_any = any(parameter.kind is kinds.VAR_KEYWORD for parameter in parameters.values())
    called = getattr(target, "__name__", str(target))
    for name, value in arguments.items():
        if name not in parameters and not takes_any:
            meant = SYNONYMS.get(name, "")
            hint = f" Did you mean {meant}?" if meant in names else did_you_mean(name, names)
            raise UserError(f"{slot}.{name}: {called} takes no such argument.{hint} It accepts: {listed(names)}.")
        if name in parameters:
            _check_number(parameters[name], value, f"{slot}.{name}", called)
    for name in names:
        if parameters[name].default is kinds.empty and arguments.get(name) is None:
            value = f"'${{spec.{SIZES[name]}}}'" if name in SIZES else "VALUE"
            raise UserError(f"{slot}.{name}: {called} needs it. Write {slot}.{name}={value}")


def _check_number(parameter: inspect.Parameter, value: Any, name: str, called: str) -> None:
    """A default that is a number asks for a number, unless the annotation also allows a word."""
    default, annotation = parameter.default, str(parameter.annotation)
    numeric = isinstance(default, int | float) and not isinstance(default, bool)
    if numeric and isinstance(value, str) and "str" not in annotation:
        raise UserError(f"{name}={value}: {called} takes a number here (its default is {default}).")
    if parameter.annotation in (int, float) and isinstance(value, str):
        raise UserError(f"{name}={value}: {called} takes a number here.")
    if (isinstance(default, bool) or annotation == "bool | None") and isinstance(value, str):
        raise UserError(f"{name}={value}: {called} takes true or false here.")


def _shown(value: Any) -> str:
    """An argument, for people: functions and objects by their names, without an address."""
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    plain = value is None or isinstance(value, bool | int | float | str | dict)
    return str(value) if plain else getattr(value, "__name__", type(value).__name__)


def function(node: Any, slot: str, kind: str, trust: Sequence[str] = ()) -> Any:
    """A function that is named by its path, or an object that a node describes and that can be called. What isn't
    marked with `@factory(slot)` must be trusted. Raises UserError.

    Args:
        kind: the function in words: "a function of a list of samples".
    """
    if isinstance(node, str):
        if node in ("torch.utils.data.default_collate", "default_collate"):
            from torch.utils.data import default_collate

            return default_collate
        return locate(node, slot, kind, trust, slot)
    if not isinstance(node, Mapping):
        raise UserError(f"{slot}={node}: must be the name of {kind}, as in {slot}=my_module.my_function")
    return build(node, slot, kind, trust)
