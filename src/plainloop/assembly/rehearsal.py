"""Two samples go through everything before the first step, so that what doesn't fit is found there."""

import copy
from typing import Any

import torch
from torch import Tensor

from plainloop import seeding
from plainloop.assembly.augment import check_shares
from plainloop.assembly.loaders import first_two
from plainloop.assembly.session import Session
from plainloop.assembly.summary import watched
from plainloop.errors import (
    MachineError,
    UserError,
    described,
    first_line,
    label_outside,
    origin,
    out_of_memory,
    told,
)
from plainloop.models.freezing import train_mode
from plainloop.training import evaluation


def check_forward(session: Session, split: str) -> None:
    """Two samples through the model, before anything is written: shapes that don't fit are found here."""
    dataset = session.data[split]
    assert dataset is not None
    loader = first_two(
        session.config.loader,
        dataset,
        split,
        seed=session.config.seed,
        trust=session.config.trust,
        skipped=session.skipped,
    )
    with seeding.preserved():
        try:
            raw = next(iter(loader))
        except MachineError as error:
            raise UserError(str(error)) from error
        batch = session.prepare(raw)
        with evaluation.eval_mode(session.model), torch.no_grad(), session.prepare.autocast():
            at_fault = f"model={session.config.choices.get('model')}"
            try:
                with watched(session.model, 2) as session.summary:
                    session.task.check(session.model, batch)
                at_fault = f"loss={session.config.choices.get('loss')}, or the model,"
                with torch.enable_grad():
                    loss, outputs = session.task.loss_of(session.model, batch)
                if not isinstance(loss, Tensor) or loss.ndim > 0:
                    raise UserError(
                        f"loss: it must be one number, the mean over the batch; this one is {described(loss)}."
                    )
                _check_gradient(session, loss, outputs)
                if split == "train" and session.task.size(batch) > 1:
                    at_fault = f"model={session.config.choices.get('model')} in training mode"
                    _in_training_mode(session, batch)
            except (UserError, MachineError):
                raise
            except Exception as error:
                if out_of_memory(error):
                    raise
                if outside := label_outside(error):
                    raise UserError(outside) from error
                words = described(batch[0])
                if isinstance(batch[0], dict):
                    words += ", which are given to forward by name"
                raise UserError(
                    f"{at_fault} can't take a batch whose inputs are {words}: {told(error)} ({origin(error)})"
                ) from error
            augment = session.prepare.augment
            if augment is not None and augment.mixes:
                check_shares(session.config.transforms, session.config.choices, session.task, outputs)
            _check_metrics(session, batch, outputs)


def _in_training_mode(session: Session, batch: Any) -> None:
    """Some models return something else while they train. A copy is asked, in which the batch may leave its traces."""
    try:
        model = copy.deepcopy(session.model)
    except Exception:  # one that can't be copied will be asked in the first step
        return
    train_mode(model)
    session.task.loss_of(model, batch)


def _check_gradient(session: Session, loss: Tensor, outputs: Any) -> None:
    """Whether autograd can go back from the loss to what is trained. (That there is nothing to train, the optimizer
    says.) Raises UserError."""
    trained = [p for module in (session.model, session.task) for p in module.parameters() if p.requires_grad]
    if loss.requires_grad or not trained:
        return
    if isinstance(outputs, Tensor) and not outputs.requires_grad:
        few = session.config.finetune.trainable
        which = "" if few == "all" else f" (finetune.trainable={few})"
        raise UserError(
            f"model: its outputs follow from no parameter that is trained{which}, as far as autograd sees. "
            "What cuts them off: detach, no_grad, .item(), NumPy, argmax."
        )
    raise UserError(
        "loss: it doesn't follow from the model's outputs, as far as autograd sees. What cuts it off: "
        "detach, no_grad, .item(), torch.tensor(...), NumPy, argmax."
    )


def _check_metrics(session: Session, batch: Any, outputs: Any) -> None:
    """Each metric is given two samples, so that one that doesn't fit is found before the first step."""
    for name, metric in session.task.metrics.items():
        try:
            metric.reset()
            session.task.update({name: metric}, outputs, batch)
            metric.reset()
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"metrics.{name}: {type(metric).__name__} doesn't fit task={session.config.choices.get('task')}: "
                f"{first_line(error)} ({origin(error)})"
            ) from error
