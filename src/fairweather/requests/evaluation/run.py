"""Any model on any images, without training anything."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from fairweather.attacks.shift_lists import ShiftLike, expand_with_clean
from fairweather.errors import InputError, no_exit
from fairweather.inference.prediction import restore_modules
from fairweather.models.predictions.files import (
    NAME_FORM,
    PREFIX,
    PredictionSource,
    list_in_memory,
    parse_model_names,
)
from fairweather.models.predictions.tables import read_column
from fairweather.progress import Notify, shows_progress, silent, to_notify
from fairweather.report.finished_run import Run
from fairweather.requests.evaluation import models as opened
from fairweather.requests.evaluation import predictions as given
from fairweather.requests.evaluation.request import ModelName
from fairweather.requests.evaluation.request import ModelRequest as ModelRequest
from fairweather.requests.evaluation.request import PredictionsRequest as PredictionsRequest
from fairweather.requests.evaluation_options import EvaluationOptions, check_options
from fairweather.requests.execution import check_run_folder, execute_run
from fairweather.requests.execution import make_outlook as look_ahead
from fairweather.requests.inputs import Inputs
from fairweather.steps.ledger import Outlook
from fairweather.types.measurement import Dataset
from fairweather.types.options import takes
from fairweather.types.record import VALIDATION
from fairweather.workers.executors import choose_device
from fairweather.workers.options import SLURM, SLURM_LOCAL, Sharing

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
        shifts: suites, shifts and attacks, as objects or texts; see
        `fairweather.attacks.shift_lists`.
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
    with restore_modules(each for each in list_models(model) if isinstance(each, nn.Module)):
        if out is not None:
            return run_request(request, Path(out), replace=replace, progress=to_notify(progress))
        sharing = Sharing.from_options(request.options)
        if sharing.worker or sharing.kind in (SLURM, SLURM_LOCAL):
            way = "worker" if sharing.worker else f"executor {sharing.executor}"
            raise InputError(f"{way} needs out, the run folder that all workers share")
        passing = tempfile.mkdtemp(prefix="fairweather-")
        try:
            run = run_request(request, Path(passing) / "run", progress=to_notify(progress))
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
) -> ModelRequest | PredictionsRequest:
    """Make the request of an evaluation; raises `InputError` for what does not go together."""
    is_given = isinstance(model, str) and model.startswith(PREFIX)
    if predictions is None and isinstance(model, Mapping) and _are_predictions(model):
        predictions = {name: _predictions_path(str(each)) for name, each in model.items()}
        model = None
    if predictions is None and not is_given:
        models = list_models(model)
        if not models or dataset is None:
            what = "data set" if models else "model"
            raise InputError(f"an evaluation needs a {what}; only {PREFIX}FILE may have none")
        if any(isinstance(each, str) and each.startswith(PREFIX) for each in models):
            raise InputError(
                f"{PREFIX} stands alone: several files of predictions are a folder or a mapping "
                "file, and runs of predictions and of models can be compared"
            )
        names = parse_model_names(model) if isinstance(model, Mapping) else ()
        return ModelRequest(
            models[0],
            dataset,
            expand_with_clean(shifts),
            check_options(options),
            tuple(models[1:]),
            tuple(ModelName(*each) for each in names),
        )
    if predictions is not None and model is not None:
        raise InputError("an evaluation has a model or predictions, and both are given")
    if shifts != QUICK:
        raise InputError(
            "shifts cannot be applied to predictions: give a file for each shift, called "
            f"{NAME_FORM}, or a mapping file"
        )
    if is_given:
        return given.predictions_request(str(model), dataset, check_options(options))
    labels, rest = options.get("labels"), dict(options)
    if labels is not None and not isinstance(labels, Mapping | Path):
        del rest["labels"]
    else:
        labels = None
    column = None if labels is None else read_column(labels, "labels")
    if isinstance(predictions, str | Path):
        asked = given.predictions_request(f"{PREFIX}{predictions}", dataset, check_options(rest))
        return replace(asked, labels=column)
    found = tuple(list_in_memory(predictions))
    _check_label_order(labels, found)
    return PredictionsRequest(
        "predictions of this process",
        "predictions",
        found,
        dataset,
        column,
        check_options(rest),
    )


def _check_label_order(labels: object, predictions: Iterable[PredictionSource]) -> None:
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
    request: ModelRequest | PredictionsRequest,
    out: Path | None,
    *,
    replace: bool = False,
    progress: Notify | None = None,
) -> Run:
    """Run the rest of an evaluation; without `out`, in `runs/MODEL-on-DATA`."""
    tell, options = progress or silent, request.options
    sharing, device = _choose_device(request)
    check_run_folder(out)
    inputs = make_inputs(request, device, tell)
    return execute_run(inputs, out, sharing, tell, offline=options.offline, replace=replace)


def _choose_device(request: ModelRequest | PredictionsRequest) -> tuple[Sharing, torch.device]:
    """Who does the steps, and on which device.

    Raises `InputError` for what does not go together or is not there, and for a model or data that
    only this process has, if others need them.
    """
    options, sharing = request.options, Sharing.from_options(request.options)
    if isinstance(request, PredictionsRequest):
        given.check_prediction_options(request)
    sharing.check()
    if sharing.is_divided and isinstance(request, ModelRequest) and not request.is_by_name:
        ways = {"worker": False, "devices": 1, "executor": "local", "jobs": None}
        asked = next(name for name, alone in ways.items() if getattr(sharing, name) != alone)
        raise InputError(
            f"{asked}: other processes open the model and the data by name, not as objects"
        )
    return sharing, choose_device(
        sharing,
        options.device,
        threads=options.threads,
        precision=options.precision,
        written="--{name} {value}",
    )


def plan_evaluation(
    request: ModelRequest | PredictionsRequest, out: Path | None, progress: Notify | None = None
) -> Outlook:
    """Plan an evaluation and say how far it is; nothing is written.

    The model is opened and the data are loaded, since each depends on the other.
    """
    _, device = _choose_device(request)
    return look_ahead(make_inputs(request, device, progress or silent), out)


def make_inputs(
    request: ModelRequest | PredictionsRequest, device: torch.device, tell: Notify
) -> Inputs:
    """What is measured; each kind of request finds it out in its own way."""
    if isinstance(request, PredictionsRequest):
        return given.make_prediction_inputs(request, device, tell)
    return opened.make_model_inputs(request, device, tell)


def list_models(model: Models | None) -> list[Model]:
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


def _predictions_path(source: str) -> Path:
    return Path(source.removeprefix(PREFIX)).expanduser()
