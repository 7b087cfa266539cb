"""Can accuracy on natural shifts of ImageNet be forecast? From published tables of many models.

    python results/atlas/measure.py FOLDER

FOLDER has a copy of each public repository, or of the files that src/fairweather/judge/atlas.yaml
names, as FOLDER/timm, FOLDER/testbed, FOLDER/robustbench and FOLDER/openclip. It writes the tables
and the figure beside this file. No published number is copied into them.

A forecast is a line on the logit scale, fitted to the models of the testbed. Its half-width is the
95th percentile of the errors of left-out families, each family with the same weight. For a family
of the testbed, line and half-width come from the other families alone, so the half-width is nested.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd
import vl_convert as vlc
from scipy import stats
from scipy.special import expit, logit

from fairweather.data.natural_sets import NATURAL_SETS
from fairweather.judge.atlas import FILES, UNSHIFTED, Atlas, AtlasCell, open_atlas
from fairweather.judge.standing import name_family
from fairweather.metrics.robustness import ALEXNET, mean_corruption_error

HERE = Path(__file__).parent
Array = npt.NDArray[np.float64]
TARGETS = (
    "imagenetv2-matched-frequency",
    "imagenet-sketch",
    "imagenet-r",
    "objectnet",
    "imagenet-a",
)
CORRUPTIONS = "imagenet-c"
MEASURED = (
    ("clean",),
    ("clean", CORRUPTIONS),
    ("clean", "imagenetv2-matched-frequency"),
    ("clean", "imagenet-sketch"),
)
LOWEST = 0.4  # of the clean accuracies that a line is fitted to
EDGE = 0.0005  # accuracies of 0 have no logit
LEVEL = 0.95
# Families of the testbed by how its models were made; the others by their architecture.
FAMILIES = {
    "CLIP, zero-shot": "clip",
    "Instagram pre-training": "instagram|32x48d",
    "semi-supervised": "_swsl|_ssl",
    "Noisy Student": "noisystudent",
    "BiT": "^BiT",
    "ViT": "^vit_",
    "larger label sets": "jft|tencent|imagenet11k|imagenet21k",
    "AdvProp": "advprop",
    "anti-aliased": "_lpf",
    "trained on a corruption": "_with_",
    "randomized smoothing": "smoothing",
    "adversarial training": "linf|l2_|adv",
    "rotations": "resnet18-rotation",
    "self-supervised": "vtab|simclr|swav|simsiam",
    "stylised images": "SIN",
    "AugMix, DeepAugment": "deepaugment|augmix",
    "mixed images": "cutmix|mixup|cutout",
    "part of the images": "subsample",
}
GROUPS = (
    "Testbed, families left out",
    "timm, standard",
    "timm, more data or a teacher",
    "OpenCLIP, zero-shot",
)
COLOURS = ("#1f2328", "#0969a8", "#7d8590", "#c2410c")


class Forecast(NamedTuple):
    """A line on the logit scale, and how far the accuracy of a model may be from it."""

    coefficients: Array
    half_width: float


def find_family(model: str) -> str:
    """Name the family of a model of the testbed."""
    named = (name for name, pattern in FAMILIES.items() if re.search(pattern, model))
    return next(named, name_family(model))


def to_logit(shares: pd.Series) -> Array:
    """The logits of accuracies, with those near 0 and 1 moved inwards."""
    return np.asarray(logit(shares.clip(EDGE, 1 - EDGE)), dtype=np.float64)


def read_shares(atlas: Atlas) -> pd.DataFrame:
    """The accuracies of each model: clean, on natural shifts, and under the 15 corruptions."""
    cells = {name: AtlasCell(f"natural/{name}") for name in NATURAL_SETS}
    columns = {"clean": atlas.cells[UNSHIFTED]}
    columns |= {name: atlas.cells[cell] for name, cell in cells.items() if cell in atlas.cells}
    means = [atlas.mean(f"imagenet_c/{name}", FILES) for name in ALEXNET]
    if known := [mean for mean in means if mean is not None]:
        columns[CORRUPTIONS] = pd.concat(known, axis=1).mean(axis=1, skipna=False)
    return pd.DataFrame(columns)


def design(table: pd.DataFrame, measured: Sequence[str]) -> Array:
    """The columns that a forecast is a combination of, `[models, 1 + measured]`."""
    return np.column_stack([np.ones(len(table)), *(to_logit(table[name]) for name in measured)])


def fit(x: Array, y: Array, families: npt.NDArray[np.str_]) -> Forecast:
    """Fit the line, and the half-width from the errors of each family when it is left out."""
    errors = np.empty(len(y))
    counts = pd.Series(families).map(pd.Series(families).value_counts()).to_numpy()
    for family in np.unique(families):
        out = families == family
        errors[out] = np.abs(y[out] - x[out] @ np.linalg.lstsq(x[~out], y[~out], rcond=None)[0])
    order = np.argsort(errors)
    share = np.cumsum(1 / counts[order]) / len(np.unique(families))
    half_width = errors[order][min(np.searchsorted(share, LEVEL), len(y) - 1)]
    return Forecast(np.linalg.lstsq(x, y, rcond=None)[0], float(half_width))


def judge(forecast: Forecast, x: Array, y: Array) -> pd.DataFrame:
    """The error of each model, in logits and points, and whether it is in the interval."""
    expected = x @ forecast.coefficients
    return pd.DataFrame(
        {
            "miss": 100 * (expit(y) - expit(expected)),
            "above": y - expected > forecast.half_width,
            "below": expected - y > forecast.half_width,
            "width": 50
            * (expit(expected + forecast.half_width) - expit(expected - forecast.half_width)),
        }
    )


def forecast_all(atlases: dict[str, Atlas]) -> pd.DataFrame:
    """Every forecast of every family: how far it misses, and how often its interval holds."""
    shares = {name: read_shares(atlas) for name, atlas in atlases.items() if name != "robustbench"}
    base, rows = shares.pop("testbed"), []
    base = base[base["clean"] >= LOWEST]
    for target in TARGETS:
        for measured in MEASURED:
            if target in measured:
                continue
            known = base[[*measured, target]].dropna()
            families = np.array([find_family(model) for model in known.index])
            x, y = design(known, measured), to_logit(known[target])
            for family in np.unique(families):
                out = families == family
                judged = judge(fit(x[~out], y[~out], families[~out]), x[out], y[out])
                rows.append(describe(judged, target, measured, "testbed", family))
            everything = fit(x, y, families)
            for source, table in shares.items():
                if not {*measured, target} <= set(table):
                    continue
                others = table[[*measured, target]].dropna()
                judged = judge(everything, design(others, measured), to_logit(others[target]))
                is_standard = np.array(
                    [model in atlases[source].standard for model in others.index]
                )
                for family, chosen in (("standard", is_standard), ("other", ~is_standard)):
                    if chosen.any():
                        rows.append(describe(judged[chosen], target, measured, source, family))
    return pd.DataFrame(rows)


def describe(
    judged: pd.DataFrame, target: str, measured: Sequence[str], source: str, family: str
) -> dict[str, object]:
    """One row of forecast.csv."""
    return {
        "shift": target,
        "measured": " + ".join(measured),
        "source": source,
        "family": family,
        "models": len(judged),
        "mean_miss_points": round(judged["miss"].mean(), 2),
        "mean_absolute_miss_points": round(judged["miss"].abs().mean(), 2),
        "mean_half_width_points": round(judged["width"].mean(), 2),
        "above": int(judged["above"].sum()),
        "below": int(judged["below"].sum()),
    }


def fit_lines(atlases: dict[str, Atlas]) -> pd.DataFrame:
    """The line of standard models in each natural shift."""
    rows = []
    for name in ("testbed", "timm"):
        atlas = atlases[name]
        table = read_shares(atlas).loc[list(atlas.standard)]
        for shift in table.columns.drop("clean"):
            pairs = table[["clean", shift]].dropna()
            line = stats.linregress(to_logit(pairs["clean"]), to_logit(pairs[shift]))
            expected = expit(line.intercept + line.slope * to_logit(pairs["clean"]))
            rows.append(
                {
                    "source": name,
                    "shift": shift,
                    "models": len(pairs),
                    "families": len({name_family(model) for model in pairs.index}),
                    "slope": round(line.slope, 4),
                    "intercept": round(line.intercept, 4),
                    "r_squared": round(line.rvalue**2, 4),
                    "sd_of_residuals_points": round(100 * (pairs[shift] - expected).std(), 2),
                }
            )
    return pd.DataFrame(rows)


def reproduce_robustbench(atlas: Atlas, folder: Path) -> tuple[int, float]:
    """How many printed accuracies and mCE are recomputed, and the largest difference in points."""
    differences = []
    for path in (path for path in atlas.facts.files if path.endswith(".json")):
        printed = json.loads((folder / path).read_text(encoding="utf-8"))
        for prefix, kind in (("imagenet_c/", ""), ("imagenet_3dcc/", "_3d")):
            shifts = dict.fromkeys(c.shift for c in atlas.cells if c.shift.startswith(prefix))
            errors = {
                name: {
                    shift: [
                        1 - atlas.cells[AtlasCell(shift, str(k), FILES)][name] for k in range(1, 6)
                    ]
                    for shift in shifts
                }
                for name in (Path(path).stem, "AlexNet")
            }
            ours = errors[Path(path).stem]
            mce = 100 * float(mean_corruption_error(ours, errors["AlexNet"]))
            accuracy = 100 * (1 - float(mean_corruption_error(ours)))
            differences += [
                mce - float(printed[f"corruptions_mce{kind}"]),
                accuracy - float(printed[f"corruptions_acc{kind}"]),
            ]
    return len(differences), float(np.abs(differences).max())


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """The share of models in the interval by shift and group, in %; each family counts alike."""
    kinds = {("timm", "standard"): GROUPS[1], ("timm", "other"): GROUPS[2]}
    groups = [
        kinds.get((source, family), GROUPS[0] if source == "testbed" else GROUPS[3])
        for source, family in zip(table["source"], table["family"], strict=True)
    ]
    covered = 100 * (1 - (table["above"] + table["below"]) / table["models"])
    rows = table.assign(group=groups, covered=covered)
    keys = ["measured", "shift", "group"]
    return rows.groupby(keys, sort=False)["covered"].mean().round(1).reset_index()


def draw(summary: pd.DataFrame) -> str:
    """The share of models in the interval, by shift and group, from clean accuracy alone."""
    rows = summary[summary["measured"] == "clean"]
    titles = {name: facts.title for name, facts in NATURAL_SETS.items()}
    rows = rows.assign(title=[titles[name] for name in rows["shift"]])
    order = [titles[name] for name in TARGETS]
    points = alt.Chart(rows).mark_point(filled=True, size=110, opacity=0.9)
    points = points.encode(
        x=alt.X(
            "covered:Q", title="Models in the 95 % interval (%)", scale=alt.Scale(domain=[0, 100])
        ),
        y=alt.Y("title:N", title=None, sort=order, axis=alt.Axis(labelLimit=240)),
        color=alt.Color("group:N", title=None, scale=alt.Scale(domain=GROUPS, range=COLOURS)),
        shape=alt.Shape("group:N", title=None, scale=alt.Scale(domain=GROUPS)),
    )
    rule = alt.Chart(pd.DataFrame({"x": [95]})).mark_rule(strokeDash=[4, 3]).encode(x="x:Q")
    chart = (rule + points).properties(
        width=420,
        height=190,
        title={
            "text": "A forecast holds for ImageNet models, and misses zero-shot models",
            "subtitle": "Lines fitted to the ImageNet testbed; dashed: what the interval promises",
            "anchor": "start",
        },
    )
    fonts = {"font": "Helvetica, Arial, sans-serif", "background": "white", "padding": 14}
    return vlc.vegalite_to_svg(chart.to_dict() | {"config": fonts})


def main(folder: Path) -> None:
    """Write the tables and the figure, and print what README.md says."""
    names = ("timm", "testbed", "robustbench", "openclip")
    atlases = {name: open_atlas(f"{name}:{folder / name}", offline=True) for name in names}
    for name, atlas in atlases.items():
        if atlas.changed:
            raise SystemExit(
                f"{name}: {', '.join(atlas.changed)} are not those of the named commit"
            )
    table, lines = forecast_all(atlases), fit_lines(atlases)
    summary = summarise(table)
    table.to_csv(HERE / "forecast.csv", index=False)
    lines.to_csv(HERE / "lines.csv", index=False)
    summary.to_csv(HERE / "coverage.csv", index=False)
    (HERE / "finding.svg").write_text(draw(summary), encoding="utf-8")
    wide = summary.pivot_table(index=["measured", "shift"], columns="group", values="covered")
    print(wide[list(GROUPS)].to_string(), lines.to_string(), sep="\n\n")
    count, largest = reproduce_robustbench(atlases["robustbench"], folder / "robustbench")
    print(f"\nRobustBench: {count} printed numbers, largest difference {largest:.4f} points")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
