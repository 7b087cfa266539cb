"""Ten models and three radiologists on the test set of CheXpert, from public predictions.

    git clone https://github.com/rajpurkarlab/cheXpert-test-set-labels
    python results/chexpert/measure.py cheXpert-test-set-labels

It evaluates the predictions with fairweather, writes the tables and the figure beside this file,
and the numbers of README.md. The data stay where they are: 500 studies of 500 patients, and the
majority of five radiologists as the truth.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
import vl_convert as vlc

import fairweather as fw
from fairweather.metrics.areas import auc_column, column_spread, unit_column
from fairweather.metrics.paired import holm
from fairweather.metrics.readers import compare_with_readers

HERE = Path(__file__).parent
FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
KEY, MEAN = "Study", "mean"
KEPT = ("auc", "brier", "ece/10-equal-width", "probability_gap")
RESAMPLES = 2000
INK, MODELS = "#1f2328", "#0969a8"


def read_tables(
    folder: Path, pattern: str, keys: pd.Index | None = None
) -> dict[str, pd.DataFrame]:
    """Read the tables of a pattern, by the first word of the file, in the order of the keys."""
    tables = {}
    for path in sorted(folder.glob(pattern)):
        table = pd.read_csv(path).set_index(KEY)[list(FINDINGS)]
        tables[path.stem.removesuffix("_predictions")] = table if keys is None else table.loc[keys]
    return tables


def evaluate(folder: Path, models: dict[str, pd.DataFrame], out: Path) -> pd.DataFrame:
    """Evaluate the files as they are, and return scores.csv.

    Two files have scores above 1, which are no probabilities: only their order is used.
    """
    rows = [
        {
            "file": (
                folder / f"example_models/predictions/standard/{name}_predictions.csv"
            ).resolve(),
            "model": name,
            "outputs": "probabilities" if (table <= 1).all(axis=None) else "logits",
        }
        for name, table in models.items()
    ]
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(out / "models.csv", index=False)
    run = fw.evaluate(
        f"predictions:{out / 'models.csv'}",
        labels=folder / "groundtruth.csv",
        key_column=KEY,
        findings=FINDINGS,
        out=out / "run",
    )
    scores = pd.read_csv(run.path / "scores.csv")
    return scores[scores["shift"] == "clean"].set_index(["model", "unit", "metric"])


def compare(models: dict[str, pd.DataFrame], truth: pd.DataFrame) -> pd.DataFrame:
    """Test the difference in AUC of each pair of models, of each finding and of their mean.

    DeLong's paired test, whose column of a mean is the mean of the columns. Holm's correction is
    over all pairs and findings, and once more over all pairs for the mean.
    """
    columns, areas = {}, {}
    for name, table in models.items():
        for finding in FINDINGS:
            scores, positive = table[finding].to_numpy(float), truth[finding].to_numpy() == 1
            columns[name, finding] = auc_column(scores, positive)
            ranks = scipy.stats.rankdata(scores)[positive]
            pairs = positive.sum() * (~positive).sum()
            areas[name, finding] = (ranks.sum() - positive.sum() * (positive.sum() + 1) / 2) / pairs
        columns[name, MEAN] = np.mean([columns[name, finding] for finding in FINDINGS], axis=0)
        areas[name, MEAN] = np.mean([areas[name, finding] for finding in FINDINGS])
    rows = []
    for finding in (*FINDINGS, MEAN):
        for first, second in itertools.combinations(models, 2):
            difference = areas[first, finding] - areas[second, finding]
            spread = column_spread(
                unit_column(columns[first, finding] - columns[second, finding], None)
            )
            p = 1.0
            if spread.variance:
                t = abs(difference) / np.sqrt(spread.variance)
                p = float(2 * scipy.special.stdtr(spread.freedom, -t))
            reach = spread.reach()
            rows.append(
                (finding, first, second, difference, difference - reach, difference + reach, p)
            )
    table = pd.DataFrame(
        rows, columns=["finding", "first", "second", "difference", "low", "high", "p"]
    )
    of_mean = table["finding"] == MEAN
    for part in (of_mean, ~of_mean):
        table.loc[part, "p_holm"] = holm(table.loc[part, "p"].to_numpy())
    return table


def compare_readers(
    model: pd.DataFrame, readers: dict[str, pd.DataFrame], truth: pd.DataFrame
) -> pd.DataFrame:
    """What each radiologist misses, and what a model misses at the same specificity.

    The interval of the difference is from resamples of studies, with the reader's specificity and
    the threshold of each resample.
    """
    rows = []
    for finding in FINDINGS:
        positive, scores = truth[finding].to_numpy() == 1, model[finding].to_numpy(float)
        calls = np.stack([table[finding].to_numpy() for table in readers.values()], axis=1)
        compared = compare_with_readers(scores, positive, calls, RESAMPLES)
        assert compared is not None
        for name, called, beside in zip(readers, calls.T, compared.readers, strict=True):
            assert beside is not None
            specificity, sensitivity = beside.reader.specificity, beside.reader.sensitivity
            rows.append(
                {
                    "finding": finding,
                    "radiologist": name,
                    "with it": int(positive.sum()),
                    "specificity": specificity.value,
                    "specificity low": specificity.low,
                    "specificity high": specificity.high,
                    "sensitivity": sensitivity.value,
                    "sensitivity low": sensitivity.low,
                    "sensitivity high": sensitivity.high,
                    "missed": int((positive & (called != 1)).sum()),
                    "model sensitivity": beside.sensitivity,
                    "model missed": round((1 - beside.sensitivity) * positive.sum()),
                    "difference": beside.more_sensitive.value,
                    "low": beside.more_sensitive.low,
                    "high": beside.more_sensitive.high,
                }
            )
    return pd.DataFrame(rows)


def draw(scores: pd.DataFrame) -> str:
    """Draw the mean AUC and the mean gap of each model, with 95 % intervals."""
    mean = scores.xs("mean finding", level="unit").reset_index()
    order = mean[mean["metric"] == "auc"].sort_values("value", ascending=False)["model"].tolist()
    panels = []
    for metric, scale, title in (
        ("auc", 1, "Mean AUC of five findings"),
        ("probability_gap", 100, "Mean probability − prevalence (points)"),
    ):
        rows = mean[(mean["metric"] == metric) & (mean["probabilities"] | (metric == "auc"))]
        rows = rows.assign(**{name: scale * rows[name] for name in ("value", "low", "high")})
        y = alt.Y("model:N", title=None, scale=alt.Scale(domain=order))
        axis = alt.Scale(zero=metric != "auc")
        base = alt.Chart(rows).encode(y=y)
        lines = base.mark_rule(color=MODELS, strokeWidth=2.5, opacity=0.55).encode(
            x=alt.X("low:Q", title=title, scale=axis), x2="high:Q"
        )
        dots = base.mark_point(color=MODELS, filled=True, size=75, opacity=1).encode(x="value:Q")
        panels.append(alt.layer(lines, dots).properties(width=270, height=alt.Step(20)))
    title = alt.Title(
        [
            "Models for chest X-rays do not differ significantly in AUC,",
            "and most give probabilities that are too high",
        ],
        subtitle="Lines are 95 % intervals over studies. Without a mark: scores that exceed 1.",
        anchor="start",
        color=INK,
    )
    chart = (
        alt.hconcat(*panels)
        .properties(title=title, background="white", padding=14)
        .configure(font="Helvetica, Arial, sans-serif")
        .configure_axis(labelColor=INK, titleColor=INK, labelFontSize=12, titleFontWeight="normal")
        .configure_title(fontSize=14, subtitleFontSize=12)
    )
    return vlc.vegalite_to_svg(chart.to_dict())


def write_table(scores: pd.DataFrame) -> str:
    """Write the mean AUC and the mean gap of each model that gives probabilities, as README.md."""
    mean = scores.xs("mean finding", level="unit")
    lines = ["| Model | Mean AUC of five findings | Mean probability − prevalence (points) |"]
    lines.append("| --- | ---: | ---: |")
    areas = mean.xs("auc", level="metric").sort_values("value", ascending=False)
    for name, area in areas[areas["probabilities"]].iterrows():
        told = f"{area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}]"
        gap = 100 * mean.loc[(name, "probability_gap"), ["value", "low", "high"]].astype(float)
        gaps = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gap).replace("-", "−")
        lines.append(f"| {name} | {told} | {gaps} |")
    return "\n".join(lines)


def main(folder: Path, out: Path = HERE, work: Path = Path("runs/chexpert")) -> None:
    """Measure everything, and write it into `out`; the run itself goes to `work`."""
    truth = pd.read_csv(folder / "groundtruth.csv").set_index(KEY)[list(FINDINGS)]
    models = read_tables(folder, "example_models/predictions/standard/*.csv", truth.index)
    readers = read_tables(folder, "radiologists/benchmark_radiologists/*.csv", truth.index)
    scores = evaluate(folder, models, work)
    scores = scores[scores.index.get_level_values("metric").isin(KEPT)].copy()
    whole = {name: bool((table <= 1).all(axis=None)) for name, table in models.items()}
    scores["probabilities"] = [whole[name] for name, _, _ in scores.index]
    scores = scores.drop(columns=["seed", "shift", "level"]).round(5)
    scores.to_csv(out / "numbers.csv")
    compare(models, truth).round(6).to_csv(out / "pairs.csv", index=False)
    best = scores.xs(("mean finding", "auc"), level=("unit", "metric"))["value"].idxmax()
    read = compare_readers(models[best], readers, truth)
    read.round(5).to_csv(out / "radiologists.csv", index=False)
    (out / "finding.svg").write_text(draw(scores), encoding="utf-8")
    page = (HERE / "README.md").read_text(encoding="utf-8")
    table = re.compile(r"^\| Model .*?(?=\n\n)", re.MULTILINE | re.DOTALL)
    (out / "README.md").write_text(table.sub(write_table(scores), page), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
