"""Evaluate any model on any images, without training."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from fairweather.attacks.shift_lists import ShiftLike, expand_with_clean
from fairweather.errors import InputError, check_path, check_type, no_exit
from fairweather.inference.prediction import restore_modules
from fairweather.models.predictions.files import NAME_FORM, PREFIX, parse_model_names
from fairweather.models.predictions.readers import list_reader_tables
from fairweather.progress import Notify, shows_progress, silent, to_notify
from fairweather.report.finished_run import Run
from fairweather.requests.evaluation.models import ModelName, ModelRequest
from fairweather.requests.evaluation.predictions import (
    PredictionsRequest,
    request_file,
    request_predictions,
)
from fairweather.requests.evaluation_options import EvaluationOptions, check_options
from fairweather.requests.execution import check_run_folder, execute_run, make_outlook
from fairweather.steps.outlook import Outlook
from fairweather.types.measurement import Dataset
from fairweather.types.options import takes
from fairweather.workers.executors import choose_device
from fairweather.workers.options import SLURM, Sharing

QUICK = "quick"
Model = str | nn.Module
EvaluationRequest = ModelRequest | PredictionsRequest
Models = Model | Sequence[Model] | Mapping[str, Model]


@shows_progress
@takes(EvaluationOptions)
def evaluate(
    model: Models | None = None,
    dataset: str | Dataset | None = None,
    shifts: ShiftLike | Iterable[ShiftLike] = QUICK,
    *,
    predictions: object = None,
    labels: object = None,
    readers: object = None,
    out: str | Path | None = None,
    replace: bool = False,
    progress: Notify | bool | None = True,
    **options: object,
) -> Run:
    """Measure how accurate and how honest a model stays under shifts and attacks.

    Args:
        model: a module from images in [0, 1], float `[B, 3, H, W]`, to logits or probabilities, or
            any source that `load_model` takes. A list has several of these, which see the same
            images. A dict has them by name, `MODEL[-seedN]`, so that intervals cover the seeds of
            each. `predictions:PATH` means predictions that were made elsewhere.
        dataset: a `Dataset`, or any source that `load_data` takes. The test split is used, or all
            images if the source has no splits. Predictions that come with their labels need none.
        shifts: suites, shifts and attacks, as objects or texts; see
            `fairweather.attacks.shift_lists`.
        predictions: instead of a model, its predictions: a DataFrame or an array
            `[images, classes]` of probabilities, their logarithms or logits. A dict has several by
            name, `MODEL[-seedN][-SHIFT,LEVEL]`.
        labels: of predictions, the true label of each row, if neither a column nor a data set has
            them. Of several findings, `[images, findings]` of 0, 1 and -1 (unknown). A DataFrame or
            the path of a table is matched by the column with the keys.
        readers: what people call each test image: a DataFrame or the path of a table with the
            column `reader`, or a column for each reader. A list has several of these, and a dict
            has one for each reader by name.
        out: the run folder. Finished work in it is not computed again, so that a second call
            continues an interrupted one. Without it, a temporary folder is used, and deleted
            with the returned `Run`.
        replace: replace finished work in the folder that was made with other settings; without it,
            such a call is refused.
        progress: show how far it is (see `Event`), and lines for people: preprocessing, label
            mapping, and clean accuracy. A line warns if that is not better than chance.
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
    request, tell = (
        make_request(model, dataset, shifts, options, predictions, labels, readers),
        to_notify(progress),
    )
    if out is not None:
        return run_request(request, Path(check_path(out, "out")), replace=replace, progress=tell)
    sharing = Sharing.from_options(request.options)
    if sharing.worker or sharing.kind == SLURM:
        way = "worker" if sharing.worker else f"executor {sharing.executor}"
        raise InputError(f"{way} needs out, the run folder that all workers share")
    temporary = tempfile.mkdtemp(prefix="fairweather-")
    try:
        run = run_request(request, Path(temporary) / "run", progress=tell)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    # Not a TemporaryDirectory: that warns if it is not closed.
    weakref.finalize(run, shutil.rmtree, temporary, ignore_errors=True)
    return run


def make_request(
    model: Models | None,
    dataset: str | Dataset | None,
    shifts: ShiftLike | Iterable[ShiftLike],
    options: Mapping[str, object],
    predictions: object = None,
    labels: object = None,
    readers: object = None,
) -> EvaluationRequest:
    """Make the request of an evaluation; raises `InputError` for arguments that do not fit
    together."""
    is_file, tables = _is_predictions(model), list_reader_tables(readers)
    if (
        predictions is None
        and isinstance(model, Mapping)
        and model
        and all(map(_is_predictions, model.values()))
    ):
        files = {name: str(source).removeprefix(PREFIX) for name, source in model.items()}
        model, predictions = None, {name: Path(file).expanduser() for name, file in files.items()}
    if labels is not None and predictions is None and not is_file:
        raise InputError(
            "labels are the true labels of predictions, and none are given; a mapping of classes "
            "is class_map"
        )
    if predictions is None and not is_file:
        models = _list_models(model)
        if not models or dataset is None:
            missing = "data set" if models else "model"
            raise InputError(f"an evaluation needs a {missing}; only {PREFIX}FILE needs none")
        if any(map(_is_predictions, models)):
            raise InputError(
                f"{PREFIX} stands alone: several files of predictions are a folder or a mapping "
                "file, and runs of predictions and of models can be compared"
            )
        named = parse_model_names(model) if isinstance(model, Mapping) else ()
        names = tuple(ModelName(*name) for name in named)
        tested = expand_with_clean(shifts)
        return ModelRequest(tuple(models), dataset, tested, check_options(options), names, tables)
    if predictions is not None and model is not None:
        raise InputError("an evaluation has a model or predictions, and both are given")
    if shifts != QUICK:
        raise InputError(
            "shifts cannot be applied to predictions: give a file for each shift, called "
            f"{NAME_FORM}, or a mapping file"
        )
    if is_file:
        return request_file(str(model), dataset, check_options(options), labels, tables)
    return request_predictions(predictions, labels, dataset, options, tables)


def _is_predictions(model: object) -> bool:
    return isinstance(model, str) and model.startswith(PREFIX)


def _list_models(model: Models | None) -> list[Model]:
    """The models that were given, one after the other.

    Raises `InputError` for what is neither a module nor the text of a source.
    """
    if isinstance(model, Mapping):
        models = list(model.values())
        if any(isinstance(value, torch.Tensor) for value in models):
            raise InputError("a state dict is not a model: load it into your network first")
    elif isinstance(model, Iterable) and not isinstance(model, Model):
        models = list(model)
    else:  # some modules are themselves sequences
        models = [] if model is None else [model]
    for source in models:
        check_type(source, Model, "a model is a torch.nn.Module or the text of a source")
    return models


@no_exit()
def run_request(
    request: EvaluationRequest,
    out: Path | None,
    *,
    replace: bool = False,
    progress: Notify | None = None,
) -> Run:
    """Run an evaluation, by default in `runs/MODEL-on-DATA`."""
    tell, options = progress or silent, request.options
    device = _choose_device(request)
    check_run_folder(out)
    with restore_modules(request.modules):
        inputs, sharing = request.make_inputs(device, tell), Sharing.from_options(options)
        return execute_run(inputs, out, sharing, tell, offline=options.offline, replace=replace)


def _choose_device(request: EvaluationRequest) -> torch.device:
    """Check a request, and choose its device."""
    options = request.options
    request.check()
    return choose_device(
        Sharing.from_options(options),
        options.device,
        threads=options.threads,
        precision=options.precision,
        written="--{name} {value}",
    )


def plan_evaluation(
    request: EvaluationRequest, out: Path | None, progress: Notify | None = None
) -> Outlook:
    """Plan an evaluation and say how far it is; nothing is written.

    The model is opened and the data are loaded, because each depends on the other.
    """
    inputs = request.make_inputs(_choose_device(request), progress or silent)
    return make_outlook(inputs, out)
