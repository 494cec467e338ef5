"""plainloop: the plain PyTorch training loop, and everything around it done right.

From Python or a notebook:

    import plainloop
    run = plainloop.train(["model=mlp", "trainer.max_epochs=2"])
    run = plainloop.load_run("outputs/digits_mlp/...")      # model, preprocess, data, config, metrics
    plainloop.evaluate(run.path, split="val")

The rooms, from the top down; each imports from those below it only, and its front (`__init__.py`) says what it is for:

    commands    what a door does: train, resume, evaluate, predict, runs, sweep
    reports     what is shown: lines of the terminal, tables, pictures
    assembly    a config becomes objects
    training    the loop
    tasks       what a problem means: its loss, its metrics
    data        samples and batches; data/kinds: images, tables, texts, ...
    models      the course, in reading order; models/zoo: what others have built
    loggers     where records go
    runs        a run directory
    config      keys, options, composition, complaints
    build.py trust.py seeding.py places.py errors.py: the ground

Importing this package imports no torch: a mistyped command line is answered before that.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["Run", "evaluate", "load_run", "train"]

_ROOM = {"Run": "run", "evaluate": "evaluate", "load_run": "run", "train": "train"}


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str):
    if name in __all__:
        return getattr(importlib.import_module(f"plainloop.commands.{_ROOM[name]}"), name)
    raise AttributeError(f"module 'plainloop' has no attribute {name!r}")
