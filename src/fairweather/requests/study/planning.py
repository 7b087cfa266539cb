"""From a study to the inputs of a run: pre-trainings, trainings, and the models to measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace

import torch

from fairweather.data.groups import natural_columns
from fairweather.data.loading import tested_share
from fairweather.devices import Arithmetic, training_precision
from fairweather.errors import InputError
from fairweather.files.yamlfile import dump_yaml
from fairweather.models.building import ModelSpec, check_channels, weights_digest
from fairweather.models.checkpoints import PUBLISHED_WEIGHTS
from fairweather.requests.inputs import (
    ClassSettings,
    Inputs,
    Settings,
    Trainings,
    check_operating_points,
    model_label,
)
from fairweather.requests.study.schema import (
    PRETRAINING,
    DataEntry,
    ModelEntry,
    NetworkEntry,
    Study,
)
from fairweather.steps.measurement import DataFacts, MeasuredModel
from fairweather.steps.plan import (
    DATA,
    NATURAL_DATA,
    ChooseStep,
    EnsembleNetwork,
    InterpolatedNetwork,
    PlannedDataset,
    PretrainStep,
    Step,
    TrainedNetwork,
    TrainStep,
    pretraining_files,
    training_files,
)
from fairweather.training.recipe import Recipe
from fairweather.types.measurement import Dataset, format_number
from fairweather.types.options import DataOptions, GroupColumns, Preparation, slice_name
from fairweather.types.record import (
    DESCRIPTION,
    DIVERGED,
    ENSEMBLE,
    HISTORY,
    PROBED,
    STUDY,
    TEST,
    WEIGHTS,
    ModelRecord,
    chosen_recipe,
    model_folder,
    pretraining_folder,
    sweep_table,
    try_folder,
)


def make_study_settings(study: Study, device: torch.device) -> Settings:
    """How the models of a study are measured; operating points are checked with the classes."""
    arithmetic = Arithmetic(study.prediction_precision, study.cudnn_benchmark)
    arithmetic.check(device)
    return Settings(
        shifts=tuple(study.all_shifts()),
        fit_on=study.fit_on_shifts(),
        threads=study.threads or torch.get_num_threads(),
        device=device,
        variants=study.all_variants(),
        shift_seed=study.shift_seed,
        batch_size=study.prediction_batch_size,
        arithmetic=arithmetic,
        bootstrap=study.bootstrap,
        classes=ClassSettings(study.ordered_classes, operating_points=study.operating_points),
    )


def make_study_inputs(
    study: Study,
    facts: Mapping[str, DataFacts],
    device: torch.device,
    *,
    datasets: Mapping[str, Dataset] | None = None,
    offline: bool = False,
) -> Inputs:
    """What a study measures, after the trainings that it puts first.

    Args:
        study: a checked study.
        facts: facts of its data sets, by their names in `data_sources`.
        device: where the steps run.
        datasets: the data sets, if they are open.
        offline: do not look for weights outside the cache.
    """
    check_operating_points(study.operating_points, facts[DATA].classes)
    settings = make_study_settings(study, device)
    planner = _StudyPlanner(study, facts, settings, offline)
    models = [
        each for name, entry in study.models.items() for each in planner.measured(name, entry)
    ]
    return Inputs(
        kind="study",
        name=study.name,
        title=study.title,
        description=study.description,
        sources=data_sources(study),
        facts=facts,
        datasets=datasets or {},
        models=models,
        described={name: _describe_entry(entry) for name, entry in study.models.items()},
        seeds=tuple(study.seeds),
        settings=settings,
        trainings=planner.trainings(),
        files={STUDY: dump_yaml(study.model_dump(mode="json"))},
    )


def data_sources(study: Study) -> dict[str, PlannedDataset]:
    """The data sets of a study: its own is `data`, that of a pre-training `pretraining:NAME`.

    Other images of the same classes are `natural:NAME`, and are read as its own.
    """
    found = {DATA: _make_source(study.data)}
    for name, entry in study.pretraining.items():
        if entry.data is not None:
            found[f"{PRETRAINING}{name}"] = _make_source(entry.data)
    groups = natural_columns(found[DATA].groups, study.natural)
    for name, source in study.natural.items():
        other = PlannedDataset(
            groups=groups.get(name),
            source=source,
            parts=(TEST,),
            root=study.data.root,
            test_fraction=tested_share(source),
            skip_unreadable=study.data.skip_unreadable,
            scale=study.data.scale,
        )
        found[f"{NATURAL_DATA}{name}"] = _add_preparation(other, study.data)
    return found


def _make_source(entry: DataEntry) -> PlannedDataset:
    given = {each.name: getattr(entry, each.name) for each in fields(DataOptions)}
    if entry.groups is not None:
        asked = entry.groups.model_dump() | {"slices": tuple(map(slice_name, entry.groups.slices))}
        given["groups"] = GroupColumns(**asked)
    return _add_preparation(PlannedDataset(source=entry.source, **given | {"size": None}), entry)


def _add_preparation(source: PlannedDataset, entry: DataEntry) -> PlannedDataset:
    """Say how images become square."""
    if entry.fit == "crop":
        return replace(source, size=entry.size)
    if entry.size is None:
        raise InputError(
            f"data.fit: {entry.fit} needs data.size, the height and width of the resized images"
        )
    return replace(source, preparation=Preparation(entry.size, fit=entry.fit))


def _describe_entry(entry: NetworkEntry) -> ModelRecord:
    settings = entry.model_dump(mode="json", exclude={"title"})
    return ModelRecord(title=entry.title, settings=settings)


def make_model_spec(entry: NetworkEntry, classes: int) -> ModelSpec:
    """The network of an entry; `mean` and `std` are None unless the entry gives them."""
    return ModelSpec(
        backbone=entry.backbone,
        classes=classes,
        weights=entry.weights,
        stem=entry.stem,
        input_size=entry.input_size,
        mean=None if entry.mean is None else check_channels("mean", entry.mean),
        std=None if entry.std is None else check_channels("std", entry.std),
        norm=entry.norm,
        pooling=entry.pooling,
        width=entry.width,
        weights_sha256=entry.weights_sha256,
    )


def has_own_statistics(entry: NetworkEntry) -> bool:
    """Say whether a network is normalised by the statistics of the training images.

    A network without weights is; weights come with the statistics that they were trained with.
    """
    return entry.mean is None and entry.weights == "none"


def interpolated_name(name: str, share: float | None) -> str:
    """Name a model, or its interpolation: `share` of the way from probed to fine-tuned weights."""
    return name if share is None else f"{name}+interpolated-{format_number(share)}"


def _describe_share(share: float) -> str:
    return f"weights {100 * share:.6g}% of the way"


class _StudyPlanner:
    """Makes the steps of one study."""

    def __init__(
        self, study: Study, facts: Mapping[str, DataFacts], settings: Settings, offline: bool
    ) -> None:
        self.study, self.facts, self.settings, self.offline = study, facts, settings, offline
        self.data = facts[DATA]
        self.precision = training_precision(study.precision, settings.device)

    def trainings(self) -> Trainings:
        """Everything before the measurements."""
        study = self.study
        before = [each for name in study.pretraining for each in self._pretrainings(name)]
        trained = [each for name, of in study.models.items() for each in self._trainings(name, of)]
        tries = [each for entry in study.models.values() for each in entry.tries()]
        return Trainings(
            steps=(*before, *trained),
            reports=tuple(self._reported()),
            mixup=any(each.recipe.mixup > 0 for each in tries),
            pretraining={name: _describe_entry(entry) for name, entry in study.pretraining.items()},
            seen_shifts=study.seen_shifts(),
            precision=study.precision,
        )

    def _reported(self) -> Iterator[str]:
        """The files of trainings that the report needs; tries only tell which machines ran them."""
        for name, start in self.study.pretraining.items():
            for seed in self._pretraining_seeds(name):
                files = pretraining_files(pretraining_folder(name, seed), start.recipe)
                yield from (file for file in files if not file.endswith(WEIGHTS))
        for name, entry in self.study.models.items():
            for seed in self.study.seeds:
                folder = model_folder(name, seed)
                yield from (f"{folder}/{HISTORY}", f"{folder}/{DESCRIPTION}")
            if entry.sweep:
                yield sweep_table(name)
                for number in range(1, len(entry.tries()) + 1):
                    folder = try_folder(name, number)
                    yield from (f"{folder}/{DESCRIPTION}", f"{folder}/{DIVERGED}")

    def _pretraining_seeds(self, name: str) -> list[int]:
        own = self.study.pretraining[name].seed
        return self.study.seeds if own is None else [own]

    def _pretrainings(self, name: str) -> Iterator[Step]:
        entry, seeds = self.study.pretraining[name], self._pretraining_seeds(name)
        data = DATA if entry.data is None else f"{PRETRAINING}{name}"
        facts = self.facts[data]
        for seed in seeds:
            folder = pretraining_folder(name, seed)
            title = model_label(entry.title, seed, seeds)
            spec = make_model_spec(entry, len(facts.classes))
            yield PretrainStep(
                id=folder,
                task=f"pre-train {title}",
                leaves=tuple(pretraining_files(folder, entry.recipe)),
                threads=self.settings.threads,
                device=self.settings.device.type,
                work=entry.recipe.epochs * facts.images.get("train", 0) * 2,
                memory=facts.bytes_of("train") + self.data.bytes_of("val"),
                folder=folder,
                title=entry.title,
                seed=seed,
                images=facts.reference("train", data),
                probe=(self.data.reference("train"), self.data.reference("val")),
                spec=spec,
                own_statistics=has_own_statistics(entry),
                weights=self._weights(spec),
                recipe=entry.recipe,
                precision=self.precision,
                processes=self.study.processes,
                sync_batchnorm=self.study.sync_batchnorm,
            )

    def _trainings(self, name: str, entry: ModelEntry) -> Iterator[Step]:
        """The trainings of a model: the tries of its sweep, the choice, and then every seed."""
        tries, table = entry.tries(), sweep_table(name)
        folders = [try_folder(name, number) for number in range(1, len(tries) + 1)]
        recipes = tuple(each.recipe for each in tries)
        if not entry.sweep:
            for seed in self.study.seeds:
                yield self._train(name, entry, model_folder(name, seed), seed, recipes[0])
            return
        first = self.study.seeds[0]
        for number, (folder, each) in enumerate(zip(folders, tries, strict=True), start=1):
            step = self._train(name, entry, folder, first, each.recipe)
            yield step.model_copy(
                update={
                    "task": f"train {entry.title}, try {number} of {len(tries)}",
                    "leaves": (),
                    "may_leave": (*_possible_files(folder), f"{folder}/{DIVERGED}"),
                    "may_diverge": True,
                }
            )
        described = [f"{folder}/{file}" for folder in folders for file in (DESCRIPTION, DIVERGED)]
        yield ChooseStep(
            id=f"models/{name}/sweep",
            task=f"choose {entry.title}",
            reads=tuple(described),
            leaves=(table, chosen_recipe(name)),
            threads=self.settings.threads,
            title=entry.title,
            values=tuple(each.values for each in tries),
            folders=tuple(folders),
            metric=entry.sweep_metric,
        )
        for seed in self.study.seeds:
            folder = model_folder(name, seed)
            step = self._train(name, entry, folder, seed, None)
            taken = [file for each in folders for file in _possible_files(each)]
            over = seed == first
            yield step.model_copy(
                update={
                    "reads": (*(taken if over else step.reads), chosen_recipe(name)),
                    "leaves": tuple(training_files(folder, probed=False)),
                    "may_leave": (f"{folder}/{PROBED}",),
                    "choice": chosen_recipe(name),
                    "tries": tuple(folders) if over else (),
                    "work": 0 if over else step.work * max(r.epochs for r in recipes),
                }
            )

    def _train(
        self, name: str, entry: ModelEntry, folder: str, seed: int, recipe: Recipe | None
    ) -> TrainStep:
        spec = make_model_spec(entry, len(self.data.classes))
        start, reads = None, list[str]()
        if entry.pretraining is not None:
            made = pretraining_folder(entry.pretraining, self._started(entry.pretraining, seed))
            reads = [start := f"{made}/{WEIGHTS}", f"{made}/{DESCRIPTION}"]
        title = model_label(entry.title, seed, self.study.seeds)
        images = self.data.images.get("train", 0) * entry.label_fraction
        return TrainStep(
            id=folder,
            task=f"train {title}",
            reads=tuple(reads),
            leaves=tuple(training_files(folder, probed=recipe is not None and _is_probed(recipe))),
            threads=self.settings.threads,
            device=self.settings.device.type,
            work=round(images * (recipe.epochs if recipe else 1)),
            memory=self.data.bytes_of("train") + self.data.bytes_of("val"),
            folder=folder,
            seed=seed,
            train=self.data.reference("train"),
            val=self.data.reference("val"),
            spec=spec,
            own_statistics=has_own_statistics(entry),
            start=start,
            weights=entry.weights if start else self._weights(spec),
            recipe=recipe,
            train_shifts=tuple(shift.id for shift in entry.training_shifts()),
            label_fraction=entry.label_fraction,
            label_noise=entry.label_noise,
            label_seed=self.study.data.seed if entry.changes_labels else None,
            precision=self.precision,
            processes=self.study.processes,
            sync_batchnorm=self.study.sync_batchnorm,
        )

    def _started(self, pretraining: str, seed: int) -> int:
        own = self.study.pretraining[pretraining].seed
        return seed if own is None else own

    def _weights(self, spec: ModelSpec) -> str | None:
        """The digest of published weights or of a file; None until they are downloaded."""
        fetched = spec.weights.startswith(("http://", "https://"))
        if fetched or spec.weights in ("lite0", *PUBLISHED_WEIGHTS):
            with suppress(InputError):
                return weights_digest(spec, offline=True)
            return None
        return weights_digest(spec, offline=self.offline)

    def measured(self, name: str, entry: ModelEntry) -> list[MeasuredModel]:
        """All measurements of a model: first those of the model itself, then of each interpolation.

        Each of these comes with every seed, then with the ensemble of all seeds if the study asks
        for it.
        """
        found: list[MeasuredModel] = []
        for share in (None, *entry.interpolations):
            each = [self._one(name, entry, seed, share) for seed in self.study.seeds]
            found += each
            if self.study.ensemble:
                found.append(_make_ensemble(each))
        return found

    def _one(self, name: str, entry: ModelEntry, seed: int, share: float | None) -> MeasuredModel:
        folder, label = model_folder(name, seed), model_label(entry.title, seed, self.study.seeds)
        if share is None:
            return MeasuredModel(name, seed, entry.title, label, TrainedNetwork(folder=folder))
        return MeasuredModel(
            interpolated_name(name, share),
            seed,
            f"{entry.title}, {_describe_share(share)}",
            f"{label}, {_describe_share(share)}",
            InterpolatedNetwork(folder=folder, share=share),
        )


def _make_ensemble(members: list[MeasuredModel]) -> MeasuredModel:
    first = members[0]
    networks = [each.network for each in members]
    return replace(
        first,
        seed=ENSEMBLE,
        label=f"{first.title}, ensemble of {len(members)}",
        network=EnsembleNetwork(
            members=tuple(
                n for n in networks if isinstance(n, TrainedNetwork | InterpolatedNetwork)
            )
        ),
        members=tuple(members),
    )


def _is_probed(recipe: Recipe) -> bool:
    return 0 < recipe.probe_epochs < recipe.epochs


def _possible_files(folder: str) -> list[str]:
    return training_files(folder, probed=True)
