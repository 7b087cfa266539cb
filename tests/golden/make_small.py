"""Make the goldens of 32 px: imagenet-c's own functions with the constants of CIFAR-10-C.

    python make_small.py

make_cifar_c.py has the same functions as the package but for its constants, its size, and frost's
scaling (README.md), so those are replaced in the installed package's source, in memory.
"""

import inspect
import json
import re
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def rows(table):
    """A corruption's severities as the source text of its list of constants."""
    if table["parameters"] == ["zoom_factors"]:
        return "[" + ", ".join(f"np.array({row[0]})" for row in table["severities"]) + "]"
    single = len(table["parameters"]) == 1
    return repr([row[0] if single else tuple(row) for row in table["severities"]])


def resized(published):
    """{name: function} of the package for a set of constants.json."""
    import imagenet_c.corruptions as package

    space, size = dict(vars(package)), str(published["size"])
    plasma = inspect.getsource(package.plasma_fractal)
    exec(plasma.replace("mapsize=256", f"mapsize={published['plasma_mapsize']}"), space)
    for name, table in published["corruptions"].items():
        source = inspect.getsource(getattr(package, name))
        constants = re.compile(r"c = \[.*?\]\[severity - 1\]", re.DOTALL)
        source = constants.sub(f"c = {rows(table)}[severity - 1]", source, count=1)
        scale = published["frost_scale"]
        read = "frost = cv2.imread(filename)"
        smaller = f"{read}; frost = cv2.resize(frost, (0, 0), fx={scale}, fy={scale})"
        source = source.replace(read, smaller).replace("224", size)
        exec(source, space)
    return {name: space[name] for name in published["corruptions"]}


def outputs(published):
    """{name: 8 bits [5, size, size, 3]}: `scene`, numpy seeded with the severity before each."""
    from images import scene
    from PIL import Image

    image = Image.fromarray(scene(published["size"], published["size"]))
    kept = {}
    for name, function in resized(published).items():
        made = []
        for severity in range(1, 6):
            np.random.seed(severity)  # noqa: NPY002
            made.append(np.uint8(function(image, severity)))
        kept[name] = np.stack(made)
    return kept


if __name__ == "__main__":
    sets = json.loads((HERE / "constants.json").read_text())["sets"]
    np.savez_compressed(HERE / "cifar10_c_exact.npz", **outputs(sets["cifar10_c"]))
