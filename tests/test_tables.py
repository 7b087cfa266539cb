"""Images in a folder with a table of their labels, and images without labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.data.loading import list_source, load_data

SIDE = 9


@pytest.fixture
def folder(tmp_path):
    """Six photos, of which the name of one stands for two files."""
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.jpg", "more/d.png", "e.png", "e.jpg"):
        pixels = rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / name)
    return tmp_path


def write(folder, *lines, name="labels.csv"):
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"csv:{folder / name}"


def test_files_and_labels_are_found_by_the_names_of_their_columns(folder):
    spec = write(
        folder, "age,image_id,dx", "40,a,nv", "50,b.png,mel", '60,c,"nv"', "", "70,more/d,mel"
    )
    listed = list_source(f"{spec},images=photos")
    assert listed.classes == ("mel", "nv")
    assert listed.splits["all"].labels.tolist() == [1, 0, 1, 0]
    assert listed.splits["all"].names == ("a.png", "b.png", "c.jpg", "more/d.png")
    dataset = load_data(f"{spec},images=photos", test_fraction=1)
    with Image.open(folder / "photos/b.png") as image:
        assert np.array_equal(dataset.test.images[1], np.asarray(image).transpose(2, 0, 1))
    assert dataset.test.names.tolist() == list(listed.splits["all"].names)


def test_columns_can_be_stated_and_splits_are_taken(folder):
    spec = write(
        folder,
        "label;file;class;Split",
        "x;photos/a.png;10;train",
        "x;photos/b.png;9;Testing",
        "x;photos/c.jpg;9;training",
        "x;photos/e.png;10;test",
    )
    with pytest.raises(
        fw.InputError, match=r"several columns .* label: .*label, file, class.*label="
    ):
        list_source(spec)
    listed = list_source(f"{spec},label=class")
    assert listed.classes == ("9", "10")  # by number
    assert {name: each.labels.tolist() for name, each in listed.splits.items()} == {
        "train": [1, 0],
        "test": [0, 1],
    }
    assert listed.splits["test"].names == ("photos/b.png", "photos/e.png")


def test_a_byte_order_mark_and_tabs_are_read(folder):
    (folder / "t.tsv").write_bytes("\ufefffile\tlabel\nphotos/a.png\tá\n".encode())
    assert list_source(f"csv:{folder}/t.tsv").classes == ("á",)


def test_a_table_of_an_older_spreadsheet_is_read_and_said(folder):
    (folder / "labels.csv").write_bytes("file;label\na;été\nb;été\nc;hiver\n".encode("cp1252"))
    lines = []
    dataset = load_data(
        f"csv:{folder}/labels.csv,images=photos",
        test_fraction=1,
        progress=lambda event: lines.append(event.line),
    )
    assert dataset.classes == ("hiver", "été")
    remark = "note           labels.csv is read as Latin-1 with ';' between cells"
    assert [line for line in lines if line] == [remark]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["file,label", "a,x", "b"], r"line 3 of .* has 1 cells, and the header has 2"),
        (["file,label", "a,x", "b,"], r"line 3 of .* has no label"),
        (["file,label", ",x"], r"line 2 of .* has no file"),
        (
            ["file,label", "a,x", "zebra.png,y"],
            r"line 3 of .* names 'zebra\.png': .* say where with csv:PATH,images=FOLDER$",
        ),
        (["file,label", "e,x"], r"names 'e': several files \(e\.jpg, e\.png\)"),
        (["file,label", "a,x", "a.png,y"], r"line 3 .* names 'a\.png' again; .* line 2"),
        (["file,label", "../labels.csv,x"], r"named from a folder on.*images=FOLDER"),
        (["file,label", "/etc/passwd,x"], r"named from a folder on.*images=FOLDER"),
        (["file,label,split", "a,x,holdout"], r"line 2 .* split 'holdout'; known are train"),
        (["name,label", "a,x"], r"no file column: its columns are name, label; .*file="),
        (["file,label"], r"has no rows"),
        ([""], r"no file column: its columns are nothing"),
        (["file,label", '"a,x'], r"cannot be read as CSV"),
    ],
)
def test_a_wrong_table_is_one_sentence(folder, lines, words):
    with pytest.raises(fw.InputError, match=words) as error:
        list_source(f"{write(folder, *lines)},images=photos")
    assert "\n" not in str(error.value)


def test_wrong_specifications_are_one_sentence(folder):
    spec = write(folder, "file,label", "a,x")
    for wrong, words in (
        (f"{spec},labels=dx", r"unknown part of csv: 'labels'; did you mean 'label'"),
        (f"{spec},label=lable", r"unknown column of .*; did you mean 'label'"),
        (f"{spec},images=photo", r"there is no file or folder .*did you mean 'photos'"),
        (f"csv:{folder}", r"is a folder; csv: needs a table"),
        (f"csv:{folder}/label.csv", r"did you mean 'labels\.csv'"),
        (str(folder / "labels.csv"), r"it is a path; did you mean 'csv:"),
        (
            f"fodler:{folder}/photos",
            r"^unknown data source 'fodler:PATH'; did you mean 'folder:PATH'",
        ),
        (str(folder / "lables"), r"^unknown data source '.*lables': there is no such file or f"),
    ):
        with pytest.raises(fw.InputError, match=words):
            list_source(wrong)


@pytest.mark.parametrize("data", [(1, 2), Path("photos"), np.zeros((2, 3, 8, 8)), [], object()])
def test_data_that_is_no_text_is_one_sentence(data):
    with pytest.raises(
        fw.InputError, match=r"^a data source is text, such as folder:PATH, or npz:"
    ):
        load_data(data)
    with pytest.raises(fw.InputError, match=rf"; found a {type(data).__name__}$"):
        fw.evaluate(torch.nn.Identity(), data, device="cpu")
    with pytest.raises(fw.InputError, match=r"^images must be Images, such as load_data\(SOURCE"):
        fw.predict(torch.nn.Identity(), data)
    with pytest.raises(fw.InputError, match=r"^images must be Images, such as load_data\(SOURCE"):
        fw.preview(data, [])


@pytest.mark.parametrize("model", [Path("model.pt"), 3, {}, None])
def test_a_model_that_is_no_text_is_one_sentence(model):
    kind = type(model).__name__
    with pytest.raises(fw.InputError, match=rf"^the model must be text; found a {kind}$"):
        fw.load_model(model)


@pytest.mark.parametrize("shifts", [3, None, 0.5])
def test_shifts_that_are_no_text_are_one_sentence(shifts):
    with pytest.raises(fw.InputError, match=r"^shifts: must be text, NAME: LEVELS, a shift or an"):
        fw.evaluate("timm:resnet18", "mnist5k", shifts, device="cpu")


def test_bytes_that_are_no_text_are_one_sentence(folder):
    (folder / "labels.csv").write_bytes(b"file,label\na,\xff\x00\n")
    with pytest.raises(fw.InputError, match="is not a text file in UTF-8 or Latin-1"):
        list_source(f"csv:{folder}/labels.csv")


def test_images_without_labels_are_a_set_for_which_none_are_needed(folder):
    dataset = load_data(f"images:{folder}/photos", test_fraction=1)
    assert dataset.classes == ("unlabelled",)
    assert dataset.test.names.tolist() == [
        "a.png",
        "b.png",
        "c.jpg",
        "e.jpg",
        "e.png",
        "more/d.png",
    ]
    with pytest.raises(fw.InputError, match=r"is a file; images: needs a folder"):
        list_source(f"images:{folder}/photos/a.png")
    (folder / "empty").mkdir()
    with pytest.raises(fw.InputError, match=r"has no files"):
        list_source(f"images:{folder}/empty")
    with pytest.raises(fw.InputError, match=r"no class folders.*csv:PATH.*images:PATH"):
        list_source(f"folder:{folder}/photos/more")


def test_images_without_labels_are_told_apart_by_confidence_and_not_judged(
    folder, toy_images, undrawn
):
    class Mean(torch.nn.Module):
        def forward(self, images):
            return 5 * images.mean((2, 3))

    data = fw.Dataset("toy", None, None, toy_images, (0.5,) * 3, (0.3,) * 3)
    options = {"bootstrap": 100, "device": "cpu"}
    run = fw.evaluate(Mean(), data, "clean", ood=[f"images:{folder}/photos"], **options)
    assert f"ood/images:{folder}/photos" in set(run.scores["shift"])
    lists = sorted(path.name for path in (run.path / "images").iterdir())
    assert len(lists) == 1
    with pytest.raises(fw.InputError, match=r"images:.* has no labels.*--ood"):
        fw.evaluate(Mean(), f"images:{folder}/photos", "clean", **options)
