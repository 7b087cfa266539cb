"""The training section: what trainings stored, its charts and figures, recipes and sweeps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import altair as alt
import pandas as pd
import pydantic
from pydantic import JsonValue

from fairweather.errors import InputError
from fairweather.report.charts import (
    DASHED,
    INK,
    ROW_WIDTH,
    SOLID,
    Figure,
    color_models,
    render_figure,
    shape_models,
)
from fairweather.report.contents import Contents
from fairweather.report.facts import flatten_facts
from fairweather.report.pictures import draw_mixup
from fairweather.report.section import PartView, ReportPart, Tables
from fairweather.report.tables import ABSENT
from fairweather.runs.folder import read_json
from fairweather.types.kinds import FINDINGS
from fairweather.types.measurement import Predictions
from fairweather.types.record import (
    CORRELATION,
    DESCRIPTION,
    HISTORY,
    WARNINGS,
    FrozenRecord,
    ModelRecord,
    base_model,
    pretraining_folder,
    sweep_table,
)

# ---------------------------------------------------------------- what trainings stored

WEIGHT_FACTS = ("file", "sha256", "left_out", "head")  # what is told of weights


class TrainingHistory(NamedTuple):
    """What one training wrote after each epoch, one column for each number."""

    title: str
    seed: str
    epochs: pd.DataFrame


def read_histories(contents: Contents) -> list[TrainingHistory]:
    """Read the numbers of each epoch, of each training that wrote some down."""
    return [
        TrainingHistory(title, seed, _read_history(path, ("epoch",)))
        for name, title in contents.titles.items()
        for seed in contents.seeds_of(name)
        if (path := contents.training_file(name, seed, HISTORY)).is_file()
    ]


def read_times(contents: Contents) -> list[dict[str, str]]:
    """Read how long each training took, as text; where that was not stored, only the speed."""
    times = []
    for title, seed, epochs in read_histories(contents):
        speed = epochs.get("images_per_second", pd.Series(dtype=float)).median()
        seconds = epochs.get("seconds", pd.Series(dtype=float)).sum(min_count=1)
        times.append(
            {
                "title": title,
                "seed": seed,
                "epochs": f"{len(epochs)}",
                "speed": ABSENT if math.isnan(speed) else f"{speed:,.0f}",
                "time": format_duration(float(seconds)),
            }
        )
    return times


def format_duration(seconds: float) -> str:
    """Write a duration.

    >>> format_duration(75.4), format_duration(3725.0), format_duration(float("nan"))
    ('1:15 min', '1:02 h', '–')
    """
    if math.isnan(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def read_recipes(contents: Contents) -> dict[str, Mapping[str, JsonValue]]:
    """Read the recipe that trained each model, by its name; a sweep may have changed the study's.

    The first seed stands for all; a model that was not trained is left out.
    """
    described = ((name, _read_description(contents, name)) for name in contents.titles)
    return {
        name: recipe for name, facts in described if isinstance(recipe := facts.get("recipe"), dict)
    }


def read_starts(contents: Contents) -> dict[str, Mapping[str, JsonValue]]:
    """Read what weights each model started from, by its name; of random ones nothing is said.

    The first seed stands for all.
    """
    starts: dict[str, Mapping[str, JsonValue]] = {}
    for name in contents.titles:
        facts = _read_description(contents, name).get("weights")
        if isinstance(facts, dict) and facts.get("weights", "none") != "none":
            starts[name] = {key: facts[key] for key in WEIGHT_FACTS if facts.get(key)}
    return starts


def read_tries(contents: Contents) -> dict[str, pd.DataFrame]:
    """Read what each hyperparameter sweep of the study tried, as text, by the model's title."""
    paths = {
        contents.titles[name]: contents.home(name).run.file(sweep_table(contents.home(name).name))
        for name, model in contents.models.items()
        if name in contents.titles and model.settings.get("sweep")
    }
    return {
        title: _read_table(path, dtype=str, keep_default_na=False)
        for title, path in paths.items()
        if path.is_file()
    }


def read_warnings(contents: Contents) -> dict[str, str]:
    """Read the warnings about a model's numbers under attack, by its title; often there is none."""
    warnings: dict[str, str] = {}
    for label, run in contents.runs.items():
        path = run.file(WARNINGS)
        stored = read_json(path) if path.is_file() else {}
        if not all(isinstance(words, str) for words in stored.values()):
            raise InputError(f"{path} must hold a sentence for each model")
        prefix = f"{label}: " if label else ""
        warnings |= {f"{prefix}{title}": words for title, words in stored.items()}
    return warnings


def read_pretraining_histories(contents: Contents) -> list[TrainingHistory]:
    """Read what each pre-training wrote down, of each of its seeds."""
    return [
        TrainingHistory(title, seed, _read_history(path, ("epoch", *pretraining_traces(contents))))
        for title, seed, path in _pretraining_files(contents, HISTORY)
    ]


class Correlation(FrozenRecord):
    """The cross-correlation of the embeddings of two views, by row, around a pre-training."""

    before: list[list[float]]
    after: list[list[float]]


def read_correlations(contents: Contents) -> dict[str, Correlation]:
    """Read the cross-correlation of each pre-training that has one, by its title.

    The first seed stands for all.
    """
    correlations: dict[str, Correlation] = {}
    for title, _, path in _pretraining_files(contents, CORRELATION):
        if title not in correlations:
            try:
                correlations[title] = Correlation.model_validate(read_json(path))
            except pydantic.ValidationError:
                raise InputError(f"{path} does not hold two matrices, before and after") from None
    return correlations


def _pretraining_files(contents: Contents, file: str) -> Iterator[tuple[str, str, Path]]:
    """Title, seed and path of a file of each pre-training that has it."""
    for name, entry in contents.pretraining.items():
        run, inner = contents.home(name)
        own = entry.settings.get("seed")
        for seed in contents.seeds if own is None else (str(own),):
            path = run.file(f"{pretraining_folder(inner, int(seed))}/{file}")
            if path.is_file():
                yield entry.title, seed, path


def _read_history(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    """Read the numbers of each epoch; raises `InputError` unless these columns are numbers."""
    table = _read_table(path)
    for name in needed:
        if name not in table or not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"{path} is not the table of a training: it has no numbers {name}")
    return table


def _read_table(path: Path, **how: Any) -> pd.DataFrame:  # noqa: ANN401 - of pandas
    try:
        return pd.read_csv(path, **how)
    except ValueError as error:  # also for what is no text, or empty
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is not the table of a training: {reason}") from None


def _read_description(contents: Contents, name: str) -> Mapping[str, JsonValue]:
    """What model.json says of a model's first seed; nothing of what was not trained."""
    path = contents.training_file(name, contents.seeds_of(name)[0], DESCRIPTION)
    return read_json(path) if path.is_file() else {}


# ---------------------------------------------------------------- figures

# Pixels of the panels on pre-trainings and on labels, and of a side of a matrix.
PRETRAINING_WIDTH, PRETRAINING_HEIGHT = 370, 210
LABELS_WIDTH, LABELS_HEIGHT = 240, 220
MATRIX_SIDE = 170
MOST_DIMENSIONS = 32  # of a matrix that is drawn: more could not be seen
# Columns of history.csv, with the kind of predictions of which pre-trainings write them.
PRETRAINING_TRACES = {
    "knn_accuracy": (Predictions.kind, "k-NN accuracy on validation images", ".0%"),
    "knn_auc": (FINDINGS, "k-NN mean AUC on validation images", ".2f"),
    "embedding_std": (None, "Deviation of the embedding (0: collapsed)", ".2f"),
}
NEIGHBOURS = {
    Predictions.kind: "the share of validation images for which the nearest training images, by "
    "the features of the backbone, have the same class.",
    FINDINGS: "the mean AUC of the share of the nearest training images, by the features of the "
    "backbone, that have the finding.",
}
LABEL_PANELS = 3  # of panels on labels
SUBTITLE_LETTERS = 130  # characters of a line


def pretraining_traces(contents: Contents) -> dict[str, tuple[str, str]]:
    """The columns of history.csv that are drawn, with their titles and formats."""
    return {
        name: (title, form)
        for name, (kind, title, form) in PRETRAINING_TRACES.items()
        if kind in (None, *contents.kinds)
    }


def draw_pretraining(contents: Contents) -> Figure | None:
    """Draw how good the features were after each epoch, one line a pre-training and seed."""
    traces = pretraining_traces(contents)
    frames = [
        own.epochs[["epoch", *traces]].assign(title=own.title, seed=own.seed)
        for own in read_pretraining_histories(contents)
    ]
    if not frames:
        return None
    history = pd.concat(frames, ignore_index=True)
    titles = list(dict.fromkeys(own.title for own in contents.pretraining.values()))
    legend = alt.Legend(title=None, orient="top", columns=2)
    last = int(history["epoch"].max())
    epochs = alt.Axis(values=list(range(1, last + 1, max(1, last // 8))), format="d")
    panels = [
        alt.Chart(history.dropna(subset=[column]))
        .mark_line(point=True, strokeWidth=2)
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=epochs),
            y=alt.Y(
                f"{column}:Q",
                title=label,
                axis=alt.Axis(format=form, tickCount=6, tickMinStep=0.01),
            ).scale(zero=column == "embedding_std"),
            color=color_models(titles, legend=legend),
            detail=alt.Detail("seed:N"),
        )
        .properties(width=PRETRAINING_WIDTH, height=PRETRAINING_HEIGHT)
        for column, (label, form) in traces.items()
    ]
    first = next(iter(traces.values()))[0].removesuffix(" on validation images")
    note = f"k-NN: {next(words for kind, words in NEIGHBOURS.items() if kind in contents.kinds)}"
    return render_figure(
        "pretraining",
        alt.concat(*panels, columns=2, spacing=32),
        "Pre-training, epoch by epoch",
        [note],
        f"{first} and deviation of the embedding against the epoch. One line for each of: "
        f"{'; '.join(titles)}.",
    )


def draw_correlations(contents: Contents) -> Figure | None:
    """Draw the cross-correlation of two views before and after each Barlow Twins pre-training."""
    correlations = read_correlations(contents)
    if not correlations:
        return None
    rows = [_draw_matrices(*titled) for titled in correlations.items()]
    chart = alt.vconcat(*(alt.hconcat(*pair, spacing=40) for pair in rows), spacing=26)
    return render_figure(
        "cross_correlation",
        chart,
        "Barlow Twins: cross-correlation of two views",
        [
            "Two random views of each of up to 1,024 images of the pre-training.",
            "The loss makes this matrix more like the identity.",
            f"At most the first {MOST_DIMENSIONS} dimensions of the embedding are shown.",
        ],
        "Cross-correlation matrices of the embeddings of two views, before and after pre-training: "
        + "; ".join(correlations)
        + ". The loss pulls the diagonal to 1 and the rest to 0.",
    )


def draw_labels(contents: Contents) -> Figure | None:
    """Draw accuracy against the labels that models had, a panel for clean images and each shift.

    None where all models have the same labels, and where two models with the same labels start from
    the same: there, other things differ that this figure does not show. Variants are left out.
    """
    labels = {name: _read_labels(model) for name, model in contents.models.items()}
    order = sorted(
        set(labels.values()), key=lambda label: (label.label_noise, label.label_fraction)
    )
    if len(order) < 2:
        return None
    starts = {name: _name_start(contents, model) for name, model in contents.models.items()}
    if len({(labels[name], starts[name]) for name in labels}) < len(labels):
        return None
    titles = list(dict.fromkeys(starts.values()))
    panels = []
    for title, shift, level in contents.means:
        rows = [
            (str(labels[name]), starts[name], *score[:3])
            for name in labels
            if (score := contents.score("accuracy", name, shift, level))
        ]
        if rows:
            frame = pd.DataFrame(rows, columns=["labels", "title", "value", "low", "high"])
            panels.append(_draw_labels_panel(frame, [str(label) for label in order], titles, title))
    return render_figure(
        "labels",
        alt.concat(*panels, columns=LABEL_PANELS, spacing=26),
        "Accuracy by the labels used in training",
        [
            "Accuracy by the labels that the models were trained with, and by the weights that "
            "they started from. For each shift: the mean over its levels. "
            f"Bars: {contents.intervals}. {contents.sample()}."
        ],
        "Accuracy against the labels used in training, on clean images and under each shift. "
        f"Started from: {'; '.join(titles)}. The summary table holds the same numbers.",
        letters=SUBTITLE_LETTERS,
    )


class _LabelSettings(pydantic.BaseModel):
    """What the settings of a model say of its labels; a model from elsewhere says nothing."""

    model_config = pydantic.ConfigDict(frozen=True)

    label_fraction: float = 1.0
    label_noise: float = 0.0

    def __str__(self) -> str:
        words = "all" if self.label_fraction == 1 else f"{100 * self.label_fraction:.3g} %"
        return f"{words}, {100 * self.label_noise:.2g} % redrawn" if self.label_noise else words


def _read_labels(model: ModelRecord) -> _LabelSettings:
    try:
        return _LabelSettings.model_validate(model.settings)
    except pydantic.ValidationError as error:
        key = error.errors()[0]["loc"][0]
        raise InputError(
            f"the record of the run must have a number for the {key} of {model.title}, found "
            f"{model.settings[str(key)]!r:.60}"
        ) from None


def _name_start(contents: Contents, model: ModelRecord) -> str:
    weights = str(model.settings.get("weights", "none"))
    name = weights.removeprefix("pretraining:")
    if name != weights and name in contents.pretraining:
        return contents.pretraining[name].title
    return "No pre-training" if weights == "none" else weights


def _draw_labels_panel(
    frame: pd.DataFrame, words: list[str], titles: list[str], title: str
) -> alt.LayerChart:
    legend = alt.Legend(title=None, orient="top", columns=2)
    shift = alt.XOffset("title:N", scale=alt.Scale(domain=titles, paddingInner=0.5))
    # A line for how many labels there are, one for how many of them are wrong.
    axis = alt.Axis(labelAngle=0, labelLimit=90, labelExpr="split(datum.label, ', ')")
    base = alt.Chart(frame).encode(
        x=alt.X("labels:O", sort=words, title="labels", axis=axis),
        xOffset=shift,
        color=color_models(titles, legend=legend),
    )
    shares = alt.Axis(format=".0%", tickCount=6, tickMinStep=0.01)
    value = alt.Y("value:Q", title="Accuracy", axis=shares).scale(zero=False)
    bars = base.mark_rule(strokeWidth=1.5).encode(
        y=alt.Y("low:Q", title="Accuracy", axis=shares).scale(zero=False), y2=alt.Y2("high:Q")
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(
        y=value, shape=shape_models(titles, legend=legend)
    )
    return alt.LayerChart(
        layer=[bars, points],
        width=LABELS_WIDTH,
        height=LABELS_HEIGHT,
        title=alt.Title(title, fontSize=13),
    )


def _draw_matrices(title: str, correlation: Correlation) -> Iterator[alt.Chart]:
    for when, matrix in correlation:
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
                    legend=alt.Legend(title="correlation", gradientLength=MATRIX_SIDE - 30),
                ),
            )
            .properties(
                width=MATRIX_SIDE,
                height=MATRIX_SIDE,
                title=alt.Title([title, when], fontSize=13, anchor="start"),
            )
        )


# ---------------------------------------------------------------- the section


class Trace(NamedTuple):
    """A figure of the epochs: its name, titles and format, and columns of history.csv by split."""

    name: str
    title: str
    axis: str
    form: str
    columns: Mapping[str, str]


TRACES = (
    Trace(
        "training_curves",
        "Training and validation accuracy",
        "Accuracy",
        ".0%",
        {"training": "train_accuracy", "validation": "val_accuracy"},
    ),
    Trace(
        "training_auc",
        "Training and validation mean AUC",
        "Mean AUC",
        ".2f",
        {"training": "train_auc", "validation": "val_auc"},
    ),
    Trace(
        "training_loss",
        "Training and validation loss",
        "Loss",
        ".3~g",
        {"training": "train_loss", "validation": "val_loss"},
    ),
)
MEASURED = (
    "Training {metric}: on up to 10,000 clean training images, at the end of each epoch. Training "
    "loss: on the images as the recipe changes them."
)


def read_trace(contents: Contents, trace: Trace) -> list[dict[str, Any]]:
    """Read the numbers of each epoch that a figure draws; None where one is infinite."""
    return [
        {
            "title": title,
            "seed": seed,
            "epoch": int(epoch),
            "part": part,
            "value": float(f"{value:.10g}") if math.isfinite(value) else None,
        }
        for title, seed, epochs in read_histories(contents)
        for part, column in trace.columns.items()
        if column in epochs
        for epoch, value in epochs[["epoch", column]].dropna().to_numpy(float).tolist()
    ]


def draw_training(contents: Contents, trace: Trace) -> Figure | None:
    """Draw training and validation numbers of each epoch, one panel a model, one line a seed."""
    rows = read_trace(contents, trace)
    if not rows:
        return None
    trained, seeds = ({row[key] for row in rows} for key in ("title", "seed"))
    titles = [title for title in contents.titles.values() if title in trained]
    last = max(row["epoch"] for row in rows)
    epochs = alt.Axis(values=list(range(1, last + 1, max(1, last // 8))), format="d")
    axis = alt.Axis(format=trace.form, tickCount=5, tickMinStep=0.01)
    legend = alt.Legend(
        title=None,
        orient="top",
        symbolType="stroke",
        symbolSize=400,
        symbolStrokeColor=INK,
        symbolStrokeWidth=2,
    )
    splits = alt.Scale(domain=["validation", "training"], range=[SOLID, DASHED])
    columns = min(len(titles), 4 if len(titles) != 4 else 2)
    header = alt.Header(title=None, labelLimit=ROW_WIDTH // columns, labelAnchor="start")
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_line(strokeWidth=1.6, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=epochs),
            y=alt.Y("value:Q", title=trace.axis, axis=axis, scale=alt.Scale(zero=False)),
            color=color_models(contents.titles.values(), contents.positions),
            strokeDash=alt.StrokeDash("part:N", scale=splits, legend=legend),
            detail=alt.Detail("seed:N"),
        )
        .properties(width=(ROW_WIDTH - 30 * (columns - 1)) // columns, height=210)
        .facet(alt.Facet("title:N", sort=titles, header=header), columns=columns, spacing=30)
    )
    several = len(seeds) > 1
    measured = MEASURED.format(metric="mean AUC" if FINDINGS in contents.kinds else "accuracy")
    note = f"one line for each of seeds {', '.join(contents.seeds)}" if several else "one run each"
    return render_figure(
        trace.name,
        chart,
        trace.title,
        [f"By epoch; {note}.", measured],
        f"{trace.title} against the epoch. {measured} One panel for each of: {'; '.join(titles)}.",
    )


def compare_settings(contents: Contents) -> Iterator[tuple[str, list[str]]]:
    """Name each setting that has an effect for some model, with its value for every model."""
    recipes, starts = read_recipes(contents), read_starts(contents)
    models = []
    for name in contents.titles:
        base = base_model(name)
        entry: dict[str, object] = dict(contents.models[base].settings)
        recipe = _drop_idle_settings(recipes.get(base, {}))
        tuning = {key: entry.pop(key, None) for key in ("sweep", "sweep_metric")}
        start = {"started_from": starts.get(base, {})} if starts else {}
        described = entry | start | {"recipe": recipe} | (tuning if tuning["sweep"] else {})
        models.append(dict(flatten_facts(described)))
    keys = dict.fromkeys(key for model in models for key in model)
    # Where some models have parts of a setting, these parts show that the others have none of it.
    parents = {key.rpartition(".")[0] for key in keys}
    for key in (key for key in keys if key not in parents):
        yield key, [model.get(key, ABSENT) for model in models]


def _drop_idle_settings(recipe: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Leave out settings that have no effect beside the others, and write rotation as one."""
    schedule = recipe.get("schedule")
    idle = {
        "momentum": recipe.get("optimizer") != "sgd",
        "schedule_gamma": schedule not in ("exponential", "step"),
        "schedule_step": schedule != "step",
    }
    kept = {key: value for key, value in recipe.items() if not idle.get(key)}
    match kept.get("rotation"):
        case {"degrees": degrees, "probability": probability}:
            kept["rotation"] = f"{degrees:g}°, p = {probability:g}"
    return kept


def _training_figures(contents: Contents) -> Iterator[Figure | None]:
    yield from (draw_training(contents, trace) for trace in TRACES)
    yield draw_mixup(contents.samples) if contents.samples else None
    yield draw_pretraining(contents)
    yield draw_correlations(contents)


def _show_training(contents: Contents, _: Tables) -> PartView | None:
    times, settings = read_times(contents), list(compare_settings(contents))
    if not times and len(contents.models) == 1:
        return None
    facts = {
        "figures": [trace.name for trace in TRACES] + ["mixup", "pretraining", "cross_correlation"],
        "times": times,
        "timed": any(row["time"] != ABSENT for row in times),
        "settings": [(key, values) for key, values in settings if len(set(values)) > 1],
        "tries": read_tries(contents),
    }
    return PartView(template="training.html.j2", facts=facts)


TRAINING = ReportPart(_show_training, figures=_training_figures, accepts=None)
