"""Gray values of any range: 12 bits in 16, stated scales, DICOM files, and unusual formats."""

import importlib.metadata
import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_windowing
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

import fairweather as fw
from fairweather.data.loading import load_data
from fairweather.data.pixels import Scale, decode_image, decoder_facts
from fairweather.requests.evaluation.models import (
    DataSplit,
    ModelRequest,
    make_data_source,
    read_training_data,
)
from fairweather.requests.evaluation_options import EvaluationOptions
from fairweather.runs.fingerprints import effective_facts
from fairweather.steps.plan import PlannedDataset

SIDE = 12
RAMP = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)


def twelve_bits(seed=0):
    return np.random.default_rng(seed).integers(4096, size=(SIDE, SIDE)).astype(np.uint16)


def dicom(values, *, kind="MONOCHROME2", bits=12, syntax=ExplicitVRLittleEndian, **tags):
    """Encode gray `[H, W]`, RGB `[H, W, 3]` or frames `[N, H, W]` as a DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    colour = kind == "RGB"
    data.Rows, data.Columns = values.shape[-3:-1] if colour else values.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    if values.ndim == 3 and not colour:
        data.NumberOfFrames = len(values)
    data.PhotometricInterpretation = kind
    data.BitsAllocated = 8 * values.dtype.itemsize
    data.BitsStored, data.HighBit = bits, bits - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    if syntax == RLELossless:
        data.compress(RLELossless)
    elif syntax.is_compressed:
        data.PixelData = encapsulate([data.PixelData])
        data["PixelData"].is_undefined_length = True
    meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def decoded(content, scale=None):
    """Decode to one gray image, since all three channels are the same."""
    pixels = decode_image(content, None, None if scale is None else Scale.parse(scale))
    assert (pixels == pixels[:1]).all()
    return pixels[0]


def png16(values):
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


# Scales


@pytest.mark.parametrize(
    "text",
    ["", "0", "0..", "..5", "4095..0", "7..7", "low..high", "1e10..2e10", "percentile:1..101"],
)
def test_a_scale_that_is_none_is_one_sentence(text):
    with pytest.raises(fw.InputError, match=r"scale must be LOW\.\.HIGH"):
        Scale.parse(text)


def test_scales_are_read_as_they_are_written():
    assert Scale.parse("-1000..400") == Scale(-1000, 400)
    assert Scale.parse("0..0.5") == Scale(0, 0.5)
    assert Scale.parse("percentile:1..99") == Scale(1, 99, percentile=True)


def test_percentiles_are_those_of_each_image():
    values = np.arange(101.0)
    assert Scale(10, 90, percentile=True).apply(values)[[10, 50, 90]].tolist() == [0, 128, 255]
    assert Scale(10, 90, percentile=True).apply(values * 7 + 3)[[10, 50, 90]].tolist() == [
        0,
        128,
        255,
    ]
    assert not Scale(1, 99, percentile=True).apply(np.full(5, 7)).any()


# 16 bits


def test_twelve_bits_in_sixteen_are_refused_until_a_scale_is_stated():
    values = twelve_bits()
    with pytest.raises(fw.InputError, match=r"16 bits, but go only from \d+ to 40\d\d.*0\.\.4095"):
        decode_image(png16(values), None)
    found = decoded(png16(values), "0..4095")
    assert np.array_equal(found, np.floor(values / 4095 * 255 + 0.5))
    assert np.array_equal(decoded(png16(values), "0..65535"), (values.astype(int) + 128) // 257)


def test_all_sixteen_bits_are_scaled_as_before():
    values = (twelve_bits() << 4).astype(np.uint16)
    assert np.array_equal(decoded(png16(values)), (values.astype(int) + 128) // 257)


def test_a_set_with_twelve_bits_names_the_file_and_remembers_its_scale(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for place in range(4):
            values = twelve_bits(10 * ord(name) + place)
            (tmp_path / name / f"{place}.png").write_bytes(png16(values))
    with pytest.raises(fw.InputError, match=r"cannot read a/0\.png: its pixels have 16 bits"):
        load_data(f"folder:{tmp_path}", test_fraction=1, skip_unreadable=True)
    whole = load_data(f"folder:{tmp_path}", test_fraction=1, scale="0..4095")
    assert whole.notes["scale"] == "0..4095"
    assert whole.test.images.float().mean() > 100
    half = load_data(f"folder:{tmp_path}", test_fraction=1, scale="0..8190")
    assert half.test.images.float().mean() < 70  # not those in the cache
    again = load_data(f"folder:{tmp_path}", test_fraction=1, scale="0..4095")
    assert torch.equal(again.test.images, whole.test.images)
    with pytest.raises(fw.InputError, match="scale must be"):
        load_data(f"folder:{tmp_path}", scale="12 bits")


def test_floats_need_a_scale(tmp_path):
    stream = io.BytesIO()
    Image.fromarray((RAMP / RAMP.max()).astype(np.float32)).save(stream, "TIFF")
    with pytest.raises(fw.InputError, match=r"mode F.*scale 0\.\.1"):
        decode_image(stream.getvalue(), None)
    assert decoded(stream.getvalue(), "0..1")[0, 0] == 0
    assert decoded(stream.getvalue(), "0..1")[-1, -1] == 255


def test_a_scale_is_for_gray_images():
    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (9, 8, 7)).save(stream, "PNG")
    with pytest.raises(fw.InputError, match=r"colours .*scale is for plain gray"):
        decode_image(stream.getvalue(), None, Scale(0, 100))
    gray = np.full((SIDE, SIDE), 50, dtype=np.uint8)
    assert decoded(gray, "0..100")[0, 0] == 128  # pixels of an array as well


def test_a_scale_beyond_the_bits_of_a_file_is_refused():
    stream = io.BytesIO()
    Image.new("L", (SIDE, SIDE), 50).save(stream, "PNG")
    for content, bits, most in ((stream.getvalue(), 8, 255), (png16(twelve_bits()), 16, 65535)):
        words = (
            f"have {bits} bits, up to {most}, and a scale up to {most + 2} is for deeper images$"
        )
        with pytest.raises(fw.InputError, match=words):
            decode_image(content, None, Scale(0, most + 2))
        decode_image(content, None, Scale(0, most + 1))
        decode_image(content, None, Scale(1, 99, percentile=True))


def test_a_model_of_a_run_sees_new_images_with_the_scale_of_its_training(monkeypatch):
    trained = effective_facts(PlannedDataset(source="folder:old", scale="0..4095"))
    record = SimpleNamespace(data=SimpleNamespace(arguments=trained))
    run = SimpleNamespace(record=record)
    monkeypatch.setattr(
        "fairweather.requests.evaluation.models.open_finished_run", lambda folder: run
    )
    opened = SimpleNamespace(preparation=None)
    for model, given, expected in (
        ("run:runs/a/models/basic/seed-0", None, "0..4095"),
        ("run:runs/a/models/basic/seed-0", "0..1023", "0..1023"),
        ("timm:test_vit", None, None),
    ):
        request = ModelRequest((model,), "folder:new", (), EvaluationOptions(scale=given))
        split = DataSplit({}, "classification", ("a", "b"))
        data = make_data_source(request, opened, read_training_data(model), split)
        assert data.scale == expected


# DICOM


def test_a_window_is_that_of_pydicom():
    values = twelve_bits().astype(np.int16) - 1000
    tags = {"RescaleSlope": 2, "RescaleIntercept": -500, "bits": 16}
    for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        window = {"WindowCenter": [40, 500], "WindowWidth": [1500, 9], "VOILUTFunction": function}
        found = decoded(dicom(values, **tags, **window)).astype(float)
        data = FileDataset(None, {}, file_meta=FileMetaDataset())
        for name, value in {**window, "BitsStored": 16, "PixelRepresentation": 1}.items():
            setattr(data, name, value)
        data.PhotometricInterpretation = "MONOCHROME2"
        judged = apply_windowing(values * 2.0 - 500, data)
        # It gives the range of the stored bits, and the ends are where all is cut off.
        low, high = (-32768, 32767)
        assert np.abs(found - (judged - low) / (high - low) * 255).max() <= 0.5 + 1e-3


def test_a_stated_scale_goes_before_the_window():
    values = twelve_bits()
    content = dicom(values, WindowCenter=10, WindowWidth=5, RescaleSlope=2, RescaleIntercept=-100)
    expected = Scale(-100, 8090).apply(values.astype(int) * 2 - 100)
    assert np.array_equal(decoded(content, "-100..8090"), expected)


def test_without_a_window_the_stored_bits_are_the_range():
    values = twelve_bits()
    assert np.array_equal(decoded(dicom(values)), Scale(0, 4095).apply(values))
    with pytest.raises(
        fw.InputError, match=r"without a window, .* quarter of its 16 bits: .*scale"
    ):
        decode_image(dicom(values, bits=16), None)


def test_monochrome1_is_inverted():
    values = twelve_bits()
    assert np.array_equal(decoded(dicom(values, kind="MONOCHROME1")), 255 - decoded(dicom(values)))


def test_colour_and_compression_without_loss(tmp_path):
    colours = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    found = decode_image(dicom(colours, kind="RGB", bits=8), None)
    assert np.array_equal(found, colours.transpose(2, 0, 1))
    values = twelve_bits()
    path = tmp_path / "a.dcm"
    path.write_bytes(dicom(values, syntax=RLELossless))
    assert np.array_equal(decoded(path), decoded(dicom(values)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: dicom(np.stack([twelve_bits()] * 3)), r"DICOM file with 3 frames"),
        (lambda: dicom(twelve_bits(), syntax=JPEGLSLossless), r"JPEG-LS.*cannot decode here"),
        (lambda: dicom(twelve_bits(), syntax=DeflatedExplicitVRLittleEndian), r"deflated DICOM"),
        (lambda: dicom(twelve_bits())[:-40], r"."),
        (lambda: bytes(128) + b"DICM" + b"nothing", r"."),
        (lambda: dicom(twelve_bits(), WindowCenter=5, WindowWidth=0), r"window has the width 0"),
    ],
)
def test_dicom_that_cannot_be_decoded_is_one_sentence(content, words):
    with pytest.raises(fw.InputError, match=words) as error:
        decode_image(content(), None)
    assert "\n" not in str(error.value)


def test_without_pydicom_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(fw.InputError, match=r"DICOM files need .*fairweather\[dicom\]"):
        decode_image(dicom(twelve_bits()), None)


def test_a_folder_of_dicom_files_loads(tmp_path):
    for name in ("sick", "well"):
        (tmp_path / name).mkdir()
        for place in range(3):
            values = twelve_bits(10 * len(name) + ord(name[0]) + place)
            (tmp_path / name / f"{place}.dcm").write_bytes(dicom(values))
    dataset = load_data(f"folder:{tmp_path}", test_fraction=1, size=8)
    assert dataset.test.images.shape == (6, 3, 8, 8)
    assert dataset.test.images.float().mean() > 100


@pytest.mark.parametrize(
    "values",
    [
        twelve_bits().astype(np.float32) / 4095,
        twelve_bits().astype(np.int16) - 1000,
        twelve_bits().astype(np.int32) * 100,
    ],
    ids=["float", "signed", "32 bits"],
)
def test_values_that_only_need_a_scale_are_left_out_with_the_reason(values, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(twelve_bits() << 4).save(tmp_path / name / "0.tiff")
        tiff = _tiff(values)
        (tmp_path / name / "1.tiff").write_bytes(tiff)
    with pytest.raises(fw.InputError, match=r"1\.tiff: .*say with scale"):
        load_data(f"folder:{tmp_path}", test_fraction=1)
    lines = []
    whole = load_data(
        f"folder:{tmp_path}",
        test_fraction=1,
        skip_unreadable=True,
        progress=lambda event: lines.append(event.line),
    )
    assert len(whole.test) == 2
    assert any("2 of 4 test images" in line and "say with scale" in line for line in lines)


def _tiff(values):
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.int32) if values.dtype.kind == "i" else values).save(
        stream, "TIFF"
    )
    return stream.getvalue()


@pytest.mark.parametrize("plain", [False, True], ids=["P5", "P2"])
@pytest.mark.parametrize("most", [100, 255, 1000, 4095, 65535])
def test_a_scale_of_a_pgm_file_is_in_the_values_of_the_file(plain, most):
    values = np.random.default_rng(0).integers(most + 1, size=(SIDE, SIDE))
    head = f"P{2 if plain else 5}\n{SIDE} {SIDE}\n{most}\n".encode()
    stored = values.astype(">u2" if most > 255 else "u1").tobytes()
    content = head + (" ".join(map(str, values.ravel())).encode() if plain else stored)
    found = decoded(content, f"0..{most // 2}")
    assert np.array_equal(found, Scale(0, most // 2).apply(values))
    # The file says its range, so that it needs no scale.
    assert np.abs(decoded(content) - values / most * 255).max() <= 1


def test_other_versions_of_pydicom_decode_again(monkeypatch):
    facts = decoder_facts()
    assert facts["pydicom"] == importlib.metadata.version("pydicom")

    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    assert decoder_facts() == {name: facts[name] for name in facts if name != "pydicom"}


# Formats of print and animation


@pytest.mark.parametrize("scale", [None, Scale(0, 255)])
def test_a_tiff_with_several_pages_is_refused(scale, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    pages = [Image.new("L", (SIDE, SIDE), value) for value in (0, 100, 200)]
    path = tmp_path / "a" / "0.tif"
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])
    # Counting the pages would read all of them, for as long as it takes.
    monkeypatch.setattr(TiffImageFile, "n_frames", property(lambda _: pytest.fail("counted")))
    with pytest.raises(fw.InputError, match=r"TIFF file with several pages.*a file of its own"):
        decode_image(path, None, scale)
    with pytest.raises(fw.InputError, match=r"0\.tif: .* several pages"):
        load_data(f"folder:{tmp_path}", test_fraction=1, skip_unreadable=True)


def test_cmyk_palettes_and_first_frames_have_their_colours():
    red = (255, 0, 0)
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (red, (0, 0, 255))]
    plain = frames[0]
    for image, kind, options in (
        (plain.convert("CMYK"), "TIFF", {}),
        (plain.convert("CMYK"), "JPEG", {"quality": 100}),
        (plain.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", {}),
        (plain.convert("P", palette=Image.Palette.ADAPTIVE), "GIF", {}),
        (plain, "GIF", {"save_all": True, "append_images": frames[1:]}),
        (plain, "PNG", {"save_all": True, "append_images": frames[1:]}),
    ):
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found = decode_image(stream.getvalue(), None).astype(int)
        assert np.abs(found - np.array(red)[:, None, None]).max() <= 2, (kind, options)
