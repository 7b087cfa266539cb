"""What people call each test image: tables of readers, such as radiologists."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from fairweather.data.groups import column_to_text, read_text_table
from fairweather.errors import InputError, check_name, join_names, quote_names
from fairweather.files.tables import MISSING_VALUES, find_text_format
from fairweather.models.predictions.column_names import (
    INDEX_COLUMNS,
    KEY_COLUMNS,
    LABEL_COLUMNS,
    PLACE_COLUMNS,
    SEPARATORS,
)
from fairweather.models.predictions.matching import KnownImages, find_images
from fairweather.models.predictions.tables import CSV_SUFFIXES, find_name, name_frame
from fairweather.types.measurement import UNKNOWN, IntArray, ReaderCalls
from fairweather.types.positive import PositiveClasses

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
    positive: PositiveClasses | None = None,
    unit: str | None = None,
) -> ReaderCalls:
    """Find what each reader calls each test image; calls may be missing.

    A table has a column with the keys of images, and one of these forms:

    - A column `reader`, and a column for each finding or one with the call.
    - A column for each reader, called `READER` or, of several findings, `READER_FINDING`.
    - A column for each finding. Then the table is of one reader.

    The call of a finding is 0 or 1, present or absent. Otherwise it is the name or number of a
    class. Where findings are made of classes, it may be the name of a class too.

    Args:
        tables: as `list_reader_tables` reads them.
        images: the test images.
        classes: names in label order, or the findings.
        key_column: the column with the keys, where a table has it; else one with a usual name.
        positive: the classes that findings were made of; None for others.
        unit: what is judged in place of images, such as a patient; a table without keys may have
            a row for each.

    Raises:
        InputError: a column is missing; a key is of no image; a call is no class; two calls of one
            reader contradict each other; or a reader has only images of one class.

    >>> frame = pd.DataFrame({"key": [0, 1, 1], "reader": ["a", "a", "b"], "call": [1, 0, 1]})
    >>> images = KnownImages(np.array([[1], [0]]), np.arange(2), None, "the test images")
    >>> match_readers(list_reader_tables({"": frame[:2]}), images, ("Mass",)).calls.tolist()
    [[[1]], [[0]]]
    """
    images = images._replace(are_files=images.names is not None)
    called = _CallMeaning(classes, images.labels.ndim > 1, positive)
    readers: dict[str, int] = {}
    calls = np.full((len(images.labels), 0, len(called.findings)), UNKNOWN, dtype=np.int64)
    for table in tables:
        placed = _place_rows(table, images, key_column, unit)
        for column in _find_calls(placed, called):
            for name in dict.fromkeys(column.readers):
                readers.setdefault(check_name(name, f"{table.place}: the reader"), len(readers))
            missing = len(readers) - calls.shape[1]
            calls = np.pad(calls, ((0, 0), (0, missing), (0, 0)), constant_values=UNKNOWN)
            own = np.array([readers[name] for name in column.readers], dtype=np.int64)
            _enter(calls[:, :, column.finding], placed, own, column, _code(placed, column, called))
    result = ReaderCalls(images.keys, tuple(readers), calls)
    _check_read(result, images, classes)
    return result


class _CallMeaning(NamedTuple):
    """What readers call: findings, or one class of each image."""

    classes: tuple[str, ...]
    """The names of the findings, or of the classes."""

    several: bool
    """Whether they are findings."""

    positive: PositiveClasses | None
    """The classes that findings were made of."""

    @property
    def findings(self) -> tuple[int, ...]:
        """The numbers of the findings; of classes, one number."""
        return tuple(range(len(self.classes))) if self.several else (0,)

    @property
    def is_one(self) -> bool:
        """Whether one call of an image says everything."""
        return len(self.findings) == 1 or self.positive is not None

    def words(self, finding: int) -> Mapping[str, int]:
        """What each text means, in lower case."""
        if not self.several:
            names = {name.lower(): number for number, name in enumerate(self.classes)}
            return {**{str(number): number for number in range(len(self.classes))}, **names}
        name, made = self.classes[finding], self.positive
        words = {**CALLS_OF_FINDINGS, name.lower(): 1, f"no {name.lower()}": 0}
        if made is None:
            return words
        kinds = {kind.lower(): int(kind in made.members[name]) for kind in made.classes}
        return {**words, **kinds} if len(self.findings) == 1 else kinds

    def check_plain(self, place: str, texts: Sequence[str], words: Mapping[str, int]) -> None:
        """Raise `InputError` if calls are 0 and 1, and classes are called so too."""
        if self.positive is None or not {*texts} & {"0", "1"} or {*texts} - {"0", "1", ""}:
            return
        if any(words.get(text) != CALLS_OF_FINDINGS[text] for text in ("0", "1")):
            raise InputError(
                f"{place} has only the calls 0 and 1, which may be classes or say whether the "
                "finding is there: write present and absent, or the names of classes with a letter"
            )

    def explain(self) -> str:
        """The columns of calls that a table must have."""
        if self.several and not self.is_one:
            return f"a column for each finding, such as {self.classes[0]!r}"
        return "one column with the call, such as 'call'"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of classes that a call may be."""
        if self.positive is not None:
            return self.positive.classes
        return () if self.several else self.classes


class _PlacedTable(NamedTuple):
    """A table whose rows are of known images."""

    place: str
    frame: pd.DataFrame
    """Without the keys."""

    keys: Sequence[str]
    """Of each row."""

    images: IntArray
    """The number of the image of each row."""

    reader: str


def _place_rows(
    table: ReaderTable, images: KnownImages, asked: str | None, unit: str | None
) -> _PlacedTable:
    """Find the image of each row; a row of a patient becomes one of each image."""
    names = list(map(str, table.frame.columns))
    subject = "column of the keys: name it with --key-column"
    given = asked if asked in names else None
    key = find_name(given, KEY_COLUMNS, names, "column", subject, table.place)
    if key is None and unit in names and images.groups is not None:
        return _place_groups(table, images, str(unit))
    if key is None and "" in names:  # the index of a DataFrame
        key = ""
    if key is None:
        raise InputError(
            f"{table.place} has no column with the keys of images, only {quote_names(names)}: name "
            "it with --key-column"
        )
    keys = _read_keys(table, key)
    are_places = key.lower() in PLACE_COLUMNS
    rows = find_images(keys, table.place, images, are_places=are_places)
    return _PlacedTable(table.place, table.frame.drop(columns=key), keys, rows, table.reader)


def _place_groups(table: ReaderTable, images: KnownImages, unit: str) -> _PlacedTable:
    assert images.groups is not None
    assert images.groups.names is not None, "units are groups"
    keys, members = _read_keys(table, unit), dict[str, list[int]]()
    for at, name in enumerate(images.groups.names.tolist()):
        members.setdefault(str(name), []).append(at)
    if unknown := [name for name in dict.fromkeys(keys) if name not in members]:
        raise InputError(
            f"{len(unknown):,} of {len(set(keys)):,} values of {unit} in {table.place} have no "
            f"test images: {quote_names(unknown)}; leave out their rows"
        )
    rows = [(row, at) for row, name in enumerate(keys) for at in members[name]]
    frame = table.frame.iloc[[row for row, _ in rows]].reset_index(drop=True).drop(columns=unit)
    of_rows = np.array([at for _, at in rows], dtype=np.int64)
    return _PlacedTable(table.place, frame, [keys[row] for row, _ in rows], of_rows, table.reader)


def _read_keys(table: ReaderTable, key: str) -> list[str]:
    keys = [text.strip() for text in table.frame[key]]
    if "" in keys:
        raise InputError(f"{table.place} has no {key} in row {keys.index('') + 1}")
    return keys


def _find_calls(table: _PlacedTable, called: _CallMeaning) -> Iterator[_Calls]:
    """The columns with calls, in whichever form the table is."""
    names, count = list(map(str, table.frame.columns)), len(table.frame)
    reader = find_name(None, READER_COLUMNS, names, "column", "column of the readers", table.place)
    rest = [name for name in names if name != reader]
    if not rest:
        raise InputError(f"{table.place} has no column of calls")
    by_name = {name.lower(): name for name in rest}
    of_findings = {
        number: by_name[finding.lower()]
        for number, finding in enumerate(called.classes)
        if called.several and finding.lower() in by_name
    }
    named = [name for name in rest if name.lower() in CALL_COLUMNS]
    if reader is not None or of_findings or rest == named:
        own = [table.reader] * count
        if reader is not None:
            own = [text.strip() for text in table.frame[reader]]
            if "" in own:
                raise InputError(f"{table.place} names no reader in row {own.index('') + 1}")
        if of_findings:
            yield from (_Calls(column, own, number) for number, column in of_findings.items())
        elif len(alone := named or rest) == 1 and called.is_one:
            yield from (_Calls(alone[0], own, number) for number in called.findings)
        else:
            raise InputError(_explain_columns(table, rest, called))
        return
    rest = [name for name in rest if name.lower() not in (*LABEL_COLUMNS, *INDEX_COLUMNS)] or rest
    split = [(name, _split_finding(name, called)) for name in rest]
    if not any(parts for _, parts in split):
        if not called.is_one:
            raise InputError(_explain_columns(table, rest, called))
        for name in rest:
            yield from (_Calls(name, [name] * count, number) for number in called.findings)
    for name, parts in split:
        if parts is not None:
            yield _Calls(name, [parts[0]] * count, parts[1])


def _split_finding(name: str, called: _CallMeaning) -> tuple[str, int] | None:
    """Split `READER_FINDING` or `FINDING_READER` at a separator; None without a finding."""
    lower = name.lower()
    if not called.several or len(called.classes) == 1:
        return None
    for number in sorted(called.findings, key=lambda number: -len(called.classes[number])):
        finding = called.classes[number].lower()
        before, after = name[: -len(finding)], name[len(finding) :]
        if lower.endswith(finding) and len(before) > 1 and before[-1] in SEPARATORS:
            return before[:-1].rstrip(), number
        if lower.startswith(finding) and len(after) > 1 and after[0] in SEPARATORS:
            return after[1:].lstrip(), number
    return None


def _explain_columns(table: _PlacedTable, rest: Sequence[str], called: _CallMeaning) -> str:
    return f"{table.place} must have {called.explain()}, found {quote_names(rest)}"


def _code(table: _PlacedTable, calls: _Calls, called: _CallMeaning) -> IntArray:
    """The number of each call; raises `InputError` for a text that means none."""
    words = called.words(calls.finding)
    cells = [text.strip() for text in table.frame[calls.column]]
    texts, places = np.unique(cells, return_inverse=True)
    plain = [text.lower().removesuffix(".0") for text in texts.tolist()]
    called.check_plain(table.place, plain, words)
    codes = []
    for text, short in zip(texts.tolist(), plain, strict=True):
        code = words.get(short, UNKNOWN if short in MISSING_VALUES else None)
        if code is None:
            raise InputError(_explain_call(table, calls, cells.index(text), text, called))
        codes.append(code)
    return np.array(codes, dtype=np.int64)[places.reshape(-1)]


def _explain_call(
    table: _PlacedTable, calls: _Calls, row: int, text: str, called: _CallMeaning
) -> str:
    allowed = [f"one of {quote_names(called.names)}"] if called.names else []
    if (called.several and len(called.findings) == 1) or not called.names:
        allowed.insert(0, "0, 1, present, absent or empty")
    near = difflib.get_close_matches(text, called.names, n=1)
    close = f"; did you mean {near[0]!r}?" if near else ""
    return (
        f"{table.place} has the call {text!r:.60} of the reader {calls.readers[row]!r} for the "
        f"image {table.keys[row]!r}, and a call is {', or '.join(allowed)}{close}; leave out "
        "columns that are of no reader"
    )


def _enter(
    known: IntArray, table: _PlacedTable, readers: IntArray, calls: _Calls, codes: IntArray
) -> None:
    """Enter calls into `[N, R]`; raises `InputError` for two of one reader that differ."""
    told = codes != UNKNOWN
    at = table.images[told], readers[told]
    before = known[at]
    known[at] = np.where(before == UNKNOWN, codes[told], before)
    differ = known[at] != codes[told]
    if differ.any():
        row = int(np.flatnonzero(told)[differ.argmax()])
        raise InputError(
            f"{table.place} has two calls of the reader {calls.readers[row]!r} that differ for the "
            f"image {table.keys[row]!r}, in the column {calls.column!r}: leave one of them"
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
    listed = join_names([f"{name} {count:,}" for name, count in counts.items()])
    noun = "reader" if len(counts) == 1 else "readers"
    return "; ".join([f"{len(counts)} {noun} of {images:,} images: {listed}", *notes])
