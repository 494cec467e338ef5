"""How a key is declared: its type and default, one line of help, its range, and what may change it."""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plainloop.errors import listed
from plainloop.places import grammar


def key(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    changes: str = "",
    decided: bool = False,
    of_workers: bool = False,
) -> Any:
    """A key of a section.

    Args:
        default: its value, or a function that makes it.
        min, above, choices: its range.
        changes: when it may differ from what the run has that one starts from: "resume extend evaluate", and "inexact"
            for a resumption that gives up its bits (resume_inexact=true). Of all keys of a section, the section's class
            says it: `changes: ClassVar[str] = "extend"`.
        decided: a run's config may hold what was made of the typed value (of "auto", say), and not the value itself.
        of_workers: it means something only where processes load the data.
    """
    metadata = {"help": help, "min": min, "above": above, "choices": choices, "changes": changes}
    metadata |= {"decided": decided, "of_workers": of_workers}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def group(
    holds: str = "one", *, option: str = "", changes: str = "", known: type | None = None, decided: bool = False
) -> Any:
    """A group of configs/: it takes any key, the arguments of the `_target_` that it names.

    Args:
        holds: "one" target, "one or none", or "several", each under a name of its own.
        option: when another option may be chosen, as `changes` of a key.
        changes: when its arguments may differ.
        known: a dataclass of the arguments of which something is known whatever the target: what may change them.
        decided: as of a key, for all of its arguments.
    """
    metadata = {"holds": holds, "option": option, "changes": changes, "known": known, "decided": decided}
    return field(default_factory=open_section, metadata=metadata)


def open_section() -> Any:
    """A section that takes any key."""
    return DictConfig({}, flags={"struct": False})


# --- what has been declared -----------------------------------------------------------------------------------


def typed_keys(schema: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Every key of our own as ("trainer.max_epochs", its field), sections flattened."""
    for item in dataclasses.fields(schema):
        if dataclasses.is_dataclass(item.type):
            yield from typed_keys(item.type, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        elif "help" in item.metadata:
            yield prefix + item.name, item


# Hydra takes a word for the option of a group wherever there is a folder of that name in configs/. A key of a command
# that bears such a name (model=FILE of evaluate.py) is a section with one key, and what is typed is read as model.file.
UNDER_A_GROUP = ".file"


def groups_of(schema: type) -> dict[str, str]:
    """The open groups of a schema, and what each holds."""
    return {item.name: item.metadata["holds"] for item in dataclasses.fields(schema) if "holds" in item.metadata}


def may_change(schema: type, *when: str, prefix: str = "") -> Iterator[str]:
    """What may differ, as it is listed for people: "trainer.device", "loader.*" for a whole section, "scheduler" for a
    group's option and "scheduler.*" for its arguments.

    Args:
        when: "resume", "inexact", "extend" or "evaluate".
    """
    for item in dataclasses.fields(schema):
        name, about = prefix + item.name, item.metadata
        inner: Any = item.type if dataclasses.is_dataclass(item.type) else about.get("known")
        changes = getattr(item.type, "changes", "") if inner is item.type else about.get("changes", "")
        if set(when) & set(about.get("option", "").split()):
            yield name
        if set(when) & set(changes.split()):
            yield name if "help" in about else f"{name}.*"
        elif inner is not None:
            yield from may_change(inner, *when, prefix=f"{name}.")


def is_among(name: str, allowed: Iterable[str]) -> bool:
    """Whether a key is one of those that `may_change` lists."""
    return any(name == each or (each.endswith("*") and name.startswith(each[:-1])) for each in allowed)


def is_decided(schema: type, name: str) -> bool:
    """Whether a run's config may hold something else than what was typed for this key."""
    top = {item.name: item for item in dataclasses.fields(schema)}.get(name.partition(".")[0])
    item = dict(typed_keys(schema)).get(name, top)
    return item is not None and item.metadata.get("decided", False)


# --- in words -------------------------------------------------------------------------------------------------


def kind_of(item: dataclasses.Field) -> str:
    """'a whole number', 'true or false', ...: a key's type in words."""
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "a word",
        "list": "a list",
    }
    name = item.type.__name__ if isinstance(item.type, type) else str(item.type)
    base = next((text for start, text in words.items() if name.startswith(start)), "a value")
    if item.metadata["choices"]:
        base = "one of " + listed(item.metadata["choices"])
    elif item.metadata["min"] is not None:
        base += f" of at least {item.metadata['min']}"
    elif item.metadata["above"] is not None:
        base += f" above {item.metadata['above']}"
    return base + (" or null" if "None" in name else "")


def default_of(item: dataclasses.Field) -> str:
    """A key's default as it would be typed."""
    factory: Any = item.default_factory
    return as_typed(factory() if item.default is dataclasses.MISSING else item.default)


def as_typed(value: Any) -> str:
    """A value as it would be typed: null, true, [8,16]."""
    value = plain(value)
    if isinstance(value, str) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)
    return json.dumps(value).replace(" ", "")


def override(name: str, value: Any) -> str:
    """A word that sets a key, in Hydra's grammar: `run='a run, with [brackets]'`."""
    return f"{name}={_in_grammar(value)}"


def _in_grammar(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_in_grammar, value))}]"
    return grammar(value) if isinstance(value, str) else as_typed(value)


def plain(node: Any) -> Any:
    """A config or a section as plain dicts, lists and numbers, every `${...}` filled in."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return dataclasses.asdict(node)
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
