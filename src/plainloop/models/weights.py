"""Initial weights from a file: which of them fit a model, and which don't."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.errors import UserError, listed
from plainloop.safetensors import read_header, read_tensor

WRAPPERS = ("module.", "_orig_mod.", "model.", "network.")  # DistributedDataParallel's, torch.compile's, others' own


def read_weights(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors of a file, by name: safetensors, or what torch.save wrote (a state_dict, or a dict that holds one
    as `model`, `state_dict` or `model_state_dict`). Nothing in the file is executed.

    Args:
        what: the file as it was typed, for messages: `finetune.weights=FILE`.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise UserError(f"{what}: there is no such file (looked for from the folder where the command is typed).")
    if path.suffix == ".safetensors":
        header, start = read_header(path, what)
        return {name: read_tensor(path, entry, start) for name, entry in header.items()}
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own, for whatever the file holds
        raise UserError(
            f"{what}: can't be read as weights: it must be a safetensors file, or hold nothing but tensors and plain "
            "containers, as torch.save(model.state_dict(), path) writes it."
        ) from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    weights = (
        {name: value for name, value in held.items() if isinstance(value, Tensor)} if isinstance(held, Mapping) else {}
    )
    if not weights:
        raise UserError(f"{what}: holds no tensors by name: torch.save(model.state_dict(), path) writes such a file.")
    return weights


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str, partial: bool = False) -> list[str]:
    """Copy weights into a model, by their names (what wrappers put before them is taken off).

    Args:
        source: where they come from, for messages.
        partial: load what fits; else all must.

    Returns:
        lines that say what was loaded, and what wasn't and why.

    Raises:
        UserError: some don't fit, and `partial` isn't said; or none do.
    """
    own = model.state_dict()
    weights = unwrapped(weights, own)
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    other = [
        f"{name} {tuple(value.shape)}, here {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and name not in fitting
    ]
    missing = [name for name in own if name not in weights]
    unknown = [name for name in weights if name not in own]
    reasons = [
        f"{len(names)} {what}: {listed(names, 6)}"
        for what, names in (
            ("of other shapes", other),
            ("that aren't there", missing),
            ("that the model lacks", unknown),
        )
        if names
    ]
    if not fitting:
        raise UserError(f"finetune.weights={source}: nothing in it fits this model ({'; '.join(reasons)}).")
    if reasons and not partial:
        raise UserError(
            f"finetune.weights={source}: {len(fitting)} of the model's {len(own)} tensors fit, and not "
            f"{'; '.join(reasons)}.\nfinetune.partial=true loads what fits, and leaves the rest as it was "
            "initialised."
        )
    model.load_state_dict(fitting, strict=False)
    return [f"weights {len(fitting)} of {len(own)} tensors from {source}", *[f"not loaded: {line}" for line in reasons]]


def unwrapped(weights: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The names without what wrappers put before all of them, where they fit better so."""
    found = dict(weights)
    for prefix in WRAPPERS * 2:  # one may lie in the other
        if all(name.startswith(prefix) for name in found):
            bare = {name.removeprefix(prefix): value for name, value in found.items()}
            if len(bare.keys() & own.keys()) >= len(found.keys() & own.keys()):
                found = bare
    return found
