"""A file that torch would unpickle, looked at before: `weights_only=True` runs no code, and can still be made to use up
memory or time. torch.save writes none of what is refused here.

Source: https://docs.python.org/3/library/pickletools.html (what each opcode takes from the stack and puts there).
"""

import codecs
import io
import os
import pickletools
import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any

DEEP = 200  # so many containers within each other
LEGACY = 5  # pickles at the beginning of a file that is no zip (torch < 1.6): magic number, protocol, ..., storage keys
# What fills a container that stands on the stack.
CONTAINERS = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # fmt: skip
COUNTED = {f"{module} {name}" for module in ("builtins", "__builtin__") for name in ("bytearray", "set", "frozenset")}
PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 62  # bytes


def objection(file: IO[bytes]) -> str:
    """Why a file isn't to be loaded, in words that follow its name; '' where nothing speaks against it."""
    is_zip = file.read(2) == b"PK"
    size = file.seek(0, 2)
    file.seek(0)
    if size > PHYSICAL:
        return f"has {size:,} bytes, and this machine {PHYSICAL:,} of memory"
    try:
        pickles: Iterable[IO[bytes]] = [file] * LEGACY
        if is_zip:
            with zipfile.ZipFile(file) as parts:
                entries = parts.infolist()
                unpacked = sum(entry.file_size for entry in entries)
                if unpacked > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                    return "is compressed, or more is in it than its size tells, which torch.save never writes"
                pickles = [io.BytesIO(parts.read(entry)) for entry in entries if entry.filename.endswith(".pkl")]
        for pickle in pickles:
            why = _weighed(pickle)
            if why:
                return why
    except Exception:  # zipfile's and pickletools' own, of several kinds: torch's readers may be less strict
        return "isn't as torch.save writes it"
    return ""


def tensors_in(state: Any) -> Iterator[Any]:
    """The tensors in plain containers."""
    if hasattr(state, "untyped_storage"):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from tensors_in(value)


def is_blown_up(state: Any, size: int) -> bool:
    """Whether the tensors of a file of so many bytes would be much more than it is when they are copied: one number can
    be shown as a billion."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(state)) > 10 * size + (1 << 30)


class _Held:
    """Something on the pickle's stack: how much it holds when what is shared is counted each time, and how deep."""

    __slots__ = ("depth", "encodes", "packs", "used", "weight")

    def __init__(self, parts: Iterable["_Held"] = ()):
        self.weight, self.depth, self.used = 1, 0, False
        self.encodes = self.packs = False  # _codecs.encode itself; a codec of bytes, or arguments that end in one
        self.take(parts)

    def take(self, parts: Iterable["_Held"]) -> None:
        for part in parts:
            self.weight, self.depth, part.used = self.weight + part.weight, max(self.depth, part.depth + 1), True


def _weighed(stream: IO[bytes]) -> str:
    """Run a pickle without making anything: what it would become. Raises what pickletools raises."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    count = 0
    for opcode, argument, _ in pickletools.genops(stream):
        name, count = opcode.name, count + 1
        if name in ("GLOBAL", "INST") and argument in COUNTED:
            return f"makes a {argument.split()[-1]}, which no checkpoint holds"
        if name == "STACK_GLOBAL":
            return "names functions in a way that torch.save doesn't"
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "MARK":
            stack.append(None)
        else:
            taken = _taken(stack, opcode)
            if name in CONTAINERS:
                if taken[0].used or taken[0] in taken[1:]:
                    return "fills a container that lies in another already"
                taken[0].take(taken[1:])
                made = [taken[0]]
            else:
                made = [_Held(taken) for _ in opcode.stack_after]
                if name == "REDUCE" and taken[0].encodes and taken[1].packs:
                    return "is packed in a way that torch.save never uses"
                if made:
                    made[0].encodes = name == "GLOBAL" and argument == "_codecs encode"
                    made[0].packs = taken[-1].packs if taken else isinstance(argument, str) and _is_binary(argument)
            stack += made
            if any(each.weight > 1_000_000 + 20 * count or each.depth > DEEP for each in made):
                return "holds the same things within each other over and over, or too deep"
    return ""


def _taken(stack: list[Any], opcode: Any) -> list[_Held]:
    """Take from the stack what an opcode takes, the mark not among it."""
    before = opcode.stack_before
    if pickletools.markobject not in before:
        taken = stack[len(stack) - len(before) :]
        if len(taken) < len(before) or None in taken:
            raise ValueError("the stack is empty")
        del stack[len(stack) - len(before) :]
        return taken
    mark = len(stack) - 1 - stack[::-1].index(None)
    first = mark - before.index(pickletools.markobject)
    taken = stack[first:mark] + stack[mark + 1 :]
    if first < 0 or None in taken:
        raise ValueError("the stack is empty")
    del stack[first:]
    return taken


def _is_binary(name: str) -> bool:
    """Whether it names a codec that makes bytes of bytes: hex, which doubles them, and its like."""
    try:
        return len(name) < 20 and not getattr(codecs.lookup(name), "_is_text_encoding", True)
    except (LookupError, ValueError):
        return False
