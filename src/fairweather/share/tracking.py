"""Send a finished run to MLflow: one run for the study, and a nested run for each of its parts.

MLFLOW_TRACKING_URI, which must be set, names the server, and MLFLOW_EXPERIMENT_NAME the experiment;
see https://mlflow.org/docs/latest/ml/tracking for other variables. Variables that the user has set
are never changed.

The tag ID finds a run that is sent again. Each run gets the tag SENT last: a digest of everything
that was sent. So complete runs are not sent again, and interrupted ones are.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fairweather.errors import InputError, missing_extra, unknown_name
from fairweather.runs.folder import RunFolder, fingerprint, open_finished_run
from fairweather.share.tracker_rows import TrackedRun, TrackedValue, TrackerRow, read_tracked_run

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


TRACKERS = ("mlflow",)
_OURS = "fairweather."
ID, NAME, SENT = f"{_OURS}id", f"{_OURS}name", f"{_OURS}sent"
# Tags of MLflow itself (mlflow.utils.mlflow_tags); the default experiment always has the id 0.
_PARENT, _NOTE = "mlflow.parentRunId", "mlflow.note.content"
_SOURCE = {"mlflow.source.name": "fairweather", "mlflow.source.type": "LOCAL"}
_DEFAULT = "0"
# Limits that every version of MLflow accepts (mlflow.utils.validation); later ones allow more.
_LONGEST_PARAMETER, _LONGEST_TAG, _BATCH = 500, 5000, 1000
_MOST_RUNS = 50_000
# Our defaults, unless the user's environment sets other values. MLflow's own retries take minutes,
# which is too long to find out that there is no server.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
HURRIED = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
_LOGGERS = ("mlflow", "alembic", "urllib3.connectionpool")
_DATABASES = ("sqlite", "mysql", "mssql", "postgresql")
_LONGEST_SENTENCE = 600  # characters of an MLflow error, which may be a web page of another server


def check_tracker(name: str) -> None:
    """Raise `InputError` unless the tracker is known, MLflow is installed, and its server answers.

    The server must answer within half a minute, and nothing is written to it. If a database is
    named instead of a server, MLflow creates it if needed.

    >>> check_tracker("mlfow")
    Traceback (most recent call last):
    fairweather.errors.InputError: unknown tracker 'mlfow'; did you mean 'mlflow'? known: mlflow
    """
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    with mlflow_session(HURRIED) as mlflow:
        client = mlflow.MlflowClient()
        if _find_experiment(client) is None:  # it will be created; check that the server answers
            client.search_experiments(max_results=1)


def track(run: str | os.PathLike[str], tracker: str) -> str:
    """Send a finished run to a tracker; what was sent before is updated.

    Args:
        run: the result of `fairweather.run`, or the run folder; it is only read.
        tracker: a name in `TRACKERS`. Environment variables of the tracker's own documentation give
            the server, which must be set, and the experiment.

    Returns:
        The address of the run in the tracker, for a browser if possible.

    Raises:
        InputError: the run is not finished or is damaged; or the tracker is unknown, not installed,
            has no address set, or refuses the run.
    """
    folder = open_finished_run(Path(run))
    tracked = read_tracked_run(folder)
    check_tracker(tracker)
    try:
        return send_run(tracked, folder)
    except InputError as error:
        raise InputError(
            f"{folder.path} is finished, but not all of it was sent: {error}"
        ) from error


def send_run(tracked: TrackedRun, folder: RunFolder) -> str:
    """Create or update MLflow's runs from a run folder and its files; return their address.

    Raises `InputError` if MLflow refuses them. What was sent stays, and the next call continues
    from it.
    """
    with mlflow_session(PATIENT) as mlflow:
        client = mlflow.MlflowClient()
        experiment = _find_experiment(client) or client.create_experiment(_experiment_name())
        known = _sent_before(client, experiment, tracked.id)

        def open_run(row: TrackerRow, tags: Mapping[str, str]) -> Run:
            all_tags = {ID: tracked.id, NAME: row.name, **_SOURCE, **tags}
            return known.get(row.name) or client.create_run(
                experiment, tracked.started, all_tags, row.name
            )

        study = open_run(tracked.study, {})
        tags = {_PARENT: study.info.run_id}
        for row in tracked.parts:
            _update_run(client, open_run(row, tags), row, tags, tracked)
        note = {_NOTE: tracked.description} if tracked.description else {}
        _update_run(client, study, tracked.study, note, tracked, folder)
        return _run_address(mlflow.get_tracking_uri(), experiment, study)


def _experiment_name() -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "")


def _find_experiment(client: MlflowClient) -> str | None:
    """The id of the experiment that the environment names; None if it does not exist yet."""
    name, number = _experiment_name(), os.environ.get("MLFLOW_EXPERIMENT_ID")
    experiment = (
        client.get_experiment(number or _DEFAULT)
        if number or not name
        else client.get_experiment_by_name(name)
    )
    if experiment is None:
        return None
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"the MLflow experiment {experiment.name!r} is deleted: restore it, or name another "
            "with MLFLOW_EXPERIMENT_NAME"
        )
    return str(experiment.experiment_id)


def _sent_before(client: MlflowClient, experiment: str, identity: str) -> dict[str, Run]:
    """The runs in MLflow that were sent before from the same run folder, by their names."""
    runs = client.search_runs(
        [experiment], filter_string=f"tags.`{ID}` = '{identity}'", max_results=_MOST_RUNS
    )
    return {run.data.tags[NAME]: run for run in runs if NAME in run.data.tags}


def _update_run(
    client: MlflowClient,
    run: Run,
    row: TrackerRow,
    tags: Mapping[str, str],
    tracked: TrackedRun,
    folder: RunFolder | None = None,
) -> None:
    """Send what this run lacks, with the files of a folder, and mark it as complete."""
    files = {} if folder is None else {name: folder.checksum(name) for name in tracked.files}
    sealed = {"tags": tags} if folder is None else {"files": files}
    seal = fingerprint({"record": row, **sealed})
    if run.data.tags.get(SENT) == seal:
        return
    _log_row(client, run, row, tags)
    if folder is not None:
        for name in files:
            place = PurePosixPath(name).parent.as_posix()
            source = str(folder.path / name)
            client.log_artifact(run.info.run_id, source, place if place != "." else None)
    client.set_terminated(run.info.run_id, end_time=tracked.ended)
    client.set_tag(run.info.run_id, SENT, seal)


def _log_row(client: MlflowClient, run: Run, row: TrackerRow, tags: Mapping[str, str]) -> None:
    from mlflow import entities

    known, now = _known_values(client, run, row.metrics), time.time_ns() // 10**6
    metrics = [
        entities.Metric(metric.key, metric.value, now, metric.step)
        for metric in row.metrics
        if known.get((metric.key, metric.step)) != metric.value
    ]
    parameters = [
        entities.Param(key, _shorten(value, _LONGEST_PARAMETER))
        for key, value in row.parameters.items()
    ]
    facts = {f"{_OURS}{key}": value for key, value in row.tags.items()} | dict(tags)
    labels = [entities.RunTag(key, _shorten(value, _LONGEST_TAG)) for key, value in facts.items()]
    client.log_batch(run.info.run_id, params=parameters, tags=labels)
    for key in run.data.tags.keys() - facts.keys() - {ID, NAME, SENT}:
        if key.startswith(_OURS):  # sent before, and no longer true
            client.delete_tag(run.info.run_id, key)
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run.info.run_id, metrics=metrics[start : start + _BATCH])


def _known_values(
    client: MlflowClient, run: Run, metrics: Sequence[TrackedValue]
) -> dict[tuple[str, int], float]:
    """The numbers of a run, by name and step; the run itself has only the last step of each."""
    known = {(key, 0): value for key, value in run.data.metrics.items()}
    for key in {metric.key for metric in metrics if metric.step} & run.data.metrics.keys():
        history = client.get_metric_history(run.info.run_id, key)
        known |= {(metric.key, metric.step): metric.value for metric in history}
    return known


def _shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _run_address(place: str, experiment: str, run: Run) -> str:
    safe = without_password(place)
    if safe.startswith(("http://", "https://")):
        return f"{safe.rstrip('/')}/#/experiments/{experiment}/runs/{run.info.run_id}"
    return f"{safe}, experiment {experiment}, run {run.info.run_id}"


@contextlib.contextmanager
def mlflow_session(pace: Mapping[str, str]) -> Iterator[ModuleType]:
    """Yield the MLflow module: inside, it prints nothing and its errors become `InputError`s.

    Args:
        pace: `HURRIED` or `PATIENT`.

    Raises:
        InputError: MLflow is not installed, has no server set, or raises an error.
    """
    with _environment_defaults({**_QUIET, **pace}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow
        except ImportError:
            raise missing_extra("mlflow", "track", "runs that are sent to MLflow") from None
        if not mlflow.is_tracking_uri_set():  # MLflow would create a database in the working folder
            raise InputError(
                "MLflow needs the address of a server: set MLFLOW_TRACKING_URI, as in "
                "MLFLOW_TRACKING_URI=http://127.0.0.1:5000"
            )
        place = mlflow.get_tracking_uri()
        _check_databases(place)
        # MLflow, its databases and its stores all raise different errors.
        try:
            with _silence_loggers():
                yield mlflow
        except InputError:
            raise
        except Exception as error:
            raise InputError(_describe_error(place, error)) from error


def without_password(place: str) -> str:
    """An address without user and password.

    >>> without_password("https://me:secret@mlflow.example.org:5000/base")
    'https://mlflow.example.org:5000/base'
    """
    address = urlsplit(place)
    return (
        place.replace(address.netloc, address.netloc.rpartition("@")[2])
        if address.netloc
        else place
    )


def _check_databases(place: str) -> None:
    scheme = urlsplit(place).scheme.partition("+")[0]
    if scheme in _DATABASES and importlib.util.find_spec("sqlalchemy") is None:
        raise InputError(
            f"the tracker {without_password(place)} is a database, which mlflow-skinny cannot "
            "write: name a server in MLFLOW_TRACKING_URI, or pip install mlflow"
        )


def _describe_error(place: str, error: Exception) -> str:
    safe = without_password(place)
    text = " ".join(str(error).replace(place, safe).split())
    if re.match(r"API request to \S+ failed with (timeout )?exception", text):
        cause = re.search(r"Caused by (\w+)", text)
        remark = f" ({cause[1]})" if cause else ""
        return (
            f"no MLflow server answers at {safe}{remark}: is it running, and is "
            "MLFLOW_TRACKING_URI its address?"
        )
    short = text if len(text) <= _LONGEST_SENTENCE else f"{text[:_LONGEST_SENTENCE]}..."
    return f"MLflow at {safe} says: {short or type(error).__name__}"


@contextlib.contextmanager
def _environment_defaults(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, and remove them afterwards."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _silence_loggers() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
