"""Read the group of each image (its patient) and its slices (its hospital) from a table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from fairweather.data.sources import (
    FILE_COLUMNS,
    SPLIT_NAMES,
    UNSPLIT,
    Listing,
    Source,
    check_exists,
    explain_read_errors,
)
from fairweather.data.splits import Subset
from fairweather.errors import InputError, check_case_distinct, check_name, join_names, unknown_name
from fairweather.files.tables import MISSING_VALUES, find_text_format, read_parquet_table
from fairweather.types.measurement import Groups, IntArray, TextArray
from fairweather.types.options import (
    BELOW,
    CROSS,
    MISSING,
    GroupColumns,
    SliceColumn,
    parse_slice,
    slice_name,
    split_slice,
)
from fairweather.types.record import NATURAL

Listings = Mapping[str, Listing]  # by split

KEY, SPLIT = "key", "split"
JSON_LINES = ".jsonl"
TABLES = (".csv", ".tsv", ".parquet", JSON_LINES)
RESERVED_SLICE = "class"  # class=NAME has another meaning in rules


@explain_read_errors()
def read_groups(splits: Listings, columns: GroupColumns, source: str) -> dict[str, Groups]:
    """Read the groups and slices of every image of some splits of a source, by split.

    Their columns are in a table, or in the source itself. A table names the image of each row in
    one of two ways:

    - The column `file` (or another of `FILE_COLUMNS`) has its path inside the folder of the source.
      The file's name is enough if no two images share it, with or without its ending.
    - The column `key` has its position in its split, from 0 on; the column `split` names the split
      if there are several.

    Rows about other images are ignored. Rows with `natural/NAME` in the column `split` are only
    about this set of other images of the same classes.

    Raises:
        InputError: the source has no columns; the file is not a table; a column is missing; an
            image has no row, or two rows that differ; or an image has no group.
    """
    if columns.metadata is None:
        return _read_source_columns(splits, columns, f"the data source {source!r}")
    path = Path(columns.metadata).expanduser()
    table = _select_rows(read_text_table(path), columns.natural)
    place = f"the table {str(path)!r}"
    _check_columns(columns, place)
    _check_present(columns, table, str(path))
    by_lower_name = {name.lower(): name for name in reversed(list(table.columns))}
    file_column = next((by_lower_name[n] for n in FILE_COLUMNS if n in by_lower_name), None)
    if file_column is None and KEY not in table:
        raise InputError(
            f"{place} must have a column that says which image a row is about: file or {KEY}; "
            f"found {', '.join(map(str, table.columns))}"
        )
    if file_column is not None and all(listing.names is not None for listing in splits.values()):
        table = table.drop_duplicates([file_column, *columns.columns], ignore_index=True)
        rows = _rows_by_file(splits, table[file_column], place)
    elif KEY in table:
        identity = [KEY, SPLIT] if SPLIT in table else [KEY]
        table = table.drop_duplicates([*identity, *columns.columns], ignore_index=True)
        rows = _rows_by_key(splits, table, place)
    else:
        raise InputError(
            f"the images of this source have no files of their own, so {place} must have a column "
            f"{KEY}: the place of each image in its split, from 0 on"
        )
    values = table[columns.columns]
    return {
        split: _make_groups(values.iloc[numbers], columns, place) for split, numbers in rows.items()
    }


def group_rows(table: pd.DataFrame, columns: GroupColumns, name: str) -> Groups:
    """The groups and slices of the rows of a table that is called `name` in messages.

    Raises `InputError` if a column is missing or cannot be used, or a row has no group.
    """
    place = f"the table {name!r}"
    _check_columns(columns, place)
    _check_present(columns, table, name)
    texts = {column: column_to_text(table[column]) for column in columns.columns}
    return _make_groups(pd.DataFrame(texts), columns, place)


def _check_present(columns: GroupColumns, table: pd.DataFrame, name: str) -> None:
    for column in columns.columns:
        if column not in table:
            raise unknown_name(f"column of {name}", column, list(map(str, table.columns)))


def _read_source_columns(splits: Listings, columns: GroupColumns, place: str) -> dict[str, Groups]:
    _check_columns(columns, place)
    if any(listing.table is None for listing in splits.values()):
        raise InputError(
            f"{place} has no columns of its own: give the path of a table with a row for each "
            "image as metadata (--metadata)"
        )
    return {
        split: _make_groups(listing.table(columns.columns), columns, place)
        for split, listing in splits.items()
        if listing.table is not None
    }


def natural_columns(groups: GroupColumns | None, names: Collection[str]) -> dict[str, GroupColumns]:
    """The columns with the groups of sets of other images of the same classes, by set.

    A set is left out if the table has no rows about it, with `natural/NAME` in the column `split`.
    Slices are left out too: only test images have them.

    Raises `InputError` if a set has no rows, and the table has rows about a set that is not among
    `names`: one of the two names is probably misspelt.
    """
    if groups is None or groups.metadata is None or groups.group is None or not names:
        return {}
    table = read_text_table(Path(groups.metadata).expanduser())
    splits = set(table[SPLIT].str.strip()) if SPLIT in table else set()
    known = sorted(split for split in splits if split.startswith(NATURAL))
    split_of = {name: f"{NATURAL}{name}" for name in names}
    for split in split_of.values():
        if split not in known and not set(known) <= set(split_of.values()):
            place = f"set of other images in the column {SPLIT} of {groups.metadata}"
            raise unknown_name(place, split, known)
    return {
        name: groups._replace(slices=(), allow_shared=True, natural=name)
        for name, split in split_of.items()
        if split in known
    }


def _select_rows(table: pd.DataFrame, natural: str | None) -> pd.DataFrame:
    """The rows about the set of other images with this name; with None, about the own images."""
    if SPLIT not in table:
        return table if natural is None else table[:0]
    if natural is not None:
        rows = table[table[SPLIT].str.strip() == f"{NATURAL}{natural}"]
        return rows.drop(columns=SPLIT).reset_index(drop=True)
    rows = table[~table[SPLIT].str.strip().str.startswith(NATURAL)].reset_index(drop=True)
    return rows if rows[SPLIT].str.strip().any() else rows.drop(columns=SPLIT)


def read_text_table(path: Path) -> pd.DataFrame:
    """Read a table as text; an empty field is an empty text.

    It is CSV, parquet, or JSON lines: an object of each row, as ImageNet-X is published.

    Raises `InputError` for another kind of file, or one that is damaged.
    """
    check_exists(path)
    if path.suffix.lower() not in TABLES:
        raise InputError(f"a table must be a {join_names(TABLES)} file, found {str(path)!r}")
    try:
        if path.suffix.lower() == ".parquet":
            table = _read_parquet(path).to_pandas()
            texts = [column_to_text(table[name]) for name in table]
            table = pd.concat(texts, axis=1) if texts else table
        elif path.suffix.lower() == JSON_LINES:
            table = pd.DataFrame(_read_json_lines(path)).fillna("")
        else:
            encoding, sep, _ = find_text_format(path)
            if path.suffix.lower() == ".tsv":
                sep = "\t"
            # The header is read as a row: pandas would rename a column that is there twice.
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, sep=sep, encoding=encoding, header=None
            )
            table = table.set_axis(table.iloc[0], axis="columns")[1:].reset_index(drop=True)
    except InputError:
        raise
    except (ValueError, OSError) as error:  # the errors of pyarrow are ValueErrors too
        reason = str(error).partition("\n")[0]
        raise InputError(f"{str(path)!r} cannot be read as a table: {reason}") from error
    table.columns = table.columns.map(str)
    duplicates = table.columns[table.columns.duplicated() & (table.columns != "")]
    if len(duplicates):
        raise InputError(f"{str(path)!r} has two columns with the name {duplicates[0]!r}")
    return table


def _read_json_lines(path: Path) -> Iterator[dict[str, str]]:
    """The texts of each row, from a file with an object a line."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")
        yield {name: "" if value is None else str(value) for name, value in row.items()}


def _read_parquet(path: Path) -> pa.Table:
    """Read a parquet file, or a folder with the parts of one, as other programs write it."""
    if not path.is_dir():
        return read_parquet_table(path)
    parts = [part for part in sorted(path.glob("*.parquet")) if part.name[0] not in "._"]
    if not parts:
        raise InputError(f"the folder {str(path)!r} has no parquet files")
    return pa.concat_tables([read_parquet_table(part) for part in parts])


def column_to_text(column: pd.Series) -> pd.Series:
    """Write the values of a column as texts; a missing one as an empty text."""
    return column.map(str).where(column.notna(), "")


def _check_columns(columns: GroupColumns, place: str) -> None:
    if not columns.columns:
        raise InputError(
            f"of {place} none of the columns is asked for: name the one that says which images "
            "belong together (group), or one with subgroups (slice)"
        )
    for column in columns.columns:
        check_name(column, f"{place} is asked for a column with a name that cannot be used:")
    names = [slice_name(column) for column in columns.slices]
    for name in names:
        if columns.group in split_slice(name):
            raise InputError(
                f"the slice {name} would write the values of {columns.group} into tables and on "
                "the page, and each has few images: leave it out"
            )
        if name == RESERVED_SLICE:
            raise InputError(
                f"a slice cannot be called {RESERVED_SLICE}: rename the column of {place}"
            )
        if names.count(name) > 1:
            raise InputError(f"the slice {name} is asked for twice")
    check_case_distinct(names, "the slices")


def _rows_by_file(splits: Listings, column: pd.Series, place: str) -> dict[str, IntArray]:
    """Find the row of each image: the one that has the longest end of its file's path.

    If an image has none, paths are compared without their suffixes.
    """
    cells = [str(PurePosixPath(name.strip().replace("\\", "/"))) for name in column]
    paths = {split: _file_paths(listing) for split, listing in splits.items()}
    all_paths = [path for split_paths in paths.values() for path in split_paths]
    lost: list[str] = []
    for shorten in (str, _without_suffix):
        row_by_name = {shorten(name): row for row, name in enumerate(cells)}
        name_by_path = {path: _longest_known_end(shorten(path), row_by_name) for path in all_paths}
        lost = [path for path in all_paths if name_by_path[path] is None]
        if not lost:
            break
    else:
        names = [name for listing in splits.values() for name in listing.names or ()]
        missing = [
            name for name, path in zip(names, all_paths, strict=True) if name_by_path[path] is None
        ]
        raise InputError(
            f"{place} has no row for {len(lost)} of {len(all_paths)} images, such as "
            f"{join_names(missing)}; it names {join_names(cells) if cells else 'none'}"
        )
    uses = Counter(name_by_path[path] for path in all_paths)
    name, count = uses.most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{place} has one row for {count} images, {name}: name files with more of their folders"
        )
    _check_unique_rows({str(name) for name in uses}, map(shorten, cells), place)
    return {
        split: np.array(
            [row_by_name[str(name_by_path[path])] for path in split_paths], dtype=np.int64
        )
        for split, split_paths in paths.items()
    }


def _file_paths(listing: Listing) -> list[str]:
    """The absolute path of each image's file, or the part of it that the listing knows."""
    if listing.file_per_image:
        return [Path(file).absolute().as_posix() for file in listing.files]
    return list(listing.names or ())


def _longest_known_end(path: str, known: Collection[str]) -> str | None:
    """Find the longest known end of a path: all of it, then without its first folder, ...

    >>> _longest_known_end("/data/clinic/test/a/1.png", {"a/1.png", "1.png"})
    'a/1.png'
    """
    folders = path.split("/")
    ends = ("/".join(folders[first:]) for first in range(len(folders)))
    return next((end for end in ends if end in known), None)


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.name else path)  # an empty field has no name


def _check_unique_rows(images: Collection[str], rows: Iterable[str], place: str) -> None:
    """Raise `InputError` if several rows are about one image; rows that agree are merged before."""
    counts = Counter(rows)
    duplicates = [name for name in images if counts[name] > 1]
    if duplicates:
        raise InputError(
            f"{place} has several rows that differ for {len(duplicates)} of {len(images)} images, "
            f"such as {min(duplicates)}"
        )


def _rows_by_key(splits: Listings, table: pd.DataFrame, place: str) -> dict[str, IntArray]:
    keys = pd.to_numeric(table[KEY], errors="coerce")
    wrong = keys.isna() | (keys % 1 != 0) | (keys < 0)
    if wrong.any():
        raise InputError(
            f"{place} has the {KEY} {table[KEY][wrong].iloc[0]!r}; it must be a whole number from "
            "0 on"
        )
    if SPLIT in table and set(splits) == {UNSPLIT}:
        raise InputError(
            f"{place} has a column {SPLIT}, but these data are one set without splits: leave the "
            f"column out, with the place of each image in the whole set as {KEY}"
        )
    if SPLIT not in table and len(splits) > 1:
        raise InputError(
            f"{place} must have a column {SPLIT}, because keys are places in {', '.join(splits)}"
        )
    row_splits = np.full(len(table), next(iter(splits)), dtype=np.object_)
    if SPLIT in table:
        row_splits = np.array([SPLIT_NAMES.get(name, name) for name in table[SPLIT].str.lower()])
    result = {}
    for split, listing in splits.items():
        rows, count = np.flatnonzero(row_splits == split), len(listing.labels)
        row_keys = keys.to_numpy()[rows].astype(np.int64)
        rows, row_keys = rows[row_keys < count], row_keys[row_keys < count]
        _check_unique_rows({str(key) for key in row_keys}, map(str, row_keys), place)
        row_by_key = np.full(count, -1, dtype=np.int64)
        row_by_key[row_keys] = rows
        if len(lost := np.flatnonzero(row_by_key < 0)):
            set_name = "the set" if split == UNSPLIT else split
            raise InputError(
                f"{place} has no row for {len(lost)} of {count} images of {set_name}, such as the "
                f"one with the {KEY} {lost[0]}"
            )
        result[split] = row_by_key
    return result


def _make_groups(table: pd.DataFrame, columns: GroupColumns, place: str) -> Groups:
    # Blanks are removed: with them, one patient would count as two.
    values = {
        name: np.array([value.strip() for value in table[name]], dtype=np.object_)
        for name in columns.columns
    }
    names = values[columns.group] if columns.group else None
    if names is not None and (names == "").any():
        count = int((names == "").sum())
        raise InputError(
            f"{place} has no {columns.group} for {count} of {len(names)} images; every image "
            "must belong to one"
        )
    slices = {}
    for slice_ in columns.slices:
        filled = (
            _name_values(values[column.name], column, place) for column in parse_slice(slice_)
        )
        crossed = reduce(lambda left, right: left + CROSS + right, filled)
        for value in set(crossed):
            check_name(value, f"{place} has in {slice_} a value that cannot be used:")
        slices[slice_name(slice_)] = crossed
    return Groups(columns.group, names, slices)


def _name_values(texts: TextArray, column: SliceColumn, place: str) -> TextArray:
    """The slice of each image: the value of its column, or the interval that this is in."""
    if not column.cuts:
        return np.where(texts == "", MISSING, texts)
    missing = np.array([text.lower() in MISSING_VALUES for text in texts], dtype=bool)
    numbers = pd.to_numeric(pd.Series(np.where(missing, "0", texts)), errors="coerce").to_numpy()
    if (wrong := ~np.isfinite(numbers)).any():
        raise InputError(
            f"{place} has {texts[wrong.argmax()]!r:.40} in the column {column.name!r}, and "
            f"{column} needs numbers with a decimal point such as 45.5, or empty cells"
        )
    whole = not (numbers % 1).any() and not any(cut % 1 for cut in column.cuts)
    names = np.array(_name_intervals(column.cuts, whole=whole), dtype=np.object_)
    intervals: TextArray = names[np.searchsorted(column.cuts, numbers, side="right")]
    return np.where(missing, MISSING, intervals)


def _name_intervals(cuts: Sequence[float], *, whole: bool) -> list[str]:
    """The names of the intervals between cuts; each begins with its cut.

    >>> _name_intervals([18, 40, 65], whole=True)
    ['below 18', '18 to 39', '40 to 64', '65 and above']
    >>> _name_intervals([0.5, 1], whole=False)
    ['below 0.5', '0.5 to below 1', '1 and above']
    """
    texts = [f"{cut:.15g}" for cut in cuts]
    ends = [f"{cut - 1:.15g}" if whole else f"{BELOW}{cut:.15g}" for cut in cuts]
    between = [
        low if whole and low == high else f"{low} to {high}"
        for low, high in zip(texts, ends[1:], strict=False)
    ]
    return [f"{BELOW}{texts[0]}", *between, f"{texts[-1]} and above"]


class SourceGroups(NamedTuple):
    """The groups of training and validation images that are not loaded.

    A model may be trained or selected on them, so they must not share groups with loaded images.
    """

    columns: GroupColumns
    """The columns with groups and slices."""

    others: Mapping[str, TextArray]
    """The group name of each image that is not loaded, by split."""

    unknown_reason: str
    """Why these group names are not known; "" if they are."""

    remark: str
    """What is unusual about the table; "" if nothing is."""

    def compare(self, every: Mapping[str, Subset], parts: Mapping[str, Subset]) -> list[str]:
        """Say which splits share groups: a sentence for two splits, at least one of them loaded.

        Raises `InputError` if two loaded splits share groups, unless that is allowed.

        Args:
            every: all splits of the source.
            parts: the splits that are loaded.
        """
        column = self.columns.group
        if column is None:
            return []
        groups = {
            name: part.listing.group_names[part.keys]
            for name, part in every.items()
            if part.listing.group_names is not None
        }
        loaded = {name: groups[name] for name in parts if name in groups}
        shared = check_shared_groups(loaded, column, allowed=self.columns.allow_shared)
        # `groups` may have a split that is not loaded: validation images are split off `train`.
        for other, other_groups in {**self.others, **groups}.items():
            for name, names in loaded.items() if other not in parts else ():
                shared += describe_shared_groups({other: other_groups, name: names}, column)
        return shared

    def explain_unknown(self, every: Mapping[str, Subset]) -> str:
        """Say why groups were not compared with those of training images; "" if they were."""
        if self.columns.group is None or self.columns.natural is not None:
            return ""
        if "train" not in every:
            return "the source has no training images"
        if not self.unknown_reason:
            return ""
        return f"what the table says of the other splits cannot be used: {self.unknown_reason}"


def read_source_groups(
    source: Source, columns: GroupColumns, parts: Collection[str], specification: str
) -> tuple[Source, SourceGroups]:
    """Read the groups of the splits that some parts need, and of training and validation images.

    The returned source has groups for the splits that are needed. A table may leave the others out.
    """
    needed = {UNSPLIT, *parts}
    if "val" in parts and "val" not in source.splits:
        needed.add("train")
    splits = {name: listing for name, listing in source.splits.items() if name in needed}
    others = {
        name: source.splits[name]
        for name in ("train", "val")
        if columns.group is not None and name in source.splits and name not in needed
        if columns.natural is None  # no model was trained on a part of a set of other images
    }
    unknown_reason = ""
    try:
        # Read together, so that a row that fits images of two splits is noticed.
        groups = read_groups({**splits, **others}, columns, specification)
    except InputError as error:
        if not others:
            raise
        groups, unknown_reason = read_groups(splits, columns, specification), str(error)
    known = {name: listing._replace(groups=groups[name]) for name, listing in splits.items()}
    other_names = {
        name: names
        for name in others
        if name in groups and (names := groups[name].names) is not None
    }
    loaded = source._replace(splits={**source.splits, **known})
    return loaded, SourceGroups(columns, other_names, unknown_reason, _describe_table(columns))


def _describe_table(columns: GroupColumns) -> str:
    path = Path(columns.metadata or "").expanduser()
    if path.suffix.lower() not in (".csv", ".tsv"):
        return ""
    return find_text_format(path).remark(path.name)


def check_shared_groups(
    parts: Mapping[str, TextArray], group: str, *, allowed: bool = False
) -> list[str]:
    """Say which parts share groups, as `describe_shared_groups`.

    Raises `InputError` if any do, unless that is allowed.
    """
    shared = describe_shared_groups(parts, group)
    if shared and not allowed:
        raise InputError(
            f"{'; '.join(shared)}: such images do not show how a model does on new ones; to "
            "measure them nevertheless, allow it (allow_shared: true under groups: of a study, "
            "--allow-shared-groups of other commands)"
        )
    return shared


def describe_shared_groups(parts: Mapping[str, TextArray], group: str) -> list[str]:
    """Say how many groups two parts share, for every pair of parts; no group is named."""
    sentences = []
    for (first, first_groups), (second, second_groups) in combinations(parts.items(), 2):
        shared, total = (
            set(first_groups) & set(second_groups),
            set(first_groups) | set(second_groups),
        )
        if shared:
            images = int(np.isin(second_groups.astype(str), sorted(map(str, shared))).sum())
            sentences.append(
                f"{len(shared)} of {len(total)} values of {group} have images in {first} and in "
                f"{second} ({images} of {len(second_groups)} images of {second})"
            )
    return sentences
