"""Tables of rows and columns: the one file that reads them, with polars."""

from collections.abc import Sequence

import torch

from plainloop.build import factory
from plainloop.data.datasets import InMemory, checked_labels, find_path
from plainloop.errors import UserError, did_you_mean, first_line, listed


@factory("data")
def table(path: str, target: str, features: Sequence[str] | None = None, classification: bool = False) -> InMemory:
    """A CSV file as inputs (N, F) float32 and one target column.

    Numbers are taken as they are; a column of words becomes one column of 0 and 1 for each of its words
    ("one-hot"). Rows with a missing value are left out, and counted in the note.

    Args:
        path: the file; a relative one is looked for in the working directory, then in the checkout.
        target: the column to predict. With `classification` its values are classes, in sorted order (the second
            of two is the positive one) and the targets (N,) int64; without, they are numbers and (N, 1) float32.
        features: the columns to predict it from; all others when None.
    """
    import polars

    file = find_path(path)
    if not file.is_file():
        raise UserError(f"data.path={path}: there is no such file.")
    try:
        frame = polars.read_csv(file, infer_schema_length=None, null_values=["NA", "NaN", "nan"])
    except (polars.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise UserError(f"data.path={path}: not a CSV table: {first_line(error)}") from error
    if isinstance(features, str):
        raise UserError(f"data.features={features}: must be a list, as in data.features=[{features}]")
    chosen = list(features) if features is not None else [name for name in frame.columns if name != target]
    for argument, name in [("target", target), *(("features", name) for name in chosen)]:
        if name not in frame.columns:
            raise UserError(
                f"data.{argument}={name}: {path} has no such column.{did_you_mean(name, frame.columns)} "
                f"It has: {listed(frame.columns)}."
            )
    if target in chosen or not chosen:
        fault = f"holds data.target={target}: it would be predicted from itself" if chosen else "names no column"
        raise UserError(f"data.features={listed(chosen) or '[]'}: {fault}. {path} has: {listed(frame.columns)}.")
    complete = frame.select([*chosen, target]).drop_nulls()
    if complete.height == 0:
        raise UserError(f"data.path={path}: no row is complete; choose columns with data.features=[a,b].")
    columns = []
    for name in chosen:
        column = complete[name]
        if column.dtype.is_numeric() or column.dtype == polars.Boolean:
            columns.append(torch.tensor(column.cast(polars.Float64).to_list(), dtype=torch.float32))
        else:
            words = sorted(column.cast(polars.String).unique())
            if len(words) > 20 and len(words) > complete.height / 2:
                raise UserError(
                    f"{path}, column {name}: {len(words)} words in {complete.height} rows, as {words[0]}: a name, or "
                    "numbers with a mark for missing ones? Choose the others with data.features=[a,b]."
                )
            columns += [torch.tensor((column == word).to_list(), dtype=torch.float32) for word in words]
    inputs = torch.stack(columns, dim=1)
    dropped = frame.height - complete.height
    note = f"{dropped} rows with missing values left out" if dropped else ""
    if classification:
        names = sorted(complete[target].unique().to_list())
        if len(names) < 2:
            raise UserError(f"data.target={target}: {path} has one class only ({listed(names)}).")
        number_of = {name: number for number, name in enumerate(names)}
        labels, words = checked_labels([number_of[v] for v in complete[target]], [str(n) for n in names], path)
        return InMemory(inputs, labels, classes=words, note=note)
    if not complete[target].dtype.is_numeric():
        raise UserError(
            f"data.target={target}: a column of words ({listed(complete[target].unique()[:4])}), where regression "
            f"needs numbers. For classes: data.classification=true task=multiclass (task=binary for two)."
        )
    values = torch.tensor(complete[target].cast(polars.Float64).to_list(), dtype=torch.float32).unsqueeze(1)
    return InMemory(inputs, values, target_names=[target], note=note)
