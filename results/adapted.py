"""A network under a real shift: as trained, and adapted by each method in three protocols.

    python results/adapted.py run:runs/flips-s0/models/flips/seed-0 csv:PACS/sketch.csv \\
        --size 96 --limit 300 --out results/pacs/adapted/flips-s0.csv
    python results/adapted.py --table results/pacs/adapted/flips-s0.csv

The first command measures one network on one set, and stores the metrics below for each method and
protocol. The second prints them as tables in Markdown. An adapted number is a mean over streams of
the same images.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import pandas as pd

import fairweather as fw

METHODS = ("batchnorm", "tent", "eata", "sar", "lame", "t3a", "views", "cotta")
# How a stream is made, beside the defaults of each method.
PROTOCOLS = {
    "shuffled, 64 a batch": {"order": "shuffled", "batch_size": 64},
    "by class, 64 a batch": {"order": "by_class", "batch_size": 64},
    "shuffled, 4 a batch": {"order": "shuffled", "batch_size": 4},
}
METRICS = (
    "accuracy",
    "rms_calibration_error",
    "area_under_risk_coverage",
    "coverage_above_validation_threshold/0.05",
    "risk_above_validation_threshold/0.05",
)
PLAIN = "as trained"


def measure(args: argparse.Namespace) -> pd.DataFrame:
    """Give a row for each method, protocol and metric; variants keep their order in the record."""
    asked = [(PLAIN, "")] + [(method, name) for method in args.methods for name in PROTOCOLS]
    variants = [{method: {**PROTOCOLS[name], "orders": args.streams}} for method, name in asked[1:]]
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


def write(cell: pd.Series) -> str:
    """Write a number with its 95 % interval; accuracies in per cent."""
    scale, digits = (100, 1) if cell["metric"] == "accuracy" else (1, 3)
    value, low, high = (f"{scale * cell[end]:.{digits}f}" for end in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def tables(rows: pd.DataFrame) -> str:
    """Write a table for each metric: methods by protocols."""
    texts = {
        (cell["metric"], cell["method"], cell["protocol"]): write(cell)
        for _, cell in rows.iterrows()
    }
    methods = [method for method in METHODS if method in set(rows["method"])]
    lines = []
    for metric in METRICS:
        plain = [texts[metric, PLAIN, ""]] * len(PROTOCOLS)
        lines += ["", f"| {metric} | " + " | ".join(PROTOCOLS) + " |", "| --- |" + " ---: |" * 3]
        lines += [f"| {PLAIN} | " + " | ".join(plain) + " |"]
        lines += [
            f"| {method} | " + " | ".join(texts[metric, method, name] for name in PROTOCOLS) + " |"
            for method in methods
        ]
    return "\n".join(lines[1:])


def main() -> None:
    """Measure a network, or print stored numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--size", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--validation", type=int, default=320, help="about how many images")
    parser.add_argument("--streams", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--run", type=Path, help="keep the run in this folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    rows = pd.read_csv(args.table, keep_default_na=False) if args.table else measure(args)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(args.out, index=False, float_format="%.8g")
    print(tables(rows))


if __name__ == "__main__":
    main()
