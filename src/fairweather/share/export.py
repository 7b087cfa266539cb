"""Write corrupted copies of a data set as files for other tools, with a record of their origin."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import filelock
import numpy as np
import numpy.typing as npt
import torch
from numpy.lib import format as npy
from PIL import Image

from fairweather.data.pixel_scans import digest
from fairweather.data.sources import SPLIT_NAMES
from fairweather.errors import InputError, add_file_name, check_path, check_type, unknown_name
from fairweather.files.download import file_digest
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.runs.folder import LOCK, PARTIAL, resolve_inside, write_atomically
from fairweather.runs.provenance import current_provenance
from fairweather.shifts.table import SHIFTS
from fairweather.types.measurement import Dataset, Images, Shift
from fairweather.types.record import TEST, TRAIN, VAL, FrozenRecord, escape

LONGEST_NAME = 60  # letters of up to 4 bytes; most file systems allow 255 bytes


class WrittenFiles(FrozenRecord):
    """The files that were written for a shift."""

    images: int
    bytes: int
    """`images`, `bytes`: the numbers of images and of bytes."""

    sha256: str | None = None
    """Checksum of the file; of a tree, of the names and checksums of its files."""

    pixels_sha256: str
    """Checksum of all pixels, `[N, H, W, 3]`."""


# 8-bit pixels `[B, H, W, 3]`, with the labels and the keys of the images.
Batch: TypeAlias = "tuple[npt.NDArray[np.uint8], list[int], list[int]]"


class ExportFormat(NamedTuple):
    """A row of the table of formats."""

    suffix: str
    """Ending of the name of a shift's file or folder."""

    write: Callable[[Path, Images, Iterable[Batch]], None]
    """`(path, all images, batches)`: writes the batches to a new path."""

    checksum: Callable[[Path], str]
    """Of the files at a path; different, or "", if they have changed or are gone."""


def class_folders(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Choose a folder name for each class, so that sorted folder names are in label order.

    Tools that read one folder per class number the classes by sorted folder name. So the label is
    put in front if the names are not sorted, two would be equal, or one is the name of a split.
    Characters that file systems or shells may not accept become `_`.

    >>> class_folders(("cat", "dog"))
    ('cat', 'dog')
    >>> class_folders(("smooth muscle", "mucus", "a/b"))
    ('0_smooth_muscle', '1_mucus', '2_a_b')
    """
    safe = [re.sub(r"[^\w-]+", "_", name)[:LONGEST_NAME] or "_" for name in classes]
    distinct = len({name.casefold() for name in safe}) == len(safe)
    if distinct and safe == sorted(safe) and not SPLIT_NAMES.keys() & {*map(str.lower, safe)}:
        return tuple(safe)
    digits = len(str(len(classes) - 1))
    return tuple(f"{label:0{digits}d}_{name}" for label, name in enumerate(safe))


def write_png_tree(path: Path, images: Images, batches: Iterable[Batch]) -> None:
    """Write CLASS/KEY.png for each image; keys are padded to equal length."""
    folders = [path / name for name in class_folders(images.classes)]
    for folder in folders:
        folder.mkdir(parents=True)
    digits = len(str(int(images.keys.max())))
    with ThreadPoolExecutor() as pool:  # Pillow compresses without blocking other threads
        for pixels, labels, keys in batches:
            named = zip(labels, keys, strict=True)
            files = [folders[label] / f"{key:0{digits}d}.png" for label, key in named]
            list(pool.map(_save_png, files, pixels))  # `list` raises the errors of the threads


def _save_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(path, "PNG")


def write_npz(path: Path, images: Images, batches: Iterable[Batch]) -> None:
    """Write `images`, `labels`, `keys` and `classes`, batch by batch, uncompressed.

    Equal images give equal bytes: the file contains no time.
    """
    shape = (len(images), *images.images.shape[2:], 3)
    columns = {
        "labels": images.labels.numpy(),
        "keys": images.keys.numpy(),
        "classes": np.array(images.classes, dtype=str),
    }
    with path.open("xb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            with archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                npy.write_array_header_1_0(member, header)
                for pixels, _, _ in batches:
                    member.write(pixels.data)
            for name, column in columns.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                    npy.write_array(member, column, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _images_in(path: Path) -> list[Path]:
    return sorted(path.glob("*/*.png"))


def _tree_checksum(path: Path) -> str:
    files = _images_in(path)
    with ThreadPoolExecutor() as pool:  # hashing and reading release Python's lock
        sums = pool.map(_file_checksum, files)
        lines = [
            f"{checksum}  {file.relative_to(path).as_posix()}\n"
            for file, checksum in zip(files, sums, strict=True)
        ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _file_checksum(path: Path) -> str:
    return file_digest(path, "sha256") if path.is_file() else ""


FORMATS: Mapping[str, ExportFormat] = {
    "png": ExportFormat("", write_png_tree, _tree_checksum),
    "npz": ExportFormat(".npz", write_npz, _file_checksum),
}


MANIFEST = "manifest.json"
# The files of a process that was ended before it wrote the first manifest. Earlier versions used
# the second name.
BEGINNINGS = {LOCK, f".{MANIFEST}.partial"}


class ExportedClass(FrozenRecord):
    """A class and, if there are folders, the folder of its images."""

    label: int
    name: str
    folder: str


class ExportedData(FrozenRecord):
    """The exported split of a data set."""

    name: str
    """The name of the data set."""

    part: str
    """The split: `train`, `val` or `test`."""

    digest: str
    """Digest of its images, labels and keys."""

    images: int
    """The number of images."""

    size: tuple[int, int]
    """Height and width in pixels."""

    classes: tuple[ExportedClass, ...]
    """The classes in label order."""

    files: dict[int, str] | None = None
    """By key, the path of each image's file from the folder of the source on; None if images have
    no files of their own."""


class ExportInputs(FrozenRecord):
    """The settings that all shifts of an export share."""

    kind: Literal["fairweather export"] = "fairweather export"
    version: Literal[1] = 1
    data: ExportedData
    format: str
    seed: int


class ExportProvenance(FrozenRecord):
    """When a shift was written, and with which command and versions."""

    time: str
    command: str
    versions: dict[str, str]


class ShiftFacts(FrozenRecord):
    """A shift's name and parameters, and as text its constants for this image size."""

    name: str
    parameters: dict[str, float | int | str]
    constants: str


class ExportedShift(ShiftFacts, WrittenFiles):
    """A shift that has been written."""

    path: str
    """Its file or folder."""

    made: ExportProvenance
    """When and with which versions."""


class ExportRecord(ExportInputs):
    """The content of the manifest: settings, and the shifts that have been written, by id."""

    shifts: dict[str, ExportedShift]


class Manifest:
    """The folder of an export and its manifest; every change is written immediately."""

    def __init__(self, folder: Path, record: ExportRecord) -> None:
        self._folder, self._record = folder, record
        self._shifts = dict(record.shifts)
        facts = current_provenance(torch.device("cpu"))
        self._made = ExportProvenance(
            time=facts.time, command=facts.command, versions=facts.versions
        )
        self._write()

    def is_done(self, shift: str, checksum: Callable[[Path], str]) -> bool:
        """Tell whether this shift was finished with the same versions and its files are intact."""
        written = self._shifts.get(shift)
        if written is None or written.made.versions != self._made.versions:
            return False
        return checksum(resolve_inside(self._folder, written.path, MANIFEST)) == written.sha256

    @contextmanager
    def replacing(self, shift: str, name: str) -> Iterator[Path]:
        """Yield a temporary path for a shift's files, which get their real name if all goes
        well."""
        path, partial = self._folder / name, self._folder / f".{secrets.token_hex(8)}.partial"
        try:
            with add_file_name(partial):
                yield partial
            if self._shifts.pop(shift, None):
                self._write()
            _remove_path(path)
            with add_file_name(path):
                partial.rename(path)
        except BaseException:
            _remove_path(partial)
            raise

    def finish(self, shift: str, name: str, facts: ShiftFacts, written: WrittenFiles) -> None:
        """Record a shift whose files have their final names."""
        described = facts.model_dump() | written.model_dump()
        self._shifts[shift] = ExportedShift(**described, path=name, made=self._made)
        self._write()

    def _write(self) -> None:
        record = self._record.model_copy(update={"shifts": self._shifts})
        described = record.model_dump(mode="json", exclude_none=True)
        text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
        write_atomically(self._folder / MANIFEST, text)


@contextmanager
def open_export(folder: Path, inputs: ExportInputs) -> Iterator[Manifest]:
    """Open the folder of an export, new or begun, and keep other processes out.

    Args:
        folder: the folder of the export, which may not exist yet.
        inputs: the settings that all its shifts share.

    Raises:
        InputError: the folder contains something else or an export with other settings, or it is in
            use.
    """
    _read_manifest(folder, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = filelock.FileLock(resolve_inside(folder, LOCK), timeout=0).acquire()
    except filelock.Timeout:
        raise InputError(f"another process is exporting to {folder}") from None
    with held:
        record = _read_manifest(folder, inputs)
        for leftover in folder.glob(".*.partial"):
            _remove_path(leftover)
        yield Manifest(folder, record)


def _read_manifest(folder: Path, inputs: ExportInputs) -> ExportRecord:
    if not folder.exists() or (folder.is_dir() and all(map(_is_beginning, folder.iterdir()))):
        return ExportRecord(**dict(inputs), shifts={})
    manifest = resolve_inside(folder, MANIFEST)
    try:
        stored = ExportRecord.model_validate(json.loads(manifest.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        raise InputError(
            f"{folder} contains files that are not an export; name a new folder with --out"
        ) from None
    for fact, before, now in (
        ("split", stored.data.part, inputs.data.part),
        ("format", stored.format, inputs.format),
        ("seed", stored.seed, inputs.seed),
        ("SHA-256 of the data", stored.data.digest, inputs.data.digest),
    ):
        if before != now:
            raise InputError(
                f"{folder} contains an export with another {fact}: {before}, not {now}; "
                "name a new folder with --out"
            )
    return stored


def _is_beginning(path: Path) -> bool:
    return path.name in BEGINNINGS or PARTIAL.fullmatch(path.name) is not None


def _remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
    and `keys` int64 `[N]`, and `classes`; read it as `npz:OUT/SHIFT.npz`. Images with several
    findings have labels `[N, L]`, and need `npz`. SHIFT is the id of the
    shift with `__` for `/`.

    The manifest describes the data and names the file of each image. For each shift it contains the
    parameters, the published constants, and the numbers of images and bytes. It also has the
    SHA-256 of the pixels, the command and the versions. A shift is written completely or not at
    all. The same call again continues an interrupted export. Later calls can add shifts if data,
    split, format and seed are the same. Only one batch is in memory.

    Args:
        dataset: a data set, for example from `load_data`.
        shifts: the shifts to write; `make_shift("clean")` writes the unchanged images.
        out: a new or empty folder, or a folder of an earlier export.
        part: the split: `train`, `val` or `test`.
        format: `png` or `npz`.
        seed: seed of the random shifts; `predict` with this seed uses the same pixels.
        progress: show how many images are written (`Event` says how).

    Raises:
        InputError: the folder contains something else or is in use. Or there are no shifts, the
            split or the format is unknown, two images have the same key, or a shift cannot be
            applied.

    >>> import tempfile
    >>> from fairweather.data.loading import load_data
    >>> from fairweather.shifts.table import make_shift
    >>> digits = load_data("mnist5k", size=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = export(digits, [make_shift("gamma", exponent=2)], folder, format="npz")
    ...     sorted(file.name for file in path.parent.iterdir())
    ['.lock', 'gamma,exponent=2.npz', 'manifest.json']
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    check_type(dataset, Dataset, "an export needs a Dataset, such as load_data(SOURCE)")
    check_type(shifts, list | tuple, "shifts must be a list of them, such as suite(NAME)")
    folder = Path(check_path(out, "out"))
    if others := [shift for shift in shifts if not isinstance(shift, Shift)]:
        raise InputError(f"only shifts can be exported, found {others[0]!r}")
    images = select_part(dataset, part)
    if format == "png" and images.labels.ndim > 1:
        raise InputError(
            f"png puts each image into the folder of its class, and the images of {dataset.name} "
            "have several findings: choose the format npz (--format npz)"
        )
    if published := [shift.files for shift in shifts if shift.files is not None]:
        raise InputError(
            f"{published[0].source} is published as files already: export only shifts that are "
            "made in memory"
        )
    distinct = list({shift.id: shift for shift in shifts}.values())
    _check_inputs(distinct, images, seed)
    inputs = ExportInputs(data=_describe_data(dataset, part, images), format=format, seed=seed)
    writer, tell = FORMATS[format], to_notify(progress)
    with open_export(folder, inputs) as manifest:
        pending = [shift for shift in distinct if not manifest.is_done(shift.id, writer.checksum)]
        total = len(pending) * len(images)
        for index, shift in enumerate(pending):

            def done(count: int, before: int = index * len(images)) -> None:
                tell(Event("export", before + count, total))

            name = escape(shift.id) + writer.suffix
            with manifest.replacing(shift.id, name) as path:
                written = _write_shift(path, writer, shift, images, seed, done)
            manifest.finish(shift.id, name, _describe_shift(shift, images), written)
    return folder / MANIFEST


def select_part(dataset: Dataset, part: str) -> Images:
    """A split of a data set by its name; raises `InputError` if there is none."""
    if part not in PARTS:
        raise unknown_name("split", part, PARTS)
    images: Images | None = getattr(dataset, part)
    if images is None:
        parts = [name for name in PARTS if getattr(dataset, name) is not None]
        raise InputError(f"{dataset.name} has no split {part}; it has {' and '.join(parts)}")
    return images


def _check_inputs(shifts: Sequence[Shift], images: Images, seed: int) -> None:
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
        size = (
            {"image_size": min(images.images.shape[2:])}
            if "image_size" in kind.parameter_names
            else {}
        )
        note = kind.note({**size, **shift.parameters})
    return ShiftFacts(name=shift.name, parameters=dict(shift.parameters), constants=note)


def _write_shift(
    path: Path,
    writer: ExportFormat,
    shift: Shift,
    images: Images,
    seed: int,
    done: Callable[[int], None],
) -> WrittenFiles:
    pixels = hashlib.sha256()

    def batches() -> Iterator[Batch]:
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            shifted = shift(part.images, part.keys, seed).permute(0, 2, 3, 1)
            array = shifted.contiguous().cpu().numpy()
            pixels.update(array.data)
            yield array, part.labels.tolist(), part.keys.tolist()
            done(start + len(part))

    writer.write(path, images, batches())
    files = [path] if path.is_file() else _images_in(path)
    return WrittenFiles(
        images=len(images),
        bytes=sum(file.stat().st_size for file in files),
        sha256=writer.checksum(path),
        pixels_sha256=pixels.hexdigest(),
    )
