"""MLflow's client, quiet, and with one sentence for whatever goes wrong."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from urllib.parse import urlsplit

from fairweather.errors import InputError, missing_extra

# Defaults of ours that hold where the user's environment says nothing else. MLflow's own retries
# take minutes, which is too long to learn that a server is not there.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
HURRIED = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "60"}
_LOGGERS = ("mlflow", "alembic", "urllib3.connectionpool")
_DATABASES = ("sqlite", "mysql", "mssql", "postgresql")
_LONGEST = 600  # of what MLflow says: it may be the page of another server


@contextlib.contextmanager
def session(pace: Mapping[str, str]) -> Iterator[ModuleType]:
    """Give MLflow for a while: it prints nothing, and what it raises becomes an `InputError`.

    Args:
        pace: `HURRIED` or `PATIENT`.

    Raises:
        InputError: MLflow is not installed, was not told which server, or raises something.
    """
    with _defaults({**_QUIET, **pace}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import mlflow
        except ImportError:
            raise missing_extra("mlflow", "track", "runs that are sent to MLflow") from None
        if not mlflow.is_tracking_uri_set():  # it would make a database in the working folder
            raise InputError(
                "MLflow needs the address of a server: set MLFLOW_TRACKING_URI, as in "
                "MLFLOW_TRACKING_URI=http://127.0.0.1:5000"
            )
        place = mlflow.get_tracking_uri()
        _check_databases(place)
        # MLflow, the databases and the stores behind it all raise errors of their own.
        try:
            with _silence():
                yield mlflow
        except InputError:
            raise
        except Exception as error:
            raise InputError(_sentence(place, error)) from error


def without_password(place: str) -> str:
    """An address without user and password.

    >>> without_password("https://me:secret@mlflow.example.org:5000/base")
    'https://mlflow.example.org:5000/base'
    """
    found = urlsplit(place)
    return place.replace(found.netloc, found.netloc.rpartition("@")[2]) if found.netloc else place


def _check_databases(place: str) -> None:
    scheme = urlsplit(place).scheme.partition("+")[0]
    if scheme in _DATABASES and importlib.util.find_spec("sqlalchemy") is None:
        raise InputError(
            f"the tracker {without_password(place)} is a database, which the light client cannot "
            "write: name a server by MLFLOW_TRACKING_URI, or pip install mlflow"
        )


def _sentence(place: str, error: Exception) -> str:
    safe = without_password(place)
    text = " ".join(str(error).replace(place, safe).split())
    if re.match(r"API request to \S+ failed with (timeout )?exception", text):
        cause = re.search(r"Caused by (\w+)", text)
        why = f" ({cause[1]})" if cause else ""
        return (
            f"no MLflow server answers at {safe}{why}: is it running, and is MLFLOW_TRACKING_URI "
            "its address?"
        )
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    return f"MLflow at {safe} says: {short or type(error).__name__}"


@contextlib.contextmanager
def _defaults(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment that are not set, for a while."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
