"""The words of a command that composes nothing: key=value, taken as they are typed. Hydra's grammar would want quotes
around a value with a comma or an '=' in it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from plainloop.config.complaints import check_overrides, key_like
from plainloop.config.keys import kind_of, typed_keys
from plainloop.config.schema import Command
from plainloop.errors import UserError, did_you_mean


def taken(words: Sequence[str], schema: type[Command]) -> Any:
    """The schema with the values that were typed; its keys are words, with a choice at most. Raises UserError."""
    fields: dict[str, dataclasses.Field] = dict(typed_keys(schema))
    if words and schema.first and "=" not in words[0] and words[0] not in fields and not words[0].startswith("-"):
        words = [f"{schema.first}={words[0]}", *words[1:]]
    check_overrides(words, schema)
    values: dict[str, str | None] = {}
    for word in words:
        name, _, value = word.partition("=")
        if name not in fields:
            guess = key_like(name, schema)
            hint = f" Did you mean {guess}?" if guess else ""
            raise UserError(f"{name}: there is no such key.{hint} (python {schema.door}.py --help lists them all)")
        if name in values:
            raise UserError(f"{name}= is given twice.")
        choices = fields[name].metadata["choices"]
        if choices and value not in choices:
            raise UserError(f"{word}: must be {kind_of(fields[name])}.{did_you_mean(value, choices)}")
        values[name] = None if value == "null" else value
        if values[name] is None and "None" not in str(fields[name].type):
            raise UserError(f"{word}: must be {kind_of(fields[name])}.")
    command = schema(**values)
    command.check()  # type: ignore[attr-defined]
    return command
