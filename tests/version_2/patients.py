"""The images of `run/` and `guard/`: three of each of 60 patients; bright ones are malignant."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image


def write_patients(folder: Path) -> None:
    """Write the images into `clinic/` of a folder, and what is known of them into `patients.csv`.

    Whole numbers make the same pixels on every machine, and the images are PNG files.
    """
    rows = []
    for patient in range(60):
        for number in range(3):
            malignant = (patient // 3 + number) % 2
            brightness = 110 + 40 * malignant + patient * 37 % 41 - 20 + number * 5
            noise = np.arange(64).reshape(8, 8) * (patient * 3 + number + 7) % 31
            part = Path("train" if patient < 40 else "test", ("benign", "malignant")[malignant])
            file = part / f"{patient:02d}-{number}.png"
            (folder / "clinic" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray((brightness + noise).astype(np.uint8)).save(folder / "clinic" / file)
            rows.append((file, f"P{patient:02d}", "AB"[patient % 2]))
    pd.DataFrame(rows, columns=["file", "patient", "site"]).to_csv(
        folder / "patients.csv", index=False
    )
