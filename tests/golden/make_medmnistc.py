"""Read MedMNIST-C's parameters and make its goldens with medmnistc 0.1.0: see README.md.

python make_medmnistc.py
"""

import json
import random
import re
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SIZE = 224
ELSEWHERE = {  # corruptions that PathMNIST has not: the data set whose parameters are taken
    "gaussian_blur": "tissuemnist",
    "gamma_corr_up": "chestmnist",
    "gamma_corr_down": "chestmnist",
    "black_corner": "dermamnist",
    "zoom_blur": "dermamnist",
    "characters": "dermamnist",
}


def plain(values):
    if isinstance(values, (list, tuple, np.ndarray)):
        return [plain(value) for value in values]
    return round(float(values), 10) if isinstance(values, float) else values


def compact(value):
    text = json.dumps(value, indent=1)
    inner = re.compile(r"\[\s+([^\[\]{}]*?)\s+\]")
    return inner.sub(lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text) + "\n"


def parameters():
    from medmnistc.corruptions.registry import CORRUPTIONS_DS, DATASET_RGB

    table = {
        data: {
            "rgb": DATASET_RGB[data],
            "corruptions": {
                name: {"kind": type(made).__name__, "severities": plain(made.severity_params)}
                for name, made in sorted(corruptions.items())
            },
        }
        for data, corruptions in sorted(CORRUPTIONS_DS.items())
    }
    source = "medmnistc 0.1.0, medmnistc/corruptions/registry.py, read from CORRUPTIONS_DS"
    (HERE / "medmnistc_parameters.json").write_text(compact({"source": source, "sets": table}))


def exact():
    """Outputs on `scene`; numpy's and Python's generators are seeded with the severity 1-5."""
    from images import scene
    from measure import block_means, windows
    from medmnistc.corruptions.registry import CORRUPTIONS_DS
    from PIL import Image

    image = Image.fromarray(scene(SIZE, SIZE))
    chosen = dict.fromkeys(CORRUPTIONS_DS["pathmnist"], "pathmnist") | ELSEWHERE
    kept = {}
    for name, data in chosen.items():
        outputs = []
        for severity in range(1, 6):
            np.random.seed(severity)  # noqa: NPY002
            random.seed(severity)
            made = CORRUPTIONS_DS[data][name].apply(image.copy(), severity - 1)
            outputs.append(np.array(made))
        kept[f"{name}.windows"] = np.stack([windows(output) for output in outputs])
        kept[f"{name}.blocks"] = np.stack([block_means(output) for output in outputs])
    np.savez_compressed(HERE / "medmnistc_exact.npz", **kept)


if __name__ == "__main__":
    parameters()
    exact()
