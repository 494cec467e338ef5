"""transforms.train and transforms.eval: what happens to each sample where it is loaded."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from plainloop.build import build
from plainloop.config.sections import Transforms
from plainloop.data import Data
from plainloop.data.fetch import first_sample
from plainloop.data.transforms import transformed
from plainloop.errors import UserError, number_type


def apply_transforms(section: Transforms, data: Data, trust: Sequence[str]) -> None:
    """Around the splits."""
    data.train = through(section.train, "transforms.train", data.train, trust)
    data.val = None if data.val is None else through(section.eval, "transforms.eval", data.val, trust)
    data.test = None if data.test is None else through(section.eval, "transforms.eval", data.test, trust)


def through(nodes: Sequence[Any], slot: str, dataset: Dataset, trust: Sequence[str]) -> Dataset:
    """A split whose samples go through the transforms that these nodes describe.

    Args:
        slot: where they stand, for errors.
    """
    modules = [_transform(node, f"{slot}[{number}]", trust) for number, node in enumerate(nodes)]
    return transformed(dataset, nn.Sequential(*modules)) if modules else dataset


def _transform(node: dict[str, Any], slot: str, trust: Sequence[str]) -> nn.Module:
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
    if data.val is None or isinstance(data.val, IterableDataset):
        return
    other = first_sample(data.val, data.skip)
    tensors = [each[0] for each in (sample, other) if isinstance(each, tuple | list) and hasattr(each[0], "dtype")]
    if len({each.dtype for each in tensors}) > 1:
        train, val = map(number_type, tensors)
        raise UserError(
            f"transforms.train makes {train} of a sample, and transforms.eval {val}: what changes the type belongs "
            "into both."
        )
