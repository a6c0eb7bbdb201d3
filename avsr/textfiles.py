"""Text files that people write: the bytes of any editor -> text; tables -> rows with their line numbers.

    bytes (UTF-8; UTF-16 or UTF-32 with a byte order mark) -> str
    .toml -> dict;  .csv, .tsv, .jsonl -> TextTable(columns, rows), or an error that names the line
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from avsr.errors import BadConfig, BadManifest, quote

# UTF-32's mark comes first, because it begins with UTF-16's.
MARKS = ((codecs.BOM_UTF8, "utf-8", "UTF-8"), (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
         (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"), (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
         (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"))
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JOINED = 100                                                # the most lines that one quoted cell of a .tsv file may have
Row = tuple[int, dict[str, Any]]


class NotText(ValueError):
    """Bytes are not text; the message says at which byte, without the name of the file."""


def decode(data: bytes) -> str:
    """The text of a file, without its byte order mark; without a mark it is read as UTF-8. Raises NotText.

    Other encodings, such as Windows-1252, are not guessed, because a wrong guess would give wrong letters without a warning.
    """
    mark, encoding, name = next((one for one in MARKS if data.startswith(one[0])), (b"", "utf-8", "UTF-8"))
    try:
        text = data[len(mark):].decode(encoding)
    except UnicodeDecodeError as error:
        raise NotText(f"byte {error.start + len(mark)} is no {name}") from error
    if "\0" in text:
        raise NotText(f"byte {data.index(0)} is zero, which no text holds; this may be UTF-16 without a byte order mark")
    return text


def read_text(path: str | Path) -> str:
    """The text of a file, see `decode`. Raises OSError, and NotText if it is not text."""
    return decode(Path(path).read_bytes())


def read_toml(path: Path, example: str) -> dict[str, Any]:
    """The tables of a TOML file. example: the file that the remedy suggests, such as `a config.toml, as in experiments/`.

    Raises BadConfig.
    """
    try:
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise BadConfig(f"{path}: cannot be read ({error.strerror or error}).  Name {example}.") from error
    except NotText as error:
        raise BadConfig(f"{path}: not TOML ({error}).  Save the file as UTF-8.") from error
    except (ValueError, RecursionError) as error:           # ValueError: also of a number of more than 4,300 digits
        raise BadConfig(f"{path}: not TOML ({error}).  Mend that line.") from error


@dataclass(frozen=True)
class TextTable:
    """columns: their names in order. rows: for each row, the number of its first line and its values by column.
    typed: whether the values have the types of JSON; else they are text, as in a .csv or .tsv file."""

    columns: list[str]
    rows: list[Row]
    typed: bool


def read_table(path: Path, required: Sequence[str], known: Sequence[str] = (), *, short: bool = False) -> TextTable:
    """A table, by its suffix .csv, .tsv or .jsonl; with another suffix it is JSON if it begins with a brace, else .tsv.

    required, known: columns that the caller asks for; `Media` in a header is read as `media` if that is one of them.
    short: whether a row may have fewer cells than the header. The cells of a .csv file may be separated by semicolons or tabs.
    Raises BadManifest, which names the line, for a table that cannot be read in full, and OSError.
    """
    try:
        text = read_text(path)
    except NotText as error:
        raise BadManifest(f"{path}: {error}.  Save the file as UTF-8.") from error
    if path.suffix.lower() == ".jsonl" or (path.suffix.lower() not in DELIMITERS and text.lstrip()[:1] in ("{", "[")):
        rows = list(_json_rows(path, text, required, {*required, *known}))
        return TextTable(list(dict.fromkeys(name for _, row in rows for name in row)), rows, typed=True)
    lines = _cells(path, text)
    number, header = next(lines, (1, []))
    header = [_known(name.strip(), {*required, *known}) for name in header]
    if twice := [name for name, count in Counter(header).items() if count > 1 and name]:
        raise BadManifest(f"{path}, line {number}: the header has {quote(twice[0])} twice.  Take one of the columns out.")
    rows = [(number, _row(path, number, header, cells, short)) for number, cells in lines]
    return TextTable([name for name in header if name], rows, typed=False)


def _known(name: str, known: set[str]) -> str:
    """The name of a column as the caller spells it; other names stay as they are written."""
    return name.lower() if name.lower() in known else name


def _row(path: Path, number: int, header: list[str], cells: list[str], short: bool) -> dict[str, str]:
    if len(cells) > len(header) or (len(cells) < len(header) and not short):
        raise BadManifest(f"{path}, line {number}: {len(cells)} cells, where the header has {len(header)}.  Put text that "
                          "holds the delimiter in double quotes; write a line that is cut off anew.")
    return dict(zip(header, cells, strict=False))


def _json_rows(path: Path, text: str, required: Sequence[str], known: set[str]) -> Iterator[Row]:
    remedy = f"Write one object a line, as {json.dumps(dict.fromkeys(required, '...'))}."
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=no_number)
        except (ValueError, RecursionError) as error:
            if number == len(lines):                        # the last line, without a line end
                raise BadManifest(f"{path}, line {number}: cut off after {len(line)} letters.  Let the program that writes it "
                                  "come to its end, or delete this line and write the rest.") from error
            raise BadManifest(f"{path}, line {number}: not JSON ({error}).  {remedy}") from error
        if not isinstance(row, dict):
            raise BadManifest(f"{path}, line {number}: {quote(row)}, where an object in braces belongs.  {remedy}")
        yield number, {_known(name, known): value for name, value in row.items()}


def no_number(name: str) -> None:
    """Raise ValueError; for json.loads, which accepts NaN and Infinity as numbers."""
    raise ValueError(f"{name} is no number")


def _cells(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of each row that is not empty; the header comes first."""
    usual = DELIMITERS.get(path.suffix.lower(), "\t")
    head = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = usual if usual in head else next((one for one in "\t;," if one in head), usual)
    lines = _tab_lines(text) if delimiter == "\t" else _quoted_lines(path, text, delimiter)
    return ((number, cells) for number, cells in lines if any(cells))


def _quoted_lines(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a .csv file, in which a cell in double quotes may go over several lines (RFC 4180)."""
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadManifest(f"{path}, line {first}: not a table ({error}).  Close its double quotes, write those "
                              "within a quoted cell twice, or write the line anew where it is cut off.") from error
        if reader.line_num > first and _holds_a_row(cells, delimiter):
            raise BadManifest(f"{path}, line {first}: a quoted cell goes on to line {reader.line_num}, and a line in it looks "
                              f"like a row of its own.  Close the double quotes in line {first}, or write the cell in one "
                              "line.")
        yield first, cells


def _holds_a_row(cells: list[str], delimiter: str) -> bool:
    """Whether a later line of a row over several lines looks like a row of its own, by its first cell and its number of cells.

    Two forgotten quotes make one cell of everything between them: `a.wav,"Hello` and `b.wav,World"`.
    """
    first, *others = (line.split(delimiter) for line in re.split(r"\r\n|\r|\n", delimiter.join(cells)))
    suffix = Path(first[0]).suffix.lower()
    least = 2 if suffix else len(cells)                     # a file name, which its suffix shows
    for other in others:
        name = other[0].strip()
        if name and not re.search(r"\s", name) and Path(name).suffix.lower() == suffix and len(other) >= least \
                and (suffix or len(first) == len(other) == len(cells)):
            return True
    return False


def _tab_lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a .tsv file. Programs disagree about double quotes in them: quotes that do not close are taken as letters,
    so that no line is lost."""
    lines = re.split(r"\r\n|\r|\n", text)
    n_columns = next((line.count("\t") + 1 for line in lines if line.strip()), 1)
    at = 0
    while at < len(lines):
        n_lines, cells = 1, _tab_cells(lines[at])
        if cells is None:
            n_lines, cells = _joined(lines[at:at + JOINED], n_columns)
        yield at + 1, cells
        at += n_lines


def _joined(lines: list[str], n_columns: int) -> tuple[int, list[str]]:
    """The number of lines that are one row, because a quoted cell of the first goes on in the others, and the cells of the row.

    A line that has all its cells goes on only in lines that are too short to be rows.
    """
    lacks = lines[0].count("\t") + 1 < n_columns
    for n_lines in range(2, len(lines) + 1):
        if not lacks and lines[n_lines - 1].count("\t") + 1 >= n_columns:
            break
        cells = _tab_cells("\n".join(lines[:n_lines]))
        if cells is not None:
            if len(cells) == n_columns and not _holds_a_row(cells, "\t"):
                return n_lines, cells
            break
    return 1, [(_tab_cells(cell) or [cell])[0] for cell in lines[0].split("\t")]


def _tab_cells(line: str) -> list[str] | None:
    """The cells of a line; None if its double quotes do not close a cell."""
    try:
        return next(csv.reader(StringIO(line, newline=""), delimiter="\t", strict=True), [])
    except csv.Error:
        return None
