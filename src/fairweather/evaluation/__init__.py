"""Any model on any images, without training anything."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from fairweather.devices import Arithmetic, resolve_device
from fairweather.display import shows_progress, teller
from fairweather.errors import InputError, check_writable, no_exit
from fairweather.evaluation.given import (
    GivenInputs,
    describe_given,
    measure_given,
    plan_given,
    predictions_request,
    read_predictions,
)
from fairweather.evaluation.inputs import bring_together
from fairweather.evaluation.planning import (
    all_facts,
    describe_evaluation,
    measured_models,
    measurement_of,
    plan_evaluation,
    run_name,
    try_out,
)
from fairweather.evaluation.priors import (
    check_priors,
    complete_by_labels,
    complete_priors,
    read_priors,
)
from fairweather.evaluation.request import ModelName
from fairweather.evaluation.request import PredictionsRequest as PredictionsRequest
from fairweather.evaluation.request import Request as Request
from fairweather.evaluation_options import EvaluationOptions, check_options
from fairweather.executor_options import Sharing
from fairweather.executors import Work, carry_out, device_of
from fairweather.finished_run import Run
from fairweather.inference import untouched
from fairweather.metrics import Resamples, evaluate_resamples, to_score
from fairweather.metrics.clusters import Clusters, clusters_of
from fairweather.options import takes
from fairweather.prediction_files import (
    PREFIX,
    PredictionsOf,
    in_memory,
    model_names,
    plain_column,
)
from fairweather.prediction_files.naming import PATTERN
from fairweather.progress import Event, Notify, silent
from fairweather.record import CLEAN, RECORD, VALIDATION, RunRecord, predictions_file
from fairweather.runs import RunFolder, check_takeable
from fairweather.shift_lists import ShiftLike, clean_and
from fairweather.steps import Plan
from fairweather.steps.measuring import Measured, Measurement
from fairweather.steps.plan import DATA
from fairweather.steps.progressing import Outlook
from fairweather.types import CLASSIFICATION, Dataset, Score

# What is probably wrong if a model is no better than chance.
OF_MODELS = (
    "the preprocessing or the label mapping is probably wrong; see --size, --mean with --std, and "
    "--labels"
)
OF_PREDICTIONS = (
    "the order of the rows or of the classes is probably wrong; see --key-column, --classes and "
    "--labels"
)
COIN = 0.5  # the AUC of a model that knows nothing
QUICK = "quick"
Model = str | nn.Module
Models = Model | Sequence[Model] | Mapping[str, Model]


@shows_progress
@takes(EvaluationOptions)
def evaluate(
    model: Models | None = None,
    dataset: str | Dataset | None = None,
    shifts: ShiftLike | Iterable[ShiftLike] = QUICK,
    *,
    predictions: object = None,
    out: str | Path | None = None,
    replace: bool = False,
    progress: Notify | bool | None = True,
    **options: object,
) -> Run:
    """Measure how accurate and how honest a model stays under shifts and attacks.

    Args:
        model: a module from images in [0, 1], float `[B, 3, H, W]`, to logits or probabilities, or
            any source that `load_model` takes; or a list of several of these, which see the same
            images; or a dict of several by their names, `MODEL[-seedN]`, so that intervals cover
            the seeds of each; or `predictions:PATH`, predictions that were made elsewhere.
        dataset: a `Dataset`, or any source that `load_data` takes. The test split is used, or all
            images if the source has no splits. Predictions that come with their labels need none.
        shifts: suites, shifts and attacks, as objects or texts; see `fairweather.shift_lists`.
        predictions: instead of a model, its predictions: a DataFrame or an array
            `[images, classes]` of probabilities, their logarithms or logits; or several by their
            names, `MODEL[-seedN][-SHIFT,LEVEL]`. The option `labels` is then the true label of each
            row, if neither a column nor a data set has them.
        out: the run folder. Finished work in it is not computed again, so that a second call
            continues an interrupted one. Without it, a temporary folder is used, and deleted
            with the returned `Run`.
        replace: replace finished work in the folder that was made with other settings; without it,
            such a call is refused.
        progress: show how far it is, and lines for a person to read: preprocessing, label mapping,
            clean accuracy, and a warning if that is not better than chance (`Event` says how).
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

    Predictions that another program made need neither a model nor images:

    >>> import pandas as pd
    >>> table = pd.DataFrame({"cat": [0.9, 0.2, 0.6, 0.3], "dog": [0.1, 0.8, 0.4, 0.7]})
    >>> run = fw.evaluate(predictions=table, labels=["cat", "dog", "dog", "dog"], bootstrap=100)
    >>> run.scores.query("metric == 'accuracy'")["value"].tolist()
    [0.75]
    """
    request = make_request(model, dataset, shifts, predictions, options)
    with untouched(each for each in listed(model) if isinstance(each, nn.Module)):
        if out is not None:
            return run_request(request, Path(out), replace=replace, progress=teller(progress))
        passing = tempfile.mkdtemp(prefix="fairweather-")
        try:
            run = run_request(request, Path(passing) / "run", progress=teller(progress))
        except BaseException:
            shutil.rmtree(passing, ignore_errors=True)
            raise
        # Not a TemporaryDirectory: that warns if it is not closed.
        weakref.finalize(run, shutil.rmtree, passing, ignore_errors=True)
        return run


def make_request(
    model: Models | None,
    dataset: str | Dataset | None,
    shifts: ShiftLike | Iterable[ShiftLike],
    predictions: object,
    options: Mapping[str, object],
) -> Request | PredictionsRequest:
    """Make the request of an evaluation; raises `InputError` for what does not go together."""
    given = isinstance(model, str) and model.startswith(PREFIX)
    if predictions is None and isinstance(model, Mapping) and _are_predictions(model):
        predictions = {name: _path(str(each)) for name, each in model.items()}
        model = None
    if predictions is None and not given:
        models = listed(model)
        if not models or dataset is None:
            what = "data set" if models else "model"
            raise InputError(f"an evaluation needs a {what}; only {PREFIX}FILE may have none")
        if any(isinstance(each, str) and each.startswith(PREFIX) for each in models):
            raise InputError(
                f"{PREFIX} stands alone: several files of predictions are a folder or a mapping "
                "file, and runs of predictions and of models can be compared"
            )
        names = model_names(model) if isinstance(model, Mapping) else ()
        return Request(
            models[0],
            dataset,
            clean_and(shifts),
            check_options(options),
            tuple(models[1:]),
            tuple(ModelName(*each) for each in names),
        )
    if predictions is not None and model is not None:
        raise InputError("an evaluation has a model or predictions, and both are given")
    if shifts != QUICK:
        raise InputError(
            "shifts cannot be applied to predictions: give a file for each shift, called "
            f"{PATTERN}, or a mapping file"
        )
    if given:
        return predictions_request(str(model), dataset, check_options(options))
    labels, rest = options.get("labels"), dict(options)
    if labels is not None and not isinstance(labels, Mapping | Path):
        del rest["labels"]
    else:
        labels = None
    column = None if labels is None else plain_column(labels, "labels")
    if isinstance(predictions, str | Path):
        asked = predictions_request(f"{PREFIX}{predictions}", dataset, check_options(rest))
        return replace(asked, labels=column)
    found = tuple(in_memory(predictions))
    _check_index(labels, found)
    return PredictionsRequest(
        "predictions of this process",
        "predictions",
        found,
        dataset,
        column,
        check_options(rest),
    )


def _check_index(labels: object, predictions: Iterable[PredictionsOf]) -> None:
    """Raise `InputError` if labels have an index that says another order than that of a table.

    An index that only counts says no order, unless that of the table has the same numbers.
    """
    if not isinstance(labels, pd.Series):
        return
    for each in predictions:
        if not isinstance(each.content, pd.DataFrame) or each.shift == VALIDATION:
            continue
        ours, theirs = labels.index, each.content.index
        counted = any(index.equals(pd.RangeIndex(len(index))) for index in (ours, theirs))
        alike = len(ours) == len(theirs) and ours.isin(theirs).all() and theirs.isin(ours).all()
        if not ours.equals(theirs) and (alike or not counted):
            raise InputError(
                f"labels have another index than {each.place}, and are taken in the order of the "
                "rows: give labels.loc[table.index], or labels.to_numpy() if the order is right"
            )


@no_exit()
def run_request(
    request: Request | PredictionsRequest,
    out: Path | None,
    *,
    replace: bool = False,
    progress: Notify | None = None,
) -> Run:
    """Run the rest of an evaluation; without `out`, in `runs/MODEL-on-DATA`."""
    if isinstance(request, PredictionsRequest):
        return _run_predictions(request, out, replace=replace, progress=progress)
    tell, options = progress or silent, request.options
    sharing = Sharing(jobs=options.jobs, workers=options.workers)
    device = device_of(
        sharing,
        options.device,
        threads=options.threads,
        precision=options.precision,
        written="--{name} {value}",
    )
    Arithmetic(options.precision, options.cudnn_benchmark).check(device)
    by_name = all(isinstance(each, str) for each in (request.model, *request.more))
    if sharing.starts_others and not (by_name and isinstance(request.dataset, str)):
        raise InputError(
            "jobs: other processes open the model and the data by name, not as objects"
        )
    _check_out(out)
    asked = asked_priors(options)
    inputs = bring_together(request, tell)
    try_out(request, inputs)
    priors = complete_priors(asked, inputs.dataset.test)
    models = measured_models(request, inputs)
    for line in inputs.lines([each.label for each in models]):
        tell(Event("evaluate", 0, None, line=line))
    measurement = measurement_of(request, all_facts(inputs), priors)
    plan = plan_evaluation(request, inputs, measurement)
    record = describe_evaluation(request, inputs, measurement, plan)
    path = out or Path("runs") / run_name(inputs)
    check_writable(path)
    # The clean accuracy first: it shows within moments whether the model is used correctly.
    clean = _Clean(models, OF_MODELS, clusters_of(inputs.dataset.test.groups))
    work = Work(
        path=path,
        plan=plan.beginning_with(clean.steps),
        record=record,
        device=device,
        offline=options.offline,
        datasets=inputs.datasets,
        replace=replace,
        check=partial(_check_same, record=record),
        models={each.digest: each.model for each in inputs.models},
    )
    carry_out(work, sharing, _telling_clean(RunFolder(path), clean, tell))
    return Run(path)


def _run_predictions(
    request: PredictionsRequest, out: Path | None, *, replace: bool, progress: Notify | None
) -> Run:
    """Measure predictions that were made elsewhere; without `out`, in `runs/NAME`."""
    tell = progress or silent
    _check_out(out)
    inputs, measurement, models, plan = _planned(request, tell)
    for line in inputs.lines(request.source):
        tell(Event("evaluate", 0, None, line=line))
    record = describe_given(request, inputs, measurement)
    path = out or Path("runs") / inputs.name
    check_writable(path)
    clusters = clusters_of(inputs.datasets[DATA].test.groups) if inputs.datasets else None
    clean = _Clean(models, OF_PREDICTIONS, clusters)
    work = Work(
        path=path,
        plan=plan.beginning_with(clean.steps),
        record=record,
        device=resolve_device(request.options.device),
        offline=request.options.offline,
        datasets=inputs.datasets,
        replace=replace,
        given=inputs.read,
    )
    carry_out(work, Sharing(), _telling_clean(RunFolder(path), clean, tell))
    return Run(path)


class _Clean(NamedTuple):
    """What is told of clean images: of which models, what may be wrong, and their clusters."""

    models: Sequence[Measured]
    advice: str
    clusters: Clusters | None

    @property
    def steps(self) -> dict[str, str]:
        """The step that predicts them with each model, and the model's label."""
        return {
            predictions_file(each.name, each.seed, CLEAN).removesuffix(".parquet"): each.label
            for each in self.models
        }


def _telling_clean(folder: RunFolder, clean: _Clean, tell: Notify) -> Notify:
    """Tell how accurate each model is on clean images too, as soon as they are predicted."""
    models = clean.steps
    several = len(models) > 1

    def told(event: Event) -> None:
        tell(event)
        label = models.pop(event.step, None)
        if label is not None:
            file, of = f"{event.step}.parquet", label if several else ""
            for line in clean_lines(folder, file, clean.advice, of, clean.clusters):
                tell(Event("evaluate", 0, None, line=line))

    return told


class _Planned(NamedTuple):
    inputs: GivenInputs
    measurement: Measurement
    models: list[Measured]
    plan: Plan


def _planned(request: PredictionsRequest, progress: Notify | None) -> _Planned:
    asked = asked_priors(request.options)
    inputs = read_predictions(request, progress)
    priors = complete_by_labels(asked, inputs.labels, inputs.facts.classes)
    measurement, models = measure_given(request, inputs, priors)
    return _Planned(inputs, measurement, models, plan_given(inputs, measurement, models))


def _check_out(out: Path | None) -> None:
    """Raise `InputError` if the run folder cannot be written or is not one to work in."""
    if out is not None:
        check_writable(out)
        check_takeable(out)
    elif not Path("runs").exists():  # a folder in it may be writable where it is not
        check_writable(Path("runs"))


def outlook(
    request: Request | PredictionsRequest, out: Path | None, progress: Notify | None = None
) -> Outlook:
    """Plan an evaluation and say how far it is; nothing is written.

    The model is opened and the data are loaded, since each depends on the other.
    """
    if out is not None and RunFolder(out).is_read_only:
        check_takeable(out)
    if isinstance(request, PredictionsRequest):
        given = _planned(request, progress)
        name = given.inputs.name
        return Outlook.of(name, out or Path("runs") / name, given.plan)
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


def _check_same(folder: RunFolder, record: RunRecord) -> None:
    """Refuse a folder with results of another model or other data of the same name."""
    if not (folder.path / RECORD).is_file() or folder.record.name != record.name:
        return  # a run of another name is refused before it would be overwritten
    before = folder.record.models
    changed = [
        name
        for name, model in record.models.items()
        if name in before and before[name].facts.get("digest") != model.facts["digest"]
    ]
    if changed:
        what = f"another model called {changed[0]!r}"
    elif folder.record.data.source != record.data.source:
        what = f"another data set called {record.data.name!r}"
    else:
        return
    raise InputError(
        f"{folder.path} contains the evaluation of {what}; replace it with --replace, "
        "or name another folder with --out"
    )


def clean_lines(
    folder: RunFolder, file: str, advice: str, of: str = "", clusters: Clusters | None = None
) -> list[str]:
    """Say how accurate the model is on clean images, and warn if it is not better than chance.

    The interval is the one of scores.csv: from the same resamples of the images.

    Args:
        folder: the run.
        file: the predictions of clean images.
        advice: what is probably wrong, and how to settle it.
        of: which model they are of, if there are several.
        clusters: which images belong together, if that is known.
    """
    if folder.task.name != CLASSIFICATION:
        return []
    predictions = folder.read_predictions(file)
    resamples = folder.record.settings.bootstrap
    shared = Resamples.draw(predictions.strata, resamples, clusters=clusters)
    found = evaluate_resamples(predictions, shared, names=["accuracy"])["accuracy"]
    accuracy, low, high, n = to_score(found, (0.0, 1.0))
    edges = {0.0: "; every image is wrong", 1.0: "; no image is wrong"}
    which = f"{of}: " if of else ""
    ends = "no interval" if np.isnan(low) else f"{low:.1%}, {high:.1%}"
    lines = [
        f"clean          {which}accuracy {accuracy:.1%} [{ends}], n = {n:,}"
        f"{f' in {clusters.count:,} clusters; images count alike' if clusters else ''}"
        f"{edges.get(accuracy, '')}"
    ]
    counts = np.bincount(predictions.labels)
    share, largest = counts.max() / n, predictions.classes[counts.argmax()]
    if low <= share or (np.isnan(low) and accuracy <= share):
        chance = f"({share:.1%}, what a model that always says {largest} gets)"
        if accuracy > share:
            lines.append(
                f"note           {n:,} images cannot confirm that it is above chance {chance}"
            )
        else:
            areas = evaluate_resamples(predictions, shared, names=["macro_auc"])
            auc = to_score(areas["macro_auc"], (0.0, 1.0)) if areas else None
            reason = why_at_chance(auc, len(predictions.classes), advice)
            lines.append(f"warning        that is not above chance {chance}{reason}")
    return lines


def why_at_chance(auc: Score | None, classes: int, advice: str) -> str:
    """Say what is probably wrong with an accuracy that is not above chance.

    A model whose AUC is above 0.5 tells the classes apart: then neither the order of its rows nor
    its preprocessing is to blame, but where one class ends and another begins.

    Args:
        auc: the mean over classes of the area under the ROC curve; None where it is not known.
        classes: how many there are.
        advice: what is probably wrong otherwise.

    >>> why_at_chance(Score(0.5, 0.4, 0.6, 90), 2, "the order of the rows is probably wrong")
    ': the order of the rows is probably wrong'
    >>> why_at_chance(Score(0.97, 0.95, 0.98, 90), 2, "")
    ', but its AUC is 0.97: it tells the classes apart, and calls one too often; see
    operating_points, and the calibration of its probabilities'
    >>> why_at_chance(Score(0.03, 0.02, 0.05, 90), 2, "")
    ', and its AUC is 0.03, far below 0.5: the two classes are probably exchanged; see --labels and
    --classes'
    """
    if auc is None or math.isnan(auc.value):
        return f": {advice}"
    low, high = (auc.value, auc.value) if auc.too_few else (auc.low, auc.high)
    if low > COIN and classes == 2:
        return (
            f", but its AUC is {auc.value:.2f}: it tells the classes apart, and calls one too "
            "often; see operating_points, and the calibration of its probabilities"
        )
    if low > COIN:
        return (
            f", but its mean AUC is {auc.value:.2f}: it tells classes apart, and calls some too "
            "often or by the name of another; see the confusion matrix on the page, and --labels"
        )
    if high < COIN and classes == 2:
        return (
            f", and its AUC is {auc.value:.2f}, far below {COIN}: the two classes are probably "
            "exchanged; see --labels and --classes"
        )
    return f": {advice}"


def listed(model: Models | None) -> list[Model]:
    """The models that were given, one after the other.

    Raises `InputError` for what is neither a module nor the text of a source.
    """
    if model is None:
        return []
    if isinstance(model, Mapping):
        each = list(model.values())
    else:  # some modules are sequences of their parts
        each = [model] if isinstance(model, Model) or not isinstance(model, Iterable) else [*model]
    for one in each:
        if not isinstance(one, Model):
            raise InputError(
                "a model is a torch.nn.Module or the text of a source, found a "
                f"{type(one).__name__}"
            )
    return each


def _are_predictions(models: Mapping[str, Model]) -> bool:
    """Whether there are models, and each is a file of predictions that were made elsewhere."""
    texts = [each for each in models.values() if isinstance(each, str)]
    every = all(text.startswith(PREFIX) for text in texts)
    return bool(texts) and len(texts) == len(models) and every


def _path(source: str) -> Path:
    return Path(source.removeprefix(PREFIX)).expanduser()
