"""PPV and NPV at other priors: of classes, of findings, at operating points, and in rules."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.pytest_plugin import check_run
from fairweather.requests.settings import complete_prevalences, read_priors

CLASSES = ("benign", "naevus", "melanoma")
PRIORS = {"clinic": {"benign": 0.2, "naevus": 0.7, "melanoma": 0.1}}


def drawn(columns, seed=0, n=300):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, columns))
    return rng, logits


def bayes(called, labels, label, shares):
    """PPV and NPV from the share of each class that is called so, and the priors."""
    rates = [
        np.mean([call for call, truth in zip(called, labels, strict=True) if truth == k])
        for k in range(len(shares))
    ]
    calls = sum(rate * share for rate, share in zip(rates, shares, strict=True))
    right = rates[label] * shares[label]
    return right / calls, (1 - shares[label] - (calls - right)) / (1 - calls)


def test_ppv_and_npv_of_classes_follow_from_the_priors(tmp_path):
    rng, logits = drawn(3)
    labels = rng.choice(3, 300, p=[0.5, 0.3, 0.2])
    logits += 1.5 * np.eye(3)[labels]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    run = fw.evaluate(
        predictions=p,
        labels=labels,
        classes=CLASSES,
        priors=PRIORS,
        operating_points=["melanoma=0.2"],
        out=tmp_path / "run",
        bootstrap=100,
    )
    rows = run.scores[run.scores["shift"] == "priors/clinic"].set_index("metric")
    shares = list(PRIORS["clinic"].values())
    calls = {name: p.argmax(axis=1) == k for k, name in enumerate(CLASSES)}
    calls["melanoma@0.2"] = p[:, 2] >= 0.2
    for name, called in calls.items():
        label = CLASSES.index(name.partition("@")[0])
        for kind, value in zip(("ppv", "npv"), bayes(called, labels, label, shares), strict=True):
            row = rows.loc[f"{kind}/{name}"]
            assert row["value"] == pytest.approx(value, abs=1e-7)
            assert row["low"] < row["value"] < row["high"]
            assert row["n"] == (labels == label).sum()
    check_run(run.path, "ppv[priors/clinic|class=melanoma] >= 1%")


def test_a_finding_has_its_numbers_at_a_prevalence(tmp_path):
    rng, logits = drawn(2)
    present = (rng.random((300, 2)) < 0.3).astype(int)
    p = 1 / (1 + np.exp(-logits - 2 * (present - 0.5)))
    table = pd.DataFrame(
        {"Edema": p[:, 0], "Mass": p[:, 1]}
        | {f"label_{name}": present[:, k] for k, name in enumerate(("Edema", "Mass"))}
        | {"patient": np.arange(300) // 3}
    )
    table.loc[:20, "label_Mass"] = np.nan
    path = tmp_path / "net.csv"
    table.to_csv(path, index=False)

    def evaluate(out, **options):
        return fw.evaluate(
            f"predictions:{path}",
            findings=("Edema", "Mass"),
            out=tmp_path / out,
            bootstrap=100,
            priors={"ward": {"Mass": 0.02}},
            operating_points=["Mass=0.3"],
            **options,
        )

    run = evaluate("run", costs={"missed Mass": 20})
    scores = pd.read_csv(run.path / "scores.csv").set_index(["shift", "unit", "metric"])
    rows = scores.loc["priors/ward"]
    known = table["label_Mass"].notna()
    labels = table["label_Mass"][known].astype(int).tolist()
    for name, threshold in (("", 0.5), ("@0.3", 0.3)):
        called = table["Mass"][known] >= threshold
        for kind, value in zip(("ppv", "npv"), bayes(called, labels, 1, [0.98, 0.02]), strict=True):
            row = rows.loc["finding=Mass", f"{kind}{name}"]
            assert row["value"] == pytest.approx(value, abs=1e-7)
            assert row["low"] < row["value"] < row["high"]
    # At its own prevalence, a finding has the numbers of its images.
    own = scores.loc["clean", "finding=Edema", "ppv"]["value"]
    assert rows.loc["finding=Edema", "ppv"]["value"] == pytest.approx(own, abs=1e-7)
    # Sensitivity and specificity stay, so the cost is that of their errors at the prevalence.
    sensitivity, specificity = (
        scores.loc["clean", "finding=Mass", rate]["value"]
        for rate in ("sensitivity", "specificity")
    )
    cost = 20 * 0.02 * (1 - sensitivity) + 0.98 * (1 - specificity)
    assert rows.loc["finding=Mass", "expected_cost"]["value"] == pytest.approx(cost, abs=1e-6)
    check_run(run.path, "ppv[priors/ward|finding=Mass] <= 90%")
    of_patients = evaluate("patients", group="patient", metadata=path)
    wider = pd.read_csv(of_patients.path / "scores.csv").set_index(["shift", "unit", "metric"])
    row = wider.loc["priors/ward", "finding=Mass", "ppv"]
    assert row["value"] == rows.loc["finding=Mass", "ppv"]["value"]
    assert row["low"] != rows.loc["finding=Mass", "ppv"]["low"]
    assert row["groups"] == table["patient"][known].nunique()


def test_a_single_set_of_priors_needs_no_name(tmp_path):
    stated = {"stated": {"Mass": 0.01}}
    assert read_priors({"Mass": 0.01}) == stated
    assert read_priors(Path("Mass: 0.01")) == stated
    table = tmp_path / "priors.yaml"
    table.write_text("Mass: 0.01\n")
    assert read_priors(table) == stated
    assert read_priors(None) == read_priors({}) == {}
    labels = np.array([[1], [0], [-1]])
    one = complete_prevalences({"stated": {"prevalence": 0.01}}, labels, ("Mass",))
    assert one == {"stated": (0.01,)}


@pytest.mark.parametrize(
    ("priors", "sentence"),
    [
        (Path("nowhere.yaml"), "there is no file nowhere.yaml"),
        (Path("Mass: much"), "priors must be like .*'much' for 'Mass'"),
        ({"a": {"Mass": 0.1}, "b": 0.2}, "priors must be like .*found 0.2 for 'b'"),
    ],
)
def test_priors_of_another_form_get_one_sentence(priors, sentence):
    with pytest.raises(InputError, match=sentence):
        read_priors(priors)


def test_a_prevalence_needs_a_finding_of_the_run():
    labels = np.array([[1, 0], [0, 1]])
    for asked, sentence in (
        ({"prevalence": 0.1}, "unknown finding in the priors 'a' 'prevalence'"),
        ({"Mas": 0.1}, "did you mean 'Mass'"),
        ({"Mass": -0.1}, "between 0 and 1, found -0.1"),
    ):
        with pytest.raises(InputError, match=sentence):
            complete_prevalences({"a": asked}, labels, ("Edema", "Mass"))
