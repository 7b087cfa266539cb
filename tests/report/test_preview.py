"""The contact sheet: every pixel as it is, every row and level with its name."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import fairweather as fw
from fairweather.attacks.shift_lists import expand_only_shifts
from fairweather.report.charts import PNG_SCALE
from fairweather.types.measurement import Images

SHIFTS = ("gamma,exponent=0.5", "gamma,exponent=2", "gaussian_blur,sigma=0.9,kernel_size=5")


def noise(count=1, height=28, width=28, highest=250):
    """Pictures without any white, so that each of their pixels is found on the sheet."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(highest, size=(count, 3, height, width), dtype=np.uint8)
    column = torch.arange(count)
    return Images(torch.from_numpy(pixels), column, column, tuple(map(str, range(count))))


def sheet_of(images, *texts, **options):
    return fw.preview(images, expand_only_shifts(texts), **options)


def pixels_of(figure):
    return np.asarray(Image.open(io.BytesIO(figure.png)))


def enlarged(images, factor):
    one = images.permute(0, 2, 3, 1).numpy()
    return one.repeat(factor, 1).repeat(factor, 2)


def find(sheet, picture):
    """Where a picture stands: the place of its first row in the sheet, pixel by pixel."""
    height, width = picture.shape[:2]
    candidates = np.argwhere((sheet == picture[0, 0]).all(-1))
    for y, x in candidates:
        if np.array_equal(sheet[y : y + height, x : x + width], picture):
            return int(y), int(x)
    return None


def texts_of(figure):
    return re.findall(r"<text[^>]*>([^<]+)</text>", figure.svg)


@pytest.mark.parametrize(("side", "factor"), [(8, 28), (28, 8), (33, 6), (100, 2), (224, 1)])
def test_pictures_are_enlarged_by_a_whole_factor_to_the_pixel(side, factor):
    images = noise(height=side, width=side)
    sheet = pixels_of(sheet_of(images, "gamma,exponent=2"))
    shifted = fw.make_shift("gamma", exponent=2)(images.images, images.keys)
    clean_place = find(sheet, enlarged(images.images, factor)[0])
    place = find(sheet, enlarged(shifted, factor)[0])
    assert clean_place is not None
    assert place is not None
    assert clean_place[0] == place[0]
    assert place[1] - clean_place[1] > side * factor


def test_large_pictures_are_made_smaller():
    sheet = pixels_of(sheet_of(noise(height=600, width=300), "gamma,exponent=2"))
    assert 256 < sheet.shape[0] < 256 + 250


def test_rows_are_shifts_and_columns_levels():
    images = noise(2)
    figure = sheet_of(images, *SHIFTS, "gaussian_blur,sigma=0.3,kernel_size=5", "clean")
    sheet = pixels_of(figure)
    places = {}
    for shift in expand_only_shifts(["clean", *SHIFTS, "gaussian_blur,sigma=0.3,kernel_size=5"]):
        shown = enlarged(shift(images.images, images.keys), 8)
        places[shift.id] = [find(sheet, picture) for picture in shown]
        assert None not in places[shift.id], shift.id
    half, double, strong, weak = (places[name] for name in places if name != "clean")
    for line in (0, 1):
        assert places["clean"][line][0] == half[line][0] == double[line][0]
        assert places["clean"][line][1] < half[line][1] < double[line][1]
        assert double[line][0] < strong[line][0] == weak[line][0]
        assert strong[line][1] < weak[line][1]  # in the order that they were named in
    assert half[0][0] < half[1][0]


def test_titles_names_and_levels_are_written():
    written = texts_of(sheet_of(noise(), *SHIFTS, subtitle="Test images of noise."))
    for text in (
        *("Gamma", "gamma", "exponent 0.5", "exponent 2", "Test images of noise."),
        *("Gaussian blur", "gaussian_blur", "kernel_size 5", "sigma 0.9"),
    ):
        assert text in written
    assert written.count("clean") == 2


def test_levels_stand_once_above_rows_that_share_them():
    written = texts_of(sheet_of(noise(), "imagenet_c/brightness", "imagenet_c/contrast"))
    assert [text for text in written if text.startswith(("clean", "severity"))] == [
        "clean",
        *(f"severity {number}" for number in range(1, 6)),
    ]


def test_the_level_labels_stand_above_their_pictures():
    figure = sheet_of(noise(), "gamma,exponent=0.5", "gamma,exponent=2")
    found = re.findall(
        r'text-anchor="middle" transform="translate\(([\d.]+),([\d.]+)\)"[^>]*>([^<]+)', figure.svg
    )
    centers = [float(x) for x, _, _ in found]
    sheet = pixels_of(figure)
    left = find(sheet, enlarged(noise().images, 8)[0])[1]
    padding = 16  # of every figure: the places in the SVG do not count it
    assert centers[0] == (left + 224 / 2) / PNG_SCALE - padding
    assert [text for _, _, text in found] == ["clean", "exponent 0.5", "exponent 2"]
    assert np.diff(centers).tolist() == [(224 + 8) / PNG_SCALE] * 2


def test_the_seed_decides_what_a_shift_draws():
    first, again, other = (
        sheet_of(noise(), "imagenet_c/gaussian_noise,severity=5", seed=seed).png
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("images", "shifts", "words"),
    [
        (noise(13), ["gamma,exponent=2"], "shows 1 to 12 images, found 13"),
        (noise(2)[:0], ["gamma,exponent=2"], "shows 1 to 12 images, found 0"),
        (noise(), ["clean"], "needs a shift besides clean"),
        (noise(height=4), ["imagenet_c/fog"], "8 pixels .*found 4x"),
    ],
)
def test_mistakes(images, shifts, words):
    with pytest.raises(fw.InputError, match=words):
        sheet_of(images, *shifts)


def test_the_command_writes_one_file_and_says_which(command, tmp_path):
    arguments = ["preview", "--shift", "gamma,exponent=2", "--images", "2", "--size", "8"]
    done = command(*arguments, "--out", "sheets/digits.png")
    assert done == (0, "preview sheets/digits.png\n", "next    open sheets/digits.png\n")
    assert [path.name for path in tmp_path.rglob("*.*")] == ["digits.png"]
    with Image.open("sheets/digits.png") as sheet:
        assert sheet.format == "PNG"
    assert command(*arguments)[:2] == (0, "preview preview.png\n")
    status, out, error = command(*arguments, "--out", "sheet.jpg")
    assert (status, out) == (2, "")
    assert "must end with .png, found sheet.jpg" in error
    assert "such as --shift quick" in command("preview")[2]
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["digits.png", "preview.png"]
