"""Initial weights from a file: which of them fit a model, and which don't."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plainloop.errors import UserError, first_line, listed
from plainloop.pickled import is_blown_up, objection

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
        return _read_safetensors(path, what)
    with path.open("rb") as file:
        why = objection(file)
    needed = (
        "it must be a safetensors file, or hold nothing but tensors and plain containers, as "
        "torch.save(model.state_dict(), path) writes it."
    )
    if why:
        raise UserError(f"{what}: can't be read as weights, the file {why}: {needed}")
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zip's and torch's own, for whatever the file holds
        raise UserError(f"{what}: can't be read as weights: {needed}") from error
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    weights = (
        {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}
        if isinstance(held, Mapping)
        else {}
    )
    odd = next((name for name, value in weights.items() if value.layout != torch.strided or value.is_meta), None)
    if odd is not None or any(value.is_quantized for value in weights.values()):
        raise UserError(f"{what}: holds tensors that are sparse, quantised or without values ({odd or 'quantised'}).")
    if is_blown_up(weights, path.stat().st_size):
        raise UserError(f"{what}: holds tensors that are much larger than the file: it isn't loaded.")
    if not weights:
        raise UserError(f"{what}: holds no tensors by name: torch.save(model.state_dict(), path) writes such a file.")
    return weights


def _read_safetensors(path: Path, what: str) -> dict[str, Tensor]:
    """All tensors of a file of safetensors (https://huggingface.co/docs/safetensors), mapped into memory."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{what}: not a whole .safetensors file: {first_line(error).rstrip('.')}.") from error


def load_weights(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    what: str,
    new: Collection[str] = (),
    partial: bool = False,
    advice: str = "",
) -> tuple[int, list[str]]:
    """Copy weights into a model, by their names (what wrappers put before them is taken off).

    Args:
        what: the weights as they were typed, for messages: `finetune.weights=FILE`.
        new: tensors of the model that stay as they were initialised, whatever the weights say.
        partial: load what fits; else all must.
        advice: what the user may type where not all fits.

    Returns:
        how many tensors were loaded, and lines that say which weren't, and why.

    Raises:
        UserError: some don't fit, and `partial` isn't said; or none do.
    """
    own = {name: value for name, value in model.state_dict().items() if name not in new}
    weights = {name: value for name, value in unwrapped(weights, own).items() if name not in new}
    fitting = {name: value for name, value in weights.items() if name in own and value.shape == own[name].shape}
    other = [
        f"{name} {tuple(value.shape)}, here {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and name not in fitting
    ]
    # BatchNorm counts its batches since torch 0.4.1, and hardly ever needs to know.
    missing = [name for name in own if name not in weights and not name.endswith("num_batches_tracked")]
    unknown = [name for name in weights if name not in own]
    parts = {"of other shapes": other, "that aren't there": missing, "that the model lacks": unknown}
    reasons = [f"{len(names)} {why}: {listed(names, 6)}" for why, names in parts.items() if names]
    if not fitting:
        raise UserError(f"{what}: nothing in it fits this model ({'; '.join(reasons)}).")
    if reasons and not partial:
        message = f"{what}: {len(fitting)} of the model's {len(own)} tensors fit, and not {'; '.join(reasons)}."
        raise UserError(f"{message}\n{advice}".rstrip())
    model.load_state_dict(fitting, strict=False)
    return len(fitting), reasons


def unwrapped(weights: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The names without what wrappers put before all of them, where they fit better so."""
    found = dict(weights)
    for prefix in WRAPPERS * 2:  # one may lie in the other
        if all(name.startswith(prefix) for name in found):
            bare = {name.removeprefix(prefix): value for name, value in found.items()}
            if len(bare.keys() & own.keys()) >= len(found.keys() & own.keys()):
                found = bare
    return found
