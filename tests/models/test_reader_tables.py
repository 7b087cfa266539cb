"""Tables of what people call the test images: their forms, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from fairweather.errors import InputError
from fairweather.models.predictions.matching import KnownImages, find_images
from fairweather.models.predictions.readers import (
    describe_readers,
    list_reader_tables,
    match_readers,
)
from fairweather.types.measurement import UNKNOWN, Groups
from fairweather.types.positive import parse_positive

NAMES = ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]
FINDINGS = KnownImages(
    np.array([[1, 0], [0, 1], [1, 1], [0, 0]]), np.arange(4), NAMES, "the test images", True
)
PETS = KnownImages(np.array([0, 1, 2, 0]), np.arange(4), NAMES, "the test images", True)
ONE = FINDINGS._replace(labels=FINDINGS.labels[:, :1])
BOTH, KINDS = ("Mass", "Pleural Effusion"), ("cat", "dog", "fox")


def read(frame, images=FINDINGS, classes=BOTH, **options):
    return match_readers(list_reader_tables(frame), images, classes, **options)


LONG = pd.DataFrame(
    {
        "file": ["1", "2", "3", "4", "1", "2"],
        "Reader": ["ann"] * 4 + ["bob"] * 2,
        "Mass": [1, 0, 1, 0, "present", "absent"],
        "pleural effusion": [0, 1, 1, 0, "", 1],
        "Age": [61, 40, 39, 70, 61, 40],
    }
)


def test_a_column_of_readers_and_one_for_each_finding():
    calls = read(LONG)
    assert calls.readers == ("ann", "bob")
    assert calls.calls[:, 0].tolist() == FINDINGS.labels.tolist()
    assert calls.calls[:, 1].tolist() == [[1, UNKNOWN], [0, 1]] + [[UNKNOWN, UNKNOWN]] * 2
    assert describe_readers(calls) == "2 readers of 4 images: ann 4, bob 2"


def test_the_order_of_rows_does_not_matter():
    assert (read(LONG[::-1].reset_index(drop=True)).calls[:, ::-1] == read(LONG).calls).all()


def test_a_column_for_each_reader_of_one_finding():
    table = pd.DataFrame({"key": [3, 0, 1, 2], "ann": [0, 1, 0, 1], "bob": [np.nan, 1, 0, 1]})
    calls = read(table, ONE, ("Mass",))
    assert calls.readers == ("ann", "bob")
    assert calls.calls[:, :, 0].T.tolist() == [[1, 0, 1, 0], [1, 0, 1, UNKNOWN]]


def test_a_column_for_each_reader_and_finding():
    table = pd.DataFrame(
        {
            "key": range(4),
            "ann_Mass": [1, 0, 1, 0],
            "ann_pleural effusion": [0, 1, 1, 0],
            "Mass: bob": ["yes", "no", "", "no"],
            "label_of_file": [9] * 4,
        }
    )
    calls = read(table)
    assert calls.readers == ("ann", "bob")
    assert calls.calls[:, 1, 0].tolist() == [1, 0, UNKNOWN, 0]
    assert (calls.calls[:, 1, 1] == UNKNOWN).all()


def test_a_file_for_each_reader_is_called_so(tmp_path):
    for name, mass in (("ann", [1, 0, 1, 0]), ("bob", [1, 1, 1, 0])):
        table = pd.DataFrame({"Study": NAMES, "Mass": mass, "Pleural Effusion": [0, 1, 1, 0]})
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    calls = read(tmp_path, key_column="Study")
    assert calls.readers == ("ann", "bob")
    assert calls.calls[:, 1, 0].tolist() == [1, 1, 1, 0]
    listed = read([tmp_path / "bob.csv", tmp_path / "ann.csv"], key_column="Study")
    assert listed.readers == ("bob", "ann")
    named = read({"Dr. B": tmp_path / "bob.csv"}, key_column="Study")
    assert named.readers == ("Dr. B",)
    with pytest.raises(InputError, match="no column with the keys of images, only 'Study'"):
        read(tmp_path)


def test_readers_name_classes_or_their_numbers():
    table = pd.DataFrame({"key": range(4), "ann": ["Cat", "dog", "fox", ""], "bob": [0, 2, 2, 0]})
    calls = read(table, PETS, KINDS)
    assert calls.calls[:, :, 0].T.tolist() == [[0, 1, 2, UNKNOWN], [0, 2, 2, 0]]
    long = pd.DataFrame(
        {"key": [0, 1], "rater": ["7", "7"], "Diagnosis": ["cat", "dog"], "Age": [61, 40]}
    )
    assert read(long, PETS, KINDS).readers == ("7",)


def test_semicolons_latin_1_and_parquet(tmp_path):
    text = "key;reader;call\n0;Müller;1\n1;Müller;0\n"
    (tmp_path / "calls.csv").write_bytes(text.encode("latin-1"))
    tables = list_reader_tables(tmp_path / "calls.csv")
    assert match_readers(tables, ONE, ("Mass",)).readers == ("Müller",)
    assert tables[0].remark == "calls.csv is read as Latin-1 with ';' between cells"
    frame = pd.DataFrame({"key": [0, 1], "reader": ["a", "a"], "call": [1.0, 0.0]})
    frame.to_parquet(tmp_path / "calls.parquet")
    assert read(tmp_path / "calls.parquet", ONE, ("Mass",)).calls[:2, 0, 0].tolist() == [1, 0]


def test_the_same_row_twice_is_one_call_and_two_that_differ_are_refused():
    table = pd.DataFrame({"key": [0, 0, 1], "reader": ["a"] * 3, "call": [1, 1, 0]})
    assert read(table, ONE, ("Mass",)).counts == {"a": 2}
    with pytest.raises(InputError, match="two calls of the reader 'a' that differ for the image"):
        read(table.assign(call=[1, 0, 0]), ONE, ("Mass",))
    with pytest.raises(InputError, match="that differ for the image '0'"):
        read([table, table.assign(call=[0, 0, 0])], ONE, ("Mass",))


WRONG = {
    "unknown keys": (
        {"key": [0, 17], "ann": [1, 0]},
        "1 of 2 keys of readers are not of the test images: '17'",
    ),
    "no keys": ({"ann": [1, 0]}, "no column with the keys of images, only 'ann'"),
    "an empty key": ({"key": ["", "1"], "ann": [1, 0]}, "has no key in row 1"),
    "no calls": ({"key": [0, 1]}, "has no column of calls"),
    "no reader": (
        {"key": [0, 1], "reader": ["ann", " "], "call": [1, 0]},
        "names no reader in row 2",
    ),
    "another call": (
        {"key": [0, 1], "ann": [1, 2]},
        "the call '2' of the reader 'ann' for the image '1', and a call is 0, 1, present, absent",
    ),
    "two call columns": (
        {"key": [0, 1], "reader": ["a", "a"], "x": [1, 0], "y": [1, 0]},
        "must have one column with the call, such as 'call', found 'x', 'y'",
    ),
    "one kind of images": (
        {"key": [0, 2], "ann": [1, 0]},
        "the reader 'ann' has read only images with 'Mass'",
    ),
    "the other kind": (
        {"key": [1, 3], "ann": [1, 0]},
        "the reader 'ann' has read only images without 'Mass'",
    ),
    "nothing": ({"key": [0, 1], "ann": ["", ""], "bob": [1, 0]}, "'ann' calls no test image"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_a_sentence(case):
    columns, message = WRONG[case]
    with pytest.raises(InputError, match=message):
        read(pd.DataFrame(columns), ONE, ("Mass",))


def test_a_class_that_is_none_is_told_with_the_closest():
    table = pd.DataFrame({"key": [0, 1], "ann": ["cat", "dogg"]})
    with pytest.raises(InputError, match=r"call 'dogg' .* is one of 'cat', 'dog', 'fox'; did you"):
        read(table, PETS, KINDS)
    with pytest.raises(InputError, match="has read only images with 'cat'"):
        read(pd.DataFrame({"key": [0, 3], "ann": ["cat", "dog"]}), PETS, KINDS)


def test_columns_that_name_no_finding_are_refused():
    with pytest.raises(InputError, match=r"must have a column for each finding.*found 'x', 'y'"):
        read(pd.DataFrame({"key": [0, 1], "x": [1, 0], "y": [1, 0]}))
    with pytest.raises(InputError, match="readers must be the path of a table or a DataFrame"):
        list_reader_tables(7)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no \.csv or \.tsv or \.parquet"):
        list_reader_tables(tmp_path)


def test_keys_that_fit_in_two_ways_are_refused_unless_they_are_places():
    images = FINDINGS._replace(names=["3", "2", "1", "0"], are_files=False)
    with pytest.raises(InputError, match="in different orders"):
        find_images(["0", "1"], "readers", images, are_places=False)
    assert find_images(["0", "1"], "readers", images, are_places=True).tolist() == [0, 1]


GRADES = parse_positive([">=2"], ["0", "1", "2", "3"])
MADE = parse_positive(["malignant"], ["benign", "malignant"])


def test_calls_of_classes_say_whether_the_finding_is_there_that_they_are_made_of():
    table = pd.DataFrame({"key": range(4), "ann": ["3", "0", "2", ""], "bob": ["2", "1", "2", "0"]})
    calls = read(table, ONE, (">=2",), positive=GRADES)
    assert calls.calls[:, :, 0].T.tolist() == [[1, 0, 1, UNKNOWN], [1, 0, 1, 0]]
    named = pd.DataFrame({"key": range(4), "ann": ["Malignant", "benign", "1", "absent"]})
    assert read(named, ONE, ("malignant",), positive=MADE).calls[:, 0, 0].tolist() == [1, 0, 1, 0]
    two = parse_positive([">=1", ">=2"], ["0", "1", "2"])
    both = read(
        pd.DataFrame({"key": range(4), "ann": [2, 1, 2, 0]}), FINDINGS, two.findings, positive=two
    )
    assert both.calls[:, 0].tolist() == [[1, 1], [1, 0], [1, 1], [0, 0]]


def test_calls_of_0_and_1_beside_grades_are_refused():
    table = pd.DataFrame({"key": range(4), "ann": [1, 0, 1, 0]})
    with pytest.raises(InputError, match="only the calls 0 and 1, which may be classes"):
        read(table, ONE, (">=2",), positive=GRADES)
    assert read(table, ONE, ("malignant",), positive=MADE).counts == {"ann": 4}


PATIENTS = ONE._replace(groups=Groups("patient", np.array(["p", "q", "p", "q"], dtype=object)))


def test_a_row_for_each_patient_is_one_of_each_image():
    table = pd.DataFrame({"patient": ["q", "p"], "ann": [0, 1]})
    calls = read(table, PATIENTS, ("Mass",), unit="patient")
    assert calls.calls[:, 0, 0].tolist() == [1, 0, 1, 0]
    joined = calls.join_images(np.array([0, 1, 0, 1]), "patient", mixed=False)
    assert joined.calls[:, 0, 0].tolist() == [1, 0]
    with pytest.raises(InputError, match="1 of 2 values of patient in readers have no test images"):
        read(table.replace("q", "r"), PATIENTS, ("Mass",), unit="patient")
    with pytest.raises(InputError, match="no column with the keys of images"):
        read(table, PATIENTS, ("Mass",))


def test_calls_of_images_become_calls_of_patients():
    table = pd.DataFrame({"key": range(4), "ann": [1, 0, 0, ""], "bob": [0, 0, "", 0]})
    joined = read(table, PATIENTS, ("Mass",)).join_images(
        np.array([0, 1, 0, 1]), "patient", mixed=True
    )
    assert joined.calls[:, :, 0].T.tolist() == [[1, 0], [0, 0]]
    pets = read(pd.DataFrame({"key": range(4), "ann": ["cat", "dog", "fox", "dog"]}), PETS, KINDS)
    with pytest.raises(InputError, match="'ann' calls different classes in images of one patient"):
        pets.join_images(np.array([0, 1, 0, 1]), "patient", mixed=False)
