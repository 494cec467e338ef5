"""`${...}` in a config. A run's own config refers to itself alone: it must mean the same elsewhere, and may be a
stranger's, who would like to know what is in the user's environment."""

import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from plainloop.errors import UserError

# ${spec.num_outputs}, ${.sibling}, ${oc.select:choices.task,auto}; and ${times:10,${optimizer.lr}} around such.
REFERENCE = re.compile(r"\$\{\s*(?:oc\.select:)?\s*(\.*)([\w.\[\]-]+)\s*(?:,[^${}]*)?\}")
ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")  # \${ is text; in \\${ the first backslash makes text of the second
TIMES = re.compile(r"\$\{times:[^${}]*\}")
RESOLVER = re.compile(r"\$\{\s*[\w.]+\s*:")

Place = tuple[str, ...]


def stays_within(text: str) -> bool:
    """Whether a value refers to nothing but keys of its own config, by their names."""
    rest = REFERENCE.sub("", ESCAPED.sub("", text))
    while TIMES.search(rest):
        rest = TIMES.sub("", rest)
    return "${" not in rest


def fill_in_the_rest(cfg: DictConfig) -> None:
    """What refers to something else, as `${oc.env:DATA}`, becomes what that is here and now. Raises UserError for what
    can't be filled in yet."""

    def fill(raw: Any, node: DictConfig | ListConfig, place: Place) -> None:
        for name, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
            inner = (*place, str(name))
            if isinstance(value, dict | list):
                fill(value, node[name], inner)
            elif isinstance(value, str) and not stays_within(value):
                if "spec." in value or not RESOLVER.search(value):
                    raise UserError(
                        f"{'.'.join(inner)}={value}: a run couldn't be rebuilt with that. Name the key itself, as in "
                        "${spec.num_outputs}, or a multiple of it, ${times:2,${spec.num_outputs}}"
                    )
                node[name] = node[name]

    fill(OmegaConf.to_container(cfg, resolve=False), cfg, ())


def check_references(content: Any, most: int) -> None:
    """A config that was read refers to itself alone, and not so that it doubles at every step (`a: ${b}${b}`,
    `b: ${c}${c}`, ...). Raises ValueError.

    Args:
        most: characters that it may have when all is filled in.
    """
    known: dict[Place, int] = {}

    def length(node: Any, place: Place) -> int:
        if isinstance(node, Mapping | list):
            parts = node.items() if isinstance(node, Mapping) else enumerate(node)
            return 1 + sum(of((*place, str(name)), value) for name, value in parts)
        text = ESCAPED.sub("", str(node))
        if not stays_within(text):
            named = ".".join(place)
            raise ValueError(f"{named}: only what a run's config has itself can be filled in, as in ${{optimizer.lr}}")
        meant = [absolute(dots, name, place) for dots, name in REFERENCE.findall(text)]
        return len(text) + sum(of(other, found(other)) for other in meant)

    def of(place: Place, node: Any) -> int:
        if place not in known:
            known[place] = 0  # of a circle, which OmegaConf tells
            known[place] = length(node, place)
            if known[place] > most:
                named = ".".join(place) or "it"
                raise ValueError(f"{named} would have more than {most:,} characters with its ${{...}} filled in")
        return known[place]

    def absolute(dots: str, name: str, place: Place) -> Place:
        """One dot is the node's own parent, two dots the parent of that, as in OmegaConf."""
        return (*(place[: -len(dots)] if dots else ()), *re.findall(r"[^.\[\]]+", name))

    def found(place: Place) -> Any:
        node = content
        for part in place:
            try:
                node = node[int(part)] if isinstance(node, list) else node[part]
            except (KeyError, IndexError, TypeError, ValueError):
                return ""  # which OmegaConf tells
        return node

    of((), content)
