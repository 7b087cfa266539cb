"""Guards with limits for classes and findings: what is fitted, answered, refused and kept."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fairweather.cli.deploy import read_limits
from fairweather.deploy import making
from fairweather.deploy.choosing import ClassLimit, divide_images, score_classes, weigh_classes
from fairweather.deploy.guard import FindingsGuard, Guard, GuardOutputs
from fairweather.deploy.loading import make_promise
from fairweather.deploy.promise import (
    FindingsGuardRecord,
    GuardRecord,
    LimitCheck,
    Promise,
    ShareInterval,
)
from fairweather.errors import InputError
from fairweather.metrics import Grouping, fewest_for_risk, softmax
from fairweather.metrics.grouping import share_interval
from fairweather.tasks import select_finding
from fairweather.types.measurement import UNKNOWN
from fairweather.variants.prediction_sets import split_halves
from tests.deploy import test_findings_guard as findings
from tests.deploy import test_guard as classes
from tests.helpers.chance import most
from tests.helpers.finding_models import NAMES

LIMITED = Promise(risk=0.3, certainty=0.8, coverage=0.8, missed={"w": 0.2, "y": 0.25})
ALONE = LIMITED.model_copy(update={"risk": None})
FACTS = {
    "model": "a", "title": "A", "run": "r", "seed": 0, "architecture": "x", "size": (8, 8),
    "preparation": None, "scale": None, "versions": {}, "time": "",
}  # fmt: skip


def simulated(n, seed=0):
    """Right as often as it says, and sure enough to be limited."""
    return classes.simulated(n, np.random.default_rng(seed))


def guard_of(fit, promise=LIMITED, names=("w", "x", "y", "z")):
    """A guard that is told the logits of images."""
    record = GuardRecord(classes=names, promise=promise, fit=fit, kept=(), **FACTS)
    return Guard(record, lambda _: None, GuardOutputs(np.zeros((1, len(names)), np.float32), None))


def finding_guard_of(fit, promise):
    record = FindingsGuardRecord(classes=NAMES, promise=promise, fit=fit, kept=(), **FACTS)
    return FindingsGuard(record, lambda _: None, GuardOutputs(np.zeros((1, 3), np.float32), None))


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("promise", [LIMITED, ALONE])
def test_a_guard_counts_what_it_answers(tmp_path, promise):
    """What the fit says of validation images is what the guard does with these images."""
    predictions = simulated(2000)
    fit, chosen_on, _ = making.fit_promise(classes.reopened(tmp_path, predictions), promise)
    answers = guard_of(fit, promise).answers(GuardOutputs(chosen_on.logits, None))
    predicted = chosen_on.predicted
    for place, (name, top) in enumerate(zip("wxyz", fit.ceilings("wxyz"), strict=True)):
        others = answers.answered & (predicted != place)
        assert answers.probabilities[others, place].max() <= top
        assert (top < 1) == (name in promise.missed)
    wrong = answers.answered & (predicted != chosen_on.labels)
    assert (fit.images, fit.answered) == (len(chosen_on), answers.answered.sum())
    assert fit.wrong == wrong.sum()
    for shown in fit.limits:
        among = chosen_on.labels == "wxyz".index(shown.name)
        assert shown.images == among.sum()
        assert shown.answered == (answers.answered & among).sum()
        assert shown.wrong == (wrong & among).sum()
        assert (
            shown.wrong / shown.answered < shown.bound <= shown.limit == promise.missed[shown.name]
        )
        assert shown.fewest == fewest_for_risk(shown.limit, promise.certainty)
    if promise.risk is None:
        assert (fit.threshold, fit.bound) == (0, None)
    else:
        assert fit.threshold > 0.25
        assert fit.bound <= promise.risk


def test_limits_take_answers_from_a_guard_and_no_more_than_they_must(tmp_path):
    predictions = simulated(2000)
    run = classes.reopened(tmp_path, predictions)
    alone = making.fit_promise(run, LIMITED.model_copy(update={"missed": {}})).fit
    limited = making.fit_promise(run, LIMITED).fit
    assert 0.2 * alone.answered < limited.answered < alone.answered
    assert alone.limits == ()
    images = divide_images(predictions, None, None, "groups")
    scores = score_classes(images.choosing().images, weigh_classes(images.proposing, []))
    np.testing.assert_array_equal(scores[:, 1], 0)  # without a limit, there is no doubt


def test_doubt_is_the_probability_of_a_limited_class_that_is_not_the_answer():
    predictions = simulated(50)
    limits = [ClassLimit("missed", "w", 0, 0.1), ClassLimit("missed", "y", 2, 0.4)]
    weights = weigh_classes(predictions, limits)
    shares = np.bincount(predictions.labels, minlength=4) / 50
    assert weights.tolist() == pytest.approx([0.1 * shares[0], np.inf, 0.4 * shares[2], np.inf])
    scores, p = score_classes(predictions, weights), softmax(predictions.logits)
    for (sure, doubt), row, answer in zip(scores, p, predictions.predicted, strict=True):
        others = [row[k] / weights[k] for k in (0, 2) if k != answer]
        assert (sure, doubt) == (row[answer], -max(others))


@pytest.mark.parametrize("weigh", ["groups", "images"])
def test_of_each_patient_with_a_class_one_image_of_it_tests_the_limit(tmp_path, weigh):
    predictions, patients = simulated(6000), np.arange(6000) // 3
    promise = ALONE.model_copy(update={"weigh": weigh})
    run = classes.reopened(tmp_path, predictions, patients)
    fit = making.fit_promise(run, promise).fit
    second = split_halves(predictions.keys, Grouping(patients)).thresholds
    for shown in fit.limits:
        among = second[predictions.labels[second] == "wxyz".index(shown.name)]
        expected = len(np.unique(patients[among])) if weigh == "groups" else len(among)
        assert shown.images == expected
        assert len(among) > len(np.unique(patients[among]))  # some have several


def test_too_few_images_of_a_class_are_refused_with_the_number(tmp_path):
    predictions = simulated(1200)
    run = classes.reopened(tmp_path, predictions)
    strict = make_promise(0.3, 0.95).model_copy(update={"missed": {"y": 0.01}})
    images = divide_images(predictions, None, None, "groups")
    count = np.count_nonzero(images.choosing().images.labels == 2)
    said = (
        f"at most 1 % missed among answered images of y takes at least 299 answered ones and no "
        f"error, and half of the validation images of y are {count}; allow more, or evaluate"
    )
    with pytest.raises(InputError, match=said):
        making.fit_promise(run, strict)
    patients = classes.reopened(tmp_path / "patients", predictions, np.arange(1200) // 2)
    with pytest.raises(InputError, match="half of the patients with validation images of y are"):
        making.fit_promise(patients, strict)


def test_what_no_rule_keeps_is_refused_with_what_is_missed(tmp_path):
    predictions = simulated(1200)
    labels = np.random.default_rng(1).integers(0, 4, 1200)
    run = classes.reopened(tmp_path, predictions.with_columns(labels=labels))
    said = (
        r"no threshold is shown to keep a risk of 30 % and at most 20 % missed among answered "
        r"images of w and at most 25 % missed among answered images of y: if Model A answered all, "
        r"7\d% of 600 validation images are wrong and \d\d(\.\d)? % of \d+ of w are missed and"
    ).replace("7\\d%", r"7\d(\.\d)? %")
    with pytest.raises(InputError, match=said):
        making.fit_promise(run, LIMITED)


def test_without_logits_the_confidence_alone_keeps_limits(tmp_path):
    predictions = replace(simulated(4000), logits=None)
    fit = making.fit_promise(classes.reopened(tmp_path, predictions), LIMITED).fit
    assert [shown.ceiling for shown in fit.limits] == [None, None]
    assert fit.ceilings("wxyz") == (1, 1, 1, 1)
    assert 0 < fit.answered < fit.images
    with pytest.raises(InputError, match="no threshold is shown to keep at most 20 %"):
        # Without a risk and without probabilities, all would be answered.
        making.fit_promise(classes.reopened(tmp_path / "a", predictions), ALONE)


def test_equal_probabilities_are_answered_together(tmp_path):
    """The ceiling is a probability that many images have, and they are on its right side."""
    predictions = simulated(4000)
    logits = (np.log(softmax(predictions.logits).round(1) + 0.02)).astype(np.float32)
    rounded = predictions.with_columns(logits=logits, predicted=logits.argmax(axis=1))
    fit, chosen_on, _ = making.fit_promise(classes.reopened(tmp_path, rounded), ALONE)
    answers = guard_of(fit, ALONE).answers(GuardOutputs(chosen_on.logits, None))
    for shown in fit.limits:
        among = chosen_on.labels == "wxyz".index(shown.name)
        assert shown.answered == (answers.answered & among).sum()


@pytest.mark.parametrize("trials", [60, pytest.param(200, marks=pytest.mark.nightly)])
def test_all_limits_are_kept_together(tmp_path, trials):
    """Through all steps, on new validation images; benchmarks/class_limits.py draws 2,000 times."""
    truth, broken, answered = simulated(60_000, seed=1), 0, []
    for trial in range(trials):
        run = classes.reopened(tmp_path / str(trial), simulated(1500, seed=[2, trial]))
        fit = making.fit_promise(run, LIMITED).fit
        answers = guard_of(fit).answers(GuardOutputs(truth.logits, None))
        sure, wrong = answers.answered, truth.predicted != truth.labels
        risks = [wrong[sure].mean() / LIMITED.risk]
        for name, limit in LIMITED.missed.items():
            among = sure & (truth.labels == "wxyz".index(name))
            risks.append(wrong[among].mean() / limit)
        broken += max(risks) > 1
        answered.append(sure.mean())
    assert broken <= most(trials, 1 - LIMITED.certainty)
    assert np.mean(answered) > 0.15  # it is no promise about nothing


@pytest.mark.parametrize("weigh", ["groups", "images"])
def test_what_is_kept_of_a_limit_counts_images_of_its_class(tmp_path, weigh):
    predictions, patients = simulated(3000), np.arange(3000) // 3
    promise = ALONE.model_copy(update={"weigh": weigh})
    run = classes.reopened(tmp_path, predictions)
    fitted = making.fit_promise(run, promise)
    fitted = fitted._replace(chosen_on=predictions, grouping=Grouping(patients))
    checks = [own for own in making.measure_run(run, fitted, weigh) if isinstance(own, LimitCheck)]
    assert [(own.images, own.name, own.limit) for own in checks] == [
        ("validation", "w", "missed"), ("validation", "y", "missed"),
    ]  # fmt: skip
    answered = guard_of(fitted.fit, ALONE).answers(GuardOutputs(predictions.logits, None)).answered
    for check in checks:
        places = np.flatnonzero(predictions.labels == "wxyz".index(check.name))
        groups = Grouping(patients).select(places)
        weights = groups.equal_weights if weigh == "groups" else np.ones(len(places))
        sure, wrong = answered[places], ~predictions.correct[places]
        assert check.n == len(places)
        assert check.answered == pytest.approx(np.average(sure, weights=weights))
        value = np.average(wrong[sure], weights=weights[sure])
        assert check.risk.value == pytest.approx(value)
        [low], [high] = share_interval(wrong, np.where(sure, 0, -1), 1, groups, weights)
        assert (check.risk.low, check.risk.high) == pytest.approx((low, high))


def test_the_output_says_what_each_limit_rests_on_and_what_shifts_leave_of_it(tmp_path):
    fit = making.fit_promise(classes.reopened(tmp_path, simulated(2000)), ALONE).fit
    shown = fit.limits[0]

    def check(images, kind, value):
        risk = ShareInterval(value=value, low=value / 2, high=1)
        return LimitCheck(
            images=images, kind=kind, n=9, answered=0.5, risk=risk, limit="missed", name="w"
        )

    kept = check("clean", "clean", 0.1), check("fog", "shift", 0.4), check("dark", "shift", 0.2)
    record = guard_of(fit, ALONE).record.model_copy(update={"kept_limits": kept})
    lines = record.lines()
    assert list(lines) == ["promised", "sets", "limit 1", "limit 2"]
    assert lines["promised"].startswith(
        "at most 20 % missed among answered images of w and at most 25 % missed among answered "
        "images of y, with 80 % confidence for all limits together, for images like the validation"
    )
    assert lines["limit 1"] == (
        f"at most 20 % missed among answered images of w: {shown.wrong} of {shown.answered} "
        f"answered validation images are missed (8 are needed if none is); another class is "
        f"answered where w has a probability of at most {shown.ceiling:.3g}; test images of the "
        "run: 10 % [5 %, 100 %] of them are missed, 50 % are answered; missed above 20 % at 1 of 2 "
        "shifted levels; worst, fog: 40 % [20 %, 100 %] of them are missed, 50 % are answered"
    )
    assert repr(guard_of(fit, ALONE)) == "Guard('A', missed w <= 20 %, missed y <= 25 %)"
    both = guard_of(fit).record.lines()["promised"]
    assert both.startswith("at most 30 % of the answers are wrong, with 80 % confidence for all")


def test_one_number_is_for_every_class_and_names_are_checked(tmp_path):
    run = classes.reopened(tmp_path, simulated(400))
    promise = make_promise(0.3)
    names = run.classes
    assert making.add_limits(promise, run, 0.1).missed == dict.fromkeys(names, 0.1)
    assert making.add_limits(promise, run, {names[1]: 0.1}).missed == {names[1]: 0.1}
    with pytest.raises(InputError, match=f"unknown class or finding .*{names[0]}"):
        making.add_limits(promise, run, {"melanoma": 0.1})
    with pytest.raises(InputError, match=f"missed of {names[0]} must be a share .* found 1"):
        making.add_limits(promise, run, {names[0]: 1})
    with pytest.raises(InputError, match=r"false_alarms is about findings.* limit how often"):
        making.add_limits(promise, run, None, 0.1)


def test_a_limit_of_no_class_is_refused_in_a_file(tmp_path):
    fit = making.fit_promise(classes.reopened(tmp_path, simulated(2000)), ALONE).fit
    facts = json.loads(guard_of(fit, ALONE).record.model_dump_json())
    assert GuardRecord.model_validate(facts).fit == fit
    facts["fit"]["limits"][0]["name"] = "other"
    with pytest.raises(ValueError, match="it limits 'other', which is not one of its"):
        GuardRecord.model_validate(facts)


@pytest.mark.parametrize(
    "texts", [["melanoma"], ["melanoma: 2"], [": 1%"], ["1%", "5%"], ["a: 1%", "a: 2%"], ["a: 0"]]
)
def test_what_is_no_limit_is_named(texts):
    with pytest.raises(InputError, match=r"^--missed (must be a name and a share|names 'a' twice)"):
        read_limits(texts, "--missed")


def test_a_name_may_hold_a_colon():
    assert read_limits(["stage: late: 5 %"], "--missed") == {"stage: late": 0.05}


# ---------------------------------------------------------------- findings

MISSED = {"Effusion": 0.2}
FINDING = Promise(
    risk=0.2, certainty=0.9, coverage=None, missed=MISSED, false_alarms={"Effusion": 0.3}
)


def test_a_finding_has_a_threshold_for_present_and_one_for_absent(tmp_path):
    predictions = findings.simulated(3000, np.random.default_rng(0))
    fit = making.fit_findings(findings.reopened(tmp_path, predictions), FINDING)
    first, *others = fit.findings
    assert first.present != first.threshold
    assert [own.present for own in others] == [None, None]
    parts = split_halves(select_finding(predictions, 0).keys)
    known = np.flatnonzero(predictions.known[:, 0])[parts.thresholds]
    answers = finding_guard_of(fit, FINDING).answers(GuardOutputs(predictions.logits[known], None))
    sure, there = answers.answered[:, 0], answers.present[:, 0]
    p, labels = answers.probabilities[:, 0], predictions.labels[known, 0]
    assert p[sure & there].min() >= first.present
    assert p[sure & ~there].max() <= 1 - first.threshold + 1e-12
    assert (first.images, first.answered) == (len(known), sure.sum())
    assert first.wrong == (sure & (there != labels)).sum()
    for shown, label in zip(fit.limits, (1, 0), strict=True):
        among = labels == label
        assert shown.images == among.sum()
        assert shown.answered == (sure & among).sum()
        assert shown.wrong == (sure & among & (there != labels)).sum()
        assert shown.bound <= shown.limit
        assert shown.fewest == fewest_for_risk(shown.limit, 1 - 0.1 / 3)
    assert [shown.kind for shown in fit.limits] == ["missed", "false_alarms"]


def test_only_findings_with_a_promise_share_the_certainty(tmp_path):
    predictions = findings.simulated(900, np.random.default_rng(0))
    run = findings.reopened(tmp_path, predictions)
    promise = FINDING.model_copy(update={"risk": None})
    fit = making.fit_findings(run, promise)
    assert fit.certainty == pytest.approx(0.9)
    assert fit.findings[0].threshold is not None
    for other in fit.findings[1:]:
        assert (other.threshold, other.reason) == (None, "nothing is promised about it")
    answers = finding_guard_of(fit, promise).answers(GuardOutputs(predictions.logits, None))
    assert answers.answered[:, 0].any()
    assert not answers.answered[:, 1:].any()


def test_a_limit_of_one_kind_leaves_the_other_answer_free(tmp_path):
    predictions = findings.simulated(3000, np.random.default_rng(0))
    run = findings.reopened(tmp_path, predictions)
    for kind, free in (("missed", "present"), ("false_alarms", "threshold")):
        promise = Promise(risk=None, certainty=0.9, coverage=None, **{kind: {"Effusion": 0.1}})
        first = making.fit_findings(run, promise).findings[0]
        own = "threshold" if free == "present" else "present"
        assert getattr(first, free) == 0
        assert getattr(first, own) > 0.5


def rare(predictions, count):
    """The same with a first finding that only the first images have, and are answered absent."""
    labels, logits = predictions.labels.copy(), predictions.logits.copy()
    labels[:, 0], logits[:, 0] = 0, -3
    labels[:count, 0] = 1
    return predictions.with_columns(labels=labels, logits=logits)


def test_a_rare_finding_is_not_always_absent_but_for_review(tmp_path):
    predictions = rare(findings.simulated(2000, np.random.default_rng(0)), 30)
    run = findings.reopened(tmp_path, predictions)
    promise = Promise(risk=0.2, certainty=0.9, coverage=None)
    careless = making.fit_findings(run, promise)
    answers = finding_guard_of(careless, promise).answers(GuardOutputs(predictions.logits, None))
    assert answers.answered[:, 0].all()  # and each of the 30 is missed
    assert not answers.present[:, 0].any()
    careful = promise.model_copy(update={"missed": {"Effusion": 0.1}})
    first = making.fit_findings(run, careful).findings[0]
    assert first.threshold is first.present is first.bound is None
    assert first.reason.startswith(
        "at most 10 % missed among answered images of Effusion takes at least 33 answered ones and "
        "no error, and half of the validation images of Effusion are "
    )
    assert "Effusion: all for review: at most 10 % missed" in "".join(
        finding_guard_of(making.fit_findings(run, careful), careful).record.lines().values()
    )
    many = findings.reopened(tmp_path / "many", rare(predictions, 300))
    first = making.fit_findings(many, careful).findings[0]
    assert first.threshold is None
    assert "100 % of 1" in first.reason
    assert "of Effusion are missed" in first.reason


@pytest.mark.parametrize("patients", [1, 3])
@pytest.mark.parametrize("trials", [40, pytest.param(150, marks=pytest.mark.nightly)])
def test_limits_of_findings_are_kept_together(tmp_path, trials, patients):
    rng = np.random.default_rng(0)
    truth, broken, answered = findings.simulated(60_000, rng, patients), 0, []
    promise = FINDING.model_copy(update={"missed": dict.fromkeys(NAMES, 0.2)})
    for trial in range(trials):
        validation = findings.simulated(900 * patients, rng, patients)
        groups = None if patients == 1 else np.arange(len(validation)) // patients
        run = findings.reopened(tmp_path / str(trial), validation, groups)
        fit = making.fit_findings(run, promise)
        answers = finding_guard_of(fit, promise).answers(GuardOutputs(truth.logits, None))
        exceeded = [False]
        for column in range(3):
            labels = truth.labels[:, column]
            sure = answers.answered[:, column] & (labels != UNKNOWN)
            wrong = answers.present[:, column] != (labels == 1)
            answered.append(sure.mean())
            parts = [(sure, 0.2), (sure & (labels == 1), 0.2)]
            parts += [(sure & (labels == 0), 0.3)] if column == 0 else []
            exceeded += [wrong[among].mean() > limit for among, limit in parts if among.any()]
        broken += max(exceeded)
    assert broken <= most(trials, 1 - promise.certainty)
    assert np.mean(answered) > 0.2


def test_one_finding_reads_as_one(tmp_path):
    promise = Promise(risk=0.2, certainty=0.9, coverage=None, missed=MISSED)
    many = findings.simulated(3000, np.random.default_rng(0))
    fit = making.fit_findings(findings.reopened(tmp_path, many), promise)
    one = fit.model_copy(update={"findings": fit.findings[:1]})
    record = FindingsGuardRecord(classes=NAMES[:1], promise=promise, fit=one, kept=(), **FACTS)
    lines = record.lines()
    assert list(lines) == ["promised", "finding 1", "limit 1"]
    assert lines["promised"].startswith(
        "at most 20 % of the answers about Effusion are wrong, with 90 % confidence for all limits "
        "together, for images like the validation images"
    )
    first, shown = one.findings[0], one.limits[0]
    assert lines["finding 1"] == (
        f"Effusion: absent up to a probability of {1 - first.threshold:.4g}, present from "
        f"{max(first.present, 0.5):.4g} on, the others for review, where {first.wrong} of "
        f"{first.answered:,} answers to validation images are wrong"
    )
    assert lines["limit 1"] == (
        f"at most 20 % missed among answered images of Effusion: {shown.wrong} of {shown.answered} "
        f"answered validation images are missed ({shown.fewest} are needed if none is)"
    )
    alone = promise.model_copy(update={"missed": {}})
    bare = record.model_copy(
        update={"promise": alone, "fit": one.model_copy(update={"limits": ()})}
    )
    assert "with 90 % confidence, for images" in bare.lines()["promised"]
