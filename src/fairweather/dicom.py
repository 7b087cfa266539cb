"""One DICOM file to an 8-bit picture; pydicom, an extra, is imported only where there is one."""

from __future__ import annotations

import importlib.util
import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fairweather.errors import missing_extra
from fairweather.intensity import Scale, UnreadableImageError

MARK, AT = b"DICM", 128  # the mark of the format, and the byte where it stands
DEFLATED = b"1.2.840.10008.1.2.1.99"  # the name of a compression of the whole file
WORDS = "say with scale which values become black and white, such as scale -1000..400"
DataSet = Any  # pydicom.Dataset, of an extra


def is_dicom(content: Path | bytes) -> bool:
    """Say whether a file, or encoded bytes, have the mark of a DICOM file.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"GIF89a")
    (True, False)
    """
    if isinstance(content, bytes):
        return content[AT : AT + len(MARK)] == MARK
    with content.open("rb") as file:
        return file.read(AT + len(MARK))[AT:] == MARK


def read_dicom(content: Path | bytes, scale: Scale | None) -> Image.Image:
    """Decode a DICOM image of one frame: gray (mode L) or RGB, 8 bits.

    The rescale slope and intercept (or the modality LUT) are applied. Then the values become 8 bits
    by `scale`; without it, by the first window or VOI LUT of the file; without these, over all bits
    that the file says are stored. MONOCHROME1 is inverted, so that large values are bright.

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
    if DEFLATED in encoded:  # reading it would inflate it, to whatever size
        raise UnreadableImageError("it is a deflated DICOM file: store it without compression")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are not as the standard says
        data: DataSet = dcmread(io.BytesIO(encoded))
        syntax = data.file_meta.TransferSyntaxUID
        _check(data)
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
        gray = _to_8_bits(apply_modality_lut(values, data), data, scale)
    return Image.fromarray(255 - gray if kind == "MONOCHROME1" else gray)


def _check(data: DataSet) -> None:
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


def _to_8_bits(
    values: npt.NDArray[np.generic], data: DataSet, scale: Scale | None
) -> npt.NDArray[np.uint8]:
    if scale is not None:
        return scale.apply(values)
    if "VOILUTSequence" in data and len(data.VOILUTSequence):
        from pydicom.pixels import apply_voi

        most = 2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return Scale(0, most).apply(apply_voi(values, data))
    window = _window(data)
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
    found = float(np.min(values)), float(np.max(values))
    if found[1] - found[0] < (high - low) / 4:
        raise UnreadableImageError(
            f"it is a DICOM file without a window, and its values go from {found[0]:g} to "
            f"{found[1]:g}, less than a quarter of its {data.BitsStored} bits: {WORDS}"
        )
    return Scale(low, high).apply(values)


def _window(data: DataSet) -> tuple[float, float] | None:
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


def _stored_range(data: DataSet) -> tuple[float, float]:
    """The smallest and largest value that the stored bits can hold, after slope and intercept."""
    bits = int(data.BitsStored)
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if data.PixelRepresentation else (0, 2**bits - 1)
    )
    slope, shift = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    ends = sorted((low * slope + shift, high * slope + shift))
    return ends[0], ends[1]
