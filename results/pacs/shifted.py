"""Write a table of files: the validation images of a run, and another domain as test images.

    python results/pacs/shifted.py runs/flips-s0 FOLDER sketch > FOLDER/sketch.csv

So thresholds, temperatures and methods that need images of the source see no image that a network
was trained on. FOLDER has the folders of the domains; `csv:FOLDER/sketch.csv` reads the table.
"""

import csv
import sys
from pathlib import Path

run, folder = map(Path, sys.argv[1:3])
domain = sys.argv[3]
writer = csv.writer(sys.stdout, lineterminator="\n")
writer.writerow(("file", "label", "split"))
with (run / "images" / "val.csv").open(encoding="utf-8", newline="") as table:
    writer.writerows(
        (row["file"], Path(row["file"]).parent.name, "val") for row in csv.DictReader(table)
    )
for file in sorted((folder / domain).glob("*/*")):
    writer.writerow((file.relative_to(folder).as_posix(), file.parent.name, "test"))
