"""Libraries that print what nobody has asked for: exporters and runtimes do, in Python and below it."""

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """What is printed meanwhile, by Python and by libraries below it, is thrown away; not with PLAINLOOP_DEBUG=1."""
    if os.environ.get("PLAINLOOP_DEBUG", "0") not in ("", "0"):
        yield
        return
    level = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(tempfile.TemporaryFile())
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
            stack.enter_context(_leading_elsewhere(number, sink.fileno()))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


@contextlib.contextmanager
def _leading_elsewhere(number: int, target: int) -> Iterator[None]:
    """A file descriptor, for a while; one that is closed stays so."""
    try:
        kept = os.dup(number)
    except OSError:
        yield
        return
    os.dup2(target, number)
    try:
        yield
    finally:
        os.dup2(kept, number)
        os.close(kept)
