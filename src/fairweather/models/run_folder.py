"""A model that a run of this package trained, with what its folder says about it."""

from __future__ import annotations

from pathlib import Path

from fairweather.download import file_digest
from fairweather.errors import InputError
from fairweather.models.building import load_checkpoint
from fairweather.models.preprocessing import UNKNOWN, preparation_facts
from fairweather.models.source import Opened, Source, closest_file, folder_name
from fairweather.record import DESCRIPTION, RECORD, WEIGHTS
from fairweather.runs import RunFolder, read_json
from fairweather.types import Preparation


def open_run(place: str) -> Opened:
    """Open the model in `FOLDER/models/NAME/seed-S` of a run.

    Images are prepared at the size of the run's training images, if the record of the run is there
    and this size is a square.

    Raises `InputError` if the folder does not hold a finished model, or the record or a file of the
    model is not what the run wrote.
    """
    folder = Path(place).expanduser()
    _check_unchanged(folder.resolve())
    model = load_checkpoint(folder)
    written = read_json(folder / DESCRIPTION)
    preparation, origin = _preparation(folder.resolve())
    facts = {
        "source": f"run:{folder}",
        "architecture": written["spec"]["backbone"],
        "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "normalisation": {
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "from": "the run",
        },
        "preparation": preparation_facts(preparation, origin),
        "spec": written["spec"],
    }
    classes = written.get("classes")
    if isinstance(classes, list):
        facts["outputs"] = len(classes)
    names = tuple(str(name) for name in classes) if isinstance(classes, list) else None
    digest = file_digest(folder / WEIGHTS, "sha256")
    return Opened(model, _name(folder.resolve()), digest, names, preparation, facts)


def _name(folder: Path) -> str:
    seed = folder.name.startswith("seed-")
    return folder_name(f"{folder.parent.name}-{folder.name}" if seed else folder.name)


def _run_of(folder: Path) -> RunFolder | None:
    """The run that a folder with a model belongs to; None for a folder that was copied alone."""
    run = RunFolder(folder.parents[2]) if len(folder.parents) > 2 else None
    return run if run is not None and run.has_record else None


def _check_unchanged(folder: Path) -> None:
    """Raise `InputError` if the files of a model in a run are not those that the run wrote."""
    if (run := _run_of(folder)) is not None:
        for name in (DESCRIPTION, WEIGHTS):
            if (folder / name).is_file():  # what is missing is told with the folder
                run.holds(folder.relative_to(run.path).joinpath(name).as_posix())


def _preparation(folder: Path) -> tuple[Preparation | None, str]:
    if (run := _run_of(folder)) is None:
        return None, f"{UNKNOWN}: there is no {RECORD}"
    data = run.record.data
    if data.preparation is not None:
        return data.preparation, "the run's images"
    if data.side is None:
        return None, f"{UNKNOWN}: the run's record states no size"
    height, width = data.side
    if height != width:
        return None, f"the run's images, {height} x {width}"
    return Preparation(height), "the run's images"


def trained_in(source: str) -> Path | None:
    """The folder of the run that trained a model, by its source; None for a model from elsewhere.

    >>> trained_in("run:outputs/quickstart/models/basic/seed-0"), trained_in("timm:resnet18")
    (PosixPath('outputs/quickstart'), None)
    """
    kind, _, place = source.partition(":")
    return Path(place).parent.parent.parent if kind == "run" else None


def _check(place: str, _: str | None) -> None:
    if not Path(place).expanduser().is_dir():
        raise InputError(f"run:{place}: there is no such folder{closest_file(Path(place))}")


def _guess(text: str) -> str | None:
    return f"run:{text}" if (Path(text).expanduser() / DESCRIPTION).is_file() else None


RUN = Source(
    "run:FOLDER/models/NAME/seed-S",
    "a model that a run of fairweather trained",
    open_run,
    check=_check,
    guess=_guess,
)
