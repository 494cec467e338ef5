"""A sample as a person sees it: a small picture, or words."""

import base64
import io
from typing import Any

import torch
from torch import Tensor

from plainloop import seeding
from plainloop.assembly.session import Session
from plainloop.data.dataset import asked, beneath

SIDE = 96  # pixels of a picture
MOST_WORDS = 280  # characters


def words_of(session: Session, split: str, index: int) -> str:
    """A text, or a row of a table; nothing, where the data set doesn't tell."""
    dataset = session.data[split]
    inner, chosen = beneath(dataset, "shown")
    shown = getattr(inner, "shown", None)
    if shown is None:
        return ""
    try:
        text = shown(index if chosen is None else int(chosen[index]))
    except IndexError:  # a collate function of the user's has made more samples of them
        return ""
    return text if len(text) <= MOST_WORDS else f"{text[: MOST_WORDS - 4]} ..."


def has_pictures(session: Session) -> bool:
    """Whether a sample's input is an image that can be shown."""
    inputs = session.sample[0]
    return isinstance(inputs, Tensor) and inputs.ndim == 3 and inputs.shape[0] in (1, 3) and min(inputs.shape[1:]) > 1


def picture_of(session: Session, split: str, index: int) -> str:
    """The input of a sample, before it is normalised, as a data URI; nothing for one that can't be read."""
    dataset: Any = session.data[split]
    try:
        with seeding.preserved():
            if asked(dataset, "gives_batches"):
                sample = dataset.__getitems__(torch.tensor([index]))
                inputs = (sample[0] if isinstance(sample, tuple | list) else sample)[0]
            else:
                sample = dataset[index]
                inputs = sample[0] if isinstance(sample, tuple | list) else sample
    except Exception:  # it was left out of the measurement for the same reason
        return ""
    return data_uri(inputs)


def data_uri(image: Tensor) -> str:
    """An image (C, H, W), uint8 or of any range, as one of at most 96 pixels that stands in the page itself."""
    from PIL import Image

    image = image.detach().cpu()
    if image.dtype != torch.uint8 or len(image) == 1:  # grey ones may have few shades: digits have 17
        low, high = float(image.min()), float(image.max())
        image = ((image.float() - low) / (high - low if high > low else 1) * 255).round().to(torch.uint8)
    picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
    picture.thumbnail((SIDE, SIDE))
    small = max(picture.size) <= 32
    file = io.BytesIO()
    picture.save(file, "PNG" if small else "JPEG", **({} if small else {"quality": 80}))
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
