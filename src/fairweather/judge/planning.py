"""Plan a test: how many images, positives, patients and seeds a verdict of `check` or `compare`
needs, and what a given test set can show."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.special

from fairweather.errors import InputError, check_type, join_names, unknown_name
from fairweather.judge import rules
from fairweather.judge.pilot import (
    PLANNED,
    Column,
    Pilot,
    Planned,
    Variances,
    base_name,
    read_column,
    read_pilot,
)
from fairweather.judge.rules import CLASS, Rule, read_rules
from fairweather.metrics.columns import ROUNDING, FloatArray, IntArray
from fairweather.metrics.intervals import FEW_IMAGES
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.metrics.paired import UNSEEN
from fairweather.metrics.power import (
    MOST_IMAGES,
    Goal,
    GroupSizes,
    RecipeSpread,
    Spread,
    accuracy_power,
    area_power,
    crossed_power,
    design_effect,
    grouped_share_power,
    paired_power,
    random_share_power,
    share_power,
    smallest_effect,
    smallest_size,
    thinned_sizes,
)
from fairweather.metrics.rows import find_row
from fairweather.metrics.table import METRICS
from fairweather.report.tables import TableLayout, align_table, write_csv
from fairweather.types.options import PlanOptions, check_limits, takes

# ---------------------------------------------------------------- what can be planned

OPERATORS: Mapping[str, str] = {">=": ">=", ">": ">=", "≥": ">=", "<=": "<=", "<": "<=", "≤": "<="}
BETTER, NOT_WORSE, WITHIN = "better", "not worse", "within"
# The operator of a rule about another run, and what stands for the run.
RULED = {NOT_WORSE: (rules.NOT_WORSE, "OLD"), WITHIN: (rules.WITHIN, "OLD")}
EXAMPLES = (
    "'sensitivity >= 0.8', 'accuracy better', 'accuracy not worse by 2%' or 'accuracy within 2%'"
)
_TARGET = re.compile(
    r"(?P<model>[^\s:\[\]]+\s*:\s*)?(?P<metric>[^\s:\[\]<>≤≥]+)\s*(?P<cell>\[.*\])?\s*(?P<claim>.*)"
)
_CLAIMS = tuple(
    map(
        re.compile,
        (
            r"(?P<operator>[<>=≤≥!]+)\s*(?P<number>.+)",
            rf"(?P<operator>{BETTER})",
            rf"(?P<operator>{NOT_WORSE})(?:\s+than\s+\S.*?)?\s+by\s+(?P<number>\S+(?:\s*%)?)",
            rf"(?P<operator>{WITHIN})\s+(?P<number>\S+(?:\s*%)?)(?:\s+of\s+\S.*)?",
        ),
    )
)


@dataclass(frozen=True)
class Claim:
    """What a test is to show."""

    rule: Rule
    """The metric, the cell and the class, as in a rule."""

    operator: str
    """`>=` or `<=` for a limit; `better`, `not worse` or `within` for two models."""

    number: float
    """The limit or the margin; 0 for `better`."""

    @property
    def planned(self) -> Planned:
        """How its metric is planned."""
        return PLANNED[base_name(self.rule)]

    @property
    def is_comparison(self) -> bool:
        """Whether it is about two models."""
        return self.operator not in (">=", "<=")

    @property
    def is_percent(self) -> bool:
        """Whether its numbers are read in per cent."""
        return self.planned.kind == "share"

    def goal(self, tests: int = 1) -> Goal:
        """Where the interval must lie: of the value, or of how much better the new model is."""
        goals = {
            ">=": Goal(low=self.number),
            "<=": Goal(high=self.number),
            BETTER: Goal(low=0.0, tests=tests),
            NOT_WORSE: Goal(low=-self.number),
            WITHIN: Goal(-self.number, self.number),
        }
        return goals[self.operator]

    def __str__(self) -> str:
        target = self.rule.target.replace("[clean]", "")
        number = {BETTER: "", NOT_WORSE: f" by {self.show(self.number)}"}
        return f"{target} {self.operator}{number.get(self.operator, f' {self.show(self.number)}')}"

    def as_rule(self, *, names_class: bool) -> str:
        """The rule that `check` judges; "" for any difference, which `compare` tests."""
        if self.operator == BETTER:
            return ""
        sign, reference = RULED.get(self.operator, (self.operator, ""))
        number = self.show(self.number)
        rule = replace(self.rule, operator=sign, number=number, reference=reference)
        if names_class and self.planned.counted != "images" and not rule.subject:
            rule = replace(rule, subject=f"{CLASS}NAME")
        return str(rule)

    def show(self, number: float) -> str:
        """Write a value, a difference or a margin of its metric."""
        return f"{100 * number:.3g}%" if self.is_percent else f"{number:.3g}"


def read_claim(text: str) -> Claim:
    """Read what a test is to show, such as `sensitivity >= 0.8` or `accuracy not worse by 2%`.

    Raises `InputError` for another form, an unknown metric, and a limit or margin that cannot be.

    >>> str(read_claim("accuracy[clean] not worse than runs/old by 2%"))
    'accuracy not worse by 2%'
    """
    check_type(text, str, f"the claim must be text of the form {EXAMPLES}")
    target = _TARGET.fullmatch(text.strip())
    claims = (form.fullmatch(target["claim"].strip()) for form in _CLAIMS if target)
    claim = next(filter(None, claims), None)
    if target is None or claim is None:
        raise InputError(f"the claim {text!r} is not of the form {EXAMPLES}")
    rule_text = f"{target['model'] or ''}{target['metric']}{target['cell'] or '[clean]'} >= 0"
    rule = read_rules([rule_text])[0]
    base = base_name(rule)
    if base not in PLANNED:
        if find_row(rule.scored) is None:
            raise unknown_name("metric", base, [*METRICS, *CLASS_METRICS])
        raise InputError(
            f"plan-test does not know how {base} varies; it plans {join_names([*PLANNED][:5])}, "
            f"{', '.join([*PLANNED][5:])}"
        )
    operator = OPERATORS.get(claim["operator"], claim["operator"])
    if operator not in (*OPERATORS, BETTER, NOT_WORSE, WITHIN):
        raise unknown_name("operator", operator, [*OPERATORS, BETTER, NOT_WORSE, WITHIN])
    number = read_number(claim.groupdict().get("number") or "0", f"the claim {text!r}")
    made = Claim(rule, operator, number)
    _check_number(made, text)
    return made


def _check_number(claim: Claim, text: str) -> None:
    number, kind = claim.number, claim.planned.kind
    if claim.operator in (NOT_WORSE, WITHIN) and not number > 0:
        raise InputError(
            f"the claim {text!r}: a margin is above 0, such as 2%; to show any difference, write "
            f"'{claim.rule.metric} {BETTER}'"
        )
    if kind != "mean" and claim.operator != BETTER and not 0 < number < 1:
        raise InputError(
            f"the claim {text!r}: the number must be between 0 and 1, such as 80% or 0.8"
        )
    if claim.is_comparison and claim.planned.counted == "called so":
        raise InputError(
            f"the claim {text!r}: two models call different images, so {claim.rule.metric} is not "
            "compared image by image; compare sensitivity or specificity"
        )


def read_number(written: float | str, place: str) -> float:
    """Read a number, or per cent; raises `InputError` for anything else.

    >>> read_number("5%", "prevalence"), read_number(0.05, "prevalence")
    (0.05, 0.05)
    """
    match = re.fullmatch(r"\s*([-+−]?[\d.]+(?:e-?\d+)?)\s*(%?)\s*", str(written))
    try:
        number = float(match[1].replace("−", "-")) / (100 if match[2] else 1) if match else None
    except ValueError:
        number = None
    if number is None:
        raise InputError(f"{place} needs a number such as 0.05 or 5%, found {written!r}")
    return number


# ---------------------------------------------------------------- power of a design


@dataclass(frozen=True)
class Design:
    """How a test will be made, besides its size."""

    claim: Claim
    part: float = 1.0
    """The share of all images that count; for an area, that of the positives."""

    sizes: GroupSizes | None = None
    """Of all groups, such as patients, in images that count; None if images are independent."""

    seeds: int = 1
    """Of each recipe; 1 for two trained networks, or one."""

    tests: int = 1
    """How many tests of differences share the 5 %."""

    means: tuple[float, ...] = ()
    """The values of both recipes; empty if they are far from their bounds."""

    def power(
        self, images: IntArray, truth: float, variances: Variances, goal: Goal | None = None
    ) -> FloatArray:
        """The power for numbers of images `[k]`, of all images where the share that counts is
        known."""
        goal = goal or self.claim.goal(self.tests)
        kind = self.claim.planned.kind
        counted = images if kind == "area" else images * self.part
        if self.claim.is_comparison or kind == "mean":
            if kind == "share" and self.sizes is None and self.seeds == 1:
                assert variances.discordant is not None, "it was asked for"
                of_pairs = partial(
                    _pair_power, difference=truth, discordant=variances.discordant, goal=goal
                )
                of_counts = partial(
                    _at_counts, of_pairs, MOST_SIZES if self.part == 1 else MOST_COUNTS
                )
                return random_share_power(images, self.part, of_counts)
            power_of = partial(self._crossed_power, truth=truth, variances=variances, goal=goal)
        elif kind == "area":
            power_of = partial(self._area_power, truth=truth, variances=variances, goal=goal)
        elif self.sizes is None:
            if self.claim.planned.counted == "images":
                return accuracy_power(images, truth, goal)
            of_count = partial(share_power, truth=truth, goal=goal)
            return random_share_power(images, self.part, of_count)
        else:
            groups = np.maximum(np.round(counted / self.sizes.mean), 1).astype(int)
            power_of = partial(self._grouped_power, truth=truth, variances=variances, goal=goal)
            return np.array([power_of(n) for n in groups.tolist()])
        return np.array([power_of(max(1, round(n))) for n in counted.tolist()])

    @property
    def images_per_group(self) -> float | None:
        """All images of a group, on average; None if images are independent."""
        if self.sizes is None:
            return None
        return self.sizes.mean / (1 if self.claim.planned.kind == "area" else self.part)

    def _grouped_power(self, groups: int, truth: float, variances: Variances, goal: Goal) -> float:
        assert self.sizes is not None
        of_all = self.claim.planned.counted == "images"
        icc = min(max(variances.icc, LEAST_ICC), 1 - LEAST_ICC)
        return grouped_share_power(groups, truth, goal, self.sizes, icc, of_all_images=of_all)

    def _effect(self, variances: Variances) -> float:
        return 1.0 if self.sizes is None else design_effect(self.sizes.effective, variances.icc)

    def _area_power(self, images: int, truth: float, variances: Variances, goal: Goal) -> float:
        """Images that belong together, or vary more than normal scores, are worth fewer."""
        worth = images / (variances.scale * self._effect(variances))
        # `check` judges no AUC of fewer images of a side.
        fewest = math.ceil(CLASS_METRICS["auc"].fewest * worth / images)
        return area_power(round(worth), self.part, truth, goal, fewest)

    def _crossed_power(self, counted: int, truth: float, variances: Variances, goal: Goal) -> float:
        groups = counted if self.sizes is None else counted / self.sizes.effective
        spread = self._spread(truth, variances)
        power = crossed_power(counted, groups, self.seeds, truth, spread, goal)
        if variances.discordant is None or self.seeds > 1 or self.sizes is None or not goal.low:
            return power
        few, effect = self._few_differ(counted, variances.discordant, variances.icc)
        pairs = paired_power(max(1, round(counted / effect)), truth, variances.discordant, goal)
        return power - few * max(power - pairs, 0.0)

    def _few_differ(self, counted: int, discordant: float, icc: float) -> tuple[float, float]:
        """How probably so few images differ that `compare` widens a margin's interval, and the
        design effect that it finds, as in `metrics.paired.sparse_difference_interval`."""
        size = 1.0 if self.sizes is None else self.sizes.effective
        count, others = counted * discordant, size - 1
        alike = 1 + others * (icc * (1 - discordant) + discordant)
        together = (count * alike + UNSEEN * size) / (count + UNSEEN) - 1
        by_chance = others * discordant
        correlation = min(max((together - by_chance) / (others - by_chance), 0.0), 1.0)
        effect = 1 + others * correlation
        gap = (FEW_IMAGES - count / effect) / (math.sqrt(count * alike) / effect)
        return float(scipy.special.ndtr(gap)), effect

    def _spread(self, truth: float, variances: Variances) -> Spread:
        effect = self._effect(variances)
        if self.seeds == 1:
            return Spread(variances.of_networks(truth), (), effect)
        bounds = (0.0, 1.0) if self.means else (-math.inf, math.inf)
        means = self.means or (0.0, 0.0)
        recipes = tuple(
            RecipeSpread(between, residual, mean, bounds)
            for between, residual, mean in zip(
                variances.trainings or (0.0, 0.0), variances.residuals, means, strict=True
            )
        )
        return Spread(variances.of_recipes(truth), recipes, effect)


_pair_power = lru_cache(maxsize=10_000)(paired_power)


def _at_counts(power_of: Callable[[int], float], most: int, counts: IntArray) -> FloatArray:
    """The power at numbers of images that count, in a row; interpolated if more than `most`."""
    step = math.ceil(len(counts) / most)  # multiples of it are computed, so that calls share them
    at = np.arange(counts[0] // step, -(-counts[-1] // step) + 1) * step
    return np.interp(counts, at, [power_of(max(1, count)) for count in at.tolist()])


class Size(NamedTuple):
    """The size of a test."""

    images: int
    """All images; those that count where the share that counts is unknown."""

    counted: int
    """The images that count, such as those of the class."""

    groups: int | None
    """All groups, such as patients; None if images are independent."""

    seeds: int
    """Of each recipe."""

    power: float


@dataclass(frozen=True, kw_only=True)
class PlannedTest:
    """How large a test must be for a verdict, and what a test of a given size can show."""

    claim: str
    """What is to be shown."""

    expect: float | None
    """The true value, or how much better the new model truly is; None if it was not stated."""

    target: float
    """The power that is wanted."""

    needed: Size | None
    """The smallest test with that power; None if no size has it, or without `expect`."""

    low: int | None = None
    high: int | None = None
    """`low`, `high`: the images needed at both ends of the 95 % intervals of the pilot's variances;
    None without a pilot, and where no number is enough."""

    curve: tuple[Size, ...] = ()
    """The power of some sizes."""

    seed_needs: tuple[Size, ...] = ()
    """For some numbers of seeds, the smallest test; without those for which no number of images is
    enough."""

    fewest_seeds: int | None = None
    """With fewer seeds of each recipe, no number of images is enough; None if seeds do not vary."""

    truth: str = ""
    """What is taken to be true, in words; "" without `expect`."""

    at_best: str = ""
    """What a test of the given size shows with the wanted power; "" if none was given."""

    notes: tuple[str, ...] = ()
    """What is assumed and how it is judged, in sentences."""

    counts: str = "images"
    """What counts, in words."""

    rule: str = ""
    """The rule that `check` judges; "" for any difference, which `compare` tests."""

    @property
    def table(self) -> pd.DataFrame:
        """The curve: images, those that count, groups, seeds and power."""
        return pd.DataFrame(self.curve, columns=Size._fields)

    def curve_as_svg(self) -> str:
        """Draw the curve as SVG."""
        from fairweather.report.power_curve import draw_power  # takes a while to import

        return draw_power(self.table, self.claim, self.target, self.counts)

    def curve_as_csv(self) -> str:
        """Write the curve as CSV."""
        return write_csv(self.table)

    def __str__(self) -> str:
        parts = ["\n".join(self._headline())]
        parts += [_format_sizes(sizes, self.counts) for sizes in (self.seed_needs, self.curve)]
        return "\n\n".join(part for part in (*parts, self.at_best, "\n".join(self.notes)) if part)

    def _headline(self) -> list[str]:
        """What is needed, and how uncertain that is."""
        lines = []
        if self.fewest_seeds:
            lines.append(
                f"With fewer than {self.fewest_seeds} seeds of each recipe, no number of images is "
                "enough: more images cannot replace seeds."
            )
        if self.needed:
            lines.append(f"You need {_describe_size(self.needed, self.counts)}.")
            lines.append(f"If {self.truth}, the test shows '{self.claim}' in {self._power}.")
        elif self.truth:
            lines.append(
                f"No test set is large enough: if {self.truth}, none shows '{self.claim}' in "
                f"{self._power}."
            )
        if self.low is not None:
            high = "no number is enough" if self.high is None else f"{self.high:,}"
            to = "to" if self.high is not None else "images; at the other end"
            lines.append(
                f"The variances are uncertain: {self.low:,} {to} {high}"
                f"{' images' if self.high is not None else ''}."
            )
        return lines

    @property
    def _power(self) -> str:
        return f"{100 * self.target:.4g} % of such studies"


def _describe_size(size: Size, counts: str) -> str:
    parts = [f"{size.images:,} images"]
    if counts != "images":
        parts = [f"{size.counted:,} images {counts}"]
        if size.images != size.counted:
            parts = [f"{size.images:,} images", f"of which {size.counted:,} {counts}"]
    if size.groups is not None:
        parts.append(f"from {size.groups:,} patients")
    if size.seeds > 1:
        parts[-1] += f" and {size.seeds} seeds of each recipe"
    return ", ".join(parts)


def _format_sizes(sizes: Sequence[Size], counts: str) -> str:
    """A table of sizes with their power; columns that say nothing are left out."""
    if not sizes:
        return ""
    columns = {
        "seeds": [str(size.seeds) for size in sizes],
        "images": [f"{size.images:,}" for size in sizes],
        counts: [f"{size.counted:,}" for size in sizes],
        "patients": ["" if size.groups is None else f"{size.groups:,}" for size in sizes],
        "power": [f"{100 * size.power:.1f} %" for size in sizes],
    }
    shown = {
        name: cells
        for name, cells in columns.items()
        if any(cells) and not (name == "seeds" and set(cells) == {"1"})
    }
    if counts != "images" and columns["images"] == columns[counts]:
        del shown["images"]  # only those that count are planned
    return align_table(TableLayout(tuple(shown), words=0), list(zip(*shown.values(), strict=True)))


# ---------------------------------------------------------------- the plan

CURVE = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # of the images needed
MOST_SEEDS = 100
# How many powers of pairs are computed: in a row of sizes, whose power is a sawtooth, and over the
# numbers of images of a class, over which it is a mean.
MOST_SIZES, MOST_COUNTS = 250, 100
LEAST_ICC = 1e-4  # of a distribution over patients; without any correlation there is none


# The options that may be written as a text, such as 5%.
NUMBERS = (
    *("expect", "power", "prevalence", "discordant", "sd", "images_per_patient", "icc"),
    *("seed_sd", "seed_discordant", "reference"),
)


@takes(PlanOptions)
def plan_test(
    claim: str,
    **options: Any,  # noqa: ANN401 - those of `PlanOptions`
) -> PlannedTest:
    """Plan how large a test must be to show a claim, or what a given test set can show.

    The test that is planned is the one that `check` and `compare` make. The effect is always
    stated; a pilot run supplies variances alone, and the plan says how uncertain they are. Shares
    may be written as 5%.

    Args:
        claim: a rule such as `sensitivity >= 0.8` (`METRIC >= NUMBER`), or of two models on the
            same images `accuracy better`, `accuracy not worse by 2%` or `accuracy within 2%`. The
            metric may be followed by `[CELL|OF]` as in a rule.
        expect: the true value that you expect; of two models, by how much the new one is truly
            better (negative if it is worse).
        power: the share of studies that show the claim.
        prevalence: the share of images of the class.
        discordant: of two models, the share of images that exactly one of them gets right.
        sd: of a mean loss, the standard deviation over images of the loss, or of its difference.
        images_per_patient: all images of each patient, or other group. With a prevalence, those of
            the class fall on patients by chance; without, they are images of the class.
        icc: the correlation between two images of a patient, such as two of the class.
        seeds: of each recipe; without it, recipes get as many as they need.
        seed_sd: the standard deviation between trainings of a recipe.
        seed_discordant: of recipes and a share, the share of images that exactly one of two
            trainings of a recipe gets right; 0 is cautious.
        reference: of recipes and a share, the value of the old recipe.
        tests: how many tests of differences share the 5 %, as `compare` corrects for all its tests.
        pilot: a run, RUN:MODEL, or two of them.
        images: the number of images of a given test set.
        have: a run whose test set is given.

    Raises:
        InputError: a claim, an option or a pilot that cannot be, with what is allowed.

    >>> plan = plan_test("sensitivity >= 0.8", expect=0.9, prevalence="5%")
    >>> plan.needed.images, plan.needed.counted
    (2229, 111)
    """
    read = read_claim(claim)
    given = PlanOptions(**options)
    written = {name: one for name in NUMBERS if (one := getattr(given, name)) is not None}
    numbers = {name: read_number(one, name) for name, one in written.items()}
    is_one = isinstance(given.pilot, str | os.PathLike)
    pilot = (given.pilot,) if is_one else tuple(given.pilot)
    given = replace(given, **numbers, pilot=pilot)  # type: ignore[arg-type]
    check_limits(given, written)
    _check_options(read, given)
    return _Planner(read, given).plan()


def _check_options(claim: Claim, given: PlanOptions) -> None:
    """Raise `InputError` for an option that the claim has no use for, lacks, or contradicts."""
    planned = claim.planned
    compares_shares = claim.is_comparison and planned.kind == "share"
    useful = {
        "prevalence": planned.counted in ("of the class", "of other classes")
        or planned.kind == "area",
        "discordant": compares_shares,
        "sd": planned.kind == "mean",
        "seeds": claim.is_comparison,
        "seed_sd": claim.is_comparison,
        "seed_discordant": compares_shares,
        "reference": compares_shares,
    }
    for name, is_useful in useful.items():
        if getattr(given, name) is not None and not is_useful:
            raise InputError(f"{name} means nothing for '{claim}': leave it out")
    if given.tests < 1 or (given.tests > 1 and claim.operator != BETTER):
        raise InputError(
            f"tests is how many tests of '{claim.rule.metric} {BETTER}' share the 5 %, at least 1; "
            f"found {given.tests} for '{claim}'"
        )
    if given.images is not None and (given.have is not None or given.images < 1):
        raise InputError("say the size of the test set once: images (at least 1), or have")
    if given.expect is None:
        if (given.images is None and given.have is None) or claim.operator in (NOT_WORSE, WITHIN):
            better = claim.number / 2 if claim.operator == "<=" else (1 + claim.number) / 2
            what = f"the value, such as --expect {claim.show(better)}"
            if claim.is_comparison:
                what = "by how much the new model is truly better, such as --expect 0"
            raise InputError(f"say what you expect of '{claim}': {what}")
    else:
        _check_expected(claim, given.expect)
    if given.pilot:
        return
    if compares_shares and given.discordant is None:
        raise InputError(
            f"'{claim}' depends on how often the two models disagree: name a --pilot, or say the "
            "share of images that only one of them gets right, such as --discordant 5%"
        )
    if planned.kind == "area" and claim.is_comparison:
        raise InputError(
            f"'{claim}' depends on how alike the two models rank images: name a --pilot"
        )
    if planned.kind == "mean" and given.sd is None:
        raise InputError(
            f"'{claim}' depends on how much the loss varies: name a --pilot, or say its standard "
            "deviation over images, such as --sd 0.8"
        )
    if planned.kind == "area" and given.prevalence is None and given.have is None:
        raise InputError(
            f"'{claim}' depends on the share of images of the class: say it, such as "
            "--prevalence 5%"
        )
    if given.have is None and (given.icc is None) != (given.images_per_patient is None):
        raise InputError(
            "icc and images_per_patient belong together: how many images a patient has, and how "
            "alike they are, such as --images-per-patient 4 --icc 0.3"
        )


def _check_expected(claim: Claim, expect: float) -> None:
    """Raise `InputError` for a true value with which the claim is wrong."""
    goal = claim.goal()
    if expect in (goal.low, goal.high) and claim.operator != BETTER:
        raise InputError(
            f"at a true value of exactly {claim.show(expect)}, no more than 2.5 % of studies show "
            f"'{claim}', however large they are: expect another value, or change the claim"
        )
    if not goal.low < expect < goal.high:
        raise InputError(
            f"with a true value of {claim.show(expect)}, '{claim}' is wrong, and no test should "
            "show it: expect another value, or change the claim"
        )
    if not claim.is_comparison and claim.planned.kind != "mean" and not 0 < expect < 1:
        raise InputError(f"expect must be between 0 and 1, such as 90% or 0.9, found {expect:g}")


class _Planner:
    """Plans one test."""

    def __init__(self, claim: Claim, given: PlanOptions) -> None:
        self.claim, self.given = claim, given
        kind = claim.planned.kind
        self.held: Column | None = read_column(given.have, claim.rule) if given.have else None
        self.asked = given.images or (self.held.images if self.held else None)
        part: float | None = given.prevalence
        if part is not None and claim.planned.counted == "of other classes":
            part = 1 - part
        if part is None and self.held and self.held.part < 1:
            part = self.held.part
        pilot = given.pilot
        if not pilot and self.held and self.held.sizes and given.icc is None:
            # The test set itself says how alike the images of its patients are.
            pilot = () if claim.is_comparison else (self.held.name,)
        self.pilot: Pilot | None = None
        if pilot:
            self.pilot = read_pilot(
                pilot,
                claim.rule,
                compares=claim.is_comparison,
                part=part if kind == "area" else None,
            )
            if kind == "area" and part is None:
                part = self.pilot.part
        self.ranges = self._variances()
        discordant = self.ranges[0].discordant
        if discordant is not None and abs(given.expect or 0.0) > discordant:
            raise InputError(
                f"models that disagree on {claim.show(discordant)} of the images differ by at most "
                f"that much, and --expect is {claim.show(given.expect or 0.0)}"
            )
        sizes = self._sizes(part)
        seeds = given.seeds or (self.held.seeds if self.held and claim.is_comparison else 1)
        if seeds > 1 and self.ranges[0].trainings is None:
            raise InputError(
                "seeds are planned from how much trainings of a recipe vary: say it, such as "
                "--seed-sd 0.5%, or name a --pilot with two seeds or more"
            )
        means = self.pilot.means if self.pilot else ()
        if given.reference is not None:
            means = (given.reference, given.reference + (given.expect or 0.0))
        self.design = Design(claim, part or 1.0, sizes, seeds, given.tests, means)

    def _sizes(self, part: float | None) -> GroupSizes | None:
        """How many images that count all patients have, if this share of all images counts."""
        per_patient = self.given.images_per_patient
        is_area = self.claim.planned.kind == "area"
        source = self.held if self.held and self.held.sizes else self.pilot
        sizes = None
        if per_patient is not None:
            sizes = thinned_sizes(per_patient, 1.0 if is_area else part or 1.0)
        elif source and source.sizes and is_area:
            sizes = source.sizes
        elif source and source.sizes:
            # As many of a patient that has any, and fewer or more patients that have any.
            occupied = source.sizes.occupied * part / source.part if part else 1.0
            if occupied > 1 + ROUNDING:
                most, counts = source.part / source.sizes.occupied, self.claim.planned.counted
                raise InputError(
                    f"of patients as in {source.name}, at most {most:.3g} of the images can be "
                    f"{counts}, and {part:.3g} are to be: say --images-per-patient"
                )
            sizes = source.sizes.at_occupied(min(occupied, 1.0))
        return sizes if sizes and sizes.images.max() > 1 else None

    def _variances(self) -> tuple[Variances, Variances, Variances]:
        """The variances, and both ends of their intervals; what is stated replaces a pilot's."""
        given, stated = self.given, dict[str, Any]()
        if given.discordant is not None:
            stated |= {"discordant": given.discordant, "image": None, "residuals": (0.0, 0.0)}
        if given.seed_discordant is not None:
            stated["residuals"] = (given.seed_discordant / 2, given.seed_discordant / 2)
        if given.sd is not None:
            stated["image"] = given.sd**2
        if given.icc is not None:
            stated["icc"] = given.icc
        if given.seed_sd is not None:
            stated["trainings"] = (given.seed_sd**2, given.seed_sd**2)
        known = self.pilot[:3] if self.pilot else (Variances(),) * 3
        estimate, low, high = (replace(variances, **stated) for variances in known)
        return estimate, low, high

    def plan(self) -> PlannedTest:
        """Plan it."""
        given, claim = self.given, self.claim
        planned = PlannedTest(
            claim=str(claim),
            expect=given.expect,
            target=given.power,
            needed=None,
            counts=claim.planned.counted,
            # A run that knows the metric without a class has a single finding.
            rule=claim.as_rule(names_class=not (self.pilot or self.held)),
            notes=tuple(self._notes()),
        )
        if given.expect is not None:
            planned = replace(planned, truth=self._truth(given.expect), **self._needs())
        if self.asked is not None:
            planned = replace(planned, at_best=self._at_best(self.asked))
        return planned

    # ------------------------------------------------ sizes

    def _need(self, design: Design, variances: Variances) -> int | None:
        """The smallest number of images; None if none is enough."""
        assert self.given.expect is not None
        exact = self.claim.planned.kind == "share" and design.seeds == 1
        return smallest_size(
            partial(design.power, truth=self.given.expect, variances=variances),
            self.given.power,
            is_smooth=not exact or design.sizes is not None or design.part < 1,
        )

    def _size(self, design: Design, images: int) -> Size:
        """A size of at least so many images, in whole groups."""
        assert self.given.expect is not None
        groups = None
        if design.images_per_group:
            groups = math.ceil((images - 0.5) / design.images_per_group)
            images = round(groups * design.images_per_group)
        [power] = design.power(np.array([images]), self.given.expect, self.ranges[0])
        return Size(images, round(images * design.part), groups, design.seeds, float(power))

    def _needs(self) -> dict[str, Any]:
        """What is needed: images, and seeds where recipes are compared."""
        design, (estimate, low, high) = self.design, self.ranges
        facts: dict[str, Any] = {}
        if self._plans_seeds:
            facts["fewest_seeds"] = fewest = self._fewest_seeds()
            if fewest is None:
                return {}
            counts = sorted({fewest, fewest + 1, fewest + 2, math.ceil(1.5 * fewest), 2 * fewest})
            designs = [replace(design, seeds=count) for count in counts]
            needs = [(own, self._need(own, estimate)) for own in designs]
            sizes = [self._size(own, images) for own, images in needs if images is not None]
            facts["seed_needs"] = tuple(sizes)
            if self.given.seeds is None and sizes:
                # More seeds than these save less than half of the images.
                enough = next(size for size in sizes if size.images <= 2 * sizes[-1].images)
                design = replace(design, seeds=enough.seeds)
        images = self._need(design, estimate)
        around = images or self.asked
        if images is not None:
            facts["needed"] = self._size(design, images)
        if around is not None:
            curve = {max(1, round(around * factor)) for factor in CURVE}
            curve |= set() if self.asked is None else {self.asked}
            sizes = [self._size(design, n) for n in sorted(curve)]
            facts["curve"] = tuple(dict.fromkeys(sizes))
        if self.pilot is not None:
            ends = [self._need(design, end) for end in (low, high)]
            facts["low"], facts["high"] = (n and self._size(design, n).images for n in ends)
        return facts

    @property
    def _plans_seeds(self) -> bool:
        trainings = self.ranges[0].trainings
        return trainings is not None and self.given.seeds != 1

    def _fewest_seeds(self) -> int | None:
        """The fewest seeds with which some number of images is enough."""
        assert self.given.expect is not None
        for seeds in range(2, MOST_SEEDS + 1):
            design = replace(self.design, seeds=seeds)
            [power] = design.power(np.array([MOST_IMAGES]), self.given.expect, self.ranges[0])
            if power >= self.given.power:
                return seeds
        return None

    # ------------------------------------------------ a given test set

    def _at_best(self, images: int) -> str:
        """What a test set of this size shows with the wanted power."""
        claim, expect, sizes = self.claim, self.given.expect, np.array([images])
        share = f"{100 * self.given.power:.4g} % of such studies"
        variances = self.ranges[0]

        def power_of_truth(truth: float) -> float:
            return float(self.design.power(sizes, truth, variances)[0])

        def power_of_margin(margin: float) -> float:
            assert expect is not None
            goal = replace(claim, number=margin).goal()
            return float(self.design.power(sizes, expect, variances, goal)[0])

        if claim.operator in (NOT_WORSE, WITHIN):
            assert expect is not None
            least = max(-expect, 0.0) if claim.operator == NOT_WORSE else abs(expect)
            margin = smallest_effect(power_of_margin, self.given.power, least, self._farthest)
            if margin is None:
                return f"{images:,} images show no margin in {share}."
            return (
                f"{images:,} images show at best a margin of {claim.show(margin)} in {share}, if "
                f"{self._truth(expect)}."
            )
        truth = smallest_effect(power_of_truth, self.given.power, claim.number, self._farthest)
        if truth is None:
            return f"{images:,} images cannot show '{claim}' in {share}, whatever is true."
        if claim.operator == BETTER:
            condition = f"the new model is truly better by {claim.show(truth)} or more"
        else:
            side = "more" if claim.operator == ">=" else "less"
            condition = f"the true {claim.rule.scored} is {claim.show(truth)} or {side}"
        return f"{images:,} images show '{claim}' in {share} if {condition}."

    @property
    def _farthest(self) -> float:
        """The largest effect that can be: a value, a difference or a margin."""
        if self.claim.operator == "<=":
            return 0.0 if self.claim.planned.kind == "mean" else 1e-4
        if self.claim.operator == ">=" and self.claim.planned.kind != "mean":
            return 1 - 1e-4
        if self.claim.operator == BETTER and self.ranges[0].discordant is not None:
            return self.ranges[0].discordant
        if self.claim.planned.kind != "mean":
            return 1.0
        return self.claim.number + 100 * math.sqrt(self.ranges[0].of_networks(0.0))

    # ------------------------------------------------ words

    def _truth(self, expect: float) -> str:
        claim = self.claim
        if not claim.is_comparison:
            return f"the true {claim.rule.scored} is {claim.show(expect)}"
        if expect == 0:
            return "both models are truly equal"
        word = "better" if expect > 0 else "worse"
        return f"the new model is truly {word} by {claim.show(abs(expect))}"

    def _notes(self) -> Iterator[str]:
        """What is judged and how, what the pilot says, and what is assumed."""
        claim, design, variances = self.claim, self.design, self.ranges[0]
        yield f"Judged on {self._describe_test()}."
        if self.pilot is not None:
            yield from self._describe_pilot(self.pilot)
        if claim.operator == BETTER and design.tests == 1:
            yield "Assumed: one test. compare corrects for all its tests; --tests says how many."
        if design.sizes is None:
            yield (
                "Assumed: images are independent. If patients have several, say "
                "--images-per-patient and --icc."
            )
        else:
            yield from self._describe_patients(design.sizes)
        if claim.planned.kind == "area" and not claim.is_comparison:
            yield "Assumed: scores of both sides are normal with equal variance."
        if claim.is_comparison and variances.trainings is None:
            yield (
                "This is about two trained networks. To compare recipes, say --seed-sd: other "
                "seeds differ."
            )
        if self._plans_seeds and not any(variances.residuals) and claim.planned.kind == "share":
            yield (
                "Assumed: the models disagree on the same images whatever their seeds, which is "
                "cautious. --seed-discordant says otherwise."
            )
        if self._plans_seeds and not design.means and claim.planned.kind == "share":
            yield (
                "Assumed: accuracies are far from 0 and 100 %. Near them, say --reference, the "
                "value of the old recipe."
            )
        if design.part == 1 and claim.planned.counted in ("of the class", "of other classes"):
            more = "Images" if design.sizes is None else "Images, and patients,"
            yield f"{more} of other classes come on top; --prevalence says how many."

    def _describe_patients(self, sizes: GroupSizes) -> Iterator[str]:
        """What is assumed of patients and their images."""
        claim, given, design = self.claim, self.given, self.design
        part, counts = "", claim.planned.counted
        if design.images_per_group != sizes.mean:
            part = f" {counts}"
            if given.images_per_patient is not None:
                yield (
                    f"Assumed: images {counts} fall on patients by chance. If few patients "
                    "have most of them, name a --pilot instead of --images-per-patient."
                )
            else:
                yield (
                    f"{100 * sizes.occupied:.3g} % of the patients have images {counts}: "
                    f"{sizes.mean / sizes.occupied:.3g} on average."
                )
        elif counts != "images" and claim.planned.kind != "area":
            part = f" {counts}"
            yield f"Patients with images{part} have {sizes.mean:.3g} of them on average."
        if design.images_per_group != sizes.mean or not part:
            which = f", {sizes.mean:.3g} of them{part}" if part else ""
            yield f"Patients have {design.images_per_group:.3g} images on average{which}."
        if given.icc is None and self.pilot is None:
            yield (
                "Assumed: two images of a patient are independent, which few are. --icc or a "
                "--pilot says otherwise."
            )
        else:
            yield f"Two images{part} of one patient correlate by {self.ranges[0].icc:.2g}."
        if not claim.is_comparison and claim.planned.kind == "share":
            yield "Assumed: the share differs between patients as a beta distribution."

    def _describe_test(self) -> str:
        claim, kind = self.claim, self.claim.planned.kind
        if not claim.is_comparison:
            end = "low" if claim.operator == ">=" else "high"
            interval = {
                "share": "Clopper and Pearson's 95 % interval",
                "area": "the 95 % interval of DeLong's variance on the logit scale",
                "mean": "Student's 95 % interval",
            }[kind]
            if kind == "share" and self.design.sizes is not None:
                interval = "the 95 % interval over patients"
            return f"the {end} end of {interval}, as check does (one-sided 2.5 %)"
        is_crossed = kind != "share" or self.design.sizes is not None or self._plans_seeds
        if claim.operator == BETTER:
            test = "Student's t" if is_crossed else "McNemar's exact test"
            return f"{test} at p < {0.05 / self.design.tests:.3g}, two-sided"
        ends = "both ends" if claim.operator == WITHIN else "the low end"
        return f"{ends} of the 95 % interval of the paired difference"

    def _describe_pilot(self, pilot: Pilot) -> Iterator[str]:
        estimate, low, high = self.ranges
        yield f"Variances from {pilot.name}, {pilot.images:,} images that count (95 % intervals):"
        shown: list[tuple[str, Callable[[Variances], float | None], bool]] = [
            ("images that only one model gets right", lambda v: v.discordant, True),
            ("correlation in a patient", lambda v: v.icc if self.design.sizes else None, False),
            (
                "standard deviation between trainings",
                lambda v: v.trainings and math.sqrt(sum(v.trainings) / 2),
                self.claim.is_percent,
            ),
        ]
        if self.claim.planned.kind == "mean":
            shown.append(
                ("standard deviation over images", lambda v: math.sqrt(v.image or 0), False)
            )
        if self.claim.planned.kind == "area" and not self.claim.is_comparison:
            shown.append(("variance beside normal scores", lambda v: v.scale, False))
        for title, get, is_percent in shown:
            values = [get(variances) for variances in (estimate, low, high)]
            if values[0] is not None:
                texts = [
                    f"{100 * (v or 0):.3g} %" if is_percent else f"{v or 0:.3g}" for v in values
                ]
                # Over patients, what is uncertain is laid on their correlation.
                ends = f" ({texts[1]} to {texts[2]})" if values[1] != values[2] else ""
                yield f"  {title}: {texts[0]}{ends}"
