"""Predictions of other programs, of several findings an image: outputs, labels, keys, sentences."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.special
from sklearn.metrics import roc_auc_score

import fairweather as fw
from fairweather.data.loading import load_data
from fairweather.errors import InputError
from fairweather.models.outputs import OF_FINDINGS, detect_finding_predictions, to_logits
from fairweather.models.predictions.matching import (
    KnownImages,
    match_predictions,
    name_classes,
)
from fairweather.models.predictions.tables import (
    PredictionRows,
    RowOptions,
    list_label_columns,
    read_rows,
)
from fairweather.models.predictions.truth import add_truth, read_truth
from fairweather.types.record import predictions_file
from tests.helpers.commands import fairweather

NAMES = ["Pleural Effusion", "Pleural Other", "Mass"]


def draw(count=120, seed=0):
    """Keys, labels of 0, 1 and -1, and probabilities of three findings."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < (0.4, 0.2, 0.3)).astype(np.int64)
    labels[rng.random((count, 3)) < 0.1] = -1
    logits = rng.normal(2 * labels - 1, 1.5)
    keys = [f"study{number}" for number in rng.permutation(count)]
    return keys, labels, scipy.special.expit(logits).round(6)


def frames(**options):
    keys, labels, shares = draw(**options)
    predictions = pd.DataFrame(shares, columns=NAMES)
    truth = pd.DataFrame(labels, columns=NAMES)
    predictions.insert(0, "Study", keys)
    truth.insert(0, "Study", keys)
    return predictions, truth


def evaluated(*arguments, **options):
    lines = []
    run = fw.evaluate(
        *arguments,
        bootstrap=100,
        progress=lambda event: lines.append(event.line),
        **options,
    )
    return run, [line for line in lines if line]


def all_areas(run):
    scores = pd.read_csv(run.path / "scores.csv")
    return scores[scores["metric"] == "auc"]


def areas(run, shift="clean"):
    rows = all_areas(run)
    rows = rows[rows["shift"] == shift]
    units = rows[rows["unit"].str.startswith("finding=")]
    return dict(zip(units["unit"].str.removeprefix("finding="), units["value"], strict=True))


def expected_areas(labels, shares, names=NAMES):
    return {
        name: pytest.approx(
            roc_auc_score(labels[labels[:, at] >= 0, at], shares[labels[:, at] >= 0, at]), abs=1e-7
        )
        for at, name in enumerate(names)
    }


# ---------------------------------------------------------------- whole evaluations


def test_a_second_table_is_matched_by_key_whatever_its_orders_are(tmp_path):
    predictions, truth = frames()
    _, labels, shares = draw()
    predictions.to_csv(tmp_path / "vendor.csv", index=False)
    other = truth.sample(frac=1, random_state=1)[["Mass", "Study", *NAMES[:2]]]
    other["No Finding"] = (labels <= 0).all(axis=1).astype(int)
    text = other.to_csv(index=False, sep=";").replace("-1", "")
    (tmp_path / "truth.csv").write_text(text, encoding="utf-8")
    run, lines = evaluated(
        f"predictions:{tmp_path / 'vendor.csv'}",
        labels=tmp_path / "truth.csv",
        key_column="Study",
    )
    assert areas(run) == expected_areas(labels, shares)
    assert run.record.data.classes == ("Mass", "Pleural Effusion", "Pleural Other")
    assert run.record.data.task == "multilabel"
    said = "\n".join(lines)
    for words in (
        "n = 120, without images, 3 findings",
        "outputs        probabilities of findings (all are in [0, 1])",
        "of truth.csv, by the names of the findings",
        "truth.csv is read with ';' between cells",
        "not used of truth.csv: 'No Finding'",
        f"{(labels == -1).sum()} empty cells are unknown (with --empty-labels absent they count",
    ):
        assert words in said


def test_labels_stand_beside_outputs_of_several_models_and_shifts(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for seed, name in enumerate(("a", "b", "a-fog,2", "b-fog,2")):
        keys, labels, _ = draw()
        shares = draw(seed=seed)[2]
        table = pd.DataFrame(shares, columns=[f"prob_{name}" for name in NAMES])
        order = table.columns[:: -1 if seed else 1]
        table = table[order].assign(id=keys)
        for at, finding in enumerate(NAMES):
            table[f"{finding}_label"] = labels[:, at]
        table.sample(frac=1, random_state=seed).to_csv(folder / f"{name}.csv", index=False)
    run, lines = evaluated(f"predictions:{folder}")
    both = all_areas(run)
    assert set(both["model"]) == {"a", "b"}
    for model, shift, seed in (("a", "clean", 0), ("b", "fog", 3)):
        rows = both[(both["model"] == model) & (both["shift"] == shift)]
        values = dict(zip(rows["unit"], rows["value"], strict=True))
        wanted = expected_areas(draw()[1], draw(seed=seed)[2])
        assert {f"finding={name}": values[f"finding={name}"] for name in NAMES} == {
            f"finding={name}": area for name, area in wanted.items()
        }
    assert any("findings: 3 an image" in line for line in lines)


@pytest.mark.usefixtures("no_figures", "no_page")
def test_arrays_and_frames_of_python(tmp_path):
    predictions, truth = frames()
    _, labels, shares = draw()
    wanted = expected_areas(labels, shares)
    run, _ = evaluated(predictions=shares, labels=labels, classes=NAMES)
    assert areas(run) == wanted
    nameless, _ = evaluated(predictions=scipy.special.logit(shares), labels=labels)
    assert list(areas(nameless).values()) == list(wanted.values())
    shuffled = truth.sample(frac=1, random_state=2)
    run, _ = evaluated(predictions=predictions, labels=shuffled, key_column="Study")
    assert areas(run) == wanted
    by_index, _ = evaluated(
        predictions=predictions.set_index("Study"),
        labels=shuffled.set_index("Study"),
        key_column="Study",
    )
    assert areas(by_index) == wanted
    one, _ = evaluated(predictions=predictions, labels=truth, key_column="Study", findings=["Mass"])
    assert areas(one) == {"Mass": wanted["Mass"]}
    np.savez(tmp_path / "a.npz", probs=shares, labels=labels, classes=np.array(NAMES))
    run, _ = evaluated(f"predictions:{tmp_path / 'a.npz'}")
    assert areas(run) == wanted
    lists = pa.table({"probs": shares.tolist(), "labels": labels.tolist()})
    pq.write_table(lists, tmp_path / "b.parquet")
    run, _ = evaluated(f"predictions:{tmp_path / 'b.parquet'}", classes=NAMES)
    assert areas(run) == wanted


def test_one_cell_may_name_all_findings(tmp_path):
    _, labels, shares = draw()
    present = labels == 1
    table = pd.DataFrame(shares, columns=NAMES)
    cells = ["|".join(np.array(NAMES)[row]) or "No Finding" for row in present]
    run, _ = evaluated(predictions=table.assign(label=cells))
    assert areas(run) == expected_areas(present.astype(int), shares)
    run, _ = evaluated(predictions=table, labels=pd.DataFrame({"label": cells}))
    assert areas(run) == expected_areas(present.astype(int), shares)


def labelled_frames(names, seed):
    """Outputs in one order, and the labels of the same findings in the order of `names`."""
    _, labels, shares = draw(400, seed)
    frame = pd.DataFrame(shares, columns=NAMES)
    for name in names:
        frame[f"label_{name}"] = labels[:, NAMES.index(name)]
    return frame, labels


def validation_labels(run):
    return run.folder.read_cell(predictions_file("net", 0, "clean", "val")).labels


def test_labels_of_validation_images_are_matched_by_name(tmp_path):
    test, validation = labelled_frames(NAMES, 1)[0], labelled_frames(NAMES[::-1], 2)
    tables = {"net": test, "net-validation": validation[0]}
    run, _ = evaluated(predictions=tables, out=tmp_path / "run")
    np.testing.assert_array_equal(validation_labels(run), validation[1])
    lacking = {**tables, "net-validation": validation[0].drop(columns="label_Mass")}
    with pytest.raises(InputError, match="has no labels of 'Mass', which the test images have"):
        evaluated(predictions=lacking, out=tmp_path / "lacking")
    more = {**tables, "net": test.drop(columns="label_Mass")}
    with pytest.raises(InputError, match="has labels of 'Mass', and the test images have"):
        evaluated(predictions=more, out=tmp_path / "more")
    single = validation[0].drop(columns=[f"label_{name}" for name in NAMES]).assign(label=1)
    with pytest.raises(InputError, match="has one label of each image, and the test images have"):
        evaluated(predictions={**tables, "net-validation": single}, out=tmp_path / "single")


def test_validation_images_may_lack_a_finding_that_cells_name(tmp_path):
    keys, labels, shares = draw(400)
    tables = {}
    for name, known in (
        ("net", labels == 1),
        ("net-validation", (labels == 1) & [True, False, False]),
    ):
        frame = pd.DataFrame(shares, columns=NAMES)
        cells = [[NAMES[at] for at in np.flatnonzero(row)] for row in known]
        frame["label"] = ["|".join(some) or "No Finding" for some in cells]
        tables[name] = frame.assign(id=[f"{name} {key}" for key in keys])
    run, _ = evaluated(predictions=tables, out=tmp_path / "run")
    of_validation = validation_labels(run)
    places = [int(np.flatnonzero(np.array(NAMES) == name)[0]) for name in sorted(NAMES)]
    order = np.argsort(keys)
    expected = ((labels == 1) & [True, False, False])[order][:, places]
    np.testing.assert_array_equal(of_validation, expected)


def test_names_with_a_common_beginning_that_fit_are_not_cut():
    outputs = np.full((2, 2), 0.5)
    rows = PredictionRows("the table", outputs, ("Lung Lesion", "Lung Opacity"), None, None)
    truth = pd.DataFrame({"Lung Lesion": [1, 0], "Lung Opacity": [0, 1], "Lesions": [2, 3]})
    labelled = add_truth(rows, read_truth(truth, RowOptions()), RowOptions())
    assert labelled.findings == ("Lung Lesion", "Lung Opacity")


def test_a_data_set_has_the_labels(tmp_path):
    _, labels, shares = draw(count=40)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "set.npz",
        images=rng.integers(256, size=(40, 9, 9), dtype=np.uint8),
        labels=labels,
        classes=np.array(NAMES),
    )
    data = f"npz:{tmp_path / 'set.npz'}"
    table = pd.DataFrame(shares, columns=NAMES)[NAMES[::-1]].assign(Edema=0.5)
    run, lines = evaluated(predictions=table, dataset=data)
    assert areas(run) == expected_areas(labels, shares)
    assert any("not used: 'Edema'" in line for line in lines)
    with pytest.raises(InputError, match=r"findings is about labels beside .*csv:PATH,findings="):
        evaluated(predictions=table, dataset=data, findings=["Mass"])
    wrong = labels.copy()
    wrong[3, 2] = 1 - abs(wrong[3, 2])
    with pytest.raises(InputError, match=r"1 of 40 labels of 'Mass' .*the first is"):
        evaluated(predictions=pd.DataFrame(shares, columns=NAMES), labels=wrong, dataset=data)
    with pytest.raises(InputError, match="has one label of each image"):
        evaluated(predictions=table, labels=wrong[:, 0], dataset=load_data(data, test_fraction=1))


def test_patients_and_sites_without_images_are_those_of_the_same_data_with_images(tmp_path):
    """Their table may be that of the labels, or another, in any order."""
    _, labels, shares = draw(count=60)
    rng = np.random.default_rng(0)
    images, keys = rng.integers(256, size=(60, 9, 9), dtype=np.uint8), np.arange(60)
    np.savez(tmp_path / "set.npz", images=images, labels=labels, classes=np.array(NAMES))
    people = pd.DataFrame({"key": keys, "patient": keys // 3, "site": np.where(keys % 5, "n", "s")})
    people.sample(frac=1, random_state=0).to_csv(tmp_path / "people.csv", index=False)
    predictions = pd.DataFrame(shares, columns=NAMES).assign(key=keys)
    truth = pd.DataFrame(labels, columns=NAMES).assign(key=keys)
    asked = {"group": "patient", "slices": ["site"]}
    table = {"metadata": tmp_path / "people.csv"}
    wanted, _ = evaluated(
        predictions=predictions.drop(columns="key"),
        dataset=f"npz:{tmp_path / 'set.npz'}",
        **asked,
        **table,
    )
    by_labels = people.merge(truth, on="key").sample(frac=1, random_state=1)
    for options in ({"labels": truth, **table}, {"labels": by_labels}):
        run, lines = evaluated(predictions=predictions, key_column="key", **asked, **options)
        counted = "groups         20 by patient, 3 images each; 2 by site (n 48, s 12)"
        assert any(line.startswith(counted) for line in lines)
        assert any("n = 60 in 20 groups" in line for line in lines)
        for file in ("scores.csv", "slices.csv"):
            ours, theirs = pd.read_csv(run.path / file), pd.read_csv(wanted.path / file)
            pd.testing.assert_frame_equal(ours, theirs)
    people[3:].to_csv(tmp_path / "people.csv", index=False)
    with pytest.raises(InputError, match=r"3 of 60 keys of .* have no row in people\.csv: '0'"):
        evaluated(predictions=predictions, labels=truth, key_column="key", **asked, **table)
    with pytest.raises(InputError, match="unknown column of labels 'patients'; did you mean 'pat"):
        evaluated(predictions=predictions, labels=by_labels, key_column="key", group="patients")
    with pytest.raises(InputError, match="group and slice are columns of a table with a row for"):
        evaluated(predictions=predictions.drop(columns="key"), labels=labels, **asked)


def test_a_patient_with_test_and_validation_predictions_is_refused_unless_allowed():
    predictions, truth = frames()
    truth["patient"] = [f"P{number % 50}" for number in range(120)]
    tables = {"m": predictions[:80], "m-validation": predictions[80:]}
    asked = {"predictions": tables, "labels": truth, "key_column": "Study", "group": "patient"}
    with pytest.raises(
        InputError, match=r"40 of 50 values of patient have images in test and in v"
    ):
        evaluated(**asked)
    _, lines = evaluated(**asked, allow_shared_groups=True)
    assert "groups         50 by patient, 1 to 2 images each" in lines


def test_each_model_of_a_mapping_file_has_its_outputs(tmp_path):
    predictions, truth = frames()
    predictions.to_csv(tmp_path / "a.csv", index=False)
    scores = predictions.copy()
    scores[NAMES] = 3 * scores[NAMES]
    scores.to_csv(tmp_path / "b.csv", index=False)
    truth.to_csv(tmp_path / "truth.csv", index=False)
    (tmp_path / "map.csv").write_text("file,outputs\na.csv,\nb.csv,logits\n", encoding="utf-8")
    run, lines = evaluated(
        f"predictions:{tmp_path / 'map.csv'}", labels=tmp_path / "truth.csv", key_column="Study"
    )
    assert "outputs        a.csv: probabilities of findings (all are in [0, 1])" in lines
    assert "outputs        b.csv: logits (given)" in lines
    rows = all_areas(run)
    assert rows.loc[rows["unit"] == "finding=Mass", "value"].nunique() == 1
    (tmp_path / "map.csv").write_text("file,outputs\na.csv,logit\n", encoding="utf-8")
    with pytest.raises(InputError, match="unknown outputs 'logit'; did you mean 'logits'"):
        evaluated(f"predictions:{tmp_path / 'map.csv'}", labels=tmp_path / "truth.csv")


# ---------------------------------------------------------------- outputs


def test_the_sigmoid_of_the_logits_is_the_probability():
    shares = np.concatenate([[0.0, 1.0, 1e-30, 1 - 1e-9], np.linspace(0.001, 0.999, 97)])[:, None]
    kind = detect_finding_predictions(shares, "auto", "the table", ["a"])
    assert kind.kind == OF_FINDINGS
    assert "divided" not in str(kind)
    logits = to_logits(shares, kind)[:, 0]
    np.testing.assert_allclose(scipy.special.expit(logits[4:]), shares[4:, 0], rtol=1e-6)
    assert logits[[0, 2, 3, 1]].tolist() == sorted(logits[:4])  # the order stays
    assert np.isfinite(logits).all()


MOST = np.full((20, 2), 0.5) + np.linspace(0, 0.4, 20)[:, None]


@pytest.mark.parametrize(
    ("outputs", "asked", "words"),
    [
        (np.where(MOST > 0.88, 1.2, MOST), "auto", "1.2 in row 20 of the column 'a'.*as most"),
        (np.where(MOST > 0.88, -0.1, MOST), "auto", "-0.1 in row 20 .*as most"),
        (MOST * [1, 100], "auto", "50 in row 1 of the column 'b'.*as most"),
        (MOST * 100, "auto", "50 in row 1 .*no number here is negative: .*percentages"),
        (MOST - 1, "probabilities", "-0.5 in row 1 .* set outputs .*to logits"),
        (np.stack([MOST[:, 0], 1 - MOST[:, 0]], axis=1), "auto", "sum to one, as prob.* classes"),
        (np.where(MOST > 0.88, np.nan, MOST), "logits", "not finite in row 20"),
    ],
)
def test_outputs_that_may_be_mistakes_are_one_sentence(outputs, asked, words):
    with pytest.raises(InputError, match=words):
        detect_finding_predictions(outputs, asked, "the table", ["a", "b"])


def test_what_was_asked_for_is_taken():
    assert detect_finding_predictions(MOST * 100, "logits", "", ["a", "b"]).kind == "logits"
    halves = np.full((4, 2), 0.5)
    assert detect_finding_predictions(halves, "probabilities", "", ["a", "b"]).kind == OF_FINDINGS


def test_decisions_and_sure_mistakes_are_said():
    labels = np.array([[1, 0], [0, 1], [1, 1], [-1, 0]])
    decided = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    _, lines = evaluated(
        predictions=decided, labels=labels, classes=["a", "b"], outputs="probabilities"
    )
    assert (
        "note           all outputs are 0 or 1: they are decisions, and their confidence is unknown"
        in lines
    )
    assert any("3 of 7 labels have the probability 0" in line for line in lines)


@pytest.mark.usefixtures("no_figures", "no_page")
def test_exchanged_columns_and_columns_of_labels_are_warned_of():
    _, labels, shares = draw(count=300)
    known = np.random.default_rng(1).integers(0, 2, size=(300, 2))
    outputs = np.column_stack([shares[:, [2, 1, 0]], known])
    names = ["A", "B", "C", "D", "E"]
    table = pd.DataFrame(outputs, columns=names)
    _, lines = evaluated(predictions=table, labels=np.column_stack([labels, known]))
    warned = [line for line in lines if line.startswith("warning")]
    assert [line.split(" ", 1)[1].strip() for line in warned] == [
        "the outputs of D, E equal the labels in every row: if no model made them, name the "
        "other findings with --findings",
        "the columns of A and C are probably exchanged: each separates the labels of the other "
        "better",
    ]
    right = pd.DataFrame(shares, columns=names[:3])
    shuffled = right.assign(A=shares[::-1, 0])
    _, lines = evaluated(predictions=shuffled, labels=labels)
    (warned,) = [line for line in lines if line.startswith("warning")]
    assert "the AUC of A may be 0.5, and is below the mean: its outputs or labels may be" in warned
    # C separates the labels of A, and A those of nothing: nothing is exchanged.
    given_away = right.assign(A=shares[::-1, 1], C=shares[:, 0])
    _, lines = evaluated(predictions=given_away, labels=labels)
    assert not any("exchanged" in line for line in lines)
    # No finding is told: that is said of the mean, and of none in particular.
    unknowing = pd.DataFrame(np.random.default_rng(2).random(shares.shape), columns=names[:3])
    _, lines = evaluated(predictions=unknowing, labels=labels)
    assert not any("may be 0.5" in line for line in lines)
    _, lines = evaluated(predictions=right, labels=labels)
    assert not any(line.startswith("warning") for line in lines)


def test_a_beginning_or_an_end_is_cut_beside_other_numbers():
    _, labels, shares = draw()
    for output, label in (("{}_prob", "{}_label"), ("prob_{}", "{}_true")):
        table = pd.DataFrame(shares, columns=[output.format(name) for name in NAMES])
        table["Age"] = np.arange(len(table))
        table[[label.format(name) for name in NAMES]] = labels
        rows = read_rows(table, "vendor.csv", RowOptions(), 0)
        names = name_classes(rows, RowOptions())
        known = KnownImages(labels, np.arange(len(labels)), None, "the images")
        found = match_predictions(rows, names, known, RowOptions())
        np.testing.assert_allclose(scipy.special.expit(found.logits), shares, atol=1e-6)
        assert found.notes[-1] == "not used: 'Age'"


@pytest.mark.parametrize(
    "columns",
    ["a_A a_B b_A b_B", "A_prob B_prob A_score B_score", "left_A left_B right_A", "A_p B_p B_q"],
)
def test_columns_of_two_models_are_not_taken_for_those_of_one(columns):
    table = pd.DataFrame(np.full((6, len(columns.split())), 0.3), columns=columns.split())
    table += np.arange(6)[:, None] / 20
    rows = read_rows(table, "vendor.csv", RowOptions(), 0)
    known = KnownImages(np.eye(6, 2, dtype=np.int64), np.arange(6), None, "the images")
    with pytest.raises(InputError):
        match_predictions(rows, ("A", "B"), known, RowOptions())


# ---------------------------------------------------------------- labels and keys


@pytest.mark.parametrize("affix", ["label_{}", "{}_label", "true.{}", "{} gt", "Target-{}"])
@pytest.mark.parametrize("output", ["{}", "prob_{}", "{}_p"])
def test_the_names_of_columns_say_which_are_labels(affix, output):
    columns = [affix.format(name) for name in NAMES]
    names = ["file", *columns, *(output.format(name) for name in NAMES)]
    assert list_label_columns(names) == dict(zip(columns, NAMES, strict=True))


@pytest.mark.parametrize(
    "names",
    [
        ["label", "cat", "dog"],
        ["id", "label_id", "cat", "dog"],
        ["true_label", "cat_prob", "dog_prob"],
        ["cat", "dog", "label_fox"],
        ["label_cat", "label_dog"],
    ],
)
def test_other_tables_have_no_labels_of_findings(names):
    assert list_label_columns(names) == {}


def with_truth(predictions, truth, **options):
    asked = RowOptions(key_column="Study", **options)
    rows = read_rows(predictions, "vendor.csv", asked, 0)
    return add_truth(rows, read_truth(truth, asked), asked)


def changed(frame, row, column, value):
    frame = frame.astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda p, t: (p, t), {"findings": ("Mas",)}, "unknown finding .*did you mean 'Mass'"),
        (lambda p, t: (p.rename(columns={"Mass": "Mas"}), t), {}, "outputs of 'Mas'.*mean 'Mass'"),
        (
            lambda p, t: (p.rename(columns={"Mass": "Pulmonary lesion"}), t),
            {},
            "vendor.csv has 'Pulmonary lesion', and labels has 'Mass': call findings alike",
        ),
        (lambda p, t: (p, t[["Study"]].assign(x=1)), {}, "no column with the name of an output"),
        (
            lambda p, t: (p[["Study"]].assign(pred=1), t),
            {},
            "vendor.csv was read as predicted classes, and labels has no column of labels",
        ),
        (
            lambda p, t: (p, changed(t, 4, "Mass", 2)),
            {},
            "labels, row 5, has '2' in the column 'Mass'",
        ),
        (lambda p, t: (p, changed(t, 0, "Mass", "yes")), {}, "has 'yes' in the column 'Mass'"),
        (lambda p, t: (p[::-1], changed(t, 4, "Mass", 2)), {}, "labels, row 5, has '2'"),
        (
            lambda p, t: (p, t.rename(columns={"Study": "x"})),
            {},
            "unknown column of labels 'Study'",
        ),
        (lambda p, t: (p, t[5:]), {}, "5 of 120 keys of vendor.csv have no labels in labels"),
        (lambda p, t: (p, pd.concat([t, t[:1]])), {}, "1 keys more than once"),
        (lambda p, t: (p.drop(columns="Study"), t), {}, "unknown column of vendor.csv 'Study'"),
        (lambda p, t: (p.assign(label="Mass|Edema"), t), {}, "has labels, and labels are given"),
        (lambda p, t: (p, t[NAMES].to_numpy()[:, :2]), {}, "3 columns of outputs, and labels have"),
        (lambda p, t: (p, t[NAMES].to_numpy()[1:]), {}, "has 120 rows, and there are 119 labels"),
        (lambda p, t: (p, t[NAMES].to_numpy() * 2), {}, "has the label -?2 in row"),
    ],
)
def test_wrong_truths_are_one_sentence(change, options, words):
    predictions, truth = change(*frames())
    with pytest.raises(InputError, match=words) as error:
        with_truth(predictions, truth, **options)
    assert "\n" not in str(error.value)


def test_a_table_without_keys_is_no_truth_of_predictions_that_have_some():
    predictions, truth = frames()
    asked = RowOptions()
    rows = read_rows(predictions.rename(columns={"Study": "file"}), "vendor.csv", asked, 0)
    with pytest.raises(InputError, match=r"labels lacks the keys that vendor\.csv has"):
        add_truth(rows, read_truth(truth[NAMES], asked), asked)


def test_a_finding_of_another_name_may_be_left_out_on_purpose():
    predictions, truth = frames()
    renamed = predictions.rename(columns={"Mass": "Pulmonary lesion"})
    kept = tuple(name for name in NAMES if name != "Mass")
    rows = with_truth(renamed, truth, findings=kept)
    assert rows.labels.shape == (len(predictions), len(kept))


@pytest.mark.parametrize("table", [0, 1])
def test_keys_may_lack_a_suffix_in_one_table(table):
    tables = [*frames()]
    known = with_truth(*tables).labels.tolist()
    tables[table] = tables[table].assign(Study=tables[table]["Study"] + ".png")[::-1]
    rows = with_truth(*tables)
    assert any("without suffixes such as .png" in note for note in rows.notes)
    assert rows.labels.tolist() == (known if table else known[::-1])


def test_a_truth_of_more_studies_says_so():
    predictions, truth = frames()
    rows = with_truth(predictions[:100], truth)
    assert "20 rows of labels have no predictions and are not used" in rows.notes
    assert rows.labels.tolist() == truth[NAMES].to_numpy()[:100].tolist()


def test_two_columns_with_one_name_are_refused(tmp_path):
    (tmp_path / "truth.csv").write_text("Study,Mass,Mass\na,1,0\n", encoding="utf-8")
    with pytest.raises(InputError, match="more than one column called 'Mass'"):
        read_truth(tmp_path / "truth.csv", RowOptions())


def test_unknown_findings_are_an_error_only_where_nothing_is_known():
    _, labels, shares = draw()
    labels[:, 0] = -1
    labels[:, 1] = 1
    run, lines = evaluated(predictions=shares, labels=labels, classes=NAMES)
    assert any(
        "no image lacks 'Pleural Other'; no image has a known label of 'Pleural Effusion'" in line
        for line in lines
    )
    assert areas(run)["Mass"] == expected_areas(labels[:, 2:], shares[:, 2:], ["Mass"])["Mass"]
    with pytest.raises(InputError, match="every label of every finding is unknown"):
        evaluated(predictions=shares, labels=np.full_like(labels, -1), classes=NAMES)


def test_the_command_takes_a_second_table_and_refuses_a_wrong_one_with_status_2(tmp_path):
    predictions, truth = frames()
    predictions.to_csv(tmp_path / "vendor.csv", index=False)
    truth.to_csv(tmp_path / "truth.csv", index=False)
    command = ("evaluate", "predictions:vendor.csv", "--key-column", "Study", "--bootstrap", "100")
    command += ("--labels", "truth.csv", "--out", "run", "--findings")
    done = fairweather(*command, "Mass,Pleural Other", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = pd.read_csv(tmp_path / "run" / "scores.csv")
    units = scores.loc[scores["metric"] == "auc", "unit"]
    assert [name for name in units if "=" in name] == ["finding=Mass", "finding=Pleural Other"]
    done = fairweather(*command, "Mass,Pleural Oter", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'Pleural Other'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("sums_to_one", [True, False])
def test_one_hot_labels_are_said_to_be_perhaps_classes(sums_to_one):
    labels = np.eye(3, dtype=np.int64)[np.arange(120) % 3]
    shares = np.random.default_rng(0).dirichlet(np.ones(3), 120) * (1 if sums_to_one else 0.9)
    words = "; each image has exactly one, so these may be classes: then give the number of each"
    if sums_to_one:
        with pytest.raises(InputError, match=words):
            evaluated(predictions=shares, labels=labels)
        return
    _, lines = evaluated(predictions=shares, labels=labels)
    assert any(words in line for line in lines)
    labels[0] = 1
    assert not any(words in line for line in evaluated(predictions=shares, labels=labels)[1])
