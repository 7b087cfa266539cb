"""One page over all runs below a folder: a table, and two of its rows beside each other."""

from __future__ import annotations

import csv
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

from fairweather.errors import InputError, check_path, check_writable, describe_os_error
from fairweather.report.contents import SCORING_STEP, Sweep, make_sweep
from fairweather.report.facts import flatten_facts
from fairweather.report.page.shell import (
    make_environment,
    pack_json,
    read_own_file,
    read_script,
    write_policy,
)
from fairweather.report.tables import format_signed
from fairweather.runs.folder import RunFolder, open_finished_run, write_atomically
from fairweather.types.measurement import MULTILABEL, Score
from fairweather.types.record import (
    ALL,
    CLEAN,
    IMAGE,
    MEAN,
    NO_LEVEL,
    PAGE,
    RECORD,
    SCORES,
    SPREAD,
    SUMMARY_SEEDS,
    TEST,
    RunRecord,
    base_model,
    list_whole_units,
)

MARK = "fairweather view"  # in the page, so that no other file is replaced
INDEX = "index.html"
ACCURACY, GAP = "accuracy", "confidence_gap"
# What a run of findings has in their place.
OF_FINDINGS = {"auc": ACCURACY, "probability_gap": GAP}

# ---------------------------------------------------------------- what is listed


class Place(NamedTuple):
    """Test images, with the accuracy and confidence − accuracy of a model on them.

    Of several findings an image, these are their mean AUC and mean probability − prevalence.
    """

    title: str
    accuracy: Score | None
    gap: Score | None


@dataclass(frozen=True)
class ModelRow:
    """A model of a run.

    Attributes:
        name, title: as in the record.
        is_variant: whether it is a variant of another model, such as with temperature scaling.
        seeds: how many it was trained with.
        clean, worst: on clean images, and at the level of a shift where its accuracy is lowest.
        means: for each shift the mean over its levels, and that over all shifts.
    """

    name: str
    title: str
    is_variant: bool
    seeds: int
    clean: Place
    worst: Place | None
    means: Sequence[Place]


@dataclass(frozen=True)
class ListedRun:
    """A run folder as the page lists it.

    Attributes:
        path: its folder.
        trouble: one sentence where it has no numbers to show; otherwise empty.
        record: None where it cannot be read.
        shifts: titles of its shifts.
        rows: one for each model and variant.
    """

    path: Path
    trouble: str = ""
    record: RunRecord | None = None
    shifts: Sequence[str] = ()
    rows: Sequence[ModelRow] = ()

    @property
    def title(self) -> str:
        """Its title, or its folder where the record cannot be read."""
        return (self.record.title or self.record.name) if self.record else self.path.name

    @property
    def of_findings(self) -> bool:
        """Whether its images have several findings."""
        return self.record is not None and self.record.data.task == MULTILABEL

    @property
    def area_title(self) -> str:
        """What stands in place of accuracy; empty where that is accuracy."""
        if not self.of_findings or self.record is None:
            return ""
        return "AUC" if len(self.record.data.classes) == 1 else "mean AUC"

    @property
    def time(self) -> str:
        """When it was begun; empty where that is unknown."""
        return self.record.provenance.time if self.record else ""


def find_runs(folder: Path) -> Iterator[Path]:
    """Find run folders, also behind links; nothing inside of a run is searched."""
    seen = set()
    for root, inner, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        is_run = RECORD in files
        if place not in seen and is_run:
            yield Path(root)
        # A link may lead back to where it is.
        inner[:] = [] if is_run or place in seen else sorted(n for n in inner if n[0] != ".")
        seen.add(place)


def read_run(path: Path) -> ListedRun:
    """Read what the page shows of a run; a run that cannot be read has one sentence instead."""
    record = None
    try:
        run = open_finished_run(path)
        record = run.record
        if not run.file(SCORES).is_file():
            raise InputError(f"Not finished. To continue: {record.provenance.command}")
        sweeps = [make_sweep(sweep) for sweep in record.sweeps]
        rows = tuple(_make_rows(record, sweeps, _read_scores(run)))
    except InputError as error:
        return ListedRun(path, str(error), record)
    except OSError as error:
        return ListedRun(path, describe_os_error(error))
    return ListedRun(path, "", record, tuple(sweep.title for sweep in sweeps), rows)


# Metric, model, shift, level and seed.
ScorePlace = tuple[str, str, str, str, str]


def _read_scores(run: RunFolder) -> dict[ScorePlace, Score]:
    """Read accuracy and its gap to the confidence: a few of the thousands of rows of scores.csv."""
    names = OF_FINDINGS if run.record.data.task == MULTILABEL else {ACCURACY: ACCURACY, GAP: GAP}
    path, step = run.file(SCORES), run.step(SCORING_STEP)
    if step is not None and step.files.get(SCORES) != run.checksum(SCORES):
        raise InputError(f"{path} was changed after the run wrote it.")
    try:
        head, *lines = path.read_text(encoding="utf-8").split("\n")
        # Many times faster than to parse every row.
        kept = [line for line in lines if any(f",{name}," in line for name in names)]
        rows = [row for row in csv.DictReader([head, *kept]) if row["metric"] in names]
        whole = list_whole_units(row.get("unit") or IMAGE for row in rows)
        return {
            (names[row["metric"]], row["model"], row["shift"], row["level"], row["seed"]): Score(
                float(row["value"] or "nan"),
                float(row["low"] or "nan"),
                float(row["high"] or "nan"),
                int(row["n"]),
            )
            for row in reversed(rows)  # the first of several units is that of whole images
            if (row.get("unit") or IMAGE) in whole
        }
    except (ValueError, LookupError, TypeError, csv.Error):
        raise InputError(f"{path} is not a table of scores.") from None


def _make_rows(
    record: RunRecord, sweeps: Sequence[Sweep], scores: Mapping[ScorePlace, Score]
) -> Iterator[ModelRow]:
    titles = {name: model.title for name, model in record.models.items()} | record.variants
    seeds: dict[str, list[str]] = {}
    for _, model, _, _, seed in reversed([*scores]):
        if seed != SPREAD and seed not in seeds.setdefault(model, []):
            seeds[model].append(seed)
    tested = [sweep for sweep in sweeps if not sweep.is_attack] or sweeps
    for model, own in seeds.items():
        shown = MEAN if MEAN in own else own[0]

        def place(
            title: str, shift: str, level: str, model: str = model, seed: str = shown
        ) -> Place:
            at = (model, shift, level, seed)
            return Place(title, scores.get((ACCURACY, *at)), scores.get((GAP, *at)))

        levels = [
            place(f"{sweep.title}, {sweep.spelled(level)}", sweep.name, level)
            for sweep in tested
            for level in sweep.cells
        ]
        known = [at for at in levels if at.accuracy and not math.isnan(at.accuracy.value)]
        means = [place(f"{sweep.title}, mean", sweep.name, MEAN) for sweep in sweeps]
        yield ModelRow(
            model,
            titles.get(model, model),
            base_model(model) != model,
            len(set(own) - {*SUMMARY_SEEDS}),
            place("Clean images", CLEAN, NO_LEVEL),
            min(known, key=lambda at: at.accuracy.value if at.accuracy else math.inf, default=None),
            [*means, place("All shifts, mean", ALL, MEAN)],
        )


# ---------------------------------------------------------------- the page


def view(folder: str | Path = "runs", out: str | Path | None = None) -> Path:
    """Write one page that lists all runs below a folder; returns its path.

    The table can be sorted and filtered, two rows can be compared, and each run links to its own
    page. Links are relative: move or serve the folder with the page in it.

    Args:
        folder: where runs are searched.
        out: the page to write; `index.html` in the folder by default.

    Raises:
        InputError: no runs are there, or the file exists and is not such a page.

    >>> view("no/such/folder")
    Traceback (most recent call last):
    fairweather.errors.InputError: there is no folder no/such/folder; name the folder that has your
    runs
    """
    folder = Path(check_path(folder, "the folder of runs"))
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; name the folder that has your runs")
    if (folder / RECORD).exists():
        raise InputError(
            f"{folder} is a run; name the folder that it is in, such as {folder.parent}"
        )
    place = folder / INDEX if out is None else Path(check_path(out, "out"))
    check_writable(place.parent)
    if place.exists() and not (place.is_file() and MARK.encode() in place.read_bytes()[:1000]):
        raise InputError(
            f"{place} is there and was not written by {MARK}; name another file: --out"
        )
    runs = sorted(map(read_run, find_runs(folder)), key=lambda run: run.time, reverse=True)
    if not runs:
        raise InputError(f"there are no runs below {folder}; fairweather demo makes one")
    write_atomically(place, render_runs(runs, folder, place).encode(errors="backslashreplace"))
    return place


def render_runs(runs: Sequence[ListedRun], folder: Path, place: Path) -> str:
    """Fill the template of the page that lists runs; everything from a run is escaped."""
    script = read_script("runs.js")
    style = read_own_file("style.css") + read_own_file("runs.css")
    carried = {
        "runs": [_describe_run(run) for run in runs],
        "rows": [_describe_row(run, at, row) for at, run in enumerate(runs) for row in run.rows],
    }
    return (
        make_environment()
        .get_template("runs.html.j2")
        .render(
            folder=_show_path(folder),
            mark=MARK,
            format_signed=format_signed,
            runs=[
                (run, _find_link(run, place), _show_path(run.path.relative_to(folder)))
                for run in runs
            ],
            data=sorted({run.record.data.name for run in runs if run.record}),
            shifts=sorted({title for run in runs for title in run.shifts}),
            variants=any(row.is_variant for run in runs for row in run.rows),
            policy=write_policy([script]),
            style=Markup(style),  # nosec B704 # files of this package
            payload=Markup(pack_json(carried)),  # nosec B704 # letters and digits: base64
            script=Markup(script),  # nosec B704 # a file of this package
        )
    )


def _find_link(run: ListedRun, place: Path) -> str:
    """The address of a run's own page, from this page on; empty where there is none."""
    page = run.path / PAGE
    if not page.is_file():
        return ""
    # A colon would be the end of a scheme, such as `javascript:`.
    return quote(os.fsencode(os.path.relpath(page, place.parent).replace(os.sep, "/")))


def _show_path(path: Path) -> str:
    return os.fsencode(path).decode(errors="replace")


def _describe_run(run: ListedRun) -> dict[str, Any]:
    """What the script knows of a run: its shifts and data for the filter, its settings."""
    if run.record is None:
        return {"data": "", "shifts": [], "facts": {}}
    record = run.record.model_dump(mode="json")
    del record["provenance"]["time"], record["models"], record["sweeps"]
    record["data"]["classes"] = len(record["data"]["classes"])
    record["shifts"] = {
        sweep.name: [cell.level for cell in sweep.cells] for sweep in run.record.sweeps
    }
    return {
        "data": run.record.data.name,
        "shifts": run.shifts,
        "facts": dict(flatten_facts(record)),
        "images": run.record.data.digests.get(TEST),
    }


def _describe_row(run: ListedRun, at: int, row: ModelRow) -> dict[str, Any]:
    """What the script shows of a row beside another: its numbers, and the settings of its model."""
    model = run.record.models.get(base_model(row.name)) if run.record else None
    places = [row.clean, *row.means]
    worst = row.worst or Place("", None, None)
    return {
        "run": at,
        "model": row.title,
        "title": f"{row.title} ({_show_path(run.path)})",
        "variant": row.is_variant,
        "facts": dict(flatten_facts({"model": {**model.settings, **model.facts}})) if model else {},
        "compared": shlex.quote(f"{_show_path(run.path)}:{row.name}"),
        "worst": worst.title,
        "numbers": {
            place.title: [_list_numbers(place.accuracy), _list_numbers(place.gap)]
            for place in (*places, worst._replace(title="Worst level"))
        },
    }


def _list_numbers(score: Score | None) -> list[float | None] | None:
    return score and [number if math.isfinite(number) else None for number in score[:3]]
