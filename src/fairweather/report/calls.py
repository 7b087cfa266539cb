"""Calls of a finding at its operating points, and the rates of each slice, such as a site."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from fairweather.report import sentences as words
from fairweather.report.contents import Contents, ensembles_as_models
from fairweather.report.front import Row, make_mark
from fairweather.report.joint_runs import join_scores
from fairweather.report.operating_points import DEFAULT, RateRow, compare_all_slices
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.types.kinds import FINDINGS, OF_FINDING
from fairweather.types.measurement import Score
from fairweather.types.operating_points import POINT_SIGN, RATES, parse_threshold
from fairweather.types.record import CLEAN, ENSEMBLE_SUFFIX, NO_LEVEL, slice_label


class OperatingPoint(NamedTuple):
    """Where a finding is called: from a threshold on, which is given or chosen for a target."""

    at: str
    """What names of metrics have after `@`, such as `0.3` or `sensitivity=0.95`; "" for 0.5."""

    @property
    def title(self) -> str:
        """How a sentence names it.

        >>> OperatingPoint("0.3").title, OperatingPoint("sensitivity=0.95").title
        ('at 0.3', 'at a target sensitivity of 0.95')
        """
        kind, _, target = self.at.partition("=")
        return f"at a target {kind} of {target}" if target else f"at {self.at or 0.5}"

    @property
    def short(self) -> str:
        """What a chart writes beside it.

        >>> OperatingPoint("0.3").short, OperatingPoint("sensitivity=0.95").short
        ('0.3', 'sens. 0.95')
        """
        kind, _, target = self.at.partition("=")
        return f"{kind[:4]}. {target}" if target else self.at or "0.5"

    def metric(self, kind: str) -> str:
        """The name of a metric there, as in scores.csv."""
        return f"{kind}{POINT_SIGN}{self.at}" if self.at else kind

    def threshold(self, view: Contents, model: str, seed: str | None = None) -> float | None:
        """The probability from which on the finding is called; None where none was chosen."""
        if not self.at:
            return 0.5
        given = parse_threshold(self.at)
        chosen = known(view.score(f"threshold{POINT_SIGN}{self.at}", model, CLEAN, NO_LEVEL, seed))
        return given if chosen is None else chosen.value


def split_by_finding(contents: Contents) -> Mapping[str, Contents]:
    """The scores of each finding by its name."""
    if not contents.runs or FINDINGS not in contents.kinds:
        return {}
    tables = {label: ensembles_as_models(run.unit_scores) for label, run in contents.runs.items()}
    rows = join_scores(tables) if len(tables) > 1 else next(iter(tables.values()))
    return {
        str(unit).removeprefix(OF_FINDING): replace(
            contents, scores=own.drop(columns="unit").reset_index(drop=True)
        )
        for unit, own in rows.groupby("unit", sort=False)
        if str(unit).startswith(OF_FINDING)
    }


def read_points(view: Contents) -> list[OperatingPoint]:
    """The operating points of a finding: those that were asked for, and then 0.5."""
    start = f"sensitivity{POINT_SIGN}"
    asked = [name for name in view.scores["metric"].unique() if str(name).startswith(start)]
    return [OperatingPoint(str(name).removeprefix(start)) for name in asked] + [OperatingPoint("")]


def known(score: Score | None) -> Score | None:
    """A score with a value, or None."""
    return None if score is None or math.isnan(score.value) else score


def seed_of_scores(model: str, seed: str) -> str | None:
    """The seed of a model's predictions as scores name it; None for an ensemble."""
    return None if model.endswith(ENSEMBLE_SUFFIX) else seed


def read_calls(
    view: Contents, model: str, shift: str, level: str, point: OperatingPoint
) -> tuple[Score, Score] | None:
    """Sensitivity and specificity at a point; None where one of them is unknown."""
    first, second = (known(view.score(point.metric(kind), model, shift, level)) for kind in RATES)
    return (first, second) if first and second else None


class PointMark(NamedTuple):
    """Where an operating point is on the curves, of the seed that they are of."""

    title: str
    false: float
    """1 − specificity."""

    sensitivity: float
    ppv: float | None
    threshold: float | None


def mark_points(view: Contents, model: str, shift: str, level: str) -> list[PointMark]:
    """Find where the operating points of a finding are on its curves."""
    seed, marks = seed_of_scores(model, view.seeds_of(model)[0]), []
    for point in read_points(view):
        right, absent, ppv = (
            known(view.score(point.metric(kind), model, shift, level, seed))
            for kind in (*RATES, "ppv")
        )
        if right and absent:
            marks.append(
                PointMark(
                    point.short,
                    round(1 - absent.value, 4),
                    round(right.value, 4),
                    ppv and round(ppv.value, 4),
                    point.threshold(view, model, seed),
                )
            )
    return marks


# ---------------------------------------------------------------- slices, such as sites


def describe_slices(column: str, rows: Sequence[RateRow]) -> Iterator[str]:
    """Say of each rate where it is lowest and highest, and whether a test confirms that.

    Nothing is said of a rate whose extremes round alike.
    """
    for kind in RATES:
        own = sorted(
            (row.score.value, _name_slice(column, row), row.p) for row in rows if row.rate == kind
        )
        if len(own) > 1 and (said := words.describe_rates(kind, own[0][:2], own[-1][:2])):
            yield said
            yield words.describe_rate_test(kind, column, own[0][2])


def _name_slice(column: str, row: RateRow) -> str:
    return row.slice.removeprefix(slice_label(column, ""))


def _list_slices(column: str, rows: Sequence[RateRow]) -> list[Row]:
    """The rates of each slice, with the images that each is a share of."""
    by_slice: dict[str, dict[str, Score]] = {}
    for row in rows:
        by_slice.setdefault(_name_slice(column, row), {})[row.rate] = row.score
    listed = []
    for name, rates in by_slice.items():
        known = zip(("with", "without"), map(rates.get, RATES), strict=True)
        images = ", ".join(f"{score.n if score else 0:,} {side} it" for side, score in known)
        listed.append(Row(name, images, [make_mark(kind, rates.get(kind)) for kind in RATES]))
    return listed


def _show_slices(contents: Contents, _: Tables) -> PartView | None:
    """Show the calls of one finding in the slices, where there is no other."""
    views = contents.once(split_by_finding)
    if len(views) != 1:
        return None
    point = read_points(*views.values())[0]
    shown: dict[str, dict[str, object]] = {}
    for column, rows in contents.once(compare_all_slices).items():
        for model in contents.titles:
            own = [row for row in rows if (row.model, row.point) == (model, point.at or DEFAULT)]
            if own:
                said = [*describe_slices(column, own)]
                made = {"rows": _list_slices(column, own), "said": said}
                shown.setdefault(model, {})[column] = made
    if not shown:
        return None
    return PartView(
        template="hurt.html.j2",
        facts={
            "nouns": list(dict.fromkeys(column for own in shown.values() for column in own)),
            "note": "Clean images. Tables under Details have the same with intervals.",
        },
        carried={"hurt": shown, "divided": make_heads(point)},
    )


def make_heads(point: OperatingPoint) -> dict[str, object]:
    """What stands above a chart of calls, and the column and the name of each kind of mark."""
    head = f"{point.title[:1].upper()}{point.title[1:]}"
    return {"head": head, "kinds": {kind: [at, kind] for at, kind in enumerate(RATES)}}


SLICES_OF_ONE = ReportPart(_show_slices, accepts=FINDINGS)
