"""Take the stored predictions out of a run folder, and write them beside this file.

    fairweather run tests/predictions/tissue.yaml --out RUN    # beside pathmnist.npz, 8 minutes
    python -m tests.predictions.make_predictions RUN           # from the root

Only for predictions that shall change: another machine's kernels round otherwise, and after a few
hundred steps that is another network.
"""

import sys
from pathlib import Path

import numpy as np

from fairweather.runs.folder import RunFolder

# Of the nine kinds of tissue these six, so that the network is right on 99 and 89 % of them.
CLASSES = {
    0: "adipose",
    1: "background",
    3: "lymphocytes",
    4: "mucus",
    5: "smooth muscle",
    8: "colorectal adenocarcinoma epithelium",
}
PARTS = {"tissue_99": "val", "tissue_89": "test"}


def write(run: RunFolder) -> None:
    """Write the images of these classes, with the logits of these classes."""
    kept = np.array(list(CLASSES))
    for name, part in PARTS.items():
        predictions = run.read_predictions(run.predictions("tissue", 0, "clean", part))
        rows = np.isin(predictions.labels, kept)
        logits = predictions.logits[rows][:, kept].astype(np.float16)
        labels = np.searchsorted(kept, predictions.labels[rows]).astype(np.uint8)
        target = Path(__file__).parent / f"{name}.npz"
        np.savez_compressed(target, logits=logits, labels=labels, classes=list(CLASSES.values()))
        print(f"{name}: {100 * (logits.argmax(axis=1) == labels).mean():.2f} % of {len(labels):,}")


if __name__ == "__main__":
    write(RunFolder(Path(sys.argv[1])))
