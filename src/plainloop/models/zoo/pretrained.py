"""What models from elsewhere share: whether they take the data's images, and weights that were trained elsewhere."""

import contextlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torch.func import functional_call

from plainloop.errors import UserError, first_line, listed
from plainloop.models.weights import load_weights, unwrapped

FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
LARGEST = 1024  # side of the largest image that is tried when a model's smallest is looked for


# --- the images ----------------------------------------------------------------------------------------------------


def first_convolution(model: nn.Module) -> str:
    """The name of the first convolution, '' where there is none."""
    return next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), "")


def replace_first_convolution(model: nn.Module, in_channels: int, keep: bool = False) -> None:
    """Put a new first convolution, for this many input channels, in the place of the old one.

    Args:
        keep: with the old one's weights, see `over_channels`.
    """
    name = first_convolution(model)
    old: Any = model.get_submodule(name)
    new = nn.Conv2d(
        in_channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        old.dilation,
        bias=old.bias is not None,
    )
    if keep:
        new.load_state_dict({**old.state_dict(), "weight": over_channels(old.weight.detach(), in_channels)})
    model.set_submodule(name, new)


def over_channels(weight: Tensor, channels: int) -> Tensor:
    """A first convolution's weights (out, in, H, W) for another number of channels: each gets its share of the sum, so
    that an image whose channels are all alike gives what it gave before."""
    return weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels


def check_takes(model: nn.Module, what: str, shape: Sequence[int], usual: Sequence[int] | None = None) -> None:
    """Two images of `shape` (C, H, W) must pass through the model while it trains. Raises UserError that names the
    smallest size that does, or the `usual` one (H, W). Nothing is computed: torch's meta device knows shapes alone."""
    channels, height, width = shape
    if _passes(model, (2, channels, height, width)) is None:
        return
    smallest, largest = min(height, width), LARGEST
    if usual is not None:
        resize = str(usual[0]) if usual[0] == usual[1] else f"[{usual[0]},{usual[1]}]"
        raise UserError(
            f"{what} can't take images of {height} x {width}; it is usually given {usual[0]} x {usual[1]}. "
            f"Write transforms.resize={resize}, or choose another model."
        )
    if _passes(model, (2, channels, largest, largest)) is not None:
        return  # it isn't the size, if it is anything: real images will tell
    while largest - smallest > 1:
        middle = (smallest + largest) // 2
        if _passes(model, (2, channels, middle, middle)) is None:
            largest = middle
        else:
            smallest = middle
    raise UserError(
        f"{what} needs images of at least {largest} x {largest}, and these are {height} x {width}. "
        f"Enlarge them with transforms.resize={largest}, or choose another model."
    )


def _passes(model: nn.Module, shape: Sequence[int]) -> Exception | None:
    """What prevents a batch of this shape from passing through the model, or None."""
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shapes = {name: torch.empty_like(value, device="meta") for name, value in state.items()}
    try:
        with torch.no_grad():
            functional_call(model, shapes, (torch.empty(*shape, device="meta"),))
    except (RuntimeError, ValueError, AssertionError) as error:
        return error
    return None


# --- the weights ---------------------------------------------------------------------------------------------------


def is_file(weights: str) -> bool:
    """Whether weights are given as a file, and not by a name."""
    return str(weights).endswith(FILES) or Path(str(weights)).is_file()


@contextlib.contextmanager
def explained_downloads(what: str, url: str, folder: str, key: str) -> Iterator[None]:
    """A download that fails becomes a UserError: what, from where, and what to do without a network.

    Args:
        what: as "model.weights=DEFAULT: the weights of resnet18".
        folder: where the file is looked for before it is fetched.
        key: the one that asks for the download, and may be left out.
    """
    try:
        yield
    except (OSError, zipfile.BadZipFile) as error:  # URLError and HTTPError are OSErrors
        why = first_line(error) or type(error).__name__
    except RuntimeError as error:
        if "invalid hash value" not in str(error):
            raise
        why = "the file is damaged"
    else:
        return
    raise UserError(
        f"{what} couldn't be fetched from {urlsplit(url).netloc or url}: {why}.\n"
        f"Get {url} elsewhere and put it into {folder}, or train from scratch, without {key}."
    )


def load_pretrained(model: nn.Module, state: Mapping[str, Tensor], num_classes: int, what: str) -> None:
    """Load a state_dict that was trained elsewhere, but for a head of another number of outputs, which stays new, and
    for auxiliary heads that the model was built without. Raises UserError where anything else doesn't fit.

    A first convolution for C channels, where the file's is for another number, gets 1/C of the sum over the file's
    channels for each of them.
    """
    own = model.state_dict()
    state = unwrapped(state, own)
    first = f"{first_convolution(model)}.weight"
    if first in own and first in state and state[first].ndim == 4 and own[first].shape[1] != state[first].shape[1]:
        state[first] = over_channels(state[first], own[first].shape[1])
    new = [
        name
        for name, value in sorted(state.items())
        if name in own and own[name].shape != value.shape and own[name].shape == (num_classes, *value.shape[1:])
    ]
    auxiliary = [name for name in state if name not in own and name.startswith(("aux1.", "aux2.", "AuxLogits."))]
    load_weights(model, state, what, new=[*new, *auxiliary])
    model.note = f"{what} loaded, but for a new head: {listed(new)}" if new else f"{what} loaded, its head too"  # type: ignore[assignment]
