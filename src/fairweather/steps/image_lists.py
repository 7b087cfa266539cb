"""The lists in a run folder that name the file of each image, beside the predictions."""

from __future__ import annotations

from collections.abc import Mapping

from fairweather.record import NATURAL, TEST, VAL, image_list
from fairweather.runs import RunFolder
from fairweather.spreadsheet import rows_to_csv
from fairweather.steps.measuring import OOD_DATA
from fairweather.steps.plan import DATA, NATURAL_DATA
from fairweather.types import Dataset, Images


def write_image_lists(folder: RunFolder, datasets: Mapping[str, Dataset]) -> None:
    """Write `images/PART.csv` for everything that is predicted and has files of its own.

    No step reads these lists, so they change no fingerprint. A list that is right stays as it is.

    Args:
        folder: the run folder.
        datasets: the data sets of the run, by their names in its plan.
    """
    for name, dataset in datasets.items():
        parts: dict[str, Images | None] = {}
        if name == DATA:
            parts = {VAL: dataset.val, TEST: dataset.test}
        elif name.startswith(OOD_DATA):
            parts = {name.removeprefix(OOD_DATA): dataset.test}
        elif name.startswith(NATURAL_DATA):
            parts = {f"{NATURAL}{name.removeprefix(NATURAL_DATA)}": dataset.test}
        for part, images in parts.items():
            if images is not None and images.names is not None:
                _write(folder, image_list(part), images)


def _write(folder: RunFolder, name: str, images: Images) -> None:
    assert images.names is not None
    rows = zip(images.keys.tolist(), images.names, strict=True)
    content = rows_to_csv([("keys", "file"), *rows]).encode()
    path = folder.file(name)
    if not path.is_file() or path.read_bytes() != content:
        folder.write(name, content)
