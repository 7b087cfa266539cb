"""A network under a real shift: as trained, and adapted by each method in three protocols.

    python results/adapted.py run:runs/flips-s0/models/flips/seed-0 csv:PACS/sketch.csv \\
        --size 96 --limit 300 --out results/pacs/adapted/flips-s0.csv
    python results/adapted.py --table results/pacs/adapted/flips-s0.csv
    python results/adapted.py --table results/pacs/adapted/*.csv

The first command measures one network on one set, and stores the metrics below for each method and
protocol. What was stored before and is not named now is kept, if the network and the images are the
same. The second prints tables of one network in Markdown; the third, means over several networks.
An adapted number is a mean over streams of the same images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.special

import fairweather as fw

PLAIN = "as trained"
METHODS = {
    "batchnorm": "batch norm of the batch",
    "tent": "TENT",
    "eata": "EATA",
    "sar": "SAR",
    "cotta": "CoTTA",
    "lame": "LAME",
    "t3a": "T3A",
    "views": "image and mirror image",
    "eata-adam": "EATA, Adam",
    "sar-adam": "SAR, Adam",
}
# As mariodoebler/test-time-adaptation runs CIFAR-10-C (8b2ed63); the defaults are for ImageNet.
SETTINGS: dict[str, tuple[str, dict[str, object]]] = {
    "eata-adam": (
        "eata",
        {"optimiser": "adam", "learning_rate": 0.001, "redundancy": 0.4, "fisher_weight": 1},
    ),
    "sar-adam": ("sar", {"optimiser": "adam", "learning_rate": 0.001}),
}
# How a stream is made, beside the defaults of each method.
PROTOCOLS = {
    "shuffled, 64 a batch": {"order": "shuffled", "batch_size": 64},
    "by class, 64 a batch": {"order": "by_class", "batch_size": 64},
    "shuffled, 4 a batch": {"order": "shuffled", "batch_size": 4},
}
CHANGE = "accuracy_change/adapted"
METRICS = {
    "accuracy": "Accuracy (%)",
    CHANGE: "Change of accuracy (points)",
    "rms_calibration_error": "RMS calibration error",
    "area_under_risk_coverage": "Area under the risk-coverage curve",
    "coverage_above_validation_threshold/0.05": "Above the validation threshold",
    "risk_above_validation_threshold/0.05": "Wrong among these",
}


def measure(args: argparse.Namespace) -> pd.DataFrame:
    """Give a row for each method, protocol and metric; variants keep their order in the record."""
    asked = [(PLAIN, "")] + [(method, name) for method in args.methods for name in args.protocols]
    streams = {"views": 1}  # the order of images has no effect on it
    variants = []
    for method, name in asked[1:]:
        kind, own = SETTINGS.get(method, (method, {}))
        orders = streams.get(method, args.streams)
        variants.append({kind: {**own, **PROTOCOLS[name], "orders": orders}})
    dataset = fw.load_data(args.data, size=args.size, limit=args.limit, parts=("val", "test"))
    assert dataset.val is not None, "EATA learns from validation images, and thresholds are theirs"
    step = len(dataset.val) // args.validation
    with tempfile.TemporaryDirectory() as folder:
        run = fw.evaluate(
            args.network,
            replace(dataset, val=dataset.val[::step]),
            "clean",
            variants=tuple(variants),
            out=args.run or Path(folder) / "run",
        )
        scores = run.scores[run.scores["metric"].isin(METRICS) & (run.scores["shift"] == "clean")]
        models = [*run.record.models, *run.record.variants]
    named = dict(zip(models, asked, strict=True))
    rows = scores.assign(
        method=[named[model][0] for model in scores["model"]],
        protocol=[named[model][1] for model in scores["model"]],
    )
    return rows[["method", "protocol", "metric", "value", "low", "high", "n"]]


def read(path: Path) -> pd.DataFrame:
    """Read stored rows; the plain network has no protocol, and few errors have no interval."""
    return pd.read_csv(path, na_values={"low": "", "high": ""}, keep_default_na=False)


def add_stored(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add what an earlier file has and `rows` has not, of the same network and images."""
    if not path.exists():
        return rows
    stored = read(path)
    plain, own = (
        table[table["method"] == PLAIN].reset_index(drop=True) for table in (stored, rows)
    )
    pd.testing.assert_frame_equal(plain, own, rtol=1e-6, obj=f"the network of {path} as trained")
    own_keys = set(zip(rows["method"], rows["protocol"], strict=True))
    kept = [key not in own_keys for key in zip(stored["method"], stored["protocol"], strict=True)]
    return pd.concat([rows, stored[kept]])


def write(cell: pd.Series) -> str:
    """Write a number with its 95 % interval; accuracies in per cent."""
    share = cell["metric"] in ("accuracy", CHANGE)
    sign = "+" if cell["metric"] == CHANGE else ""
    numbers = [(100 if share else 1) * cell[end] for end in ("value", "low", "high")]
    value, low, high = (f"{number:{sign}.{1 if share else 3}f}" for number in numbers)
    return f"{value} [{low}, {high}]"


def over_networks(networks: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Give the mean over networks of each cell that all of them have, for the same images.

    Its 95 % interval covers other networks, streams and images: Student's t of the networks and the
    mean reach of their own intervals, added as squares (Zou and Donner 2008, Construction of
    Confidence Limits about Effect Measures). All networks see the same images, so their errors do
    not average out. Streams are in both parts, so the interval is rather too wide.
    """
    cells = pd.concat(networks).groupby(["method", "protocol", "metric"], sort=False)
    complete = cells.size() == len(networks)
    means = cells[["value", "low", "high", "n"]].mean()[complete]
    student = float(scipy.special.stdtrit(len(networks) - 1, 0.975))
    spread = student * cells["value"].std()[complete] / len(networks) ** 0.5
    for end, sign in (("low", -1), ("high", 1)):
        means[end] = means["value"] + sign * np.hypot(spread, means[end] - means["value"])
    means = means.reset_index()
    means["low"] = np.maximum(means["low"], np.where(means["metric"] == CHANGE, -1, 0))
    means["high"] = np.minimum(means["high"], 1)
    return means


def tables(rows: pd.DataFrame, metrics: Sequence[str] = tuple(METRICS)) -> list[str]:
    """Write a table in Markdown for each metric: methods by protocols."""
    texts = {
        (cell["metric"], cell["method"], cell["protocol"]): write(cell)
        for _, cell in rows.iterrows()
    }
    written = []
    for metric in metrics:
        if metric not in set(rows["metric"]):
            continue
        lines = [[METRICS[metric], *PROTOCOLS], ["---", *["---:"] * len(PROTOCOLS)]]
        if plain := texts.get((metric, PLAIN, "")):
            lines.append([PLAIN, *[plain] * len(PROTOCOLS)])
        for method, title in METHODS.items():
            cells = [texts.get((metric, method, name), "") for name in PROTOCOLS]
            lines += [[title, *cells]] if any(cells) else []
        written.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return written


def main() -> None:
    """Measure a network, or print stored numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--size", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--validation", type=int, default=320, help="about how many images")
    parser.add_argument("--streams", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=tuple(PROTOCOLS))
    parser.add_argument("--run", type=Path, help="keep the run in this folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path, nargs="+")
    args = parser.parse_args()
    stored = [read(path) for path in args.table or ()]
    rows = over_networks(stored) if len(stored) > 1 else stored[0] if stored else measure(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows = add_stored(rows, args.out)
        rows.to_csv(args.out, index=False, float_format="%.8g")
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
