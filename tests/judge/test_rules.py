"""Rules: what can be written, what they are checked on, and that missing rows never pass."""

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from fairweather import metrics
from fairweather.errors import InputError
from fairweather.judge.rule_values import count_enough_images, widen_to_exact
from fairweather.judge.rules import Rule, read_rules
from fairweather.judge.verdicts import (
    Verdict,
    find_example,
    format_junit,
    format_verdicts,
    judge,
    judge_rules,
)
from fairweather.metrics import Estimate, to_score
from fairweather.metrics.bounded_means import BoundedLosses, betting_interval
from fairweather.metrics.intervals import recipe_estimate, to_bounded_score
from fairweather.metrics.metric import class_metric_names
from fairweather.metrics.seeds import seed_variance, widen_for_seeds
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import add_means, add_worst, scores_frame, seed_spread
from fairweather.types.measurement import Predictions, Score
from fairweather.types.record import ShiftLevel
from tests.helpers import reference
from tests.helpers.chance import most
from tests.helpers.run_folders import copy_run, finish, run_record, sweep_record, write_scores
from tests.helpers.run_folders import write_run as write_folder

N, CLASSES, RESAMPLES = 120, 3, 150
SNOW = "imagenet_c/snow"
# How much the label's logit is above the others, by shift and level.
SHIFTS = {SNOW: {"1": 2.0, "2": 0.8}, "brightness_factor": {"0.5": 1.5}, "pgd": {"0.03125": -1.0}}
CLEAN = 3.0
CHANGED = "accuracy_change/adapted"


NAMES = ("a", "b", "c (rare) [II]")
OF_CLASSES = class_metric_names(NAMES, {"b": 0.3})


def predictions(strength, seed):
    """An image has the same noise under every shift, so that cells are paired."""
    labels = np.random.default_rng(0).integers(CLASSES, size=N)  # the same images for all seeds
    noise = np.random.default_rng([1, seed]).normal(size=(N, CLASSES))
    logits = (noise + strength * np.eye(CLASSES)[labels]).astype("f4")
    columns = metrics.per_image(logits, labels)
    return Predictions(np.arange(N), labels, *columns, logits, NAMES)


def cell_id(shift, level):
    return f"{shift},{'epsilon' if shift == 'pgd' else 'severity'}={level}"


def write_run(path, models=("basic", "basic+temperature"), seeds=(0,), validation=None):
    """A run folder with the files that the steps of a study write, without a model."""
    weights = metrics.bootstrap_weights(N, RESAMPLES)
    cells, stored = {}, {}
    for model in models:
        for seed in seeds:
            strengths = {("clean", "none"): (CLEAN, "clean")}
            for shift, levels in SHIFTS.items():
                for level, strength in levels.items():
                    strengths[shift, level] = strength, cell_id(shift, level)
            for (shift, level), (strength, cell) in strengths.items():
                found = predictions(strength - 0.2 * len(model) / 5, seed)
                stored[model, seed, cell] = found
                shared = metrics.Resamples.from_weights(found.labels, weights)
                key = (model, str(seed), shift, level)
                cells[key] = metrics.evaluate_metrics(found, weights)
                cells[key] |= metrics.evaluate_resamples(found, shared, None, OF_CLASSES)
            if validation is not None:
                stored[model, seed, "clean", "val"] = validation
    frame = scores_frame(add_worst(add_means(cells.items(), apart=["pgd"]), apart=["pgd"]))
    # The numbers of single classes have no rows for single levels, as in a real run.
    single = ~frame["level"].isin(["none", "mean"]) | (frame["shift"] == "all")
    frame = frame[~(frame["metric"].isin(OF_CLASSES) & single)]
    sweeps = [
        sweep_record(
            shift,
            {float(level): cell_id(shift, level) for level in levels},
            kind="attack" if shift == "pgd" else "shift",
        )
        for shift, levels in SHIFTS.items()
    ]
    record = run_record(
        {"basic": "Basic"},
        sweeps,
        classes=NAMES,
        bootstrap=RESAMPLES,
        seeds=seeds,
        variants={name: name for name in models if "+" in name},
    )
    return write_folder(path, record, frame, stored)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"))


def check(run, *texts, on="interval"):
    return judge(run, read_rules(texts), on=on)


def row(run, model, shift, level, metric, seed="0"):
    scores = run.scores
    for name, wanted in (("model", model), ("seed", seed), ("shift", shift), ("level", level)):
        scores = scores[scores[name] == wanted]
    (found,) = scores[scores["metric"] == metric].itertuples()
    return found


def replace_scores(run, path, change):
    """A copy of the run with only its scores, changed."""
    copy = RunFolder(path)
    write_scores(copy, change(run.scores))
    return copy


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("accuracy[clean] >= 0.85", Rule(None, "accuracy", "clean", "", ">=", "0.85")),
        ("  accuracy [ clean ]>.85 ", Rule(None, "accuracy", "clean", "", ">", ".85")),
        ("accuracy[snow] drop <= 5%", Rule(None, "accuracy", "snow", "drop", "<=", "5%")),
        ("ece[snow=8/255] rise<1e-3", Rule(None, "ece", "snow=8/255", "rise", "<", "1e-3")),
        ("a-b.c+d : ece/10-x[*] <= -1 %", Rule("a-b.c+d", "ece/10-x", "*", "", "<=", "-1 %")),
        (
            "m:coverage_at_risk/0.05[all] > 0",
            Rule("m", "coverage_at_risk/0.05", "all", "", ">", "0"),
        ),
        (
            "sensitivity[ clean | class=malignant ] >= 0.9",
            Rule(None, "sensitivity", "clean", "", ">=", "0.9", "class=malignant"),
        ),
        (
            "m: ppv[snow=3|class=basal cell (II) [x] | y@0.3] drop <= 5%",
            Rule("m", "ppv", "snow=3", "drop", "<=", "5%", "class=basal cell (II) [x] | y@0.3"),
        ),
    ],
)
def test_a_rule_is_read_and_written_again(text, rule):
    assert read_rules([text]) == [rule]
    assert read_rules([str(rule)]) == [rule]


@pytest.mark.parametrize(("number", "limit"), [("0.05", 0.05), ("5%", 0.05), ("-2.5 %", -0.025)])
def test_a_percent_sign_divides_by_a_hundred(number, limit):
    assert read_rules([f"accuracy[clean] >= {number}"])[0].limit == pytest.approx(limit, abs=1e-15)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("accuracy >= 0.85", r"accuracy >= 0.85' .*\[MODEL:\] METRIC\[CELL.OF\]"),
        ("accuracy[clean]", "accuracy.clean.' .* such as accuracy"),
        ("accuracy[] >= 1", "accuracy.. >= 1' .* such as accuracy"),
        ("accuracy[clean] >= 1 for sure", "'1 for sure' .* 0.05 or 5%"),
        ("accuracy[clean] >= nan", "'nan'"),
        ("accuracy[clean] <= inf", "'inf'"),
        ("accuracy[clean] == 1", "'=='; known: <, <=, >, >="),
        ("accuracy[clean] drops <= 1", "'drops'; did you mean 'drop'"),
        ("f1[clean|malignant] > 0", "'malignant'; known: COLUMN=VALUE, class=NAME, "),
        ("f1[clean|class=] > 0", "behind . in a rule 'class='; did you mean 'class=NAME'"),
        ("f1[clean|] > 0", r"f1\[clean.\] > 0' must have the form"),
        ("no-such-file.yaml", "'no-such-file.yaml' .* such as accuracy"),
    ],
)
def test_what_is_no_rule_is_named(text, complaint):
    with pytest.raises(InputError, match=complaint):
        read_rules([text])


@pytest.mark.parametrize("head", ["", "rules:\n"])
def test_rules_come_from_a_file_too(tmp_path, head):
    path = tmp_path / "rules.yaml"
    path.write_text(
        head + "- accuracy[clean] >= 0.85  # of the release\n"
        "- rms_calibration_error[*] <= 0.1\n"
        "- basic: accuracy[snow] drop <= 5%\n"
        "- 'accuracy[clean] >= 0.85'\n"
    )
    rules = read_rules([str(path), "accuracy[all] > 0"])
    assert list(map(str, rules)) == [
        "accuracy[clean] >= 0.85",
        "rms_calibration_error[*] <= 0.1",
        "basic: accuracy[snow] drop <= 5%",
        "accuracy[all] > 0",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "rules.yaml .*list of rules"),
        ("", "rules.yaml .*list of rules"),
        ("rules: accuracy[clean] >= 1", "rules.yaml .*list of rules"),
        ("rule: [a]", "'rule'; did you mean 'rules'"),
        ("- 5", "rules.yaml: .*such as accuracy.* found 5"),
        ("- {a: b, c: d}", "rules.yaml: .*such as accuracy"),
        ("- accuracy[clean] = 5", "'='"),
        ("- [", "rules.yaml .*YAML"),
    ],
)
def test_a_file_without_rules_never_passes(tmp_path, text, complaint):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_rules([str(path)])


def test_no_rules_are_no_success(run):
    with pytest.raises(InputError, match="at least one rule"):
        read_rules([])
    with pytest.raises(InputError, match="at least one rule"):
        judge(run, [])


def test_a_rule_without_a_model_is_for_all_and_variants_are_models(run):
    verdicts = check(run, "accuracy[clean] >= 0", "basic+temperature:accuracy[clean] >= 0")
    basic, scaled, alone = (each.model for each in verdicts)
    assert (basic, scaled, alone) == ("basic", "basic+temperature", "basic+temperature")


@pytest.mark.parametrize(
    ("text", "shift", "level", "metric"),
    [
        ("sensitivity[clean|class=a] >= 0", "clean", "none", "sensitivity/a"),
        (f"f1[{SNOW}|class=c (rare) [II]] <= 1", SNOW, "mean", "f1/c (rare) [II]"),
        ("ppv[clean|class=b@0.3] >= 0", "clean", "none", "ppv/b@0.3"),
        ("sensitivity/a[clean] >= 0", "clean", "none", "sensitivity/a"),
    ],
)
def test_a_rule_of_a_class_is_judged_on_the_row_of_the_class(run, text, shift, level, metric):
    (verdict,) = check(run, f"basic: {text}")
    expected = row(run, "basic", shift, level, metric)
    assert (verdict.value, verdict.low, verdict.high, verdict.n) == (
        *(expected.value, expected.low, expected.high),
        *(expected.n,),
    )
    assert read_rules([verdict.name])[0].scored == metric


def test_a_drop_of_a_class_is_that_of_its_rows(run):
    (verdict,) = check(run, f"basic: sensitivity[{SNOW}|class=a] drop <= 100%")
    clean, shifted = (
        row(run, "basic", *place, "sensitivity/a") for place in (("clean", "none"), (SNOW, "mean"))
    )
    assert verdict.value == pytest.approx(clean.value - shifted.value, abs=1e-7)
    assert -1 <= verdict.low < verdict.value < verdict.high <= 1
    assert verdict.n == clean.n == (predictions(1, 0).labels == 0).sum()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "ppv[clean|class=aa] >= 0",
            "unknown class 'aa'; did you mean 'a'. known: a, b, b@0.3, c ",
        ),
        (
            "ppv[clean|class=b@0.4] >= 0",
            "unknown operating point of b '0.4'; did you mean '0.3'.* --operating-point b=0.4$",
        ),
        ("ppv[clean|class=aa@0.4] >= 0", "unknown class 'aa@0.4'"),
        ("accuracy[clean|class=a] >= 0", "unknown metric of a class 'accuracy'"),
        (f"ppv[{SNOW}=1|class=a] >= 0", "no ppv/a for .*=1; it is available for clean, "),
        ("ppv[clean|class=a] >= 5", "always in .0, 1., but the limit is 5; a share"),
        ("ppv[clean|class=a] drop <= 5%", "the cell cannot be clean"),
    ],
)
def test_what_no_class_has_is_named(run, text, complaint):
    with pytest.raises(InputError, match=complaint):
        check(run, text)


@pytest.mark.parametrize(
    ("metric", "n", "value", "complaint"),
    [
        ("sensitivity", 0, np.nan, "sensitivity/a of basic .* not a number: there is no image of"),
        ("ppv", 40, np.nan, "ppv/a of basic .* not a number: the class is predicted for no image"),
        ("auc", 8, 0.9, "needs at least 30 images of the class .*, found 8 of"),
    ],
)
def test_a_class_with_too_few_images_satisfies_no_rule(run, tmp_path, metric, n, value, complaint):
    def cut(scores):
        of_class = (scores["metric"] == f"{metric}/a") & (scores["shift"] == "clean")
        scores.loc[of_class, ["value", "low", "high", "n"]] = [value, np.nan, np.nan, n]
        return scores

    changed = replace_scores(run, tmp_path / "few", cut)
    with pytest.raises(InputError, match=complaint):
        check(changed, f"basic: {metric}[clean|class=a] >= 0")
    if metric == "auc":
        assert check(changed, "basic: auc[clean|class=a] >= 0", on="value")[0].passed


@pytest.fixture
def unattacked(run, tmp_path):
    """A variant without cells under attack, first in scores.csv; the model itself has them."""

    def cut(scores):
        variant = scores["model"] == "basic+temperature"
        return pd.concat([scores[variant & (scores["shift"] != "pgd")], scores[~variant]])

    return replace_scores(run, tmp_path, cut)


@pytest.mark.parametrize("cell", ["pgd", "pgd=8/256", "pgd@worst"])
def test_a_variant_without_the_cell_is_left_out_and_that_is_said(unattacked, cell):
    verdicts = check(unattacked, f"accuracy[{cell}] >= 0", "accuracy[clean] >= 0")
    judged = [(each.model, each.rule.cell) for each in verdicts]
    assert judged == [("basic", cell), ("basic+temperature", "clean"), ("basic", "clean")]
    written = cell.replace("8/256", "0.03125")
    last = format_verdicts(verdicts).splitlines()[-1]
    assert last.startswith("0 of 3 checks failed, judged on the end")
    assert last.endswith(f": basic+temperature ({written})")
    assert "left out" not in format_verdicts(check(unattacked, "accuracy[clean] >= 0"))


def test_a_star_leaves_out_only_the_cells_that_a_variant_has_not(unattacked):
    verdicts = check(unattacked, "accuracy[*] >= 0", "average_confidence[*] >= 0")
    cells = {name: [] for name in ("basic", "basic+temperature")}
    for each in verdicts:
        cells[each.model].append((each.rule.metric, each.cell))
    missing = [("accuracy", "pgd=0.03125"), ("average_confidence", "pgd=0.03125")]
    assert sorted(set(cells["basic"]) - set(cells["basic+temperature"])) == missing
    assert set(cells["basic+temperature"]) < set(cells["basic"])
    assert format_verdicts(verdicts).endswith(": basic+temperature (pgd=0.03125)")


@pytest.fixture
def adapting(unattacked, tmp_path):
    """The variant, which has no cells under attack, has what adapting changes."""

    def add(scores):
        variant = scores[scores["model"] == "basic+temperature"]
        return pd.concat([scores, variant[variant["metric"] == "accuracy"].assign(metric=CHANGED)])

    return replace_scores(unattacked, tmp_path / "adapting", add)


def test_a_rule_about_what_adapting_changes_is_for_those_that_adapt(adapting):
    verdicts = check(adapting, f"{CHANGED}[{SNOW}] >= 0", f"{CHANGED}[*] >= 0")
    assert {each.model for each in verdicts} == {"basic+temperature"}
    cells = {"clean", f"{SNOW}=1", f"{SNOW}=2", "brightness_factor=0.5"}
    assert {each.cell for each in verdicts[1:]} == cells


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (f"{CHANGED}[pgd] >= 0", "unknown shift 'pgd'"),  # nothing is judged, so nothing passes
        (
            f"basic: {CHANGED}[clean] >= 0",
            f"basic has no {CHANGED}, which is of classifiers that adapt",
        ),
        (
            "mce_alexnet/files[clean] >= 0",
            r"basic\+temperature has no mce_alexnet/files in this run$",
        ),
    ],
)
def test_what_is_said_of_a_metric_that_a_model_lacks(adapting, rule, complaint):
    with pytest.raises(InputError, match=complaint):
        check(adapting, rule)


def test_without_a_model_that_adapts_the_rule_says_what_is_needed(run):
    with pytest.raises(
        InputError, match=r"basic has no accuracy_change/adapted, .*: name or measure one"
    ):
        check(run, f"{CHANGED}[clean] >= 0")


def test_many_cells_that_are_left_out_are_counted():
    left_out = {"basic+batchnorm": [f"pgd={number}" for number in range(7)]}
    verdicts = [Verdict(RULE, "basic", "clean", 1, 1, 1, 9, "value", left_out)]
    assert format_verdicts(verdicts).endswith(
        ": basic+batchnorm (pgd=0, pgd=1, pgd=2, pgd=3, pgd=4 and 2 more)"
    )


@pytest.mark.parametrize(
    ("without", "rule", "complaint"),
    [
        # If a variant is named, nothing may be left out.
        ("basic+temperature", "basic+temperature: accuracy[pgd] >= 0", "unknown shift 'pgd'"),
        # Models are not variants: they must have all cells.
        ("basic", "accuracy[pgd] >= 0", "unknown shift 'pgd'"),
        ("b", "accuracy[pgd] >= 0", "unknown shift 'pgd'"),
        ("basic+temperature", "accuracy[pgd=3] >= 0", "level 3; did you mean 0.03125"),
        ("basic+temperature", "accuracy[gpd] >= 0", "'gpd'; did you mean 'pgd'"),
        ("b", "accuracy[imagenet_c/snow,severity=5] >= 0", "no level 5; did you mean 2"),
        ("b", "accuracy[imagenet_c/snow,strength=5] >= 0", r"write accuracy\[imagenet_c/snow=5]"),
        ("basic+temperature", "acuracy[pgd] >= 0", "metric 'acuracy'; did you mean 'accuracy'"),
    ],
)
def test_only_variants_are_left_out_and_only_if_a_model_is_judged(
    run, tmp_path, without, rule, complaint
):
    def cut(scores):
        at = (
            scores["model"].str.startswith(without)
            if without == "b"
            else scores["model"] == without
        )
        return scores[~(at & (scores["shift"] == "pgd"))]

    with pytest.raises(InputError, match=complaint):
        check(replace_scores(run, tmp_path, cut), rule)


def test_a_missing_metric_of_a_variant_is_no_pass(run, tmp_path):
    def cut(scores):
        gone = (scores["model"] == "basic+temperature") & (scores["shift"] == "pgd")
        return scores[~(gone & (scores["metric"] == "accuracy"))]

    with pytest.raises(InputError, match=r"basic\+temperature .*accuracy for pgd"):
        check(replace_scores(run, tmp_path, cut), "accuracy[pgd] >= 0")


@pytest.mark.parametrize(
    ("cell", "shift", "level"),
    [
        ("clean", "clean", "none"),
        (SNOW, SNOW, "mean"),
        (f"{SNOW}=2", SNOW, "2"),
        (f"{SNOW} = 2.00", SNOW, "2"),
        ("pgd=8/256", "pgd", "0.03125"),
        ("all", "all", "mean"),
    ],
)
@pytest.mark.parametrize("metric", ["balanced_accuracy", "rms_calibration_error/10-equal-mass"])
def test_a_cell_is_a_row_of_the_scores(run, cell, shift, level, metric):
    (verdict,) = check(run, f"basic: {metric}[{cell}] >= 0")
    expected = row(run, "basic", shift, level, metric)
    found = (verdict.value, verdict.low, verdict.high, verdict.n)
    assert found == (expected.value, expected.low, expected.high, N)


@pytest.mark.parametrize(("n", "limit"), [(100, 0.6), (200, 0.8)])
def test_a_share_is_judged_on_ends_that_are_exact(n, limit):
    """A rule at the true share is passed by mistake in at most 2.5 %."""
    passed = {"stored": 0.0, "judged": 0.0}
    for right in range(n // 2, n):
        share, places = right / n, (np.arange(4000) + 0.5) / 4000
        replicates = scipy.stats.binom.ppf(places, n, share) / n
        stored = to_score(Estimate(share, replicates, n, "share"), (0.0, 1.0))
        judged = widen_to_exact(stored, ShiftLevel("clean", "none"))
        assert judged.low <= stored.low <= judged.value <= stored.high <= judged.high
        chance = scipy.stats.binom.pmf(right, n, limit)
        passed["stored"] += chance * (stored.low >= limit)
        passed["judged"] += chance * (judged.low >= limit)
    assert passed["judged"] <= 0.025 < passed["stored"]


def test_scores_of_an_earlier_version_are_judged_on_exact_ends():
    wilson = Score(1, 0.4385, 1, 3)
    found = widen_to_exact(wilson, ShiftLevel("clean", "none"))
    assert found == (1, pytest.approx(0.025 ** (1 / 3)), 1, 3)
    assert widen_to_exact(wilson, ShiftLevel("all", "mean")) == wilson


@pytest.mark.parametrize("cell", ["clean", SNOW, "all"])
def test_a_share_s_ends_hold_those_of_the_scores(run, cell):
    (verdict,) = check(run, f"basic: accuracy[{cell}] >= 0")
    expected = row(run, "basic", cell, "none" if cell == "clean" else "mean", "accuracy")
    assert (verdict.value, verdict.n) == (expected.value, N)
    assert verdict.low <= expected.low <= expected.high <= verdict.high


def test_the_worst_level_is_a_cell_of_its_own(run):
    (verdict,) = check(run, f"basic:accuracy[{SNOW}@worst] >= 0")
    assert verdict.value == row(run, "basic", SNOW, "2", "accuracy").value
    assert verdict.name == f"basic: accuracy[{SNOW}@worst] >= 0"
    drop, same, every = check(
        run,
        f"basic: accuracy[{SNOW}@worst] drop <= 1",
        f"basic: accuracy[{SNOW}=2] drop <= 1",
        "basic: accuracy[all@worst] drop <= 1",
    )
    assert drop.value == same.value == every.value


def test_a_star_is_every_single_cell(run):
    verdicts = check(run, "basic: accuracy[*] >= 0", "basic: accuracy[*] drop <= 1")
    shifted = [f"{SNOW}=1", f"{SNOW}=2", "brightness_factor=0.5", "pgd=0.03125"]
    assert [each.cell for each in verdicts] == ["clean", *shifted, *shifted]


def test_a_star_is_not_for_what_is_no_shift_but_that_can_be_asked_for(run, tmp_path):
    def add(scores):
        clean = scores[scores["shift"] == "clean"]
        beside = [clean.assign(shift=each) for each in ("validation", "priors/winter", "ood/noise")]
        return type(scores)(np.concatenate([scores, *beside]), columns=scores.columns)

    copy = replace_scores(run, tmp_path, add)
    cells = [each.cell for each in check(copy, "basic: accuracy[*] >= 0")]
    assert not {"validation", "priors/winter", "ood/noise"} & set(cells)
    assert check(copy, "basic: accuracy[validation] >= 0")[0].cell == "validation"
    assert check(copy, "basic: accuracy[priors/winter] >= 0")[0].cell == "priors/winter"
    with pytest.raises(InputError, match=r"drop .*validation"):
        check(copy, "accuracy[validation] drop <= 0")


@pytest.mark.parametrize(
    ("operator", "end"), [(">=", "low"), (">", "low"), ("<=", "high"), ("<", "high")]
)
def test_the_interval_s_bad_end_is_judged_unless_told_otherwise(run, operator, end):
    expected = row(run, "basic", SNOW, "1", "balanced_accuracy")
    rule = f"basic: balanced_accuracy[{SNOW}=1] {operator} {expected.value!r}"
    (strict,) = check(run, rule)
    assert strict.judged == getattr(expected, end)
    assert not strict.passed
    assert strict.margin < 0
    (lenient,) = check(run, rule, on="value")
    assert lenient.judged == expected.value
    assert lenient.passed == (operator in (">=", "<="))
    assert lenient.margin == 0


@pytest.mark.parametrize(("operator", "sign"), [(">=", 1), ("<=", -1)])
def test_the_margin_is_what_is_left_to_the_limit(run, operator, sign):
    (verdict,) = check(run, f"basic: accuracy[clean] {operator} 0.5", on="value")
    assert verdict.margin == pytest.approx(sign * (verdict.value - 0.5))
    assert verdict.passed == (verdict.margin >= 0)


def reference_drop(levels, seeds=(0,), model="basic"):
    """The drop of accuracy from the columns only, without the estimates of the package."""
    strengths = [SHIFTS[shift][level] for shift, level in levels]
    weights = metrics.bootstrap_weights(N, RESAMPLES).astype(float)
    shortfall = 0.2 * len(model) / 5
    by_seed = np.zeros((N, len(seeds)))
    for at, seed in enumerate(seeds):
        clean = predictions(CLEAN - shortfall, seed).correct.astype(float)
        for strength in strengths:
            shifted = predictions(strength - shortfall, seed).correct
            by_seed[:, at] += (clean - shifted) / len(strengths)
    lost = by_seed.mean(axis=1)
    ends = reference.paired_ends(lost.mean(), weights @ lost / N, N)
    if len(seeds) > 1:
        # The drop differs between seeds, and it is paired: the same networks, clean and shifted.
        varying = [seed_variance(by_seed.mean(axis=0), (weights @ by_seed / N).T)]
        ends = widen_for_seeds(ends, lost.mean(), N, varying)
    return lost.mean(), *ends


@pytest.mark.parametrize(
    ("cell", "levels"),
    [
        (f"{SNOW}=2", [(SNOW, "2")]),
        (SNOW, [(SNOW, "1"), (SNOW, "2")]),
        ("pgd", [("pgd", "0.03125")]),
    ],
)
def test_a_drop_has_the_interval_of_the_paired_difference(run, cell, levels):
    (drop,) = check(run, f"basic: accuracy[{cell}] drop <= 5%")
    assert (drop.value, drop.low, drop.high) == pytest.approx(reference_drop(levels), abs=1e-12)
    assert drop.judged == drop.high
    clean = row(run, "basic", "clean", "none", "accuracy")
    shifted = row(
        run, "basic", levels[0][0], "mean" if len(levels) > 1 else levels[0][1], "accuracy"
    )
    assert drop.value == pytest.approx(clean.value - shifted.value, abs=1e-7)
    # Paired, and so narrower than two separate intervals.
    assert drop.high - drop.low < shifted.high - shifted.low + clean.high - clean.low


def test_a_drop_over_all_shifts_leaves_attacks_apart_as_the_scores_do(run):
    (drop,) = check(run, "basic: accuracy[all] drop <= 1")
    clean = row(run, "basic", "clean", "none", "accuracy")
    mean = row(run, "basic", "all", "mean", "accuracy")
    assert drop.value == pytest.approx(clean.value - mean.value, abs=1e-7)


def test_a_rise_is_the_negative_of_a_drop(run):
    rule = f"basic: rms_calibration_error[{SNOW}=2]"
    drop, rise = check(run, f"{rule} drop <= 0.9", f"{rule} rise <= 0.9")
    assert (rise.value, rise.low, rise.high) == pytest.approx((-drop.value, -drop.high, -drop.low))


def test_of_several_seeds_the_mean_is_judged(tmp_path):
    run = write_run(tmp_path, models=["basic"], seeds=(0, 1))
    scores = run.scores
    write_scores(run, pd.concat([scores, seed_spread(scores)]))
    (verdict,) = check(run, "accuracy[clean] >= 0.5")
    assert verdict.value == row(run, "basic", "clean", "none", "accuracy", seed="mean").value
    (drop,) = check(run, f"accuracy[{SNOW}] drop <= 0.5")
    expected = reference_drop([(SNOW, "1"), (SNOW, "2")], seeds=(0, 1))
    assert (drop.value, drop.low, drop.high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("acuracy[clean] >= 0.5", "'acuracy'; did you mean 'accuracy'"),
        ("bacis: accuracy[clean] >= 0.5", "'bacis'; did you mean 'basic'"),
        ("accuracy[snow] >= 0.5", f"'snow'; did you mean '{SNOW}'"),
        (f"accuracy[{SNOW}=3] >= 0.5", "level 3; did you mean 2.* 1, 2"),
        (f"accuracy[{SNOW}=mean] >= 0.5", "level 'mean'; .* 1, 2"),
        ("accuracy[clean=1] >= 0.5", "clean .*level '1'; .* none"),
        (f"accuracy[{SNOW}@best] >= 0.5", "'best'; known: worst"),
        ("accuracy[clean_after/all] >= 0.5", "only of a variant that goes from shift to shift: "),
        ("accuracy[clean] drop <= 0.5", "drop .*clean$"),
        ("accuracy[clean] >= 85", r"\[0, 1\], .*limit is 85; .* as 5%"),
        ("accuracy[all] drop <= 5", r"drop of accuracy .*\[-1, 1\], .*limit is 5;"),
        ("negative_log_likelihood[all] <= -1", r"\[0, inf\], .*limit is -1$"),
        ("accuracy[pgd] drop <= 5 points", "'5 points' .* 0.05 or 5%"),
    ],
)
def test_what_the_run_does_not_have_is_named_with_the_rule(run, rule, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        check(run, rule)
    assert str(caught.value).startswith("the rule '")
    assert rule in str(caught.value)


def test_a_missing_row_is_no_pass(run, tmp_path):
    def cut(scores):
        gone = (scores["metric"] == "balanced_accuracy") & (scores["level"] == "2")
        return scores[~gone]

    copy = replace_scores(run, tmp_path, cut)
    with pytest.raises(InputError, match=f"basic .*balanced_accuracy for {SNOW}=2; .* for clean"):
        check(copy, "balanced_accuracy[*] >= 0")
    assert len(check(copy, "balanced_accuracy[clean] >= 0")) == 2


@pytest.mark.parametrize(
    ("column", "on", "fails"),
    [("value", "value", True), ("low", "interval", True), ("low", "value", False)],
)
def test_what_is_not_a_number_is_no_pass(run, tmp_path, column, on, fails):
    def blank(scores):
        at = (scores["metric"] == "balanced_accuracy") & (scores["level"] == "2")
        return scores.assign(**{column: scores[column].mask(at)})

    copy = replace_scores(run, tmp_path, blank)
    if fails:
        with pytest.raises(InputError, match=f"balanced_accuracy of basic .*{SNOW}=2"):
            check(copy, "balanced_accuracy[*] >= 0", on=on)
    else:
        assert check(copy, "balanced_accuracy[*] >= 0", on=on)


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (
            "negative_log_likelihood[*] <= 9",
            "of basic for clean .* 8 wrong of 120 images.* 20 .* use negative_log_likelihood/"
            "clipped-10, take more images .537 are enough in 9 of 10 samples., .*--on value",
        ),
        # Nearly all are wrong, so there are too few right ones.
        ("confidence_auroc[pgd] drop <= 1", "for pgd .* 5 right of 120 images"),
        (
            "macro_pr_auc[clean] >= 0",
            "8 wrong of 120 images.* use macro_auc, take more images .537 are",
        ),
        # On both sides of a change.
        ("macro_auc[pgd] drop <= 1", "a drop of macro_auc of basic for pgd .* 8 wrong of 120"),
        (f"confidence_auroc[{SNOW}] drop <= 1", "8 wrong of 120 images.* 30"),
        ("confidence_auroc[all@worst] drop <= 1", "8 wrong of 120 images.* 30"),
        (
            "maximum_calibration_error[clean] <= 1",
            "30 images.* use debiased_calibration_error/10-equal-mass, or judge the value",
        ),
    ],
)
def test_what_too_few_errors_carry_is_judged_on_the_value_alone(run, rule, complaint):
    with pytest.raises(InputError, match=complaint):
        check(run, rule)
    verdicts = check(run, rule, on="value")
    assert all(each.passed for each in verdicts)
    assert any(each.too_few for each in verdicts)


@pytest.mark.parametrize(
    ("cell", "right"),
    [
        ("imagenet-c/snow,severity=2", "imagenet-c-files/snow,severity=2"),
        ("imagenet-c/snow=2", "imagenet-c-files/snow=2"),
        ("imagenet-c/snow", "imagenet-c-files/snow"),
    ],
)
def test_a_set_of_published_files_leads_to_the_name_of_its_shifts(run, tmp_path, cell, right):
    def add_files(scores):
        made = scores[scores["shift"] == SNOW]
        return pd.concat([scores, made.assign(shift="imagenet-c-files/snow")])

    copy = replace_scores(run, tmp_path, add_files)
    with pytest.raises(InputError, match=f"unknown shift 'imagenet-c/snow'; .* '{right}'"):
        check(copy, f"basic: accuracy[{cell}] >= 0")
    (verdict,) = check(copy, f"basic: accuracy[{right}] >= 0")
    assert verdict.passed


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_class_with_too_few_images_is_named(tmp_path, seeds):
    labels = np.where(np.arange(N) < 4, 2, np.arange(N) % 2)
    weights = metrics.bootstrap_weights(N, 20)
    stored, cells = {}, {}
    for seed in seeds:
        logits = np.random.default_rng(seed).normal(size=(N, 3)).astype("f4")
        columns = metrics.per_image(logits, labels)
        found = Predictions(np.arange(N), labels, *columns, logits, NAMES)
        stored["basic", seed, "clean"] = found
        cells["basic", str(seed), "clean", "none"] = metrics.evaluate_metrics(found, weights)
    record = run_record({"basic": "Basic"}, (), classes=NAMES, bootstrap=20, seeds=seeds)
    run = write_folder(tmp_path, record, scores_frame(add_means(cells.items())), stored)
    with pytest.raises(
        InputError, match=r"at least 5 images of each .*found 4 of c \(rare\).*use macro_auc, take"
    ):
        check(run, "macro_pr_auc[clean] >= 0")
    assert all(each.bounded for each in check(run, "macro_auc[clean] >= 0"))
    assert not any(each.too_few for each in check(run, "brier_score[clean] <= 2"))


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_few_errors_are_judged_on_a_bound_from_the_predictions(tmp_path, seeds):
    run = write_run(tmp_path, models=["basic"], seeds=seeds)
    names = {
        "negative_log_likelihood/clipped-10": "<= 9",
        "area_under_risk_coverage": "<= 1",
        "confidence_auroc": ">= 0",
        "macro_auc": ">= 0",
        "auc/a": ">= 0",
    }
    cells = [predictions(CLEAN - 0.2, seed) for seed in seeds]
    weights = metrics.Resamples.from_weights(
        cells[0].labels, metrics.bootstrap_weights(N, RESAMPLES)
    )
    estimates = [
        metrics.evaluate_resamples(cell, weights, None, names, losses=True) for cell in cells
    ]
    for name, limit in names.items():
        metric = name.removesuffix("/a")
        text = f"{metric}[clean{'|class=a' * ('/a' in name)}] {limit}"
        (verdict,) = check(run, text)
        assert verdict.passed
        seed = "mean" if len(seeds) > 1 else "0"
        stored = row(run, "basic", "clean", "none", name, seed)
        assert verdict.value == pytest.approx(stored.value)
        if not verdict.bounded:  # one class has enough images
            assert (verdict.low, verdict.high) == pytest.approx((stored.low, stored.high))
            continue
        assert np.isnan(stored.low)
        own = [table[name] for table in estimates]
        estimate = recipe_estimate(own) if len(own) > 1 else own[0]
        bounds = (0, 10) if "clipped" in name else (0, 1)
        assert (verdict.low, verdict.high) == pytest.approx(to_bounded_score(estimate, bounds)[1:3])
        line = format_verdicts([verdict])
        assert f"on one for any number of errors: {metric}" in line
        assert "too few errors" not in line.splitlines()[1]


def test_a_change_of_bounded_losses_is_judged_with_few_errors(run):
    name = "negative_log_likelihood/clipped-10"
    (verdict,) = check(run, f"basic: {name}[{SNOW}=1] rise <= 9")
    clean, snow = (predictions(strength - 0.2, 0) for strength in (CLEAN, 2.0))
    rises = np.minimum(snow.nll, 10) - np.minimum(clean.nll, 10)
    assert verdict.value == pytest.approx(rises.mean())
    assert verdict.bounded
    assert (verdict.low, verdict.high) == pytest.approx(
        betting_interval(BoundedLosses(rises, -10, 10))
    )
    (drop,) = check(run, f"basic: {name}[{SNOW}=1] drop <= 9")
    assert (drop.low, drop.high) == pytest.approx((-verdict.high, -verdict.low), abs=1e-5)
    # From 30 wrong images and as many right ones on, the interval of scores.csv is judged.
    for level, bounded in (("1", True), ("2", False)):
        (verdict,) = check(run, f"basic: brier_score[{SNOW}={level}] <= 2")
        stored = row(run, "basic", SNOW, level, "brier_score")
        wrong = N * (1 - row(run, "basic", SNOW, level, "accuracy").value)
        assert verdict.bounded == bounded == (wrong < 30)
        assert ((verdict.low, verdict.high) == (stored.low, stored.high)) != bounded
        assert verdict.value == pytest.approx(stored.value)
    assert check(run, f"confidence_auroc[{SNOW}=2] >= 0")[0].bounded  # ranks need a hundred
    assert not check(run, f"balanced_accuracy[{SNOW}=1] >= 0")[0].bounded


def test_without_predictions_few_errors_are_refused(tmp_path):
    run = write_run(tmp_path, models=["basic"])
    run.forget("predictions/basic/seed-0/test/clean")
    with pytest.raises(InputError, match="8 wrong of 120 images"):
        check(run, "confidence_auroc[clean] >= 0")
    assert check(run, "confidence_auroc[clean] >= 0", on="value")[0].too_few


def test_a_broken_rule_of_binned_errors_names_the_debiased_one(run):
    broken = check(run, "basic: rms_calibration_error[clean] <= 0.001", "accuracy[clean] >= 1")
    assert "rms_calibration_error/10-equal-width" not in format_verdicts(broken)
    text = format_verdicts(broken)
    assert text.endswith(
        "; few images make binned errors too large: rms_calibration_error (use "
        "debiased_calibration_error/10-equal-mass)"
    )
    kept = check(run, "basic: rms_calibration_error[clean] <= 1", "accuracy[clean] >= 1")
    assert "debiased" not in format_verdicts(kept)


@pytest.mark.parametrize(("errors", "n", "fewest"), [(1, 120, 5), (8, 120, 20), (19.5, 500, 20)])
def test_the_images_that_are_enough_are_the_first_with_enough_errors_in_9_of_10(errors, n, fewest):
    enough, few = count_enough_images(errors, n, fewest), np.arange(fewest)
    for images, is_enough in ((enough - 1, False), (enough, True)):
        # The beta-binomial distribution by its beta and binomial parts.
        rate = scipy.stats.beta(errors, n - errors + 1)
        grid = rate.ppf((np.arange(20_000) + 0.5) / 20_000)[:, None]
        fewer = scipy.stats.binom.pmf(few, images, grid).sum(axis=1).mean()
        assert (fewer <= 0.1) == is_enough
    assert enough > fewest / errors * n


@pytest.mark.parametrize("rate", [0.01, 0.02])
def test_nine_of_ten_new_samples_have_the_errors_that_a_refusal_promises(rate):
    trials, n, fewest, rng = 400, 500, 20, np.random.default_rng(0)
    errors = rng.binomial(n, rate, size=trials)
    errors = errors[(errors > 0) & (errors < fewest)]
    told = np.array([count_enough_images(int(k), n, fewest) for k in errors])
    missed = (rng.binomial(told, rate) < fewest).sum()
    assert missed <= most(len(errors), 0.1)


def test_means_and_changes_of_enough_errors_are_judged(run):
    rules = [f"confidence_auroc[{SNOW}] >= 0", "brier_score[all] rise <= 2"]
    assert not any(each.too_few for each in check(run, *rules))


def test_without_any_error_three_are_feared(run, tmp_path):
    def perfect(scores):
        none = (scores["metric"] == "accuracy") & (scores["shift"] == "clean")
        return scores.assign(value=scores["value"].mask(none, 1.0))

    copy = replace_scores(run, tmp_path, perfect)
    with pytest.raises(
        InputError, match=r"0 wrong of 120 images.* 30 .*at least 1,200 are needed.*--on value"
    ):
        check(copy, "confidence_auroc[clean] >= 0")


def test_of_all_shifts_the_errors_are_not_counted(run, tmp_path):
    def blank(scores):
        at = (scores["metric"] == "confidence_auroc") & (scores["shift"] == "all")
        return scores.assign(low=scores["low"].mask(at), high=scores["high"].mask(at))

    copy = replace_scores(run, tmp_path, blank)
    with pytest.raises(InputError, match=r"for all .* 30; .*more images.*--on value"):
        check(copy, "confidence_auroc[all] >= 0")


def test_without_accuracy_the_errors_are_not_counted(run, tmp_path):
    copy = replace_scores(run, tmp_path, lambda scores: scores[scores["metric"] != "accuracy"])
    with pytest.raises(InputError, match=r"for clean .* 30; .*more images.*--on value"):
        check(copy, "confidence_auroc[clean] >= 0")


def test_the_mark_stands_where_the_ends_would(run):
    verdicts = check(run, "basic: confidence_auroc[clean] >= 0.99", on="value")
    line = format_verdicts(verdicts).splitlines()[1].split()
    assert line[-7:-3] == ["too", "few", "errors", "120"]
    assert " [too few errors], n = 120" in format_junit(verdicts)


def test_a_drop_without_its_predictions_is_no_pass(tmp_path):
    run = write_run(tmp_path, models=["basic"])
    run.forget("predictions/basic/seed-0/test/imagenet_c__snow,severity=2")
    with pytest.raises(InputError, match=r"no predictions/basic/seed-0/.*severity=2.parquet"):
        check(run, f"accuracy[{SNOW}] drop <= 1")
    assert check(run, f"accuracy[{SNOW}=1] drop <= 1")


def test_a_drop_between_different_images_is_no_pass(tmp_path):
    run = write_run(tmp_path, models=["basic"])
    other = predictions(1.0, 0)
    other = Predictions(other.keys + 1, *list(vars(other).values())[1:])
    name = "predictions/basic/seed-0/test/pgd,epsilon=0.03125"
    run.write_predictions(f"{name}.parquet", other)
    finish(run, name, [f"{name}.parquet"])
    with pytest.raises(InputError, match="of other images"):
        check(run, "accuracy[pgd] drop <= 1")


@pytest.mark.parametrize("shift", ["clean", cell_id(SNOW, "2")])
@pytest.mark.parametrize(
    "rule", ["basic: accuracy[clean] >= 0", "basic+temperature: accuracy[all] > 0"]
)
def test_one_changed_byte_of_a_prediction_lets_no_rule_pass(run, tmp_path, rule, shift):
    copy = copy_run(run, tmp_path / "copy")
    assert judge_rules(copy, read_rules([rule])).status == 0
    file = copy.file(copy.predictions("basic", 0, shift))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    judgement = judge_rules(copy, read_rules([rule]))
    assert (judgement.status, judgement.verdicts) == (2, [])
    assert str(file) in judgement.unjudged[0].problem
    assert "its checksum is not the recorded one" in judgement.unjudged[0].problem


def test_predictions_of_another_model_of_the_run_are_noticed(run, tmp_path):
    copy = copy_run(run, tmp_path / "copy")
    mine, other = (
        copy.file(copy.predictions(model, 0, "clean")) for model in ("basic", "basic+temperature")
    )
    mine.write_bytes(other.read_bytes())
    assert judge_rules(copy, read_rules(["basic: accuracy[clean] >= 0"])).status == 2


def test_a_run_without_its_predictions_is_judged_by_its_scores(run, tmp_path):
    copy = copy_run(run, tmp_path / "copy")
    for file in copy.file("predictions").rglob("*.parquet"):
        file.unlink()
    (verdict,) = check(copy, "basic: accuracy[clean] >= 0")
    assert verdict.passed


def test_an_attack_is_what_the_record_calls_one(run, tmp_path):
    """The mean over shifts contains what the record calls a shift, whatever its parameters are."""
    (apart,) = check(run, "basic: accuracy[all] drop <= 1")
    facts = run.record.model_dump()
    facts["sweeps"][-1]["kind"] = "shift"
    copy = copy_run(run, tmp_path / "copy")
    copy.describe(type(run.record).model_validate(facts))
    (counted,) = check(RunFolder(copy.path), "basic: accuracy[all] drop <= 1")
    (alone,) = check(run, "basic: accuracy[pgd] drop <= 1")
    assert counted.value == pytest.approx((2 * apart.value + alone.value) / 3)


def test_a_drop_of_what_is_fitted_on_validation_images(tmp_path):
    found = predictions(0.5, 7)
    run = write_run(tmp_path, models=["basic"], validation=found)
    scores = run.scores
    name = "coverage_above_validation_threshold/0.05"
    write_scores(run, scores.assign(metric=scores["metric"].replace("accuracy", name)))
    (drop,) = check(run, f"{name}[{SNOW}=2] drop <= 1")
    least = metrics.fit_on(found).threshold
    sure = [predictions(each - 0.2, 0).confidence >= least for each in (CLEAN, SHIFTS[SNOW]["2"])]
    assert drop.value == pytest.approx(sure[0].mean() - sure[1].mean())


def test_a_drop_of_what_predictions_do_not_give_is_no_pass(run, tmp_path):
    copy = write_run(tmp_path, models=["basic"])
    scores = copy.scores
    scores.loc[scores["metric"] == "brier_score", "metric"] = "flip_rate"
    write_scores(copy, scores)
    with pytest.raises(InputError, match="drop of flip_rate for pgd"):
        check(copy, "flip_rate[pgd] drop <= 1")


def test_a_run_without_scores_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no scores.csv"):
        check(RunFolder(tmp_path), "accuracy[clean] >= 0.5")


def test_an_unknown_way_to_judge_is_named(run):
    with pytest.raises(InputError, match="'vale'; did you mean 'value'"):
        check(run, "accuracy[clean] >= 0.5", on="vale")


def verdict(rule, value, *, model="basic", cell="clean"):
    return Verdict(rule, model, cell, value, value - 0.1, value + 0.1, 1000, "interval")


RULE = Rule(None, "accuracy", "*", "", ">=", "50%")
VERDICTS = [
    verdict(RULE, 0.9),
    verdict(RULE, 0.55, cell="brightness_factor=0.5"),
    verdict(RULE, 0.8, model="<&>+\"'"),
]


def test_the_table_shows_what_failed_first_and_every_rule_can_be_copied():
    lines = format_verdicts(VERDICTS).splitlines()
    assert lines[0].split() == ["rule", "value", "low", "high", "n", "margin"]
    assert lines[1].split("  ")[1] == "basic: accuracy[brightness_factor=0.5] >= 50%"
    numbers = ["55.00%", "45.00%", "65.00%", "1000"]
    assert lines[1].split()[-8:] == [*numbers, "5.00", "points", "too", "low"]
    assert [line.split()[0] for line in lines[1:4]] == ["failed", "passed", "passed"]
    assert lines[2].endswith("  30.00 points to spare")
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[5].startswith("1 of 3 checks failed, judged on the end of the 95 % interval")
    assert read_rules([each.name for each in VERDICTS])[1].cell == "brightness_factor=0.5"


@pytest.mark.parametrize(
    ("operator", "limit", "margin"),
    [
        ("<=", "0.45", "0.2000 too high"),
        ("<=", "0.7", "0.0500 to spare"),
        (">=", "0.4", "0.0500 to spare"),
    ],
)
def test_the_margin_of_a_number_without_a_unit_has_none(operator, limit, margin):
    table = format_verdicts([verdict(Rule(None, "nll", "clean", "", operator, limit), 0.55)])
    assert table.splitlines()[1].endswith(f"  {margin}")


def test_a_rule_that_cannot_be_judged_does_not_hide_the_others(run):
    texts = ["accuracy[clean] >= 0.99", "acuracy[clean] > 0", "accuracy[snow] rise <= 200"]
    texts += ["accuracy[clean] >= 0.01"]
    verdicts, unjudged = judgement = judge_rules(run, read_rules(texts))
    assert [verdict.passed for verdict in verdicts if verdict.rule.number == "0.99"] == [False] * 2
    assert [str(own.rule) for own in unjudged] == texts[1:3]
    assert "did you mean 'accuracy'" in unjudged[0].problem
    assert judgement.status == 2
    alone = check(run, texts[0], texts[3])
    assert verdicts == alone
    with pytest.raises(InputError, match="the rule 'acuracy"):
        check(run, *texts)
    assert judge_rules(run, read_rules(texts[3:])).status == 0
    assert judge_rules(run, read_rules(texts[:1])).status == 1
    suite = ET.fromstring(format_junit(*judgement))[0]
    counts = {name: int(suite.get(name)) for name in ("tests", "failures", "errors")}
    assert counts == {"tests": len(verdicts) + 2, "failures": 2, "errors": 2}
    errors = [case for case in suite if len(case) and case[0].tag == "error"]
    assert [case.get("name") for case in errors] == texts[1:3]
    assert all(case[0].text == own.problem for case, own in zip(errors, unjudged, strict=True))


def test_the_example_of_a_rule_is_one_that_can_be_judged(run, tmp_path):
    assert find_example(run) == run.task.rule
    assert find_example(RunFolder(tmp_path)) is None


def test_a_drop_without_predictions_does_not_hide_the_other_rules(run, tmp_path):
    only_scores = replace_scores(run, tmp_path / "scores", lambda frame: frame)
    texts = ["accuracy[clean] >= 0", "accuracy[brightness_factor] drop <= 100%"]
    verdicts, unjudged = judge_rules(only_scores, read_rules(texts))
    assert {str(verdict.rule) for verdict in verdicts} == {texts[0]}
    assert [str(own.rule) for own in unjudged] == [texts[1]]


def test_junit_has_a_case_a_verdict_and_says_why_in_attribute_and_text():
    text = format_junit(VERDICTS)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites')
    root = ET.fromstring(text)
    (suite,) = root
    for each in (root, suite):
        assert (each.get("tests"), each.get("failures"), each.get("errors")) == ("3", "1", "0")
        assert each.get("name")
    assert [case.get("classname") for case in suite] == [
        "fairweather.basic",
        "fairweather.basic",
        "fairweather.<&>+\"'",
    ]
    assert [case.get("name") for case in suite] == [each.name for each in VERDICTS]
    assert [len(case) for case in suite] == [0, 1, 0]
    failure = suite[1][0]
    assert failure.tag == "failure"
    assert failure.get("message") == failure.text
    assert failure.text.startswith("45.00% is not >= 50%: 55.00% [45.00%, 65.00%], n = 1000")
    # The attributes that the schema of Jenkins allows; it requires no others.
    allowed = {
        "testsuites": {"name", "tests", "failures", "errors", "time"},
        "testsuite": {"name", "tests", "failures", "errors", "skipped", "time"},
        "testcase": {"name", "classname", "time"},
        "failure": {"type", "message"},
    }
    for each in root.iter():
        assert set(each.keys()) <= allowed[each.tag]


@pytest.mark.parametrize(
    ("of", "scored", "slice_"),
    [
        ("class=m|site=B", "f1/m", "site=B"),
        ("class=m | worst site", "f1/m", "worst site"),
        ("class=m@0.3|site=B", "f1/m@0.3", "site=B"),
        ("class=a|b", "f1/a|b", ""),
        ("class=a|b|site=B", "f1/a|b", "site=B"),
        ("class=m|site=B|C", "f1/m", "site=B|C"),
        ("class=x=y|site=B", "f1/x=y", "site=B"),
        ("site=B|C", "f1", "site=B|C"),
    ],
)
def test_a_class_and_a_slice_are_told_apart(of, scored, slice_):
    (rule,) = read_rules([f"f1[clean|{of}] >= 0.5"])
    assert (rule.scored, rule.slice) == (scored, slice_)
