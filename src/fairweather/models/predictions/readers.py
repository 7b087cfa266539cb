"""What people call each test image: tables of readers, such as radiologists."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.data.groups import column_to_text, read_text_table
from fairweather.errors import InputError, check_name, quote_names
from fairweather.files.tables import MISSING_VALUES, find_text_format
from fairweather.models.predictions.matching import KnownImages, find_images
from fairweather.models.predictions.tables import (
    CSV_SUFFIXES,
    INDEX_COLUMNS,
    KEY_COLUMNS,
    LABEL_COLUMNS,
    PLACE_COLUMNS,
    SEPARATORS,
    find_name,
    name_frame,
)
from fairweather.types.measurement import UNKNOWN, IntArray, ReaderCalls

# Usual names of columns, without regard to case.
READER_COLUMNS = (
    *("reader", "readers", "reader_id", "rater", "rater_id", "annotator", "annotator_id"),
    *("observer", "radiologist", "pathologist", "dermatologist", "expert", "physician", "doctor"),
)
CALL_COLUMNS = ("call", "calls", "reading", "decision", "diagnosis", "answer")
TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
# What the call of a finding may be, besides its name.
CALLS_OF_FINDINGS = {
    **dict.fromkeys(("1", "true", "present", "positive", "yes"), 1),
    **dict.fromkeys(("0", "false", "absent", "negative", "no"), 0),
    **dict.fromkeys(("-1", "unknown", "uncertain"), UNKNOWN),
}


class ReaderTable(NamedTuple):
    """A table with the calls of readers, as texts."""

    place: str
    """What messages call it."""

    frame: pd.DataFrame

    reader: str
    """Who has read, if no column says so: the name of the file."""

    remark: str = ""
    """What is unusual about the file; "" if nothing is."""


class _Calls(NamedTuple):
    """A column of calls: of one finding, or of the classes."""

    column: str
    readers: Sequence[str]
    """The reader of each row."""

    finding: int
    """Its number; 0 for classes."""


def list_reader_tables(readers: object) -> tuple[ReaderTable, ...]:
    """Read tables of readers as texts.

    Args:
        readers: the path of a table, or of a folder with tables; a DataFrame; several of these; or
            a mapping of these, each by the name of its reader. None for no readers.

    Raises `InputError` for anything else, and for a file that is no table.

    >>> frame = pd.DataFrame({"key": [0, 1], "ann": [1, 0]})
    >>> list_reader_tables(frame)[0].frame.to_dict("list")
    {'key': ['0', '1'], 'ann': ['1', '0']}
    """
    if readers is None:
        return ()
    if isinstance(readers, Mapping):
        return tuple(
            table._replace(reader=str(name))
            for name, tables in readers.items()
            for table in list_reader_tables(tables)
        )
    if isinstance(readers, str | Path):
        path = Path(readers).expanduser()
        if not path.is_dir() or path.suffix.lower() == ".parquet":
            return (_read_table(path),)
        paths = [file for file in sorted(path.iterdir()) if file.suffix.lower() in TABLE_SUFFIXES]
        if not paths:
            raise InputError(
                f"readers: the folder {str(path)!r} has no {' or '.join(TABLE_SUFFIXES)}"
            )
        return tuple(map(_read_table, paths))
    if isinstance(readers, pd.DataFrame):
        frame = name_frame(readers, "readers")
        texts = {name: column_to_text(frame[name]) for name in frame.columns}
        return (ReaderTable("readers", pd.DataFrame(texts), "reader"),)
    if isinstance(readers, Sequence):
        return tuple(table for part in readers for table in list_reader_tables(part))
    raise InputError(
        f"readers must be the path of a table or a DataFrame, found a {type(readers).__name__}"
    )


def _read_table(path: Path) -> ReaderTable:
    frame = read_text_table(path)
    is_text = path.suffix.lower() in CSV_SUFFIXES
    remark = find_text_format(path).remark(path.name) if is_text else ""
    return ReaderTable(path.name, frame, path.stem, remark)


def match_readers(
    tables: Sequence[ReaderTable],
    images: KnownImages,
    classes: tuple[str, ...],
    key_column: str | None = None,
) -> ReaderCalls:
    """Find what each reader calls each test image; calls may be missing.

    A table has a column with the keys of images, and one of these forms:

    - A column `reader`, and a column for each finding or one with the call.
    - A column for each reader, called `READER` or, of several findings, `READER_FINDING`.
    - A column for each finding. Then the table is of one reader.

    The call of a finding is 0 or 1, present or absent. Otherwise it is the name or number of a
    class.

    Args:
        tables: as `list_reader_tables` reads them.
        images: the test images.
        classes: names in label order, or the findings.
        key_column: the column with the keys, where a table has it; else one with a usual name.

    Raises:
        InputError: a column is missing; a key is of no image; a call is no class; two calls of one
            reader contradict each other; or a reader has only images of one class.

    >>> frame = pd.DataFrame({"key": [0, 1, 1], "reader": ["a", "a", "b"], "call": [1, 0, 1]})
    >>> images = KnownImages(np.array([[1], [0]]), np.arange(2), None, "the test images")
    >>> match_readers(list_reader_tables({"": frame[:2]}), images, ("Mass",)).calls.tolist()
    [[[1]], [[0]]]
    """
    images = images._replace(are_files=images.names is not None)
    count = classes if images.labels.ndim > 1 else classes[:1]
    readers: dict[str, int] = {}
    calls = np.full((len(images.labels), 0, len(count)), UNKNOWN, dtype=np.int64)
    for table in tables:
        key = _find_key(table, key_column)
        keys = [text.strip() for text in table.frame[key]]
        places = key.lower() in PLACE_COLUMNS
        if "" in keys:
            raise InputError(f"{table.place} has no {key} in row {keys.index('') + 1}")
        rows = find_images(keys, table.place, images, are_places=places)
        for column in _find_calls(table, key, classes, several=images.labels.ndim > 1):
            for name in dict.fromkeys(column.readers):
                readers.setdefault(check_name(name, f"{table.place}: the reader"), len(readers))
            missing = len(readers) - calls.shape[1]
            calls = np.pad(calls, ((0, 0), (0, missing), (0, 0)), constant_values=UNKNOWN)
            own = np.array([readers[name] for name in column.readers], dtype=np.int64)
            words = _call_words(classes, column.finding, several=images.labels.ndim > 1)
            codes = _code(table, column, words, classes)
            _enter(calls[:, :, column.finding], rows, own, codes, (table, column, keys))
    result = ReaderCalls(images.keys, tuple(readers), calls)
    _check_read(result, images, classes)
    return result


def _find_key(table: ReaderTable, asked: str | None) -> str:
    names = list(map(str, table.frame.columns))
    subject = "column of the keys: name it with --key-column"
    given = asked if asked in names else None
    key = find_name(given, KEY_COLUMNS, names, "column", subject, table.place)
    if key is None and "" in names:  # the index of a DataFrame
        key = ""
    if key is None:
        raise InputError(
            f"{table.place} has no column with the keys of images, only {quote_names(names)}: name "
            "it with --key-column"
        )
    return key


def _find_calls(
    table: ReaderTable, key: str, classes: Sequence[str], *, several: bool
) -> Iterator[_Calls]:
    """The columns with calls, in whichever form the table is."""
    names = list(map(str, table.frame.columns))
    reader = find_name(None, READER_COLUMNS, names, "column", "column of the readers", table.place)
    rest = [name for name in names if name not in (key, reader)]
    if not rest:
        raise InputError(f"{table.place} has no column of calls beside {quote_names(names)}")
    by_name = {name.lower(): name for name in rest}
    of_findings = {
        number: by_name[finding.lower()]
        for number, finding in enumerate(classes)
        if several and finding.lower() in by_name
    }
    called = [name for name in rest if name.lower() in CALL_COLUMNS]
    if reader is not None or of_findings or rest == called:
        own = [table.reader] * len(table.frame)
        if reader is not None:
            own = [text.strip() for text in table.frame[reader]]
            if "" in own:
                raise InputError(f"{table.place} names no reader in row {own.index('') + 1}")
        if of_findings:
            yield from (_Calls(column, own, number) for number, column in of_findings.items())
        elif len(alone := called or rest) == 1 and (not several or len(classes) == 1):
            yield _Calls(alone[0], own, 0)
        else:
            raise InputError(_explain_columns(table, rest, classes, several=several))
        return
    rest = [name for name in rest if name.lower() not in (*LABEL_COLUMNS, *INDEX_COLUMNS)] or rest
    if not several or len(classes) == 1:
        yield from (_Calls(name, [name] * len(table.frame), 0) for name in rest)
        return
    split = [(name, _split_finding(name, classes)) for name in rest]
    if not any(parts for _, parts in split):
        raise InputError(_explain_columns(table, rest, classes, several=several))
    for name, parts in split:
        if parts is not None:
            yield _Calls(name, [parts[0]] * len(table.frame), parts[1])


def _split_finding(name: str, findings: Sequence[str]) -> tuple[str, int] | None:
    """Split `READER_FINDING` or `FINDING_READER` at a separator; None without a finding."""
    lower = name.lower()
    order = sorted(range(len(findings)), key=lambda number: -len(findings[number]))
    for number in order:
        finding = findings[number].lower()
        before, after = name[: -len(finding)], name[len(finding) :]
        if lower.endswith(finding) and len(before) > 1 and before[-1] in SEPARATORS:
            return before[:-1].rstrip(), number
        if lower.startswith(finding) and len(after) > 1 and after[0] in SEPARATORS:
            return after[1:].lstrip(), number
    return None


def _explain_columns(
    table: ReaderTable, rest: Sequence[str], classes: Sequence[str], *, several: bool
) -> str:
    what = "a column for each finding" if several else "one column with the call"
    wanted = f", such as {classes[0]!r}" if several else ", such as 'call'"
    return f"{table.place} must have {what}{wanted}, found {quote_names(rest)}"


def _call_words(classes: Sequence[str], finding: int, *, several: bool) -> Mapping[str, int]:
    """What each text means, in lower case."""
    if several:
        name = classes[finding].lower()
        return {**CALLS_OF_FINDINGS, name: 1, f"no {name}": 0}
    names = {name.lower(): number for number, name in enumerate(classes)}
    return {**{str(number): number for number in range(len(classes))}, **names}


def _code(
    table: ReaderTable, calls: _Calls, words: Mapping[str, int], classes: Sequence[str]
) -> IntArray:
    """The number of each call; raises `InputError` for a text that means none."""
    texts, places = np.unique(
        [text.strip() for text in table.frame[calls.column]], return_inverse=True
    )
    codes = []
    for text in texts.tolist():
        plain = text.lower().removesuffix(".0")
        code = UNKNOWN if plain in MISSING_VALUES and plain not in words else words.get(plain)
        if code is None:
            row = table.frame[calls.column].str.strip().tolist().index(text)
            raise InputError(_explain_call(table, calls, row, text, words, classes))
        codes.append(code)
    return np.array(codes, dtype=np.int64)[places.reshape(-1)]


def _explain_call(
    table: ReaderTable,
    calls: _Calls,
    row: int,
    text: str,
    words: Mapping[str, int],
    classes: Sequence[str],
) -> str:
    of_findings = "present" in words
    allowed = "0, 1, present, absent or empty" if of_findings else f"one of {quote_names(classes)}"
    near = difflib.get_close_matches(text, classes, n=1)
    close = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"{table.place} has the call {text!r:.60} of the reader {calls.readers[row]!r} in row "
        f"{row + 1}, and a call is {allowed}{close}; leave out columns "
        "that are of no reader"
    )


def _enter(
    known: IntArray,
    rows: IntArray,
    readers: IntArray,
    codes: IntArray,
    named: tuple[ReaderTable, _Calls, Sequence[str]],
) -> None:
    """Enter calls into `[N, R]`; raises `InputError` for two of one reader that differ."""
    told = codes != UNKNOWN
    at = rows[told], readers[told]
    before = known[at]
    kept = before == UNKNOWN
    known[at] = np.where(kept, codes[told], before)
    differ = known[at] != codes[told]
    if differ.any():
        table, calls, keys = named
        row = int(np.flatnonzero(told)[differ.argmax()])
        raise InputError(
            f"{table.place} has two calls of the reader {calls.readers[row]!r} that differ for the "
            f"image {keys[row]!r}, in the column {calls.column!r}: leave one of them"
        )


def _check_read(readers: ReaderCalls, images: KnownImages, classes: Sequence[str]) -> None:
    """Raise `InputError` for a reader of whom nothing can be told."""
    labels = images.labels.reshape(len(images.labels), -1)
    for reader, name in enumerate(readers.readers):
        read = (readers.calls[:, reader] != UNKNOWN) & (labels != UNKNOWN)
        if not read.any():
            raise InputError(
                f"the reader {name!r} calls no test image whose label is known: leave the reader "
                "out, or check the keys"
            )
        seen = [set(labels[read[:, unit], unit].tolist()) for unit in range(labels.shape[1])]
        if all(len(values) < 2 for values in seen):
            (unit, value), *_ = [(at, values.pop()) for at, values in enumerate(seen) if values]
            which = classes[value] if images.labels.ndim == 1 else classes[unit]
            word = "with" if images.labels.ndim == 1 or value else "without"
            raise InputError(
                f"the reader {name!r} has read only images {word} {which!r}, so that sensitivity "
                "or specificity is unknown: add images of both kinds, or leave the reader out"
            )


def describe_readers(readers: ReaderCalls, notes: Sequence[str] = ()) -> str:
    """Say who has called how many images.

    >>> describe_readers(ReaderCalls(np.arange(2), ("ann",), np.zeros((2, 1, 1), np.int64)))
    '1 reader of 2 images: ann 2'
    """
    counts, images = readers.counts, len(readers.keys)
    listed = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:6])
    more = f" and {len(counts) - 6} more" if len(counts) > 6 else ""
    noun = "reader" if len(counts) == 1 else "readers"
    return "; ".join([f"{len(counts)} {noun} of {images:,} images: {listed}{more}", *notes])
