"""Are the files that a report is made of those that the run wrote?"""

from __future__ import annotations

from pathlib import PurePosixPath

from fairweather.report.words import base_model, predictions_folder
from fairweather.runs import RunFolder

OF_ALL = ("scores.csv", "samples/index.json", "samples/pictures.parquet", "warnings.json")
OF_A_MODEL = (".parquet", ".csv", ".json")


def check_intact(run: RunFolder) -> list[str]:
    """Name the files of a run that its report would need and that are missing.

    What a model left that is no longer part of the study is not looked at.

    Raises `InputError` where a file is there and not what was written.
    """
    missing = run.check_files(OF_ALL.__contains__)
    if not (run.path / "scores.csv").is_file():
        return missing
    models = set(run.scores["model"])
    folders = {PurePosixPath(predictions_folder(name, "0")).parts[1] for name in models}
    folders |= {base_model(name) for name in models}

    def wanted(name: str) -> bool:
        parts = PurePosixPath(name)
        ours = parts.parts[0] in ("predictions", "models") and parts.parts[1] in folders
        return ours and parts.suffix in OF_A_MODEL

    return missing + run.check_files(wanted)
