"""The sentences of the page, made from numbers: the finding first, the caveat after it.

A sentence has at most twenty words and three numbers. What the data cannot confirm is said with its
number, and then called unconfirmed; no sentence turns it into a claim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from fairweather.metrics.columns import FloatArray
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.seeds import find_outlying_seed
from fairweather.report.performance import (
    ClassShare,
    ModelOutcome,
    Performance,
    WorstLevel,
    WorstLevels,
    widen_interval,
)
from fairweather.types.measurement import Score

NO_BREAK = "\N{NO-BREAK SPACE}"
PERCENT = f"{NO_BREAK}%"
NEARLY_ZERO = 0.0005  # what reads as 0.0 points
# Of fewer answers, the share of wrong ones says nothing that a sentence should repeat.
FEW_ANSWERS = 30

# ---- words and numbers


def join_words(words: Sequence[str]) -> str:
    """Write a list inside a sentence.

    >>> join_words(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def format_share(value: float) -> str:
    """Write a share of the images; near 0 and 100 % with a decimal, so that few errors stay some.

    >>> [format_share(value).replace(PERCENT, "%") for value in (0.1234, 0.996, 1.0, 0.004)]
    ['12%', '99.6%', '100%', '0.4%']
    """
    digits = int(0 < value < 0.01 or 0.99 < value < 1)
    return f"{round(100 * value, digits):g}{PERCENT}"


def format_percent(score: Score) -> str:
    """Write a share of the images with a decimal.

    >>> format_percent(Score(0.8234, 0.801, 0.845, 200)).replace(PERCENT, " %")
    '82.3 %'
    """
    return f"{100 * score.value:.1f}{PERCENT}"


def format_points(points: float) -> str:
    """Write a difference of two shares, without its sign.

    >>> format_points(-0.123), format_points(0.004), format_points(0.01)
    ('12 points', '0.4 points', '1 point')
    """
    size = 100 * abs(points)
    text = f"{size:.{int(size < 0.95)}f}"
    return f"{text} point{'s' * (text != '1')}"


def write_interval(score: Score) -> str:
    """Write an interval as a sentence.

    >>> write_interval(Score(0.5, 0.4, 0.6, 100)).replace(PERCENT, "%")
    '95% interval: 40.0 to 60.0%.'
    """
    if score.too_few:
        return "Too few errors for an interval."
    return f"95{PERCENT} interval: {100 * score.low:.1f} to {100 * score.high:.1f}{PERCENT}."


def describe_gap(gap: Score) -> str:
    """Say how far mean confidence is from accuracy, rounded as tables have it.

    >>> describe_gap(Score(0.741, 0.7, 0.8, 99)), describe_gap(Score(-0.046, -0.06, 0.0, 99))
    ('74 points too confident', '5 points too cautious')
    >>> describe_gap(Score(0.0001, -0.1, 0.1, 99))
    'as sure as it is right'
    """
    if abs(gap.value) < NEARLY_ZERO:
        return "as sure as it is right"
    return f"{format_points(gap.value)} too {'confident' if gap.value > 0 else 'cautious'}"


def warn_of_far_seed(
    model: str, seeds: Sequence[int | str], right: FloatArray, grouping: Grouping | None
) -> str:
    """Warn of a seed that is far from the others, which intervals over seeds assume not to be.

    Args:
        model: how it is called.
        seeds: the seeds.
        right: how often each image is right, `[n, S]`; of streams of one seed, nothing is said.
        grouping: which images belong together.

    >>> right = (np.arange(400)[:, None] < np.array([380, 381, 378, 383, 260])).astype(float)
    >>> said = warn_of_far_seed("A", [0, 1, 2, 3, 4], right, None)
    >>> said.partition(". ")[0].replace("\N{NO-BREAK SPACE}", " ")
    'A: seed 4 is right on 65.0 % of the images, the other seeds on 94.5 to 95.8 %'
    """
    place = find_outlying_seed(right, grouping) if right.shape[1] == len(seeds) else None
    if place is None:
        return ""
    shares = 100 * right.mean(axis=0)
    others = np.delete(shares, place)
    return (
        f"{model}: seed {seeds[place]} is right on {shares[place]:.1f} % of the images, the other "
        f"seeds on {others.min():.1f} to {others.max():.1f} %. Of recipes whose seeds are normal, "
        "at most 1 % have a seed so far out. Intervals and tests over seeds assume normal seeds, "
        "so they are not reliable here: look at this training."
    )


def _name_place(low: WorstLevel) -> str:
    """Name a shift at its worst level, so that no line ends inside of the level."""
    level = low.sweep.level_in_words(low.level).replace(" ", NO_BREAK)
    return f"{low.sweep.in_sentence} at {level}"


# ---- verdict: how often it is right, clean and at its worst, and how sure it is there


def describe_clean(outcome: ModelOutcome) -> list[str]:
    """Say how often it is right on clean images: a label of the number, and what to know."""
    return ["right on clean images", *_qualify(outcome, outcome.clean)]


def describe_worst(outcome: ModelOutcome, low: WorstLevel) -> list[str]:
    """Say how often it is right at its worst, in the same form."""
    attack = "under attack by" if low.sweep.is_attack else "under"
    alike = ", as at its other levels" if low.is_flat else ""
    alike = ", as under every shift" if outcome.worst.is_flat else f"{alike}, where it is worst"
    lines = [f"right {attack} {_name_place(low)}{alike}"]
    if not outcome.falls:
        lines.append(f"{_cannot_confirm(low.performance)} a loss of accuracy.")
    return [*lines, *_qualify(outcome, low.performance)]


def describe_sureness(outcome: ModelOutcome, gap: Score, where: str) -> list[str]:
    """Say how sure it is on average, and how far that is from how often it is right."""
    return [f"sure{where} on average: {describe_gap(gap)}", *_doubt_gap(outcome, gap)]


def _qualify(outcome: ModelOutcome, there: Performance) -> Iterator[str]:
    yield write_interval(there.accuracy)
    if outcome.chance is not None and there.accuracy.low <= outcome.chance:
        share = format_share(outcome.chance)
        yield f"Not shown to be better than always giving the most common answer ({share})."


def _doubt_gap(outcome: ModelOutcome, gap: Score) -> Iterator[str]:
    if gap.too_few:
        yield "Too few errors for an interval."
    elif not outcome.sign(gap):
        yield f"{_cannot_confirm(outcome.clean)} a gap of this size."


def _cannot_confirm(performance: Performance) -> str:
    evidence = performance.evidence
    return f"{evidence[:1].upper()}{evidence[1:]} cannot confirm"


# ---- where it breaks


def describe_shifts(lows: Sequence[WorstLevel]) -> Iterator[str]:
    """Say under which shift accuracy is lowest and highest, and which may be as low as that."""
    first, *others = sorted(lows, key=lambda low: low.performance.accuracy.value)
    if WorstLevels(lows).is_flat:
        yield f"Accuracy is the same under every shift and level: {_right(first)}."
        return
    every = f"{first.sweep.in_sentence} at every level" if first.is_flat else _name_place(first)
    yield f"Accuracy is lowest under {every}: {_right(first)}."
    if others:
        best = others[-1]
        yield f"It is highest under {best.sweep.in_sentence}: {_right(best)} at the worst level."
    top = first.performance.accuracy.high
    if alike := sum(low.performance.accuracy.low <= top for low in others):
        more = "1 other shift" if alike == 1 else f"{alike} other shifts"
        yield f"It may be as low under {more}: the intervals overlap."


def _right(low: WorstLevel) -> str:
    return f"{format_share(low.performance.accuracy.value)} right"


# ---- does it know


def describe_knowledge(outcome: ModelOutcome, low: WorstLevel) -> Iterator[str]:
    """Compare confidence and accuracy at the worst level of a shift."""
    there, where = low.performance, _name_place(low)
    right = format_share(there.accuracy.value)
    if there.gap is None or there.confidence is None:
        yield f"Under {where} it is right on {right} of the images."
        return
    gap = describe_gap(there.gap)
    yield f"{gap[:1].upper()}{gap[1:]} under {where}."
    sure = format_share(there.confidence.value)
    yield f"It is right on {right} of the images, and {sure} sure on average."
    yield from _doubt_gap(outcome, there.gap)


def describe_grades_off(error: Score, far: Score) -> str:
    """Say how far off the answers are, where classes are grades.

    >>> error, far = Score(0.57, 0.49, 0.68, 200), Score(0.1, 0.06, 0.15, 200)
    >>> describe_grades_off(error, far).replace(PERCENT, "%")
    'Answers are 0.57 grades off on average, and 10% are off by two or more.'
    """
    share = format_share(far.value)
    return (
        f"Answers are {error.value:.2f} grades off on average, and {share} are off by two or more."
    )


def describe_class_share(off: ClassShare, where: str) -> str:
    """Say of a class that its mean probability is not its share of the images.

    >>> off = ClassShare("malignant", 0.485, 0.208)
    >>> describe_class_share(off, "of the clean images").replace(PERCENT, "%")
    '“malignant” gets a mean probability of 48%, but is 21% of the clean images.'
    """
    mean, share = format_share(off.probability), format_share(off.share)
    return f"“{off.name}” gets a mean probability of {mean}, but is {share} {where}."


# ---- what to do


def describe_review(risk: float, needed: Sequence[tuple[str, Score]]) -> Iterator[str]:
    """Say how many images a person must review; of clean images, and then of the worst shift.

    >>> needed = [("clean images", Score(0, 0, 0, 9)), ("images under fog", Score(1, 1, 1, 9))]
    >>> for sentence in describe_review(0.05, needed):
    ...     print(sentence.replace(PERCENT, "%"))
    At 5% errors, a person must review no clean images.
    Of images under fog, it is 100%.
    """
    (first, clean), *others = needed
    yield f"At {format_share(risk)} errors, a person must review {_write_part(clean.value, first)}."
    for where, score in others:
        yield f"Of {where}, it is {format_share(score.value)}."


def describe_threshold(where: str, reviewed: float, risk: float, answers: float) -> Iterator[str]:
    """Say what a threshold fitted on validation images reviews, and how wrong the rest is.

    Args:
        where: which images, in words.
        reviewed: the share that a person reviews.
        risk: the share of wrong answers among the others; NaN where there are none.
        answers: how many images are answered.
    """
    share, threshold = _write_part(reviewed, where), "A threshold set on validation images"
    if reviewed < 1 and not math.isnan(risk) and answers >= FEW_ANSWERS:
        yield f"{threshold} accepts answers of which {format_share(risk)} are wrong."
        yield f"It sends {share} to a person."
        return
    yield f"{threshold} sends {share} to a person."
    if reviewed < 1:
        yield "That leaves too few answers to judge."


def _write_part(share: float, where: str) -> str:
    part = "no" if share <= 0 else "all" if share >= 1 else f"{format_share(share)} of"
    return f"{part} {where}"


# ---- the worst classes and groups


def describe_hurt(name: str, there: Score, clean: Score | None, everyone: Score) -> Iterator[str]:
    """Say which part of the images fares worst, and whether that is more than noise.

    Args:
        name: of the part.
        there: its accuracy on average over the shifts, or on clean images without shifts.
        clean: its accuracy on clean images, where `there` is another one.
        everyone: the accuracy of all images, where `there` is.
    """
    right = f"{format_share(there.value)} of its images are right"
    if clean is None:
        yield f"{name} fares worst: {right}."
    else:
        before = format_share(clean.value)
        yield f"{name} fares worst: {right} on average over the shifts, {before} when clean."
    if there.too_few or there.high >= everyone.value:
        yield "Its interval includes the accuracy of all images, so this may be noise."


# ---- compare models


def describe_difference(better: str, worse: str, points: float, where: str) -> str:
    """Say that a model is more accurate than another."""
    return f"“{better}” is {format_points(points)} more accurate than “{worse}” {where}."


def describe_range(low: float, high: float, images: str) -> str:
    """Say between what shares the accuracies of several models are."""
    least, most = format_share(low), format_share(high)
    span = f"on {most}" if least == most else f"on {least.removesuffix(PERCENT)} to {most}"
    return f"The models are right {span} of the {images}."


def describe_tie(evidence: str) -> str:
    """Say in a note that the tests leave the order open."""
    return f"{evidence[:1].upper()}{evidence[1:]} cannot tell them apart."


def describe_tie_with(evidence: str, title: str, others: int) -> str:
    """Say in a note how many other models the tests cannot tell from one."""
    more = "1 other model" if others == 1 else f"{others} other models"
    return f"{evidence[:1].upper()}{evidence[1:]} cannot tell “{title}” from {more}."


# ---- several findings


def format_area(value: float) -> str:
    """Write an area under a curve.

    >>> format_area(0.9245)
    '0.92'
    """
    return f"{value:.2f}"


def tile_area(score: Score, line: str) -> list[str]:
    """A tile with an AUC: the number, a line about it, and its interval."""
    if math.isnan(score.low):
        return [format_area(score.value), line, "Too few images for an interval."]
    low, high = map(format_area, score[1:3])
    return [format_area(score.value), line, f"95{PERCENT} interval: {low} to {high}."]


def describe_fall(name: str, before: float, there: float) -> str:
    """Say which finding loses most.

    >>> describe_fall("Mass", 0.91, 0.6)
    '“Mass” falls most: from 0.91 to 0.60.'
    """
    return f"“{name}” falls most: from {format_area(before)} to {format_area(there)}."


def format_tenths(points: float) -> str:
    """Write a difference of two shares with a decimal, without its sign.

    >>> format_tenths(-0.2774)
    '27.7 points'
    """
    return f"{100 * abs(points):.1f} points"


def tile_gap(name: str, gap: Score, prevalence: Score, where: str, searched: int) -> list[str]:
    """A tile with the largest of some gaps between a mean probability and a share of the images."""
    largest = ", the largest {}gap" if searched > 1 else ""
    if is_confirmed(gap, searched):
        side = "high" if gap.value > 0 else "low"
        line = f"too {side} a mean probability of “{name}” {where}{largest.format('confirmed ')}"
    else:
        line = f"between the mean probability of “{name}” and its share of the images, {where}"
        line += largest.format("")
    return [format_tenths(gap.value), line, *describe_probability(gap, prevalence, searched)]


def is_confirmed(gap: Score, searched: int) -> bool:
    """Tell whether the interval of one of several gaps excludes 0, widened for their number."""
    wide = widen_interval(gap, searched)
    return not gap.too_few and not wide.low <= 0 <= wide.high


def describe_probability(gap: Score, prevalence: Score, searched: int = 1) -> Iterator[str]:
    """Say what the mean probability of a finding is, and how many images have it.

    Args:
        gap: of the two.
        prevalence: how many images have it.
        searched: among how many gaps this is the largest; it is called too high or too low only if
            an interval that allows for that says so.

    >>> said = describe_probability(Score(0.277, 0.25, 0.3, 500), Score(0.208, 0.17, 0.25, 500))
    >>> print(next(said).replace(PERCENT, " %"))
    Its mean probability is 0.485, but 20.8 % of the images have it: 27.7 points too high.
    """
    mean, share = f"{prevalence.value + gap.value:.3f}", format_percent(prevalence)
    start = f"Its mean probability is {mean}"
    if gap.too_few:
        yield f"{start}, and {share} of the images have it."
        yield "Too few images for an interval of the gap."
        return
    ends = f"{_sign_tenths(gap.low)} to {_sign_tenths(gap.high)} points"
    if gap.low <= 0 <= gap.high:
        yield f"{start}, and {share} of the images have it."
        yield f"The interval of the gap includes 0: {ends}."
        return
    if not is_confirmed(gap, searched):
        yield f"{start}, and {share} of the images have it."
        yield f"95{PERCENT} interval of the gap: {ends}."
        yield f"It is the largest of {searched:,} gaps, so this may be noise."
        return
    side = "high" if gap.value > 0 else "low"
    yield f"{start}, but {share} of the images have it: {format_tenths(gap.value)} too {side}."
    yield f"95{PERCENT} interval of the gap: {ends}."


def _sign_tenths(points: float) -> str:
    text = f"{100 * abs(points):.1f}"
    return text if points >= 0 or text == "0.0" else f"\N{MINUS SIGN}{text}"


def describe_areas(areas: Sequence[tuple[str, str, Score]]) -> list[str]:
    """Say which finding has the lowest AUC and where, from AUCs with the lowest first.

    >>> describe_areas([("Mass", "under fog at level 5", Score(0.61, 0.52, 0.7, 200))])
    ['AUC is lowest for “Mass” under fog at level 5: 0.61.']
    >>> describe_areas([("Mass", "in site=A", Score(0.75, 0.48, 0.93, 40))])[1]
    'That is not shown to be better than a coin.'
    """
    if not areas:
        return []
    name, where, score = areas[0]
    said = [f"AUC is lowest for “{name}” {where}: {format_area(score.value)}."]
    if score.low <= 0.5:
        said.append("That is not shown to be better than a coin.")
    return said


def describe_finding(
    name: str,
    where: str,
    area: Score | None,
    gap: Score | None,
    prevalence: Score | None,
    *,
    searched: int = 1,
) -> Iterator[str]:
    """Say how well a finding is told at a place, and whether its probabilities are right."""
    if area is None:
        yield f"“{name}” has no AUC {where}: all its images are alike there."
    else:
        yield f"“{name}” has an AUC of {format_area(area.value)} {where}."
    if gap is not None and prevalence is not None:
        yield from describe_probability(gap, prevalence, searched)


def describe_worklist(missed: float, name: str, share: str, where: str) -> str:
    """Say what a person must look at, of the finding that needs most.

    >>> describe_worklist(0.05, "Mass", "40%", "under fog").replace(PERCENT, "%")
    'To miss at most 5% of “Mass” under fog, a person must look at 40% of images.'
    """
    least = format_share(missed)
    return f"To miss at most {least} of “{name}” {where}, a person must look at {share} of images."


def describe_missed(name: str, share: float, where: str) -> str:
    """Say what a threshold fitted on validation images misses.

    >>> describe_missed("Mass", 0.3, "under fog").replace(PERCENT, "%")
    'A threshold set for this on validation images misses 30% of “Mass” under fog.'
    """
    return (
        f"A threshold set for this on validation images misses {format_share(share)} of “{name}” "
        f"{where}."
    )


# ---- calls of a finding


def tile_calls(first: Score, second: Score, point: str, where: str) -> list[str]:
    """A tile with sensitivity and specificity.

    >>> tile = tile_calls(
    ...     Score(0.93, 0.89, 0.96, 270), Score(0.561, 0.52, 0.6, 930), "at 0.5", "on clean images"
    ... )
    >>> tile[0].replace(PERCENT, " %"), tile[1]
    ('93 and 56 %', 'sensitivity and specificity at 0.5 on clean images')
    """
    shares = [format_share(rate.value) for rate in (first, second)]
    return [
        f"{shares[0].removesuffix(PERCENT)} and {shares[1]}",
        f"sensitivity and specificity {point} {where}",
        write_rate_interval(first, "sensitivity"),
        write_rate_interval(second, "specificity"),
    ]


def write_rate_interval(rate: Score, kind: str) -> str:
    """Write the interval of a sensitivity or a specificity as a sentence."""
    if rate.too_few:
        return f"Too few images for an interval of the {kind}."
    ends = f"{100 * rate.low:.1f} to {100 * rate.high:.1f}{PERCENT}"
    return f"95{PERCENT} interval of the {kind}: {ends}."


def describe_fall_of_rate(kind: str, clean: Score, there: Score, where: str) -> Iterator[str]:
    """Say how far a rate falls where it is lowest.

    >>> said = describe_fall_of_rate(
    ...     "sensitivity", Score(0.93, 0.9, 0.95, 99), Score(0.4, 0.3, 0.5, 99), "under fog"
    ... )
    >>> print(next(said).replace(PERCENT, "%"))
    Sensitivity falls most under fog: from 93% to 40%.
    """
    title, before, after = kind.capitalize(), *map(format_share, (clean.value, there.value))
    if there.value >= clean.value:
        yield f"{title} is {before} on clean images, and nowhere lower."
        return
    yield f"{title} falls most {where}: from {before} to {after}."
    if there.too_few or clean.too_few or there.high >= clean.low:
        yield "The intervals overlap, so this may be noise."


def describe_rates(kind: str, low: tuple[float, str], high: tuple[float, str]) -> str:
    """Say in which slice of a column a rate is lowest, and in which highest; "" if both look alike.

    >>> describe_rates("sensitivity", (0.62, "north"), (0.91, "south")).replace(PERCENT, "%")
    'Sensitivity is lowest in “north”, 62%, and highest in “south”, 91%.'
    >>> describe_rates("sensitivity", (0.912, "north"), (0.914, "south"))
    ''
    """
    shares = [format_share(value) for value, _ in (low, high)]
    if len({*shares}) == 1:
        return ""
    first, last = (
        f"in “{name}”, {share}" for share, (_, name) in zip(shares, (low, high), strict=True)
    )
    return f"{kind.capitalize()} is lowest {first}, and highest {last}."


def describe_rate_test(kind: str, column: str, p: float) -> str:
    """Say whether a test confirms that a rate differs between slices.

    >>> describe_rate_test("sensitivity", "site", 0.2)
    'The test cannot confirm that the sensitivity differs by site (p = 0.200).'
    """
    if math.isnan(p):
        return f"No test compares the {kind} by {column}: some groups span several slices."
    written = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    if p < 0.05:
        return f"The test confirms that the {kind} differs by {column} ({written})."
    return f"The test cannot confirm that the {kind} differs by {column} ({written})."


# ---- a model card


def describe_missed_share(name: str, where: str, sensitivity: Score) -> str:
    """Say what is missed of a class or finding where it is called.

    >>> said = describe_missed_share("Mass", "at 0.5", Score(0.93, 0.89, 0.96, 270))
    >>> print(said.replace(PERCENT, "%"))
    “Mass” at 0.5: 7% of the images with it are missed.
    """
    missed = format_share(1 - sensitivity.value)
    return f"“{name}” {where}: {missed} of the images with it are missed."


def describe_false_calls(name: str, specificity: Score) -> str:
    """Say how often a class or finding is called where it is not.

    >>> print(describe_false_calls("Mass", Score(0.56, 0.5, 0.6, 270)).replace(PERCENT, "%"))
    “Mass” is called wrongly in 44% of the images without it.
    """
    return (
        f"“{name}” is called wrongly in {format_share(1 - specificity.value)} of the images "
        "without it."
    )


def describe_slope(slope: Score, where: str) -> Iterator[str]:
    """Say whether probabilities are too extreme or too moderate.

    >>> print(*describe_slope(Score(0.7, 0.6, 0.8, 500), "on clean images"))
    The calibration slope is 0.70 on clean images; 1 is right. Its probabilities are too extreme.
    """
    yield f"The calibration slope is {slope.value:.2f} {where}; 1 is right."
    yield _compare_with_1(slope, "Its probabilities are too extreme.", "They are too moderate.")


def describe_ratio(ratio: Score, where: str) -> Iterator[str]:
    """Say whether what the probabilities expect happens as often.

    >>> print(*describe_ratio(Score(0.97, 0.9, 1.02, 500), "on clean images"))
    The observed/expected ratio is 0.97 on clean images; 1 is right. Its interval includes 1.
    """
    yield f"The observed/expected ratio is {ratio.value:.2f} {where}; 1 is right."
    yield _compare_with_1(ratio, "Its probabilities are too high.", "They are too low.")


def _compare_with_1(score: Score, below: str, above: str) -> str:
    if score.too_few:
        return "Too few errors for an interval."
    return below if score.high < 1 else above if score.low > 1 else "Its interval includes 1."


CALIBRATION_NUMBERS: Mapping[str, Callable[[Score, str], Iterator[str]]] = {
    "calibration_slope": describe_slope,
    "observed_expected_ratio": describe_ratio,
}

# ---- costs


def describe_costs(costs: Sequence[float], where: str) -> str:
    """Say what a decision costs on clean images, and where a shift is worst.

    >>> describe_costs([0.5, 0.814], "under fog at level 5")
    'A decision costs 0.50 on clean images on average, and 0.81 under fog at level 5.'
    """
    clean, *there = (f"{cost:.2f}" for cost in costs)
    more = f", and {there[0]} {where}" if there else ""
    return f"A decision costs {clean} on clean images on average{more}."


def compare_costs(own: Score, bayes: Score) -> str:
    """Compare decisions as they are with those of the least expected cost, on clean images.

    >>> compare_costs(Score(0.5, 0.4, 0.6, 99), Score(0.72, 0.7, 0.8, 99))
    'Bayes decisions cost more, 0.72: the probabilities are wrong.'
    """
    cost = f"{bayes.value:.2f}"
    if bayes.low > own.high:
        return f"Bayes decisions cost more, {cost}: the probabilities are wrong."
    if bayes.high < own.low:
        return f"Bayes decisions cost less, {cost}."
    return f"Bayes decisions cost {cost}; the intervals overlap."


def doubt_costs(relative: Score, where: str) -> str:
    """Doubt that a model is cheaper than always deciding the same; "" where it is confirmed.

    >>> doubt_costs(Score(1.3, 1.1, 1.5, 99), "under fog")
    'Always deciding the same costs less under fog.'
    """
    if relative.low > 1:
        return f"Always deciding the same costs less {where}."
    if relative.high < 1:
        return ""
    return f"Always deciding the same may cost no more {where}: the interval includes that."
