"""Runs and plans studies: train models with recipes, and measure them under shifts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from fairweather.devices import check_cores, resolve_device
from fairweather.errors import InputError, unknown_name
from fairweather.inference.prediction import predict
from fairweather.models.backbones import make_encoder
from fairweather.models.building import ModelSpec, build, find_head
from fairweather.progress import Event, Notify, shows_progress, to_notify
from fairweather.report.finished_run import Run
from fairweather.requests.execution import check_run_folder, execute_run, make_outlook
from fairweather.requests.inputs import (
    Inputs,
    Settings,
    check_accepted,
    open_datasets,
    try_model,
    try_shifts,
)
from fairweather.requests.inputs import try_settings as try_settings
from fairweather.requests.study.files import check_study as check_study
from fairweather.requests.study.files import load_study as load_study
from fairweather.requests.study.files import packaged_studies as packaged_studies
from fairweather.requests.study.files import study_facts as study_facts
from fairweather.requests.study.planning import (
    data_sources,
    has_own_statistics,
    make_model_spec,
    make_study_inputs,
    make_study_settings,
)
from fairweather.requests.study.schema import PRETRAINING, NetworkEntry, PretrainingEntry, Study
from fairweather.steps.ledger import Outlook
from fairweather.steps.measurement import collect_facts, survey_sources
from fairweather.steps.plan import DATA
from fairweather.steps.training import training_attack, with_statistics
from fairweather.steps.worker import check_natural
from fairweather.training.ranks import check_launch, find_launcher
from fairweather.training.recipe import Recipe
from fairweather.training.selfsupervised.methods import METHODS
from fairweather.training.supervised import CROSS_ENTROPY, RotationTask, check_square_images
from fairweather.types.measurement import Dataset, Images
from fairweather.types.options import takes
from fairweather.workers.executors import choose_device
from fairweather.workers.options import LOCAL, Sharing, read_sharing

# ---------------------------------------------------------------- studies whose networks are traine


def is_helper(study: Study, devices: int, nodes: int) -> bool:
    """Say whether this process only helps the first of several to train; it has nothing to show."""
    if max(study.processes, devices * nodes) == 1:
        return False
    environment = find_launcher()
    return environment is not None and environment.global_rank() > 0


def set_processes(study: Study, devices: int, nodes: int, strategy: str) -> tuple[Study, int]:
    """The study with so many processes, and how many are on each machine."""
    if strategy != "ddp":
        raise unknown_name("strategy", strategy, ["ddp"])
    if devices < 1 or nodes < 1:
        raise InputError(f"devices and nodes must be at least 1, found {devices} and {nodes}")
    asked = devices * nodes
    if asked == 1:
        return study, study.processes
    if study.processes not in (1, asked):
        raise InputError(
            f"the study says processes: {study.processes}, but {devices} devices on {nodes} nodes "
            f"are {asked}"
        )
    shared = study.model_copy(update={"processes": asked})
    shared.check_together()
    return shared, devices


def select_device(
    device: torch.device, devices: int, threads: int, sync_batchnorm: bool
) -> torch.device:
    """The device of this one of several processes that train together."""
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


# ---------------------------------------------------------------- a trial of a study before anythin


def try_study(
    study: Study,
    settings: Settings,
    dataset: Dataset,
    starts: Mapping[str, Dataset],
    offline: bool,
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
    check_accepted(dataset, [(CROSS_ENTROPY.name, CROSS_ENTROPY.accepts)])
    try_settings(dataset, settings, "a study")
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
            for each in entry.tries():
                _try_recipe(each.recipe, spec, dataset)
        tried.add(spec)


def _complete_spec(entry: NetworkEntry, dataset: Dataset) -> ModelSpec:
    spec = make_model_spec(entry, len(dataset.classes))
    return with_statistics(spec, dataset) if has_own_statistics(entry) else spec


def _try_pretraining(start: PretrainingEntry, dataset: Dataset, offline: bool) -> None:
    if dataset.train is None:
        raise InputError(f"{dataset.name} has no training images")
    method = METHODS[start.recipe.method]
    if method.accepts is not None:
        check_accepted(dataset, [(start.recipe.method, method.accepts)])
    height, width = dataset.test.images.shape[2:]
    if start.recipe.method == "rotation" and height != width:
        raise InputError(f"rotation needs square images, found {height}x{width}")
    model = build(_complete_spec(start, dataset), offline=offline)
    encoder = make_encoder(model, start.backbone)
    with torch.random.fork_rng(devices=[]):  # a projector and dropout use random numbers
        method.build(encoder.features, start.recipe, len(dataset.classes))
        encoder.module.train()(dataset.train[:2].images.float() / 255)


def _try_model(settings: Settings, spec: ModelSpec, dataset: Dataset, offline: bool) -> None:
    image, train = dataset.test[:1], dataset.train
    assert train is not None
    model = build(spec, offline=offline)
    find_head(model, spec.backbone)
    predict(model, image, device="cpu", progress=False)
    try_model(model.eval(), settings, image)
    with torch.random.fork_rng(devices=[]):  # dropout uses random numbers
        logits = model.train()(train[:2].images.float() / 255)
    if not isinstance(logits, torch.Tensor):
        raise InputError(f"{spec.backbone} does not return plain logits in training mode")


def _try_recipe(recipe: Recipe, spec: ModelSpec, dataset: Dataset) -> None:
    check_square_images(dataset.test, recipe)
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
    # Networks fail in different ways with images that they were not made for: transformers with an
    # assertion, many poolings with an empty feature map.
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        height, width = images.images.shape[2:]
        said = str(error).partition("\n")[0]
        raise InputError(
            f"{place}: {backbone} cannot take images of {height}x{width} ({said}); set input_size"
        ) from None


# ---------------------------------------------------------------- studies: train models with recipe


@shows_progress
@takes(Sharing)
def run(
    study: str | Path | Study,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    device: str = "auto",
    offline: bool = False,
    replace: bool = False,
    strategy: str = "ddp",
    progress: Notify | bool | None = True,
    **sharing: object,
) -> Run:
    """Run a study: train, predict every cell, score, report; finished steps are not repeated.

    A cell is one set of test images: clean, or one shift or attack at one level.

    Args:
        study: the name of a packaged study, the path of a study file, or a checked `Study`.
        out: the run folder, by default `runs/NAME`; if it holds the same run, the run continues.
        overrides: such as `recipe.epochs=2`; only for a study that is given by name or path.
        only: names of the models to run.
        device: `auto`, `cpu`, `cuda`, ...
        offline: never use the network.
        replace: redo finished steps that were made with other settings; without it, these raise an
            error.
        jobs: how many processes do independent steps side by side, by default 1; the results do
            not depend on it. There must be a core for each thread of each job. Of a cluster, at
            most so many jobs or places at a time: by default one for each step that can be done
            now, of SLURM at most 8, of Ray as many as it has room for.
        workers: processes that shift images ahead of the networks; by default none on a CPU, and
            up to 8 beside a GPU. The results do not depend on it.
        networks: at most so many networks are kept in memory to predict the same shifted images;
            by default as many as fit.
        worker: work in the folder together with other processes, on this or on other machines that
            see the folder, each started with `worker`.
        devices: how many processes of each machine train a network together, each with a device of
            its own; by default what the study's `processes` says. On one machine they are started
            here, otherwise by torchrun or srun, and all of them call this.
        nodes: how many machines do so; all must see the run folder.
        strategy: how they work together: `ddp`, torch's DistributedDataParallel.
        executor: `local`; `slurm`, which submits array jobs and follows them; `slurm-local`, the
            same jobs on this machine; `ray` for a Ray cluster on this machine, or the one that this
            process is connected to; or `ray://HOST:PORT` for another one.
        partition, gpus, time, setup: what each job of SLURM asks for: a partition; a GPU as `1` or
            `TYPE:1`, by default none; a time limit such as `2:00:00`, by default 4 hours, after
            which a job is submitted again and goes on; shell commands that come first.
        progress: show how far it is (`Event` says how).

    Raises:
        InputError: the data, a model, the folder or the cluster does not fit the study, the machine
            has too few cores for the jobs, or a process that did steps was killed.
        JobFailedError: a process that did steps failed.
        NeedsMissingError: jobs of a cluster were cancelled.
    """
    asked = read_sharing(sharing)
    shared = dataclasses.replace(asked, devices=1)  # these train together, and divide nothing
    shared.check()
    checked = study if isinstance(study, Study) else load_study(study, overrides, only)
    checked, devices = set_processes(checked, asked.devices, asked.nodes, strategy)
    if checked.processes > 1 and shared.is_divided:
        raise InputError(
            f"{checked.processes} processes train each network together; that goes without "
            "worker, jobs and executor"
        )
    target = choose_device(
        shared,
        device,
        threads=checked.threads,
        precision=checked.precision,
        written="--set {name}={value}",
    )
    if shared.kind == LOCAL and not shared.worker:
        check_launch(find_launcher(), devices, asked.nodes)
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
    own = datasets[DATA]
    starts = {name: datasets.get(f"{PRETRAINING}{name}", own) for name in study.pretraining}
    try_study(study, make_study_settings(study, device), own, starts, offline)
    check_natural(datasets, allow_duplicates=study.data.allow_duplicates, progress=tell)
    tell(Event("load data", 1, 1, f"{len(own.test)} test images"))
    facts = {name: collect_facts(dataset) for name, dataset in datasets.items()}
    return make_study_inputs(study, facts, device, datasets=datasets, offline=offline)


@shows_progress
def plan(
    study: str | Path | Study,
    *,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    device: str = "auto",
    offline: bool = False,
    progress: Notify | bool | None = True,
) -> Outlook:
    """Plan a study and say which steps are done; nothing is written, and no image is decoded.

    The arguments are those of `run`. Files are listed and the cache is read. If images were never
    decoded, the state of the steps that need them is unknown.

    >>> found = plan("quickstart", out="runs/nowhere", only=["basic"], device="cpu")
    >>> found.table["kind"].value_counts()["train"]  # one per seed
    np.int64(3)
    """
    checked = study if isinstance(study, Study) else load_study(study, overrides, only)
    facts = survey_sources(data_sources(checked), offline=offline, progress=to_notify(progress))
    inputs = make_study_inputs(checked, facts, resolve_device(device), offline=offline)
    return make_outlook(inputs, None if out is None else Path(out))
