"""Dates and times in words, as files have them, become moments; which comes first, day or month, is told from the whole
column, and said."""

import datetime
import itertools
from collections.abc import Callable
from typing import Any

from plainloop.data.kinds.numerals import where
from plainloop.errors import UserError

DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y",
         "%d/%m/%y", "%y/%m/%d", "%y-%m-%d", "%y.%m.%d", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y",
         "%b %d %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y")  # fmt: skip
CLOCKS = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
OFFSETS = ("", "%z", " %z")
FEW = 200  # values that tell which formats may fit the rest


def moments_of(column: Any, key: str, place: Callable[[int], str], said: str | None = None) -> tuple[Any, str]:
    """A column of words without a hole as a polars Series of moments (in UTC, where they have an offset); and a remark
    where it could be read in two ways. Raises UserError for the first that is no time.

    Args:
        key: what names the column, as data.time.
        place: 'FILE, line 7' for the number of a row.
        said: the format, in strftime's letters; None to find one.
    """
    words = _plain(column)
    if said is not None:
        times = _read(words, said)
        if times is None or times.has_nulls():
            row = 0 if times is None else times.is_null().arg_max()
            raise UserError(f"{place(row)}: {key}={column.name} is {column[row]!r}, and not of the form {said}.")
        return times, ""
    few = words[:: max(1, len(words) // FEW)]
    tried = {each: found.count() for each in _formats() if (found := _read(few, each)) is not None and found.count()}
    formats = [each for each, count in tried.items() if count == max(tried.values())]
    read = {each: times for each in formats if (times := _read(words, each)) is not None}
    whole = {each: times for each, times in read.items() if not times.has_nulls()}
    if not whole:
        best = min(read.values(), key=lambda times: times.null_count(), default=None)
        row = 0 if best is None else best.is_null().arg_max()
        raise UserError(
            f"{place(row)}: {key}={column.name} is {column[row]!r}, and no time as the others. Write 2024-05-31, "
            "2024-05-31T23:59:00 or a number; or say how it is written, as in data.time_format='%d.%m.%Y'"
        )
    chosen = max(whole, key=lambda each: _rising(whole[each]))
    if "%y" in chosen:  # 62 is 1962, where 2062 is still to come
        past = whole[chosen].dt.year() <= datetime.date.today().year + 1
        whole[chosen] = where(past, whole[chosen]).fill_null(whole[chosen].dt.offset_by("-100y"))
    others = [each for each in whole if not whole[each].equals(whole[chosen])]
    remark = ""
    if not others and "%y" in chosen:
        remark = f"{column.name} is read as {chosen} ({column[0]} is {whole[chosen][0]:%d %B %Y})"
    if others:
        first = next(row for row in range(len(words)) if whole[others[0]][row] != whole[chosen][row])
        remark = (
            f"{column.name} is read as {chosen} ({column[first]} is {whole[chosen][first]:%d %B %Y}); "
            f"data.time_format={others[0]!r} reads it otherwise"
        )
    return whole[chosen], remark


def _plain(column: Any) -> Any:
    """Without the T between date and clock, Z for UTC; months and quarters by their first day."""
    import polars

    words = column.cast(polars.String).str.strip_chars()
    words = words.str.replace(r"^(\d{4}-\d{1,2}-\d{1,2})[T ]\s*(\d)", "$1 $2").str.replace(r"\s*(Z|UTC)$", "+0000")
    words = words.str.replace(r"(:\d{2}),(\d+)", "$1.$2").str.replace(r"^(\d+/\d+/\d+), ", "$1 ")
    words = words.str.replace(r"(:\d{2}.*[+-]\d{2})$", "${1}00").str.replace(r"^(\d{1,2})/(\d{4})$", "$2-$1-01")
    words = words.str.replace(r"^([A-Za-z]{3,9}) (\d{4})$", "01 $1 $2")
    words = words.str.replace(r"^(\d+[./-]\d+[./-]\d+ \d{1,2})$", "$1:00")
    words = words.str.replace(r"^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})", "$1-$2-$3 $4:$5:$6")
    words = words.str.replace(r"^(\d{4})M(\d{1,2})$", "$1-$2-01")
    for quarter in range(1, 5):
        words = words.str.replace(rf"(?i)^(\d{{4}})[ -]?Q{quarter}$", f"$1-{3 * quarter - 2:02}-01")
    words = words.str.replace(r"^(\d{4})[-/](\d{1,2})$", "$1-$2-01").str.replace(r"^([A-Za-z]{3})-(\d{2})$", "01-$1-$2")
    words = words.str.replace(r"(:\d{2}.*[+-]\d{2}):(\d{2})$", "$1$2")
    clocked = words.str.contains(r" \d{1,2}:\d{2}")
    if not clocked.any() or clocked.all():
        return words
    zero = " 00:00:00" if words.filter(clocked).str.contains(r":\d{2}:\d{2}").any() else " 00:00"
    date = words.str.contains(r"^\d+[./-]\d+[./-]\d+$")  # R, pandas and spreadsheets leave midnight out
    return where(~date, words).fill_null(words + zero)


def _formats() -> list[str]:
    return ["".join(parts) for parts in itertools.product(DATES, CLOCKS, OFFSETS) if parts[1] or not parts[2]]


def _read(words: Any, form: str) -> Any:
    """Moments, null where a word isn't of this form; None where polars doesn't know the form."""
    import polars

    if form.startswith("%y"):  # which takes one digit too
        words = where(words.str.contains(r"^\d{2}\D"), words)
    try:
        times = words.str.to_datetime(form, strict=False, time_unit="us")
    except polars.exceptions.PolarsError:
        return None
    if "%z" in form:
        times = times.dt.replace_time_zone(None)
    return where(times.dt.year() >= 1000, times) if "%Y" in form else times  # %Y takes 05 for the year 5


def _rising(times: Any) -> tuple[int, bool, int]:
    """How often a moment is later than the one before it; whether all are first days of a month; and how few different
    steps there are."""
    steps = times.diff().drop_nulls()
    monthly = len(times) > 2 and bool((times == times.dt.truncate("1mo")).all())
    return int((steps > datetime.timedelta(0)).sum()), monthly, -steps.n_unique()
