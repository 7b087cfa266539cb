"""What errors cost, from lines and from tables; bad ones get one sentence."""

import re

import pandas as pd
import pytest

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.comparison import read_run_comparison
from fairweather.judge.pytest_plugin import check_run
from fairweather.requests.costs import read_costs
from fairweather.types.record import SCORES

CLASSES = ["benign", "naevus", "melanoma"]
FINDINGS = ["Effusion", "Mass"]


def test_lines_set_the_costs_of_the_errors_of_a_class():
    costs = read_costs(
        ["missed melanoma: 20", "false benign: 20", "review: 3"], CLASSES, findings=False
    )
    assert costs == {
        "benign": (0.0, 1.0, 1.0, 3.0),
        "naevus": (20.0, 0.0, 1.0, 3.0),
        "melanoma": (20.0, 20.0, 0.0, 3.0),
    }
    asked = {"missed melanoma": 20, "false benign": 20, "review": 3}
    assert read_costs(asked, CLASSES, findings=False) == costs
    assert read_costs([], CLASSES, findings=False) == {}


def test_lines_set_the_costs_of_the_errors_of_a_finding():
    lines = ["missed Effusion: 20", "false Effusion: 0.5", "review: 3", "review Mass: 2"]
    costs = {"Effusion": (20.0, 0.5, 3.0), "Mass": (1.0, 1.0, 2.0)}
    assert read_costs(lines, FINDINGS, findings=True) == costs
    assert read_costs("missed: 20", ["Mass"], findings=True) == {"Mass": (20.0, 1.0)}


def test_names_may_have_blanks_and_colons():
    lines = ["missed a b: c: 20"]
    assert read_costs(lines, ["a b: c", "d"], findings=False)["a b: c"] == (0.0, 20.0)


def test_a_table_is_a_matrix_whatever_the_order_of_its_rows_and_columns(tmp_path):
    table = tmp_path / "costs.csv"
    table.write_text(
        "true;melanoma;review;benign;naevus\n"
        "melanoma;0,5;3;20;10\nbenign;2;3;0;1\nnaevus;1;3;5;0\n".replace("0,5", "0.5")
    )
    assert read_costs([str(table)], CLASSES, findings=False) == {
        "benign": (0.0, 1.0, 2.0, 3.0),
        "naevus": (5.0, 0.0, 1.0, 3.0),
        "melanoma": (20.0, 10.0, 0.5, 3.0),
    }
    table.write_text("finding,missed,false\nMass,3,1\nEffusion,20,1\n")
    assert read_costs(table, FINDINGS, findings=True) == {
        "Effusion": (20.0, 1.0),
        "Mass": (3.0, 1.0),
    }


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["missed melanom: 20"], "unknown class of a cost 'melanom'; did you mean 'melanoma'"),
        (["melanoma: 20"], "a line must be like 'missed NAME: 20', .*found 'melanoma: 20'"),
        (["missed melanoma"], "a line must be like|not negative"),
        (["missed melanoma: -1"], "a number that is not negative, found .*-1"),
        (["missed melanoma: inf"], "a number that is not negative, found .*inf"),
        (["missed melanoma: much"], "a number that is not negative, found .*much"),
        (["missed: 20"], "name the class, as in 'missed benign: 20'"),
        (["review melanoma: 3"], "the price of a review is the same for all classes"),
        (["missed melanoma: 2", "missed melanoma: 3"], "missed melanoma is given twice"),
        (["missed melanoma: 20", "false benign: 2"], "'melanoma' called 'benign' two costs"),
        (["missed benign: 0", "missed naevus: 0", "missed melanoma: 0"], "every error costs 0"),
        (["nowhere.csv"], "there is no file nowhere.csv"),
        (["nowhere.csv", "review: 3"], "give one table or lines"),
    ],
)
def test_bad_lines_get_one_sentence(lines, sentence):
    with pytest.raises(InputError, match=sentence):
        read_costs(lines, CLASSES, findings=False)


def test_bad_lines_of_findings_get_one_sentence():
    for lines, sentence in (
        (["missed Mas: 20"], "unknown finding of a cost 'Mas'; did you mean 'Mass'"),
        (["missed: 20"], "name the finding, as in 'missed Effusion: 20'"),
        (["review Mass: 2"], "'Effusion' has no price of a review"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_costs(lines, FINDINGS, findings=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no column for 'benign', 'naevus', 'melanoma'"),
        ("true,benign,naevus\n", "no column for 'melanoma'"),
        ("true,benign,naevus,melanoma,revue\n", "unknown column in .* 'revue'; did you mean"),
        ("true,benign,naevus,melanoma\nbenign,0,1,1\n", "no row for 'naevus', 'melanoma'"),
        ("true,benign,benign,naevus,melanoma\n", "two columns for 'benign'"),
        ("true,benign,naevus,melanoma\nbenign,0,1\nnaevus,1,0,1\nmelanoma,1,1,0\n", "2 costs"),
        ("true,benign,naevus,melanoma\nbenign,0,x,1\nnaevus,1,0,1\nmelanoma,1,1,0\n", "'x'"),
        (
            "true,benign,naevus,melanoma\nbenign,0,1,1\nnaevus,1,2,3\nmelanoma,1,1,0\n",
            "'naevus' called right costs 2, more than called 'benign' at 1",
        ),
        (
            "true,benign,naevus,melanoma\nbenign,0,1,1\nnaevus,1,0,1\nmelanoma,1,1,0\nx,1,1,1\n",
            "unknown class in line 5 of .* 'x'",
        ),
    ],
)
def test_bad_tables_get_one_sentence(tmp_path, text, sentence):
    table = tmp_path / "costs.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_costs([str(table)], CLASSES, findings=False)


@pytest.fixture
def predictions(tmp_path):
    rows = {"a": [0.9, 0.6, 0.2, 0.7], "b": [0.1, 0.4, 0.8, 0.3], "label": ["a", "a", "b", "b"]}
    path = tmp_path / "net.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def test_an_evaluation_has_the_costs_in_scores_and_record(predictions, tmp_path):
    def evaluate(out, **options):
        return fw.evaluate(f"predictions:{predictions}", out=out, bootstrap=100, **options)

    plain = evaluate(tmp_path / "plain")
    assert not plain.scores["metric"].str.contains("cost|reviewed").any()
    run = evaluate(tmp_path / "run", costs=["missed b: 20", "review: 0.5"])
    assert run.record.settings.costs == {"a": (0.0, 1.0, 0.5), "b": (20.0, 0.0, 0.5)}
    clean = run.scores.set_index("metric")["value"]
    assert clean["expected_cost"] == 5  # one missed b, of four
    assert clean["bayes_cost"] == 0.5  # both a are called b, as is each image from 1 / 21 on
    assert clean["cost_with_review"] == 0.375  # 0.9 of a, of which a tenth would cost 2, too
    assert clean["reviewed_share"] == 0.75
    (verdict,) = check_run(run.path, "bayes_cost[clean] <= 0.5", on="value")
    assert verdict.passed
    kept = (tmp_path / "run" / SCORES).read_bytes()
    with pytest.raises(InputError, match=re.escape("costs of a")):
        evaluate(tmp_path / "run")
    assert (tmp_path / "run" / SCORES).read_bytes() == kept


def test_models_are_compared_where_errors_cost_the_same(predictions, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(predictions.read_text().replace("0.6,0.4", "0.4,0.6"))
    for out, path, costs in (
        ("a", predictions, ["missed b: 20"]),
        ("b", other, ["missed b: 20"]),
        ("c", other, ["missed b: 10"]),
        ("d", other, ()),
    ):
        fw.evaluate(f"predictions:{path}", out=tmp_path / out, bootstrap=100, costs=costs)
    same = read_run_comparison(tmp_path / "a", tmp_path / "b")
    rows = same.table.set_index("metric")
    assert rows.loc["expected_cost", ["a", "b", "difference"]].tolist() == [5, 5.25, 0.25]
    assert not any("Expected costs" in note for note in same.notes)
    for name in ("c", "d"):
        found = read_run_comparison(tmp_path / "a", tmp_path / name)
        assert not found.table["metric"].str.contains("cost").any()
        assert "Expected costs are not compared" in str(found)
