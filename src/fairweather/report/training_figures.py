"""Figures of trainings: accuracy by epoch, pre-trainings, and how far the labels go."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import altair as alt
import pandas as pd
import pydantic

from fairweather.errors import InputError
from fairweather.record import ModelRecord
from fairweather.report.contents import Contents
from fairweather.report.figures import Figure, model_color, model_shape, render
from fairweather.report.training_files import (
    Correlation,
    read_correlations,
    read_pretraining_histories,
)

# Pixels of the panels on pre-trainings and on labels, and of a side of a matrix.
PRETRAINING_WIDTH, PRETRAINING_HEIGHT = 370, 210
LABELS_WIDTH, LABELS_HEIGHT = 240, 220
MATRIX = 170
MOST_DIMENSIONS = 32  # of a matrix that is drawn: more could not be seen
TRACES = {
    "knn_accuracy": "k-NN accuracy on validation images",
    "embedding_std": "Deviation of the embedding (0: collapsed)",
}
COLUMNS = 3  # of panels on labels
SUBTITLE = 130  # characters of a line


def pretraining_figure(contents: Contents) -> Figure | None:
    """Draw how good the features were after each epoch, one line a pre-training and seed."""
    frames = [
        each.epochs[["epoch", *TRACES]].assign(title=each.title, seed=each.seed)
        for each in read_pretraining_histories(contents)
    ]
    if not frames:
        return None
    history = pd.concat(frames, ignore_index=True)
    titles = list(dict.fromkeys(each.title for each in contents.pretraining.values()))
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
            detail=alt.Detail("seed:N"),
        )
        .properties(width=PRETRAINING_WIDTH, height=PRETRAINING_HEIGHT)
        for column, label in TRACES.items()
    ]
    note = (
        "k-NN: the share of validation images for which the nearest training images, by the "
        "features of the backbone, have the same class."
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
    found = read_correlations(contents)
    if not found:
        return None
    rows = [_matrices(each) for each in found]
    chart = alt.vconcat(*(alt.hconcat(*pair, spacing=40) for pair in rows), spacing=26)
    return render(
        "cross_correlation",
        chart,
        alt.Title(
            "Barlow Twins: cross-correlation of two views",
            subtitle=[
                "Two random views of each of up to 1,024 images of the pre-training.",
                "The loss makes this matrix more like the identity.",
                f"At most the first {MOST_DIMENSIONS} dimensions of the embedding are shown.",
            ],
        ),
        "Cross-correlation matrices of the embeddings of two views, before and after pre-training: "
        + "; ".join(each.title for each in found)
        + ". The loss pulls the diagonal to 1 and the rest to 0.",
    )


def labels_figure(contents: Contents) -> Figure | None:
    """Draw accuracy against the labels that models had, a panel for clean images and each shift.

    None where all models have the same labels, and where two models with the same labels start from
    the same: there, other things differ that this figure does not show. Variants are left out.
    """
    labels = {name: _labels(model) for name, model in contents.models.items()}
    order = sorted(set(labels.values()), key=lambda each: (each.label_noise, each.label_fraction))
    if len(order) < 2:
        return None
    starts = {name: _start(contents, model) for name, model in contents.models.items()}
    if len({(labels[name], starts[name]) for name in labels}) < len(labels):
        return None
    titles = list(dict.fromkeys(starts.values()))
    panels = []
    for title, shift, level in contents.means:
        rows = contents.pick("accuracy", shift)
        rows = rows[(rows["level"] == level) & rows["model"].isin(list(labels))]
        frame = rows.assign(
            labels=rows["model"].map({name: str(each) for name, each in labels.items()}),
            title=rows["model"].map(starts),
        )
        if len(frame):
            shown = frame[["labels", "title", "value", "low", "high"]]
            panels.append(_labels_panel(shown, [str(each) for each in order], titles, title))
    return render(
        "labels",
        alt.concat(*panels, columns=COLUMNS, spacing=26),
        alt.Title(
            "Accuracy by the labels used in training",
            subtitle=textwrap.wrap(
                "Accuracy by the labels that the models were trained with, and by the weights that "
                "they started from. For each shift: the mean over its levels. "
                f"Bars: {contents.intervals}. {contents.sample()}.",
                SUBTITLE,
                break_on_hyphens=False,
            ),
        ),
        "Accuracy against the labels used in training, on clean images and under each shift. "
        f"Started from: {'; '.join(titles)}. The summary table holds the same numbers.",
    )


class _Labels(pydantic.BaseModel):
    """What the settings of a model say of its labels; a model from elsewhere says nothing."""

    model_config = pydantic.ConfigDict(frozen=True)

    label_fraction: float = 1.0
    label_noise: float = 0.0

    def __str__(self) -> str:
        words = "all" if self.label_fraction == 1 else f"{100 * self.label_fraction:.3g} %"
        return f"{words}, {100 * self.label_noise:.2g} % redrawn" if self.label_noise else words


def _labels(model: ModelRecord) -> _Labels:
    try:
        return _Labels.model_validate(model.settings)
    except pydantic.ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise InputError(
            f"the record of the run must have a number for the {key} of {model.title}, found "
            f"{model.settings[str(key)]!r:.60}"
        ) from None


def _start(contents: Contents, model: ModelRecord) -> str:
    weights = str(model.settings.get("weights", "none"))
    name = weights.removeprefix("pretraining:")
    if name != weights and name in contents.pretraining:
        return contents.pretraining[name].title
    return "No pre-training" if weights == "none" else weights


def _labels_panel(
    frame: pd.DataFrame, words: list[str], titles: list[str], title: str
) -> alt.LayerChart:
    legend = alt.Legend(title=None, orient="top", columns=2)
    shift = alt.XOffset("title:N", scale=alt.Scale(domain=titles, paddingInner=0.5))
    # A line for how many labels there are, one for how many of them are wrong.
    axis = alt.Axis(labelAngle=0, labelLimit=90, labelExpr="split(datum.label, ', ')")
    base = alt.Chart(frame).encode(
        x=alt.X("labels:O", sort=words, title="labels", axis=axis),
        xOffset=shift,
        color=model_color(titles, legend),
    )
    shares = alt.Axis(format=".0%", tickCount=6, tickMinStep=0.01)
    value = alt.Y("value:Q", title="Accuracy", axis=shares).scale(zero=False)
    bars = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("low:Q", title="Accuracy", axis=shares).scale(zero=False), y2=alt.Y2("high:Q")
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=value, shape=model_shape(titles, legend)
    )
    return alt.LayerChart(
        layer=[bars, points],
        width=LABELS_WIDTH,
        height=LABELS_HEIGHT,
        title=alt.Title(title, fontSize=13),
    )


def _axis(column: str) -> alt.Axis:
    return alt.Axis(
        format=".0%" if column == "knn_accuracy" else ".2f", tickCount=6, tickMinStep=0.01
    )


def _matrices(each: Correlation) -> Iterator[alt.Chart]:
    for when, matrix in (("before", each.before), ("after", each.after)):
        cells = [
            {"row": row, "column": column, "correlation": value}
            for row, values in enumerate(matrix[:MOST_DIMENSIONS])
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
