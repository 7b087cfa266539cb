"""A corrupted copy of a data set in files that other tools read, and the record of how it came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fairweather.data import digest
from fairweather.errors import InputError, unknown_name
from fairweather.exporting.layouts import FORMATS, class_folders
from fairweather.exporting.manifest import (
    MANIFEST,
    ExportedClass,
    ExportedData,
    ExportInputs,
    Manifest,
    ShiftFacts,
    open_export,
)
from fairweather.progress import Event, Notify
from fairweather.record import TEST, TRAIN, VAL, escape
from fairweather.shifts import SHIFTS
from fairweather.types import Dataset, Images, Shift

PARTS = (TRAIN, VAL, TEST)
BATCH = 256


def export(
    dataset: Dataset,
    shifts: Sequence[Shift],
    out: str | Path,
    *,
    part: str = "test",
    format: str = "png",
    seed: int = 0,
    progress: Notify | None = None,
) -> Path:
    """Write a part of a data set under each shift into files, without loss; return the manifest.

    `png` makes OUT/SHIFT/CLASS/KEY.png, which is read as `folder:OUT/SHIFT` and by whatever takes a
    folder a class. `npz` makes OUT/SHIFT.npz with `images` uint8 `[N, H, W, 3]`, `labels` and
    `keys` int64 `[N]`, and `classes`; it is read as `npz:OUT/SHIFT.npz`. SHIFT is the id of the
    shift with `__` for `/`.

    The manifest says what data it is, and of each shift its parameters and published constants, how
    many images and bytes there are, the SHA-256 of the pixels, the command and the versions. A
    shift is there whole or not at all. The same call again does what is left; further shifts may
    join as long as data, part, format and seed stay the same. Memory holds a batch at a time.

    Args:
        dataset: such as `load_data` returns.
        shifts: what to write; `make_shift("clean")` stands for the images as they are.
        out: a new or empty folder, or one that this function began.
        part: `train`, `val` or `test`.
        format: `png` or `npz`.
        seed: of the stochastic shifts; the pixels are those that `predict` sees with this seed.
        progress: called with how many images are written, and how many there are to be.

    Raises:
        InputError: the folder holds something else or is in use, there are no shifts, there is no
            such part or format, two images have the same key, or a shift cannot be applied.

    >>> import tempfile
    >>> from fairweather.data import load_data
    >>> from fairweather.shifts import make_shift
    >>> digits = load_data("mnist5k", size=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export(digits, [make_shift("gamma", exponent=2)], folder, format="npz")
    ...     sorted(file.name for file in path.parent.iterdir())
    ['.lock', 'gamma,exponent=2.npz', 'manifest.json']
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    if others := [shift for shift in shifts if not isinstance(shift, Shift)]:
        raise InputError(f"only shifts can be written out, found {others[0]!r}")
    images = _part(dataset, part)
    distinct = list({shift.id: shift for shift in shifts}.values())
    _check(distinct, images, seed)
    folder = Path(out)
    inputs = ExportInputs(data=_describe_data(dataset, part, images), format=format, seed=seed)
    with open_export(folder, inputs) as manifest:
        _export(manifest, distinct, images, format, seed, progress)
    return folder / MANIFEST


def _export(
    manifest: Manifest,
    shifts: Sequence[Shift],
    images: Images,
    format: str,
    seed: int,
    progress: Notify | None,
) -> None:
    pending = [shift for shift in shifts if not manifest.is_done(shift.id, FORMATS[format].intact)]
    for index, shift in enumerate(pending):
        batches = _counted(
            _shifted(images, shift, seed),
            progress,
            done=index * len(images),
            total=len(pending) * len(images),
        )
        name = escape(shift.id) + FORMATS[format].suffix
        with manifest.replacing(shift.id, name) as path:
            written = FORMATS[format].write(path, images, batches)
        manifest.finish(shift.id, name, _describe_shift(shift, images), written)


def _part(dataset: Dataset, part: str) -> Images:
    if part not in PARTS:
        raise unknown_name("part", part, PARTS)
    images: Images | None = getattr(dataset, part)
    if images is None:
        there = [name for name in PARTS if getattr(dataset, name) is not None]
        raise InputError(f"{dataset.name} has no part {part}; it has {' and '.join(there)}")
    return images


def _check(shifts: Sequence[Shift], images: Images, seed: int) -> None:
    """Show mistakes before anything is written."""
    if not shifts:
        raise InputError("there are no shifts to export")
    if len(images.keys.unique()) < len(images):
        raise InputError("two images have the same key, which is what their files are named by")
    first = images[:1]
    for shift in shifts:
        shift(first.images, first.keys, seed)


def _describe_data(dataset: Dataset, part: str, images: Images) -> ExportedData:
    named = zip(images.classes, class_folders(images.classes), strict=True)
    height, width = images.images.shape[2:]
    return ExportedData(
        name=dataset.name,
        part=part,
        digest=digest(images),
        images=len(images),
        size=(height, width),
        classes=tuple(
            ExportedClass(label=label, name=name, folder=folder)
            for label, (name, folder) in enumerate(named)
        ),
    )


def _describe_shift(shift: Shift, images: Images) -> ShiftFacts:
    note = ""
    if shift.name in SHIFTS:
        kind = SHIFTS[shift.name]
        size = {"image_size": min(images.images.shape[2:])} if "image_size" in kind.known else {}
        note = kind.note({**size, **shift.parameters})
    return ShiftFacts(name=shift.name, parameters=dict(shift.parameters), constants=note)


def _shifted(images: Images, shift: Shift, seed: int) -> Iterator[Images]:
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        shifted = shift(part.images, part.keys, seed)
        yield Images(shifted, part.labels, part.keys, part.classes)


def _counted(
    batches: Iterator[Images], progress: Notify | None, done: int, total: int
) -> Iterator[Images]:
    for batch in batches:
        yield batch
        done += len(batch)
        if progress is not None:
            progress(Event("export", done, total))
