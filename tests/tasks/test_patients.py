"""Runs that judge patients: scores, fits, slices, rules and comparisons are of one row for each."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.special

import fairweather as fw
from fairweather.errors import InputError
from fairweather.judge.comparison import read_run_comparison
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.runs.folder import RunFolder
from fairweather.types.record import predictions_file
from tests.helpers.reference import aggregated_probability

PART_SIZES = {"test": 90, "val": 60}
KEYS = ["model", "seed", "shift", "level", "unit", "metric"]


def make_images(part, seed, most=6):
    """Images of patients, in a random order; the images of a patient resemble each other."""
    rng, rows = np.random.default_rng(seed), []
    for patient in range(PART_SIZES[part]):
        sick, of_patient = rng.random() < 0.4, rng.normal(0, 0.7)
        site = "AB"[patient % 2]
        for _ in range(rng.integers(1, most)):
            mass = int(sick and rng.random() < 0.8)
            logit = 1.5 * mass - 0.8 + of_patient + rng.normal(0, 0.7)
            rows.append((f"{part}{patient}", site, mass, scipy.special.expit(logit)))
    table = pd.DataFrame(rows, columns=["patient", "site", "label", "Mass"])
    table = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    return table.assign(file=[f"{part}{number:05}.png" for number in range(len(table))])


@pytest.fixture(scope="module")
def tables():
    return {part: make_images(part, seed) for seed, part in enumerate(PART_SIZES)}


def evaluated(tables, folder, out, *, unit="patient", **options):
    """A run of predictions whose truth and metadata are tables in a folder."""
    folder.mkdir(exist_ok=True)
    every = pd.concat(tables.values())
    every[["file", "patient", "site"]].to_csv(folder / "people.csv", index=False)
    every[["file", "label"]].rename(columns={"label": "Mass"}).to_csv(
        folder / "truth.csv", index=False
    )
    predictions = {
        name: tables[part][["file", "Mass"]]
        for name, part in (("net", "test"), ("net-validation", "val"))
        if part in tables
    }
    asked = {"metadata": folder / "people.csv", "key_column": "file", "bootstrap": 100}
    asked |= {"progress": False, "unit": unit, **options}
    return fw.evaluate(
        predictions=predictions, labels=folder / "truth.csv", out=folder / out, **asked
    )


def aggregated_tables(tables, name):
    """One row for each patient, in the order of their first images, made slowly."""
    made = {}
    for part, table in tables.items():
        rows = [
            (patient, own["site"].iloc[0], own["label"].max(),
             aggregated_probability(own["Mass"].tolist(), name))
            for patient, own in table.groupby("patient", sort=False)
        ]  # fmt: skip
        made[part] = pd.DataFrame(rows, columns=["patient", "site", "label", "Mass"])
        made[part]["file"] = [f"{part}{number:05}" for number in range(len(rows))]
    return made


def numbers(run):
    return run.folder.unit_scores.set_index(KEYS)[["value", "low", "high", "n"]]


@pytest.mark.usefixtures("no_figures", "no_page")
@pytest.mark.parametrize("name", ["mean", "max", "any", "noisy-or"])
def test_scores_are_those_of_rows_that_were_aggregated_before(name, tables, tmp_path):
    options = {"variants": ["vector_scaling"], "operating_points": ["Mass=0.3"]}
    run = evaluated(tables, tmp_path / "a", "run", aggregate=(name,), **options)
    rows = aggregated_tables(tables, name)
    before = evaluated(rows, tmp_path / "b", "run", unit=None, metadata=None, **options)
    ours, theirs = numbers(run), numbers(before)
    assert (ours["n"] <= PART_SIZES["test"]).all()
    # Files of predictions have single precision; a table in text has another rounding of it.
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4, atol=1e-6)


def test_one_image_of_each_patient_gives_the_same_scores_as_images(tmp_path):
    tables = {part: make_images(part, seed, most=2) for seed, part in enumerate(PART_SIZES)}
    options = {"variants": ["vector_scaling", "risk_control: {missed: 20%}"]}
    images = evaluated(tables, tmp_path, "images", unit=None, metadata=None, **options)
    for name in ("mean", "max", "noisy-or"):
        run = evaluated(tables, tmp_path, name, aggregate=(name,), **options)
        pd.testing.assert_frame_equal(run.folder.unit_scores, images.folder.unit_scores)


def test_the_order_of_images_changes_no_value(tables, tmp_path):
    mixed = {part: table.sample(frac=1, random_state=5) for part, table in tables.items()}
    runs = [
        evaluated(own, tmp_path / name, "run", aggregate=("noisy-or",), slices=("site",))
        for name, own in (("a", tables), ("b", mixed))
    ]
    ours, theirs = (numbers(run) for run in runs)
    assert ours["value"].to_numpy() == pytest.approx(
        theirs["value"].to_numpy(), rel=1e-5, nan_ok=True
    )


def test_another_aggregate_needs_no_new_predictions(tables, tmp_path):
    folder = evaluated(tables, tmp_path, "run", aggregate=("mean",)).folder
    before = {step.id: step for step in folder.steps()}
    scores = folder.scores
    folder = evaluated(tables, tmp_path, "run", aggregate=("max",)).folder
    after = {step.id: step for step in RunFolder(folder.path).steps()}
    for step in before:
        kept = before[step].fingerprint == after[step].fingerprint
        assert kept == step.startswith(("predictions", "groups")), step
    assert not scores.equals(folder.scores)


def test_stored_predictions_are_of_images_and_read_as_patients(tables, tmp_path):
    folder = evaluated(tables, tmp_path, "run").folder
    file = predictions_file("net", 0, "clean")
    assert len(folder.read_images(file)) == len(tables["test"])
    rows = folder.read_cell(file)
    assert rows.keys.tolist() == list(range(PART_SIZES["test"]))
    assert len(folder.read_column(file, "labels")) == PART_SIZES["test"]
    assert folder.groups() is not None
    assert folder.groups().numbers is None


def test_the_aggregate_that_fits_validation_patients_best_is_chosen(tables, tmp_path):
    folder = evaluated(tables, tmp_path, "run", aggregate=("auto",)).folder
    losses = {}
    for name in ("mean", "max", "noisy-or"):
        rows = aggregated_tables(tables, name)["val"]
        right = np.where(rows["label"] == 1, rows["Mass"], 1 - rows["Mass"])
        losses[name] = -np.log(right).mean()
    chosen = folder.choose_aggregate("net", 0)
    assert chosen.name == min(losses, key=losses.get)
    # Logits are stored in single precision.
    assert chosen.losses == pytest.approx(losses, rel=1e-5)
    alone = evaluated(tables, tmp_path, "alone", aggregate=(chosen.name,)).folder
    pd.testing.assert_frame_equal(folder.unit_scores, alone.unit_scores)


def test_slices_rules_and_comparisons_are_of_patients(tables, tmp_path):
    run = evaluated(tables, tmp_path, "run", slices=("site",), aggregate=("max",))
    sizes = run.folder.slice_scores.query("unit == 'finding=Mass' and metric == 'auc'")
    assert sizes["n"].tolist()[:2] == [PART_SIZES["test"] / 2] * 2
    verdicts = judge(run.folder, read_rules(["auc[clean] >= 0.5"]))
    assert [verdict.n for verdict in verdicts] == [PART_SIZES["test"]]
    shifted = {part: own.assign(Mass=own["Mass"] ** 2) for part, own in tables.items()}
    other = evaluated(shifted, tmp_path / "b", "run", aggregate=("max",))
    comparison = read_run_comparison(run.path, other.path)
    assert f"on the same {PART_SIZES['test']} test" in comparison.caption


def test_a_study_with_unknown_labels_is_known_if_an_image_has_the_finding(tables, tmp_path):
    unknown = {part: own.copy() for part, own in tables.items()}
    own = unknown["test"]
    own.loc[own.index[::3], "label"] = -1
    rows = evaluated(unknown, tmp_path, "run").folder.read_cell(predictions_file("net", 0, "clean"))
    expected = [
        1 if 1 in group else -1 if -1 in group else 0
        for group in (set(group["label"]) for _, group in own.groupby("patient", sort=False))
    ]
    assert rows.labels[:, 0].tolist() == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregate": ("maxx",)}, "max"),
        ({"aggregate": ("max", "max")}, "each way once"),
        ({"aggregate": ("max", "auto")}, "each way once"),
        ({"unit": None, "aggregate": ("max",)}, "name the unit"),
        ({"unit": "study"}, "study"),
        ({"group": "site"}, "the same column"),
        ({"metadata": None}, "unknown column of truth.csv 'patient'"),
    ],
)
def test_a_wrong_request_is_refused_in_one_sentence(options, message, tables, tmp_path):
    with pytest.raises(InputError, match=message):
        evaluated(tables, tmp_path, "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_slice_must_have_whole_patients(tables, tmp_path):
    split = {part: own.copy() for part, own in tables.items()}
    split["test"]["site"] = np.where(np.arange(len(split["test"])) % 2, "A", "B")
    with pytest.raises(InputError, match="of 90 patients differ in site"):
        evaluated(split, tmp_path, "run", slices=("site",))


def test_a_choice_needs_validation_patients(tables, tmp_path):
    with pytest.raises(InputError, match="name one, such as aggregate mean"):
        evaluated({"test": tables["test"]}, tmp_path, "run", aggregate=("auto",))


def test_the_lines_count_patients_and_differing_labels(tables, tmp_path, capsys):
    evaluated(tables, tmp_path, "run", progress=True, aggregate=("max",))
    said = capsys.readouterr()
    text = said.out + said.err
    differing = sum(own["label"].nunique() > 1 for _, own in tables["test"].groupby("patient"))
    assert f"differ in {differing} patients: a patient has a finding if one of the images" in text
    assert "n = 90 patients" in text
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["settings"]["unit"], record["settings"]["aggregates"]) == ("patient", ["max"])


def test_the_page_counts_patients(tables, tmp_path):
    run = evaluated(tables, tmp_path, "run", aggregate=("auto",), variants=["vector_scaling"])
    page = run.report().read_text()
    for counted in ("intervals over patients", "90 test patients", "Of the patients where"):
        assert counted in page
    for counted in ("over images", "test images, 100 resamples", "Of the images", "each image"):
        assert counted not in page
    table = pd.read_csv(run.path / "tables" / "aggregates.csv")
    chosen = run.folder.choose_aggregate("net", 0)
    assert table["aggregate"].tolist() == [chosen.name]
    assert table[[f"nll/{name}" for name in chosen.losses]].iloc[0].tolist() == pytest.approx(
        [*chosen.losses.values()], rel=1e-7
    )


def test_the_page_of_images_has_no_word_of_patients(tables, tmp_path):
    page = evaluated(tables, tmp_path, "run", unit=None, metadata=None).report().read_text()
    assert "over patients" not in page
    assert "over images" in page


def test_a_reader_calls_a_patient_who_calls_an_image(tables, tmp_path):
    rng, test = np.random.default_rng(8), tables["test"]
    calls = test[["file"]].assign(
        Mass=rng.integers(0, 2, len(test)) * rng.integers(0, 2, len(test))
    )
    seen = calls[rng.random(len(test)) < 0.8]
    seen.to_csv(tmp_path / "ann.csv", index=False)
    readers = evaluated(tables, tmp_path, "run", readers=(tmp_path / "ann.csv",)).folder.readers
    by_file = dict(seen.to_numpy().tolist())
    expected = []
    for _, own in test.groupby("patient", sort=False):
        called = {by_file.get(file, -1) for file in own["file"]}
        expected.append(max(called))
    assert readers.calls[:, 0, 0].tolist() == expected
    assert readers.keys.tolist() == list(range(PART_SIZES["test"]))


def test_a_prevalence_that_is_not_stated_is_that_of_patients(tmp_path):
    rng, sizes = np.random.default_rng(1), np.repeat([1, 4], 30)
    patient = np.repeat(np.arange(60), sizes)
    table = pd.DataFrame({"key": np.arange(len(patient)), "patient": patient})
    # The patients with one image have it more often.
    table["Effusion"] = np.where(patient % 2 == 0, sizes[patient] == 1, 0)
    table["Mass"] = (patient % 3 == 0).astype(int)
    truth = tmp_path / "truth.csv"
    table.to_csv(truth, index=False)
    scores = table[["key"]].assign(
        **{name: rng.random(len(table)) for name in ("Effusion", "Mass")}
    )
    run = fw.evaluate(
        predictions={"net": scores},
        labels=truth,
        metadata=truth,
        key_column="key",
        findings=("Effusion", "Mass"),
        unit="patient",
        priors={"ward": {"Mass": 0.01}},
        bootstrap=100,
        out=tmp_path / "run",
        progress=False,
    )
    assert run.record.priors["ward"] == pytest.approx((15 / 60, 0.01))


def test_the_page_tells_patients_from_their_images(tables, tmp_path):
    page = (evaluated(tables, tmp_path, "run").path / "report.html").read_text(encoding="utf-8")
    assert "Each patient is judged once, by its images together, and counts once." in page
    assert "A picture shows the image of a patient that decides most." in page
