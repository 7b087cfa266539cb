"""Margins: verdicts, the same numbers in comparisons and rules, and what cannot be judged."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.comparison import read_run_comparison
from fairweather.judge.margin_table import HALF, draw_line
from fairweather.judge.margins import is_share, judge_loss, read_margins
from fairweather.judge.pytest_plugin import check_run
from fairweather.judge.rules import Rule, read_rules
from fairweather.judge.verdicts import format_junit, format_verdicts, judge_rules
from fairweather.metrics import per_image
from fairweather.runs.folder import StoredGroups
from fairweather.tasks import FindingsPredictions
from fairweather.types.measurement import Predictions, Score
from fairweather.types.record import DataRecord, RunSettings, groups_file
from tests.helpers import reference
from tests.helpers.commands import fairweather
from tests.helpers.findings import draw_predictions
from tests.helpers.run_folders import finish, run_record, sweep_record, write_run

N, NAMES = 300, ("benign", "mole", "scar")
FOG = sweep_record("fog", {1: "fog,severity=1", 2: "fog,severity=2"})
CELLS = {"clean": 1.6, "fog,severity=1": 1.0, "fog,severity=2": 0.5}
LABELS = np.arange(N) % 3
SITES = np.array(["A", "B"], dtype=object)[np.arange(N) % 2]


def predictions(strength, seed):
    """Images are hard for all models alike, so that paired intervals are narrow."""
    noise = np.random.default_rng(0).normal(size=(N, 3))
    noise += 0.3 * np.random.default_rng([1, seed]).normal(size=(N, 3))
    logits = (noise + strength * np.eye(3)[LABELS]).astype("f4")
    return Predictions(np.arange(N), LABELS, *per_image(logits, LABELS), logits, NAMES)


def make_run(path, strengths, seeds=(0,), *, slices=True, **data):
    """A run folder with what comparisons and rules read; each model by how good it is."""
    facts = {"name": "toys", "classes": NAMES, "digests": {"test": "d" * 64}}
    stored = {
        (model, seed, cell): predictions(strength + extra, seed + 10 * at)
        for at, (model, extra) in enumerate(strengths.items())
        for seed in seeds
        for cell, strength in CELLS.items()
    }
    rows = [
        (model, str(seed), "clean", "none", "accuracy", each.correct.mean(), 0.0, 1.0, N)
        for (model, seed, cell), each in stored.items()
        if cell == "clean"
    ]
    record = run_record(
        {model: model.title() for model in strengths},
        [FOG],
        data=DataRecord(**facts | data),
        seeds=seeds,
        settings=RunSettings(bootstrap=200),
    )
    run = write_run(path, record, rows, stored)
    if slices:
        run.write_groups(
            groups_file("test"), StoredGroups(np.arange(N), None, None, {"site": SITES})
        )
        finish(run, "group", [groups_file("test")], kind="group")
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("margins")
    new = make_run(root / "new", {"net": -0.1, "wide": 0.2})
    old = make_run(root / "old", {"net": 0.0, "wide": 0.0}, (7,))
    return new, old


def margins_of(runs, *margins, models=("net", "net")):
    a, b = (f"{run.path}:{model}" for run, model in zip(runs, models, strict=True))
    return fw.compare_runs(a, b, margins=margins)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.03, 0.019, "non-inferior"),
        (-0.02, 0.019, "non-inferior"),  # an end on the margin is not within it
        (-0.019, 0.019, "equivalent"),
        (-0.019, 0.02, "not conclusive"),
        (0.02, 0.05, "not conclusive"),
        (0.021, 0.05, "inferior"),
        (-0.9, -0.5, "non-inferior"),
        (float("nan"), float("nan"), "too few errors"),
    ],
)
def test_a_verdict_is_where_the_interval_ends(low, high, verdict):
    assert judge_loss(Score((low + high) / 2 if low == low else 0.0, low, high, 9), 0.02) == verdict


ENDS = st.floats(-1, 1, allow_nan=False)


@given(ENDS, ENDS, st.floats(0.001, 0.5))
def test_a_wider_margin_never_turns_a_verdict_against_a_model(first, second, margin):
    low, high = sorted((first, second))
    order = ["inferior", "not conclusive", "non-inferior", "equivalent"]
    loss = Score((low + high) / 2, low, high, 9)
    narrow, wide = (order.index(judge_loss(loss, size)) for size in (margin, 2 * margin))
    assert wide >= narrow
    # The other way round, equivalence stays.
    mirrored = Score(-loss.value, -high, -low, 9)
    is_equivalent = {judge_loss(one, margin) == "equivalent" for one in (loss, mirrored)}
    assert len(is_equivalent) == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [("accuracy=2", 0.02), ("accuracy=2%", 0.02), ("accuracy=0.5%", 0.005), ("accuracy=1", 0.01)],
)
def test_a_margin_in_per_cent_is_in_points(text, number):
    (rule,) = read_margins([text], "runs/old")
    assert rule.limit == pytest.approx(number)
    assert (rule.cell, rule.reference) == ("clean", "runs/old")


def test_margins_are_read_as_rules_name_them():
    texts = ["sensitivity/mole=5", "net: auc[fog|class=mole]=0.01", "brier_score[fog=2]=0.05"]
    assert [str(rule) for rule in read_margins(texts, "b")] == [
        "sensitivity/mole[clean] not worse than b by 5%",
        "net: auc[fog|class=mole] not worse than b by 0.01",
        "brier_score[fog=2] not worse than b by 0.05",
    ]
    assert len(read_margins(["accuracy=2", "accuracy=2%"], "b")) == 1
    assert [is_share(name) for name in ("specificity/mole@0.3", "f1/mole", "acuracy")] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("accuracy=0.02", "could mean two things: write 2% for 2 percentage points, or 0.02%"),
        ("accuracy=-2", "above 0 and below 1, found -2%"),
        ("accuracy=0", "above 0"),
        ("accuracy=100", "above 0 and below 1, found 100%"),
        ("auc/mole=2", "below 1, found 2; a share may be written as 1%"),
        ("negative_log_likelihood=5%", "in its unit and not in per cent"),
        ("confidence_gap=2%", "no better direction"),
        ("acuracy=2", "did you mean 'accuracy'"),
        ("accuracy", "must have the form METRIC=NUMBER"),
        ("accuracy=two", "must have the form"),
        ("a b=2", "must have the form"),
        ("accuracy[clean|nothing]=2", "text behind |"),
    ],
)
def test_what_is_no_clear_margin_is_refused(text, complaint):
    with pytest.raises(InputError, match=re.escape(complaint)) as raised:
        read_margins([text], "runs/old")
    assert str(raised.value).startswith(f"the margin {text!r}")


@pytest.mark.parametrize(
    "text",
    [
        "accuracy[clean] not worse than runs/old by 1%",
        "net: accuracy[fog=3|site=B] not worse than runs/old:net by 0.01",
        "auc[clean|class=x by y] not worse than a by b by 2%",
        "accuracy[*] within 1% of runs/my old",
    ],
)
def test_a_rule_about_another_run_is_read_and_written_again(text):
    (rule,) = read_rules([text])
    assert str(rule) == text
    assert read_rules([str(rule)]) == [rule]
    assert rule.reference
    with pytest.raises(InputError, match="not worse than RUN by NUMBER"):
        read_rules([text.partition(" by ")[0].replace("within 1% of", "within")])


def test_every_number_is_that_of_the_comparison(runs):
    """Of accuracy and likelihood; the main table has the same ends, and the CSV too."""
    new, old = runs
    sides = f"{new.path}:net", f"{old.path}:net"
    texts = ["accuracy[*]=2", "accuracy[fog]=3", "negative_log_likelihood=0.1"]
    found = read_run_comparison(*sides, margins=texts)
    keys = ["shift", "level", "metric"]
    main, own = (frame.set_index(keys) for frame in (found.table, found.margins.frame))
    assert len(own) == 5
    columns = ["a", "b", "difference", "low", "high", "n", "seeds_a", "seeds_b"]
    for key in own.index:
        np.testing.assert_array_equal(own.loc[key, columns], main.loc[key, columns])
    stored = list(
        csv.DictReader(io.StringIO(found.files()["tables/compare_net_old_net_margins.csv"]))
    )
    assert [float(line["high"]) for line in stored] == pytest.approx(own["high"].tolist(), rel=1e-6)
    (verdict,) = judge_rules(new, read_rules([f"net: accuracy[clean] within 2% of {sides[1]}"]))[0]
    clean = main.loc[("clean", "none", "accuracy")]
    assert (verdict.value, verdict.low, verdict.high) == tuple(clean[["difference", "low", "high"]])
    correct = [predictions(1.6 + extra, seed).correct for extra, seed in ((-0.1, 0), (0.0, 7))]
    counts = (correct[0] & ~correct[1]).sum(), (correct[1] & ~correct[0]).sum()
    slow = reference.paired_shares_interval(*counts, N)
    np.testing.assert_allclose((verdict.low, verdict.high), slow, atol=1e-6)


def test_a_loss_has_the_direction_of_its_metric(runs):
    """Where a smaller number is better, a gain of B is a loss of A all the same."""
    frame = margins_of(runs, "negative_log_likelihood=0.001", "negative_log_likelihood=5")
    difference = frame["difference"][0]
    back = margins_of(runs[::-1], "negative_log_likelihood=0.001")
    assert back["difference"][0] == pytest.approx(-difference)
    assert difference < 0  # B has the smaller loss, so A is worse
    rule = "net: negative_log_likelihood[clean] not worse than {}:net by {}"
    for margin, passes in ((0.001, False), (5, True)):
        rules = read_rules([rule.format(runs[1].path, margin)])
        (verdict,) = judge_rules(runs[0], rules).verdicts
        assert verdict.value == pytest.approx(-difference)
        assert verdict.passed == passes
    assert frame["verdict"].tolist() == ["inferior", "equivalent"]


def test_a_class_is_compared_on_its_images_and_a_slice_on_its_own(runs):
    frame = margins_of(
        runs, "sensitivity/mole=5", "specificity[clean|class=mole]=5", "auc/mole=0.1"
    )
    assert frame["n"].tolist()[0] == (LABELS == 1).sum()
    first, second = (predictions(1.6 + extra, seed) for extra, seed in ((-0.1, 0), (0.0, 7)))
    for at, sought in enumerate((LABELS == 1, LABELS != 1)):
        right = [((each.predicted == 1) == (LABELS == 1))[sought] for each in (first, second)]
        counts = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
        slow = reference.paired_shares_interval(*counts, sought.sum())
        np.testing.assert_allclose(frame.loc[at, ["low", "high"]].astype(float), slow, atol=1e-6)
    of_site = margins_of(runs, "accuracy[clean|site=B]=2", "accuracy[fog|site=A]=2")
    assert of_site["n"].tolist() == [N // 2] * 2
    right = [each.correct[SITES == "B"] for each in (first, second)]
    assert of_site["difference"][0] == pytest.approx(right[1].mean() - right[0].mean())
    assert of_site["number"].tolist() == ["accuracy[clean|site=B]", "accuracy[fog|site=A]"]


def test_findings_are_compared_where_they_are_known(tmp_path):
    sides = []
    for name, seed in (("a", 0), ("b", 1)):
        drawn = draw_predictions(400)
        logits = drawn.logits + np.random.default_rng(seed).normal(0, 0.3, drawn.logits.shape)
        moved = drawn.with_columns(logits=logits.astype("f4"))
        facts = {"name": "toys", "classes": drawn.classes, "digests": {"test": "d" * 64}}
        data = DataRecord(**facts, task="multilabel")
        record = run_record({"net": "Net"}, data=data, settings=RunSettings(bootstrap=100))
        sides.append(write_run(tmp_path / name, record, predictions={("net", 0, "clean"): moved}))
    name = drawn.classes[0]
    frame = fw.compare_runs(*(run.path for run in sides), margins=[
        f"auc[clean|finding={name}]=0.05", f"sensitivity[clean|finding={name}]=9",
        "exact_match=5", f"decision_accuracy[clean|finding={name}]=5",
    ])  # fmt: skip
    known = drawn.labels[:, 0] >= 0
    assert frame["n"].tolist()[0] == known.sum()
    assert frame["unit"].tolist() == [f"finding={name}"] * 2 + ["image", f"finding={name}"]
    assert (frame["low"] < frame["difference"]).all()
    with pytest.raises(
        InputError, match=r"a single finding: name it, as in auc\[clean|finding=NAME"
    ):
        fw.compare_runs(*(run.path for run in sides), margins=["auc=0.05"])
    with pytest.raises(InputError, match="unknown finding"):
        fw.compare_runs(*(run.path for run in sides), margins=["auc[clean|finding=Nothing]=0.05"])
    with pytest.raises(InputError, match="is a mean"):
        fw.compare_runs(*(run.path for run in sides), margins=["auc[clean|mean finding]=0.05"])


def test_the_only_finding_needs_no_name_and_has_right_decisions(tmp_path):
    sides = []
    for name, strength in (("new", 2.0), ("old", 1.8)):
        generator = np.random.default_rng(0)
        labels = generator.integers(2, size=(300, 1))
        logits = (strength * (labels - 0.5) + generator.normal(size=(300, 1))).astype("f4")
        cell = FindingsPredictions(np.arange(300), labels, logits, ("Mass",))
        facts = {"name": "toys", "classes": ("Mass",), "digests": {"test": "d" * 64}}
        data = DataRecord(**facts, task="multilabel")
        record = run_record({"net": "Net"}, data=data, settings=RunSettings(bootstrap=100))
        cells = {("net", 0, "clean"): cell}
        sides.append(write_run(tmp_path / name, record, predictions=cells).path)
    new, old = sides
    texts = ("decision_accuracy=2", "auc=0.02", "sensitivity@0.3=2")
    named = [text.replace("=", "[clean|finding=Mass]=", 1) for text in texts]
    frame = fw.compare_runs(new, old, margins=texts)
    numbers = ["unit", "difference", "low", "high", "n"]
    pd.testing.assert_frame_equal(frame[numbers], fw.compare_runs(new, old, margins=named)[numbers])
    assert set(frame["unit"]) == {"finding=Mass"}
    with pytest.raises(InputError, match="'decision_accuracy', the share of right decisions"):
        fw.compare_runs(new, old, margins=["accuracy=2"])
    with pytest.raises(InputError, match="'decision_accuracy', the share of right decisions"):
        fw.compare_runs(new, old, margins=["accuracy[clean|finding=Mass]=2"])
    with pytest.raises(InputError, match="did you mean 'auc'"):
        fw.compare_runs(new, old, margins=["AUROC=0.1"])


def test_several_seeds_have_the_interval_over_seeds(tmp_path):
    new, old = (
        make_run(tmp_path / name, {"net": extra}, (0, 1, 2))
        for name, extra in (("a", -0.2), ("b", 0))
    )
    found = read_run_comparison(new.path, old.path, margins=["accuracy=4", "sensitivity/mole=4"])
    main = found.table.iloc[0]
    assert tuple(found.margins.frame.loc[0, ["low", "high"]]) == (main["low"], main["high"])
    assert found.margins.frame["seeds_a"].tolist() == [3, 3]


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("accuracy[clean] not worse than {root}/nothing by 1%", "there is no such folder"),
        ("accuracy[clean] not worse than {root}/old:deep by 1%", "unknown model"),
        ("deep: accuracy[clean] not worse than {root}/old by 1%", "unknown model"),
        ("accuracy[clean] not worse than {root}/single by 1%", "has no wide to compare with"),
        ("net: accuracy[clean] not worse than {root}/new:net by 1%", "compared with itself"),
        ("accuracy[clean] not worse than {root}/others by 1%", "not on the same test images"),
        ("accuracy[haze] not worse than {root}/old by 1%", "unknown shift 'haze'"),
        ("accuracy[fog=3] not worse than {root}/old by 1%", "has no level 3"),
        ("accuracy[fog@worst] not worse than {root}/old by 1%", "worst level may be another"),
        ("accuracy[clean|worst site] not worse than {root}/old by 1%", "other images in each run"),
        ("accuracy[clean|site=C] not worse than {root}/old by 1%", "unknown slice 'site=C'"),
        ("accuracy[clean] not worse than {root}/old by 2", "a share may be written as 1%"),
        ("accuracy[clean] not worse than {root}/old by 0", "above 0"),
        ("sensitivity[clean] not worse than {root}/old by 1%", "of a single class: name it"),
        ("sensitivity[clean|class=mule] not worse than {root}/old by 1%", "did you mean 'mole'"),
        ("top5_accuracy[clean] not worse than {root}/old by 1%", "at least 6 classes"),
        ("acuracy[clean] not worse than {root}/old by 1%", "did you mean 'accuracy'"),
        ("confidence_gap[clean] within 1% of {root}/old", "no better direction"),
    ],
)
def test_a_rule_that_cannot_be_judged_says_why_and_hides_no_other(runs, rule, complaint):
    new, _ = runs
    root = new.path.parent
    if not (root / "single").exists():
        make_run(root / "single", {"net": 0.0, "deep": 0.0})
        make_run(root / "others", {"net": 0.0, "wide": 0.0}, digests={"test": "e" * 64})
    text = rule.format(root=root)
    judged = judge_rules(new, read_rules([text, "accuracy[clean] >= 1%"]))
    assert judged.status == 2
    assert len(judged.verdicts) == 2
    (unjudged,) = judged.unjudged
    assert complaint in unjudged.problem
    assert unjudged.problem.startswith(f"the rule '{text}': ")
    assert "error" in format_junit(*judged)


def test_a_rule_without_a_model_pairs_models_by_name(runs):
    new, old = runs
    judged = judge_rules(new, read_rules([f"accuracy[clean] not worse than {old.path} by 50%"]))
    assert [verdict.model for verdict in judged.verdicts] == ["net", "wide"]
    one = judge_rules(new, read_rules([f"accuracy[clean] not worse than {old.path}:net by 50%"]))
    assert [verdict.model for verdict in one.verdicts] == ["net", "wide"]
    assert one.verdicts[0] != judged.verdicts[1]
    own = judge_rules(new, read_rules([f"accuracy[clean] not worse than {new.path}:net by 50%"]))
    assert [verdict.model for verdict in own.verdicts] == ["wide"]  # net is not its own rival


def test_a_pipeline_passes_only_what_is_shown_to_be_not_worse(runs, tmp_path):
    new, old = runs
    rule = "net: accuracy[fog=2] not worse than {}:net by {}"
    (verdict,) = judge_rules(new, read_rules([rule.format(old.path, "90%")])).verdicts
    high, value = verdict.high, verdict.value
    between = f"{100 * (max(value, 0) + high) / 2:.6f}%"
    above = f"{100 * high + 0.001:.6f}%"
    (tmp_path / "rules.yaml").write_text(f"- {rule.format(old.path, above)}\n")
    (passed,) = check_run(new.path, tmp_path / "rules.yaml")
    assert passed.judged == high
    with pytest.raises(pytest.fail.Exception, match="points too high"):
        check_run(new.path, rule.format(old.path, between))
    (on_value,) = check_run(new.path, rule.format(old.path, between), on="value")
    assert on_value.judged == value
    table = format_verdicts([passed])
    assert "to spare" in table
    assert "the value is how much worse this run is" in table


def verdict_within(low, high, limit="2%"):
    from fairweather.judge.verdicts import Verdict

    rule = Rule("net", "accuracy", "clean", "", "within", limit, reference="runs/old")
    return Verdict(rule, "net", "clean", (low + high) / 2, low, high, 100, "interval")


def test_equivalence_is_judged_on_the_farther_end():
    assert verdict_within(-0.019, 0.01).passed
    assert not verdict_within(-0.02, 0.01).passed
    assert not verdict_within(-0.01, 0.03).passed
    assert not verdict_within(-0.01, 0.03).is_broken
    assert not verdict_within(-0.5, 0.6).is_broken  # 0 is inside
    assert verdict_within(0.02, 0.03).is_broken
    assert verdict_within(-0.03, -0.021).is_broken
    assert verdict_within(-0.019, 0.01).margin == pytest.approx(0.001)
    failed = verdict_within(-0.03, 0.01)
    assert failed.margin == pytest.approx(-0.01)
    assert "-3.00% is not within ± 2%" in format_junit([failed])


def test_too_few_errors_are_no_pass(runs, monkeypatch):
    from fairweather.judge import differences

    monkeypatch.setattr(differences.EstimatedDifference, "ends", lambda *_: (np.nan, np.nan))
    new, old = runs
    rules = read_rules([f"net: brier_score[clean] not worse than {old.path} by 0.5"])
    judged = judge_rules(new, rules)
    assert judged.status == 2
    assert "too few errors" in judged.unjudged[0].problem
    assert judge_rules(new, rules, on="value").status == 0
    frame = margins_of(runs, "brier_score=0.5")
    assert frame["verdict"].tolist() == ["too few errors"]


@given(ENDS, ENDS, ENDS, st.floats(1.5, 4))
def test_a_drawing_keeps_every_number_on_its_side(first, second, third, reach):
    low, value, high = sorted(4 * end for end in (first, second, third))
    line = draw_line((value, low, high), reach)
    assert len(line) == 2 * HALF + 1
    dot = line.index("●")
    marks = [HALF + round(HALF * mark / reach) for mark in (-1, 0, 1)]
    for mark, column in zip((-1, 0, 1), marks, strict=True):
        assert (dot > column) == (value > mark)
        assert (dot < column) == (value < mark)
    drawn = [at for at, sign in enumerate(line) if sign in "─┼●‹›"]
    for mark, column in zip((-1, 0, 1), marks, strict=True):
        assert (drawn[0] > column) == (low > mark)
        assert (drawn[-1] < column) == (high < mark)


def test_a_drawing_without_an_interval_has_its_value_alone():
    assert set(draw_line((0.5, float("nan"), float("nan")), 2)) == set("·┊│●")
    assert set(draw_line((float("nan"),) * 3, 2)) == set("·┊│")


def test_the_drawings_of_all_lines_share_their_columns_and_the_files_have_them(runs):
    new, old = runs
    sides = f"{new.path}:net", f"{old.path}:net"
    found = read_run_comparison(*sides, margins=["accuracy=5", "accuracy[fog]=20", "auc/mole=0.2"])
    lines = [line[-1] for line in found.margins.body]
    assert {tuple(at for at, sign in enumerate(line) if sign in "┊│┼●") != () for line in lines}
    assert len({len(line) for line in lines}) == 1
    files = found.files()
    name = "compare_net_old_net_margins"
    assert all(f"`{line}`" in files[f"tables/{name}.md"] for line in lines)
    assert not any(sign in files[f"tables/{name}.tex"] for sign in "┊│┼●")
    svg = files[f"figures/{name}.svg"]
    for text in ("accuracy[clean], margin 5 points", "auc/mole[clean], margin 0.2", "equivalent"):
        assert text in svg
    assert found.margins.figure.alt.count("margin") >= 3
    assert str(found).count("Margins: how much worse A may be than B.") == 1
    assert "needs no correction" in str(found)
    alone = read_run_comparison(*sides, margins=["accuracy=5"])
    assert "needs no correction" not in str(alone)
    assert read_run_comparison(*sides).margins is None


def test_the_commands_name_the_chart_and_stop_a_pipeline(runs):
    new, old = (f"{run.path}:net" for run in runs)
    done = fairweather("compare", new, old, "--margin", "accuracy=5")
    chart = runs[0].path / "figures/compare_net_old_net_margins.svg"
    assert done.returncode == 0
    assert f"figure  {chart}" in done.stdout
    assert chart.read_text().startswith("<svg")
    rule = f"net: accuracy[clean] not worse than {old} by "
    for number, status in (("50%", 0), ("0.0001%", 1), ("50", 2)):
        assert fairweather("check", str(runs[0].path), rule + number).returncode == status
    refused = fairweather("compare", new, "paper", "--margin", "accuracy=5")
    assert refused.returncode == 2
    assert "--margin is for two runs" in refused.stderr
    unclear = fairweather("compare", new, old, "--margin", "accuracy=0.02")
    assert unclear.returncode == 2
    assert "could mean two things" in unclear.stderr
    assert "Traceback" not in unclear.stderr


def test_the_mean_over_shifts_is_that_of_the_only_shift(runs):
    frame = margins_of(runs, "accuracy[all]=5", "accuracy[fog]=5")
    assert frame["low"][0] == frame["low"][1] < frame["difference"][0] == frame["difference"][1]


def test_margins_of_models_that_are_not_there_are_refused(runs):
    with pytest.raises(InputError, match="unknown model 'deep'"):
        margins_of(runs, "deep: accuracy=2")
    assert margins_of(runs, "net: accuracy=2")["model_a"].tolist() == ["net"]
