"""Decode images to 8-bit pixels, without torch, so that processes that only decode start fast."""

from __future__ import annotations

import importlib.metadata
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from fairweather.dicom import is_dicom, read_dicom
from fairweather.errors import one_line
from fairweather.intensity import MOST_OF_14_BITS, Scale, UnreadableImageError, whole_range

FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# The formats that are decoded, whatever a file is called, and those that the user has registered
# with Pillow. Pillow knows more, and for some of them it starts other programs.
FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM", "SGI", "TGA"),
    *("TIFF", "WEBP"),
)
Pixels = npt.NDArray[np.uint8]
Content = Path | bytes | Pixels | Image.Image


class Square(NamedTuple):
    """A `types.Preparation` without defaults, for processes that do not load torch.

    Attributes:
        size, resize: in pixels, `size <= resize`.
        interpolation, fit: as in `types.Preparation`.
    """

    size: int
    resize: int
    interpolation: str = "bilinear"
    fit: str = "crop"


class Target(NamedTuple):
    """The file for decoded images, and what shape they must have.

    Attributes:
        path: the file. Image number `i` starts at byte `i * bytes per image`.
        shape: `(3, H, W)` of every image.
        square: the argument of `decode_image`.
        most_pixels: Pillow's `MAX_IMAGE_PIXELS` in the main process.
        scale: the argument of `decode_image`.
    """

    path: Path
    shape: tuple[int, ...]
    square: Square | None
    most_pixels: int | None
    scale: Scale | None = None


def decode_image(content: Content, square: Square | None, scale: Scale | None = None) -> Pixels:
    """Decode one image: uint8 `[3, H, W]`.

    * The EXIF orientation is applied. From an animation, the first frame is taken. A TIFF file with
      several pages is refused.
    * Every mode is converted to RGB. Transparency is dropped, as in torchvision's `ImageFolder`, so
      transparent pixels show their stored colour. Gray values become 8 bits by `scale`. Without it,
      16-bit grayscale is scaled as `round(v / 257)`: over the whole 16-bit range and not over the
      range of one image, so that brightness stays comparable between images. Values of at most 14
      bits in 16, and floating-point values, are refused then, because their range is unknown.
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
        rgb = _fit(_decode(content, scale), square)
    except (MemoryError, UnreadableImageError):
        raise
    # On damaged files Pillow's decoders raise anything from SyntaxError to struct.error.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the operating system: no permission, or too many open files
        raise UnreadableImageError(_reason(error)) from error
    return np.asarray(rgb).transpose(2, 0, 1).copy()


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Turn Pillow's warning about too large images into an error inside the `with` block.

    Warning filters belong to a process, so each process enters it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # warnings about metadata change no pixel
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def most_pixels() -> int | None:
    """Return Pillow's limit, which users can change: an image with more pixels is unreadable."""
    return Image.MAX_IMAGE_PIXELS


def decoder_facts() -> dict[str, object]:
    """Return what decides the decoded pixels besides the image's bytes and `square`."""
    Image.init()  # Pillow loads most of its formats when they are first needed
    facts: dict[str, object] = {
        "pillow": PIL.__version__,
        "formats": sorted(Image.OPEN),
        "most_pixels": most_pixels(),
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
    left: list[int] = []
    with strict_pillow(), target.path.open("r+b") as file:
        for place, content in enumerate(contents, first):
            try:
                pixels = decode_image(content, target.square, target.scale)
            except Exception:
                left.append(place)
                continue
            if pixels.shape != target.shape:
                left.append(place)
                continue
            file.seek(place * pixels.nbytes)
            file.write(pixels.data)
    return left


def _decode(content: Content, scale: Scale | None) -> Image.Image:
    try:
        with _open(content) as image:
            _check_pages(image)
            stored = str(getattr(image, "tile", ""))  # the raw modes; loading forgets them
            most = _largest_of_pgm(image)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), scale, stored, most)
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


def _largest_of_pgm(image: Image.Image) -> int | None:
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


def _open(content: Content) -> Image.Image:
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
        gray = image if deep else image.convert("L")
        values = np.asarray(gray)
        if most is not None:  # the values of the file again: Pillow rounded none to the same
            values = np.rint(values / (65535 if deep else 255) * most)
        return Image.fromarray(scale.apply(values)).convert("RGB")
    if image.mode == "F":
        raise UnreadableImageError(
            "it has floating-point pixels (mode F), whose range is unknown: say with scale which "
            "values become black and white, such as scale 0..1"
        )
    if deep:  # Pillow's own conversion clips at 255, which turns a radiograph white.
        image = Image.fromarray(whole_range(np.asarray(image, dtype=np.int64)))
    rgb = image.convert("RGB")
    if upper_bits:
        brightest = int(np.asarray(rgb).max())
        if brightest <= MOST_OF_14_BITS >> 8:
            raise UnreadableImageError(
                f"its colours have 16 bits, but go only to about {256 * brightest + 255}, so that "
                "it would be nearly black: convert it to 8 bits"
            )
    return rgb


def _fit(image: Image.Image, square: Square | None) -> Image.Image:
    if square is None:
        return image
    width, height = _resized_sides(image.size, square)
    if width * height > (Image.MAX_IMAGE_PIXELS or math.inf):
        found = f"{width} x {height} pixels at {square.resize}"
        raise ValueError(f"it is too elongated to be resized: {found}")
    resized = image.resize((width, height), FILTERS[square.interpolation])
    left, top = round((width - square.size) / 2), round((height - square.size) / 2)
    return resized.crop((left, top, left + square.size, top + square.size))


def _resized_sides(sides: tuple[int, int], square: Square) -> tuple[int, int]:
    if square.fit == "squash":
        return square.resize, square.resize
    short = min(sides)
    # Rounded down, as torchvision and transformers do.
    width, height = (
        square.resize if side == short else int(square.resize * side / short) for side in sides
    )
    return width, height


def _reason(error: Exception) -> str:
    # Pillow's message contains the address of a buffer, and the system's repeats the file name.
    if isinstance(error, UnidentifiedImageError):
        return f"it is not an image in a format that is read: {', '.join(FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(str(error)) or type(error).__name__
