"""A run as it answers: its model, and what happens before and behind it, rebuilt from its directory alone, without the
data that it was trained on."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from plainloop import seeding
from plainloop.assembly.assemble import build_metrics, build_model, choose_device, class_of_task, prepare_torch
from plainloop.assembly.loaders import evaluation_loader
from plainloop.assembly.loss import make_loss
from plainloop.assembly.preprocess import preset_of, resize_for
from plainloop.assembly.session import Session
from plainloop.assembly.spec import facts_filled
from plainloop.assembly.transforms import through
from plainloop.build import construct, locate
from plainloop.config.keys import plain
from plainloop.config.schema import Config, as_config
from plainloop.data import Loader
from plainloop.data.dataset import asked
from plainloop.data.loader import Skipped
from plainloop.data.preprocess import of_state
from plainloop.data.reading import New, Reader
from plainloop.data.workers import default_workers
from plainloop.tasks.task import Task, forward
from plainloop.training.averaging import chosen_weights
from plainloop.training.batches import Preparation
from plainloop.training.evaluation import eval_mode


@dataclass
class Served:
    """What a run needs to answer."""

    config: Config
    model: nn.Module
    task: Task
    prepare: Preparation
    reader: Reader

    @property
    def names(self) -> list[str]:
        """Of the classes, the labels or the values that it predicts."""
        return list(self.config.spec.class_names or self.config.spec.target_names or [])

    def loader(self, new: New) -> Loader:
        """The batches of new inputs, in their order: (inputs, places)."""
        config, section = self.config, self.config.loader
        dataset = through(config.transforms.eval, "transforms.eval", new.dataset, config.trust)
        workers = default_workers(dataset) if section.num_workers is None else section.num_workers
        alone = replace(section.eval, collate_fn=None)  # the user's is for samples with a target
        section = replace(section, eval=alone, collate_fn=None, skip_unreadable=0, num_workers=workers)
        return evaluation_loader(
            section, dataset, "input", seed=config.seed, device=self.prepare.device, trust=config.trust,
            skipped=Skipped(0),
        )  # fmt: skip

    def answers(self, batch: Any, top: int, every: bool) -> tuple[list[int], dict[str, list[Any]]]:
        """The places of a batch's inputs, and what the model says of them, as columns of a table."""
        inputs, places = batch
        with eval_mode(self.model, self.task), torch.inference_mode(), self.prepare.autocast():
            inputs = self.prepare((inputs,))[0]
            outputs = forward(self.model, inputs)
            return places.tolist(), self.task.answers(outputs, inputs, self.names, top, every)

    def rows(self, new: New, top: int = 1, every: bool = False, done: int = 0) -> Iterator[dict[str, Any]]:
        """The answers, a row for each input in its order: what it is called, what the model says of it, and, where
        inputs may be unreadable, why this one is.

        Args:
            top, every: as of `Task.answers`.
            done: so many of the first are left out: they have been answered before.
        """
        seeding.seed_everything(0, seeding.MEASURE)  # a model may draw in eval mode too
        if done >= len(new.names):
            return
        can_fail = not asked(new.dataset, "gives_batches")
        if done:
            new = replace(new, dataset=Subset(new.dataset, range(done, len(new.names))))
        with self.loader(new) as loader:
            for batch in loader:
                places, columns = self.answers(batch, top, every)
                for place, values in zip(places, zip(*columns.values(), strict=True), strict=True):
                    broken, number = place < 0, -1 - place if place < 0 else place
                    row = {new.column: new.names[number]}
                    row |= dict.fromkeys(columns) if broken else dict(zip(columns, values, strict=True))
                    if can_fail:
                        row["error"] = new.why(number) if broken else ""
                    yield row


def labelled(loader: Iterable[Any], targets: Tensor, there: Tensor, seen: list[int]) -> Iterator[Any]:
    """The batches of new inputs with their targets, without those that can't be read or have none.

    Args:
        loader: of (inputs, places), as `Served.loader`.
        targets, there: as of `Reader.truths`.
        seen: the places of what was given, in their order, are added to it.
    """
    for inputs, places in loader:
        kept = ((places >= 0) & there[places.clamp(min=0)]).nonzero()[:, 0]
        if len(kept):
            seen += places[kept].tolist()
            rows = {name: value[kept] for name, value in inputs.items()} if isinstance(inputs, dict) else inputs[kept]
            yield rows, targets[places[kept]]


def of_session(session: Session) -> Served:
    """What answers of a run that is built already."""
    config, prepare = session.config, session.prepare
    calm = Preparation(prepare.preprocess, prepare.device, prepare.precision, prepare.channels_last)
    return Served(config, session.model, session.task, calm, _reader(config))


def _reader(config: Config) -> Reader:
    """What reads new inputs of the run's kind of data; where nobody has said how, one that says so when it is asked."""
    node = plain(config.data)
    kind: type[Reader] | None = getattr(locate(node["_target_"], "data", Dataset, config.trust), "reader", None)
    return (kind or Reader)(node, config.spec)


def serve(cfg: DictConfig, state: Mapping[str, Any], measured: bool = False) -> Served:
    """Rebuild what answers.

    Args:
        cfg: the run's config, its spec filled in.
        state: a checkpoint of the run.
        measured: with the run's metrics.
    """
    config = as_config(cfg)
    device = choose_device(config.trainer.device, config.trainer.precision)
    prepare_torch(config.trainer, device)
    reader = _reader(config)
    model = build_model(config, loaded=True)
    model.load_state_dict(chosen_weights(state))
    preprocess = _preprocess(config, reader, state["preprocess"])
    found = class_of_task(config)
    loss = make_loss(facts_filled(config, "loss"), found.kind, config.spec.num_outputs, config.trust)
    metrics = build_metrics(config) if measured else {}
    task = construct(found, facts_filled(config, "task"), "task", Task, loss=loss, metrics=metrics)
    task.num_outputs = config.spec.num_outputs
    for name, value in state["task"].items():  # a target's mean and deviation, of as many targets as there are
        if name in dict(task.named_buffers()):
            setattr(task, name, value)
    for module in (model, preprocess, task):
        module.to(device)
        module.eval()
    prepare = Preparation(preprocess, device, config.trainer.precision, config.trainer.channels_last)
    return Served(config, model, task, prepare, reader)


def _preprocess(config: Config, reader: Reader, state: Mapping[str, Any]) -> nn.Module:
    """What the run does to inputs on the device before the model."""
    own = reader.preprocess()
    preset = None if own is not None else preset_of(facts_filled(config, "model"), config.trust)
    resize = resize_for(config.transforms, preset, own is not None)
    bare = {name.removeprefix("0."): value for name, value in state.items()} if resize is not None else state
    first = own if own is not None else of_state(bare)
    preprocess = first if resize is None else nn.Sequential(first, resize)
    preprocess.load_state_dict(state)
    return preprocess
