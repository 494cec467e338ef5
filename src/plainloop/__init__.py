"""plainloop: the plain PyTorch training loop, and everything around it done right.

From Python or a notebook:

    import plainloop
    run = plainloop.train(["model=mlp", "trainer.max_epochs=2"])
    run = plainloop.load_run("outputs/digits_mlp/...")      # model, preprocess, data, config, metrics
    plainloop.evaluate(run.path, split="val")

Importing this package imports no torch: a mistyped command line is answered before that.
"""

__version__ = "0.1.0"
__all__ = ["Run", "evaluate", "load_run", "train"]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str):
    if name in __all__:
        from plainloop import commands

        return getattr(commands, name)
    raise AttributeError(f"module 'plainloop' has no attribute {name!r}")
