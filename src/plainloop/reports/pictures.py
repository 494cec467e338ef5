"""Which pictures a run gets: its inputs, its learning rates, its confusion matrix."""

import itertools
from collections.abc import Mapping

import torch

from plainloop import seeding
from plainloop.assembly.session import Session
from plainloop.data.fetch import each_sample
from plainloop.errors import UserError
from plainloop.loggers import Console, Logger
from plainloop.runs.directory import RunDir
from plainloop.tasks.metrics import ConfusionMatrix
from plainloop.training.schedule import Schedule, curve


def draw_inputs(run: RunDir, session: Session, loggers: Mapping[str, Logger]) -> None:
    """A grid of training images, as the data set gives them."""
    if len(loggers) < 3 or getattr(session.sample[0], "ndim", 0) != 3:
        return  # nobody would show it
    from plainloop.reports.figures import image_grid

    with seeding.preserved():
        samples = list(itertools.islice(each_sample(session.data.train, session.data.skip), 64))
    images = [sample[0] if isinstance(sample, tuple | list) else sample for sample in samples]
    image_grid(torch.stack(images).cpu(), run.figures / "inputs.png")
    for logger in loggers.values():
        logger.figure("inputs", run.figures / "inputs.png", 0)


def draw_schedule(run: RunDir, session: Session, schedule: Schedule, console: Console) -> None:
    """The learning rates over the run, as a picture and in a few lines."""
    from plainloop.reports.figures import line_plot

    spec = session.spec
    if not spec.total_steps:
        raise UserError(
            "debug=schedule: the data is a stream, of which nobody knows how many steps come: set trainer.max_steps"
        )
    rates = curve(schedule, spec.total_steps, spec.steps_per_epoch)
    names = list(rates[0])
    line_plot(
        {name: [(step, rate[name]) for step, rate in enumerate(rates)] for name in names},
        run.figures / "schedule.svg",
        "step",
        "learning rate",
    )
    for share in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1):
        step = round(share * (len(rates) - 1))
        console.say(f"step {step:>8,}  " + "  ".join(f"{name} {rates[step][name]:.4g}" for name in names))
    if session.config.schedule.interval == "validation":
        console.say(
            "note    this scheduler reacts to validations, and there were none: the rate will fall when they stall"
        )
    console.say(f"drawn   {run.figures / 'schedule.svg'}")


def draw_confusion(
    run: RunDir, session: Session, split: str, confusion: ConfusionMatrix, step: int, loggers: Mapping[str, Logger]
) -> None:
    from plainloop.reports.figures import confusion_matrix

    path = run.figures / f"confusion_matrix_{split}.png"
    counts = confusion.compute().cpu()
    confusion_matrix(counts, session.spec.class_names or [str(number) for number in range(len(counts))], path)
    for logger in loggers.values():
        logger.figure(f"confusion_matrix/{split}", path, step)
