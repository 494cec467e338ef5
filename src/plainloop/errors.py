"""Errors as part of the product: what went wrong, where, and what to type instead, in one or two lines.

`UserError` is a mistake in what was typed or given (exit status 2), `MachineError` a failure of the machine or
of the training itself (exit status 1), `Interrupted` a signal that was obeyed (130 or 143). Everything else is
a bug, ours or that of the user's own module, and keeps its traceback.
"""

import contextlib
import difflib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from typing import Any, TextIO

# Files whose lines nobody can mend: installed packages, Python's own, ours.
NOT_THEIRS = (
    *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")),
    "<",
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
)


class UserError(ValueError):
    """A mistake of the user's. The message names the cause, the place and the fix."""

    status = 2


class MachineError(RuntimeError):
    """Disk full, worker killed, out of memory, a loss that is NaN: the run is over, its last checkpoint stands."""

    status = 1


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM was obeyed: the step was finished and saved. No sweep catches it and goes on."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.status = 128 + signal_number


def shown(error: UserError | MachineError | Interrupted) -> int:
    """Print an error to stderr, with its traceback only under PLAINLOOP_DEBUG=1; return the exit status."""
    if os.environ.get("PLAINLOOP_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    label = "stopped" if isinstance(error, Interrupted) else "error"
    tell(f"{label}: {error}", sys.stderr)
    return error.status


# What a terminal obeys, or shows in another order than it stands there; and halves of signs, which can't be written.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def harmless(text: str) -> str:
    """A text for a terminal or a log, of which a stranger may have written a part: a name in a config, a class in a
    file, a column."""
    return OBEYED.sub(lambda sign: sign[0].encode("unicode_escape").decode(), text)


def tell(line: str, stream: TextIO) -> None:
    """A line for a terminal that may be gone (a closed window, `| head`): that is no reason to fail."""
    try:
        print(harmless(line), file=stream, flush=True)
    except UnicodeEncodeError:  # a terminal of few letters
        tell(line.encode(stream.encoding, "backslashreplace").decode(stream.encoding), stream)
    except OSError:
        with contextlib.suppress(OSError, ValueError):  # what is held back would fail again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """' Did you mean mlp?' for the option that looks most like `word`, or nothing."""
    by_lower = {option.lower(): option for option in options}
    near = difflib.get_close_matches(str(word).lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[near[0]]}?" if near else ""


def listed(words: Iterable[object], most: int = 24) -> str:
    """'a, b, c' with the tail of a long list cut and counted."""
    texts = [str(word) for word in words]
    tail = f", ... ({len(texts) - most} more)" if len(texts) > most else ""
    return ", ".join(texts[:most]) + tail


def counted(count: int, what: str) -> str:
    """'1 row', '1,234 rows'."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def number_type(tensor: Any) -> str:
    """'float32' of a tensor or an array of torch.float32 or numpy.float32."""
    return str(tensor.dtype).removeprefix("torch.")


def described(value: Any) -> str:
    """'float32 of shape (2, 3)' of a tensor or an array; the parts of a dict by their names; else a value's type."""
    if isinstance(value, dict):
        return listed(f"{name} {described(part)}" for name, part in value.items())
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{number_type(value)} of shape {tuple(value.shape)}"
    return type(value).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether memory has run out: Python's or NumPy's error, torch's of any device, or one of these as text, as it may
    come from a loading process."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or bool(re.search(r"DefaultCPUAllocator|out of memory|^Caught \w*MemoryError", str(error)))


def label_outside(error: BaseException) -> str:
    """What torch's loss says of a label that no check saw, as the data set has no `targets` to look at; else ''."""
    match = re.search(r"Target (-?\d+) is out of bounds", str(error))
    return f"data: a sample has label {match[1]}, outside the classes that the data set declares." if match else ""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def told(error: BaseException) -> str:
    """The first line of an exception's message; behind its type where the message alone says little, as a KeyError's
    key does."""
    known = isinstance(error, RuntimeError | ValueError | TypeError | AssertionError) and str(error).strip()
    return first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"


def origin(error: BaseException) -> str:
    """'net.py, line 12': where an exception was raised; in the user's own code, if that was on the way there."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if not frame.filename.startswith(NOT_THEIRS)]
    if not frames:
        return "unknown place"
    frame = (theirs or frames)[-1]
    return f"{os.path.basename(frame.filename)}, line {frame.lineno}"
