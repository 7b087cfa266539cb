"""Patients, sites and subgroups: from a table of metadata to scores, slices, report and rules."""

import dataclasses
import io
import json
import re
from itertools import chain, combinations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import fairweather as fw
from fairweather.data.groups import group_rows, read_text_table
from fairweather.data.splits import Purpose, choose_groups
from fairweather.errors import InputError
from fairweather.judge.comparison import read_run_comparison
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge, summarize_verdicts
from fairweather.report.joint_runs import read_runs
from fairweather.report.slices import SliceRow
from fairweather.report.slices import _describe_differences as found_in
from fairweather.requests.execution import clean_accuracy_lines
from fairweather.requests.study.run import data_sources
from fairweather.requests.study.schema import check_study
from fairweather.runs.folder import RunFolder
from fairweather.runs.scores import read_grouping
from fairweather.types.measurement import Dataset, Groups, Images, Score
from fairweather.types.options import GroupColumns, order_of_value
from tests.conftest import keep_lines
from tests.helpers.run_folders import copy_run

pytestmark = pytest.mark.usefixtures("undrawn")

CLASSES = ("benign", "malignant")


class Brightness(torch.nn.Module):
    """Bright images are malignant: right for most images, and without any training."""

    def forward(self, images):
        excess = 8 * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-excess, excess], dim=1)


def patients_dataset(patients=24, each=5, seed=0):
    """Images of patients of three sites; at site C, images are darker than their class says."""
    generator = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), each)
    labels = (patient // 3) % 2
    site = np.array(list("ABC"), dtype=object)[patient % 3]
    sex = np.array(["F", "M"], dtype=object)[(patient // 2) % 2]
    mean = 128 + 30 * (2 * labels - 1) + generator.normal(0, 25, patients)[patient]
    mean = mean - 35 * (site == "C") + generator.normal(0, 10, len(patient))
    pixels = np.clip(mean, 0, 255)[:, None, None, None].repeat(3, 1).repeat(8, 2).repeat(8, 3)
    keys = np.array([f"key-of-patient-{p}" for p in patient], dtype=object)
    groups = Groups("patient", keys, {"site": site, "site*sex": site + "*" + sex})
    test = Images(
        torch.from_numpy(pixels.astype(np.uint8)),
        torch.from_numpy(labels),
        torch.arange(len(labels)),
        CLASSES,
        groups=groups,
    )
    return Dataset("patients", None, None, test, (0.5,) * 3, (0.2,) * 3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("groups") / "run"
    shifts = "brightness_factor: [0.8, 1.2]"
    return fw.evaluate(
        Brightness(), patients_dataset(), shifts, out=out, bootstrap=200, device="cpu", threads=1
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The clean images of the run, of which nobody says which belong together."""
    data = patients_dataset()
    images = Images(*(getattr(data.test, name) for name in FIELDS))
    plain = dataclasses.replace(data, test=images)
    out = tmp_path_factory.mktemp("groups") / "alone"
    options = {"bootstrap": 200, "device": "cpu", "threads": 1}
    return fw.evaluate(Brightness(), plain, "clean", out=out, **options)


def test_runs_of_other_groups_are_not_joined(run, alone):
    pair = [RunFolder(run.path), RunFolder(alone.path)]
    with pytest.raises(InputError, match=r"run has 24, alone has none; measure all with the same"):
        read_runs(pair)


def test_scores_count_groups_and_their_intervals_are_wider(run, alone):
    with_groups, without = (
        each.scores.query("shift == 'clean' and metric == 'accuracy'").squeeze()
        for each in (run, alone)
    )
    assert with_groups["value"] == without["value"]
    assert with_groups["groups"] == 24
    assert "groups" not in alone.scores
    widths = [each["high"] - each["low"] for each in (with_groups, without)]
    assert widths[0] > 1.3 * widths[1]


FIELDS = ("images", "labels", "keys", "classes")


def test_slices_are_the_metrics_of_their_images(run):
    folder = RunFolder(run.path)
    table = folder.slice_scores
    data = patients_dataset().test
    model = table["model"].iloc[0]
    clean = folder.read_predictions(folder.predictions(model, 0, "clean"))
    for column, values in data.groups.slices.items():
        for value in set(values):
            at = values == value
            rows = table[(table["slice"] == f"{column}={value}") & (table["shift"] == "clean")]
            found = rows.set_index("metric").loc["accuracy"]
            assert found["value"] == pytest.approx(clean.correct[at].mean(), abs=1e-8)
            assert found["n"] == at.sum()
            assert found["groups"] == len(set(data.groups.names[at]))
    nll = clean.nll[data.groups.slices["site"] == "B"].mean()
    rows = table[(table["slice"] == "site=B") & (table["metric"] == "negative_log_likelihood")]
    assert rows[rows["shift"] == "clean"]["value"].item() == pytest.approx(nll, rel=1e-6)


def test_the_worst_slice_has_the_worst_value_and_an_interval_for_the_worst_truth(run):
    table = RunFolder(run.path).slice_scores
    accuracy = table[(table["shift"] == "clean") & (table["metric"] == "accuracy")]
    sites = accuracy[accuracy["slice"].str.startswith("site=")]
    worst = accuracy[accuracy["slice"] == "worst site"].iloc[0]
    assert worst["value"] == sites["value"].min()
    # Wider than each by itself, since all hold together.
    assert worst["low"] == sites["low"].min()
    assert worst["high"] > sites["high"].min()
    error = table[(table["shift"] == "clean") & (table["metric"] == "rms_calibration_error")]
    errors = error[error["slice"].str.startswith("site=")]
    assert error[error["slice"] == "worst site"]["value"].item() == errors["value"].max()


def test_a_slice_of_one_patient_leaves_the_worst_without_an_interval(tmp_path):
    """Nothing is known of other patients there, however bad this one is."""
    data = patients_dataset()
    site = data.test.groups.slices["site"].copy()
    site[:5] = "D"  # the first patient
    groups = Groups("patient", data.test.groups.names, {"site": site})
    test = dataclasses.replace(data.test, groups=groups)
    dark = Dataset("patients", None, None, test, data.mean, data.std)
    alone = fw.evaluate(
        Brightness(), dark, "clean", out=tmp_path / "r", bootstrap=100, device="cpu", threads=1
    )
    table = RunFolder(alone.path).slice_scores
    accuracy = table[table["metric"] == "accuracy"].set_index("slice")
    sites = accuracy[accuracy.index.str.startswith("site=")]
    assert np.isnan(accuracy.loc["site=D"]["low"])
    assert accuracy.loc["worst site"]["value"] == sites["value"].min()
    assert np.isnan(accuracy.loc["worst site"]["low"])
    for of in ("worst site", "site=D"):
        with pytest.raises(InputError, match="all images of site=D belong to one group"):
            judged(alone, f"accuracy[clean|{of}] >= 0.1")


def test_two_models_are_compared_over_patients_in_every_table(tmp_path):
    """Sensitivities and effective robustness too; the accuracies are near 1."""
    data = patients_dataset()
    easy = data.test.labels[:, None, None, None].expand_as(data.test.images) * 200 + 20
    images = easy.to(torch.uint8).clone()
    images[:2] = 255 - images[:2]
    test = dataclasses.replace(data.test, images=images)
    clinic = Dataset("patients", None, None, test, data.mean, data.std)
    shifts = "brightness_factor: [0.8]"
    run = fw.evaluate(Brightness(), clinic, shifts, out=tmp_path / "a", bootstrap=100, device="cpu")
    found = read_run_comparison(run.path, copy_run(run, tmp_path / "b").path)
    assert "in 24 groups" in found.caption
    assert "over groups" in found.classes.below[0]


def test_the_table_of_slices_tests_each_against_the_others_and_corrects(run, draw):
    draw(run, figures=False)
    table = pd.read_csv(run.path / "tables" / "slices_site.csv")
    assert table["slice"].tolist() == ["site=A", "site=B", "site=C", "worst site"]
    data, folder = patients_dataset().test, RunFolder(run.path)
    clean = folder.read_predictions(folder.predictions(table["model"][0], 0, "clean"))
    site = data.groups.slices["site"]
    for _, row in table.iloc[:3].iterrows():
        inside = site == row["slice"].removeprefix("site=")
        gap = clean.correct[inside].mean() - clean.correct[~inside].mean()
        assert row["difference"] == pytest.approx(gap, abs=1e-8)
        assert row["difference low"] <= gap <= row["difference high"]
    assert table["p_holm"].iloc[:3].between(0, 1).all()
    assert np.isnan(table["p_holm"].iloc[3])
    page = (run.path / "report.html").read_text()
    assert 'data-copy="slices_site_and_sex"' in page
    assert "Groups (patient)" in page
    lowest = table.iloc[:3].set_index("slice")["clean accuracy low"]
    assert not (table["p_holm"] < 0.05).any()  # 8 of 24 patients show little
    gaps = table.iloc[:3].set_index("slice")["difference"]
    ((most, gap, said),) = re.findall(
        r"<caption>(site=\w+) differs most \((.*?) points\), "
        r"and the tests cannot confirm that\.(.*?)The",
        page,
    )
    assert most == gaps.abs().idxmax()
    assert float(gap.replace("−", "-")) == pytest.approx(100 * gaps[most], abs=0.06)
    assert f"8 groups, clean accuracy on {lowest.idxmin()} may be as low" in said
    assert f"{100 * lowest.min():.1f} %" in said
    assert "worst site" in page


@pytest.mark.parametrize(
    ("p", "count", "words"),
    [
        (0.01, 30, "Clean accuracy differs from that of the other images: site=B (−20.0 points)."),
        (0.2, 30, "With 30 groups, clean accuracy on site=B may be as low as 60.0 %."),
        (0.2, None, "With 90 images, clean accuracy on site=B may be as low as 60.0 %."),
    ],
)
def test_a_table_of_slices_begins_with_what_it_shows(p, count, words):
    good, bad, gap = (
        Score(0.9, 0.8, 0.95, 90),
        Score(0.7, 0.6, 0.8, 90),
        Score(-0.2, -0.3, -0.1, 90),
    )
    rows = [
        SliceRow("m", "M", "site=A", 90, count, (good,), None, np.nan),
        SliceRow("m", "M", "site=B", 90, count, (bad,), gap, p),
        SliceRow("m", "M", "worst site", 90, None, (bad._replace(low=0.5),), None, np.nan),
    ]
    assert found_in(rows).startswith(words) if p > 0.05 else found_in(rows).endswith(words)
    same = rows[1]._replace(slice="site=C", difference=gap._replace(value=-0.0004), p=0.9)
    said = found_in([*rows, same])
    assert said.endswith(words)
    # Of a difference that is written as 0.0 points, nothing is told.
    flat = [row._replace(difference=same.difference) if row is rows[1] else row for row in rows]
    assert "differs most" not in found_in([*flat, same])
    unsure = "site=B differs most (−20.0 points), and the tests cannot confirm that. "
    assert said.startswith(unsure) == (p > 0.05)
    alone = SliceRow("m", "M", "site=C", 9, 1, (Score(0.2, np.nan, np.nan, 9),), None, np.nan)
    if p > 0.05:
        told = found_in([*rows, alone])
        assert told.endswith(f"{words} Nothing is known of site=C, of one group each.")


def test_no_file_of_a_run_has_the_key_of_a_patient(run):
    run.report()
    files = [path for path in run.path.rglob("*") if path.is_file()]
    assert any(path.name == "test.parquet" for path in files)
    for path in files:
        assert b"key-of-patient" not in path.read_bytes(), path


# ---------------------------------------------------------------- the table


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 40 photographs of 10 patients, and what is known of them."""
    folder = tmp_path_factory.mktemp("photos")
    rows = []
    for patient in range(10):
        for number in range(4):
            name = CLASSES[(patient + number) % 2]
            file = folder / "all" / name / f"{patient}{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (patient * 20, number * 60, 90)).save(file)
            rows.append((f"{name}/{file.name}", f"P{patient}", "AB"[patient % 2]))
    return folder, pd.DataFrame(rows, columns=["file", "patient", "site"])


def load(photos, table, tmp_path, name="table.csv", **options):
    path = tmp_path / name
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    asked = {"group": "patient", "slices": ("site",)} | options.pop("asked", {})
    columns = GroupColumns(str(path), **asked)
    return fw.load_data(f"folder:{photos[0] / 'all'}", groups=columns, **options)


def patients_of(images):
    return set(images.groups.names)


def test_a_set_without_splits_is_split_by_patients(photos, tmp_path):
    data = load(photos, photos[1], tmp_path, test_fraction=0.3, validation_fraction=0.3)
    parts = [data.train, data.val, data.test]
    assert sum(map(len, parts)) == 40
    assert sum(len(patients_of(part)) for part in parts) == 10
    assert all(set(part.labels.tolist()) == {0, 1} for part in parts)
    again = load(photos, photos[1], tmp_path, test_fraction=0.3, validation_fraction=0.3)
    assert again.test.keys.tolist() == data.test.keys.tolist()
    expected = dict(zip(photos[1]["file"], photos[1]["patient"], strict=True))
    for name, patient in zip(data.test.names, data.test.groups.names, strict=True):
        assert expected[name] == patient


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("table.csv", 'file,"site (1: north; 2: south; 3: east)"\n1.png,2\n'),
        ("table.csv", '"a ""b"";c;d",file\n2,1.png\n'),
        ("table.tsv", "file\tsite, ward, bed\n1.png\t2\n"),
    ],
)
def test_marks_in_the_name_of_a_column_do_not_separate_columns(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    table = read_text_table(tmp_path / name)
    assert table.shape == (1, 2)
    assert table["file"].tolist() == ["1.png"]


@pytest.mark.parametrize("name", ["table.csv", "table.tsv", "semicolons.csv", "table.parquet"])
def test_kinds_of_tables(photos, tmp_path, name):
    if delimiter := {"table.tsv": "\t", "semicolons.csv": ";"}.get(name):
        photos[1].to_csv(tmp_path / name, index=False, sep=delimiter)
        assert read_text_table(tmp_path / name).equals(photos[1])
        return
    data = load(photos, photos[1], tmp_path, name)
    assert len(patients_of(data.test)) == 2


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.rpartition("/")[2],
        lambda name: name.rpartition("/")[2].removesuffix(".png"),
        lambda name: name.replace("/", "\\"),
    ],
    ids=["name alone", "without ending", "backslashes"],
)
def test_files_may_be_named_shortly_if_that_is_unambiguous(photos, tmp_path, rename):
    table = photos[1].assign(Filename=photos[1]["file"].map(rename)).drop(columns="file")
    data = load(photos, table, tmp_path, test_fraction=1)
    assert len(patients_of(data.test)) == 10


def test_rows_by_key(photos, tmp_path):
    full = load(photos, photos[1], tmp_path, test_fraction=1).test
    keyed = pd.DataFrame(
        {"key": full.keys.numpy(), "patient": full.groups.names, "site": "A"}
    ).sample(frac=1, random_state=0)
    data = load(photos, keyed, tmp_path, "keys.csv", test_fraction=1)
    assert data.test.groups.names.tolist() == full.groups.names.tolist()


def test_a_table_of_the_whole_folder_fits_a_part_of_it(photos, tmp_path):
    """train/benign/00.png and test/benign/00.png are two images with the same end."""
    other = photos[1].assign(file="other/" + photos[1]["file"], patient="X")
    table = pd.concat([other, photos[1].assign(file="all/" + photos[1]["file"])])
    data = load(photos, table, tmp_path, test_fraction=1)
    assert len(patients_of(data.test)) == 10


def test_blanks_around_a_key_make_no_other_patient(photos, tmp_path):
    table = photos[1].assign(patient=["a", " a", "b ", "b"] * 10)
    assert patients_of(load(photos, table, tmp_path, test_fraction=1).test) == {"a", "b"}


def test_columns_of_a_parquet_set_itself(tmp_path):
    cells = []
    for number in range(20):
        content = io.BytesIO()
        Image.new("RGB", (8, 8), (number * 12, 90, 90)).save(content, "PNG")
        cells.append({"bytes": content.getvalue(), "path": f"{number}.png"})
    table = pa.table(
        {
            "image": cells,
            "label": [number % 2 for number in range(20)],
            "patient": [number // 4 for number in range(20)],
            "site": ["A", None] * 10,
        }
    )
    pq.write_table(table, tmp_path / "eyes.parquet")
    source = f"parquet:{tmp_path / 'eyes.parquet'}"
    asked = GroupColumns(group="patient", slices=("site",))
    test = fw.load_data(source, groups=asked, test_fraction=1).test
    assert test.groups.names.tolist() == [str(number // 4) for number in range(20)]
    assert set(test.groups.slices["site"]) == {"A", "missing"}
    with pytest.raises(InputError, match="did you mean 'patient'"):
        fw.load_data(source, groups=asked._replace(group="pateint"))


def test_a_folder_has_no_columns_of_its_own(photos):
    with pytest.raises(InputError, match="has no columns of its own"):
        fw.load_data(f"folder:{photos[0] / 'all'}", groups=GroupColumns(group="patient"))


def test_crossed_slices_and_missing_values(photos, tmp_path):
    table = photos[1].assign(sex=["F", ""] * 20)
    asked = {"slices": ("site", "site * sex")}
    data = load(photos, table, tmp_path, asked=asked, test_fraction=1)
    crossed = data.test.groups.slices["site*sex"]
    assert set(crossed) == {"A*F", "A*missing", "B*F", "B*missing"}


def without(table, column, value):
    return table[table[column] != value]


@pytest.mark.parametrize(
    ("change", "asked", "message"),
    [
        (lambda t: without(t, "patient", "P3"), {}, "no row for 4 of 40 images, such as "),
        (lambda t: t.assign(patient=""), {}, "no patient for 40 of 40 images"),
        (lambda t: pd.concat([t, t.assign(site="C")]), {}, "several rows that differ for 40 of 40"),
        (lambda t: t.drop(columns="file"), {}, "says which image a row is about: file or key"),
        (lambda t: t, {"group": "pateint"}, "did you mean 'patient'"),
        (lambda t: t, {"slices": ("site", "site")}, "the slice site is asked for twice"),
        (
            lambda t: t.assign(Site="x"),
            {"slices": ("site", "Site")},
            "'site' and 'Site' differ only",
        ),
        (lambda t: t, {"slices": ("site*patient",)}, "would write the values of patient"),
        (lambda t: t.assign(**{"class": "x"}), {"slices": ("class",)}, "cannot be called class"),
        (lambda t: t, {"group": None, "slices": ()}, "none of the columns is asked for"),
        (lambda t: t.assign(site="a\x1bb"), {}, "value that cannot be used"),
        (lambda t: t.drop(columns="file").assign(key="x"), {}, "must be a whole number from 0 on"),
        (lambda t: t.drop(columns="file").assign(key=0), {}, "several rows that differ for 1 of 1"),
    ],
)
def test_wrong_tables_are_refused_in_one_sentence(photos, tmp_path, change, asked, message):
    with pytest.raises(InputError, match=message) as caught:
        load(photos, change(photos[1]), tmp_path, asked=asked)
    assert "\n" not in str(caught.value)


def test_no_table_at_all(photos, tmp_path):
    (tmp_path / "table.parquet").write_bytes(b"PAR1 no")
    columns = GroupColumns(str(tmp_path / "table.parquet"), "patient")
    with pytest.raises(InputError, match="cannot be read as a parquet file"):
        fw.load_data(f"folder:{photos[0] / 'all'}", groups=columns)
    with pytest.raises(InputError, match="there is no file or folder"):
        fw.load_data(f"folder:{photos[0] / 'all'}", groups=columns._replace(metadata="x.csv"))


def test_patients_on_both_sides_are_refused_unless_allowed(photos, tmp_path):
    root, rows = tmp_path / "split", []
    for at, (file, patient, _) in enumerate(photos[1].itertuples(index=False)):
        split = "test" if at % 4 > 1 else "train"
        target = root / split / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((photos[0] / "all" / file).read_bytes())
        rows.append((f"{split}/{file}", patient))
    pd.DataFrame(rows, columns=["file", "patient"]).to_csv(tmp_path / "t.csv", index=False)
    columns = GroupColumns(str(tmp_path / "t.csv"), "patient")
    with pytest.raises(InputError) as caught:
        fw.load_data(f"folder:{root}", groups=columns, validation_fraction=0)
    assert "10 of 10 values of patient have images in" in str(caught.value)
    assert "P0" not in str(caught.value)
    allowed = columns._replace(allow_shared=True)
    assert len(fw.load_data(f"folder:{root}", groups=allowed).test) == 20
    # Nothing is trained here. But a model may have been trained on these images.
    (told,) = load_tested(root, columns).notes["shared_groups"]
    assert "10 of 10 values of patient have images in train and in test" in told
    # As `evaluate` loads them; validation images are cut from the training images, if at all.
    for fraction in (0.0, 0.3):
        options = {"parts": ("val", "test"), "validation_fraction": fraction}
        told = fw.load_data(f"folder:{root}", groups=allowed, **options).notes["shared_groups"]
        assert any("have images in train and in test" in line for line in told)


def load_tested(root, columns, lines=None, **options):
    """Load the test images alone, and keep what is said."""
    progress = keep_lines([] if lines is None else lines)
    return fw.load_data(
        f"folder:{root}", groups=columns, parts=("test",), progress=progress, **options
    )


def write_apart(root, train, test):
    """Images of two classes, of one patient for each class and split, and their table."""
    rows = []
    for split, patients, seed in (("train", train, 0), ("test", test, 1)):
        generator = np.random.default_rng(seed)
        for name, patient in zip("ab", patients, strict=True):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
                rows.append((f"{split}/{name}/{number}.png", patient))
    return pd.DataFrame(rows, columns=["file", "patient"])


def test_patients_of_training_images_are_not_mixed_up_with_others(tmp_path):
    table = write_apart(tmp_path / "x", train=("P1", "P2"), test=("P3", "P4"))
    columns, lines = GroupColumns(str(tmp_path / "t.csv"), "patient"), []
    # Training images need not be such that validation images could be cut from them.
    table.to_csv(tmp_path / "t.csv", index=False)
    assert "shared_groups" not in load_tested(tmp_path / "x", columns, lines).notes
    assert lines == []
    # A table of the test images alone, whose short names could be those of training images too.
    of_test = table[table["file"].str.startswith("test")]
    of_test.assign(file=of_test["file"].str[5:]).to_csv(tmp_path / "t.csv", index=False)
    assert "shared_groups" not in load_tested(tmp_path / "x", columns, lines).notes
    assert "cannot be used" in lines[0]
    assert "trained on images of the same groups" in lines[0]


def test_a_fault_in_the_rows_of_training_images_is_told(tmp_path):
    table = write_apart(tmp_path / "x", train=("P1", "P2"), test=("P1", "P2"))
    columns, lines = GroupColumns(str(tmp_path / "t.csv"), "patient"), []
    table.to_csv(tmp_path / "t.csv", index=False)
    load_tested(tmp_path / "x", columns, lines)
    assert "2 of 2 values of patient have images in train and in test" in lines[0]
    table.loc[0, "patient"] = ""
    table.to_csv(tmp_path / "t.csv", index=False)
    lines.clear()
    load_tested(tmp_path / "x", columns, lines)
    (line,) = lines
    assert "has no patient for" in line


def test_a_source_without_training_images_says_that_they_are_not_known(tmp_path):
    table = write_apart(tmp_path / "x", train=("P1", "P2"), test=("P3", "P4"))
    table.to_csv(tmp_path / "t.csv", index=False)
    columns, lines = GroupColumns(str(tmp_path / "t.csv"), "patient"), []
    load_tested(tmp_path / "x" / "test", columns, lines, test_fraction=1)
    assert ["no training images" in line for line in lines] == [True]


# ---------------------------------------------------------------- splitting by groups


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_class_is_lost_when_groups_change_sides(seed):
    """Small random sets, in which each class has at least two groups."""
    generator = np.random.default_rng(seed)
    size, classes, groups = generator.integers((6, 2, 3), (14, 4, 6))
    labels, grouping = generator.integers(0, classes, size), generator.integers(0, groups, size)
    assume(all(len(set(grouping[labels == label])) > 1 for label in range(classes)))
    names = tuple("abcd"[:classes])
    try:
        chosen = choose_groups(labels, grouping.astype(str), names, 0.3, 0, Purpose.TEST)
    except InputError:
        # Only if no choice of groups at all has every class on both sides.
        every = [np.isin(grouping, of) for of in map(list, powerset(np.unique(grouping)))]
        assert not any(
            len(set(labels[each])) == len(set(labels[~each])) == classes for each in every
        )
        return
    assert set(labels[chosen]) == set(labels[~chosen]) == set(range(classes))
    assert not set(grouping[chosen]) & set(grouping[~chosen])


def powerset(items):
    return chain.from_iterable(combinations(items, count) for count in range(len(items) + 1))


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_set_apart_whole_with_about_the_share_of_each_class(seed):
    generator = np.random.default_rng(seed)
    grouping = generator.integers(0, 60, 600).astype(str).astype(object)
    labels = generator.integers(0, 3, 600)
    chosen = choose_groups(labels, grouping, ("a", "b", "c"), 0.25, seed, Purpose.TEST)
    assert not set(grouping[chosen]) & set(grouping[~chosen])
    for label in range(3):
        # No group has more than a few images of a class, so no sum is far off.
        largest = max(np.bincount(labels[grouping == c], minlength=3).max() for c in set(grouping))
        assert abs((labels[chosen] == label).sum() - 0.25 * (labels == label).sum()) <= 3 * largest


def test_every_class_is_on_both_sides_however_rare():
    labels = np.array([0] * 50 + [1, 1])
    grouping = np.array([f"p{i // 5}" for i in range(50)] + ["p0", "p9"], dtype=object)
    for seed in range(10):
        chosen = choose_groups(labels, grouping, ("common", "rare"), 0.2, seed, Purpose.TEST)
        assert set(labels[chosen]) == set(labels[~chosen]) == {0, 1}


def test_a_class_of_one_patient_cannot_be_split():
    labels, grouping = np.array([0, 0, 1, 1]), np.array(list("abcc"), dtype=object)
    with pytest.raises(InputError, match="all images of class 'rare' belong together"):
        choose_groups(labels, grouping, ("common", "rare"), 0.5, 0, Purpose.TEST)


# ---------------------------------------------------------------- rules


def judged(run, *rules, **options):
    return judge(RunFolder(run.path), read_rules(rules), **options)


def test_rules_about_a_slice_and_about_the_worst(run):
    table = RunFolder(run.path).slice_scores
    accuracy = table[(table["shift"] == "clean") & (table["metric"] == "accuracy")]
    expected = accuracy.set_index("slice")
    for of in ("site=B", "worst site", "site*sex=A*F"):
        (verdict,) = judged(run, f"accuracy[clean|{of}] >= 0.1", on="value")
        assert verdict.value == pytest.approx(expected.loc[of]["value"])
        assert verdict.low == pytest.approx(expected.loc[of]["low"], abs=1e-8)
        assert f"accuracy[clean|{of}]" in verdict.name
    (verdict,) = judged(run, "accuracy[brightness_factor|worst site] >= 0.99")
    assert not verdict.passed


def test_a_drop_in_a_slice_is_of_its_own_images(run):
    folder, data = RunFolder(run.path), patients_dataset().test
    (verdict,) = judged(run, "accuracy[brightness_factor=0.8|site=A] drop <= 100%")
    at = data.groups.slices["site"] == "A"
    names = ("clean", "brightness_factor,factor=0.8")
    clean, dark = (
        folder.read_predictions(folder.predictions(verdict.model, 0, name)).correct[at].mean()
        for name in names
    )
    assert verdict.value == pytest.approx(clean - dark)
    assert verdict.n == at.sum()


def test_clean_accuracy_is_told_with_what_counts_alike(run):
    folder = RunFolder(run.path)
    file = folder.predictions(next(iter(folder.record.models)), 0, "clean")
    line, *_ = clean_accuracy_lines(folder, file, "", grouping=read_grouping(folder))
    assert " in 24 groups; images count equally" in line


def test_verdicts_say_how_many_groups_their_images_come_in(run):
    counts = {"the test set": 24, "site=A": 8, "site=B": 8, "site=C": 8}
    verdicts = judged(run, "accuracy[clean] >= 0.1", "accuracy[clean|worst site] >= 0.1")
    assert [verdict.groups for verdict in verdicts] == [
        {"the test set": 24},
        {name: count for name, count in counts.items() if name != "the test set"},
    ]
    said = "24 in the test set, 8 in site=A, 8 in site=B, 8 in site=C"
    assert summarize_verdicts(verdicts).endswith(
        f"; images count equally, and belong to groups: {said}"
    )


def test_each_class_has_its_numbers_in_each_slice_of_clean_images(run):
    folder, data = RunFolder(run.path), patients_dataset().test
    rows = folder.slice_scores
    found = rows[rows["metric"] == f"sensitivity/{CLASSES[1]}"].set_index("slice")
    assert set(found["shift"]) == {"clean"}
    assert set(found.index) == {*rows["slice"]}
    predictions = folder.read_predictions(folder.predictions(found["model"].iloc[0], 0, "clean"))
    for site in "ABC":
        mine = (data.groups.slices["site"] == site) & (predictions.labels == 1)
        assert found.loc[f"site={site}"]["value"] == pytest.approx(predictions.correct[mine].mean())
        assert found.loc[f"site={site}"]["n"] == mine.sum()
        assert found.loc[f"site={site}"]["groups"] == 8
    values = found.loc[["site=A", "site=B", "site=C"]]["value"]
    assert found.loc["worst site"]["value"] == values.min()
    for of in ("site=C", "worst site", "site*sex=A*F"):
        rule = f"sensitivity[clean|class={CLASSES[1]}|{of}] >= 0.1"
        (verdict,) = judged(run, rule, on="value")
        assert verdict.value == pytest.approx(found.loc[of]["value"])
        assert verdict.low == pytest.approx(found.loc[of]["low"], nan_ok=True)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("accuracy[clean|site=D] >= 0.1", "unknown slice 'site=D'"),
        ("accuracy[clean|worst hospital] >= 0.1", "unknown slice 'worst hospital'"),
        ("sensitivity[clean|site=A] >= 0.1", "sensitivity[clean|class=NAME|site=A]"),
        ("sensitivity[clean|class=d|site=A] >= 0.1", "unknown class 'd'"),
        ("sensitivity[clean|class=|site=A] >= 0.1", "text behind |"),
        ("sensitivity[clean|class=benign|site] >= 0.1", "text behind class=benign|"),
        ("sensitivity[clean|site=A|class=benign] >= 0.1", "clean|class=benign|site=A]"),
        ("sensitivity[clean|class=benign|class=malignant] >= 0.1", "names two"),
        ("accuracy[natural/b|site=A] >= 0.1", "slices are subgroups of the test images"),
        ("accuracy[clean|class=benign|site=A] >= 0.1", "unknown metric of a class 'accuracy'"),
        ("sensitivity[clean|class=benign|site=D] >= 0.1", "unknown slice 'site=D'"),
        ("sensitivity[brightness_factor|class=benign|site=A] >= 0.1", "it is available for clean"),
        ("accuracy[clean|site] >= 0.1", "text behind |"),
        ("accuracy[clean|site=] >= 0.1", "text behind |"),
        ("accuracy[brightness_factor|worst site] drop <= 5%", "name one slice"),
    ],
)
def test_wrong_rules_about_slices(run, rule, message):
    with pytest.raises(InputError) as caught:
        judged(run, rule)
    assert message in str(caught.value)


AGES = ["17", "18", "39", "40", "64", "65", "90", "", "NA", "45.5"]


def cut(ages, *slices, sites=None):
    table = pd.DataFrame({"age": ages, "site": sites or ["A"] * len(ages)})
    return group_rows(table, GroupColumns(slices=slices), "ages.csv").slices


def test_ages_are_cut_into_named_intervals():
    values = cut(AGES[:-1], "age:18,40,65")["age"].tolist()
    children, adults, middle, old = "below 18", "18 to 39", "40 to 64", "65 and above"
    assert values == [children, *[adults] * 2, *[middle] * 2, *[old] * 2, "missing", "missing"]
    assert sorted(set(values), key=order_of_value) == [children, adults, middle, old, "missing"]


def test_slices_stand_in_the_order_of_their_numbers(tmp_path):
    ages = ["100", "9", "missing", "20"]
    frame = pd.DataFrame({"key": range(40), "age": ages * 10})
    frame.to_csv(tmp_path / "ages.csv", index=False)
    table = pd.DataFrame({"key": range(40), "a": 0.7, "b": 0.3, "label": ["a", "b"] * 20})
    run = fw.evaluate(
        predictions=table,
        metadata=tmp_path / "ages.csv",
        slices=("age",),
        bootstrap=100,
        out=tmp_path / "run",
        progress=False,
    )
    rows = pd.read_csv(run.path / "slices.csv", dtype=str)
    assert list(dict.fromkeys(rows["slice"]))[:4] == [
        *("age=9", "age=20", "age=100", "age=missing")
    ]


def test_intervals_of_decimal_numbers_say_where_they_end():
    values = cut(AGES, "age: 18, 40")["age"].tolist()
    assert values[:3] == ["below 18", "18 to below 40", "18 to below 40"]
    assert values[-1] == "40 and above"
    assert set(cut(["17.9", "18"], "age:18")["age"]) == {"below 18", "18 and above"}


@given(st.lists(st.integers(-5, 120), min_size=1), st.sets(st.integers(0, 90), min_size=1))
def test_every_number_is_in_the_interval_that_its_name_says(ages, points):
    [values] = cut(list(map(str, ages)), f"age:{','.join(map(str, sorted(points)))}").values()
    for age, value in zip(ages, values, strict=True):
        numbers = list(map(int, re.findall(r"[0-9]+", value)))
        if value.startswith("below"):
            assert age < numbers[0]
        elif value.endswith("above"):
            assert age >= numbers[0]
        else:
            assert numbers[0] <= age <= numbers[-1]


def test_a_cut_column_can_be_crossed():
    slices = cut(["20", "70"], "site*age:0,40,65", "age:0,40", sites=["A", "B"])
    assert slices["site*age"].tolist() == ["A*0 to 39", "B*65 and above"]
    assert slices["age"].tolist() == ["0 to 39", "40 and above"]


@pytest.mark.parametrize(
    ("ages", "slices", "message"),
    [
        (["20", "old"], ["age:40"], r"has 'old' in the column 'age', and age:40 needs numbers"),
        (["20", "45,5"], ["age:40"], r"has '45,5' in .* with a decimal point"),
        (["20", "inf"], ["age:40"], r"has 'inf' in the column 'age'"),
        (["20"], ["age:65,40"], r"'age:65,40' must have points that increase"),
        (["20"], ["age:40,40"], r"points that increase"),
        (["20"], ["age:40", "age"], "the slice age is asked for twice"),
        (["20"], ["age:young"], r"unknown column of ages.csv 'age:young'; known: age"),
    ],
)
def test_a_wrong_cut_is_one_sentence(ages, slices, message):
    with pytest.raises(InputError, match=message):
        cut(ages, *slices)


def test_a_run_has_the_metrics_of_each_interval_and_rules_name_them(photos, tmp_path):
    folder, table = photos
    ages = [20 + 60 * (number % 2) for number in range(len(table))]
    table.assign(age=ages).to_csv(tmp_path / "ages.csv", index=False)
    run = fw.evaluate(
        Brightness(),
        f"folder:{folder / 'all'}",
        metadata=tmp_path / "ages.csv",
        slices=["age: 0, 40"],
        out=tmp_path / "run",
        bootstrap=100,
        device="cpu",
        threads=1,
    )
    slices = RunFolder(run.path).slice_scores
    assert set(slices["slice"]) == {"age=0 to 39", "age=40 and above", "worst age"}
    rules = read_rules(["accuracy[clean|age=40 and above] >= 1%"])
    [verdict] = judge(RunFolder(run.path), rules)
    assert verdict.passed


def test_small_slices_are_named_with_what_helps():
    ages = np.array([str(20 + number % 70) for number in range(700)], dtype=object)
    sites = np.array(["A", "B"] * 350, dtype=object)
    groups = Groups(None, None, {"age": ages, "site": sites, "site*age": sites + "*" + ages})
    assert groups.remarks() == [
        "age has 70 values, all of them with fewer than 30 images: cut the numbers, as in the "
        "slice 'age:43,66'",
        "site*age has 70 values, all of them with fewer than 30 images: cross fewer columns, or "
        "cut numbers such as ages",
    ]
    many = Groups(None, None, {"age": np.concatenate([ages] * 4)})
    assert many.remarks() == ["age has 70 values: cut the numbers, as in the slice 'age:43,66'"]


def test_a_study_cuts_columns_as_options_do():
    study = check_study(
        {
            "name": "ages",
            "data": {
                "source": "folder:photos",
                "groups": {"metadata": "ages.csv", "slices": ["site * age: 40, 65"]},
            },
            "seeds": [0],
            "shifts": [{"gaussian_blur": [1]}],
            "models": {"plain": {"title": "Plain", "backbone": "timm:resnet10t"}},
        }
    )
    [source] = data_sources(study).values()
    assert source.groups == GroupColumns("ages.csv", slices=("site*age:40,65",))
    assert source.groups.slice_names == ("site*age",)
    assert source.groups.columns == ["site", "age"]


# Rows as in imagenet_x_val_multi_factor.jsonl (facebookresearch/imagenetx); no factor left out.
FACTORS = ("multiple_objects", "background", "color", "brighter", "darker", "style", "larger")
FACTORS += ("smaller", "object_blocking", "person_blocking", "partial_view", "pattern", "pose")
FACTORS += ("shape", "subcategory", "texture")


def test_factors_of_imagenet_x_are_slices(tmp_path):
    rng, lines = np.random.default_rng(0), []
    poses, patterns = {}, {}
    for number in range(1, 25):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        folder = tmp_path / "val" / ("n01440764" if number % 2 else "n01443537")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(folder / name)
        factors = {factor: int(rng.random() < 0.4) for factor in FACTORS}
        poses[name], patterns[name] = str(factors["pose"]), str(factors["pattern"])
        row = {"file_name": name, "class": number % 2, **factors}
        row |= {"justification": 'a "tench", in a hand', "one_word": None}
        lines.append(json.dumps(row, separators=(",", ":")))
    lines.append(lines[0].replace("00000001", "00050000"))  # of an image that is not here
    table = tmp_path / "imagenet_x_val_multi_factor.jsonl"
    table.write_text("\n".join(lines) + "\n")
    asked = GroupColumns(metadata=str(table), slices=("pose", "pose*pattern"))
    images = fw.load_data(f"folder:{tmp_path / 'val'}", test_fraction=1.0, groups=asked).test
    names = [name.rpartition("/")[2] for name in images.names]
    assert images.groups.slices["pose"].tolist() == [poses[name] for name in names]
    crossed = [f"{poses[name]}*{patterns[name]}" for name in names]
    assert images.groups.slices["pose*pattern"].tolist() == crossed
    assert set(poses.values()) == {"0", "1"}
    assert read_text_table(table)["one_word"].tolist() == [""] * 25
    for text, message in (("[1]", "line 1 is not an object"), ('{"a": ', "cannot be read")):
        table.write_text(text)
        with pytest.raises(InputError, match=message):
            fw.load_data(f"folder:{tmp_path / 'val'}", test_fraction=1.0, groups=asked)
