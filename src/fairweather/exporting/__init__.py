"""Write corrupted copies of a data set as files for other tools, with a record of their origin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fairweather.data import digest
from fairweather.display import shows_progress, teller
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


@shows_progress
def export(
    dataset: Dataset,
    shifts: Sequence[Shift],
    out: str | Path,
    *,
    part: str = "test",
    format: str = "png",
    seed: int = 0,
    progress: Notify | bool | None = True,
) -> Path:
    """Write a split of a data set under each shift to files, without loss; return the manifest.

    `png` writes OUT/SHIFT/CLASS/KEY.png. Read it as `folder:OUT/SHIFT`, or with any tool that reads
    one folder per class. `npz` writes OUT/SHIFT.npz with `images` uint8 `[N, H, W, 3]`, `labels`
    and `keys` int64 `[N]`, and `classes`; read it as `npz:OUT/SHIFT.npz`. SHIFT is the id of the
    shift with `__` for `/`.

    The manifest describes the data and names the file of each image. For each shift it contains the
    parameters, the published constants, the numbers of images and bytes, the SHA-256 of the pixels,
    the command and the versions. A shift is written completely or not at all. The same call again
    continues an interrupted export. Later calls can add shifts if data, split, format and seed are
    the same. Only one batch at a time is in memory.

    Args:
        dataset: a data set, for example from `load_data`.
        shifts: the shifts to write; `make_shift("clean")` writes the unchanged images.
        out: a new or empty folder, or a folder of an earlier export.
        part: the split: `train`, `val` or `test`.
        format: `png` or `npz`.
        seed: seed of the random shifts; `predict` with this seed uses the same pixels.
        progress: show how many images are written (`Event` says how).

    Raises:
        InputError: the folder contains something else or is in use, there are no shifts, the split
            or the format is unknown, two images have the same key, or a shift cannot be applied.

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
        raise InputError(f"only shifts can be exported, found {others[0]!r}")
    images = part_of(dataset, part)
    distinct = list({shift.id: shift for shift in shifts}.values())
    _check(distinct, images, seed)
    folder = Path(out)
    inputs = ExportInputs(data=_describe_data(dataset, part, images), format=format, seed=seed)
    with open_export(folder, inputs) as manifest:
        _export(manifest, distinct, images, format, seed, teller(progress))
    return folder / MANIFEST


def _export(
    manifest: Manifest,
    shifts: Sequence[Shift],
    images: Images,
    format: str,
    seed: int,
    progress: Notify | None,
) -> None:
    pending = [
        shift for shift in shifts if not manifest.is_done(shift.id, FORMATS[format].checksum)
    ]
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


def part_of(dataset: Dataset, part: str) -> Images:
    """A split of a data set by its name; raises `InputError` if there is none."""
    if part not in PARTS:
        raise unknown_name("split", part, PARTS)
    images: Images | None = getattr(dataset, part)
    if images is None:
        there = [name for name in PARTS if getattr(dataset, name) is not None]
        raise InputError(f"{dataset.name} has no split {part}; it has {' and '.join(there)}")
    return images


def _check(shifts: Sequence[Shift], images: Images, seed: int) -> None:
    """Check everything before anything is written."""
    if not shifts:
        raise InputError("an export needs at least one shift, found none")
    if len(images.keys.unique()) < len(images):
        raise InputError("two images have the same key, but keys are the names of their files")
    first = images[:1]
    for shift in shifts:
        shift(first.images, first.keys, seed)


def _describe_data(dataset: Dataset, part: str, images: Images) -> ExportedData:
    named = zip(images.classes, class_folders(images.classes), strict=True)
    height, width = images.images.shape[2:]
    files = None
    if images.names is not None:
        files = dict(zip(images.keys.tolist(), images.names.tolist(), strict=True))
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
        files=files,
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
