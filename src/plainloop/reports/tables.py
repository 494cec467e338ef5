"""Small tables of numbers for the terminal."""

from collections.abc import Mapping, Sequence


def of_metrics(rows: Mapping[str, Mapping[str, float]]) -> str:
    """One row per split, one column per quantity: {"val": {"val/loss": 0.1}, "test": {"test/loss": 0.2}}."""
    shortened = {
        label: {name.removeprefix(f"{label}/"): value for name, value in values.items()}
        for label, values in rows.items()
    }
    names = list(dict.fromkeys(name for values in shortened.values() for name in values))
    lines = [["", *names]]
    for label, short in shortened.items():
        lines.append([label, *(f"{short[name]:.4f}" if name in short else "-" for name in names)])
    return of_words(lines)


def of_words(lines: Sequence[Sequence[str]], indent: str = "        ") -> str:
    """Columns as wide as they need to be: the first flush left, the others flush right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        (
            indent
            + "  ".join(w.ljust(n) if i == 0 else w.rjust(n) for i, (w, n) in enumerate(zip(line, widths, strict=True)))
        ).rstrip()
        for line in lines
    )
