"""The sets of MedMNIST by name, on tiny files in their layout and a local server."""

import hashlib
import http.server
import json
import re
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fairweather.data import SOURCES, load_data, medmnist
from fairweather.data.medmnist import MEDMNIST, REFUSED, TITLES, list_medmnist
from fairweather.data.source import Request
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


def publish(monkeypatch, path, url="https://example.org/x.npz"):
    """Let the published file be this one."""
    real, digest = medmnist._published, md5(path)
    monkeypatch.setattr(
        medmnist, "_published", lambda *asked: real(*asked)._replace(url=url, md5=digest)
    )


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


def test_only_pathmnist_is_known_for_a_natural_shift(tmp_path):
    write(tmp_path / "bloodmnist.npz", classes=8)
    notes = list_medmnist("bloodmnist", Request(tmp_path, verify=False)).notes
    assert "natural_shift" not in notes


@pytest.mark.parametrize("resolution", [64, 128, 224])
def test_a_larger_resolution_has_its_own_file_and_checksum(tmp_path, resolution):
    write(tmp_path / "pathmnist.npz", seed=1)
    path = write(tmp_path / f"pathmnist_{resolution}.npz")
    source = list_medmnist("pathmnist", Request(tmp_path, resolution, verify=False))
    assert (source.name, source.notes["file"]) == (f"pathmnist@{resolution}", str(path))
    published = medmnist._published("pathmnist", resolution)
    assert f"pathmnist_{resolution}.npz" in published.url
    with pytest.raises(InputError, match=f"{md5(path)} instead of {published.md5}"):
        list_medmnist("pathmnist", Request(tmp_path, resolution))


def test_28_is_the_resolution_that_may_be_left_out(tmp_path):
    path = write(tmp_path / "pathmnist.npz")
    source = load_data("pathmnist@28", root=tmp_path, verify=False)
    assert (source.name, source.notes["file"]) == ("pathmnist@28", str(path))


def test_any_other_resolution_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no resolution 32: allowed are pathmnist@28, .*@224"):
        load_data("pathmnist@32", root=tmp_path)
    with pytest.raises(InputError, match="no resolution 0"):
        load_data("pathmnist@0", root=tmp_path)


def test_a_file_with_the_published_checksum_is_verified(tmp_path, monkeypatch):
    path = write(tmp_path / "pathmnist.npz")
    publish(monkeypatch, path)
    assert list_medmnist("pathmnist", Request(tmp_path)).notes["verified"] is True
    assert list_medmnist("pathmnist", Request(tmp_path, verify=False)).notes["verified"] is True


def test_another_file_is_refused_unless_nothing_is_to_be_verified(tmp_path):
    path = write(tmp_path / "pathmnist.npz")
    with pytest.raises(InputError, match=r"a8b06965200029087d5bd730944a56c1.*verify: false"):
        list_medmnist("pathmnist", Request(tmp_path))
    assert path.exists()


def test_a_file_is_found_in_the_folder_then_at_home_then_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(medmnist, "fetch", None)
    root = tmp_path / "root"
    root.mkdir()
    for place in (tmp_path / "cache/data/medmnist", tmp_path / "home/.medmnist", root):
        path = write(place / "pathmnist.npz")
        source = list_medmnist("pathmnist", Request(root, verify=False))
        assert source.notes["file"] == str(path)
    source = list_medmnist("pathmnist", Request(None, verify=False))
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
    publish(monkeypatch, served, f"{server}/pathmnist.npz")
    root = tmp_path / where if where else None
    if root:
        root.mkdir()
    target = (root or tmp_path / "cache/data/medmnist") / "pathmnist.npz"
    expected = {"file": str(target), "md5": md5(served), "verified": True}
    for _ in range(2):
        notes = list_medmnist("pathmnist", Request(root, verify=verify)).notes
        assert {key: notes[key] for key in expected} == expected
        served.unlink(missing_ok=True)


def test_a_download_with_another_checksum_is_removed(tmp_path, monkeypatch, server):
    served = write(tmp_path / "served" / "pathmnist.npz")
    publish(monkeypatch, write(tmp_path / "other.npz", seed=1), f"{server}/pathmnist.npz")
    with pytest.raises(InputError, match=md5(served)):
        list_medmnist("pathmnist", Request())
    assert not [path for path in (tmp_path / "cache").rglob("*.npz*") if path.name[0] != "."]


def test_offline_says_what_goes_where(tmp_path):
    with pytest.raises(InputError) as raised:
        load_data("pathmnist@64", root=tmp_path, offline=True)
    assert str(tmp_path / "pathmnist_64.npz") in str(raised.value)
    assert "https://zenodo.org/records/10519652/files/pathmnist_64.npz" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_must_be_a_folder_that_is_there(tmp_path):
    path = write(tmp_path / "pathmnist.npz")
    with pytest.raises(InputError, match="is a file; root names the folder"):
        list_medmnist("pathmnist", Request(path, verify=False))
    with pytest.raises(InputError, match="there is no file or folder"):
        list_medmnist("pathmnist", Request(tmp_path / "nowhere", verify=False))


def test_a_label_beyond_the_published_classes_is_refused(tmp_path):
    write(tmp_path / "pathmnist.npz", classes=10)
    with pytest.raises(InputError, match="is 9; with 9 classes, allowed are 0 to 8"):
        list_medmnist("pathmnist", Request(tmp_path, verify=False))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_says_why(name, tmp_path):
    reason = "14 findings" if name == "chestmnist" else "volumes"
    for specification in (name, f"{name}@64"):
        with pytest.raises(InputError, match=f"^{name} cannot be used: .*{reason}"):
            load_data(specification, root=tmp_path)


def test_every_set_of_the_package_is_listed_with_its_facts():
    path = Path(medmnist.importlib.util.find_spec("medmnist").origin).with_name("info.py")
    info = medmnist._constant(path.read_text(), "INFO")
    assert {*MEDMNIST, *REFUSED} == set(info)
    assert set(MEDMNIST) <= set(SOURCES)
    for name, title in TITLES.items():
        facts = info[name]
        assert facts["task"] in ("multi-class", "binary-class", "ordinal-regression")
        count, classes = re.match(r"([\d,]+) .* (\d+) (?:classes|organs|grades),", title).groups()
        assert int(count.replace(",", "")) == sum(facts["n_samples"].values())
        assert int(classes) == len(facts["label"])
        assert title.endswith("colour") == (facts["n_channels"] == 3)
        for resolution in medmnist.RESOLUTIONS:
            published = medmnist._published(name, resolution)
            assert re.fullmatch("[0-9a-f]{32}", published.md5)
            assert published.url.startswith("https://")
        assert len({medmnist._published(name, side).md5 for side in medmnist.RESOLUTIONS}) == 4
    assert {info[name]["task"] for name in REFUSED if "3d" not in name} == {
        "multi-label, binary-class"
    }


@pytest.mark.parametrize("name", TITLES)
def test_every_set_loads(name, tmp_path):
    classes = len(medmnist._published(name, 28).classes)
    write(tmp_path / f"{name}.npz", classes=classes)
    dataset = load_data(name, root=tmp_path, verify=False)
    assert dataset.name == f"{name}@28"
    assert len(dataset.classes) == len(set(dataset.classes)) == classes
    assert SOURCES[name].__doc__.startswith("MedMNIST: ")


def test_the_package_is_read_and_never_imported(tmp_path):
    write(tmp_path / "pathmnist.npz")
    load_data("pathmnist", root=tmp_path, verify=False)
    assert not {"medmnist", "medmnist.info", "skimage"} & set(sys.modules)
    assert not (tmp_path / "home" / ".medmnist").exists()


def test_without_the_package_the_line_that_installs_it_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(InputError, match=r"pip install 'fairweather\[medmnist\]'"):
        load_data("pathmnist", root=tmp_path)


@pytest.mark.parametrize(
    "text", ["", "INFO = {", "INFO = {'pathmnist': {'url': 'u', 'MD5': 'm'}}", "INFO = make()"]
)
def test_a_package_of_another_version_is_one_sentence(monkeypatch, tmp_path, text):
    (tmp_path / "medmnist.py").write_text("")
    (tmp_path / "info.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"says nothing of pathmnist@64: pip install"):
        load_data("pathmnist@64", root=tmp_path)
