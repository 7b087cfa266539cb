"""PACS, Office-Home and Camelyon17-WILDS, in small files of the real layout."""

import pandas as pd
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather import InputError, load_data
from fairweather.data.loading import list_source
from fairweather.data.natural_sets import NATURAL_SETS
from fairweather.types.options import GroupColumns

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
DOMAINS = ("art_painting", "cartoon", "photo", "sketch")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path_factory.mktemp("cache")))


def write_image(path, number):
    """An image that no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (16, 16), (number % 256, number // 256, 77))
    image.putpixel((number % 16, number // 16 % 16), (255, 255, 255))
    image.save(path)


@pytest.fixture
def pacs(tmp_path):
    """PACS as its archive has it: kfold/DOMAIN/CLASS, and the lists of files beside `kfold`."""
    folder, number = tmp_path / "PACS", 0
    for domain in DOMAINS:
        lists = {"train": [], "crossval": []}
        for label, name in enumerate(CLASSES, start=1):
            for picture in range(1, 5):
                suffix = "png" if domain == "sketch" else "jpg"
                file = f"{domain}/{name}/pic_{picture:03d}.{suffix}"
                write_image(folder / "kfold" / file, number)
                number += 1
                lists["train" if picture < 4 else "crossval"].append(f"{file} {label}")
        lists["test"] = lists["train"] + lists["crossval"]
        for part, lines in lists.items():
            place = folder / f"{domain}_{part}_kfold.txt"
            place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def remove_lists(folder):
    for place in folder.glob("*.txt"):
        place.unlink()


def domains_of(source, split):
    return set(source.splits[split].table(["domain"])["domain"])


def test_all_domains_are_one_set_with_the_domain_of_each_image(pacs):
    source = list_source(f"pacs:{pacs}")
    listing = source.splits["all"]
    assert source.classes == CLASSES
    assert source.name == "pacs"
    column = listing.table(["domain"])["domain"]
    assert [name.split("/")[0] for name in listing.names] == column.tolist()
    assert [CLASSES[label] for label in listing.labels] == [
        name.split("/")[1] for name in listing.names
    ]
    assert all(file.is_file() for file in listing.files)


def test_some_domains_are_one_set_in_any_case(pacs):
    source = list_source(f"pacs:{pacs},domains=Photo|ART PAINTING")
    assert set(source.splits) == {"all"}
    assert domains_of(source, "all") == {"photo", "art_painting"}


def test_the_domain_held_out_is_tested_and_no_other(pacs):
    remove_lists(pacs)
    source = list_source(f"pacs:{pacs},test=sketch")
    assert domains_of(source, "train") == {"art_painting", "cartoon", "photo"}
    assert domains_of(source, "test") == {"sketch"}
    assert len(source.splits["test"].labels) == 4 * len(CLASSES)
    assert "test images from sketch" in source.notes["natural_shift"]
    data = load_data(f"pacs:{pacs},test=sketch", validation_fraction=0.25, progress=False)
    counts = (len(data.train), len(data.val), len(data.test))
    assert counts == (9 * len(CLASSES), 3 * len(CLASSES), 4 * len(CLASSES))


def test_fewer_domains_can_be_trained_on(pacs):
    source = list_source(f"pacs:{pacs},domains=photo|cartoon,test=sketch")
    assert domains_of(source, "train") == {"photo", "cartoon"}
    assert domains_of(source, "test") == {"sketch"}


def test_official_lists_say_what_is_train_and_val(pacs):
    source = list_source(f"pacs:{pacs},test=sketch")
    for split, last in (("train", {"001", "002", "003"}), ("val", {"004"})):
        names = source.splits[split].names
        assert {name[-7:-4] for name in names} == last
        assert domains_of(source, split) == {"art_painting", "cartoon", "photo"}
    assert domains_of(source, "test") == {"sketch"}
    assert len(source.splits["test"].labels) == 4 * len(CLASSES)


@pytest.mark.parametrize("folder", ["splits", "pacs_label", "kfold"])
def test_official_lists_are_found_where_copies_have_them(pacs, folder):
    (pacs / folder).mkdir(exist_ok=True)
    for place in pacs.glob("*.txt"):
        place.rename(pacs / folder / place.name)
    assert set(list_source(f"pacs:{pacs},test=photo").splits) == {"train", "val", "test"}


def test_a_list_that_repeats_an_image_counts_it_once(pacs):
    place = pacs / "photo_crossval_kfold.txt"
    text = place.read_text(encoding="utf-8")
    place.write_text(text + text.splitlines()[0] + "\n", encoding="utf-8")
    assert len(list_source(f"pacs:{pacs},test=sketch").splits["val"].labels) == 3 * len(CLASSES)


@pytest.mark.parametrize(
    ("part", "line", "message"),
    [
        ("crossval", "photo/dog/pic_001.jpg 1", "'photo/dog/pic_001.jpg' both for train and for v"),
        ("train", "photo/dog/pic_999.jpg 1", "names 'photo/dog/pic_999.jpg': no file of"),
    ],
)
def test_wrong_lists_are_one_sentence(pacs, part, line, message):
    place = pacs / f"photo_{part}_kfold.txt"
    place.write_text(f"{line}\n{place.read_text(encoding='utf-8')}", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        list_source(f"pacs:{pacs},test=sketch")


def test_another_number_of_images_than_published_is_a_remark(pacs):
    remarks = list_source(f"pacs:{pacs}").remarks
    assert remarks[-1] == "the domain sketch has 28 images, and 3,929 were published"
    for facts in NATURAL_SETS.values():
        assert not facts.parts or sum(facts.parts.values()) == facts.images


@pytest.mark.parametrize("name", ["Real World", "RealWorld", "real_world"])
def test_office_home_is_read_however_its_folders_are_spelled(tmp_path, name):
    for number, domain in enumerate(("Art", "Clipart", "Product", name)):
        for label, kind in enumerate(("Alarm_Clock", "Backpack")):
            place = tmp_path / "OfficeHomeDataset_10072016" / domain / kind / "00001.jpg"
            write_image(place, 2 * number + label)
    (tmp_path / "OfficeHomeDataset_10072016" / "ImageInfo.csv").write_text("", encoding="utf-8")
    source = list_source(f"office-home:{tmp_path},test=real world")
    assert source.classes == ("Alarm_Clock", "Backpack")
    assert domains_of(source, "test") == {"Real World"}
    assert domains_of(source, "train") == {"Art", "Clipart", "Product"}


def test_domains_of_any_set_are_its_folders(tmp_path):
    for number, domain in enumerate(("L38", "L43")):
        for label, kind in enumerate(("bird", "cat")):
            write_image(tmp_path / domain / kind / "1.png", 2 * number + label)
    source = list_source(f"domains:{tmp_path}")
    assert source.name is None
    assert domains_of(source, "all") == {"L38", "L43"}


def test_domains_are_slices_of_an_evaluation(pacs, tmp_path):
    data = load_data(
        f"pacs:{pacs}",
        test_fraction=1.0,
        groups=GroupColumns(None, None, ("domain",)),
        progress=False,
    )
    values = data.test.groups.slices["domain"]
    assert [name.split("/")[0] for name in data.test.names] == values.tolist()


def test_an_evaluation_measures_slices_of_domains_and_each_stated_domain(pacs, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, len(CLASSES)))
    run = fw.evaluate(
        model,
        f"pacs:{pacs},domains=photo|cartoon",
        "clean",
        natural=(f"pacs:{pacs},domains=sketch|art_painting",),
        slices=("domain",),
        bootstrap=100,
        out=tmp_path / "run",
        progress=False,
    )
    scores = run.scores[run.scores["metric"] == "accuracy"].set_index("shift")
    assert scores["n"].to_dict() == {
        "clean": 8 * len(CLASSES),
        "natural/pacs-sketch": 4 * len(CLASSES),
        "natural/pacs-art_painting": 4 * len(CLASSES),
    }
    slices = pd.read_csv(tmp_path / "run" / "slices.csv")
    assert {"domain=photo", "domain=cartoon"} <= set(slices["slice"])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("test=sketches", r"unknown domain of '.*' 'sketches'; did you mean 'sketch'\? known: art"),
        ("domains=photo|ink", r"unknown domain of '.*' 'ink'; .*known: art_painting"),
        ("tset=sketch", "unknown part of pacs: 'tset'; did you mean 'test'"),
        ("domains=sketch,test=sketch", "test=sketch leaves no other domain to train on"),
    ],
)
def test_a_wrong_part_is_one_sentence(pacs, part, message):
    with pytest.raises(InputError, match=message):
        list_source(f"pacs:{pacs},{part}")


def test_a_folder_without_the_domains_names_those_that_it_has(pacs, tmp_path):
    (pacs / "kfold" / "sketch").rename(pacs / "kfold" / "drawings")
    with pytest.raises(InputError, match=r"no folder for the domain sketch: PACS has .*drawings"):
        list_source(f"pacs:{pacs}")
    with pytest.raises(InputError, match="a folder for each of several domains; found dog"):
        list_source(f"domains:{_only_class(tmp_path)}")


def _only_class(tmp_path):
    write_image(tmp_path / "alone" / "dog" / "1.png", 0)
    return tmp_path / "alone"


def test_domains_with_other_classes_are_one_sentence(pacs):
    (pacs / "kfold" / "photo" / "dog").rename(pacs / "kfold" / "photo" / "dogs")
    with pytest.raises(InputError, match=r"different classes \(only in .*dog.*dogs"):
        list_source(f"pacs:{pacs}")


# ---------------------------------------------------------------- Camelyon17

# Which hospital has which images, by split as the file writes it: 0 and 1.
ROWS = [
    (hospital, written, label) for hospital in range(5) for written in (0, 1) for label in (0, 1)
]


@pytest.fixture
def camelyon(tmp_path):
    """Camelyon17-WILDS: an index without a name, and patients with leading zeros."""
    folder = tmp_path / "camelyon17_v1.0"
    rows = []
    for number, (hospital, written, label) in enumerate(ROWS):
        patient, node, x, y = f"{4 + hospital:03d}", hospital % 3, 3328 + 32 * number, 21792
        name = f"patient_{patient}_node_{node}"
        place = folder / "patches" / name / f"patch_{name}_x_{x}_y_{y}.png"
        write_image(place, number)
        rows.append((patient, node, x, y, label, hospital, hospital, written))
    columns = ("patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv")
    (folder / "RELEASE_v1.0.txt").write_text("", encoding="utf-8")
    return tmp_path


def hospitals_of(source, split):
    return set(source.splits[split].table(["hospital"])["hospital"])


def test_official_splits_are_those_of_wilds(camelyon):
    source = list_source(f"camelyon17:{camelyon}")
    assert source.classes == ("normal", "tumor")
    assert hospitals_of(source, "train") == {"0", "3", "4"}
    assert hospitals_of(source, "val") == {"1"}
    assert hospitals_of(source, "test") == {"2"}
    sizes = {name: len(listing.labels) for name, listing in source.splits.items()}
    assert sizes == {"train": 6, "val": 4, "test": 4}
    assert source.notes["natural_shift"].endswith("test images from 2.")
    assert source.splits["test"].names[0].startswith("patches/patient_006_node_2/patch_patient_006")
    assert all(path.is_file() for path in source.splits["train"].files)
    assert source.remarks[0] == "the split train has 6 images, and 302,436 were published"
    assert source.splits["train"].labels.tolist() == [0, 1] * 3


def test_validation_images_may_come_from_the_training_hospitals(camelyon):
    source = list_source(f"camelyon17:{camelyon}/camelyon17_v1.0,val=id_val")
    assert hospitals_of(source, "val") == {"0", "3", "4"}
    assert not set(source.splits["val"].names) & set(source.splits["train"].names)
    alone = list_source(f"camelyon17:{camelyon},split=id_val")
    assert set(alone.splits) == {"all"}
    assert alone.splits["all"].names == source.splits["val"].names


def test_any_hospital_can_be_held_out(camelyon):
    source = list_source(f"camelyon17:{camelyon},test=4")
    assert hospitals_of(source, "train") == {"0", "1", "2", "3"}
    assert hospitals_of(source, "test") == {"4"}
    assert hospitals_of(list_source(f"camelyon17:{camelyon},domains=1|2"), "all") == {"1", "2"}


def test_patients_are_groups_and_hospitals_slices_of_their_own_columns(camelyon):
    data = load_data(
        f"camelyon17:{camelyon}",
        groups=GroupColumns(None, "patient", ("hospital", "node")),
        progress=False,
    )
    assert data.test.groups.names.tolist() == ["006"] * 4
    assert data.test.groups.slices["hospital"].tolist() == ["2"] * 4
    assert data.train.groups.names.tolist() == ["004"] * 2 + ["007"] * 2 + ["008"] * 2
    with pytest.raises(InputError, match="in train and in val"):
        load_data(
            f"camelyon17:{camelyon},val=id_val",
            groups=GroupColumns(None, "patient", ()),
            progress=False,
        )


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("val=id", r"unknown split of camelyon17 'id'"),
        ("split=testing", r"unknown split of camelyon17 'testing'; did you mean 'test'"),
        ("split=test,test=2", "split= is one set, so it stands alone"),
        ("val=id_val,test=2", "val= chooses among official splits: leave it out"),
        ("test=7", "unknown hospital of .* '7'; .*known: 0, 1, 2, 3, 4"),
    ],
)
def test_a_wrong_part_of_camelyon17_is_one_sentence(camelyon, part, message):
    with pytest.raises(InputError, match=message):
        list_source(f"camelyon17:{camelyon},{part}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.rename(columns={"center": "site"}), "unknown column of .* 'center'"),
        (lambda table: table.assign(tumor=2), "has the tumor '2'; allowed are 0 and 1"),
        (lambda table: table.assign(split=3), "has the split '3'; allowed are 0 and 1"),
    ],
)
def test_another_table_than_that_of_wilds_is_one_sentence(camelyon, change, message):
    place = camelyon / "camelyon17_v1.0" / "metadata.csv"
    change(pd.read_csv(place, dtype={"patient": str}, index_col=0)).to_csv(place)
    with pytest.raises(InputError, match=message):
        list_source(f"camelyon17:{camelyon}")


def test_a_missing_patch_is_named(camelyon):
    next((camelyon / "camelyon17_v1.0" / "patches").rglob("*node_2*.png")).unlink()
    with pytest.raises(InputError, match="patch_patient_006_node_2"):
        fw.load_data(f"camelyon17:{camelyon}", progress=False)
