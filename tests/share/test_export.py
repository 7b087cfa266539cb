"""Corrupted copies: the pixels that a model gets, written completely or not at all, and read."""

import hashlib
import io
import json
import re
import shlex
import shutil
import zipfile
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.data.loading import list_source
from fairweather.data.pixel_scans import digest
from fairweather.data.pixels import decode_image
from fairweather.progress import Event
from fairweather.share import export as layouts
from fairweather.share.export import class_folders
from fairweather.types.measurement import Dataset, Images, Shift

N = 30
CLASSES = ("tree", "bird", "smooth muscle")  # not sorted
FOG = "imagenet_c/fog,severity=3"
FOG_NAME = "imagenet_c__fog,severity=3"


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(256, size=(N, 3, 12, 10), dtype=np.uint8))
    keys = torch.arange(N) * 7  # as in a subset of a larger set
    images = Images(pixels, torch.arange(N) % 3, keys, CLASSES)
    return Dataset("noise", None, images[:9], images, (0.5,) * 3, (0.2,) * 3)


@pytest.fixture
def shifts():
    return [fw.make_shift("imagenet_c/fog", severity=3), fw.make_shift("gamma", exponent=2)]


def manifest_of(out):
    return json.loads((out / "manifest.json").read_text())


def tree(folder):
    """All files below a folder with their content, without the time in the manifest."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def listed(source):
    """All images of a source that is one set: uint8 `[N, 3, H, W]`, labels and classes."""
    found = list_source(source)
    assert set(found.splits) == {"all"}
    listing = found.splits["all"]
    items = listing.read(np.arange(len(listing.labels)))
    images = np.stack([decode_image(item.content, None) for item in items])
    return images, listing.labels, found.classes


@pytest.mark.parametrize("batch", [7, 256])
def test_an_npz_reads_back_with_identical_pixels(dataset, shifts, tmp_path, batch, monkeypatch):
    monkeypatch.setattr("fairweather.share.export.BATCH", batch)
    fw.export(dataset, shifts, tmp_path / "out", format="npz", seed=3)
    for shift in shifts:
        path = tmp_path / "out" / f"{shift.id.replace('/', '__')}.npz"
        expected = shift(dataset.test.images, dataset.test.keys, 3).numpy()
        images, labels, classes = listed(f"npz:{path}")
        assert np.array_equal(images, expected)
        assert labels.tolist() == dataset.test.labels.tolist()
        assert classes == CLASSES
        with np.load(path) as stored:
            assert stored["images"].dtype == np.uint8
            assert np.array_equal(stored["images"], expected.transpose(0, 2, 3, 1))
            assert stored["keys"].tolist() == dataset.test.keys.tolist()


@pytest.mark.parametrize("batch", [7, 256])
def test_a_png_tree_reads_back_with_identical_pixels(dataset, shifts, tmp_path, batch, monkeypatch):
    monkeypatch.setattr("fairweather.share.export.BATCH", batch)
    fw.export(dataset, shifts, tmp_path / "out", seed=3)
    order = np.argsort(dataset.test.labels.numpy(), kind="stable")
    for shift in shifts:
        path = tmp_path / "out" / shift.id.replace("/", "__")
        expected = shift(dataset.test.images, dataset.test.keys, 3).numpy()[order]
        images, labels, classes = listed(f"folder:{path}")
        assert np.array_equal(images, expected)
        assert labels.tolist() == dataset.test.labels[order].tolist()
        assert classes == ("0_tree", "1_bird", "2_smooth_muscle")
    assert (path / "2_smooth_muscle/035.png").is_file()  # label 2, key 5 * 7


def test_the_manifest_says_what_it_is(dataset, shifts, tmp_path):
    path = fw.export(dataset, shifts, tmp_path / "out", seed=3)
    assert path == tmp_path / "out" / "manifest.json"
    manifest = manifest_of(tmp_path / "out")
    assert (manifest["kind"], manifest["format"], manifest["seed"]) == (
        "fairweather export",
        "png",
        3,
    )
    data = manifest["data"]
    assert (data["name"], data["part"], data["images"], data["size"]) == (
        "noise",
        "test",
        N,
        [12, 10],
    )
    assert data["digest"] == digest(dataset.test)
    assert data["classes"][2] == {"label": 2, "name": "smooth muscle", "folder": "2_smooth_muscle"}
    assert list(manifest["shifts"]) == [shift.id for shift in shifts]
    fog = manifest["shifts"][FOG]
    assert (fog["name"], fog["path"], fog["images"]) == ("imagenet_c/fog", FOG_NAME, N)
    assert fog["parameters"] == {"severity": 3}
    assert fog["constants"] == "amount 0.75, decay 2.5"  # CIFAR-10-C's, since it is below 48 px
    pixels = shifts[0](dataset.test.images, dataset.test.keys, 3).permute(0, 2, 3, 1)
    assert fog["pixels_sha256"] == hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    assert fog["made"]["versions"]["torch"] == version("torch")
    assert fog["made"]["command"]


def test_the_manifest_has_the_checksum_of_an_array_file(dataset, shifts, tmp_path):
    fw.export(dataset, shifts, tmp_path, format="npz")
    entry = manifest_of(tmp_path)["shifts"][FOG]
    content = (tmp_path / entry["path"]).read_bytes()
    assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    assert entry["bytes"] == len(content)


@pytest.mark.parametrize("format", ["png", "npz"])
def test_the_same_export_gives_the_same_bytes(dataset, shifts, tmp_path, format):
    fw.export(dataset, shifts, tmp_path / "one", format=format)
    fw.export(dataset, shifts, tmp_path / "two", format=format)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    for path in tmp_path.rglob("*.npz"):
        with zipfile.ZipFile(path) as archive:
            times = {member.date_time for member in archive.infolist()}
        assert times == {(1980, 1, 1, 0, 0, 0)}  # and not the time of today


def counting(shift, calls, fail_at=None):
    """The shift; it counts how often it was applied to more than one image, and may fail."""

    def apply(images, keys, seed):
        if len(images) > 1:
            calls.append(shift.id)
            if len(calls) == fail_at:
                raise KeyboardInterrupt
        return shift.apply(images, keys, seed)

    return Shift(shift.name, shift.level, shift.parameters, apply)


@pytest.mark.parametrize("format", ["png", "npz"])
def test_an_interrupted_export_goes_on_where_it_was(dataset, shifts, tmp_path, format, monkeypatch):
    monkeypatch.setattr("fairweather.share.export.BATCH", 10)
    fw.export(dataset, shifts, tmp_path / "whole", format=format)
    calls = []
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):  # in the second shift's second batch
        fw.export(dataset, [counting(s, calls, fail_at=5) for s in shifts], out, format=format)
    assert list(manifest_of(out)["shifts"]) == [FOG]
    assert len(list(out.iterdir())) == 3  # lock, manifest, fog
    calls.clear()
    fw.export(dataset, [counting(s, calls) for s in shifts], out, format=format)
    assert calls == ["gamma,exponent=2"] * 3
    assert tree(out) == tree(tmp_path / "whole")
    calls.clear()
    fw.export(dataset, [counting(s, calls) for s in shifts], out, format=format)
    assert calls == []


@pytest.mark.parametrize("format", ["png", "npz"])
def test_what_a_killed_process_left_is_replaced(dataset, shifts, tmp_path, format):
    fw.export(dataset, shifts, tmp_path / "whole", format=format)
    fw.export(dataset, shifts[:1], tmp_path / "out", format=format)
    suffix = {"png": "", "npz": ".npz"}[format]
    for name in (f"gamma,exponent=2{suffix}", f".gamma,exponent=2{suffix}.partial"):
        if format == "png":
            (tmp_path / "out" / name).mkdir()
            (tmp_path / "out" / name / "half.png").write_bytes(b"half")
        else:
            (tmp_path / "out" / name).write_bytes(b"half")
    fw.export(dataset, shifts, tmp_path / "out", format=format)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_killed_first_shift_leaves_a_folder_to_go_on_with(dataset, shifts, tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".manifest.json.partial").write_text("{")
    fw.export(dataset, shifts, tmp_path)
    assert list(manifest_of(tmp_path)["shifts"]) == [shift.id for shift in shifts]
    assert not list(tmp_path.glob("*.partial"))


def remove_a_file(entry):
    next(entry.glob("*/*.png")).unlink()


def cut_a_file(entry):
    path = next(entry.glob("*/*.png"))
    path.write_bytes(path.read_bytes()[:-1])


def change_a_byte_of_one(entry):
    change_a_byte(sorted(entry.rglob("*.png"))[1])


def change_a_byte(entry):
    content = bytearray(entry.read_bytes())
    content[200] ^= 1
    entry.write_bytes(content)


@pytest.mark.parametrize(
    ("format", "damage"),
    [
        ("png", remove_a_file),
        ("png", cut_a_file),
        ("png", shutil.rmtree),
        ("npz", change_a_byte),
        ("png", change_a_byte_of_one),
        ("npz", lambda path: path.unlink()),
    ],
)
def test_damaged_files_are_written_again(dataset, shifts, tmp_path, format, damage):
    fw.export(dataset, shifts, tmp_path, format=format)
    before = tree(tmp_path)
    damage(tmp_path / manifest_of(tmp_path)["shifts"][FOG]["path"])
    assert tree(tmp_path) != before
    fw.export(dataset, shifts, tmp_path, format=format)
    assert tree(tmp_path) == before


def test_files_of_other_versions_are_written_again(dataset, shifts, tmp_path):
    fw.export(dataset, shifts, tmp_path)
    manifest = manifest_of(tmp_path)
    manifest["shifts"][FOG]["made"]["versions"]["torch"] = "1.0"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    calls = []
    fw.export(dataset, [counting(shift, calls) for shift in shifts], tmp_path)
    assert calls == [FOG]
    assert manifest_of(tmp_path)["shifts"][FOG]["made"]["versions"]["torch"] == version("torch")


def test_further_shifts_may_join(dataset, shifts, tmp_path):
    fw.export(dataset, shifts, tmp_path)
    fw.export(dataset, [fw.make_shift("clean")], tmp_path)
    assert list(manifest_of(tmp_path)["shifts"]) == [*(shift.id for shift in shifts), "clean"]
    images, _, _ = listed(f"folder:{tmp_path}/clean")
    order = np.argsort(dataset.test.labels.numpy(), kind="stable")
    assert np.array_equal(images, dataset.test.images.numpy()[order])


@pytest.mark.parametrize("gone", ["made", "path", "pixels_sha256"])
def test_a_damaged_manifest_is_one_sentence(dataset, shifts, tmp_path, gone):
    fw.export(dataset, shifts, tmp_path)
    manifest = manifest_of(tmp_path)
    del manifest["shifts"][FOG][gone]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(fw.InputError, match=f"{re.escape(str(tmp_path))}.*--out"):
        fw.export(dataset, shifts, tmp_path)
    assert manifest_of(tmp_path) == manifest


def test_a_folder_with_something_else_is_refused_and_left_alone(dataset, shifts, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(fw.InputError, match=f"{re.escape(str(tmp_path))}.*--out"):
        fw.export(dataset, shifts, tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": 1, "steps": {}}')  # of a run
    with pytest.raises(fw.InputError, match=f"{re.escape(str(tmp_path))}.*--out"):
        fw.export(dataset, shifts, tmp_path)
    with pytest.raises(fw.InputError, match=f"{re.escape(str(tmp_path))}.*--out"):
        fw.export(dataset, shifts, tmp_path / "thesis.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "thesis.txt"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1}, "seed: 0, not 1; .*--out"),
        ({"format": "npz"}, "format: png, not npz; .*--out"),
        ({"part": "val"}, "split: test, not val; .*--out"),
    ],
)
def test_an_export_of_other_inputs_is_refused(dataset, shifts, tmp_path, options, words):
    fw.export(dataset, shifts, tmp_path)
    before = tree(tmp_path), manifest_of(tmp_path)
    with pytest.raises(fw.InputError, match=words):
        fw.export(dataset, shifts, tmp_path, **options)
    dataset.test.images[0, 0, 0, 0] ^= 1
    with pytest.raises(fw.InputError, match=r"SHA-256 .*--out"):
        fw.export(dataset, shifts, tmp_path)
    assert (tree(tmp_path), manifest_of(tmp_path)) == before


def test_mistakes_come_before_anything_is_written(dataset, shifts, tmp_path):
    out = tmp_path / "out"
    twice = Dataset("twice", None, None, dataset.test[[0, 0]], dataset.mean, dataset.std)
    bad = Shift("bad", 1.0, {}, lambda images, keys, seed: images.float())
    for arguments, options, error, words in (
        ((dataset, shifts), {"format": "jpg"}, fw.InputError, "'jpg'.*npz, png"),
        ((dataset, shifts), {"part": "tset"}, fw.InputError, "did you mean 'test'"),
        ((dataset, shifts), {"part": "train"}, fw.InputError, "train.* val and test"),
        ((dataset, []), {}, fw.InputError, "at least one shift"),
        ((twice, shifts), {}, fw.InputError, "same key"),
        ((dataset, [*shifts, bad]), {}, TypeError, "bad must return uint8"),
    ):
        with pytest.raises(error, match=words):
            fw.export(*arguments, out, **options)
    assert not out.exists()


def test_two_processes_do_not_write_into_one_folder(dataset, shifts, tmp_path):
    def again(images, keys, seed):
        if len(images) > 1:
            fw.export(dataset, shifts, tmp_path / "out")
        return images

    with pytest.raises(fw.InputError, match=r"another process .*out"):
        fw.export(dataset, [Shift("again", 1.0, {}, again)], tmp_path / "out")


def test_progress_counts_images_of_what_is_left(dataset, shifts, tmp_path, monkeypatch):
    monkeypatch.setattr("fairweather.share.export.BATCH", 20)
    fw.export(dataset, shifts[:1], tmp_path)
    seen = []
    more = [*shifts, fw.make_shift("hue", turn=0.5)]
    fw.export(dataset, more, tmp_path, progress=seen.append)
    assert seen == [Event("export", done, 60) for done in (20, 30, 50, 60)]


def test_a_batch_is_all_that_is_in_memory(dataset, shifts, tmp_path, monkeypatch):
    """Each batch is written before the next one is shifted."""
    monkeypatch.setattr("fairweather.share.export.BATCH", 10)
    written = []

    def apply(images, keys, seed):
        if len(images) > 1:
            written.append(len(list(tmp_path.rglob("*.png"))))
        return images

    fw.export(dataset, [Shift("same", 1.0, {}, apply)], tmp_path)
    assert written == [0, 10, 20]


@pytest.mark.parametrize(
    ("classes", "folders"),
    [
        (("cat", "dog"), ("cat", "dog")),
        (("dog", "cat"), ("0_dog", "1_cat")),
        (("a b", "a/b"), ("0_a_b", "1_a_b")),
        (("Cat", "cat"), ("0_Cat", "1_cat")),
        (("test", "train"), ("0_test", "1_train")),
        (("..", ".x"), ("_", "_x")),
        (("", "x"), ("_", "x")),
        (("Ärzte", "Öl"), ("Ärzte", "Öl")),
        (tuple("0123456789"), tuple("0123456789")),
        (tuple(map(str, range(11))), tuple(f"{n:02d}_{n}" for n in range(11))),
        (("x" * 300, "y"), ("x" * 60, "y")),
    ],
)
def test_class_folders_are_safe_and_sort_in_label_order(classes, folders):
    assert class_folders(classes) == folders
    assert sorted(folders) == list(folders)


def test_the_command_exports_and_goes_on(command, colour_folder, tmp_path):
    arguments = ["export", f"folder:{colour_folder}", "--shift", "gamma,exponent=2", "--out", "out"]
    status, out, error = command(*arguments)
    hint = "fairweather evaluate MODEL folder:out/gamma,exponent=2 --shift clean"
    assert (status, error) == (0, f"next    {hint}\n")
    said, *places = out.splitlines()
    assert said.startswith("images         60 of 150, the test split: test/blue/000.png, ")
    assert places == ["export    out", "manifest  out/manifest.json"]
    first = manifest_of(tmp_path / "out")
    assert first["data"]["images"] == 60
    made = first["shifts"]["gamma,exponent=2"]["made"]
    assert made["command"] == f"fairweather {shlex.join(arguments)}"
    images, _, classes = listed("folder:out/gamma,exponent=2")
    clean = fw.load_data(f"folder:{colour_folder}").test
    assert np.array_equal(images, fw.make_shift("gamma", exponent=2)(clean.images, clean.keys))
    assert classes == clean.classes
    status, out, error = command(*arguments, "--shift-seed", "1")
    assert (status, out) == (2, f"{said}\n")
    assert "seed: 0, not 1; name a new folder with --out" in error
    assert manifest_of(tmp_path / "out") == first


def test_the_command_takes_suites_parts_sizes_and_formats(command, colour_folder, tmp_path):
    root = ["--data-root", str(colour_folder.parent), "--out", "out", "--format", "npz"]
    shifts = ["--shift", "paper_pathmnist", "--shift", "clean", "--part", "val", "--size", "8"]
    assert (
        command("export", f"folder:{colour_folder.name}", *root, *shifts, "--shift-seed", "5")[0]
        == 0
    )
    manifest = manifest_of(tmp_path / "out")
    assert len(manifest["shifts"]) == 9
    assert (manifest["data"]["part"], manifest["data"]["size"]) == ("val", [8, 8])
    expected = fw.load_data(f"folder:{colour_folder}", size=8, seed=5).val
    with np.load("out/clean.npz") as stored:
        assert np.array_equal(stored["images"], expected.images.permute(0, 2, 3, 1))
        assert stored["keys"].tolist() == expected.keys.tolist()


def test_the_command_exports_what_evaluate_tests_and_says_what(command, colour_folder, tmp_path):
    folder = colour_folder / "test"  # one set without splits
    arguments = ["export", f"folder:{folder}", "--shift", "clean", "--format", "npz"]
    status, said, _ = command(*arguments, "--out", "all")
    every = len(list(folder.glob("*/*")))
    assert status == 0
    assert f"{every} of {every}, the set has no splits, so all of it is tested: " in said
    data = manifest_of(tmp_path / "all")["data"]
    assert (data["part"], data["images"]) == ("test", every)
    named = sorted(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
    assert sorted(data["files"].values()) == named
    status, said, _ = command(*arguments, "--out", "fifth", "--part", "test")
    drawn = fw.load_data(f"folder:{folder}").test
    assert f"{len(drawn)} of {every}, the test split that a study draws with this seed" in said
    data = manifest_of(tmp_path / "fifth")["data"]
    assert list(data["files"].values()) == drawn.names.tolist()
    assert list(data["files"]) == [str(key) for key in drawn.keys.tolist()]


def test_png_files_are_rgb_without_loss(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(9, 9, 3), dtype=np.uint8)
    layouts._save_png(tmp_path / "a.png", pixels)
    with Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(image), pixels)
