"""The layout of a table in a text file: encoding, delimiter, decimal mark, titles, names."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fastgan._errors import Invalid

from .dataset import DataError

GZIP = b"\x1f\x8b"
GZIPPED = {GZIP: gzip.open}
ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # by byte order mark
_UTF8 = "utf-8-sig"  # spreadsheets begin UTF-8 with a byte order mark
_LONGEST = 1 << 26  # characters of a line; a small gzip file can contain a line larger than the memory
_SAMPLE_LINES, _SAMPLE_CHARACTERS = 200, 1 << 22  # looked at to find the layout
DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # the first line that some spreadsheets write
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_WHOLE = re.compile(r"\d+")
INDEX_NAMES = ("", "Unnamed: 0")  # of an index without a name, as pandas writes and reads it

Line = tuple[int, list[str]]  # number of the last line of a row, counted from 1, and its cells


@dataclass(frozen=True)
class Layout:
    """The layout of the numbers in a text file.

    Args:
        delimiter: between cells; None: blanks.
        decimal: "." or ",".
        skipped: lines above the first row of numbers.
        names: of the columns, in the last of those lines; None: none.
        titles: the lines above the names that are no part of the table, (first, last); None: none.
        numeric_names: the names are numbers.
    """

    delimiter: str | None
    decimal: str
    skipped: int = 0
    names: tuple[str, ...] | None = None
    titles: tuple[int, int] | None = None
    numeric_names: bool = False


def open_text(path: Path, openers: Mapping[bytes, Any] = GZIPPED) -> io.TextIOWrapper:
    """The text of a file in UTF-8, or UTF-16 with a byte order mark. openers: of packed files, by their first bytes."""
    with path.open("rb") as file:
        begin = file.read(6)
    opener = next((found for magic, found in openers.items() if begin.startswith(magic)), None)
    stream: IO[bytes] = path.open("rb") if opener is None else opener(path, "rb")
    try:
        encoding = ENCODINGS.get(stream.read(2), _UTF8)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return io.TextIOWrapper(stream, encoding=encoding, newline="")


def lines_of(file: IO[str], layout: Layout | None = None) -> Iterator[str]:
    """The lines of a text, none longer than 64 MiB; below `layout.skipped`, with points for decimal commas."""
    lines = iter(functools.partial(file.readline, _LONGEST), "")
    if layout is None:
        return lines
    for _ in range(layout.skipped):
        next(lines, None)
    if layout.decimal == ".":
        return lines
    points = str.maketrans({",": ".", ".": ","})  # a point becomes a sign that is not in a number
    return (line.translate(points) for line in lines)


def rows_of(lines: Iterable[str], delimiter: str | None, *, before: int = 0) -> Iterator[Line]:
    """Number and cells of every row that is not blank. before: lines above the first."""
    if delimiter is None:
        for number, line in enumerate(lines, start=before + 1):
            if cells := line.split():
                yield number, cells
        return
    reader = csv.reader(iter(lines), delimiter=delimiter)
    for cells in reader:
        if cells:
            yield before + reader.line_num, cells


def number(cell: str, decimal: str = ".") -> float | None:
    """The value of a cell, or None."""
    if decimal == "," and ("." in cell or "," in cell):
        if not _DECIMAL_COMMA.fullmatch(cell.strip()):
            return None
        cell = cell.replace(",", ".")
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def sample(path: Path, file: IO[str]) -> tuple[list[str], str | None]:
    """The first lines of a text, and the delimiter of a line `sep=;` above them, if there is one.

    Raises:
        DataError: no rows.
    """
    lines: list[str] = []
    characters = 0
    for line in lines_of(file):
        lines.append(line)
        characters += len(line)
        if len(lines) >= _SAMPLE_LINES or (characters > _SAMPLE_CHARACTERS and len(lines) > 2):
            break
    if not any(line.strip() for line in lines):
        raise Invalid("read")(DataError, path, "must have at least one row, got an empty file")
    named = _SEPARATOR.fullmatch(lines[0].strip())
    return (lines[1:], named[1]) if named else (lines, None)


def find_layout(path: Path, header: bool | None) -> Layout:
    """Infer the layout from the first lines: the delimiter is the one with which most rows are all numbers.

    Raises:
        DataError: no rows.
    """
    with open_text(path) as file:
        lines, named = sample(path, file)
    begin = 1 if named else 0
    best, score = None, (-1, -1, -1)
    for delimiter in (named,) if named else (*DELIMITERS, None):
        try:
            rows = list(rows_of(lines, delimiter, before=begin))
        except csv.Error:
            continue
        for decimal in (".",) if delimiter == "," else (".", ","):
            widths = Counter(len(cells) for _, cells in rows if _all_numbers(cells, decimal))
            if decimal == ",":  # "1,5" alone is two columns between commas, rather than one number
                del widths[1]
            width, agreeing = max(widths.items(), key=lambda item: item[::-1], default=(0, 0))
            usual = Counter(len(cells) for _, cells in rows).most_common(1)
            found = (agreeing, width, usual[0][0] if usual and not agreeing and delimiter is not None else 0)
            if found > score:
                best, score = (delimiter, decimal, rows, width), found
    if best is None or not best[2]:
        raise Invalid("read")(DataError, path, "must have at least one row, got none that can be read")
    delimiter, decimal, rows, width = best
    return _head(Layout(delimiter, decimal, begin), rows, width, header)


def _all_numbers(cells: list[str], decimal: str) -> bool:
    return all(number(cell, decimal) is not None for cell in cells)


def _head(layout: Layout, rows: list[Line], width: int, header: bool | None) -> Layout:
    """The layout with the lines above the first row of numbers."""
    plain, decimal = layout, layout.decimal
    lines, cells = zip(*rows, strict=True)
    if header is False:
        return plain
    data = next((i for i, row in enumerate(cells) if len(row) == width and _all_numbers(row, decimal)), None)
    if header is None and data == 0:
        if not _numeric_names(cells, decimal):
            return plain
        return Layout(layout.delimiter, decimal, lines[0], tuple(cells[0]), numeric_names=True)
    head = [_uncommented(row, width) for row in cells[:data]] if data else []
    if header:
        titled = next((i for i, row in enumerate(cells) if len(row) == width), 0) if width > 1 else 0
        titles, names = head[:titled], tuple(cells[titled])
    else:
        if not head:  # no row of numbers: the first row holds names if it can
            is_header = _is_header(cells[0], decimal)
            return Layout(layout.delimiter, decimal, lines[0], tuple(cells[0])) if is_header else plain
        *titles, last = head
        names = tuple(last)
        if len(last) != width or not _is_header(last, decimal):
            titles, names = head, ()
    if not all(_is_title(row, width, decimal) for row in titles):
        is_header = header or _is_header(cells[0], decimal)
        return Layout(layout.delimiter, decimal, lines[0], tuple(cells[0])) if is_header else plain
    begin = len(titles) + bool(names)
    skipped = lines[begin - 1] if begin else plain.skipped
    title_lines = (lines[0], lines[len(titles) - 1]) if titles else None
    return Layout(layout.delimiter, decimal, skipped, names or None, title_lines)


def _uncommented(cells: list[str], width: int) -> list[str]:
    """The names without the mark of numpy.savetxt, which is a cell if blanks separate cells."""
    if not cells[0].lstrip().startswith("#"):
        return cells
    first = cells[0].lstrip().lstrip("#").strip()
    return cells[1:] if not first and len(cells) == width + 1 else [first, *cells[1:]]


def _is_title(cells: list[str], width: int, decimal: str) -> bool:
    """One text alone above a table of several columns; a spreadsheet fills up its row with empty cells."""
    filled = [cell for cell in cells if cell.strip()]
    single = len(filled) <= 1 or len(cells) == 1
    return width > 1 and single and all(number(cell, decimal) is None for cell in filled)


def _is_header(cells: list[str], decimal: str) -> bool:
    """No cell is a number; beside pandas' unnamed index, whole numbers are names too."""
    if all(number(cell, decimal) is None for cell in cells):
        return True
    return len(cells) > 1 and cells[0].strip() in INDEX_NAMES and all(map(_WHOLE.fullmatch, map(str.strip, cells[1:])))


def _numeric_names(cells: tuple[list[str], ...], decimal: str) -> bool:
    """Whether row 1 holds names such as 2019, 2020, 2021.

    They are three or more whole numbers in even steps, as no other row is, and in half of the columns at least a
    stranger to what is below: outside its range, or the only whole number.
    """
    first, below = cells[0], [row for row in cells[1:] if len(row) == len(cells[0])]
    if len(first) < 3 or len(below) < 2 or not _even_steps(first) or any(map(_even_steps, below)):
        return False
    strange = 0
    for position, name in enumerate(first):
        texts = [row[position].strip() for row in below]
        values = [value for text in texts if (value := number(text, decimal)) is not None]
        outside = bool(values) and not min(values) <= float(name) <= max(values)
        strange += outside or not any(map(_WHOLE.fullmatch, texts))
    return 2 * strange >= len(first)


def _even_steps(cells: list[str]) -> bool:
    texts = [cell.strip() for cell in cells]
    if not all(_WHOLE.fullmatch(text) and len(text) < 16 for text in texts):
        return False
    values = [int(text) for text in texts]
    steps = {after - before for before, after in zip(values, values[1:], strict=False)}
    return len(steps) == 1 and min(steps) > 0
