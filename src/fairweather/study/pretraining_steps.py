"""Pre-training as steps of a run: each done once, resumable by epoch, and shared by models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy.typing as npt
import pandas as pd

from fairweather import models
from fairweather.devices import training_precision
from fairweather.progress import Event
from fairweather.study.context import Context
from fairweather.study.entries import PretrainingEntry
from fairweather.study.resuming import (
    as_safetensors,
    drop_state,
    pretraining_folder,
    read_state,
    write_state,
)
from fairweather.study.training_plans import model_spec
from fairweather.training.selfsupervised import PretrainingEpoch, Probe, pretrain
from fairweather.types import Dataset

# Raised when pre-training makes something else of the same inputs.
VERSION = 1
CORRELATION = "correlation.json"
DECIMALS = 4  # of a correlation that is only drawn


class Start(NamedTuple):
    """A pre-training to be done with one seed, and the data that it is done on."""

    name: str
    entry: PretrainingEntry
    seed: int
    folder: str
    title: str
    dataset: Dataset
    digest: str


def pretrainings(context: Context) -> Iterator[Event]:
    """Do every pre-training of a study, with each seed that has its own."""
    for name, entry in context.study.pretraining.items():
        own = context.study.seeds if entry.seed is None else [entry.seed]
        for seed in own:
            title = f"{entry.title}, seed {seed}" if len(own) > 1 else entry.title
            folder = pretraining_folder(context, name, seed)
            images = context.pretraining_images[name]
            yield from _pretrain_step(
                context, Start(name, entry, seed, folder, title, images.dataset, images.digest)
            )


def pretraining_files(context: Context) -> list[str]:
    """What of the pre-trainings the report draws on."""
    files = []
    for name in context.study.pretraining:
        folders = (pretraining_folder(context, name, seed) for seed in context.study.seeds)
        for folder in dict.fromkeys(folders):
            files += [f"{folder}/history.csv", f"{folder}/model.json"]
            if (context.run.path / folder / CORRELATION).is_file():
                files.append(f"{folder}/{CORRELATION}")
    return files


def _pretrain_step(context: Context, start: Start) -> Iterator[Event]:
    run, epochs = context.run, start.entry.recipe.epochs
    task, inputs = f"pre-train {start.title}", _inputs(context, start)
    if run.is_done(start.folder, inputs):
        drop_state(context, start.folder)
        yield Event(task, epochs, epochs, "done before")
        return
    state = read_state(context, start.folder, inputs)
    yield Event(task, len(state["history"]) if state else 0, epochs)
    classifier = models.build(_spec(start), start.seed, offline=context.offline)
    encoder = models.encoder_of(classifier, start.entry.backbone)
    assert start.dataset.train is not None
    last: PretrainingEpoch | None = None
    for last in pretrain(
        encoder.module,
        start.dataset.train,
        start.entry.recipe,
        features=encoder.features,
        probe=_probe(context),
        seed=start.seed,
        device=context.device,
        precision=training_precision(context.study.precision, context.device),
        state=state,
    ):
        write_state(context, start.folder, inputs, last.state)
        yield Event(task, len(last.history), epochs, _note(last.history[-1]))
    assert last is not None
    run.finish(start.folder, inputs, _store(context, start, last, classifier))
    drop_state(context, start.folder)


def _spec(start: Start) -> models.ModelSpec:
    return model_spec(start.dataset, start.entry)


def _probe(context: Context) -> Probe:
    """The study's own images tell how good the features are for it, whatever they were made of."""
    assert context.dataset.train is not None
    assert context.dataset.val is not None
    return Probe(context.dataset.train, context.dataset.val)


def _note(row: dict[str, float]) -> str:
    return (
        f"k-NN accuracy {row['knn_accuracy']:.1%}, loss {row['train_loss']:.3g}, "
        f"embedding's deviation {row['embedding_std']:.2f}"
    )


def _inputs(context: Context, start: Start) -> dict[str, Any]:
    """Everything that a pre-training depends on: its fingerprint."""
    spec = _spec(start)
    return {
        "version": VERSION,
        "images": start.digest,
        "probe": [context.digests.get("train"), context.digests.get("val")],
        "spec": models.spec_facts(spec),
        "weights": models.weights_digest(spec, offline=context.offline),
        "recipe": asdict(start.entry.recipe),
        "seed": start.seed,
        "precision": training_precision(context.study.precision, context.device),
        **context.machine,
    }


def _store(
    context: Context, start: Start, last: PretrainingEpoch, classifier: models.Classifier
) -> list[str]:
    """Write what a pre-training made; returns the names of the files."""
    train = start.dataset.train
    assert train is not None
    facts = {
        "title": start.entry.title,
        "data": start.dataset.name,
        "images": len(train),
        "labels_used": start.entry.recipe.method == "supervised",
        "seed": start.seed,
        "recipe": asdict(start.entry.recipe),
        "weights": models.weights_facts(_spec(start), offline=context.offline),
        "precision": training_precision(context.study.precision, context.device),
        **{key: last.history[-1][key] for key in ("epoch", "knn_accuracy", "embedding_std")},
    }
    weights = models.state_without_head(classifier, start.entry.backbone)
    files: dict[str, bytes | str] = {
        "model.safetensors": as_safetensors(weights),
        "model.json": models.model_json(_spec(start), facts),
        "history.csv": pd.DataFrame(last.history).to_csv(index=False),
    }
    if last.correlation is not None and last.correlation_before is not None:
        matrices = {"before": last.correlation_before, "after": last.correlation}
        files[CORRELATION] = json.dumps({key: _rows(m) for key, m in matrices.items()})
    for name, content in files.items():
        context.run.write(f"{start.folder}/{name}", content)
    return [f"{start.folder}/{name}" for name in files]


def _rows(matrix: npt.NDArray[Any]) -> list[list[float]]:
    rows: list[list[float]] = matrix.round(DECIMALS).tolist()
    return rows
