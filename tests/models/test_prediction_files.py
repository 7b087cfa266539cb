"""Predictions of other programs: what is read of them, what is assumed, what is refused."""

import csv
import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

import fairweather as fw
from fairweather.attacks.shift_lists import make_external_shift, parse_external_shift
from fairweather.cli.app import app
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.metrics import accuracy, negative_log_likelihood
from fairweather.metrics.operating_points import choose_threshold
from fairweather.models.outputs import detect_prediction_kind, to_logits
from fairweather.models.predictions.files import find_predictions, list_in_memory
from fairweather.models.predictions.matching import KnownImages, match_predictions
from fairweather.models.predictions.tables import RowOptions, read_rows
from fairweather.progress import silent
from fairweather.requests.inputs import make_plan
from fairweather.runs.folder import RunFolder
from fairweather.steps.plan import step_fingerprint
from fairweather.types.operating_points import TargetRate
from fairweather.types.record import predictions_file
from tests.conftest import COLOURS, keep_lines
from tests.helpers.commands import fairweather

pytestmark = pytest.mark.usefixtures("undrawn")

CLASSES = ("cat", "dog", "fox")
LABELS = np.array([0, 1, 2, 2, 1, 0, 0, 1])


def shares(seed=0, n=8, labels=LABELS, strength=2.0):
    """Probabilities that are mostly right: float64 `[n, 3]`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3))
    logits[np.arange(n), labels] += strength
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(1, keepdims=True)


def table(values=None, names=CLASSES):
    return pd.DataFrame(shares() if values is None else values, columns=list(names))


def images(labels=LABELS, keys=None, names=None):
    keys = np.arange(len(labels)) if keys is None else np.array(keys)
    return KnownImages(labels, keys, names, "the test images", are_files=names is not None)


def read(path, classes=CLASSES, known=None, **asked):
    """What is found in a file of predictions of known images."""
    chosen = RowOptions(**asked)
    rows = read_rows(path, path.name, chosen, len(classes))
    return match_predictions(rows, classes, known or images(), chosen)


def found_shares(found):
    return torch.from_numpy(found.logits).double().softmax(1).numpy()


# ---- one file of each format


def write(path, frame):
    """A file of each kind, as other programs write them."""
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".parquet":
            frame.to_parquet(path)
        case ".npz":
            np.savez(path, probs=frame[list(CLASSES)].to_numpy(), classes=np.array(CLASSES))
        case ".npy":
            np.save(path, frame[list(CLASSES)].to_numpy())
        case ".txt":
            np.savetxt(path, frame[list(CLASSES)].to_numpy())


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".npz", ".npy", ".txt"])
def test_every_format_gives_the_same_predictions(tmp_path, suffix):
    path = tmp_path / f"probs{suffix}"
    write(path, table())
    found = read(path)
    assert np.allclose(found_shares(found), shares(), atol=1e-6)
    assert found.kind.kind == "probabilities"


def test_lists_in_a_parquet_file_are_the_outputs(tmp_path):
    path = tmp_path / "probs.parquet"
    columns = {"file": [f"{n}.png" for n in range(8)], "probs": shares().tolist()}
    pq.write_table(pa.table(columns), path)
    known = images(names=[f"/photos/{n}.png" for n in range(8)])
    assert np.allclose(found_shares(read(path, known=known)), shares(), atol=1e-6)


# ---- what the outputs are


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda p: p, "probabilities"),
        (lambda p: 100 * p, "probabilities"),
        (lambda p: p.round(2), "probabilities"),
        (np.log, "logarithms of probabilities"),
        (lambda p: np.log(p) + 3, "logits"),
        (lambda p: np.log(p) - 3, "logits"),
    ],
)
def test_the_kind_of_outputs_is_found_out(change, kind):
    assert detect_prediction_kind(change(shares()), "auto", "x").kind == kind


def test_numbers_that_could_be_two_things_are_refused_until_an_option_settles_it(tmp_path):
    path = tmp_path / "sigmoids.csv"
    table(1 / (1 + np.exp(-np.log(shares())))).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"rows sum to .*--outputs probabilities.*logits"):
        read(path)
    divided, as_they_are = read(path, outputs="probabilities"), read(path, outputs="logits")
    assert not np.allclose(found_shares(divided), found_shares(as_they_are))
    votes = np.array([[300, 100, 100], [0, 250, 250]])
    with pytest.raises(InputError, match="all sum to 500, as votes do"):
        detect_prediction_kind(votes.astype(float), "auto", "the forest")


def test_a_negative_number_by_rounding_errors_is_zero():
    rows = shares(n=8)
    rows[3] = (1 + 1e-9, -1e-9, 0)
    kind = detect_prediction_kind(rows, "auto", "x")
    assert kind.kind == "probabilities"
    assert "-1e-09" in str(kind)
    assert detect_prediction_kind(rows, "probabilities", "x").kind == "probabilities"
    assert detect_prediction_kind(np.array([[3.0, 1.0, 7.0]]), "auto", "x").kind == "logits"
    assert np.isfinite(to_logits(rows, kind)).all()


@pytest.mark.parametrize(
    ("row", "whole", "told"),
    [
        ((0.5, 0.3, 0.1), 1, "row 4 sums to 0.9"),
        ((1.1, 0.2, 0.2), 1, "row 4 sums to 1.5"),
        ((1.2, -0.2, 0), 1, "row 4 has -0.2"),
        ((50, 25, 20), 100, "row 4 sums to 95"),
        ((50, 25, 2), 37, "row 4 sums to 77"),
    ],
)
def test_one_odd_row_among_probabilities_is_named(row, whole, told):
    rows = whole * shares(n=20, labels=np.zeros(20, int))
    rows[3] = row
    with pytest.raises(InputError, match=rf"19 of 20 rows .* sum to {whole}") as error:
        detect_prediction_kind(rows, "auto", "x")
    assert told in str(error.value)
    assert detect_prediction_kind(rows, "logits", "x").kind == "logits"


def test_probabilities_in_bytes_are_no_logits():
    rows = (255 * shares(n=20, labels=np.zeros(20, int))).round()
    assert np.ptp(rows.sum(1)) > 0
    with pytest.raises(InputError, match=r"sum to 255, within .*--outputs probabilities"):
        detect_prediction_kind(rows, "auto", "x")


def test_rounded_sums_of_probabilities_are_no_logits():
    rows = (5 * shares(n=20, labels=np.zeros(20, int))).round(3)
    assert np.ptp(rows.sum(1)) > 0
    with pytest.raises(InputError, match=r"sum to 5, within 0\.00\d+, as rounded sums do"):
        detect_prediction_kind(rows, "auto", "x")
    rows[:, 0] += np.linspace(0, 0.1, 20).round(3)  # more than rounding explains
    assert detect_prediction_kind(rows, "auto", "x").kind == "logits"


def test_rounding_is_allowed_as_far_as_it_explains_the_sums():
    thirds = np.full((2, 3), 1 / 3)
    assert "within 0.01; rounded to 2 decimals" in str(
        detect_prediction_kind(thirds.round(2), "auto", "x")
    )
    with pytest.raises(InputError, match=r"0\.97 to 0\.97"):
        detect_prediction_kind(np.full((2, 3), 0.97 / 3), "auto", "x")  # no rounding explains it


def test_a_label_with_probability_zero_is_said(tmp_path):
    path = tmp_path / "probs.csv"
    table(np.eye(3)[[1, *LABELS[1:]]]).to_csv(path, index=False)
    (note,) = read(path).notes
    assert note.startswith("1 of 8 labels have the probability 0")


# ---- columns


def test_columns_are_matched_by_name_in_any_order_and_with_a_prefix(tmp_path):
    path = tmp_path / "probs.csv"
    order = ["fox", "cat", "dog"]
    frame = table()[order].rename(columns=lambda name: f"prob_{name}")
    frame.to_csv(path, index=False)
    found = read(path)
    assert np.allclose(found_shares(found), shares(), atol=1e-6)
    assert found.classes == "the model's 3 classes, matched by name"


def test_classes_are_named_by_an_option_where_the_file_does_not(tmp_path):
    path = tmp_path / "probs.csv"
    pd.DataFrame(shares()[:, [2, 0, 1]]).to_csv(path, index=False, header=False)
    wrong, right = read(path), read(path, classes=CLASSES)
    assert np.allclose(found_shares(wrong), found_shares(right))  # in order: it is all it can do
    chosen = RowOptions(classes=("fox", "cat", "dog"))
    named = match_predictions(read_rows(path, "x", chosen, 3), CLASSES, images(), chosen)
    assert np.allclose(found_shares(named), shares(), atol=1e-6)


@pytest.mark.parametrize("header", [True, False])
def test_an_index_column_is_left_out_and_said(tmp_path, header):
    path = tmp_path / "probs.csv"
    pd.DataFrame(shares()).to_csv(path, header=header)
    found = read(path)
    assert np.allclose(found_shares(found), shares(), atol=1e-6)
    assert found.notes == ("the first column counts the rows and is not used",)


def test_an_index_that_does_not_count_is_the_keys(tmp_path):
    path = tmp_path / "probs.csv"
    table()[::-1].to_csv(path)  # a table that was sorted otherwise keeps its index
    found = read(path)
    assert np.allclose(found_shares(found), shares(), atol=1e-6)
    assert found.rows == "matched by key"
    reversed_table = table()[::-1]
    rows = read_rows(reversed_table, "the table", RowOptions(), 3)
    assert np.allclose(
        found_shares(match_predictions(rows, CLASSES, images(), RowOptions())),
        shares(),
        atol=1e-6,
    )


def test_columns_that_follow_from_the_outputs_and_other_numbers_are_left_out(tmp_path):
    path = tmp_path / "probs.csv"
    frame = table().assign(prediction=1, entropy=0.5)
    frame.to_csv(path, index=False)
    found = read(path)
    assert np.allclose(found_shares(found), shares(), atol=1e-6)
    assert found.notes == ("not used: 'prediction'", "not used: 'entropy'")


def test_a_header_without_a_name_for_the_index_is_that_of_r(tmp_path):
    """`write.table` of R names the rows, and gives their column no name."""
    path = tmp_path / "probs.txt"
    lines = [f'"{n + 1}" {a} {b} {c}' for n, (a, b, c) in enumerate(shares())]
    path.write_text("\n".join(['"cat" "dog" "fox"', *lines]))
    found = read(path)
    assert np.allclose(found_shares(found), shares(), atol=1e-6)
    assert "the first column counts the rows and is not used" in found.notes
    path.write_text("\n".join(["cat dog", *lines]))
    with pytest.raises(InputError, match=r"probs\.txt has 4 cells in row 1, and the header has 2"):
        read(path)


@pytest.mark.parametrize("header", ["cat,dog,fox", "cat,dog,fox,"])
def test_only_empty_cells_after_the_last_column_are_left_out(tmp_path, header, recwarn):
    path = tmp_path / "probs.csv"
    lines = [f"{a},{b},{c}," for a, b, c in np.vstack([shares()] * 4)]
    known = images(np.tile(LABELS, 4))
    path.write_text("\n".join([header, *lines]))
    assert np.allclose(found_shares(read(path, known=known))[:8], shares(), atol=1e-6)
    path.write_text("\n".join([header, *lines[:-1], f"{lines[-1]}0.5"]))
    with pytest.raises(InputError, match=r"0\.5.* in row 32 after the last column"):
        read(path, known=known)
    path.write_text("\n".join(["cat,dog,fox", *(each[:-1] for each in lines[:-1]), "0,0,1,0.5"]))
    with pytest.raises(InputError, match=r"probs\.csv cannot be read"):
        read(path, known=known)
    assert not recwarn.list


@pytest.mark.parametrize("change", [lambda p: p, np.log])
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_row_without_any_class_of_the_data_is_named(tmp_path, change):
    path = tmp_path / "probs.csv"
    rows = np.hstack([0.9 * shares(), np.full((8, 1), 0.1)])
    rows[5] = (0, 0, 0, 1)
    table(change(rows), (*CLASSES, "wolf")).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"probs\.csv .*row 6.*'wolf'"):
        read(path)


def test_an_odd_row_beside_another_column_of_numbers_is_no_logit(tmp_path):
    path = tmp_path / "probs.csv"
    rows = shares(n=20, labels=np.zeros(20, int))
    rows[3] *= 1.5
    table(rows).assign(entropy=np.arange(20) / 7).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"row 4 sums to 1\.5"):
        read(path, known=images(np.zeros(20, int)))


# ---- rows


FILES = [f"/data/photos/test/{CLASSES[label]}/{n}.png" for n, label in enumerate(LABELS)]


@pytest.mark.parametrize(
    "name",
    [
        lambda file: file,
        lambda file: file.removeprefix("/data/"),
        lambda file: file.rpartition("/")[2],
        lambda file: file.rpartition("/")[2].removesuffix(".png"),
        lambda file: file.replace("/data", "D:\\elsewhere").replace("/", "\\"),
    ],
)
def test_rows_are_matched_by_the_names_of_files(tmp_path, name):
    path = tmp_path / "probs.csv"
    table().assign(file=[name(file) for file in FILES]).sample(frac=1, random_state=0).to_csv(
        path, index=False
    )
    found = read(path, known=images(names=FILES))
    assert np.allclose(found_shares(found), shares(), atol=1e-6)


def test_file_names_with_leading_zeros_stay_text(tmp_path):
    path = tmp_path / "probs.csv"
    names = [f"/photos/{n:03}.png" for n in range(8)]
    table().assign(id=[f"{n:03}" for n in range(8)]).to_csv(path, index=False)
    assert "file name" in read(path, known=images(names=names)).rows


def test_an_index_of_names_with_leading_zeros_stays_text(tmp_path):
    path = tmp_path / "probs.csv"
    names = [f"/photos/{n:03}.png" for n in (3, 1, 2, 0, 7, 5, 6, 4)]
    table().set_axis([name[8:11] for name in names], axis="index").sort_index()[::-1].to_csv(path)
    assert np.allclose(found_shares(read(path, known=images(names=names))), shares(), atol=1e-6)
    table().set_axis([name[8:11] for name in names], axis="index").sort_index().to_csv(path)
    assert np.allclose(found_shares(read(path, known=images(names=names))), shares(), atol=1e-6)


def test_an_index_of_decimal_numbers_is_no_name(tmp_path):
    path = tmp_path / "probs.csv"
    path.write_text("cat,dog,label\n.5,.4,.1,cat\n.3,.6,.1,dog\n")  # without the name of a class
    with pytest.raises(
        InputError, match=r"first column must have whole numbers or text, found 0\."
    ):
        read(path)
    table().set_axis(np.arange(8.0), axis="index")[::-1].to_csv(path)
    assert np.allclose(found_shares(read(path)), shares(), atol=1e-6)


def test_numbers_are_those_of_file_names_with_leading_zeros(tmp_path):
    path = tmp_path / "probs.csv"
    numbers = [3, 1, 2, 10, 7, 5, 6, 4]
    table().assign(image=numbers)[::-1].to_csv(path, index=False)
    found = read(path, known=images(names=[f"/photos/{n:03}.png" for n in numbers]))
    assert np.allclose(found_shares(found), shares(), atol=1e-6)
    assert found.rows == "matched by the number in the name"


def test_leading_zeros_hide_no_second_order(tmp_path):
    path = tmp_path / "probs.csv"
    known = images(names=[f"/photos/{n:03}.png" for n in (3, 1, 2, 0, 7, 5, 6, 4)])
    table().assign(image=range(8)).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"by key and by the number in the name.*the column 'key'"):
        read(path, known=known)


def test_one_file_name_in_two_folders_needs_the_folder(tmp_path):
    path = tmp_path / "probs.csv"
    names = [f"/photos/{CLASSES[label]}/{n // 3}.png" for n, label in enumerate(LABELS)]
    assert len({name.rpartition("/")[2] for name in names}) < 8
    short = ["/".join(name.split("/")[-2:]) for name in names]
    table().assign(image=short)[::-1].to_csv(path, index=False)
    found = read(path, known=images(names=names))
    assert np.allclose(found_shares(found), shares(), atol=1e-6)
    assert found.rows == "matched by the last 2 parts of the path"


NUMBERED = ["/photos/cat/0.png", "/photos/cat/2.png", "/photos/dog/1.png", "/photos/dog/3.png"]


def test_numbers_that_are_both_places_and_file_names_are_refused_until_one_is_meant(tmp_path):
    path, known = tmp_path / "probs.csv", images(np.array([0, 0, 1, 1]), names=NUMBERED)
    rows = table(shares(n=4, labels=known.labels))
    rows.assign(image=range(4)).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"by key and by file name .*suffix.*the column 'key'"):
        read(path, known=known)
    rows.assign(key=range(4)).to_csv(path, index=False)
    assert np.allclose(found_shares(read(path, known=known)), rows, atol=1e-6)
    rows.assign(image=[f"{n}.png" for n in range(4)]).to_csv(path, index=False)
    assert np.allclose(found_shares(read(path, known=known)), rows.iloc[[0, 2, 1, 3]], atol=1e-6)
    rows.assign(image=[3, 2, 1, 0]).to_csv(path, index=False)  # both ways are the same order
    plain = known._replace(names=[f"/photos/{n}.png" for n in range(4)])
    assert np.allclose(found_shares(read(path, known=plain)), rows[::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 6], "1 keys more than once: '6'"),
        ([0, 1, 2, 3, 4, 5, 6, 9], "1 images have no row: '7'; 1 rows have a key of no image: '9'"),
        ([0, 1, 2, 3], "4 images have no row: '4', '5', '6', '7'"),
    ],
)
def test_rows_that_are_missing_extra_or_twice_are_counted_and_named(tmp_path, keys, told):
    path = tmp_path / "probs.csv"
    table()[: len(keys)].assign(key=keys).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"probs\.csv") as error:
        read(path)
    assert told in str(error.value)


def test_other_images_in_a_file_of_validation_are_answered_with_its_name(tmp_path):
    for name, told in (("new-val.csv", True), ("new.csv", False)):
        table().assign(key=range(8, 16)).to_csv(tmp_path / name, index=False)
        with pytest.raises(InputError) as error:
            read(tmp_path / name)
        assert ("; call a file of validation images MODEL-validation" in str(error.value)) == told


def test_only_whole_numbers_are_numbers_of_file_names(tmp_path):
    path = tmp_path / "probs.csv"
    known = images(names=[f"/photos/{n:03}.png" for n in range(1, 9)])
    table().assign(key=[f"{n}.2" for n in range(1, 9)]).to_csv(path, index=False)
    with pytest.raises(InputError, match="8 rows have a key of no image"):
        read(path, known=known)


def test_another_number_of_rows_needs_keys(tmp_path):
    path = tmp_path / "probs.csv"
    table()[:7].to_csv(path, index=False)
    with pytest.raises(InputError, match=r"has 7 rows, and the test images has 8.*--key-column"):
        read(path)


def test_labels_beside_the_predictions_must_be_those_of_the_data(tmp_path):
    path = tmp_path / "probs.csv"
    names = np.array(CLASSES)[LABELS]
    table().assign(label=names).to_csv(path, index=False)
    assert read(path).logits.shape == (8, 3)
    table().assign(label=np.roll(names, 1)).to_csv(path, index=False)
    with pytest.raises(InputError, match=r"6 of 8 labels .* 'dog' for an image of 'cat'"):
        read(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ("cat,dog,fox\n", "has no rows"),
        ("cat,dog,cat\n1,0,0\n", "more than one column called 'cat'"),
        ("cat,dog,fox\n.5,.5,0\n.5,,.5\n", "has '' in row 2 of the column 'dog'"),
        ("cat,dog,fox\n.5,.5,0\n.5,abc,.5\n.1,.1,.8\n", "has 'abc' in row 2"),
        ("cat,dog,fox\n.5,.5,0\n.5,.5,0,0,7\n", "5 cells in row 2, and the header has 3"),
        ("cat,dog,fox\n.5,nan,0\n", "where a number must be"),
        ("cat,dog,fox,site\n.5,.5,0,a\n.5,.5,0,b\n", "text in the column 'site'"),
        ("p\n0.5\n0.4\n", "one column of outputs"),
        ("cat,dog,wolf\n.5,.5,0\n", "no class for 1 of the data's 3: 'fox'"),
        ("cat,dog,fox\n1,2,inf\n", "not finite in row 1"),
        (b"a;b\n\xff;\x001\n", "not a text file"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, content, told):
    path = tmp_path / "probs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"probs\.csv") as error:
        read(path, known=images(np.array([0, 1])))
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["damaged.npz", "damaged.npy", "damaged.parquet"])
def test_a_damaged_file_is_one_sentence(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match=f"{name}'? cannot be read"):
        read(path)
    np.savez(tmp_path / "objects.npz", probs=np.array([[None, {}]], dtype=object))
    with pytest.raises(InputError, match=r"objects\.npz cannot be read"):
        read(tmp_path / "objects.npz")


def test_content_that_is_no_number_is_one_sentence(tmp_path):
    texts, holes, short = (tmp_path / f"{name}.parquet" for name in ("texts", "holes", "short"))
    pq.write_table(pa.table({"probs": [["a", "b"], ["c", "d"]]}), texts)
    with pytest.raises(InputError, match=r"'probs' of texts\.parquet .*numbers, found string"):
        read(texts)
    pq.write_table(pa.table({"probs": [[0.5, None], [0.5, 0.5]]}), holes)
    with pytest.raises(InputError, match=r"holes\.parquet has nan in row 1"):
        read(holes)
    pq.write_table(pa.table({"probs": [[0.5, 0.5], None]}), short)
    with pytest.raises(InputError, match="must all have one length"):
        read(short)
    commas = tmp_path / "commas.csv"
    row = '.png,"0,5","0,25","0,25"\n'
    commas.write_text(f"file,cat,dog,fox\na{row}b{row}")
    with pytest.raises(InputError, match=r"commas\.csv, column .cat. has .0,5.: .* decimal point"):
        read(commas)
    nothing = tmp_path / "nothing.csv"
    nothing.write_text("file;site\na.png;x\nb.png;y\n")
    with pytest.raises(InputError, match=r"nothing\.csv has no column of numbers"):
        read(nothing)


def test_labels_that_are_no_text_are_one_sentence(tmp_path):
    np.savez(tmp_path / "bytes.npz", probs=np.full((2, 3), 1 / 3), labels=np.array([b"a", b"\xff"]))
    with pytest.raises(InputError, match=r"bytes\.npz, 'labels' has b'.xff' in row 2, .*neither"):
        read(tmp_path / "bytes.npz")


def test_compressed_arrays_that_are_damaged_are_one_sentence(tmp_path):
    path = tmp_path / "probs.npz"
    np.savez_compressed(path, probs=shares(n=200, labels=np.zeros(200, int)))
    content = bytearray(path.read_bytes())
    content[200:300] = b"\xff" * 100
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"probs\.npz cannot be read"):
        read(path)


# ---- which file has which predictions


def test_a_folder_names_models_seeds_and_shifts(tmp_path):
    for name in ("a-seed0", "a-seed0-fog,2", "a-seed1-imagenet_c__fog,3", "b-50", "a-validation"):
        table().to_csv(tmp_path / f"{name}.csv", index=False)
    (tmp_path / "README.md").write_text("not of predictions")
    assert [each[:4] for each in find_predictions(tmp_path)] == [
        ("a", 0, "fog", 2.0),
        ("a", 0, "clean", None),
        ("a", 1, "imagenet_c/fog", 3.0),
        ("a", 0, "validation", None),
        ("b-50", 0, "clean", None),
    ]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("a", "b", "A"), "the models 'a' and 'A' differ only in upper and lower case"),
        (("a", "a-Fog,1", "b-fog,2"), "the shifts 'Fog' and 'fog' differ only"),
    ],
)
def test_names_that_would_share_a_file_where_case_does_not_count_are_refused(names, told):
    with pytest.raises(InputError, match=told):
        list_in_memory({name: table() for name in names})


@pytest.mark.parametrize("delimiter", [",", ";", None])
def test_a_mapping_file_says_what_its_files_are(tmp_path, delimiter):
    entries = [
        {"file": "one.csv", "model": "a", "seed": 3},
        {"file": "two.csv", "model": "a", "seed": 3, "shift": "scanner", "level": 1.5},
    ]
    path = tmp_path / ("mapping.csv" if delimiter else "mapping.yaml")
    if delimiter is None:
        path.write_text(yaml.safe_dump(entries))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(entries[1]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(entries)
    found = find_predictions(path)
    assert [each[:4] for each in found] == [("a", 3, "clean", None), ("a", 3, "scanner", 1.5)]
    assert [each.content for each in found] == [tmp_path / "one.csv", tmp_path / "two.csv"]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"model": "a"}, "must name a file"),
        ({"file": "a.csv", "modell": "a"}, "did you mean 'model'"),
        ({"file": "a.csv", "shift": "fog"}, "'fog' needs a level"),
        ({"file": "a.csv", "shift": "clean", "level": 1}, "clean has no level"),
        ({"file": "a.csv", "seed": -1}, "seed must be a whole number"),
        ({"file": "a.csv", "model": "../a"}, "a model is named with letters"),
        ({"file": "a.csv", "shift": "fog", "level": "strong"}, "level of fog must be a number"),
    ],
)
def test_a_wrong_entry_of_a_mapping_is_named(tmp_path, entry, told):
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump([entry]))
    with pytest.raises(InputError, match=r"entry 1") as error:
        find_predictions(path)
    assert told in str(error.value)


# ---- whole runs


def labelled(seed=0, n=60, strength=2.0):
    """A table with labels inside, of 60 images."""
    labels = np.arange(n) % 3
    return table(shares(seed, n, labels, strength)).assign(label=np.array(CLASSES)[labels])


def test_a_file_with_labels_is_measured_without_model_and_images(tmp_path, draw):
    path = tmp_path / "vendor.csv"
    labelled().round(4).to_csv(path)
    said = []
    run = fw.evaluate(
        f"predictions:{path}", out=tmp_path / "run", bootstrap=100, progress=keep_lines(said)
    )
    scores = run.scores.set_index("metric")["value"]
    logits, labels = np.log(shares(0, 60, np.arange(60) % 3).round(4)), np.arange(60) % 3
    assert scores["accuracy"] == pytest.approx(accuracy(logits.argmax(1) == labels), abs=1e-7)
    nll = -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[np.arange(60), labels]
    assert scores["negative_log_likelihood"] == pytest.approx(
        negative_log_likelihood(nll), abs=1e-5
    )
    text = "\n".join(said)
    assert "rounded to 4 decimals" in text
    assert "counts the rows" in text
    assert "n = 60, without images" in text
    record = run.record
    assert record.kind == "evaluation"
    assert "rounded to 4 decimals" in record.models["vendor"].settings["read: outputs"]
    assert (run.path / "report.html").is_file()
    assert not (run.path / "samples").exists()
    draw(run)
    page = (run.path / "report.html").read_text()
    assert "What it sees" not in page
    assert "rounded to 4 decimals" in page
    assert all(each.passed for each in judge(run.folder, read_rules(["accuracy[clean] >= 0.5"])))


def test_models_seeds_and_shifts_are_one_run(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for model, strength in (("a", 2.0), ("b", 1.0)):
        for seed in (0, 1):
            name = f"{model}-seed{seed}"
            labelled(seed, strength=strength).to_csv(folder / f"{name}.csv", index=False)
            weaker = labelled(seed, strength=strength / 2).drop(columns="label")
            weaker.to_csv(folder / f"{name}-scanner_b,1.csv", index=False)
            weaker.to_csv(folder / f"{name}-imagenet_c__fog,3.csv", index=False)
    run = fw.evaluate(f"predictions:{folder}", out=tmp_path / "run", bootstrap=100)
    rows = run.scores[run.scores["metric"] == "accuracy"]
    assert set(rows["model"]) == {"a", "b"}
    assert set(rows["seed"]) == {"0", "1", "mean", "sd"}
    assert {"clean", "scanner_b", "imagenet_c/fog", "all"} <= set(rows["shift"])
    assert {sweep.title for sweep in run.record.sweeps} == {"scanner_b", "Fog"}
    compared = fw.compare_runs(f"{run.path}:a", f"{run.path}:b")
    assert {"clean", "scanner_b", "imagenet_c/fog"} <= set(compared["shift"])
    (folder / "b-seed1-scanner_b,1.csv").unlink()
    with pytest.raises(InputError, match="model b, seed 1, for scanner_b,level=1"):
        fw.evaluate(f"predictions:{folder}", out=tmp_path / "other", bootstrap=100)
    assert not (tmp_path / "other").exists()


def test_the_predictions_of_a_run_give_its_scores_again(colour_folder, tmp_path):
    """What was predicted here, written as a CSV and read again, has the same numbers."""
    model = "timm:test_resnet"
    data = dataclasses.replace(fw.load_data(f"folder:{colour_folder}"), val=None)
    first = fw.evaluate(
        fw.load_model(model, weights="none", classes=3, input_size=160),
        data,
        "brightness_factor: [0.5]",
        out=tmp_path / "first",
        bootstrap=100,
        device="cpu",
    )
    folder = tmp_path / "theirs"
    folder.mkdir()
    name = next(iter(first.record.models))
    for shift, file in (
        ("clean", "m"),
        ("brightness_factor,factor=0.5", "m-brightness_factor,0.5"),
    ):
        stored = first.folder.read_predictions(predictions_file(name, 0, shift))
        frame = pd.DataFrame(stored.logits[:, ::-1], columns=sorted(COLOURS)[::-1])
        frame.assign(key=stored.keys).sample(frac=1, random_state=1).to_csv(
            folder / f"{file}.csv", index=False
        )
    said = []
    again = fw.evaluate(
        f"predictions:{folder}",
        f"folder:{colour_folder}",
        out=tmp_path / "again",
        bootstrap=100,
        progress=keep_lines(said),
    )
    ours, theirs = (run.scores.drop(columns="model") for run in (first, again))
    pd.testing.assert_frame_equal(ours, theirs, rtol=1e-4, atol=1e-6)
    assert (again.path / "samples" / "pictures.parquet").is_file()
    assert "matched by key" in "\n".join(said)
    # The images are the same, so the runs can be compared, image by image.
    assert fw.compare_runs(first.path, again.path)["difference"].abs().max() < 1e-4


def test_an_interrupted_evaluation_goes_on_and_changed_files_are_noticed(tmp_path):
    path, out = tmp_path / "probs.csv", tmp_path / "run"
    labelled().to_csv(path, index=False)
    fw.evaluate(f"predictions:{path}", out=out, bootstrap=100)
    step = out / "predictions" / "probs" / "seed-0" / "test" / "clean.parquet"
    before = step.stat().st_mtime_ns
    fw.evaluate(f"predictions:{path}", out=out, bootstrap=100)
    assert step.stat().st_mtime_ns == before
    labelled(seed=5).to_csv(path, index=False)
    with pytest.raises(InputError, match="made with other settings: predictions/probs"):
        fw.evaluate(f"predictions:{path}", out=out, bootstrap=100)
    fw.evaluate(f"predictions:{path}", out=out, bootstrap=100, replace=True)
    assert step.stat().st_mtime_ns != before


def test_a_temperature_is_fitted_only_on_predictions_of_validation_images(tmp_path):
    tables = {"m": labelled(), "m-validation": labelled(seed=1, n=90)}
    run = fw.evaluate(
        predictions=tables, variants=["temperature"], out=tmp_path / "run", bootstrap=100
    )
    assert set(run.scores["model"]) == {"m", "m+temperature"}
    with pytest.raises(InputError, match=r"MODEL-validation\.csv"):
        fw.evaluate(predictions=labelled(), variants=["temperature"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"variants": ["batchnorm"]}, "batchnorm cannot be measured of predictions"),
        ({"shifts": "pgd,epsilon=0.1"}, "shifts cannot be applied to predictions"),
        ({"precision": "bf16"}, "precision cannot be given for predictions"),
        ({"size": 32}, "size goes with a data set"),
        ({"label_column": "truth"}, "unknown column of predictions 'truth'"),
        ({"outputs": "probability"}, "did you mean 'probabilities'"),
        ({"classes": ["a", "b"]}, "names 2 classes"),
        ({"labels": [0, 1]}, "has labels, and labels are given too"),
        ({"model": "timm:resnet18"}, "both are given"),
    ],
)
def test_what_makes_no_sense_for_predictions_is_refused(options, told):
    with pytest.raises(InputError) as error:
        fw.evaluate(predictions=labelled(), **options)
    assert told in str(error.value)


def test_predictions_under_an_attack_have_a_name_of_their_own(tmp_path):
    tables = {"m": labelled(), "m-pgd,0.1": labelled(seed=1)}
    with pytest.raises(InputError, match=r"pgd is an attack of fairweather.*my_pgd"):
        fw.evaluate(predictions=tables)


@pytest.mark.parametrize(
    ("name", "level", "told"),
    [
        ("natural/b", 1, "cannot be called 'natural/b'"),
        ("all", 1, "cannot be called 'all'"),
        ("a=b", 1, "cannot be called 'a=b'"),
        ("fog", 0, "a number other than 0"),
        ("quick", 1, "quick is a suite"),
        ("imagenet_c/fog", 9, "severity"),
    ],
)
def test_a_shift_has_a_name_and_a_level_that_mean_one_thing(name, level, told):
    with pytest.raises(InputError) as error:
        make_external_shift(name, level)
    assert told in str(error.value)
    assert parse_external_shift(make_external_shift("scanner/b", 1.5).id) == make_external_shift(
        "scanner/b", 1.5
    )


def test_an_array_needs_labels():
    with pytest.raises(InputError, match="has no labels"):
        fw.evaluate(predictions=shares())
    run = fw.evaluate(predictions=shares(), labels=LABELS, bootstrap=100)
    assert run.record.data.classes == ("0", "1", "2")


def test_rows_without_keys_are_not_matched_with_those_that_have_some():
    keyed = labelled().assign(file=[f"{n % 7}-{n}.png" for n in range(60)])
    plain = labelled(seed=1).drop(columns="label")
    with pytest.raises(InputError, match=r"'a-fog,3' has no column of keys, and .*'a' has one"):
        fw.evaluate(predictions={"a": keyed, "a-fog,3": plain})


def test_labels_with_the_index_of_another_order_are_refused():
    frame = labelled()
    labels, frame = frame["label"], frame.drop(columns="label").sample(frac=1, random_state=0)
    for given in (labels, labels[::-1]):
        with pytest.raises(InputError, match=r"labels .* index .*labels\.loc\[table\.index\]"):
            fw.evaluate(predictions=frame, labels=given)
    with pytest.raises(InputError, match="index"):
        fw.evaluate(predictions={"a": frame, "a-fog,3": frame}, labels=labels)
    right = labels.loc[frame.index]
    run = fw.evaluate(predictions=frame, labels=right, bootstrap=100)
    value = run.scores.set_index("metric")["value"]["accuracy"]
    assert value == pytest.approx((frame.idxmax(axis="columns") == right).mean())


def test_the_record_has_the_order_the_points_and_no_folder_of_the_machine(tmp_path):
    labelled().to_csv(tmp_path / "theirs.csv", index=False)
    entries = [{"file": str(tmp_path / "theirs.csv"), "model": "a"}]
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(entries))
    run = fw.evaluate(
        f"predictions:{tmp_path / 'mapping.yaml'}",
        ordered_classes=True,
        operating_points=("cat=0.9",),
        out=tmp_path / "run",
        bootstrap=100,
    )
    record = run.record
    assert record.data.ordered
    assert record.settings.operating_points == {"cat": 0.9}
    assert record.models["a"].settings["source"] == "predictions:mapping.yaml"
    assert "theirs.csv" in record.models["a"].facts["files"]
    assert str(tmp_path) not in (run.path / "record.json").read_text()


def test_files_of_one_name_in_two_folders_stay_apart_in_the_record(tmp_path):
    entries = []
    for seed in (0, 1):
        (tmp_path / f"seed{seed}").mkdir()
        labelled(seed).to_csv(tmp_path / f"seed{seed}" / "a.csv", index=False)
        entries.append({"file": str(tmp_path / f"seed{seed}" / "a.csv"), "seed": seed})
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "mapping.yaml").write_text(yaml.safe_dump(entries))
    source = f"predictions:{tmp_path / 'lists' / 'mapping.yaml'}"
    run = fw.evaluate(source, out=tmp_path / "run", bootstrap=100)
    assert len(run.record.models["a"].facts["files"]) == 2
    assert str(tmp_path) not in (run.path / "record.json").read_text()


@pytest.mark.parametrize("separator", [";", "\t"])
@pytest.mark.parametrize("headed", [True, False])
def test_decimal_commas_are_read_and_said(tmp_path, separator, headed):
    path, wanted = tmp_path / "commas.csv", tmp_path / "points.csv"
    frame = table().round(5)
    frame.to_csv(wanted, index=False)
    frame.to_csv(path, index=False, sep=separator, decimal=",", header=headed)
    found = read(path)
    assert np.array_equal(found.logits, read(wanted).logits)
    assert any("decimal commas" in note for note in found.notes)
    mixed = path.read_text().replace(",", ".", 1)
    path.write_text(mixed)
    with pytest.raises(InputError, match=r"commas\.csv.* has '0,[0-9]+'.*number must be|point"):
        read(path)


GRADES = ("grade_0", "grade_1", "grade_2")


@pytest.mark.parametrize(
    "columns",
    [
        GRADES,
        [f"prob_{name}" for name in GRADES],
        [f"logit.{name}" for name in GRADES],
        ["p0", "p1", "p2"],
        ["0", "1", "2"],
    ],
)
def test_columns_match_the_labels_own_names(tmp_path, columns):
    labels = np.array(GRADES)[LABELS]
    frame = table(names=columns).assign(label=labels)
    run = fw.evaluate(predictions=frame, out=tmp_path / "run", bootstrap=100)
    assert run.record.data.classes == GRADES
    value = run.scores.set_index("metric")["value"]["accuracy"]
    assert value == pytest.approx((shares().argmax(1) == LABELS).mean())
    known = images()
    rows = read_rows(frame.drop(columns="label"), "the table", RowOptions())
    assert found_shares(match_predictions(rows, GRADES, known, RowOptions())) == pytest.approx(
        shares()
    )


def test_names_of_columns_stay_without_affixes_where_labels_are_numbers(tmp_path):
    frame = table(names=GRADES).assign(label=LABELS)
    run = fw.evaluate(predictions=frame, out=tmp_path / "run", bootstrap=100)
    assert run.record.data.classes == ("0", "1", "2")


def clinic(tmp_path, key="image", label="label"):
    """Predictions without labels, and a table with the labels, patients and sites."""
    names = [f"{number:02d}.png" for number in range(len(LABELS))]
    table().assign(image=names).to_csv(tmp_path / "probs.csv", index=False)
    rows = {
        key: names,
        label: np.array(CLASSES)[LABELS],
        "patient": [f"P{number // 2}" for number in range(len(LABELS))],
        "site": ["north", "south"] * 4,
    }
    pd.DataFrame(rows).sample(frac=1, random_state=0).to_csv(tmp_path / "clinic.csv", index=False)
    return {
        "predictions": tmp_path / "probs.csv",
        "group": "patient",
        "slices": ["site"],
        "out": tmp_path / "run",
        "bootstrap": 100,
    }


@pytest.mark.parametrize("given", ["labels", "metadata"])
@pytest.mark.parametrize(("key", "label"), [("image", "label"), ("photo", "dx")])
def test_patients_sites_and_labels_are_in_one_table_without_images(tmp_path, given, key, label):
    asked = clinic(tmp_path, key, label)
    names = {"key_column": key, "label_column": label} if key == "photo" else {}
    run = fw.evaluate(**asked, **names, **{given: tmp_path / "clinic.csv"})
    scores = run.scores.set_index("metric")
    assert scores["value"]["accuracy"] == pytest.approx((shares().argmax(1) == LABELS).mean())
    assert scores["groups"]["accuracy"] == 4
    right = shares().argmax(1) == LABELS
    slices = RunFolder(run.path).slice_scores.set_index(["slice", "metric"])["value"]
    assert slices["site=north", "accuracy"] == pytest.approx(right[::2].mean())


def test_labels_beside_predictions_come_before_those_of_metadata(tmp_path):
    asked = clinic(tmp_path)
    wrong = np.array(CLASSES)[(LABELS + 1) % 3]
    frame = pd.read_csv(tmp_path / "probs.csv").assign(dx=wrong)
    frame.to_csv(tmp_path / "probs.csv", index=False)
    run = fw.evaluate(**asked, metadata=tmp_path / "clinic.csv", label_column="dx")
    value = run.scores.set_index("metric")["value"]["accuracy"]
    assert value == pytest.approx((shares().argmax(1) == (LABELS + 1) % 3).mean())


def test_columns_that_no_table_has_are_one_sentence(tmp_path):
    asked = clinic(tmp_path, label="dx")
    for given, told in (
        ({"labels": tmp_path / "clinic.csv"}, "name it with --label-column"),
        ({"labels": tmp_path / "clinic.csv", "label_column": "xd"}, "column of clinic.csv 'xd'"),
        ({"metadata": tmp_path / "clinic.csv"}, "probs.csv has no labels: name their column"),
        ({"metadata": tmp_path / "clinic.csv", "key_column": "id"}, "column of probs.csv 'id'"),
    ):
        with pytest.raises(InputError, match=told):
            fw.evaluate(**asked, **given)
    assert not (tmp_path / "run").exists()


def test_labels_that_are_given_beside_a_file_are_used(tmp_path):
    path = tmp_path / "probs.csv"
    table().to_csv(path, index=False)
    labels = np.array(CLASSES)[LABELS]
    run = fw.evaluate(predictions=path, labels=labels, out=tmp_path / "run", bootstrap=100)
    value = run.scores.set_index("metric")["value"]["accuracy"]
    assert value == pytest.approx((shares().argmax(1) == LABELS).mean())


def test_the_images_of_predictions_are_listed(colour_folder, tmp_path):
    data = fw.load_data(f"folder:{colour_folder}")
    rows = np.full((len(data.test), 3), 1 / 3)
    run = fw.evaluate(
        predictions=rows, dataset=f"folder:{colour_folder}", out=tmp_path / "run", bootstrap=100
    )
    assert (run.path / "images" / "test.csv").is_file()


def test_the_command_line_says_what_it_assumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = labelled().rename(columns={"label": "diagnosis"})
    frame[["diagnosis", "fox", "dog", "cat"]].to_csv("probs.csv")
    asked = ["evaluate", "predictions:probs.csv", "--bootstrap", "100"]
    refused = CliRunner().invoke(app, asked)
    assert isinstance(refused.exception, InputError)
    assert "--label-column" in str(refused.exception)
    assert not (tmp_path / "runs").exists()
    done = CliRunner().invoke(app, [*asked, "--label-column", "diagnosis", "--quiet"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "runs" / "probs" / "scores.csv").is_file()
    missing = CliRunner().invoke(app, ["evaluate", "timm:resnet18"])
    assert "name the data set" in str(missing.exception)
    named = CliRunner().invoke(app, ["evaluate", "timm:resnet18", "mnist5k", "--key-column", "id"])
    assert "key_column goes with predictions:" in str(named.exception)


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    """The same predictions from another file are the same step; others are another."""
    from fairweather.requests.evaluation.run import make_request

    def prints(frame, name):
        frame.to_csv(tmp_path / name, index=False)
        request = make_request(f"predictions:{tmp_path / name}", None, "quick", {})
        plan = make_plan(request.make_inputs(torch.device("cpu"), silent))
        return [step_fingerprint(step, {}) for step in plan.steps if step.kind == "predict"]

    one, shuffled = labelled(), labelled()[["label", "fox", "dog", "cat"]]
    assert prints(one, "a.csv") == prints(one, "b.csv")
    assert prints(one, "a.csv") != prints(labelled(seed=3), "c.csv")
    assert prints(one, "a.csv") != prints(shuffled, "d.csv")  # the order of the classes is another


def test_a_class_without_images_is_told_and_a_column_that_may_be_something_else_refused(
    tmp_path, undrawn
):
    names, labels = np.array(["a", "b", "c"]), LABELS % 2
    table = pd.DataFrame(shares(), columns=names)
    file, run = tmp_path / "theirs.csv", tmp_path / "run"
    command = ["evaluate", f"predictions:{file}", "--out", str(run), "--bootstrap", "100"]

    def told(frame, *options):
        frame.to_csv(file, index=False)
        ended = fairweather(*command, *options)
        return ended.returncode, ended.stdout + ended.stderr

    none = "no row has the label of 1 of the 3 classes ('c')"
    status, text = told(table.assign(label=names[labels]))
    assert status == 0
    assert f"; {none}\n" in text
    scores = pd.read_csv(run / "scores.csv").query("metric == 'sensitivity/c'")
    assert scores["n"].tolist() == [0]
    status, text = told(np.log(table).add(1).assign(label=names[labels]))
    assert status == 2
    assert f"{none}: leave out" in text
    status, text = told(table.assign(label=names[labels], age=20.5 + LABELS))
    assert status == 2
    assert "2 of the 4 classes ('c', 'age'): leave out" in text
    status, text = told(table.assign(label=labels + 1))
    assert status == 2
    assert "('a'), and labels that are numbers begin at 0" in text
    status, text = told(table.set_axis(list("012"), axis=1).assign(label=labels + 1))
    assert status == 2
    assert "('0'), and labels that are numbers begin at 0" in text
    assert told(table.assign(label=labels))[0] == 0


def test_a_model_that_may_be_another_one_under_a_shift_is_told(tmp_path, undrawn):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("net", "net-fog", "network"):
        pd.DataFrame(shares(), columns=list("abc")).assign(label=LABELS).to_csv(
            folder / f"{name}.csv", index=False
        )
    ended = fairweather(
        "evaluate", f"predictions:{folder}", "--out", tmp_path / "run", "--bootstrap", "100"
    )
    assert ended.returncode == 0
    assert "if it is net under a shift, write the level behind a comma: net-fog,3" in ended.stdout
    assert "network is taken" not in ended.stdout


def two_classes(images, seed):
    rng = np.random.default_rng(seed)
    truth = rng.random(images) < 0.5
    score = 1 / (1 + np.exp(-(3 * truth - 1.5 + rng.normal(0, 1, images))))
    columns = {"key": np.arange(images) + 1000 * seed, "label": np.where(truth, "ill", "well")}
    return pd.DataFrame(columns | {"ill": score, "well": 1 - score})


def test_a_target_of_a_class_is_kept_by_the_threshold_of_its_validation_images(tmp_path):
    tables = {"m": two_classes(200, 1), "m-validation": two_classes(300, 2)}
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    points = ("ill=sensitivity=0.9", "ill=0.5")
    run = fw.evaluate(
        f"predictions:{tmp_path}", operating_points=points, out=tmp_path / "run", bootstrap=100
    )
    known = tables["m-validation"]
    target = TargetRate("sensitivity", 0.9)
    threshold = choose_threshold(
        known["ill"].to_numpy(), (known["label"] == "ill").to_numpy(), target
    )
    rows = run.scores.set_index("metric")["value"]
    assert rows["threshold/ill@sensitivity=0.9"] == pytest.approx(threshold)
    test = tables["m"]
    for rate, name in (("sensitivity", "ill"), ("specificity", "well")):
        of_rate = test[test["label"] == name]
        right = ((of_rate["ill"] >= threshold) == (name == "ill")).mean()
        assert rows[f"{rate}/ill@{target}"] == pytest.approx(right)
    rule = read_rules(["sensitivity@sensitivity=0.9[clean|class=ill] >= 0.5"])
    verdict = judge(RunFolder(run.path), rule)[0]
    assert verdict.value == pytest.approx(rows["sensitivity/ill@sensitivity=0.9"])


@pytest.mark.parametrize(
    ("point", "complaint"),
    [
        ("sensitivity=0.99", "99 % sensitivity of ill .* at least 299 .* that have it, found 1"),
        ("ill=specificity=0.99", "99 % specificity of ill .* at least 299 .* do not have it"),
    ],
)
def test_a_target_that_too_few_validation_images_could_show_is_refused(tmp_path, point, complaint):
    for name, seed in (("m", 1), ("m-validation", 2)):
        two_classes(300, seed).to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(InputError, match=complaint):
        fw.evaluate(f"predictions:{tmp_path}", operating_points=(point,), out=tmp_path / "run")
    with pytest.raises(InputError, match="give these too, as the shift validation"):
        fw.evaluate(f"predictions:{tmp_path / 'm.csv'}", operating_points=(point,))
