"""Tables of words and numbers, for the terminal and for files of text."""

from collections.abc import Mapping, Sequence


def metrics_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """One row per split, one column per quantity: {"val": {"val/loss": 0.1}, "test": {"test/loss": 0.2}}."""
    shortened = {
        label: {name.removeprefix(f"{label}/"): value for name, value in values.items()}
        for label, values in rows.items()
    }
    names = list(dict.fromkeys(name for values in shortened.values() for name in values))
    lines = [["", *names]]
    for label, short in shortened.items():
        lines.append([label, *(f"{short[name]:.4f}" if name in short else "-" for name in names)])
    return table(lines)


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as they need to be: the first `left` of them flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [word.ljust(width) for word, width in zip(row[:left], widths, strict=False)]
        cells += [word.rjust(width) for word, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
