"""What makes a command start quickly, on every version of Python."""

import argparse
import atexit
import gc


def guard_argparse() -> None:
    """Hydra 1.3.8 gives argparse a lazy object as a help string, and Python 3.14's argparse asks whether '%' is
    in it. Give every help string as text instead. To be deleted when Hydra 1.4 is the least version."""
    original = argparse.ArgumentParser.add_argument
    if getattr(original, "plainloop_guard", False):
        return

    def add_argument(self, *names, **options):
        if options.get("help") is not None and not isinstance(options["help"], str):
            options["help"] = str(options["help"])
        return original(self, *names, **options)

    add_argument.plainloop_guard = True  # type: ignore[attr-defined]
    argparse.ArgumentParser.add_argument = add_argument  # type: ignore[method-assign]


def collect_garbage_again() -> None:
    """A door has switched the collector off for the imports (over a second of its looking at torch's objects);
    what has been imported by now stays for good, so it needn't be looked at again."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # triton complains of leaks when Python ends and objects are still frozen
