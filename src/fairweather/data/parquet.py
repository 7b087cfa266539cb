"""The source `parquet:PATH`: encoded images and integer labels, in the layout of Hugging Face."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from fairweather.data.findings import (
    NO_FINDING,
    FindingColumns,
    FindingLabels,
    read_finding_columns,
    split_specification,
)
from fairweather.data.groups import column_to_text
from fairweather.data.sources import (
    SPLIT_NAMES,
    UNSPLIT,
    Listing,
    RawImage,
    Source,
    SourceRequest,
    check_same_classes,
    count_classes,
    list_shards,
    require_path,
)
from fairweather.errors import InputError, unknown_name
from fairweather.files.tables import (
    LISTS,
    read_parquet_batches,
    read_parquet_schema,
    read_parquet_table,
)
from fairweather.types.measurement import MULTILABEL, IntArray, parse_class_names
from fairweather.types.options import SPLITS

ROWS_PER_BATCH = 256
LIST_COLUMNS = ("label", "labels")  # of lists
# train.parquet or train-00000-of-00002.parquet, the latter once with a hash at its end
FILE_NAME = re.compile(
    r"(?P<split>[a-z]+)(-(?P<shard>\d+)-of-(?P<shards>\d+)(-[0-9a-f]+)?)?\.parquet", re.IGNORECASE
)


class ParquetTable(NamedTuple):
    """One parquet file: its column of images, its labels, and its class names if it has any."""

    path: Path
    image: str
    labels: IntArray
    """int64 `[N]`, or `[N, L]` of several findings."""

    classes: tuple[str, ...] | None
    empty: int = 0
    """How many labels of findings are missing."""


def list_parquet(request: SourceRequest) -> Source:
    """Images in the Hugging Face layout: one parquet file, or a folder with one file per split.

    In a folder, or in `data/` below it, a split is one file or several numbered shards
    (`train-00000-of-00002.parquet`). The split names are those of `folder:`; files with other names
    are ignored. Images are a column of `struct<bytes: binary, path: string>`, labels are integers.
    The columns are called `image` and `label`, or are the only ones of their types. The metadata
    `huggingface` of the schema says which column is a `ClassLabel` and names its classes. Without
    it, the classes are "0" to the largest label of any split. Keys are row numbers over the shards
    in their order.

    Images may have several findings. Then labels are lists: of the present ones, which a `Sequence`
    of `ClassLabel` names, or of 0, 1 and -1 (unknown) for each. Or each finding has a column, which
    `parquet:PATH,findings=A|B` names; `,empty=absent` takes a missing label for 0 and not unknown.

    Raises:
        InputError: a file or shard is missing or is not parquet; there is no column of images or
            labels, or there are several; a label is null or out of range; or splits have different
            classes.
    """
    named_path, asked = split_specification(request.path or Path())
    path = require_path(request._replace(path=named_path))
    shards = _find_shards(path) if path.is_dir() else {UNSPLIT: [path]}
    tables = {
        split: [_open_table(file, asked) for file in files] for split, files in shards.items()
    }
    every = [table for parts in tables.values() for table in parts]
    named = {
        f"{split} ({table.path.name})": table.classes
        for split, parts in tables.items()
        for table in parts
        if table.classes is not None
    }
    widths = {table.labels.shape[1:] for table in every}
    if len(widths) > 1:
        raise InputError(f"the files of {str(path)!r} have different numbers of labels an image")
    labels = np.concatenate([table.labels for table in every])
    if named:
        classes = check_same_classes(named)
    else:
        count = labels.shape[1] if labels.ndim > 1 else count_classes(labels, repr(str(path)))
        classes = tuple(map(str, range(count)))
    splits = {split: _list_split(parts) for split, parts in tables.items()}
    if labels.ndim > 1:
        findings = FindingLabels(classes, labels, sum(table.empty for table in every))
        remark = f"findings: {findings.describe(asked.empty)}"
        return Source(classes, splits, task=MULTILABEL, remarks=(remark,))
    for table in every:
        outside = np.flatnonzero((table.labels < 0) | (table.labels >= len(classes)))
        if len(outside):
            raise InputError(
                f"row {outside[0]} of {str(table.path)!r} has label {table.labels[outside[0]]}; "
                f"allowed are 0 to {max(len(classes) - 1, 0)}"
            )
    return Source(classes, splits)


def has_parquet_files(folder: Path) -> bool:
    """Say whether a folder, or `data/` below it, has parquet files that are not hidden."""
    return any(_parquet_names(place) for place in _places(folder))


def _places(folder: Path) -> tuple[Path, Path]:
    return folder, folder / "data"


def _parquet_names(place: Path) -> list[str]:
    return sorted(file.name for file in place.glob("*.parquet") if file.name[0] != ".")


def _find_shards(folder: Path) -> dict[str, list[Path]]:
    unknown: list[str] = []
    for place in _places(folder):
        names = _parquet_names(place)
        matches = [match for name in names if (match := FILE_NAME.fullmatch(name))]
        splits: dict[str, list[Path]] = {}
        for split in SPLITS:
            files = [match for match in matches if SPLIT_NAMES.get(match["split"].lower()) == split]
            if files:
                splits[split] = [place / name for name in _order_shards(files, split, place)]
        if splits:
            return splits
        unknown += names
    if unknown:
        raise InputError(
            f"{str(folder)!r} has no file with the name of a split: found "
            f"{', '.join(unknown[:3])}; rename one to test.parquet, or give the path of one file "
            "to have it split"
        )
    raise InputError(f"{str(folder)!r} has no parquet files, neither directly nor in data/")


def _order_shards(files: list[re.Match[str]], split: str, place: Path) -> list[str]:
    by_shard = {int(match["shard"] or 0): match.string for match in files}
    sets = {(match["split"], match["shards"]) for match in files}
    if len(sets) > 1 or len(by_shard) < len(files):
        names = f"{files[0].string} and {files[-1].string}"
        raise InputError(f"{str(place)!r} has two sets of files for {split}: {names}")
    shards = int(files[0]["shards"] or 1)
    missing = [shard for shard in range(shards) if shard not in by_shard]
    if missing:
        raise InputError(
            f"{str(place)!r} has {len(files)} of {shards} shards for {split}: "
            f"shard {missing[0]} is missing"
        )
    return [by_shard[shard] for shard in sorted(by_shard)]


def _open_table(path: Path, asked: FindingColumns) -> ParquetTable:
    schema = read_parquet_schema(path)
    features = _read_features(schema)
    images = [field.name for field in schema if _is_image(field.type)]
    image = _choose_column(path, schema, "image", images)
    if asked.names:
        for name in asked.names:
            if name not in schema.names:
                raise unknown_name(f"column of {str(path)!r}", name, schema.names)
        cells = read_parquet_table(path, asked.names)
        columns = {name: cells[name].to_pylist() for name in asked.names}
        findings = read_finding_columns(columns, asked.empty, lambda row: f"row {row} of {path}")
        return ParquetTable(path, image, findings.labels, findings.names, findings.empty)
    labels = [field.name for field in schema if pa.types.is_integer(field.type)]
    lists = [field.name for field in schema if isinstance(field.type, LISTS)]
    usual = [name for name in lists if name in LIST_COLUMNS]
    if usual or (lists and not labels):
        label = _choose_column(path, schema, "label", usual or lists)
        return _open_lists(path, image, label, features.get(label, {}))
    declared = [name for name in labels if features.get(name, {}).get("_type") == "ClassLabel"]
    label = _choose_column(path, schema, "label", declared or labels)
    names = features.get(label, {}).get("names")
    if not isinstance(names, list | None):
        raise InputError(f"{str(path)!r} must have a list of class names, found {names!r:.60}")
    classes = parse_class_names(names, repr(str(path))) if names else None
    column = read_parquet_table(path, [label]).column(0)
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise InputError(f"row {row} of {str(path)!r} has no label")
    return ParquetTable(path, image, column.to_numpy().astype(np.int64), classes)


def _open_lists(path: Path, image: str, label: str, feature: Mapping[str, Any]) -> ParquetTable:
    """Read labels that are lists: of the present findings by number, or of each one's label."""
    lists = read_parquet_table(path, [label]).column(0)
    if lists.null_count:
        raise InputError(f"row {lists.is_null().index(True).as_py()} of {str(path)!r} has no label")
    rows, declared = lists.to_pylist(), feature.get("feature")
    names = declared.get("names") if isinstance(declared, dict) else None
    place = f"the lists in {label!r} of {str(path)!r}"
    if isinstance(names, list) and names:
        classes = parse_class_names(names, repr(str(path)))
        present = np.zeros((len(rows), len(classes)), dtype=np.int64)
        for row, numbers in enumerate(rows):
            for number in numbers:
                if not isinstance(number, int) or not 0 <= number < len(classes):
                    raise InputError(
                        f"row {row} of {str(path)!r} has label {number}; allowed are 0 to "
                        f"{len(classes) - 1}"
                    )
                present[row, number] = 1
        kept = [at for at, name in enumerate(classes) if name.lower() != NO_FINDING]
        return ParquetTable(path, image, present[:, kept], tuple(classes[at] for at in kept))
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or not max(lengths):
        raise InputError(
            f"{place} must have a label of each finding, 0, 1 or -1 (unknown), or be a Sequence of "
            "ClassLabel, which names the findings"
        )
    columns = {str(at): [row[at] for row in rows] for at in range(max(lengths))}
    findings = read_finding_columns(columns, "unknown", lambda row: f"row {row} of {path}")
    return ParquetTable(path, image, findings.labels, None, findings.empty)


def _read_features(schema: pa.Schema) -> Mapping[str, Any]:
    # Metadata is optional and may have any content.
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"].items()
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
        return {}
    return {name: feature for name, feature in features if isinstance(feature, dict)}


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    stored = kind.field("bytes").type
    return pa.types.is_binary(stored) or pa.types.is_large_binary(stored)


def _choose_column(path: Path, schema: pa.Schema, name: str, candidates: list[str]) -> str:
    if name in candidates:
        return name
    if len(candidates) == 1:
        return candidates[0]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    problem = f"several columns that could be the {name}" if candidates else f"no {name} column"
    if name == "label" and candidates:
        problem += " (name those of findings with parquet:PATH,findings=A|B)"
    needed = {"image": "struct<bytes: binary, path: string>", "label": "integer"}[name]
    raise InputError(
        f"{str(path)!r} has {problem}: its columns are {columns}; it must have one of type "
        f"{needed} with the name {name!r}"
    )


def _list_split(tables: list[ParquetTable]) -> Listing:
    image_columns = {table.path: table.image for table in tables}

    def read_rows(path: Path, keys: IntArray, start: int) -> Iterator[RawImage]:
        return _read_rows(path, image_columns[path], keys - start)

    def columns(names: list[str]) -> pd.DataFrame:
        return pd.concat([_read_texts(path, names) for path in image_columns], ignore_index=True)

    listing = list_shards([*image_columns], [table.labels for table in tables], read_rows)
    return listing._replace(table=columns)


def _read_texts(path: Path, names: list[str]) -> pd.DataFrame:
    """Read some columns of a file as texts; a missing value is an empty text."""
    known = read_parquet_schema(path).names
    for name in names:
        if name not in known:
            raise unknown_name(f"column of {path}", name, known)
    frame = read_parquet_table(path, names).to_pandas()
    return pd.concat([column_to_text(frame[name]) for name in names], axis=1)


def _read_rows(path: Path, column: str, rows: IntArray) -> Iterator[RawImage]:
    start = 0
    for batch in read_parquet_batches(path, [column], ROWS_PER_BATCH):
        end = start + len(batch)
        batch_rows = rows[np.searchsorted(rows, start) : np.searchsorted(rows, end)]
        images = pc.struct_field(batch.column(0), "bytes").take(pa.array(batch_rows - start))
        for row, content in zip(batch_rows, images.to_pylist(), strict=True):
            yield RawImage(f"row {row} of {path}", content or b"")
        start = end
