"""Studies: train models with recipes, and measure them under shifts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from fairweather.devices import resolve_device
from fairweather.display import shows_progress, teller
from fairweather.errors import InputError
from fairweather.executor_options import LOCAL, Sharing, read_sharing
from fairweather.executors import device_of
from fairweather.finished_run import Run
from fairweather.group import check_launched, launched
from fairweather.options import takes
from fairweather.progress import Event, Notify
from fairweather.running import Inputs, carry_out, outlook
from fairweather.running.executing import check_out
from fairweather.running.inputs import open_all
from fairweather.steps.measuring import facts_of, survey
from fairweather.steps.plan import DATA
from fairweather.steps.progressing import Outlook
from fairweather.steps.worker import check_natural
from fairweather.study.loading import check_study as check_study
from fairweather.study.loading import load_study as load_study
from fairweather.study.loading import packaged_studies as packaged_studies
from fairweather.study.loading import study_facts as study_facts
from fairweather.study.planning import data_sources, inputs_of, settings_of
from fairweather.study.processes import for_processes, own_device
from fairweather.study.processes import helps_another as helps_another
from fairweather.study.schema import PRETRAINING
from fairweather.study.schema import Study as Study
from fairweather.study.trial import try_out


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
    checked, devices = for_processes(checked, asked.devices, asked.nodes, strategy)
    if checked.processes > 1 and shared.is_divided:
        raise InputError(
            f"{checked.processes} processes train each network together; that goes without "
            "worker, jobs and executor"
        )
    target = device_of(
        shared,
        device,
        threads=checked.threads,
        precision=checked.precision,
        written="--set {name}={value}",
    )
    if shared.kind == LOCAL and not shared.worker:
        check_launched(launched(), devices, asked.nodes)
    if checked.processes > 1:
        threads = checked.threads or torch.get_num_threads()
        target = own_device(target, devices, threads, checked.sync_batchnorm)
    path, tell = Path("runs") / checked.name if out is None else Path(out), teller(progress)
    check_out(path)
    inputs = opened(checked, target, offline, tell)
    return carry_out(inputs, path, shared, tell, offline=offline, replace=replace)


def opened(study: Study, device: torch.device, offline: bool, tell: Notify) -> Inputs:
    """Load the data of a study, and try everything on one image."""
    tell(Event("load data", 0, 1))
    datasets = open_all(data_sources(study), offline=offline, progress=tell)
    own = datasets[DATA]
    starts = {name: datasets.get(f"{PRETRAINING}{name}", own) for name in study.pretraining}
    try_out(study, settings_of(study, device), own, starts, offline)
    check_natural(datasets, allow_duplicates=study.data.allow_duplicates, progress=tell)
    tell(Event("load data", 1, 1, f"{len(own.test)} test images"))
    facts = {name: facts_of(dataset) for name, dataset in datasets.items()}
    return inputs_of(study, facts, device, datasets=datasets, offline=offline)


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
    facts = survey(data_sources(checked), offline=offline, progress=teller(progress))
    inputs = inputs_of(checked, facts, resolve_device(device), offline=offline)
    return outlook(inputs, None if out is None else Path(out))
