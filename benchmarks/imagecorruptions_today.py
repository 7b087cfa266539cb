"""The package imagecorruptions 1.1.2 in an environment of today, for comparison."""

import importlib.util
import sys
import types
import warnings
from pathlib import Path

import numpy as np


def load_imagecorruptions():
    """Give its function `corrupt`, with what it misses in current libraries put back."""
    names = ("imagecorruptions", "skimage")
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(
            f"the comparison needs {' and '.join(missing)}: python -m pip install scikit-image && "
            "python -m pip install --no-deps imagecorruptions==1.1.2"
        )
    resources = types.ModuleType("pkg_resources")  # setuptools 82 dropped it
    resources.resource_filename = lambda module, name: str(
        Path(sys.modules[module].__file__).parent / name
    )
    sys.modules["pkg_resources"] = resources
    np.float_ = np.float64  # noqa: NPY201  numpy 2 dropped it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports from a folder that SciPy deprecated
        from imagecorruptions import corrupt, corruptions
    original = corruptions.gaussian

    def gaussian(image, sigma=1, multichannel=False, **options):  # scikit-image 0.19 renamed it
        return original(image, sigma, channel_axis=-1 if multichannel else None, **options)

    corruptions.gaussian = gaussian
    return corrupt
