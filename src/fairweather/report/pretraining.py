"""Figures of pre-trainings: how features got better, and what became of the cross-correlation."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import altair as alt
import pandas as pd

from fairweather.report.contents import Contents
from fairweather.report.figures import Figure, model_color, render

PANEL_WIDTH, PANEL_HEIGHT = 370, 210
MATRIX = 170  # pixels a side
MOST_DIMENSIONS = 32  # of a matrix that is drawn: more could not be told apart
TRACES = {
    "knn_accuracy": "k-NN accuracy on validation images",
    "embedding_std": "Deviation of the embedding (0: collapsed)",
}


class Pretraining(NamedTuple):
    """What one pre-training left in the run folder, with one of its seeds."""

    title: str
    seed: str
    history: Path
    correlation: Path


def pretraining_figure(contents: Contents) -> Figure | None:
    """Draw how good the features were after each epoch, one line a pre-training and seed."""
    found = list(_pretrainings(contents))
    frames = [_history(each) for each in found if each.history.is_file()]
    if not frames:
        return None
    history = pd.concat(frames, ignore_index=True)
    titles = list(dict.fromkeys(each.title for each in found))
    legend = alt.Legend(title=None, orient="top", columns=2)
    last = int(history["epoch"].max())
    epochs = alt.Axis(values=list(range(1, last + 1, max(1, last // 8))), format="d")
    panels = [
        alt.Chart(history.dropna(subset=[column]))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=epochs),
            y=alt.Y(f"{column}:Q", title=label, axis=_axis(column)).scale(
                zero=column == "embedding_std"
            ),
            color=model_color(titles, legend),
            detail="seed:N",
        )
        .properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)
        for column, label in TRACES.items()
    ]
    note = (
        "k-NN: the share of validation images whose nearest training images, in the features of "
        "the backbone alone, have their class."
    )
    return render(
        "pretraining",
        alt.concat(*panels, columns=2, spacing=32),
        alt.Title("Pre-training, epoch by epoch", subtitle=[note]),
        f"k-NN accuracy and deviation of the embedding against the epoch. One line for each of: "
        f"{'; '.join(titles)}.",
    )


def correlation_figure(contents: Contents) -> Figure | None:
    """Draw the cross-correlation of two views before and after each Barlow Twins pre-training."""
    found = [each for each in _pretrainings(contents) if each.correlation.is_file()]
    first = list({each.title: each for each in reversed(found)}.values())[::-1]
    if not first:
        return None
    rows = [_matrices(each) for each in first]
    chart = alt.vconcat(*(alt.hconcat(*pair, spacing=40) for pair in rows), spacing=26)
    return render(
        "cross_correlation",
        chart,
        alt.Title(
            "Barlow Twins: cross-correlation of two views",
            subtitle=[
                "Of up to 1,024 images of the pre-training, two random views each;",
                "the loss pulls this matrix to the identity.",
                f"The first {MOST_DIMENSIONS} dimensions of the embedding at most.",
            ],
        ),
        "Cross-correlation matrices of the embeddings of two views, before and after pre-training: "
        + "; ".join(each.title for each in first)
        + ". The loss pulls the diagonal to 1 and the rest to 0.",
    )


def _pretrainings(contents: Contents) -> Iterator[Pretraining]:
    for name, entry in (contents.study.get("pretraining") or {}).items():
        seeds = contents.seeds if entry["seed"] is None else (str(entry["seed"]),)
        for seed in seeds:
            home = contents.home(name)
            files = (
                home.run.file(f"pretraining/{home.name}/seed-{seed}/{name}")
                for name in ("history.csv", "correlation.json")
            )
            yield Pretraining(str(entry["title"]), seed, *files)


def _history(each: Pretraining) -> pd.DataFrame:
    table = pd.read_csv(io.StringIO(each.history.read_text()))
    return table[["epoch", *TRACES]].assign(title=each.title, seed=each.seed)


def _axis(column: str) -> alt.Axis:
    return alt.Axis(format=".0%" if column == "knn_accuracy" else ".2f", tickCount=6)


def _matrices(each: Pretraining) -> Iterator[alt.Chart]:
    matrices = json.loads(each.correlation.read_text())
    for when in ("before", "after"):
        cells = [
            {"row": row, "column": column, "correlation": value}
            for row, values in enumerate(matrices[when][:MOST_DIMENSIONS])
            for column, value in enumerate(values[:MOST_DIMENSIONS])
        ]
        axis = alt.Axis(labels=False, ticks=False, domain=False)
        yield (
            alt.Chart(pd.DataFrame(cells))
            .mark_rect()
            .encode(
                x=alt.X("column:O", axis=axis, title="dimension, second view"),
                y=alt.Y("row:O", axis=axis, title="dimension, first view"),
                color=alt.Color(
                    "correlation:Q",
                    scale=alt.Scale(domain=[-1, 0, 1], scheme="blueorange"),
                    legend=alt.Legend(title="correlation", gradientLength=MATRIX - 30),
                ),
            )
            .properties(
                width=MATRIX,
                height=MATRIX,
                title=alt.Title([each.title, when], fontSize=13, anchor="start"),
            )
        )
