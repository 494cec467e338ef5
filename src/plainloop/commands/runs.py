"""`python runs.py`: all runs in a table, or some beside each other; without torch."""

import shutil
import string
import sys
from collections.abc import Sequence
from pathlib import Path

from plainloop.config.keys import override
from plainloop.config.schema import RunsConfig
from plainloop.errors import tell
from plainloop.places import typed
from plainloop.reports import comparison, overview, runs_page, tables
from plainloop.runs.survey import Entry, survey


def show_runs(config: RunsConfig) -> None:
    """Print what `runs.py` is asked for. Beside a file (format=csv > FILE), what is to be said goes to standard
    error."""
    found = survey(Path(config.outputs).expanduser())
    if config.compare is not None:
        compare(comparison.named(found, config.compare), config)
        return
    runs, remark, order = found.runs, "", "the newest first"
    if config.filter is not None:
        runs, remark = overview.filtered(runs, config.filter)
    if config.sort is not None:
        runs, order = overview.ordered(runs, config.sort, found.runs)
    _warn(runs)
    notes = [*overview.failures(runs), *filter(None, [remark])]
    last = overview.summed_up(found, runs, order, config.filter)
    if config.format == "csv":
        tell(tables.comma_separated(overview.for_programs(runs)), sys.stdout)
    elif runs:
        width = shutil.get_terminal_size((0, 0)).columns if config.format == "terminal" else 0
        rows, left, left_out = overview.for_people(runs, width, config.sort and config.sort.removeprefix("-"))
        notes += left_out
        if config.format == "html":
            table = runs_page.in_chapter("", tables.html(rows, left))
            text = runs_page.page(f"Runs in {found.folder}", [table, runs_page.paragraphs([*notes, last])])
        else:
            text = tables.WRITERS[config.format](rows, left)
        tell(text, sys.stdout)
    for line in (*notes, last):
        tell(line, sys.stdout if config.format == "terminal" else sys.stderr)


def compare(runs: Sequence[Entry], config: RunsConfig) -> None:
    """Some runs: what differs, what came out, and their curves."""
    _warn(runs)
    exact = config.format == "csv"
    width = min(shutil.get_terminal_size((80, 24)).columns, 100)
    most = max(8, min(40, (width - 30) // len(runs))) if config.format == "terminal" else None if exact else 40
    made, came = comparison.differences(runs, most), comparison.results(runs, most)
    letters = ["", *string.ascii_uppercase[: len(runs)]]
    if config.format == "html":
        parts = [
            runs_page.paragraphs(comparison.labels(runs)),
            runs_page.in_chapter("Curves", runs_page.beside_each_other(comparison.drawn(runs))),
            runs_page.in_chapter("What differs", tables.html([letters, *made])),
            runs_page.in_chapter("What came out", tables.html([letters, *came])),
        ]
        tell(runs_page.page(f"{len(runs)} runs", parts), sys.stdout)
    elif config.format == "terminal":
        table = tables.table([letters, *made, [""] * len(letters), *came])
        tell("\n".join([*comparison.labels(runs), "", table, "", comparison.in_letters(runs, width)]), sys.stdout)
        words = [override("outputs", config.outputs)] if config.outputs != "outputs" else []
        command = typed("runs.py", *words, f"compare={config.compare}", "format=html")
        tell(f"as a page: {command} > compare.html", sys.stdout)
    else:
        names = ["", *(str(run.run) if exact else run.name for run in runs)]
        tell(tables.WRITERS[config.format]([names, *made, *came], 1), sys.stdout)
        tell("note    curves are drawn by format=terminal and format=html", sys.stderr)


def _warn(runs: Sequence[Entry], most: int = 5) -> None:
    """What can't be read of some runs."""
    notes = [note for run in runs for note in run.notes]
    for line in [*notes[:most], *([f"and {len(notes) - most} more"] if len(notes) > most else [])]:
        tell(f"warning: {line}", sys.stderr)
