"""One image to 8-bit pixels, without torch, so that decoding processes start fast."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from fairweather.errors import InputError, missing_extra, one_line
from fairweather.types.measurement import IntArray

# ---------------------------------------------------------------- gray values

SCALE_FORM = re.compile(
    r"(?P<share>percentile:)?(?P<low>[-+0-9.eE]*?[0-9.])\.\.(?P<high>[-+0-9.eE]+)"
)
SCALE_FORMS = (
    "LOW..HIGH, such as 0..4095 or -1000..400, or percentile:LOW..HIGH, such as percentile:1..99"
)
# Of a 16-bit file: up to this value, its pixels have at most 14 bits, like those of cameras and
# scanners.
MAX_14_BITS = 2**14 - 1


class UnreadableImageError(InputError):
    """One image cannot be decoded; the message gives the reason, without the image's name."""


class Scale(NamedTuple):
    """Which gray values become 0 and 255; those between are linear, those outside are cut off."""

    low: float
    high: float
    """`low`, `high`: stored values; for a DICOM file, those after its rescale slope and intercept.
    """

    percentile: bool = False
    """Low and high are percentiles of the values of each image by itself, in [0, 100]."""

    @classmethod
    def parse(cls, text: str) -> Scale:
        """Read a scale as it is written; raises `InputError` for anything else.

        >>> Scale.parse("0..4095"), Scale.parse("percentile:0.5..99.5")
        (Scale(low=0.0, high=4095.0, percentile=False),
         Scale(low=0.5, high=99.5, percentile=True))
        """
        match = SCALE_FORM.fullmatch(text.strip())
        try:
            low, high = (float(match[name]) for name in ("low", "high")) if match else (1.0, 0.0)
        except ValueError:
            low, high = 1.0, 0.0
        share = bool(match and match["share"])
        if not -1e9 <= low < high <= 1e9 or (share and not 0 <= low < high <= 100):
            raise InputError(f"scale must be {SCALE_FORMS}; found {text!r}")
        return cls(low, high, share)

    def apply(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        """Scale the gray values of one image to 8 bits, in the shape that they have.

        >>> Scale(0, 4095).apply(np.array([-5, 0, 2048, 4095, 9000])).tolist()
        [0, 0, 128, 255, 255]
        """
        exact = np.asarray(values, dtype=np.float64)
        if not np.isfinite(exact).all():
            raise ValueError("some of its pixels are not finite")
        low, high = self.low, self.high
        if self.percentile:
            low, high = (float(bound) for bound in np.percentile(exact, [low, high]))
        if low == high:  # a flat image has no contrast to keep
            return np.zeros(exact.shape, dtype=np.uint8)
        share = (exact - low) / (high - low)
        return np.floor(np.clip(share, 0, 1) * 255 + 0.5).astype(np.uint8)


def scale_16_bits(values: IntArray) -> npt.NDArray[np.uint8]:
    """Scale unsigned 16-bit gray values to 8 bits, over the whole 16-bit range.

    Raises `UnreadableImageError` for other values, such as signed ones, and for values of at most
    14 bits. Over the whole range these are nearly black, and no file says that it has fewer bits.

    >>> scale_16_bits(np.array([0, 25700, 65535])).tolist()
    [0, 100, 255]
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 0xFFFF:
        raise UnreadableImageError(
            f"its pixels go from {low} to {high}, which is not a 16-bit range: say with scale "
            "which values become black and white, such as scale 0..4095"
        )
    if high <= MAX_14_BITS:
        raise UnreadableImageError(
            f"its pixels have 16 bits, but go only from {low} to {high}, so that it would be "
            "nearly black: say with scale which values become black and white, such as 0..4095 "
            "for 12 bits, or 0..65535 if all 16 are meant"
        )
    return ((values + 128) // 257).astype(np.uint8)


# ---------------------------------------------------------------- DICOM files

DICOM_MARK, MARK_START = b"DICM", 128  # the mark of the format, and the byte where it stands
DEFLATED_SYNTAX = b"1.2.840.10008.1.2.1.99"  # the name of a compression of the whole file
SCALE_HINT = "say with scale which values become black and white, such as scale -1000..400"
DicomFile = Any  # pydicom.Dataset, of an extra


def is_dicom(content: Path | bytes) -> bool:
    """Say whether a file, or encoded bytes, have the mark of a DICOM file.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"GIF89a")
    (True, False)
    """
    if isinstance(content, bytes):
        return content[MARK_START : MARK_START + len(DICOM_MARK)] == DICOM_MARK
    with content.open("rb") as file:
        return file.read(MARK_START + len(DICOM_MARK))[MARK_START:] == DICOM_MARK


def read_dicom(content: Path | bytes, scale: Scale | None) -> Image.Image:
    """Decode a DICOM image of one frame: gray (mode L) or RGB, 8 bits.

    The rescale slope and intercept (or the modality LUT) are applied. Then the values become 8 bits
    by `scale`. Without it, the first window or VOI LUT of the file decides, or else all bits that
    the file says are stored. MONOCHROME1 is inverted, so that large values are bright.

    Raises:
        UnreadableImageError: it has several frames, the extra or a decoder is not installed, or
            there is no window and its values use less than a quarter of the stored bits.
        Exception: what pydicom raises for a damaged file.
    """
    if importlib.util.find_spec("pydicom") is None:
        raise UnreadableImageError(str(missing_extra("pydicom", "dicom", "DICOM files")))
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, pixel_array

    encoded = content if isinstance(content, bytes) else content.read_bytes()
    if DEFLATED_SYNTAX in encoded:  # reading it would inflate it to any size
        raise UnreadableImageError("it is a deflated DICOM file: store it without compression")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that break the standard
        data: DicomFile = dcmread(io.BytesIO(encoded))
        syntax = data.file_meta.TransferSyntaxUID
        _check_dicom(data)
        if syntax.is_compressed:
            _check_decoder(get_decoder, syntax)
        values = pixel_array(data)
        kind = str(data.PhotometricInterpretation)
        if kind == "PALETTE COLOR":
            values, kind = apply_color_lut(values, data), "RGB"
            values = (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values
        if values.ndim == 3:
            if values.dtype != np.uint8:
                raise UnreadableImageError(
                    "it is a colour image with 16 bits: convert it to 8 bits"
                )
            if scale is not None:
                raise UnreadableImageError("it is a colour image, and a scale is for gray ones")
            return Image.fromarray(values)
        gray = _scale_dicom(apply_modality_lut(values, data), data, scale)
    return Image.fromarray(255 - gray if kind == "MONOCHROME1" else gray)


def _check_dicom(data: DicomFile) -> None:
    if "PixelData" not in data:
        raise ValueError("it is a DICOM file without an image")
    frames = int(data.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        raise UnreadableImageError(
            f"it is a DICOM file with {frames} frames, and an image has one: store each frame in a "
            "file of its own"
        )
    pixels = int(data.Rows) * int(data.Columns)
    if pixels > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise ValueError(f"it has {pixels} pixels, more than {Image.MAX_IMAGE_PIXELS}")


def _check_decoder(get_decoder: Any, syntax: Any) -> None:  # noqa: ANN401 - of pydicom
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise UnreadableImageError(
            f"its pixels are compressed as {syntax.name}, which pydicom cannot decode here: "
            "install a decoder (pip install pylibjpeg[all]), or store it without compression"
        )


def _scale_dicom(
    values: npt.NDArray[np.generic], data: DicomFile, scale: Scale | None
) -> npt.NDArray[np.uint8]:
    if scale is not None:
        return scale.apply(values)
    if "VOILUTSequence" in data and len(data.VOILUTSequence):
        from pydicom.pixels import apply_voi

        most = 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return Scale(0, most).apply(apply_voi(values, data))
    window = _read_window(data)
    if window is not None:
        center, width = window
        function = str(data.get("VOILUTFunction", "LINEAR") or "LINEAR").upper()
        if function == "SIGMOID":
            share = 1 / (1 + np.exp(-4 * (np.asarray(values, dtype=np.float64) - center) / width))
            return Scale(0, 1).apply(share)
        # DICOM PS3.3, C.11.2.1.2: the standard's window of w values goes over w - 1 steps.
        if function == "LINEAR_EXACT":
            return Scale(center - width / 2, center + width / 2).apply(values)
        return Scale(center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2).apply(values)
    low, high = _stored_range(data)
    span = float(np.min(values)), float(np.max(values))
    if span[1] - span[0] < (high - low) / 4:
        raise UnreadableImageError(
            f"it is a DICOM file without a window, and its values go from {span[0]:g} to "
            f"{span[1]:g}, less than a quarter of its {data.BitsStored} bits: {SCALE_HINT}"
        )
    return Scale(low, high).apply(values)


def _read_window(data: DicomFile) -> tuple[float, float] | None:
    """The center and width of the first window of a file."""
    numbers = []
    for name in ("WindowCenter", "WindowWidth"):
        value = data.get(name)
        if value is None or value == "":
            return None
        first = value if isinstance(value, int | float | str) else value[0]
        numbers.append(float(first))
    center, width = numbers
    if not width > 0 or (width <= 1 and str(data.get("VOILUTFunction", "LINEAR")) == "LINEAR"):
        raise ValueError(f"its window has the width {width:g}")
    return center, width


def _stored_range(data: DicomFile) -> tuple[float, float]:
    """The smallest and largest value that the stored bits can hold, after slope and intercept."""
    bits = int(data.BitsStored)
    low = -(2 ** (bits - 1)) if data.PixelRepresentation else 0
    high = low + 2**bits - 1
    slope, shift = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    ends = sorted((low * slope + shift, high * slope + shift))
    return ends[0], ends[1]


# ---------------------------------------------------------------- decoding

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# The formats that are decoded, whatever a file is called, and those that the user has registered
# with Pillow. Pillow knows more formats, and starts other programs for some of them.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "SGI", "TGA"),
    *("TIFF", "WEBP"),
)
Pixels = npt.NDArray[np.uint8]


class Framed(NamedTuple):
    """An encoded image with a frame around it that is cut off."""

    path: Path
    border: int
    """Pixels on each side."""


Content = Path | bytes | Pixels | Image.Image | Framed


class Square(NamedTuple):
    """A `types.Preparation` without defaults, for processes that do not load torch."""

    size: int
    resize: int
    """`size`, `resize`: in pixels, `size <= resize`."""

    interpolation: str = "bilinear"
    fit: str = "crop"
    """`interpolation`, `fit`: as in `types.Preparation`."""


class Target(NamedTuple):
    """The file for decoded images, and what shape they must have."""

    path: Path
    """The file. Image number `i` starts at byte `i * bytes per image`."""

    shape: tuple[int, ...]
    """`(3, H, W)` of every image."""

    square: Square | None
    """The argument of `decode_image`."""

    most_pixels: int | None
    """Pillow's `MAX_IMAGE_PIXELS` in the main process."""

    scale: Scale | None = None
    """The argument of `decode_image`."""


def decode_image(content: Content, square: Square | None, scale: Scale | None = None) -> Pixels:
    """Decode one image: uint8 `[3, H, W]`.

    * The EXIF orientation is applied. From an animation, the first frame is taken. A TIFF file with
      several pages is refused.
    * Every mode is converted to RGB. Transparency is dropped, as in torchvision's `ImageFolder`, so
      transparent pixels show their stored colour. Gray values become 8 bits by `scale`. Without it,
      16-bit grayscale is scaled as `round(v / 257)`. This uses the whole 16-bit range, not that of
      one image, so that brightness stays comparable between images. Without `scale`, values of at
      most 14 bits in 16 and floating-point values are refused, because their range is unknown.
      DICOM files have a range of their own (`read_dicom`).
    * The shorter side is resized to `square.resize` with Pillow's antialiased filter, and the
      aspect ratio is kept; with `squash`, both sides are resized to it. Then the center is cropped
      to `square.size`, as with torchvision's `Resize` and `CenterCrop`. An image whose sides
      already have the lengths after resizing is not resampled.

    Args:
        content: a file, encoded bytes, an image of Pillow, or pixels: uint8 `[H, W]` or
            `[H, W, 3]`.
        square: None does not resize or crop.
        scale: which gray values become black and white; colour images are refused then.

    Raises:
        UnreadableImageError: not an image, damaged, too large, a TIFF file with several pages, or
            with pixels of a range that must be said.

    >>> decode_image(np.full((9, 9), 7, dtype=np.uint8), Square(8, resize=8)).shape
    (3, 8, 8)
    """
    try:
        rgb = _resize_and_crop(_decode(content, scale), square)
    except (MemoryError, UnreadableImageError):
        raise
    # On damaged files Pillow's decoders raise anything from SyntaxError to struct.error.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the operating system: no permission, or too many open files
        raise UnreadableImageError(_explain_failure(error)) from error
    # Pillow takes colours apart twice as fast as numpy's transposition.
    planes = bytearray().join(rgb.tobytes("raw", colour) for colour in "RGB")
    return np.frombuffer(planes, dtype=np.uint8).reshape(3, rgb.height, rgb.width)


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Turn Pillow's warning about too large images into an error inside the `with` block.

    Warning filters belong to a process, so each process enters it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # warnings about metadata change no pixel
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def max_pixels() -> int | None:
    """Return Pillow's limit, which users can change: an image with more pixels is unreadable."""
    return Image.MAX_IMAGE_PIXELS


def decoder_facts() -> dict[str, object]:
    """Return what decides the decoded pixels besides the image's bytes and `square`."""
    Image.init()  # Pillow loads most of its formats when they are first needed
    facts: dict[str, object] = {
        "pillow": PIL.__version__,
        "formats": sorted(Image.OPEN),
        "most_pixels": max_pixels(),
        "truncated": ImageFile.LOAD_TRUNCATED_IMAGES,
    }
    with suppress(importlib.metadata.PackageNotFoundError):  # an extra
        facts["pydicom"] = importlib.metadata.version("pydicom")
    return facts


def write_decoded(target: Target, first: int, contents: Sequence[Content]) -> list[int]:
    """Decode images in a worker process, write them to the file, and return which ones failed.

    Returns:
        The numbers of the images that could not be decoded or have another shape. The main process
        decodes these again, and its result counts: users can register formats with Pillow that a
        worker does not know.
    """
    Image.MAX_IMAGE_PIXELS = target.most_pixels
    failed: list[int] = []
    with strict_pillow(), target.path.open("r+b") as file:
        for place, content in enumerate(contents, first):
            try:
                pixels = decode_image(content, target.square, target.scale)
            except Exception:
                failed.append(place)
                continue
            if pixels.shape != target.shape:
                failed.append(place)
                continue
            file.seek(place * pixels.nbytes)
            file.write(pixels.data)
    return failed


def _decode(content: Content, scale: Scale | None) -> Image.Image:
    if isinstance(content, Framed):
        return ImageOps.crop(_decode(content.path, scale), content.border)
    try:
        with _open(content) as image:
            _check_pages(image)
            stored = str(getattr(image, "tile", ""))  # the raw modes; loading forgets them
            most = _read_pgm_maximum(image)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, scale, stored, most)
    except UnidentifiedImageError:
        if isinstance(content, np.ndarray | Image.Image) or not is_dicom(content):
            raise
        return read_dicom(content, scale).convert("RGB")


def _check_pages(image: Image.Image) -> None:
    # Not `n_frames`, which reads the whole file to count the pages.
    if image.format == "TIFF" and getattr(image, "is_animated", False):
        raise UnreadableImageError(
            "it is a TIFF file with several pages, and an image has one: store each page in a "
            "file of its own"
        )


def _read_pgm_maximum(image: Image.Image) -> int | None:
    """The largest value that a PGM file says it may have; None for other files.

    Pillow scales its values to 8 or 16 bits with it, unless it is 255 or 65535.
    """
    if image.format != "PPM" or image.mode not in ("L", "I"):
        return None
    match getattr(image, "tile", None):
        case [(_, _, _, (_, int(most)))]:
            return most
        case _:
            return None


def _open(content: Path | bytes | Pixels | Image.Image) -> Image.Image:
    if isinstance(content, Path):
        return Image.open(content, formats=_formats())
    if isinstance(content, bytes):
        if not content:
            raise ValueError("it has no bytes")
        return Image.open(io.BytesIO(content), formats=_formats())
    return content.copy() if isinstance(content, Image.Image) else Image.fromarray(content)


def _formats() -> list[str]:
    Image.init()  # Pillow loads most of its formats when they are first needed
    return [
        name
        for name, (factory, _) in Image.OPEN.items()
        if name in FORMATS or not factory.__module__.startswith("PIL.")
    ]


def _to_rgb(image: Image.Image, scale: Scale | None, stored: str, most: int | None) -> Image.Image:
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    upper_bits = not deep and ";16" in stored  # Pillow keeps the upper 8 of 16 bits
    if scale is not None:
        if upper_bits or (not deep and image.mode not in ("1", "L", "LA")):
            raise UnreadableImageError(
                "it has colours or transparency, and a scale is for plain gray images"
            )
        bits = 16 if deep else 8
        if image.mode not in ("I", "F") and not scale.percentile and scale.high > 2**bits:
            raise UnreadableImageError(
                f"its pixels have {bits} bits, up to {2**bits - 1}, and a scale up to "
                f"{scale.high:g} is for deeper images"
            )
        gray = image if deep else image.convert("L")
        values = np.asarray(gray)
        if most is not None:  # back to the values of the file, which Pillow scaled without loss
            values = np.rint(values / (65535 if deep else 255) * most)
        return Image.fromarray(scale.apply(values)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImageError(
            "it has floating-point pixels (mode F), whose range is unknown: say with scale which "
            "values become black and white, such as scale 0..1"
        )
    if deep:  # Pillow's own conversion clips at 255, which turns a radiograph white.
        image = Image.fromarray(scale_16_bits(np.asarray(image, dtype=np.int64)))
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which would copy
    if upper_bits:
        brightest = int(np.asarray(rgb).max())
        if brightest <= MAX_14_BITS >> 8:
            raise UnreadableImageError(
                f"its colours have 16 bits, but go only to about {256 * brightest + 255}, so that "
                "it would be nearly black: convert it to 8 bits"
            )
    return rgb


def _resize_and_crop(image: Image.Image, square: Square | None) -> Image.Image:
    if square is None:
        return image
    width, height = _resized_sides(image.size, square)
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        sides = f"{width} x {height} pixels at {square.resize}"
        raise ValueError(f"it is too elongated to be resized: {sides}")
    # Not a smaller JPEG (`draft`), `reducing_gap` or a `box`: they are faster, and change pixels.
    if image.size != (width, height):
        image = image.resize((width, height), FILTERS[square.interpolation])
    left, top = round((width - square.size) / 2), round((height - square.size) / 2)
    return image.crop((left, top, left + square.size, top + square.size))


def _resized_sides(sides: tuple[int, int], square: Square) -> tuple[int, int]:
    if square.fit == "squash":
        return square.resize, square.resize
    short = min(sides)
    # Rounded down, as torchvision and transformers do.
    width, height = (
        square.resize if side == short else int(square.resize * side / short) for side in sides
    )
    return width, height


def _explain_failure(error: Exception) -> str:
    # Pillow's message contains the address of a buffer, and the system's repeats the file name.
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image in a format that is read: {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(str(error)) or type(error).__name__
