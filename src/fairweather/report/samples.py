"""The few pictures that a run stores, and what each of them is shown for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pydantic
from PIL import Image

from fairweather.errors import InputError, one_line
from fairweather.runs.folder import RunFolder, read_parquet, resolve_inside
from fairweather.types.record import SAMPLES

INDEX_VERSION = 2
INDEX, PICTURES = f"{SAMPLES}/index.json", f"{SAMPLES}/pictures.parquet"
ATTACKED = f"{SAMPLES}/attacked.parquet"  # only where a run has attacks
PICTURE_COLUMNS = pa.schema(
    [
        pa.field("cell", pa.string(), nullable=False),
        pa.field("key", pa.int64(), nullable=False),
        pa.field("image", pa.binary(), nullable=False),
    ]
)
# Under attack, each model sees other images.
ATTACKED_COLUMNS = pa.schema([pa.field("model", pa.string(), nullable=False), *PICTURE_COLUMNS])


class Mixup(NamedTuple):
    """Two pictures with their labels, and their mixture with the weight of the first."""

    pictures: tuple[Image.Image, Image.Image, Image.Image]
    labels: tuple[str, str]
    weight: float


class CellImage(NamedTuple):
    """A test image under a shift: the key of the image, and the id of the shift."""

    key: int
    cell: str


class Samples(NamedTuple):
    """The few pictures of a run.

    Attributes:
        strip: keys of test images of different classes, with a picture in every cell.
        labels: the names of their classes.
        strips: those pictures by the id of the shift, in the order of `labels`.
        pictures: WebP by the id of the shift and the image's key.
        lost: for each shift, by its name in scores.csv, the images that are right for every model
            and variant on clean images, and wrong for all from the given cell on; soonest first.
            None for several runs, whose models were not looked at together.
        mistakes: for each model and variant, and then for each shift or `clean`, its most confident
            wrong answers, each image in the cell with the highest confidence; that one first.
        mixup: two training images and their mixture, where the run mixed any.
        attacked: WebP of the strip as each model saw it under attack, by the model, the id of the
            attack and the image's key.
    """

    strip: tuple[int, ...]
    labels: tuple[str, ...]
    strips: Mapping[str, tuple[Image.Image, ...]]
    pictures: Mapping[tuple[str, int], bytes]
    lost: Mapping[str, tuple[CellImage, ...]] | None
    mistakes: Mapping[str, Mapping[str, tuple[CellImage, ...]]]
    mixup: Mixup | None
    attacked: Mapping[tuple[str, str, int], bytes] = MappingProxyType({})


class _MixtureFile(pydantic.BaseModel):
    file: str
    labels: tuple[str, str]
    weight: Annotated[float, pydantic.Field(ge=0, le=1)]


class _IndexFile(pydantic.BaseModel):
    """The content of the index: keys; the pictures themselves are in one file."""

    version: Literal[2]
    labels: Annotated[tuple[str, ...], pydantic.Field(min_length=1)]
    mixup: _MixtureFile | None = None
    strip: tuple[int, ...]
    lost: dict[str, tuple[CellImage, ...]] | None
    mistakes: dict[str, dict[str, tuple[CellImage, ...]]]

    def shown(self) -> Iterator[CellImage]:
        for by_name in (self.lost or {}, *self.mistakes.values()):
            for images in by_name.values():
                yield from images


def read_samples(run: RunFolder) -> Samples | None:
    """Read the pictures, or None where the run has none.

    Raises `InputError` where the index or a picture is damaged, or the file with the pictures of
    the index is missing.
    """
    path = run.file(INDEX)
    if not path.is_file():
        return None
    try:
        return _make_samples(run, _IndexFile.model_validate_json(path.read_bytes()))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all"
        raise InputError(f"{path} cannot be read: {where}: {first['msg']}") from None


def _make_samples(run: RunFolder, index: _IndexFile) -> Samples:
    if len(index.strip) != len(index.labels):
        counts = f"{len(index.labels)} labels for {len(index.strip)} images"
        raise InputError(f"{run.path / INDEX} must name each image of the strip, found {counts}")
    pictures = _read_pictures(run)
    cells = dict.fromkeys(cell for cell, _ in pictures)
    in_strip = (CellImage(key, cell) for key in index.strip for cell in cells)
    for key, cell in [*index.shown(), *in_strip]:
        if (cell, key) not in pictures:
            what = f"the picture of image {key} under {cell!r}"
            raise InputError(f"{run.path / PICTURES} does not contain {what}")
    strips = {
        cell: tuple(_decode(run.path / PICTURES, pictures[cell, key]) for key in index.strip)
        for cell in cells
    }
    return Samples(
        strip=index.strip,
        labels=index.labels,
        strips=strips,
        pictures=pictures,
        lost=index.lost,
        mistakes=index.mistakes,
        mixup=_read_mixup(run, index),
        attacked=_read_attacked(run),
    )


def _read_attacked(run: RunFolder) -> dict[tuple[Any, ...], bytes]:
    path = run.file(ATTACKED)
    return _read_stored(path, ATTACKED_COLUMNS) if path.is_file() else {}


def _read_pictures(run: RunFolder) -> dict[tuple[Any, ...], bytes]:
    path = run.file(PICTURES)
    if not path.is_file():
        raise InputError(
            f"{run.path} has no {PICTURES}, which belongs to {INDEX}: the command that made the "
            f"run makes it again, and without {INDEX} the report has no pictures"
        )
    return _read_stored(path, PICTURE_COLUMNS)


def _read_stored(path: Path, schema: pa.Schema) -> dict[tuple[Any, ...], bytes]:
    """Read pictures by the columns before them, and see that each is a WebP."""
    *names, images = _read_columns(path, schema)
    pictures = dict(zip(zip(*names, strict=True), images, strict=True))
    for (*models, cell, key), content in pictures.items():
        if not _is_webp(content):
            whose = "".join(f" of {model!r}" for model in models)
            raise InputError(
                f"{path} must contain WebP pictures, but that of image {key} under {cell!r}{whose} "
                "is not one"
            )
    return pictures


def _read_columns(path: Path, schema: pa.Schema) -> list[list[Any]]:
    """Read the columns of a file of pictures, which must be those of the schema."""
    try:
        table = read_parquet(path)
        columns = ", ".join(f"{field.name} ({field.type})" for field in table.schema)
        if table.schema.equals(schema):
            return [table[name].to_pylist() for name in schema.names]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # text that is not UTF-8
        raise InputError(f"{path} cannot be read: {one_line(str(error))}") from None
    wanted = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise InputError(f"{path} must have the columns {wanted}, found {columns}")


def _is_webp(content: bytes) -> bool:
    """Whether this is a whole WebP, by its headers: the page takes most pictures as they are."""
    try:
        with Image.open(io.BytesIO(content), formats=("WEBP",)):
            return True
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _read_mixup(run: RunFolder, index: _IndexFile) -> Mixup | None:
    """Read the three pictures of one size that stand side by side in one file."""
    if index.mixup is None:
        return None
    path = resolve_inside(run.path, index.mixup.file, INDEX)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    strip = _decode(path, content)
    width, rest = divmod(strip.width, 3)
    if rest or not width:
        raise InputError(f"{path} must contain 3 pictures in a row, found {strip.width} pixels")
    first, second, mixture = (
        strip.crop((left, 0, left + width, strip.height)) for left in range(0, strip.width, width)
    )
    return Mixup((first, second, mixture), index.mixup.labels, index.mixup.weight)


def _decode(path: Path, content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "WEBP")) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a picture: {error}") from None
