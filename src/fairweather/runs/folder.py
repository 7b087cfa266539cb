"""The run folder: its files, the records of its finished steps, their checksums, and a lock."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, islice
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from fairweather.errors import InputError, add_file_name, check_text
from fairweather.metrics.grouping import Grouping
from fairweather.tasks import Task, find_task
from fairweather.types.measurement import (
    CLASSIFICATION,
    AnyPredictions,
    IntArray,
    Passes,
    Predictions,
    ReaderCalls,
    TextArray,
    join_streams,
)
from fairweather.types.options import Aggregation
from fairweather.types.record import (
    CLEAN,
    COLUMNS,
    FORMER_NAMES,
    GROUPS,
    JOINED,
    READERS,
    RECORD,
    SCORES,
    SLICE_COLUMNS,
    SLICES,
    STEPS,
    TEST,
    VAL,
    JoinedRecord,
    RunRecord,
    StepRecord,
    groups_file,
    list_whole_units,
    parse_predictions_path,
    parse_record,
    parse_step_record,
    predictions_file,
    step_file,
    with_new_names,
)

LOCK = ".lock"
PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")  # a file that is being written
ABANDONED_AFTER = 3600.0  # seconds without a write, after which one of several processes has died
_OOD = "ood/"  # prefix of the columns with scores that may tell other data sets
STREAM = "stream"  # which stream of a model that adapts a row is of
DOUBT = "one_minus_confidence"  # what small copies store instead of the confidence
_UNLABELLED_COLUMNS = ("keys", "predicted", "confidence")


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Give 16 hexadecimal digits for inputs, the same for any order of their keys.

    >>> fingerprint({"seed": 0, "shift": "clean"}) == fingerprint({"shift": "clean", "seed": 0})
    True
    """
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def resolve_inside(folder: Path, name: str, named_by: str = "") -> Path:
    """Give the path of a file inside a folder by its name, such as `tables/accuracy.csv`.

    All code that opens, writes or removes a file by a name from a file must call this first, since
    a run folder may come from anybody. The folder itself may be a link. Links inside it are allowed
    if they stay inside.

    Args:
        folder: a folder that need not exist.
        name: relative path, with `/` between its parts.
        named_by: the file of the folder that contains the name; the error names it.

    Raises:
        InputError: the name is absolute, has empty parts, `.`, `..`, backslashes or NUL, or passes
            through a symbolic link that leads outside the folder.

    >>> resolve_inside(Path("runs/mine"), "tables/accuracy.csv").as_posix()
    'runs/mine/tables/accuracy.csv'
    >>> resolve_inside(Path("runs/mine"), "../thesis.tex", "runs.json")
    Traceback (most recent call last):
    fairweather.errors.InputError: runs/mine/runs.json names a file outside the run folder:
    '../thesis.tex'
    """
    path = folder / name
    plain = is_relative_name(name)
    if plain and (not _has_links(folder, name) or _leads_into(folder, path)):
        return path
    if named_by:
        raise InputError(f"{folder / named_by} names a file outside the run folder: {name!r}")
    how = " through a symbolic link" if plain else ""
    raise InputError(f"{str(path)!r} leads outside the run folder{how}")


def is_relative_name(name: str) -> bool:
    """Say whether a name is a relative path that stays in its folder, on every operating system.

    >>> is_relative_name("tables/accuracy.csv"), is_relative_name("../accuracy.csv")
    (True, False)
    """
    beyond = PureWindowsPath(name).anchor or "\\" in name or "\0" in name
    return not beyond and not {"", ".", ".."} & set(name.split("/"))


def _has_links(folder: Path, name: str) -> bool:
    """Whether a plain name may pass through a link; only then must the whole path be resolved."""
    steps = accumulate([os.fspath(folder), *name.split("/")], os.path.join)
    return any(map(os.path.islink, islice(steps, 1, None)))


def _leads_into(folder: Path, path: Path) -> bool:
    try:
        real, home = path.resolve(), folder.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return False
    # From Python 3.13 on, these are no error, and stay links.
    return real.is_relative_to(home) and not _has_links(home, real.relative_to(home).as_posix())


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file completely or not at all, even if the power fails.

    A link at `path` is replaced, not followed.
    """
    try:
        _write_and_rename(path, content)
    except FileNotFoundError:
        # Another process took this partial file for that of a dead process.
        _write_and_rename(path, content)


def _write_and_rename(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    # Mode x (O_EXCL) creates the file or fails: an existing file or link is never opened.
    with add_file_name(partial), partial.open("xb") as file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping from a JSON file; raises `InputError` if it contains anything else.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomically(Path(folder) / "facts.json", '{"seed": 0}')
    ...     read_json(Path(folder) / "facts.json")
    {'seed': 0}
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a mapping, found {type(value).__name__}")
    return value


class StoredGroups(NamedTuple):
    """Which images of a part belong together, and their subgroups, as a run folder has them."""

    keys: IntArray
    """int64 `[N]`, the keys of the images in the order of the predictions."""

    group: str | None
    """What images that belong together share, such as `patient`; None if not known."""

    numbers: IntArray | None
    """int64 `[N]`, the number of each image's group."""

    slices: Mapping[str, TextArray]
    """By the name of the column, the value of each image, `[N]` texts."""


class ChosenAggregate(NamedTuple):
    """How the images of a unit, such as a patient, become one decision of a model."""

    name: str
    """Of `metrics.aggregates.AGGREGATES`."""

    losses: Mapping[str, float]
    """The negative log-likelihood of validation units by the name of each aggregate, the smallest
    of which was chosen; empty if there is no choice."""


class RunFolder:
    """A folder with all files of a run, and the records of its finished steps.

    A step is done if its record in steps/ has the fingerprint of everything that it depends on, and
    its files have the recorded checksums.
    """

    def __init__(self, path: Path) -> None:
        check_text(str(path), "the run folder")
        self.path = path
        self._chosen: dict[tuple[str, str], ChosenAggregate] = {}

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __fspath__(self) -> str:
        return str(self.path)

    # ---- the record of the run

    @cached_property
    def record(self) -> RunRecord:
        """The record in record.json; raises `InputError` if there is none, or it is damaged."""
        path = self.file(RECORD)
        if path.is_file():
            return parse_record(path.read_bytes(), str(path))
        missing = RECORD if self.path.is_dir() else "such folder"
        raise InputError(f"{self.path} holds no run: there is no {missing}")

    def describe(self, record: RunRecord) -> None:
        """Write record.json, unless only time, command or git revisions differ.

        A run that continues on the same machine with the same versions keeps its first record.
        """
        path = self.path / RECORD
        if path.is_file() and self.record.lasting() == record.lasting():
            return
        self.write(RECORD, record.to_json())
        self.__dict__["record"] = record

    @property
    def has_record(self) -> bool:
        """Say whether the folder contains the record of a run."""
        return (self.path / RECORD).is_file()

    @property
    def is_joined(self) -> bool:
        """Say whether the folder was joined from runs with different seeds, and cannot go on."""
        return (self.path / JOINED).is_file()

    @property
    def joined(self) -> JoinedRecord:
        """The runs that the folder was joined from; raises `InputError` if the file is damaged."""
        path = self.file(JOINED)
        try:
            return JoinedRecord.model_validate_json(path.read_bytes())
        except ValueError:
            raise InputError(f"{path} does not say which runs were joined") from None

    # ---- the records of steps

    def step(self, step: str) -> StepRecord | None:
        """The record of a step; None if it is not done, or its record is damaged."""
        path = self.file(step_file(step))
        if not path.is_file():
            return None
        try:
            record = parse_step_record(path.read_bytes(), str(path))
        except InputError:
            return None  # the step is done again, and writes a new record
        return record if record.id == step else None

    def steps(self) -> list[StepRecord]:
        """The records of all steps, in the order of their names.

        Raises `InputError` if one of them is damaged.
        """
        folder = self.file(STEPS)
        return [
            parse_step_record(path.read_bytes(), str(path))
            for path in sorted(folder.rglob("*.json"))
            if path.is_file()
        ]

    def readable_steps(self) -> list[StepRecord]:
        """The records of all steps except damaged ones, in the order of their names."""
        return [record for step in self.step_ids() if (record := self.step(step)) is not None]

    def damaged_steps(self) -> list[str]:
        """The ids of steps whose records cannot be read."""
        return [step for step in self.step_ids() if self.step(step) is None]

    def step_ids(self) -> list[str]:
        """The ids of all steps with a record, damaged or not."""
        folder = self.path / STEPS
        paths = sorted(folder.rglob("*.json"))
        return [path.relative_to(folder).as_posix().removesuffix(".json") for path in paths]

    def has_left(self, record: StepRecord) -> bool:
        """Say whether all files of a finished step exist and have the recorded checksums."""
        return all(
            (path := self._recorded(name, record.id)).is_file() and _checksum(path) == checksum
            for name, checksum in record.files.items()
        )

    def finish(self, record: StepRecord) -> None:
        """Record a step as done, in one file that is written by renaming."""
        self.write(step_file(record.id), record.to_json())
        self.__dict__.pop("_checksums", None)

    def forget(self, step: str) -> None:
        """Remove the record and the files of a step, before they change.

        If the run is then interrupted, the folder has no numbers rather than wrong ones.
        """
        record = self.step(step)
        paths = [self._recorded(name, step) for name in (record.files if record else ())]
        self.file(step_file(step)).unlink(missing_ok=True)
        self.__dict__.pop("_checksums", None)
        for path in paths:
            path.unlink(missing_ok=True)

    def check_files(self, wanted: Callable[[str], bool]) -> list[str]:
        """Compare the wanted files of finished steps with their checksums; name the missing ones.

        The records are read once.

        Raises `InputError` if a file has changed since it was written.
        """
        return [name for name in self._checksums if wanted(name) and not self._is_there(name)]

    def holds(self, name: str) -> bool:
        """Say whether a file exists, and check before reading that it is the one that was written.

        Raises `InputError` if a finished step wrote this file and it is missing or has changed, and
        if it exists but no finished step wrote it.
        """
        path, recorded = self.file(name), name in self._checksums
        if recorded and not self._is_there(name):
            raise InputError(
                f"{path} is missing, though a step of the run wrote it; the command that made the "
                "run makes the file again"
            )
        if path.is_file() and not recorded:
            raise InputError(
                f"{path} was not written by any step of the run and cannot be trusted; the command "
                "that made the run makes the file again"
            )
        return path.is_file()

    @cached_property
    def _checksums(self) -> dict[str, dict[str, str]]:
        """The checksums of the files that steps wrote, by name, and the record of each checksum."""
        checksums: dict[str, dict[str, str]] = {}
        for record in self.steps():
            for name, checksum in record.files.items():
                checksums.setdefault(name, {})[checksum] = step_file(record.id)
        return checksums

    def _is_there(self, name: str) -> bool:
        """Whether a file exists; raises `InputError` if it does not match every record of it."""
        recorded = self._checksums[name]
        path = resolve_inside(self.path, name, next(iter(recorded.values())))
        if path.is_file() and set(recorded) != {_checksum(path)}:
            raise InputError(
                f"{path} is damaged or was changed: its checksum is not the recorded one; the "
                "command that made the run makes the file again"
            )
        return path.is_file()

    def _recorded(self, name: str, step: str) -> Path:
        return resolve_inside(self.path, name, step_file(step))

    # ---- files

    def file(self, name: str) -> Path:
        """Give the path of a file by its name in the folder; see `resolve_inside`."""
        return resolve_inside(self.path, name)

    def checksum(self, name: str) -> str:
        """SHA-256 of a file of the folder, in hexadecimal."""
        return _checksum(self.file(name))

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file of the folder atomically."""
        write_atomically(self.file(name), content)

    @property
    def scores(self) -> pd.DataFrame:
        """The table of scores.csv: one row per model, seed, shift, level and metric.

        Where a run has units, those of whole images and of means over units, or of the only unit.
        """
        table = self.unit_scores
        if "unit" not in table:
            return table
        rows = table[table["unit"].isin(list_whole_units(table["unit"]))]
        return rows.drop(columns="unit").reset_index(drop=True)

    @property
    def unit_scores(self) -> pd.DataFrame:
        """The whole table of scores.csv, with the column `unit` where the run has units."""
        return _read_scores(self.file(SCORES), COLUMNS)

    @property
    def slice_scores(self) -> pd.DataFrame:
        """The table of slices.csv: one row per model, seed, shift, level, slice and metric."""
        return _read_scores(self.file(SLICES), SLICE_COLUMNS)

    def predictions(self, model: str, seed: int | str, shift: str, part: str = TEST) -> str:
        """Name the file with the predictions of a model under a shift, given by its id."""
        return predictions_file(model, seed, shift, part)

    def read_column(self, name: str, column: str) -> npt.NDArray[Any]:
        """Read one column of a file of predictions, `[N]`."""
        return self.read_columns(name, [column])[0]

    def read_columns(self, name: str, columns: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Read some columns of a file of predictions, `[N]` each, of the first of its streams.

        A confidence that is unknown is NaN.
        """
        return [column[0] for column in self.read_stream_columns(name, columns)]

    def read_stream_columns(self, name: str, columns: Sequence[str]) -> list[npt.NDArray[Any]]:
        """Read some columns of a file of predictions, `[streams, N]` each."""
        if self.aggregation is not None:
            streams = self.read_streams(name).streams
            return [np.stack([getattr(cell, column) for cell in streams]) for column in columns]
        with _open_parquet(self.file(name)) as file:
            small = DOUBT in file.schema_arrow.names
            stored = [DOUBT if small and column == "confidence" else column for column in columns]
            table = file.read(columns=[*stored, STREAM], use_threads=False)
            count, read = _count_streams(table), (self._column(table, name) for name in columns)
            return [column.reshape(count, -1, *column.shape[1:]) for column in read]

    @property
    def task(self) -> Task:
        """What is told of each image."""
        return find_task(self.record.data.task if self.has_record else CLASSIFICATION)

    def read_predictions(self, name: str) -> Predictions:
        """Read the per-image columns of a cell of a classifier.

        Raises `InputError` for those of another task.
        """
        predictions = self.read_cell(name)
        if not isinstance(predictions, Predictions):
            raise InputError(f"{self.path} has predictions of the task {self.task.name}")
        return predictions

    @property
    def aggregation(self) -> Aggregation | None:
        """What is judged in place of images, such as patients; None for images."""
        return self.record.settings.aggregation if self.has_record else None

    def read_cell(self, name: str) -> AnyPredictions:
        """Read the columns of a cell, of whatever task the run has.

        They have one row for each image, or for each patient if patients are judged. Of a model
        that adapts, they are those of its first stream.
        """
        return self.read_streams(name).streams[0]

    def read_streams(self, name: str) -> AnyPredictions:
        """Read the same of all streams of a model that adapts, one after the other."""
        (predictions, is_aggregated), aggregation = self._read_rows(name), self.aggregation
        place = parse_predictions_path(name)
        if aggregation is None or is_aggregated or place is None:
            return predictions
        groups = self._read_groups(f"{GROUPS}/{place.part}.parquet")
        if groups is None or groups.numbers is None:
            raise InputError(
                f"{self.file(name)}: nothing says which {aggregation.unit} its rows are"
            )
        streams = predictions.streams
        if not all(np.array_equal(groups.keys, stream.keys) for stream in streams):
            raise InputError(
                f"{self.file(name)} has other images than {GROUPS}/{place.part}.parquet"
            )
        grouping = Grouping(groups.numbers)
        how = self.choose_aggregate(place.model, place.seed).name
        return join_streams([self._aggregate(stream, grouping, how) for stream in streams])

    def choose_aggregate(self, model: str, seed: int | str) -> ChosenAggregate:
        """How the images of a patient become one decision of a model and seed.

        Of several aggregates, it is the one with the least negative log-likelihood on clean
        validation images; of equal ones, the first.
        """
        aggregation, key = self.aggregation, (model, str(seed))
        assert aggregation is not None, "images are judged"
        if len(aggregation.names) == 1:
            return ChosenAggregate(aggregation.names[0], {})
        if key not in self._chosen:
            predictions = self.read_images(predictions_file(model, seed, CLEAN, VAL))
            groups = self.image_groups(VAL)
            assert groups is not None, "an earlier step wrote them"
            assert groups.numbers is not None, "units are groups"
            grouping, loss = Grouping(groups.numbers), self.task.aggregation_rules.loss
            losses = {
                name: loss(self._aggregate(predictions, grouping, name))
                for name in aggregation.names
            }
            self._chosen[key] = ChosenAggregate(min(losses, key=losses.__getitem__), losses)
        return self._chosen[key]

    def _aggregate(
        self, predictions: AnyPredictions, grouping: Grouping, name: str
    ) -> AnyPredictions:
        settings, ordered = self.record.settings, self.record.data.ordered
        rows = self.task.aggregate(predictions, grouping, name, settings.unit, ordered=ordered)
        return self._add_facts(rows)

    def _add_facts(self, predictions: AnyPredictions) -> AnyPredictions:
        """Add what the record says of all predictions: the order of classes, what errors cost."""
        if not self.has_record:
            return predictions
        if costs := self.record.settings.costs:
            rows = tuple(costs[name] for name in predictions.classes)
            predictions = predictions.with_columns(costs=rows)
        if isinstance(predictions, Predictions):
            predictions = replace(predictions, ordered=self.record.data.ordered)
        return predictions

    def read_passes(self, name: str) -> Passes | None:
        """What adapting to the images of a cell has cost; None of a model that does not adapt."""
        with _open_parquet(self.file(name)) as file:
            described = json.loads(file.schema_arrow.metadata[b"fairweather"])
            return Passes(*described["passes"]) if "passes" in described else None

    def read_adapts(self, name: str) -> str | None:
        """What adapting changes of the network of a cell; None if no record says so."""
        record = self.step(name.removesuffix(".parquet"))
        return None if record is None else record.adapts

    def read_seconds(self, name: str) -> float | None:
        """How long the network alone took for a file of predictions; None if no record says so."""
        record = self.step(name.removesuffix(".parquet"))
        if record is None or record.network_seconds is None:
            return None
        # A step whose streams mix cells writes a file for each.
        return record.network_seconds / sum(file.endswith(".parquet") for file in record.files)

    def read_images(self, name: str) -> AnyPredictions:
        """Read the columns of a cell as they are stored, with one row for each image.

        Of a model that adapts, they are those of its first stream.
        """
        return self.read_image_streams(name).streams[0]

    def read_image_streams(self, name: str) -> AnyPredictions:
        """Read the same of all streams of a model that adapts, one after the other."""
        return self._read_rows(name)[0]

    def _read_rows(self, name: str) -> tuple[AnyPredictions, bool]:
        """The rows of a file of predictions, and whether these are patients already."""
        kind = self.task.predictions
        with _open_parquet(self.file(name)) as file:
            table = file.read(use_threads=False)
            described = json.loads(table.schema.metadata[b"fairweather"])
            stored = [*table.column_names]
            if DOUBT in stored:
                stored.append("confidence")
            columns = {
                name: self._column(table, name) if name in stored else None for name in kind.stored
            }
            logits = self._column(table, "logits") if "logits" in stored else None
            predictions: AnyPredictions = kind(
                **columns, logits=logits, classes=tuple(described["classes"])
            )
            if "passes" in described:
                predictions = predictions.with_columns(passes=Passes(*described["passes"]))
            if isinstance(predictions, Predictions):
                predictions = replace(predictions, ood_scores=_read_ood_scores(table))
            return self._add_facts(predictions), "unit" in described

    def _column(self, table: pa.Table, name: str) -> npt.NDArray[Any]:
        """Give a column with the type that predictions have; small copies store narrower ones."""
        if name == "confidence" and DOUBT in table.column_names:
            return 1 - table[DOUBT].to_numpy().astype(np.float64)
        if name == "confidence" and name not in table.column_names:
            return np.full(len(table), np.nan)
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):
            values = column.flatten().to_numpy().reshape(len(table), -1)
        else:
            values = np.asarray(table[name].to_numpy())
        return values.astype(self.task.predictions.stored.get(name, values.dtype), copy=False)

    def ood_scores(self, name: str) -> dict[str, npt.NDArray[np.float32]]:
        """Read the scores of a file of predictions that may tell other data sets, by their names.

        Of several streams, they are those of the first. Files without such scores, also of earlier
        versions, have none.
        """
        with _open_parquet(self.file(name)) as file:
            names = [column for column in file.schema_arrow.names if column.startswith(_OOD)]
            table = file.read(columns=[*names, STREAM], use_threads=False)
            return _read_ood_scores(table[: len(table) // _count_streams(table)])

    def write_predictions(
        self, name: str, predictions: AnyPredictions, *, aggregated: bool = False
    ) -> None:
        """Write the columns of a cell as parquet, the class names in its metadata.

        They have one row for each image, or for each patient if they are aggregated.
        """
        columns = {
            column: _to_arrow(values)
            for column in (*predictions.stored, "logits")
            if (values := getattr(predictions, column)) is not None
        }
        if isinstance(predictions, Predictions):
            columns |= _ood_columns(predictions)
        facts: dict[str, object] = {"unit": self.record.settings.unit} if aggregated else {}
        if predictions.passes is not None:
            facts["passes"] = predictions.passes
        self._write_table(name, columns, classes=predictions.classes, **facts)

    def write_groups(self, name: str, groups: StoredGroups) -> None:
        """Write which images belong together as parquet, with numbers for the groups."""
        columns = {"keys": pa.array(groups.keys)}
        if groups.numbers is not None:
            columns["group"] = pa.array(groups.numbers)
        columns |= {
            f"slice/{slice_}": pa.array(list(values)).dictionary_encode()
            for slice_, values in groups.slices.items()
        }
        self._write_table(name, columns, group=groups.group)

    def _write_table(self, name: str, columns: Mapping[str, pa.Array], **described: object) -> None:
        """Write columns as parquet, with what they are in its metadata, if that is given."""
        self.write(name, _encode_table(columns, **described))

    def groups(self, part: str = TEST) -> StoredGroups | None:
        """Read which images of a part belong together; None if the run was not told.

        Where patients are judged, these are the rows: they have slices, and are independent.

        Raises `InputError` if the file was changed after a step wrote it.
        """
        groups = self.image_groups(part)
        if groups is None or groups.numbers is None or self.aggregation is None:
            return groups
        _, first = np.unique(groups.numbers, return_index=True)
        slices = {column: values[first] for column, values in groups.slices.items()}
        return StoredGroups(np.arange(len(first)), None, None, slices)

    def image_groups(self, part: str = TEST) -> StoredGroups | None:
        """Read which images of a part belong together, also where patients are judged."""
        return self._read_groups(groups_file(part))

    def _read_groups(self, name: str) -> StoredGroups | None:
        if not self.holds(name):
            return None
        with _open_parquet(self.file(name)) as file:
            table = file.read(use_threads=False)
            described = with_new_names(json.loads(table.schema.metadata[b"fairweather"]))
            table = table.rename_columns(list(with_new_names(dict.fromkeys(table.column_names))))
            slices = {
                column.removeprefix("slice/"): np.array(table[column].to_pylist(), dtype=np.object_)
                for column in table.column_names
                if column.startswith("slice/")
            }
            numbers = table["group"].to_numpy() if "group" in table.column_names else None
            return StoredGroups(table["keys"].to_numpy(), described["group"], numbers, slices)

    @property
    def readers(self) -> ReaderCalls | None:
        """What people call each test image, or each patient if patients are judged.

        None if the run was not told.

        Raises `InputError` if the file was changed after a step wrote it.
        """
        if not self.holds(READERS):
            return None
        with _open_parquet(self.file(READERS)) as file:
            table = file.read(use_threads=False)
            names = json.loads(table.schema.metadata[b"fairweather"])["readers"]
            columns = [
                column.flatten().to_numpy().reshape(len(table), -1)
                for column in (table[f"reader/{at}"].combine_chunks() for at in range(len(names)))
            ]
            calls = np.stack(columns, axis=1).astype(np.int64)
            readers = ReaderCalls(table["keys"].to_numpy(), tuple(map(str, names)), calls)
        groups = self._read_groups(groups_file(TEST))
        if self.aggregation is None or groups is None or groups.numbers is None:
            return readers
        return readers.join_images(groups.numbers, self.aggregation.unit, mixed=True)

    def write_unlabelled(self, name: str, predictions: Predictions) -> None:
        """Write predictions without labels and metrics, of another data set, as parquet."""
        columns = {column: pa.array(getattr(predictions, column)) for column in _UNLABELLED_COLUMNS}
        columns |= _ood_columns(predictions)
        self._write_table(name, columns)


def _read_scores(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table of scores; raises `InputError` if a column is missing."""
    # A model may be called NA, and numbers must be read back exactly as written.
    numbers = dict.fromkeys(("value", "low", "high"), _parse_number)
    names = {name: str for name in columns if name not in (*numbers, "n")}
    try:
        table = pd.read_csv(path, dtype=names, converters=numbers, keep_default_na=False)
    except ValueError as error:  # also if it is not text
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a table of scores: {reason}") from None
    table = table.rename(columns=FORMER_NAMES)
    if missing := [name for name in columns if name not in table]:
        raise InputError(f"{path} is not a table of scores: it has no column {missing[0]}")
    if len(table) and not pd.api.types.is_integer_dtype(table["n"]):
        raise InputError(f"{path} is not a table of scores: a row has no whole number in n")
    if "groups" in table:  # empty for the worst slice
        table["groups"] = pd.to_numeric(table["groups"], errors="coerce").astype("Int64")
    return table


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    """Open a file of predictions; problems with its content become an `InputError`.

    Reading ahead and threads would cost more than they save: a page reads few columns of thousands
    of files. pyarrow's `read_table` would also look for folders, which takes three quarters of the
    time for a small file.
    """
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not a file of predictions: {reason}") from None


def read_parquet(source: Path | pa.BufferReader) -> pa.Table:
    """Read a file of a run."""
    with pyarrow.parquet.ParquetFile(source, pre_buffer=False) as file:
        return file.read(use_threads=False)


def encode_readers(readers: ReaderCalls) -> bytes:
    """The bytes of the file with what people call each test image."""
    columns = {
        f"reader/{at}": _to_arrow(readers.calls[:, at].astype(np.int32))
        for at in range(len(readers.readers))
    }
    return _encode_table({"keys": pa.array(readers.keys), **columns}, readers=readers.readers)


def _encode_table(columns: Mapping[str, pa.Array], **described: object) -> bytes:
    metadata = {"fairweather": json.dumps({"version": 1, **described})} if described else None
    return to_parquet(pa.table(dict(columns), metadata=metadata))


def _to_arrow(column: npt.NDArray[Any]) -> pa.Array:
    """A column `[N]`, or one `[N, C]` as lists."""
    if column.ndim == 1:
        return pa.array(column)
    flat = pa.array(np.ascontiguousarray(column).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, column.shape[1])


def _ood_columns(predictions: Predictions) -> dict[str, pa.Array]:
    return {f"{_OOD}{name}": pa.array(scores) for name, scores in predictions.ood_scores.items()}


def _count_streams(table: pa.Table) -> int:
    """The number of streams of a model that adapts, which have as many rows each; else 1."""
    return len(table[STREAM].unique()) if STREAM in table.column_names else 1


def _read_ood_scores(table: pa.Table) -> dict[str, npt.NDArray[np.float32]]:
    return {
        name.removeprefix(_OOD): np.asarray(table[name].to_numpy()).astype(np.float32, copy=False)
        for name in table.column_names
        if name.startswith(_OOD)
    }


def shrink_predictions(content: bytes, *, keeps_logits: bool = False) -> bytes:
    """Make a file of predictions small: no logits, single precision, better packed.

    Several labels of an image keep their logits, from which all else is computed.

    Args:
        content: a parquet file as `RunFolder.write_predictions` writes it.
        keeps_logits: keep the logits of a classifier too.

    Returns:
        A parquet file that the methods of `RunFolder` read too, about 10 bytes per image. Rounding
        to single precision changes a loss, and one minus the confidence, by at most 6e-8 of itself.
        So the order of very confident images stays, which a rounded confidence would lose.
    """
    table = read_parquet(pa.BufferReader(content))
    is_single = not pa.types.is_nested(table["labels"].type)
    narrow = {"labels": pa.int32(), "predicted": pa.int32()}
    narrow |= dict.fromkeys((DOUBT, "nll", "brier"), pa.float32())
    if "confidence" in table.column_names:
        doubt = 1 - table["confidence"].to_numpy()
        table = table.drop_columns(["confidence"]).append_column(DOUBT, pa.array(doubt))
    drops_logits = is_single and not keeps_logits
    names = [name for name in table.column_names if name != "logits" or not drops_logits]
    # Several labels of an image stay as they are.
    single = {name for name in names if not table[name].type.num_fields}
    columns = {
        name: table[name].cast(narrow[name]) if name in single & {*narrow} else table[name]
        for name in names
    }
    encodings = {"keys": "DELTA_BINARY_PACKED"}
    encodings |= {name: "BYTE_STREAM_SPLIT" for name in names if columns[name].type == pa.float32()}
    return to_parquet(
        pa.table(columns, metadata=table.schema.metadata),
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in names if name not in encodings],
        column_encoding=encodings,
    )


def to_parquet(table: pa.Table, **options: Any) -> bytes:  # noqa: ANN401 - of pyarrow
    """The bytes of a parquet file with a table."""
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, **options)
    return bytes(sink.getvalue().to_pybytes())


def open_finished_run(path: Path) -> RunFolder:
    """Open a run folder for reading; raises `InputError` if there is none."""
    run = RunFolder(path)
    _ = run.record  # raises if there is none, or it is damaged
    return run


def remove_partial(folder: Path, age: float = 0) -> None:
    """Remove partial files without a write for `age` seconds: of processes that were killed."""
    # Others may remove files and folders meanwhile; `walk` skips what is gone.
    files = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            if PARTIAL.fullmatch(path.name) and time.time() - path.lstat().st_mtime >= age:
                path.unlink(missing_ok=True)


def _parse_number(text: str) -> float:
    return float(text) if text else float("nan")


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
