"""Published corruption files as shifts of clean images, in small files of the real layouts."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fairweather as fw
from fairweather import InputError
from fairweather.attacks.shift_lists import expand_shifts, expand_with_clean, make_external_shift
from fairweather.data.batches import batch_slices, shifted_batches
from fairweather.data.corrupted import PUBLISHED_SETS, find_published_name
from fairweather.data.loading import list_source, load_data
from fairweather.inference.shifters import Shifters
from fairweather.judge.rules import read_rules
from fairweather.judge.verdicts import judge
from fairweather.report.contents import read_contents
from fairweather.report.published_files import ORIGINS
from fairweather.requests.study.schema import ModelEntry
from fairweather.share.export import export
from fairweather.shifts.medmnist_c.corruptions import FAMILIES
from fairweather.shifts.published import find_shift_kind
from fairweather.steps.sweeps import pair_published, parse_shift, shift_kind
from fairweather.types.record import predictions_file

WNIDS = ("n01440764", "n01443537", "n02084071")
PER_CLASS, SIDE = 4, 32
NAMES = [
    f"{wnid}/ILSVRC2012_val_{10 * number + PER_CLASS * place:08d}.JPEG"
    for place, wnid in enumerate(WNIDS)
    for number in range(PER_CLASS)
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FAIRWEATHER_CACHE", str(tmp_path_factory.mktemp("cache")))


def save_jpegs(folder, seed, names=NAMES, side=SIDE):
    rng = np.random.default_rng(seed)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "JPEG", quality=85)


@pytest.fixture
def clean(tmp_path):
    save_jpegs(tmp_path / "val", 0)
    return tmp_path / "val"


@pytest.fixture
def imagenet_c(tmp_path):
    """Two corruptions as the archives unpack, one in a folder of its group."""
    folder = tmp_path / "ImageNet-C"
    for severity in range(1, 6):
        save_jpegs(folder / "blur" / "defocus_blur" / str(severity), severity)
        save_jpegs(folder / "fog" / str(severity), 10 + severity)
    return folder


def load_clean(folder):
    return load_data(f"folder:{folder}", test_fraction=1.0).test


class Linear(nn.Module):
    def __init__(self, side=SIDE, classes=3):
        super().__init__()
        torch.manual_seed(3)
        self.linear = nn.Linear(3 * side * side, classes)

    def forward(self, images):
        return self.linear(images.flatten(1))


# ---------------------------------------------------------------- names


def test_the_sets_have_the_corruptions_of_their_sources():
    assert {name: len(facts.corruptions) for name, facts in PUBLISHED_SETS.items()} == {
        "imagenet-c": 19,
        "imagenet-c-bar": 10,
        "3dcc": 12,
        "tiny-imagenet-c": 19,
        "cifar-10-c": 19,
        "cifar-10-c-bar": 10,
        "cifar-100-c": 19,
        "medmnist-c": 21,
    }
    assert set(PUBLISHED_SETS["medmnist-c"].corruptions) == set().union(*FAMILIES.values())


@pytest.mark.parametrize("name", PUBLISHED_SETS)
def test_every_corruption_has_a_name_that_tables_rules_and_predictions_know(name):
    for corruption in PUBLISHED_SETS[name].corruptions:
        shift = parse_shift(f"{name}-files/{corruption},severity=2")
        assert (shift.name, shift.level) == (f"{name}-files/{corruption}", 2.0)
        assert shift == make_external_shift(shift.name, 2)
        kind = shift_kind(shift.name)
        assert kind.title.endswith("(files)")
        assert kind.level == "severity"


def test_other_spellings_and_other_names():
    assert find_published_name("cifar10-c") == "cifar-10-c"
    assert find_shift_kind("imagenet-c-files/frogs") is None
    assert find_shift_kind("imagenet_c/fog").title == "Fog"
    with pytest.raises(InputError, match=r"imagenet-c:FOLDER/fog"):
        expand_shifts("imagenet-c-files/fog")
    with pytest.raises(InputError, match=r"set of published files 'imagenet_c'.*'imagenet-c'"):
        expand_shifts("imagenet_c:data/ImageNet-C")


# ---------------------------------------------------------------- folders


def test_a_folder_is_all_that_lies_in_it_in_the_order_of_the_authors(imagenet_c):
    every = [
        f"{name},severity={level}" for name in ("defocus_blur", "fog") for level in range(1, 6)
    ]
    assert [shift.id for shift in expand_shifts(f"imagenet-c:{imagenet_c}")] == [
        f"imagenet-c-files/{cell}" for cell in every
    ]
    for text in (f"imagenet-c:{imagenet_c}/fog", f"imagenet-c: {imagenet_c}/fog"):
        assert [shift.level for shift in expand_shifts(text)] == [1, 2, 3, 4, 5]
    (cell,) = expand_shifts([{"imagenet-c": f"{imagenet_c}/fog/3"}])
    assert cell.id == "imagenet-c-files/fog,severity=3"
    inner = expand_shifts(f"imagenet-c:{imagenet_c}/defocus_blur/4")
    assert [shift.level for shift in inner] == [4]
    assert [s.id for s in expand_shifts(inner[0].files.source)] == [inner[0].id]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("fogg", r"ImageNet-C/fogg'; did you mean 'fog'"),
        ("fog/6", "severity of imagenet-c is 1 to 5, found '6'"),
        (
            "fog/3/n01440764",
            r"no corruption of ImageNet-C.*gaussian_noise/3/CLASS.*it has ILS",
        ),
        ("snow", "ImageNet-C/snow"),
    ],
)
def test_folders_that_are_not_the_set(imagenet_c, path, words):
    with pytest.raises(InputError, match=words):
        expand_shifts(f"imagenet-c:{imagenet_c}/{path}")


@pytest.mark.parametrize("name", [n for n, f in PUBLISHED_SETS.items() if f.layout == "folders"])
def test_each_set_of_folders_is_read(clean, tmp_path, name):
    first = PUBLISHED_SETS[name].corruptions[0]
    save_jpegs(tmp_path / "set" / first / "2", 3)
    (shift,) = pair_published(expand_shifts(f"{name}:{tmp_path / 'set'}"), load_clean(clean))
    assert shift.id == f"{name}-files/{first},severity=2"
    assert shift.files.digest


def test_a_corruption_in_two_places_is_refused(imagenet_c):
    shutil.copytree(imagenet_c / "fog", imagenet_c / "weather" / "fog")
    with pytest.raises(InputError, match="fog lies in both"):
        expand_shifts(f"imagenet-c:{imagenet_c}")


def test_each_image_is_the_file_of_its_name(clean, imagenet_c):
    images = load_clean(clean)
    order = torch.tensor([7, 0, 11, 4])
    for shift in pair_published(expand_shifts(f"imagenet-c:{imagenet_c}"), images):
        found = shift.change(images[order])
        group = "blur/" if "defocus" in shift.name else ""
        place = imagenet_c / f"{group}{shift.name.partition('/')[2]}" / f"{shift.level:.0f}"
        for pixels, key in zip(found, order.tolist(), strict=True):
            stored = np.asarray(Image.open(place / images.names[key]))
            assert np.array_equal(pixels.permute(1, 2, 0), stored)


def test_classes_may_have_other_names_and_files_other_endings(tmp_path, clean, imagenet_c):
    for place, wnid in enumerate(WNIDS):
        (clean / wnid).rename(clean / f"{'cab'[place]}-{place}")
    for path in clean.glob("*/*.JPEG"):
        path.rename(path.with_suffix(".jpg"))
    images = load_clean(clean)
    (shift,) = pair_published(expand_shifts(f"imagenet-c:{imagenet_c}/fog/1"), images)
    (stored,) = shift.files.locate(images[5:6])
    assert stored.path.rpartition("/")[2].removesuffix(".JPEG") in images.names[5]


def test_images_of_other_classes_are_refused(clean, imagenet_c):
    first, second = NAMES[0], NAMES[PER_CLASS]
    (clean / first).rename(clean / WNIDS[1] / first.partition("/")[2])
    (clean / second).rename(clean / WNIDS[0] / second.partition("/")[2])
    with pytest.raises(InputError, match=r"classes of .*fog/1 are not those of the clean images"):
        list(pair_published(expand_shifts(f"imagenet-c:{imagenet_c}/fog/1"), load_clean(clean)))


def test_what_does_not_fit_is_one_sentence(clean, imagenet_c):
    images = load_clean(clean)
    (shift,) = expand_shifts(f"imagenet-c:{imagenet_c}/fog/1")
    nameless = fw.Images(images.images, images.labels, images.keys, images.classes)
    with pytest.raises(InputError, match=r"paired by the names .* folder:PATH or csv:PATH"):
        shift.files.pair_with(nameless)
    large = fw.Images(torch.zeros(12, 3, 48, 48, dtype=torch.uint8), *list_columns(images))
    with pytest.raises(InputError, match=r"32 x 32 pixels .*clean images 48 x 48.*--size 32"):
        shift.files.pair_with(large)
    (imagenet_c / "fog" / "1" / NAMES[3]).write_bytes(b"no image")
    with pytest.raises(InputError, match=rf"cannot read .*{NAMES[3]}: it is not an image"):
        shift.change(images)
    for name in NAMES[:2]:
        (imagenet_c / "fog" / "1" / name).unlink()
    with pytest.raises(InputError, match=rf"no file for 2 of the 12 clean images: {NAMES[0]}"):
        shift.files.pair_with(images)


def list_columns(images):
    return images.labels, images.keys, images.classes, images.names


def test_only_the_files_of_the_images_count(clean, imagenet_c):
    """A subset needs its own files, and the digest is of their names and sizes alone."""
    images = load_clean(clean)
    few = images[torch.tensor([0, 5, 9])]
    (shift,) = expand_shifts(f"imagenet-c:{imagenet_c}/fog/1")
    before = shift.files.pair_with(few).digest
    (imagenet_c / "fog" / "1" / images.names[1]).unlink()
    assert shift.files.pair_with(few).digest == before
    path = imagenet_c / "fog" / "1" / images.names[5]
    path.write_bytes(path.read_bytes() + b"\0")
    assert shift.files.pair_with(few).digest != before


def test_shifting_processes_read_the_same_pixels(clean, imagenet_c):
    images = load_clean(clean)
    (shift,) = pair_published(expand_shifts(f"imagenet-c:{imagenet_c}/fog/2"), images)
    batches = [*batch_slices(len(images), 5), torch.tensor([3, 1, 8])]
    alone = list(shifted_batches(images, shift, 0, batches))
    shifters = Shifters(2, first=2)
    try:
        shared = list(shifted_batches(images, shift, 0, batches, shifters=shifters))
        (imagenet_c / "fog" / "2" / NAMES[0]).write_bytes(b"")
        with pytest.raises(InputError, match=f"cannot read .*{NAMES[0]}"):
            list(shifted_batches(images, shift, 0, batches[:1], shifters=shifters))
    finally:
        shifters.end()
    for one, other in zip(alone, shared, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.keys, other.keys)
        assert not torch.equal(one.images, images.images[: len(one)])


# ---------------------------------------------------------------- arrays


@pytest.fixture
def arrays(tmp_path):
    """CIFAR-10-C's layout with ten images, and the clean images as an archive."""
    folder, rng = tmp_path / "CIFAR-10-C", np.random.default_rng(1)
    folder.mkdir()
    for name in ("fog", "snow"):
        np.save(folder / f"{name}.npy", rng.integers(256, size=(50, 32, 32, 3), dtype=np.uint8))
    labels = np.arange(10, dtype=np.uint8)
    np.save(folder / "labels.npy", np.tile(labels, 5))
    pixels = rng.integers(256, size=(10, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "cifar.npz", test_images=pixels, test_labels=labels)
    return folder


@pytest.mark.parametrize("name", ["cifar-10-c", "cifar10-c", "cifar-100-c"])
def test_an_array_has_the_images_of_each_severity_in_order(tmp_path, arrays, name):
    images = load_data(f"npz:{tmp_path / 'cifar.npz'}").test
    shifts = list(pair_published(expand_shifts(f"{name}:{arrays}"), images))
    assert len(shifts) == 10
    fog = np.load(arrays / "fog.npy")
    for shift in shifts[5:]:
        assert shift.name == f"{find_published_name(name)}-files/fog"
        found = shift.change(images[torch.tensor([4, 2])]).permute(0, 2, 3, 1)
        assert np.array_equal(found, fog[[10 * (int(shift.level) - 1) + key for key in (4, 2)]])


def test_an_array_replaced_by_one_of_the_same_size_is_noticed(tmp_path, arrays):
    images = load_data(f"npz:{tmp_path / 'cifar.npz'}").test
    (shift,) = expand_shifts(f"cifar-10-c:{arrays}/fog/3")
    before = shift.files.pair_with(images).digest
    shutil.copytree(arrays, tmp_path / "moved")
    (moved,) = expand_shifts(f"cifar-10-c:{tmp_path / 'moved'}/fog/3")
    assert moved.files.pair_with(images).digest == before
    shutil.copy(arrays / "snow.npy", arrays / "fog.npy")
    assert shift.files.pair_with(images).digest != before


def test_cifar_10_c_bar_has_the_layout_of_its_script(tmp_path, arrays):
    (arrays / "fog.npy").rename(arrays / "ripple.npy")
    np.save(arrays / "labels.npy", np.load(arrays / "labels.npy").astype(np.int64))
    images = load_data(f"npz:{tmp_path / 'cifar.npz'}").test
    shifts = list(pair_published(expand_shifts(f"cifar-10-c-bar:{arrays}"), images))
    assert {shift.name for shift in shifts} == {"cifar-10-c-bar-files/ripple"}


def test_labels_in_another_order_are_refused(tmp_path, arrays):
    content = dict(np.load(tmp_path / "cifar.npz"))
    swapped = content["test_labels"][[1, 0, *range(2, 10)]]
    np.savez(tmp_path / "swapped.npz", test_images=content["test_images"], test_labels=swapped)
    images = load_data(f"npz:{tmp_path / 'swapped.npz'}").test
    (shift,) = expand_shifts(f"cifar-10-c:{arrays}/fog/1")
    with pytest.raises(InputError, match="differ from those of 2 of the 10 clean images"):
        shift.files.pair_with(images)
    more = np.concatenate([content["test_images"]] * 2)
    np.savez(tmp_path / "more.npz", test_images=more, test_labels=np.arange(20) % 10)
    with pytest.raises(InputError, match="has 10 images, and the clean set has more"):
        shift.files.pair_with(load_data(f"npz:{tmp_path / 'more.npz'}").test)
    np.save(arrays / "fog.npy", np.load(arrays / "fog.npy")[:45])
    with pytest.raises(InputError, match="45 images, but there are 5 times 10 labels"):
        shift.files.pair_with(images)
    np.save(arrays / "fog.npy", np.zeros((50, 32, 32, 3), np.float32))
    with pytest.raises(InputError, match=r"is float32 \[50, 32, 32, 3\]; it must be uint8"):
        shift.files.pair_with(images)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("gray", [False, True])
def test_medmnist_c_archives(tmp_path, save, gray):
    """As medmnistc writes them: five severities one after the other, labels [5 N, 1]."""
    rng, folder = np.random.default_rng(2), tmp_path / "MedMNIST-C" / "bloodmnist"
    folder.mkdir(parents=True)
    shape = (32, 32) if gray else (32, 32, 3)
    labels = np.arange(8)[:, None] % 4
    stored = rng.integers(256, size=(40, *shape), dtype=np.uint8)
    save(folder / "pixelate.npz", test_images=stored, test_labels=np.tile(labels, (5, 1)))
    clean = rng.integers(256, size=(8, *shape), dtype=np.uint8)
    np.savez(tmp_path / "blood.npz", test_images=clean, test_labels=labels)
    images = load_data(f"npz:{tmp_path / 'blood.npz'}").test
    shifts = list(pair_published(expand_shifts(f"medmnist-c:{folder}"), images))
    assert [shift.id for shift in shifts][-1] == "medmnist-c-files/pixelate,severity=5"
    for shift in reversed(shifts):  # backwards in the file too
        found = shift.change(images[torch.tensor([6, 1, 3])]).permute(0, 2, 3, 1).numpy()
        wanted = stored[[8 * (int(shift.level) - 1) + key for key in (6, 1, 3)]]
        assert np.array_equal(found, wanted[..., None].repeat(3, -1) if gray else wanted)
    digest = shifts[0].files.digest
    stored[0, 0, 0] ^= 1
    save(folder / "pixelate.npz", test_images=stored, test_labels=np.tile(labels, (5, 1)))
    assert shifts[0].files.pair_with(images).digest != digest  # the archive states a checksum


def test_several_medmnist_sets_are_told_apart(tmp_path):
    for name in ("bloodmnist", "pathmnist"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pixelate.npz").touch()
    with pytest.raises(InputError, match=r"pixelate lies in both .*bloodmnist' and .*pathmnist'"):
        expand_shifts(f"medmnist-c:{tmp_path}")


def test_findings_made_of_classes_pair_with_the_classes(tmp_path, arrays):
    images = load_data(f"npz:{tmp_path / 'cifar.npz'}", positive=("3", "7")).test
    assert images.labels.ndim == 2
    (shift,) = expand_shifts(f"cifar-10-c:{arrays}/fog/1")
    assert shift.files.pair_with(images).digest


# ---------------------------------------------------------------- as data


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "imagenet-c:{folder}",
            r"--shift imagenet-c:.*ImageNet-C; as .*imagenet-c:FOLDER/fog/3",
        ),
        ("cifar-100-c:{folder}/fog/3", r"--shift cifar-100-c:"),
        ("3dcc:{folder}/frogs/3", "unknown corruption of 3dcc 'frogs'"),
    ],
)
def test_a_set_as_data_is_told_how_it_is_read(imagenet_c, source, words):
    with pytest.raises(InputError, match=words):
        list_source(source.format(folder=imagenet_c))


def test_one_cell_as_data_by_another_spelling(arrays):
    assert list_source(f"cifar10-c:{arrays}/fog/2").name == "cifar-10-c/fog/2"


# ---------------------------------------------------------------- runs


def evaluate(clean, shifts, out, **options):
    data = load_data(f"folder:{clean}", test_fraction=1.0)
    options = {"bootstrap": 100, "device": "cpu", "progress": None, **options}
    return fw.evaluate(Linear(), data, shifts, out=out, **options)


def test_a_run_measures_the_files_and_resumes_where_they_moved(
    undrawn, clean, imagenet_c, tmp_path
):
    out = tmp_path / "run"
    run = evaluate(clean, f"imagenet-c:{imagenet_c}", out)
    images, model = load_clean(clean), Linear().eval()
    for shift in pair_published(expand_shifts(f"imagenet-c:{imagenet_c}"), images):
        with torch.no_grad():
            wanted = model(shift.change(images).float() / 255).argmax(1)
        stored = run.folder.read_predictions(predictions_file("Linear", 0, shift.id))
        assert stored.predicted.tolist() == wanted.tolist()
    scores = run.scores[run.scores["metric"] == "accuracy"]
    assert {"imagenet-c-files/fog", "imagenet-c-files/defocus_blur"} < set(scores["shift"])
    assert "imagenet-c-files" in set(
        run.scores[run.scores["metric"] == "mean_corruption_error"]["shift"]
    )
    step = out / "steps" / "predictions" / "Linear" / "seed-0" / "test"
    record = json.loads((step / "imagenet-c-files__fog,severity=3.json").read_text())
    assert str(imagenet_c.parent) not in json.dumps(record)
    moved = tmp_path / "moved"
    imagenet_c.rename(moved)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    evaluate(clean, f"imagenet-c:{moved}", out)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    path = moved / "fog" / "3" / NAMES[0]
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match=r"other settings: .*fog,severity=3 .*published"):
        evaluate(clean, f"imagenet-c:{moved}", out)


def test_a_rule_names_a_cell_as_evaluate_does(undrawn, clean, imagenet_c, tmp_path):
    run = evaluate(clean, f"imagenet-c:{imagenet_c}/fog", tmp_path / "run")
    by_id, by_level = (
        judge(run.folder, read_rules([f"accuracy[imagenet-c-files/fog{cell}] >= 1%"]))
        for cell in (",severity=3", "=3")
    )
    assert [verdict.cell for verdict in by_id] == [verdict.cell for verdict in by_level]
    assert [verdict.judged for verdict in by_id] == [verdict.judged for verdict in by_level]
    with pytest.raises(InputError, match="no level 6"):
        judge(run.folder, read_rules(["accuracy[imagenet-c-files/fog,severity=6] >= 1%"]))


def test_other_processes_open_the_files_by_the_plan(undrawn, clean, imagenet_c, tmp_path):
    code = tmp_path / "model.py"
    code.write_text(
        "import torch\n\ndef build():\n    torch.manual_seed(3)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 3))\n"
    )
    runs = [
        fw.evaluate(
            f"python:{code}:build",
            f"folder:{clean}",
            f"imagenet-c:{imagenet_c}",
            out=tmp_path / f"run-{jobs}",
            bootstrap=100,
            device="cpu",
            threads=1,
            jobs=jobs,
            progress=None,
        )
        for jobs in (1, 2)
    ]
    for path in (runs[0].path / "predictions").rglob("*.parquet"):
        other = runs[1].path / path.relative_to(runs[0].path)
        assert path.read_bytes() == other.read_bytes()


def test_published_files_train_nothing_and_are_not_copied(clean, imagenet_c, tmp_path):
    shifts = [{"imagenet-c": f"{imagenet_c}/fog"}]
    with pytest.raises(ValueError, match=r"train_shifts: imagenet-c-files/fog is read"):
        ModelEntry(title="a", backbone="small_cnn", train_shifts=shifts).training_shifts()
    data = load_data(f"folder:{clean}", test_fraction=1.0)
    with pytest.raises(InputError, match=r"fog/1 is published as files already"):
        export(data, expand_shifts(f"imagenet-c:{imagenet_c}/fog"), tmp_path / "copy")


def test_files_and_memory_stand_side_by_side(imagenet_c):
    both = expand_with_clean([f"imagenet-c:{imagenet_c}/fog", "imagenet_c/fog"])
    assert len(both) == 11
    assert os.fspath(imagenet_c) not in "".join(shift.id for shift in both)


# ---------------------------------------------------------------- pages and lines


def test_one_severity_that_was_asked_for_is_not_missing(undrawn, clean, imagenet_c, tmp_path):
    lines = []
    shift = f"imagenet-c:{imagenet_c}/fog/3"
    evaluate(clean, [shift], tmp_path / "run", progress=lambda event: lines.append(event.line))
    told = " ".join(filter(None, lines))
    assert "ImageNet-C: 1 cell of 1 corruption, 12 of 50,000 images" in told
    assert "ImageNet-C: not all severities of fog are measured" in told
    assert "missing" not in told


def test_a_partial_set_is_said_and_both_ways_are_compared(undrawn, clean, imagenet_c, tmp_path):
    shutil.rmtree(imagenet_c / "fog" / "4")
    lines = []
    run = evaluate(
        clean,
        [f"imagenet-c:{imagenet_c}", "imagenet_c/fog"],
        tmp_path / "run",
        progress=lambda event: lines.append(event.line),
    )
    told = [line.partition("  ")[2].strip() for line in lines if line]
    assert "ImageNet-C: 9 cells of 2 corruptions, 12 of 50,000 images each" in told
    assert "ImageNet-C: not all severities of fog are measured" in told
    assert any(
        line.startswith("no mCE: not all severities of gaussian_noise, shot_noise") for line in told
    )
    contents = read_contents(run.folder)
    sentences = " ".join(ORIGINS.shown(contents, ORIGINS.tables(contents)).notes)
    for sentence in (
        "ImageNet-C is read from the published files, at 32 x 32 pixels.",
        "Of the 50,000 images of a level, 12 are measured.",
        "Its mean error is over 2 corruptions.",
        "The corruptions of imagenet_c are made in memory, at 32 x 32 pixels.",
        "It has no mCE, because it lacks gaussian_noise, shot_noise,",
        "Files and memory differ most under fog at level",
    ):
        assert sentence in sentences
    table = (run.path / "tables" / "files_and_memory.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in table[1:]] == [
        ["Linear", "imagenet-c-files/fog", level] for level in ("1", "2", "3", "5", "mean")
    ]
    right = {
        name: run.folder.read_predictions(
            predictions_file("Linear", 0, f"{name},severity=3")
        ).correct
        for name in ("imagenet-c-files/fog", "imagenet_c/fog")
    }
    files, memory = right.values()
    assert float(table[3].split(",")[9]) == pytest.approx(files.mean() - memory.mean(), abs=1e-7)


def test_thresholds_are_fitted_on_files_of_validation_images(undrawn, clean, imagenet_c, tmp_path):
    """The authors of ImageNet-C made four corruptions for that."""
    run = fw.evaluate(
        Linear(),
        load_data(f"folder:{clean}", test_fraction=0.5, validation_fraction=1.0),
        f"imagenet-c:{imagenet_c}/fog/1",
        fit_on=(f"imagenet-c:{imagenet_c}/defocus_blur/2",),
        variants=("temperature",),
        out=tmp_path / "run",
        bootstrap=100,
        device="cpu",
        progress=None,
    )
    val = run.folder.read_predictions(
        predictions_file("Linear", 0, "imagenet-c-files/defocus_blur,severity=2", "val")
    )
    assert 0 < len(val) < 12
    assert "Linear+temperature-fit_on" in set(run.scores["model"])


def test_a_study_names_the_folder_too(undrawn, clean, imagenet_c, tmp_path):
    for part in ("train", "val", "test"):
        shutil.copytree(clean, tmp_path / "parts" / part)
    path = tmp_path / "study.yaml"
    path.write_text(
        f"name: files\ndata: {{source: 'folder:{tmp_path / 'parts'}', allow_duplicates: true}}\n"
        f"seeds: [0]\nthreads: 1\nbootstrap: 100\nshifts:\n- imagenet-c: {imagenet_c}/fog\n"
        "defaults: {backbone: 'timm:test_resnet', weights: none, recipe: {epochs: 1}}\n"
        "models: {basic: {title: Basic}}\n"
    )
    run = fw.run(path, out=tmp_path / "run", device="cpu", progress=None)
    assert "imagenet-c-files/fog" in set(run.scores["shift"])


def test_files_and_clean_images_are_mixed_in_one_stream(undrawn, clean, imagenet_c, tmp_path):
    """Averages of views depend on no other image: they are the same as without mixing."""
    save_jpegs(tmp_path / "other", 9)
    views = "views: {views: flip, batch_size: 5"
    run = evaluate(
        clean,
        [f"imagenet-c:{imagenet_c}/fog", "brightness_factor: [0.8]"],
        tmp_path / "run",
        variants=[f"{views}}}", f"{views}, cells: mixed}}"],
        ood=[f"folder:{tmp_path / 'other'}"],
    )
    base, cells = "Linear+views-batch_size5", ["clean", *(c.id for c in run.record.cells())]
    assert len(cells) == 7
    places = []
    for number, cell in enumerate(cells):
        alone, mixed = (
            run.folder.read_image_streams(predictions_file(f"{base}{own}", 0, cell))
            for own in ("", "-mixed")
        )
        np.testing.assert_array_equal(mixed.keys, alone.keys)
        np.testing.assert_allclose(mixed.logits, alone.logits, atol=1e-5)
        assert mixed.passes[:2] == alone.passes[:2]  # batches are those of the whole stream
        assert bool(mixed.ood_scores) == (number == 0)
        assert mixed.ood_scores.keys() == alone.ood_scores.keys()
        places += mixed.place.tolist()
    assert sorted(places) == list(range(7 * len(NAMES)))
