"""Run a study or the demonstration, evaluate a model, and work on the folders of runs."""

from __future__ import annotations

import errno
import re
import webbrowser
from collections.abc import Sequence
from json import dumps as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairweather.cli.options import (
    DATA_HELP,
    JSON,
    QUICK_HELP,
    SHIFT_HELP,
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
    suggest,
    takes,
)
from fairweather.errors import InputError, check_writable, join_names
from fairweather.requests.evaluation_options import EvaluationOptions, check_options
from fairweather.workers.options import Sharing, read_sharing

if TYPE_CHECKING:
    from fairweather.requests.study.schema import Study


def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/demo"),
    replace: Replace = False,
    json: JSON = False,
    quiet: Quiet = False,
) -> None:
    """See in a minute what fairweather finds: a digit classifier in fog.

    It measures a small network, which comes with the package, on 1,000 handwritten digits under
    five shifts. The same command continues an interrupted demo.

    Examples:
        fairweather demo
        fairweather demo --out runs/fog --json
    """
    from fairweather.requests import demonstration

    with resumable(), progress(quiet=quiet) as show:
        run = demonstration.demo(out=out, replace=replace, progress=show)
    finding, commands = demonstration.read_finding(run), demonstration.next_commands(run)
    page = run.path / "report.html"
    if json:
        scores = {name: score._asdict() for name, score in finding._asdict().items()}
        facts = {"finding": scores, "page": str(page), "commands": list(commands)}
        typer.echo(json_text(facts, indent=1))
        return
    typer.echo(f"\n{finding}\n\npage    {page}\n\nIts confidence does not warn you. These do:\n")
    for command, effect in commands.items():
        typer.echo(f"  {command}\n      {effect}")


# ---------------------------------------------------------------- studies and runs

StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="Name of a study (see: fairweather list studies), or a study file."
    ),
]
Out = Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/NAME")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a key of the study: recipe.epochs=2, models.basic.weights=none. Repeatable.",
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        help="Number of seeds to train each model with, or a list such as 3,4 (one seed: 3,).",
        show_default="as in the study, else 3",
    ),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Only this model of the study. Repeatable.")
]


@takes(Sharing)
def run(
    study: StudyName,
    out: Out = None,
    set_: Set = None,
    seeds: Seeds = None,
    models: Models = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    offline: Offline = False,
    replace: Replace = False,
    quiet: Quiet = False,
    track: Track = None,
    **sharing: Any,  # noqa: ANN401 - as Typer gives them
) -> None:
    """Run a study: train, predict under every shift, score and report.

    The same command continues an interrupted run.

    Examples:
        fairweather run quickstart
        fairweather run study.yaml --model basic --seeds 1 --set recipe.epochs=2
        fairweather run study.yaml --executor slurm --gpus 1
    """
    asked = read_sharing(sharing)
    asked.check()
    from fairweather.requests.study import run as studies

    checked = _read_study(study, set_, seeds, models, data_root)
    check_tracking(track)
    helps = studies.is_helper(checked, asked.devices, asked.nodes)
    with resumable(), progress(quiet=quiet or helps) as show:
        finished = studies.run(
            checked,
            out=out,
            device=device,
            offline=offline,
            replace=replace,
            **sharing,
            progress=show,
        )
    if helps:
        return
    typer.echo(finished.overview() + "\n")
    print_places(finished.path, track, quiet=quiet)


def plan(
    study: StudyName,
    out: Out = None,
    set_: Set = None,
    seeds: Seeds = None,
    models: Models = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    offline: Offline = False,
    json: JSON = False,
    quiet: Quiet = False,
) -> None:
    """Show the steps of a study, which are done, and how long the rest may take.

    Examples:
        fairweather plan quickstart
        fairweather plan study.yaml --json
    """
    from fairweather.requests.study import run as studies

    checked = _read_study(study, set_, seeds, models, data_root)
    with resumable(), progress(quiet=quiet) as show:
        outlook = studies.plan(checked, out=out, device=device, offline=offline, progress=show)
    typer.echo(outlook.to_json() if json else str(outlook))
    suggest("the same command with run in place of plan", quiet=quiet or json)


def cancel(run: RunArgument) -> None:
    """Cancel the SLURM jobs of a run; finished steps stay.

    Examples:
        fairweather cancel runs/mine
    """
    from fairweather.runs.folder import open_finished_run
    from fairweather.workers import slurm_jobs as submitted

    open_finished_run(run)
    ended = submitted.cancel_jobs(run)
    if ended:
        typer.echo(f"ended {ended} job{'s' * (ended > 1)} of {run}")
    else:
        typer.echo(f"no jobs of {run} are waiting or running")
    suggest("fairweather clean {}   # what the run has so far", run)


def clean(
    run: RunArgument,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            help="Files to remove: left-over, report, samples or predictions. Repeatable.",
            show_default="nothing",
        ),
    ] = None,
) -> None:
    """Show the disk space of a run, and remove files that can be made again.

    Left-over files are those of interrupted steps, and of models that left the study.

    Examples:
        fairweather clean runs/mine
        fairweather clean runs/mine --remove predictions
    """
    from fairweather.runs import cleaning
    from fairweather.runs.folder import open_finished_run

    opened = open_finished_run(run)
    if remove:
        removed = cleaning.remove_files(run, remove)
        typer.echo(f"removed {len(removed.files)} files, {removed.bytes / 1e6:,.1f} MB\n")
    typer.echo(cleaning.format_disk_use(cleaning.measure_disk_use(opened)))
    suggest("fairweather report {}" if remove else "fairweather clean {} --remove left-over", run)


def _read_study(
    study: str,
    set_: list[str] | None,
    seeds: str | None,
    models: list[str] | None,
    data_root: str | None,
) -> Study:
    """Read and check the study that the command line asks for."""
    from fairweather.requests.study.schema import load_study

    overrides = list(set_ or [])
    if seeds is not None:
        overrides.append(f"seeds=[{seeds}]" if "," in seeds else f"seeds={seeds}")
    if data_root is not None:
        overrides.append(f"data.root={json_text(data_root)}")
    return load_study(study, overrides, models or ())


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, all on the same test images.", metavar="RUN")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the report of several runs.",
            show_default="reports/RUN+RUN; with --join-seeds runs/RUN+RUN",
        ),
    ] = None,
    join_seeds: Annotated[
        bool,
        typer.Option(
            "--join-seeds",
            help="Join runs of one study, with other seeds or models, into one run folder.",
        ),
    ] = False,
    track: Track = None,
    quiet: Quiet = False,
) -> None:
    """Rebuild tables, figures and page of one or several runs.

    Examples:
        fairweather report runs/mine
        fairweather report runs/new runs/old --out reports/both
        fairweather report runs/seed-0 runs/seed-1 --join-seeds
    """
    if join_seeds:
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
            words = f"{path} has no {join_names(names)}; the report leaves out what needs it"
            typer.echo(f"fairweather: {words}", err=True)
    print_places(place, track, quiet=quiet)


def join_runs(runs: Sequence[str | Path], out: Path | None = None, *, quiet: bool = False) -> Path:
    """Join runs as seeds of one run, and return its folder; a second call continues."""
    from fairweather.requests.seeds.joining import join_seeds

    with resumable(), progress(quiet=quiet) as show:
        return join_seeds(runs, out=out, progress=show).path


def pack(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="Folder of the copy.", show_default=False)],
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Keep only this model. Repeatable.", show_default="all"),
    ] = None,
    shift: Annotated[
        list[str] | None,
        typer.Option(help="Keep only this shift or attack. Repeatable.", show_default="all"),
    ] = None,
    no_variants: Annotated[
        bool, typer.Option("--no-variants", help="Leave out variants, such as temperature scaling.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Export a small copy of a run that can still be joined with other seeds.

    Examples:
        fairweather pack runs/mine --out small
        fairweather pack runs/mine --out small --model basic
    """
    from fairweather.requests.seeds.joining import pack_run

    with resumable(), progress(quiet=quiet) as show:
        kept = () if no_variants else None
        packed = pack_run(run, out, models=models, shifts=shift, variants=kept, progress=show)
    files = [path for path in packed.path.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    typer.echo(f"{packed.path}: {len(files)} files, {size / 1e6:.1f} MB")
    suggest("fairweather report {} OTHER --join-seeds", packed.path, quiet=quiet)


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


def print_places(folder: Path, track: str | None, *, quiet: bool) -> None:
    """Print where tables, figures and page are, where a tracker has the run, and what is next."""
    from fairweather.judge.verdicts import find_example
    from fairweather.runs.folder import RunFolder
    from fairweather.types.record import PAGE, RECORD

    for what, name in (("tables", "tables"), ("figures", "figures"), ("page", "report.html")):
        if (folder / name).exists():  # figures may have been left out
            typer.echo(f"{what:<8}{folder / name}")
    send_run(folder, track)
    # A report of several runs is no run.
    rule = find_example(RunFolder(folder)) if (folder / RECORD).is_file() else None
    if rule is None:
        suggest("open {}", folder / PAGE, quiet=quiet)
        return
    check = f"fairweather check {{}} '{rule}'"
    suggest(f"open {{}}, or: {check}", folder / PAGE, folder, quiet=quiet)


def view(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with your runs.")] = Path(
        "runs"
    ),
    out: Annotated[
        Path | None, typer.Option(help="File of the page.", show_default="FOLDER/index.html")
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Also open the page in your web browser.")
    ] = False,
) -> None:
    """List all runs below a folder on one page, to sort, filter and compare them.

    Examples:
        fairweather view
        fairweather view runs/2026 --open
    """
    from fairweather.report.runs_page import view as write_page

    page = write_page(folder, out)
    typer.echo(f"{'page':<8}{page}")
    if not (open_ and webbrowser.open(page.resolve().as_uri())):
        suggest("open {}", page)


# ---------------------------------------------------------------- evaluations

NAMED_SOURCE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=(.+)")


@takes(EvaluationOptions)
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Checkpoint, timm:NAME, torchvision:NAME, hf:REPO, onnx:FILE, run:PATH, "
            "python:FILE.py:FUNCTION or predictions:FILE (see: fairweather list models).",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help=f"{DATA_HELP} Predictions with labels need none."),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Another model on the same images, or NAME-seedN=MODEL. Repeatable."
        ),
    ] = None,
    shift: Annotated[
        list[str] | None, typer.Option(help=SHIFT_HELP, show_default=f"quick: {QUICK_HELP}")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Table with the true labels of predictions, matched by --key-column."),
    ] = None,
    readers: Annotated[
        list[Path] | None,
        typer.Option(
            help="Table of what people call the test images: a column reader, or one for each "
            "reader. Repeatable."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="runs/MODEL-on-DATA")
    ] = None,
    replace: Replace = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, and compute nothing.")
    ] = False,
    json: JSON = False,
    quiet: Quiet = False,
    track: Track = None,
    **options: object,
) -> None:
    """Measure a model on your images, clean and under shifts.

    The same command continues an interrupted evaluation.

    Examples:
        fairweather evaluate torchvision:resnet18 folder:photos
        fairweather evaluate model.pt folder:photos --architecture timm:resnet18
        fairweather evaluate onnx:model.onnx folder:photos --shift imagenet_c
        fairweather evaluate predictions:answers.csv
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("mean", "std"):
        if name in given:
            given[name] = _read_channels(f"--{name}", str(given[name]))
    for name in ("classes", "findings"):
        if name in given:
            given[name] = _read_names(f"--{name}", str(given[name]))
    check_options(given)
    models = _name_models([model, *(more or ())])
    given_sources = models.values() if isinstance(models, dict) else models
    if data is None and not all(source.startswith("predictions:") for source in given_sources):
        raise InputError(
            f"name the data set that {model} is measured on; only predictions:FILE needs none"
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
        models if more or isinstance(models, dict) else model,
        data,
        shift or QUICK,
        given,
        labels=labels,
        readers=readers,
    )
    check_tracking(track)
    with resumable(), progress(quiet=quiet) as show:
        if dry_run:
            outlook = plan_evaluation(request, out, progress=show)
        else:
            finished = run_request(request, out, replace=replace, progress=show)
    if dry_run:
        typer.echo(outlook.to_json() if json else str(outlook))
        suggest("the same command without --dry-run", quiet=quiet or json)
        return
    typer.echo("\n" + finished.overview() + "\n")
    from fairweather.requests.evaluation.models import ModelRequest
    from fairweather.types.record import VAL

    lacking = VAL not in finished.record.data.digests and not quiet
    if lacking and isinstance(request, ModelRequest) and request.takes_validation_fraction():
        lack = "estimate and predict need validation images: add --validation-fraction 0.5"
        typer.echo(f"note    {lack}", err=True)
    print_places(finished.path, track, quiet=quiet)


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


def _read_names(option: str, text: str) -> list[str]:
    """The names of classes or findings: the lines of a file, or what stands between commas."""
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
        raise InputError(f"{option}: {text} is not a text file in UTF-8") from None


def _read_channels(option: str, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise InputError(f"{option} takes three numbers, as in 0.5,0.5,0.5, found {text!r}")
    return numbers
