"""The sets of MedMNIST by name, on tiny files in their layout and a local server."""

import ast
import hashlib
import http.server
import importlib.util
import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fairweather.data import named_sets as known
from fairweather.data import npz as medmnist
from fairweather.data.loading import DATA_SOURCES, load_data
from fairweather.data.npz import (
    MEDMNIST,
    MEDMNIST_SETS,
    MEDMNIST_URL,
    REFUSED_SETS,
    RESOLUTIONS,
    list_medmnist,
    medmnist_file,
)
from fairweather.data.sources import SourceRequest
from fairweather.errors import InputError


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path / "cache"))


def write(path, classes=9, side=8, seed=0):
    """Labels [N, 1] and images uint8 as the published files have them, two of each class."""
    generator = np.random.default_rng(seed)
    content = {}
    for split in ("train", "val", "test"):
        shape = (2 * classes, side, side, 3)
        content[f"{split}_images"] = generator.integers(0, 256, shape, dtype=np.uint8)
        content[f"{split}_labels"] = np.repeat(np.arange(classes, dtype=np.uint8), 2)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **content)
    return path


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def publish(monkeypatch, path, address="https://example.org/{file}"):
    """Let the published file be this one."""
    facts = MEDMNIST_SETS["pathmnist"]._replace(md5=dict.fromkeys(RESOLUTIONS, md5(path)))
    monkeypatch.setitem(medmnist.MEDMNIST_SETS, "pathmnist", facts)
    monkeypatch.setattr(medmnist, "MEDMNIST_URL", address)


def test_the_official_splits_and_class_names_with_facts_for_the_provenance(tmp_path):
    path = write(tmp_path / "pathmnist.npz")
    dataset = load_data("pathmnist", root=tmp_path, verify=False)
    assert dataset.name == "pathmnist@28"
    assert dataset.classes[0] == "adipose"
    assert dataset.classes[8] == "colorectal adenocarcinoma epithelium"
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test)] == [18, 18, 18]
    assert dataset.test.labels.tolist() == np.repeat(np.arange(9), 2).tolist()
    assert dataset.notes["file"] == str(path)
    assert dataset.notes["md5"] == md5(path)
    assert dataset.notes["verified"] is False
    for part in ("NCT-CRC-HE-100K", "CRC-VAL-HE-7K", "clinical centre"):
        assert part in dataset.notes["natural_shift"]
    json.dumps(dataset.notes)


@pytest.mark.parametrize(
    ("name", "classes", "noted"), [("retinamnist", 5, True), ("bloodmnist", 8, None)]
)
def test_grades_are_classes_in_an_order(tmp_path, name, classes, noted):
    write(tmp_path / f"{name}.npz", classes=classes)
    notes = list_medmnist(name, SourceRequest(tmp_path, verify=False)).notes
    assert notes.get("ordered_classes") is noted


def test_only_pathmnist_is_known_for_a_natural_shift(tmp_path):
    write(tmp_path / "bloodmnist.npz", classes=8)
    notes = list_medmnist("bloodmnist", SourceRequest(tmp_path, verify=False)).notes
    assert "natural_shift" not in notes


@pytest.mark.parametrize("resolution", [64, 128, 224])
def test_a_larger_resolution_has_its_own_file_and_checksum(tmp_path, resolution):
    write(tmp_path / "pathmnist.npz", seed=1)
    path = write(tmp_path / f"pathmnist_{resolution}.npz")
    source = list_medmnist("pathmnist", SourceRequest(tmp_path, resolution, verify=False))
    assert (source.name, source.notes["file"]) == (f"pathmnist@{resolution}", str(path))
    published = MEDMNIST_SETS["pathmnist"].md5[resolution]
    with pytest.raises(InputError, match=f"{md5(path)} .*{published}"):
        list_medmnist("pathmnist", SourceRequest(tmp_path, resolution))


def test_28_is_the_resolution_that_may_be_left_out(tmp_path):
    path = write(tmp_path / "pathmnist.npz")
    source = load_data("pathmnist@28", root=tmp_path, verify=False)
    assert (source.name, source.notes["file"]) == ("pathmnist@28", str(path))


def test_any_other_resolution_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"resolution 32: .*pathmnist@28, .*@224"):
        load_data("pathmnist@32", root=tmp_path)
    with pytest.raises(InputError, match="resolution 0"):
        load_data("pathmnist@0", root=tmp_path)


def test_a_file_with_the_published_checksum_is_verified(tmp_path, monkeypatch):
    path = write(tmp_path / "pathmnist.npz")
    publish(monkeypatch, path)
    assert list_medmnist("pathmnist", SourceRequest(tmp_path)).notes["verified"] is True
    assert (
        list_medmnist("pathmnist", SourceRequest(tmp_path, verify=False)).notes["verified"] is True
    )


def test_whether_the_file_was_verified_is_told(tmp_path, monkeypatch):
    def lines(**options):
        told = []
        load_data("pathmnist", root=tmp_path, progress=told.append, **options)
        return [event.line for event in told if event.line]

    path = write(tmp_path / "pathmnist.npz")
    (line,) = lines(verify=False)
    assert line.startswith("not verified ")
    assert "pathmnist@28" in line
    publish(monkeypatch, path)
    (line,) = lines()
    assert line.startswith("verified ")
    assert "pathmnist@28" in line
    assert md5(path) in line


def test_another_file_is_refused_unless_nothing_is_to_be_verified(tmp_path):
    path = write(tmp_path / "pathmnist.npz")
    with pytest.raises(
        InputError, match=r"a8b06965200029087d5bd730944a56c1.*verify: false in .*load_data"
    ):
        list_medmnist("pathmnist", SourceRequest(tmp_path))
    assert path.exists()


def test_a_file_is_found_in_the_folder_then_at_home_then_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(known, "fetch", None)
    root = tmp_path / "root"
    root.mkdir()
    for place in (tmp_path / "cache/data/medmnist", tmp_path / "home/.medmnist", root):
        path = write(place / "pathmnist.npz")
        source = list_medmnist("pathmnist", SourceRequest(root, verify=False))
        assert source.notes["file"] == str(path)
    source = list_medmnist("pathmnist", SourceRequest(None, verify=False))
    assert source.notes["file"] == str(tmp_path / "home/.medmnist/pathmnist.npz")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=tmp_path / "served")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("where", ["root", None])
def test_a_file_that_is_nowhere_is_downloaded_once(tmp_path, monkeypatch, server, where, verify):
    served = write(tmp_path / "served" / "pathmnist.npz")
    publish(monkeypatch, served, f"{server}/{{file}}")
    root = tmp_path / where if where else None
    if root:
        root.mkdir()
    target = (root or tmp_path / "cache/data/medmnist") / "pathmnist.npz"
    expected = {"file": str(target), "md5": md5(served), "verified": True}
    for _ in range(2):
        notes = list_medmnist("pathmnist", SourceRequest(root, verify=verify)).notes
        assert {key: notes[key] for key in expected} == expected
        served.unlink(missing_ok=True)


def test_a_download_with_another_checksum_is_removed(tmp_path, monkeypatch, server):
    served = write(tmp_path / "served" / "pathmnist.npz")
    publish(monkeypatch, write(tmp_path / "other.npz", seed=1), f"{server}/{{file}}")
    with pytest.raises(InputError, match=md5(served)):
        list_medmnist("pathmnist", SourceRequest())
    assert not [path for path in (tmp_path / "cache").rglob("*.npz*") if path.name[0] != "."]


def test_offline_says_what_goes_where(tmp_path):
    with pytest.raises(InputError) as raised:
        load_data("pathmnist@64", root=tmp_path, offline=True)
    assert str(tmp_path / "pathmnist_64.npz") in str(raised.value)
    assert "https://zenodo.org/records/10519652/files/pathmnist_64.npz" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_must_be_a_folder_that_is_there(tmp_path):
    path = write(tmp_path / "pathmnist.npz")
    with pytest.raises(InputError, match=r"pathmnist.npz' is a file; root"):
        list_medmnist("pathmnist", SourceRequest(path, verify=False))
    with pytest.raises(InputError, match="nowhere"):
        list_medmnist("pathmnist", SourceRequest(tmp_path / "nowhere", verify=False))


def test_a_folder_with_the_name_of_a_file_is_passed_over(tmp_path):
    (tmp_path / "root/pathmnist.npz").mkdir(parents=True)
    write(tmp_path / "home/.medmnist/pathmnist.npz")
    source = list_medmnist(
        "pathmnist", SourceRequest(tmp_path / "root", offline=True, verify=False)
    )
    assert len(source.classes) == 9


def test_a_label_beyond_the_published_classes_is_refused(tmp_path):
    write(tmp_path / "pathmnist.npz", classes=10)
    with pytest.raises(InputError, match=r"is 9; .*0 to 8"):
        list_medmnist("pathmnist", SourceRequest(tmp_path, verify=False))


@pytest.mark.parametrize("name", REFUSED_SETS)
def test_what_cannot_be_used_says_why(name, tmp_path):
    for specification in (name, f"{name}@64"):
        with pytest.raises(InputError, match=f"{name} .*volumes"):
            load_data(specification, root=tmp_path)


def package_info():
    """The dictionary INFO of the package medmnist, read without importing it."""
    # Importing it makes the folder ~/.medmnist and loads scikit-image and others for seconds.
    found = importlib.util.find_spec("medmnist")
    if found is None or found.origin is None:
        pytest.skip("the package medmnist is not installed")
    source = Path(found.origin).with_name("info.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "INFO":
            return ast.literal_eval(node.value)
    raise LookupError("INFO")


def test_the_table_is_what_the_package_says():
    info = package_info()
    assert not set(MEDMNIST_SETS) & set(REFUSED_SETS)
    assert {*MEDMNIST_SETS, *REFUSED_SETS} == set(info)
    for name, facts in MEDMNIST_SETS.items():
        row = info[name]
        suffixes = {28: "", 64: "_64", 128: "_128", 224: "_224"}
        assert facts.task == row["task"]
        assert facts.channels == row["n_channels"]
        assert facts.images == row["n_samples"]
        assert dict(enumerate(facts.classes)) == {int(k): v for k, v in row["label"].items()}
        assert facts.md5 == {side: row[f"MD5{suffix}"] for side, suffix in suffixes.items()}
        for side, suffix in suffixes.items():
            assert MEDMNIST_URL.format(file=medmnist_file(name, side)) == row[f"url{suffix}"]


def test_all_flat_sets_are_taken():
    for name in package_info():
        assert (name in MEDMNIST_SETS) == (not name.endswith("3d"))


def test_titles_say_how_much_of_what():
    assert (
        MEDMNIST_SETS["pathmnist"].title
        == "107,180 patches of colorectal tissue, 9 classes, colour"
    )
    assert MEDMNIST_SETS["organamnist"].title == "58,830 axial CT slices, 11 organs, gray"
    assert set(MEDMNIST) <= set(DATA_SOURCES)
    assert DATA_SOURCES["retinamnist"].__doc__.startswith("MedMNIST: 1,600 images of the retina")


@pytest.mark.parametrize("name", sorted({*MEDMNIST_SETS} - {"chestmnist"}))
def test_every_set_loads(name, tmp_path):
    classes = MEDMNIST_SETS[name].classes
    write(tmp_path / f"{name}.npz", classes=len(classes))
    dataset = load_data(name, root=tmp_path, verify=False)
    assert dataset.name == f"{name}@28"
    assert dataset.classes == classes
    assert len(set(classes)) == len(classes)


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_each_chest_x_ray_has_any_number_of_findings(tmp_path, resolution):
    generator, facts = np.random.default_rng(0), MEDMNIST_SETS["chestmnist"]
    content = {}
    for split, count in (("train", 30), ("val", 20), ("test", 20)):
        shape = (count, resolution, resolution)
        content[f"{split}_images"] = generator.integers(0, 256, shape, dtype=np.uint8)
        content[f"{split}_labels"] = (generator.random((count, 14)) < 0.1).astype(np.uint8)
    content["val_labels"][:, 13] = 0  # a rare finding may be missing
    np.savez_compressed(tmp_path / medmnist_file("chestmnist", resolution), **content)
    with pytest.raises(InputError, match="MD5"):
        load_data(f"chestmnist@{resolution}", root=tmp_path)
    dataset = load_data(f"chestmnist@{resolution}", root=tmp_path, verify=False)
    assert (dataset.name, dataset.task) == (f"chestmnist@{resolution}", "multilabel")
    assert dataset.classes == facts.classes
    assert dataset.test.images.shape == (20, 3, resolution, resolution)
    for split in ("train", "val", "test"):
        labels = getattr(dataset, split).labels
        assert labels.tolist() == content[f"{split}_labels"].tolist()
    assert facts.title == "112,120 chest X-rays, 14 findings, gray"


def test_the_package_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    write(tmp_path / "pathmnist.npz")
    load_data("pathmnist", root=tmp_path, verify=False)
    assert not (tmp_path / "home" / ".medmnist").exists()
