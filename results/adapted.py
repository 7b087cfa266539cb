"""A network under a real shift: as trained, and adapted by each method in several protocols.

    python results/adapted.py run:runs/flips-s0/models/flips/seed-0 csv:PACS/sketch.csv \\
        --size 96 --limit 300 --out results/pacs/adapted/flips-s0.csv
    python results/adapted.py --table results/pacs/adapted/flips-s0.csv
    python results/adapted.py --table results/pacs/adapted/*.csv

The first command measures one network on one set, and stores the metrics below for each method and
protocol; with `--shift`, also for each of its levels. What was stored before and is not named now
is kept, if the network and the images are the same. The second prints tables of one network in
Markdown; the third, means over several networks. An adapted number is a mean over streams of the
same images.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

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
ON_BATCH_NORM = ("tent", "eata", "sar", "cotta", *SETTINGS)
# How a stream is made, beside the defaults of each method.
PROTOCOLS = {
    "shuffled, 64 a batch": {"order": "shuffled", "batch_size": 64},
    "by class, 64 a batch": {"order": "by_class", "batch_size": 64},
    "shuffled, 4 a batch": {"order": "shuffled", "batch_size": 4},
    "Dirichlet, 64 a batch": {"order": "dirichlet", "batch_size": 64},
    "continual, 64 a batch": {"cells": "continual", "batch_size": 64},
}
USUAL = tuple(PROTOCOLS)[:3]


class Form(NamedTuple):
    """How a metric is called and written."""

    title: str
    scale: float = 1
    digits: int = 3
    sign: str = ""


CHANGE = "accuracy_change/adapted"
RMS_CHANGE = "rms_calibration_error_change/adapted"
COVERED = "conformal_coverage"
COLLAPSED = "collapsed"
METRICS = {
    "accuracy": Form("Accuracy (%)", 100, 1),
    CHANGE: Form("Change of accuracy (points)", 100, 1, "+"),
    "rms_calibration_error": Form("RMS calibration error"),
    RMS_CHANGE: Form("Change of RMS calibration error", sign="+"),
    "area_under_risk_coverage": Form("Area under the risk-coverage curve"),
    "coverage_above_validation_threshold/0.05": Form("Above the validation threshold"),
    "risk_above_validation_threshold/0.05": Form("Wrong above the validation threshold"),
    COVERED: Form("Coverage of 90 % prediction sets (%)", 100, 1),
    "conformal_set_size": Form("Classes in a prediction set", digits=2),
    COLLAPSED: Form("Streams that collapse"),
    "forward": Form("Passes forward for an image", digits=1),
    "backward": Form("Passes backward for an image", digits=1),
}
UNBOUNDED = ("conformal_set_size", "forward", "backward")
KEY = ["method", "protocol", "shift", "level"]
CLEAN = {"shift": "clean", "level": "none"}


def measure(args: argparse.Namespace) -> pd.DataFrame:
    """Measure the network as it is, adapted in each way, and prediction sets of all of these."""
    asked = [(PLAIN, "")] + [(method, name) for method in args.methods for name in args.protocols]
    streams = {"views": 1}  # the order of images has no effect on it
    adapting = []
    for method, name in asked[1:]:
        kind, own = SETTINGS.get(method, (method, {}))
        orders = streams.get(method, args.streams)
        adapting.append({kind: {**own, **PROTOCOLS[name], "orders": orders}})
    sets = ["conformal", *({"conformal": {"of": variant}} for variant in adapting)]
    dataset = fw.load_data(
        args.data, size=args.size, root=args.data_root, limit=args.limit, parts=("val", "test")
    )
    assert dataset.val is not None, "EATA learns from validation images, and thresholds are theirs"
    step = len(dataset.val) // args.validation
    with tempfile.TemporaryDirectory() as folder:
        run = fw.evaluate(
            args.network,
            replace(dataset, val=dataset.val[::step]),
            args.shift or "clean",
            variants=(*adapting, *sets),
            out=args.run or Path(folder) / "run",
        )
        return gather(run, asked)


def gather(run: fw.Run, asked: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Give a row for each method, protocol, cell and metric.

    Variants keep their order in the record: those that adapt, then the sets of each network.
    """
    models = [*run.record.models, *run.record.variants]
    named = dict(zip(models, [*asked, *asked], strict=True))
    scores = run.scores[run.scores["metric"].isin(METRICS)]
    scores = scores[(scores["shift"] != "validation") & ~scores["level"].isin(["mean", "worst"])]
    is_of_sets = scores["model"].isin(models[len(asked) :])
    scores = scores[is_of_sets == scores["metric"].str.startswith("conformal")]
    parts = [scores]
    if (path := run.path / "tables/adaptation_streams.csv").exists():
        streams = pd.read_csv(path, dtype={"level": str}).dropna(subset="collapsed")
        counts = streams.rename(columns={"share low": "low", "share high": "high", "streams": "n"})
        parts.append(counts.assign(metric=COLLAPSED, value=counts["collapsed"] / counts["n"]))
    if (path := run.path / "tables/adaptation_costs.csv").exists():
        passes = pd.read_csv(path).melt(["model"], ["forward", "backward"], "metric")
        parts.append(passes.assign(**CLEAN))
    rows = pd.concat(parts).reset_index(drop=True)
    rows["method"], rows["protocol"] = zip(*(named[model] for model in rows["model"]), strict=True)
    return rows[[*KEY, "metric", "value", "low", "high", "n"]]


def read(path: Path) -> pd.DataFrame:
    """Read stored rows; the plain network has no protocol, and not all numbers an interval."""
    numbers = dict.fromkeys(("value", "low", "high", "n"), "")
    rows = pd.read_csv(path, na_values=numbers, keep_default_na=False)
    return rows if "shift" in rows else rows.assign(**CLEAN)


def read_folder(folder: Path) -> dict[str, pd.DataFrame]:
    """Read the numbers of each network that was adapted, by its unit."""
    return {path.stem: read(path) for path in sorted(folder.glob("*.csv"))}


def add_stored(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add what an earlier file has and `rows` has not, of the same network and images."""
    if not path.exists():
        return rows
    stored, names = read(path), [*KEY, "metric"]
    both = rows.merge(stored, on=names, suffixes=("", " stored")).query("method == @PLAIN")
    for name in ("value", "n"):
        np.testing.assert_allclose(
            both[name], both[f"{name} stored"], 1e-6, err_msg=f"the network of {path} as trained"
        )
    return pd.concat([rows, stored]).drop_duplicates(names)


def write(cell: pd.Series) -> str:
    """Write a number, with its 95 % interval if it has one; no answers have no errors."""
    if np.isnan(cell["value"]):
        return "too few"
    if cell["metric"] == COLLAPSED:
        return f"{cell['value'] * cell['n']:.0f} of {cell['n']:.0f}"
    form = METRICS[cell["metric"]]
    numbers = [form.scale * cell[end] for end in ("value", "low", "high")]
    value, low, high = (f"{number:{form.sign}.{form.digits}f}" for number in numbers)
    told = value if np.isnan(cell["low"]) else f"{value} [{low}, {high}]"
    return told.replace("-", "−")


def over_networks(networks: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Give the mean over networks of each cell that all of them have, for the same images.

    Its 95 % interval covers other networks, streams and images: Student's t of the networks and the
    mean reach of their own intervals, added as squares (Zou and Donner 2008, Construction of
    Confidence Limits about Effect Measures). All networks see the same images, so their errors do
    not average out. Streams are in both parts, so the interval is rather too wide.
    """
    cells = pd.concat(networks).groupby([*KEY, "metric"], sort=False)
    complete = cells.size() == len(networks)
    means = cells[["value", "low", "high", "n"]].mean()[complete]
    student = float(scipy.special.stdtrit(len(networks) - 1, 0.975))
    spread = student * cells["value"].std()[complete] / len(networks) ** 0.5
    for end, sign in (("low", -1), ("high", 1)):
        means[end] = means["value"] + sign * np.hypot(spread, means[end] - means["value"])
    means = means.reset_index()
    is_change = means["metric"].str.endswith("_change/adapted")
    means["low"] = np.maximum(means["low"], np.where(is_change, -1, 0))
    means["high"] = np.minimum(means["high"], np.where(means["metric"].isin(UNBOUNDED), np.inf, 1))
    return means


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, with numbers on the right."""
    head, *rows = lines
    marked = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in marked)


def tables(rows: pd.DataFrame, metrics: Sequence[str] = tuple(METRICS)) -> list[str]:
    """Write a table in Markdown for each metric of the set itself: methods by protocols."""
    rows = rows[(rows["shift"] == CLEAN["shift"]) & rows["metric"].isin(metrics)]
    texts = {
        (cell["metric"], cell["method"], cell["protocol"]): write(cell)
        for _, cell in rows.iterrows()
    }
    protocols = [name for name in PROTOCOLS if name in set(rows["protocol"])]
    written = []
    for metric in metrics:
        if metric not in set(rows["metric"]):
            continue
        lines = [[METRICS[metric].title, *protocols]]
        if plain := texts.get((metric, PLAIN, "")):
            lines.append([PLAIN, *[plain] * len(protocols)])
        for method, title in METHODS.items():
            cells = [texts.get((metric, method, name), "") for name in protocols]
            lines += [[title, *cells]] if any(cells) else []
        written.append(markdown(lines))
    return written


def leave_out_repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """Leave out methods built on batch norm that lie within 0.01 of it in each network."""
    place = ["unit", "protocol", "shift", "level", "metric"]
    of_batch_norm = rows[rows["method"] == "batchnorm"].set_index(place)["value"]
    beside = of_batch_norm.reindex(pd.MultiIndex.from_frame(rows[place])).to_numpy()
    apart = (rows["value"] - beside).abs()
    most = apart.groupby([rows["method"], rows["protocol"], rows["metric"]]).transform("max")
    return rows[~(rows["method"].isin(ON_BATCH_NORM) & (most < 0.01))]


def grid(corner: str, rows: pd.DataFrame, across: str) -> str:
    """Write a line for each method and protocol, and a column for each value of `across`."""
    texts = {
        (cell["method"], cell["protocol"], cell[across]): write(cell) for _, cell in rows.iterrows()
    }
    columns = list(dict.fromkeys(rows[across]))
    lines = [[corner, *columns]]
    for method, protocol in itertools.product((PLAIN, *METHODS), ("", *PROTOCOLS)):
        told = [texts.get((method, protocol, name), "") for name in columns]
        if any(told):
            label = METHODS.get(method, method)
            lines.append([f"{label}, {protocol}" if protocol else label, *told])
    return markdown(lines)


def by_network(networks: Mapping[str, pd.DataFrame], metric: str) -> str:
    """Write a metric of the set itself, without intervals: a column for each network.

    The order of images has no effect on `views`, so its protocols are one.
    """
    rows = pd.concat([rows.assign(unit=unit) for unit, rows in networks.items()])
    rows = rows[(rows["shift"] == CLEAN["shift"]) & (rows["metric"] == metric)]
    rows = rows.assign(
        low=float("nan"), protocol=rows["protocol"].mask(rows["method"] == "views", "")
    )
    return grid(METRICS[metric].title, leave_out_repeats(rows), "unit")


def main() -> None:
    """Measure a network, or print stored numbers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", nargs="?")
    parser.add_argument("data", nargs="?")
    parser.add_argument("--data-root", help="folder with the files of the data set")
    parser.add_argument("--size", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--validation", type=int, default=320, help="about how many images")
    parser.add_argument("--streams", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=USUAL)
    parser.add_argument("--shift", action="append", help="and its levels; repeatable")
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
