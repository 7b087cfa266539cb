"""Check that a report is made from the files that the run wrote."""

from __future__ import annotations

from pathlib import PurePosixPath

from fairweather.record import (
    ABSENT_METRICS,
    GROUPS,
    SAMPLES,
    SCORES,
    SLICES,
    WARNINGS,
    base_model,
)
from fairweather.runs import RunFolder

OF_ALL = (SCORES, SLICES, WARNINGS, ABSENT_METRICS)
OF_A_MODEL = (".parquet", ".csv", ".json")


def check_intact(run: RunFolder) -> list[str]:
    """Name the files of a run that its report would need and that are missing.

    These are the scores, the predictions, the samples, and the files about trainings and
    pre-trainings. Files of models that are no longer part of the run are not checked.

    Raises `InputError` where a file is not what the run wrote.
    """
    missing = run.check_files(_is_of_all)
    if not run.file(SCORES).is_file():
        return missing
    scored = set(run.scores["model"])
    models = scored | {base_model(name) for name in scored}
    folders = {"predictions": models, "models": models, "pretraining": set(run.record.pretraining)}

    def is_of_a_model(name: str) -> bool:
        top, inner, *_ = (*PurePosixPath(name).parts, "")
        return inner in folders.get(top, ()) and name.endswith(OF_A_MODEL)

    return missing + run.check_files(is_of_a_model)


def _is_of_all(name: str) -> bool:
    return name in OF_ALL or name.startswith((f"{SAMPLES}/", f"{GROUPS}/"))
