"""Section `transforms` becomes what happens to a sample where it is loaded, and to a batch on the device."""

from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from plainloop.assembly.loaders import reading_loader
from plainloop.build import build
from plainloop.config.schema import plain
from plainloop.data import Data
from plainloop.data.augment import Augment
from plainloop.data.dataset import own
from plainloop.data.fetch import first_sample
from plainloop.data.loader import Skipped
from plainloop.data.preprocess import Resize, make_preprocess, preset_of, statistics_of_weights
from plainloop.data.transforms import transformed
from plainloop.errors import UserError, first_line, out_of_memory
from plainloop.tasks.task import Task


def apply_transforms(cfg: DictConfig, data: Data) -> None:
    """transforms.train and transforms.eval, around the splits."""
    data.train = through(cfg, data.train, "train")
    data.val = None if data.val is None else through(cfg, data.val, "eval")
    data.test = None if data.test is None else through(cfg, data.test, "eval")


def through(cfg: DictConfig, dataset: Dataset, which: str) -> Dataset:
    """A split whose samples go through transforms.train or transforms.eval."""
    nodes, trust = plain(cfg.transforms[which]), list(cfg.trust)
    modules = [_transform(node, f"transforms.{which}[{number}]", trust) for number, node in enumerate(nodes)]
    return transformed(dataset, nn.Sequential(*modules)) if modules else dataset


def _transform(node: dict[str, Any], slot: str, trust: list[str]) -> nn.Module:
    """A transform; those that it holds itself, as a RandomApply does, are built first."""
    held = {
        name: [_transform(each, f"{slot}.{name}[{number}]", trust) for number, each in enumerate(value)]
        for name, value in node.items()
        if isinstance(value, list) and value and all(isinstance(each, dict) and "_target_" in each for each in value)
    }
    types = {name: _type_named(value) for name, value in node.items() if _type_named(value) is not None}
    return build({**node, **held, **types}, slot, nn.Module, trust)


def _type_named(word: Any) -> torch.dtype | None:
    """torch.float32 of the word, for which YAML has no other way."""
    found = getattr(torch, word.removeprefix("torch."), None) if str(word).startswith("torch.") else None
    return found if isinstance(found, torch.dtype) else None


def check_alike(data: Data, sample: Any) -> None:
    """Training and evaluation give inputs of the same type. Raises UserError."""
    kinds = {"train": sample, "eval": sample}
    if data.val is not None and not isinstance(data.val, IterableDataset):
        kinds["eval"] = first_sample(data.val, data.skip)
    types = {name: getattr(kind[0], "dtype", None) for name, kind in kinds.items() if isinstance(kind, tuple | list)}
    if len(set(types.values())) > 1:
        seen = {name: str(dtype).removeprefix("torch.") for name, dtype in types.items()}
        raise UserError(
            f"transforms.train makes {seen['train']} of a sample, and transforms.eval {seen['eval']}: what "
            "changes the type belongs into both."
        )


def preprocess_for(cfg: DictConfig, data: Data, few: Dataset, inputs: Any, skipped: Skipped, loaded: bool) -> nn.Module:
    """What goes on between the loader and the model: the data set's own, or plain normalisation.

    Args:
        few: the training split without its transforms; of a stream, the samples that stand for all.
        inputs: one sample's.
        loaded: the statistics are those of a run, and are loaded afterwards: only their shapes are needed.
    """
    normalize = plain(cfg.transforms.normalize)
    own_way = own(data.train, "make_preprocess")
    if own_way and normalize == "weights":  # what it makes isn't what these were trained on
        normalize = "train"
    if isinstance(normalize, str) and normalize not in ("none", "train"):
        normalize = statistics_of_weights(normalize, {**plain(cfg.model), "in_channels": cfg.spec.in_channels})
    once = through(cfg, few, "eval")  # the training samples as they are when nothing is random
    with reading_loader(cfg, once, skipped, limit=1 if loaded and not own_way else None) as batches:
        normalised = own_way(normalize, batches) if own_way else make_preprocess(normalize, batches, inputs)
    resize = resize_for(cfg, data)
    preprocess = normalised if resize is None else nn.Sequential(normalised, resize)
    preset = preset_of(cfg.model)
    done = []
    if preset is not None and resize is not None and cfg.transforms.resize is None:
        done.append(f"shorter side {preset.resize}, of which the middle {preset.crop[0]} x {preset.crop[1]}")
    if preset is not None and isinstance(normalize, dict) and cfg.transforms.normalize == "weights":
        done.append(f"mean {normalize['mean']}, std {normalize['std']}")
    if preset is not None and done:
        preprocess.note = f"images as {preset.of} wants them: {'; '.join(done)}"
    return preprocess


def resize_for(cfg: DictConfig, data: Data) -> Resize | None:
    """transforms.resize, or the size that the model's pretrained weights ask for; None to leave images as they are."""
    wanted = plain(cfg.transforms.resize)
    if wanted == "none":
        return None
    if wanted is not None:
        return Resize((wanted, wanted) if isinstance(wanted, int) else wanted)
    preset = None if own(data.train, "make_preprocess") else preset_of(cfg.model)
    return None if preset is None else Resize(preset.resize, preset.crop, preset.interpolation)


def augment_for(cfg: DictConfig, task: Task, inputs: Any) -> Augment | None:
    """transforms.flip, crop, cutout, mixup and cutmix. Raises UserError where they don't fit the data or the task."""
    chosen = {name: cfg.transforms[name] for name in ("flip", "crop", "cutout", "mixup", "cutmix")}
    wanted = [name for name, value in chosen.items() if value]
    if not wanted:
        return None
    moved = [name for name in wanted if name in ("flip", "crop")]  # before `preprocess`, which may make the image
    shape = tuple(inputs.shape) if isinstance(inputs, torch.Tensor) else ()
    if cfg.spec.image_size is None or (moved and len(shape) != 3):
        raise UserError(f"transforms.{(moved or wanted)[0]}: it is for images, and the inputs are of shape {shape}.")
    mixes = chosen["mixup"] or chosen["cutmix"]
    if mixes and not task.takes_shares:
        raise UserError(
            f"transforms.{wanted[-1]}: it mixes labels, and task={cfg.choices.get('task')} can't learn "
            "shares of classes: it is for task=multiclass."
        )
    if mixes and getattr(task, "ignored", None) is not None:
        raise UserError(
            f"transforms.{wanted[-1]}: it mixes labels, and some of the data's are {task.ignored}: they have none."
        )
    return Augment(**chosen, num_classes=cfg.spec.num_classes)


def check_shares(cfg: DictConfig, task: Task, outputs: torch.Tensor) -> None:
    """Where labels are mixed, the loss takes shares of classes (N, C). Raises UserError."""
    shares = torch.full_like(outputs, 1 / outputs.shape[1])
    try:
        task.loss(outputs, shares)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        if out_of_memory(error):
            raise
        name = "mixup" if cfg.transforms.mixup else "cutmix"
        raise UserError(
            f"transforms.{name}: it makes labels shares of classes, as {tuple(shares.shape)}, and "
            f"loss={cfg.choices.get('loss')} can't take them: {first_line(error)}"
        ) from error
