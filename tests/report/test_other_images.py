"""What is found about other images stands first, ranked, in sentences of at most three numbers."""

import math
import re

import pandas as pd
import pytest

import fairweather as fw
from fairweather.report.building import build_report, make_tables
from fairweather.report.joint_runs import read_runs
from fairweather.report.other_images import OTHER_DATA, describe_other_images
from fairweather.report.sentences import PERCENT
from fairweather.types.record import COLUMNS
from tests.helpers.run_folders import run_record, write_run
from tests.report.test_report import crowded

AUROC, FPR = "detection_auroc", "false_positive_rate_at_recall/0.95"
HOSTILE = "<b>mnist & 5</b>"
ORIGIN = "The test images come from another hospital."


def row(shift, metric, value, half=0.02, model="a", seed="0"):
    return (model, seed, shift, "none", metric, value, value - half, value + half, 1000)


def accuracies(**of):
    names = {"natural": "natural/hospital_b"}
    return [row(names.get(shift, shift), "accuracy", value) for shift, value in of.items()]


def told(*rows, titles=None, natural_shift=False):
    scores = pd.DataFrame(rows, columns=COLUMNS)
    found = describe_other_images(scores, titles or {"a": "Model A"}, natural_shift=natural_shift)
    return [each.replace(PERCENT, " %") for each in found]


@pytest.mark.parametrize(
    ("auroc", "said"),
    [
        (0.456, "is more confident on the images of mnist5k than on its own"),
        (0.51, "may be no more confident on its own images than on those of mnist5k"),
        (0.93, "is more confident on its own images than on those of mnist5k"),
    ],
)
def test_another_data_set_is_told_apart_or_not(auroc, said):
    wins = f"its own image has the higher confidence in {auroc:.2f} of the pairs; 0.5 is a coin"
    coin = ", which the interval [0.49, 0.53] includes" if auroc == 0.51 else ""
    assert told(row("ood/mnist5k", AUROC, auroc)) == [f"“Model A” {said}: {wins}{coin}."]


def test_the_best_score_is_named_where_it_is_found_better():
    confidence = row("ood/mnist5k", AUROC, 0.6)
    (better,) = told(confidence, row("ood/mnist5k", f"{AUROC}/energy", 0.7),
                     row("ood/mnist5k", f"{AUROC}/knn", 0.9))  # fmt: skip
    assert better.endswith("0.60 of the pairs; 0.5 is a coin, and the k-NN distance gives 0.90.")
    (overlapping,) = told(confidence, row("ood/mnist5k", f"{AUROC}/energy", 0.63))
    assert overlapping.endswith("0.5 is a coin.")


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (0.7, "70.0 % of the images of hospital_b, 20.0 points less than of the test images"),
        (0.95, "95.0 % of the images of hospital_b, 5.0 points more than of the test images"),
        (0.89, "89.0 % of the images of hospital_b and in 90.0 % of the test images, a "
               "difference that may be chance"),
    ],
)  # fmt: skip
def test_other_images_of_the_same_classes_are_compared(there, said):
    expected = [f"“Model A” is right in {said}."]
    assert told(*accuracies(clean=0.9, natural=there)) == expected


def test_a_natural_shift_of_the_data_is_told_only_where_it_is_one():
    rows = accuracies(clean=0.8, validation=0.95)
    assert told(*rows) == []
    assert told(*rows, natural_shift=True) == [
        "“Model A” is right in 80.0 % of the test images, 15.0 points less than of the validation "
        "images: the test images have another source."
    ]
    (alike,) = told(*accuracies(clean=0.8, validation=0.81), natural_shift=True)
    assert alike.endswith(
        "a difference that may be chance, though the test images have another source."
    )


def test_the_worst_comes_first():
    rows = [
        *accuracies(clean=0.8, natural=0.75, validation=0.95),
        row("ood/far", AUROC, 0.99, 0.005),
        row("ood/near", AUROC, 0.5),
        row("ood/worse", AUROC, 0.3),
        row("ood/bad", AUROC, 0.4),
    ]
    places = ["worse", "bad", "the test images have", "hospital_b", "near", "far"]
    found = told(*rows, natural_shift=True)
    assert [place in each for place, each in zip(places, found, strict=True)] == [True] * 6
    assert told(*reversed(rows), natural_shift=True) == found
    assert crowded(found) == []


def test_of_several_models_the_worst_is_told_and_no_variant():
    titles = {"a": "A", "b": "B", "b+temperature": "B, scaled"}
    rows = [row("ood/x", AUROC, value, model=model)
            for model, value in zip(titles, (0.8, 0.6, 0.1), strict=True)]  # fmt: skip
    (found,) = told(*rows, titles=titles)
    assert found.startswith(
        "At worst, “B” is more confident on its own images than on those of x: its own image"
    )


def test_of_several_seeds_the_mean_is_told():
    rows = [
        row(shift, "accuracy", value + add, seed=seed)
        for shift, value in (("clean", 0.9), ("natural/b", 0.7))
        for seed, add in (("0", -0.1), ("1", 0.1), ("mean", 0.0), ("ensemble", 0.05))
    ]
    (found,) = told(*rows)
    assert "70.0 % of the images of b, 20.0 points less" in found


def test_numbers_that_are_missing_are_not_told():
    assert told(*accuracies(natural=0.7)) == []
    assert told(row("ood/x", FPR, 0.7)) == []
    few = ("a", "0", "natural/b", "none", "accuracy", 0.99, math.nan, math.nan, 100)
    (found,) = told(row("clean", "accuracy", 0.5), few)
    assert found.endswith("a difference that may be chance.")


def rows_of_all():
    scores = [row("clean", "accuracy", 0.8), row("validation", "accuracy", 0.95)]
    for at, name in enumerate((HOSTILE, "moon", "sun", "sea", "rain", "snow")):
        scores += [row(f"ood/{name}", AUROC, 0.3 + at / 10), row(f"ood/{name}", FPR, 0.5)]
        scores += [row(f"ood/{name}", f"{metric}/knn", 0.95) for metric in (AUROC, FPR)]
    return scores


@pytest.fixture
def run(tmp_path):
    record = run_record({"a": "Model <A>"}, notes={"natural_shift": ORIGIN}, bootstrap=100)
    return write_run(tmp_path / "run", record, rows_of_all())


def test_the_overview_begins_with_other_images(run):
    lines = fw.Run(run.path).overview().splitlines()
    assert lines[0].startswith(
        f"“Model <A>” is more confident on the images of {HOSTILE} than on its own"
    )
    assert "another source" in lines[2]
    assert lines[5:7] == ["report.html has 2 more such sentences.", ""]
    assert re.match(r"model +images +accuracy", lines[7])
    html = fw.Run(run.path)._repr_html_()
    assert "images of &lt;b&gt;mnist" in html
    assert html.index("images of") < html.index("<table")


def test_the_front_of_the_page_has_all_of_them(run):
    build_report(run)
    page = (run.path / "report.html").read_text()
    front = page[page.index("<h3>Other images</h3>") : page.index('<section id="details">')]
    assert front.count('<p class="note">“Model') == 7
    assert "more confident on the images of &lt;b&gt;mnist &amp; 5&lt;/b&gt; than" in front
    assert HOSTILE not in page


def test_a_table_has_every_score_and_names_the_one_that_is_better(run):
    found = {table.name: table for of in make_tables(read_runs([run])).values() for table in of}
    table = found["other_data_scores"]
    # Confidence has columns of its own in the other table, and is the reference here.
    heads = [f"{head}: {of}" for head in ("AUROC", "FPR") for of in ("confidence", "k-NN distance")]
    assert table.layout.header == ("Model and data set", *heads)
    numbers = [name for name in table.frame if not name.endswith((" low", " high"))]
    assert numbers == ["model", "title", AUROC, f"{AUROC}/knn", FPR, f"{FPR}/knn"]
    assert table.models == ["a"] * 6
    assert table.body[1][0] == "Model <A>, moon (k-NN distance)"
    assert table.body[1][1:3] == ["0.400 [0.380, 0.420]", "0.950 [0.930, 0.970]"]
    assert "k = 5" in table.below[0]
    assert "5,000" in table.below[0]


def test_a_run_of_before_has_no_table_of_scores(tmp_path):
    scores = [row("clean", "accuracy", 0.8), row("ood/x", AUROC, 0.9), row("ood/x", FPR, 0.5)]
    run = write_run(tmp_path, run_record({"a": "A"}), scores)
    names = [table.name for table in OTHER_DATA.tables(read_runs([run])) if table]
    assert names == ["other_data"]
