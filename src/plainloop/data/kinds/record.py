"""One record of a file of JSON lines: an object on a line of its own, as {"inputs": [0.5, 1.5], "target": "cat"}."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plainloop.errors import UserError, did_you_mean, first_line, listed


@dataclass
class Form:
    """What a record looks like, and how it becomes a sample.

    Args:
        features: the fields that hold a number each; None for one field `inputs` that holds a list.
        target: the field to predict; None for none, and targets 0.
        classes: the names of the classes; None where the target is a number, or a list of numbers.
        shapes: of what "inputs" and the target must be, once a record has told.
    """

    features: list[str] | None
    target: str | None
    classes: list[str] | None = None
    shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.number_of = {name: number for number, name in enumerate(self.classes or [])}

    def sample(self, record: Any) -> tuple[Tensor, Tensor | int]:
        """Inputs float32, and a class or numbers float32. Raises UserError."""
        if self.features is None:
            inputs = self._numbers("inputs", self._field(record, "inputs"))
        else:
            inputs = self._numbers("inputs", [self._number(record, name) for name in self.features])
        if self.target is None:
            return inputs, 0
        if self.classes is None:
            return inputs, self._numbers(self.target, self._field(record, self.target))
        name = self.class_of(record)
        if name not in self.number_of:
            raise UserError(
                f"{self.target} is {name}, which is none of the {len(self.classes)} classes "
                f"({listed(self.classes, 10)}): name all with data.classes=[a,b,...]"
            )
        return inputs, self.number_of[name]

    def target_of(self, record: Any) -> Any:
        """What the target's field holds; None where no target is wanted. Raises UserError."""
        return None if self.target is None else self._field(record, self.target)

    def class_of(self, record: Any) -> str:
        """The name of the class. Raises UserError."""
        name = class_name(self.target_of(record))
        if name is None:
            shown = _written(record[self.target])
            raise UserError(f"{self.target} is {shown}, where a class is needed: a word or a whole number.")
        return name

    def _field(self, record: Any, name: str) -> Any:
        if not isinstance(record, dict):
            kind = {list: "a list", str: "a word", type(None): "null"}.get(type(record), "a number")
            raise UserError(f'it is {kind}, where an object is needed: {{"inputs": [0.5, 1.5], "target": "cat"}}')
        if name not in record:
            hint = did_you_mean(name, record)
            numbers = [key for key, value in record.items() if isinstance(value, int | float) and key != self.target]
            if name == "inputs" and self.features is None and numbers:
                hint = f" Choose the fields with data.features=[{','.join(numbers[:10])}]"
            raise UserError(f"there is no field {name}.{hint} It has: {listed(record, 10) or 'none'}.")
        return record[name]

    def _number(self, record: Mapping[str, Any], name: str) -> float:
        value = self._field(record, name)
        if not isinstance(value, int | float):
            raise UserError(f"{name} is {_written(value)}, where a number is needed.")
        return value

    def _numbers(self, name: str, value: Any) -> Tensor:
        """Numbers as float32, of the shape that the first record has there."""
        try:
            numbers = torch.tensor(value, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{name} is {_written(value)}, where numbers are needed.") from error
        if not numbers.isfinite().all():
            raise UserError(f"{name} holds NaN or infinity.")
        wanted = self.shapes.setdefault(name, tuple(numbers.shape))
        if numbers.shape != wanted:
            raise UserError(
                f"{name} is {_form_of(tuple(numbers.shape))}, where the first record has {_form_of(wanted)}."
            )
        return numbers


def class_name(value: Any) -> str | None:
    """The name of a class: a word, a whole number (also as 1.0), true or false; None for what can't be one."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, int | float) and math.isfinite(value) and value == int(value) else None


def _written(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _form_of(shape: tuple[int, ...]) -> str:
    return "one number" if shape == () else f"{' x '.join(map(str, shape))} numbers"


def parsed(text: bytes) -> Any:
    """What a line says. Raises UserError."""
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise UserError("it is not text in UTF-8.") from error
    except (ValueError, RecursionError) as error:
        shown = text.decode(errors="replace").strip()
        shown = shown if len(shown) <= 40 else shown[:40] + "..."
        why = (
            f"{error.msg} at character {error.pos + 1}"
            if isinstance(error, json.JSONDecodeError)
            else first_line(error)
        )
        raise UserError(f"it is not JSON: {why}, in {shown!r}") from error
