"""Plans: claims as they are typed, pilots against definitions, one sentence for each mistake."""

import math

import numpy as np
import pytest
import scipy.stats

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.pilot import PLANNED, read_column, read_pilot
from fairweather.judge.planning import plan_test, read_claim, read_number
from fairweather.judge.rules import read_rules
from fairweather.metrics.areas import auc_column
from fairweather.metrics.columns import clopper_pearson
from fairweather.metrics.grouping import Grouping
from fairweather.metrics.power import Goal, design_effect, paired_power, share_power
from fairweather.metrics.rows import find_row
from fairweather.metrics.seeds import crossed_difference, crossed_mean
from fairweather.runs.folder import RunFolder, StoredGroups
from fairweather.types.record import DataRecord, groups_file
from tests.helpers.commands import fairweather
from tests.helpers.findings import draw_predictions
from tests.helpers.run_folders import finish, outcomes, run_record, write_run

N = 300


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("accuracy>=0.8", "accuracy >= 80%"),
        ("accuracy ≥ 80 %", "accuracy >= 80%"),
        ("accuracy[clean] > 80%", "accuracy >= 80%"),
        ("basic: accuracy[fog=3] <= .5", "basic: accuracy[fog=3] <= 50%"),
        ("sensitivity[clean|class=a]>=0.8", "sensitivity[clean|class=a] >= 80%"),
        ("auc >= 0.925", "auc >= 0.925"),
        ("accuracy better", "accuracy better"),
        ("accuracy not worse by 2%", "accuracy not worse by 2%"),
        ("accuracy[clean] not worse than runs/old by 0.02", "accuracy not worse by 2%"),
        ("accuracy within 1%", "accuracy within 1%"),
        ("accuracy within 1% of runs/old", "accuracy within 1%"),
        ("brier_score <= 1.5", "brier_score <= 1.5"),
    ],
)
def test_claims_are_read_as_they_are_typed(typed, read):
    assert str(read_claim(typed)) == read
    assert str(read_claim(read)) == read


def test_every_metric_that_is_planned_is_one():
    assert all(find_row(name) or find_row(f"{name}/a") for name in PLANNED)


GOOD = {"claim": "accuracy better", "expect": 0.01, "discordant": 0.05}
SHARE = {"claim": "sensitivity >= 0.8", "expect": 0.9}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"claim": "accuracy"}, "not of the form"),
        ({"claim": "accuracy better by 1%"}, "not of the form"),
        ({"claim": "acuracy better"}, "did you mean 'accuracy'"),
        ({"claim": "balanced_accuracy better"}, "does not know how balanced_accuracy varies"),
        ({"claim": "accuracy not worse by 0"}, "a margin is above 0"),
        ({"claim": "accuracy not worse by 2"}, "between 0 and 1"),
        ({"claim": "accuracy within -1%"}, "a margin is above 0"),
        ({"claim": "accuracy >= many"}, "needs a number such as 0.05 or 5%"),
        ({"claim": "accuracy == 0.9"}, "unknown operator"),
        ({"claim": "ppv better"}, "compare sensitivity or specificity"),
        ({"expect": None}, "say what you expect of 'accuracy better'"),
        ({"expect": -0.01}, "no test should show it"),
        ({"expect": 0.06}, "differ by at most that much"),
        ({"expect": "much"}, "expect needs a number"),
        ({"discordant": None}, "how often the two models disagree"),
        ({"discordant": 1.5}, "discordant must be between 0 and 1"),
        ({"prevalence": 0.1}, "prevalence means nothing"),
        ({"sd": 1.0}, "sd means nothing"),
        ({"icc": 0.2}, "icc and images_per_patient belong together"),
        ({"icc": 1.2, "images_per_patient": 3}, "icc must be between 0 and 1"),
        ({"images_per_patient": 0.5, "icc": 0.1}, "images_per_patient must be at least 1"),
        ({"seeds": 3}, "--seed-sd"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"tests": 0}, "at least 1"),
        ({"power": 1.0}, "power must be between 0 and 1"),
        ({"power": "120%"}, "power must be between 0 and 1, found 120%"),
        ({"seed_sd": 0}, "seed_sd must be above 0, found 0$"),
        ({"images": 0}, "once"),
        ({"images": 5, "have": "runs/old"}, "once"),
        ({"pilot": "runs/nowhere"}, "runs/nowhere"),
        ({**SHARE, "discordant": None, "expect": 0.7}, "'sensitivity >= 80%' is wrong"),
        ({**SHARE, "discordant": None, "expect": 0.8}, "exactly 80%, no more than 2.5 %"),
        ({**SHARE, "discordant": None, "expect": 1.0}, "between 0 and 1"),
        ({**SHARE, "discordant": 0.1}, "discordant means nothing"),
        ({**SHARE, "discordant": None, "seeds": 3}, "seeds means nothing"),
        ({**SHARE, "discordant": None, "tests": 3}, "tests is how many tests"),
        ({"claim": "auc >= 0.8", "expect": 0.9, "discordant": None}, "--prevalence 5%"),
        ({"claim": "auc better", "discordant": None}, "name a --pilot"),
        ({"claim": "nll <= 0.4", "expect": 0.3, "discordant": None}, "--sd 0.8"),
    ],
)
def test_each_mistake_gets_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence.replace("(", r"\(")) as raised:
        plan_test(**GOOD | options)
    assert len(str(raised.value)) < 250


def test_the_command_ends_with_status_2_and_writes_nothing(tmp_path):
    wrong = ("plan-test", "accuracy better", "--expect", "-1%", "--discordant", "5%")
    done = fairweather(*wrong, "--out", "power.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fairweather: with a true value of -1%")
    assert not list(tmp_path.iterdir())
    done = fairweather("plan-test", "accuracy better", "--out", "power.png", cwd=tmp_path)
    assert "--out must end with .csv or .svg" in done.stderr


@pytest.mark.parametrize(("written", "number"), [("5%", 0.05), ("-0.5 %", -0.005), (2, 2.0)])
def test_numbers_and_per_cent(written, number):
    assert read_number(written, "x") == pytest.approx(number)


# ---------------------------------------------------------------- plans without a pilot


def test_the_plan_has_the_power_of_its_size():
    plan = plan_test("sensitivity >= 0.8", expect=0.9)
    assert plan.needed.images == plan.needed.counted == 113
    powers = share_power(np.array([size.images for size in plan.curve]), 0.9, Goal(low=0.8))
    assert [size.power for size in plan.curve] == pytest.approx(powers)
    assert list(plan.table.columns) == ["images", "counted", "groups", "seeds", "power"]
    specific = plan_test("specificity >= 0.8", expect=0.9, prevalence=0.4)
    sensitive = plan_test("sensitivity >= 0.8", expect=0.9, prevalence=0.6)
    assert specific.needed == sensitive.needed


def test_the_positives_of_a_comparison_are_random():
    plan = plan_test("sensitivity better", expect=0.25, discordant=0.3, prevalence=0.01)
    images = plan.needed.images
    counts = np.arange(1, 120)
    powers = [paired_power(count, 0.25, 0.3, Goal(low=0)) for count in counts.tolist()]
    for n, is_enough in ((3750, False), (images, True)):
        power = scipy.stats.binom.pmf(counts, n, 0.01) @ powers
        assert (power >= 0.8) == is_enough
    assert plan.needed.power == pytest.approx(power, abs=1e-6)


@pytest.mark.parametrize(
    ("claim", "expect", "discordant", "goal"),
    [
        ("accuracy better", 0.4, 0.9999, Goal(low=0)),
        ("accuracy not worse by 3%", 0.0, 0.01, Goal(low=-0.03)),
    ],
)
def test_no_slightly_larger_test_set_has_less_power(claim, expect, discordant, goal):
    needed = plan_test(claim, expect=expect, discordant=discordant).needed.images
    powers = [paired_power(n, expect, discordant, goal) for n in range(needed - 1, needed + 40)]
    assert powers[0] < 0.8 <= min(powers[1:])


def test_patients_may_be_unlike_or_all_alike():
    claim, patients = "accuracy >= 0.85", {"expect": 0.9, "images_per_patient": 4}
    unlike, alike = (plan_test(claim, **patients, icc=icc).needed for icc in (0, 1))
    alone = plan_test(claim, expect=0.9).needed.images
    assert alone <= unlike.images < 1.2 * alone  # judged by groups
    assert alone <= alike.groups < 1.2 * alone


def test_stating_that_seeds_agree_changes_nothing():
    options = {"expect": 0.02, "discordant": 0.06, "seed_sd": 0.01}
    stated = plan_test("accuracy better", **options, seed_discordant=0)
    assert stated.needed == plan_test("accuracy better", **options).needed


def test_images_of_a_patient_are_all_its_images():
    """Of five images with 8 % of the class, two patients of three have none that count."""
    options = {"expect": 0.88, "prevalence": 0.08, "icc": 0.1}
    plan = plan_test("sensitivity >= 0.8", **options, images_per_patient=5)
    for size in plan.curve:
        assert size.images == 5 * size.groups
        assert size.counted == round(0.08 * size.images)
    # So few of a patient hardly belong together: about as many are needed as of as many patients.
    alone = plan_test("sensitivity >= 0.8", expect=0.88, prevalence=0.08)
    assert alone.needed.images < plan.needed.images < 1.25 * alone.needed.images
    assert "images of the class fall on patients by chance" in str(plan)
    only = plan_test("sensitivity >= 0.8", expect=0.88, icc=0.1, images_per_patient=5)
    assert only.needed.images == only.needed.counted == 5 * only.needed.groups
    assert "Patients with images of the class have 5 of them" in str(only)


def test_more_tests_need_more_images():
    few, many = (plan_test(**GOOD, tests=tests).needed.images for tests in (1, 20))
    assert many > 1.5 * few


def test_the_smallest_effect_of_a_test_set_has_the_power():
    plan = plan_test("accuracy better", discordant=0.06, images=500)
    assert plan.needed is None
    assert "truly better by 3.18% or more" in plan.at_best
    assert paired_power(500, 0.0319, 0.06, Goal(low=0)) > 0.8
    margin = plan_test("accuracy not worse by 2%", expect=0, discordant=0.06, images=500)
    assert "at best a margin of 3.22%" in margin.at_best
    assert paired_power(500, 0.0, 0.06, Goal(low=-0.0323)) > 0.8
    hopeless = plan_test("sensitivity >= 0.99", images=20)
    assert "whatever is true" in hopeless.at_best


def test_seeds_are_planned_before_images():
    options = {"expect": 0.02, "discordant": 0.06, "seed_sd": 0.01}
    plan = plan_test("accuracy better", **options)
    assert plan.fewest_seeds == min(size.seeds for size in plan.seed_needs)
    needs = [size.images for size in plan.seed_needs]
    assert needs == sorted(needs, reverse=True)
    assert "more images cannot replace seeds" in str(plan)
    too_few = plan_test("accuracy better", **options, seeds=plan.fewest_seeds - 1)
    assert too_few.needed is None
    assert "No test set is large enough" in str(too_few)
    networks = plan_test("accuracy better", **options, seeds=1)
    assert networks.needed == plan_test("accuracy better", expect=0.02, discordant=0.06).needed


def test_the_curve_is_written_as_csv_and_drawn_as_svg(tmp_path):
    command = ("plan-test", "accuracy >= 80%", "--expect", "90%", "--quiet")
    done = fairweather(*command, "--out", "power.csv", cwd=tmp_path)
    assert done.stdout.rstrip().endswith("csv     power.csv")
    lines = (tmp_path / "power.csv").read_text().splitlines()
    assert lines[0] == "images,counted,groups,seeds,power"
    plan = fw.plan_test("accuracy >= 80%", expect="90%")
    assert len(lines) == 1 + len(plan.curve)
    assert plan.curve_as_svg().startswith("<svg")


# ---------------------------------------------------------------- pilots


def stored(right, **columns):
    """Predictions of two classes with logits, right where they are said to be."""
    right = np.asarray(right, dtype=bool)
    labels = np.arange(len(right)) % 2
    rng = np.random.default_rng(len(columns))
    size = rng.uniform(0.1, 2, len(right))
    logit = np.where(right == (labels == 1), size, -size)
    logits = np.stack([np.zeros(len(right)), logit], axis=1).astype(np.float32)
    return outcomes(right, labels, classes=("a", "b"), logits=logits, **columns)


def make_run(path, models):
    """A run with clean predictions: {model: [right of each seed]}."""
    record = run_record({name: name for name in models}, classes=("a", "b"), seeds=tuple(range(4)))
    cells = {
        (name, seed, "clean"): stored(right, nll=np.where(right, 0.1, 2.0))
        for name, seeds in models.items()
        for seed, right in enumerate(seeds)
    }
    return write_run(path, record, predictions=cells).path


def draw(share, seed):
    return np.random.default_rng(seed).random(N) < share


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """Two recipes with three seeds each, whose networks agree on most images."""
    root = tmp_path_factory.mktemp("pilot")
    base = draw(0.85, 0)
    other = base ^ draw(0.1, 9)  # on these images the recipes differ, whatever the seed
    models = {
        "old": [base ^ draw(0.05, seed) for seed in (1, 2, 3)],
        "new": [other ^ draw(0.08, seed) for seed in (4, 5, 6)],
    }
    return make_run(root / "both", models), models


def rule(text):
    return read_rules([f"{text} >= 0"])[0]


def test_a_pilot_of_two_networks_says_how_often_they_disagree(pilot, tmp_path):
    _, models = pilot
    a, b = models["old"][0], models["new"][0]
    run = make_run(tmp_path / "one", {"old": [a], "new": [b]})
    read = read_pilot([str(run)], rule("accuracy[clean]"), compares=True, part=None)
    share = (a != b).mean()
    assert read.estimate.discordant == pytest.approx(share)
    assert read.estimate.trainings is None
    ends = [read.low.discordant, read.high.discordant]
    assert ends == pytest.approx([float(end) for end in clopper_pearson(share, N)])
    plan = plan_test("accuracy not worse by 2%", expect=0, pilot=fw.Run(run))
    stated = plan_test("accuracy not worse by 2%", expect=0, discordant=share)
    assert plan.needed == stated.needed
    assert plan.low < plan.needed.images < plan.high
    # What is stated replaces what the pilot says.
    assert plan_test("accuracy better", expect=0.01, discordant=0.3, pilot=str(run)).low is not None


def test_a_pilot_with_seeds_gives_the_variance_that_compare_finds(pilot):
    run, models = pilot
    read = read_pilot([str(run)], rule("accuracy[clean]"), compares=True, part=None)
    old, new = (np.stack(models[name], axis=1).astype(float) for name in ("old", "new"))
    crossed = crossed_difference(old, new)
    estimate = read.estimate
    pairs = [np.mean(a != b) for a in old.T for b in new.T]
    assert estimate.discordant == pytest.approx(np.mean(pairs))
    # The images' part: what a pair of networks has, less what differs from seed to seed.
    of_images = estimate.of_recipes(crossed.value) + sum(estimate.residuals) / 3
    assert of_images / N == pytest.approx(crossed.images, rel=1e-9)
    for between, recipe in zip(estimate.trainings, crossed.recipes, strict=True):
        assert between == pytest.approx(3 * max(recipe.between - recipe.shared, 0))
    assert read.low.trainings <= estimate.trainings <= read.high.trainings
    assert read.means == pytest.approx((old.mean(), new.mean()))


def test_a_loss_and_an_area_have_the_variance_of_their_columns(pilot):
    run, models = pilot
    name = f"{run}:old"
    read = read_pilot([name], rule("negative_log_likelihood[clean]"), compares=False, part=None)
    losses = [np.where(right, 0.1, 2.0).var(ddof=1) for right in models["old"]]
    assert read.estimate.image == pytest.approx(np.mean(losses))
    one = plan_test("negative_log_likelihood <= 0.6", expect=0.4, pilot=name)
    two = plan_test("negative_log_likelihood <= 0.6", expect=0.4, sd=math.sqrt(np.mean(losses)))
    assert one.needed == two.needed
    area = read_pilot([str(run)], rule("auc[clean|class=b]"), compares=True, part=None)
    labels = np.arange(N) % 2 == 1
    old, new = (
        [auc_column(stored(right, nll=0).logits[:, 1].astype(float), labels) for right in seeds]
        for seeds in (models["old"], models["new"])
    )
    delong = np.mean([np.square(a - b).sum() for a in old for b in new])
    # Logits are stored as float32.
    assert area.estimate.image / N == pytest.approx(delong, rel=1e-2)
    rare = read_pilot([str(run)], rule("auc[clean|class=b]"), compares=True, part=0.05)
    assert rare.estimate.image > 3 * area.estimate.image


def test_a_given_test_set_has_its_images_and_positives(pilot):
    run, _ = pilot
    size = read_column(f"{run}:old", rule("sensitivity[clean|class=b]"))
    assert (size.images, size.part, size.seeds) == (N, 0.5, 3)
    given = plan_test("sensitivity[clean|class=b] >= 0.8", have=f"{run}:old")
    stated = plan_test("sensitivity[clean|class=b] >= 0.8", prevalence=0.5, images=N)
    assert given.at_best == stated.at_best


PATIENTS = np.repeat(np.arange(60), 5)


def make_run_of_patients(path, models):
    """A run with five images of each patient: {model: right}."""
    folder = make_run(path, {name: [right] for name, right in models.items()})
    run = RunFolder(folder)
    run.write_groups(groups_file("test"), StoredGroups(np.arange(N), "patient", PATIENTS, {}))
    finish(run, "group", [groups_file("test")], kind="group")
    return str(folder)


def draw_by_patient(share, seed):
    rng = np.random.default_rng(seed)
    return rng.random(N) < rng.beta(3 * share, 3 * (1 - share), 60)[PATIENTS]


def test_a_pilot_of_patients_has_the_design_effect_of_its_groups(tmp_path):
    right = draw_by_patient(0.8, 3)
    name, grouping = make_run_of_patients(tmp_path / "run", {"net": right}), Grouping(PATIENTS)
    read = read_pilot([name], rule("accuracy[clean]"), compares=False, part=None)
    column = right.astype(float)[:, None]
    effect = crossed_mean(column, grouping).images / crossed_mean(column).images
    assert design_effect(5, read.estimate.icc) == pytest.approx(effect)
    assert read.low.icc < read.estimate.icc < read.high.icc
    plan = plan_test("accuracy >= 0.6", expect=0.8, pilot=name)
    assert plan.low < plan.needed.images < plan.high
    assert plan.needed.images == 5 * plan.needed.groups
    # A given test set says as much of its own patients.
    have = plan_test("accuracy >= 0.6", have=name)
    assert have.at_best == plan_test("accuracy >= 0.6", images=N, pilot=name).at_best


def test_a_pilot_says_how_many_patients_have_images_that_count(tmp_path):
    name = make_run_of_patients(tmp_path / "run", {"net": draw_by_patient(0.8, 3)})
    own = [(np.arange(N) % 2 == 1)[patient == PATIENTS].sum() for patient in range(60)]
    sensitivity = rule("sensitivity[clean|class=b]")
    column = read_column(name, sensitivity)
    assert column.sizes.mean == pytest.approx(np.mean(own))
    assert column.sizes.mean / column.part == pytest.approx(5)
    claim = "sensitivity[clean|class=b] >= 0.6"
    plan = plan_test(claim, expect=0.8, pilot=name, prevalence=0.05)
    assert plan.needed.images == 5 * plan.needed.groups
    # Patients with any have 2 or 3 of 5, and only one of ten has any.
    assert "10 % of the patients have images of the class: 2.5 on average" in str(plan)
    with pytest.raises(InputError, match=r"at most 0\.5 of the images can be of the class"):
        plan_test(claim, expect=0.8, pilot=name, prevalence=0.6)


def test_a_pilot_of_patients_has_an_interval_of_how_often_models_disagree(tmp_path):
    a, b = draw_by_patient(0.8, 3), draw_by_patient(0.8, 4)
    name = make_run_of_patients(tmp_path / "run", {"old": a, "new": b})
    read = read_pilot([name], rule("accuracy[clean]"), compares=True, part=None)
    share = (a != b).mean()
    own = np.array([(a != b)[patient == PATIENTS].sum() for patient in range(60)])
    variance = np.square(own - 5 * share).sum() / N**2 * 60 / 59
    worth = share * (1 - share) / variance
    ends = [float(end) for end in clopper_pearson(share, worth)]
    assert read.estimate.discordant == pytest.approx(share)
    assert [read.low.discordant, read.high.discordant] == pytest.approx(ends)
    plan = plan_test("accuracy better", expect=0.05, discordant=0.3, have=f"{name}:old")
    assert "Assumed: two images of a patient are independent" in str(plan)


def test_a_claim_without_a_name_is_about_the_only_finding(tmp_path):
    drawn = draw_predictions(400)
    facts = {"name": "toys", "digests": {"test": "d" * 64}, "task": "multilabel"}
    runs = {}
    for count in (1, 2):
        cut = {"labels": drawn.labels[:, :count], "logits": drawn.logits[:, :count]}
        cut["classes"] = drawn.classes[:count]
        data = DataRecord(**facts, classes=cut["classes"])
        record = run_record({"net": "Net"}, data=data)
        cells = {("net", 0, "clean"): drawn.with_columns(**cut)}
        runs[count] = str(write_run(tmp_path / str(count), record, predictions=cells).path)
    known = drawn.labels[:, 0] >= 0
    plan = plan_test("sensitivity >= 0.5", have=runs[1])
    positives = (drawn.labels[:, 0] == 1).sum() / known.sum()
    stated = plan_test("sensitivity >= 0.5", images=int(known.sum()), prevalence=positives)
    assert plan.at_best == stated.at_best
    assert plan.rule == "sensitivity[clean] >= 50%"
    with pytest.raises(InputError, match=r"has 2 findings: name one, as in 'sensitivity\[clean"):
        plan_test("sensitivity >= 0.5", have=runs[2])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"claim": "accuracy >= 0.8", "expect": 0.9}, "a pilot of one model"),
        ({"claim": "accuracy[fog=3] better", "expect": 0.01}, "unknown single cell"),
        ({"claim": "sensitivity better", "expect": 0.01}, "has 2 classes: name one"),
        ({"claim": "sensitivity[clean|class=c] better", "expect": 0.01}, "unknown class"),
        ({"claim": "accuracy[clean|site=B] better", "expect": 0.01}, "leave it out"),
        ({"claim": "nll better", "expect": 0.01}, "it needs predictions"),
    ],
)
def test_a_pilot_that_does_not_fit_is_refused(pilot, options, sentence):
    with pytest.raises(InputError, match=sentence):
        plan_test(**options, pilot=str(pilot[0]))


def test_pilots_of_other_images_are_refused(pilot, tmp_path):
    run, models = pilot
    short = make_run(tmp_path / "short", {"new": [models["new"][0][:100]]})
    with pytest.raises(InputError, match="not of the same images"):
        plan_test("accuracy better", expect=0.01, pilot=[f"{run}:old", str(short)])
