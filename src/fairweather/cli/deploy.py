"""Answers that one may use: predict with a promised risk, and save a guard that does so."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fairweather.cli.options import (
    UNLIKE,
    DataArgument,
    DataRoot,
    Device,
    ModelArgument,
    Offline,
    Quiet,
    progress,
    suggest,
    suggest_measuring,
    takes,
)
from fairweather.errors import InputError
from fairweather.progress import Event, Notify
from fairweather.types.options import (
    GroupColumns,
    ImageOptions,
    check_limits,
    parse_share,
    read_share,
)
from fairweather.types.unit_words import name_all_units

if TYPE_CHECKING:
    from fairweather.deploy.guard import (
        Answers,
        FindingsAnswers,
        FindingsGuard,
        Guard,
        Likeness,
    )
    from fairweather.deploy.promise import JudgedUnit, LimitFit
    from fairweather.steps.run_model import NewImages

BATCH_SIZE = 256  # images that are answered at once

Risk = Annotated[
    str | None,
    typer.Option(help="Maximum error rate of the answers, such as 5% or 0.05.", show_default=False),
]
Missed = Annotated[
    list[str] | None,
    typer.Option(
        help="Maximum share of answered images of a class or finding that may be missed: "
        "'melanoma: 1%', or 1% for each. Repeatable.",
        show_default=False,
    ),
]
FalseAlarms = Annotated[
    list[str] | None,
    typer.Option(
        help="Maximum share of false alarms among answered images without a finding: "
        "'Effusion: 10%', or 10% for each. Repeatable.",
        show_default=False,
    ),
]
Confidence = Annotated[
    str | None,
    typer.Option(help="Probability that all limits hold together.", show_default="95%"),
]
Coverage = Annotated[
    str | None,
    typer.Option(
        help="Share of images whose prediction set contains the right class.", show_default="90%"
    ),
]

Weighing = Annotated[
    str | None,
    typer.Option(
        help="What counts equally if images belong together: groups or images.",
        show_default="groups",
    ),
]


@takes(ImageOptions)
def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="RUN[:MODEL[:SEED]]", help="Run folder, one model of it, or a saved guard."
        ),
    ],
    data: DataArgument,
    risk: Risk = None,
    missed: Missed = None,
    false_alarms: FalseAlarms = None,
    confidence: Confidence = None,
    coverage: Coverage = None,
    weigh: Weighing = None,
    out: Annotated[Path, typer.Option(help="Table to write: .csv or .parquet.")] = Path(
        "predictions.csv"
    ),
    replace: Annotated[bool, typer.Option("--replace", help="Replace the table.")] = False,
    metadata: Annotated[
        Path | None,
        typer.Option(
            help="Table with a row for each image, if patients are judged: file, patient.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    offline: Offline = False,
    quiet: Quiet = False,
    **options: Any,  # noqa: ANN401 - those of `ImageOptions`
) -> None:
    """Predict with a bounded error rate, and leave uncertain images to a person.

    The table has a row for each image: class, confidence, answer or defer, and possible classes.
    Of several findings an image, each has a column: present, absent or review. If the images differ
    from the validation images, it warns, also in the table, and ends with status 4.

    Examples:
        fairweather predict runs/mine images:new --risk 5%
        fairweather predict runs/mine images:new --risk 5% --missed 'melanoma: 1%'
        fairweather predict guards/mine images:new --out answers.csv
    """
    shares = _read_shares(risk, confidence, coverage)
    limits = _read_limits(missed, false_alarms)
    check_limits(asked := ImageOptions(**options))
    if out.exists() and not replace:
        raise InputError(f"{out} exists: name another file (--out), or replace it (--replace)")
    from fairweather.deploy.answer_table import write_answers
    from fairweather.deploy.guard import FindingsGuard
    from fairweather.deploy.loading import load_guard
    from fairweather.deploy.promise import FindingsGuardRecord
    from fairweather.deploy.units import list_patients
    from fairweather.steps.run_model import open_images

    with progress(quiet=quiet) as show:
        guard = load_guard(
            model,
            **shares,
            missed=limits.get("missed"),
            false_alarms=limits.get("false_alarms"),
            weigh=weigh,
            device=device,
            data_root=asked.root,
            offline=offline,
        )
        record = guard.record
        asked = dataclasses.replace(asked, scale=asked.scale or record.scale)
        positive = record.positive if isinstance(record, FindingsGuardRecord) else None
        new = open_images(
            data,
            record.classes,
            record.preparation,
            asked,
            positive=positive,
            groups=_patient_columns(record.judged, metadata),
            offline=offline,
            progress=show,
        )
        parts, likeness = _answer_images(guard, new, show)
        if record.judged is not None:
            new = list_patients(new, record.judged)
    unit = None if record.judged is None else record.judged.unit
    write_answers(out, new.images, parts, unlike=likeness.unlike, unit=unit)
    for line in _summary_lines(guard, new, parts, likeness):
        typer.echo(line)
    typer.echo(f"{'table':<11}{out}")
    if likeness.unlike:
        run = model if {**shares, **limits} else "RUN"
        labelled = "" if record.judged is None else "csv:LABELLED"
        if isinstance(record, FindingsGuardRecord):
            names = "" if record.positive else f",findings={'|'.join(record.classes)}"
            labelled = f"csv:LABELLED{names}"
        suggest_measuring(run, labelled, quiet=quiet)
        raise typer.Exit(UNLIKE)
    deferred = "findings with review" if isinstance(guard, FindingsGuard) else "rows with defer"
    suggest(f"open {{}}: the {deferred} need a person", out, quiet=quiet)


def guard(
    model: ModelArgument,
    folder: Annotated[Path, typer.Argument(metavar="GUARD", help="New or empty folder.")],
    risk: Risk = None,
    missed: Missed = None,
    false_alarms: FalseAlarms = None,
    confidence: Confidence = None,
    coverage: Coverage = None,
    weigh: Weighing = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            help="Also write an ONNX file, which takes 8-bit images.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the guard.")] = False,
    data_root: DataRoot = None,
    device: Device = "auto",
    offline: Offline = False,
    quiet: Quiet = False,
) -> None:
    """Save a model with its error limit as a folder that a service can load.

    The folder has weights and JSON, no code. In Python, `fairweather.load_guard` opens it.

    Examples:
        fairweather guard runs/mine guards/mine --risk 5%
        fairweather guard runs/mine guards/mine --risk 5% --onnx guard.onnx
    """
    shares, limits = _read_shares(risk, confidence, coverage), _read_limits(missed, false_alarms)
    if "risk" not in shares and not limits:
        raise InputError(
            "say which risk the guard keeps, such as --risk 5%, or --missed 'CLASS: 1%'"
        )
    if onnx is not None and onnx.exists() and not replace:
        raise InputError(f"--onnx: {onnx} exists: name another file, or use --replace")
    from fairweather.deploy.loading import make_promise
    from fairweather.deploy.making import (
        add_limits,
        check_asked,
        check_new_folder,
        make_guard,
        save_guard,
        save_onnx,
    )
    from fairweather.steps.run_model import open_run_model

    promise = make_promise(**{"risk": None, **shares}, weigh=weigh)
    check_new_folder(folder, replace=replace)
    reopened = open_run_model(model, offline=offline)
    check_asked(reopened, weigh, shares.get("coverage"))
    promise = add_limits(promise, reopened, **limits)
    made = make_guard(reopened, promise, device=device, root=data_root, offline=offline)
    save_guard(made, reopened, folder, replace=replace)
    if onnx is not None:
        save_onnx(made, reopened, onnx)
    for line in _promise_lines(made):
        typer.echo(line)
    typer.echo(f"{'guard':<11}{folder}")
    if onnx is not None:
        typer.echo(f"{'onnx':<11}{onnx}")
    suggest("fairweather predict {} images:FOLDER", folder, quiet=quiet)


def _read_shares(
    risk: str | None, confidence: str | None, coverage: str | None
) -> dict[str, float]:
    """The shares that were given, by name; raises `InputError` for what is none."""
    given = {"risk": risk, "confidence": confidence, "coverage": coverage}
    return {name: read_share(text, f"--{name}") for name, text in given.items() if text is not None}


def _read_limits(
    missed: list[str] | None, false_alarms: list[str] | None
) -> dict[str, dict[str, float] | float]:
    """The limits that were given, by the name of the argument in Python."""
    given = {"missed": missed, "false_alarms": false_alarms}
    return {
        name: read_limits(texts, f"--{name.replace('_', '-')}")
        for name, texts in given.items()
        if texts
    }


def read_limits(texts: list[str], option: str) -> dict[str, float] | float:
    """Read the limits of classes by name, or one for every class.

    >>> read_limits(["melanoma: 1%", "nevus: 0.05"], "--missed"), read_limits(["1%"], "--missed")
    ({'melanoma': 0.01, 'nevus': 0.05}, 0.01)
    """
    if len(texts) == 1 and parse_share(texts[0]) is not None:
        return read_share(texts[0], option)
    limits = dict[str, float]()
    for text in texts:
        name, _, written = text.rpartition(":")
        share, name = parse_share(written), name.strip()
        if share is None or not name:
            raise InputError(
                f"{option} must be a name and a share such as 'melanoma: 1%', or one share for "
                f"every class or finding, found {text!r}"
            )
        if name in limits:
            raise InputError(f"{option} names {name!r} twice")
        limits[name] = share
    return limits


def _patient_columns(judged: JudgedUnit | None, metadata: Path | None) -> GroupColumns | None:
    """The column with the patient of each image; None for a guard that answers images."""
    if judged is None and metadata is not None:
        raise InputError(
            "--metadata says which patient an image is of, and this guard answers images: leave it "
            "out"
        )
    place = None if metadata is None else str(metadata)
    return None if judged is None else GroupColumns(place, judged.unit)


def _answer_images(
    guard: Guard | FindingsGuard, new: NewImages, show: Notify
) -> tuple[list[Any], Likeness]:
    """The answers to all images, batch by batch, and whether the images are like validation's."""
    import numpy as np

    from fairweather.deploy.guard import GuardOutputs
    from fairweather.deploy.units import name_patients
    from fairweather.metrics.two_sample import MOST_IMAGES

    images, parts, logits, features = new.images, list[Any](), [], []
    n = len(images)
    # Features of many images would need much memory, and no more of them are compared.
    drawn = np.zeros(n, dtype=bool)
    drawn[np.random.default_rng(0).permutation(n)[:MOST_IMAGES]] = True
    judged = guard.record.judged
    for start in range(0, n, BATCH_SIZE):
        seen = guard.see(images.images[start : start + BATCH_SIZE])
        if judged is None:
            parts.append(guard.answers(seen))
        logits.append(seen.logits)
        if seen.features is not None:
            features.append(seen.features[drawn[start : start + BATCH_SIZE]])
        show(Event("predict", min(start + BATCH_SIZE, n), n))
    kept = np.concatenate(features) if features else None
    outputs = GuardOutputs(np.concatenate(logits), kept)
    if judged is not None:
        outputs = guard.join(outputs, name_patients(new, judged).tolist())
        parts = [guard.answers(outputs)]
    return parts, guard.likeness(outputs)


def _summary_lines(
    guard: Guard | FindingsGuard,
    new: NewImages,
    parts: list[Any],
    likeness: Likeness,
) -> list[str]:
    """What a person reads first: how many are deferred, what is promised, and the warning."""
    from fairweather.deploy.guard import FindingsAnswers

    compared = f"{'WARNING' if likeness.unlike else 'compared':<11}{likeness}"
    limits = guard.record.fit.limits
    if isinstance(parts[0], FindingsAnswers):
        counts, labels = _count_findings(new, parts, limits)
    else:
        counts, labels = _count_answers(new, parts, limits)
    lines = [*counts, *_promise_lines(guard)]
    lines.insert(0 if likeness.unlike else len(lines), compared)
    lines += labels if new.labelled else []
    judged = guard.record.judged
    if judged is None:
        return lines
    rows = f"{judged.aggregation.plural:<11}"
    lines = [line.replace(f"{'images':<11}", rows) for line in lines]
    return name_all_units(lines, judged.aggregation)


def _count_answers(
    new: NewImages, parts: list[Answers], limits: Sequence[LimitFit]
) -> tuple[list[str], list[str]]:
    """How many images are deferred, and how many answers are wrong by their labels."""
    import numpy as np

    answered = np.concatenate([answers.answered for answers in parts])
    predicted = np.concatenate([answers.probabilities.argmax(axis=1) for answers in parts])
    n, count = len(answered), int(answered.sum())
    first = f"{n:,} of {new.name}: {count:,} answered, {n - count:,} deferred"
    truth = new.images.labels.numpy()
    wrong = (predicted != truth) & answered
    said = f"by the labels of these images {_wrong_words(int(wrong.sum()), count)}"
    labels = [f"{'labels':<11}{said}"]
    for limit in limits:
        among = answered & (truth == new.images.classes.index(limit.name))
        labels.append(_limit_words(limit, int((among & wrong).sum()), int(among.sum())))
    return [f"{'images':<11}{first} ({_percent(1 - count / n)})"], labels


def _count_findings(
    new: NewImages, parts: list[FindingsAnswers], limits: Sequence[LimitFit]
) -> tuple[list[str], list[str]]:
    """How many images have each finding or are for review, and how many answers are wrong."""
    import numpy as np

    from fairweather.types.measurement import UNKNOWN

    present = np.concatenate([answers.present for answers in parts])
    answered = np.concatenate([answers.answered for answers in parts])
    n, names = len(answered), parts[0].findings
    several = f"{len(names):,} findings each" if len(names) > 1 else "one finding each"
    counts = [f"{'images':<11}{n:,} of {new.name}, with {several}"]
    labels = []
    for column, name in enumerate(names):
        sure, there = answered[:, column], present[:, column]
        have = int((sure & there).sum())
        review = n - int(sure.sum())
        counts.append(
            f"{'answers':<11}{name}: {have:,} present, {n - have - review:,} absent, {review:,} "
            f"for review ({_percent(review / n)})"
        )
        if new.labelled:
            truth = new.images.labels.numpy()[:, column]
            judged = sure & (truth != UNKNOWN)
            wrong = judged & (there != (truth == 1))
            said = f"{name}: by the labels {_wrong_words(int(wrong.sum()), int(judged.sum()))}"
            labels.append(f"{'labels':<11}{said}")
            for limit in (own for own in limits if own.name == name):
                among = sure & (truth == (limit.kind == "missed"))
                labels.append(_limit_words(limit, int((among & wrong).sum()), int(among.sum())))
    return counts, labels


def _limit_words(limit: LimitFit, wrong: int, count: int) -> str:
    from fairweather.deploy.promise import AMONG, LIMIT_WORDS

    said = f"by the labels {wrong:,} of {count:,} answered images {AMONG[limit.kind]} {limit.name}"
    return f"{'labels':<11}{said} are {LIMIT_WORDS[limit.kind]}"


def _wrong_words(wrong: int, count: int) -> str:
    share = f", {_percent(wrong / count)} of the answers" if count else ""
    return f"{wrong:,} answers are wrong{share}"


def _percent(share: float) -> str:
    from fairweather.deploy.promise import format_percent

    return format_percent(share)


def _promise_lines(guard: Guard | FindingsGuard) -> list[str]:
    """What is promised, what it rests on, and what the run's test images keep of it."""
    lines, judged = guard.record.lines(), guard.record.judged
    said = [f"{name:<11}{text}" for name, text in lines.items()]
    return said if judged is None else name_all_units(said, judged.aggregation)
