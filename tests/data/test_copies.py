"""Images that stand in two splits: named and refused, or warned of."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.data import pixel_scans
from fairweather.data.loading import load_data
from fairweather.data.pixel_scans import difference_hashes, find_copies
from fairweather.types.measurement import Images


def scene(seed, side=48):
    """A picture with large and small structure, as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(256, size=(7, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=float)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def as_images(pictures, labels=None):
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    keys = torch.arange(len(pixels))
    labels = torch.zeros(len(pixels), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Images(pixels, labels, keys, ("cat", "dog"))


@pytest.fixture
def parts(tmp_path):
    """A folder with 12 training and 8 test images of different scenes in each class."""
    for label, name in enumerate(("cat", "dog")):
        for split, count in (("train", 12), ("test", 8)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for place in range(count):
                picture = scene(1000 * label + 100 * (split == "test") + place)
                Image.fromarray(picture).save(folder / f"{place:02}.png")
    return tmp_path


def lines_of(*arguments, **options):
    lines = []
    dataset = load_data(*arguments, **options, progress=lambda event: lines.append(event.line))
    return dataset, [line for line in lines if line.startswith("warning")]


def test_different_images_are_not_spoken_of(parts):
    assert lines_of(f"folder:{parts}")[1] == []


def test_copies_between_splits_are_counted_named_and_refused_unless_allowed(parts):
    before = load_data(f"folder:{parts}", seed=1)
    for place in range(5):  # under another name, and in another format without loss
        with Image.open(parts / f"train/cat/{place:02}.png") as image:
            image.save(parts / f"test/cat/{place:02}.png", compress_level=1)
    shutil.copy(parts / "train/dog/03.png", parts / "test/dog/copy.png")
    with pytest.raises(fw.InputError) as refused:
        load_data(f"folder:{parts}", seed=1, validation_fraction=0)
    text = str(refused.value)
    assert text.startswith(
        "6 of 17 test images have the same pixels as a train image: "
        "test/cat/00.png and train/cat/00.png, test/cat/01.png and train/cat/01.png, "
    )
    assert "and 3 more; " in text
    assert "allow_duplicates" in text
    assert str(parts) not in text
    dataset, lines = lines_of(
        f"folder:{parts}", seed=1, validation_fraction=0, allow_duplicates=True
    )
    assert len(dataset.test) == 17
    assert len(lines) == 1
    assert "6 of 17 test images have the same pixels" in lines[0]
    assert dataset.notes["same_images"] == {"train and test": 6}
    assert "same_images" not in before.notes
    # Where only the test images are loaded, nothing was trained on the others here.
    assert len(load_data(f"folder:{parts}", parts=("test",)).test) == 17


def test_copies_in_one_set_are_found_where_it_is_split(parts):
    folder = parts / "train"
    for place in range(12):
        shutil.copy(folder / f"cat/{place:02}.png", folder / f"cat/{place:02}-again.png")
    with pytest.raises(fw.InputError, match=r"test images have the same pixels as a train image"):
        load_data(f"folder:{folder}", test_fraction=0.5)
    assert len(load_data(f"folder:{folder}", test_fraction=1).test) == 36


def test_published_sets_are_only_warned_of(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pixels = rng.integers(256, size=(40, 28, 28, 3), dtype=np.uint8)
    labels = (np.arange(40) % 9)[:, None]
    arrays = {f"{part}_images": pixels for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": labels for part in ("train", "val", "test")}
    np.savez(tmp_path / "pathmnist.npz", **arrays)
    _, lines = lines_of("pathmnist", root=tmp_path, verify=False)
    assert [line.partition(" images")[0] for line in lines] == [
        "warning        40 of 40 val",
        "warning        40 of 40 test",
        "warning        40 of 40 test",
    ]
    with pytest.raises(fw.InputError, match=r"40 of 40 val images .*; 40 of 40 test images"):
        load_data(f"npz:{tmp_path}/pathmnist.npz")


def test_near_copies_are_warned_of(parts):
    for place in range(6):
        with Image.open(parts / f"train/dog/{place:02}.png") as image:
            image.save(parts / f"test/dog/{place:02}.png", "JPEG", quality=92)
    _, lines = lines_of(f"folder:{parts}", validation_fraction=0)
    (line,) = lines
    assert " of 16 test images look like a train image: " in line
    found = int(line.split()[1])
    assert 4 <= found <= 6  # of 128 bits, compression may change more than two
    assert all(f"train/dog/{place}" in line for place in ("00", "01")) or found < 6


@pytest.mark.parametrize("side", [8, 12, 28, 96])
def test_the_hash_keeps_under_brightness_and_contrast_but_not_under_another_scene(side):
    pictures = [scene(seed, side) for seed in range(20)]
    paler = [(picture * 0.5 + 60).round().astype(np.uint8) for picture in pictures]
    first, second = (difference_hashes(as_images(each).images) for each in (pictures, paler))
    bits = np.unpackbits(first[:, None] ^ second[None], axis=2).sum(2)
    same = np.eye(20, dtype=bool)
    assert bits[same].mean() < 8
    assert bits[~same].min() > 20  # of 128; independent bits would differ in 64 on average


def test_flat_images_are_no_near_copies():
    flat = [np.full((16, 16, 3), value, dtype=np.uint8) for value in range(40)]
    found = find_copies({"train": as_images(flat[:20]), "test": as_images(flat[20:])})
    assert (found.same, found.similar, found.contrary) == ([], [], {})
    found = find_copies({"train": as_images(flat[:20]), "test": as_images(flat[19:])})
    assert found.same[0].places.tolist() == [[19, 0]]  # but the same pixels are the same


def test_every_exact_copy_is_found_and_nothing_else():
    pictures = [scene(seed, 16) for seed in range(60)]
    rng = np.random.default_rng(3)
    train, test = rng.permutation(60)[:40], rng.permutation(60)[:30]
    found = find_copies(
        {
            "train": as_images([pictures[i] for i in train]),
            "test": as_images([pictures[i] for i in test]),
        }
    )
    expected = {(a, b) for a, i in enumerate(train) for b, j in enumerate(test) if i == j}
    assert set(map(tuple, found.same[0].places.tolist())) == expected


def test_equal_images_with_different_labels_are_warned_of(parts):
    shutil.copy(parts / "test/cat/02.png", parts / "test/dog/wrong.png")
    shutil.copy(parts / "test/cat/03.png", parts / "test/cat/right.png")
    _, lines = lines_of(f"folder:{parts}", parts=("test",))
    assert lines == [
        "warning        1 test images have the same pixels as an earlier one with another label, "
        "such as test/dog/wrong.png and test/cat/02.png"
    ]


def test_the_option_leaves_a_record_of_a_run_as_it_was():
    from fairweather.runs.fingerprints import effective_facts
    from fairweather.steps.plan import PlannedDataset

    plain = effective_facts(PlannedDataset(source="mnist5k"))
    assert "allow_duplicates" not in plain
    allowed = PlannedDataset(source="mnist5k", allow_duplicates=True)
    assert PlannedDataset(**effective_facts(allowed)) == allowed


def test_hashes_do_not_depend_on_the_batch(monkeypatch):
    images = as_images([scene(seed) for seed in range(9)]).images
    whole = difference_hashes(images)
    monkeypatch.setattr("fairweather.data.pixel_scans.CHUNK_BYTES", 2 * images[:1].nbytes)
    assert np.array_equal(difference_hashes(images), whole)


def test_statistics_are_exact_where_counts_are_cut_into_parts(monkeypatch):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 9, 7), np.uint8))
    images = Images(pixels, torch.arange(5), torch.arange(5), tuple("abcde"))
    values = pixels.numpy().transpose(1, 0, 2, 3).reshape(3, -1) / 255
    monkeypatch.setattr(pixel_scans, "EXACT_COUNT", 10)
    monkeypatch.setattr(pixel_scans, "CHUNK_BYTES", 400)
    mean, deviation = pixel_scans.channel_statistics(images)
    assert mean == pytest.approx(values.mean(axis=1), rel=1e-12)
    assert deviation == pytest.approx(values.std(axis=1), rel=1e-12)
