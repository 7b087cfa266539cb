"""Any model on any images, without training anything."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fairweather.devices import Arithmetic, check_cores, resolve_device, workers_for
from fairweather.errors import InputError, check_writable
from fairweather.evaluation.inputs import EvaluationInputs, bring_together
from fairweather.evaluation.planning import (
    SEED,
    all_facts,
    describe_evaluation,
    measured_model,
    measurement_of,
    plan_evaluation,
    run_name,
    try_out,
)
from fairweather.evaluation.priors import check_priors, complete_priors, read_priors
from fairweather.evaluation.request import Request as Request
from fairweather.evaluation_options import EvaluationOptions, check_options
from fairweather.executors import execute, execute_side_by_side
from fairweather.finished_run import Run
from fairweather.inference import check_variant_names
from fairweather.metrics import Resamples, evaluate_resamples, to_score
from fairweather.progress import Event, Notify, silent
from fairweather.record import CLEAN, RECORD, RunRecord, predictions_file
from fairweather.runs import RunFolder, check_takeable, open_run
from fairweather.shift_lists import ShiftLike, clean_and
from fairweather.steps import Worker
from fairweather.steps.image_lists import write_image_lists
from fairweather.steps.progressing import Outlook, begin
from fairweather.types import Dataset


def evaluate(
    model: str | nn.Module,
    dataset: str | Dataset,
    shifts: ShiftLike | Iterable[ShiftLike] = "quick",
    *,
    out: str | Path | None = None,
    replace: bool = False,
    progress: Notify | None = None,
    **options: object,
) -> Run:
    """Measure how accurate and how honest a model stays under shifts and attacks.

    Args:
        model: a module from images in [0, 1], float `[B, 3, H, W]`, to logits or probabilities, or
            any source that `load_model` takes.
        dataset: a `Dataset`, or any source that `load_data` takes. The test split is used, or all
            images if the source has no splits.
        shifts: suites, shifts and attacks, as objects or texts; see `fairweather.shift_lists`.
        out: the run folder. Finished work in it is not computed again, so that a second call
            continues an interrupted one. Without it, a temporary folder is used, and deleted
            with the returned `Run`.
        replace: replace finished work in the folder that was made with other settings; without it,
            such a call is refused.
        progress: called with every `Event`. Its `line` is for a person to read: preprocessing,
            label mapping, clean accuracy, and a warning if that is not better than chance.
        options: `EvaluationOptions` describes each; `help(fw.evaluate)` names them.

    Returns:
        The run: `.scores` is the table, `.report()` makes the page.

    Raises:
        InputError: something is wrong with what was asked for; the message is one sentence.

    >>> import torch, fairweather as fw
    >>> digits = fw.load_data("mnist5k", size=8)
    >>> model = fw.load_model("timm:test_vit", weights="none", classes=10, input_size=160)
    >>> small = fw.Dataset("digits", None, None, digits.test[:40], digits.mean, digits.std)
    >>> run = fw.evaluate(model, small, "brightness_factor: [0.5]", bootstrap=100, device="cpu")
    >>> run.scores[run.scores["metric"] == "accuracy"]["shift"].tolist()[:2]
    ['clean', 'brightness_factor']
    """
    request = Request(model, dataset, clean_and(shifts), check_options(options))
    with _mode_kept(model):
        if out is not None:
            return run_request(request, Path(out), replace=replace, progress=progress)
        passing = tempfile.mkdtemp(prefix="fairweather-")
        try:
            run = run_request(request, Path(passing) / "run", progress=progress)
        except BaseException:
            shutil.rmtree(passing, ignore_errors=True)
            raise
        # Not a TemporaryDirectory: that warns if it is not closed.
        weakref.finalize(run, shutil.rmtree, passing, ignore_errors=True)
        return run


def _with_options(signature: inspect.Signature) -> inspect.Signature:
    """Name the options in a signature, so that help and editors show them."""
    given = [each for each in signature.parameters.values() if each.kind != each.VAR_KEYWORD]
    named = [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default)
        for each in fields(EvaluationOptions)
    ]
    return signature.replace(parameters=[*given, *named])


evaluate.__signature__ = _with_options(inspect.signature(evaluate))  # type: ignore[attr-defined]


def run_request(
    request: Request, out: Path | None, *, replace: bool = False, progress: Notify | None = None
) -> Run:
    """Run the rest of an evaluation; without `out`, in `runs/MODEL-on-DATA`."""
    tell, options = progress or silent, request.options
    check_variant_names(options.variants)
    device = resolve_device(options.device)
    Arithmetic(options.precision, options.cudnn_benchmark).check(device)
    check_cores(options.jobs, options.threads or torch.get_num_threads())
    if options.jobs > 1 and not (
        isinstance(request.model, str) and isinstance(request.dataset, str)
    ):
        raise InputError(
            "jobs: other processes open the model and the data by name, not as objects"
        )
    if out is not None:
        check_writable(out)
        check_takeable(out)
    elif not Path("runs").exists():  # a folder in it may be writable where it is not
        check_writable(Path("runs"))
    asked = asked_priors(options)
    inputs = bring_together(request, tell)
    try_out(request, inputs)
    priors = complete_priors(asked, inputs.dataset.test)
    for line in inputs.lines():
        tell(Event("evaluate", 0, None, line=line))
    measurement = measurement_of(request, all_facts(inputs), priors)
    plan = plan_evaluation(request, inputs, measurement)
    record = describe_evaluation(request, inputs, measurement, plan)
    path = out or Path("runs") / run_name(inputs)
    check_writable(path)
    with open_run(path) as folder:
        if not replace:
            _check_same(folder, record, inputs)
        begin(plan, folder, record, replace=replace)
        write_image_lists(folder, inputs.datasets)
        worker = Worker(
            plan,
            device=options.device,
            offline=options.offline,
            progress=tell,
            datasets=inputs.datasets,
            model=inputs.model,
            workers=workers_for(device, options.workers, options.jobs),
            jobs=options.jobs,
        )
        with closing(worker):
            file = predictions_file(measured_model(request, inputs).name, SEED, CLEAN)
            # The clean accuracy first: it shows within moments whether the model is used correctly.
            execute(plan, folder, worker, tell, until=file.removesuffix(".parquet"))
            for line in clean_lines(folder, file):
                tell(Event("evaluate", 0, None, line=line))
            if options.jobs == 1:
                execute(plan, folder, worker, tell)
            else:
                execute_side_by_side(plan, folder, worker, tell, jobs=options.jobs)
    return Run(path)


def outlook(request: Request, out: Path | None, progress: Notify | None = None) -> Outlook:
    """Plan an evaluation and say how far it is; nothing is written.

    The model is opened and the data are loaded, since each depends on the other.
    """
    if out is not None and RunFolder(out).is_read_only:
        check_takeable(out)
    check_variant_names(request.options.variants)
    asked = asked_priors(request.options)
    inputs = bring_together(request, progress)
    try_out(request, inputs)
    priors = complete_priors(asked, inputs.dataset.test)
    plan = plan_evaluation(request, inputs, measurement_of(request, all_facts(inputs), priors))
    name = run_name(inputs)
    return Outlook.of(name, out or Path("runs") / name, plan)


def asked_priors(options: EvaluationOptions) -> dict[str, dict[str, float]]:
    """The priors that were asked for, read from their file if they are in one."""
    if isinstance(options.priors, Path):
        return read_priors(options.priors)
    return check_priors(options.priors, "priors") if options.priors else {}


def _check_same(folder: RunFolder, record: RunRecord, inputs: EvaluationInputs) -> None:
    """Refuse a folder with results of another model or other data of the same name."""
    if not (folder.path / RECORD).is_file() or folder.record.name != record.name:
        return  # a run of another name is refused before it would be overwritten
    name = inputs.opened.name
    before = folder.record.models.get(name)
    if before is not None and before.facts.get("digest") != inputs.opened.digest:
        what = f"another model called {name!r}"
    elif folder.record.data.source != record.data.source:
        what = f"another data set called {record.data.name!r}"
    else:
        return
    raise InputError(
        f"{folder.path} contains the evaluation of {what}; replace it with --replace, "
        "or name another folder with --out"
    )


def clean_lines(folder: RunFolder, file: str) -> list[str]:
    """Say how accurate the model is on clean images, and warn if it is not better than chance.

    The interval is the one of scores.csv: from the same resamples of the images.
    """
    predictions = folder.read_predictions(file)
    shared = Resamples.draw(predictions.labels, folder.record.settings.bootstrap)
    found = evaluate_resamples(predictions, shared, names=["accuracy"])["accuracy"]
    accuracy, low, high, n = to_score(found, (0.0, 1.0))
    edges = {0.0: "; every image is wrong", 1.0: "; no image is wrong"}
    lines = [
        f"clean          accuracy {accuracy:.1%} [{low:.1%}, {high:.1%}], n = {n:,}"
        f"{edges.get(accuracy, '')}"
    ]
    counts = np.bincount(predictions.labels)
    share, largest = counts.max() / n, predictions.classes[counts.argmax()]
    if low <= share:
        lines.append(
            f"warning        that is not above chance ({share:.1%}, what a model that always says "
            f"{largest} gets): the preprocessing or the label mapping is probably wrong; see "
            "--size, --mean with --std, and --labels"
        )
    return lines


@contextmanager
def _mode_kept(model: str | nn.Module) -> Iterator[None]:
    """Restore the mode of a module that belongs to the caller."""
    was_training = isinstance(model, nn.Module) and model.training
    try:
        yield
    finally:
        if isinstance(model, nn.Module):
            model.train(was_training)
