"""Data sets whose images have several findings: tables, folders, archives and parquet files."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import fairweather as fw
from fairweather.data.loading import list_source, load_data
from fairweather.share.export import export
from fairweather.shifts.table import make_shift

SIDE = 9


def pictures(folder, count, seed=0):
    """PNG files 0.png, 1.png, ...; all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(256, size=(SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def table(folder, text, name="labels.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return f"csv:{folder / name}"


def lines_of(spec, **options):
    lines = []
    dataset = load_data(spec, progress=lambda event: lines.append(event.line), **options)
    return dataset, [line for line in lines if line]


NIH = (
    "Image Index,Finding Labels,Patient ID\n"
    "0.png,Effusion|Mass,7\n1.png,No Finding,7\n2.png,Mass,8\n3.png,Mass | Edema,9\n"
)
CHEXPERT = (
    "Path,Sex,Age,Pleural Effusion,Mass\n"
    "0.png,Female,68,1.0,\n1.png,Male,40,,0.0\n2.png,Male,41,-1.0,1.0\n3.png,Male,42,0.0,1.0\n"
)


def test_one_cell_names_all_findings_of_an_image(tmp_path):
    pictures(tmp_path, 4)
    dataset, lines = lines_of(table(tmp_path, NIH), test_fraction=1)
    assert dataset.task == "multilabel"
    assert dataset.classes == ("Edema", "Effusion", "Mass")
    assert dataset.test.labels.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 1]]
    assert lines[0] == "note           findings: 3 an image: Edema, Effusion, Mass"


def test_named_findings_are_read_from_one_cell_in_their_order(tmp_path):
    pictures(tmp_path, 4)
    spec = table(tmp_path, NIH)
    listed = list_source(f"{spec},findings=Mass|Effusion")
    assert listed.classes == ("Mass", "Effusion")
    assert listed.splits["all"].labels.tolist() == [[1, 1], [0, 0], [1, 0], [1, 0]]
    with pytest.raises(fw.InputError, match=r"unknown finding of .*; did you mean 'Effusion'"):
        list_source(f"{spec},findings=Mass|Efusion")


def test_a_column_of_each_finding_is_named_and_an_empty_cell_is_unknown(tmp_path):
    pictures(tmp_path, 4)
    spec = table(tmp_path, CHEXPERT)
    with pytest.raises(
        fw.InputError, match=r"no label column, and 2 .*findings=Pleural Effusion\|Mass$"
    ):
        list_source(spec)
    spec += ",findings=Mass|Pleural Effusion"
    dataset, lines = lines_of(spec, test_fraction=1)
    assert dataset.classes == ("Mass", "Pleural Effusion")
    assert dataset.test.labels.tolist() == [[-1, 1], [0, -1], [1, -1], [1, 0]]
    assert lines[0].endswith("2 empty cells are unknown (with empty=absent they count as 0)")
    absent = list_source(f"{spec},empty=absent").splits["all"].labels
    assert absent.tolist() == [[0, 1], [0, 0], [1, -1], [1, 0]]


@pytest.mark.parametrize(
    ("text", "end", "words"),
    [
        (CHEXPERT, ",findings=Mas|Age", r"unknown column of .*did you mean 'Mass'"),
        (CHEXPERT, ",findings=Mass|Age", r"line 2 of .*has '68' in the column 'Age', and a find"),
        (CHEXPERT, ",findings=Mass,empty=abs", r"unknown meaning of empty cells 'abs'; did you"),
        (CHEXPERT.replace("Age", "Mass"), ",findings=Mass", r"two columns with the name 'Mass'"),
        ("file,label\n0,No Finding|\n", "", r"names no finding"),
        ("file,label\n0,Mass|Edema\n1,\n", "", r"line 3 of .* has no label"),
    ],
)
def test_wrong_findings_are_one_sentence(tmp_path, text, end, words):
    pictures(tmp_path, 4)
    with pytest.raises(fw.InputError, match=words) as error:
        list_source(table(tmp_path, text) + end)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["csv:labels.csv", "parquet:labels.parquet"])
def test_commas_between_findings_are_refused_with_the_separator(name):
    with pytest.raises(fw.InputError, match=r"findings are separated by \|, as in ,findings=Eff"):
        list_source(f"{name},findings=Effusion,Edema,Mass")


def many(folder, present, groups=None):
    """A table with one column of each finding A, B, ..., from 0 and 1 `[N, L]`."""
    pictures(folder, len(present))
    names = "ABCDEFG"[: present.shape[1]]
    header = ["file", *names, *([] if groups is None else ["patient"])]
    rows = [
        [f"{at}.png", *row, *([] if groups is None else [groups[at]])]
        for at, row in enumerate(present.tolist())
    ]
    text = "\n".join(",".join(map(str, row)) for row in [header, *rows]) + "\n"
    return f"{table(folder, text)},findings={'|'.join(names)}"


def test_splits_have_the_rarest_findings_in_proportion_and_a_single_image_stays_in_one(tmp_path):
    present = np.zeros((60, 3), dtype=int)
    present[:40, 0] = present[:12, 1] = present[0, 2] = 1
    dataset = load_data(many(tmp_path, present), test_fraction=0.25, validation_fraction=0.25)
    parts = (dataset.train, dataset.val, dataset.test)
    assert sorted(key for part in parts for key in part.keys.tolist()) == list(range(60))
    assert sum(int(part.labels[:, 2].sum()) for part in parts) == 1
    # Of 11 images whose rarest finding is B, a quarter: 3, and then 2 of the other 8.
    assert [int(part.labels[:, 1].sum()) - int(part.labels[:, 2].sum()) for part in parts] == [
        6,
        2,
        3,
    ]


def test_patients_stay_together_and_a_finding_of_one_patient_stays_in_one_split(tmp_path):
    present = np.zeros((40, 2), dtype=int)
    present[::2, 0] = present[:4, 1] = 1
    patients = [at // 4 for at in range(40)]
    dataset = load_data(
        many(tmp_path, present, patients),
        groups=fw.GroupColumns(group="patient", slices=("A",)),
        test_fraction=0.3,
        validation_fraction=0.0,
    )
    train, test = (set(part.groups.names) for part in (dataset.train, dataset.test))
    assert not train & test
    assert len(train | test) == 10
    assert int(dataset.train.labels[:, 1].sum()) in (0, 4)


def test_a_limit_keeps_the_proportions_and_may_be_less_than_the_findings(tmp_path):
    present = np.zeros((40, 2), dtype=int)
    present[:20, 0] = present[:4, 1] = 1
    spec = many(tmp_path, present)
    chosen = [
        set(load_data(spec, test_fraction=1, limit=limit).test.keys.tolist())
        for limit in (1, 10, 20)
    ]
    assert chosen[0] < chosen[1] < chosen[2]
    half = load_data(spec, test_fraction=1, limit=20).test.labels
    assert half.sum(dim=0).tolist() == [10, 2]


@pytest.mark.parametrize("option", [{"label_noise": 0.1}, {"imbalance": 0.5}])
def test_options_about_classes_are_refused(tmp_path, option):
    present = np.eye(2, dtype=int).repeat(20, axis=0)
    with pytest.raises(fw.InputError, match=f"{next(iter(option))} is about classes"):
        load_data(many(tmp_path, present), **option)


def archive(folder, **content):
    np.savez(folder / "set.npz", **content)
    return f"npz:{folder / 'set.npz'}"


def test_an_archive_has_several_labels_an_image(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(4, SIDE, SIDE), dtype=np.uint8)
    labels = np.array([[0, 1], [1, 1], [-1, 0], [0, 0]], dtype=np.int8)
    named = np.array(["Mass", "Edema"])
    dataset, lines = lines_of(
        archive(tmp_path, images=images, labels=labels, classes=named), test_fraction=1
    )
    assert (dataset.classes, dataset.task) == (("Mass", "Edema"), "multilabel")
    assert dataset.test.labels.tolist() == labels.tolist()
    assert lines[0] == "note           findings: 2 an image: Mass, Edema"
    unnamed = np.where(labels == -1, np.nan, labels).astype(np.float32)
    listed = list_source(archive(tmp_path, images=images, labels=unnamed))
    assert listed.classes == ("0", "1")
    assert listed.splits["all"].labels.tolist() == labels.tolist()
    one_hot = list_source(archive(tmp_path, images=images, labels=np.eye(2)[[0, 1, 1, 0]]))
    assert "exactly one, so these may be classes" in one_hot.remarks[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"labels": np.eye(2)[[0, 1]], "classes": np.array(["a", "b", "c"])}, "2 labels .* 3 nam"),
        ({"labels": np.array([[0, 1], [3, 0]])}, "has the label 3 in row 1, column 0"),
    ],
)
def test_wrong_labels_of_an_archive_are_one_sentence(tmp_path, content, words):
    images = np.zeros((2, SIDE, SIDE), np.uint8)
    with pytest.raises(fw.InputError, match=words):
        list_source(archive(tmp_path, images=images, **content))


def test_a_shifted_copy_has_the_labels(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(6, SIDE, SIDE), dtype=np.uint8)
    labels = rng.integers(-1, 2, size=(6, 3))
    spec = archive(tmp_path, images=images, labels=labels, classes=np.array(["A", "B", "C"]))
    dataset, shift = load_data(spec, test_fraction=1), make_shift("gamma", exponent=2)
    export(dataset, [shift], tmp_path / "out", format="npz")
    copy = load_data(f"npz:{tmp_path}/out/gamma,exponent=2.npz", test_fraction=1)
    assert (copy.classes, copy.task) == (("A", "B", "C"), "multilabel")
    assert copy.test.labels.tolist() == labels.tolist()
    expected = shift(dataset.test.images, dataset.test.keys)
    assert copy.test.images.tolist() == expected.tolist()
    with pytest.raises(fw.InputError, match=r"several findings: choose the format npz"):
        export(dataset, [shift], tmp_path / "png", format="png")
    assert not (tmp_path / "png").exists()


def parquet(path, columns, features=None):
    """A file with encoded images beside some columns, in the layout of Hugging Face."""
    rng, cells = np.random.default_rng(0), []
    for _ in range(len(next(iter(columns.values())))):
        content = io.BytesIO()
        pixels = rng.integers(256, size=(SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(content, "PNG")
        cells.append({"bytes": content.getvalue(), "path": None})
    written = pa.table({"image": cells, **columns})
    if features:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        written = written.replace_schema_metadata(metadata)
    pq.write_table(written, path)
    return f"parquet:{path}"


def test_lists_of_numbered_classes_are_findings(tmp_path):
    names = ["No Finding", "Mass", "Edema"]
    features = {"labels": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}}
    spec = parquet(tmp_path / "a.parquet", {"labels": [[1, 2], [0], [2], []]}, features)
    dataset, lines = lines_of(spec, test_fraction=1)
    assert dataset.classes == ("Mass", "Edema")
    assert dataset.test.labels.tolist() == [[1, 1], [0, 0], [0, 1], [0, 0]]
    assert lines[0] == "note           findings: 2 an image: Mass, Edema"
    wrong = parquet(tmp_path / "b.parquet", {"labels": [[1], [3]]}, features)
    with pytest.raises(fw.InputError, match=r"row 1 of .* has label 3; allowed are 0 to 2"):
        list_source(wrong)


def test_lists_of_one_length_are_labels_of_each_finding(tmp_path):
    spec = parquet(tmp_path / "a.parquet", {"id": [5, 6], "label": [[1, 0, -1], [0, None, 1]]})
    listed = list_source(spec)
    assert listed.classes == ("0", "1", "2")
    assert listed.splits["all"].labels.tolist() == [[1, 0, -1], [0, -1, 1]]
    for lists in ([[1], [0, 1]], [[], []]):
        with pytest.raises(fw.InputError, match=r"label of each finding.* Sequence of ClassLabel"):
            list_source(parquet(tmp_path / "b.parquet", {"label": lists}))
    with pytest.raises(fw.InputError, match=r"row 1 of .* has no label"):
        list_source(parquet(tmp_path / "b.parquet", {"label": [[1, 0], None]}))
    with pytest.raises(fw.InputError, match=r"row 0 of .* has '2' in the column '1'"):
        list_source(parquet(tmp_path / "b.parquet", {"label": [[1, 2], [0, 0]]}))


def test_columns_of_a_parquet_file_are_named(tmp_path):
    spec = parquet(
        tmp_path / "a.parquet", {"Mass": [1, 0, None], "Edema": [True, False, True], "Age": [1] * 3}
    )
    with pytest.raises(fw.InputError, match=r"several columns .*findings=A\|B"):
        list_source(spec)
    listed = list_source(f"{spec},findings=Edema|Mass,empty=absent")
    assert listed.classes == ("Edema", "Mass")
    assert listed.splits["all"].labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    with pytest.raises(fw.InputError, match=r"unknown column of .*did you mean 'Mass'"):
        list_source(f"{spec},findings=Mas")


def test_shards_must_agree_on_the_findings(tmp_path):
    parquet(tmp_path / "train.parquet", {"label": [[1, 0], [0, 1]]})
    parquet(tmp_path / "test.parquet", {"label": [[1, 0, 0], [0, 1, 1]]})
    with pytest.raises(fw.InputError, match="different numbers of labels an image"):
        list_source(f"parquet:{tmp_path}")


@pytest.mark.parametrize("place", ["inside", "above the only folder", "beside"])
def test_a_folder_without_class_folders_takes_its_table(tmp_path, place):
    root = tmp_path / "xrays"
    pictures(root / "images" if place == "above the only folder" else root, 4)
    name = "xrays.csv" if place == "beside" else "truth.csv"
    table(tmp_path if place == "beside" else root, NIH, name)
    dataset, lines = lines_of(f"folder:{root}", test_fraction=1)
    assert dataset.classes == ("Edema", "Effusion", "Mass")
    assert dataset.test.labels.tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 1], [1, 0, 1]]
    assert lines[0] == f"note           the labels are those of {name}"


def test_class_folders_beside_a_table_stay_classes(tmp_path):
    pictures(tmp_path / "cat", 1)
    pictures(tmp_path / "dog", 1)
    table(tmp_path, NIH)
    assert list_source(f"folder:{tmp_path}").classes == ("cat", "dog")


def test_two_tables_are_not_chosen_from(tmp_path):
    pictures(tmp_path / "xrays", 1)
    table(tmp_path / "xrays", NIH, "a.csv")
    table(tmp_path / "xrays", NIH, "b.csv")
    with pytest.raises(fw.InputError, match="has no class folders"):
        list_source(f"folder:{tmp_path / 'xrays'}")


def test_a_line_names_findings_that_a_split_lacks(tmp_path):
    pictures(tmp_path, 4)
    text = "file,split,A,B,C\n0,train,1,0,\n1,train,0,1,1\n2,test,1,0,\n3,test,1,,\n"
    _, lines = lines_of(f"{table(tmp_path, text)},findings=A|B|C", validation_fraction=0.0)
    assert lines[1:] == [
        "note           train: no image lacks 'C'",
        "note           test: no image lacks 'A'",
        "note           test: no image has 'B'",
        "note           test: no image has a known label of 'C'",
    ]
