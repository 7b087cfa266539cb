"""Other images of the same classes: rows of their own, that are paired with no other images."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.data.groups import natural_columns
from fairweather.data.pixel_scans import digest
from fairweather.errors import InputError
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.requests.evaluation_options import read_natural_sources
from fairweather.requests.study.run import data_sources
from fairweather.requests.study.schema import check_study
from fairweather.steps.worker import match_labels_by_name
from fairweather.types.measurement import Images
from fairweather.types.options import GroupColumns
from fairweather.types.record import NATURAL, image_list, predictions_file
from tests.conftest import COLOURS, TINY_RESNET, picture
from tests.requests.test_evaluate import write_model

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Darker pictures of two of the three classes, in another order of names."""
    root, rng = tmp_path_factory.mktemp("hospital"), np.random.default_rng(7)
    for name in ("Red", "blue"):
        (root / name).mkdir()
        for number in range(9 if name == "blue" else 14):
            pixels = np.array(picture(COLOURS[name.lower()], rng)) // 3
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def accuracies(run):
    rows = run.scores[run.scores["metric"] == "accuracy"]
    return {(row.model, row.seed, row.shift, row.level): row for row in rows.itertuples()}


def test_other_images_are_rows_of_their_own(hospital, colour_folder, tmp_path, draw):
    model, data = write_model(tmp_path), f"folder:{colour_folder}"
    options = {"bootstrap": 100, "device": "cpu", "variants": ["batchnorm"][:0]}
    shifts = "brightness_factor: [0.5]"
    plain = fw.evaluate(model, data, shifts, out=tmp_path / "plain", **options)
    given = {"hospital_b": f"folder:{hospital}"}
    run = fw.evaluate(model, data, shifts, natural=given, out=tmp_path / "run", **options)
    # Nothing else changes.
    rest = run.scores[~run.scores["shift"].str.startswith(NATURAL)].reset_index(drop=True)
    assert rest.equals(plain.scores)
    (name,) = run.record.models
    found = accuracies(run)[name, "0", "natural/hospital_b", "none"]
    images = fw.load_data(f"folder:{hospital}", test_fraction=1.0).test
    assert images.classes == ("Red", "blue")
    expected = fw.predict(
        fw.load_model(model), match_labels_by_name(images, ("blue", "green", "red"), "b")
    )
    assert found.n == 23
    assert found.value == pytest.approx(expected.correct.mean(), abs=1e-7)
    stored = run.folder.read_predictions(predictions_file(name, 0, "clean", "natural/hospital_b"))
    assert np.bincount(stored.labels, minlength=3).tolist() == [9, 0, 14]
    assert run.record.natural == given
    assert run.record.data.digests["natural/hospital_b"] == digest(images)
    draw(run)
    page = (run.path / "report.html").read_text()
    assert "hospital_b − clean" in page
    assert "not paired" in page
    assert "natural/hospital_b" in run.overview()


def test_rules_and_comparisons_of_other_images(hospital, colour_folder, tmp_path):
    data, given = f"folder:{colour_folder}", [f"b=folder:{hospital}"]
    other = tmp_path / "other"
    other.mkdir()
    models = [write_model(tmp_path), write_model(other, order=["green", "red", "blue"])]
    runs = [
        fw.evaluate(model, data, "clean", natural=given, out=path / "run", bootstrap=100)
        for model, path in zip(models, (tmp_path, other), strict=True)
    ]
    (passed,) = judge(runs[0].folder, read_rules(["accuracy[natural/b] >= 0.1"]))
    assert (
        passed.value
        == accuracies(runs[0])[next(iter(runs[0].record.models)), "0", "natural/b", "none"].value
    )
    with pytest.raises(InputError, match=r"compares the same images.*accuracy\[natural/b\]"):
        judge(runs[0].folder, read_rules(["accuracy[natural/b] drop <= 0.1"]))
    every = judge(runs[0].folder, read_rules(["accuracy[*] >= 0"]))
    assert [each.cell for each in every] == ["clean"]
    compared = fw.compare_runs(runs[0].path, runs[1].path)
    rows = compared[(compared["metric"] == "accuracy")].set_index("shift")
    assert rows.index.tolist() == ["clean", "natural/b"]
    assert rows["n"].tolist() == [60, 23]
    values = [
        accuracies(run)[next(iter(run.record.models)), "0", "natural/b", "none"].value
        for run in runs
    ]
    assert rows.loc["natural/b", "difference"] == pytest.approx(values[1] - values[0], abs=1e-7)


def test_a_study_measures_other_images_with_every_seed(hospital, colour_folder, tmp_path):
    study = {
        "name": "toys",
        "data": {"source": f"folder:{colour_folder}", "size": 16},
        "natural": {"b": f"folder:{hospital}"},
        "seeds": [0, 1],
        "ensemble": True,
        "variants": ["temperature"],
        "bootstrap": 100,
        "models": {
            "m": {"title": "M", "backbone": TINY_RESNET, "stem": "small", "recipe": {"epochs": 1}}
        },
    }
    run = fw.run(check_study(study), out=tmp_path / "run", device="cpu")
    found = accuracies(run)
    for model in ("m", "m+temperature"):
        for seed in ("0", "1", "mean", "sd", "ensemble"):
            assert found[model, seed, "natural/b", "none"].n == 23
    assert not [key for key in found if key[2] == "natural/b" and key[3] != "none"]
    packed = fw.pack_run(run.path, tmp_path / "packed")
    again = accuracies(packed)
    of_one = ("m", "1", "natural/b", "none")
    assert again[of_one][1:] == found[of_one][1:]
    assert packed.record.natural == {"b": f"folder:.../{hospital.name}"}
    with pytest.raises(InputError, match=r"natural\.b: its images are those of the study's data"):
        check_study(study | {"natural": {"b": study["data"]["source"]}})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["b"], "NAME=SOURCE"),
        (["a b=x"], "'a b'"),
        (["b=x", "b=y"], "'b' is given twice"),
        (["imagenet-r:x", "Imagenet_R:y"], "'imagenet-r' is given twice"),
        (["folder:x"], "your own images need a name: NAME=folder:x"),
        (["imagnet-r:x"], "did you mean 'imagenet-r'"),
    ],
)
def test_a_wrong_form_is_refused(asked, told):
    with pytest.raises(InputError) as error:
        read_natural_sources(asked)
    assert told in str(error.value)


def test_other_classes_and_sizes_are_refused(hospital, colour_folder, tmp_path):
    model, data = write_model(tmp_path), f"folder:{colour_folder}"
    (tmp_path / "c" / "zebra").mkdir(parents=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "c" / "zebra" / "1.png")
    with pytest.raises(InputError, match=r"the classes of .* \('zebra'\) .*'blue', 'green', 'red'"):
        fw.evaluate(model, data, "clean", natural={"c": f"folder:{tmp_path / 'c'}"})
    (tmp_path / "d" / "red").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(tmp_path / "d" / "red" / "1.png")
    study = {
        "name": "toys",
        "data": {"source": data},
        "natural": {"d": f"folder:{tmp_path / 'd'}"},
        "models": {"m": {"title": "M", "backbone": TINY_RESNET, "recipe": {"epochs": 1}}},
    }
    with pytest.raises(InputError, match=r"20 x 20 pixels .* 16 x 16: give both one size"):
        fw.run(check_study(study), out=tmp_path / "run", device="cpu")


@pytest.mark.parametrize("classes", [("benign", "malignant"), ("1", "2"), ("Red", "red")])
def test_classes_are_matched_by_name_alone(classes):
    """Other names in the same number, numbers from another start, and two of one name."""
    own = ("red", "blue") if "red" in classes else ("0", "1")
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images = Images(pixels, torch.tensor([0, 1]), torch.arange(2), classes)
    with pytest.raises(InputError) as error:
        match_labels_by_name(images, own, "hospital_b")
    text = str(error.value)
    assert text.startswith("the classes of hospital_b (")
    assert all(repr(name) in text for name in (*classes, *own))
    assert "call them as the run does" in text
    assert "\n" not in text
    assert "--class-map" not in text


def test_the_other_images_of_a_study_are_read_as_its_own(tmp_path):
    study = check_study(
        {
            "name": "toys",
            "data": {
                "source": "folder:clean",
                "root": str(tmp_path),
                "scale": "0..4095",
                "skip_unreadable": True,
            },
            "natural": {"b": "folder:hospital_b"},
            "models": {"m": {"title": "M", "backbone": TINY_RESNET, "recipe": {"epochs": 1}}},
        }
    )
    source = data_sources(study)["natural:b"]
    assert source.root == str(tmp_path)
    assert source.scale == "0..4095"
    assert source.skip_unreadable


def test_copies_of_the_runs_own_images_are_refused_unless_allowed(
    hospital, colour_folder, tmp_path
):
    model, data = write_model(tmp_path), f"folder:{colour_folder}"
    with pytest.raises(InputError, match=r"60 of 60 natural/b images have .* a test image.*allow_"):
        fw.evaluate(model, data, "clean", natural={"b": f"{data}/"})
    other = tmp_path / "other"
    shutil.copytree(hospital, other)
    copied = sorted((colour_folder / "test" / "red").iterdir())[:2]
    for path in copied:
        shutil.copy(path, other / "Red" / f"copy-{path.name}")
    # evaluate does not look at the training images of a set, a study does.
    shutil.copy(colour_folder / "train" / "blue" / "000.png", other / "blue" / "trained.png")
    given = {"b": f"folder:{other}"}
    with pytest.raises(InputError, match=r"2 of 26 natural/b images .*Red/copy-.* and test/red/"):
        fw.evaluate(model, data, "clean", natural=given)
    lines = []
    fw.evaluate(
        model,
        data,
        "clean",
        natural=given,
        allow_duplicates=True,
        out=tmp_path / "run",
        bootstrap=100,
        progress=lambda event: lines.append(event.line),
    )
    assert [line for line in lines if line.startswith("warning        2 of 26 natural/b images")]
    study = {
        "name": "toys",
        "data": {"source": data},
        "natural": given,
        "models": {"m": {"title": "M", "backbone": TINY_RESNET, "recipe": {"epochs": 1}}},
    }
    with pytest.raises(InputError, match=r"1 of 26 natural/b .* a (train|val) image: blue/trained"):
        fw.run(check_study(study), out=tmp_path / "study", device="cpu")
    assert not (tmp_path / "study").exists()


def test_the_file_of_each_other_image_is_listed(hospital, colour_folder, tmp_path):
    given = {"b": f"folder:{hospital}"}
    data = f"folder:{colour_folder}"
    run = fw.evaluate(
        write_model(tmp_path), data, "clean", natural=given, out=tmp_path / "run", bootstrap=100
    )
    listed = pd.read_csv(run.path / image_list("natural/b"))
    assert len(listed) == 23
    (name,) = run.record.models
    stored = run.folder.read_predictions(predictions_file(name, 0, "clean", "natural/b"))
    assert sorted(listed["keys"]) == sorted(stored.keys)
    of_label = {0: "blue", 2: "Red"}
    labels = dict(zip(stored.keys.tolist(), stored.labels.tolist(), strict=True))
    for row in listed.itertuples():
        assert row.file.startswith(f"{of_label[labels[row.keys]]}/")


def groups_of_files(folder, each):
    """The files of a folder of classes, with one patient for so many in order."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    return pd.DataFrame({"file": files, "patient": [f"p{at // each}" for at in range(len(files))]})


def test_a_table_may_say_which_other_images_belong_together(hospital, colour_folder, tmp_path):
    own, theirs = groups_of_files(colour_folder, 4), groups_of_files(hospital, 3)
    theirs = theirs.assign(split="natural/b", patient="b-" + theirs["patient"])
    # Names of files of both sets may be the same: the column says of which set a row is.
    theirs.loc[0, "patient"] = "p0"
    table = pd.concat([own.assign(split=""), theirs])
    table.to_csv(tmp_path / "patients.csv", index=False)
    model, data = write_model(tmp_path), f"folder:{colour_folder}"
    natural = {"b": f"folder:{hospital}", "c": f"folder:{hospital}"}
    options = {"group": "patient", "metadata": tmp_path / "patients.csv", "bootstrap": 100}
    lines = []
    run = fw.evaluate(
        model,
        data,
        "clean",
        natural=natural,
        out=tmp_path / "run",
        allow_duplicates=True,
        progress=lambda event: lines.append(event.line),
        **options,
    )
    rows = run.scores[run.scores["metric"] == "accuracy"].set_index("shift")
    assert rows["groups"].fillna(0).to_dict() == {"clean": 15, "natural/b": 9, "natural/c": 0}
    width = rows["high"] - rows["low"]
    assert width["natural/b"] > width["natural/c"]
    assert rows["value"]["natural/b"] == rows["value"]["natural/c"]
    stored = run.folder.groups("natural/b")
    assert len(np.unique(stored.numbers)) == 9
    assert any("1 of" in line and "in test and in natural/b" in line for line in lines if line)
    (verdict,) = judge(run.folder, read_rules(["accuracy[natural/b] >= 0"]))
    assert verdict.groups == {"natural/b": 9}
    (verdict,) = judge(run.folder, read_rules(["accuracy[natural/c] >= 0"]))
    assert verdict.groups == {}
    (caption,) = (run.path / "tables").glob("other_images_accuracy.md")
    assert "Those of c are taken as independent" in caption.read_text()


def test_a_set_without_all_its_rows_is_refused(hospital, colour_folder, tmp_path):
    own, theirs = groups_of_files(colour_folder, 4), groups_of_files(hospital, 3)
    table = pd.concat([own.assign(split=""), theirs[1:].assign(split="natural/b")])
    table.to_csv(tmp_path / "patients.csv", index=False)
    with pytest.raises(InputError, match="has no row for 1 of 23 images"):
        fw.evaluate(
            write_model(tmp_path),
            f"folder:{colour_folder}",
            "clean",
            natural={"b": f"folder:{hospital}"},
            group="patient",
            metadata=tmp_path / "patients.csv",
        )


def test_rows_about_a_set_that_there_is_not_are_refused(hospital, colour_folder, tmp_path):
    own, theirs = groups_of_files(colour_folder, 4), groups_of_files(hospital, 3)
    table = pd.concat([own.assign(split=""), theirs.assign(split="natural/hospital_b")])
    table.to_csv(tmp_path / "patients.csv", index=False)
    options = {"group": "patient", "metadata": tmp_path / "patients.csv"}
    with pytest.raises(
        InputError, match=r"'natural/hospital_c'; did you mean 'natural/hospital_b'"
    ):
        fw.evaluate(
            write_model(tmp_path),
            f"folder:{colour_folder}",
            "clean",
            natural={"hospital_c": f"folder:{hospital}"},
            **options,
        )


def test_a_table_of_more_sets_than_are_measured_serves_too(hospital, colour_folder, tmp_path):
    own, theirs = groups_of_files(colour_folder, 4), groups_of_files(hospital, 3)
    every = [theirs.assign(split=f"natural/{name}") for name in "bc"]
    pd.concat([own.assign(split=""), *every]).to_csv(tmp_path / "patients.csv", index=False)
    asked = GroupColumns(str(tmp_path / "patients.csv"), "patient")
    assert natural_columns(asked, []) == {}
    assert natural_columns(asked, ["c"]) == {"c": asked._replace(allow_shared=True, natural="c")}
    test = fw.load_data(f"folder:{colour_folder}", groups=asked).test
    assert set(test.groups.names) <= set(own["patient"])


def test_a_study_reads_the_groups_of_other_images(hospital, colour_folder, tmp_path):
    theirs = groups_of_files(hospital, 3).assign(split="natural/b")
    own = groups_of_files(colour_folder, 4)
    pd.concat([own.assign(split=""), theirs]).to_csv(tmp_path / "patients.csv", index=False)
    study = check_study(
        {
            "name": "s",
            "data": {
                "source": f"folder:{colour_folder}",
                "size": 16,
                "groups": {"metadata": str(tmp_path / "patients.csv"), "group": "patient"},
            },
            "natural": {"b": f"folder:{hospital}", "c": f"folder:{hospital}"},
            "shifts": [],
            "models": {"m": {"title": "M", "backbone": TINY_RESNET, "recipe": {"epochs": 1}}},
        }
    )
    sources = data_sources(study)
    assert sources["natural:b"].groups.natural == "b"
    assert sources["natural:c"].groups is None
