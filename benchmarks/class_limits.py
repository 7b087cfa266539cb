"""How often does a guard with limits of its own for classes or findings break one of them?

    python benchmarks/class_limits.py    # about 15 minutes on an idle core; writes class_limits.csv
    python benchmarks/class_limits.py --trials 20    # a try, which writes nothing

Validation images are drawn with replacement from a population of 20,000: nevi, melanomas and other
lesions, or images with and without a finding. Half of them propose rules, and the others choose
(`deploy.choosing`). A draw is broken if the rule answers, and any limit is exceeded in the
population, where the true share is counted. At most 5 % of draws may be broken.

Limits: at most 5 % of answered melanomas missed, and 10 % of all answers wrong; or besides at most
20 % of each other class missed. Of a finding: at most 5 % missed; or also at most 20 % false
alarms, and 10 % of all answers wrong. "Positives" is the mean number of melanomas, or of images
with the finding, among the images drawn; where patients are drawn, of patients with melanoma. The
fewest that can show 5 % are 59 in the second half.

Models: overconfident by a factor of 2 (the temperature corrects it); with ties, where probabilities
are twentieths; blind, the hardest case: it misses just above 5 % of melanomas, and is so sure of it
that every rule answers these. Patients have 1 to 13 images, most few, which are alike in how hard
they are; of each, one image counts. A blind model misses all images of a patient, or none.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np

from fairweather.deploy.choosing import (
    ChosenRule,
    ClassLimit,
    choose_for_classes,
    choose_for_finding,
    divide_images,
)
from fairweather.metrics import Grouping, per_image, softmax
from fairweather.metrics.answer_rules import is_answered_within
from fairweather.tasks import FindingsPredictions, select_finding
from fairweather.types.measurement import Predictions

STORED = Path(__file__).with_suffix(".csv")
TRIALS, POPULATION, CERTAINTY = 2000, 20_000, 0.95
NAMES = ("nevus", "melanoma", "other")
SHARES = {"class": (0.4, 0.4, 0.2), "finding": (0.6, 0.4)}
PREVALENCE = 0.4  # of melanoma, and of the finding
MISSED = 0.05
FEW, MANY = 150, 500  # positives
MODELS = ("overconfident", "ties", "blind")
SIZES = np.array([1, 1, 1, 1, 2, 2, 3, 13])  # images of a patient
ALIKE = 0.6  # share of the variance of images that is that of their patient
MELANOMA = ClassLimit("missed", "melanoma", 1, MISSED)
PRESENT = ClassLimit("missed", "finding", 1, MISSED)
# The limits, and the risk, by task and name.
LIMITS = {
    ("class", "melanoma, risk"): ((MELANOMA,), 0.1),
    ("class", "each class, risk"): (
        (ClassLimit("missed", "nevus", 0, 0.2), MELANOMA, ClassLimit("missed", "other", 2, 0.2)),
        0.1,
    ),
    ("finding", "missed"): ((PRESENT,), None),
    ("finding", "missed, false alarms, risk"): (
        (PRESENT, ClassLimit("false_alarms", "finding", 0, 0.2)),
        0.1,
    ),
}
FEWER = ("melanoma, risk", "missed")
COLUMNS = (
    *("task", "limits", "model", "drawn", "positives", "trials"),
    *("answers", "broken", "coverage", "reviewed_positives"),
)


class Population:
    """Predictions of many images, and the patient of each."""

    def __init__(self, task: str, model: str, *, patients: bool) -> None:
        generator = np.random.default_rng([("class", "finding").index(task), MODELS.index(model)])
        sizes = generator.choice(SIZES, POPULATION // 3) if patients else np.ones(POPULATION, int)
        self.sizes, of = sizes, np.repeat(np.arange(len(sizes)), sizes)
        self.starts, self.of = np.cumsum(sizes) - sizes, of
        own, alone = generator.normal(size=(len(sizes), 3))[of], generator.normal(size=(len(of), 3))
        share = ALIKE if patients else 0
        noise = np.sqrt(share) * own + np.sqrt(1 - share) * alone
        # All images of a patient show the same lesion, but not all have the finding.
        chance = generator.random(len(sizes))[of]
        if task == "finding":
            chance = generator.random(len(of))
        common = np.array(SHARES[task])
        labels = np.searchsorted(np.cumsum(common)[:-1], chance)
        classes = np.arange(len(common))
        logits = 3 * (labels[:, None] == classes) + 1.3 * noise[:, classes] + np.log(common)
        if model == "overconfident":
            logits *= 2
        if model == "ties":
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            logits = np.log((20 * p / p.sum(axis=1, keepdims=True)).round() + 0.2)
        if model == "blind":
            logits = self._blind(labels, classes, generator)
        self.all = self._predictions(task, logits.astype(np.float32), labels)

    def _blind(
        self, labels: np.ndarray, classes: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        """Just above 5 % of the patients with melanoma have it missed, and no score shows it."""
        missed = np.zeros(len(labels), dtype=bool)
        patients = np.unique(self.of[labels == 1])
        chosen = generator.permutation(patients)[: int(MISSED * len(patients)) + 1]
        missed[(labels == 1) & np.isin(self.of, chosen)] = True
        answer = np.where(missed, 0, labels)
        # Where it misses, the probability of other classes is 0, whatever the temperature.
        gap = np.where(missed, 1e6, generator.uniform(1, 9, len(labels)))
        return np.where(answer[:, None] == classes, 0, -gap[:, None])

    @staticmethod
    def _predictions(task: str, logits: np.ndarray, labels: np.ndarray) -> Predictions:
        keys = np.arange(len(labels))
        if task == "class":
            return Predictions(keys, labels, *per_image(logits, labels), logits, NAMES)
        logit = logits[:, 1:] - logits[:, :1]
        return select_finding(FindingsPredictions(keys, labels[:, None], logit, ("finding",)), 0)

    def draw(self, patients: int, seed: int) -> tuple[Predictions, Grouping | None]:
        """Draw patients, and say which image is of which, if they have several."""
        generator = np.random.default_rng([patients, seed])
        drawn = generator.integers(len(self.sizes), size=patients)
        sizes = self.sizes[drawn]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        places = np.repeat(self.starts[drawn], sizes) + within
        found = self.all.take(places).with_columns(keys=np.arange(len(places)))
        if self.sizes.max() == 1:
            return found, None
        return found, Grouping(np.repeat(np.arange(len(drawn)), sizes))

    def share(self, hits: np.ndarray, among: np.ndarray) -> float:
        """A share among some images, each patient with such images counting alike."""
        count = np.bincount(self.of, among, len(self.sizes))
        part = np.bincount(self.of, among & hits, len(self.sizes))
        return float(np.divide(part, count, out=np.zeros(len(count)), where=count > 0).sum())

    def exceeded(
        self, answered: np.ndarray, limits: tuple[ClassLimit, ...], risk: float | None
    ) -> bool:
        """Whether any limit is exceeded if these images are answered."""
        wrong = ~self.all.correct
        among = [(self.all.labels == own.label, own.share) for own in limits]
        if risk is not None:
            among.append((np.ones(len(wrong), dtype=bool), risk))
        return any(
            self.share(answered & wrong, own) > limit * self.share(answered, own)
            for own, limit in among
        )


def answer(
    population: Population, chosen: ChosenRule, task: str, limits: tuple[ClassLimit, ...]
) -> np.ndarray:
    """Which images of the population are answered, by what a guard stores."""
    images = population.all
    p = softmax(images.logits / np.float32(chosen.temperature))
    if task == "finding":
        present, absent = chosen.thresholds
        return np.where(images.predicted == 1, p[:, 1] >= present, p[:, 0] >= absent)
    ceilings = np.ones(len(NAMES))
    for own, fitted in zip(limits, chosen.limits, strict=True):
        ceilings[own.label] = fitted.ceiling
    return is_answered_within(p.max(axis=1), images.predicted, p, chosen.thresholds[0], ceilings)


def row(task: str, name: str, model: str, *, patients: bool, positives: int, trials: int) -> list:
    population = Population(task, model, patients=patients)
    limits, risk = LIMITS[task, name]
    choose = choose_for_classes if task == "class" else choose_for_finding
    answers = broken = 0
    coverage, reviewed = [], []
    for seed in range(trials):
        drawn, grouping = population.draw(round(positives / PREVALENCE), seed)
        images = divide_images(drawn, grouping, grouping and "patient", "groups")
        if any(limit.lacking(images, CERTAINTY) for limit in limits):
            continue
        chosen = choose(images, limits, risk, CERTAINTY)
        if not chosen.answers:
            continue
        answered = answer(population, chosen, task, limits)
        answers += 1
        broken += population.exceeded(answered, limits, risk)
        coverage.append(answered.mean())
        reviewed.append(1 - answered[population.all.labels == 1].mean())
    means = [f"{np.mean(column):.3f}" if column else "" for column in (coverage, reviewed)]
    how = "patients" if patients else "images"
    shares = [f"{count / trials:.4f}" for count in (answers, broken)]
    return [task, name, model, how, positives, trials, *shares, *means]


def rows(trials: int) -> Iterator[list]:
    for (task, name), model, patients in product(LIMITS, MODELS, (False, True)):
        if name in FEWER:
            yield row(task, name, model, patients=patients, positives=FEW, trials=trials)
        elif not patients and model != "ties":
            yield row(task, name, model, patients=patients, positives=MANY, trials=trials)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=TRIALS)
    trials = parser.parse_args().trials
    stored = STORED.open("w", newline="") if trials == TRIALS else sys.stdout
    writer = csv.writer(stored, lineterminator="\n")
    writer.writerow(COLUMNS)
    for own in rows(trials):
        writer.writerow(own)
        stored.flush()


if __name__ == "__main__":
    main()
