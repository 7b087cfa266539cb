"""A model that a run of this package trained, with the facts from its folder."""

from __future__ import annotations

from pathlib import Path

from fairweather.errors import InputError
from fairweather.files.download import file_digest
from fairweather.models.building import load_checkpoint
from fairweather.models.preprocessing import UNKNOWN_ORIGIN, describe_preparation
from fairweather.models.sources import OpenedModel, Setup, SourceKind, folder_name, suggest_file
from fairweather.runs.folder import RunFolder, read_json
from fairweather.types.kinds import FINDINGS, TaskKind
from fairweather.types.measurement import MULTILABEL
from fairweather.types.options import ModelOptions, Preparation
from fairweather.types.record import DESCRIPTION, RECORD, WEIGHTS


def open_run(place: str, _: ModelOptions, __: Setup) -> OpenedModel:
    """Open the model in `FOLDER/models/NAME/seed-S` of a run.

    Images are prepared at the size of the run's training images, if the run has a record and this
    size is a square.

    Raises `InputError` if the folder does not hold a finished model, or if its record or files have
    changed.
    """
    folder = Path(place).expanduser()
    home = folder.resolve()
    _check_unchanged(home)
    model = load_checkpoint(folder)
    written = read_json(folder / DESCRIPTION)
    preparation, origin = _read_preparation(home)
    facts = {
        "source": f"run:{folder}",
        "architecture": written["spec"]["backbone"],
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "normalisation": {
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "from": "the run",
        },
        "preparation": describe_preparation(preparation, origin),
        "spec": written["spec"],
    }
    names, classes = written.get("classes"), None
    if isinstance(names, list):
        facts["outputs"], classes = len(names), tuple(map(str, names))
    digest = file_digest(folder / WEIGHTS, "sha256")
    name = folder_name(
        f"{home.parent.name}-{home.name}" if home.name.startswith("seed-") else home.name
    )
    return OpenedModel(model, name, digest, classes, preparation, facts)


def _find_run(folder: Path) -> RunFolder | None:
    """The run that a folder with a model belongs to; None for a folder that was copied alone."""
    run = RunFolder(folder.parents[2]) if len(folder.parents) > 2 else None
    return run if run is not None and run.has_record else None


def _check_unchanged(folder: Path) -> None:
    """Raise `InputError` if the files of a model in a run are not those that the run wrote."""
    if (run := _find_run(folder)) is not None:
        for name in (DESCRIPTION, WEIGHTS):
            if (folder / name).is_file():  # a missing file is reported with the folder
                run.holds(folder.relative_to(run.path).joinpath(name).as_posix())


def _read_preparation(folder: Path) -> tuple[Preparation | None, str]:
    if (run := _find_run(folder)) is None:
        return None, f"{UNKNOWN_ORIGIN}: there is no {RECORD}"
    data = run.record.data
    if data.preparation is not None:
        return data.preparation, "the run's images"
    if data.side is None:
        return None, f"{UNKNOWN_ORIGIN}: the run's record states no size"
    height, width = data.side
    if height != width:
        return None, f"the run's images, {height} x {width}"
    return Preparation(height), "the run's images"


def find_run_path(source: str) -> Path | None:
    """The folder of the run that trained a model, by its source; None for a model from elsewhere.

    >>> find_run_path("run:outputs/quickstart/models/basic/seed-0"), find_run_path("timm:resnet18")
    (PosixPath('outputs/quickstart'), None)
    """
    kind, _, place = source.partition(":")
    return Path(place).parent.parent.parent if kind == "run" else None


def learned_task(source: str) -> str | None:
    """The task that a model of a run was trained for; None if that is not known."""
    path = find_run_path(source)
    run = None if path is None else RunFolder(path)
    return run.record.data.task if run is not None and run.has_record else None


def check_learned(source: str, predicts: TaskKind) -> None:
    """Raise `InputError` for a model of a run that learned something else than it is to predict.

    Args:
        source: of the model; of another kind, nothing is known.
        predicts: one class of each image, or findings.
    """
    task = learned_task(source)
    learned, asked = "one class of each image", "several findings"
    if task is None or (task == MULTILABEL) == (predicts == FINDINGS):
        return
    if predicts != FINDINGS:
        learned, asked = asked, learned
    raise InputError(f"{source} was trained to predict {learned}, and these data have {asked}")


def _check_run(place: str, _: str | None) -> None:
    if not Path(place).expanduser().is_dir():
        raise InputError(f"run:{place}: there is no such folder{suggest_file(Path(place))}")


def _guess_run(text: str) -> str | None:
    return f"run:{text}" if (Path(text).expanduser() / DESCRIPTION).is_file() else None


RUN = SourceKind(
    "run:FOLDER/models/NAME/seed-S",
    "a model that a run of fairweather trained",
    open_run,
    check=_check_run,
    guess=_guess_run,
)
