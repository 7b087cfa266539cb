"""A table with facts of each image, such as the patient and the hospital that it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import combinations
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from fairweather.data.sources import FILE_COLUMNS, SPLIT_NAMES, UNSPLIT, Listing, check_exists
from fairweather.errors import InputError, check_case_distinct, check_name, join_names, unknown_name
from fairweather.files import tables as parquet_files
from fairweather.files.tables import find_delimiter
from fairweather.types.measurement import Groups
from fairweather.types.options import CROSS, GroupColumns, slice_name, split_slice
from fairweather.types.record import NATURAL

KEY, SPLIT = "key", "split"
RESERVED = "class"  # rules have another meaning for class=NAME
MISSING = "missing"  # the slice of images whose row has no value
TextArray = npt.NDArray[np.object_]
IntArray = npt.NDArray[np.int64]


def read_own_groups(
    splits: Mapping[str, Listing], asked: GroupColumns, source: str
) -> dict[str, Groups]:
    """Read what the columns of a source itself say of every image, by the names of its splits.

    Raises `InputError` if it has no columns, not these, or an image has no cluster.
    """
    place = f"the data source {source!r}"
    _check_columns(asked, place)
    found = {}
    for split, listing in splits.items():
        if listing.table is None:
            raise InputError(
                f"{place} has no columns of its own: give the path of a table with a row for each "
                "image as metadata (--metadata)"
            )
        found[split] = _make_groups(listing.table(asked.columns), asked, place)
    return found


def read_groups(
    splits: Mapping[str, Listing], asked: GroupColumns, path: Path
) -> dict[str, Groups]:
    """Read what a table says of every image of some splits of a source, by their names.

    A row is about the image that its column `file` names (or `filename`, `path`, `image`, ...; see
    `FILE_COLUMNS`): by the path from the folder of the source on, or only by the file's name, with
    or without its ending, if no two images share it. Without such a column, it is about the image
    with the number in the column `key`: its place in its split, from 0 on; the column `split` names
    the split if there are several. Rows about other images are ignored. Rows with `natural/NAME` in
    the column `split` are about a set of other images of the same classes, and about no other.

    Raises:
        InputError: the file is no table; a column is missing; an image has no row, or two that say
            different things; or an image has no cluster.
    """
    table = _select_rows(read_text_table(path), asked.natural)
    place = f"the table {str(path)!r}"
    _check_columns(asked, place)
    for name in asked.columns:
        if name not in table:
            raise unknown_name(f"column of {path}", name, list(table.columns))
    lower = {name.lower(): name for name in reversed(list(table.columns))}
    by_file = next((lower[name] for name in FILE_COLUMNS if name in lower), None)
    if by_file is None and KEY not in table:
        raise InputError(
            f"{place} must have a column that says which image a row is about: file or {KEY}; "
            f"found {', '.join(map(str, table.columns))}"
        )
    if by_file is not None and all(each.names is not None for each in splits.values()):
        table = table.drop_duplicates([by_file, *asked.columns], ignore_index=True)
        rows = _rows_by_file(splits, table[by_file], place)
    elif KEY in table:
        named = [KEY, *([SPLIT] if SPLIT in table else [])]
        table = table.drop_duplicates([*named, *asked.columns], ignore_index=True)
        rows = _rows_by_key(splits, table, place)
    else:
        raise InputError(
            f"the images of this source have no files of their own, so {place} must have a column "
            f"{KEY}: the place of each image in its split, from 0 on"
        )
    plain = table[asked.columns]
    return {split: _make_groups(plain.iloc[of], asked, place) for split, of in rows.items()}


def natural_group_columns(
    asked: GroupColumns | None, names: Collection[str]
) -> dict[str, GroupColumns]:
    """Which columns say what belongs together in sets of other images of the same classes, by name.

    A set is left out if a table does not say it: it has no rows with `natural/NAME` in the column
    `split`. Subgroups are those of the test images alone.

    Raises `InputError` if a set has no rows and there are some about a set that is not asked for:
    one of the two names is probably misspelt.
    """
    if asked is None or asked.metadata is None or asked.cluster is None or not names:
        return {}
    table = read_text_table(Path(asked.metadata).expanduser())
    splits = set(table[SPLIT].str.strip()) if SPLIT in table else set()
    known = sorted(each for each in splits if each.startswith(NATURAL))
    wanted = {name: f"{NATURAL}{name}" for name in names}
    for split in wanted.values():
        if split not in known and not set(known) <= set(wanted.values()):
            place = f"set of other images in the column {SPLIT} of {asked.metadata}"
            raise unknown_name(place, split, known)
    return {
        name: asked._replace(slices=(), allow_shared=True, natural=name)
        for name, split in wanted.items()
        if split in known
    }


def _select_rows(table: pd.DataFrame, natural: str | None) -> pd.DataFrame:
    """The rows about the run's own images, or those about a set of other images of this name."""
    if SPLIT not in table:
        return table if natural is None else table[:0]
    if natural is not None:
        rows = table[table[SPLIT].str.strip() == f"{NATURAL}{natural}"]
        return rows.drop(columns=SPLIT).reset_index(drop=True)
    rows = table[~table[SPLIT].str.strip().str.startswith(NATURAL)].reset_index(drop=True)
    return rows if rows[SPLIT].str.strip().any() else rows.drop(columns=SPLIT)


def read_text_table(path: Path) -> pd.DataFrame:
    """Read a CSV or parquet file as text; an empty field is an empty text.

    Raises `InputError` if it is neither.
    """
    check_exists(path)
    if path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
        raise InputError(f"a table must be a .csv, .tsv or .parquet file, found {str(path)!r}")
    try:
        if path.suffix.lower() == ".parquet":
            table = _read_parquet(path).to_pandas()
            texts = [column_to_text(table[name]) for name in table]
            table = pd.concat(texts, axis=1) if texts else table
        else:
            with path.open(encoding="utf-8-sig") as file:
                delimiter = find_delimiter([file.readline()])
            # The header is read as a row: pandas would rename a column that is there twice.
            table = pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                sep=delimiter,
                encoding="utf-8-sig",
                header=None,
            )
            table = table.set_axis(table.iloc[0], axis="columns")[1:].reset_index(drop=True)
    except InputError:
        raise
    except (ValueError, OSError) as error:  # also what pyarrow raises
        reason = str(error).partition("\n")[0]
        raise InputError(f"{str(path)!r} cannot be read as a table: {reason}") from error
    table.columns = table.columns.map(str)
    twice = table.columns[table.columns.duplicated() & (table.columns != "")]
    if len(twice):
        raise InputError(f"{str(path)!r} has two columns with the name {twice[0]!r}")
    return table


def _read_parquet(path: Path) -> pa.Table:
    """Read a parquet file, or a folder with the parts of one, as other programs write it."""
    if not path.is_dir():
        return parquet_files.read_parquet_table(path)
    parts = [part for part in sorted(path.glob("*.parquet")) if part.name[0] not in "._"]
    if not parts:
        raise InputError(f"the folder {str(path)!r} has no parquet files")
    return pa.concat_tables([parquet_files.read_parquet_table(part) for part in parts])


def column_to_text(column: pd.Series) -> pd.Series:
    """Write the values of a column as texts; a missing one as an empty text."""
    return column.map(str).where(column.notna(), "")


def _check_columns(asked: GroupColumns, place: str) -> None:
    if not asked.columns:
        raise InputError(
            f"of {place} none of the columns is asked for: name the one that says which images "
            "belong together (cluster), or one with subgroups (slice)"
        )
    for each in asked.columns:
        check_name(each, f"{place} is asked for a column with a name that cannot be used:")
    names = [slice_name(each) for each in asked.slices]
    for name in names:
        if asked.cluster in split_slice(name):
            raise InputError(
                f"the slice {name} would write the values of {asked.cluster} into tables and on "
                "the page, and each has few images: leave it out"
            )
        if name == RESERVED:
            raise InputError(f"a slice cannot be called {RESERVED}: rename the column of {place}")
        if names.count(name) > 1:
            raise InputError(f"the slice {name} is asked for twice")
    check_case_distinct(names, "the slices")


def _rows_by_file(
    splits: Mapping[str, Listing], column: pd.Series, place: str
) -> dict[str, IntArray]:
    """The row of each image: the one whose name is the longest end of the path of its file.

    If an image has none, names are compared without their endings.
    """
    written = [str(PurePosixPath(name.strip().replace("\\", "/"))) for name in column]
    paths = {split: _file_paths(listing) for split, listing in splits.items()}
    every = [path for of in paths.values() for path in of]
    lost: list[str] = []
    for short in (str, _without_suffix):
        row_of = {short(name): row for row, name in enumerate(written)}
        found = {path: _longest_known_end(short(path), row_of) for path in every}
        lost = [path for path in every if found[path] is None]
        if not lost:
            break
    else:
        names = [name for listing in splits.values() for name in listing.names or ()]
        missing = [name for name, path in zip(names, every, strict=True) if found[path] is None]
        raise InputError(
            f"{place} has no row for {len(lost)} of {len(every)} images, such as "
            f"{join_names(missing)}; it names {join_names(written) if written else 'none'}"
        )
    shared = Counter(found[path] for path in every)
    name, count = shared.most_common(1)[0]
    if count > 1:
        raise InputError(
            f"{place} has one row for {count} images, {name}: name files with more of their folders"
        )
    _check_once({str(name) for name in shared}, map(short, written), place)
    return {
        split: np.array([row_of[str(found[path])] for path in of], dtype=np.int64)
        for split, of in paths.items()
    }


def _file_paths(listing: Listing) -> list[str]:
    """The whole paths of the files of images, or as much of them as is known."""
    if listing.file_per_image:
        return [Path(file).absolute().as_posix() for file in listing.files]
    return list(listing.names or ())


def _longest_known_end(path: str, known: Collection[str]) -> str | None:
    """The longest of the ends of a path that is known: all of it, without its first folder, ...

    >>> _longest_known_end("/data/clinic/test/a/1.png", {"a/1.png", "1.png"})
    'a/1.png'
    """
    end = path
    while end not in known:
        _, slash, end = end.partition("/")
        if not slash:
            return None
    return end


def _without_suffix(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_suffix("") if path.name else path)  # an empty field names no file


def _check_once(images: Collection[str], written: Iterable[str], place: str) -> None:
    counts = Counter(written)
    twice = [name for name in images if counts[name] > 1]
    if twice:
        raise InputError(
            f"{place} has several rows that differ for {len(twice)} of {len(images)} images, such "
            f"as {min(twice)}"
        )


def _rows_by_key(
    splits: Mapping[str, Listing], table: pd.DataFrame, place: str
) -> dict[str, IntArray]:
    keys = pd.to_numeric(table[KEY], errors="coerce")
    if keys.isna().any() or (keys % 1 != 0).any() or (keys < 0).any():
        wrong = table[KEY][keys.isna() | (keys % 1 != 0) | (keys < 0)].iloc[0]
        raise InputError(f"{place} has the {KEY} {wrong!r}; it must be a whole number from 0 on")
    if SPLIT in table and set(splits) == {UNSPLIT}:
        raise InputError(
            f"{place} has a column {SPLIT}, but these data are one set without splits: leave the "
            f"column out, with the place of each image in the whole set as {KEY}"
        )
    if SPLIT not in table and len(splits) > 1:
        raise InputError(
            f"{place} must have a column {SPLIT}, because keys are places in {', '.join(splits)}"
        )
    of_split = np.full(len(table), next(iter(splits)), dtype=np.object_)
    if SPLIT in table:
        of_split = np.array([SPLIT_NAMES.get(name, name) for name in table[SPLIT].str.lower()])
    found = {}
    for split, listing in splits.items():
        rows, n = np.flatnonzero(of_split == split), len(listing.labels)
        places = keys.to_numpy()[rows].astype(np.int64)
        rows, places = rows[places < n], places[places < n]
        _check_once({str(key) for key in places}, map(str, places), place)
        of = np.full(n, -1, dtype=np.int64)
        of[places] = rows
        if (of < 0).any():
            lost = np.flatnonzero(of < 0)
            which = "the set" if split == UNSPLIT else split
            raise InputError(
                f"{place} has no row for {len(lost)} of {n} images of {which}, such as the one "
                f"with the {KEY} {lost[0]}"
            )
        found[split] = of
    return found


def _make_groups(table: pd.DataFrame, asked: GroupColumns, place: str) -> Groups:
    # Blanks around a key would make two patients of one.
    columns = {
        name: np.array([value.strip() for value in table[name]], dtype=np.object_)
        for name in asked.columns
    }
    clusters = columns[asked.cluster] if asked.cluster else None
    if clusters is not None and (clusters == "").any():
        count = int((clusters == "").sum())
        raise InputError(
            f"{place} has no {asked.cluster} for {count} of {len(clusters)} images; every image "
            "must belong to one"
        )
    slices = {}
    for each in asked.slices:
        named = (columns[name] for name in split_slice(each))
        parts = [np.where(values == "", MISSING, values) for values in named]
        values = parts[0]
        for part in parts[1:]:
            values = values + CROSS + part
        for value in set(values):
            check_name(value, f"{place} has in {each} a value that cannot be used:")
        slices[slice_name(each)] = values
    return Groups(asked.cluster, clusters, slices)


def describe_shared_clusters(parts: Mapping[str, TextArray], cluster: str) -> list[str]:
    """Say of each two parts how many clusters have images in both; it names no cluster."""
    told = []
    for (one, ours), (other, theirs) in combinations(parts.items(), 2):
        shared = set(ours) & set(theirs)
        if shared:
            images = int(np.isin(theirs.astype(str), sorted(map(str, shared))).sum())
            told.append(
                f"{len(shared)} of {len(set(ours) | set(theirs))} values of {cluster} have images "
                f"in {one} and in {other} ({images} of {len(theirs)} images of {other})"
            )
    return told
