"""Write guard.csv: what a guard and an estimate say of each network and of the domain held out.

    python results/pacs/guard.py FOLDER runs/*-s? runs/cartoon > results/pacs/guard.csv

FOLDER has the folder PACS, and each run its weights. The guard promises at most 5 % wrong answers.
What it keeps on known kinds is measured on the run's test images. Labels of the domain held out
count its wrong answers, and change no number of the guard or the estimate.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import fairweather as fw
from fairweather.deploy.promise import format_percent
from fairweather.types.record import CLEAN, NATURAL

RISK = 0.05
COLUMNS = ("known_answered", "known_wrong", "held_out_answered", "held_out_wrong")


def per_cent(share: float | None) -> str:
    """Write a share as a number in per cent."""
    return "" if share is None else format_percent(share).removesuffix(" %")


def describe_guard(run: fw.Run, domain: str, root: Path) -> list[str]:
    """Give the four numbers of a guard; it says so if the validation images support none."""
    try:
        guard = fw.load_guard(run.path, risk=RISK, data_root=root)
    except fw.InputError as error:
        print(f"{run.path}: {error}", file=sys.stderr)
        return ["no guard", "", "", ""]
    checks = {check.images: check for check in guard.record.kept}
    kept = [checks[images] for images in (CLEAN, f"{NATURAL}{domain}")]
    return [per_cent(share) for check in kept for share in (check.answered, check.risk.value)]


def describe_estimate(run: fw.Run, source: str, root: Path) -> list[str]:
    """Give the p-value of a difference from the validation images, and the estimated accuracy."""
    estimate = fw.estimate(run.path, source, root=root)
    p = "< 0.001" if estimate.unlike_p < 0.001 else f"{estimate.unlike_p:.2g}"
    if estimate.value is None or estimate.low is None:
        return [p, "none"]
    return [p, f"{100 * estimate.value:.0f}, or as low as {100 * estimate.low:.0f}"]


def main(root: Path, runs: list[Path]) -> None:
    """Write a line for each run as soon as it is known; what is not sketches is named."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("unit", *COLUMNS, "p", "estimate"))
    for run in map(fw.Run, runs):
        (model,), (seed,) = run.record.models, run.record.seeds
        ((domain, source),) = run.record.natural.items()
        unit = f"{model}-s{seed}" + ("" if domain == "sketch" else f", {domain}s")
        said = describe_estimate(run, source, root)
        writer.writerow((unit, *describe_guard(run, domain, root), *said))
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
