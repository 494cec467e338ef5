"""Section `finetune`: the weights that a model starts from, and which of its parts are trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor, nn

from plainloop.config.sections import Finetune
from plainloop.errors import MachineError, UserError
from plainloop.models.freezing import freeze
from plainloop.models.weights import load_weights, read_weights
from plainloop.runs import checkpoint as checkpoint_room
from plainloop.runs.belonging import check_checkpoint
from plainloop.runs.checkpoint import Checkpoints
from plainloop.runs.finding import find, latest
from plainloop.training.averaging import chosen_weights


def finetune(section: Finetune, outputs: str, model: nn.Module, preprocess: nn.Module, loaded: bool) -> list[str]:
    """Load the initial weights, and freeze what isn't trained.

    What a run does to its inputs before the model belongs to its weights, and is taken over where it fits.

    Args:
        section: its `weights` become what was taken: `latest` would be another run tomorrow.
        outputs: where runs lie.
        loaded: the weights of a run are loaded afterwards: there is no need for the initial ones.

    Returns:
        lines that say what was loaded.
    """
    lines: list[str] = []
    if section.partial and not section.weights:
        raise UserError("finetune.partial=true says how finetune.weights are loaded, and there are none.")
    if section.weights and not loaded:
        weights, inputs, source = initial_weights(section.weights, outputs)
        section.weights = source
        advice = "finetune.partial=true loads what fits, and leaves the rest as it was initialised."
        what = f"finetune.weights={source}"
        count, left_out = load_weights(model, weights, what, partial=section.partial, advice=advice)
        lines = [f"weights {count} of {len(model.state_dict())} tensors from {source}"]
        lines += [f"not loaded: {reason}" for reason in left_out]
        own = preprocess.state_dict()
        if inputs is not None and own.keys() != inputs.keys():  # one of them resizes images besides, see preprocess.py
            bare = {name.removeprefix("0."): value for name, value in inputs.items()}
            inputs = bare if own.keys() == bare.keys() else {f"0.{name}": value for name, value in inputs.items()}
        if inputs is not None and own.keys() == inputs.keys() and all(own[k].shape == inputs[k].shape for k in own):
            preprocess.load_state_dict(inputs)
        elif inputs is not None:
            lines.append(
                f"warning: inputs are normalised in another way than in {source}, which these weights know "
                "(transforms.normalize)"
            )
    freeze(model, section.trainable)
    return lines


def initial_weights(text: str, outputs: str) -> tuple[Mapping[str, Tensor], Mapping[str, Any] | None, str]:
    """The weights that `finetune.weights` names: a run's best ones, a checkpoint's, or a file's.

    Returns:
        the weights by name; the state of a run's `preprocess`, or None; and what was taken.
    """
    key, path = "finetune.weights", Path(text).expanduser()
    if path.is_file():
        try:
            state = checkpoint_room.read_state(path)
        except checkpoint_room.Damaged as error:
            if checkpoint_room.is_ours(path):
                raise UserError(f"{key}={text}: {error}") from error
            return read_weights(path, f"{key}={text}"), None, str(path)
        return chosen_weights(state), state["preprocess"], str(path)
    if text != "latest" and path.is_dir() and not (path / "config.yaml").is_file():
        run = latest(str(path), key)
    elif text != "latest" and not path.exists():
        meant = Path(outputs) / text
        hint = f"Write {key}={meant}" if meant.exists() else f"{key}=latest takes the newest run in {outputs}/."
        raise UserError(f"{key}={text}: there is no such run or file. {hint}")
    else:
        run = find(text, outputs, key)
    best = run.checkpoints / "best.pt"
    config: Any = OmegaConf.to_container(run.saved_config())
    try:
        if best.exists():
            state, step = checkpoint_room.read_state(best), run.read_metrics().get("best/step")
            check_checkpoint(state, best, config, step)
        else:
            path, state = Checkpoints(run.checkpoints).last()
            check_checkpoint(state, path, config)
    except MachineError as error:
        raise UserError(f"{key}={text}: {error}") from error
    return chosen_weights(state), state["preprocess"], str(run)
