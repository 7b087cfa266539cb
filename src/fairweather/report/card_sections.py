"""The sections of a model card in plain words: the sentences of the page, for one model.

The sections follow Mitchell et al. 2019 (Model Cards for Model Reporting), the Applied Model Card
of the Coalition for Health AI, and what CLAIM 2024 and TRIPOD+AI ask of a test of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fairweather.report import costs, findings, front, hurt, readers, review
from fairweather.report import sentences as words
from fairweather.report.aggregation import describe_aggregation
from fairweather.report.calls import (
    OperatingPoint,
    describe_slices,
    known,
    read_calls,
    read_points,
    split_by_finding,
)
from fairweather.report.contents import Contents
from fairweather.report.operating_points import DEFAULT, compare_all_slices, describe_targets
from fairweather.report.other_images import describe_choices, list_other_images
from fairweather.report.performance import ModelOutcome
from fairweather.runs.folder import RunFolder
from fairweather.types.kinds import OF_FINDING
from fairweather.types.measurement import Score
from fairweather.types.operating_points import POINT_SIGN, RATES
from fairweather.types.options import Aggregation
from fairweather.types.record import ALL, CLEAN, NO_LEVEL

MOST_NAMED = 5  # names in a sentence
MOST_FINDINGS = 3  # whose calls are told, the most missed first


class Blank(NamedTuple):
    """What a person must add to a card, because no run knows it."""

    label: str
    hint: str


class FailedRule(NamedTuple):
    """A rule that the run is not shown to keep."""

    images: str
    """Which images it is about, as in rules: `clean`, `fog`, `fog=5`."""

    part: str
    """Which of these images, in words such as `an unseen site`; "" for all of them."""

    said: str
    """The rule, and whether it is broken or only not shown to be kept, with the numbers."""


@dataclass(frozen=True)
class CardSource:
    """What a card is written from.

    Attributes:
        contents: of the run, with the model as its only title.
        model: its name.
        rules: those that failed.
    """

    contents: Contents
    model: str
    rules: Sequence[FailedRule] = ()

    @property
    def run(self) -> RunFolder:
        """The run."""
        (run,) = self.contents.runs.values()
        return run

    @property
    def is_trained(self) -> bool:
        """Whether the run trained the model."""
        return self.run.record.kind == "study"

    @property
    def outcome(self) -> ModelOutcome | None:
        """What becomes of the model, where it answers with one class."""
        if self.views:
            return None
        return self.contents.once(front.read_outcomes).get(self.model)

    @property
    def findings_outcome(self) -> findings.FindingsOutcome | None:
        """What becomes of the model, where it answers with findings."""
        return self.contents.once(findings.read_findings).get(self.model)

    @property
    def views(self) -> Mapping[str, Contents]:
        """The scores of each finding; none where images have classes."""
        return self.contents.once(split_by_finding)


class CardSection(NamedTuple):
    """A section of a card: what its heading asks, how it is answered, and what a person adds."""

    heading: str
    describe: Callable[[CardSource], Iterator[str]] = lambda _: iter(())
    blanks: tuple[Blank, ...] = ()


def _list_names(names: Sequence[str]) -> str:
    """Write names inside a sentence; of many, the first few.

    >>> _list_names(list("abcdefg"))
    'a, b, c, d, e and 2 more'
    """
    more = [f"{len(names) - MOST_NAMED:,} more"] if len(names) > MOST_NAMED else []
    return words.join_words([*names[:MOST_NAMED], *more])


def _count(number: int, noun: str) -> str:
    return Aggregation(noun).count_units(number)


# ---------------------------------------------------------------- what it was tested on


def _describe_test(source: CardSource) -> Iterator[str]:
    contents = source.contents
    data, aggregation = contents.data, contents.aggregation
    run = source.run
    cell = contents.read_cell(source.model, contents.seeds_of(source.model)[0], CLEAN)
    if cell is not None:
        yield f"It was tested on {_count(len(cell.keys), 'image')} of {data.name}."
    if aggregation is not None:
        yield from describe_aggregation(aggregation)
    groups, grouping = run.groups(), contents.grouping
    if grouping is not None and groups is not None and groups.group:
        yield f"They belong to {_count(grouping.count, groups.group)}."
    for column, values in groups.slices.items() if groups else ():
        names, counts = np.unique(values, return_counts=True)
        named = [f"{name} ({count:,})" for name, count in zip(names, counts, strict=True)]
        yield f"By {column}, they are: {_list_names(named)}."
    yield from _describe_classes(source)
    shifts = [sweep.in_sentence for sweep in contents.sweeps if not sweep.is_attack]
    if shifts:
        yield f"It was also tested under {_count(len(shifts), 'shift')}: {_list_names(shifts)}."
    if attacks := [sweep.title for sweep in contents.sweeps if sweep.is_attack]:
        yield f"It was also attacked by {_list_names(attacks)}."
    if natural := run.record.natural:
        yield f"It was also tested on other images of the same classes: {_list_names([*natural])}."
        yield from describe_choices(contents, natural)
    if len(seeds := contents.seeds_of(source.model)) > 1:
        yield f"Each number is the mean over {len(seeds)} trainings with different seeds."


def _describe_classes(source: CardSource) -> Iterator[str]:
    contents = source.contents
    names = contents.classes
    if source.views:
        yield f"It looks for {_count(len(names), 'finding')}: {_list_names(names)}."
        shares = [
            (prevalence.value, name)
            for name, view in source.views.items()
            if (prevalence := known(view.score("prevalence", source.model, CLEAN, NO_LEVEL)))
        ]
        for share, name in sorted(shares)[:1]:
            rarest = ", the rarest finding" if len(shares) > 1 else ""
            yield f"{words.format_share(share)} of the images have “{name}”{rarest}."
        return
    kind = "grade" if contents.data.ordered else "class"
    yield f"It tells {len(names)} {kind}{'e' * (kind == 'class')}s apart: {_list_names(names)}."


# ---------------------------------------------------------------- how often it is right


def _describe_right(source: CardSource) -> Iterator[str]:
    if source.outcome:
        [number, _, *notes], *_ = front.write_tiles(source.contents, source.model)
        yield f"It is right on {number} of the clean images."
        yield from notes
    if by_finding := source.findings_outcome:
        if len(source.views) > 1:
            number, _, interval = words.tile_area(by_finding.means[0], "")
            yield f"Its mean AUC is {number} on clean images."
            yield interval
        areas = findings.list_areas(source.views, source.model, by_finding.places[:1])
        for name, place, area in areas[:MOST_FINDINGS]:
            yield from words.describe_finding(name, place.sentence, area, None, None)
            if len(source.views) == 1:
                yield words.tile_area(area, "")[-1]
        yield findings.TERMS


# ---------------------------------------------------------------- what it misses


def _describe_missed(source: CardSource) -> Iterator[str]:
    calls = _list_finding_calls(source) if source.views else _list_class_calls(source)
    ordered = sorted(calls, key=lambda call: call[2].value)
    for name, where, sensitivity, specificity in ordered[:MOST_FINDINGS]:
        yield words.describe_missed_share(name, where, sensitivity)
        yield words.write_rate_interval(sensitivity, "sensitivity")
        yield words.describe_false_calls(name, specificity)
        yield words.write_rate_interval(specificity, "specificity")
    yield from describe_targets(source.contents)[:MOST_FINDINGS]


Call = tuple[str, str, Score, Score]
"""What is called, where, its sensitivity and its specificity."""


def _list_finding_calls(source: CardSource) -> Iterator[Call]:
    for name, view in source.views.items():
        for point in read_points(view):
            calls = read_calls(view, source.model, CLEAN, NO_LEVEL, point)
            if calls:
                yield name, point.title, *calls


def _list_class_calls(source: CardSource) -> list[Call]:
    """The calls of classes at their operating points; without one, that of the worst class."""
    contents, start = source.contents, f"{RATES[0]}/"
    calls = []
    for metric in contents.scores["metric"].unique():
        if not str(metric).startswith(start):
            continue
        of_class = str(metric).removeprefix(start)
        name, _, at = of_class.partition(POINT_SIGN)
        first, second = (
            known(contents.score(f"{kind}/{of_class}", source.model, CLEAN, NO_LEVEL))
            for kind in RATES
        )
        if first and second:
            where = OperatingPoint(at).title if at else "where it is the most probable class"
            calls.append((bool(at), (name, where, first, second)))
    asked = [call for is_asked, call in calls if is_asked]
    every = sorted((call for _, call in calls), key=lambda call: call[2].value)
    return asked or every[:1]


# ---------------------------------------------------------------- can its probabilities be trusted


def _describe_trust(source: CardSource) -> Iterator[str]:
    contents, model = source.contents, source.model
    if outcome := source.outcome:
        clean, low = outcome.clean, outcome.worst.focus
        if clean.gap is not None and clean.confidence is not None:
            sure = words.format_share(clean.confidence.value)
            line, *doubts = words.describe_sureness(outcome, clean.gap, " on clean images")
            yield f"It is {sure} {line}."
            yield from doubts
            yield from front.describe_class(contents, model, CLEAN)
            if low is not None:
                yield from words.describe_knowledge(outcome, low)
                cell = low.sweep.cells[low.level]
                yield from front.describe_class(contents, model, cell, outcome.worst.searched)
            yield front.TERMS
    every = findings.list_places(contents)
    for places in (every[:1], every[1:]):
        if largest := findings.find_largest_gap(source.views, model, places):
            name, gap, share, at, searched = largest
            area = known(source.views[name].score("auc", model, at.shift, at.level_name))
            yield from words.describe_finding(
                name, at.sentence, area, gap, share, searched=searched
            )
            if len(places) > 1:
                kind = "confirmed " * words.is_confirmed(gap, searched)
                yield f"No other {kind}gap is larger, at any level of a shift."
    where = "on clean images" + ", on average over findings" * (len(source.views) > 1)
    for metric, describe in words.CALIBRATION_NUMBERS.items():
        if score := known(contents.score(metric, model, CLEAN, NO_LEVEL)):
            yield from describe(score, where)


# ---------------------------------------------------------------- where it fails


def _describe_failures(source: CardSource) -> Iterator[str]:
    contents, model = source.contents, source.model
    if outcome := source.outcome:
        if outcome.worst.main:
            yield from words.describe_shifts(outcome.worst.main)
        for parts in hurt.find_worst_parts(contents, model).values():
            yield from parts["said"]
        yield from list_other_images(contents)
    if by_finding := source.findings_outcome:
        areas = findings.list_areas(source.views, model, by_finding.places)
        yield from words.describe_areas([(name, at.sentence, area) for name, at, area in areas])
        if len(by_finding.places) > 1:
            fall = findings.find_largest_fall(source.views, model, by_finding.places[1])
            if fall and len(source.views) > 1:
                yield words.describe_fall(*fall)
        if len(source.views) == 1:
            (view,) = source.views.values()
            yield from findings.describe_falls(view, model, by_finding.places, read_points(view)[0])
        yield from _describe_slices(source)


def _describe_slices(source: CardSource) -> Iterator[str]:
    """Say in which slices a single finding is called worst; of several, the lowest AUC."""
    contents, model = source.contents, source.model
    if len(source.views) > 1:
        areas = [
            (area.value, unit.removeprefix(OF_FINDING), slice_, area)
            for (own, unit, slice_), area in findings.read_slice_areas(contents).items()
            if own == model and unit.startswith(OF_FINDING) and "=" in slice_ and known(area)
        ]
        lowest = sorted(areas)[:1]
        yield from words.describe_areas(
            [(name, f"in {slice_}", area) for _, name, slice_, area in lowest]
        )
        return
    (view,) = source.views.values()
    at = read_points(view)[0].at or DEFAULT
    for column, rows in contents.once(compare_all_slices).items():
        yield from describe_slices(column, [row for row in rows if row.point == at])


def _describe_reviews(source: CardSource) -> Iterator[str]:
    contents, model = source.contents, source.model
    if outcome := source.outcome:
        stops = review.describe_stops(contents, model, outcome)
        yield from stops[review.START]["said"] if stops else ()
    if by_finding := source.findings_outcome:
        stops = findings.read_worklists(contents, model, by_finding)
        yield from stops[review.START]["said"] if stops else ()


def _describe_costs(source: CardSource) -> Iterator[str]:
    places = costs.list_places(source.contents).get(source.model, [])
    yield from costs.describe_costs_of(source.contents, source.model, places) if places else ()


def _describe_readers(source: CardSource) -> Iterator[str]:
    calls = source.contents.once(readers.find_readers)
    if calls is None or readers.SECTION.brief is None:
        return
    count = len(calls.readers)
    yield f"{count} {'person' if count == 1 else 'people'} read the same images."
    brief = readers.SECTION.brief(source.contents)
    yield from brief.sentences
    for _, name, _, _, difference in () if brief.sentences else brief.body[:MOST_FINDINGS]:
        yield f"Its sensitivity to {name} minus theirs, at equal specificity: {difference} points."
        yield "That interval includes 0."


# ---------------------------------------------------------------- limits that follow from the run


def _describe_untested(source: CardSource) -> Iterator[str]:
    contents = source.contents
    record, groups = source.run.record, source.run.groups()
    kinds = {sweep.kind for sweep in contents.sweeps}
    has_slices = groups is not None and bool(groups.slices)
    absent = {
        "No shift was tested, so nothing is known about changed images.": "shift" not in kinds,
        "Shifts other than those named were not tested.": "shift" in kinds,
        "Attacks, images changed on purpose to mislead it, were not tested.": "attack" not in kinds,
        "Images of something else, which it should not answer, were not tested.": not record.ood,
        "Images from elsewhere, such as another hospital or camera, were not tested.": not (
            record.natural or has_slices
        ),
        "Subgroups, such as sex, age or site, were not compared.": not has_slices,
        "Which images belong together, such as those of one patient, is not known.": (
            contents.grouping is None and contents.aggregation is None
        ),
        "It was not compared with people who read the same images.": not readers.has_readers(
            contents
        ),
        "It was trained once, and another training may give other numbers.": (
            source.is_trained and len(contents.seeds_of(source.model)) == 1
        ),
    }
    yield from (sentence for sentence, is_absent in absent.items() if is_absent)


def _describe_misuse(source: CardSource) -> Iterator[str]:
    contents, outcome, by_finding = source.contents, source.outcome, source.findings_outcome
    if source.views:
        yield f"Findings other than {_list_names(contents.classes)}: it does not know them."
    else:
        yield f"Images of none of its {len(contents.classes)} classes: it always answers one."
    yield f"Images of another kind than those of {contents.data.name}: nothing is known about them."
    for rule in source.rules:
        part = f" of {rule.part}" if rule.part else ""
        yield f"{name_images(contents, rule.images)}{part}: {rule.said}."
    if outcome and outcome.chance is not None:
        for low in outcome.worst.main:
            if low.performance.accuracy.low <= outcome.chance:
                images = name_images(contents, f"{low.sweep.name}={low.level}")
                yield f"{images}: not shown to be better than a constant answer."
    if by_finding:
        for name, place, area in findings.list_areas(source.views, source.model, by_finding.places):
            if area.low <= 0.5:
                yield f"“{name}” {place.sentence}: not shown to be better than a coin."


def name_images(contents: Contents, cell: str) -> str:
    """Name the images of a rule at the start of a sentence."""
    shift, sign, level = cell.partition("=")
    shift, _, worst = (shift, "", "") if sign else cell.partition("@")
    if cell == CLEAN:
        return "Clean images"
    if cell == ALL:
        return "Images under all shifts, on average"
    for sweep in contents.sweeps:
        if sweep.name == shift:
            attack = "attack by " if sweep.is_attack else ""
            where = sweep.at(level) if sign else sweep.in_sentence
            average = ", where it is worst" if worst else "" if sign else ", on average"
            return f"Images under {attack}{where}{average}"
    return f"Images of {cell}"


# ---------------------------------------------------------------- the sections

PURPOSE = CardSection(
    "Intended use",
    blanks=(
        Blank("Purpose", "what it is for, and what a person does with its answer"),
        Blank("Users", "who uses it, and what they must have learnt"),
        Blank("People and images", "whose images, from which devices, it is meant for"),
    ),
)
SECTIONS = (
    CardSection(
        "What was it tested on?",
        _describe_test,
        (
            Blank(
                "Origin of the test images", "where, when and with which devices they were taken"
            ),
            Blank("True labels", "who or what decided them, and how sure that is"),
        ),
    ),
    CardSection("How often is it right?", _describe_right),
    CardSection("What does it miss?", _describe_missed),
    CardSection("Can you trust its probabilities?", _describe_trust),
    CardSection("Where does it fail?", _describe_failures),
    CardSection("What must a person still review?", _describe_reviews),
    CardSection("What do its errors cost?", _describe_costs),
    CardSection("How does it compare with people?", _describe_readers),
    CardSection("What was not tested?", _describe_untested),
    CardSection(
        "What must it not be used for?",
        _describe_misuse,
        (Blank("Known risks", "harm that an error may do, and biases that you know of"),),
    ),
)
