"""The further tables, from small tables of scores written by hand."""

from __future__ import annotations

import csv
import io
import math

import pandas as pd
import pytest

from fairweather.metrics.detection import OOD_SCORES
from fairweather.metrics.metric import CLASS_METRICS
from fairweather.metrics.robustness import ADAPTED
from fairweather.metrics.rows import find_row, iterate_rows
from fairweather.metrics.table import METRICS
from fairweather.report.building import build_report, make_tables
from fairweather.report.contents import Contents, make_sweep
from fairweather.report.performance import COVERAGE, RISK
from fairweather.report.summary import PRIOR_METRICS
from fairweather.report.tables import ABSENT
from fairweather.types.record import COLUMNS
from tests.helpers.run_folders import run_record, sweep_record, write_run

HOSTILE = "<script>a|b</script> 5% & \\c_d"
RMS = "rms_calibration_error"
FPR = "false_positive_rate_at_recall/0.95"
MCE = "mce_alexnet/in-memory"
SWEEPS = (
    sweep_record("dark", {0.5: "dark,0.5"}, title="Darkness", level_title="factor f", neutral=1.0),
    sweep_record("imagenet_c/fog", {1: "fog,1"}),
)
RECORD = run_record({"a": "Model A"}, SWEEPS, classes=("0", "1"))
# shift, level, metric, value: of the model "a"; the others follow from these.
PLAIN = [
    ("clean", "none", "accuracy", 0.9),
    ("clean", "none", "negative_log_likelihood", 0.3),
    ("clean", "none", f"{RMS}/10-equal-width", 0.04),
    ("clean", "none", RMS, 0.04),
    ("dark", "mean", "accuracy", 0.8),
    ("imagenet_c/fog", "mean", "accuracy", 0.7),
    ("all", "mean", "accuracy", 0.75),
]
WORST = [
    ("dark", "worst", "accuracy", 0.61),
    ("imagenet_c/fog", "worst", "accuracy", 0.52),
    ("all", "worst", "accuracy", 0.51),
    ("dark", "worst", RMS, 0.11),
    ("all", "worst", RMS, 0.22),
]
PRIORS = [
    ("priors/rare", "none", "accuracy", 0.81),
    ("priors/rare", "none", "negative_log_likelihood", 0.44),
    ("priors/rare", "none", f"{RMS}/10-equal-width", 0.07),
    ("priors/worst", "none", "accuracy", 0.79),
    (f"priors/{HOSTILE}", "none", "accuracy", 0.83),
]
OTHERS = [("ood/cats", "none", "detection_auroc", 0.66), ("ood/cats", "none", FPR, 0.93)]
SCORES_OF_OTHERS = [
    ("ood/cats", "none", f"{metric}/{name}", value + at / 100)
    for metric, value in (("detection_auroc", 0.67), (FPR, 0.77))
    for at, name in enumerate(OOD_SCORES)
]
STABILITY = [
    ("dark", "mean", "flip_rate", 0.12),
    ("imagenet_c/fog", "mean", "flip_rate", 0.18),
    ("all", "mean", "flip_rate", 0.15),
    ("imagenet_c", "mean", "mean_corruption_error", 0.43),
    ("imagenet_c", "mean", MCE, 0.76),
    ("imagenet-c-files", "mean", "mce_alexnet/files", 0.77),
    ("imagenet-c-files", "mean", "relative_mce_alexnet/files", 1.05),
    ("imagenet-c-files/fog", "3", "accuracy_difference/files-memory", -0.02),
]
HAND_OVER = [
    ("clean", "none", COVERAGE, 0.88),
    ("clean", "none", RISK, 0.05),
    ("dark", "mean", COVERAGE, 0.55),
    ("dark", "mean", RISK, 0.21),
    ("imagenet_c/fog", "mean", COVERAGE, 0.0),
    ("imagenet_c/fog", "mean", RISK, math.nan),
]
CHANGES = [("clean", "none", name, -0.01) for name in ADAPTED.values()]
EVERYTHING = [*PLAIN, *WORST, *PRIORS, *OTHERS, *SCORES_OF_OTHERS, *STABILITY, *HAND_OVER]
EVERYTHING += CHANGES


def keys_of(table):
    """The columns of the CSV, without titles and ends of intervals."""
    return tuple(
        name for name in table.frame if name != "title" and not name.endswith((" low", " high"))
    )


def rows(lines, model="a", seed="0", add=0.0):
    """Rows of scores.csv; the interval is 0.01 and 0.02 wide on its sides."""
    return [
        (model, seed, shift, level, metric, v + add, v + add - 0.01, v + add + 0.02, images(shift))
        for shift, level, metric, v in lines
    ]


def images(shift):
    return 1500 if shift.startswith("ood/") else 200


def contents(lines, titles=None, **facts):
    titles = titles or {"a": "Model A"}
    return Contents(
        records={"": run_record(titles, SWEEPS, **facts)},
        titles=titles,
        sweeps=tuple(map(make_sweep, SWEEPS)),
        scores=pd.DataFrame(lines, columns=COLUMNS),
    )


def further_tables(contents):
    """The tables besides levels, means, the overview and all metrics of clean images."""
    every = [table for of in make_tables(contents).values() for table in of]
    others = ("overview", "smallest", "summary_", "clean_metrics", "accuracy_", f"{RMS}_")
    return [table for table in every if not table.name.startswith(others)]


def tables(*arguments, **named):
    return {table.name: table for table in further_tables(contents(*arguments, **named))}


def test_an_undefined_number_is_shown_as_missing_and_stays_in_the_file():
    undefined = [("clean", "none", COVERAGE, 0.0), ("clean", "none", RISK, math.nan)]
    made = make_tables(contents(rows([*PLAIN, *undefined])))
    table = next(table for of in made.values() for table in of if table.name == "clean_metrics")
    risk = [row[1] for row in table.body if row[0].startswith("Risk above the threshold")]
    assert risk == [ABSENT]
    assert table.frame[table.frame["metric"] == RISK].iloc[:, 2:].isna().all(axis=None)
    assert not any("nan" in cell for row in table.body for cell in row)


def test_a_run_without_such_rows_has_no_such_tables():
    assert tables(rows(PLAIN)) == {}


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (WORST, ["worst_accuracy", f"worst_{RMS}"]),
        (PRIORS, ["class_priors"]),
        (OTHERS, ["other_data"]),
        ([*OTHERS, *SCORES_OF_OTHERS], ["other_data", "other_data_scores"]),
        (STABILITY, ["stability"]),
        (HAND_OVER, ["hand_over"]),
    ],
    ids=["worst", "priors", "others", "scores", "stability", "hand over"],
)
def test_each_table_is_there_where_the_run_has_its_rows(lines, names):
    assert list(tables(rows([*PLAIN, *lines]))) == names


def test_the_worst_has_a_column_a_shift_and_one_for_all():
    found = tables(rows(EVERYTHING))
    assert found["worst_accuracy"].layout.header == ("Model", "Darkness", "Fog", "All shifts")
    assert keys_of(found["worst_accuracy"]) == (
        "model",
        "dark worst",
        "imagenet_c/fog worst",
        "all worst",
    )
    assert found["worst_accuracy"].body == [
        ["Model A", "61.0 [60.0, 63.0]", "52.0 [51.0, 54.0]", "51.0 [50.0, 53.0]"]
    ]
    assert found[f"worst_{RMS}"].layout.header == ("Model", "Darkness", "All shifts")
    assert found[f"worst_{RMS}"].body[0][1:] == ["0.110 [0.100, 0.130]", "0.220 [0.210, 0.240]"]
    assert "10 equal-width bins, L2 norm" in found[f"worst_{RMS}"].below[0]
    assert "bias-corrected" in found[f"worst_{RMS}"].below[0]
    assert "bias-corrected" not in found["worst_accuracy"].below[0]


def test_priors_stand_beside_clean_and_end_with_the_worst():
    found = tables(rows(EVERYTHING))["class_priors"]
    cells = dict(zip(found.layout.header, found.body[0], strict=True))
    assert list(cells) == [
        "Model",
        *(f"{at}: {m}" for at in ("Clean", "rare") for m in ("accuracy (%)", "NLL (nats)", "RMS")),
        f"{HOSTILE}: accuracy (%)",
        "Worst of these priors: accuracy (%)",
    ]
    assert cells["Clean: RMS"] == "0.040 [0.030, 0.060]"
    assert cells["rare: accuracy (%)"] == "81.0 [80.0, 83.0]"
    assert cells["rare: NLL (nats)"] == "0.440 [0.430, 0.460]"
    assert cells["rare: RMS"] == "0.070 [0.060, 0.090]"
    assert cells["Worst of these priors: accuracy (%)"] == "79.0 [78.0, 81.0]"
    for words in (
        "Priors give the images of each class another weight",
        "10 equal-width bins, L2 norm",
        "bias-corrected",
        "n = 200 test images, 1,000 resamples; seed 0",
    ):
        assert words in found.below[0]


def test_classes_have_a_row_each_with_their_images_and_a_dash_where_a_number_is_undefined():
    lines = [
        ("clean", "none", f"{kind}/{name}", math.nan if kind == "ppv" else 0.5)
        for name in (HOSTILE, "b@0.3")
        for kind in CLASS_METRICS
        if "@" not in name or "auc" not in kind
    ]
    found = tables(rows([*PLAIN, *lines]))["classes"]
    assert found.layout.header[:3] == ("Class", "Sensitivity", "Specificity")
    assert found.body == [
        [f"{HOSTILE} (n = 200)", *[number] * 2, "–", *[number] * 6]
        if name == HOSTILE
        else [f"{name} (n = 200)", *[number] * 2, "–", *[number] * 3, "–", "–", number]
        for name in (HOSTILE, "b@0.3")
        for number in ["0.500 [0.490, 0.520]"]
    ]
    assert "<" not in found.texts()["md"]
    two = [*rows([*PLAIN, *lines]), *rows([*PLAIN, *lines], model="b")]
    both = tables(two, titles={"a": "A", "b": "B"})["classes"]
    assert both.frame["title"].tolist() == [
        *(f"A: {name}" for name in (HOSTILE, "b@0.3")),
        *(f"B: {name}" for name in (HOSTILE, "b@0.3")),
    ]
    assert "n = 200 test images" in found.below[0]


@pytest.mark.usefixtures("without_figures")
def test_classes_stand_on_the_page_with_one_formula_for_all(tmp_path):
    lines = [("clean", "none", f"{kind}/{name}", 0.5) for name in "xy" for kind in CLASS_METRICS]
    run = write_run(tmp_path / "run", RECORD, rows([*PLAIN, *lines]))
    assert "tables/classes.csv" in build_report(run)
    page = (run.path / "report.html").read_text()
    assert page.count("<h4>Each class against all others</h4>") == 1
    assert "x (n = 200)" in page
    for kind in CLASS_METRICS:
        assert page.count(f"<code>{kind}/CLASS</code>") == 1


def test_other_data_shows_auroc_and_false_positives():
    found = tables(rows(EVERYTHING))["other_data"]
    assert found.layout.header == ("Model", "cats: AUROC", "cats: FPR at 95 % recall")
    assert keys_of(found) == ("model", "ood/cats detection_auroc", f"ood/cats {FPR}")
    assert found.body[0][1:] == ["0.660 [0.650, 0.680]", "0.930 [0.920, 0.950]"]
    assert "n = 1,500 images of both sets together, 1,000 resamples; seed 0" in found.below[0]


def test_stability_shows_flips_a_shift_and_errors_a_family():
    found = tables(rows(EVERYTHING))["stability"]
    cells = dict(zip(found.layout.header[1:], found.body[0][1:], strict=True))
    assert cells == {
        "Darkness: flip rate": "0.120 [0.110, 0.140]",
        "Fog: flip rate": "0.180 [0.170, 0.200]",
        "All shifts: flip rate": "0.150 [0.140, 0.170]",
        "imagenet_c: mean corruption error": "0.430 [0.420, 0.450]",
        "imagenet_c: mCE": "0.760 [0.750, 0.780]",
        "imagenet-c-files: mCE": "0.770 [0.760, 0.790]",
        "imagenet-c-files: relative mCE": "1.050 [1.040, 1.070]",
    }
    assert "not normalised" in found.below[0]
    assert "AlexNet" in found.below[0]
    assert "n = 200 test images, 1,000 resamples; seed 0" in found.below[0]


def test_the_caption_explains_only_errors_that_are_shown():
    flips = tables(rows([*PLAIN, *STABILITY[:3]]))["stability"].below[0]
    assert "corruption error" not in flips
    assert "AlexNet" not in flips
    plain = tables(rows([*PLAIN, *STABILITY[:4]]))["stability"].below[0]
    assert "not normalised" in plain
    assert "AlexNet" not in plain


def test_handing_over_shows_clean_and_means_and_a_dash_where_nothing_is_answered():
    found = tables(rows(EVERYTHING, add=0.0))["hand_over"]
    assert found.layout.header[:3] == ("Model", "Clean: coverage", "Clean: risk")
    assert keys_of(found)[1:4] == (f"clean {COVERAGE}", f"clean {RISK}", f"dark mean {COVERAGE}")
    cells = dict(zip(found.layout.header, found.body[0], strict=True))
    assert cells["Clean: coverage"] == "0.880 [0.870, 0.900]"
    assert cells["Darkness: risk"] == "0.210 [0.200, 0.230]"
    two = rows(EVERYTHING) + rows([("imagenet_c/fog", "mean", RISK, 0.5)], model="b")
    both = tables(two, titles={"a": "A", "b": "B"})["hand_over"]
    assert [row[both.layout.header.index("Fog: risk")] for row in both.body] == [
        "–",
        "0.500 [0.490, 0.520]",
    ]
    assert "fitted on clean validation images" in found.below[0]
    assert "at most 5 %" in found.below[0]


def test_every_model_has_its_row():
    lines = [*rows(EVERYTHING), *rows([*PLAIN, *WORST], model="b", add=0.1)]
    found = tables(lines, titles={"a": "A", "b": HOSTILE})
    assert [row[0] for row in found["worst_accuracy"].body] == ["A", HOSTILE]
    assert found["worst_accuracy"].body[1][1] == "71.0 [70.0, 73.0]"
    assert found["stability"].body[1] == [HOSTILE, *["–"] * 7]


def several_seeds(of_mean):
    return [
        *rows(EVERYTHING, seed="0"),
        *rows(EVERYTHING, seed="1", add=0.02),
        *rows(of_mean, seed="mean", add=0.01),
    ]


def test_several_seeds_show_their_mean():
    found = tables(several_seeds(EVERYTHING))
    assert found["worst_accuracy"].body == [
        ["Model A", "62.0 [61.0, 64.0]", "53.0 [52.0, 55.0]", "52.0 [51.0, 54.0]"]
    ]
    assert found["class_priors"].body[0][1] == "91.0 [90.0, 93.0]"
    assert found["other_data"].body == [["Model A", "0.670 [0.660, 0.690]", "0.940 [0.930, 0.960]"]]
    assert all("mean of 2 seeds" in table.below[0] for table in found.values())
    assert "in each resample and for each seed" in found["worst_accuracy"].below[0]


def test_what_has_no_mean_over_seeds_shows_each_seed():
    found = tables(several_seeds([*PLAIN, *WORST, *STABILITY, *HAND_OVER]))
    assert found["other_data"].body == [
        ["Model A, seed 0", "0.660 [0.650, 0.680]", "0.930 [0.920, 0.950]"],
        ["Model A, seed 1", "0.680 [0.670, 0.700]", "0.950 [0.940, 0.970]"],
    ]
    assert [row[1] for row in found["class_priors"].body] == [
        "90.0 [89.0, 92.0]",
        "92.0 [91.0, 94.0]",
    ]
    for name in ("other_data", "class_priors"):
        assert "1,000 resamples; each seed has its own row" in found[name].below[0]
    assert found["stability"].body[0][0] == "Model A"


def test_hostile_names_are_escaped_and_numbers_are_those_of_scores():
    found = tables(rows(EVERYTHING), titles={"a": HOSTILE})["class_priors"].texts()
    assert "<" not in found["md"]
    assert r"a\|b" in found["md"]
    assert r"5\% \& \textbackslash{}c\_d" in found["tex"]
    [row] = csv.DictReader(io.StringIO(found["csv"]))
    assert row["title"] == HOSTILE
    assert row["priors/rare accuracy"] == "0.81"
    assert row[f"priors/{HOSTILE} accuracy high"] == "0.85"


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr("fairweather.report.building._draw_figures", lambda *_: [])


@pytest.mark.usefixtures("without_figures")
def test_tables_are_written_and_stand_on_the_page_once(tmp_path):
    run = write_run(tmp_path / "run", RECORD, rows(EVERYTHING))
    names = build_report(run)
    page = (run.path / "report.html").read_text()
    for table in further_tables(contents(rows(EVERYTHING))):
        assert {f"tables/{table.name}.{suffix}" for suffix in ("md", "csv", "tex")} <= set(names)
        assert page.count(table.body[0][-1]) >= 1
    for heading in (
        "At the worst level",
        "Answers that change from level to level",
        "Under other class priors",
        "On other data sets",
        "Coverage and risk at the threshold of the validation images",
    ):
        assert page.count(f"<h4>{heading}</h4>") == 1
    captions = page.split("<caption>")[1:]
    assert len({text.partition("</caption>")[0] for text in captions}) == len(captions)
    assert "<script>" not in page
    for name in (
        {row.name for row in iterate_rows()}
        - set(METRICS)
        - {f"{kind}/CLASS" for kind in CLASS_METRICS}
    ):
        assert page.count(f"<code>{name}</code>") == 1


@pytest.mark.usefixtures("without_figures")
def test_the_page_of_a_run_without_such_rows_has_no_such_headings(tmp_path):
    run = write_run(tmp_path / "run", RECORD, rows(PLAIN))
    assert not [name for name in build_report(run) if "worst" in name or "priors" in name]
    page = (run.path / "report.html").read_text()
    assert "<h4>At the worst level</h4>" not in page
    assert "Under other class priors" not in page
    assert "flip_rate" not in page


def test_every_row_is_found_by_its_name_and_says_what_it_is():
    listed = [row.name for row in iterate_rows()]
    assert len(set(listed)) == len(listed)
    for row in iterate_rows():
        assert find_row(row.name) == row or row.name.endswith("/CLASS")
        assert row.label
        assert row.formula
    assert find_row("ppv/cat@0.3").name == "ppv/CLASS"
    assert {COVERAGE, RISK, *PRIOR_METRICS} <= set(METRICS)
