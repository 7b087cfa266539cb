"""Run a study, evaluate a model, and work on the folders of runs."""

from __future__ import annotations

import dataclasses
import errno
import logging
import re
from collections.abc import Sequence
from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairweather.cli.options import (
    JSON,
    DataRoot,
    Device,
    Offline,
    Quiet,
    Replace,
    RunArgument,
    Track,
    check_tracking,
    progress,
    resumable,
    send_run,
    takes,
)
from fairweather.errors import InputError, check_writable
from fairweather.requests.evaluation_options import EvaluationOptions, check_options
from fairweather.workers.options import Sharing, read_sharing

if TYPE_CHECKING:
    from fairweather.requests.study.schema import Study


# ---------------------------------------------------------------- studies and runs

StudyName = Annotated[
    str,
    typer.Argument(help="A packaged study (see: fairweather list studies), or a study file."),
]
Out = Annotated[Path | None, typer.Option(help="The run folder.", show_default="runs/NAME")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a key of the study, such as recipe.epochs=2 or models.basic.weights=none. "
        "Repeatable.",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        help="How many seeds to train every model with (3 means the seeds 0, 1 and 2), or a list "
        "of seeds (3,4, or 3, for a single one).",
        show_default="as in the study, else 3",
    ),
]
Only = Annotated[
    list[str] | None, typer.Option(help="Run, score and report only this model. Repeatable.")
]


@takes(Sharing)
def run(
    study: StudyName,
    out: Out = None,
    set_: Set = None,
    seeds: Seeds = None,
    only: Only = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    offline: Offline = False,
    replace: Replace = False,
    steps: Annotated[str | None, typer.Option(hidden=True)] = None,
    strategy: Annotated[
        str,
        typer.Option(help="How they work together: ddp, torch's DistributedDataParallel."),
    ] = "ddp",
    quiet: Quiet = False,
    track: Track = None,
    **sharing: Any,  # noqa: ANN401 - as Typer gives them
) -> None:
    """Run a study: train, predict under every shift, score and report.

    The same command continues a run that was interrupted.
    """
    if steps is not None:
        raise InputError("--steps is gone: give the command with --worker, once for each part")
    asked = read_sharing(sharing)
    dataclasses.replace(asked, devices=1).check()
    from fairweather.requests.study import run as studies

    checked = _read_study(study, set_, seeds, only, data_root, offline)
    check_tracking(track)
    helps = studies.is_helper(checked, asked.devices, asked.nodes)
    with resumable(), progress(quiet=quiet or helps) as show:
        finished = studies.run(
            checked,
            out=out,
            device=device,
            offline=offline,
            replace=replace,
            strategy=strategy,
            **sharing,
            progress=show,
        )
    if helps:
        return
    typer.echo(finished.overview() + "\n")
    print_places(finished.path, track)


def plan(
    study: StudyName,
    out: Out = None,
    set_: Set = None,
    seeds: Seeds = None,
    only: Only = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    offline: Offline = False,
    json: JSON = False,
    quiet: Quiet = False,
) -> None:
    """Print the steps of a study, which of them are done, and how long the rest may take."""
    from fairweather.requests.study import run as studies

    checked = _read_study(study, set_, seeds, only, data_root, offline)
    with resumable(), progress(quiet=quiet) as show:
        outlook = studies.plan(checked, out=out, device=device, offline=offline, progress=show)
    typer.echo(outlook.to_json() if json else str(outlook))


def cancel(run: RunArgument) -> None:
    """End the jobs that `--executor slurm` has submitted; what is finished stays."""
    from fairweather.runs.folder import open_finished_run
    from fairweather.workers import slurm_jobs as submitted

    open_finished_run(run)
    ended = submitted.cancel_jobs(run)
    if ended:
        typer.echo(f"ended {ended} job{'s' * (ended > 1)} of {run}")
    else:
        typer.echo(f"no jobs of {run} are waiting or running")


def clean(
    run: RunArgument,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            help="What to remove: left-over (files of models that the study no longer has, and of "
            "interrupted steps), report, samples or predictions. Repeatable.",
            show_default="nothing",
        ),
    ] = None,
) -> None:
    """Show how much disk space a run takes, and remove files that can be made again."""
    from fairweather.runs import cleaning
    from fairweather.runs.folder import open_finished_run

    opened = open_finished_run(run)
    if remove:
        removed = cleaning.remove_files(run, remove)
        typer.echo(f"removed {len(removed.files)} files, {removed.bytes / 1e6:,.1f} MB\n")
    typer.echo(cleaning.format_disk_use(cleaning.measure_disk_use(opened)))


def _read_study(
    study: str,
    set_: list[str] | None,
    seeds: str | None,
    only: list[str] | None,
    data_root: str | None,
    offline: bool,
) -> Study:
    """Read and check the study that the command line asks for."""
    from fairweather.requests.study.schema import load_study

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    overrides = list(set_ or [])
    if seeds is not None:
        overrides.append(f"seeds=[{seeds}]" if "," in seeds else f"seeds={seeds}")
    if data_root is not None:
        overrides.append(f"data.root={json_text(data_root)}")
    return load_study(study, overrides, only or ())


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="A run folder, or several on the same test images.", metavar="RUN..."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder for the report of several runs; that of one run goes into its own.",
            show_default="reports/RUN+RUN; with --as-seeds runs/RUN+RUN",
        ),
    ] = None,
    as_seeds: Annotated[
        bool,
        typer.Option(
            "--as-seeds",
            help="Join runs of one study with different seeds or models into one run folder.",
        ),
    ] = False,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Make tables, figures and page again from the files of one or several runs."""
    if as_seeds:
        check_tracking(track)
        place = join_runs(runs, out, quiet=quiet)
        missing = _find_missing_files([place])
    else:
        if len(runs) == 1 and out is not None:
            words = "the report of one run goes into its own folder; --out is for several runs"
            raise InputError(words)
        if len(runs) > 1 and track is not None:
            raise InputError("--track sends one run, found several: send them one by one")
        missing = _find_missing_files(runs)
        check_tracking(track)
        place = _build_report(runs, out)
    for path, names in missing.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            words = (
                f"fairweather: {path} has no {names[0]}{more}; the report leaves out what needs it"
            )
            typer.echo(words, err=True)
    print_places(place, track)


def join_runs(runs: Sequence[str | Path], out: Path | None = None, *, quiet: bool = False) -> Path:
    """Join runs as seeds of one run, and return its folder; a second call continues."""
    from fairweather.requests.seeds.joining import join_seeds

    with resumable(), progress(quiet=quiet) as show:
        return join_seeds(runs, out=out, progress=show).path


def pack(
    run: Annotated[Path, typer.Argument(help="A run folder of a study.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder of the small copy.", show_default=False)],
    only: Annotated[
        list[str] | None,
        typer.Option(help="Keep only this model; repeatable.", show_default="all"),
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(help="Keep only this shift or attack; repeatable.", show_default="all"),
    ] = None,
    no_variants: Annotated[
        bool, typer.Option("--no-variants", help="Leave out temperature scaling and the like.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Make a small copy of a run, to commit or to send: enough to join its seeds with others."""
    from fairweather.requests.seeds.joining import pack_run

    with resumable(), progress(quiet=quiet) as show:
        kept = () if no_variants else None
        packed = pack_run(run, out, models=only, shifts=shift, variants=kept, progress=show)
    files = [path for path in packed.path.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    typer.echo(f"{packed.path}: {len(files)} files, {size / 1e6:.1f} MB")


def _find_missing_files(runs: Sequence[Path]) -> dict[Path, list[str]]:
    """Name the files that the report of each run misses; a changed file is an error."""
    from fairweather.report.building import check_intact
    from fairweather.runs.folder import open_finished_run

    opened = [open_finished_run(folder) for folder in runs]
    return {run.path: check_intact(run) for run in opened}


def _build_report(runs: Sequence[Path], out: Path | None) -> Path:
    """Report one run in its folder, or several side by side; return the folder of the report."""
    from fairweather.report.building import build_joint_report, rebuild_report
    from fairweather.report.joint_runs import shorten_names
    from fairweather.report.vega import explain_missing_addresses
    from fairweather.runs.folder import open_finished_run

    if lack := explain_missing_addresses():
        typer.echo(f"fairweather: {lack}; tables and page are written without them", err=True)
    opened = [open_finished_run(folder) for folder in runs]
    if len(opened) == 1:
        rebuild_report(runs[0])
        return runs[0]
    place = out or Path("reports") / "+".join(shorten_names(runs))
    build_joint_report(opened, place)
    return place


def print_places(folder: Path, track: str | None) -> None:
    """Print where tables, figures and page are, and where a tracker has the run."""
    for what, name in (("tables", "tables"), ("figures", "figures"), ("page", "report.html")):
        if (folder / name).exists():  # figures may have been left out
            typer.echo(f"{what:<8}{folder / name}")
    send_run(folder, track)


# ---------------------------------------------------------------- evaluations

NAMED_SOURCE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")


@takes(EvaluationOptions)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="The model: timm:NAME, torchvision:NAME, hf:REPO, onnx:FILE, "
            "run:FOLDER/models/NAME/seed-S, python:FILE.py:FUNCTION, or the FILE of a checkpoint "
            "with --architecture; or predictions:FILE, predictions that were made elsewhere. "
            "NAME-seedN=SOURCE names the model and its seed."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(
            help="A data source, such as folder:PATH (see: fairweather list data). Predictions "
            "whose file has the labels need none."
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A further model that is measured on the same images, in the same run; "
            "NAME-seedN=SOURCE makes it seed N of the model NAME. Repeatable; with --size if the "
            "models need images of different sizes.",
        ),
    ] = None,
    shifts: Annotated[
        list[str] | None,
        typer.Option(
            help="A suite, or a shift or attack as NAME[,parameter=value...]; several are "
            "separated by commas. Several levels are written 'gamma: [0.5, 2]'. Repeatable.",
            show_default="quick",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder.", show_default="runs/MODEL-on-DATA")
    ] = None,
    replace: Replace = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and how far it is; write nothing.")
    ] = False,
    json: JSON = False,
    quiet: Quiet = False,
    track: Track = None,
    **options: object,
) -> None:
    """Measure any model on any images, without training.

    The same command continues an evaluation that was interrupted.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("mean", "std"):
        if name in given:
            given[name] = _read_channels(f"--{name}", str(given[name]))
    if "classes" in given:
        given["classes"] = _read_classes(str(given["classes"]))
    check_options(given)
    models = _name_models([model, *(more or ())])
    given_sources = models.values() if isinstance(models, dict) else models
    if data is None and not all(source.startswith("predictions:") for source in given_sources):
        raise InputError(
            f"name the data set that {model} is measured on; only predictions:FILE may have none"
        )
    if json and not dry_run:
        raise InputError("--json goes with --dry-run")
    if not dry_run and out is not None:
        check_writable(out)
    from fairweather.requests.evaluation.run import (
        QUICK,
        make_request,
        plan_evaluation,
        run_request,
    )

    request = make_request(
        models if more or isinstance(models, dict) else model, data, shifts or QUICK, None, given
    )
    check_tracking(track)
    with resumable(), progress(quiet=quiet) as show:
        if dry_run:
            outlook = plan_evaluation(request, out, progress=show)
        else:
            finished = run_request(request, out, replace=replace, progress=show)
    if dry_run:
        typer.echo(outlook.to_json() if json else str(outlook))
        return
    typer.echo("\n" + finished.overview() + "\n")
    print_places(finished.path, track)


def _name_models(models: list[str]) -> list[str] | dict[str, str]:
    """The sources of models, by their names if they are written NAME=SOURCE."""
    pairs = [NAMED_SOURCE.fullmatch(source) for source in models]
    named = {
        match[1]: match[2] for match in pairs if match is not None and not Path(match[0]).is_file()
    }
    if not named:
        return models
    if len(named) < len(models):
        raise InputError(
            "name each model and seed once, as NAME-seedN=SOURCE, or none: found "
            f"{', '.join(models)}"
        )
    return named


def _read_classes(text: str) -> list[str]:
    """The names of classes: the lines of a file, or what stands between commas."""
    file = Path(text)
    try:
        named = file.is_file()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        named = False  # a list that is too long for a path
    if not named:
        return [name.strip() for name in text.split(",")]
    try:
        return [
            line.strip()
            for line in file.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
    except UnicodeDecodeError:
        raise InputError(f"--classes: {text} is not a text file in UTF-8") from None


def _read_channels(option: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise InputError(f"{option} takes three numbers, as in 0.5,0.5,0.5, found {text!r}")
    return numbers
