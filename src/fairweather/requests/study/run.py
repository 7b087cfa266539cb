"""Plan and run studies: train models with recipes, and measure them under shifts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path

import torch

from fairweather.data.groups import natural_columns
from fairweather.data.loading import tested_share
from fairweather.data.splits import check_has_classes
from fairweather.devices import check_cores, resolve_device, training_precision
from fairweather.errors import InputError
from fairweather.inference.prediction import predict
from fairweather.models.backbones import make_encoder
from fairweather.models.building import ModelSpec, build, check_channels, find_head, weights_digest
from fairweather.models.checkpoints import PUBLISHED_WEIGHTS
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.report.finished_run import Run
from fairweather.requests.checks import (
    check_measurement,
    list_parts,
)
from fairweather.requests.execution import check_run_folder, execute_run, make_outlook
from fairweather.requests.inputs import (
    Inputs,
    Trainings,
    describe_published_files,
    model_label,
    note_streams,
    open_datasets,
    pair_published_files,
    try_model,
    try_settings,
    try_shifts,
)
from fairweather.requests.settings import add_class_settings, add_unit, make_settings
from fairweather.requests.study.schema import (
    PRETRAINING,
    DataEntry,
    ModelEntry,
    NetworkEntry,
    PretrainingEntry,
    Study,
    load_study,
    write_study,
)
from fairweather.steps.measurement import (
    DataFacts,
    MeasuredModel,
    Settings,
    collect_facts,
    survey_sources,
)
from fairweather.steps.outlook import Outlook
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
from fairweather.steps.training import (
    pretraining_loss,
    training_attack,
    training_loss,
    with_statistics,
)
from fairweather.steps.worker import check_natural
from fairweather.tasks import find_task
from fairweather.training.fabric import check_launch, find_launcher
from fairweather.training.recipe import Recipe
from fairweather.training.selfsupervised.methods import METHODS
from fairweather.training.supervised import RotationTask, check_square_images
from fairweather.types.measurement import Dataset, Images, format_number
from fairweather.types.options import DataOptions, GroupColumns, Preparation, normalize_slice, takes
from fairweather.types.positive import list_positive
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
from fairweather.workers.executors import choose_device
from fairweather.workers.options import LOCAL, Sharing, read_sharing


def make_study_settings(study: Study, device: torch.device) -> Settings:
    """How the models of a study are measured, but for what needs the classes."""
    groups = study.data.groups
    return make_settings(study, study.all_shifts(), device, groups.sites if groups else ())


def make_study_inputs(
    study: Study,
    facts: Mapping[str, DataFacts],
    device: torch.device,
    *,
    datasets: Mapping[str, Dataset] | None = None,
    offline: bool = False,
) -> Inputs:
    """Make the inputs of a study: its trainings, and what it measures afterwards.

    Args:
        study: a checked study.
        facts: facts of its data sets, by their names in `data_sources`.
        device: where the steps run.
        datasets: the data sets, if they are open.
        offline: do not look for weights outside the cache.
    """
    task = find_task(facts[DATA].task)
    classes, ordered = facts[DATA].classes, study.ordered_classes or facts[DATA].ordered
    settings = make_study_settings(study, device)
    settings = add_class_settings(settings, study, classes, task, ordered=ordered)
    lines: list[str] = []
    if datasets:
        settings = pair_published_files(settings, datasets[DATA])
        published = describe_published_files(settings, datasets[DATA])
        notes = note_streams(settings, datasets[DATA])
        name = datasets[DATA].name
        units = check_measurement(
            settings, list_parts(datasets), task, classes, name=name, ordered=ordered
        )
        lines = [*units, *published, *notes]
    planner = _StudyPlanner(study, facts, settings, offline)
    models = [
        measured
        for name, entry in study.models.items()
        for measured in planner.measured(name, entry)
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
        records={name: _describe_entry(entry) for name, entry in study.models.items()},
        seeds=tuple(study.seeds),
        settings=settings,
        trainings=planner.trainings(),
        lines=lines,
        files={STUDY: write_study(study)},
    )


def data_sources(study: Study) -> dict[str, PlannedDataset]:
    """The data sets of a study: its own is `data`, that of a pre-training `pretraining:NAME`.

    Other images of the same classes are `natural:NAME`, and are read as its own.
    """
    sources = {DATA: _make_source(study.data, study.unit)}
    for name, entry in study.pretraining.items():
        if entry.data is not None:
            sources[f"{PRETRAINING}{name}"] = _make_source(entry.data)
    groups = natural_columns(sources[DATA].groups, study.natural)
    for name, source in study.natural.items():
        planned = PlannedDataset(
            groups=groups.get(name),
            source=source,
            parts=(TEST,),
            root=study.data.root,
            test_fraction=tested_share(source),
            skip_unreadable=study.data.skip_unreadable,
            scale=study.data.scale,
        )
        sources[f"{NATURAL_DATA}{name}"] = _add_preparation(planned, study.data)
    return sources


def _make_source(entry: DataEntry, unit: str | None = None) -> PlannedDataset:
    given = {option.name: getattr(entry, option.name) for option in fields(DataOptions)}
    given["positive"] = list_positive(entry.positive)
    if entry.groups is not None:
        asked = entry.groups.model_dump(exclude={"sites"})
        slices = map(normalize_slice, (*entry.groups.slices, *entry.groups.sites))
        asked["slices"] = tuple(dict.fromkeys(slices))
        given["groups"] = add_unit(GroupColumns(**asked), unit)
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


class _StudyPlanner:
    """Plans the trainings of one study."""

    def __init__(
        self, study: Study, facts: Mapping[str, DataFacts], settings: Settings, offline: bool
    ) -> None:
        self.study, self.facts, self.settings, self.offline = study, facts, settings, offline
        self.data = facts[DATA]
        self.precision = training_precision(study.training_precision, settings.device)

    def trainings(self) -> Trainings:
        """Everything before the measurements."""
        study = self.study
        before = [step for name in study.pretraining for step in self._pretrainings(name)]
        trained = [
            step for name, entry in study.models.items() for step in self._trainings(name, entry)
        ]
        tries = [attempt for entry in study.models.values() for attempt in entry.tries()]
        return Trainings(
            steps=(*before, *trained),
            reports=tuple(self._reported()),
            mixup=any(attempt.recipe.mixup > 0 for attempt in tries),
            pretraining={name: _describe_entry(entry) for name, entry in study.pretraining.items()},
            seen_shifts=study.seen_shifts(),
            precision=study.training_precision,
        )

    def _reported(self) -> Iterator[str]:
        """The files of trainings that the report needs; tries only show which machines ran them."""
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
        fixed = self.study.pretraining[name].seed
        return self.study.seeds if fixed is None else [fixed]

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
                memory=facts.count_bytes("train") + self.data.count_bytes("val"),
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
        recipes = tuple(attempt.recipe for attempt in tries)
        if not entry.sweep:
            for seed in self.study.seeds:
                yield self._train(entry, model_folder(name, seed), seed, recipes[0])
            return
        first = self.study.seeds[0]
        for number, (folder, attempt) in enumerate(zip(folders, tries, strict=True), start=1):
            step = self._train(entry, folder, first, attempt.recipe)
            yield step.model_copy(
                update={
                    "task": f"train {entry.title}, try {number} of {len(tries)}",
                    "leaves": (),
                    "may_leave": (*training_files(folder, probed=True), f"{folder}/{DIVERGED}"),
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
            values=tuple(attempt.values for attempt in tries),
            folders=tuple(folders),
            metric=entry.sweep_metric,
        )
        for seed in self.study.seeds:
            folder = model_folder(name, seed)
            step = self._train(entry, folder, seed, None)
            tried = [file for attempt in folders for file in training_files(attempt, probed=True)]
            over = seed == first
            yield step.model_copy(
                update={
                    "reads": (*(tried if over else step.reads), chosen_recipe(name)),
                    "leaves": tuple(training_files(folder, probed=False)),
                    "may_leave": (f"{folder}/{PROBED}",),
                    "choice": chosen_recipe(name),
                    "tries": tuple(folders) if over else (),
                    "work": 0 if over else step.work * max(r.epochs for r in recipes),
                }
            )

    def _train(self, entry: ModelEntry, folder: str, seed: int, recipe: Recipe | None) -> TrainStep:
        spec = make_model_spec(entry, len(self.data.classes))
        start, reads = None, list[str]()
        if entry.pretraining is not None:
            fixed = self.study.pretraining[entry.pretraining].seed
            origin = pretraining_folder(entry.pretraining, seed if fixed is None else fixed)
            reads = [start := f"{origin}/{WEIGHTS}", f"{origin}/{DESCRIPTION}"]
        is_probed = recipe is not None and 0 < recipe.probe_epochs < recipe.epochs
        title = model_label(entry.title, seed, self.study.seeds)
        images = self.data.images.get("train", 0) * entry.label_fraction
        return TrainStep(
            id=folder,
            task=f"train {title}",
            reads=tuple(reads),
            leaves=tuple(training_files(folder, probed=is_probed)),
            threads=self.settings.threads,
            device=self.settings.device.type,
            work=round(images * (recipe.epochs if recipe else 1)),
            memory=self.data.count_bytes("train") + self.data.count_bytes("val"),
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
        seeds, measured = self.study.seeds, list[MeasuredModel]()
        for share in (None, *entry.interpolations):
            way = "" if share is None else f", weights {100 * share:.6g}% of the way"
            folders = [model_folder(name, seed) for seed in seeds]
            networks = tuple(
                TrainedNetwork(folder=folder)
                if share is None
                else InterpolatedNetwork(folder=folder, share=share)
                for folder in folders
            )
            members = [
                MeasuredModel(
                    interpolated_name(name, share),
                    seed,
                    f"{entry.title}{way}",
                    f"{model_label(entry.title, seed, seeds)}{way}",
                    network,
                )
                for seed, network in zip(seeds, networks, strict=True)
            ]
            measured += members
            if self.study.ensemble:
                ensemble = replace(
                    members[0],
                    seed=ENSEMBLE,
                    label=f"{entry.title}{way}, ensemble of {len(members)}",
                    network=EnsembleNetwork(members=networks),
                    members=tuple(members),
                )
                measured.append(ensemble)
        return measured


# ---------------------------------------------------------------- processes


def is_helper(study: Study, devices: int, nodes: int) -> bool:
    """Say whether this process only helps rank 0 to train, and shows nothing."""
    if max(study.processes, devices * nodes) == 1:
        return False
    environment = find_launcher()
    return environment is not None and environment.global_rank() > 0


def set_processes(study: Study, devices: int, nodes: int) -> tuple[Study, int]:
    """The study with its number of processes, and how many are on each machine."""
    asked = devices * nodes
    if asked == 1:
        return study, study.processes
    if study.processes not in (1, asked):
        raise InputError(
            f"the study says processes: {study.processes}, but {devices} devices on {nodes} nodes "
            f"are {asked}"
        )
    study.check_together(asked)
    return replace(study, processes=asked), devices


def select_device(
    device: torch.device, devices: int, threads: int, sync_batchnorm: bool
) -> torch.device:
    """The device of this process, among several that train together."""
    if device.type == "cuda":
        environment = find_launcher()
        resolve_device(f"cuda:{devices - 1}")  # this machine must have all of them
        return torch.device("cuda", environment.local_rank() if environment else 0)
    if device.type != "cpu":
        raise InputError(f"several processes train on cuda or cpu devices, found {device.type}")
    if sync_batchnorm:
        raise InputError("sync_batchnorm needs cuda devices; this device is cpu")
    check_cores(devices, threads, "processes")
    return device


# ---------------------------------------------------------------- trial


def try_study(
    study: Study, settings: Settings, dataset: Dataset, starts: Mapping[str, Dataset], offline: bool
) -> None:
    """Raise `InputError` for anything in a study that would fail later.

    Args:
        study: a study that is valid in itself.
        settings: how its models are measured.
        dataset: the data of the study.
        starts: the data of its pre-trainings, by their names.
        offline: never use the network.
    """
    for part, images in (("training", dataset.train), ("validation", dataset.val)):
        if images is None:
            raise InputError(
                f"{dataset.name} has no {part} images: a study needs training and validation "
                "images, since test images must not choose a checkpoint"
            )
    loss = training_loss(dataset)
    try_settings(dataset, settings, "a study")
    assert dataset.train is not None
    assert dataset.val is not None
    loss.check(dataset.train, dataset.val)
    image = dataset.test[:1]
    for name, start in study.pretraining.items():
        with _explain_errors(f"pretraining.{name}", start.backbone, starts[name].test):
            _try_pretraining(start, starts[name], offline)
    tried: set[ModelSpec] = set()
    for name, entry in study.models.items():
        spec = _complete_spec(entry, dataset)
        if entry.pretraining is not None:  # the weights that it starts from do not exist yet
            spec = with_statistics(replace(spec, weights="none"), dataset)
        with _explain_errors(f"models.{name}", entry.backbone, image):
            if spec not in tried:
                _try_model(settings, spec, dataset, offline)
            try_shifts(entry.training_shifts(), image, 0)
            if entry.label_noise:
                check_has_classes(dataset.test.labels.numpy(), "label_noise")
            for attempt in entry.tries():
                _try_recipe(attempt.recipe, spec, dataset)
        tried.add(spec)


def _complete_spec(entry: NetworkEntry, dataset: Dataset) -> ModelSpec:
    spec = make_model_spec(entry, len(dataset.classes))
    return with_statistics(spec, dataset) if has_own_statistics(entry) else spec


def _try_pretraining(start: PretrainingEntry, dataset: Dataset, offline: bool) -> None:
    if dataset.train is None:
        raise InputError(f"{dataset.name} has no training images")
    method, loss = METHODS[start.recipe.method], pretraining_loss(start.recipe, dataset)
    height, width = dataset.test.images.shape[2:]
    if start.recipe.method == "rotation" and height != width:
        raise InputError(f"rotation needs square images, found {height}x{width}")
    model = build(_complete_spec(start, dataset), offline=offline)
    encoder = make_encoder(model, start.backbone)
    with torch.random.fork_rng(devices=[]):  # a projector and dropout use random numbers
        method.build(encoder.features, start.recipe, len(dataset.classes), loss)
        encoder.module.train()(dataset.train[:2].images.float() / 255)


def _try_model(settings: Settings, spec: ModelSpec, dataset: Dataset, offline: bool) -> None:
    image, train = dataset.test[:1], dataset.train
    assert train is not None
    model = build(spec, offline=offline)
    find_head(model, spec.backbone)
    predict(model, image, device="cpu", progress=False)
    try_model(model.eval(), settings, dataset)
    with torch.random.fork_rng(devices=[]):  # dropout uses random numbers
        logits = model.train()(train[:2].images.float() / 255)
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"{spec.backbone} does not return plain logits in training mode")


def _try_recipe(recipe: Recipe, spec: ModelSpec, dataset: Dataset) -> None:
    check_square_images(dataset.test, recipe)
    loss = training_loss(dataset)
    assert dataset.train is not None
    loss.weigh(loss.complete(recipe), dataset.train)
    if not (recipe.rotation_prediction or recipe.adversarial):
        return
    model = build(replace(spec, weights="none", weights_sha256=None))
    if recipe.rotation_prediction:
        with torch.random.fork_rng(devices=[]):
            RotationTask(find_head(model, spec.backbone))
    if attack := training_attack(recipe):
        image = dataset.test[:1]
        attack(model, image.images.float() / 255, image.labels, image.keys)


@contextmanager
def _explain_errors(place: str, backbone: str, images: Images) -> Iterator[None]:
    """Put the place in the study before every error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    # Networks fail in different ways on images that they were not made for: transformers with an
    # assertion, many poolings with an empty feature map.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        height, width = images.images.shape[2:]
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{place}: {backbone} cannot take images of {height}x{width} ({reason}); set input_size"
        ) from None


# ---------------------------------------------------------------- run and plan


@shows_progress
@takes(Sharing)
def run(
    study: str | Path | Study,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    models: Sequence[str] = (),
    device: str = "auto",
    offline: bool = False,
    replace: bool = False,
    progress: Notify | bool | None = True,
    **sharing: object,
) -> Run:
    """Run a study: train, predict every cell, score, report; finished steps are not repeated.

    A cell is one set of test images: clean, or one shift or attack at one level.

    Args:
        study: the name of a packaged study, the path of a study file, or a checked `Study`.
        out: the run folder, by default `runs/NAME`; if it holds the same run, the run continues.
        overrides: such as `recipe.epochs=2`; only for a study that is given by name or path.
        models: names of the models to run; by default all of the study.
        device: `auto`, `cpu`, `cuda`, ...
        offline: never use the network.
        replace: redo finished steps that were made with other settings; without it, these raise an
            error.
        jobs: how many processes do independent steps in parallel, by default 1; the results do not
            depend on it. With `device="cuda"` they take the GPUs of this machine in turn. On a CPU
            there must be a core for each thread of each job. On a cluster, it is the maximum number
            of concurrent jobs. The default is one for each step that can be done now (SLURM: at
            most 8; Ray: as many as fit).
        shift_processes: the most processes that shift images ahead of the models; by default none
            on a CPU, and what the cores allow beside a GPU. As many start as the measured speeds
            ask for. The results do not depend on it.
        models_in_memory: the maximum number of models in memory that predict the same shifted
            images; by default as many as fit.
        worker: work in the folder together with other processes, on this or on other machines that
            see the folder, each started with `worker`.
        devices: how many processes of each machine train a network together, each with a device of
            its own; by default what the study's `processes` says. It changes the result. On one
            machine they are started here, otherwise by torchrun or srun, and all of them call this.
        nodes: how many machines do so; all must see the run folder.
        executor: `local`; `slurm`, which submits array jobs; or `ray`, a Ray cluster on this
            machine, or the one that this process is connected to. `ray://HOST:PORT` is another one.
        partition, gpus, time, setup: the settings of each SLURM job: a partition, a GPU as `1` or
            `TYPE:1` (default: none), a time limit and shell commands that run first. The limit is 4
            hours by default; write it as `2:00:00`. At its time limit, a job is submitted again and
            continues.
        progress: show how far it is (`Event` says how).

    Raises:
        InputError: the data, a model, the folder or the cluster does not fit the study. Or the
            machine has too few cores for the jobs, or a process that did steps was killed.
        JobFailedError: a process that did steps failed.
        NeedsMissingError: jobs of a cluster were cancelled.
    """
    shared = read_sharing(sharing)
    shared.check()
    checked = study if isinstance(study, Study) else load_study(study, overrides, models)
    checked, devices = set_processes(checked, shared.devices, shared.nodes)
    if checked.processes > 1 and shared.is_divided:
        raise InputError(
            f"{checked.processes} processes train each network together; that goes without "
            "worker, jobs and executor"
        )
    target = choose_device(
        shared,
        device,
        threads=checked.threads,
        precision=checked.training_precision,
        written="--set {name}={value}",
    )
    if shared.kind == LOCAL and not shared.worker:
        check_launch(find_launcher(), devices, shared.nodes)
    if checked.processes > 1:
        threads = checked.threads or torch.get_num_threads()
        target = select_device(target, devices, threads, checked.sync_batchnorm)
    path, tell = Path("runs") / checked.name if out is None else Path(out), to_notify(progress)
    check_run_folder(path)
    inputs = open_study(checked, target, offline, tell)
    return execute_run(inputs, path, shared, tell, offline=offline, replace=replace)


def open_study(study: Study, device: torch.device, offline: bool, tell: Notify) -> Inputs:
    """Load the data of a study, and try everything on one image."""
    tell(Event("load data", 0, 1))
    datasets = open_datasets(data_sources(study), offline=offline, progress=tell)
    dataset = datasets[DATA]
    starts = {name: datasets.get(f"{PRETRAINING}{name}", dataset) for name in study.pretraining}
    try_study(study, make_study_settings(study, device), dataset, starts, offline)
    check_natural(datasets, allow_duplicates=study.data.allow_duplicates, progress=tell)
    tell(Event("load data", 1, 1, f"{len(dataset.test)} test images"))
    facts = {name: collect_facts(dataset) for name, dataset in datasets.items()}
    return make_study_inputs(study, facts, device, datasets=datasets, offline=offline)


@shows_progress
def plan(
    study: str | Path | Study,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    models: Sequence[str] = (),
    device: str = "auto",
    offline: bool = False,
    progress: Notify | bool | None = True,
) -> Outlook:
    """Plan a study and say which steps are done; nothing is written, and no image is decoded.

    The arguments are those of `run`. Files are listed and the cache is read. If images were never
    decoded, the state of the steps that need them is unknown.

    >>> found = plan("quickstart", out="runs/nowhere", models=["basic"], device="cpu")
    >>> found.table["kind"].value_counts()["train"]  # one per seed
    np.int64(3)
    """
    checked = study if isinstance(study, Study) else load_study(study, overrides, models)
    facts = survey_sources(data_sources(checked), offline=offline, progress=to_notify(progress))
    inputs = make_study_inputs(checked, facts, resolve_device(device), offline=offline)
    return make_outlook(inputs, None if out is None else Path(out))
